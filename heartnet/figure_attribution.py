"""Where in a week a score came from, drawn under its trace: logits at each step, and strips of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator

from heartnet.diagnostics.attribution import Attribution
from heartnet.figure_panel import Panel, put, write
from heartnet.week_trace import WeekTrace
from heartnet.weeks import WEAR_GAP_SECONDS

STRIP_COLUMNS = 320
"""Columns that gradients are summed up in; a calendar week has about half an hour in each."""

MOST_CHANNELS = 5
"""Channels that get a strip of their own; the others share one."""

_SAND = (244, 241, 232, 255)
_NAMES = {"heart_rate": "heart rate", "dt": "interval", "in_workout": "workout", "in_af": "atrial fib."}


def attribution_rows(attribution: Attribution) -> list[tuple[str, int]]:
    """Return names and heights, in pixels, of the panels that are needed: `logit`, if there are steps, and `strips`."""
    rows = [("logit", 76)] if attribution.steps is not None else []
    return [*rows, ("strips", 17 * (1 + min(len(attribution.channels), MOST_CHANNELS + 1)))]


def places_of(trace: WeekTrace | None, attribution: Attribution, *, hourly: bool) -> npt.NDArray[np.float64] | None:
    """Return where each input lies on the axis, NaN for what lies beside it; None if that cannot be told."""
    count = len(attribution.inputs)
    if trace is None:
        return np.arange(count, dtype=np.float64) + 0.5
    if hourly:
        return (np.arange(count, dtype=np.float64) + 0.5) * 3600.0 if trace.calendar and count == 168 else None
    if len(trace.inside) != count:
        return None
    places = np.full(count, np.nan)
    places[trace.inside] = trace.time
    return places


def draw_steps(
    panel: Panel, attribution: Attribution, places: npt.NDArray[np.float64], threshold: float | None
) -> None:
    """Draw the logit at each step over time, red where it is above `threshold`; dashed is the score."""
    border = threshold or 0.0
    time, mean = _over_time(attribution, places, panel.x[1])
    panel.y = around(mean, [attribution.score, border])
    for bounded, colour in ((np.maximum(mean, border), "#d6604d"), (np.minimum(mean, border), "#4393c3")):
        panel.fill(time, border, bounded, colour, alpha=0.45)
    panel.line(time, mean, color="#333333", linewidth=0.9)
    panel.line(panel.x, [border, border], color="#777777", linewidth=0.7)
    panel.line(panel.x, [attribution.score] * 2, color="#111111", linewidth=0.9, linestyle="--")
    scale(panel, 4)
    _at_the_right(panel, [(attribution.score, f"score\n{attribution.score:+.2f}")])
    name_panel(panel, "logit at\neach step")


def _over_time(
    attribution: Attribution, places: npt.NDArray[np.float64], length: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the middle of each column, and the mean of the steps that begin in it, or else the step that goes on.

    NaN in pauses in which the watch was not worn.
    """
    steps = attribution.steps
    assert steps is not None
    sums, counts = _summed(places[:: attribution.stride][: len(steps)], steps[:, None], length, STRIP_COLUMNS)
    newest = np.maximum.accumulate(np.where(counts > 0, np.arange(STRIP_COLUMNS), 0))
    mean = np.divide(sums[:, 0], counts, out=np.full(STRIP_COLUMNS, np.nan), where=counts > 0)[newest]
    time = (np.arange(STRIP_COLUMNS, dtype=np.float64) + 0.5) * (length / STRIP_COLUMNS)
    read = np.sort(places[~np.isnan(places)])
    after = np.searchsorted(read, time)
    pause = read[np.minimum(after, len(read) - 1)] - read[np.maximum(after - 1, 0)]
    column = length / STRIP_COLUMNS
    outside = (time < read[0] - column) | (time > read[-1] + column)
    mean[(pause > max(WEAR_GAP_SECONDS, 3 * column)) | outside] = np.nan
    return time, mean


