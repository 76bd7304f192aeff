"""Loss patterns: what each person adds to the test against slow fits, and what is and is not found in drawn labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from heartnet.diagnostics.loss_patterns import LEVEL, find_patterns
from heartnet.diagnostics.loss_patterns_found import Search
from heartnet.diagnostics.loss_patterns_groups import STRATA, in_and_out, stratified
from heartnet.diagnostics.loss_patterns_proposals import Clause, holds, proposals, words
from heartnet.diagnostics.loss_patterns_telling import Telling, chance_of, deviation, holm
from heartnet.errors import HeartnetError

Floats = npt.NDArray[np.float64]


def people(seed: int, count: int, weeks_each: int = 1) -> tuple[pl.DataFrame, Floats, np.random.Generator]:
    """Return weeks of some people with columns of which none says anything, and a signal, `[week]`."""
    rng = np.random.default_rng(seed)
    each = np.repeat(np.arange(count), weeks_each)
    table = pl.DataFrame(
        {
            "user_id": [f"user-{k:04d}" for k in each],
            "age": rng.normal(45, 12, count)[each].astype(np.float32),
            "sex": np.where(rng.random(count) < 0.5, "male", "female")[each],
            "device": np.where(rng.random(count) < 0.25, "old", "new")[each],
            "wear_hours": rng.uniform(30, 160, len(each)).astype(np.float32),
            "workout_hours": rng.gamma(1.0, 1.5, len(each)).astype(np.float32),
            "clock_changes": (rng.random(len(each)) < 0.15).astype(np.float32),
            "mean_of_steps": rng.normal(400, 100, count)[each].astype(np.float32),
        }
    )
    return table, rng.normal(0, 1.3, count)[each], rng


def labels(rng: np.random.Generator, table: pl.DataFrame, odds: Floats) -> Floats:
    """Return labels, the same in all weeks of a person, from the log odds in each one's first week."""
    _, first, whose = np.unique(table["user_id"].to_numpy(), return_index=True, return_inverse=True)
    return (rng.random(len(first)) < expit(odds[first]))[whose].astype(np.float64)


def search(table: pl.DataFrame, odds: Floats, value: Floats, seed: int = 0) -> Search:
    return find_patterns(table, ("one",), expit(odds)[:, None], value[:, None], draws=200, seed=seed)


# The test


@pytest.mark.parametrize("less", [0.0, 0.2])
def test_what_people_add_is_the_score_of_the_interaction(less: float) -> None:
    """The sum of contributions against a numerical derivative of the likelihood, profiled over the nuisance."""
    table, signal, rng = people(0, 300)
    inside = (table["device"] == "old").to_numpy()
    value = labels(rng, table, signal * np.where(inside, 0.3, 1.0) + 0.8 * inside)
    it = Telling(expit(signal), value, np.arange(300), 300)
    found = it.contributions(inside, less)
    assert found is not None
    design = np.column_stack([np.where(inside[:, None], (1 - less) * it._curve, it._curve), inside])

    def best(slope: float, tells: Floats) -> float:
        def minus(at: Floats) -> float:
            eta = design @ at + slope * inside * tells
            return float(np.logaddexp(0, eta).sum() - value @ eta)

        return -float(minimize(minus, np.zeros(design.shape[1]), method="BFGS", options={"gtol": 1e-8}).fun)

    def null(at: Floats) -> float:
        return float(np.logaddexp(0, design @ at).sum() - value @ (design @ at))

    fit = minimize(null, np.zeros(design.shape[1]), method="BFGS").x
    tells = it._curve @ fit[:-1]
    tells = tells - tells[inside].mean()
    slope = (best(0.01, tells) - best(-0.01, tells)) / 0.02
    assert found.sum() == pytest.approx(slope, rel=0.02)
    assert slope < 0


def test_chances_are_even_where_nothing_is_to_be_found() -> None:
    """With three weeks a person and labels of the person: no more than one in ten below 0.1, whatever the base rate."""
    chances = []
    for seed in range(200):
        table, signal, rng = people(seed, 120, weeks_each=3)
        inside = (table["device"] == "old").to_numpy()
        value = labels(rng, table, signal + 1.5 * inside)
        users = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
        found = Telling(expit(signal + 0.3), value, users, 120).contributions(inside)
        if found is None:  # hardly anybody inside without it
            continue
        chances.append(chance_of(found, flips=500, seed=seed))
    assert len(chances) > 180
    share = np.mean(np.array(chances) <= 0.1)
    assert 0.02 <= share <= 0.14  # of some 30 people inside it is cautious


