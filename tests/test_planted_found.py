"""What is planted in simulated cohorts is found by `find_patterns`, and in clean ones nothing is named."""

from __future__ import annotations

import pytest
from planted_cohorts import planted_cohort

from heartnet.simulate.planted import PLANTED, WATCH


def test_one_planted_and_one_clean_cohort() -> None:
    planted = planted_cohort(0, WATCH, users=1600)
    search = planted.search()
    assert planted.found(search), search.tried
    assert not planted.drawn_anew(1).search().patterns


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_one_is_found_in_nine_of_ten(name: str) -> None:
    cohorts = [planted_cohort(seed, name) for seed in range(10)]
    assert sum(each.found(each.search()) for each in cohorts) >= 9


@pytest.mark.slow
def test_nothing_is_named_in_nineteen_of_twenty_clean_ones() -> None:
    assert sum(not planted_cohort(seed, strong=False).search().patterns for seed in range(20)) >= 19


@pytest.mark.slow
def test_false_alarms_are_rare_where_scores_mean_what_they_say() -> None:
    """With the columns, the scores and their differences between groups of real cohorts; one in a hundred is due."""
    cohort = planted_cohort(0)
    assert sum(bool(cohort.drawn_anew(seed).search().patterns) for seed in range(100)) <= 4
