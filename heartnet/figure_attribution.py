"""Where in a week a score came from, drawn into axes under its trace: logits at each step, and strips of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from heartnet.diagnostics.attribution import Attribution
from heartnet.week_trace import WeekTrace
from heartnet.weeks import WEAR_GAP_SECONDS

STRIP_COLUMNS = 320
"""Columns that gradients are summed up in; a calendar week has about half an hour in each."""

MOST_CHANNELS = 5
"""Channels that get a strip of their own; the others share one."""

_NAMES = {"heart_rate": "heart rate", "dt": "interval", "in_workout": "workout", "in_af": "atrial fib."}


def attribution_rows(attribution: Attribution) -> list[tuple[str, int]]:
    """Return names and heights, in pixels, of the axes that are needed: `logit`, if there are steps, and `strips`."""
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
    ax: Axes, attribution: Attribution, places: npt.NDArray[np.float64], length: float, threshold: float | None
) -> None:
    """Draw the logit at each step over time, red where it is above `threshold`; dashed is the score."""
    line = threshold or 0.0
    time, mean = _over_time(attribution, places, length)
    crossed_at, crossed = _with_crossings(time, mean, line)
    for side, colour in ((np.maximum(crossed, line), "#d6604d"), (np.minimum(crossed, line), "#4393c3")):
        ax.fill_between(crossed_at, side, line, color=colour, alpha=0.45, linewidth=0)
    ax.plot(time, mean, color="#333333", linewidth=0.9)
    ax.axhline(line, color="#777777", linewidth=0.7)
    ax.axhline(attribution.score, color="#111111", linewidth=0.9, linestyle="--")
    low, high = (float(pick([*mean[~np.isnan(mean)], attribution.score, line])) for pick in (np.min, np.max))
    ax.set_ylim(low - 0.08 * (high - low or 1.0), high + 0.08 * (high - low or 1.0))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    _beside(ax, [(attribution.score, f"score\n{attribution.score:+.2f}")])
    name_axis(ax, "logit at\neach step")


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


def _with_crossings(
    time: npt.NDArray[np.float64], values: npt.NDArray[np.float64], line: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a curve with the points at which it crosses a line; those that matplotlib finds take it long."""
    above = values - line
    side = np.sign(above)
    before = np.flatnonzero(side[:-1] * side[1:] < 0)
    share = above[before] / (above[before] - above[before + 1])
    at = time[before] + share * (time[before + 1] - time[before])
    return np.insert(time, before + 1, at), np.insert(values, before + 1, line)


def draw_strips(ax: Axes, attribution: Attribution, places: npt.NDArray[np.float64], length: float) -> None:
    """Draw gradient × input of each channel and the size of the gradient, summed up by column of the axis."""
    names, values = _by_channel(attribution)
    columns = min(STRIP_COLUMNS, len(places))
    sums, counts = _summed(places, values, length, columns)
    size, _ = _summed(places, np.abs(attribution.gradient).sum(axis=1)[:, None], length, columns)
    size = np.where(counts[:, None] > 0, size / np.maximum(counts, 1)[:, None], np.nan)
    sums = np.where(counts[:, None] > 0, sums, np.nan)
    limit = _limit(np.abs(sums))
    rows = 1 + len(names)
    norm = TwoSlopeNorm(0, -limit, limit)
    extent = (0, length, rows - 1.5, -0.5)
    ax.imshow(sums.T, aspect="auto", cmap="RdBu_r", norm=norm, extent=extent, interpolation="nearest")
    ax.imshow(
        size.T, aspect="auto", cmap="Greys", vmin=0, vmax=_limit(size), interpolation="nearest",
        extent=(0, length, rows - 0.5, rows - 1.5),
    )  # fmt: skip
    ax.set_facecolor("#f4f1e8")
    ax.set_ylim(rows - 0.5, -0.5)
    for row in range(1, rows):
        ax.axhline(row - 0.5, color="white", linewidth=2 if row < rows - 1 else 3)
    _beside(ax, [(row, f"{total:+.2g}") for row, total in enumerate(values.sum(axis=0))])
    name_rows(ax, [*names, "|gradient|"])


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


def name_axis(ax: Axes, text: str) -> None:
    """Write what an axis shows on its left."""
    ax.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center", labelpad=4, color="#333333", parse_math=False)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Write what each row shows on its left, the first on top."""
    ax.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _beside(ax: Axes, numbers: Sequence[tuple[float, str]]) -> None:
    """Write numbers on the right of the axes, at their heights."""
    for height, text in numbers:
        ax.annotate(
            text, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8, color="#333333", annotation_clip=False,
        )  # fmt: skip


def plain_name(name: str) -> str:
    """Return a channel or annotation in words."""
    return _NAMES.get(name, name.replace("_", " "))
