"""What folds of a cross-validation have in common to be ranked by, and what is said where their levels differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.people_scores import OWN, people_scores
from heartnet.diagnostics.people_verdicts import people_finding, people_markdown
from heartnet.diagnostics.score_quality import quality
from heartnet.diagnostics.score_verdicts import quality_findings
from heartnet.diagnostics.within_folds import auroc_within, on_one_level
from heartnet.finding_rows import rows, unknown_words
from heartnet.findings import Finding
from heartnet.people import LEARNED, Way, person_table, sigmoid
from heartnet.pooled import pooled_findings
from heartnet.predictions import FOLD
from heartnet.resampling import Interval
from heartnet.tasks import Conditions


def naive_pairs(score: Any, value: Any, fold: Any) -> tuple[float, int]:
    right, pairs = 0.0, 0
    for i in np.flatnonzero(value == 1):
        for j in np.flatnonzero((value == 0) & (fold == fold[i])):
            right, pairs = right + (score[i] > score[j]) + 0.5 * (score[i] == score[j]), pairs + 1
    return right, pairs


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_within_folds_is_the_share_of_pairs_and_no_offset_moves_it(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    count = 25
    value, fold = (rng.random(count) < 0.4).astype(float), rng.integers(0, folds, count)
    score, often = rng.integers(0, 6, count).astype(float), rng.integers(0, 3, count)
    repeated = [np.repeat(each, often) for each in (score, value, fold)]
    right, pairs = naive_pairs(*repeated)
    expected = right / pairs if pairs else np.nan
    for moved in (score, score + 100 * fold):
        found = auroc_within(moved, value, fold)(often[:, None].astype(float))
        assert found == pytest.approx([expected], nan_ok=True)


def test_of_nothing_learned_no_labels_are_called_inverted() -> None:
    """A network that only knows its training's base rate scores a fold lower the more have it there."""
    rng = np.random.default_rng(0)
    pooled, wrong = [], 0
    for seed in range(20):
        value = (rng.random(300) < 0.3).astype(float)
        fold = np.random.default_rng(seed).integers(0, 10, 300)
        rate = np.array([value[fold != each].mean() for each in range(10)])[fold]
        score = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + 0.01 * rng.normal(size=300))))
        it = quality("x", score, value, np.arange(300), folds=fold, draws=200)
        pooled.append(it.auroc.high)
        wrong += quality_findings(it, "test")[0].status == "fail"
    assert sum(each < 0.5 for each in pooled) >= 15, "over all weeks it looks inverted"
    assert wrong <= 1


def test_of_nothing_learned_with_each_person_a_fold_no_labels_are_called_inverted() -> None:
    person = np.repeat(np.arange(24), 3)
    value = (np.arange(24) < 12).astype(float)
    rate = (12 - value) / 23  # of the others
    score = (rate + 1e-4 * np.random.default_rng(0).normal(size=24))[person]
    it = quality("x", score, value[person], person, folds=person, draws=200)
    found = quality_findings(it, "test")[0]
    assert it.auroc.high < 0.1
    assert found.status == "unknown"
    assert "no fold tests both" in found.message


def test_networks_on_different_scales_are_named_and_inverted_labels_are() -> None:
    rng = np.random.default_rng(1)
    value, fold = (rng.random(400) < 0.4).astype(float), np.arange(400) % 4
    logit = 2 * value + rng.normal(size=400)

    def told(logit: Any, folds: Any = fold) -> Finding:
        return quality_findings(
            quality("x", 1 / (1 + np.exp(-logit)), value, np.arange(400), folds=folds, draws=200), "test"
        )[0]

    same, apart, turned = told(logit), told(logit + 3 * (fold - 1.5)), told(-logit)
    assert (same.status, apart.status, turned.status) == ("pass", "warn", "fail")
    assert "do not score on one scale" in apart.message
    for found in (same, apart, turned):
        assert found.unit == "AUROC within folds"
        assert found.message.index("AUROC within folds 0.") < found.message.index("; all folds together 0.")
    assert (same.value, turned.value) == pytest.approx((apart.value, 1 - same.value)), "no level changes it"
    assert "within folds" not in told(logit, None).message


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_on_one_level_no_offset_and_no_steepness_is_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logit, fold = rng.normal(size=60), np.arange(60) % 3
    shift, steep = rng.normal(size=3)[fold], rng.uniform(0.5, 2, 3)[fold]
    moved = on_one_level(sigmoid(logit + shift), fold)
    means = [np.log(moved / (1 - moved))[fold == each].mean() for each in range(3)]
    assert means == pytest.approx([(logit + shift).mean()] * 3)
    for each in range(3):
        mine = fold == each
        assert np.array_equal(np.argsort(moved[mine]), np.argsort(logit[mine])), "within a fold no week changes place"
    same = on_one_level(sigmoid(steep * logit + shift), fold, spread=True)
    spread = [np.log(same / (1 - same))[fold == each].std() for each in range(3)]
    assert spread == pytest.approx([spread[0]] * 3)
    broken = np.array([0.5, np.nan])
    assert on_one_level(broken, np.zeros(2)) is broken


