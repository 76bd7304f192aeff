"""Labels that change within a person: flipped ones are found, conditions and rhythms stay silent."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from faults import training
from hypothesis import given
from hypothesis import strategies as st
from overfit_faults import checked

from heartnet.cli import main
from heartnet.diagnostics.label_changes import Changes, histories, label_changes
from heartnet.diagnostics.overfit_verdicts import flipped
from heartnet.findings import read_jsonl
from heartnet.store import open_store

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "afdb"
SEEDS = range(20)


def conditions(seed: int, people: int, weeks: int, *, flips: float = 0.0, share: float = 0.3) -> Any:
    """Return people, times and labels that never change, one in ten unknown, and flipped at random."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.random(people) < share, weeks) ^ (rng.random(people * weeks) < flips)
    return _told(rng, people, weeks, label)


def rhythms(seed: int, people: int, weeks: int, *, flips: float = 0.0, stay: float = 0.9) -> Any:
    """Return labels in stretches, ten weeks long on average."""
    rng = np.random.default_rng(seed)
    turns = rng.random((people, weeks)) > stay
    turns[:, 0] = rng.random(people) < 0.5
    label = (np.cumsum(turns, axis=1) % 2 == 1).ravel() ^ (rng.random(people * weeks) < flips)
    return _told(rng, people, weeks, label)


def _told(rng: Any, people: int, weeks: int, label: Any) -> Any:
    target = np.where(rng.random(len(label)) < 0.1, np.nan, label)[:, None]
    order = rng.permutation(len(label))
    who, when = np.repeat(np.arange(people), weeks), np.tile(np.arange(weeks), people)
    return who[order], when[order], target[order]


def found(cohort: Any) -> bool:
    return label_changes(*cohort)[0].at_random


SIZES = [(120, 2), (50, 4), (30, 10), (12, 60)]


@pytest.mark.parametrize(("people", "weeks"), SIZES)
@pytest.mark.parametrize("cohort", [conditions, rhythms])
def test_of_labels_30_percent_flipped_are_found(cohort: Any, people: int, weeks: int) -> None:
    assert sum(found(cohort(seed, people, weeks, flips=0.3)) for seed in SEEDS) >= 19


@pytest.mark.parametrize(("people", "weeks"), [*SIZES, (1000, 3)])
@pytest.mark.parametrize("cohort", [conditions, rhythms])
def test_conditions_and_rhythms_are_silent(cohort: Any, people: int, weeks: int) -> None:
    assert not any(found(cohort(seed, people, weeks)) for seed in SEEDS)


def test_a_few_wrong_labels_are_silent() -> None:
    assert not any(found(conditions(seed, 100, 6, flips=0.02, share=0.05)) for seed in SEEDS)


def test_a_diagnosis_after_some_weeks_is_silent() -> None:
    for seed in SEEDS:
        who, when, label = conditions(seed, 100, 6, share=0.05)
        began = np.random.default_rng(seed).integers(0, 12, 100)[who]
        label[when >= began] = 1.0
        assert not found((who, when, label))


@pytest.mark.parametrize("flips", [0.2, 0.3])
def test_the_share_of_flips_is_told(flips: float) -> None:
    told = [label_changes(*conditions(seed, 200, 5, flips=flips))[0].flips for seed in SEEDS]
    assert np.mean(told) == pytest.approx(flips, abs=0.01)


def test_what_leaves_no_trace_is_not_found() -> None:
    who, when, label = conditions(0, 200, 1, flips=0.3)
    assert label_changes(who, when, label)[0].people == 0
    who, when, label = conditions(0, 200, 4)
    of_all_weeks = np.random.default_rng(1).random(200)[who, None] < 0.3
    assert not found((who, when, np.where(of_all_weeks, 1 - label, label)))


# The counts


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 6))
def test_counts_are_those_of_a_plain_loop(seed: int, people: int, weeks: int) -> None:
    who, when, label = conditions(seed, people, weeks, flips=0.3)
    rows = {
        person: [
            i for i in sorted(range(len(who)), key=lambda i: when[i]) if who[i] == person and label[i, 0] in (0, 1)
        ]
        for person in range(people)
    }
    rows = {person: each for person, each in rows.items() if len(each) > 1}
    told = {person: [int(label[i, 0]) for i in each] for person, each in rows.items()}
    changes = {person: sum(a != b for a, b in pairwise(each)) for person, each in told.items()}
    one = label_changes(who, when, label)[0]
    assert (one.people, one.weeks) == (len(told), sum(map(len, told.values())))
    assert (one.changing, one.changes) == (sum(each > 0 for each in changes.values()), sum(changes.values()))
    against = [(2 * sum(told[p]) - len(told[p])) * (1 if label[i, 0] == 0 else -1) for p in rows for i in rows[p]]
    wrong = {i: by for i, by in zip([i for each in rows.values() for i in each], against, strict=True) if by > 0}
    assert set(one.rows.tolist()) == set(wrong)
    assert [wrong[i] for i in one.rows.tolist()] == sorted(wrong.values(), reverse=True)
    if told:
        minority = sum(min(sum(each), len(each) - sum(each)) for each in told.values())
        assert one.minority == pytest.approx(minority / one.weeks)
        every = [week for each in told.values() for week in each]
        differ = np.mean([a != b for a, b in product(every, repeat=2)])
        pairs = sum(len(each) - 1 for each in told.values())
        assert one.over_chance == pytest.approx(one.changes / pairs / differ if differ else 0.0)


