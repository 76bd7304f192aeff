"""The simulated cohort: its schema, its marginals, what its conditions do to the readings, and that it repeats."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from heartnet.conditions import CONDITIONS
from heartnet.errors import HeartnetError
from heartnet.simulate import simulate
from heartnet.simulate import week as week_module
from heartnet.simulate.literature import ALCOHOL_LOG_SD, ALCOHOL_RISE, EFFECTS, RISKS, TRAITS
from heartnet.simulate.people import Person, draw_person, liability_threshold
from heartnet.simulate.travel import AT_HOME
from heartnet.simulate.watches import CURRENT, FIRST_GENERATION, FIRST_GENERATION_SHARE
from heartnet.weeks import MAX_READINGS, WEAR_GAP_SECONDS, Weeks

DAY = 86_400


@pytest.fixture(scope="module")
def cohort() -> Weeks:
    return simulate(users=150, weeks_per_user=2, seed=3)


def people(count: int, seed: int = 0, effect_scale: float = 1.0, rate: float | None = None) -> list[Person]:
    """Draw people without their weeks; `rate` replaces every base rate."""
    cuts = {risk.condition: liability_threshold(risk, risk.base_rate if rate is None else rate) for risk in RISKS}
    return [draw_person(np.random.default_rng([seed, k]), cuts, effect_scale, missing_labels=0.0) for k in range(count)]


# Schema and the container's contract


def test_the_table_has_the_columns_of_weeks(cohort: Weeks) -> None:
    expected = {
        "user_id": pl.String,
        "start": pl.Datetime("us"),
        "readings": pl.Int64,
        "wear_hours": pl.Float64,
        "device": pl.String,
        "age": pl.Float64,
        "sex": pl.String,
        "bmi": pl.Float64,
        "utc_offset": pl.Int32,
        "beta_blocker": pl.Int8,
    }
    expected |= dict.fromkeys(CONDITIONS, pl.Int8)
    expected |= dict.fromkeys(
        [f"true_{name}" for name in (*CONDITIONS, *(t.name for t in TRAITS), "travel_hours")], pl.Float64
    )
    assert dict(cohort.table.schema) == expected
    assert cohort.conditions == CONDITIONS
    assert cohort.simulated
    assert cohort.provenance["seed"] == 3
    assert cohort.provenance["effect_scale"] == 1.0
    assert cohort.table["readings"].to_list() == np.diff(cohort.offsets).tolist()
    assert cohort.table["user_id"].n_unique() == 150
    assert set(cohort.table["start"].dt.weekday()) == {1}
    assert set(cohort.table.group_by("user_id").agg(pl.col("start").max() - pl.col("start").min())["start"]) == {
        pl.Series([7 * DAY * 1_000_000]).cast(pl.Duration("us"))[0]
    }


def test_every_reading_is_whole_in_order_and_within_its_week(cohort: Weeks) -> None:
    assert cohort.readings.dtype == np.float32
    assert cohort.local_time.dtype == np.int64
    assert cohort.offsets.dtype == np.int64
    assert {name: array.dtype for name, array in cohort.annotations.items()} == dict.fromkeys(
        ("asleep", "in_workout", "in_af", "after_alcohol"), np.dtype(np.uint8)
    )
    heart_rate, steps, _ = cohort.readings.T
    assert not np.any(np.isnan(heart_rate) & np.isnan(steps))
    measured, walked = heart_rate[~np.isnan(heart_rate)], steps[~np.isnan(steps)]
    assert np.all(measured == np.rint(measured))
    assert 30 <= measured.min() <= measured.max() <= 220
    assert np.all(walked == np.rint(walked))
    assert walked.min() >= 1
    at_home = (cohort.table["true_travel_hours"] == 0).to_list()
    assert sum(at_home) > 250  # of the others: test_travel.py
    for index, start in enumerate(cohort.table["start"].dt.timestamp("us")):
        time = cohort.local_time[cohort.offsets[index] : cohort.offsets[index + 1]]
        dt = cohort.week(index)[:, 2]
        assert len(time) <= MAX_READINGS
        assert np.isnan(dt[0])
        if at_home[index]:
            np.testing.assert_array_equal(1_000_000 * dt[1:].astype(np.int64), np.diff(time))
        assert dt[1:].min() >= 1
        assert start <= time[0] <= time[-1] < start + 7 * DAY * 1_000_000


def test_wear_hours_leave_out_long_pauses(cohort: Weeks) -> None:
    for index in (0, 17, 299):
        worn = 0.0
        for dt in cohort.week(index)[1:, 2]:
            worn += float(dt) if dt <= WEAR_GAP_SECONDS else 0.0
        assert cohort.table["wear_hours"][index] == pytest.approx(worn / 3600, abs=1e-9)


# It repeats


def test_the_same_seed_gives_the_same_cohort_on_every_machine() -> None:
    """Pinned with numpy 2.4; also holds with `NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"`."""
    weeks = simulate(users=3, weeks_per_user=2, seed=0)
    digest = hashlib.sha256()
    for array in (weeks.readings, weeks.local_time, *weeks.annotations.values()):
        digest.update(np.nan_to_num(array, nan=-1).tobytes())
    digest.update(repr(weeks.table.rows()).encode())
    assert digest.hexdigest()[:16] == "ebc011edba531591"


def test_a_person_and_a_week_do_not_depend_on_how_many_there_are() -> None:
    few, many = simulate(2, 1, seed=5), simulate(4, 3, seed=5)
    for user in range(2):
        np.testing.assert_array_equal(few.week(user), many.week(3 * user))
        assert few.table.row(user) == many.table.row(3 * user)


def test_seeds_differ_and_seed_0_is_a_seed() -> None:
    first, second = simulate(1, 1, seed=0), simulate(1, 1, seed=1)
    assert not np.array_equal(first.week(0), second.week(0))


def test_the_effect_scale_changes_readings_but_not_the_people() -> None:
    kept = ["age", "sex", "bmi", "beta_blocker", *CONDITIONS, *(f"true_{c}" for c in CONDITIONS)]
    weak, strong = (simulate(40, 1, seed=2, effect_scale=scale) for scale in (0.5, 4.0))
    assert weak.table.select(kept).equals(strong.table.select(kept))
    healthy = (weak.table.select(pl.sum_horizontal(f"true_{c}" for c in CONDITIONS)).to_series() == 0).to_numpy()
    for index in range(40):
        assert np.array_equal(weak.week(index), strong.week(index), equal_nan=True) == healthy[index]


# The population


def test_base_rates_are_those_of_the_table() -> None:
    count = 6000
    drawn = people(count)
    for risk in RISKS:
        rate = np.mean([person.severity[risk.condition] > 0 for person in drawn])
        assert rate == pytest.approx(risk.base_rate, abs=3.5 * math.sqrt(risk.base_rate / count))


def test_base_rates_can_be_replaced() -> None:
    table = simulate(200, 1, seed=1, base_rates={"atrial_fibrillation": 0.5, "diabetes": 0.0}).table
    assert table["true_atrial_fibrillation"].gt(0).mean() == pytest.approx(0.5, abs=0.12)
    assert table["true_diabetes"].max() == 0.0


def test_conditions_go_together_and_with_age_and_bmi() -> None:
    drawn = people(6000)
    has = {c: np.array([person.severity[c] > 0 for person in drawn], dtype=float) for c in CONDITIONS}
    age, bmi, male = (np.array([getattr(p, name) for p in drawn], dtype=float) for name in ("age", "bmi", "male"))
    for one, other in combinations(CONDITIONS, 2):
        assert 0.02 < np.corrcoef(has[one], has[other])[0, 1] < 0.4
    for condition in CONDITIONS:
        assert 0.04 < np.corrcoef(has[condition], age)[0, 1] < 0.4
        assert 0.02 < np.corrcoef(has[condition], bmi)[0, 1] < 0.4
    assert np.corrcoef(has["sleep_apnea"], male)[0, 1] > 0.03
    blocker = np.array([person.beta_blocker for person in drawn])
    assert blocker[has["hypertension"] == 1].mean() > 5 * blocker[has["hypertension"] == 0].mean()


def test_weeks_are_like_those_of_a_watch(cohort: Weeks) -> None:
    """Shares and cadences as in ten weeks of one Apple Watch; steps as published by Master et al. 2022."""
    heart_rate, steps, dt = cohort.readings.T
    readings = cohort.table["readings"].to_numpy()
    assert 0.35 < np.mean(readings < 3600) < 0.6
    assert readings.min() > 1000
    assert 0.15 < np.mean(np.isnan(heart_rate)) < 0.30
    assert 0 < np.mean(~np.isnan(heart_rate) & ~np.isnan(steps)) < 0.05
    assert np.nanpercentile(dt, 25) == 5
    assert 20 < np.nanmedian(dt) < 100
    assert 200 < np.nanpercentile(dt, 75) < 300
    daily = [np.nansum(cohort.week(index)[:, 1]) / 7 for index in range(len(cohort))]
    assert np.median(daily) == pytest.approx(7731, rel=0.1)
    assert 75 < np.nanmean(heart_rate) < 95
    assert 100 < cohort.table["wear_hours"].median() < 150


# The truth


def test_sleep_lies_in_the_night_and_lasts_as_its_trait_says() -> None:
    weeks = simulate(60, 1, seed=8)
    table, second = weeks.table, weeks.local_time // 1_000_000 % DAY
    asleep = weeks.annotations["asleep"] == 1
    night = (second > 19 * 3600) | (second < 13 * 3600)
    assert night[asleep].mean() > 0.99
    assert np.nanmedian(weeks.readings[asleep, 0]) < np.nanmedian(weeks.readings[~asleep, 0]) - 8
    for index in np.flatnonzero((table["true_night_wear"] == 1).to_numpy()):
        rows = slice(weeks.offsets[index], weeks.offsets[index + 1])
        dt = weeks.week(index)[1:, 2]
        hours = dt[asleep[rows][1:] & asleep[rows][:-1] & (dt < DAY / 2)].sum() / 3600 / 7
        assert hours == pytest.approx(table["true_sleep_hours"][int(index)], abs=1.3)


def test_workouts_are_measured_every_few_seconds_and_are_hard(cohort: Weeks) -> None:
    heart_rate, _, dt = cohort.readings.T
    working = cohort.annotations["in_workout"] == 1
    assert 0.03 < working.mean() < 0.3
    assert np.nanmedian(dt[working]) <= 6
    assert np.nanmedian(heart_rate[working]) > np.nanmedian(heart_rate[~working]) + 25
    assert not np.any(working & (cohort.annotations["asleep"] == 1))


def test_fibrillation_comes_only_with_the_condition_and_is_irregular() -> None:
    weeks = simulate(60, 1, seed=4, base_rates={"atrial_fibrillation": 0.5}, effect_scale=3)
    fibrillating = weeks.annotations["in_af"] == 1
    per_week = [fibrillating[weeks.offsets[i] : weeks.offsets[i + 1]].any() for i in range(60)]
    affected = (weeks.table["true_atrial_fibrillation"] > 0).to_numpy()
    assert not np.any(np.array(per_week)[~affected])
    assert 0.3 < np.mean(np.array(per_week)[affected]) < 0.95
    rest = (weeks.annotations["asleep"] == 1) & ~np.isnan(weeks.readings[:, 0])
    change = np.abs(np.diff(weeks.readings[rest, 0]))
    assert np.median(change[fibrillating[rest][1:]]) > 2 * np.median(change[~fibrillating[rest][1:]])


def test_a_night_after_alcohol_begins_fast_and_settles_late() -> None:
    """Against the same night without: the same draws, but for a person who never drinks."""
    person = people(1)[0]
    sober, drinker = (replace(person, traits={**person.traits, "drinking_nights": n}) for n in (0.0, 7.0))
    change: dict[int, list[float]] = {hour: [] for hour in range(9)}
    for seed in range(60):
        without, after = (week_module.draw_week(each, np.random.default_rng(seed)) for each in (sober, drinker))
        np.testing.assert_array_equal(without.seconds, after.seconds)
        assert not without.after_alcohol.any()
        np.testing.assert_array_equal(after.after_alcohol, after.asleep & after.after_alcohol)
        np.testing.assert_array_equal(without.heart_rate[~after.after_alcohol], after.heart_rate[~after.after_alcohol])
        onset = np.flatnonzero(after.asleep & ~np.roll(after.asleep, 1))[1:]
        for first in onset:
            since = (after.seconds - after.seconds[first]) // 3600
            for hour, found in change.items():
                here = (since == hour) & after.asleep
                found += list((after.heart_rate - without.heart_rate)[here])
    by_hour = [float(np.nanmean(found)) for hour, found in change.items() if hour < 8]
    mean = ALCOHOL_RISE * math.exp(ALCOHOL_LOG_SD**2 / 2)
    for hour, found in enumerate(by_hour):
        assert found == pytest.approx(mean * (1 - (hour + 0.5) / 8), abs=0.5)
    assert np.mean(by_hour[:3]) > 2.5 * np.mean(by_hour[5:])


@pytest.mark.parametrize("nights", [0.0, 2.5, 7.0])
def test_nights_after_alcohol_are_as_many_as_the_trait_says(nights: float) -> None:
    person = replace(people(1)[0], traits={**people(1)[0].traits, "drinking_nights": nights})
    drawn = [week_module._nights(person, AT_HOME, None, np.random.default_rng(seed)).alcohol > 0 for seed in range(400)]
    assert np.mean(drawn) == pytest.approx(nights / 7, abs=0.03)


def test_the_night_between_two_weeks_is_the_same_in_both() -> None:
    person = people(1)[0]
    one = week_module.draw_week(person, np.random.default_rng(1))
    other = week_module._nights(person, AT_HOME, one.last_night, np.random.default_rng(2))
    before = week_module._nights(person, AT_HOME, None, np.random.default_rng(1))
    assert other.spans.start[0] == before.spans.start[7] - 7 * DAY
    assert other.spans.end[0] == before.spans.end[7] - 7 * DAY
    assert other.alcohol[0] == before.alcohol[7]
    assert other.spans.start[1] != before.spans.start[1]


def test_first_generation_watches_measure_less_and_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same person and the same weeks with either watch, not thinned."""
    monkeypatch.setattr(week_module, "MAX_READINGS", 100_000)
    person = people(1)[0]
    person = replace(person, traits={**person.traits, "night_wear": 1.0, "workouts": 1.0})
    found = {}
    for watch in (CURRENT, FIRST_GENERATION):
        gaps, scatter, lost = [], [], []
        for seed in range(25):
            week = week_module.draw_week(replace(person, watch=watch), np.random.default_rng(seed))
            measured = ~np.isnan(week.heart_rate)
            second, rate, asleep = week.seconds[measured], week.heart_rate[measured], week.asleep[measured]
            gap = np.diff(second)
            gaps += list(gap[asleep[1:] & asleep[:-1]])
            scatter += list(np.diff(rate)[asleep[1:] & asleep[:-1] & (gap < 900)])
            lost += list(gap[week.in_workout[measured][1:] & week.in_workout[measured][:-1]] > 7)
        found[watch.name] = (np.median(gaps), np.std(scatter), np.mean(lost))
    current, first = found[CURRENT.name], found[FIRST_GENERATION.name]
    assert current[0] == pytest.approx(300, abs=30)
    assert first[0] == pytest.approx(600, abs=60)
    assert first[1] ** 2 - current[1] ** 2 > FIRST_GENERATION.spread**2
    assert current[2] < 0.02
    assert first[2] == pytest.approx(FIRST_GENERATION.lost, abs=0.06)


