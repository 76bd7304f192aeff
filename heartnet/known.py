"""What the data knows of the weeks that a measurement looks at, reading by reading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.signals import KnownWeek
from heartnet.hourly import HOURLY
from heartnet.weeks import UNKNOWN

_TELLING = ("asleep", "in_workout")


def known_week(probe: Probe, place: int, data: WeeksDataModule | None = None, row: int = -1) -> KnownWeek:
    """Return what the data knows of a week, or what can be told from the probe alone.

    Args:
        place: which sequence of the probe.
        data: a data module of heartnet, or None.
        row: the week's row there; below 0 if unknown.
    """
    length = int(probe.lengths[place])
    if data is not None and row >= 0 and len(seen := data.seen(row)) == length:
        week = _from_readings(data, row) if data.view == "readings" else _from_hours(seen)
        return replace(week, name=f"{'simulated ' if data.weeks.simulated else ''}week {row}")
    values = probe.inputs[place, :length].double().cpu().numpy()
    dt = None if probe.dt is None else probe.dt[place, :length].double().cpu().numpy()
    return KnownWeek(dict(zip(probe.channels, values.T, strict=True)), dt)


def telling_rows(data: WeeksDataModule, weeks: int, among: int) -> list[int]:
    """Return rows of weeks to measure on: those that tell most of sleep and workouts, or, if none does, the longest.

    Of the first `among` weeks of the validation split (of the training split if that is empty), those with the largest
    sum of the variances of `asleep` and `in_workout`. The longest weeks are those of much sport and few nights.
    """
    rows = (data.rows["val"] if len(data.rows["val"]) else data.rows["train"])[:among]
    told = [(_told(data, int(row)), int(np.diff(data.weeks.offsets)[row])) for row in rows]
    best = sorted(range(len(rows)), key=lambda place: told[place], reverse=True)[:weeks]
    return [int(rows[place]) for place in best]


def _told(data: WeeksDataModule, row: int) -> float:
    span = slice(int(data.weeks.offsets[row]), int(data.weeks.offsets[row + 1]))
    shares = [float((marks[span] == 1).mean()) for name, marks in data.weeks.annotations.items() if name in _TELLING]
    return sum(share * (1 - share) for share in shares)


def _from_readings(data: WeeksDataModule, row: int) -> KnownWeek:
    weeks = data.weeks
    span = slice(int(weeks.offsets[row]), int(weeks.offsets[row + 1]))
    readings = weeks.readings[span].astype(np.float64)
    marks = {
        name: np.where(values[span] == UNKNOWN, np.nan, values[span].astype(np.float64))
        for name, values in weeks.annotations.items()
    }
    local = np.array(weeks.local_time[span], dtype=np.int64)
    return KnownWeek({"heart_rate": readings[:, 0], "steps": readings[:, 1]}, readings[:, 2], local, marks)


def _from_hours(seen: np.ndarray) -> KnownWeek:
    """Return what the hourly view knows: a mark holds for an hour if it does for half of its readings."""
    named = dict(zip(HOURLY, seen.astype(np.float64).T, strict=True))
    monday = 4 * 86_400_000_000  # the first Monday of Unix time
    local = monday + np.arange(len(seen), dtype=np.int64) * 3_600_000_000
    marks = {
        name: np.where(np.isnan(named[name]), np.nan, (named[name] >= 0.5).astype(np.float64))
        for name in ("asleep", "in_workout")
        if not np.isnan(named[name]).all()
    }
    return KnownWeek({"heart_rate": named["mean"], "steps": named["steps"]}, None, local, marks)
