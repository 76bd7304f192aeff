"""How a loss and a score go over a run: kept in bounded memory, judged with their own noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Course = Literal["too short", "falls", "flat", "unclear", "rises", "returns"]


class Series:
    """A series of numbers in bounded memory: when it is full, neighbours are averaged in pairs.

    Args:
        size: at most so many numbers are kept.
    """

    def __init__(self, size: int = 512) -> None:
        self.size, self.each, self.values = size, 1, list[float]()
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        """Add a number; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count == self.each:
            self.values.append(self._sum / self.each)
            self._sum, self._count = 0.0, 0
        if len(self.values) == self.size:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
            self.each *= 2

    def __len__(self) -> int:
        return len(self.values) * self.each + self._count

    def state(self) -> dict[str, Any]:
        return {"each": self.each, "values": list(self.values), "sum": self._sum, "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        self.each, self.values = state["each"], list(state["values"])
        self._sum, self._count = state["sum"], state["count"]


@dataclass(frozen=True)
class Trend:
    """The course of a loss.

    Attributes:
        course: `"falls"`; `"flat"`: no more fall than noise makes; `"unclear"`: between the two; `"rises"`;
            `"returns"`: it had fallen, and lost most of it again; `"too short"` to say.
        first: mean over the first tenth.
        lowest: lowest mean over a tenth.
        last: mean over the last tenth.
        noise: standard error of such a mean.
    """

    course: Course
    first: float
    lowest: float
    last: float
    noise: float


def trend(losses: Sequence[float] | npt.NDArray[np.float64], shortest: int = 40) -> Trend:
    """Return the course of a loss, from means over tenths of it.

    A tenth's standard error comes from differences of neighbouring values, so a slope is not taken for noise. A fall
    or rise counts from 4 standard errors of the difference, and from 2 % of the loss at the start; `"flat"` is less
    than half of that; `"returns"` needs a fall of 10 % of which three quarters are lost in each of the last two tenths.

    Args:
        shortest: fewer losses are too short.
    """
    values = np.asarray(losses, dtype=np.float64)
    if len(values) < max(shortest, 20):
        mean = float(values.mean()) if len(values) else math.nan
        return Trend("too short", mean, mean, mean, math.nan)
    parts = np.array_split(values, 10)
    means = np.array([part.mean() for part in parts])
    steps = np.concatenate([np.diff(part) for part in parts])
    noise = float(np.sqrt(np.mean(np.square(steps)) / 2) / math.sqrt(len(values) / 10))
    first, lowest, last = float(means[0]), float(means.min()), float(means[-1])
    clear = max(4 * math.sqrt(2) * noise, 0.02 * abs(first))
    lost = means[-2:] - lowest
    course: Course = "flat" if first - last < clear / 2 else "unclear"
    if first - lowest > max(clear, 0.1 * abs(first)) and (lost > max(0.75 * (first - lowest), clear)).all():
        course = "returns"
    elif last > first + clear:
        course = "rises"
    elif first - last > clear:
        course = "falls"
    return Trend(course, first, lowest, last, noise)


def chance_band(positives: float, negatives: float, sigmas: float = 1.96) -> float:
    """Return how far from 0.5 the AUROC of a score that says nothing lies in 95 of 100 validation sets of this size.

    The spread of the Mann-Whitney statistic under its null hypothesis: √((n₁ + n₀ + 1) / (12 n₁ n₀)).
    """
    if positives < 1 or negatives < 1:
        return math.inf
    return sigmas * math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def base_rate_loss(positives: Sequence[float], known: Sequence[float], kind: str) -> float:
    """Return what the base rates alone cost: mean entropy of the outputs (binary), or entropy of the classes.

    Args:
        positives: of each output or class.
        known: targets of each output.
        kind: `"binary"` or `"classes"`.
    """
    yes, count = np.asarray(positives, dtype=np.float64), np.asarray(known, dtype=np.float64)
    if count.sum() == 0:
        return math.nan
    rate = yes / np.maximum(count, 1)
    if kind == "classes":
        return float(-sum(each * math.log(each) for each in rate if each > 0))
    entropy = np.array([-sum(p * math.log(p) for p in (each, 1 - each) if p > 0) for each in rate])
    return float((entropy * count).sum() / count.sum())
