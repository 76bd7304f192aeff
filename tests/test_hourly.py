"""The hourly view against a plain loop over hours, at the edges of the clock, and as batches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from heartnet import hourly
from heartnet.baselines import FEATURES
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.features import HOURLY_SUMMARY, hourly_summary
from heartnet.hourly import HOURLY, HOURLY_UNITS, HOURS, hourly_features
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions
from heartnet.weeks import UNKNOWN, Weeks

MakeWeeks = Callable[..., Weeks]
EPOCH = datetime(1970, 1, 1)


def annotated(weeks: Weeks, seed: int = 0) -> Weeks:
    rng = np.random.default_rng(seed)
    draw = lambda: rng.choice(np.array([0, 1, UNKNOWN], np.uint8), len(weeks.readings))  # noqa: E731
    return replace(weeks, annotations={"asleep": draw(), "in_workout": draw(), "in_af": draw()})


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share / 100 * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def by_loop(weeks: Weeks, row: int) -> np.ndarray:
    """Return `[hour, feature]` in float64, hour by hour and reading by reading, by the calendar of the library."""
    span = range(weeks.offsets[row], weeks.offsets[row + 1])
    counts_steps = any(not math.isnan(weeks.readings[i, 1]) for i in span)
    at: dict[int, list[int]] = {}
    for i in span:
        moment = EPOCH + timedelta(microseconds=int(weeks.local_time[i]))
        at.setdefault(moment.weekday() * 24 + moment.hour, []).append(i)
    found = np.full((HOURS, len(HOURLY)), math.nan)
    for hour in range(HOURS):
        inside = at.get(hour, [])
        rates = [float(rate) for i in inside if not math.isnan(rate := weeks.readings[i, 0])]
        steps = [float(count) for i in inside if not math.isnan(count := weeks.readings[i, 1])]
        values: dict[str, float] = {"readings": len(rates)}
        if inside and counts_steps:
            values["steps"] = math.fsum(steps)
        if rates:
            values |= {f"percentile_{share}": percentile(rates, share) for share in (10, 25, 50, 75, 90)}
            values |= {"mean": statistics.fmean(rates), "standard_deviation": statistics.pstdev(rates)}
        for name in ("asleep", "in_workout"):
            known = [int(weeks.annotations[name][i]) for i in inside if name in weeks.annotations]
            known = [value for value in known if value != UNKNOWN]
            if known:
                values[name] = sum(known) / len(known)
        found[hour] = [values.get(name, math.nan) for name in HOURLY]
    return found


def one_week(times: list[datetime], rates: list[float], steps: list[float] | None = None) -> Weeks:
    """Return one week with the given local times."""
    count = len(times)
    readings = np.full((count, 3), np.nan, np.float32)
    readings[:, 0] = rates
    if steps is not None:
        readings[:, 1] = steps
    local = np.array(times, dtype="datetime64[us]").astype(np.int64)
    return Weeks(readings, local, np.array([0, count]), pl.DataFrame({"user_id": ["a"]}), ())


def test_order_and_units() -> None:
    assert HOURLY == (
        "steps", "percentile_10", "percentile_25", "percentile_50", "percentile_75", "percentile_90", "mean",
        "standard_deviation", "readings", "asleep", "in_workout",
    )  # fmt: skip
    assert tuple(HOURLY_UNITS) == HOURLY


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_against_a_loop(make_weeks: MakeWeeks, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(hourly, "_READINGS_AT_ONCE", at_once)
    weeks = annotated(make_weeks(users=4, weeks_each=3, longest=300, missing=0.3))
    rows = np.array([7, 2, 2, 11, 0])
    found = hourly_features(weeks, rows)
    assert found.dtype == np.float32
    assert found.shape == (5, HOURS, len(HOURLY))
    for row, values in zip(rows, found, strict=True):
        np.testing.assert_allclose(values, by_loop(weeks, row), rtol=1e-5, atol=1e-5)
    assert hourly_features(weeks, np.array([], np.int64)).shape == (0, HOURS, len(HOURLY))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
    hours=st.sampled_from([1, 30, 400]),
)
def test_any_readings_against_a_loop(seed: int, sizes: list[int], missing: float, hours: int) -> None:
    """Also before 1970, with ties, a clock that jumps back, all missing, and runs longer than a week."""
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    readings = rng.integers(40, 60, (total, 3)).astype(np.float32)
    readings[rng.random((total, 3)) < missing] = np.nan
    local = rng.integers(-(10**15), 10**15) + rng.integers(0, hours * 3_600_000_000, total)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weeks = annotated(Weeks(readings, local, offsets, pl.DataFrame({"user_id": ["a"] * len(sizes)}), ()), seed)
    for row, values in enumerate(hourly_features(weeks, np.arange(len(sizes)))):
        np.testing.assert_allclose(values, by_loop(weeks, row), rtol=1e-5, atol=1e-5)


def test_hours_of_the_week_and_folded_runs() -> None:
    monday = datetime(2024, 1, 1)
    edges = [monday, monday + timedelta(hours=1, microseconds=-1), monday + timedelta(days=7, microseconds=-1)]
    counted = hourly_features(one_week(edges, [50, 60, 70]), np.array([0]))[0, :, HOURLY.index("readings")]
    assert dict(enumerate(counted.tolist())) == {hour: {0: 2, 167: 1}.get(hour, 0) for hour in range(HOURS)}
    folded = one_week([monday, monday + timedelta(days=7), monday + timedelta(days=14)], [50, 60, 70])
    assert hourly_features(folded, np.array([0]))[0, 0, HOURLY.index("mean")] == 60


def test_daylight_saving() -> None:
    """In Berlin on 2024-10-27 the clock shows 02:00 to 03:00 twice; on 2024-03-31 never."""
    every_minute = pl.datetime_range(datetime(2024, 10, 26, 22), datetime(2024, 10, 27, 6), "1m", eager=True)
    for start, expected in ((datetime(2024, 10, 26, 22), 121), (datetime(2024, 3, 30, 22), 0)):
        times = every_minute - every_minute[0] + start
        local = times.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
        weeks = one_week(local.dt.replace_time_zone(None).to_list(), [60.0] * len(times))
        readings = hourly_features(weeks, np.array([0]))[0, :, HOURLY.index("readings")]
        sunday = 6 * 24
        assert readings[sunday + 2] == pytest.approx(expected, abs=1)
        assert readings[sunday + 4] == 60
        assert readings.sum() == len(times)


def test_no_step_count_is_no_step_where_the_watch_was_worn() -> None:
    nine, ten, eleven = (datetime(2024, 1, 1, hour) for hour in (9, 10, 11))
    steps = HOURLY.index("steps")
    found = hourly_features(one_week([nine, nine, ten], [60, 61, 62], [100, 20, math.nan]), np.array([0]))[0]
    assert found[9:12, steps].tolist()[:2] == [120, 0]
    assert math.isnan(found[11, steps])
    without = hourly_features(one_week([nine, ten, eleven], [60, 61, 62]), np.array([0]))[0]
    assert np.isnan(without[:, steps]).all()
    assert np.isnan(without[:, HOURLY.index("asleep")]).all()


def test_summary_against_numpy(make_weeks: MakeWeeks) -> None:
    weeks = annotated(make_weeks(users=3, longest=200))
    rows = np.array([4, 1])
    found = hourly_summary(weeks, rows)
    hours = hourly_features(weeks, rows).astype(np.float64)
    expected = np.concatenate([np.nanmean(hours, axis=1), np.nanstd(hours, axis=1)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert len(HOURLY_SUMMARY) == found.shape[1]
    plain = hourly_summary(replace(weeks, annotations={}), rows)
    missing = [name.endswith(("asleep", "in_workout")) for name in HOURLY_SUMMARY]
    assert np.isnan(plain).all(axis=0).tolist() == missing
    data = WeeksDataModule(weeks, Conditions())
    np.testing.assert_array_equal(FEATURES["hourly"](data, rows), found)


def test_a_batch_comes_back_to_natural_units(make_weeks: MakeWeeks) -> None:
    weeks = annotated(make_weeks(longest=300, missing=0.2))
    data = WeeksDataModule(weeks, Conditions(), batch_size=5, view="hourly")
    plain = WeeksDataModule(weeks, Conditions(), batch_size=5)
    assert data.channels == len(HOURLY) + 1
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        rows = batch["index"].numpy()
        assert batch["inputs"].shape == (len(rows), HOURS, data.channels)
        assert batch["lengths"].tolist() == [HOURS] * len(rows)
        expected = hourly_features(weeks, rows).astype(np.float64)
        back = batch["inputs"][..., :-1].double().numpy() * data.scaling.std + data.scaling.mean
        for name in ("steps", "readings"):
            back[..., HOURLY.index(name)] = np.expm1(back[..., HOURLY.index(name)])
        known = ~np.isnan(expected)
        np.testing.assert_allclose(back[known] + 1, expected[known] + 1, rtol=1e-4)
        assert (batch["inputs"][..., :-1].numpy()[~known] == 0).all()
        np.testing.assert_array_equal(batch["inputs"][..., -1], np.isnan(expected[..., HOURLY.index("mean")]))
        same = plain.batch(rows)
        for key in ("metadata", "targets", "index"):
            np.testing.assert_array_equal(batch[key], same[key])


def test_constants_come_from_the_training_split_only(make_weeks: MakeWeeks) -> None:
    weeks = annotated(make_weeks(missing=0.0))
    before = WeeksDataModule(weeks, Conditions(), view="hourly")
    values = before.scaling.mean[HOURLY.index("mean")], before.scaling.std[HOURLY.index("readings")]
    train = hourly_features(weeks, before.rows["train"]).astype(np.float64)
    assert values[0] == pytest.approx(np.nanmean(train[..., HOURLY.index("mean")]))
    assert values[1] == pytest.approx(np.log1p(train[..., HOURLY.index("readings")]).std())
    changed = weeks.readings.copy()
    for row in (*before.rows["val"], *before.rows["test"]):
        changed[weeks.offsets[row] : weeks.offsets[row + 1]] *= 3
    after = WeeksDataModule(replace(weeks, readings=changed), Conditions(), view="hourly")
    assert after.scaling == before.scaling
    changed[weeks.offsets[before.rows["train"][0]]] += 50
    assert WeeksDataModule(replace(weeks, readings=changed), Conditions(), view="hourly").scaling != before.scaling


def test_what_cannot_be(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks()
    with pytest.raises(HeartnetError, match=r"data.view=hurly: must be readings or hourly. Did you mean 'hourly'"):
        WeeksDataModule(weeks, Conditions(), view="hurly")  # type: ignore[arg-type]
    data = WeeksDataModule(weeks, Conditions(), view="hourly")
    about = {"kind": "conditions", "targets": ["a"], "target_mean": [0.5], "target_std": [1.0]}
    with pytest.raises(HeartnetError, match=r"augmentation is for readings, not for data\.view=hourly"):
        HeartnetModule(nn.Identity(), **about, scaling=data.scaling.as_dict(), augmentation={"gain": 0.1})
