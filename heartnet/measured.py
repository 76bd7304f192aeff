"""Whether weeks measure what a network learned from: weeks without steps are no weeks of a network that reads steps."""

from __future__ import annotations

import numpy as np

from heartnet.chosen_checkpoint import Chosen
from heartnet.errors import HeartnetError
from heartnet.weeks import CHANNELS, UNKNOWN, Weeks

_WORDS = {"heart_rate": "heart rate", "asleep": "marks of sleep", "in_workout": "marks of workouts"}
_AT_ONCE = 1 << 20


def check_measured(chosen: Chosen, weeks: Weeks) -> None:
    """Refuse weeks that wholly lack a channel the network learned from, or have one that it never saw.

    A channel that no week of the training measured has mean 0 and spread 1 in the checkpoint's scaling; its weights
    are as they were drawn.

    Raises:
        HeartnetError: naming the channel.
    """
    scaling = chosen.module.scaling
    for name, mean, std in zip(scaling.channels, scaling.mean, scaling.std, strict=True):
        measured = _measured(weeks, name)
        learned = (mean, std) != (0.0, 1.0)
        if measured is None or measured == learned:
            continue
        which = "have no" if learned else "have"
        other = "learned from weeks that do" if learned else "has never seen any, so that its weights there are chance"
        raise HeartnetError(
            f"the weeks {which} {_WORDS.get(name, name)}, and the network of {chosen.path} {other}; name weeks that "
            "measure what it was trained on, or score these anyway, by --anyway"
        )


def _measured(weeks: Weeks, name: str) -> bool | None:
    """Return whether some reading says something of a channel; None if it always follows from others."""
    if name in ("steps", "heart_rate"):
        place = CHANNELS.index(name)
        parts = range(0, len(weeks.readings), _AT_ONCE)
        return any(bool((np.nan_to_num(weeks.readings[i : i + _AT_ONCE, place]) != 0).any()) for i in parts)
    if name in ("asleep", "in_workout"):
        marks = weeks.annotations.get(name)
        return marks is not None and bool(((marks != UNKNOWN) & (marks != 0)).any())
    return None