def test_simple_models_are_compared_within_folds_where_levels_differ() -> None:
    rng = np.random.default_rng(0)
    people = 240
    has = (rng.random(people) < 0.4).astype(np.float32)
    fold = np.arange(people) % 4

    def findings_of(apart: float) -> Finding:
        frames = [
            pl.DataFrame(
                {
                    "model": model, "user_id": [f"user-{i:03d}" for i in range(people)], "week": np.arange(people),
                    "target": "diabetes", "value": has, "score": sigmoid(logit).astype(np.float32),
                    FOLD: [f"fold-{i}" for i in fold],
                }
            )
            for model, logit in (
                ("network", 2.0 * has + rng.normal(size=people) + apart * (fold - 1.5)),
                ("hourly", 0.7 * has + rng.normal(size=people)),
            )
        ]  # fmt: skip
        [found] = pooled_findings(pl.concat(frames), WeeksDataModule(faults.weeks(0), Conditions(["diabetes"])))
        return found

    near, far = findings_of(0.0), findings_of(4.0)
    assert near.status == far.status == "pass", "over all weeks the far one would be worse than the simple model"
    for found in (near, far):
        assert "within folds" in found.message
        assert "With all folds ranked together the network has" in found.message


def test_folds_that_choose_different_ways() -> None:
    rng = np.random.default_rng(0)
    people = 60
    has = (rng.random(people) < 0.5).astype(float)
    logit = (has[:, None] + rng.normal(size=(people, 3))).ravel()
    users = np.repeat([f"user-{i:03d}" for i in range(people)], 3)
    weeks = pl.DataFrame(
        {
            "model": "network", "user_id": users, "week": np.arange(3 * people), "target": "x", "split": "test",
            "value": np.repeat(has, 3), "logit": logit, "score": sigmoid(logit), "wear_hours": 100.0,
        }
    )  # fmt: skip
    table = person_table(weeks.lazy(), ("x",)).with_columns(
        pl.Series(FOLD, ["a", "b"] * 30)  # people are in the order of their first week
    )
    learned = Way(LEARNED, (-0.5, 1.0, 0.2, 0.1, 0.0))
    own = {"a": Way("maximum"), "b": learned}
    score = weeks["score"].to_numpy()
    it = people_scores("x", table, score, users, chosen=own, draws=100)
    expected = np.where(table[FOLD] == "a", Way("maximum").scores(table), learned.scores(table))
    assert it.taken == OWN
    fold = table[FOLD].to_numpy()

    def within(score: Any) -> Any:
        right, pairs = naive_pairs(score, has, fold)
        return pytest.approx(right / pairs)

    assert it.ways[OWN].auroc.value == within(expected)
    assert LEARNED in it.ways, "cross-fitted, for comparison"
    assert "each fold chose for itself" in people_finding(it, "test").message
    without = people_scores("x", table, score, users, chosen={"a": None, "b": None}, draws=100)
    assert (without.taken, without.validated) == ("mean_logit", False)
    assert "without a validation none could be chosen" in people_finding(without, "test").message
    same = people_scores("x", table, score, users, chosen={"a": Way("mean"), "b": Way("mean")}, draws=100)
    assert same.taken == "mean"
    assert same.ways["mean"].auroc.value == within(table["mean"].to_numpy())


def people_of(count: int, seed: int = 0) -> tuple[pl.DataFrame, Any, Any]:
    """Return the table of people with three weeks each, their names, and the scores of weeks, which tell perfectly."""
    has = (np.arange(count) % 2).astype(float)
    logit = (6 * has[:, None] + np.random.default_rng(seed).normal(size=(count, 3))).ravel()
    users = np.repeat([f"user-{i:03d}" for i in range(count)], 3)
    weeks = pl.DataFrame(
        {
            "model": "network", "user_id": users, "week": np.arange(3 * count), "target": "x", "split": "test",
            "value": np.repeat(has, 3), "logit": logit, "score": sigmoid(logit), "wear_hours": 100.0,
        }
    )  # fmt: skip
    return person_table(weeks.lazy(), ("x",)), users, weeks["score"].to_numpy()


def test_of_few_people_there_is_no_interval_of_no_width() -> None:
    table, users, score = people_of(8)
    it = people_scores("x", table, score, users, draws=100)
    assert it.few
    assert it.ways["mean_logit"].auroc.value == 1
    for each in (it.week, it.gain, *(getattr(it.ways["mean"], name) for name in ("auroc", "brier", "slope", "worse"))):
        assert np.isnan([each.low, each.high]).all()
    assert "1.000 (no interval)" in people_markdown(it)
    assert "AUROC 1.000; of so few no interval would hold" in people_finding(it, "test").message
    table, users, score = people_of(40)
    many = people_scores("x", table, score, users, draws=100)
    assert np.isfinite(many.ways["mean"].brier.low)


def test_where_each_person_is_a_fold_people_of_all_folds_are_a_hint() -> None:
    table, users, score = people_of(24)
    table = table.with_columns(pl.col("user_id").alias(FOLD))
    it = people_scores("x", table, score, users, chosen=dict.fromkeys(table[FOLD]), draws=100)
    assert it.one_class
    assert not it.folds
    assert it.ways["mean_logit"].auroc.value == 1
    found = people_finding(it, "test")
    assert found.status == "pass"
    assert "no fold tests both people with it and people without" in found.message
    assert "data.folds=5" in found.message
    assert "AUROC of all folds together 1.000" in found.message
    chance = people_scores("x", table, 1 - score, users, chosen=dict.fromkeys(table[FOLD]), draws=100)
    blind = replace(chance, ways={"mean_logit": replace(chance.ways["mean_logit"], auroc=Interval(0.55, 0.3, 0.8))})
    lost = people_finding(blind, "test")
    assert lost.status == "unknown"
    assert "data.folds=5" in unknown_words(rows([lost, replace(lost, where="test: another")])[0])
    assert "| AUROC of all folds together |" in people_markdown(it)
