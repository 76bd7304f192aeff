"""From weeks to people: each way against hand-made cases and loops; the choice; nothing leaks from label to score."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from heartnet.diagnostics.people_scores import PeopleScores, cross_fitted, fitted, people_scores
from heartnet.errors import HeartnetError
from heartnet.people import KEY, LEARNED, WAYS, Way, chosen_ways, features, person_table, sigmoid
from heartnet.predictions import COLUMNS, prediction_rows

DRAWS = 300


def weeks(
    logits: npt.NDArray[np.float64], user: npt.NDArray[np.int64], value: npt.NDArray[np.float64],
    wear: npt.NDArray[np.float64] | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Return predictions of one target, "it"."""
    known = pl.DataFrame({"user_id": [f"u{each:04d}" for each in user], "week": np.arange(len(user))})
    if wear is not None:
        known = known.with_columns(pl.Series("wear_hours", wear).fill_nan(None))
    column = logits[:, None].astype(np.float32)
    return prediction_rows(known, ["it"], sigmoid(column), value[:, None].astype(np.float32), column, "val")


def table_of(frame: pl.DataFrame) -> pl.DataFrame:
    return person_table(frame.lazy(), ["it"])


def of_people(frame: pl.DataFrame, **options: object) -> PeopleScores:
    known = frame.filter(pl.col("value").is_not_null())
    arrays = known["score"].to_numpy().astype(np.float64), known["user_id"].to_numpy()
    return people_scores("it", table_of(frame), *arrays, **{"draws": DRAWS, **options})  # type: ignore[arg-type]


def test_each_way_by_hand() -> None:
    scores = np.array([0.1, 0.5, 0.2, 0.9])
    frame = weeks(np.log(scores / (1 - scores)), np.array([0, 0, 0, 1]), np.ones(4), np.array([10.0, 30.0, 60.0, 5.0]))
    one, other = table_of(frame).to_dicts()
    assert one["noisy_or"] == pytest.approx(1 - 0.9 * 0.5 * 0.8)
    assert one["mean"] == pytest.approx(0.8 / 3)
    assert one["maximum"] == pytest.approx(0.5)
    assert one["wear"] == pytest.approx((0.1 * 10 + 0.5 * 30 + 0.2 * 60) / 100)
    odds = math.prod(each / (1 - each) for each in scores[:3]) ** (1 / 3)
    assert one["mean_logit"] == pytest.approx(odds / (1 + odds))
    assert (one["weeks"], one["wear_hours"], one["value"], one["changes"]) == (3, 100.0, 1.0, False)
    for name in WAYS:  # of one week, each way says what the week says
        assert other[name] == pytest.approx(0.9)
    assert other["spread"] == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-20, 20), st.floats(0.1, 168)), min_size=1, max_size=30))
def test_each_way_is_that_of_a_loop(rows: list[tuple[int, float, float]]) -> None:
    user, logit, wear = (np.array(each) for each in zip(*rows, strict=True))
    table = table_of(weeks(logit, user, np.zeros(len(rows)), wear))
    assert table["user_id"].to_list() == [f"u{each:04d}" for each in dict.fromkeys(user.tolist())]
    for row, who in zip(table.to_dicts(), dict.fromkeys(user.tolist()), strict=True):
        mine = [float(np.float32(each)) for each, whose in zip(logit, user, strict=True) if whose == who]
        score = [1 / (1 + math.exp(-each)) for each in mine]
        hours = wear[user == who]
        expected = {
            "mean": sum(score) / len(score),
            "maximum": max(score),
            "mean_logit": 1 / (1 + math.exp(-sum(mine) / len(mine))),
            "noisy_or": 1 - math.prod(1 / (1 + math.exp(each)) for each in mine),
            "wear": sum(s * h for s, h in zip(score, hours, strict=True)) / sum(hours),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=2e-6), name
        assert min(score) - 1e-6 <= row["wear"] <= max(score) + 1e-6


def test_equal_weeks_say_what_one_says_but_for_noisy_or() -> None:
    table = table_of(weeks(np.full(6, -1.2), np.repeat([0, 1], 3), np.zeros(6)))
    one = float(sigmoid(np.array([-1.2]))[0])
    for name in ("mean", "mean_logit", "maximum", "wear"):
        np.testing.assert_allclose(table[name], one, atol=1e-6)
    np.testing.assert_allclose(table["noisy_or"], 1 - (1 - one) ** 3, atol=1e-6)