def test_the_share_of_first_generation_watches_is_the_stated_one() -> None:
    drawn = people(3000)
    old = np.array([person.watch is FIRST_GENERATION for person in drawn])
    assert old.mean() == pytest.approx(FIRST_GENERATION_SHARE, abs=0.025)
    ill = np.array([max(person.severity.values()) > 0 for person in drawn])
    assert abs(np.corrcoef(old, ill)[0, 1]) < 0.06  # says nothing about health
    table = simulate(80, 1, seed=2).table
    assert set(table["device"]) == {CURRENT.name, FIRST_GENERATION.name}


def test_neighbouring_readings_scatter_as_in_a_real_recording() -> None:
    """In recording P355472 (docs/results.md) by 5.9 bpm awake and 2.9 asleep, 4 to 7 minutes apart."""
    weeks = simulate(120, 1, seed=1)
    scatter: dict[int, list[float]] = {0: [], 1: []}
    for index in np.flatnonzero((weeks.table["device"] == CURRENT.name).to_numpy()):
        part = slice(weeks.offsets[index], weeks.offsets[index + 1])
        measured = ~np.isnan(weeks.readings[part, 0])
        rate, time = weeks.readings[part, 0][measured], weeks.local_time[part][measured] / 1e6
        asleep = weeks.annotations["asleep"][part][measured]
        near = (np.diff(time) >= 240) & (np.diff(time) <= 420)
        for state, found in scatter.items():
            chosen = near & (asleep[1:] == state) & (asleep[:-1] == state)
            if chosen.sum() > 30:
                found.append(float(np.std(np.diff(rate)[chosen])))
    assert np.median(scatter[0]) == pytest.approx(5.9, abs=0.6)
    assert np.median(scatter[1]) == pytest.approx(2.9, abs=0.8)


