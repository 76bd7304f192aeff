"""Predictions of a quick model on simulated cohorts, with all that can be planted or nothing, and what was found.

PYTHONPATH=tests python tests/planted_cohorts.py 10 20      # planted cohorts, and clean ones; half an hour
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
from heartnet.diagnostics.loss_patterns import find_patterns
from heartnet.diagnostics.loss_patterns_found import Search
from heartnet.predictions import known_of
from heartnet.simulate.planted import EXERCISE, PLANTED, TRAVEL, WATCH, WORKOUTS
from heartnet.simulate.watches import FIRST_GENERATION
from heartnet.tasks import Conditions

USERS, EFFECT_SCALE, BASE_RATE = 8000, 3.0, 0.3
"""Strong effects, and conditions that three of ten people have, so that some thousand people can tell; with something
planted or nothing. With nothing planted such a cohort is not clean: who never wears the watch at night shows no sleep,
and sleep apnea cannot be seen there. Clean is one whose labels are drawn anew from the scores."""


@dataclass(frozen=True)
class PlantedCohort:
    """What was predicted of half of a cohort, one week a person; `touched` marks the weeks of each that was planted."""

    known: pl.DataFrame
    scores: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    touched: dict[str, npt.NDArray[np.bool_]]

    def search(self) -> Search:
        return find_patterns(self.known, CONDITIONS, self.scores, self.values, draws=100)

    def found(self, search: Search) -> list[str]:
        """Return of which some pattern has half of its weeks, and which has a third of its weeks in that pattern."""
        return [name for name, touched in self.touched.items() if self._is_found(touched, search)]

    def _is_found(self, touched: npt.NDArray[np.bool_], search: Search) -> bool:
        for pattern in search.patterns:
            inside = np.logical_and.reduce([clause.holds(self.known) for clause in pattern.clauses])
            both = (inside & touched).sum()
            if 2 * both >= inside.sum() and 3 * both >= touched.sum():
                return True
        return False

    def drawn_anew(self, seed: int) -> PlantedCohort:
        """Return the cohort with labels drawn from the scores, so that these mean the same everywhere."""
        drawn = np.random.default_rng(seed).random(self.scores.shape) < self.scores
        return replace(self, values=np.where(np.isnan(self.values), np.nan, drawn))


def planted_cohort(seed: int, planted: tuple[str, ...] = (), users: int = USERS) -> PlantedCohort:
    """Train a logistic regression on hourly features on half of a cohort, and predict the other half."""
    data = SimulatedData(
        Conditions(), users=users, weeks_per_user=1, cohort_seed=seed, effect_scale=EFFECT_SCALE,
        base_rates=dict.fromkeys(CONDITIONS, BASE_RATE), planted=list(planted), val_share=0.0, test_share=0.5,
    )  # fmt: skip
    rows = data.rows["test"]
    scores = baseline_scores(data, "hourly", rows)
    assert scores is not None
    table = data.weeks.table[rows]
    touched = {
        WATCH: table["device"].to_numpy() == FIRST_GENERATION.name,
        EXERCISE: table["true_workouts"].to_numpy() == WORKOUTS,
        TRAVEL: table["true_travel_hours"].to_numpy() != 0,
    }
    return PlantedCohort(
        known_of(data.weeks, rows), scores.astype(np.float64), data.values[rows].astype(np.float64),
        {name: touched[name] for name in planted},
    )  # fmt: skip


def report(seeds: int, clean: int) -> None:
    """Print what is found, a line a cohort: with all planted, with nothing planted, and with labels drawn anew."""
    for seed in range(seeds):
        it = planted_cohort(seed, tuple(PLANTED))
        search = it.search()
        print(f"planted {seed}: found {', '.join(it.found(search)) or 'nothing'}; {_told(search)}", flush=True)
    for seed in range(clean):
        it = planted_cohort(seed)
        print(f"nothing planted {seed}: {_told(it.search())}", flush=True)
        print(f"clean {seed}: {_told(it.drawn_anew(seed).search())}", flush=True)


def _told(search: Search) -> str:
    named = "; ".join(pattern.words for pattern in search.patterns) or "nothing"
    return f"named {named}; tried {', '.join(f'{words} ({chance:.4f})' for words, chance in search.tried) or 'nothing'}"


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]))
