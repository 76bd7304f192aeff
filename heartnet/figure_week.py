"""The picture of a week: the trace that was recorded, and under it where in the week the score came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heartnet.diagnostics.attribution import Attribution
from heartnet.figure_attribution import (
    MOST_CHANNELS,
    STRIP_COLUMNS,
    around,
    attribution_rows,
    draw_steps,
    draw_strips,
    name_panel,
    places_of,
    plain_name,
    scale,
)
from heartnet.figure_panel import Panel, pixel_figure, write
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
    figure, panels = _laid_out(rows, length, below=38 if trace is not None else 78)
    names = list(panels)
    for name, panel in panels.items():  # before their scales are known: what is drawn here goes from edge to edge
        _time_grid(panel, trace, bottom=name == names[-1], top=name == names[0], shaded=name != "strips")
    if trace is not None:
        _draw_trace(panels, trace)
    elif attribution is not None:
        _draw_signals(panels, attribution)
    if attribution is not None and places is not None:
        if attribution.steps is not None:
            draw_steps(panels["logit"], attribution, places, threshold)
        draw_strips(panels["strips"], attribution, places)
    for panel in panels.values():
        panel.frame()
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


def _laid_out(rows: Sequence[tuple[str, int]], length: float, below: int) -> tuple[Figure, dict[str, Panel]]:
    """Return a figure and its panels from top to bottom."""
    above, gap = 72, 9
    height = above + sum(size + gap for _, size in rows) + below
    figure = pixel_figure(_WIDTH, height)
    panels, at = {}, height - above
    for name, size in rows:
        at -= size
        panels[name] = Panel(figure, _LEFT, at, _WIDTH - _LEFT - _RIGHT, size, (0.0, length))
        at -= gap
    return figure, panels


def _draw_trace(panels: dict[str, Panel], trace: WeekTrace) -> None:
    rate = panels["rate"]
    low, high = (float(each) for each in (np.min(trace.low, initial=50), np.max(trace.high, initial=110)))
    rate.y = (low - 3, high + 3)
    rate.spans(trace.centre, trace.low, trace.high, color=_SPAN, linewidth=1.3)
    time, middle = (np.insert(each, trace.breaks, np.nan) for each in (trace.centre, trace.middle))
    rate.line(time, middle, color=_RATE, linewidth=1.0)
    alone = np.isnan(np.append(middle[1:], np.nan)) & np.isnan(np.append(np.nan, middle[:-1])) & ~np.isnan(middle)
    rate.line(time[alone], middle[alone], color=_RATE, linestyle="none", marker=".", markersize=2)
    scale(rate, 5, integer=True)
    name_panel(rate, "heart rate\n(bpm)")
    if "steps" in panels:
        steps = panels["steps"]
        steps.y = (0.0, float(trace.steps.max()) * 1.05)
        edges = np.minimum(np.arange(len(trace.steps) + 1) * trace.steps_width, trace.length)
        bars = np.stack([edges[:-1], edges[1:], np.zeros(len(trace.steps)), trace.steps], axis=1)
        steps.boxes(bars[trace.steps > 0], _STEPS)
        scale(steps, 2, integer=True)
        name_panel(steps, f"steps in\n{_span(trace.steps_width)}")
    lanes = panels["lanes"]
    lanes.y = (len(trace.lanes) - 0.5, -0.5)
    for place, (name, bands) in enumerate(trace.lanes.items()):
        if bands is None:
            write(lanes.figure, lanes.left + 4, float(lanes.up(place)), "not recorded", fontsize=7.5, color="#777777",
                  va="center")  # fmt: skip
            continue
        at_least = trace.length / 900  # one pixel
        spans = [(begin, max(end, begin + at_least), place + 0.36, place - 0.36) for begin, end in bands]
        lanes.boxes(np.array(spans).reshape(-1, 4), _LANES.get(name, "#888888"))
    lanes.beside(range(len(trace.lanes)), [plain_name(name) for name in trace.lanes], ticks=False)


def _draw_signals(panels: dict[str, Panel], attribution: Attribution) -> None:
    for channel in range(min(len(attribution.channels), MOST_CHANNELS)):
        panel, values = panels[f"signal {channel}"], attribution.inputs[:, channel]
        edges = _edges(len(values), 2 * STRIP_COLUMNS)
        middles = (edges[:-1] + edges[1:]) / 2
        low, high = (np.array([pick(values[a:b]) for a, b in pairwise(edges)]) for pick in (np.min, np.max))
        panel.y = around(low, high)
        panel.spans(middles, low, high, color=_SPAN, linewidth=1.3)
        panel.line(middles, (low + high) / 2, color=_RATE, linewidth=0.9)
        scale(panel, 3)
        name_panel(panel, f"{plain_name(attribution.channels[channel])}\nas the\nnetwork\nsees it")


def _time_grid(panel: Panel, trace: WeekTrace | None, *, bottom: bool, top: bool, shaded: bool) -> None:
    """Draw days and nights of a calendar week, times of another, positions of a sequence from elsewhere."""
    if trace is None:
        if bottom:
            places = [each for each in MaxNLocator(9, integer=True).tick_values(*panel.x) if 0 <= each <= panel.x[1]]
            panel.below(places, [f"{each:g}" for each in places])
            middle = (panel.left + panel.right) / 2
            write(panel.figure, middle, panel.bottom - 32, "position in the sequence", fontsize=8, ha="center")
        return
    if trace.calendar:
        days = np.arange(7) * 86_400.0
        if shaded:
            nights = np.stack([days + _NIGHT[0] * 3600, days + _NIGHT[1] * 3600], axis=1)
            panel.boxes(np.append(nights, np.tile(panel.y, (7, 1)), axis=1), "#eceef4", zorder=0)
        _upright(panel, days[1:], color="#9a9a9a", linewidth=0.7)
        if top:
            dates = [(trace.start + timedelta(days=day)).strftime("%a %d %b").replace(" 0", " ") for day in range(7)]
            panel.above(days + 43_200, dates, ticks=False, fontsize=8.5)
        return
    step = next(each for each in TICKS if each * 9 >= trace.length)
    zero = (trace.start - trace.start.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    ticks = np.arange(-(-zero // step) * step, zero + trace.length + 1e-9, step) - zero
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86_400 else "%d %b"
    _upright(panel, ticks, color=_GRID, linewidth=0.6)
    if top:
        times = [(trace.start + timedelta(seconds=float(tick))).strftime(form) for tick in ticks]
        panel.above(ticks, times, ticks=False, fontsize=8.5)


def _upright(panel: Panel, places: npt.NDArray[Any], **style: Any) -> None:
    panel.spans(places, np.full(len(places), panel.y[0]), np.full(len(places), panel.y[1]), zorder=1, **style)


def _write(figure: Figure, words: Words, attribution: Attribution | None, *, calendar: bool) -> None:
    height = figure.get_figheight() * 100
    about = " ".join(words.about.splitlines())
    write(figure, 14, height - 22, words.title, fontsize=11.5, fontweight="bold")
    write(figure, 14, height - 42, about, fontsize=8.8, color="#333333")
    if words.simulated:
        write(
            figure, _WIDTH - _RIGHT, height - 22, "simulated", fontsize=9, ha="right", color="#6b4a00",
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
    write(figure, 14, 8, below, fontsize=7.8, color="#555555", va="bottom")


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _edges(count: int, most: int) -> npt.NDArray[np.int64]:
    pieces = min(most, count)
    return np.arange(pieces + 1) * count // pieces
