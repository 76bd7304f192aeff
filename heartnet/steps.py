"""Counts each step once where devices overlap, and leaves out heart rates that a better device measured too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NEAR = 30_000
"""Milliseconds: a heart rate this near to one of a better device says nothing new."""

Ints = npt.NDArray[np.int64]


def time_axis(group: Ints, start: Ints, end: Ints) -> Ints:
    """Return what to add to the milliseconds of each row so that groups lie one after the other on one axis.

    Args:
        group: `[row]`, numbers from 0. start, end: milliseconds, `[row]`, `start <= end`.
    """
    count = int(group.max()) + 1
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(first, group, start)
    np.maximum.at(last, group, end)
    span = np.where(first <= last, last - first, 0) + 2 * NEAR + 1
    base = np.cumsum(span) - span
    shift: Ints = (base - np.where(first <= last, first, 0))[group]
    return shift


def share_counted_once(start: Ints, end: Ints, rank: Ints, steps: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the share of each interval's steps that no other interval has counted, from 0 to 1.

    Steps are taken to be even within an interval. What a better device (lower rank) covers is its own; between
    devices of one rank, and for intervals of one device that overlap, the one that started first keeps the overlap
    (of two that started together, the one with more steps, or else the shorter).

    Args:
        start, end: milliseconds on one axis, `[interval]`; a count of a moment has no length.
    """
    share = np.zeros(len(start))
    covered = _Union()
    for level in np.unique(rank):
        rows = np.flatnonzero(rank == level)
        rows = rows[np.lexsort((end[rows], -steps[rows], start[rows]))]
        a, b = start[rows], end[rows]
        before = np.concatenate([a[:1], np.maximum.accumulate(b)[:-1]])
        own = np.maximum(a, before)
        length = b - a
        free = np.maximum(b - own, 0) - np.where(b > own, covered.within(own, b), 0)
        again = np.concatenate([[False], (a[1:] == a[:-1]) & (length[1:] == 0) & (length[:-1] == 0)])
        moment = ~again & ~covered.holds(a)
        share[rows] = np.where(length > 0, free / np.maximum(length, 1), moment)
        covered = covered.with_spans(a, b)
    return share


def near_a_better_one(time: Ints, rank: Ints) -> npt.NDArray[np.bool_]:
    """Tell which moments lie within `NEAR` of one with a lower rank that is not itself left out; milliseconds."""
    near = np.zeros(len(time), bool)
    kept = np.zeros(0, np.int64)
    for level in np.unique(rank):
        rows = np.flatnonzero(rank == level)
        if len(kept):
            at = np.searchsorted(kept, time[rows])
            after = kept[np.minimum(at, len(kept) - 1)] - time[rows]
            since = time[rows] - kept[np.maximum(at - 1, 0)]
            near[rows] = (np.abs(after) <= NEAR) | (np.abs(since) <= NEAR)
        kept = np.sort(np.concatenate([kept, time[rows[~near[rows]]]]))
    return near


class _Union:
    """Spans of time that do not touch, in order."""

    def __init__(self, start: Ints | None = None, end: Ints | None = None) -> None:
        self.start = np.zeros(0, np.int64) if start is None else start
        self.end = np.zeros(0, np.int64) if end is None else end
        self.before = np.concatenate([[0], np.cumsum(self.end - self.start)])

    def with_spans(self, start: Ints, end: Ints) -> _Union:
        start, end = np.concatenate([self.start, start]), np.concatenate([self.end, end])
        start, end = start[end > start], end[end > start]
        if not len(start):
            return _Union()
        order = np.argsort(start, kind="stable")
        start, reach = start[order], np.maximum.accumulate(end[order])
        opens = np.concatenate([[True], start[1:] > reach[:-1]])
        closes = np.concatenate([np.flatnonzero(opens)[1:] - 1, [len(start) - 1]])
        return _Union(start[opens], reach[closes])

    def _elapsed(self, at: Ints) -> Ints:
        if not len(self.start):
            return np.zeros(len(at), np.int64)
        index = np.searchsorted(self.start, at, side="right") - 1
        safe = np.maximum(index, 0)
        inside = np.clip(at - self.start[safe], 0, self.end[safe] - self.start[safe])
        found: Ints = np.where(index < 0, 0, self.before[safe] + inside)
        return found

    def within(self, start: Ints, end: Ints) -> Ints:
        return self._elapsed(end) - self._elapsed(start)

    def holds(self, at: Ints) -> npt.NDArray[np.bool_]:
        """Tell which moments lie after the start of a span and up to its end."""
        if not len(self.start):
            return np.zeros(len(at), bool)
        index = np.searchsorted(self.start, at, side="left") - 1
        found: npt.NDArray[np.bool_] = (index >= 0) & (at <= self.end[np.maximum(index, 0)])
        return found
