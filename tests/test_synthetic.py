"""Synthetic targets against plain loops, hand-made weeks, the truth of the simulation and real recordings."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.cli import main as heartnet
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.model import DeepHeart
from heartnet.model.clock import day_angles
from heartnet.module import HeartnetModule
from heartnet.simulate import simulate
from heartnet.store import open_store
from heartnet.synthetic import TARGETS, synthetic_targets, week_of
from heartnet.tasks import Synthetic
from heartnet.weeks import UNKNOWN, Weeks

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ALL = tuple(TARGETS)
EPOCH = datetime(1970, 1, 1)


class Readings:
    """The readings of one week as plain lists, and every target as a plain loop over them."""

    def __init__(self, weeks: Weeks, index: int) -> None:
        rows = slice(int(weeks.offsets[index]), int(weeks.offsets[index + 1]))
        rate, steps, dt = (weeks.readings[rows, channel].tolist() for channel in range(3))
        clock = [EPOCH + timedelta(microseconds=time) for time in weeks.local_time[rows].tolist()]
        unknown = [UNKNOWN] * len(rate)
        asleep = weeks.annotations["asleep"][rows].tolist() if "asleep" in weeks.annotations else unknown
        workout = weeks.annotations["in_workout"][rows].tolist() if "in_workout" in weeks.annotations else unknown
        seconds, now = [], 0.0
        for i, pause in enumerate(dt):
            now += 0.0 if i == 0 else 86400.0 if math.isnan(pause) else pause
            seconds.append(now)
        self.rows = list(zip(rate, steps, seconds, clock, asleep, workout, strict=True))
        self.measured = [row for row in self.rows if not math.isnan(row[0])]

    def target(self, name: str) -> float:
        if name.startswith("mean_difference"):
            return self.difference({"5_s": 5, "30_s": 30, "5_min": 300, "30_min": 1800}[name[16:]])
        return float(getattr(self, name)())

    def parts(self) -> tuple[list[float], list[float]]:
        day = [row[0] for row in self.measured if row[3].hour >= 8]
        return day, [row[0] for row in self.measured if row[3].hour < 6]

    def day_std_minus_night_std(self) -> float:
        day, night = self.parts()
        return statistics.pstdev(day) - statistics.pstdev(night) if min(len(day), len(night)) >= 30 else math.nan

    def night_minus_day_mean(self) -> float:
        day, night = self.parts()
        return statistics.fmean(night) - statistics.fmean(day) if min(len(day), len(night)) >= 30 else math.nan

    def total_steps(self) -> float:
        counts = [row[1] for row in self.rows if not math.isnan(row[1])]
        return sum(counts) if counts else math.nan

    def resting_rate(self) -> float:
        if math.isnan(self.total_steps()):
            return math.nan
        rates, walked, before = [], -math.inf, 0.0
        for rate, steps, now, clock, _, _ in self.rows:
            walked = now if steps > 0 else walked
            if not math.isnan(rate):
                if now - walked > 720 and clock.hour >= 8:
                    rates.append((rate, min(now - before, 1800.0)))
                before = now
        if len(rates) < 30:
            return math.nan
        half, sofar = sum(weight for _, weight in rates) / 2, 0.0
        for rate, weight in sorted(rates, key=lambda each: each[0]):
            sofar += weight
            if sofar >= half:
                return rate
        raise AssertionError

    def hours_asleep(self) -> float:
        if not any(row[4] == 1 for row in self.rows):
            return math.nan
        total = 0.0
        for one, other in zip(self.rows, self.rows[1:], strict=False):
            if other[2] - one[2] <= 1800:
                total += (other[2] - one[2]) * ((one[4] == 1) + (other[4] == 1)) / 2
        return total / 3600

    def mean(self, after: float, until: float) -> float:
        rates = [row[0] for row in self.measured if after < row[2] <= until]
        return statistics.fmean(rates) if rates else math.nan

    def fall(self, end: float) -> float:
        return self.mean(end - 15, end) - self.mean(end + 50, end + 70)

    def heart_rate_recovery(self) -> float:
        falls = []
        if all(row[5] == UNKNOWN for row in self.rows):
            if len(self.measured) < 30:
                return math.nan
            usual = statistics.median(row[0] for row in self.measured)
            bout: list[float] = []
            for i, (_, _, now, *_) in enumerate(self.measured):
                hard = self.mean(now - 60, now) >= usual + 25
                joined = bool(bout) and now - self.measured[i - 1][2] <= 30
                if bout and not (hard and joined):
                    falls.append(self.largest_fall(bout))
                    bout = []
                if hard:
                    bout.append(now)
            if bout:
                falls.append(self.largest_fall(bout))
        else:
            for row, following in zip(self.rows, [*self.rows[1:], None], strict=True):
                if row[5] == 1 and (following is None or following[5] != 1):
                    falls.append(self.fall(row[2]))
        falls = [fall for fall in falls if not math.isnan(fall)]
        return statistics.fmean(falls) if falls else math.nan

    def largest_fall(self, bout: list[float]) -> float:
        falls = [fall for fall in map(self.fall, bout) if not math.isnan(fall)]
        return max(falls) if falls and bout[-1] - bout[0] >= 300 else math.nan

    def difference(self, within: float) -> float:
        pairs = zip(self.measured, self.measured[1:], strict=False)
        found = [abs(b[0] - a[0]) for a, b in pairs if b[2] - a[2] <= within]
        return statistics.fmean(found) if len(found) >= 30 else math.nan


def check_against_loops(weeks: Weeks, index: int) -> dict[str, float]:
    """Compare all targets of a week with loops; return them."""
    rows = slice(weeks.offsets[index], weeks.offsets[index + 1])
    annotations = {name: values[rows] for name, values in weeks.annotations.items()}
    week = week_of(weeks.readings[rows], weeks.local_time[rows], annotations)
    found = {name: target.function(week) for name, target in TARGETS.items()}
    plain = Readings(weeks, index)
    for name, value in found.items():
        assert value == pytest.approx(plain.target(name), rel=1e-9, abs=1e-6, nan_ok=True), name
    return found


def one_week(
    seconds: np.ndarray,
    rate: np.ndarray | float,
    steps: np.ndarray | float = math.nan,
    local: np.ndarray | None = None,
    **annotations: np.ndarray,
) -> Weeks:
    """Return a week of one person, Monday 2024-01-01 00:00 local at second 0, unless `local` (µs) says otherwise."""
    count = len(seconds)
    readings = np.full((count, 3), np.nan, np.float32)
    readings[:, 0], readings[:, 1] = rate, steps
    readings[1:, 2] = np.diff(seconds)
    monday = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    local = monday + (np.asarray(seconds) * 1e6).astype(np.int64) if local is None else local
    table = simulate(1, 1, 0).table
    known = {name: np.asarray(values, np.uint8) for name, values in annotations.items()}
    return Weeks(readings, local, np.array([0, count]), table, (), known)


def values_of(weeks: Weeks) -> dict[str, float]:
    return dict(zip(ALL, synthetic_targets(weeks, ALL)[0].tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 400),
    pauses=st.sampled_from([(5, 6), (1, 40), (200, 1200), (1, 4000)]),
    missing=st.floats(0, 0.6),
    annotated=st.booleans(),
)
def test_against_loops(seed: int, count: int, pauses: tuple[int, int], missing: float, annotated: bool) -> None:
    rng = np.random.default_rng(seed)
    seconds = np.cumsum(rng.integers(*pauses, count)) + rng.integers(0, 86400)
    level = 70 + 50 * (rng.random(8) < 0.4)
    rate = np.repeat(level, -(-count // 8))[:count] + rng.normal(0, 5, count)
    rate[rng.random(count) < missing] = np.nan
    steps = np.where(rng.random(count) < missing, np.nan, rng.poisson(0.1, count) * 40.0)
    known = {name: rng.choice([0, 0, 1, 1, UNKNOWN], count) for name in ("asleep", "in_workout")} if annotated else {}
    check_against_loops(one_week(seconds, rate, steps, **known), 0)


def test_simulated_weeks_against_loops_and_the_truth() -> None:
    weeks = simulate(6, 1, 3)
    for index in range(2):
        found = check_against_loops(weeks, index)
        assert not math.isnan(found["total_steps"])
        check_against_loops(dataclasses.replace(weeks, annotations={}), index)

    weeks = simulate(150, 1, 4)
    values = dict(zip(ALL, synthetic_targets(weeks, ALL).T, strict=True))
    truth = {name: weeks.table[name].to_numpy() for name in weeks.table.columns if name.startswith("true_")}

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        known = ~np.isnan(one) & ~np.isnan(other)
        assert known.sum() >= 90
        return float(np.corrcoef(one[known], other[known])[0, 1])

    assert correlation(values["resting_rate"], truth["true_resting_rate"]) > 0.9
    assert correlation(values["total_steps"], truth["true_daily_steps"]) > 0.8
    assert correlation(values["night_minus_day_mean"], -truth["true_circadian_swing"]) > 0.2
    found = synthetic_targets(dataclasses.replace(weeks, annotations={}), ("heart_rate_recovery",))[:, 0]
    known = values["heart_rate_recovery"]
    assert correlation(found, known) > 0.8  # workouts found from readings, against those that the simulation knows
    assert abs(np.nanmedian(found - known)) < 2
    assert (np.isnan(found) == np.isnan(known)).mean() > 0.85


def test_the_hours_between_belong_to_neither_and_edges_to_the_day_and_the_night() -> None:
    def at(*hours: float) -> Weeks:
        seconds = np.concatenate([np.full(30, hour * 3600.0) for hour in hours])
        rates = np.tile([60.0, 80.0], 60)
        rates[:30] = np.tile([50.0, 90.0], 15)  # a spread of 20, against 10
        return one_week(np.arange(120.0), rates, local=(seconds * 1e6).astype(np.int64))

    for hours, expected in (((8, 0, 6, 7.99), 10), ((23.99, 5.99, 6, 7), 10), ((6, 8, 0, 7), 0)):
        assert values_of(at(*hours))["day_std_minus_night_std"] == pytest.approx(expected)


@pytest.mark.parametrize(("day", "night"), [(29, 100), (100, 29), (0, 100)])
def test_too_few_readings_make_it_missing(day: int, night: int) -> None:
    local = np.array([12 * 3600] * day + [3 * 3600] * night) * 1_000_000
    found = values_of(one_week(np.arange(day + night), 60.0, local=local))
    assert math.isnan(found["day_std_minus_night_std"])
    assert math.isnan(found["night_minus_day_mean"])


def test_a_week_of_nothing_has_no_target() -> None:
    for count in (0, 1, 20):
        weeks = one_week(np.arange(count) * 300.0, math.nan, asleep=np.zeros(count), in_workout=np.zeros(count))
        assert np.isnan(list(values_of(weeks).values())).all()
    assert values_of(one_week(np.arange(2.0), 60.0, 0.0))["total_steps"] == 0  # counted, and none walked


def test_recovery_is_the_fall_in_the_minute_after_the_end() -> None:
    """By hand: 150 until second 1,200, then 150 − s / 2 down to 100: 30 bpm in a minute, 29.5 to 30.5 around it."""
    seconds = np.arange(0, 3600, 5)
    rate = np.clip(150 - (seconds - 1200) / 2, 100, 150.0)
    exercise = ((seconds >= 300) & (seconds <= 1200)).astype(int)
    rate[seconds < 300] = 70
    later = np.mean([120, 122.5, 117.5, 125 - 10])  # at 1,260, 1,255, 1,265, 1,270: those of (1,250, 1,270]
    assert values_of(one_week(seconds, rate, in_workout=exercise))["heart_rate_recovery"] == pytest.approx(150 - later)
    none = values_of(one_week(seconds, rate, in_workout=np.zeros(len(rate))))
    assert math.isnan(none["heart_rate_recovery"])  # known to be no workout, whatever the rate
    rest = np.concatenate([seconds, 3600 + 300 * np.arange(1000)])
    sudden = np.where(seconds < 300, 70.0, np.where(seconds <= 1200, 150.0, 110.0))
    rates = np.concatenate([sudden, np.full(1000, 70.0)])
    assert values_of(one_week(rest, rates))["heart_rate_recovery"] == pytest.approx(40)  # nobody knows: it is found
    assert math.isnan(values_of(one_week(rest, np.full(len(rest), 70.0)))["heart_rate_recovery"])
    stopped = seconds <= 1200  # the watch came off with the workout
    cut = values_of(one_week(seconds[stopped], rate[stopped], in_workout=exercise[stopped]))
    assert math.isnan(cut["heart_rate_recovery"])


def test_hours_asleep_are_measured_and_known() -> None:
    seconds = np.arange(0, 86400, 600.0)
    asleep = (seconds < 7 * 3600).astype(int)
    assert values_of(one_week(seconds, 60.0, asleep=asleep))["hours_asleep"] == pytest.approx(7 - 300 / 3600)
    worn = seconds[(seconds < 2 * 3600) | (seconds >= 5 * 3600)]  # taken off for three hours of the night
    asleep = (worn < 7 * 3600).astype(int)
    assert values_of(one_week(worn, 60.0, asleep=asleep))["hours_asleep"] == pytest.approx(4 - 900 / 3600)
    for unknown in (np.full(len(worn), UNKNOWN), np.zeros(len(worn))):
        assert math.isnan(values_of(one_week(worn, 60.0, asleep=unknown))["hours_asleep"])
    assert math.isnan(values_of(one_week(worn, 60.0))["hours_asleep"])


def test_the_end_of_summer_time() -> None:
    """What the clock shows decides about night and day; how far apart readings are does not follow the clock."""
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime(2024, 10, 26, 22, tzinfo=UTC)  # 00:00 in Berlin; the clock goes back at 03:00
    seconds = np.arange(0, 26 * 3600, 60)
    local = [
        (start + timedelta(seconds=int(second))).astimezone(berlin).replace(tzinfo=None) - EPOCH for second in seconds
    ]
    microseconds = np.array([each // timedelta(microseconds=1) for each in local])
    assert (np.diff(microseconds) < 0).sum() == 1
    rate = np.where(seconds < 7 * 3600, 50.0, 80.0)  # seven hours from 00:00 to 06:00 that night
    rate[seconds % 120 == 0] += 2
    weeks = one_week(seconds, rate, local=microseconds, asleep=seconds < 7 * 3600)
    found = check_against_loops(weeks, 0)
    # 25 hours from midnight to midnight; the hour after that is night again.
    night = np.concatenate([rate[seconds < 7 * 3600], rate[seconds >= 25 * 3600]])
    assert found["night_minus_day_mean"] == pytest.approx(night.mean() - 81)
    assert found["hours_asleep"] == pytest.approx(7, abs=0.02)
    assert found["mean_difference_5_min"] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("folder", ["applewatch", "fitbit"])
def test_real_recordings_against_loops(folder: str, tmp_path: Path) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"the recordings of {folder} are not at {DATA}")
    words = {
        "applewatch": ("hr.csv", "steps.csv", "--time", "Start_Date+Start_Time"),
        "fitbit": (
            *("heartrate_seconds.csv.gz", "minute_steps.csv.gz", "--time", "Time", "--time", "ActivityMinute"),
            *("--user-id", "Id"),
        ),
    }[folder]
    files = [str(DATA / folder / word) if ".csv" in word else word for word in words]
    columns = ["--heart-rate", "Value", "--steps", "Steps", "--out", str(tmp_path / "weeks")]
    assert heartnet(["prepare", "table", *files, *columns]) == 0
    weeks = open_store(tmp_path / "weeks")
    found = check_against_loops(weeks, len(weeks) // 2)
    assert 40 < found["resting_rate"] < 100
    assert found["night_minus_day_mean"] < 0
    assert 10_000 < found["total_steps"] < 200_000
    assert math.isnan(found["hours_asleep"])  # these recordings say nothing of sleep
    recovery = synthetic_targets(weeks, ("heart_rate_recovery",))[:, 0]
    if folder == "applewatch":
        assert 5 < np.nanmedian(recovery) < 60


def test_all_weeks(make_weeks: Callable[..., Weeks]) -> None:
    weeks = make_weeks(users=4, weeks_each=2, shortest=80, longest=200)
    values = Synthetic(ALL).values(weeks)
    assert values.shape == (8, len(ALL))
    assert values.dtype == np.float32
    for i in range(len(weeks)):
        plain = Readings(weeks, i)
        for name, value in zip(ALL, values[i], strict=True):
            assert value == pytest.approx(plain.target(name), rel=1e-5, abs=1e-4, nan_ok=True)
    assert np.isfinite(values[:, 0]).any()
    assert Synthetic().values(weeks).shape == (8, 1)


@pytest.fixture(scope="module")
def simulated() -> Weeks:
    return simulate(24, 1, 0)


@pytest.mark.parametrize("names", [*((name,) for name in ALL), ALL], ids=lambda names: "+".join(names)[:30])
def test_each_target_trains_a_step_also_with_missing_ones(simulated: Weeks, names: tuple[str, ...]) -> None:
    data = WeeksDataModule(simulated, Synthetic(names), batch_size=8, val_share=0.1, test_share=0.1)
    assert data.without_target == np.isnan(Synthetic(names).values(simulated)).all(axis=1).sum()
    mean, std = data.target_statistics()
    torch.manual_seed(0)
    network = DeepHeart(3, len(names), conv_units=8, lstm_units=8, lstm_layers=1, pool=4)
    module = HeartnetModule(
        network, kind="synthetic", targets=names, target_mean=mean, target_std=std, scaling=data.scaling.as_dict()
    )
    batch = data.batch(data.rows["train"][:8])
    if names == ALL:
        assert batch["targets"].isnan().any()
        assert not batch["targets"].isnan().all()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    losses = []
    for _ in range(4):
        loss = module.loss(module(batch).score, batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert 0 < losses[0] < 10  # squared error in standard deviations, whatever the unit
    assert losses[-1] < losses[0]


def test_the_clock_of_a_network_runs_at_the_scale_of_the_data(simulated: Weeks) -> None:
    """What the convolutions are shown is the time since the week's first reading, of weeks as they come in batches."""
    data = WeeksDataModule(simulated, Synthetic(), batch_size=4)
    network = DeepHeart(3, 1, conv_units=8, lstm_units=8, lstm_layers=1, clock="elapsed")
    mean, std = data.target_statistics()
    HeartnetModule(
        network,
        kind="synthetic",
        targets=data.targets,
        target_mean=mean,
        target_std=std,
        scaling=data.scaling.as_dict(),
    )
    rows = data.rows["train"][:4]
    batch = data.batch(rows)
    angles = day_angles(batch["inputs"][:, :, 2], batch["lengths"], network.dt_scale)
    for i, row in enumerate(rows):
        seconds = np.nan_to_num(simulated.week(row)[:, 2].astype(np.float64)).cumsum()
        expected = np.sin(2 * np.pi * seconds / 86400)
        np.testing.assert_allclose(angles[i, 0, : len(seconds)].numpy(), expected, atol=2e-3)  # within half a minute
        assert (angles[i, :, len(seconds) :] == 0).all()


def test_unknown_names_are_said(make_weeks: Callable[..., Weeks]) -> None:
    with pytest.raises(HeartnetError, match=r"no synthetic target 'day_minus_night'.*Did you mean 'day_std"):
        synthetic_targets(make_weeks(users=3), ("day_minus_night",))
    with pytest.raises(HeartnetError, match=r"no synthetic target 'hour_asleep'.*Did you mean 'hours_asleep'"):
        Synthetic(["hour_asleep"])
    with pytest.raises(HeartnetError, match="total_steps stands there twice"):
        Synthetic(["total_steps", "total_steps"])
    with pytest.raises(HeartnetError, match=r"task\.targets=\[\]"):
        Synthetic([])
