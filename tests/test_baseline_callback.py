"""The callback `baseline` in trainings: its verdicts, faults put in, modules from elsewhere, and no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from callbacks.baseline import Baseline
from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.seen_weeks import SeenWeeks
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, read_jsonl
from heartnet.model import DeepHeart, HourlyCNN
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions, Synthetic
from heartnet.weeks import Weeks

STEPS = 84


def weeks(seed: int, users: int, *, rare: float = 0.35, shift: float = 3.0) -> Weeks:
    """Return weeks of a reading every two hours, with two conditions that a network sees better than averages do.

    Sleep apnea makes the heart rate swing faster (a period of 10 hours, not 18), diabetes makes it rise slowly and fall
    at once, not the other way round; both raise it by `shift` and 3 bpm.
    """
    rng = np.random.default_rng(seed)
    has = np.stack([rng.random(users) < rare, rng.random(users) < 0.4], axis=1)
    at = np.arange(STEPS)
    parts = []
    for apnea, diabetes in has:
        swing = np.sin(2 * np.pi * (at / ((5 if apnea else 9) * rng.uniform(0.9, 1.1)) + rng.random()))
        rise = (at / 24 + rng.random()) % 1.0
        level = 70 + shift * apnea + 3 * diabetes + rng.normal(0, 4)
        rate = level + 5 * swing + 20 * ((rise if diabetes else 1 - rise) - 0.5) + rng.normal(0, 6, STEPS)
        parts.append(np.stack([rate, np.full(STEPS, np.nan), np.full(STEPS, 7200.0)], axis=1))
        parts[-1][0, 2] = np.nan
    start = np.datetime64("2024-01-01T00:00:00", "us")
    table = pl.DataFrame(
        {
            "user_id": [f"user-{i:04d}" for i in range(users)],
            "start": pl.Series([start.item()] * users),
            "readings": [STEPS] * users,
            "wear_hours": [100.0] * users,
            "device": pl.Series([None] * users, dtype=pl.String),
            "age": rng.normal(50, 10, users) + 6 * has[:, 1],
            "sex": ["female"] * users,
            "bmi": rng.normal(25, 3, users),
            "sleep_apnea": pl.Series(has[:, 0].astype(int), dtype=pl.Int8),
            "diabetes": pl.Series(has[:, 1].astype(int), dtype=pl.Int8),
        }
    )
    local = np.tile(start.astype(np.int64) + at * 7_200_000_000, users)
    readings = np.concatenate(parts).astype(np.float32)
    return Weeks(readings, local, np.arange(users + 1) * STEPS, table, ("sleep_apnea", "diabetes"))


def training(kind: str, seed: int, data: Weeks, **module: Any) -> tuple[HeartnetModule, WeeksDataModule]:
    torch.manual_seed(seed)
    view: Any = "hourly" if kind == "hourly" else "readings"
    made = WeeksDataModule(data, Conditions(), batch_size=32, val_share=0.05, test_share=0.4, seed=seed, view=view)
    network: nn.Module
    if kind == "hourly":
        network = HourlyCNN(made.channels, 2, conv_units=16, dropout=0.0)
    else:
        network = DeepHeart(
            made.channels, 2, conv_units=16, kernel_sizes=(5, 3), pool=2, lstm_units=16, lstm_layers=1, dropout=0.0,
            longest=STEPS,
        )  # fmt: skip
    mean, std = made.target_statistics()
    return HeartnetModule(
        network, kind="conditions", targets=made.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=made.scaling.as_dict(), seed=seed, **{"learning_rate": 1e-2, **module},
    ), made  # fmt: skip


def trainer(folder: Path, *callbacks: Any, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"logger": False, "max_epochs": 1, "num_sanity_val_steps": 0, **options},
    )


def findings(folder: Path, module: Any, data: Any, callback: Baseline | None = None, **options: Any) -> list[Finding]:
    it = trainer(folder, callback or Baseline(draws=500), **options)
    if it.max_epochs:
        it.fit(module, datamodule=data)
    it.test(module, datamodule=data, verbose=False)
    return read_jsonl(folder / "findings.jsonl")


def faulty(number: int | None, kind: str, seed: int) -> tuple[HeartnetModule, WeeksDataModule]:
    """Return a healthy training, or one with fault 11, 12 or 30 of the project's list."""
    data = weeks(seed, 700, rare=0.06, shift=6) if number == 11 else weeks(seed, 700)
    if number == 30:
        labels = data.table.select(data.conditions)[np.random.default_rng(seed).permutation(len(data))]
        data = replace(data, table=data.table.with_columns(labels))
    made = training(kind, seed, data, **({"learning_rate": 1e-5} if number == 11 else {}))
    if number == 12:
        made[0].network.activation = nn.Identity()
    return made


