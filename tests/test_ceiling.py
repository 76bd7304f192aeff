"""The ceiling against a plain Monte Carlo posterior, an analytic case, calibration, and fitted classifiers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from heartnet.conditions import CONDITIONS
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.predictions import CEILING, ceiling_predictions, score_table
from heartnet.simulate import ceiling as ceiling_module
from heartnet.simulate import people as people_module
from heartnet.simulate import simulate
from heartnet.simulate import week as week_module
from heartnet.simulate.ceiling import ceiling, expected_auroc, lacking
from heartnet.simulate.literature import BETA_BLOCKER_RATE, BETA_BLOCKER_RESTING, EFFECTS, RISKS, TRAITS, Effect
from heartnet.simulate.people import draw_person, liability_threshold
from heartnet.store import open_store, write_store
from heartnet.tasks import Conditions, Synthetic
from heartnet.weeks import Weeks

RATES = {"atrial_fibrillation": 0.2, "sleep_apnea": 0.3, "diabetes": 0.25, "hypertension": 0.35}


def people_only(count: int, scale: float, rates: Mapping[str, float] = RATES, seed: int = 0) -> Weeks:
    """Return weeks of simulated people with one reading each, in which fibrillation is as good as never seen."""
    thresholds = {risk.condition: liability_threshold(risk, rates[risk.condition]) for risk in people_module.RISKS}
    people = [draw_person(np.random.default_rng([seed, k]), thresholds, scale, 0.0) for k in range(count)]
    columns: dict[str, object] = {
        "user_id": [str(k) for k in range(count)],
        "start": [datetime(2024, 1, 1)] * count,
        "age": [person.age for person in people],
        "sex": ["male" if person.male else "female" for person in people],
        "bmi": [person.bmi for person in people],
        "beta_blocker": [int(person.beta_blocker) for person in people],
        **{c: [person.answers[c] for person in people] for c in CONDITIONS},
        **{f"true_{c}": [person.severity[c] for person in people] for c in CONDITIONS},
        **{f"true_{t.name}": [person.traits[t.name] for person in people] for t in TRAITS},
    }
    monday = int(np.datetime64("2024-01-01", "us").astype(np.int64))
    return Weeks(
        readings=np.tile(np.array([[60, np.nan, np.nan]], np.float32), (count, 1)),
        local_time=np.full(count, monday + 1_000_000),
        offsets=np.arange(count + 1),
        table=pl.DataFrame(columns),
        conditions=CONDITIONS,
        annotations={"in_af": np.zeros(count, np.uint8)},
        provenance={"kind": "simulated", "effect_scale": scale, "base_rates": dict(rates)},
    )


def truth(weeks: Weeks) -> npt.NDArray[np.bool_]:
    return (weeks.table.select(f"true_{c}" for c in CONDITIONS).to_numpy() > 0).astype(bool)


@cache
def scored(count: int, scale: float) -> tuple[Weeks, npt.NDArray[np.float64]]:
    weeks = people_only(count, scale)
    return weeks, ceiling(weeks, np.arange(count))


def test_fibrillation_alone_moves_the_trait_that_is_not_looked_at_and_no_other() -> None:
    """What `ceiling` builds on."""
    pairs = {(effect.condition, effect.trait) for effect in EFFECTS}
    assert {pair for pair in pairs if "atrial_fibrillation" in pair or "af_episodes" in pair} == {
        ("atrial_fibrillation", "af_episodes")
    }


# The posterior of single people


def by_monte_carlo(weeks: Weeks, row: int, draws: int = 200_000) -> npt.NDArray[np.float64]:
    """Weigh people drawn with the same age, sex and BMI by how likely the rest is; nothing of `ceiling` is used."""
    rng = np.random.default_rng(row)
    person = weeks.table.row(row, named=True)
    scale, rates = float(weeks.provenance["effect_scale"]), weeks.provenance["base_rates"]  # type: ignore[arg-type]
    age, bmi = (person["age"] - 42) / 12, math.log(person["bmi"] / 27.8) / 0.2
    sex = (person["sex"] == "male") - 0.63
    shared = rng.standard_normal(draws)
    severity, no_blocker = {}, np.full(draws, 1 - BETA_BLOCKER_RATE)
    for risk in RISKS:
        own = rng.standard_normal(draws)
        liability = risk.age * age + risk.male * sex + risk.bmi * bmi
        liability = liability + risk.shared * shared + math.sqrt(1 - risk.shared**2) * own
        present = liability > liability_threshold(risk, rates[risk.condition])  # type: ignore[index]
        severity[risk.condition] = np.where(present, rng.uniform(0.5, 1.5, draws), 0)
        no_blocker *= np.where(present, 1 - risk.beta_blocker, 1)
    weight = 1 - no_blocker if person["beta_blocker"] else no_blocker
    for trait in TRAITS:
        if trait.spread == 0:
            continue
        value = person[f"true_{trait.name}"]
        mean = trait.age * age + trait.male * sex + trait.bmi * bmi
        mean += BETA_BLOCKER_RESTING * (trait.name == "resting_rate" and bool(person["beta_blocker"]))
        means = mean + scale * sum(
            (e.shift * severity[e.condition] for e in EFFECTS if e.trait == trait.name), np.zeros(draws)
        )
        # A stated trait stands for all that is rounded or clipped to it.
        below, above = value - 0.0005, value + 0.0005
        edges = [math.log(v / trait.centre) if trait.log else v - trait.centre for v in (max(below, 1e-9), above)]
        low = -np.inf if value <= trait.low else edges[0]
        high = np.inf if value >= trait.high else edges[1]
        weight = weight * (_phi((high - means) / trait.spread) - _phi((low - means) / trait.spread))
    return np.array([np.average(severity[c] > 0, weights=weight) for c in CONDITIONS])


def _phi(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.special import ndtr  # scikit-learn brings it

    return np.asarray(ndtr(z))


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_the_posterior_is_that_of_a_monte_carlo_of_the_same_person(scale: float) -> None:
    weeks, found = scored(3000, scale)
    limits = {t.name: (t.low, t.high) for t in TRAITS if t.name in ("circadian_swing", "resting_rate", "sleep_hours")}
    clipped = np.zeros(3000, dtype=bool)
    for name, (low, high) in limits.items():
        value = weeks.table[f"true_{name}"].to_numpy()
        clipped |= (value <= low) | (value >= high)
    youngest = (weeks.table["age"] == 18).to_numpy()  # whose age is clipped
    blocker = (weeks.table["beta_blocker"] == 1).to_numpy()
    rows = [0, 1, *(np.flatnonzero(each)[0] for each in (clipped, youngest, blocker))]
    for row in rows:
        np.testing.assert_allclose(found[row], by_monte_carlo(weeks, int(row)), atol=0.02)


def test_without_traits_and_medication_it_is_the_probit_model() -> None:
    """Summed over the other conditions and over the medication, the quadrature gives Φ(liability − threshold)."""
    weeks = people_only(50, 1.0)
    rows = np.arange(50)
    whole = np.zeros((50, 16))
    for blocker in (0, 1):
        table = weeks.table.with_columns(beta_blocker=pl.lit(blocker))
        whole += np.exp(ceiling_module._log_combinations(replace(weeks, table=table), rows, RATES))
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-12)
    for k, risk in enumerate(RISKS):
        with_it = whole[:, [c for c in range(16) if c >> k & 1]].sum(axis=1)
        for row in range(50):
            person = weeks.table.row(row, named=True)
            liability = risk.age * (person["age"] - 42) / 12 + risk.bmi * math.log(person["bmi"] / 27.8) / 0.2
            liability += risk.male * ((person["sex"] == "male") - 0.63)
            expected = NormalDist().cdf(liability - liability_threshold(risk, RATES[risk.condition]))
            assert with_it[row] == pytest.approx(expected, abs=1e-9)


def test_at_effect_scale_0_the_traits_say_nothing() -> None:
    weeks, found = scored(3000, 0.0)
    shuffled = weeks.table.with_columns(pl.col(f"true_{t.name}").shuffle(seed=1) for t in TRAITS)
    np.testing.assert_allclose(ceiling(replace(weeks, table=shuffled), np.arange(3000)), found, atol=1e-12)
    np.testing.assert_allclose(ceiling(weeks, np.arange(40)), [by_bayes(weeks, row) for row in range(40)], atol=1e-9)


def by_bayes(weeks: Weeks, row: int) -> list[float]:
    """Return the posterior from metadata and medication: a sum over 16 combinations of a sum over the shared factor."""
    person = weeks.table.row(row, named=True)
    grid = np.linspace(-9, 9, 4001)
    density = np.exp(-(grid**2) / 2)
    density /= density.sum()
    joint = np.zeros(len(CONDITIONS))
    total = 0.0
    for combination in range(16):
        likelihood, no_blocker = density.copy(), 1 - BETA_BLOCKER_RATE
        for k, risk in enumerate(RISKS):
            mean = risk.age * (person["age"] - 42) / 12 + risk.bmi * math.log(person["bmi"] / 27.8) / 0.2
            mean += risk.male * ((person["sex"] == "male") - 0.63) + risk.shared * grid
            above = (mean - liability_threshold(risk, RATES[risk.condition])) / math.sqrt(1 - risk.shared**2)
            has = combination >> k & 1
            likelihood *= _phi(above if has else -above)
            no_blocker *= 1 - risk.beta_blocker * has
        mass = likelihood.sum() * (1 - no_blocker if person["beta_blocker"] else no_blocker)
        total += mass
        joint += mass * np.array([combination >> k & 1 for k in range(4)])
    return list(joint / total)


@pytest.mark.parametrize(("scale", "tolerance"), [(0.5, 1e-9), (1.0, 1e-9), (4.0, 1e-7), (12.0, 1e-3), (1e6, 1e-3)])
def test_the_quadrature_is_fine_enough(scale: float, tolerance: float) -> None:
    weeks = people_only(100, scale)
    rows = np.arange(100)
    found = ceiling(weeks, rows)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, ceiling(weeks, rows, nodes=20), atol=tolerance)


# Many people


def test_one_condition_one_trait_has_the_analytic_auroc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two normals d apart have AUROC Φ(d/√2); here d = scale · shift · severity / spread, even over severities."""
    alone = tuple(replace(r, age=0.0, male=0.0, bmi=0.0, shared=0.0, beta_blocker=0.0) for r in RISKS)
    effect = (Effect("diabetes", "walking_rise", 4.0, "a test"),)
    for module in (people_module, ceiling_module):
        monkeypatch.setattr(module, "RISKS", alone)
        monkeypatch.setattr(module, "EFFECTS", effect)
    weeks = people_only(8000, 1.0)
    found, has = ceiling(weeks, np.arange(8000)), truth(weeks)
    severities = (np.arange(1000) + 0.5) / 1000 + 0.5
    expected = np.mean([NormalDist().cdf(4.0 * s / 5.0 / math.sqrt(2)) for s in severities])
    assert roc_auc_score(has[:, 2], found[:, 2]) == pytest.approx(expected, abs=0.015)
    for other in (0, 1, 3):
        np.testing.assert_allclose(found[:, other], RATES[CONDITIONS[other]], atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_posterior_is_calibrated(scale: float) -> None:
    """Among people with like posteriors the share with the condition is their mean, within four standard errors."""
    weeks, found = scored(6000, scale)
    has = truth(weeks)
    for k in range(len(CONDITIONS)):
        order = np.argsort(found[:, k])
        for part in np.array_split(order, 12):
            probability = found[part, k]
            error = math.sqrt((probability * (1 - probability)).sum()) / len(part) + 1e-3
            assert abs(has[part, k].mean() - probability.mean()) < 4 * error


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_no_fitted_classifier_does_better(scale: float) -> None:
    weeks, found = scored(6000, scale)
    has = truth(weeks)
    seen = [f"true_{t.name}" for t in TRAITS if t.name != "af_episodes"]
    features = weeks.table.select("age", pl.col("sex") == "male", pl.col("bmi").log(), "beta_blocker", *seen).to_numpy()
    train, test = slice(0, 4000), slice(4000, 6000)
    for k in range(len(CONDITIONS)):
        best_auroc = roc_auc_score(has[test, k], found[test, k])
        best_loss = log_loss(has[test, k], found[test, k])
        for model in (
            make_pipeline(StandardScaler(), LogisticRegression()),
            HistGradientBoostingClassifier(learning_rate=0.05, max_iter=60, max_leaf_nodes=6),
        ):
            fitted = model.fit(features[train], has[train, k]).predict_proba(features[test])[:, 1]
            assert roc_auc_score(has[test, k], fitted) < best_auroc + 0.008
            assert log_loss(has[test, k], fitted) > best_loss - 0.002


def test_the_auroc_to_expect_is_the_mean_over_labels_drawn_from_the_posterior() -> None:
    rng = np.random.default_rng(0)
    probability = rng.beta(0.5, 2, 300).round(2)  # with ties
    pairs = [
        (p * (1 - q), p > q, p == q) for i, p in enumerate(probability) for j, q in enumerate(probability) if i != j
    ]
    naive = sum(w * (ahead + 0.5 * tied) for w, ahead, tied in pairs) / sum(w for w, _, _ in pairs)
    assert expected_auroc(probability) == pytest.approx(naive, abs=1e-12)
    drawn = [roc_auc_score(rng.random(300) < probability, probability) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(naive, abs=0.005)
    assert math.isnan(expected_auroc(np.array([1.0, 1.0])))
    weeks, found = scored(6000, 4.0)
    for k in range(len(CONDITIONS)):
        assert roc_auc_score(truth(weeks)[:, k], found[:, k]) == pytest.approx(expected_auroc(found[:, k]), abs=0.012)


# Fibrillation in the week


def test_the_share_of_episodes_that_meet_a_measurement() -> None:
    """Against episodes drawn one by one over the measurements of real simulated weeks."""
    weeks = simulate(users=6, weeks_per_user=1, seed=21, effect_scale=3.0)
    rng = np.random.default_rng(0)
    for row in range(6):
        measured = ceiling_module._measured_at(weeks, row)
        start = rng.integers(0, week_module.WEEK, 20_000)
        hours = np.clip(6 * np.exp(0.9 * rng.standard_normal(20_000)), 0.5, 60)
        first = np.searchsorted(measured, start)
        met = np.append(measured, np.inf)[first] < start + 3600 * hours
        assert ceiling_module._share_seen(measured) == pytest.approx(met.mean(), abs=0.008)
    assert ceiling_module._share_seen(np.array([])) == 0.0


def test_whether_fibrillation_is_seen_follows_the_stated_law() -> None:
    weeks = simulate(users=500, weeks_per_user=1, seed=22, base_rates={"atrial_fibrillation": 1.0}, effect_scale=2.0)
    expected, found = 0.0, 0
    for row, episodes in enumerate(weeks.table["true_af_episodes"]):
        expected += 1 - math.exp(-episodes * ceiling_module._share_seen(ceiling_module._measured_at(weeks, row)))
        found += ceiling_module._fibrillates(weeks, row)
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected / 4))


