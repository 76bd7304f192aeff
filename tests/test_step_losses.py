"""Every step's loss reaches the loggers once, at its step and its time, however rarely they are written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from heartnet import step_losses
from heartnet.metrics import TargetScores
from heartnet.step_losses import LossesOfABrokenRun, StepLosses, log_validation


class Line(lightning.LightningModule):
    """Logs its loss by `StepLosses`, and the same by `self.log`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.losses, self.last = StepLosses(), torch.tensor(0.0)

    def training_step(self, batch: Tensor, index: int) -> Tensor:  # noqa: ARG002
        loss: Tensor = (self.layer(batch) ** 2).mean()
        self.log("expected", loss)
        self.last = loss.detach()
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:  # noqa: ARG002
        self.losses.add(self.trainer, self.last)

    def on_train_epoch_end(self) -> None:
        self.losses.write(self.trainer)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Numbers(torch.utils.data.Dataset[Tensor]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index % 7)])


def fit(folder: Path, **options: Any) -> tuple[lightning.Trainer, Any]:
    """Train for two epochs of 12 batches, and return what TensorBoard shows."""
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=2, logger=[TensorBoardLogger(str(folder), name="", version=""), CSVLogger(str(folder), "csv", "")],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator="cpu", **options,
    )  # fmt: skip
    trainer.fit(Line(), torch.utils.data.DataLoader(Numbers(), batch_size=2))
    shown = EventAccumulator(str(folder))
    shown.Reload()
    return trainer, shown


def points(shown: Any, tag: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in shown.Scalars(tag)]


@pytest.mark.filterwarnings("ignore:The 'train_dataloader'")
@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@pytest.mark.parametrize(
    ("every", "accumulate", "steps"), [(1, 1, range(24)), (5, 1, [4, 9, 14, 19]), (1, 3, range(8))]
)
def test_losses_are_those_that_lightning_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, every: int, accumulate: int, steps: Any
) -> None:
    monkeypatch.setattr(step_losses, "SECONDS", seconds)
    trainer, shown = fit(tmp_path, log_every_n_steps=every, accumulate_grad_batches=accumulate)

    assert points(shown, "train/loss") == points(shown, "expected")
    assert [step for step, _ in points(shown, "train/loss")] == list(steps)
    assert points(shown, "epoch")[-1][1] == 1
    in_csv = np.genfromtxt(tmp_path / "csv/metrics.csv", delimiter=",", names=True)
    found = in_csv["trainloss"][~np.isnan(in_csv["trainloss"])]
    assert found == pytest.approx([value for _, value in points(shown, "train/loss")])
    assert trainer.callback_metrics["train/loss"] == trainer.callback_metrics["expected"]
    assert trainer.progress_bar_metrics["train/loss"] == pytest.approx(points(shown, "train/loss")[-1][1])


class Breaks(lightning.Callback):
    """Ends a training behind its ninth step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == 9:
            raise self.error


@pytest.mark.filterwarnings("ignore:The 'train_dataloader'")
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_losses_of_a_training_that_breaks_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(step_losses, "SECONDS", 1000.0)
    with pytest.raises((RuntimeError, SystemExit)):
        fit(tmp_path, log_every_n_steps=1, callbacks=[LossesOfABrokenRun(), Breaks(error)])
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    assert [step for step, _ in points(shown, "train/loss")] == list(range(9))


@pytest.mark.filterwarnings("ignore:The 'train_dataloader'")
def test_no_step_is_logged_where_that_is_asked_for(tmp_path: Path) -> None:
    trainer, shown = fit(tmp_path, log_every_n_steps=0)
    assert "train/loss" not in shown.Tags()["scalars"]
    assert trainer.callback_metrics["train/loss"] == trainer.callback_metrics["expected"]


@pytest.mark.filterwarnings("ignore:The 'train_dataloader'")
def test_losses_keep_the_time_of_their_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_losses, "SECONDS", 1000.0)
    _, shown = fit(tmp_path, log_every_n_steps=1)
    ours, expected = ([each.wall_time for each in shown.Scalars(tag)] for tag in ("train/loss", "expected"))
    assert np.abs(np.subtract(ours, expected)).max() < np.ptp(expected) / 2
    assert np.ptp(ours) > 0


def test_losses_are_written_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.0, 10.4, 10.8, 11.2, 11.2, 20.0, 20.0])
    monkeypatch.setattr(step_losses, "time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: next(clock)))

    trainer: Any = SimpleNamespace(
        callback_metrics={}, progress_bar_metrics={}, log_every_n_steps=1, current_epoch=0, loggers=[],
        is_global_zero=True,
    )  # fmt: skip
    losses, waiting = StepLosses(), []
    for trainer.global_step in range(5):
        losses.add(trainer, torch.tensor(float(trainer.global_step)))
        waiting.append([step for step, _, _ in losses.waiting])
    assert waiting == [[], [1], [1, 2], [], []]
    assert trainer.progress_bar_metrics == {"train/loss": 4.0}


class Validated(Line):
    """Logs the loss of each validation by `log_validation`, and the same by `self.log`."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = TargetScores("synthetic", ())

    def validation_step(self, batch: Tensor, index: int) -> None:
        loss = batch.mean() / (index + 3)
        self.log("val/expected", loss, batch_size=len(batch))
        self.scores.update(batch, batch, loss)

    def on_validation_epoch_end(self) -> None:
        mean = self.scores.compute()["loss"]
        self.scores.reset()
        log_validation(self.trainer, {"val/loss": mean, "val/same": mean})


@pytest.mark.filterwarnings("ignore:The '.*_dataloader'")
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 5, "val_check_interval": 3}, {"max_epochs": 1}])
def test_a_validation_is_logged_as_lightning_does(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = lightning.Trainer(
        **({"max_epochs": 3, "num_sanity_val_steps": 2} | options),
        logger=[TensorBoardLogger(str(tmp_path), name="", version=""), CSVLogger(str(tmp_path), "csv", "")],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator="cpu",
        log_every_n_steps=1,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=2)
    trainer.fit(Validated(), loader, torch.utils.data.DataLoader(Numbers(), batch_size=5))
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    validations = points(shown, "val/loss")
    assert validations == points(shown, "val/same") == points(shown, "val/expected")
    epochs = points(shown, "epoch")
    assert {step for step, _ in validations} <= {step for step, _ in epochs}
    in_csv = np.genfromtxt(tmp_path / "csv/metrics.csv", delimiter=",", names=True)
    ours, theirs = (in_csv[name][~np.isnan(in_csv[name])] for name in ("valloss", "valexpected"))
    np.testing.assert_array_equal(ours, theirs)
    for metrics in (trainer.callback_metrics, trainer.logged_metrics):
        assert metrics["val/loss"] == metrics["val/expected"]
    assert trainer.progress_bar_metrics["val/loss"] == trainer.callback_metrics["val/loss"].item()
    assert "val/same" not in trainer.progress_bar_metrics
