"""Verdicts on scores: found faults and false alarms on simulated cohorts, and what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_calibration import cohort

from heartnet.diagnostics.score_quality import agreement, quality
from heartnet.diagnostics.score_verdicts import agreement_finding, quality_findings
from heartnet.finding_rows import rows
from heartnet.findings import Finding

SETTINGS = {"module.weight_decay": 0.01, "model.dropout": 0.2, "trainer.max_epochs": 30}


def verdicts(seed: int, users: int, **made: float) -> list[Finding]:
    score, value, user = cohort(seed, users, 2, **made)
    return quality_findings(quality("it", score, value, user, draws=200), "test", settings=SETTINGS)


@pytest.mark.parametrize(
    ("made", "word", "first"),
    [
        ({"temperature": 2.5}, "Overconfident", "module.weight_decay=0.1"),
        ({"temperature": 0.3}, "Underconfident", "trainer.max_epochs=60"),
        ({"shift": 1.2}, "Too high as a whole", None),
        ({"shift": -1.2}, "Too low as a whole", None),
    ],
)
def test_it_finds_what_is_wrong_in_nine_of_ten(made: dict[str, float], word: str, first: str | None) -> None:
    found = [verdicts(seed, 300, **made)[-1] for seed in range(10)]
    hits = [each for each in found if each.status == "warn" and word in each.message]
    assert len(hits) >= 9
    assert all(first in each.try_ for each in hits if first is not None)
    assert all(each.where == "test: it, calibration" for each in found)


@pytest.mark.parametrize("users", [60, 300])
def test_calibrated_scores_raise_no_alarm(users: int) -> None:
    found = [verdicts(seed, users)[-1] for seed in range(20)]
    judged = [each for each in found if each.where == "test: it, calibration"]
    assert len(judged) >= 18, "the others are too few people"
    assert sum(each.status in ("warn", "fail") for each in judged) <= 1


def test_chance_and_the_wrong_way_round_and_few() -> None:
    rng = np.random.default_rng(0)
    user = np.arange(200)
    value = (rng.random(200) < 0.4).astype(float)
    chance = quality_findings(quality("it", rng.random(200), value, user, draws=200), "val", simulated=True)[0]
    assert (chance.status, chance.where, chance.limit) == ("warn", "val: it", 0.5)
    assert "cannot be told from chance" in chance.message
    assert "200 simulated weeks of 200 people" in chance.message
    wrong = quality_findings(quality("it", 0.5 - 0.3 * value + 0.1 * rng.random(200), value, user, draws=200), "val")[0]
    assert wrong.status == "fail"
    assert "wrong way round" in wrong.message
    few = np.zeros(200)
    few[:9] = 1
    some = quality("it", rng.random(200), few, user, draws=200)
    [said] = quality_findings(some, "test", more="Add people.")
    assert said.status == "unknown"
    assert "People with it: 9, without it: 191; fewer than 10" in said.message
    assert said.message.endswith(" Add people.")
    none = quality_findings(quality("it", rng.random(200), 0 * few, user), "val", more="Add people.")
    assert len(rows([said, *none])) == 1, "conditions of which few or none have it are one row"
    weeks = quality_findings(quality("it", rng.random(200), value, np.zeros(200), by="week", draws=200), "test")[0]
    assert "nothing is said of new people" in weeks.message


def test_one_class_and_no_overlap_and_no_probabilities() -> None:
    user = np.arange(60)
    [none] = quality_findings(quality("it", np.linspace(0, 1, 60), np.zeros(60), user), "test")
    assert "People with it: 0, without it: 60;" in none.message
    value = (user >= 30).astype(float)
    close = quality_findings(quality("it", 0.4 + user / 300, value, user, draws=200), "test")[-1]
    assert close.status == "warn"
    assert "without any overlap" in close.message
    sure = quality_findings(quality("it", np.where(value == 1, 0.99, 0.01), value, user, draws=200), "test")[-1]
    assert sure.status == "unknown"
    only = quality_findings(quality("it", 3 * value + user, value, user, draws=200), "test")
    assert [each.where for each in only] == ["test: it"]
    nan = np.where(user == 3, np.nan, 0.5)
    [diverged] = quality_findings(quality("it", nan, value, user), "test")
    assert diverged.status == "fail"


def test_synthetic_targets() -> None:
    rng = np.random.default_rng(0)
    value, user = rng.normal(10, 3, 100), np.arange(100) // 2
    good = agreement("it", value + rng.normal(size=100), value, user, draws=200)
    assert good.r2.value == pytest.approx(1 - ((good.mae.value * math.sqrt(math.pi / 2)) ** 2) / value.var(), abs=0.05)
    found = agreement_finding(good, "test", unit="bpm")
    assert found.status == "pass"
    assert "100 weeks of 50 people" in found.message
    assert agreement_finding(agreement("it", np.full(100, 10.0), value, user), "test", unit="bpm").status == "warn"
    assert agreement_finding(agreement("it", value, np.ones(100), user), "test", unit="bpm").value is None
    assert agreement_finding(agreement("it", value * np.nan, value, user), "test", unit="bpm").status == "fail"
