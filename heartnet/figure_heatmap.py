"""Pictures of activations: units × time under what was measured, and one unit as the colour of a week's heart rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from heartnet.diagnostics.heatmap import Order, Rows, constant_rows
from heartnet.diagnostics.signals import KnownWeek, carried

WIDTH, HEIGHT = 1320, 860
"""Pixels of a heatmap."""

COLUMNS, ROWS = 1088, 512
"""Pixels of its units × time; what has more positions or units is reduced to that before it is drawn."""

MOST_NOTES = 8
_LEFT, _BOTTOM = 92, 64
_GREY, _BLACK = (0.72, 0.72, 0.72, 1.0), (0.0, 0.0, 0.0, 1.0)
_MARKS = {"asleep": "#3b5b92", "in_workout": "#d55e00"}
_OTHER_MARKS = ("#7a4fa3", "#009e73", "#b58900")
_DAYS = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")  # 1970-01-01 was a Thursday
_CADENCES = {5: "5 s", 300: "5 min", 3600: "1 h"}


def heatmap_figure(
    layer: Rows,
    week: int,
    known: KnownWeek,
    order: Order,
    *,
    step: int = 0,
    notes: Mapping[int, str] | None = None,
) -> Figure:
    """Draw units × time of one week: how far each unit is from its own median, under what was measured.

    One diverging colour scale, centred on 0, holds for all rows; it ends at the 99th percentile of |deviation|, and
    what is beyond has the colour of the end. The strip on the left shows each unit's median on the same scale, and
    marks units that are shown upside down, or read backward. Constant units are grey, values that are not finite black.

    Above, on the same axis of readings: heart rate (lowest to highest in each column), steps, seconds between readings
    on a log scale, and what is known of the moment (asleep, in a workout). Days stand at the top, readings at the
    bottom.

    A column of pixels holds `readings / 1,088` readings, and shows the one furthest from the unit's median, so that no
    short burst is lost.

    Args:
        layer: the activations.
        week: which of its weeks.
        known: what is known of that week.
        order: of the units.
        step: optimiser steps taken; stands in the picture, because TensorBoard keeps pictures at random.
        notes: what a unit stands for, by unit, written beside its row; at most `MOST_NOTES` are.
    """
    values = layer.weeks[week]
    readings = len(known)
    image, usual, limit, beyond = _colours(values, order)
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
    FigureCanvasAgg(figure)
    main = _axes(figure, _LEFT, _BOTTOM, COLUMNS, ROWS)
    main.imshow(image, extent=(0, readings, len(values), 0), aspect="auto", interpolation="nearest")
    main.set_yticks([])
    main.set_xlabel("readings", fontsize=9, labelpad=1)
    main.tick_params(labelsize=8)
    _strip(figure, layer, order, usual)
    top = _BOTTOM + ROWS + 4
    for name, colour in _mark_colours(known):
        panel = _axes(figure, _LEFT, top, COLUMNS, 13)
        _band(panel, known.marks[name], colour, readings)
        panel.set_ylabel(name.replace("_", " "), fontsize=8, rotation=0, ha="right", va="center")
        top += 15
    panels = [_cadence(figure, known, top)] if known.dt is not None else []
    top += 48 * len(panels)
    for i, (name, trace) in enumerate(list(known.traces.items())[1::-1]):
        height = 92 if name != "steps" and i == len(list(known.traces)[:2]) - 1 else 44
        panels.append(_trace(figure, name, trace, top, height))
        top += height + 4
    days = _day_ticks(known)
    for panel in (*panels, main):
        panel.set_xlim(0, readings)
        for place, _ in days:
            panel.axvline(place, color="#000000", alpha=0.25, linewidth=0.6)
    _days_axis((panels or [main])[-1], days)
    _key(figure, limit, beyond)
    _notes(main, order, notes or {})
    still = int(constant_rows(values).sum())
    figure.text(
        _LEFT / WIDTH,
        1 - 18 / HEIGHT,
        f"{layer.layer}, {_stage(layer.stage)}: {len(values):,} units × {values.shape[1]:,} positions"
        f"{f', {still:,} constant' if still else ''}   ({known.name}{', ' if known.name else ''}step {step:,})",
        fontsize=11,
    )
    return figure


def unit_figure(
    values: Float[np.ndarray, " position"], known: KnownWeek, *, title: str, signal: str = "", step: int = 0
) -> Figure:
    """Draw a week's first trace (heart rate), a row for each day, coloured by one unit's activation.

    After S. Carter, D. Ha, I. Johnson and C. Olah, "Experiments in Handwriting with a Neural Network", Distill 2016,
    which the seeds name. The scale ends at the 99th percentile of the distance from the unit's median, white there.
    Under the trace stands the signal, if it is one of the marks. Without times, rows are equal numbers of readings.

    Args:
        values: the unit's activations, of as many or fewer positions as there are readings.
        known: what is known of the week.
        title: what is shown.
        signal: the signal that the unit stands for.
        step: optimiser steps taken.
    """
    readings = len(known)
    name, trace = next(iter(known.traces.items()))
    shown = carried(np.asarray(trace, dtype=np.float64))
    here = values[np.arange(readings) * len(values) // readings]
    colour, limit, _ = _scaled(here[None] - np.median(here))
    days = known.days
    if days is None:
        unit, span = "readings", readings / 7
        rows = np.arange(readings) * 7 // readings
        x = np.arange(readings) - rows * span
    else:
        rows = np.maximum.accumulate(np.floor(days).astype(int))
        x, unit, span = (days - rows) * 24, "hours", 24.0
    count = int(rows[-1]) + 1 if rows[-1] < 14 else 14
    figure = Figure(figsize=(12.8, 0.9 + 0.95 * count), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.07, right=0.9, top=1 - 0.42 / height, bottom=0.42 / height, hspace=0.08)
    low, high = _range(shown)
    mark = known.marks.get(signal)
    for row, ax in enumerate(grid):
        at = np.flatnonzero(rows == row)
        _coloured(ax, x[at], shown[at], colour[0, at], gap=span / 48)
        if mark is not None:
            ax.fill_between(
                x[at], low - (high - low) * 0.16, low - (high - low) * 0.04, where=mark[at] == 1, step="mid",
                color=dict(_mark_colours(known)).get(signal, "#3b5b92"), linewidth=0,
            )  # fmt: skip
        ax.set_facecolor("#9a9a9a")  # white, the colour of the median, can be seen on it
        ax.tick_params(labelsize=7)
        if known.local_time is not None and days is not None:
            ax.set_ylabel(_weekday(known, row), fontsize=8)
    grid[0].set_xlim(0, span)
    grid[0].set_ylim(low - (high - low) * 0.18, high)
    grid[-1].set_xlabel(f"{unit}{' of the day' if known.local_time is not None else ''}", fontsize=9)
    label = f"; bars: {signal.replace('_', ' ')}" if mark is not None else ""
    figure.text(0.07, 1 - 0.27 / height, f"{title}   (step {step:,})", fontsize=11)
    figure.text(0.015, 0.5, f"{name.replace('_', ' ')}{label}", rotation=90, va="center", fontsize=9)
    _key(figure, limit, False, at=(0.925, 0.3, 0.014, 0.4))
    return figure


def furthest(rows: Float[np.ndarray, "unit position"], columns: int) -> Float[np.ndarray, "unit column"]:
    """Return for each column the value furthest from 0 among its positions, with its sign; NaN wins.

    Where there are fewer positions than columns, nothing is done.
    """
    positions = rows.shape[1]
    if positions <= columns:
        return rows
    edges = np.arange(columns) * positions // columns
    high, low = np.maximum.reduceat(rows, edges, axis=1), np.minimum.reduceat(rows, edges, axis=1)
    return np.where(high >= -low, high, low)


def _colours(
    values: Float[np.ndarray, "unit position"], order: Order
) -> tuple[Float[np.ndarray, "row column 4"], Float[np.ndarray, "row 4"], float, bool]:
    """Return the picture, the colours of the medians, the end of the scale, and whether something is beyond it."""
    rows = values[order.rows] * order.signs[order.rows, None].astype(np.float32)
    median = np.median(np.nan_to_num(rows), axis=1, keepdims=True)
    still = constant_rows(values)[order.rows]
    reduced = furthest(rows - median, COLUMNS)
    if len(reduced) > ROWS:
        reduced = furthest(reduced.T, ROWS).T
        places = np.arange(ROWS) * len(still) // ROWS
        still, median = np.minimum.reduceat(still, places), median[places]
    colours, limit, beyond = _scaled(reduced, quiet=still)
    colours[still] = _GREY
    usual = colormaps["RdBu_r"](np.clip(median[:, 0] / limit, -1, 1) / 2 + 0.5)
    return colours, usual, limit, beyond


def _scaled(
    rows: Float[np.ndarray, "row column"], quiet: np.ndarray | None = None
) -> tuple[Float[np.ndarray, "row column 4"], float, bool]:
    finite = np.isfinite(rows)
    moving = rows if quiet is None else rows[~quiet]
    size = np.abs(moving[np.isfinite(moving)])
    limit = float(np.quantile(size, 0.99)) if size.size else 0.0
    limit = limit if limit > 0 else float(size.max(initial=0.0)) or 1.0
    places = np.clip(np.where(finite, rows, 0.0) / limit, -1, 1) / 2 + 0.5
    colours = colormaps["RdBu_r"](places.astype(np.float32))
    colours[~finite] = _BLACK
    return colours, limit, bool((size > limit).any())


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    axes = figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.tick_params(labelsize=7, length=2, bottom=False, labelbottom=False)
    for side in axes.spines.values():
        side.set_linewidth(0.5)
    return axes


def _strip(figure: Figure, layer: Rows, order: Order, usual: Float[np.ndarray, "row 4"]) -> None:
    """Draw, left of the picture, each unit's median, whether it is upside down, and whether it reads backward."""
    count = len(usual)
    units = order.rows[np.arange(count) * len(order.rows) // count]
    columns = [np.where((order.signs[units] < 0)[:, None], _BLACK, (1.0, 1.0, 1.0, 1.0)), usual]
    names = ["turned", "median"]
    if layer.ahead < layer.units:
        columns.insert(0, np.where((units >= layer.ahead)[:, None], (0.0, 0.45, 0.7, 1.0), (1.0, 1.0, 1.0, 1.0)))
        names.insert(0, "reads back")
    width = 14 * len(columns)
    strip = _axes(figure, _LEFT - width - 4, _BOTTOM, width, ROWS)
    strip.imshow(np.stack(columns, axis=1), aspect="auto", interpolation="nearest")
    strip.set_yticks([])
    strip.tick_params(bottom=True, labelbottom=True)
    strip.set_xticks(range(len(names)), names, rotation=90, fontsize=7)


def _mark_colours(known: KnownWeek) -> list[tuple[str, str]]:
    """Return the marks that are drawn, from the lowest band up: asleep and in a workout, then others that occur."""
    there = [name for name in known.marks if name in _MARKS or (known.marks[name] == 1).any()]
    others = [name for name in there if name not in _MARKS][: len(_OTHER_MARKS)]
    return [
        *zip(others, _OTHER_MARKS, strict=False),
        *((name, colour) for name, colour in reversed(_MARKS.items()) if name in there),
    ]


def _band(panel: Axes, mark: Float64[np.ndarray, " reading"], colour: str, readings: int) -> None:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    picture = np.ones((1, readings, 4))
    picture[0, mark == 1] = red, green, blue, 1.0
    picture[0, np.isnan(mark)] = 0.88, 0.88, 0.88, 1.0
    panel.imshow(picture, extent=(0, readings, 0, 1), aspect="auto", interpolation="nearest")
    panel.set_xlim(0, readings)
    panel.set_yticks([])


def _cadence(figure: Figure, known: KnownWeek, bottom: float) -> Axes:
    assert known.dt is not None
    panel = _axes(figure, _LEFT, bottom, COLUMNS, 44)
    x, low, high = _envelope(np.maximum(carried(known.dt), 1.0))
    panel.fill_between(x, low, high, step="mid", color="#555555", linewidth=0.8)
    panel.set_yscale("log")
    panel.set_ylim(2, 40_000)
    panel.set_yticks(list(_CADENCES), list(_CADENCES.values()))
    panel.yaxis.minorticks_off()
    panel.set_ylabel("cadence", fontsize=8, rotation=0, ha="right", va="center", labelpad=30)
    return panel


def _trace(figure: Figure, name: str, values: Float64[np.ndarray, " reading"], bottom: float, height: float) -> Axes:
    panel = _axes(figure, _LEFT, bottom, COLUMNS, height)
    x, low, high = _envelope(np.nan_to_num(values) if name == "steps" else carried(values))
    if name == "steps":
        panel.fill_between(x, 0, high, step="mid", color="#009e73", linewidth=0)
    else:
        panel.fill_between(x, low, high, step="mid", color="#b2182b", linewidth=0.8)
    panel.yaxis.set_major_locator(_few())
    label = {"heart_rate": "bpm"}.get(name, name.replace("_", " "))
    panel.set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", labelpad=30)
    return panel


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, prune="both")


