"""Thins a week that has too many readings: workouts keep their shape, sparse stretches all, and no step is lost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

A_READING = 30_000_000
"""Microseconds that a reading counts for, on top of the pause before it."""


def thin(time: npt.NDArray[np.int64], heart_rate: npt.NDArray[np.float32], limit: int) -> npt.NDArray[np.int64]:
    """Return which readings to keep, at most `limit`, in order; the first and the last are among them.

    A clock that advances by the pause before each reading and `A_READING`, but by s at most, is cut into ticks of s;
    of each tick one reading is kept, its first with a heart rate if it has any. s is the least that meets `limit`. So
    a reading after a long pause opens a tick, sparse stretches stay whole, and dense ones are thinned nearly by count:
    where a watch measured more often, as in a workout, more is left, and what was measured keeps its distribution
    (`benchmarks/bench_thinning.py` has the errors of this and of thinning evenly in time).

    Args:
        time: microseconds, `[reading]`, strictly rising.
        heart_rate: beats a minute, `[reading]`, NaN where missing.
        limit: at least 3.
    """
    count = len(time)
    if count <= limit:
        return np.arange(count)
    pause = np.diff(time) + A_READING
    least = _least_tick(pause, limit - 2)
    clock = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(pause, least))])
    tick = clock // least
    opens = np.flatnonzero(np.diff(tick, prepend=-1))
    index = np.arange(count)
    with_rate = np.minimum.reduceat(np.where(np.isnan(heart_rate), count, index), opens)
    chosen = np.where(with_rate < count, with_rate, opens)
    first, last = np.array([0])[: chosen[0]], np.array([count - 1])[: count - 1 - chosen[-1]]
    return np.concatenate([first, chosen, last])


def fold_steps(steps: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the steps of the kept readings, each with those of the dropped readings before it; NaN if all are NaN.

    Args:
        steps: count, `[reading]`, NaN where missing.
        kept: which readings are kept, in order; the last one is.
    """
    first = np.concatenate([np.zeros(1, np.int64), kept[:-1] + 1])
    missing = np.isnan(steps)
    if not missing.any():
        return np.add.reduceat(steps, first, dtype=np.float64).astype(np.float32)
    known = np.add.reduceat((~missing).astype(np.int64), first)
    total = np.add.reduceat(np.where(missing, 0, steps), first, dtype=np.float64)
    return np.where(known > 0, total, np.nan).astype(np.float32)


def _least_tick(pause: npt.NDArray[np.int64], ticks: int) -> int:
    """Return the least s with `sum(min(pause, s)) // s + 1 <= ticks`."""
    low, high = 1, int(pause.sum())
    ordered = np.sort(pause)
    below = np.concatenate([np.zeros(1, np.int64), np.cumsum(ordered)])
    while low < high:
        s = (low + high) // 2
        shorter = int(np.searchsorted(ordered, s))
        total = int(below[shorter]) + s * (len(ordered) - shorter)
        if total // s + 1 <= ticks:
            high = s
        else:
            low = s + 1
    return low