def test_flatter_by_a_fifth_is_no_more_than_that() -> None:
    """Of curves flatter by a fifth, one in ten at most lies below 0.1; of level ones nearly none; of flat ones most."""
    chances = []
    for seed in range(120):
        table, signal, rng = people(seed, 800)
        inside = (table["device"] == "old").to_numpy()
        users = np.arange(800)
        for slope in (0.8, 1.0, 0.1):
            value = labels(rng, table, np.where(inside, slope * signal - 0.7, signal))
            found = Telling(expit(signal), value, users, 800).contributions(inside, 0.2)
            assert found is not None
            chances.append(chance_of(found, flips=500, seed=seed))
    fifth, none, all_of_it = (np.array(chances).reshape(-1, 3) <= 0.1).mean(axis=0)
    assert 0.03 <= fifth <= 0.17
    assert none < fifth / 2
    assert all_of_it > 0.9


def test_what_people_add_to_ranks_is_what_leaving_them_out_takes() -> None:
    """The shares of people against the jackknife of scikit-learn's AUROC, some scores tied, two weeks a person."""
    table, signal, rng = people(1, 150, weeks_each=2)
    inside = (table["device"] == "old").to_numpy()
    value, score = labels(rng, table, signal), np.round(expit(signal + rng.normal(0, 1, len(signal))), 1)
    users = np.repeat(np.arange(150), 2)
    everybody = np.ones(300, dtype=bool)

    def above_half(kept: npt.NDArray[np.bool_]) -> Floats:
        return np.array([roc_auc_score(value[kept & each], score[kept & each]) - 0.5 for each in (inside, ~inside)])

    uncertain = sum(1 / (value[each] == label).sum() for each in (inside, ~inside) for label in (0, 1))
    one, other = above_half(everybody)
    for less in (0.0, 0.2, 1 - one / other):
        found = Telling(score, value, users, 150).ranks(inside, less)
        assert found is not None
        assert found.sum() * uncertain == pytest.approx(one - (1 - less) * other, abs=1e-12)
    # With that last share, nothing is left to be shared out: what is there is what each person moves.
    assert found is not None
    shares = -149 / 150 * np.array([above_half(users != user) for user in range(150)]) @ [1, -one / other]
    assert (found * uncertain).std() == pytest.approx(shares.std(), rel=0.1)
    assert np.corrcoef(found, shares)[0, 1] > 0.99


def test_ranks_are_even_where_nothing_is_to_be_found() -> None:
    """Some one in ten below 0.1, with three weeks a person and another base rate; hardly any of a fifth."""
    chances = []
    for seed in range(200):
        table, signal, rng = people(seed, 200, weeks_each=3)
        inside = (table["device"] == "old").to_numpy()
        value = labels(rng, table, signal + 0.8 * inside)
        users = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
        it = Telling(expit(signal + 0.3), value, users, 200)
        each = [it.ranks(inside, less) for less in (0.0, 0.2)]
        chances.append([chance_of(found, flips=500, seed=seed) for found in each if found is not None])
    any_less, a_fifth_less = (np.array(chances) <= 0.1).mean(axis=0)
    assert 0.04 <= any_less <= 0.17
    assert a_fifth_less < any_less / 2


def test_a_few_people_who_happen_to_rank_wrongly_are_no_certainty() -> None:
    """Scores that tell nothing, of four conditions, and some twenty people inside, of whom few have each."""
    rng, beyond = np.random.default_rng(7), 0
    for _ in range(400):
        inside, total = rng.random(200) < 0.1, np.zeros(200)
        for _ in range(4):
            value = (rng.random(200) < 0.3).astype(np.float64)
            found = Telling(rng.random(200), value, np.arange(200), 200).ranks(inside)
            total += 0 if found is None else found
        beyond += deviation(total) > 2.05
    assert beyond <= 16  # of eight to be expected


