"""Hand-made features of a week, for the simple models that one trusts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
