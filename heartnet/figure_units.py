"""The picture of a unit: a week's heart rate, day by day, coloured by the unit's activation; and notes on units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from heartnet.diagnostics.heatmap import Rows
from heartnet.diagnostics.signals import KnownWeek, carried
from heartnet.diagnostics.units import Meaning
from heartnet.figure_heatmap import mark_colours, weekday
from heartnet.figure_panel import Panel, line, pixel_figure, put, write

_WIDTH = 1280
_SHADES = 48  # of the line; more cannot be told apart


def best_unit_figure(
    meaning: Meaning, layers: Sequence[Rows], weeks: Sequence[KnownWeek], *, step: int = 0
) -> Figure | None:
    """Draw the best unit over the week where it is best; None if no unit is beyond chance."""
    best = meaning.best()
    if best is None or abs(meaning.effects[best]) <= meaning.chance:
        return None
    week = meaning.weeks[int(np.argmax(meaning.weekly[best] * np.sign(meaning.effects[best])))]
    layer = next(each for each in layers if each.layer == meaning.layers[best])
    unit, value = int(meaning.numbers[best]), meaning.shown(meaning.effects[best])
    name, lag = weeks[week].name, int(meaning.lags[best])
    title = (
        f"{layer.layer}, unit {unit}: {'falls' if meaning.effects[best] < 0 else 'rises'} with "
        f"{meaning.signal.replace('_', ' ')}"
        f"{f', {abs(lag)} readings ' + ('later' if lag > 0 else 'earlier') if lag else ''}: "
        f"{'AUC' if meaning.binary else 'rank correlation'} {value:.2f}{f' ({name})' if name else ''}"
    )
    return unit_figure(layer.weeks[week][unit], weeks[week], title=title, signal=meaning.signal, step=step)


def unit_figure(
    values: Float[np.ndarray, " position"], known: KnownWeek, *, title: str, signal: str = "", step: int = 0
) -> Figure:
    """Draw a week's first trace (heart rate), a row for each day, coloured by one unit's activation.

    After S. Carter, D. Ha, I. Johnson and C. Olah, "Experiments in Handwriting with a Neural Network", Distill 2016,
    which the talk and the post name. Colours are ranks, as the statistics of units are: white is the unit's median.
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
    ranks = (rankdata(here) - 0.5) / readings
    days = known.days
    if days is None:
        unit, span = "readings", readings / 7
        rows = np.arange(readings) * 7 // readings
        x = np.arange(readings) - rows * span
    else:
        rows = np.maximum.accumulate(np.floor(days).astype(int))
        x, unit, span = (days - rows) * 24, "hours", 24.0
    count = int(rows[-1]) + 1 if rows[-1] < 14 else 14
    height = round(90 + 95 * count)
    figure, (low, high) = pixel_figure(_WIDTH, height), _range(shown)
    size, bottom = (height - 84) / count, 42.0
    below = (high - low) * 0.18
    scale = low - below, high
    panels = [
        Panel(figure, 90, bottom + (count - 1 - row) * size + 4, 1062, size - 8, (0.0, span), scale)
        for row in range(count)
    ]
    heights = np.asarray(MaxNLocator(3).tick_values(low, high))
    heights = heights[(heights >= scale[0]) & (heights <= high)]
    pieces = _Pieces()
    mark = known.marks.get(signal)
    for row, panel in enumerate(panels):
        at = np.flatnonzero(rows == row)
        panel.boxes(np.array([[*panel.x, *panel.y]]), "#9a9a9a", zorder=0)  # white, of the median, can be seen on it
        pieces.add(panel, x[at], shown[at], ranks[at], gap=span / 48)
        if mark is not None:
            bars = _bands(x[at], mark[at] == 1)
            edges = np.tile([low - below * 0.9, low - below * 0.2], (len(bars), 1))
            panel.boxes(np.concatenate([bars, edges], axis=1), dict(mark_colours(known)).get(signal, "#3b5b92"))
        panel.frame("black", linewidth=0.5)
        panel.beside(heights, [f"{each:g}" for each in heights], fontsize=7)
        if known.local_time is not None and days is not None:
            write(
                figure,
                52,
                panel.bottom + size / 2,
                weekday(known, row),
                fontsize=8,
                rotation=90,
                va="center",
                ha="center",
            )
    pieces.draw(figure)
    hours = np.arange(0, 25, 3) if days is not None else np.arange(0, span, 100)
    panels[-1].below(hours, [f"{each:g}" for each in hours], fontsize=7)
    of_the_day = " of the day" if known.local_time is not None else ""
    write(figure, 621, 8, f"{unit}{of_the_day}", fontsize=9, ha="center")
    label = f"; bars: {signal.replace('_', ' ')}" if mark is not None else ""
    write(figure, 90, height - 27, f"{title}   (step {step:,})", fontsize=11)
    write(figure, 24, height / 2, f"{name.replace('_', ' ')}{label}", rotation=90, va="center", ha="center", fontsize=9)
    _key(figure, here, height)
    return figure