def test_the_response_to_exercise_solves_its_equation() -> None:
    """Against Euler steps of dy/dt = (rise − y) / rise_time inside and −y / recovery_time outside."""
    spans = week_module._Spans(np.array([100, 1000]), np.array([700, 1030]))
    exertion = week_module._Exertion(spans, np.array([120.0, 90.0]), np.array([80.0, 20.0]), np.array([True, False]))
    seconds, step, y = np.arange(0, 1500), 0.01, 0.0
    expected = []
    for t in seconds:
        expected.append(y)
        inside = [k for k in range(2) if spans.start[k] <= t < spans.end[k]]
        for _ in range(100):
            target, tau = (exertion.rise[inside[0]], (90.0, 30.0)[inside[0]]) if inside else (0.0, 75.0)
            y += step * (target - y) / tau
    np.testing.assert_allclose(week_module._response(exertion, seconds, 75.0), expected, atol=0.02)


def test_a_week_that_is_too_long_keeps_its_span_its_steps_and_its_workouts(monkeypatch: pytest.MonkeyPatch) -> None:
    key = (24, 1)
    busy = next(person for person in people(200) if min(person.traits["workouts"], person.traits["night_wear"] * 5) > 4)
    kept = week_module.draw_week(busy, np.random.default_rng(key))
    monkeypatch.setattr(week_module, "MAX_READINGS", 100_000)
    full = week_module.draw_week(busy, np.random.default_rng(key))
    assert len(kept.seconds) <= MAX_READINGS < len(full.seconds)
    assert (kept.seconds[0], kept.seconds[-1]) == (full.seconds[0], full.seconds[-1])
    assert np.nansum(kept.steps) == np.nansum(full.steps)
    np.testing.assert_array_equal(kept.heart_rate, full.heart_rate[np.isin(full.seconds, kept.seconds)])
    assert np.diff(kept.seconds[kept.in_workout]).min() < 20
    assert kept.in_workout.sum() > 0.4 * full.in_workout.sum()