def test_what_is_hardly_worse_is_not_named_however_many_people_there_are() -> None:
    tried = 0
    for seed in range(3):
        table, signal, rng = people(600 + seed, 20_000)
        old = (table["device"] == "old").to_numpy()
        it = search(table, signal, labels(rng, table, np.where(old, 0.82 * signal, signal)))
        tried += any("device = old" in words for words, _ in it.tried)
        assert not it.patterns
    assert tried >= 2  # it was seen, and is beyond chance


def test_signs_of_few_people_are_all_there_is() -> None:
    own = np.array([-1.0, -2.0, -4.0, 0.0, -8.0])
    assert chance_of(own, flips=20_000) == pytest.approx(1 / 16, abs=0.01)
    assert chance_of(-own, flips=2000) == 1.0
    assert deviation(own) == pytest.approx(15 / np.sqrt(85))
    assert deviation(np.zeros(3)) == 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# What is found, and what is not


@pytest.mark.parametrize(
    ("column", "inside"),
    [
        ("device", lambda table: (table["device"] == "old").to_numpy()),
        ("workout_hours", lambda table: (table["workout_hours"] > 2.4).to_numpy()),
        ("clock_changes", lambda table: (table["clock_changes"] > 0).to_numpy()),
    ],
)
def test_scores_that_tell_nothing_inside_are_found(column: str, inside: object) -> None:
    found = 0
    for seed in range(10):
        table, signal, rng = people(100 + seed, 1400)
        within = inside(table)  # type: ignore[operator]
        it = search(table, np.where(within, rng.permutation(signal), signal), labels(rng, table, signal))
        found += any(column in pattern.words.replace(" ", "_") for pattern in it.patterns)
        for pattern in it.patterns:
            assert pattern.chance <= LEVEL
            assert pattern.groups[0].inside.auroc.value < pattern.groups[0].outside.auroc.value
    assert found >= 9


def test_more_people_with_it_is_no_pattern() -> None:
    """Older people are ill more often, whether the score knows it, overdoes it, or does not know it."""
    named = 0
    for seed in range(10):
        for knows in (0.0, 1.0, 1.5):
            table, signal, rng = people(200 + seed, 700)
            older = 0.8 * (table["age"].to_numpy().astype(np.float64) - 45) / 12
            it = search(table, signal + knows * older, labels(rng, table, signal + older))
            named += len(it.patterns)
    assert named == 0


def test_scores_of_a_narrow_range_are_no_pattern() -> None:
    """Of the young all are nearly alike, and rightly so: ranks tell less, but scores mean what they mean elsewhere."""
    for seed in range(8):
        table, signal, rng = people(300 + seed, 900)
        young = (table["age"] < 36).to_numpy()
        odds = np.where(young, 0.2 * signal - 1, 1.4 * signal)
        assert not search(table, odds, labels(rng, table, odds)).patterns


def test_flatter_curves_that_rank_better_all_the_same_are_no_pattern() -> None:
    """Where scores lie far apart, half of what they say can rank better than all of it elsewhere."""
    table, signal, rng = people(500, 4000)
    old = (table["device"] == "old").to_numpy()
    far = np.where(old, 4 * signal, signal)
    value = labels(rng, table, np.where(old, 0.5, 1.0) * far)
    assert roc_auc_score(value[old], far[old]) > roc_auc_score(value[~old], far[~old]) + 0.05
    users = np.arange(4000)
    contributions = Telling(expit(far), value, users, 4000).contributions(old, 0.2)
    assert contributions is not None
    assert deviation(contributions) > 3  # flatter, beyond chance, by more than a fifth
    assert not search(table, far, value).patterns
    near = labels(rng, table, np.where(old, 0.1, 1.0) * signal)
    assert [pattern.words for pattern in search(table, signal, near).patterns] == ["device = old"]


def test_a_device_that_is_known_to_tell_nothing_is_named_all_the_same() -> None:
    """A network may recognise the watch and say little; if it says little of one sex, their risks may lie together."""
    for seed in range(4):
        table, signal, rng = people(520 + seed, 1500)
        for column, inside in (("device", table["device"] == "old"), ("sex", table["sex"] == "male")):
            value = labels(rng, table, signal)
            said = np.where(inside.to_numpy(), 0.1 * rng.normal(0, 1.3, 1500), signal)
            named = [pattern.words for pattern in search(table, said, value).patterns]
            assert named == (["device = old"] if column == "device" else [])


