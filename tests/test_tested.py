"""A run tests the network that `heartnet predict`, `export` and `card` take, and says which one that is."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from polars.testing import assert_frame_equal

import train
from callbacks.people import People
from heartnet import built, step_losses
from heartnet.chosen_checkpoint import choose_checkpoint
from heartnet.cli import main
from heartnet.findings import Finding, read_jsonl
from heartnet.module import HeartnetModule
from heartnet.on_predictions import PredictedSplit
from heartnet.people import Way
from heartnet.store import write_store
from heartnet.tested import FILE, file_hash, of_the_test, read_tested

TINY = (
    "data=weeks", "data.path=weeks", "data.val_share=0.2", "data.test_share=0.3", "data.batch_size=8",
    "task.conditions=[sleep_apnea,diabetes]", "model=compact", "model.conv_units=3", "model.lstm_units=3",
    "model.lstm_layers=1", "module.learning_rate=0.05", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "hydra.run.dir=run",
)  # fmt: skip
RUN = Path("run")

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `train.py` on stored weeks, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    write_store(faults.weeks(0, 40), tmp_path / "weeks")

    def run_train(*overrides: str, epochs: int = 3) -> int:
        given = {each.partition("=")[0] for each in overrides}
        words = [each for each in TINY if each.partition("=")[0] not in given]
        monkeypatch.setattr(sys, "argv", ["train.py", *words, f"trainer.max_epochs={epochs}", *overrides])
        return train.main()

    return run_train


@pytest.fixture
def overfits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the logged validation loss rise from the second epoch on."""

    def rising(trainer: lightning.Trainer, values: dict[str, torch.Tensor]) -> None:
        step_losses.log_validation(trainer, {**values, "val/loss": torch.tensor(float(abs(trainer.current_epoch - 1)))})

    monkeypatch.setattr("heartnet.module.log_validation", rising)


def weights(name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(RUN / "checkpoints" / name, weights_only=True)["state_dict"]
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_predicted_as_tested(folder: Path = RUN) -> None:
    """Compare the run's predictions with those of `heartnet predict` on the same weeks."""
    assert main(["predict", str(folder), "weeks", "--out", "scores.parquet"]) == 0
    keys = ["user_id", "start", "target"]
    tested = pl.read_parquet(folder / "predictions.parquet").sort(keys)
    predicted = pl.read_parquet("scores.parquet").join(tested.select(keys), on=keys, how="semi").sort(keys)
    Path("scores.parquet").unlink()
    assert len(tested) > 0
    columns = [*keys, "value", "score"]
    assert_frame_equal(predicted.select(columns), tested.select(columns), rel_tol=0, abs_tol=1e-6)


class Watches(lightning.Callback):
    """Somebody else's, with a state of its own: sees the weights that are tested."""

    def __init__(self) -> None:
        self.epochs = 0
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del trainer, pl_module
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]

    def on_test_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del trainer
        self.seen.append({name: each.clone() for name, each in pl_module.state_dict().items()})


