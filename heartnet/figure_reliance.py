"""The picture of reliance on metadata: the talk's scatter, and what is lost with each input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from heartnet.diagnostics.ablation import Ablation
from heartnet.diagnostics.reliance import Reliance
from heartnet.figure_axes import name_axes

_WITH, _WITHOUT = "#d55e00", "#0072b2"  # Okabe & Ito: safe for colour blindness
_PERMUTED, _REMOVED = "#0072b2", "#e69f00"
_GREY = "#777777"
_MOST_PEOPLE = 1_000
_WORDS = {"sensors": "all sensors", "metadata": "all metadata", "bmi": "BMI", "missing": "mask (missing)"}


def reliance_figure(
    it: Reliance,
    score: Float[np.ndarray, " week"],
    metadata: Float[np.ndarray, " week"] | None,
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    split: str,
    *,
    ablation: Ablation | None = None,
    simulated: bool = False,
    step: int = 0,
) -> Figure:
    """Draw each week's score over the metadata model's, a line joining the weeks of a person, and the losses.

    Args:
        it: of these weeks.
        score: the network's.
        metadata: the metadata model's; None puts people side by side in the order of their mean score.
        value: 1 or 0, or the synthetic target; colours the dots of a condition.
        users: whose week each is; of more than a thousand people some are drawn.
        split: whose weeks they are.
        ablation: what is lost with each input; None draws the scatter alone.
        simulated: whether the weeks are; stands in the picture.
        step: optimiser steps taken; stands in the picture, because TensorBoard keeps pictures at random.
    """
    wide = 5.6 if ablation is None else 11.2
    figure = Figure(figsize=(wide, 5.2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 if ablation is None else 2, squeeze=False)[0]
    figure.subplots_adjust(left=0.7 / wide, right=1 - 0.25 / wide, bottom=0.11, top=0.8, wspace=0.38)
    _scatter(axes[0], it, score, metadata, value, users)
    if ablation is not None:
        _bars(axes[1], ablation)
    what = "simulated weeks" if simulated else "weeks"
    title = f"{it.target.replace('_', ' ')}, {split} split"
    figure.text(0.2 / wide, 0.945, title, fontsize=12, fontweight="bold", parse_math=False)
    figure.text(0.2 / wide, 0.9, f"{it.weeks:,} {what} of {it.users:,} people   (step {step:,})", fontsize=9.5)
    return figure


def _scatter(ax: Axes, it: Reliance, score: Any, metadata: Any, value: Any, users: Shaped[np.ndarray, " week"]) -> None:
    people, user = np.unique(users, return_inverse=True)
    x = metadata
    if metadata is None:
        means = np.bincount(user, score) / np.bincount(user)
        x = np.argsort(np.argsort(means))[user].astype(np.float64)
    chosen = user % -(-len(people) // _MOST_PEOPLE) == 0
    for each in np.unique(user[chosen]):
        mine = user == each
        if mine.sum() > 1:
            ax.vlines(x[mine].mean(), score[mine].min(), score[mine].max(), color="#999999", linewidth=0.8, zorder=1)
    size = 4.5 if chosen.sum() < 600 else 3
    style: dict[str, Any] = {"markersize": size, "alpha": 0.65, "markeredgewidth": 0, "zorder": 2}
    if it.kind == "conditions":
        for label, colour, name in ((0, _WITHOUT, "without it"), (1, _WITH, "with it")):
            these = chosen & (value == label)
            ax.plot(x[these], score[these], "o", color=colour, label=name, **style)
        ax.legend(
            fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.03, 1.025), handletextpad=0.0, ncols=2,
            columnspacing=0.6,
        )  # fmt: skip
    else:
        ax.plot(x[chosen], score[chosen], "o", color=_WITHOUT, **style)
    if metadata is None:
        name_axes(ax, "no metadata known", "people, by mean score", "network", title_size=9)
        return
    low, high = (float(each) for each in (min(x.min(), score.min()), max(x.max(), score.max())))
    ax.plot([low, high], [low, high], color=_GREY, linewidth=1.0, linestyle="--", zorder=0)
    said = "one of the two is the same for all" if math.isnan(it.rank.value) else f"rank correlation {it.rank}"
    if not math.isnan(it.given_metadata.value):
        said += f"\nwith the target, given metadata: {it.given_metadata}"
    name_axes(ax, said, "model on age, sex and BMI", "network", title_size=9)


def _bars(ax: Axes, it: Ablation) -> None:
    names = list(dict.fromkeys(each.what for each in it.parts))
    for each in it.parts:
        colour, aside = (_REMOVED, 0.18) if each.how == "removed" else (_PERMUTED, -0.18)
        place = names.index(each.what) + aside
        ax.barh(place, each.loss.value, height=0.34, color=colour, alpha=0.75)
        if math.isfinite(each.loss.low) and math.isfinite(each.loss.high):
            ax.hlines(place, each.loss.low, each.loss.high, color="#222222", linewidth=1.2)
    ax.axvline(0, color=_GREY, linewidth=1.0)
    ax.set_yticks(range(len(names)), [_WORDS.get(name, name.replace("_", " ")) for name in names], parse_math=False)
    ax.invert_yaxis()
    drawn = ((_PERMUTED, "permuted between weeks"), (_REMOVED, "removed"))
    keys = [Patch(color=colour, alpha=0.75, label=name) for colour, name in drawn]
    ax.legend(handles=keys, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.03, 0.99))
    score = "AUROC" if it.kind == "conditions" else "share of variance explained"
    name_axes(ax, f"{score} {it.whole}\n{it.weeks:,} weeks, not trained again", f"loss of {score}", "", title_size=9)
    ax.tick_params(axis="y", labelsize=9)
