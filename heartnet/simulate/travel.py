"""Journeys across time zones: how the local clock and the body clock run through a simulated week."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DAY = 86_400
WEEK = 7 * DAY

BLOCK_DAYS = 28
"""At most one journey, there and back, in each such block of days; the body clock is right again at its end."""

BLOCKS_PER_YEAR = 13

FARTHEST_HOURS = 9

EASTWARD_PER_DAY, WESTWARD_PER_DAY = 57 / 60, 92 / 60
"""Hours a day by which the body clock follows: Aschoff et al. 1975, Chronobiologia 2:23, means after flights."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clocks:
    """How both clocks run through a week; seconds are true ones since Monday 00:00 local, when the week begins.

    Attributes:
        offset: hours, `[8]`: the local clock against home at the beginning of each day and of the next week, east
            positive.
        lag: hours, `[8]`: the local clock against the body clock at the same moments.
        jumps_at, jumps: seconds, `[jump]`: when the traveller sets the clock, and by how much.
    """

    offset: Floats
    lag: Floats
    jumps_at: Ints
    jumps: Ints

    @property
    def midnights(self) -> Ints:
        """Seconds, `[8]`: when each local day and the next week begin."""
        midnights: Ints = np.arange(8) * DAY - (3600 * (self.offset - self.offset[0])).astype(np.int64)
        return midnights

    @property
    def end(self) -> int:
        """Seconds of the week: fewer than 604,800 when clocks are set forward."""
        return int(self.midnights[7])

    @property
    def farthest(self) -> float:
        """Local clock minus body clock where they differ most, hours; 0 for who stays at home."""
        days = np.clip(np.searchsorted(self.midnights, self.jumps_at, side="right") - 1, 0, 6)
        apart = np.concatenate([self.lag, self.lag[days] + self.jumps / 3600])
        return float(apart[np.argmax(np.abs(apart))])

    def local(self, seconds: Ints) -> Ints:
        """Return the local clock's seconds since Monday 00:00."""
        if not len(self.jumps):
            return seconds
        set_by = np.concatenate([[0], np.cumsum(self.jumps)])
        local: Ints = seconds + set_by[np.searchsorted(self.jumps_at, seconds, side="right")]
        return local

    def body_hours(self, seconds: Ints) -> Floats:
        """Return the body clock's hours since some midnight."""
        hours: Floats = seconds / 3600
        if self.lag.any() or len(self.jumps):
            hours += np.interp(seconds, self.midnights, self.offset - self.lag) - self.offset[0]
        return hours


AT_HOME = Clocks(np.zeros(8), np.zeros(8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def draw_clocks(first_day: int, journeys: float, generator: Callable[[int], np.random.Generator]) -> Clocks:
    """Return the clocks of the week that begins on `first_day`, a day of the person's own calendar, from 0.

    Args:
        journeys: how many a year, there and back.
        generator: gives each block of days its own; neighbouring weeks ask for the same.
    """
    if journeys <= 0:
        return AT_HOME
    blocks = [
        _block(generator(number), journeys / BLOCKS_PER_YEAR)
        for number in range(first_day // BLOCK_DAYS, (first_day + 7) // BLOCK_DAYS + 1)
    ]
    if not any(block.any() for block in blocks):
        return AT_HOME
    skip = first_day % BLOCK_DAYS
    offset, lag, jump, at = np.concatenate(blocks, axis=1)[:, skip : skip + 8]
    days = np.flatnonzero(jump[:7])
    clocks = Clocks(offset, lag, np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Clocks(offset, lag, clocks.midnights[days] + at[days].astype(np.int64), (3600 * jump[days]).astype(np.int64))


def _block(rng: np.random.Generator, share: float) -> Floats:
    """Return `[4, day]`: offset and lag at the day's beginning, the jump in it (hours), and the jump's local second."""
    block = np.zeros((4, BLOCK_DAYS))
    if rng.random() >= share:
        return block
    there = int(rng.integers(0, 10))
    back = there + int(rng.integers(3, 10))
    hours = int(rng.integers(2, FARTHEST_HOURS + 1)) * (1 if rng.random() < 0.5 else -1)
    # Set between 10:00 and 14:00, so that no clock is set across midnight: each day keeps its number.
    block[3, [there, back]] = rng.integers(10 * 3600, 14 * 3600, 2)
    block[2, there], block[2, back] = hours, -hours
    offset = lag = 0.0
    for day in range(BLOCK_DAYS):
        block[:2, day] = offset, lag
        offset, lag = offset + block[2, day], lag + block[2, day]
        lag = max(lag - EASTWARD_PER_DAY, 0.0) if lag > 0 else min(lag + WESTWARD_PER_DAY, 0.0)
    return block