def _envelope(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each column of pixels the middle, the lowest and the highest value; NaN is left out by matplotlib."""
    columns = min(COLUMNS, len(values))
    edges = np.arange(columns) * len(values) // columns
    x = (edges + np.append(edges[1:], len(values))) / 2
    return x, np.fmin.reduceat(values, edges), np.fmax.reduceat(values, edges)


def _day_ticks(known: KnownWeek) -> list[tuple[float, str]]:
    """Return where days (of short records hours) begin, in readings, and their names."""
    days = known.days
    if days is None:
        return []
    days = np.maximum.accumulate(days)
    span = days[-1] - days[0]
    every = next((each for each in (1 / 24, 3 / 24, 6 / 24, 1.0, 7.0) if span / each <= 9), 28.0)
    if span < 2 / 24:
        return []
    ticks = np.arange(np.ceil(days[0] / every), np.floor(days[-1] / every) + 1) * every
    places = np.searchsorted(days, ticks)
    return [(float(p), _name(known, float(tick), every)) for p, tick in zip(places, ticks, strict=True)]


def _name(known: KnownWeek, tick: float, every: float) -> str:
    if every < 1:
        return f"{round(tick * 24) % 24:02d}:00" if known.local_time is not None else f"{tick * 24:g} h"
    return _weekday(known, round(tick)) if known.local_time is not None and every == 1 else f"day {tick:g}"


def _weekday(known: KnownWeek, day: int) -> str:
    assert known.local_time is not None
    return _DAYS[(int(known.local_time[0] // 86_400_000_000) + day) % 7]


def _days_axis(panel: Axes, days: list[tuple[float, str]]) -> None:
    if days:
        upper = panel.secondary_xaxis("top")
        upper.set_xticks([place for place, _ in days], [name for _, name in days])
        upper.tick_params(labelsize=8, colors="#444444", length=3)


def _key(figure: Figure, limit: float, beyond: bool, at: tuple[float, float, float, float] | None = None) -> None:
    left, bottom, width, height = at or ((_LEFT + COLUMNS + 84) / WIDTH, _BOTTOM / HEIGHT, 14 / WIDTH, 200 / HEIGHT)
    key = figure.add_axes((left, bottom, width, height))
    ramp = colormaps["RdBu_r"](np.linspace(1, 0, 100))[:, None]
    key.imshow(ramp, extent=(0, 1, -limit, limit), aspect="auto")
    key.set_xticks([])
    key.set_yticks([-limit, 0, limit], [f"−{limit:.2g}", "median", f"{limit:.2g}{' …' if beyond else ''}"])
    key.yaxis.tick_right()
    key.tick_params(labelsize=7.5, length=2)
    key.set_title("activation", fontsize=8)


def _notes(main: Axes, order: Order, notes: Mapping[int, str]) -> None:
    """Write beside its row what a unit stands for, so that lines do not run into one another."""
    chosen = dict(list(notes.items())[:MOST_NOTES])
    place = {int(unit): row + 0.5 for row, unit in enumerate(order.rows)}
    line = len(order.rows) * 24 / ROWS
    y = -line
    for unit in sorted(chosen, key=lambda each: place[each]):
        y = max(place[unit], y + line)
        main.annotate(
            f"{unit}: {chosen[unit]}", (1, place[unit]), (1.012, y), fontsize=7, va="center",
            xycoords=("axes fraction", "data"), textcoords=("axes fraction", "data"), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#666666", "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _stage(stage: str) -> str:
    return "its output" if stage == "output" else f"after {stage}"


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _coloured(ax: Axes, x: np.ndarray, y: np.ndarray, colour: np.ndarray, gap: float) -> None:
    """Draw a line whose pieces have the colour of their second end, broken at gaps."""
    near = np.diff(x) <= gap
    pieces = np.stack([np.stack([x[:-1], y[:-1]], axis=1), np.stack([x[1:], y[1:]], axis=1)], axis=1)[near]
    if len(pieces):
        ax.add_collection(LineCollection(list(pieces), colors=colour[1:][near], linewidths=1.6))
