"""The picture of a unit: a week's heart rate, day by day, coloured by the unit's activation; and notes on units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.stats import rankdata

from heartnet.diagnostics.heatmap import Rows
from heartnet.diagnostics.signals import KnownWeek, carried
from heartnet.diagnostics.units import Meaning
from heartnet.figure_heatmap import mark_colours, weekday


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
    colour = colormaps["RdBu_r"](ranks)
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
        _coloured(ax, x[at], shown[at], colour[at], gap=span / 48)
        if mark is not None:
            ax.fill_between(
                x[at], low - (high - low) * 0.16, low - (high - low) * 0.04, where=mark[at] == 1, step="mid",
                color=dict(mark_colours(known)).get(signal, "#3b5b92"), linewidth=0,
            )  # fmt: skip
        ax.set_facecolor("#9a9a9a")  # white, the colour of the median, can be seen on it
        ax.tick_params(labelsize=7)
        if known.local_time is not None and days is not None:
            ax.set_ylabel(weekday(known, row), fontsize=8)
    grid[0].set_xlim(0, span)
    grid[0].set_xticks(np.arange(0, 25, 3) if days is not None else np.arange(0, span, 100))
    grid[0].set_ylim(low - (high - low) * 0.18, high)
    grid[-1].set_xlabel(f"{unit}{' of the day' if known.local_time is not None else ''}", fontsize=9)
    label = f"; bars: {signal.replace('_', ' ')}" if mark is not None else ""
    figure.text(0.07, 1 - 0.27 / height, f"{title}   (step {step:,})", fontsize=11)
    figure.text(0.015, 0.5, f"{name.replace('_', ' ')}{label}", rotation=90, va="center", fontsize=9)
    key = figure.add_axes((0.925, 0.3, 0.014, 0.4))
    key.imshow(colormaps["RdBu_r"](np.linspace(1, 0, 100))[:, None], extent=(0, 1, 0, 1), aspect="auto")
    key.set_xticks([])
    shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    key.set_yticks(shares, [f"{value:.2g}" for value in np.quantile(here, shares)])
    key.yaxis.tick_right()
    key.tick_params(labelsize=7.5, length=2)
    key.set_title("activation\n(by rank)", fontsize=8)
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


def _coloured(ax: Axes, x: np.ndarray, y: np.ndarray, colour: np.ndarray, gap: float) -> None:
    """Draw a line whose pieces have the colour of their second end, broken at gaps."""
    near = np.diff(x) <= gap
    pieces = np.stack([np.stack([x[:-1], y[:-1]], axis=1), np.stack([x[1:], y[1:]], axis=1)], axis=1)[near]
    if len(pieces):
        ax.add_collection(LineCollection(list(pieces), colors=colour[1:][near], linewidths=1.6))
