"""Which weeks a network gets most wrong and most right, chosen from the predictions of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.diagnostics.within_folds import from_own_level, level_of, says_the_same
from heartnet.predictions import COLUMNS, FOLD, NETWORK, scored_weeks

KINDS: Mapping[str, str] = {
    "false_positive": "has it not, but is called positive",
    "false_negative": "has it, but is not called positive",
    "true_positive": "has it, and is called positive",
    "true_negative": "has it not, and is not called positive",
}
"""Kinds of weeks, losses first, and what each means. Called positive are those with the highest scores of their
network, as many as have it (`ChosenWeeks.threshold`): of a rare condition a score of 0.02 may be among them."""

LOSSES = ("false_positive", "false_negative")

FILES = {"val": "val_wins_and_losses.csv", "test": "wins_and_losses.csv"}
"""Where a run's folder keeps the chosen weeks of all conditions."""

Floats = npt.NDArray[np.float64]

_HAS = {"false_positive": 0, "false_negative": 1, "true_positive": 1, "true_negative": 0}
_HIGH = ("false_positive", "true_positive")


@dataclass(frozen=True)
class ChosenWeeks:
    """The weeks of one condition that are furthest from their label, and those that are nearest to it.

    Attributes:
        target: the condition.
        weeks, users: with a known label and a finite score, without those left out.
        positive: of the weeks, those that have the condition.
        threshold: a week counts as called positive from this score on. It is the score at which as many weeks are
            called positive as are, so that a network that ranks well but never says more than 0.2 of a rare condition
            has true positives, too. None if all weeks have one label or one score: then nothing is right or wrong. Of a
            cross-validation it is the median of `thresholds`.
        thresholds: of a cross-validation, that of each fold's network, by the fold's name.
        not_finite: weeks whose score is NaN or infinite; they are left out.
        same: of a cross-validation, weeks of a network that gives all of its weeks one score, so that none of them is
            worst or best (`heartnet.diagnostics.within_folds.says_the_same`); they are left out, too.
        found: by kind how many weeks are of it.
        people: by kind, of how many people.
        passed_over: by kind, weeks that would have been chosen, had their person not already had enough.
        table: the chosen ones: `kind`, `rank` (1 is furthest, or nearest), `error` (|label − score|), then all of
            `heartnet.predictions.COLUMNS` and, of a cross-validation, the fold; in the order of `KINDS`.
    """

    target: str
    weeks: int
    users: int
    positive: int
    threshold: float | None
    not_finite: int
    found: Mapping[str, int]
    people: Mapping[str, int]
    passed_over: Mapping[str, int]
    table: pl.DataFrame
    thresholds: Mapping[str, float] = field(default_factory=dict)
    same: int = 0

    def threshold_of(self, row: Mapping[str, Any]) -> float | None:
        """Return the score from which on the network of a week counts as calling it positive; a row of `table`."""
        return self.thresholds.get(str(row.get(FOLD)), self.threshold)