NAMED = {11: "hardly differ between weeks", 12: "no more than a linear model", 30: "labels and weeks belong together"}


@pytest.mark.parametrize("number", [None, 11, 12, 30])
def test_faults_are_named_and_a_good_network_passes(number: int | None, tmp_path: Path) -> None:
    found = findings(tmp_path, *faulty(number, "hourly", 0), max_epochs=15 if number is None else 4)
    assert [each.where for each in found] == ["sleep_apnea", "diabetes"]
    if number is None:
        assert [each.status for each in found] == ["pass", "pass"], found
    else:
        assert all(NAMED[number] in each.message for each in found), found
        assert "pass" not in [each.status for each in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hourly", "deepheart"])
@pytest.mark.parametrize("number", [None, 11, 12, 30])
def test_rates_over_seeds(number: int | None, kind: str, tmp_path: Path) -> None:
    if (number, kind) == (12, "deepheart"):
        pytest.skip("with an LSTM a network is not linear, whatever its convolutions are")
    named = 0
    for seed in range(10):
        found = findings(tmp_path / str(seed), *faulty(number, kind, seed), max_epochs=20)
        if number is None:
            named += any(each.status in ("warn", "fail") for each in found)
        else:
            named += any(NAMED[number] in each.message for each in found)
    assert named <= 1 if number is None else named >= 8, named


# What it writes, and what it leaves


def state(module: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in module.state_dict().values()]


def test_no_trace(tmp_path: Path) -> None:
    ends = []
    for name, callbacks in (("with", [Baseline(draws=100)]), ("without", [])):
        lightning.seed_everything(3, verbose=False)
        module, data = training("deepheart", 3, weeks(3, 60))
        it = trainer(tmp_path / name, *callbacks, max_epochs=2)
        it.fit(module, datamodule=data)
        it.test(module, datamodule=data, verbose=False)
        streams = (random.random(), np.random.random(), torch.rand(1).item())
        ends.append((state(module), module.test_scores, streams, module.training))
    (one, scores, streams, mode), (other, other_scores, other_streams, other_mode) = ends
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    np.testing.assert_array_equal(scores, other_scores)
    assert (streams, mode) == (other_streams, other_mode)


def test_predictions_tags_and_skipped_features(tmp_path: Path) -> None:
    data = weeks(0, 60)
    nobody = [pl.lit(None, pl.Float64).alias(name) for name in ("age", "bmi")]
    unknown = data.table.with_columns(*nobody, pl.lit(None, pl.String).alias("sex"))
    module, made = training("deepheart", 0, replace(data, table=unknown))
    it = trainer(tmp_path, Baseline(draws=100))
    it.fit(module, datamodule=made)
    it.test(module, datamodule=made, verbose=False)
    predictions = pl.read_parquet(tmp_path / "predictions_baseline.parquet")
    assert predictions["model"].unique(maintain_order=True).to_list() == ["hourly", "boosting"]
    assert set(predictions["week"]) == set(made.rows["test"])
    tags = {name for name in it.callback_metrics if name.startswith("baseline/")}
    assert "baseline/boosting/auroc/diabetes" in tags
    assert "baseline/hourly/average_precision/sleep_apnea" in tags
    found = {each.where: each for each in read_jsonl(tmp_path / "findings.jsonl")}
    assert "nothing" in found["metadata"].message
    assert found["metadata"].status == "unknown"
    assert found["diabetes"].step == it.global_step


def test_on_simulated_weeks_the_ceiling_stands_beside_it(tmp_path: Path) -> None:
    from heartnet.datamodule import SimulatedData

    made = SimulatedData(
        Conditions(["hypertension"]), users=60, weeks_per_user=1, batch_size=16, test_share=0.7, view="hourly"
    )
    torch.manual_seed(0)
    module = HeartnetModule(
        HourlyCNN(made.channels, 1, conv_units=4), kind="conditions", targets=made.targets, target_mean=[0.3],
        target_std=[1.0], scaling=made.scaling.as_dict(),
    )  # fmt: skip
    [found] = findings(tmp_path, module, made, max_epochs=0)
    assert "One who sees the true traits of simulated people: 0." in found.message or "too few" in found.message


def test_weeks_of_one_person(make_weeks: Callable[..., Weeks], tmp_path: Path) -> None:
    one = make_weeks(users=1, weeks_each=80, shortest=150, longest=200)
    made = WeeksDataModule(one, Synthetic(["day_std_minus_night_std"]), batch_size=16, split_by="week", test_share=0.4)
    torch.manual_seed(0)
    mean, std = made.target_statistics()
    network = DeepHeart(made.channels, 1, conv_units=4, kernel_sizes=(5, 3), pool=2, lstm_units=4, lstm_layers=1)
    module = HeartnetModule(
        network, kind="synthetic", targets=made.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=made.scaling.as_dict(),
    )  # fmt: skip
    [found] = findings(tmp_path, module, made)
    assert found.where == "day_std_minus_night_std"
    assert found.status == "fail"
    assert found.limit == 0.8
    assert "bpm: " in found.message
    assert "the training mean" in found.message
    assert "model.readout=both_ends" in found.try_
    assert "trainer.max_epochs=2" in found.try_


# Modules from elsewhere


class Foreign(lightning.LightningModule):
    """Knows heartnet's batches, and nothing else of it."""

    def __init__(self, give: str) -> None:
        super().__init__()
        self.give = give
        self.network = nn.Linear(3, 2)

    def forward(self, batch: Any) -> Tensor:
        out: Tensor = self.network(batch["inputs"].mean(dim=1))
        return out

    def test_step(self, batch: Any, index: int) -> Any:
        del index
        logits = self(batch)
        return {"tensor": logits, "dict": {"scores": logits.sigmoid()}, "one": logits[:, 0], "none": None}[self.give]


@pytest.mark.parametrize("give", ["tensor", "dict"])
def test_a_foreign_module_by_what_its_test_step_returns(give: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, data = training("deepheart", 0, weeks(0, 200))
    module = Foreign(give)
    found = {each.where: each for each in findings(tmp_path, module, data, max_epochs=0)}
    assert set(found) == {"sleep_apnea", "diabetes"}
    assert all(each.value is not None and each.try_ == () for each in found.values())
    again = Baseline(draws=500, scores=lambda module, batch: module(batch).sigmoid())
    same = findings(tmp_path / "again", Foreign("none") if give == "dict" else module, data, again, max_epochs=0)
    if give == "tensor":
        assert {each.where: each for each in same} == found  # logits and probabilities give the same order


def test_what_cannot_be_read_is_said_once(tmp_path: Path) -> None:
    _, data = training("deepheart", 0, weeks(0, 60))
    [found] = findings(tmp_path / "none", Foreign("none"), data, max_epochs=0)
    assert found.status == "warn"
    assert "needs the scores of Foreign, and found none; let test_step return" in found.message
    [found] = findings(tmp_path / "one", Foreign("one"), data, max_epochs=0)
    assert "found 1 a week for 2 targets" in found.message

    def wrong(*_: Any) -> Tensor:
        raise ValueError("no such thing")

    [found] = findings(tmp_path / "wrong", Foreign("tensor"), data, Baseline(scores=wrong), max_epochs=0)
    assert "ValueError: no such thing" in found.message


def test_without_weeks_it_says_what_it_needs(tmp_path: Path) -> None:
    module = Foreign("tensor")
    loader = torch.utils.data.DataLoader([{"inputs": torch.zeros(5, 3)}], batch_size=1)
    it = trainer(tmp_path, Baseline())
    it.test(module, loader, verbose=False)
    [found] = read_jsonl(tmp_path / "findings.jsonl")
    assert "needs heartnet's data module" in found.message
    assert not (tmp_path / "predictions_baseline.parquet").exists()


def test_a_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    module, data = training("deepheart", 0, weeks(0, 60))
    it = trainer(tmp_path, Baseline(draws=100), fast_dev_run=True)
    it.fit(module, datamodule=data)
    it.test(module, datamodule=data, verbose=False)
    assert list(tmp_path.rglob("*")) == []


def test_arguments_that_cannot_work() -> None:
    for options, words in (
        ({"features": ["metadat"]}, "no features 'metadat'"),
        ({"margin": -0.1}, "margin=-0.1: must be from 0 to 0.5"),
        ({"explained": 2}, "explained=2: must be from 0 to 1"),
        ({"draws": 10}, "draws=10: must be at least 100"),
    ):
        with pytest.raises(HeartnetError, match=words):
            Baseline(**options)  # type: ignore[arg-type]


def test_means_are_of_valid_steps() -> None:
    inputs = torch.arange(2 * 32 * 2, dtype=torch.float32).reshape(2, 32, 2)
    inputs[1, 20:] = 1e9  # padding
    batch = {
        "inputs": inputs,
        "lengths": torch.tensor([32, 20]),
        "metadata": torch.ones(2, 3),
        "index": torch.tensor([4, 7]),
    }
    seen = SeenWeeks()
    seen.add(batch, torch.zeros(2))
    rows, means, scores = seen.table()
    assert rows.tolist() == [4, 7]
    assert scores is not None
    assert scores.shape == (2, 1)
    for i, length in enumerate((32, 20)):
        own = inputs[i, :length].double().numpy()
        expected = [*own.mean(0), *own[:2].mean(0), *own[-2:].mean(0), 1, 1, 1]
        np.testing.assert_allclose(means[i], expected)
    seen.add(batch, None)
    assert seen.table()[2] is None
