"""What thinning costs: synthetic targets and the shape of heart rate, before and after, on recordings of your own.

    python benchmarks/bench_thinning.py heartrate_seconds.csv.gz minute_steps.csv.gz \\
        --time Time --time ActivityMinute --heart-rate Value --steps Steps --user-id Id
"""

from __future__ import annotations

import argparse
from unittest import mock

import numpy as np
import numpy.typing as npt
import polars as pl

import heartnet.weeks
from heartnet.account import Account
from heartnet.intake import Intake
from heartnet.readings import RawReadings, clean
from heartnet.sources import table
from heartnet.synthetic import TARGETS, Target, week_of
from heartnet.thinning import thin
from heartnet.weeks import MAX_READINGS, Weeks, cut_weeks

Kept = npt.NDArray[np.int64]
RISE = 0.6
"""Of the way from the week's 10th to its 99.5th percentile of heart rate: above it, somebody is exercising."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    table.add_arguments(parser)
    parser.add_argument("--user-id", action="append", default=[], metavar="COL")
    parser.set_defaults(time_format=None, time_unit=None)
    arguments = parser.parse_args()
    intake = Intake(Account())
    table.read(arguments, intake)
    with mock.patch.object(heartnet.weeks, "MAX_READINGS", 10**9):
        frame = pl.concat(list(intake.blocks()))
        weeks = cut_weeks(clean(RawReadings(frame, intake.files, intake.devices), Account()))
    long = np.flatnonzero(np.diff(weeks.offsets) > MAX_READINGS)
    each = np.diff(weeks.offsets)[long].mean()
    print(f"{len(long)} weeks of more than {MAX_READINGS:,} readings, {each:,.0f} each\n")
    print(f"{'thinned':<22}{'error of':<26}{'mean':>7}{'worst':>7} {'unit':<6}")
    for name, thinned in (("as heartnet does", thin), ("evenly in time", evenly)):
        kept = {week: thinned(*_times(weeks, week), MAX_READINGS) for week in long}
        for target in ("day_std_minus_night_std", "night_minus_day_mean"):
            it = TARGETS[target]
            errors = [abs(_target(weeks, w, it, rows) - _target(weeks, w, it)) for w, rows in kept.items()]
            _row(name, target, errors, it.unit)
        _row(name, "heart rate in exercise", [shape_error(weeks, w, rows)[0] for w, rows in kept.items()], "bpm")
        _row(name, "heart rate at other times", [shape_error(weeks, w, rows)[1] for w, rows in kept.items()], "bpm")


def evenly(time: npt.NDArray[np.int64], heart_rate: npt.NDArray[np.float32], limit: int) -> Kept:
    """Thin evenly in time, for comparison."""
    with mock.patch("heartnet.thinning.A_READING", 0):
        return thin(time, heart_rate, limit)


def shape_error(weeks: Weeks, week: int, kept: Kept) -> tuple[float, float]:
    """Return the root mean square error of drawing a line through the kept heart rates, in exercise and otherwise."""
    time, rate = _times(weeks, week)
    kept = kept[~np.isnan(rate[kept])]
    measured = ~np.isnan(rate)
    low, high = np.percentile(rate[measured], [10, 99.5])
    error = np.interp(time, time[kept], rate[kept])[measured] - rate[measured]
    exercise = rate[measured] >= low + RISE * (high - low)
    return float(np.sqrt((error[exercise] ** 2).mean())), float(np.sqrt((error[~exercise] ** 2).mean()))


def _times(weeks: Weeks, week: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    rows = slice(weeks.offsets[week], weeks.offsets[week + 1])
    return weeks.local_time[rows], weeks.readings[rows, 0]


def _target(weeks: Weeks, week: int, target: Target, kept: Kept | None = None) -> float:
    rows = np.arange(weeks.offsets[week], weeks.offsets[week + 1])
    rows = rows if kept is None else rows[kept]
    return target.function(week_of(weeks.readings[rows], weeks.local_time[rows]))


def _row(name: str, what: str, errors: list[float], unit: str) -> None:
    print(f"{name:<22}{what:<26}{np.nanmean(errors):7.2f}{np.nanmax(errors):7.2f} {unit:<6}")


if __name__ == "__main__":
    main()
