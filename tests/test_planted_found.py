"""What is planted in simulated cohorts is found by `find_patterns` in a logistic regression's scores, and in clean ones
nothing is named; an untrained network's scores give the callback nothing to name."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_cohorts import planted_cohort
from planted_networks import trained

from heartnet.simulate.planted import PLANTED, WATCH


def test_one_planted_and_one_clean_cohort() -> None:
    planted = planted_cohort(0, (WATCH,), users=2400)
    search = planted.search()
    assert planted.found(search) == [WATCH], search.tried
    assert not planted.drawn_anew(1).search().patterns


@pytest.mark.slow
def test_each_of_all_that_are_planted_together_is_found_in_nine_of_ten() -> None:
    found = []
    for seed in range(1000, 1010):
        cohort = planted_cohort(seed, tuple(PLANTED))
        found += cohort.found(cohort.search())
    assert {name for name in PLANTED if found.count(name) >= 9} == set(PLANTED), found


@pytest.mark.slow
def test_nothing_is_named_in_nineteen_of_twenty_clean_ones() -> None:
    """Labels as simulated, and drawn anew from the scores."""
    silent = [0, 0]
    for seed in range(1000, 1020):
        cohort = planted_cohort(seed, worn_at_night=True)
        for i, it in enumerate((cohort, cohort.drawn_anew(seed))):
            silent[i] += not it.search().patterns
    assert min(silent) >= 19, silent


def test_of_few_people_with_scores_that_tell_nothing_the_callback_names_nothing(tmp_path: Path) -> None:
    it = trained(0, tmp_path, "data.users=400", "trainer.max_epochs=1", "module.learning_rate=1e-9")
    assert it["planted"] == {name: [] for name in PLANTED}
    assert it["people"] > 200


@pytest.mark.slow
def test_what_nights_without_the_watch_hide_is_named() -> None:
    """With nothing planted there is one true pattern: of who shows no sleep, sleep apnea can hardly be seen."""
    named = [pattern for seed in (1000, 1001, 1002) for pattern in planted_cohort(seed).search().patterns]
    assert len(named) >= 2
    for pattern in named:
        assert "sleep_apnea" in pattern.scope, pattern
        assert any(name in pattern.words for name in ("bedtime", "asleep", "wear hours")), pattern.words
