"""Histograms of a store: gaps between readings, heart rates, readings and hours of wear a week, as paths of an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heartnet.weeks import MAX_READINGS, WEAR_GAP_SECONDS, Weeks

WIDTH, HEIGHT = 440.0, 130.0

MOST_READINGS = 2_000_000
"""Readings that gaps and heart rates are counted over at most; beyond, those of evenly spaced weeks."""

_GAP_TICKS = {
    0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 21_600: "6 h", 86_400: "1 day",
    604_800: "1 week",
}  # fmt: skip


@dataclass(frozen=True)
class Histogram:
    """Shares by bin, as bars `WIDTH` by `HEIGHT`.

    Attributes:
        title: what is counted.
        note: the numbers that matter, in words.
        bars: a path of the shares.
        outline: a path of another share over the same bins; empty if there is none.
        outline_name: what that is.
        most: the share of the highest bar.
        ticks: places and labels.
        mark: place and label of a limit, if it lies within.
    """

    title: str
    note: str
    bars: str
    outline: str
    outline_name: str
    most: float
    ticks: tuple[tuple[float, str], ...]
    mark: tuple[float, str] | None


def distributions(weeks: Weeks) -> list[Histogram]:
    """Return the histograms of a store."""
    rows = sampled_weeks(weeks)
    of = "" if len(rows) == len(weeks) else f" (of {len(rows):,} evenly spaced weeks)"
    values = np.concatenate([weeks.week(row)[:, [0, 2]] for row in rows]).astype(np.float64)
    lengths = np.diff(weeks.offsets).astype(np.float64)
    found = [
        _gaps(values[~np.isnan(values[:, 1]), 1], of),
        _heart_rates(values[~np.isnan(values[:, 0]), 0], of),
        _readings(lengths),
        _wear(weeks.table["wear_hours"].drop_nulls().to_numpy()),
    ]
    return [each for each in found if each is not None]


def sampled_weeks(weeks: Weeks) -> npt.NDArray[np.int64]:
    """Return the rows of all weeks, or of evenly spaced ones that hold about `MOST_READINGS` readings."""
    total = int(weeks.offsets[-1])
    count = max(len(weeks) * MOST_READINGS // max(total, MOST_READINGS), 1)
    return np.unique(np.linspace(0, len(weeks) - 1, count).astype(np.int64))


def _gaps(gaps: npt.NDArray[np.float64], of: str) -> Histogram | None:
    if len(gaps) == 0:
        return None
    per_decade = 8
    logs = np.log10(np.clip(gaps, 0.01, 1e7)) * per_decade
    low, high = int(np.floor(logs.min())), int(np.floor(logs.max())) + 1
    low, high = min(low, 0), max(high, int(np.log10(WEAR_GAP_SECONDS) * per_decade) + per_decade)
    edges = np.arange(low, high + 1)
    counts, time = (np.histogram(logs, edges, weights=weight)[0] for weight in (None, gaps))
    longer = gaps > WEAR_GAP_SECONDS
    note = (
        f"Median {_seconds(float(np.median(gaps)))}. {longer.mean():.2%} of the gaps are longer than "
        f"{WEAR_GAP_SECONDS / 60:g} minutes and count as not worn; they hold {gaps[longer].sum() / gaps.sum():.0%} "
        f"of the time{of}."
    )
    seconds = np.array([WEAR_GAP_SECONDS, *_GAP_TICKS])
    limit, *places = ((np.log10(seconds) * per_decade - low) / (high - low) * WIDTH).tolist()
    return _histogram(
        "Gaps between readings",
        note,
        counts,
        list(zip(places, _GAP_TICKS.values(), strict=True)),
        mark=(limit, f"{WEAR_GAP_SECONDS / 60:g} min"),
        second=("share of the time", time),
    )


def _heart_rates(rates: npt.NDArray[np.float64], of: str) -> Histogram | None:
    if len(rates) == 0:
        return None
    low, high = int(np.floor(rates.min() / 10)) * 10, max(int(np.ceil(rates.max() / 10)), 12) * 10
    low = min(low, 40)
    counts, _ = np.histogram(rates, np.arange(low, high + 1, 5))
    ticks = [(float((bpm - low) / (high - low) * WIDTH), f"{bpm}") for bpm in range(-(-low // 40) * 40, high + 1, 40)]
    middle = np.quantile(rates, [0.05, 0.5, 0.95])
    note = f"Median {middle[1]:.0f} bpm; nine in ten from {middle[0]:.0f} to {middle[2]:.0f} bpm{of}."
    return _histogram("Heart rate, bpm", note, counts, ticks)


def _readings(lengths: npt.NDArray[np.float64]) -> Histogram | None:
    high = max(float(lengths.max()), 64.0)
    high = MAX_READINGS * 1.04 if high > MAX_READINGS / 8 else high * 1.1
    counts, _ = np.histogram(lengths, np.linspace(0, high, 41))
    step = next(each for each in (10, 20, 50, 100, 200, 500, 1000) if each * 6 >= high or each == 1000)
    ticks = [(float(n / high * WIDTH), f"{n:,}") for n in range(0, int(high) + 1, step)]
    note = (
        f"Median {np.median(lengths):,.0f}, from {lengths.min():,.0f} to {lengths.max():,.0f}. "
        f"A longer week is thinned to {MAX_READINGS:,}: {int((lengths > MAX_READINGS - 8).sum()):,} weeks are at the "
        "limit."
    )
    mark = (MAX_READINGS / high * WIDTH, f"{MAX_READINGS:,}") if high > MAX_READINGS else None
    return _histogram("Readings a week", note, counts, ticks, mark=mark)


def _wear(worn: npt.NDArray[np.float64]) -> Histogram | None:
    if len(worn) == 0:
        return None
    low, middle, high = np.quantile(worn, [0, 0.5, 1])
    note = f"Median {hours(middle)}, from {hours(low)} to {hours(high)}."
    if high > 24:
        unit, most, step = 1.0, max(168.0, high), 24.0
    else:
        unit = 1.0 if high > 2 else 1 / 60
        most = max(high / unit * 1.1, 1.0)
        step = next(each for each in (1, 2, 5, 10, 20, 50) if each * 8 >= most)
    counts, _ = np.histogram(worn / unit, np.linspace(0, most, 43))
    ticks = [(x / most * WIDTH, f"{x:g}") for x in np.arange(0, most + 0.01, step)]
    return _histogram(f"Worn, {'hours' if unit == 1 else 'minutes'} a week", note, counts, ticks)


def _histogram(
    title: str,
    note: str,
    counts: npt.NDArray[np.int64],
    ticks: Sequence[tuple[float, str]],
    mark: tuple[float, str] | None = None,
    second: tuple[str, npt.NDArray[np.float64]] | None = None,
) -> Histogram:
    shares = counts / counts.sum()
    other = second[1] / second[1].sum() if second else np.zeros(0)
    most = float(max(shares.max(), other.max(initial=0)))
    width = WIDTH / len(shares)
    bars = "".join(
        f"M{i * width:.1f} {HEIGHT:g}v{-max(share / most * HEIGHT, 0.8):.1f}h{width - 1:.1f}V{HEIGHT:g}z"
        for i, share in enumerate(shares)
        if share > 0
    )
    outline = "".join(f"V{HEIGHT * (1 - share / most):.1f}h{width:.1f}" for share in other)
    return Histogram(
        title=title,
        note=note,
        bars=bars,
        outline=f"M0 {HEIGHT:g}{outline}V{HEIGHT:g}" if outline else "",
        outline_name=second[0] if second else "",
        most=most,
        ticks=tuple((x, label) for x, label in ticks if -1 <= x <= WIDTH + 1),
        mark=mark if mark and 0 <= mark[0] <= WIDTH else None,
    )


def hours(number: float) -> str:
    """Return hours with their unit; less than an hour in minutes."""
    return f"{number * 60:.1f} min" if number < 1 else f"{number:,.1f} h" if number < 100 else f"{number:,.0f} h"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else hours(seconds / 3600)