# The effects


def test_at_scale_0_a_condition_changes_nothing_but_the_medication() -> None:
    healthy, ill = people(300, effect_scale=0.0, rate=0.0), people(300, effect_scale=0.0, rate=1.0)
    same_drugs = [(a, b) for a, b in zip(healthy, ill, strict=True) if a.beta_blocker == b.beta_blocker]
    assert len(same_drugs) > 50
    assert all(min(b.severity.values()) >= 0.5 and max(a.severity.values()) == 0 for a, b in same_drugs)
    assert all(a.traits == b.traits for a, b in same_drugs)


@pytest.mark.parametrize("scale", [10.0, 1e6])
def test_effects_move_traits_in_the_stated_direction_and_stay_plausible(scale: float) -> None:
    healthy, ill = people(300, rate=0.0), people(300, effect_scale=scale, rate=1.0)
    for effect in EFFECTS:
        if (effect.condition, effect.trait) != ("hypertension", "recovery_time"):
            moved = np.mean(
                [b.traits[effect.trait] - a.traits[effect.trait] for a, b in zip(healthy, ill, strict=True)]
            )
            assert np.sign(moved) == np.sign(effect.shift)
    for trait in TRAITS:
        values = [person.traits[trait.name] for person in ill]
        assert trait.low <= min(values) <= max(values) <= trait.high


