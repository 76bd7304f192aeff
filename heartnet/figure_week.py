"""The picture of a week: the trace that was recorded, and under it where in the week the score came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heartnet.diagnostics.attribution import Attribution
from heartnet.figure_attribution import (
    MOST_CHANNELS,
    STRIP_COLUMNS,
    attribution_rows,
    draw_steps,
    draw_strips,
    name_axis,
    name_rows,
    places_of,
    plain_name,
)
from heartnet.page.weeks import TICKS
from heartnet.week_trace import WeekTrace

_WIDTH, _LEFT, _RIGHT = 1000, 116, 62  # pixels
_RATE, _SPAN, _STEPS = "#b3261e", "#eba29c", "#3f74b5"
_LANES = {"worn": "#9db8a4", "asleep": "#6a62c4", "in_workout": "#d98a1f", "in_af": "#a3557f"}
_NIGHT = (0, 6)  # hours, as heartnet.synthetic has it
_GRID = "#dddddd"


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
    places = None if attribution is None else places_of(trace, attribution, hourly=hourly)
    length = trace.length if trace is not None else float(len(attribution.inputs)) if attribution is not None else 1.0
    top = _signal_rows(attribution) if trace is None and attribution is not None else _trace_rows(trace)
    rows = [*top, *(attribution_rows(attribution) if attribution is not None and places is not None else [])]
    figure, axes = _laid_out(rows)
    if trace is not None:
        _draw_trace(axes, trace)
    elif attribution is not None:
        _draw_signals(axes, attribution)
    if attribution is not None and places is not None:
        if attribution.steps is not None:
            draw_steps(axes["logit"], attribution, places, length, threshold)
        draw_strips(axes["strips"], attribution, places, length)
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
    name_axis(rate, "heart rate\n(bpm)")
    if "steps" in axes:
        edges = np.arange(len(trace.steps) + 1) * trace.steps_width
        axes["steps"].stairs(trace.steps, edges, fill=True, color=_STEPS)  # bars would take half of all the time
        axes["steps"].yaxis.set_major_locator(MaxNLocator(2, integer=True))
        axes["steps"].set_ylim(bottom=0)
        name_axis(axes["steps"], f"steps in\n{_span(trace.steps_width)}")
    lanes = axes["lanes"]
    for place, (name, bands) in enumerate(trace.lanes.items()):
        if bands is None:
            lanes.text(trace.length * 0.005, place, "not recorded", fontsize=7.5, color="#777777", va="center")
            continue
        at_least = trace.length / 900  # one pixel
        spans = [(begin, max(end - begin, at_least)) for begin, end in bands]
        lanes.broken_barh(spans, (place - 0.36, 0.72), color=_LANES.get(name, "#888888"), linewidth=0)
    name_rows(lanes, [plain_name(name) for name in trace.lanes])


def _draw_signals(axes: dict[str, Axes], attribution: Attribution) -> None:
    for channel in range(min(len(attribution.channels), MOST_CHANNELS)):
        ax, values = axes[f"signal {channel}"], attribution.inputs[:, channel]
        edges = _edges(len(values), 2 * STRIP_COLUMNS)
        middles = (edges[:-1] + edges[1:]) / 2
        low, high = (np.array([pick(values[a:b]) for a, b in pairwise(edges)]) for pick in (np.min, np.max))
        ax.fill_between(middles, low, high, color=_SPAN, linewidth=0.6)
        ax.plot(middles, (low + high) / 2, color=_RATE, linewidth=0.9)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        name_axis(ax, f"{plain_name(attribution.channels[channel])}\nas the\nnetwork sees it")


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
        days, high = np.arange(7.0) * 86_400, ax.get_xaxis_transform()
        # One artist for all: each by itself costs matplotlib as much as a curve.
        if name != "strips":
            begin, end = (hour * 3600 for hour in _NIGHT)
            nights = [[(day + begin, 0), (day + begin, 1), (day + end, 1), (day + end, 0)] for day in days]
            shaded = PolyCollection(nights, transform=high, facecolor="#eceef4", linewidth=0, zorder=0)
            ax.add_collection(shaded, autolim=False)
        midnights = [[(day, 0), (day, 1)] for day in days[1:]]
        ax.add_collection(
            LineCollection(midnights, transform=high, color="#9a9a9a", linewidth=0.7, zorder=1), autolim=False
        )
        for day in range(7) if top else ():
            label = (trace.start + timedelta(days=day)).strftime("%a %d %b").replace(" 0", " ")
            ax.annotate(
                label, (days[day] + 43_200, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
                textcoords="offset points", ha="center", fontsize=8.5, color="#444444",
            )  # fmt: skip
        return
    step = next(each for each in TICKS if each * 9 >= trace.length)
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
    # As it is written: a user may be called `$x$`, which matplotlib would take for a formula.
    about = " ".join(words.about.splitlines())
    figure.text(14 / _WIDTH, 1 - 22 / height, words.title, fontsize=11.5, fontweight="bold", parse_math=False)
    figure.text(14 / _WIDTH, 1 - 42 / height, about, fontsize=8.8, color="#333333", parse_math=False)
    if words.simulated:
        figure.text(
            1 - _RIGHT / _WIDTH, 1 - 22 / height, "simulated", fontsize=9, ha="right", color="#6b4a00",
            bbox={"facecolor": "#fff3d6", "edgecolor": "#d98a1f", "boxstyle": "round,pad=0.3", "linewidth": 0.8},
        )  # fmt: skip
    if attribution is None:
        return
    below = (
        "Strips: gradient × input of each channel, its sum on the right; red raises the score, blue lowers it, sand "
        "has no reading.\nA first guess in straight lines, which need not add up to the score. "
        "|gradient|: most sensitive where dark."
    )
    if calendar:
        below += " Shaded: midnight to 06:00."
    if attribution.beside:
        below += f" Age, sex, BMI and the like: {attribution.beside:+.2g}."
    figure.text(14 / _WIDTH, 8 / height, below, fontsize=7.8, color="#555555", va="bottom")


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _edges(count: int, most: int) -> npt.NDArray[np.int64]:
    pieces = min(most, count)
    return np.arange(pieces + 1) * count // pieces