def wins_and_losses(file: Path, target: str, *, count: int = 3, each: int = 1) -> ChosenWeeks:
    """Return the worst false positives and false negatives, and the best true positives and negatives, of a condition.

    Losses are sorted by how far the score is from the label, wins by how near. Of a file of a million weeks only label,
    score and person of one condition are held, and all else of the few weeks that are chosen.

    Of a cross-validation each week is held against the level of the network that scored it, in the spread of that
    network's logits (`heartnet.diagnostics.within_folds.from_own_level`). Else the fold whose network scores highest
    would give all false positives, and the one that scores lowest all false negatives, however well they rank.

    Args:
        file: with the columns `heartnet.predictions.COLUMNS`.
        target: which condition.
        count: weeks of each kind.
        each: weeks of one person and kind, so that one person does not fill the table.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: sort by absolute error, look at a handful in both
    directions, and then at the wins.
    """
    all_weeks = scored_weeks(file, target)
    finite = np.isfinite(all_weeks["score"])
    same = np.zeros(len(finite), dtype=bool)
    same[finite] = says_the_same(*(all_weeks[name][finite] for name in ("score", "value", "fold")))
    kept = np.flatnonzero(finite & ~same)
    user, value, score, fold = (all_weeks[name][kept] for name in ("user", "value", "score", "fold"))
    threshold, above, thresholds = _levels(file, target, score, value, fold)
    found, people, passed_over, chosen = {}, {}, {}, {}
    for kind in KINDS if threshold is not None else ():
        here = np.flatnonzero((value == _HAS[kind]) & ((above >= 0) == (kind in _HIGH)))
        order = here[np.argsort(-above[here] if kind in _HIGH else above[here], kind="stable")]
        taken, before = _first(user[order], count, each)
        found[kind], people[kind], passed_over[kind] = len(here), len(np.unique(user[here])), before
        chosen[kind] = order[taken]
    return ChosenWeeks(
        target=target,
        weeks=len(score),
        users=len(np.unique(user)),
        positive=int(value.sum()),
        threshold=threshold,
        not_finite=int((~finite).sum()),
        found=found,
        people=people,
        passed_over=passed_over,
        table=_table(file, target, {kind: kept[places] for kind, places in chosen.items()}),
        thresholds=thresholds,
        same=int(same.sum()),
    )


def _levels(
    file: Path, target: str, score: Floats, value: Floats, fold: npt.NDArray[np.int64]
) -> tuple[float | None, Floats, dict[str, float]]:
    """Return the threshold, how far above it each week is, and the thresholds of folds."""
    if not 0 < value.sum() < len(value) or score.min() == score.max():
        return None, score, {}
    if len(np.unique(fold)) == 1:
        threshold = level_of(score, value)
        return threshold, score - threshold, {}
    above, levels = from_own_level(score, value, fold)
    names = _judged(file, target).select(pl.col(FOLD).drop_nulls().unique().sort()).collect()[FOLD].to_list()
    by_name = {names[each - 1]: level for each, level in sorted(levels.items()) if each}  # 0 is of no fold
    return float(np.median(list(levels.values()))), above, by_name


def _first(user: npt.NDArray[np.int64], count: int, each: int) -> tuple[list[int], int]:
    """Return the first `count` places with at most `each` of a user, and how many were passed over for that."""
    taken: list[int] = []
    times: dict[int, int] = {}
    for place, one in enumerate(user.tolist()):
        if len(taken) == count:
            break
        if times.get(one, 0) < each:
            times[one] = times.get(one, 0) + 1
            taken.append(place)
    looked_at = taken[-1] + 1 if len(taken) == count else len(user)
    return taken, looked_at - len(taken)


def _table(file: Path, target: str, chosen: Mapping[str, npt.NDArray[np.int64]]) -> pl.DataFrame:
    """Return all that is known of the chosen weeks, whose places are those among the weeks with a known label."""
    order = pl.DataFrame(
        [(int(place), kind, rank) for kind, places in chosen.items() for rank, place in enumerate(places, start=1)],
        schema={"place": pl.UInt32, "kind": pl.String, "rank": pl.Int64},
        orient="row",
    )
    wanted = _judged(file, target).with_row_index("place").filter(pl.col("place").is_in(order["place"].implode()))
    rows = wanted.collect(engine="streaming")  # otherwise all rows of the condition would be in memory
    table = order.join(rows.with_columns(pl.col("place").cast(pl.UInt32)), on="place", maintain_order="left")
    error = (pl.col("value") - pl.col("score")).abs().alias("error")
    return table.select("kind", "rank", error, *COLUMNS, *([FOLD] if FOLD in table.columns else []))


def _judged(file: Path, target: str) -> pl.LazyFrame:
    """Return the network's weeks with a known label."""
    return pl.scan_parquet(file, glob=False).filter(
        pl.col("model") == NETWORK, pl.col("target") == target, pl.col("value").is_not_null()
    )
