"""Predictions of a quick model on simulated cohorts with something planted in them, and whether it was found.

PYTHONPATH=tests python tests/planted_cohorts.py 10 20      # seeds with each planted, and clean ones; some minutes
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.baselines import baseline_scores
from heartnet.conditions import CONDITIONS
from heartnet.datamodule import SimulatedData
from heartnet.diagnostics.loss_patterns import Search, find_patterns
from heartnet.predictions import known_of
from heartnet.simulate.planted import PLANTED
from heartnet.tasks import Conditions

EFFECT_SCALE, BASE_RATE = 3.0, 0.3
"""Strong effects, and conditions that three of ten people have, so that some thousand people can tell. A cohort like
this is not clean, even with nothing planted: who never wears the watch at night shows no sleep, and sleep apnea cannot
be seen there. Clean ones are as the literature has it; or have their labels drawn anew, from the scores."""


@dataclass(frozen=True)
class PlantedCohort:
    """What was predicted of half of a cohort, one week a person; `touched` marks the weeks that tell nothing."""

    known: pl.DataFrame
    scores: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    touched: npt.NDArray[np.bool_]

    def search(self) -> Search:
        return find_patterns(self.known, CONDITIONS, self.scores, self.values, draws=100)

    def found(self, search: Search) -> bool:
        """Return whether half of the weeks of a pattern are touched, and a third of those touched are in it."""
        for pattern in search.patterns:
            inside = np.logical_and.reduce([clause.holds(self.known) for clause in pattern.clauses])
            both = (inside & self.touched).sum()
            if 2 * both >= inside.sum() and 3 * both >= self.touched.sum():
                return True
        return False

    def drawn_anew(self, seed: int) -> PlantedCohort:
        """Return the cohort with labels drawn from the scores, so that these mean the same everywhere."""
        drawn = np.random.default_rng(seed).random(self.scores.shape) < self.scores
        return replace(self, values=np.where(np.isnan(self.values), np.nan, drawn))


def planted_cohort(seed: int, planted: str = "", users: int = 4000, *, strong: bool = True) -> PlantedCohort:
    """Train a logistic regression on hourly features on half of a cohort, and predict the other half."""
    data = SimulatedData(
        Conditions(), users=users, weeks_per_user=1, cohort_seed=seed, effect_scale=EFFECT_SCALE if strong else 1.0,
        base_rates=dict.fromkeys(CONDITIONS, BASE_RATE) if strong else None, planted=[planted] if planted else [],
        val_share=0.0, test_share=0.5,
    )  # fmt: skip
    rows = data.rows["test"]
    scores = baseline_scores(data, "hourly", rows)
    assert scores is not None
    touched = data.weeks.table["true_touched"].to_numpy()[rows] if planted else np.zeros(len(rows), dtype=bool)
    return PlantedCohort(
        known_of(data.weeks, rows), scores.astype(np.float64), data.values[rows].astype(np.float64), touched
    )


def report(seeds: int, clean: int, users: int = 4000) -> None:
    """Print what is found, a line a cohort: clean ones first, then planted ones."""
    cohorts = [("", seed) for seed in range(clean)] + [(name, seed) for seed in range(seeds) for name in PLANTED]
    for name, seed in cohorts:
        it = planted_cohort(seed, name, users, strong=bool(name))
        search = it.search()
        named = "; ".join(pattern.words for pattern in search.patterns) or "nothing"
        tried = ", ".join(f"{words} ({chance:.4f})" for words, chance in search.tried)
        right = it.found(search) if name else not search.patterns
        print(f"{name or 'clean'} {seed}: {'right' if right else 'WRONG'}: {named}; tried {tried}", flush=True)


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]))
