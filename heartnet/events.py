"""Sleep and workouts: from spans of time to what is known of each reading's moment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

UNKNOWN = 255
"""In an annotation: nobody knows."""

KINDS = ("asleep", "in_workout")
"""Kinds of spans; each becomes an annotation."""


def annotate(
    time: npt.NDArray[np.int64], users: pl.Series, offsets: npt.NDArray[np.int64], events: pl.DataFrame
) -> dict[str, npt.NDArray[np.uint8]]:
    """Return `{kind: uint8 [reading]}`: 1 within a span of the kind, 0 outside, `UNKNOWN` where nobody knows.

    Sleep is unknown in a week without any; workouts are unknown for a person without any, since a week without one is
    not unusual.

    Args:
        time: microseconds, `[reading]`, UTC where the events are.
        users: the person of each week.
        offsets: int64, `[week + 1]`.
        events: columns of `heartnet.intake.EVENT_SCHEMA`.
    """
    found = {kind: np.full(len(time), UNKNOWN, np.uint8) for kind in KINDS}
    weeks_of = pl.DataFrame({"user_id": users}).with_row_index("week").group_by("user_id").agg("week")
    weeks = {user: np.array(rows) for user, rows in weeks_of.rows()}
    for (user, kind), spans in events.group_by("user_id", "kind"):
        if kind not in found or user not in weeks:
            continue
        start, end = _union(spans)
        for week in weeks[user]:
            rows = slice(offsets[week], offsets[week + 1])
            at = np.searchsorted(start, time[rows], side="right") - 1
            inside = (at >= 0) & (time[rows] < end[np.maximum(at, 0)])
            if kind == "in_workout" or inside.any():
                found[str(kind)][rows] = inside
    return found


def _union(spans: pl.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return start and end of the spans in order, those that overlap joined; microseconds."""
    spans = spans.sort("start")
    start, end = spans["start"].dt.timestamp("us").to_numpy(), spans["end"].dt.timestamp("us").cum_max().to_numpy()
    opens = np.concatenate([[True], start[1:] > end[:-1]])
    last = np.append(np.flatnonzero(opens)[1:] - 1, len(start) - 1)
    return start[opens], end[last]