def notes_of(layer: str, meanings: Sequence[Meaning]) -> dict[int, str]:
    """Return what the best unit of a layer tells of each signal, where that is beyond chance; the best last wins."""
    found: dict[int, list[str]] = {}
    for each in meanings:
        units = [i for i, name in enumerate(each.layers) if name == layer and abs(each.effects[i]) > each.chance]
        if units:
            best = max(units, key=lambda i: abs(each.effects[i]))
            words = f"{each.signal.replace('_', ' ')} {each.shown(each.effects[best]):.2f}"
            found.setdefault(int(each.numbers[best]), []).append(words)
    return {unit: ", ".join(words[:2]) for unit, words in found.items()}


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bands(x: np.ndarray, there: np.ndarray) -> Float[np.ndarray, "band 2"]:
    """Return where readings in a row have a mark, up to halfway to their neighbours."""
    middle = np.concatenate([x[:1], (x[:-1] + x[1:]) / 2, x[-1:]])
    steps = np.diff(np.concatenate([[0], there.astype(int), [0]]))
    return np.stack([middle[np.flatnonzero(steps == 1)], middle[np.flatnonzero(steps == -1)]], axis=1)


class _Pieces:
    """Lines whose pieces have the colour of their second end, broken at gaps; those of a colour are drawn at once."""

    def __init__(self) -> None:
        self.ends: list[np.ndarray] = []
        self.shades: list[np.ndarray] = []

    def add(self, panel: Panel, x: np.ndarray, y: np.ndarray, ranks: np.ndarray, gap: float) -> None:
        near = (np.diff(x) <= gap) & ~np.isnan(ranks[1:])  # of a broken unit nothing is known
        across, up = panel.across(x), panel.up(y)
        ends = np.stack([across[:-1], up[:-1], across[1:], up[1:]], axis=1)[near]
        self.ends.append(ends)
        self.shades.append((ranks[1:][near] * _SHADES).astype(int))

    def draw(self, figure: Figure) -> None:
        ends, shades = np.concatenate(self.ends), np.concatenate(self.shades)
        drawn = np.unique(shades)
        for shade in drawn[
            np.argsort(np.abs(drawn - _SHADES / 2), kind="stable")
        ]:  # what is far from the median on top
            these = ends[shades == shade]
            x, y = (np.append(these[:, [i, i + 2]], np.full((len(these), 1), np.nan), axis=1) for i in (0, 1))
            line(figure, x.ravel(), y.ravel(), color=colormaps["RdBu_r"]((shade + 0.5) / _SHADES), linewidth=1.6)


def _key(figure: Figure, values: np.ndarray, height: int) -> None:
    """Draw which colour is which rank, and the values there."""
    size = round(height * 0.4)
    colours = (colormaps["RdBu_r"](np.linspace(1, 0, size)) * 255).round().astype(np.uint8)
    put(figure, colours[:, None].repeat(18, axis=1), 1184, round(height * 0.3))
    key = Panel(figure, 1184, round(height * 0.3), 18, size)
    key.frame("black", linewidth=0.5)
    shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    for share, value in zip(shares, np.quantile(values, shares), strict=True):
        write(figure, key.right + 5, float(key.up(share)), f"{value:.2g}", fontsize=7.5, va="center")
    write(figure, 1193, key.top + 8, "activation\n(by rank)", fontsize=8, ha="center")
