"""The picture of one score a person: the ways beside one another, and what wear does to the scores of weeks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from heartnet.diagnostics.people_scores import PeopleScores
from heartnet.diagnostics.people_verdicts import ends
from heartnet.diagnostics.wear_reliability import WearReliability
from heartnet.figure_axes import name_axes
from heartnet.resampling import Interval

_COLOUR, _CHOSEN, _GREY = "#0072b2", "#d55e00", "#777777"  # Okabe & Ito: safe for colour blindness


def people_figure(
    it: PeopleScores, wear: WearReliability, split: str, *, simulated: bool = False, step: int = 0
) -> Figure:
    """Draw AUROC and Brier score of each way, and AUROC and spread within a person by hours worn; bars are 95 %.

    Args:
        it: with both classes.
        wear: of the same weeks.
        split: whose people they are.
        simulated: whether these are; stands in the picture.
        step: optimiser steps taken; stands in the picture, because TensorBoard keeps pictures at random.
    """
    figure = Figure(figsize=(10.0, 7.4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).ravel()
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.075, top=0.885, hspace=0.36, wspace=0.3)
    names = list(it.ways)
    colours = [_CHOSEN if name == it.taken else _COLOUR for name in names]
    ranks = [it.week, *(it.ways[name].auroc for name in names)]
    _rows(axes[0], ["single weeks", *names], ranks, [_GREY, *colours])
    name_axes(axes[0], f"one score a person (taken: {it.taken})", "AUROC", "")
    _rows(axes[1], names, [it.ways[name].brier for name in names], colours)
    name_axes(axes[1], "the same: Brier score, lower is better", "Brier score", "")
    bands = [ends(band) for band in wear.bands]
    marks = [_CHOSEN if band.worse else _COLOUR for band in wear.bands]
    _columns(axes[2], bands, [band.auroc for band in wear.bands], marks)
    name_axes(axes[2], "scores of weeks by wear", "hours worn", "AUROC")
    _columns(axes[3], bands, [band.spread for band in wear.bands], marks)
    name_axes(axes[3], "the same: how far weeks of one person lie apart", "hours worn", "standard deviation (logits)")
    what = "simulated people" if simulated else "people"
    figure.text(0.02, 0.963, f"{it.target}, {split} split", fontsize=12, fontweight="bold")
    who = f"{it.people:,} {what}, {it.having:,} with it, {it.weeks:,} weeks   (step {step:,})"
    figure.text(0.02, 0.932, who, fontsize=9.5)
    return figure


def _rows(ax: Axes, names: Sequence[str], found: Sequence[Interval], colours: Sequence[str]) -> None:
    for place, (it, colour) in enumerate(zip(found, colours, strict=True)):
        if math.isfinite(it.low):
            ax.plot([it.low, it.high], [place, place], color=colour, linewidth=3, alpha=0.45)
        ax.plot([it.value], [place], "o", color=colour, markersize=6)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _columns(ax: Axes, names: Sequence[str], found: Sequence[Interval], colours: Sequence[str]) -> None:
    if not any(math.isfinite(it.value) for it in found):
        ax.text(0.5, 0.5, "too few weeks, or wear hardly differs", ha="center", va="center", transform=ax.transAxes)
        ax.set_yticks([])
    for place, (it, colour) in enumerate(zip(found, colours, strict=True)):
        if math.isfinite(it.low):
            ax.plot([place, place], [it.low, it.high], color=colour, linewidth=3, alpha=0.45)
        ax.plot([place], [it.value], "o", color=colour, markersize=6)
    ax.set_xticks(np.arange(len(names)), names)
    ax.set_xlim(-0.5, max(len(names), 1) - 0.5)
