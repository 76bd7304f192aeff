"""Verdicts against simple models: numbers against other libraries, words for tables of known scores, rates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from heartnet.diagnostics.baseline_verdicts import About, condition_findings, relation, remedies
from heartnet.diagnostics.comparison import Comparison, compare, logits_of
from heartnet.diagnostics.learnability import target_findings
from heartnet.diagnostics.linear_share import linear_share
from heartnet.finding_rows import rows, unknown_words
from heartnet.findings import Finding
from heartnet.predictions import CEILING, FOLD, NETWORK
from heartnet.resampling import Interval

Arrays = dict[str, np.ndarray]


def frame(model: str, value: np.ndarray, score: np.ndarray, user: np.ndarray, target: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "model": model,
            "user_id": [f"user-{i:04d}" for i in user],
            "week": np.arange(len(user)),
            "target": target,
            "value": pl.Series(value, dtype=pl.Float32).fill_nan(None),
            "score": pl.Series(score, dtype=pl.Float32),
        }
    )


def table(value: np.ndarray, scores: Arrays, user: np.ndarray | None = None, target: str = "diabetes") -> pl.DataFrame:
    user = np.arange(len(value)) if user is None else user
    return pl.concat([frame(model, value, score, user, target) for model, score in scores.items()])


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def people(seed: int, users: int = 400, weeks: int = 2, share: float = 0.25) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return whose week each is, a condition, and a function that draws a score of a given strength."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), weeks)
    has = (rng.random(users) < share)[user]

    def score(strength: float, like: np.ndarray | None = None, alike: float = 0.6) -> np.ndarray:
        own = rng.normal(size=users)[user] + 0.5 * rng.normal(size=len(user))
        if like is not None:
            own = alike * like + math.sqrt(1 - alike**2) * own
        drawn: np.ndarray = own + strength * has
        return drawn

    return user, has.astype(float), score


def verdict(value: np.ndarray, scores: Arrays, user: np.ndarray | None = None, **about: Any) -> Finding:
    found = condition_findings(compare(table(value, scores, user), "conditions", draws=200), About(**about))
    assert len(found) == 1
    assert (found[0].check, found[0].where) == ("baseline", "diabetes")
    return found[0]


def test_numbers_against_scikit_learn_and_scipy() -> None:
    user, value, score = people(0, users=50)
    value[:7] = np.nan
    network, metadata = sigmoid(score(2.5)), sigmoid(0.3 * score(0.5))
    predictions = table(value, {"metadata": metadata, NETWORK: network, CEILING: value}, user)
    other = table(value, {"hourly": network}, user).filter(pl.col("week") >= 20)  # who lacks some weeks
    [found] = compare(pl.concat([predictions, other]), "conditions", draws=200)
    rows = np.arange(20, 100)
    assert (found.target, found.weeks, found.users) == ("diabetes", 80, 40)
    assert found.having == len(np.unique(user[rows][value[rows] == 1]))
    assert found.without == len(np.unique(user[rows][value[rows] == 0]))
    assert found.network.value == pytest.approx(roc_auc_score(value[rows], network[rows]), abs=1e-6)
    assert found.baselines["metadata"].value == pytest.approx(roc_auc_score(value[rows], metadata[rows]), abs=1e-6)
    gap = found.differences["metadata"]
    assert gap.value == pytest.approx(found.network.value - found.baselines["metadata"].value)
    assert found.differences["hourly"] == Interval(0, 0, 0)  # paired: the same scores on the same people
    assert set(found.baselines) == {"metadata", "hourly"}
    assert found.ceiling == 1
    assert found.rank["metadata"] == pytest.approx(scipy.stats.spearmanr(network[rows], metadata[rows])[0], abs=1e-6)
    assert found.spread == pytest.approx(1, abs=1e-6)  # the best linear baseline is the network itself

    def span(scores: np.ndarray) -> float:
        return float(np.subtract(*np.percentile(np.log(scores / (1 - scores))[rows], [95, 5])))

    [only] = compare(predictions.filter(pl.col("week") >= 20), "conditions", draws=200)
    assert only.spread == pytest.approx(span(network) / span(metadata), rel=1e-4)


def test_errors_of_synthetic_targets_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(20, 5, 60)
    scores = {NETWORK: value + rng.normal(0, 2, 60), "hourly": value + rng.normal(0, 4, 60)}
    [found] = compare(table(value, scores), "synthetic", draws=200)
    for name, score in scores.items():
        mean, square = found.errors[name]
        assert mean == pytest.approx(mean_absolute_error(value, score), rel=1e-5)
        assert square == pytest.approx(math.sqrt(mean_squared_error(value, score)), rel=1e-5)
    assert found.network.value == pytest.approx(r2_score(value, scores[NETWORK]), abs=1e-5)
    assert found.differences["hourly"].low > 0
    assert found.spread is None
    assert logits_of(np.array([0.5, 0.75])) == pytest.approx([0, math.log(3)])
    assert logits_of(np.array([-3.0, 2.0])) == pytest.approx([-3, 2])


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.05, 0.01, 0.09, "better"),
        (0.001, 0.0005, 0.002, "better"),
        (-0.05, -0.09, -0.01, "worse"),
        (-0.01, -0.015, -0.005, "equal"),
        (0.0, -0.015, 0.015, "equal"),
        (-0.06, -0.13, 0.01, "equal"),
        (0.01, -0.05, 0.07, "unsure"),
    ],
)
def test_relation(value: float, low: float, high: float, expected: str) -> None:
    assert relation(Interval(value, low, high), margin=0.02) == expected


def test_better_worse_equal_and_not_to_be_told() -> None:
    user, value, score = people(1)
    simple = score(1.0)
    good = verdict(value, {NETWORK: sigmoid(score(2.2, simple)), "hourly": sigmoid(simple)}, user)
    assert good.status == "pass"
    assert good.message.startswith("diabetes 0.223 better than hourly. 95 %: 0.1")
    assert good.unit == "AUROC over hourly"
    bad = verdict(value, {NETWORK: sigmoid(score(0.2)), "hourly": sigmoid(simple), "boosting": sigmoid(simple)}, user)
    assert bad.status == "fail"
    assert bad.value is not None
    assert bad.value < -0.1
    assert (
        "Worse than a logistic regression on mean and spread of hourly features: the network is broken" in bad.message
    )
    like = simple + 0.25 * np.random.default_rng(0).normal(size=len(simple))
    same = verdict(value, {NETWORK: sigmoid(like), "hourly": sigmoid(simple)}, user)
    assert same.status == "warn"
    assert "No better than" in same.message
    assert "no value beyond such simple features" in same.message
    few = user < 90
    wide = verdict(value[few], {NETWORK: sigmoid(score(1.3)[few]), "hourly": sigmoid(simple[few])}, user[few])
    assert wide.status == "warn"
    assert "too wide to tell" in wide.message
    assert "times as many people it could be told" in wide.message


def test_below_boosting_only_is_not_broken() -> None:
    user, value, score = people(2)
    simple = score(0.5)
    network = score(1.5, simple)
    scores = {NETWORK: sigmoid(network), "hourly": sigmoid(simple), "boosting": sigmoid(score(3.0))}
    found = verdict(value, scores, user)
    assert found.status == "warn"
    assert "Worse than gradient boosting" in found.message
    assert "broken" not in found.message


def test_metadata() -> None:
    user, value, score = people(3)
    metadata = score(1.5)
    leaning = metadata + 0.3 * score(0.0)
    scores = {NETWORK: sigmoid(leaning), "metadata": sigmoid(metadata), "hourly": sigmoid(score(0.3))}
    found = verdict(value, scores, user, sees_metadata=True)
    assert found.status == "warn"
    assert "it may be leaning on them" in found.message
    apart = {**scores, NETWORK: sigmoid(score(1.5))}  # tells as much, from something else
    said = verdict(value, apart, user, sees_metadata=True).message
    assert "leaning" not in said
    assert "not shown to be better, though it ranks otherwise than they do" in said
    blind = {**scores, NETWORK: sigmoid(score(0.9))}
    settings = {"model.metadata": "none", "model.readout": "mean", "module.learning_rate": 1e-3}
    found = verdict(value, blind, user, sees_metadata=False, settings=settings)
    assert found.status == "warn"  # not broken: it does not see them
    assert "The network does not see age, sex and BMI." in found.message
    assert "leaning" not in found.message
    assert found.try_ == ("model.metadata=lstm_state", "model.readout=both_ends", "module.learning_rate=3e-3")
    assert verdict(value, blind, user, sees_metadata=True).status == "fail"
    strong = {**scores, NETWORK: sigmoid(score(3.0))}
    assert verdict(value, strong, user, sees_metadata=True).status == "pass"


def test_few_people_get_no_verdict() -> None:
    user, value, score = people(4, users=60, share=0.1)
    assert 0 < len(np.unique(user[value == 1])) < 10
    scores = {NETWORK: sigmoid(score(5.0)), "hourly": sigmoid(score(0.0))}
    found = verdict(value, scores, user)
    assert (found.status, found.value) == ("unknown", None)
    assert "fewer than 10 of each are too few to tell" in found.message
    shown = unknown_words(rows([found, replace(found, where="a condition of a long name")])[0])
    assert "Raise data.test_share, cross-validate by person, or add people." in shown, "on the terminal, too"
    one = verdict(np.zeros(40), {NETWORK: scores[NETWORK][:40], "hourly": scores["hourly"][:40]})
    assert "people with it: 0, without it: 40;" in one.message
    assert "nan" not in one.message
    assert "Raise data.test_share, cross-validate by person, or add people." in found.message
    folds = verdict(value, scores, user, folds=True).message
    assert "Add people." in folds
    assert "cross-validate" not in folds


def test_weeks_of_one_person_are_resampled_as_weeks() -> None:
    _, value, score = people(5, users=200, weeks=1)
    scores = {NETWORK: sigmoid(score(3.0)), "hourly": sigmoid(score(0.5))}
    predictions = table(value, scores, np.zeros(200, dtype=int))
    [alone] = condition_findings(compare(predictions, "conditions", draws=200), About())
    assert "people with it: 1, without it: 1;" in alone.message
    [found] = condition_findings(compare(predictions, "conditions", by="week", draws=200), About())
    assert found.status == "pass"
    assert "weeks with it" in found.message


def test_what_diverged_and_what_has_no_baseline() -> None:
    user, value, score = people(6)
    scores = sigmoid(score(1.0))
    scores[3] = np.nan
    found = verdict(value, {NETWORK: scores, "hourly": sigmoid(score(1.0))}, user)
    assert (found.status, found.value) == ("fail", None)
    assert "NaN or infinite for 1 of 800" in found.message
    assert "no baseline" in verdict(value, {NETWORK: sigmoid(score(1.0))}, user).message


def test_below_chance() -> None:
    user, value, score = people(7)
    found = verdict(value, {NETWORK: sigmoid(score(-1.0)), "hourly": sigmoid(score(1.0))}, user)
    assert found.status == "fail"
    assert "wrong way round" in found.message


def of_folds(frame: pl.DataFrame, fold: Any) -> Finding:
    names = pl.Series(FOLD, [f"fold-{fold[week]}" for week in frame["week"]])
    [found] = condition_findings(compare(frame.with_columns(names), "conditions", draws=200), About(folds=True))
    return found


def test_of_folds_the_order_within_them_decides() -> None:
    user, value, score = people(7)
    fold = user % 4
    inverted = table(value, {NETWORK: sigmoid(score(-1.0)), "hourly": sigmoid(score(1.0))}, user)
    assert of_folds(inverted, fold).status == "fail"
    level = 12.0 * np.where(fold < 2, 1.0, -1.0)
    good = table(value, {NETWORK: sigmoid(score(1.0) + level), "hourly": sigmoid(score(0.3))}, user)
    found = of_folds(good, fold)
    assert found.status == "pass"
    assert "better than hourly within folds" in found.message
    assert "With all folds ranked together the network has 0." in found.message
    [plain] = condition_findings(compare(good, "conditions", draws=200), About(folds=True))
    assert plain.status != "pass", "all folds together it is not to be told"


def test_where_no_fold_has_both_classes_it_is_said_what_to_do() -> None:
    user, value, score = people(7)
    found = of_folds(table(value, {NETWORK: sigmoid(score(2.0)), "hourly": sigmoid(score(1.0))}, user), user)
    assert found.status == "unknown"
    assert found.value is not None
    assert "no fold tests both people with it and people without" in found.message
    assert "data.folds=5" in found.message
    assert "AUROC of all folds together: 0." in found.message
    assert "data.folds=5" in unknown_words(rows([found, replace(found, where="another one")])[0])
    assert "hourly 0." in found.message


# Faults 11, 12 and 30


def test_a_constant_prediction_is_named_where_it_can_be_told() -> None:
    user, value, score = people(8, share=0.08)
    constant = sigmoid(-2.4 + 0.01 * score(0.0))
    scores = {NETWORK: constant, "hourly": sigmoid(-2.5 + score(1.5))}
    found = verdict(value, scores, user)
    assert found.status == "fail"
    assert found.unit == "of a baseline's spread"
    assert found.value is not None
    assert found.value < 0.02
    assert "hardly differ between weeks" in found.message
    exact = verdict(value, {**scores, NETWORK: np.full(len(value), 0.08)}, user)
    assert (exact.status, exact.value) == ("fail", 0)
    untold = verdict(value, {NETWORK: constant, "hourly": sigmoid(-2.5 + score(0.0))}, user)
    assert "base rate" not in untold.message  # where nobody can tell, the base rate is the right answer
    ranks = verdict(value, {**scores, NETWORK: sigmoid(-2.4 + 0.01 * score(4.0))}, user)
    assert ranks.status == "pass"  # timid, but better


def test_a_linear_network_is_named() -> None:
    user, value, score = people(9)
    simple = score(1.2)
    same = verdict(value, {NETWORK: sigmoid(3 * simple + 1), "hourly": sigmoid(simple)}, user)
    assert same.status == "warn"
    assert "no more than a linear model (it orders weeks as a logistic regression" in same.message
    assert "rank correlation of 1.000" in same.message
    better = {NETWORK: sigmoid(score(2.5)), "hourly": sigmoid(simple)}
    assert verdict(value, better, user, linear={"diabetes": 0.99}).status == "pass"
    found = verdict(value, better, user, linear={"diabetes": 0.9995})
    assert found.status == "warn"
    assert "linear in the means of a week's inputs" in found.message


def test_labels_of_other_weeks_are_named() -> None:
    user, value, score = people(10)
    names = ("metadata", "hourly", "boosting", NETWORK)
    tables = [table(value, {name: sigmoid(score(0.0)) for name in names}, user, target) for target in ("a", "b")]
    found = condition_findings(compare(pl.concat(tables), "conditions", draws=500), About())
    assert [each.status for each in found] == ["fail", "fail"]
    assert all("Do labels and weeks belong together?" in each.message for each in found)
    told = table(value, {name: sigmoid(score(1.5)) for name in names}, user, "b")
    found = condition_findings(compare(pl.concat([tables[0], told]), "conditions", draws=500), About())
    assert found[0].status == "warn"  # one of two: perhaps nothing tells this one
    assert "It is so for all conditions" not in found[0].message


def test_linear_share() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(200, 4))
    line = means @ [1.0, -2.0, 0.5, 0.0]
    assert linear_share(line, np.concatenate([means, np.full((200, 1), 7.0)], axis=1)) == pytest.approx(1)
    assert linear_share(line + np.maximum(line, 0), means) < 0.99
    assert linear_share(rng.normal(size=200), means) < 0.1
    assert math.isnan(linear_share(line[:15], means[:15]))
    assert math.isnan(linear_share(np.full(200, 2.0), means))
    # half of the variance is noise that no inputs explain
    assert linear_share(line + line.std() * rng.normal(size=200), means) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.LeakyReLU(), torch.nn.GELU()])
def test_convolutions_without_activation_are_linear_in_means(activation: torch.nn.Module) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv1d(2, 8, 5, padding=2), activation, torch.nn.Conv1d(8, 1, 5, padding=2)]
    inputs = torch.randn(300, 2, 168) + torch.randn(300, 2, 1)
    with torch.no_grad():
        logit = torch.nn.Sequential(*layers)(inputs).mean(dim=2)[:, 0].double().numpy()
    means = torch.cat([inputs.mean(2), inputs[..., :11].mean(2), inputs[..., -11:].mean(2)], 1).double().numpy()
    assert (linear_share(logit, means) > 0.999) == isinstance(activation, torch.nn.Identity)


def test_remedies_exist_and_are_new() -> None:
    assert remedies({}) == ()
    ours = {"model.readout": "mean", "model.forget_bias": "default", "module.learning_rate": 1e-3}
    assert remedies({**ours, "trainer.max_epochs": 4}) == (
        "model.readout=both_ends", "model.forget_bias=chrono", "module.learning_rate=3e-3", "trainer.max_epochs=8",
    )  # fmt: skip
    assert remedies({"model.readout": "last", "module.learning_rate": 4e-3, "trainer.max_epochs": -1}) == ()


# The gate


def gate(value: np.ndarray, scores: Arrays, **about: Any) -> Finding:
    compared = compare(table(value, scores, target="resting_rate"), "synthetic", draws=500)
    [found] = target_findings(
        compared, About(**about), units={"resting_rate": "bpm"}, guesses={"resting_rate": (4.0, 5.0)}
    )
    return found


def test_the_gate() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(60, 5, 300)
    noise = rng.normal(size=(2, 300))
    linear = value + 3 * noise[1]
    good = gate(value, {NETWORK: value + noise[0], "hourly": linear})
    assert good.status == "pass"
    assert good.message.startswith("resting_rate 96% of variance explained. 96% of")
    assert good.limit == 0.8
    settings = {"model.readout": "mean", "trainer.max_epochs": 3}
    bad = gate(value, {NETWORK: value + 4 * noise[0], "hourly": linear, "metadata": value}, settings=settings)
    assert bad.status == "fail"
    assert "Worse than the linear regression on hourly features" in bad.message
    assert "on metadata" not in bad.message
    errors = 4 * noise[0]
    said = f"bpm: {np.abs(errors).mean():.3g} and {np.sqrt((errors**2).mean()):.3g} (the network)"
    assert said in bad.message
    assert "4 and 5 (the training mean)" in bad.message
    assert bad.try_ == ("model.readout=both_ends", "trainer.max_epochs=6")
    short = gate(value, {NETWORK: value + 3.2 * noise[0], "hourly": value + 5 * noise[1]})
    assert short.status == "fail"  # better than the linear regression, and yet not enough
    assert "Worse" not in short.message
    assert "train/loss" in short.message
    near = gate(value, {NETWORK: value + 2.25 * noise[0], "hourly": linear})
    assert near.value is not None
    assert (near.status == "warn") == (near.value < 0.8)
    lost = gate(value, {NETWORK: np.full(300, 60.0), "hourly": np.full(300, 60.0)})
    assert lost.status == "fail"
    assert "do the targets belong to these weeks?" in lost.message
    few = gate(value[:8], {NETWORK: value[:8], "hourly": linear[:8]})
    assert (few.status, few.value) == ("unknown", None)
    broken = gate(value, {NETWORK: np.full(300, np.nan), "hourly": linear})
    assert broken.status == "fail"


# Rates


def test_clean_tables_are_silent_and_faults_are_named() -> None:
    """Scores of 400 people, 25 % having it, of whom a regression has 0.70 and a good network 0.86."""
    counts = dict.fromkeys(("clean", "broken", "no value", "constant", "linear", "lost"), 0)
    seeds = 20
    for seed in range(seeds):
        user, value, score = people(100 + seed, weeks=1)
        simple, metadata = score(0.85), score(0.6)
        base = {"metadata": sigmoid(metadata), "hourly": sigmoid(simple), "boosting": sigmoid(score(1.0, simple))}
        counts["clean"] += verdict(value, {**base, NETWORK: sigmoid(score(1.7, simple))}, user).status != "pass"
        counts["broken"] += "is broken" in verdict(value, {**base, NETWORK: sigmoid(score(0.1))}, user).message
        copy = simple + 0.2 * score(0.0)
        found = verdict(value, {"hourly": base["hourly"], NETWORK: sigmoid(copy)}, user)
        counts["no value"] += "no value beyond" in found.message
        found = verdict(value, {**base, NETWORK: sigmoid(0.02 * score(0.0))}, user)
        counts["constant"] += "hardly differ" in found.message
        found = verdict(value, {**base, NETWORK: sigmoid(2 * simple)}, user)
        counts["linear"] += "no more than a linear model" in found.message
        found = verdict(value, {name: sigmoid(score(0.0)) for name in (*base, NETWORK)}, user)
        counts["lost"] += "belong together" in found.message
    assert counts["clean"] == 0, counts
    assert min(counts[name] for name in counts if name not in ("clean", "no value")) >= seeds - 1, counts
    assert counts["no value"] >= 15, counts


def test_findings_say_the_step() -> None:
    it = Comparison("diabetes", 3, diverged=1)
    assert condition_findings([it], About(step=7))[0].step == 7
    assert condition_findings([replace(it, weeks=5)], About())[0].where == "diabetes"
