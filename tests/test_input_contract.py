"""The input contract in plain trainers: each fault through a data module, clean data, foreign modules, no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from callbacks.input_contract import InputContract
from heartnet.account import Account
from heartnet.cli import main as heartnet
from heartnet.datamodule import SimulatedData, StoredData, WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.findings import BAD, Finding, read_jsonl
from heartnet.scaling import Scaling
from heartnet.simulate import simulate
from heartnet.store import write_store
from heartnet.synthetic import TARGETS
from heartnet.tasks import Conditions, Synthetic
from heartnet.weeks import Weeks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]

Batch = dict[str, Tensor]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Small(lightning.LightningModule):
    """A linear layer at every step, whatever the batch: a dict with `inputs` and `targets`, or a pair."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.network = nn.Linear(channels, outputs)

    def change(self, inputs: Tensor) -> Tensor:
        return inputs

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        inputs, targets = (batch["inputs"], batch["targets"]) if isinstance(batch, Mapping) else batch
        out = self.network(self.change(inputs) if self.training else inputs)
        return ((out.mean(dim=1) - targets.nan_to_num().reshape(len(out), -1)) ** 2).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.training_step(batch, index)

    def test_step(self, batch: Any, index: int) -> None:
        self.training_step(batch, index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer_of(folder: Path, callbacks: list[Any], **options: Any) -> lightning.Trainer:
    defaults: dict[str, Any] = {"max_steps": 1, "logger": False, "num_sanity_val_steps": 1}
    return lightning.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{**defaults, **options},
    )


def findings(folder: Path, data: WeeksDataModule, *, channels: int | None = None, **options: Any) -> list[Finding]:
    """Train for a step, and return what the callback found."""
    torch.manual_seed(0)
    trainer = trainer_of(folder, [InputContract()], **options)
    trainer.fit(Small(channels or data.channels, len(data.targets)), datamodule=data)
    return read_jsonl(folder / "findings.jsonl")


def faults(found: list[Finding]) -> dict[str, str]:
    assert all(each.check == "input_contract" for each in found)
    return {each.where: each.message for each in found if each.status in BAD}


@cache
def cohort(users: int = 48, weeks_per_user: int = 1, seed: int = 0, effect_scale: float = 1.0) -> Weeks:
    return simulate(users, weeks_per_user, seed, effect_scale)


class Spoiled(WeeksDataModule):
    """A data module of which a subclass spoils batches; `rows_of` says in which split a batch is."""

    def split_of(self, rows: Any) -> str:
        return next(split for split in self.rows if np.isin(rows, self.rows[split]).all())

    def spoil(self, batch: Batch, split: str) -> None:
        raise NotImplementedError

    def batch(self, rows: Any) -> Batch:
        batch = super().batch(rows)
        self.spoil(batch, self.split_of(rows))
        return batch


def spoiled(spoil: Callable[[WeeksDataModule, Batch, str], None], weeks: Weeks | None = None, **options: Any) -> Any:
    made = type("Made", (Spoiled,), {"spoil": spoil})
    return made(cohort() if weeks is None else weeks, Conditions(), **options)


def natural(data: WeeksDataModule, batch: Batch) -> list[Any]:
    return [data.weeks.week(int(row)) for row in batch["index"]]


def put(batch: Batch, channel: int, columns: list[Any]) -> None:
    for i, column in enumerate(columns):
        batch["inputs"][i, : len(column), channel] = torch.from_numpy(np.nan_to_num(column).astype(np.float32))


def unscaled(data: WeeksDataModule, batch: Batch, split: str) -> None:
    del split
    put(batch, 0, [week[:, 0] for week in natural(data, batch)])


def zeroed(data: WeeksDataModule, batch: Batch, split: str) -> None:
    del data, split
    batch["inputs"][..., 1] = 0


def swapped_in_validation(data: WeeksDataModule, batch: Batch, split: str) -> None:
    del data
    if split == "val":
        batch["inputs"][..., [1, 2]] = batch["inputs"][..., [2, 1]]


def nan_in_gaps(data: WeeksDataModule, batch: Batch, split: str) -> None:
    del split
    for i, week in enumerate(natural(data, batch)):
        batch["inputs"][i, : len(week), :3][torch.from_numpy(np.isnan(week))] = torch.nan


def milliseconds(data: WeeksDataModule, batch: Batch, split: str) -> None:
    del split
    weeks = [data.scaling.apply(week * np.float32([1, 1, 1000])) for week in natural(data, batch)]
    put(batch, 2, [week[:, 2] for week in weeks])


