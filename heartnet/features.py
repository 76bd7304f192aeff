"""Hand-made features of a week, for the simple models that one trusts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from heartnet.hourly import HOURLY, hourly_features
from heartnet.weeks import Weeks

STATISTICS: tuple[str, ...] = (
    "mean",
    "standard_deviation",
    "percentile_5",
    "percentile_25",
    "median",
    "percentile_75",
    "percentile_95",
    "mean_absolute_difference",
    "median_absolute_difference",
    "root_mean_square_difference",
    "mean_log_dt",
)
"""Statistics of a week's heart rate (bpm), of the difference of its successive readings (bpm), of log(1 + dt / s)."""


def week_statistics(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `[row, statistic]`, in the order of `STATISTICS`; NaN where a week has too few readings for one."""
    return np.array([_statistics(weeks.week(row).astype(np.float64)) for row in rows]).reshape(-1, len(STATISTICS))


HOURLY_SUMMARY: tuple[str, ...] = tuple(f"{summary}_of_{name}" for summary in ("mean", "spread") for name in HOURLY)
"""Mean and standard deviation, over the hours of a week, of each hourly feature; units as in `HOURLY_UNITS`."""


def hourly_summary(weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return `[row, summary]`, in the order of `HOURLY_SUMMARY`; NaN where no hour of a week has the feature.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: mean and standard deviations of the hourly
    vectors, into a logistic regression, as "a really simple baseline".
    """
    found = np.empty((len(rows), len(HOURLY_SUMMARY)))
    for i, row in enumerate(rows):
        hours = hourly_features(weeks, np.array([row]))[0].astype(np.float64)
        count = (~np.isnan(hours)).sum(axis=0)
        mean = np.where(count > 0, np.nansum(hours, axis=0) / np.maximum(count, 1), np.nan)
        spread = np.sqrt(np.nansum((hours - mean) ** 2, axis=0) / np.maximum(count, 1))
        found[i] = [*mean, *np.where(count > 0, spread, np.nan)]
    return found


def _statistics(week: npt.NDArray[np.float64]) -> list[float]:
    rate = week[:, 0][~np.isnan(week[:, 0])]
    if len(rate) < 2:
        return [float("nan")] * len(STATISTICS)
    change = np.abs(np.diff(rate))
    dt = week[:, 2][~np.isnan(week[:, 2])]
    return [
        rate.mean(),
        rate.std(),
        *np.percentile(rate, [5, 25, 50, 75, 95]),
        change.mean(),
        float(np.median(change)),
        np.sqrt((change**2).mean()),
        np.log1p(dt).mean(),
    ]