def test_proxies_are_named_with_the_one_that_explains_best() -> None:
    table, signal, rng = people(7, 1500)
    old = (table["device"] == "old").to_numpy()
    near = np.where(rng.random(len(old)) < 0.85, old, ~old)
    table = table.with_columns(pl.Series("mean_of_readings", np.where(near, 6.0, 12.0) + rng.random(len(old))))
    it = search(table, np.where(old, rng.permutation(signal), signal), labels(rng, table, signal))
    assert [pattern.words for pattern in it.patterns] == ["device = old"]
    assert any("mean of readings" in other for other in it.patterns[0].alike)
    assert it.patterns[0].people == old.sum() == it.patterns[0].weeks


def test_two_that_harm_apart_are_both_named() -> None:
    """Two thirds of all weeks tell nothing: neither is flatter than the rest before the other is left out."""
    found = []
    for seed in range(6):
        table, signal, rng = people(700 + seed, 2400)
        table = table.with_columns(
            pl.Series("device", np.where(rng.random(2400) < 0.4, "old", "new")),
            pl.Series("clock_changes", (rng.random(2400) < 0.45).astype(np.float32)),
        )
        parts = {
            "device = old": (table["device"] == "old").to_numpy(),
            "clock changes": (table["clock_changes"] > 0).to_numpy(),
        }
        harmed = np.logical_or.reduce(list(parts.values()))
        it = search(table, np.where(harmed, rng.permutation(signal), signal), labels(rng, table, signal))
        found.append([name for name in parts if any(name in each.words for each in it.patterns)])
    assert sum(len(each) == 2 for each in found) >= 5, found


def test_two_conditions_together_where_only_both_harm() -> None:
    found = 0
    for seed in range(5):
        table, signal, rng = people(500 + seed, 2400)
        both = ((table["device"] == "old") & (table["sex"] == "male")).to_numpy()
        it = search(table, np.where(both, rng.permutation(signal), signal), labels(rng, table, signal))
        found += any("device = old" in pattern.words and "sex = male" in pattern.words for pattern in it.patterns)
    assert found >= 3


def test_few_people_and_scores_that_are_not_finite() -> None:
    table, signal, rng = people(9, 30)
    value = labels(rng, table, signal)
    it = search(table, signal, value)
    assert (it.enough, it.patterns, it.people) == (False, (), 30)
    it = search(table, np.full(30, np.nan), value)
    assert (it.enough, it.weeks, it.people) == (False, 0, 0)
    table, signal, rng = people(9, 400)
    it = search(table, np.zeros(400), labels(rng, table, signal))
    assert it.enough
    assert not it.patterns


# Proposals


def test_proposals_are_names_and_ends() -> None:
    table = pl.DataFrame(
        {
            "user_id": ["a"] * 100,
            "value": [1.0] * 100,
            "device": ["x"] * 69 + ["y"] * 20 + ["z"] + [None] * 10,
            "clock_changes": [0.0] * 80 + [1.0, 2.0] * 10,
            "bmi": np.repeat(np.arange(20.0, 30.0), 10),
            "wear_hours": [5.0] * 100,
            "awake": [True] * 60 + [False] * 40,
            "serial": [str(i) for i in range(100)],
        }
    )
    found = {words(each): holds(each, table).sum() for each in proposals(table)}
    assert found["device unknown"] == 10
    assert found["device = y"] == 20
    assert found["clock changes ≥ 1"] == 20
    assert found["bmi ≤ 21 kg/m²"] == 20
    assert found["bmi ≥ 28 kg/m²"] == 20
    assert found["awake = false"] == 40
    assert "device = z" not in found
    assert not any(of in name for of in ("wear", "user", "value", "serial") for name in found)


def test_a_clause_of_an_unknown_value_does_not_hold() -> None:
    table = pl.DataFrame({"age": [None, 30.0, 70.0]})
    assert Clause("age", "at least", 50.0).holds(table).tolist() == [False, False, True]
    assert Clause("age", "unknown").holds(table).tolist() == [True, False, False]
    table = pl.DataFrame({"age": [float("nan"), float("inf"), 70.0]})
    assert Clause("age", "at least", 50.0).holds(table).tolist() == [False, True, True]