def test_beta_blockers_hide_the_fast_heart_of_hypertension() -> None:
    found: dict[tuple[bool, bool], list[float]] = {}
    for person in people(3000, seed=9):
        ill = person.severity["hypertension"] > 0
        found.setdefault((ill, person.beta_blocker), []).append(person.traits["resting_rate"])
    assert len(found[True, True]) > 100
    assert np.mean(found[True, False]) > np.mean(found[False, False]) + 2
    assert np.mean(found[True, True]) < np.mean(found[False, False]) - 2


def test_every_row_of_the_table_has_a_source_and_names_what_exists() -> None:
    assert tuple(risk.condition for risk in RISKS) == CONDITIONS
    names = {trait.name for trait in TRAITS}
    for effect in EFFECTS:
        assert effect.condition in CONDITIONS
        assert effect.trait in names
    assert all(len(row.source) > 20 for row in (*RISKS, *TRAITS, *EFFECTS, CURRENT, FIRST_GENERATION))


def markers(weeks: Weeks) -> dict[str, npt.NDArray[np.float64]]:
    """Measure the textbook's single markers from the readings of each week; NaN where a week does not hold one."""
    found: dict[str, list[float]] = {"resting": [], "night_scatter": [], "recovery": [], "irregularity": []}
    for index in range(len(weeks)):
        rows = slice(weeks.offsets[index], weeks.offsets[index + 1])
        measured = ~np.isnan(weeks.readings[rows, 0])
        rate, second = weeks.readings[rows, 0][measured], weeks.local_time[rows][measured] // 1_000_000
        asleep, working = (weeks.annotations[name][rows][measured] == 1 for name in ("asleep", "in_workout"))
        resting = float(np.percentile(rate[~asleep & ~working], 15))
        found["resting"].append(resting)
        found["night_scatter"].append(float(np.std(np.diff(rate[asleep]))) if asleep.sum() > 30 else math.nan)
        left = []
        for last in np.flatnonzero(working[:-1] & ~working[1:]):
            after = (second > second[last]) & (second <= second[last] + 170)
            peak = rate[last - 12 : last + 1].mean()
            if after.sum() > 10 and peak > resting + 25:
                left.append((rate[after].mean() - resting) / (peak - resting))
        found["recovery"].append(float(np.mean(left)) if left else math.nan)
        sparse = rate[~working][np.diff(second[~working], prepend=0) > 100]
        change = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(sparse)))])
        found["irregularity"].append(float(np.max(change[12:] - change[:-12]) / 12))
    return {name: np.array(values) for name, values in found.items()}


