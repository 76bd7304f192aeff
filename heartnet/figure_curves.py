"""The pictures of scores: ROC, precision over recall, reliability, histograms, each with its interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from heartnet.diagnostics.score_quality import Agreement, Band, Quality
from heartnet.figure_axes import name_axes

_WITH, _WITHOUT = "#d55e00", "#0072b2"  # Okabe & Ito: safe for colour blindness
_CHANCE: dict[str, Any] = {"color": "#777777", "linewidth": 1.0, "linestyle": "--"}
_SCREEN_POINTS = 4_000


def quality_figure(it: Quality, split: str, *, simulated: bool = False, step: int = 0) -> Figure:
    """Draw how good the scores of a condition are; shaded and thin lines are 95 % intervals from resampling people.

    Args:
        it: with both classes, and scores that are finite.
        split: whose weeks they are.
        simulated: whether these are; stands in the picture.
        step: optimiser steps taken; stands in the picture, because TensorBoard keeps pictures at random.
    """
    if it.roc is None or it.precision_recall is None or it.with_it is None or it.without_it is None:
        raise ValueError("there is nothing to draw of one class")
    figure, axes = _grid(2, 2)
    _roc(axes[0], it, it.roc)
    _precision_recall(axes[1], it, it.precision_recall)
    _reliability(axes[2], it)
    _histograms(axes[3], it, it.with_it, it.without_it)
    what = "simulated weeks" if simulated else "weeks"
    who = f"{it.weeks:,} {what} of {it.users:,} people, {it.having:,} with it" if it.by == "user" else (
        f"{it.weeks:,} {what}, {it.positive:,} with it, resampled one by one"
    )  # fmt: skip
    within = "" if math.isnan(it.within.value) else f"AUROC within folds {it.within}; "
    _title(figure, f"{it.target}, {split} split", f"{within}{who}   (step {step:,})")
    return figure


def agreement_figure(
    it: Agreement,
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    split: str,
    *,
    unit: str,
    simulated: bool = False,
    step: int = 0,
) -> Figure:
    """Draw predictions of a synthetic target over its values, a dot a week, and the histogram of the errors.

    Args:
        it: how near they come.
        score: predictions, in its unit.
        value: what is true, in its unit.
        split: whose weeks they are.
        unit: of the target.
        simulated: whether the weeks are.
        step: optimiser steps taken.
    """
    figure, axes = _grid(1, 2)
    every = -(-len(value) // _SCREEN_POINTS)
    low, high = float(min(score.min(), value.min())), float(max(score.max(), value.max()))
    axes[0].plot([low, high], [low, high], **_CHANCE)
    axes[0].plot(value[::every], score[::every], ".", color=_WITHOUT, markersize=4, alpha=0.5, markeredgewidth=0)
    name_axes(axes[0], "predicted over true", f"true ({unit})", f"predicted ({unit})")
    axes[1].hist(score - value, bins=30, color=_WITHOUT, alpha=0.7)
    axes[1].axvline(0, **_CHANCE)
    name_axes(axes[1], "error", f"predicted less true ({unit})", "weeks")
    what = "simulated weeks" if simulated else "weeks"
    who = f"{it.weeks:,} {what} of {it.users:,} people" if it.by == "user" else f"{it.weeks:,} {what}"
    scores = f"share of variance explained {it.r2}, mean absolute error {it.mae} {unit}"
    _title(figure, f"{it.target.replace('_', ' ')}, {split} split", f"{scores}; {who}   (step {step:,})")
    return figure


def _roc(ax: Axes, it: Quality, band: Band) -> None:
    ax.plot([0, 1], [0, 1], **_CHANCE)
    _curve(ax, band, _WITH)
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    title = f"ROC{' of all folds together' if it.folds > 1 else ''}: AUROC {it.auroc}"
    name_axes(ax, title, "false alarms: share of weeks without it", "hits: share of weeks with it")


def _precision_recall(ax: Axes, it: Quality, band: Band) -> None:
    ax.axhline(it.base_rate, **_CHANCE)
    _curve(ax, band, _WITH, steps=True)
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.02)
    ax.text(0.01, it.base_rate - 0.045, f"chance {it.base_rate:.2f}", fontsize=8, color="#555555")
    name_axes(ax, f"average precision {it.average_precision}", "recall", "precision")


def _reliability(ax: Axes, it: Quality) -> None:
    found = it.calibration
    if found is None:
        name_axes(ax, "no probabilities: no calibration", "", "")
        return
    band = found.reliability
    end = float(np.nanmax([*band.high, *band.value, *band.x]))
    end = min(max(end * 1.05, 0.05), 1.02)
    ax.plot([0, end], [0, end], **_CHANCE)
    seen = np.isfinite(band.low) & np.isfinite(band.high)
    ax.vlines(band.x[seen], band.low[seen], band.high[seen], color=_WITH, alpha=0.45, linewidth=3)
    ax.plot(band.x, band.value, "o-", color=_WITH, markersize=5, linewidth=1.2)
    ax.set_xlim(-0.01 * end, end)
    ax.set_ylim(-0.01 * end, end * 1.18)  # room for the words
    lines = [
        f"Brier {found.brier} (base rate: {found.parts.uncertainty:.3f})",
        f"error less luck {found.error}",
        f"ECE {found.parts.ece:.3f} (luck alone {found.parts.ece_of_luck:.3f})",
    ]
    ax.text(0.02, 0.98, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8, color="#333333")
    tilt = "none" if math.isnan(found.slope.value) else str(found.slope)
    bins = f"mean score of {len(band.x)} bins of equally many weeks"
    name_axes(ax, f"calibration: slope {tilt}", bins, "share that has it")


def _histograms(ax: Axes, it: Quality, with_it: Band, without_it: Band) -> None:
    for band, colour, name in ((without_it, _WITHOUT, "without it"), (with_it, _WITH, "with it")):
        ax.stairs(band.value, it.edges, color=colour, alpha=0.3, fill=True)
        ax.stairs(band.value, it.edges, color=colour, linewidth=1.4, label=name)
        seen = np.isfinite(band.low) & np.isfinite(band.high)
        aside = (it.edges[1] - it.edges[0]) * (0.12 if name == "with it" else -0.12)
        ax.vlines(band.x[seen] + aside, band.low[seen], band.high[seen], color=colour, linewidth=1.2)
    ax.set_xlim(it.edges[0], it.edges[-1])
    ax.set_ylim(0, None)
    ax.legend(fontsize=8, frameon=False, loc="upper right")
    name_axes(ax, "scores", "score", "share of weeks")


def _curve(ax: Axes, band: Band, colour: str, *, steps: bool = False) -> None:
    shade, drawn = ("pre", "steps-pre") if steps else (None, "default")
    ax.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0, step=shade)  # type: ignore[arg-type]
    ax.plot(band.x, band.value, color=colour, linewidth=1.8, drawstyle=drawn)


def _grid(rows: int, columns: int) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Return a figure laid out by hand: matplotlib's own layout draws twice."""
    width, height = 5.0 * columns, 0.75 + 3.7 * rows
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.2 / width, bottom=0.55 / height, top=1 - 0.85 / height, hspace=0.34, wspace=0.2
    )
    return figure, axes


def _title(figure: Figure, bold: str, rest: str) -> None:
    height, width = figure.get_figheight(), figure.get_figwidth()
    figure.text(0.2 / width, 1 - 0.27 / height, bold, fontsize=12, fontweight="bold")
    figure.text(0.2 / width, 1 - 0.49 / height, rest, fontsize=9.5)
