"""The network against simple models on the same test weeks: scores, differences, intervals from resampling people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.diagnostics.within_folds import auroc_within, on_one_level, one_class
from heartnet.predictions import CEILING, FOLD, NETWORK
from heartnet.resampling import Interval, Statistic, auroc, by_label, explained, intervals, merged_intervals

FEWEST = 10
"""People with a condition, and without, below which intervals do not keep what they promise: with 9 of 30 people having
it, those of a difference held the truth in 86 % of simulated cohorts, with 10 of 100 in 91 %, with 18 of 60 in 92 %."""

Floats = npt.NDArray[np.float64]
Unit = Literal["user", "week"]

LINEAR = ("metadata", "statistics", "hourly")
"""Baselines that are linear in what they see."""


@dataclass(frozen=True)
class Comparison:
    """What is known of one target. The score is AUROC for conditions, share of variance explained for synthetic ones.

    Attributes:
        target: its name.
        weeks: test weeks of which the target is known and every model has a score.
        diverged: those among them for which the network's score is NaN or infinite; if any, nothing below is known.
        by: what was resampled.
        users: how many people the weeks are of, or weeks where these are resampled.
        having, without: of a condition, how many of them have it in some week, and have it not in some week.
        network: the network's score.
        baselines: each baseline's score.
        differences: the network's score less each baseline's, on the same resampled people.
        ceiling: the score of one who sees the true traits of simulated people; None where nobody does.
        spread: of a condition, how far the network's scores of weeks lie apart (5th to 95th percentile of the logits),
            as a share of the same of the best linear baseline; None without one.
        rank: of a condition, by linear baseline, the rank correlation of its scores with the network's.
        follows: that with the baseline `metadata`, with an interval, as `heartnet.diagnostics.reliance` has it; None
            without that baseline.
        errors: of a synthetic target, by model, the mean absolute error and the root mean square error, in its unit.
        all_folds: of a condition in a cross-validation, the network's AUROC with the weeks of all folds ranked
            together; the others are within folds. None without folds.
        one_class: what has to be said where no fold has both classes, so that nothing is within folds, and all scores
            are of all folds (`heartnet.diagnostics.within_folds.one_class`); empty otherwise.
    """

    target: str
    weeks: int
    diverged: int
    by: Unit = "user"
    users: int = 0
    having: int = 0
    without: int = 0
    network: Interval = field(default_factory=lambda: Interval(math.nan, math.nan, math.nan))
    baselines: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Interval] = field(default_factory=dict)
    ceiling: float | None = None
    spread: float | None = None
    rank: Mapping[str, float] = field(default_factory=dict)
    follows: Interval | None = None
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    all_folds: float | None = None
    one_class: str = ""

    @property
    def measure(self) -> str:
        """What the score of a condition is called."""
        if self.one_class:
            return "AUROC of all folds together"
        return "AUROC" if self.all_folds is None else "AUROC within folds"

    @property
    def people(self) -> str:
        """What was resampled, in words."""
        return "people" if self.by == "user" else "weeks"


def compare(
    predictions: pl.DataFrame, kind: str, *, by: Unit = "user", draws: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Comparison]:
    """Compare the network with every other model of a predictions table, target by target.

    People are drawn with replacement, with all their weeks; for conditions as many with as without it, see
    `heartnet.resampling.by_label`.

    Args:
        predictions: as `heartnet.predictions.predictions_frame` makes them, of the network and of baselines, perhaps
            of the ceiling, perhaps of several folds. With the column `heartnet.predictions.FOLD` conditions are
            compared within folds (`heartnet.diagnostics.within_folds`), if any fold has both classes.
        kind: `"conditions"` or `"synthetic"`.
        by: what is resampled: users; or weeks, of data of one person.
        draws: resamples.
        level: of the intervals.
        seed: of the draws.
    """
    known = predictions.drop_nulls("value")
    return [
        _compare(target, part, kind, by, {"draws": draws, "level": level, "seed": seed})
        for (target,), part in known.group_by(["target"], maintain_order=True)
        if NETWORK in part["model"]
    ]


def _compare(target: object, part: pl.DataFrame, kind: str, by: Unit, options: dict[str, float]) -> Comparison:
    models = part["model"].unique(maintain_order=True).to_list()
    columns = ["week", "user_id", "value", *([FOLD] if FOLD in part.columns else [])]
    table = part.filter(pl.col("model") == NETWORK).select(*columns, pl.col("score").alias(NETWORK))
    for model in models:
        if model != NETWORK:
            other = part.filter(pl.col("model") == model).select("week", pl.col("score").alias(model))
            table = table.join(other, on="week", how="inner", maintain_order="left")
    value = table["value"].to_numpy().astype(np.float64)
    scores = {model: table[model].to_numpy().astype(np.float64) for model in models}
    diverged = int((~np.isfinite(scores[NETWORK])).sum())
    if diverged or len(table) == 0:
        return Comparison(str(target), len(table), diverged, by)
    users = table["user_id"].to_numpy().astype(str) if by == "user" else np.arange(len(table)).astype(str)
    conditions = kind == "conditions"
    names = [name for name in models if name not in (NETWORK, CEILING)]
    make = auroc if conditions else explained
    one, all_folds, said = np.ones((len(table), 1)), None, ""
    if conditions and FOLD in table.columns:
        fold = table[FOLD].to_numpy()
        all_folds = float(auroc(scores[NETWORK], value)(one)[0])
        if np.isnan(auroc_within(scores[NETWORK], value, fold)(one)).all():
            said = one_class(len(np.unique(fold)), len(np.unique(users)))
        else:
            make = partial(auroc_within, fold=fold)
            scores = {model: on_one_level(each, fold) for model, each in scores.items()}
    found = intervals(
        _together([make(scores[name], value) for name in (NETWORK, *names)]),
        users,
        by_label(users, value) if conditions else None,
        **options,  # type: ignore[arg-type]
    )
    baselines = dict(zip(names, found[1 : 1 + len(names)], strict=True))
    return Comparison(
        target=str(target),
        weeks=len(table),
        diverged=0,
        by=by,
        users=len(np.unique(users)),
        having=len(np.unique(users[value == 1])) if conditions else 0,
        without=len(np.unique(users[value == 0])) if conditions else 0,
        network=found[0],
        baselines=baselines,
        differences=dict(zip(names, found[1 + len(names) :], strict=True)),
        ceiling=float(make(scores[CEILING], value)(one)[0]) if CEILING in scores else None,
        spread=_spread(scores, baselines) if conditions else None,
        rank={
            name: _rank_correlation(scores[NETWORK], scores[name]) for name in names if name in LINEAR and conditions
        },
        follows=_follows(scores, value, users, options) if conditions and "metadata" in names else None,
        errors={} if conditions else {name: _errors(scores[name], value) for name in (NETWORK, *names)},
        all_folds=all_folds,
        one_class=said,
    )


def _together(statistics: Sequence[Statistic]) -> Statistic:
    """Return all scores, and then the first one less each other."""

    def statistic(weights: Floats) -> Floats:
        scores = np.stack([each(weights) for each in statistics])
        return np.concatenate([scores, scores[0] - scores[1:]])

    return statistic


def _spread(scores: Mapping[str, Floats], baselines: Mapping[str, Interval]) -> float | None:
    linear = [name for name in baselines if name in LINEAR and not math.isnan(baselines[name].value)]
    if not linear:
        return None
    best = max(linear, key=lambda name: baselines[name].value)
    own, other = (np.subtract(*np.percentile(logits_of(scores[name]), [95, 5])) for name in (NETWORK, best))
    return float(own / other) if other > 0 else None


def logits_of(score: npt.NDArray[np.float32 | np.float64]) -> Floats:
    """Return probabilities as logits, float64, and leave what are no probabilities as they are."""
    values: Floats = score.astype(np.float64)
    if values.min() < 0 or values.max() > 1:
        return values
    inside = np.clip(values, 1e-6, 1 - 1e-6)
    found: Floats = np.log(inside / (1 - inside))
    return found


def _rank_correlation(one: Floats, other: Floats) -> float:
    from scipy.stats import rankdata

    a, b = (rankdata(each) - (len(each) + 1) / 2 for each in (one, other))
    size = math.sqrt((a @ a) * (b @ b))
    return float(a @ b) / size if size > 0 else 0.0


def _follows(
    scores: Mapping[str, Floats], value: Floats, users: npt.NDArray[np.str_], options: dict[str, float]
) -> Interval:
    from heartnet.diagnostics.reliance import relations  # which reads this file

    arrays = (scores[NETWORK], scores["metadata"], value)
    return merged_intervals(relations, arrays, users, by_label(users, value), **options)[0]  # type: ignore[arg-type]


def _errors(score: Floats, value: Floats) -> tuple[float, float]:
    error = score - value
    return float(np.abs(error).mean()), math.sqrt(float((error**2).mean()))
