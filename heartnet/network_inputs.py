"""Weeks as a network sees them, by the scaling, view and mask channel that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heartnet.hourly import HOURLY, hourly_features
from heartnet.scaling import Scaling
from heartnet.weeks import CHANNELS, Weeks

View = Literal["readings", "hourly"]
VIEWS: dict[str, tuple[str, ...]] = {"readings": CHANNELS, "hourly": HOURLY}
"""What a step of the inputs is, and its channels: a reading, or an hour of the week (`heartnet.hourly`)."""


def seen_of(weeks: Weeks, row: int, view: View) -> npt.NDArray[np.float32]:
    """Return what a network is to see of a week, `[time, channel]`, in natural units, NaN where missing."""
    return weeks.week(row) if view == "readings" else hourly_features(weeks, np.array([row]))[0]


def padded(
    seen: Sequence[npt.NDArray[np.float32]], scaling: Scaling, view: View, *, mask_channel: bool
) -> dict[str, Tensor]:
    """Return `inputs` and `lengths` of what `seen_of` returned of some weeks, padded to the longest of them."""
    lengths = np.array([len(week) for week in seen], dtype=np.int64)
    channels = len(scaling.channels) + mask_channel
    inputs = np.zeros((len(seen), int(lengths.max()), channels), dtype=np.float32)
    heart_rate = scaling.channels.index("heart_rate" if view == "readings" else "mean")
    for i, week in enumerate(seen):
        inputs[i, : len(week), : week.shape[1]] = scaling.apply(week)
        if mask_channel:
            inputs[i, : len(week), -1] = np.isnan(week[:, heart_rate])
    return {"inputs": torch.from_numpy(inputs), "lengths": torch.from_numpy(lengths)}
