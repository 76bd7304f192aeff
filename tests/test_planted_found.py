"""What is planted in simulated cohorts is found by `find_patterns`, and in clean ones nothing is named."""

from __future__ import annotations

import pytest
from planted_cohorts import planted_cohort

from heartnet.simulate.planted import PLANTED, WATCH


def test_one_planted_and_one_clean_cohort() -> None:
    planted = planted_cohort(0, (WATCH,), users=1600)
    search = planted.search()
    assert planted.found(search) == [WATCH], search.tried
    assert not planted.drawn_anew(1).search().patterns


@pytest.mark.slow
def test_each_of_all_that_are_planted_together_is_found_in_nine_of_ten() -> None:
    found = []
    for seed in range(10):
        cohort = planted_cohort(seed, tuple(PLANTED))
        found += cohort.found(cohort.search())
    assert {name for name in PLANTED if found.count(name) >= 9} == set(PLANTED), found


@pytest.mark.slow
def test_nothing_is_named_in_nineteen_of_twenty_clean_ones() -> None:
    """With the columns, the scores and their differences between groups of cohorts like those that are planted."""
    cohorts = [planted_cohort(seed) for seed in range(4)]
    assert sum(not cohorts[seed % 4].drawn_anew(seed).search().patterns for seed in range(20)) >= 19