def test_fibrillation_seen_is_certain_and_not_seen_is_calibrated() -> None:
    weeks = simulate(users=900, weeks_per_user=1, seed=23, base_rates={"atrial_fibrillation": 0.5}, effect_scale=1.0)
    rows = np.arange(len(weeks))
    probability = ceiling(weeks, rows)[:, 0]
    seen = np.array([ceiling_module._fibrillates(weeks, int(row)) for row in rows])
    has = truth(weeks)[:, 0]
    assert np.all(probability[seen] > 1 - 1e-9)
    left = probability[~seen]
    assert has[~seen].mean() == pytest.approx(left.mean(), abs=4 * math.sqrt((left * (1 - left)).sum()) / len(left))
    # The trait itself is not looked at.
    blind = weeks.table.with_columns(true_af_episodes=pl.lit(0.0))
    np.testing.assert_array_equal(ceiling(replace(weeks, table=blind), rows)[:, 0], probability)


# Beside the scores


def test_it_is_one_more_model_of_the_predictions(tmp_path: Path) -> None:
    weeks = simulate(users=60, weeks_per_user=2, seed=3)
    rows = np.array([3, 1, 50])
    names = ["sleep_apnea", "hypertension"]
    data = WeeksDataModule(weeks, Conditions(names))
    frame = ceiling_predictions(data, rows)
    assert frame is not None
    assert set(frame["model"]) == {CEILING}
    expected = ceiling(weeks, rows)[:, [1, 3]]
    for i, name in enumerate(names):
        part = frame.filter(pl.col("target") == name)
        assert part["week"].to_list() == rows.tolist()
        np.testing.assert_allclose(part["score"].to_numpy(), expected[:, i], rtol=1e-6)
    whole = ceiling_predictions(data, data.rows["test"])
    assert whole is not None
    assert score_table(whole, "conditions")["auroc"].drop_nulls().is_between(0, 1).all()

    write_store(weeks, tmp_path / "weeks")
    np.testing.assert_array_equal(ceiling(open_store(tmp_path / "weeks"), rows), ceiling(weeks, rows))


def test_there_is_none_for_other_targets_and_other_weeks(make_weeks: object) -> None:
    weeks = simulate(users=20, weeks_per_user=1, seed=3)
    assert ceiling_predictions(WeeksDataModule(weeks, Synthetic()), np.array([0])) is None
    real = make_weeks(missing=0.0)  # type: ignore[operator]
    assert ceiling_predictions(WeeksDataModule(real, Conditions()), np.array([0])) is None
    with pytest.raises(HeartnetError, match="not simulated"):
        ceiling(real, np.array([0]))


def test_what_is_lacking_is_named() -> None:
    weeks = simulate(users=20, weeks_per_user=1, seed=3)
    assert lacking(weeks) == []
    poor = replace(weeks, table=weeks.table.drop("true_resting_rate"), annotations={}, provenance={"kind": "simulated"})
    with pytest.raises(HeartnetError, match=r"true_resting_rate.*in_af.*effect_scale.*base_rates"):
        ceiling(poor, np.array([0]))
    assert ceiling_predictions(WeeksDataModule(poor, Conditions()), np.array([0])) is None
    assert lacking(weeks, ["gout"]) == ["the simulated condition gout"]
