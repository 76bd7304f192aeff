"""The forest of patterns and strata: AUROC inside and outside, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from heartnet.diagnostics.loss_patterns_found import LossPattern
from heartnet.diagnostics.loss_patterns_groups import Group
from heartnet.resampling import Interval

_INSIDE, _OUTSIDE, _GREY = "#d55e00", "#0072b2", "#777777"  # Okabe & Ito: safe for colour blindness
_MOST_ROWS = 80


@dataclass(frozen=True)
class ForestRow:
    """A row: its name, AUROC with its interval (None is a heading), people, and whether they are too few to tell."""

    name: str
    auroc: Interval | None = None
    people: int = 0
    colour: str = _OUTSIDE
    too_few: bool = False


def pattern_rows(patterns: Sequence[LossPattern]) -> list[ForestRow]:
    """Return the rows of patterns: inside and outside for each condition, those they were found in first."""
    rows = []
    for pattern in patterns:
        rows.append(ForestRow(pattern.words))
        for each in pattern.groups:
            besides = "" if each.target in pattern.scope else " (not found in it)"
            rows.append(_row(f"{each.target}{besides}, inside", each.inside, _INSIDE))
            rows.append(_row("outside", each.outside, _OUTSIDE))
    return rows


def strata_rows(table: pl.DataFrame) -> list[ForestRow]:
    """Return the rows of a stratified table, stratum by stratum and condition by condition."""
    rows = []
    for (stratum, target), part in table.group_by(["stratum", "target"], maintain_order=True):
        rows.append(ForestRow(f"{str(stratum).replace('_', ' ')}, {target}"))
        for each in part.iter_rows(named=True):
            found = (math.nan if each[f"auroc{end}"] is None else each[f"auroc{end}"] for end in ("", "_low", "_high"))
            rows.append(ForestRow(each["group"], Interval(*found), each["people"], _OUTSIDE, each["too_few"]))
    return rows


def forest_figure(rows: Sequence[ForestRow], title: str, *, simulated: bool = False, step: int = 0) -> Figure:
    """Draw AUROC and its interval of 95 % from resampling people, a row each; grey are too few to tell.

    Args:
        rows: at most `_MOST_ROWS` are drawn; the picture says how many are not.
        title: bold.
        simulated: whether the weeks are; stands in the picture.
        step: optimiser steps taken; stands in the picture, because TensorBoard keeps pictures at random.
    """
    shown = rows[:_MOST_ROWS]
    height, width = 1.5 + 0.24 * len(shown), 9.0
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    figure.subplots_adjust(left=0.36, right=0.75, bottom=0.55 / height, top=1 - 0.8 / height)
    for y, row in enumerate(shown):
        if row.auroc is None:
            ax.text(-0.866, y, _short(row.name, 84), transform=ax.get_yaxis_transform(), ha="left", va="center",
                    fontsize=9.5, fontweight="bold", clip_on=False, parse_math=False)  # fmt: skip
            continue
        colour = _GREY if row.too_few else row.colour
        told = not math.isnan(row.auroc.value)
        if told:
            ax.plot([row.auroc.low, row.auroc.high], [y, y], color=colour, linewidth=1.6)
            ax.plot([row.auroc.value], [y], "s", color=colour, markersize=5)
        ax.text(-0.02, y, _short(row.name, 40), transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=9,
                parse_math=False)  # fmt: skip
        number = f"{row.auroc.value:.2f} ({row.auroc.low:.2f}–{row.auroc.high:.2f})" if told else "one class"
        few = ", too few" if row.too_few else ""
        ax.text(1.02, y, f"{number}   {row.people:,}{few}", transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.axvline(0.5, color=_GREY, linewidth=1.0, linestyle="--")
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_yticks([])
    low = [row.auroc.low for row in shown if row.auroc is not None and row.auroc.low == row.auroc.low]
    ax.set_xlim(max(min([*low, 0.45]) - 0.02, 0), 1.0)
    ax.set_xlabel("AUROC, with 95 % interval from resampling people", fontsize=9)
    ax.tick_params(labelsize=8.5)
    ax.text(1.02, -0.9, "AUROC   people", transform=ax.get_yaxis_transform(), fontsize=9, color=_GREY)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    figure.text(0.2 / width, 1 - 0.27 / height, title, fontsize=12, fontweight="bold")
    left_out = f"; {len(rows) - len(shown)} rows are not drawn" if len(rows) > len(shown) else ""
    about = f"{'simulated weeks' if simulated else 'weeks'}, step {step:,}{left_out}"
    figure.text(0.2 / width, 1 - 0.49 / height, about, fontsize=9.5)
    return figure


def _row(name: str, it: Group, colour: str) -> ForestRow:
    return ForestRow(name, it.auroc, it.people, colour, it.too_few)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
