"""Scaling against NumPy's own means and spreads, and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.scaling import Scaling, fit_scaling, metadata_values
from heartnet.weeks import Weeks


def people(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"u{i // 2}" for i in range(count)],
            "age": pl.Series([None] * count, dtype=pl.Float64),
            "sex": pl.Series([None] * count, dtype=pl.String),
            "bmi": pl.Series([22.0] * count),
        }
    )


def test_constants_are_those_of_the_readings(make_weeks: Callable[..., Weeks]) -> None:
    weeks = make_weeks(users=9, seed=4)
    scaling = fit_scaling([weeks.week(i) for i in range(len(weeks))], weeks.table)
    values = weeks.readings.astype(np.float64)
    values[:, 1:] = np.log1p(values[:, 1:])
    np.testing.assert_allclose(scaling.mean, np.nanmean(values, axis=0), rtol=1e-6)
    np.testing.assert_allclose(scaling.std, np.nanstd(values, axis=0), rtol=1e-6)
    once = {row["user_id"]: row for row in weeks.table.iter_rows(named=True)}.values()
    number = {"female": 0.0, "male": 1.0, None: np.nan}
    each = np.array([[row["age"] or np.nan, number[row["sex"]], row["bmi"]] for row in once])
    np.testing.assert_allclose(scaling.metadata_mean, np.nanmean(each, axis=0), rtol=1e-9)
    np.testing.assert_allclose(scaling.metadata_std, np.nanstd(each, axis=0), rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), missing=st.floats(0, 0.9), size=st.integers(2, 200))
def test_readings_come_back(seed: int, missing: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    readings = np.stack([rng.uniform(30, 220, size), rng.integers(0, 2000, size), rng.uniform(0.2, 4e5, size)], axis=1)
    readings = readings.astype(np.float32)
    readings[rng.random(readings.shape) < missing] = np.nan
    scaling = fit_scaling([readings], people(1))
    scaled = scaling.apply(readings)
    assert scaled.dtype == np.float32
    back = scaled.astype(np.float64) * scaling.std + scaling.mean
    back[:, 1:] = np.expm1(back[:, 1:])
    known = ~np.isnan(readings)
    assert (scaled[~known] == 0).all()
    np.testing.assert_allclose(back[known] + 1, readings[known].astype(np.float64) + 1, rtol=1e-5)


def test_what_has_no_spread_or_no_value_keeps_spread_one() -> None:
    readings = np.array([[70, np.nan, 300], [70, np.nan, 300]], dtype=np.float32)
    scaling = fit_scaling([readings], people(1))
    assert scaling.std == (1.0, 1.0, 1.0)
    assert scaling.mean == pytest.approx((70, 0, np.log(301)))
    assert (np.abs(scaling.apply(readings)) < 1e-6).all()
    assert scaling.metadata_std == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(scaling.apply_metadata(people(2)), [[0, 0, 0, 0, 0, 1]] * 2)


def test_each_person_counts_once() -> None:
    table = pl.DataFrame({
        "user_id": ["a", "a", "a", "b"], "age": [20, 20, 20, 40], "sex": ["female"] * 3 + ["male"], "bmi": [20.0] * 4
    })  # fmt: skip
    scaling = fit_scaling([np.ones((2, 3), np.float32)] * 4, table)
    assert scaling.metadata_mean == (30.0, 0.5, 20.0)
    assert scaling.metadata_std == (10.0, 0.5, 1.0)
    np.testing.assert_allclose(scaling.apply_metadata(table)[[0, 3]], [[-1, -1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 1]])
    np.testing.assert_array_equal(metadata_values(table)[:, 1], [0, 0, 0, 1])


def test_seconds_come_back_from_what_the_network_sees() -> None:
    readings = np.array([[60, 0, np.nan], [61, 5, 5], [62, 0, 300], [63, 1, 86_400]], dtype=np.float32)
    scaling = fit_scaling([readings], people(1))
    seconds = scaling.seconds(torch.from_numpy(scaling.apply(readings))[None])
    assert torch.isnan(seconds[:, 0]).all()
    np.testing.assert_allclose(seconds[0, 1:], [5, 300, 86_400], rtol=1e-5)


def test_as_plain_values_and_back() -> None:
    scaling = fit_scaling([np.random.default_rng(0).normal(5, 1, (9, 3)).astype(np.float32)], people(1))
    assert Scaling.from_dict(scaling.as_dict()) == scaling