def test_wear_is_weighted_by_only_where_all_weeks_have_it() -> None:
    frame = weeks(np.array([0.0, 2.0, 0.0, 2.0]), np.array([0, 0, 1, 1]), np.zeros(4), np.array([1, 3, 1, np.nan]))
    table = table_of(frame)
    both = sigmoid(np.array([0.0, 2.0]))
    np.testing.assert_allclose(table["wear"], [both @ [0.25, 0.75], both.mean()], atol=1e-6)
    assert table["wear_hours"].to_list() == [4.0, 1.0]


def test_labels_that_change_or_are_unknown_and_scores_that_diverged() -> None:
    value = np.array([1, 0, 1, np.nan, np.nan, 0, 0], dtype=np.float64)
    logit = np.array([0, 1, 2, 3, 4, np.nan, 1], dtype=np.float64)
    table = table_of(weeks(logit, np.array([0, 0, 1, 1, 2, 3, 3]), value))
    assert table["value"].to_list() == [None, 1.0, None, 0.0]
    assert table["changes"].to_list() == [True, False, False, False]
    assert table["mean"].is_nan().to_list() == [False, False, False, True]
    it = of_people(weeks(logit, np.array([0, 0, 1, 1, 2, 3, 3]), value))
    assert (it.people, it.changing, it.having, it.without, it.diverged) == (2, 1, 1, 1, 1)
    assert it.ways == {}


def test_files_models_splits_and_targets(tmp_path: object) -> None:
    frame = weeks(np.array([0.0, 1.0, 2.0]), np.array([0, 0, 1]), np.zeros(3))
    frame = frame.with_columns(split=pl.Series(["train", "test", "test"]))
    other = frame.with_columns(model=pl.lit("hourly"))
    second = frame.with_columns(target=pl.lit("a"))
    from pathlib import Path

    file = Path(str(tmp_path)) / "file.parquet"
    pl.concat([frame, other, second]).select(*COLUMNS).write_parquet(file)
    table = person_table(file, ["it", "a"], without=("train",))
    assert table.select("user_id", "target", "weeks", "split").rows() == [
        ("u0000", "it", 1, "test"), ("u0000", "a", 1, "test"), ("u0001", "it", 1, "test"), ("u0001", "a", 1, "test"),
    ]  # fmt: skip
    assert person_table(file, ["it"])["split"].to_list() == [None, "test"]
    assert person_table(file, ["none"]).is_empty()


def simulated(
    seed: int, people: int, each: int, apart: float, *, person: float = 0.0, rate: float = 0.4
) -> tuple[pl.DataFrame, npt.NDArray[np.float64]]:
    """Return predictions of a network that says of each week what it knows: marks of mean ±apart, and spread 1.

    `person` is the spread of what is a person's own and no luck of a week.
    """
    rng = np.random.default_rng(seed)
    label = (rng.random(people) < rate).astype(np.float64)
    user = np.repeat(np.arange(people), each)
    mark = (2 * label[user] - 1) * apart + rng.normal(0, person, people)[user] + rng.normal(0, 1, len(user))
    logit = math.log(rate / (1 - rate)) + 2 * apart / (1 + person**2) * mark
    return weeks(logit, user, label[user]), label


def test_several_weeks_gain_what_theory_says() -> None:
    """The mean of n independent marks has 1 / √n of the spread: AUROC Φ(√2 · apart · √n)."""
    frame, _ = simulated(0, 2000, 4, 0.5)
    it = of_people(frame)
    assert it.week.value == pytest.approx(norm.cdf(math.sqrt(2) * 0.5), abs=0.02)
    assert it.ways["mean_logit"].auroc.value == pytest.approx(norm.cdf(math.sqrt(2) * 0.5 * 2), abs=0.015)
    assert it.gain.low > 0.1
    # The logits of independent weeks are to be added, so that their mean is underconfident by n.
    assert it.ways["mean_logit"].slope.value == pytest.approx(4, abs=0.4)
    assert it.chosen.kind == LEARNED
    assert it.ways[LEARNED].slope.value == pytest.approx(1, abs=0.15)
    added = sigmoid(4 * (features(table_of(frame))[:, 0] - math.log(0.4 / 0.6)) + math.log(0.4 / 0.6))
    learned = it.chosen.scores(table_of(frame))
    assert abs(learned - added).mean() < 0.03


