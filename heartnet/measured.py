"""Whether weeks are such as a network learned from: weeks without steps are no weeks of a network that reads steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from heartnet.chosen_checkpoint import Chosen
from heartnet.errors import HeartnetError
from heartnet.scaling import METADATA, metadata_values
from heartnet.store import read_manifest
from heartnet.weeks import CHANNELS, UNKNOWN, Weeks

_WORDS = {"heart_rate": "heart rate", "asleep": "marks of sleep", "in_workout": "marks of workouts"}


def check_measured(chosen: Chosen, weeks: Weeks) -> None:
    """Refuse weeks that wholly lack a channel the network learned from, or of most people have one that it never saw.

    Raises:
        HeartnetError: naming the channel, or what is not known of the people whom a network sees that sees only that.
    """
    for name in chosen.module.scaling.channels:
        measured = _measured(weeks, name)
        learned = was_learned(chosen, name)
        having = 0 if measured is None else _people(weeks, measured)
        # Some people with a channel that the network never saw are no reason to refuse the others.
        if measured is None or (having > 0 if learned else having < _people(weeks) / 2):
            continue
        which = "have no" if learned else "have"
        some = "" if having in (0, _people(weeks)) else f" ({_of(having, weeks)})"
        other = "learned from weeks that do" if learned else "has never seen any, so that its weights there are chance"
        raise HeartnetError(
            f"the weeks {which} {_word(name)}{some}, and the network of {chosen.path} {other}; name weeks that "
            "measure what it was trained on, or score these anyway, by --anyway"
        )
    if _metadata(chosen) == "only" and not _known(chosen, weeks).any():
        raise HeartnetError(
            f"of no week {_fields(chosen)} are known, and the network of {chosen.path} sees nothing else "
            "(model.metadata=only), so that all get one score; name them by --people FILE of heartnet prepare, or "
            "score these anyway, by --anyway"
        )


def unlike_training(chosen: Chosen, weeks: Weeks) -> Iterator[str]:
    """Yield what one has to know of weeks that are scored although they, or some of them, are not as those learned."""
    if _trained_on_simulated(chosen) and not weeks.simulated:
        yield "WARNING: the network was trained on SIMULATED weeks: what it says of real ones is for trying out tools."
    for name in chosen.module.scaling.channels:
        measured = _measured(weeks, name)
        if measured is None:
            continue
        having, people = _people(weeks, measured), _people(weeks)
        if was_learned(chosen, name) and having < people:
            have = "has" if people - having == 1 else "have"
            yield f"{_of(people - having, weeks)} {have} no {_word(name)}, which the network learned from."
        elif not was_learned(chosen, name) and having:
            yield f"{_of(having, weeks)} {'has' if having == 1 else 'have'} {_word(name)}, which the network never saw."
    lacking = int((~_known(chosen, weeks).all(axis=1)).sum())
    if _metadata(chosen) != "none" and lacking:
        count = f"{lacking:,} of {len(weeks):,} weeks {'lacks' if lacking == 1 else 'lack'}"
        yield f"{count} {_fields(chosen, 'or')}, which the network reads."


def was_learned(chosen: Chosen, channel: str) -> bool:
    """Return whether some week of the training measured a channel.

    One that none measured has mean 0 and spread 1 in the checkpoint's scaling; its weights are as they were drawn.
    """
    scaling = chosen.module.scaling
    place = scaling.channels.index(channel)
    return (scaling.mean[place], scaling.std[place]) != (0.0, 1.0)


def _measured(weeks: Weeks, name: str) -> npt.NDArray[np.bool_] | None:
    """Return of which weeks some reading says something of a channel, `[week]`; None if it follows from others."""
    spans = pairwise(weeks.offsets)
    if name in ("steps", "heart_rate"):
        place = CHANNELS.index(name)
        return np.array([bool((weeks.readings[first:last, place] > 0).any()) for first, last in spans])
    if name in ("asleep", "in_workout"):
        if (marks := weeks.annotations.get(name)) is None:
            return np.zeros(len(weeks), bool)
        return np.array([bool((marks[first:last] % UNKNOWN > 0).any()) for first, last in spans])
    return None


def _people(weeks: Weeks, rows: npt.NDArray[np.bool_] | None = None) -> int:
    users = weeks.table["user_id"]
    return users.n_unique() if rows is None else users.filter(rows).n_unique()


def _of(count: int, weeks: Weeks) -> str:
    return f"{count:,} of {_people(weeks):,} people"


def _word(channel: str) -> str:
    return _WORDS.get(channel, channel)


def _metadata(chosen: Chosen) -> str:
    return str(getattr(chosen.module.network, "arguments", {}).get("metadata", "none"))


def _learned_fields(chosen: Chosen) -> list[int]:
    scaling = chosen.module.scaling
    both = zip(scaling.metadata_mean, scaling.metadata_std, strict=True)
    return [i for i, it in enumerate(both) if it != (0.0, 1.0)]


def _known(chosen: Chosen, weeks: Weeks) -> npt.NDArray[np.bool_]:
    """Return what is known of each week's person, of what the training knew of some, `[week, field]`."""
    return ~np.isnan(metadata_values(weeks.table)[:, _learned_fields(chosen)])


def _fields(chosen: Chosen, joined: str = "and") -> str:
    words = [METADATA[i].replace("bmi", "BMI") for i in _learned_fields(chosen)] or ["age"]
    return " ".join([", ".join(words[:-1]), joined, words[-1]]) if len(words) > 1 else words[0]


def _trained_on_simulated(chosen: Chosen) -> bool:
    """Return whether the run's data are known to be simulated."""
    data = chosen.configuration.get("data")
    if not isinstance(data, Mapping):
        return False
    if str(data.get("_target_", "")).endswith(".SimulatedData"):
        return True
    try:
        return bool(read_manifest(str(data["path"]))["provenance"].get("kind") == "simulated")
    except (HeartnetError, KeyError, TypeError, AttributeError):
        return False
