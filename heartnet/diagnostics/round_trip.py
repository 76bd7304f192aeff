"""From the tensor back to beats a minute and seconds: does a batch hold the readings that the data holds?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from heartnet.diagnostics.contract_batches import Parts, channel_names
from heartnet.diagnostics.contract_data import UNITS, Held, problem, unit_of
from heartnet.findings import Finding
from heartnet.scaling import LOGARITHMIC

TOLERANCE = 0.01
"""In natural units: bpm, steps, seconds; to which the rounding of the batch's own type is added."""

_ALIKE = 0.98  # share of readings by which two channels are the same
_FEWEST = 8  # readings by which one can tell
_PREFIX = 16  # readings by which a week is recognised


@dataclass(frozen=True)
class _Week:
    """One week: as the network sees it, as it should, and the rounding of the batch's type."""

    row: int
    came: Float64[np.ndarray, "time channel"]
    held: Float[np.ndarray, "time known_channel"]
    rounding: float


@dataclass
class RoundTrip:
    """Compares batches with the data, and says what became of each channel that is not what the data holds.

    The readings of each week are found by the batch's `index`, scaled back by `Scaling.invert`, and compared within
    `TOLERANCE`: heart rate in bpm, steps, dt in seconds; what is missing must be exactly 0, lengths must be those of
    the weeks, padding must be 0, and a mask channel must be 1 where heart rate is missing.

    Attributes:
        weeks: how many were compared.
        readings: how many readings.
        worst: largest difference by channel, natural units, among channels that are within the tolerance.
        ok: nothing was wrong so far.
    """

    held: Held
    weeks: int = 0
    readings: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    ok: bool = True

    def compare(self, split: str, batches: list[Parts]) -> list[Finding]:
        """Return what is wrong in some batches of a split; batches without inputs, lengths or index are passed over."""
        found: list[Finding] = []
        weeks: list[_Week] = []
        for parts in batches:
            if parts.inputs is None or parts.valid is None or parts.index is None:
                continue
            count, expected = parts.inputs.shape[2], len(self.held.channels) + self.held.mask_channel
            if count < expected:
                message = f"batches of {split} have {count} channels; {', '.join(self.held.channels)} make {expected}"
                return [problem(f"{split}/channels", count, expected, "channels", message)]
            rows, lengths = _numpy(parts.index).astype(int), _numpy(parts.valid).sum(axis=1).astype(int)
            there = (rows >= 0) & (rows < len(self.held.weeks))
            rounding = max(torch.finfo(parts.inputs.dtype).eps, torch.finfo(torch.float32).eps)
            found += self._shapes(split, parts, rows[there], lengths[there])
            for came, row, length in zip(_numpy(parts.inputs)[there], rows[there], lengths[there], strict=True):
                held = self.held.readings(int(row))
                if len(held) == length:
                    weeks.append(_Week(int(row), came[:length], held, rounding))
        self.weeks += len(weeks)
        self.readings += sum(len(week.came) for week in weeks)
        if weeks:
            found += self._order(split, weeks) or self._channels(split, weeks)
        self.ok = self.ok and not found
        return found

    def _shapes(
        self, split: str, parts: Parts, rows: npt.NDArray[np.int_], lengths: npt.NDArray[np.int_]
    ) -> list[Finding]:
        """Check lengths and padding."""
        assert parts.inputs is not None
        assert parts.valid is not None
        found = []
        own = [len(self.held.readings(int(row))) for row in rows]
        wrong = np.flatnonzero(lengths != own)
        if len(wrong):
            message = (
                f"in {split}, {len(wrong):,} of {len(own):,} weeks have another length than in the data, such as "
                f"{lengths[wrong[0]]:,} instead of {own[wrong[0]]:,}"
            )
            found.append(problem(f"{split}/lengths", len(wrong), 0, "weeks", message))
        padded = int(((parts.inputs != 0).any(dim=2) & ~parts.valid).any(dim=1).sum())
        if padded:
            message = f"in {split}, {padded:,} of {parts.weeks:,} weeks hold something other than 0 after their end"
            found.append(problem(f"{split}/padding", padded, 0, "weeks", message))
        return found

    def _order(self, split: str, weeks: list[_Week]) -> list[Finding]:
        """See whether weeks came under another week's index."""
        size = len(self.held.channels)
        expected: dict[bytes, int] = {}
        for week in weeks:
            key = _key(self.held.scaling.apply(week.held[:_PREFIX]))
            if key is not None:
                expected[key] = week.row
        came = [(week.row, expected.get(_key(week.came[:_PREFIX, :size]) or b"", week.row)) for week in weeks]
        moved = [(row, of) for row, of in came if row != of and not _same(self.held, row, of)]
        if not moved:
            return []
        row, of = moved[0]
        message = (
            f"in {split}, {len(moved):,} of {len(weeks):,} weeks hold the readings of another week than `index` says, "
            f"such as row {row:,} those of row {of:,}: inputs and targets do not belong together"
        )
        return [problem(f"{split}/order", len(moved), 0, "weeks", message)]

    def _channels(self, split: str, weeks: list[_Week]) -> list[Finding]:
        came = np.concatenate([week.came for week in weeks])
        held = np.concatenate([week.held for week in weeks]).astype(np.float64)
        sees = np.concatenate([self.held.scaling.apply(week.held.astype(np.float32)) for week in weeks])
        names = channel_names(self.held.channels, held.shape[1])
        rounding = max(week.rounding for week in weeks)
        wrong = [c for c in range(held.shape[1]) if self._differs(came, held, c, rounding)]
        about = _About(split, names, came[:, : held.shape[1]], held, sees.astype(np.float64), self.held, weeks)
        found = about.swapped(wrong)
        found += [about.explain(c) for c in wrong if not any(names[c] in each.where.split("/")[1] for each in found)]
        if self.held.mask_channel and came.shape[1] > held.shape[1]:
            rate = names.index("mean" if self.held.hourly else "heart_rate")
            mask = (came[:, held.shape[1]] != np.isnan(held[:, rate])).sum()
            if mask:
                message = (
                    f"in {split}, the mask channel is not 1 just where heart rate is missing, at {mask:,} readings"
                )
                found.append(problem(f"{split}/missing", mask, 0, "readings", message))
        return found

    def _differs(
        self, came: npt.NDArray[np.float64], held: npt.NDArray[np.float64], channel: int, rounding: float
    ) -> bool:
        scaling = self.held.scaling
        name, std = scaling.channels[channel], scaling.std[channel]
        known = ~np.isnan(held[:, channel])
        if (came[~known, channel] != 0).any():
            return True
        back = scaling.invert(came[:, : len(scaling.channels)])[known, channel]
        true = held[known, channel]
        if name in LOGARITHMIC:
            true = np.maximum(true, 0)
            allowed = 4 * rounding * (1 + true) * (np.log1p(true) + abs(scaling.mean[channel]) + std)
        else:
            allowed = 4 * rounding * (np.abs(true) + abs(scaling.mean[channel]) + std)
        error = np.abs(back - true)
        if not (error <= TOLERANCE + allowed).all():
            return True
        self.worst[name] = max(self.worst.get(name, 0.0), float(error.max(initial=0)))
        return False


