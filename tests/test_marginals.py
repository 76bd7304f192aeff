"""The simulated population against published numbers, as the readings and the table of a drawn cohort show them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from heartnet.simulate import simulate
from heartnet.simulate.marginals import MARGINALS, marginals


def test_every_published_number_holds() -> None:
    found = marginals(simulate(users=1500, weeks_per_user=1, seed=2))
    assert found.columns == ["name", "unit", "simulated", "published", "tolerance", "holds", "source"]
    assert len(found) == len(MARGINALS) == found["name"].n_unique()
    assert found.filter(~found["holds"]).rows() == []


@pytest.mark.slow
def test_no_published_number_is_far_off_in_the_mean_of_many_cohorts() -> None:
    cohorts = [marginals(simulate(users=1500, weeks_per_user=1, seed=seed)) for seed in range(200, 208)]
    simulated = np.mean([cohort["simulated"].to_numpy() for cohort in cohorts], axis=0)
    off = np.abs(simulated - cohorts[0]["published"].to_numpy()) / cohorts[0]["tolerance"].to_numpy()
    assert [(name, each) for name, each in zip(cohorts[0]["name"], off, strict=True) if each > 0.7] == []


def test_a_cohort_unlike_the_published_one_is_seen() -> None:
    few = marginals(simulate(users=300, weeks_per_user=1, seed=2, base_rates={"diabetes": 0.5}))
    row = few.row(by_predicate=pl.col("name") == "diabetes", named=True)
    assert not row["holds"]
    assert row["simulated"] == pytest.approx(0.5, abs=0.1)


def test_steps_are_counted_over_all_seven_days() -> None:
    weeks = simulate(users=40, weeks_per_user=1, seed=6)
    daily = [np.nansum(weeks.week(index)[:, 1].astype(np.float64)) / 7 for index in range(40)]
    found = marginals(weeks)
    for name, percent in (("lower quartile", 25), ("median", 50), ("upper quartile", 75)):
        row = found.row(by_predicate=pl.col("name") == f"steps a day, {name}", named=True)
        assert row["simulated"] == pytest.approx(np.percentile(daily, percent))