PAIRS = (
    ("diabetes", "resting"),
    ("hypertension", "resting"),
    ("sleep_apnea", "night_scatter"),
    ("diabetes", "recovery"),
    ("atrial_fibrillation", "irregularity"),
)


def aurocs(effect_scale: float, users: int) -> dict[tuple[str, str], float]:
    """AUROC of each single marker, in a cohort with more cases than life has, for the sake of precision."""
    rates = {"atrial_fibrillation": 0.25, "sleep_apnea": 0.25, "diabetes": 0.25}
    weeks = simulate(users, 1, seed=11, effect_scale=effect_scale, missing_labels=0.0, base_rates=rates)
    marker = markers(weeks)
    scores = {}
    for condition, name in PAIRS:
        known = ~np.isnan(marker[name])
        scores[condition, name] = roc_auc_score(weeks.table[condition].to_numpy()[known], marker[name][known])
    return scores


def test_single_markers_are_weak_at_scale_1_and_strong_at_3() -> None:
    as_in_life, enhanced = aurocs(1.0, users=1500), aurocs(3.0, users=600)
    for pair in PAIRS:
        assert 0.53 <= as_in_life[pair] <= 0.65, (pair, as_in_life)
        assert as_in_life[pair] + 0.08 <= enhanced[pair] <= 0.95, (pair, enhanced)


# Missing labels and bad arguments


def test_labels_agree_with_the_truth_where_the_survey_was_answered(cohort: Weeks) -> None:
    for condition in CONDITIONS:
        label = cohort.table[condition]
        answered = label.is_not_null()
        assert ((cohort.table[f"true_{condition}"] > 0).cast(pl.Int8) == label).filter(answered).all()
        assert 0.02 < 1 - answered.mean() < 0.2
    full = simulate(20, 1, seed=1, missing_labels=0.0)
    assert sum(full.table[condition].null_count() for condition in CONDITIONS) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"users": 0}, "users is 0; it must be a whole number, 1 or more"),
        ({"users": 2.5}, "users is 2.5"),
        ({"weeks_per_user": -1}, "weeks_per_user is -1"),
        ({"seed": -1}, "seed is -1; it must be a whole number, 0 or more"),
        ({"seed": True}, "seed is True"),
        ({"effect_scale": -0.1}, "effect_scale is -0.1; it must be a number from 0 to 1e6"),
        ({"effect_scale": math.nan}, "effect_scale is nan"),
        ({"effect_scale": math.inf}, "effect_scale is inf"),
        ({"effect_scale": "strong"}, "effect_scale is 'strong'"),
        ({"missing_labels": 1.0}, "missing_labels is 1.0; it must be a share"),
        ({"missing_labels": -0.5}, "missing_labels is -0.5"),
        ({"base_rates": {"diabets": 0.1}}, "'diabets'.*Did you mean 'diabetes'"),
        ({"base_rates": {"diabetes": 1.5}}, r"base_rates\['diabetes'\] is 1.5; it must be from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {"users": 1, "weeks_per_user": 1, "seed": 0} | change
    with pytest.raises(HeartnetError, match=said):
        simulate(**arguments)  # type: ignore[arg-type]