@dataclass(frozen=True)
class _About:
    """What came, what is held, and what the network should see, `[reading, channel]` of all weeks of a split."""

    split: str
    names: tuple[str, ...]
    came: npt.NDArray[np.float64]
    held: npt.NDArray[np.float64]
    sees: npt.NDArray[np.float64]
    data: Held
    weeks: list[_Week]

    def swapped(self, wrong: list[int]) -> list[Finding]:
        """Return the channels that hold each other's readings."""
        found = []
        for one in wrong:
            for other in (each for each in wrong if each > one):
                if self._holds(one, other) and self._holds(other, one):
                    message = f"the channels {self.names[one]} and {self.names[other]} are swapped in {self.split}"
                    where = f"{self.split}/{self.names[one]}+{self.names[other]}"
                    found.append(problem(where, len(self.weeks), 0, "weeks", message))
        return found

    def explain(self, channel: int) -> Finding:
        """Say what became of a channel."""
        name, came, held = self.names[channel], self.came[:, channel], self.held[:, channel]
        unit, known = UNITS.get(name, ""), ~np.isnan(held)
        where = f"{self.split}/{name}"
        bad = ~np.isfinite(came)
        if bad.any():
            gaps = int((bad & ~known).sum())
            place = f", {gaps:,} of them where the data has none: gaps must become 0" if gaps else ""
            message = f"in {self.split}, {name} is NaN or infinite at {bad.sum():,} readings{place}"
            return problem(f"{where}/nan", bad.sum(), 0, "readings", message)
        text, value, limit = self._text(channel, came, held, known)
        return problem(where, value, limit, unit, f"in {self.split}, {name} {text}")

    def _text(
        self, channel: int, came: npt.NDArray[np.float64], held: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]
    ) -> tuple[str, float | None, float | None]:
        name, unit = self.names[channel], UNITS.get(self.names[channel], "")
        if not known.any():
            return f"holds something at {(came != 0).sum():,} readings, and the data has none of it", None, None
        middle = float(np.median(came[known]))
        if not came.any():
            return f"is all 0, and the data has {known.sum():,} readings of it", 0.0, float(np.median(held[known]))
        if _alike(came[known], held[known]):
            return f"is not scaled: the network sees {unit or 'natural units'}, {middle:.4g} in the middle", middle, 0.0
        for other, other_name in enumerate(self.names):
            if other != channel and self._holds(channel, other):
                return f"holds {other_name}", None, None
        with np.errstate(over="ignore", invalid="ignore"):
            back = self.data.scaling.invert(self.came)[:, channel]
        for what, values in (("", back), ("not scaled, and ", came)):
            factor = _factor(values[known], held[known])
            if factor is not None:
                return f"is {what}{factor:,.4g} times what the data holds{unit_of(name, factor)}", factor, 1.0
        sees = self.sees[:, channel]
        if len(self.weeks) and _alike(came, np.concatenate([week[::-1] for week in self._by_week(sees)])):
            return "runs backwards", None, None
        for shift, word in ((1, "late"), (-1, "early")):
            if _alike(came, np.concatenate([np.roll(week, shift) for week in self._by_week(sees)])):
                return f"comes one reading too {word}", None, None
        line = _line(came[known], sees[known])
        if line is not None:
            text = f"is scaled by other constants: {line[0]:.3g} times what it should be, and {line[1]:+.3g}"
            return text, line[0], 1.0
        error = np.abs(back - held)[known]
        off = int((error > TOLERANCE * (1 + np.abs(held[known]) / 100)).sum())
        filled = int((came[~known] != 0).sum())
        if filled and not off:
            return f"is filled in at {filled:,} readings where the data has none", filled, 0.0
        return f"is off by up to {error.max():.3g} {unit} at {off:,} of {len(error):,} readings", error.max(), TOLERANCE

    def _holds(self, channel: int, other: int) -> bool:
        """Tell whether a channel holds the readings of another, scaled or not, and not its own as well."""
        came, known = self.came[:, channel], ~np.isnan(self.held[:, other])
        as_seen = _alike(came, self.sees[:, other]) and self.sees[:, other].any()
        as_held = _alike(came[known], self.held[known, other]) and self.held[known, other].any()
        return bool((as_seen or as_held) and not _alike(came, self.sees[:, channel]))

    def _by_week(self, values: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        return np.split(values, np.cumsum([len(week.held) for week in self.weeks])[:-1])


def _alike(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> bool:
    if len(one) < _FEWEST:
        return False
    return bool((np.abs(one - other) <= 2e-3 * (1 + np.abs(other))).mean() >= _ALIKE)


def _factor(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float | None:
    """Return the number by which `other` is multiplied in `one`; None if there is no such number."""
    usable = (np.abs(other) > TOLERANCE) & np.isfinite(one)
    if usable.sum() < _FEWEST:
        return None
    ratio = one[usable] / other[usable]
    middle = float(np.median(ratio))
    alike = (np.abs(ratio - middle) <= 0.01 * abs(middle)).mean()
    return middle if middle != 0 and abs(middle - 1) > 0.01 and alike >= _ALIKE else None


def _line(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Return slope and intercept of `one` over `other`; None if it is not a line."""
    if len(one) < _FEWEST or one.std() == 0 or other.std() == 0:
        return None
    slope, start = np.polyfit(other, one, 1)
    residual = (one - slope * other - start).std()
    return (float(slope), float(start)) if residual < 1e-3 * one.std() else None


def _key(values: Float[np.ndarray, "time channel"]) -> bytes | None:
    """Return what a week is recognised by: its first readings, if they say enough."""
    rounded = np.round(np.nan_to_num(values.astype(np.float64)), 2) + 0.0
    return rounded.tobytes() if len(np.unique(rounded)) >= _FEWEST else None


def _same(held: Held, one: int, other: int) -> bool:
    return np.array_equal(held.readings(one)[:_PREFIX], held.readings(other)[:_PREFIX], equal_nan=True)


def _numpy(values: Tensor) -> npt.NDArray[np.float64]:
    return values.detach().cpu().double().numpy()