def test_one_week_a_person_leaves_nothing_to_choose() -> None:
    it = of_people(simulated(1, 200, 1, 0.7)[0])
    assert it.several == 0
    assert it.chosen == Way()
    assert set(it.ways) == set(WAYS)
    assert len({round(each.auroc.value, 6) for each in it.ways.values()}) == 1
    assert it.gain.value == pytest.approx(0, abs=1e-3)  # scores of weeks are float32


def test_scores_of_noise_are_of_no_use_however_they_are_combined() -> None:
    """Cross-fitting leaks no label: over seeds its AUROC lies about 0.5, and its interval hardly ever above."""
    found, above = [], 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        label = (rng.random(120) < 0.4).astype(np.float64)
        user = np.repeat(np.arange(120), 3)
        it = of_people(weeks(rng.normal(-1, 1, 360), user, label[user]), seed=seed, draws=200)
        found.append(it.ways[LEARNED].auroc.value)
        above += it.ways[LEARNED].auroc.low > 0.5
    assert abs(np.mean(found) - 0.5) < 0.03
    assert above <= 2
    # Scoring people by a regression on themselves would have leaked.
    seen, value = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2.0
    own = fitted(seen, value)
    assert np.corrcoef(sigmoid(own.coefficients[0] + seen @ np.array(own.coefficients[1:])), value)[0, 1] > 0.2
    assert np.corrcoef(cross_fitted(seen, value), value)[0, 1] < 0.2


def test_the_fallback_is_kept_unless_another_way_is_better_beyond_luck() -> None:
    """A few weeks whose score is high tell of a condition that shows at times; else ways differ by luck alone."""
    kept = [of_people(simulated(seed, 60, 3, 0.3, person=3.0)[0], seed=seed).chosen.kind for seed in range(10)]
    assert kept.count("mean_logit") >= 9
    rng = np.random.default_rng(0)
    label = (rng.random(400) < 0.5).astype(np.float64)
    user = np.repeat(np.arange(400), 8)
    shows = (label[user] == 1) & (rng.random(len(user)) < 0.2)
    it = of_people(weeks(np.where(shows, 3.0, -4.0) + rng.normal(0, 0.3, len(user)), user, label[user]))
    assert it.chosen.kind in ("maximum", "noisy_or", LEARNED)
    assert it.ways[it.chosen.kind].brier.value < it.ways["mean_logit"].brier.value - 0.05


def test_a_way_chosen_before_is_used_as_it_is() -> None:
    frame, _ = simulated(3, 150, 3, 0.5)
    before = Way(LEARNED, (0.1, 2.0, 0.0, 0.0, 0.0))
    it = of_people(frame, chosen=before)
    assert it.chosen == before
    expected = sigmoid(0.1 + 2.0 * features(table_of(frame))[:, 0])
    np.testing.assert_allclose(before.scores(table_of(frame)), expected)
    assert set(it.ways) == {*WAYS, LEARNED}
    assert LEARNED not in of_people(frame, chosen=Way("maximum")).ways


def test_ways_as_plain_values() -> None:
    for way in (Way("wear"), Way(LEARNED, (0.0, 1.0, 2.0, 3.0, 4.5))):
        assert Way.from_plain(way.as_plain()) == way
        assert chosen_ways({KEY: {"it": way.as_plain()}}) == {"it": way}
    assert chosen_ways({}) == {}
    for kind, coefficients in (("mena", []), ("mean", [1]), (LEARNED, [1, 2]), (LEARNED, [math.nan] * 5), ("mean", 3)):
        with pytest.raises(HeartnetError):
            Way.from_plain({"kind": kind, "coefficients": coefficients})
    for bad in (None, {"kind": "mean"}, [], "mean"):
        with pytest.raises(HeartnetError, match="cannot be read"):
            Way.from_plain(bad)
    with pytest.raises(HeartnetError, match="cannot be read"):
        chosen_ways({KEY: [1]})
    with pytest.raises(HeartnetError, match="mean"):
        Way("maen")
