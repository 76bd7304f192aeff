"""Holds readings until all have come, in memory and beyond a limit in sorted runs on disk; hands them out by weeks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.errors import HeartnetError

ROWS_IN_MEMORY = 16_000_000
"""Readings held before they go to disk, at about 45 bytes each."""

ROWS_OF_AN_EXPORT = 60_000
"""The same for what a phone exports, which is read beside whatever else runs on a small machine."""

ROWS_OF_A_BLOCK = 400_000
"""About how many readings are cleaned and cut at once, at a few times their size in memory."""

WEEK = 7 * 86_400_000_000
MONDAY = 4 * 86_400_000_000
"""Microseconds; 1970-01-05 was the first Monday."""


class Spool:
    """Readings with a `user` number (UInt32) and a `week` number (Int32, of local time), in any order.

    Args:
        folder: where the runs go if there are too many readings for memory; a temporary folder in it, made on demand.
    """

    def __init__(self, folder: Path | None = None, rows_in_memory: int = ROWS_IN_MEMORY) -> None:
        self.folder, self.rows_in_memory = folder, rows_in_memory
        self.rows = 0
        self._held: list[pl.DataFrame] = []
        self._held_rows = 0
        self._runs: list[Path] = []
        self._partial: Path | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Take readings.

        Raises:
            HeartnetError: if they do not fit on the disk.
        """
        self._held.append(frame)
        self._held_rows += frame.height
        self.rows += frame.height
        if self._held_rows > self.rows_in_memory:
            self._spill()

    def blocks(self, place: npt.NDArray[np.int64], *, whole_people: bool = False) -> Iterator[pl.DataFrame]:
        """Yield all readings, each week of a person (or each person) whole in one block.

        The readings are gone from the spool then.

        Args:
            place: `[user]`, where each person comes in the order of blocks.
        """
        if not self._runs:
            yield from self._held_blocks(place, whole_people=whole_people)
            return
        self._spill()
        runs = [pl.scan_parquet(run, glob=False) for run in self._runs]
        keys = [_keys(run, place, whole_people=whole_people) for run in runs]
        order = np.unique(np.concatenate([key for key, _, _ in keys]))
        counts = np.zeros(len(order), np.int64)
        for key, start, end in keys:
            counts[np.searchsorted(order, key)] += end - start
        block_of = np.cumsum(counts) // self._block_size
        for block in np.unique(block_of):
            low, high = order[block_of == block][[0, -1]]
            parts = []
            for run, (key, start, end) in zip(runs, keys, strict=True):
                inside = (key >= low) & (key <= high)
                parts += [run.slice(a, b - a) for a, b in _joined(start[inside], end[inside])]
            yield pl.concat([part.collect() for part in parts], rechunk=True)

    @property
    def _block_size(self) -> int:
        return min(self.rows_in_memory // 2 + 1, ROWS_OF_A_BLOCK)

    def _held_blocks(self, place: npt.NDArray[np.int64], *, whole_people: bool) -> Iterator[pl.DataFrame]:
        if not self._held:
            return
        held, self._held = pl.concat(self._held, rechunk=False), []
        key = _key(held, place, whole_people=whole_people)
        if (key[1:] < key[:-1]).any():
            order = np.argsort(key, kind="stable")
            held, key = held[order], key[order]
        start = np.flatnonzero(np.diff(key, prepend=-1))
        block_of = np.append(start[1:], len(key)) // self._block_size
        begin = start[np.flatnonzero(np.diff(block_of, prepend=-1))].tolist()
        for a, b in zip(begin, [*begin[1:], len(key)], strict=True):
            yield held.slice(a, b - a)

    def everything(self) -> pl.DataFrame | None:
        """Return what is held in memory, for tests and small imports."""
        return pl.concat(self._held) if self._held else None

    def close(self) -> None:
        """Remove the runs from the disk."""
        self._held, self._runs = [], []
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial = None

    def _spill(self) -> None:
        if not self._held:
            return
        try:
            if self._partial is None:
                self._partial = Path(tempfile.mkdtemp(prefix=".heartnet-", dir=self.folder))
            run = self._partial / f"run-{len(self._runs)}.parquet"
            _sorted(pl.concat(self._held)).write_parquet(
                run, compression="lz4", statistics=False, row_group_size=1 << 14
            )
        except (OSError, pl.exceptions.PolarsError) as error:
            where = self._partial or self.folder
            raise HeartnetError(f"cannot keep readings in {where} while they are read: {error}") from error
        self._runs.append(run)
        self._held, self._held_rows = [], 0


def week_of(local: pl.Expr) -> pl.Expr:
    """Return the number of the calendar week, which begins on Monday at 00:00, of a local time (Datetime)."""
    return ((local.dt.timestamp("us") - MONDAY) // WEEK).cast(pl.Int32)


def _keys(
    run: pl.LazyFrame, place: npt.NDArray[np.int64], *, whole_people: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the keys in a sorted run, which order weeks (or people) as blocks do, and where each starts and ends."""
    key = _key(run.select("user", "week").collect(), place, whole_people=whole_people)
    start = np.flatnonzero(np.diff(key, prepend=-1))
    return key[start], start, np.append(start[1:], len(key))


def _key(frame: pl.DataFrame, place: npt.NDArray[np.int64], *, whole_people: bool) -> npt.NDArray[np.int64]:
    user, week = frame["user"].to_numpy(), frame["week"].to_numpy().astype(np.int64)
    key: npt.NDArray[np.int64] = place[user] * (1 << 24) + (0 if whole_people else week + (1 << 23))
    return key


def _joined(start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the spans of rows, those that follow each other joined."""
    if not len(start):
        return []
    opens = np.concatenate([[True], start[1:] != end[:-1]])
    closes = np.append(np.flatnonzero(opens)[1:] - 1, len(start) - 1)
    return list(zip(start[opens].tolist(), end[closes].tolist(), strict=True))


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    user, week = frame["user"].to_numpy(), frame["week"].to_numpy()
    if ((user[1:] > user[:-1]) | (user[1:] == user[:-1]) & (week[1:] >= week[:-1])).all():
        return frame
    return frame.sort("user", "week", maintain_order=True)
