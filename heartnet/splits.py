"""Splits by person, alike in their labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.errors import HeartnetError

SPLITS = ("train", "val", "test")


def split_weeks(
    people: npt.NDArray[np.str_],
    targets: npt.NDArray[np.float32],
    *,
    val_share: float,
    test_share: float,
    folds: int | None,
    fold: int,
    seed: int,
    unit: str = "user",
) -> Mapping[str, npt.NDArray[np.int64]]:
    """Return the rows of each split; all weeks of one person lie in one split.

    People are shuffled, sorted by their labels, the rarest first, and dealt out in that order, so that each split gets
    its share of the positives of a rare condition and of combinations of labels. The same arguments give the same
    split on every machine.

    Args:
        people: `[week]`, whose week it is.
        targets: `[week, target]`, NaN where missing; a person counts as positive when any week is.
        val_share: share of the people (with folds: of those not in the test fold) kept for validation; someone, if
            it is above 0.
        test_share: share of the people kept for the test, likewise; not used with folds.
        folds: cross-validation in this many folds, of which `fold` is the test; None for a single split.
        fold: from 0.
        seed: of the shuffle.
        unit: `week` if each week counts as a person of its own, for the words of errors.

    Raises:
        HeartnetError: shares that leave no one to train on, or fewer people than splits.
    """
    ids, labels = _people_and_labels(people, targets)
    _check(len(ids), val_share, test_share, folds, fold, unit)
    order = _sorted_by_labels(labels, np.random.default_rng(seed).permutation(len(ids)))
    ranks = np.arange(len(order))
    is_test = ranks % folds == fold if folds else _every(ranks, test_share)
    rest = order[~is_test]
    is_val = _every(np.arange(len(rest)), val_share if folds else val_share / (1 - test_share))
    chosen = {"train": rest[~is_val], "val": rest[is_val], "test": order[is_test]}
    return {split: np.flatnonzero(np.isin(people, ids[chosen[split]])) for split in SPLITS}


def labelled_weeks(
    people: npt.NDArray[np.str_], targets: npt.NDArray[np.float32], share: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Mark the weeks of the people who keep their labels; the others' weeks are to count as unlabelled.

    First come one person with and one without each condition, the rarest condition first, then people evenly spread
    over combinations of labels. With the same seed, those who keep their labels at a small share keep them at each
    larger one. So few people are not a random sample: base rates among them are not those of the rest.

    Args:
        people: `[week]`, whose week it is.
        targets: `[week, target]`, NaN where missing; a person counts as positive when any week is.
        share: of the people, above 0; at least one keeps the labels.
        seed: of the choice.

    Raises:
        HeartnetError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise HeartnetError(f"data.labelled_share={share}: must be above 0 and at most 1")
    ids, labels = _people_and_labels(people, targets)
    order = _sorted_by_labels(labels, np.random.default_rng(seed).permutation(len(ids)))
    # Steps of the golden section: every beginning of the sequence is spread evenly over the sorted people.
    places = (np.arange(len(order)) * (np.sqrt(5) - 1) / 2 + 0.5) % 1
    spread = order[np.argsort(np.argsort(places, kind="stable"), kind="stable")]
    first: list[int] = []
    for column in labels[:, np.argsort((labels == 1).sum(axis=0), kind="stable")].T:
        for label in (1, 0):
            having = spread[column[spread] == label]
            if len(having) and not (column[first] == label).any():
                first.append(int(having[0]))
    ranked = [*first, *(person for person in spread.tolist() if person not in first)]
    kept = ids[ranked[: max(1, round(share * len(ids)))]]
    return np.isin(people, kept)


def _sorted_by_labels(labels: npt.NDArray[np.float64], shuffled: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    rarest_last = np.argsort(-(labels == 1).sum(axis=0), kind="stable")  # the last key is the first to sort by
    order: npt.NDArray[np.int64] = shuffled[np.lexsort(labels[shuffled][:, rarest_last].T)]
    return order


def _people_and_labels(
    people: npt.NDArray[np.str_], targets: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.float64]]:
    frame = pl.DataFrame({"person": people, **{str(i): targets[:, i] for i in range(targets.shape[1])}})
    by_person = frame.with_columns(pl.exclude("person").fill_nan(None)).group_by("person").max().sort("person")
    # As strings: NumPy looks for objects one by one, which for 30,000 weeks takes 14 seconds.
    ids = by_person["person"].to_numpy().astype(str)
    return ids, by_person.drop("person").fill_null(-1.0).to_numpy().astype(np.float64)


def _every(ranks: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Mark `share` of the ranks, evenly spread, beginning half a step in; one of them, if that rounds to none."""
    marks = np.asarray(np.floor(ranks * share + 0.5) < np.floor((ranks + 1) * share + 0.5))
    if share > 0 and len(marks) > 1 and not marks.any():
        marks[len(marks) // 2] = True
    return marks


def _check(count: int, val_share: float, test_share: float, folds: int | None, fold: int, unit: str) -> None:
    people = ("weeks" if count != 1 else "week") if unit == "week" else ("people" if count != 1 else "person")
    if not (0 <= val_share < 1 and 0 <= test_share < 1 and val_share + (0 if folds else test_share) < 1):
        raise HeartnetError(
            f"data.val_share={val_share}, data.test_share={test_share}: each must be at least 0 and together below 1"
        )
    if folds is not None and not (2 <= folds <= count and 0 <= fold < folds):
        raise HeartnetError(
            f"data.folds={folds}, data.fold={fold}: the data holds {count} {people}; need 2 to {count} folds, and a "
            "fold from 0 to one less than there are"
        )
    if count < 3 and folds is None:
        instead = "; data.split_by=week splits the weeks instead (scores then say nothing about new people)"
        raise HeartnetError(
            f"the data holds {count} {people} with a known target, too few to split into train, val and test"
            f"{'; three are needed: prepare them shorter, for example --by 256' if unit == 'week' else instead}"
        )