def test_the_interval_is_that_of_resampled_people() -> None:
    who, when, label = conditions(3, 80, 4, flips=0.25)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(400):
        drawn = rng.integers(0, 80, 80)
        rows = np.concatenate([np.flatnonzero(who == person) for person in drawn])
        again = np.repeat(np.arange(80), [int((who == person).sum()) for person in drawn])
        values.append(label_changes(again, when[rows], label[rows])[0].over_chance)
    one = label_changes(who, when, label)[0]
    assert one.over_chance - one.low == pytest.approx(1.645 * np.std(values), rel=0.15)


# Where they come from


def cohort(kind: str = "hourly", flips: float = 0.0) -> Any:
    """Return a training of 50 people with two weeks each, whose labels stay."""
    it = training(kind)
    table = it.data.weeks.table
    names = pl.Series([f"user-{i // 2}" for i in range(100)])
    it.data.weeks = replace(it.data.weeks, table=table.with_columns(user_id=names))
    rng = np.random.default_rng(0)
    it.data.values = np.repeat(rng.random((50, 2)) < 0.4, 2, axis=0) ^ (rng.random((100, 2)) < flips)
    it.data.values = it.data.values.astype(np.float32)
    it.data.rows = {"train": np.arange(100)}
    return it


def test_the_finding_names_condition_share_people_and_rows() -> None:
    (one,) = flipped(histories(cohort(flips=0.3).data, [], whole=False), ("sleep_apnea", "diabetes"))
    assert (one.status, one.where) == ("warn", "labels/changes")
    for words in ("sleep_apnea in ", "% of 100 weeks of 50 people", "as if ", "flipped in all weeks of a person"):
        assert words in one.message
    (one,) = flipped(histories(cohort().data, [], whole=False), ("sleep_apnea", "diabetes"))
    assert (one.status, one.value) == ("pass", 0.0)
    (one,) = flipped(histories(training("hourly").data, [], whole=False), ("sleep_apnea", "diabetes"))
    assert (one.status, one.value) == ("unknown", None)
    assert "Whether labels are flipped is not known: 0 people" in one.message


def test_other_data_name_people_and_times_in_their_batches() -> None:
    who, when, label = rhythms(0, 40, 5, flips=0.3)
    batches = [
        {
            "x": torch.zeros(len(rows), 4),
            "y": torch.tensor(label[rows]),
            "subject": who[rows].tolist(),
            "week": when[rows],
        }
        for rows in np.array_split(np.arange(len(who)), 7)
    ]
    told = histories(None, batches, whole=True)
    assert told is not None
    assert label_changes(told.people, told.times, told.targets)[0].changes == label_changes(who, when, label)[0].changes
    assert [each.status for each in flipped(told, ("a", "b"))] == ["warn"]
    assert histories(None, batches, whole=False) is None
    assert histories(None, [{k: v for k, v in each.items() if k != "week"} for each in batches], whole=True) is None
    assert flipped(None, ()) == []


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_overfit_check_warns(tmp_path: Path) -> None:
    it = cohort(flips=0.3)
    checked(it, tmp_path, steps=4)
    (one,) = (each for each in read_jsonl(tmp_path / "findings.jsonl") if each.where == "labels/changes")
    assert one.status == "warn"
    assert "sleep_apnea in " in one.message


def test_values_are_not_labels() -> None:
    it = cohort()
    it.data.values = it.data.values + 0.5
    assert histories(it.data, [], whole=False) is None


# Real rhythms


@pytest.mark.parametrize("length", [512, 4096])
def test_afdb_is_silent_and_its_flipped_labels_are_found(tmp_path: Path, length: int) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the recordings of afdb are not at {DATA}")
    words = ["--time", "seconds", "--time-unit", "s", "--by", str(length), "--out", str(tmp_path / "weeks")]
    rule = ["--label-intervals", str(DATA / "rhythms.csv"), "--condition", "atrial_fibrillation=rhythm:AFIB"]
    assert main(["prepare", "table", str(DATA / "heart_rate.csv.gz"), *words, *rule]) == 0
    table = open_store(tmp_path / "weeks").table
    label = table["atrial_fibrillation"].cast(pl.Float64).fill_null(np.nan).to_numpy()[:, None]

    def told(label: Any) -> Changes:
        return label_changes(table["user_id"].to_numpy().astype(str), table["start"].to_numpy(), label)[0]

    assert told(label).over_chance < 0.2
    assert not told(label).at_random
    rng = np.random.default_rng(0)
    flips = [told(np.where(rng.random(label.shape) < 0.3, 1 - label, label)) for _ in SEEDS]
    assert sum(each.at_random for each in flips) >= 19