def draw_strips(panel: Panel, attribution: Attribution, places: npt.NDArray[np.float64]) -> None:
    """Draw gradient × input of each channel and the size of the gradient, summed up by column of the axis."""
    names, sums, size, totals = strips(attribution, places, panel.x[1])
    rows, limit = 1 + len(names), _limit(np.abs(sums))
    shades = colormaps["RdBu_r"]((sums.T / limit + 1) / 2, bytes=True)
    greys = colormaps["Greys"](size[None] / _limit(size), bytes=True)
    picture = np.concatenate([shades, greys])
    picture[np.isnan([*sums.T, size])] = _SAND
    wide, high = round(panel.width), round(panel.height)
    at = np.arange(high) * rows // high
    pixels = picture[:, np.arange(wide) * picture.shape[1] // wide][at]
    ends = np.flatnonzero(np.diff(at))  # white between rows, wider above the last
    pixels[ends] = pixels[ends[-1] + 1] = pixels[ends[-1] - 1] = 255
    put(panel.figure, pixels, round(panel.left), round(panel.bottom))
    panel.y = (rows - 0.5, -0.5)
    _at_the_right(panel, [(row, f"{total:+.2g}") for row, total in enumerate(totals)])
    panel.beside(range(rows), [*names, "|gradient|"], ticks=False)


def strips(
    attribution: Attribution, places: npt.NDArray[np.float64], length: float
) -> tuple[
    list[str], Float64[np.ndarray, "column channel"], Float64[np.ndarray, " column"], Float64[np.ndarray, " channel"]
]:
    """Return what the strips show: channels, gradient × input by column, the mean gradient's size there, and totals.

    NaN where a column has no reading. Of many channels, the weaker ones share a strip.
    """
    names, values = _by_channel(attribution)
    columns = min(STRIP_COLUMNS, len(places))
    sums, counts = _summed(places, values, length, columns)
    size, _ = _summed(places, np.abs(attribution.gradient).sum(axis=1)[:, None], length, columns)
    there = counts > 0
    size = np.divide(size[:, 0], counts, out=np.full(columns, np.nan), where=there)
    return names, np.where(there[:, None], sums, np.nan), size, values.sum(axis=0)


def _by_channel(attribution: Attribution) -> tuple[list[str], Float64[np.ndarray, "time channel"]]:
    """Return gradient × input of the channels; of many, the strongest, and the sum of the others."""
    contribution = attribution.contribution
    names = [plain_name(name) for name in attribution.channels]
    if len(names) <= MOST_CHANNELS + 1:
        return names, contribution
    strongest = np.argsort(-np.abs(contribution).sum(axis=0), kind="stable")
    kept, others = np.sort(strongest[:MOST_CHANNELS]), strongest[MOST_CHANNELS:]
    values = np.concatenate([contribution[:, kept], contribution[:, others].sum(axis=1, keepdims=True)], axis=1)
    return [*(names[i] for i in kept), f"{len(others)} others"], values


def _summed(
    places: npt.NDArray[np.float64], values: Float64[np.ndarray, "time row"], length: float, columns: int
) -> tuple[Float64[np.ndarray, "column row"], npt.NDArray[np.int64]]:
    """Return the sums of values in each of `columns` stretches of the axis, and of how many they are."""
    known = ~np.isnan(places)
    column = np.minimum(places[known] * (columns / length), columns - 1).astype(np.int64)
    sums = [np.bincount(column, row, columns) for row in values[known].T]
    return np.stack(sums, axis=1), np.bincount(column, minlength=columns)


def _limit(values: npt.NDArray[np.float64]) -> float:
    """Return what takes the full colour: nearly the largest, so that one column does not make all others pale."""
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.quantile(known, 0.98)) if len(known) else 1.0


def around(*values: Any) -> tuple[float, float]:
    """Return a scale on which all values lie, with some room; NaN is left out."""
    known = np.concatenate([np.asarray(each, dtype=np.float64) for each in values])
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.08 * (high - low or 1.0)
    return low - room, high + room


def scale(panel: Panel, most: int, *, integer: bool = False) -> None:
    """Write round numbers on the left, at most so many and one more."""
    low, high = sorted(panel.y)
    ticks = [each for each in MaxNLocator(most, integer=integer).tick_values(low, high) if low <= each <= high]
    digits = max(0, -int(np.floor(np.log10(ticks[1] - ticks[0]) + 1e-9))) if len(ticks) > 1 else 2
    panel.beside(ticks, [f"{each:.{digits}f}".replace("-", "−") for each in ticks])


def name_panel(panel: Panel, text: str) -> None:
    """Write what a panel shows on its left."""
    y = (panel.bottom + panel.top) / 2
    write(panel.figure, panel.left - 36, y, text, fontsize=8, ha="right", va="center", color="#333333")


def _at_the_right(panel: Panel, numbers: Sequence[tuple[float, str]]) -> None:
    """Write numbers on the right of a panel, at their heights."""
    for height, text in numbers:
        write(panel.figure, panel.right + 5, float(panel.up(height)), text, va="center", fontsize=8, color="#333333")


def plain_name(name: str) -> str:
    """Return a channel or annotation in words."""
    return _NAMES.get(name, name.replace("_", " "))
