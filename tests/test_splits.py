"""Splits by person: no one in two of them, everyone in one, each with its share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from heartnet.errors import HeartnetError
from heartnet.splits import SPLITS, labelled_weeks, split_weeks


def split(people: Any, targets: Any = None, **options: Any) -> dict[str, np.ndarray]:
    people = np.asarray(people).astype(str)
    targets = np.zeros((len(people), 1)) if targets is None else np.asarray(targets)
    defaults: dict[str, Any] = {"val_share": 0.15, "test_share": 0.15, "folds": None, "fold": 0, "seed": 0}
    return dict(split_weeks(people, targets.astype(np.float32), **defaults | options))


def people_of(rows: np.ndarray, people: np.ndarray) -> set[str]:
    return set(people[rows].tolist())


@settings(max_examples=60, deadline=None)
@given(
    weeks_each=st.lists(st.integers(1, 4), min_size=3, max_size=40),
    val_share=st.floats(0, 0.5),
    test_share=st.floats(0, 0.45),
    folds=st.none() | st.integers(2, 5),
    seed=st.integers(0, 999),
)
def test_every_week_is_in_one_split_and_nobody_in_two(
    weeks_each: list[int], val_share: float, test_share: float, folds: int | None, seed: int
) -> None:
    assume(folds is None or folds <= len(weeks_each))
    rng = np.random.default_rng(seed)
    people = rng.permutation(np.repeat(np.arange(len(weeks_each)), weeks_each)).astype(str)
    targets = rng.choice([0.0, 1.0, np.nan], (len(people), 2))
    rows = split(people, targets, val_share=val_share, test_share=test_share, folds=folds, seed=seed)
    assert sorted(np.concatenate([rows[name] for name in SPLITS]).tolist()) == list(range(len(people)))
    sets = [people_of(rows[name], people) for name in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets))
    count = len(weeks_each)
    if folds is None:
        for share, of in ((test_share, sets[2]), (val_share, sets[1])):
            assert abs(len(of) - share * count) <= 1
            assert (len(of) > 0) == (share > 0)


def test_shares_are_of_all_people() -> None:
    rows = split(np.arange(60), val_share=0.15, test_share=0.15)
    assert [len(rows[name]) for name in SPLITS] == [42, 9, 9]
    rows = split(np.arange(100), val_share=0.2, test_share=0.5)
    assert [len(rows[name]) for name in SPLITS] == [30, 20, 50]


def test_three_people_are_one_each() -> None:
    assert [len(rows) for rows in split(["a", "b", "c"]).values()] == [1, 1, 1]


def test_each_split_has_its_share_of_every_combination_of_labels() -> None:
    labels = np.array([(a, b) for a in (0, 1) for b in (0, 1) for _ in range(40)], dtype=float)
    rows = split(np.arange(160), labels, val_share=0.25, test_share=0.25)
    for name, share in zip(SPLITS, (0.5, 0.25, 0.25), strict=True):
        _, counts = np.unique(labels[rows[name]], axis=0, return_counts=True)
        np.testing.assert_allclose(counts, 40 * share, atol=1)


def test_one_positive_week_makes_a_positive_person() -> None:
    people = np.repeat([f"p{i:02d}" for i in range(20)], 2)
    targets = np.zeros((40, 1))
    targets[1:20:2] = 1.0  # the second week of the first ten people
    targets[20::2] = np.nan
    rows = split(people, targets, val_share=0.2, test_share=0.2)
    for name, count in (("train", 6), ("val", 2), ("test", 2)):
        positive = [person for person in people_of(rows[name], people) if person < "p10"]
        assert len(positive) == count


def test_folds_are_a_partition_of_the_people() -> None:
    people = np.repeat(np.arange(23), 2).astype(str)
    folds = [split(people, folds=5, fold=fold, val_share=0.2) for fold in range(5)]
    tests = [people_of(rows["test"], people) for rows in folds]
    assert set.union(*tests) == set(people)
    assert sorted(map(len, tests)) == [4, 4, 5, 5, 5]
    for rows, test in zip(folds, tests, strict=True):
        others = people_of(rows["train"], people) | people_of(rows["val"], people)
        assert others == set(people) - test
        assert len(people_of(rows["val"], people)) == pytest.approx(0.2 * len(others), abs=0.5)


def test_two_folds_of_two_people_leave_one_to_train_on() -> None:
    rows = split(["a", "b"], folds=2, fold=1)
    assert [len(rows[name]) for name in SPLITS] == [1, 0, 1]


def test_the_split_follows_from_the_seed_and_not_from_the_order_of_the_weeks() -> None:
    people = np.arange(30).astype(str)
    order = np.random.default_rng(1).permutation(30)
    for seed in (0, 1):
        one, other = split(people, seed=seed), split(people[order], seed=seed)
        assert all(people_of(one[name], people) == people_of(other[name], people[order]) for name in SPLITS)
    assert people_of(split(people, seed=0)["test"], people) != people_of(split(people, seed=1)["test"], people)


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (2, {}, "holds 2 people with a known target, too few.*data.split_by=week splits the weeks instead"),
        (1, {}, "holds 1 person with"),
        (
            2,
            {"unit": "week"},
            "holds 2 weeks with a known target, too few to split into .*; three are needed: .* --by 256$",
        ),
        (9, {"val_share": -0.1}, r"data\.val_share=-0\.1"),
        (9, {"val_share": 0.5, "test_share": 0.5}, "together below 1"),
        (9, {"val_share": float("nan")}, r"data\.val_share=nan"),
        (9, {"folds": 10}, r"data\.folds=10, .*holds 9 people; need 2 to 9 folds"),
        (9, {"folds": 0}, r"data\.folds=0"),
        (9, {"folds": 3, "fold": 3}, r"data\.fold=3"),
        (9, {"folds": 3, "fold": -1}, r"data\.fold=-1"),
    ],
)
def test_what_cannot_be_split_is_said(count: int, options: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        split(np.arange(count), **options)


@settings(max_examples=60, deadline=None)
@given(people=st.integers(2, 60), share=st.floats(0.01, 1.0), rate=st.floats(0.02, 0.9), seed=st.integers(0, 9))
def test_few_labels_keep_both_classes_of_each_condition_where_they_can(
    people: int, share: float, rate: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"p{i:02d}" for i in range(people)], 2)
    targets = np.repeat((rng.random((people, 2)) < rate).astype(np.float32), 2, axis=0)
    kept = labelled_weeks(ids, targets, share, seed)
    np.testing.assert_array_equal(kept[::2], kept[1::2])
    count = max(1, round(share * people))
    assert kept[::2].sum() == count
    if count >= 4:  # a positive and a negative of each
        for column in targets.T:
            assert set(column[kept]) == set(column)
    more = labelled_weeks(ids, targets, min(1.0, 2 * share), seed)
    assert not (kept & ~more).any()


def test_labels_are_kept_in_the_proportions_that_there_are() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((1000, 1)) < 0.3).astype(np.float32)
    kept = labelled_weeks(np.arange(1000).astype(str), targets, 0.1, 0)
    assert abs(targets[kept].mean() - targets.mean()) < 0.02
    assert not np.array_equal(kept, labelled_weeks(np.arange(1000).astype(str), targets, 0.1, 1))
