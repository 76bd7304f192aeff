"""One local time for each person, where several sources tell it: that of the source named first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.intake import SOURCE_RANKS, Device


def one_clock(frame: pl.DataFrame, devices: Sequence[Device]) -> tuple[pl.DataFrame, int]:
    """Return the readings with the offsets of the first source that knows any, and how many rows that changed.

    A reading of another source takes the offset in force in the first one: that of its last reading at or before the
    same instant (or its first). A wall clock of no known place becomes an instant by the offset in force when the
    first source's clock showed the same.

    Args:
        frame: columns of `heartnet.intake.RAW_SCHEMA`, all readings of some people, each person's together.
        devices: by number; their ranks tell the sources.
    """
    source = np.array([device.rank // SOURCE_RANKS for device in devices])[frame["device"].to_numpy()]
    if len(source) == 0 or source.min() == source.max():
        return frame, 0
    time = frame["time"].dt.timestamp("us").to_numpy().copy()
    instant = frame["instant"].to_numpy().copy()
    known = frame["utc_offset"].is_not_null().to_numpy()
    offset = frame["utc_offset"].fill_null(0).to_numpy().astype(np.int64) * 1_000_000
    before = time.copy(), np.where(known, offset, 0)
    user = frame["user_id"].rle_id().to_numpy()
    for rows in np.split(np.arange(len(user)), np.flatnonzero(np.diff(user)) + 1):
        telling = rows[known[rows] & instant[rows]]
        if not len(telling):
            continue
        first = source[telling].min()
        telling, others = telling[source[telling] == first], rows[source[rows] > first]
        if not len(others):
            continue
        order = telling[np.argsort(time[telling], kind="stable")]
        walls = others[~instant[others]]
        offset[walls] = _in_force(time[order] + offset[order], offset[order], time[walls])
        time[walls] -= offset[walls]
        instant[walls] = True
        rest = np.setdiff1d(others, walls, assume_unique=True)
        offset[rest] = _in_force(time[order], offset[order], time[rest])
        known[others] = True
    changed = int(((time != before[0]) | (np.where(known, offset, 0) != before[1])).sum())
    seconds = pl.Series("utc_offset", offset // 1_000_000, dtype=pl.Int32)
    settled = frame.with_columns(
        time=pl.Series(time).cast(pl.Datetime("us")),
        instant=pl.Series(instant),
        utc_offset=pl.select(pl.when(pl.Series(known)).then(seconds)).to_series(),
    )
    return settled, changed


def _in_force(
    times: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the offset of the last of `times`, which rise or nearly do, at or before each moment, or the first."""
    found: npt.NDArray[np.int64] = offsets[
        np.maximum(np.searchsorted(np.maximum.accumulate(times), at, "right") - 1, 0)
    ]
    return found
