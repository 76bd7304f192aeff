"""The picture of a layer: units × time, under heart rate, steps, cadence, sleep and workouts on the same axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heartnet.diagnostics.heatmap import Order, Rows, constant_rows
from heartnet.diagnostics.signals import KnownWeek, carried

WIDTH = 1440
"""Pixels of a heatmap from left to right, with what stands around it."""

COLUMNS, ROWS = 1088, 512
"""Pixels of its units × time; what has more positions or units is reduced to that before it is drawn."""

MOST_NOTES = 8
_LEFT, _BOTTOM, _TITLE = 112, 64, 36
_RIGHT = _LEFT + COLUMNS + 60
_GREY, _BLACK, _WHITE = (184, 184, 184, 255), (0, 0, 0, 255), (255, 255, 255, 255)
_BLUE = (0, 114, 178, 255)
_SCALE = (colormaps["RdBu_r"](np.linspace(0, 1, 256)) * 255).round().astype(np.uint8)  # bytes, as numbers are slow
_MARKS = {"asleep": "#3b5b92", "in_workout": "#d55e00"}
_OTHER_MARKS = ("#7a4fa3", "#009e73", "#b58900")
_DAYS = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")  # 1970-01-01 was a Thursday
_ROOM = 0.03  # of the axis: what a day's name takes
_CADENCES = {5: "5 s", 300: "5 min", 3600: "1 h"}


def heatmap_figure(
    layer: Rows,
    week: int,
    known: KnownWeek,
    order: Order,
    *,
    step: int = 0,
    notes: Mapping[int, str] | None = None,
    above: UInt8[np.ndarray, "height width 4"] | None = None,
) -> Figure:
    """Draw units × time of one week: how far each unit is from its own median, under what was measured.

    One diverging colour scale, centred on 0, holds for all rows; it ends at the 99th percentile of |deviation|, and
    what is beyond has the colour of the end. The strip on the left shows each unit's median on the same scale, and
    marks units that are shown upside down, or read backward. Constant units have the colour of their value, hatched in
    grey; values that are not finite are black.

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
        above: `panels(known)`, if it was drawn before.
    """
    values = layer.weeks[week]
    picture, usual, limit, beyond = _colours(values, order)
    above = panels(known) if above is None else above
    top = _BOTTOM + ROWS
    figure = Figure(figsize=(WIDTH / 100, (top + len(above) + _TITLE) / 100), dpi=100)
    FigureCanvasAgg(figure)
    figure.figimage(above, 0, top, zorder=-1)
    figure.figimage(picture, _LEFT, _BOTTOM, zorder=-1)
    main = _axes(figure, _LEFT, _BOTTOM, COLUMNS, ROWS)
    main.patch.set_visible(False)
    main.set_xlim(0, len(known))
    main.set_ylim(len(values), 0)
    main.set_yticks([])
    main.set_xlabel(known.along, fontsize=9, labelpad=1)
    main.tick_params(labelsize=8, bottom=True, labelbottom=True)
    for place, _ in _day_ticks(known):
        main.axvline(place, color="#000000", alpha=0.25, linewidth=0.6)
    _strip(figure, layer, order, usual)
    _key(figure, limit, beyond, top + 12, max(len(above) - 44, 60))
    _notes(main, order, notes or {})
    still = int(constant_rows(values).sum())
    _write(
        figure,
        _LEFT,
        top + len(above) + _TITLE - 22,
        f"{layer.layer}, {_stage(layer.stage)}: {len(values):,} units × {values.shape[1]:,} positions"
        f"{f', {still:,} constant (hatched)' if still else ''}"
        f"   ({known.name}{', ' if known.name else ''}step {step:,})",
        fontsize=11,
    )
    return figure


def panels(known: KnownWeek) -> UInt8[np.ndarray, "height width 4"]:
    """Return what stands above every heatmap of a week, as pixels: to be drawn once, and used for all layers."""
    marks = mark_colours(known)
    traces = list(known.traces.items())[:2]
    heights = [44 if name == "steps" or i else 92 for i, (name, _) in enumerate(traces)]
    total = 4 + 15 * len(marks) + (48 if known.dt is not None else 0) + sum(heights) + 4 * len(heights) + 24
    figure = Figure(figsize=(WIDTH / 100, total / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    drawn: list[Axes] = []
    bottom = 4
    for name, colour in marks:
        drawn.append(_axes(figure, _LEFT, bottom, COLUMNS, 13))
        _band(drawn[-1], known.marks[name], colour)
        _label(drawn[-1], name)
        bottom += 15
    if known.dt is not None:
        drawn.append(_axes(figure, _LEFT, bottom, COLUMNS, 44))
        _cadence(drawn[-1], known.dt)
        bottom += 48
    for (name, values), height in reversed(list(zip(traces, heights, strict=True))):
        drawn.append(_axes(figure, _LEFT, bottom, COLUMNS, height))
        _trace(drawn[-1], name, values)
        bottom += height + 4
    days = _day_ticks(known)
    for panel in drawn:
        panel.set_xlim(0, len(known))
        for place, _ in days:
            panel.axvline(place, color="#000000", alpha=0.25, linewidth=0.6)
    if days:
        upper = drawn[-1].secondary_xaxis("top")
        upper.set_xticks([place for place, _ in days], [name for _, name in days])
        upper.tick_params(labelsize=8, colors="#444444", length=3)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]


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
) -> tuple[UInt8[np.ndarray, "height width 4"], UInt8[np.ndarray, "row 4"], float, bool]:
    """Return the pixels, the colours of the medians, the end of the scale, and whether something is beyond it."""
    rows = values[order.rows] * order.signs[order.rows, None].astype(np.float32)
    median = np.median(np.nan_to_num(rows), axis=1, keepdims=True)
    still = constant_rows(values)[order.rows]
    reduced = furthest(rows - median, COLUMNS)
    if len(reduced) > ROWS:
        reduced = furthest(reduced.T, ROWS).T
        places = np.arange(ROWS) * len(still) // ROWS
        still, median = np.minimum.reduceat(still, places), median[places]
    moving = reduced[~still]
    size = np.abs(moving[np.isfinite(moving)])
    limit = float(np.quantile(size, 0.99)) if size.size else 0.0
    limit = limit if limit > 0 else float(size.max(initial=0.0)) or 1.0
    if not moving.size:
        limit = float(np.abs(median[np.isfinite(median)]).max(initial=0.0)) or 1.0
    usual = _on_scale(median[:, 0], limit)
    picture = _enlarged(_on_scale(reduced, limit))
    pixel = np.flatnonzero(still[np.arange(ROWS) * len(still) // ROWS])
    picture[pixel] = usual[pixel * len(still) // ROWS][:, None]
    picture[np.ix_(pixel, np.flatnonzero(np.arange(COLUMNS) // 2 % 8 == 0))] = _GREY
    return picture, usual, limit, bool((size > limit).any())


def _on_scale(values: Float[np.ndarray, "*shape"], limit: float) -> UInt8[np.ndarray, "*shape 4"]:
    finite = np.isfinite(values)
    places = np.clip(np.where(finite, values, 0.0) * (127.5 / limit) + 128.0, 0, 255).astype(np.uint8)
    colours: np.ndarray = _SCALE[places]
    if not finite.all():
        colours[~finite] = _BLACK
    return colours


def _enlarged(picture: UInt8[np.ndarray, "row column 4"]) -> UInt8[np.ndarray, "height width 4"]:
    """Return exact pixels, which matplotlib need not resample."""
    rows = np.arange(ROWS) * picture.shape[0] // ROWS
    columns = np.arange(COLUMNS) * picture.shape[1] // COLUMNS
    large: np.ndarray = picture[:, columns][rows]
    return large


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    total = figure.get_figheight() * 100
    axes = figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))
    axes.tick_params(labelsize=7, length=2, bottom=False, labelbottom=False)
    for side in axes.spines.values():
        side.set_linewidth(0.5)
    return axes


def _strip(figure: Figure, layer: Rows, order: Order, usual: UInt8[np.ndarray, "row 4"]) -> None:
    """Draw, left of the picture, each unit's median, whether it is upside down, and whether it reads backward."""
    count = len(usual)
    units = order.rows[np.arange(count) * len(order.rows) // count]
    columns = [np.where((order.signs[units] < 0)[:, None], _BLACK, _WHITE), usual]
    names = ["turned", "median"]
    if layer.ahead < layer.units:
        columns.insert(0, np.where((units >= layer.ahead)[:, None], _BLUE, _WHITE))
        names.insert(0, "reads back")
    left = _LEFT - 14 * len(columns) - 8
    rows = np.arange(ROWS) * count // ROWS
    pixels = np.repeat(np.stack(columns, axis=1).astype(np.uint8)[rows], 14, axis=1)
    pixels[[0, -1]] = pixels[:, ::14] = pixels[:, -1] = _GREY
    figure.figimage(pixels, left, _BOTTOM, zorder=-1)
    for place, name in enumerate(names):
        _write(figure, left + 7 + 14 * place, _BOTTOM - 4, name, rotation=90, ha="center", va="top", fontsize=7)


def mark_colours(known: KnownWeek) -> list[tuple[str, str]]:
    """Return the marks that are drawn, from the lowest band up: asleep and in a workout, then others that occur."""
    there = [name for name in known.marks if name in _MARKS or (known.marks[name] == 1).any()]
    others = [name for name in there if name not in _MARKS][: len(_OTHER_MARKS)]
    return [
        *zip(others, _OTHER_MARKS, strict=False),
        *((name, colour) for name, colour in reversed(_MARKS.items()) if name in there),
    ]


def _band(panel: Axes, mark: Float64[np.ndarray, " reading"], colour: str) -> None:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    picture = np.ones((1, len(mark), 4))
    picture[0, mark == 1] = red, green, blue, 1.0
    picture[0, np.isnan(mark)] = 0.88, 0.88, 0.88, 1.0
    panel.imshow(picture, extent=(0, len(mark), 0, 1), aspect="auto", interpolation="nearest")
    panel.set_yticks([])


def _cadence(panel: Axes, dt: Float64[np.ndarray, " reading"]) -> None:
    x, low, high = _envelope(np.maximum(carried(dt), 1.0))
    panel.fill_between(x, low, high, step="mid", color="#555555", linewidth=0.8)
    panel.set_yscale("log")
    panel.set_ylim(2, 40_000)
    panel.set_yticks(list(_CADENCES), list(_CADENCES.values()))
    panel.yaxis.minorticks_off()
    _label(panel, "cadence")


def _trace(panel: Axes, name: str, values: Float64[np.ndarray, " reading"]) -> None:
    x, low, high = _envelope(np.nan_to_num(values) if name == "steps" else carried(values))
    if name == "steps":
        panel.fill_between(x, 0, high, step="mid", color="#009e73", linewidth=0)
    else:
        panel.fill_between(x, low, high, step="mid", color="#b2182b", linewidth=0.8)
    panel.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
    _label(panel, {"heart_rate": "heart rate, bpm"}.get(name, name))


def _label(panel: Axes, name: str) -> None:
    words = name.replace("_", " ").replace(", ", ",\n")
    panel.text(-42 / COLUMNS if panel.get_yticks().size else -5 / COLUMNS, 0.5, words, fontsize=8, ha="right",
               va="center", transform=panel.transAxes)  # fmt: skip


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
    if every == 1 and len(places) and places[0] > 0.04 * len(days):  # the day in which the week begins
        ticks, places = np.append(np.floor(days[0]), ticks), np.append(0, places)
    # Of days without readings, or with few, the next one's name stands there alone.
    room = np.append(np.diff(places) > _ROOM * len(days), True)[: len(places)]
    return [(float(p), _name(known, float(tick), every)) for p, tick in zip(places[room], ticks[room], strict=True)]


def _name(known: KnownWeek, tick: float, every: float) -> str:
    if every < 1:
        return f"{round(tick * 24) % 24:02d}:00" if known.local_time is not None else f"{tick * 24:g} h"
    return weekday(known, round(tick)) if known.local_time is not None and every == 1 else f"day {tick:g}"


def weekday(known: KnownWeek, day: int) -> str:
    assert known.local_time is not None
    return _DAYS[(int(known.local_time[0] // 86_400_000_000) + day) % 7]


def _key(figure: Figure, limit: float, beyond: bool, bottom: int, height: int) -> None:
    ramp = _SCALE[np.linspace(255, 0, height).astype(int)][:, None].repeat(14, axis=1)
    figure.figimage(ramp, _RIGHT, bottom)
    words = (f"−{limit:.2g}", "median", f"{limit:.2g}{' …' if beyond else ''}")
    for place, word in enumerate(words):
        _write(figure, _RIGHT + 20, bottom + place * height / 2, word, va="center", fontsize=7.5)
    _write(figure, _RIGHT + 7, bottom + height + 6, "activation", ha="center", va="bottom", fontsize=8)


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a place in pixels; an axis costs ten times as much."""
    figure.text(x / WIDTH, y / figure.get_figheight() / 100, text, **style)


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
