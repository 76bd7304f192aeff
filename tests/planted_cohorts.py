"""Predictions of a quick model on simulated cohorts, with all that can be planted or nothing, and what was found.

PYTHONPATH=tests python tests/planted_cohorts.py 1000 10 20 5    # first seed; cohorts planted, clean, with bare wrists
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.baselines import simple_model
from heartnet.conditions import CONDITIONS
from heartnet.diagnostics.loss_patterns import find_patterns
from heartnet.diagnostics.loss_patterns_found import Pattern, Search
from heartnet.diagnostics.loss_patterns_proposals import holds, words
from heartnet.features import HOURLY_SUMMARY
from heartnet.predictions import known_of
from heartnet.simulate import people, simulate
from heartnet.simulate.literature import TRAITS
from heartnet.simulate.planted import EXERCISE, PLANTED, TRAVEL, WATCH, WORKOUTS
from heartnet.simulate.watches import FIRST_GENERATION

USERS, EFFECT_SCALE, BASE_RATE = 8000, 3.0, 0.3
"""Strong effects, and conditions that three of ten people have, so that some thousand people can tell; with something
planted or nothing."""

TRAINED_ON = 0.25
"""Share of people that the model is fitted on; the others are predicted."""

_PIECE = 800  # people simulated at a time, so that the readings of all are never in memory


@dataclass(frozen=True)
class PlantedCohort:
    """What was predicted of people, one week each; `touched` marks the weeks of each that was planted."""

    known: pl.DataFrame
    scores: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    touched: dict[str, npt.NDArray[np.bool_]]

    def search(self) -> Search:
        return find_patterns(self.known, CONDITIONS, self.scores, self.values, draws=100)

    def found(self, search: Search) -> list[str]:
        """Return of which some pattern has half of its weeks, and which has a third of its weeks in that pattern."""
        found = are_found(self.touched, self.known, [pattern.clauses for pattern in search.patterns])
        return [name for name, patterns in found.items() if patterns]

    def drawn_anew(self, seed: int) -> PlantedCohort:
        """Return the cohort with labels drawn from the scores, so that these mean the same everywhere."""
        drawn = np.random.default_rng(seed).random(self.scores.shape) < self.scores
        return replace(self, values=np.where(np.isnan(self.values), np.nan, drawn))


def planted_cohort(
    seed: int, planted: tuple[str, ...] = (), users: int = USERS, *, worn_at_night: bool = False
) -> PlantedCohort:
    """Fit a logistic regression on hourly features of a part of a cohort, and predict the others.

    Args:
        seed: no two give a person in common.
        planted: of `heartnet.simulate.planted.PLANTED`.
        users: people.
        worn_at_night: everybody wears the watch every night. As simulated a fifth never do: they show no sleep, and
            their sleep apnea cannot be seen, which is a pattern to be found. With nothing planted, this is clean.
    """
    parts = [
        _piece(1000 * seed + k, planted, min(_PIECE, users - first), worn_at_night)
        for k, first in enumerate(range(0, users, _PIECE))
    ]
    known, table = (pl.concat(each) for each in zip(*parts, strict=True))
    known = known.with_columns(pl.int_range(pl.len()).alias("week"))
    seen = known.select(pl.col(HOURLY_SUMMARY).cast(pl.Float64)).fill_null(float("nan")).to_numpy()
    values = table.select(pl.col(CONDITIONS).cast(pl.Float64)).fill_null(float("nan")).to_numpy()
    train, test = slice(round(TRAINED_ON * users)), slice(round(TRAINED_ON * users), None)
    scores = np.column_stack([_scores(seen[train], values[train, i], seen[test]) for i in range(len(CONDITIONS))])
    table = table[test]
    return PlantedCohort(known[test], scores, values[test], touched_by(table, planted))


def are_found(
    touched: Mapping[str, npt.NDArray[np.bool_]], known: pl.DataFrame, patterns: Sequence[Pattern]
) -> dict[str, list[str]]:
    """Return of each that was planted the patterns, in words, of whose weeks it touched half, and a third of its own.

    Args:
        touched: marks its weeks, by name.
        known: what is known of the weeks.
        patterns: that were named.
    """
    found: dict[str, list[str]] = {name: [] for name in touched}
    for pattern in patterns:
        inside = holds(pattern, known)
        for name, weeks in touched.items():
            both = (inside & weeks).sum()
            if 2 * both >= inside.sum() and 3 * both >= weeks.sum():
                found[name].append(words(pattern))
    return found


def touched_by(table: pl.DataFrame, planted: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Mark the weeks of a table of simulated ones that each of `planted` touched."""
    touched = {
        WATCH: table["device"].to_numpy() == FIRST_GENERATION.name,
        EXERCISE: table["true_workouts"].to_numpy() == WORKOUTS,
        TRAVEL: table["true_travel_hours"].to_numpy() != 0,
    }
    return {name: touched[name] for name in planted}


def _piece(seed: int, planted: tuple[str, ...], users: int, worn_at_night: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what is known of the weeks, and the table of them."""
    with all_nights_worn() if worn_at_night else nullcontext():
        weeks = simulate(
            users, 1, seed, effect_scale=EFFECT_SCALE, base_rates=dict.fromkeys(CONDITIONS, BASE_RATE), planted=planted
        )
    known = known_of(weeks, np.arange(users)).with_columns(pl.format("{}-{}", pl.lit(seed), "user_id").alias("user_id"))
    return known, weeks.table


def all_nights_worn() -> AbstractContextManager[object]:
    """Let all who are simulated within wear the watch every night."""
    traits = [replace(it, centre=1.0, spread=0.0) if it.name == "night_wear" else it for it in TRAITS]
    return patch.object(people, "TRAITS", tuple(traits))


def _scores(
    seen: npt.NDArray[np.float64], values: npt.NDArray[np.float64], asked: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    labelled = ~np.isnan(values)
    model = simple_model("hourly", conditions=True).fit(seen[labelled], values[labelled])
    found: npt.NDArray[np.float64] = model.predict_proba(asked)[:, 1]
    return found


def report(first: int, planted: int, clean: int, bare: int) -> None:
    """Print what is found, a line a cohort: with all planted; clean ones; and nothing planted, nights as simulated."""
    for seed in range(first, first + planted):
        it = planted_cohort(seed, tuple(PLANTED))
        search = it.search()
        print(f"planted {seed}: found {', '.join(it.found(search)) or 'nothing'}; {_told(search)}", flush=True)
    for seed in range(first, first + clean):
        it = planted_cohort(seed, worn_at_night=True)
        print(f"clean {seed}: {_told(it.search())}", flush=True)
        print(f"labels drawn anew {seed}: {_told(it.drawn_anew(seed).search())}", flush=True)
    for seed in range(first, first + bare):
        print(f"nothing planted, some bare wrists at night {seed}: {_told(planted_cohort(seed).search())}", flush=True)


def _told(search: Search) -> str:
    named = "; ".join(pattern.words for pattern in search.patterns) or "nothing"
    return f"named {named}; tried {', '.join(f'{words} ({chance:.4f})' for words, chance in search.tried) or 'nothing'}"


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]))