# Groups


def test_groups_against_scikit_learn() -> None:
    table, signal, rng = people(3, 400)
    value, score = labels(rng, table, signal), expit(0.7 * signal)
    value[::9] = np.nan
    users = table["user_id"].to_numpy()
    inside = (table["sex"] == "male").to_numpy()
    it = in_and_out("one", score, value, users, inside, draws=200)
    for group, chosen in ((it.inside, inside), (it.outside, ~inside)):
        y, p = value[chosen & ~np.isnan(value)], score[chosen & ~np.isnan(value)]
        assert (group.weeks, group.people, group.positive) == (len(y), len(y), y.sum())
        assert group.auroc.value == pytest.approx(roc_auc_score(y, p))
        assert group.log_loss.value == pytest.approx(log_loss(y, p))
        assert group.brier.value == pytest.approx(brier_score_loss(y, p))
        assert group.offset.value == pytest.approx(p.mean() - y.mean())
        assert group.auroc.low < group.auroc.value < group.auroc.high
    assert it.difference.value == pytest.approx(it.outside.auroc.value - it.inside.auroc.value)


def test_strata_hold_every_week_once_and_say_who_is_few() -> None:
    table, signal, rng = people(4, 300)
    table = table.with_columns(pl.Series("age", [None] * 20 + table["age"].to_list()[20:]))
    value = labels(rng, table, signal)[:, None]
    wanted = ("device", "age_band", "sex", "bmi_band", "wear_band", "mean_of_steps")
    found = stratified(table, ("one",), expit(signal)[:, None], value, wanted, draws=100)
    for stratum in wanted:
        part = found.filter(pl.col("stratum") == stratum)
        assert part["weeks"].sum() == 300, stratum
        assert part["positive_weeks"].sum() == value.sum()
    few = found.filter((pl.col("stratum") == "age_band") & (pl.col("group") == "unknown"))
    assert few["people"].item() == 20
    assert few["too_few"].item() == (min(value[:20].sum(), 20 - value[:20].sum()) < 10)
    assert found.filter(pl.col("stratum") == "bmi_band")["group"].to_list() == ["unknown"]
    ages = found.filter(pl.col("stratum") == "age_band")["group"].to_list()
    assert ages == ["under 30 years", "30 to under 45 years", "45 to under 60 years", "60 or more years", "unknown"]


def test_strata_of_other_columns_and_of_numbers_that_are_none() -> None:
    table, signal, rng = people(4, 300)
    odd = np.where(np.arange(300) < 30, np.repeat([np.inf, np.nan, -np.inf], 100), rng.normal(size=300))
    table = table.with_columns(clinic=pl.Series(["north", "south"] * 150), odd=pl.Series(odd))
    value = labels(rng, table, signal)[:, None]
    found = stratified(table, ("one",), expit(signal)[:, None], value, ["clinic", "odd"], draws=100)
    assert found.filter(pl.col("stratum") == "clinic")["people"].to_list() == [150, 150]
    weeks = dict(found.filter(pl.col("stratum") == "odd").select("group", "weeks").iter_rows())
    assert weeks["unknown"] == (~np.isfinite(odd)).sum() >= 30
    assert sum(weeks.values()) == 300
    with pytest.raises(HeartnetError, match=r"'clinik'.*Did you mean 'clinic'"):
        stratified(table, ("one",), expit(signal)[:, None], value, ["clinik"])


def test_unknown_strata_are_refused_by_name() -> None:
    table, signal, rng = people(4, 30)
    with pytest.raises(HeartnetError, match=r"'devise'.*Did you mean 'device'"):
        stratified(table, ("one",), expit(signal)[:, None], labels(rng, table, signal)[:, None], ["devise"])
    with pytest.raises(HeartnetError, match="a list of names"):
        stratified(table, ("one",), expit(signal)[:, None], labels(rng, table, signal)[:, None], "device")
    assert {"device", "age_band", "sex", "bmi_band", "wear_band"} < set(STRATA)