def leaked(data: WeeksDataModule, batch: Batch, split: str) -> None:
    del split
    column = data.targets.index("hypertension")
    label = batch["targets"][:, None, column, None].nan_to_num(0.5)
    batch["inputs"] = torch.cat([batch["inputs"], label.expand(-1, batch["inputs"].shape[1], 1)], dim=2)


def permuted_in_validation(data: WeeksDataModule, batch: Batch, split: str) -> None:
    if split == "val":
        one, other = data.targets.index("sleep_apnea"), data.targets.index("hypertension")
        batch["targets"][:, [one, other]] = batch["targets"][:, [other, one]]


CASES: dict[str, tuple[Callable[..., None], str, str]] = {
    "1 bpm": (unscaled, "train/heart_rate", "heart_rate is not scaled: the network sees bpm"),
    "2 zero": (zeroed, "train/steps", "steps is all 0, and the data has"),
    "3 swapped": (swapped_in_validation, "val/steps+dt", "the channels steps and dt are swapped in val"),
    "4 NaN": (nan_in_gaps, "train/heart_rate/nan", "where the data has none: gaps must become 0"),
    "7 milliseconds": (milliseconds, "val/dt", "dt is 1,000 times what the data holds: milliseconds"),
    "8 leak": (leaked, "hypertension/channel_3", "channel_3 in each week tells who has hypertension: AUROC 1.000"),
    "10 permuted": (
        permuted_in_validation,
        "val/sleep_apnea",
        "the column holds hypertension, and that of hypertension holds sleep_apnea",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mask_channel", [False, True])
def test_a_fault_in_batches(tmp_path: Path, case: str, mask_channel: bool) -> None:
    spoil, where, message = CASES[case]
    if case == "8 leak" and mask_channel:
        where, message = "hypertension/channel_4", message.replace("channel_3", "channel_4")
    data = spoiled(spoil, mask_channel=mask_channel)
    found = findings(tmp_path, data, channels=data.channels + (case == "8 leak"))
    assert message in faults(found)[where]
    assert next(each for each in found if each.where == where).status == "fail"
    # Said before the first step, and only about the places at fault.
    assert {each.step for each in found if each.where == where} == {0}
    splits = {"val"} if "validation" in spoil.__name__ else {"train", "val", "test", "hypertension"}
    assert {each.split("/")[0] for each in faults(found)} <= splits


def test_scaling_that_does_nothing(tmp_path: Path) -> None:
    data = WeeksDataModule(cohort(), Conditions())
    data.scaling = Scaling((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, (1.0,) * 3)
    assert "heart_rate has mean" in faults(findings(tmp_path, data))["train/heart_rate"]


def test_most_weeks_dropped_by_the_preparation(tmp_path: Path) -> None:
    account = Account()
    weeks = cohort()
    account.add("weeks", "in", 20 * len(weeks))
    account.add("weeks", "dropped: worn less than 140 h", 19 * len(weeks))
    account.add("weeks", "left", len(weeks))
    write_store(weeks, tmp_path / "weeks", account=account)
    found = findings(tmp_path, StoredData(Conditions(), path=tmp_path / "weeks"))
    assert "dropped 912 of 960 weeks (912 worn less than 140 h)" in faults(found)["rows/prepared weeks"]
    assert next(each for each in found if each.where == "rows/prepared weeks").value == pytest.approx(0.95)


def test_most_weeks_filtered_by_the_data_module(tmp_path: Path) -> None:
    class Filtered(SimulatedData):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.rows = {**self.rows, "train": self.rows["train"][::20]}

    found = faults(findings(tmp_path, Filtered(Conditions(), users=48, weeks_per_user=1)))
    assert set(found) == {"rows/filtered"}
    assert "weeks with a known target are in no split (train 2" in found["rows/filtered"]


def test_most_weeks_left_out_by_the_loader(tmp_path: Path) -> None:
    class Few(WeeksDataModule):
        def train_dataloader(self) -> Any:
            return self.loader(self.rows["train"][:2])

    found = faults(findings(tmp_path, Few(cohort(), Conditions(), batch_size=4)))
    assert found == {"rows/train": "32 of 34 weeks of train came in no batch of an epoch"}


def test_most_weeks_without_a_label(tmp_path: Path) -> None:
    weeks = cohort()
    few = pl.int_range(len(weeks)) % 16 == 0
    table = weeks.table.with_columns(pl.when(few).then(pl.col(c)).alias(c) for c in weeks.conditions)
    found = faults(findings(tmp_path, WeeksDataModule(replace(weeks, table=table), Conditions())))
    assert "45 of 48 weeks have no known" in found["rows/without target"]


def test_one_person_in_two_splits(tmp_path: Path) -> None:
    class Overlapping(WeeksDataModule):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            train, val = self.rows["train"], self.rows["val"]
            self.rows = {**self.rows, "train": train[:-1], "val": np.append(val, train[-1])}

    found = findings(tmp_path, Overlapping(cohort(24, 2), Conditions()))
    assert set(faults(found)) == {"people/train+val"}
    assert faults(found)["people/train+val"].startswith("1 of the 5 people in val are in train too, such as user-0000")


def test_one_week_in_two_splits_by_the_loader(tmp_path: Path) -> None:
    class Wrong(WeeksDataModule):
        def val_dataloader(self) -> Any:
            return self.loader(np.append(self.rows["val"], self.rows["train"][:3]))

    found = faults(findings(tmp_path, Wrong(cohort(), Conditions())))
    assert found == {"val/index": "3 of 10 weeks in batches of val do not belong to that split"}


def test_split_by_week_is_what_was_asked_for(tmp_path: Path) -> None:
    found = findings(tmp_path, WeeksDataModule(cohort(12, 4), Conditions(), split_by="week"))
    assert faults(found) == {}
    message = next(each for each in found if each.where == "people").message
    assert "Split by week, as asked for, so scores say nothing about new people" in message


@pytest.mark.parametrize(
    ("channel", "change", "where", "message"),
    [
        (2, lambda x: x * 1000, "data/dt", "dt is 1,000 times the seconds between readings: milliseconds"),
        (0, lambda x: x / 60, "data/heart_rate", "cannot be bpm (beats a second?)"),
        (0, lambda x: x * np.nan, "data/heart_rate", "the data holds no heart_rate at all"),
        (1, lambda x: x * 0, "data/steps", "steps is 0 at every reading of the data"),
    ],
)
def test_a_store_prepared_wrongly(
    tmp_path: Path, channel: int, change: Callable[[Any], Any], where: str, message: str
) -> None:
    weeks = cohort()
    readings = weeks.readings.copy()
    readings[:, channel] = change(readings[:, channel])
    write_store(replace(weeks, readings=readings), tmp_path / "weeks")
    found = faults(findings(tmp_path, StoredData(Conditions(), path=tmp_path / "weeks")))
    assert message in found[where]
    assert set(found) == {where}


def test_a_label_in_the_store(tmp_path: Path) -> None:
    weeks = cohort(160)
    label = np.repeat(weeks.table["hypertension"].fill_null(0).to_numpy().astype(np.float32), np.diff(weeks.offsets))
    readings = weeks.readings.copy()
    readings[:, 1] += label * 10_000
    found = faults(findings(tmp_path, WeeksDataModule(replace(weeks, readings=readings), Conditions())))
    assert "of steps in each week tells who has hypertension" in found["hypertension/steps"]


def test_a_label_in_the_metadata(tmp_path: Path) -> None:
    def leak(data: WeeksDataModule, batch: Batch, split: str) -> None:
        del split
        label = batch["targets"][:, data.targets.index("hypertension"), None].nan_to_num(0.0)
        batch["metadata"] = torch.cat([batch["metadata"], label], dim=1)

    assert set(faults(findings(tmp_path, spoiled(leak)))) == {"hypertension/metadata_6"}


def test_the_same_week_twice(tmp_path: Path) -> None:
    weeks = cohort(24, 2)
    data = WeeksDataModule(weeks, Conditions())
    one, other = int(data.rows["train"][0]), int(data.rows["val"][0])
    lengths = np.diff(weeks.offsets)
    parts = [weeks.week(one if i == other else i) for i in range(len(weeks))]
    times = [weeks.local_time[weeks.offsets[i] : weeks.offsets[i + 1]] for i in range(len(weeks))]
    times[other] = times[one]
    lengths[other] = lengths[one]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    twice = replace(weeks, readings=np.concatenate(parts), local_time=np.concatenate(times), offsets=offsets)
    found = faults(findings(tmp_path, WeeksDataModule(twice, Conditions())))
    assert set(found) == {"duplicates/train+val"}
    assert found["duplicates/train+val"].startswith("1 weeks have the same readings as another one")


def test_labels_permuted_in_the_test_split(tmp_path: Path) -> None:
    data = WeeksDataModule(cohort(), Conditions())
    data.values[data.rows["test"]] = data.values[data.rows["test"]][:, [0, 3, 2, 1]]
    found = faults(findings(tmp_path, data))
    assert set(found) == {"test/sleep_apnea", "test/hypertension"}
    assert "holds sleep_apnea" in found["test/hypertension"]


def test_rows_and_targets_of_other_weeks(tmp_path: Path) -> None:
    def shift(data: WeeksDataModule, batch: Batch, split: str) -> None:
        del data, split
        batch["index"] = batch["index"].roll(1)
        batch["targets"] = batch["targets"].roll(1, dims=0)

    class Alike(WeeksDataModule):
        """Weeks of one length, so that lengths do not give it away."""

        def batch(self, rows: Any) -> Batch:
            batch = super().batch(rows)
            shift(self, batch, "")
            return batch

    weeks = cohort()
    offsets = np.arange(0, len(weeks.readings) + 1, 512)
    few = len(weeks) + 1
    same = replace(weeks, readings=weeks.readings[: offsets[few - 1]], offsets=offsets[:few],
                   local_time=weeks.local_time[: offsets[few - 1]])  # fmt: skip
    found = faults(findings(tmp_path, Alike(same, Conditions())))
    assert "hold the readings of another week than `index` says" in found["train/order"]


def backwards(batch: Batch) -> None:
    for week, length in zip(batch["inputs"], batch["lengths"].tolist(), strict=True):
        week[:length] = week[:length].flip(0)


OTHERS: dict[str, tuple[Callable[[Batch], object], str, str]] = {
    "twice": (lambda b: b["inputs"].mul_(2), "train/heart_rate", "is scaled by other constants: 2 times"),
    "late": (lambda b: b["inputs"].copy_(b["inputs"].roll(1, 1)), "train/heart_rate", "comes one reading too late"),
    "backwards": (backwards, "train/heart_rate", "runs backwards"),
    "noise": (lambda b: b["inputs"][..., 0].add_(0.1), "train/padding", "hold something other than 0 after their end"),
    "shorter": (lambda b: b["lengths"].sub_(1), "train/lengths", "have another length than in the data"),
    "one reading": (lambda b: b["inputs"][:, 5, 0].add_(0.5), "train/heart_rate", "heart_rate is off by up to "),
    "metadata": (lambda b: b["metadata"][0].fill_(torch.nan), "train/metadata/nan", "values of the metadata are NaN"),
    "no dt": (lambda b: b.update(inputs=b["inputs"][..., :2]), "train/channels", "batches of train have 2 channels"),
    "exchanged": (lambda b: b["targets"].copy_(1 - b["targets"]), "train/hypertension", "0 and 1 are exchanged"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_faults_in_batches(tmp_path: Path, case: str) -> None:
    spoil, where, message = OTHERS[case]

    def spoil_all(data: WeeksDataModule, batch: Batch, split: str) -> None:
        del data, split
        spoil(batch)

    found = faults(findings(tmp_path, spoiled(spoil_all), channels=2 if case == "no dt" else 3))
    assert message in found[where]


class NanLater(lightning.Callback):
    """An augmentation that goes wrong in the second epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        del pl_module
        if trainer.current_epoch == 1 and batch_idx == 2:
            batch["inputs"][0, 3, 2] = torch.nan


def test_a_fault_that_begins_later(tmp_path: Path) -> None:
    class Augmented(Small):
        def change(self, inputs: Tensor) -> Tensor:
            late = self.current_epoch == 1 and self.trainer.global_step == 7
            return inputs / 0 if late else inputs

    def fit(folder: Path, module: Small, callbacks: list[Any]) -> dict[str, tuple[str, int]]:
        data = WeeksDataModule(cohort(), Conditions())
        trainer_of(folder, callbacks, max_steps=-1, max_epochs=2).fit(module, datamodule=data)
        found = read_jsonl(folder / "findings.jsonl")
        return {each.where: (each.message, each.step) for each in found if each.status in BAD}

    # Five batches an epoch. Before the callback, as batches come; after it, where only the network sees it; inside.
    before = fit(tmp_path / "a", Small(3, 4), [NanLater(), InputContract()])
    assert before == {"train/dt/nan": (before["train/dt/nan"][0], 7)}
    after = fit(tmp_path / "b", Small(3, 4), [InputContract(), NanLater()])
    assert "that reach the network, and was not in the batch" in after["train/dt/nan"][0]
    inside = fit(tmp_path / "c", Augmented(3, 4), [InputContract()])
    assert {where: step for where, (_, step) in inside.items()} == {
        f"train/{name}/nan": 7 for name in ("heart_rate", "steps", "dt")
    }


def test_channels_swapped_from_the_third_epoch_on(tmp_path: Path) -> None:
    class Later(WeeksDataModule):
        def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
            del dataloader_idx
            assert self.trainer is not None
            if not self.trainer.training and self.trainer.current_epoch == 2:
                batch["inputs"][..., [0, 1]] = batch["inputs"][..., [1, 0]]
            return batch

    trainer = trainer_of(tmp_path, [InputContract()], max_steps=-1, max_epochs=4)
    trainer.fit(Small(3, 4), datamodule=Later(cohort(), Conditions()))
    found = [each for each in read_jsonl(tmp_path / "findings.jsonl") if each.status in BAD]
    assert [(each.where, each.step) for each in found] == [("val/heart_rate+steps", 15)]


@pytest.mark.parametrize("seed", range(20))
def test_clean_data_gives_nothing(tmp_path: Path, seed: int) -> None:
    users, weeks_per_user = [(8, 2), (24, 1), (48, 1), (5, 6)][seed % 4]
    data = SimulatedData(
        Conditions(),
        users=users,
        weeks_per_user=weeks_per_user,
        cohort_seed=seed,
        split_seed=seed + 1,
        effect_scale=[1.0, 4.0][seed % 2],
        mask_channel=seed % 3 == 0,
        split_by="week" if seed % 5 == 0 else "user",
        batch_size=1 + seed % 7,
    )
    found = findings(tmp_path, data, max_steps=-1, max_epochs=2)
    assert faults(found) == {}
    assert {each.where for each in found} == {"rows", "people", "labels", "channels", "round trip"}


def pairs(
    count: int = 64, seed: int = 0, *, change: Callable[[Tensor, Tensor], Any] | None = None, batch: int = 8
) -> DataLoader[Any]:
    """Sequences of three unlike channels (a wave of random height, its events, gaps), and two labels."""
    generator = torch.Generator().manual_seed(seed)
    wave = torch.randn(count, 40, generator=generator).cumsum(1) / 5
    events = (torch.rand(count, 40, generator=generator) < 0.1).float() * 3 - 0.3
    gaps = torch.rand(count, 40, generator=generator).log() + 1
    inputs = torch.stack([wave, events, gaps], dim=2)
    labels = (torch.rand(count, 2, generator=generator) < torch.tensor([0.5, 0.1])).float()
    if change is not None:
        change(inputs, labels)
    return DataLoader(TensorDataset(inputs, labels), batch_size=batch)


def foreign(folder: Path, train: Any, val: Any = None, *, channels: int = 3, **options: Any) -> list[Finding]:
    trainer_of(folder, [InputContract()], max_steps=-1, max_epochs=1, **options).fit(Small(channels, 2), train, val)
    return read_jsonl(folder / "findings.jsonl")


def swap(inputs: Tensor, labels: Tensor) -> None:
    del labels
    inputs[..., [1, 2]] = inputs[..., [2, 1]]


FOREIGN: dict[str, tuple[str, Callable[[Tensor, Tensor], object], str, str]] = {
    "NaN": ("train", lambda x, _: x[3, 5:9, 1].fill_(torch.nan), "train/channel_1/nan", "at 4 of 7,680 values"),
    "constant": ("both", lambda x, _: x[..., 1].fill_(0), "train/channel_1", "is 0 at all 7,680 values"),
    "the same": ("both", lambda x, _: x[..., 2].copy_(x[..., 0]), "train/channel_0=channel_2", "are the same"),
    "unscaled": ("both", lambda x, _: x[..., 0].mul_(12).add_(70), "train/channel_0", "so scale it"),
    "twice": ("train", lambda x, _: x[30].copy_(x[2]), "duplicates/train", "1 of 192 inputs are the same as one"),
    "swapped": ("val", swap, "val/channel_1+channel_2", "look swapped in val"),
    "zero": ("val", lambda x, _: x[..., 0].zero_(), "val/channel_0", "distributed unlike in training"),
    "unit": ("val", lambda x, _: x[..., 2].mul_(1000), "val/channel_2", "distributed unlike in training"),
    "leak": ("both", lambda x, y: x[..., 1].copy_(y[:, :1].expand(-1, 40)), "label_0/channel_1", "AUROC 1.000"),
    "labels": ("val", lambda _, y: y.copy_(y.flip(1)), "val/label_0", "that of label_1 in training is like it"),
    "no label": ("train", lambda _, y: y[:5].fill_(torch.nan), "train/label_0", "is NaN in 5 weeks"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_loaders_from_elsewhere(tmp_path: Path, case: str) -> None:
    where_wrong, change, where, message = FOREIGN[case]
    wrong = {split: change if where_wrong in (split, "both") else None for split in ("train", "val")}
    train, val = pairs(192, change=wrong["train"], batch=24), pairs(96, 1, change=wrong["val"], batch=12)
    found = foreign(tmp_path, train, val)
    assert message in faults(found)[where]


def test_the_same_input_in_training_and_validation(tmp_path: Path) -> None:
    both = faults(foreign(tmp_path, pairs(), pairs()))
    assert both == {"duplicates/train+val": "64 of 64 inputs of val that were looked at are in train too"}


@pytest.mark.parametrize("seed", range(20))
def test_clean_loaders_from_elsewhere_give_nothing(tmp_path: Path, seed: int) -> None:
    sizes = (64, 48), (24, 1), (200, 3), (3, 2), (500, 100)
    train, val = sizes[seed % len(sizes)]
    found = foreign(tmp_path, pairs(train, seed), pairs(val, seed + 100))
    assert faults(found) == {}
    assert {each.where for each in found} == {"channels"}


def test_other_kinds_of_batches(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(64, 5, generator=generator)
    labels = torch.randint(0, 2, (64,), generator=generator)

    class Flat(Small):
        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            out: Tensor = self.network(batch[0].float())
            return out.square().mean()

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            self.starts = getattr(self, "starts", 0) + 1
            return iter([(flat[i], labels[i]) for i in range(64)])

    stream = Stream()
    for name, loader in {
        "pairs": DataLoader(TensorDataset(flat, labels), batch_size=8, shuffle=True),
        "a tensor in a tuple": DataLoader(TensorDataset(flat), batch_size=8),
        "whole numbers": DataLoader(TensorDataset((flat * 10).long()), batch_size=8),
        "a stream": DataLoader(stream, batch_size=8),
    }.items():
        trainer = trainer_of(tmp_path / name, [InputContract()], max_steps=-1, max_epochs=1)
        trainer.fit(Flat(5, 2), loader)
        assert faults(read_jsonl(tmp_path / name / "findings.jsonl")) == {}
    assert stream.starts == 1  # not looked at ahead


@pytest.mark.parametrize(
    "batch",
    [
        {"inputs": torch.randn(4, 5).to_sparse(), "y": torch.zeros(4)},
        {"inputs": torch.randn(4, 9, 2), "lengths": torch.ones(4, 1), "names": ["a"] * 4},
        [torch.randn(3, 20, 30), torch.randn(3, 25, 15), {"boxes": torch.zeros(2, 4)}],
        torch.randn(2, 20_000),
        (torch.randn(2, 3), torch.randn(2, 5000)),
        (torch.randn(0, 5), torch.randn(0, 1)),
        torch.view_as_complex(torch.randn(4, 5, 2)),
        torch.tensor(3.0),
        "text",
    ],
    ids=["sparse", "lengths", "boxes", "wide", "many targets", "empty", "complex", "a number", "text"],
)
def test_batches_of_which_nothing_is_known(tmp_path: Path, batch: Any) -> None:
    class Anything(Small):
        def training_step(self, batch: Any, index: int) -> Tensor:
            del batch, index
            out: Tensor = self.network(torch.zeros(1, 3)).sum()
            return out

    class Batches(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return batch

    loader = DataLoader(Batches(), batch_size=None, collate_fn=lambda each: each)
    trainer_of(tmp_path, [InputContract()], max_steps=-1, max_epochs=2).fit(Anything(3, 2), loader)
    assert not {each.where for each in read_jsonl(tmp_path / "findings.jsonl") if each.status == "fail"}


def weights(folder: Path, callbacks: list[Any], make: Callable[[], tuple[Any, ...]], **options: Any) -> list[Any]:
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = trainer_of(folder, callbacks, max_steps=-1, max_epochs=3, **options)
    module = Small(3, 2)
    loaders = make()
    trainer.fit(module, *loaders)
    own = getattr(loaders[0].dataset, "rng", None)
    drawn = own.random() if own is not None else 0
    return [*(each.detach() for each in module.parameters()), torch.rand(1), torch.tensor([np.random.rand(), drawn])]


class Augmenting(TensorDataset):
    """Draws from each random stream that a data set may have, its own included."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.rng = np.random.default_rng(5)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        inputs, labels = super().__getitem__(index)
        return inputs + float(self.rng.normal()) + float(np.random.randn()) + torch.randn(1), labels


@pytest.mark.parametrize("look_ahead", [0, 3, 100])
def test_training_is_the_same_bit_for_bit(tmp_path: Path, look_ahead: int) -> None:
    def make() -> tuple[Any, ...]:
        data = Augmenting(*pairs().dataset.tensors)  # type: ignore[attr-defined]
        own = torch.Generator().manual_seed(3)
        return DataLoader(data, batch_size=8, shuffle=True, generator=own), DataLoader(data, batch_size=4)

    contract = InputContract(look_ahead=look_ahead)
    ends = [weights(tmp_path, callbacks, make) for callbacks in ([contract], [])]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert contract.contract is not None


def test_training_of_heartnet_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([InputContract()], []):
        torch.manual_seed(0)
        module = Small(3, 4)
        trainer = trainer_of(tmp_path, callbacks, max_steps=-1, max_epochs=2)
        trainer.fit(module, datamodule=WeeksDataModule(cohort(), Conditions()))
        assert not module.network._forward_pre_hooks
        ends.append([*(each.detach() for each in module.parameters()), torch.rand(1)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_what_is_logged(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb", version="")
    data = WeeksDataModule(cohort(), Conditions())
    trainer = trainer_of(tmp_path, [InputContract()], max_steps=-1, max_epochs=2, logger=logger, log_every_n_steps=1)
    module = Small(3, 4)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0}).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("input_contract/")}
    channels = {f"{what}/{name}" for what in ("mean", "spread", "lowest", "highest") for name in data.scaling.channels}
    rates = {
        f"{split}/base_rate/{name}"
        for split, rows in data.rows.items()
        for i, name in enumerate(data.targets)
        if not np.isnan(data.values[rows, i]).all()
    }
    wanted = {f"{split}/{each}" for split in data.rows for each in {*channels, "weeks"}} | rates
    assert tags == {f"input_contract/{each}" for each in wanted}
    for split in ("train", "val"):
        known = data.values[data.rows[split], 3]
        rate = events.Scalars(f"input_contract/{split}/base_rate/hypertension")
        assert [each.value for each in rate] == pytest.approx([np.nanmean(known)] * 2)
        rates_seen = np.concatenate([data.scaling.apply(data.weeks.week(i))[:, 0] for i in data.rows[split]])
        mean = events.Scalars(f"input_contract/{split}/mean/heart_rate")[-1].value
        assert mean == pytest.approx(rates_seen.astype(np.float64).mean(), abs=1e-6)
    assert faults(read_jsonl(tmp_path / "tb" / "findings.jsonl")) == {}


def test_synthetic_targets_and_the_hourly_view(tmp_path: Path) -> None:
    weeks = cohort(16, 2)
    assert faults(findings(tmp_path / "a", WeeksDataModule(weeks, Synthetic(tuple(TARGETS))))) == {}
    hourly = WeeksDataModule(weeks, Conditions(), view="hourly")
    found = findings(tmp_path / "b", hourly)
    assert faults(found) == {}
    assert "round trip" in {each.where for each in found}
    wrong = WeeksDataModule(weeks, Synthetic())
    wrong.values[wrong.rows["val"]] += 1
    assert set(faults(findings(tmp_path / "c", wrong))) == {"val/day_std_minus_night_std"}


@pytest.mark.parametrize("view", ["readings", "hourly"])
def test_tiny_data(tmp_path: Path, view: Any) -> None:
    """One week in validation; no validation; one person; a condition that nobody knows in validation."""
    one = WeeksDataModule(cohort(3), Conditions(), view=view)
    assert [len(rows) for rows in one.rows.values()] == [1, 1, 1]
    assert faults(findings(tmp_path / "a", one)) == {}
    none = WeeksDataModule(cohort(8), Conditions(), val_share=0.0, test_share=0.0, view=view)
    assert faults(findings(tmp_path / "b", none)) == {}
    person = WeeksDataModule(cohort(1, 6), Conditions(), split_by="week", view=view)
    assert faults(findings(tmp_path / "c", person)) == {}
    unknown = WeeksDataModule(cohort(8), Conditions(), view=view)
    weeks = unknown.weeks
    val = pl.Series(np.isin(np.arange(len(weeks)), unknown.rows["val"]))
    table = weeks.table.with_columns(pl.when(~val).then(pl.col("diabetes")).alias("diabetes"))
    again = WeeksDataModule(replace(weeks, table=table), Conditions(), view=view)
    assert faults(findings(tmp_path / "d", again)) == {}


def test_loaders_of_heartnet_without_its_data_module(tmp_path: Path) -> None:
    data = spoiled(zeroed)
    trainer = trainer_of(tmp_path, [InputContract()])
    trainer.fit(Small(3, 4), data.train_dataloader(), data.val_dataloader())
    assert "steps is all 0" in faults(read_jsonl(tmp_path / "findings.jsonl"))["train/steps"]


def test_several_validation_loaders_and_only_a_test(tmp_path: Path) -> None:
    class Two(Small):
        def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
            del dataloader_idx
            self.training_step(batch, index)

    trainer = trainer_of(tmp_path / "a", [InputContract()], max_steps=-1, max_epochs=1)
    trainer.fit(Two(3, 2), pairs(), [pairs(16, 1), pairs(16, 2)])
    assert faults(read_jsonl(tmp_path / "a" / "findings.jsonl")) == {}
    trainer_of(tmp_path / "b", [InputContract()]).test(Small(3, 4), datamodule=spoiled(zeroed), verbose=False)
    assert set(faults(read_jsonl(tmp_path / "b" / "findings.jsonl"))) == {"test/steps"}


def test_a_second_fit_starts_anew(tmp_path: Path) -> None:
    callback = InputContract()
    for name in ("a", "b"):
        trainer_of(tmp_path / name, [callback]).fit(Small(3, 4), datamodule=spoiled(zeroed))
        assert "train/steps" in faults(read_jsonl(tmp_path / name / "findings.jsonl"))


def test_fast_dev_run_and_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer_of(tmp_path, [InputContract()], fast_dev_run=True).fit(Small(3, 4), datamodule=spoiled(zeroed))
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda _: False))
    trainer_of(tmp_path, [InputContract()]).fit(Small(3, 4), datamodule=spoiled(zeroed))
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_rounds_and_is_no_fault(tmp_path: Path, precision: str) -> None:
    class AsItComes(Small):
        def training_step(self, batch: Any, index: int) -> Tensor:
            batch = {**batch, "targets": batch["targets"].to(batch["inputs"].dtype)}
            return super().training_step(batch, index)

    data = WeeksDataModule(cohort(), Conditions())
    trainer_of(tmp_path, [InputContract()], precision=precision).fit(AsItComes(3, 4), datamodule=data)
    assert faults(read_jsonl(tmp_path / "findings.jsonl")) == {}


@pytest.mark.parametrize(("argument", "value"), [("look_ahead", -1), ("every_n_batches", 0)])
def test_arguments_that_cannot_work(argument: str, value: int) -> None:
    with pytest.raises(HeartnetError, match=f"callbacks.input_contract.{argument}={value}: must be at least"):
        InputContract(**{argument: value})


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Findings wait for the end of an epoch, where all processes are."""
    script = f"""
import torch
from test_input_contract import InputContract, Small, pairs, trainer_of
if __name__ == "__main__":
    options = {{"devices": 2, "strategy": "ddp_spawn", "max_steps": -1, "max_epochs": 2}}
    trainer = trainer_of({str(tmp_path)!r}, [InputContract()], **options)
    wrong = lambda x, _: x[3, 5:9, 1].fill_(torch.inf)
    trainer.fit(Small(3, 2), pairs(64, change=wrong), pairs(32, 1))
"""
    (tmp_path / "script.py").write_text(script)
    tests = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=paths, check=True, timeout=120, capture_output=True)
    assert set(faults(read_jsonl(tmp_path / "findings.jsonl"))) <= {"train/channel_1/nan"}


RECORDINGS: dict[str, tuple[list[str], Any, dict[str, Any]]] = {
    "afdb": (
        ["@heart_rate.csv.gz", "--time", "seconds", "--time-unit", "s", "--by", "4096", "--label-intervals",
         "@rhythms.csv", "--condition", "atrial_fibrillation=rhythm:AFIB"],
        Conditions, {},
    ),
    "applewatch": (
        ["@hr.csv", "@steps.csv", "--time", "Start_Date+Start_Time", "--heart-rate", "Value", "--steps", "Steps"],
        Synthetic, {"split_by": "week"},
    ),
    "cgmacros": (
        ["@CGMacros-*.csv.gz", "--user-from-filename", r"CGMacros-(\d+)", "--labels", "@bio.csv", "--people",
         "@bio.csv", "--condition", "diabetes=A1c PDL (Lab)>=6.5"],
        Conditions, {},
    ),
}  # fmt: skip


def prepared(folder: str, out: Path, *more: str) -> Path:
    """Prepare recordings; `@` is a file among them, or several with a `*`."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"the recordings of {folder} are not at {DATA}")
    words = [
        str(path)
        for word in RECORDINGS[folder][0]
        for path in (sorted((DATA / folder).glob(word[1:])) if word.startswith("@") else [word])
    ]
    assert heartnet(["prepare", "table", *words, *more, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("folder", RECORDINGS)
def test_real_recordings_give_nothing(tmp_path: Path, folder: str) -> None:
    path = prepared(folder, tmp_path / "weeks")
    _, task, options = RECORDINGS[folder]
    for seed in range(3):
        data = StoredData(task(), path=path, split_seed=seed, mask_channel=seed == 1, batch_size=16, **options)
        found = findings(tmp_path / str(seed), data, max_steps=-1, max_epochs=1)
        assert faults(found) == {}
        assert {each.where for each in found} == {"rows", "people", "labels", "channels", "round trip"}


def test_a_preparation_that_drops_nearly_all(tmp_path: Path) -> None:
    path = prepared("cgmacros", tmp_path / "weeks", "--min-wear-hours", "145")
    found = faults(findings(tmp_path, StoredData(Conditions(), path=path, split_by="week")))
    assert "worn less than 145 h" in found["rows/prepared weeks"]
