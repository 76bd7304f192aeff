"""Scaling of the input channels and of the metadata, by constants fixed on the training split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from heartnet.weeks import CHANNELS

METADATA: tuple[str, ...] = ("age", "sex", "bmi")
"""What is known of a person, as a network sees it; each is followed by a 1 where it is known."""

LOGARITHMIC = ("steps", "dt", "readings")
"""Channels that span decades: the network sees log(1 + x) of them."""


@dataclass(frozen=True)
class Scaling:
    """Means and spreads that take readings to what the network sees, and back.

    A channel becomes `(f(x) - mean) / std`, with `f = log(1 + x)` for `LOGARITHMIC` channels (steps, dt) and the
    identity for others (heart rate); missing becomes 0. Metadata likewise, without the logarithm (sex: female 0,
    male 1). `channels` names what is scaled: those of readings, or `heartnet.hourly.HOURLY`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    metadata_mean: tuple[float, ...]
    metadata_std: tuple[float, ...]
    channels: tuple[str, ...] = CHANNELS

    def as_dict(self) -> dict[str, list[Any]]:
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[Any]]) -> Scaling:
        return cls(**{name: tuple(value) for name, value in values.items()})

    def apply(self, readings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `[…, channel]` readings in natural units as the network sees them; NaN becomes 0."""
        values = _spanned(readings, self.channels)
        values -= np.array(self.mean, dtype=np.float32)
        values /= np.array(self.std, dtype=np.float32)
        np.copyto(values, 0, where=np.isnan(values))
        return values

    def invert(self, inputs: npt.NDArray[np.float32 | np.float64]) -> npt.NDArray[np.float64]:
        """Return `[…, channel]` readings in natural units, float64, from what the network sees.

        Missing readings became 0, which reads as the channel's mean here.
        """
        values = inputs.astype(np.float64) * np.array(self.std) + np.array(self.mean)
        with np.errstate(over="ignore"):  # inputs that were never scaled
            readings: npt.NDArray[np.float64] = np.where(np.isin(self.channels, LOGARITHMIC), np.expm1(values), values)
        return readings

    def seconds(self, inputs: Float[Tensor, "batch time channel"]) -> Float[Tensor, "batch time"]:
        """Return dt in seconds from what the network sees; NaN at the first reading of each week, which has none."""
        place = self.channels.index("dt")
        dt = torch.expm1(inputs[..., place].double() * self.std[place] + self.mean[place])
        dt[:, 0] = torch.nan
        return dt

    def apply_metadata(self, table: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Return `[week, 2 × field]`: each field scaled (missing: 0), then 1 where it is known."""
        values = metadata_values(table)
        scaled = (values - np.array(self.metadata_mean)) / np.array(self.metadata_std)
        known = ~np.isnan(values)
        return np.concatenate([np.where(known, scaled, 0.0), known], axis=1).astype(np.float32)


def fit_scaling(
    readings: Iterable[npt.NDArray[np.float32]], table: pl.DataFrame, channels: tuple[str, ...] = CHANNELS
) -> Scaling:
    """Return the scaling whose constants are those of the given weeks (the training split).

    A channel without a spread, or without any value, keeps spread 1.

    Args:
        readings: arrays `[time, channel]` in natural units.
        table: who the weeks are of; each person's metadata counts once.
        channels: names of the channels.
    """
    count, total, squares = np.zeros((3, len(channels)))
    for week in readings:
        values = _spanned(week, channels).astype(np.float64)
        count += (~np.isnan(values)).sum(axis=0)
        total += np.nansum(values, axis=0)
        squares += np.nansum(values**2, axis=0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    people = metadata_values(table.unique("user_id", maintain_order=True))
    known = ~np.isnan(people)
    centre = np.where(known, people, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    spread = np.sqrt(np.where(known, (people - centre) ** 2, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    return Scaling(_plain(mean), _plain(_or_one(std)), _plain(centre), _plain(_or_one(spread)), channels)


def metadata_values(table: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Return `[week, field]` metadata in natural units, sex as 0 (female) or 1 (male), NaN where missing."""
    sex = pl.col("sex").replace_strict({"female": 0.0, "male": 1.0}, default=None, return_dtype=pl.Float64)
    columns = [sex.alias(name) if name == "sex" else pl.col(name).cast(pl.Float64) for name in METADATA]
    return table.select(columns).fill_null(float("nan")).to_numpy()


def _spanned(readings: npt.NDArray[np.float32], channels: tuple[str, ...]) -> npt.NDArray[np.float32]:
    values = np.array(readings)
    for place, channel in enumerate(channels):
        if channel in LOGARITHMIC:
            values[..., place] = np.log1p(np.maximum(values[..., place], 0))
    return values.astype(np.float32, copy=False)


def _or_one(spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Below 1e-6 a channel is constant but for rounding: dividing by that would blow rounding up.
    return np.where(spread > 1e-6, spread, 1.0)


def _plain(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(map(float, values))
