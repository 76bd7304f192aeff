"""The data module: who is where, what a batch holds, and in which order batches come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.datamodule import BatchesByLength, SimulatedData, StoredData, WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.simulate import simulate
from heartnet.splits import SPLITS
from heartnet.store import write_store
from heartnet.tasks import Conditions, Synthetic
from heartnet.weeks import Weeks

MakeWeeks = Callable[..., Weeks]


def test_every_week_is_accounted_for_and_no_person_is_in_two_splits(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=20, missing=0.4)
    data = WeeksDataModule(weeks, Conditions())
    unlabelled = weeks.table.select(pl.all_horizontal(pl.col(weeks.conditions).is_null())).to_series().to_numpy()
    assert 0 < data.without_target == unlabelled.sum()
    everyone = np.concatenate([data.rows[split] for split in SPLITS])
    assert sorted(everyone.tolist()) == np.flatnonzero(~unlabelled).tolist()
    people = [set(weeks.table["user_id"][data.rows[split]]) for split in SPLITS]
    assert all(people)
    assert len(set.union(*people)) == sum(map(len, people))


def test_split_by_week(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=1, weeks_each=20, missing=0.0)
    data = WeeksDataModule(weeks, Conditions(), split_by="week", val_share=0.2, test_share=0.2)
    assert [len(data.rows[split]) for split in SPLITS] == [12, 4, 4]
    assert sorted(np.concatenate(list(data.rows.values())).tolist()) == list(range(20))


def test_folds_test_everyone_once(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=10, missing=0.0)
    tests = [WeeksDataModule(weeks, Conditions(), folds=3, fold=fold).rows["test"] for fold in range(3)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(30))


@pytest.mark.parametrize("mask_channel", [False, True])
def test_a_batch_against_the_readings(make_weeks: MakeWeeks, mask_channel: bool) -> None:
    weeks = make_weeks(missing=0.2)
    data = WeeksDataModule(weeks, Conditions(), batch_size=5, mask_channel=mask_channel)
    seen = []
    for batch in data.loader(data.rows["train"]):
        rows = batch["index"].tolist()
        seen += rows
        kinds = {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()}
        lengths = [len(weeks.week(row)) for row in rows]
        count, longest = len(rows), max(lengths)
        assert data.channels == 3 + mask_channel
        assert data.metadata_size == 6
        assert kinds == {
            "inputs": (torch.float32, (count, longest, data.channels)),
            "lengths": (torch.int64, (count,)),
            "metadata": (torch.float32, (count, 6)),
            "targets": (torch.float32, (count, 2)),
            "index": (torch.int64, (count,)),
        }
        assert batch["lengths"].tolist() == lengths
        for i, row in enumerate(rows):
            scaled = batch["inputs"][i].double().numpy()
            assert (scaled[lengths[i] :] == 0).all()
            readings = weeks.week(row).astype(np.float64)
            back = scaled[: lengths[i], :3] * data.scaling.std + data.scaling.mean
            back[:, 1:] = np.expm1(back[:, 1:])
            known = ~np.isnan(readings)
            np.testing.assert_allclose(back[known] + 1, readings[known] + 1, rtol=1e-5)
            assert (scaled[: lengths[i], :3][~known] == 0).all()
            if mask_channel:
                np.testing.assert_array_equal(scaled[: lengths[i], 3], ~known[:, 0])
            labels = [weeks.table[name][row] for name in weeks.conditions]
            found = [None if np.isnan(value) else value for value in batch["targets"][i].tolist()]
            assert found == labels
            np.testing.assert_array_equal(batch["metadata"][i], data.metadata[row])
    assert sorted(seen) == data.rows["train"].tolist()


def test_constants_come_from_the_training_split_only(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(missing=0.0)
    before = WeeksDataModule(weeks, Conditions())
    changed = weeks.readings.copy()
    for row in (*before.rows["val"], *before.rows["test"]):
        changed[weeks.offsets[row] : weeks.offsets[row + 1]] *= 3
    elsewhere = ~np.isin(np.arange(len(weeks)), before.rows["train"])
    table = weeks.table.with_columns(pl.when(pl.Series(elsewhere)).then(99.0).otherwise(pl.col("age")).alias("age"))
    after = WeeksDataModule(replace(weeks, readings=changed, table=table), Conditions())
    assert after.scaling == before.scaling
    changed[weeks.offsets[before.rows["train"][0]]] += 50
    assert WeeksDataModule(replace(weeks, readings=changed), Conditions()).scaling != before.scaling


def test_labels_of_a_share_of_the_people_to_train_on(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=40, missing=0.1)
    whole = WeeksDataModule(weeks, Conditions())
    seen: set[str] = set()
    for share in (0.05, 0.1, 0.4, 1.0):
        data = WeeksDataModule(weeks, Conditions(), labelled_share=share)
        for split in ("val", "test"):
            np.testing.assert_array_equal(data.rows[split], whole.rows[split])
            np.testing.assert_array_equal(data.values[data.rows[split]], whole.values[data.rows[split]])
        assert data.scaling == whole.scaling
        both = np.sort(np.concatenate([data.rows["train"], data.without_labels]))
        np.testing.assert_array_equal(both, whole.rows["train"])
        assert np.isnan(data.values[data.without_labels]).all()
        np.testing.assert_array_equal(data.values[data.rows["train"]], whole.values[data.rows["train"]])
        people, others = (set(weeks.table["user_id"][rows]) for rows in (data.rows["train"], data.without_labels))
        assert not people & others
        assert len(people) == max(1, round(share * (len(people) + len(others))))
        assert seen <= people
        seen = people
        assert data.without_target == whole.without_target
    other = WeeksDataModule(weeks, Conditions(), labelled_share=0.4, labelled_seed=1)
    assert set(other.weeks.table["user_id"][other.rows["train"]]) != seen
    assert len(WeeksDataModule(weeks, Conditions(), split_by="week", labelled_share=0.1).rows["train"]) == 8


def test_who_is_held_out(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=20)
    data = WeeksDataModule(weeks, Conditions())
    held = {name for split in ("val", "test") for name in weeks.table["user_id"][data.rows[split]]}
    assert data.held_out(weeks.table).tolist() == [name in held for name in weeks.table["user_id"]]
    reordered = weeks.table.sample(fraction=1.0, shuffle=True, seed=0)
    assert data.held_out(reordered).tolist() == [name in held for name in reordered["user_id"]]
    by_week = WeeksDataModule(weeks, Conditions(), split_by="week")
    rows = np.concatenate([by_week.rows["val"], by_week.rows["test"]])
    assert np.flatnonzero(by_week.held_out(weeks.table)).tolist() == sorted(rows.tolist())


def test_target_statistics(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=20, missing=0.3)
    data = WeeksDataModule(weeks, Conditions())
    mean, _ = data.target_statistics()
    for i, name in enumerate(weeks.conditions):
        known = [label for label in weeks.table[name][data.rows["train"]] if label is not None]
        assert mean[i] == pytest.approx(sum(known) / len(known))
    nights = make_weeks(users=8, shortest=150, longest=200, missing=0.1)
    synthetic = WeeksDataModule(nights, Synthetic())
    values = synthetic.values[synthetic.rows["train"], 0]
    mean, std = synthetic.target_statistics()
    np.testing.assert_allclose([mean[0], std[0]], [np.nanmean(values), np.nanstd(values)], rtol=1e-5)


def test_a_target_that_the_training_split_does_not_know_is_said(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(missing=0.0)
    data = WeeksDataModule(weeks, Conditions())
    in_training = pl.Series(np.isin(np.arange(len(weeks)), data.rows["train"]))
    table = weeks.table.with_columns(
        pl.when(in_training).then(None).otherwise(pl.col("diabetes")).cast(pl.Int8).alias("diabetes")
    )
    data.values = WeeksDataModule(replace(weeks, table=table), Conditions()).values
    with pytest.raises(HeartnetError, match="no week of the training split has a known diabetes"):
        data.target_statistics()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=70),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_each_week_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    rows = np.arange(len(lengths))[::-1] * 2
    all_lengths = np.zeros(2 * len(lengths), np.int64)
    all_lengths[rows] = lengths
    sampler = BatchesByLength(rows, all_lengths, batch_size, seed, group=3)
    sampler.set_epoch(epoch)
    batches = [batch.tolist() for batch in sampler]
    assert len(batches) == len(sampler)
    assert sorted(row for batch in batches for row in batch) == sorted(rows.tolist())
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)
    again = BatchesByLength(rows, all_lengths, batch_size, seed, group=3)
    again.set_epoch(epoch)
    assert [batch.tolist() for batch in again] == batches


def test_batches_hold_weeks_of_similar_length_and_differ_by_epoch_and_seed() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 1000, 640)

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BatchesByLength(np.arange(640), lengths, 8, seed)
        sampler.set_epoch(epoch)
        return [batch.tolist() for batch in sampler]

    padding = np.mean([1 - lengths[batch].mean() / lengths[batch].max() for batch in order(0, 0)])
    at_random = np.mean([1 - lengths[b].mean() / lengths[b].max() for b in rng.permutation(640).reshape(-1, 8)])
    assert padding < at_random / 4
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


class Recorder(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: dict[int, list[list[int]]] = {}

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        del index
        self.epochs.setdefault(self.current_epoch, []).append(batch["index"].tolist())
        return self.weight * batch["inputs"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_the_trainer_asks_for_another_order_each_epoch(make_weeks: MakeWeeks, tmp_path: Any) -> None:
    data = WeeksDataModule(make_weeks(users=9, missing=0.0), Conditions(), batch_size=4, seed=3, val_share=0.0)
    module = Recorder()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    for epoch in range(3):
        expected = BatchesByLength(data.rows["train"], np.diff(data.weeks.offsets), 4, 3)
        expected.set_epoch(epoch)
        assert module.epochs[epoch] == [batch.tolist() for batch in expected]
    assert module.epochs[0] != module.epochs[1] != module.epochs[2]


def test_conditions_are_matched_by_name_in_canonical_order(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(missing=0.0)
    data = WeeksDataModule(weeks, Conditions(["diabetes", "sleep_apnea"]))
    assert data.targets == ("sleep_apnea", "diabetes")
    shuffled = replace(weeks, table=weeks.table.select(weeks.table.columns[::-1]))
    np.testing.assert_array_equal(WeeksDataModule(shuffled, Conditions()).values, data.values)
    only = WeeksDataModule(weeks, Conditions(["diabetes"]))
    np.testing.assert_array_equal(only.values[:, 0], weeks.table["diabetes"].to_numpy())


@pytest.mark.parametrize(
    ("change", "task", "options", "words"),
    [
        ({}, lambda: Conditions(["diabets"]), {}, "no condition 'diabets'; it has sleep_apnea, diabetes.*'diabetes'"),
        ({}, lambda: Conditions([]), {}, r"task\.conditions=\[\]: names nothing"),
        ({"conditions": ()}, Conditions, {}, "the data has no labels.*task=synthetic"),
        ({"offsets": np.zeros(1, np.int64)}, Conditions, {}, "holds no weeks"),
        ({}, Synthetic, {}, "none of the 36 weeks has a known target among day_std_minus_night_std"),
        ({}, Conditions, {"batch_size": 0}, r"data\.batch_size=0"),
        ({}, Conditions, {"split_by": "person"}, r"data\.split_by=person: must be user or week"),
        ({}, Conditions, {"val_share": 0.6, "test_share": 0.6}, "together below 1"),
        ({}, Conditions, {"val_share": 0.5, "test_share": 0.49}, "no week is left to train on"),
        ({}, Conditions, {"folds": 4, "fold": 4}, r"data\.fold=4"),
        ({}, Conditions, {"folds": 40}, "need 2 to 12 folds"),
        ({}, Conditions, {"labelled_share": 0.0}, r"data\.labelled_share=0\.0: must be above 0"),
        ({}, Conditions, {"labelled_share": 1.1}, r"data\.labelled_share=1\.1"),
    ],
)
def test_what_cannot_be_served_is_said(
    make_weeks: MakeWeeks, change: dict[str, Any], task: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(HeartnetError, match=words):
        WeeksDataModule(replace(make_weeks(missing=0.0), **change), task(), **options)


def test_too_few_people(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=2, missing=0.0)
    with pytest.raises(HeartnetError, match=r"holds 2 people.*data\.split_by=week"):
        WeeksDataModule(weeks, Conditions())
    assert len(WeeksDataModule(weeks, Conditions(), split_by="week").rows["train"]) == 4


def test_the_simulated_cohort_and_a_store_are_the_same_data(tmp_path: Any) -> None:
    weeks = simulate(4, 1, 7, 2.0, 0.0, {"diabetes": 0.5})
    drawn = SimulatedData(
        Conditions(), users=4, weeks_per_user=1, cohort_seed=7, effect_scale=2.0, missing_labels=0.0,
        base_rates={"diabetes": 0.5}, batch_size=2,
    )  # fmt: skip
    np.testing.assert_array_equal(drawn.weeks.readings, weeks.readings)
    write_store(weeks, tmp_path / "weeks")
    stored = StoredData(Conditions(), path=str(tmp_path / "weeks"), batch_size=2)
    one, other = (next(iter(data.train_dataloader())) for data in (drawn, stored))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(HeartnetError, match="nowhere"):
        StoredData(Conditions(), path=tmp_path / "nowhere")


def test_the_epoch_counts_from_the_first_batch_on() -> None:
    sampler = BatchesByLength(np.arange(40), np.full(40, 9), 4, seed=0)
    asked_before = iter(sampler)
    sampler.set_epoch(2)
    assert [batch.tolist() for batch in asked_before] == [batch.tolist() for batch in sampler]
