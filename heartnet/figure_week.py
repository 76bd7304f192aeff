"""The picture of a week: the trace that was recorded, and under it where in the week the score came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heartnet.diagnostics.attribution import Attribution
from heartnet.week_trace import WeekTrace

STRIP_COLUMNS = 320
"""Columns that gradients are summed up in; a calendar week has about half an hour in each."""

MOST_CHANNELS = 5
"""Channels that get a strip of their own; the others share one."""

_WIDTH, _LEFT, _RIGHT = 1000, 116, 54  # pixels
_RATE, _SPAN, _STEPS, _LOGIT = "#b3261e", "#eba29c", "#3f74b5", "#333333"
_LANES = {"worn": "#9db8a4", "asleep": "#6a62c4", "in_workout": "#d98a1f", "in_af": "#a3557f"}
_NAMES = {"heart_rate": "heart rate", "dt": "interval", "in_workout": "workout", "in_af": "atrial fib."}
_NIGHT = (0, 6)  # hours, as heartnet.synthetic has it
_GRID = "#dddddd"
_TICKS = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    21_600,
    43_200,
    *(86_400 * 2**k for k in range(15)),
)


@dataclass(frozen=True)
class Words:
    """What stands over a picture: a line in bold, a line about the week, and whether the week is simulated."""

    title: str
    about: str
    simulated: bool = False


def week_figure(
    trace: WeekTrace | None,
    attribution: Attribution | None,
    words: Words,
    *,
    threshold: float | None = None,
    hourly: bool = False,
) -> Figure:
    """Draw a week: heart rate, steps, wear, sleep and workouts, and under it what the network made of it.

    Under the trace stand the logit at each step, if the network has them, and strips in which each column is a sum over
    its stretch of time: gradient × input of each channel, red where it raises the score and blue where it lowers it,
    and the size of the gradient, dark where a small change would move the score most.

    Args:
        trace: the week; None draws the inputs that the network saw along their positions instead.
        attribution: where the score came from; None draws the trace alone.
        words: what stands above.
        threshold: the logit from which on a week is called positive.
        hourly: the network's inputs are the 168 hours of the week and no readings.
    """
    if trace is None and attribution is None:
        raise ValueError("there is neither a week nor an attribution to draw")
    places = None if attribution is None else _places(trace, attribution, hourly=hourly)
    length = trace.length if trace is not None else float(len(attribution.inputs)) if attribution is not None else 1.0
    top = _signal_rows(attribution) if trace is None and attribution is not None else _trace_rows(trace)
    rows = [*top, *(_attribution_rows(attribution) if attribution is not None and places is not None else [])]
    figure, axes = _laid_out(rows)
    if trace is not None:
        _draw_trace(axes, trace)
    elif attribution is not None:
        _draw_signals(axes, attribution)
    if attribution is not None and places is not None:
        if attribution.steps is not None:
            _draw_steps(axes["logit"], attribution, places, length, threshold)
        _draw_strips(axes["strips"], attribution, places, length)
    for name, ax in axes.items():
        ax.set_xlim(0, length)
        _time_grid(ax, trace, bottom=ax is list(axes.values())[-1], top=ax is next(iter(axes.values())), name=name)
    calendar = trace is not None and trace.calendar
    _write(figure, words, attribution if places is not None else None, calendar=calendar)
    return figure


def _trace_rows(trace: WeekTrace | None) -> list[tuple[str, int]]:
    assert trace is not None
    rows = [("rate", 150)]
    if trace.steps.any():
        rows.append(("steps", 40))
    return [*rows, ("lanes", 15 * len(trace.lanes))]


def _signal_rows(attribution: Attribution) -> list[tuple[str, int]]:
    return [(f"signal {channel}", 56) for channel in range(min(len(attribution.channels), MOST_CHANNELS))]


def _attribution_rows(attribution: Attribution) -> list[tuple[str, int]]:
    rows = [("logit", 76)] if attribution.steps is not None else []
    return [*rows, ("strips", 17 * (1 + min(len(attribution.channels), MOST_CHANNELS + 1)))]


def _laid_out(rows: Sequence[tuple[str, int]]) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure and its axes from top to bottom, laid out by hand: matplotlib's own layout draws twice."""
    above, gap, below = 72, 9, 38
    height = above + sum(size + gap for _, size in rows) + below
    figure = Figure(figsize=(_WIDTH / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes, at = {}, height - above
    for name, size in rows:
        at -= size
        place = (_LEFT / _WIDTH, at / height, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, size / height)
        axes[name] = figure.add_axes(place)
        axes[name].tick_params(labelsize=8, length=2, colors="#444444")
        for side in axes[name].spines.values():
            side.set_color("#bbbbbb")
        at -= gap
    return figure, axes


def _draw_trace(axes: dict[str, Axes], trace: WeekTrace) -> None:
    rate = axes["rate"]
    rate.vlines(trace.centre, trace.low, trace.high, colors=_SPAN, linewidth=1.3)
    time, middle = (np.insert(each, trace.breaks, np.nan) for each in (trace.centre, trace.middle))
    rate.plot(time, middle, color=_RATE, linewidth=1.0)
    alone = np.isnan(np.append(middle[1:], np.nan)) & np.isnan(np.append(np.nan, middle[:-1])) & ~np.isnan(middle)
    rate.plot(time[alone], middle[alone], ".", color=_RATE, markersize=2)
    low, high = (float(each) for each in (np.min(trace.low, initial=50), np.max(trace.high, initial=110)))
    rate.set_ylim(low - 3, high + 3)
    rate.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _name(rate, "heart rate\n(bpm)")
    if "steps" in axes:
        edges = np.arange(len(trace.steps)) * trace.steps_width
        axes["steps"].bar(edges, trace.steps, trace.steps_width * 0.9, align="edge", color=_STEPS, linewidth=0)
        axes["steps"].yaxis.set_major_locator(MaxNLocator(2, integer=True))
        axes["steps"].set_ylim(bottom=0)
        _name(axes["steps"], f"steps in\n{_span(trace.steps_width)}")
    lanes = axes["lanes"]
    for place, (name, bands) in enumerate(trace.lanes.items()):
        if bands is None:
            lanes.text(trace.length * 0.005, place, "not recorded", fontsize=7.5, color="#777777", va="center")
            continue
        at_least = trace.length / 900  # one pixel
        spans = [(begin, max(end - begin, at_least)) for begin, end in bands]
        lanes.broken_barh(spans, (place - 0.36, 0.72), color=_LANES.get(name, "#888888"), linewidth=0)
    _rows_named(lanes, [_words_of(name) for name in trace.lanes])


def _draw_signals(axes: dict[str, Axes], attribution: Attribution) -> None:
    for channel in range(min(len(attribution.channels), MOST_CHANNELS)):
        ax, values = axes[f"signal {channel}"], attribution.inputs[:, channel]
        edges = _edges(len(values), 2 * STRIP_COLUMNS)
        middles = (edges[:-1] + edges[1:]) / 2
        low, high = (np.array([pick(values[a:b]) for a, b in pairwise(edges)]) for pick in (np.min, np.max))
        ax.fill_between(middles, low, high, color=_SPAN, linewidth=0.6)
        ax.plot(middles, (low + high) / 2, color=_RATE, linewidth=0.9)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        _name(ax, f"{_words_of(attribution.channels[channel])}\nas the\nnetwork sees it")


def _draw_steps(
    ax: Axes, attribution: Attribution, places: npt.NDArray[np.float64], length: float, threshold: float | None
) -> None:
    """Draw the logit at each step over the middle of the inputs that it stands for, red where it calls positive."""
    steps, line = attribution.steps, threshold or 0.0
    assert steps is not None
    first = np.arange(len(steps)) * attribution.stride
    centre = places[np.minimum(first + attribution.stride // 2, len(places) - 1)]
    sums, counts = _summed(centre, steps[:, None], length, STRIP_COLUMNS)
    known = counts > 0
    time = (np.flatnonzero(known) + 0.5) * (length / STRIP_COLUMNS)
    mean = sums[known, 0] / counts[known]
    gaps = np.flatnonzero(np.diff(time) > length / 40) + 1
    time, mean = np.insert(time, gaps, np.nan), np.insert(mean, gaps, np.nan)
    for where, colour in ((mean > line, "#d6604d"), (mean < line, "#4393c3")):
        ax.fill_between(time, mean, line, where=where, color=colour, alpha=0.45, linewidth=0, interpolate=True)
    ax.plot(time, mean, color=_LOGIT, linewidth=0.9)
    ax.axhline(line, color="#777777", linewidth=0.7)
    ax.axhline(attribution.score, color="#111111", linewidth=0.9, linestyle="--")
    values = [float(each) for each in (*mean[~np.isnan(mean)], attribution.score, line)]
    low, high = min(values), max(values)
    ax.set_ylim(low - 0.08 * (high - low or 1.0), high + 0.08 * (high - low or 1.0))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    _beside(ax, [(attribution.score, f"{attribution.score:+.2f}")])
    _name(ax, "logit at\neach step;\nscore dashed")


def _draw_strips(ax: Axes, attribution: Attribution, places: npt.NDArray[np.float64], length: float) -> None:
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
    _rows_named(ax, [*names, "|gradient|"])


def _by_channel(attribution: Attribution) -> tuple[list[str], Float64[np.ndarray, "time channel"]]:
    """Return gradient × input of the channels; of many, the strongest, and the sum of the others."""
    contribution = attribution.contribution
    names = [_words_of(name) for name in attribution.channels]
    if len(names) <= MOST_CHANNELS + 1:
        return names, contribution
    strongest = np.argsort(-np.abs(contribution).sum(axis=0), kind="stable")
    kept, others = np.sort(strongest[:MOST_CHANNELS]), strongest[MOST_CHANNELS:]
    values = np.concatenate([contribution[:, kept], contribution[:, others].sum(axis=1, keepdims=True)], axis=1)
    return [*(names[i] for i in kept), f"{len(others)} others"], values


def _places(trace: WeekTrace | None, attribution: Attribution, *, hourly: bool) -> npt.NDArray[np.float64] | None:
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


def _time_grid(ax: Axes, trace: WeekTrace | None, *, bottom: bool, top: bool, name: str) -> None:
    """Draw days and nights of a calendar week, times of another, positions of a sequence from elsewhere."""
    ax.tick_params(labelbottom=False, bottom=False)
    if trace is None:
        if bottom:
            ax.tick_params(labelbottom=True, bottom=True)
            ax.set_xlabel("position in the sequence", fontsize=8)
        return
    if trace.calendar:
        ax.set_xticks([])
        for day in range(7):
            begin = day * 86_400
            if name != "strips":
                ax.axvspan(begin + _NIGHT[0] * 3600, begin + _NIGHT[1] * 3600, color="#eceef4", linewidth=0, zorder=0)
            if day:
                ax.axvline(begin, color="#9a9a9a", linewidth=0.7, zorder=1)
            if top:
                label = (trace.start + timedelta(days=day)).strftime("%a %d %b").replace(" 0", " ")
                ax.annotate(
                    label, (begin + 43_200, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
                    textcoords="offset points", ha="center", fontsize=8.5, color="#444444",
                )  # fmt: skip
        return
    step = next(each for each in _TICKS if each * 9 >= trace.length)
    zero = (trace.start - trace.start.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    ticks = np.arange(-(-zero // step) * step, zero + trace.length + 1e-9, step) - zero
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86_400 else "%d %b"
    ax.set_xticks(ticks)
    ax.grid(axis="x", color=_GRID, linewidth=0.6)
    if top:
        for tick in ticks:
            ax.annotate(
                (trace.start + timedelta(seconds=float(tick))).strftime(form), (tick, 1),
                xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points", ha="center",
                fontsize=8.5, color="#444444",
            )  # fmt: skip


def _write(figure: Figure, words: Words, attribution: Attribution | None, *, calendar: bool) -> None:
    height = figure.get_figheight() * 100
    figure.text(14 / _WIDTH, 1 - 22 / height, words.title, fontsize=11.5, fontweight="bold")
    figure.text(14 / _WIDTH, 1 - 42 / height, words.about, fontsize=8.8, color="#333333")
    if words.simulated:
        figure.text(
            1 - _RIGHT / _WIDTH, 1 - 22 / height, "simulated", fontsize=9, ha="right", color="#6b4a00",
            bbox={"facecolor": "#fff3d6", "edgecolor": "#d98a1f", "boxstyle": "round,pad=0.3", "linewidth": 0.8},
        )  # fmt: skip
    if attribution is None:
        return
    below = (
        "Strips: gradient × input of each channel, its sum on the right; red raises the score, blue lowers it, sand "
        "has no reading.\n|gradient|: most sensitive where dark."
    )
    if calendar:
        below += " Shaded: midnight to 06:00."
    if attribution.beside:
        below += f" What is no sequence, such as age, sex and BMI: {attribution.beside:+.2g}."
    figure.text(14 / _WIDTH, 8 / height, below, fontsize=7.8, color="#555555", va="bottom")


def _name(ax: Axes, text: str) -> None:
    ax.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center", labelpad=4, color="#333333")


def _beside(ax: Axes, numbers: Sequence[tuple[float, str]]) -> None:
    """Write numbers on the right of the axes, at their heights."""
    for height, text in numbers:
        ax.annotate(
            text, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8, color="#333333", annotation_clip=False,
        )  # fmt: skip


def _rows_named(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _words_of(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _edges(count: int, most: int) -> npt.NDArray[np.int64]:
    pieces = min(most, count)
    return np.arange(pieces + 1) * count // pieces
