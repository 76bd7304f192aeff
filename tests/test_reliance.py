"""How scores go with a model on the metadata and move from week to week, against SciPy, loops and known truths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from heartnet.baselines import baseline_scores
from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.reliance import components, relations, reliance
from heartnet.diagnostics.reliance_verdicts import reliance_findings
from heartnet.figure_reliance import reliance_figure
from heartnet.finding_rows import rows
from heartnet.metadata_scores import _dealt, crossfitted, known_weeks, metadata_score
from heartnet.prediction_file import PredictionFile
from heartnet.predictions import known_of, prediction_rows
from heartnet.tasks import Conditions

DRAWS = 200
Floats = npt.NDArray[np.float64]


def sigmoid(x: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-x))
    return found


def cohort(
    seed: int, *, people: int = 120, weeks: int = 4, metadata: float = 1.0, sensors: float = 1.0, wobble: float = 0.5
) -> dict[str, Any]:
    """Return weeks of people whose label depends on metadata and on what the sensors see, as much on one as on other.

    Args:
        seed: of all of it.
        people: how many.
        weeks: of each.
        metadata, sensors: how much of each the network's logit holds.
        wobble: spread of what a week adds to it.
    """
    rng = np.random.default_rng(seed)
    known, seen = rng.normal(size=(2, people))
    has = rng.random(people) < sigmoid(1.2 * known + 1.2 * seen - 0.5)
    users = np.repeat(np.arange(people), weeks)
    logit = (metadata * known + sensors * seen)[users] + wobble * rng.normal(size=len(users))
    return {
        "score": sigmoid(logit), "value": has[users].astype(float), "users": users, "metadata": sigmoid(known)[users],
    }  # fmt: skip


def found_in(made: dict[str, Any], **options: Any) -> dict[str, Any]:
    it = reliance("diabetes", **made, draws=DRAWS, **options)
    return {each.where.rpartition(", ")[2]: each for each in reliance_findings(it, "test")}


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_correlations_of_drawn_weeks_are_those_of_the_repeated_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, (2, 40)).astype(float)
    c = (rng.random(40) < 0.4).astype(float)
    often = rng.integers(0, 3, 40)
    both, first, second = relations(a, b, c)(often[:, None].astype(float))[:, 0]
    x, y, z = (np.repeat(each, often) for each in (a, b, c))
    if min(len(np.unique(each)) for each in (x, y, z)) < 2:
        return
    assert both == pytest.approx(spearmanr(x, y)[0], abs=1e-12)
    ranks = [rankdata(each) for each in (x, y, z)]

    def left(one: Floats, given: Floats) -> Floats:
        design = np.stack([np.ones(len(given)), given], axis=1)
        over: Floats = one - design @ np.linalg.lstsq(design, one, rcond=None)[0]
        return over

    for value, one, given_ in ((first, 0, 1), (second, 1, 0)):
        rest = [left(ranks[one], ranks[given_]), left(ranks[2], ranks[given_])]
        if min(np.ptp(each) for each in rest) > 1e-6:
            assert value == pytest.approx(np.corrcoef(*rest)[0, 1], abs=1e-8)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_components_are_those_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 8, 40)
    score = rng.normal(size=8)[group] + rng.normal(size=40) + 100
    often = rng.integers(0, 3, 8)
    groups = [score[group == g] for g in range(8) for _ in range(often[g]) if (group == g).any()]
    weeks = sum(len(each) for each in groups)
    statistic, sums = components(score, group)
    found = statistic(sums @ often[np.unique(group)][:, None].astype(float))[:, 0]
    if len(groups) < 2 or weeks <= len(groups):
        return
    within = sum(((each - each.mean()) ** 2).sum() for each in groups) / (weeks - len(groups))
    grand = np.concatenate(groups).mean()
    mean_square = sum(len(each) * (each.mean() - grand) ** 2 for each in groups) / (len(groups) - 1)
    size = (weeks - sum(len(each) ** 2 for each in groups) / weeks) / (len(groups) - 1)
    between = max((mean_square - within) / size, 0)
    np.testing.assert_allclose(found, [between**0.5, within**0.5, within / (between + within)], rtol=1e-9, atol=1e-9)


def test_components_of_a_known_truth_lie_within_their_intervals() -> None:
    hits = np.zeros(3)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        users = np.repeat(np.arange(60), rng.integers(1, 7, 60))
        logit = 1.5 * rng.normal(size=60)[users] + rng.normal(size=len(users)) - 1
        value = (rng.random(60) < 0.5)[users].astype(float)
        it = reliance("diabetes", sigmoid(logit), value, users, None, draws=DRAWS)
        truth = (1.5, 1.0, 1 / (1 + 1.5**2))
        hits += [i.low <= t <= i.high for i, t in zip((it.between, it.within, it.share_within), truth, strict=True)]
    assert (hits / 40 >= 0.85).all(), hits


def test_ranges_and_who_has_several_weeks() -> None:
    score = np.array([0.1, 0.7, 0.4, 0.5, 0.55, 0.9])
    users = np.array(["a", "a", "b", "c", "c", "d"])
    it = reliance("diabetes", score, np.array([1.0, 1, 0, 0, 0, 1]), users, None, draws=100)
    assert (it.weeks, it.users, it.having, it.without, it.several) == (6, 4, 2, 2, 2)
    assert it.range.value == pytest.approx((0.6 + 0.05) / 2)
    assert it.widest == pytest.approx((0.1, 0.7))
    assert np.isnan(it.rank.value)
    # A label that changes within a person parts their weeks: what the score follows there is no wavering.
    it = reliance("atrial_fibrillation", score, np.array([0.0, 1, 0, 0, 0, 1]), users, None, draws=100)
    assert it.several == 1
    assert it.widest == pytest.approx((0.5, 0.55))


def test_weeks_of_less_wear_that_lie_further_off_are_noticed() -> None:
    rng = np.random.default_rng(0)
    made = cohort(0, wobble=0.0)
    hours = rng.uniform(10, 160, len(made["users"]))
    made["score"] = sigmoid(np.log(made["score"] / (1 - made["score"])) + 100 / hours * rng.normal(size=len(hours)))
    it = reliance("diabetes", **made, wear_hours=hours, draws=DRAWS)
    assert it.wear.high < 0
    away = reliance("diabetes", **made, wear_hours=rng.permutation(hours), draws=DRAWS)
    assert away.wear.low < 0 < away.wear.high
    said = {each.where: each for each in reliance_findings(it, "test")}["test: diabetes, week to week"]
    assert (said.status == "warn") == (it.share_within.low > 0.5)
    assert ("The fewer hours were worn" in said.message) == (said.status == "warn")


def test_detection_and_false_alarms() -> None:
    """Of 25 cohorts each: leaning and wavering ones, and clean ones, in which sensors tell as much as metadata."""
    seeds = range(25)
    leaning = [found_in(cohort(s, sensors=0.0, wobble=0.3))["metadata"].status for s in seeds]
    wavering = [found_in(cohort(s, wobble=2.5))["week to week"].status for s in seeds]
    clean = [found_in(cohort(s)) for s in seeds]
    assert leaning.count("warn") >= 22, leaning
    assert wavering.count("warn") >= 24, wavering
    alarms = [name for each in clean for name, it in each.items() if it.status in ("warn", "fail")]
    assert len(alarms) <= 1, alarms


def test_the_verdicts_words() -> None:
    said = found_in(cohort(0, sensors=0.0, wobble=0.3))["metadata"]
    assert "follow age, sex and BMI, and cannot be told to know more" in said.message
    assert said.value == pytest.approx(reliance("x", **cohort(0, sensors=0.0, wobble=0.3)).rank.value, abs=1e-4)
    said = found_in(cohort(0, wobble=3.0))["week to week"]
    assert "It wavers" in said.message
    few = found_in(cohort(0, people=12))
    assert {each.status for each in few.values()} == {"unknown", "pass"}
    [said] = [each for each in few.values() if each.status == "unknown"]
    assert "too few to tell" in said.message
    assert (said.where, said.value, said.limit) == ("test: diabetes", None, None)
    some = [reliance_findings(reliance(name, **cohort(s, people=6 + s)), split) for s, name in enumerate("ab")
            for split in ("val", "test")]  # fmt: skip
    assert [len(each) for each in some] == [1] * 4, "people with several weeks are few as well"
    [row] = rows([each for found in some for each in found])
    assert row.value == "no value"
    lost = cohort(0)
    lost["score"][3] = np.nan
    [said] = reliance_findings(reliance("diabetes", **lost), "val")
    assert (said.status, said.where) == ("fail", "val: diabetes")
    made = cohort(0, weeks=1)
    assert "Fewer than two people with several weeks" in found_in(made)["week to week"].message
    one = found_in({**made, "users": np.zeros(120)})
    assert list(one) == ["test: diabetes"], "nothing to compare the weeks of one person with"
    assert one["test: diabetes"].value is None
    made["metadata"] = None
    assert "No metadata model to compare with" in found_in(made)["metadata"].message
    made["score"] = np.full(120, 0.3)
    assert found_in(made)["metadata"].status == "unknown"


def test_crossfitting_never_sees_the_person_it_scores() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 3)
    metadata = rng.normal(size=(60, 3))[users]
    value = (rng.random(60) < sigmoid(1.5 * metadata[::3, 0]))[users].astype(float)
    before = crossfitted(metadata, value, users, conditions=True)
    assert before is not None
    assert roc_auc_score(value, before) > 0.6
    # The score of a person with the outlying metadata does not depend on its own label.
    metadata[users == 0] = 8.0
    scores = []
    for label in (0.0, 1.0):
        value[users == 0] = label
        found = crossfitted(metadata, value, users, conditions=True, folds=30)
        assert found is not None
        scores.append(found[0])
    alone = LogisticRegression().fit(metadata[users != 0], value[users != 0])
    want = alone.predict_proba(metadata[:1])[0, 1]
    np.testing.assert_allclose(scores, want, atol=0.05)
    assert crossfitted(metadata, np.zeros(180), users, conditions=True) is None
    assert crossfitted(np.full((180, 3), np.nan), value, users, conditions=True) is None
    linear = crossfitted(metadata, 2 * metadata[:, 1], users, conditions=False)
    assert linear is not None
    assert spearmanr(linear, metadata[:, 1])[0] > 0.95


def test_users_are_dealt_into_folds_alike_in_their_labels() -> None:
    users = np.random.default_rng(0).permutation(np.repeat(np.arange(500), 2))
    fold = _dealt(users, users % 9 == 0, 10)
    assert {len(set(fold[users == each])) for each in range(500)} == {1}
    assert np.ptp(np.bincount(fold)) == 0
    assert np.ptp(np.bincount(fold[users % 9 == 0])) <= 2, "one person has two weeks"


def test_where_weeks_were_split_weeks_are_resampled() -> None:
    made = cohort(0, people=40, weeks=5)
    wear = np.random.default_rng(0).uniform(20, 160, 200)
    alone = reliance("diabetes", **made | {"users": np.zeros(200)}, by="week", wear_hours=wear, draws=DRAWS)
    each = reliance("diabetes", **made | {"users": np.arange(200)}, draws=DRAWS)
    for name in ("auroc", "metadata_auroc", "gain", "rank", "given_metadata", "given_score"):
        assert getattr(alone, name) == getattr(each, name)
        assert getattr(alone, name).low < getattr(alone, name).high
    assert (alone.users, alone.having + alone.without) == (1, 200)
    both, people = (reliance("diabetes", **made, by=by, wear_hours=wear, draws=DRAWS) for by in ("week", "user"))
    assert both.rank != people.rank
    for name in ("between", "within", "share_within", "range", "wear", "several", "users"):
        assert getattr(both, name) == getattr(people, name), "how scores move is of people"
    follows, wavers = reliance_findings(both, "test")
    assert "200 weeks of 40 people, resampled week by week: nothing is said of new people" in follows.message
    assert "Of 40 people with several weeks" in wavers.message
    [few] = reliance_findings(replace(alone, having=3), "test")[:1]
    assert few.message.startswith("Weeks with it: 3, without it: ")


def test_with_heartnets_data_it_is_fitted_on_the_training_split(tmp_path: Path) -> None:
    data = WeeksDataModule(faults.weeks(0, 80), Conditions(), val_share=0.2, test_share=0.3)
    rows = data.rows["test"]
    rng = np.random.default_rng(0)
    scores = rng.random((len(rows), 2)).astype(np.float32)
    with PredictionFile(tmp_path / "p.parquet") as file:
        file.add(prediction_rows(known_of(data.weeks, rows), data.targets, scores, data.values[rows]))
        file.finish()
    table = known_weeks(tmp_path / "p.parquet", "diabetes")
    assert table["week"].to_list() == rows.tolist()
    found = metadata_score(table, "diabetes", "conditions", data)
    want = baseline_scores(data, "metadata", rows)
    assert found is not None
    assert want is not None
    np.testing.assert_array_equal(found, want[:, data.targets.index("diabetes")])
    other = metadata_score(table, "diabetes", "conditions")
    assert other is not None
    assert not np.allclose(other, found)
    nobody = table.with_columns(
        pl.lit(None, pl.Float32).alias("age"),
        pl.lit(None, pl.String).alias("sex"),
        pl.lit(None, pl.Float32).alias("bmi"),
    )
    assert metadata_score(nobody, "diabetes", "conditions") is None


def test_the_picture_has_a_line_a_person_and_a_dot_a_week() -> None:
    made = cohort(0, people=30)
    it = reliance("sleep_apnea", **made, draws=100)
    figure = reliance_figure(it, made["score"], made["metadata"], made["value"], made["users"], "val", simulated=True)
    [ax] = figure.axes
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == 120
    lines = [path.vertices for each in ax.collections for path in each.get_paths()]
    assert len(lines) == 30
    ranges = sorted(
        (made["score"][made["users"] == i].min(), made["score"][made["users"] == i].max()) for i in range(30)
    )
    np.testing.assert_allclose(sorted((y.min(), y.max()) for y in (each[:, 1] for each in lines)), ranges)
    words = " ".join(each.get_text() for each in figure.texts) + ax.get_title(loc="left")
    assert "sleep apnea, val split" in words
    assert "120 simulated weeks of 30 people" in words
    assert str(it.rank) in words
    one = np.full(120, 0.3)
    same = reliance("sleep_apnea", **made | {"metadata": one}, draws=100)
    alike = reliance_figure(same, made["score"], one, made["value"], made["users"], "val")
    assert alike.axes[0].get_title(loc="left") == "one of the two is the same for all"
    without = reliance_figure(it, made["score"], None, made["value"], made["users"], "val")
    assert without.axes[0].get_xlabel() == "people, by mean score"
