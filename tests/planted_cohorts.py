"""Predictions of a quick model on simulated cohorts with something planted in them, and whether it was found.

PYTHONPATH=tests python tests/planted_cohorts.py 10 20      # seeds with each planted, and clean ones; some minutes
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

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
"""Strong effects, and conditions that three of ten people have, so that some thousand people can tell."""


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


def planted_cohort(seed: int, planted: str = "", users: int = 4000) -> PlantedCohort:
    """Train a logistic regression on hourly features on half of a cohort, and predict the other half."""
    data = SimulatedData(
        Conditions(), users=users, weeks_per_user=1, cohort_seed=seed, effect_scale=EFFECT_SCALE,
        base_rates=dict.fromkeys(CONDITIONS, BASE_RATE), planted=[planted] if planted else [],
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
    """Print what is found, a line a cohort: planted ones first, then clean ones."""
    cohorts = [(name, seed) for seed in range(seeds) for name in PLANTED] + [("", seed) for seed in range(clean)]
    for name, seed in cohorts:
        it = planted_cohort(seed, name, users)
        search = it.search()
        named = "; ".join(pattern.words for pattern in search.patterns) or "nothing"
        tried = ", ".join(f"{words} ({chance:.4f})" for words, chance in search.tried)
        right = it.found(search) if name else not search.patterns
        print(f"{name or 'clean'} {seed}: {'right' if right else 'WRONG'}: {named}; tried {tried}", flush=True)


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]))