@pytest.mark.usefixtures("overfits")
def test_the_best_is_tested_and_the_run_goes_on_from_the_newest(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watches, way = Watches(), Way("maximum")
    chosen: list[tuple[object, dict[str, Way]]] = []
    epochs: list[int] = []
    build, look = built.build_trainer, People.look

    def with_another(config: Any, folder: Path) -> lightning.Trainer:
        trainer = build(config, folder)
        trainer.callbacks.insert(0, watches)  # type: ignore[attr-defined]
        return trainer

    def choose(self: People, predicted: PredictedSplit) -> dict[str, Way]:
        del self
        epochs.append(predicted.step)
        return {"diabetes": way if len(epochs) == 2 else Way("mean")}

    def looks(self: People, trainer: lightning.Trainer, *rest: Any) -> list[Finding]:
        chosen.append((trainer.state.fn, dict(self.chosen)))
        return look(self, trainer, *rest)

    monkeypatch.setattr(built, "build_trainer", with_another)
    monkeypatch.setattr(People, "_chosen_on", choose)
    monkeypatch.setattr(People, "look", looks)
    assert run("+callbacks=[people,metadata_reliance]", "callbacks.people.draws=100") == 0
    best, newest = weights("epoch-1.ckpt"), weights("last.ckpt")
    assert not same(best, newest)
    assert len(watches.seen) == 1
    assert same(watches.seen[0], best)
    assert watches.epochs == 3  # its own state stays that of the whole training
    assert chosen[-1] == ("test", {"diabetes": way})
    tested = read_tested(RUN)
    assert tested is not None
    assert (tested.name, tested.epochs, tested.of_epochs, tested.monitor) == ("epoch-1.ckpt", 2, 3, "val/loss")
    assert tested.sha256 == file_hash(RUN / "checkpoints" / "epoch-1.ckpt")
    said = f"epoch-1.ckpt, after epoch 2 of 3 (step {tested.step} of {tested.of_steps}), the best by val/loss"
    assert f"Tested: {said}." in capsys.readouterr().out
    found = read_jsonl(RUN / "findings.jsonl")
    of_test = {each.step for each in found if each.where.startswith("test: ")}
    assert of_test == {tested.step}
    assert {each.step for each in found if each.where.startswith("val: ")} == {tested.of_steps}
    assert tested.step == tested.of_steps * 2 // 3
    assert f"Tested: {said}." in (RUN / "report.html").read_text(encoding="utf-8")
    assert_predicted_as_tested()
    assert choose_checkpoint(RUN).path.name == "epoch-1.ckpt"
    assert of_the_test(RUN / "checkpoints" / "epoch-1.ckpt") == "its run tested it"
    assert of_the_test(RUN / "checkpoints" / "last.ckpt") == f"its run's test is of another one: {said}"
    assert choose_checkpoint(RUN).ways == {"diabetes": way}


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.usefixtures("overfits")
def test_training_goes_on_from_the_newest_and_not_from_what_was_tested(run: Run) -> None:
    schedule = "module.schedule=constant"
    assert run(schedule, "hydra.run.dir=whole", "test=false", epochs=4) == 0
    assert run(schedule) == 0
    assert run(schedule, "ckpt_path=run/checkpoints/last.ckpt", epochs=4) == 0
    whole = torch.load("whole/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert same(weights("last.ckpt"), whole)
    tested = read_tested(RUN)
    assert tested is not None
    assert (tested.name, tested.epochs, tested.of_epochs) == ("epoch-1.ckpt", 2, 4)
    assert_predicted_as_tested()
    # Nothing is left to do, and the test is made anew.
    (RUN / FILE).unlink()
    assert run(schedule, "ckpt_path=run/checkpoints/last.ckpt", epochs=4) == 0
    assert read_tested(RUN) == tested
    assert_predicted_as_tested()
    # To a folder of its own, in which there is no checkpoint then.
    assert run(schedule, "ckpt_path=run/checkpoints/last.ckpt", "hydra.run.dir=other", epochs=4) == 0
    assert not (Path("other") / FILE).exists()
    assert (Path("other") / "predictions.parquet").exists()


@pytest.mark.usefixtures("overfits")
@pytest.mark.parametrize(
    "overrides",
    [
        ("checkpoint.monitor=null",),
        ("checkpoint.monitor=null", "data.val_share=0", "+trainer.limit_train_batches=2"),
        ("checkpoint.save_top_k=0",),
        ("checkpoint.monitor=null", "+trainer.check_val_every_n_epoch=2"),
    ],
)
def test_the_newest_where_no_best_is_kept(
    run: Run, overrides: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*overrides) == 0
    epochs = 2 if "check_val" in overrides[-1] else 3
    tested = read_tested(RUN)
    assert tested is not None
    assert (tested.epochs, tested.of_epochs, tested.monitor) == (epochs, 3, "")
    assert (
        f"after epoch {epochs} of 3 (step {tested.step} of {tested.of_steps}), the newest." in capsys.readouterr().out
    )
    assert not (RUN / "findings.jsonl").exists(), "which weights are tested is no verdict"
    assert_predicted_as_tested()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_newest_where_the_monitor_was_never_a_number(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    loss = HeartnetModule.loss

    def lost(self: HeartnetModule, *given: torch.Tensor) -> torch.Tensor:
        return loss(self, *given) if self.training else torch.tensor(value)

    monkeypatch.setattr(HeartnetModule, "loss", lost)
    assert run(epochs=2) == 0
    assert (RUN / "checkpoints" / "epoch-0.ckpt").is_file(), "Lightning keeps one all the same"
    tested = read_tested(RUN)
    assert tested is not None
    assert (tested.epochs, tested.of_epochs, tested.monitor, tested.lost) == (2, 2, "", "val/loss")
    said = "the newest, for val/loss was NaN or infinite in each epoch."
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (RUN / "report.html").read_text(encoding="utf-8")
    assert_predicted_as_tested()


@pytest.mark.usefixtures("overfits")
@pytest.mark.parametrize(
    "override", ["+checkpoint.save_weights_only=true", "model.metadata=late_fusion", "trainer.precision=bf16-true"]
)
def test_the_best_of_other_kinds(run: Run, override: str) -> None:
    assert run(override) == 0
    tested = read_tested(RUN)
    assert tested is not None
    assert (tested.name, tested.epochs) == ("epoch-1.ckpt", 2)
    if "bf16" not in override:  # which `predict` computes in float32
        assert_predicted_as_tested()


def test_of_a_training_that_kept_no_checkpoint_the_weights_at_the_end(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test=false") == 0
    assert not (RUN / FILE).exists()
    # In the same folder, so that its checkpoints are of another training.
    assert run("test=true", epochs=0) == 0
    assert "Tested: the weights that the network began with, for it was not trained." in capsys.readouterr().out
    assert not (RUN / FILE).exists()


@pytest.mark.usefixtures("overfits")
def test_each_fold_of_a_cross_validation(run: Run) -> None:
    assert run("cross_validate=true", "data.folds=2", epochs=2) == 0
    for fold in ("fold-0", "fold-1"):
        tested = read_tested(RUN / fold)
        assert tested is not None
        assert tested.name == "epoch-1.ckpt"
        assert_predicted_as_tested(RUN / fold)
    report = (RUN / "report.html").read_text(encoding="utf-8")
    assert "Tested, fold-0: epoch-1.ckpt" in report
    assert "Tested, fold-1: epoch-1.ckpt" in report
    assert main(["card", "run"]) == 0
    assert (RUN / "model_card.md").read_text(encoding="utf-8").count("; the scores below are of it; the best by") == 2
