"""Lightning's own loop, validation included, waits for a GPU at no step: on one where there is one, else on the meta
device.

There, tensors have no values, so that reading one raises; and whatever is moved there from the host without
`non_blocking`, for which a GPU would make the host wait too, is noticed by its operation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from heartnet.datamodule import SimulatedData
from heartnet.model import DeepHeart, TwoTimescale
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*many workers.*", "ignore:.*Experiment logs directory.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]


@pytest.fixture(scope="module")
def data() -> SimulatedData:
    return SimulatedData(Conditions(), users=30, weeks_per_user=1, batch_size=2, val_share=0.2)


@pytest.fixture(autouse=True)
def losses_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heartnet.step_losses.SECONDS", math.inf)  # in place of 1: then a step waits, on purpose


def module_of(data: SimulatedData, network: Any = None, **options: Any) -> HeartnetModule:
    torch.manual_seed(0)
    count = len(data.targets)
    sizes = {"outputs": count, "conv_units": 8, "lstm_units": 8, "lstm_layers": 1, "pool": 16}
    return HeartnetModule(
        (network or DeepHeart)(**sizes), kind="conditions", targets=data.targets, target_mean=[0.2] * count,
        target_std=[1.0] * count, scaling=data.scaling.as_dict(), **options,
    )  # fmt: skip


class PassedError(Exception):
    """All batches of an epoch, and of its validation, went through."""


class Counting(lightning.Callback):
    """Counts batches, and ends the training before an epoch is scored, which needs values."""

    def __init__(self) -> None:
        self.train, self.val = 0, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.train += 1

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.val += 1
        if self.val == trainer.num_val_batches[0]:
            raise PassedError


class Nowhere(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None: ...


class Waiting(TorchDispatchMode):
    """Refuses to move a tensor from the host so that it would wait."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if function is torch.ops.aten._to_copy.default else args[1]
            patient = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if patient and source.device.type == "cpu" and found.device.type == "meta":
                raise RuntimeError(f"a tensor {tuple(source.shape)} was moved from the host, which waits for it")
        return found


def fit_on_meta(module: HeartnetModule, data: SimulatedData, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Train for an epoch and validate; raise what would wait for a GPU."""
    for loop in ("fit_loop", "evaluation_loop"):  # which asks before training, of a tensor, whether there are batches
        monkeypatch.setattr(f"pytorch_lightning.loops.{loop}.has_len_all_ranks", lambda *_: True)
    counting, watched = Counting(), Waiting()
    trainer = lightning.Trainer(
        max_epochs=1, log_every_n_steps=1, gradient_clip_val=1.0, num_sanity_val_steps=0, callbacks=[counting],
        strategy=SingleDeviceStrategy(device=torch.device("meta"), accelerator=Nowhere()),
        logger=lightning.loggers.CSVLogger(folder), enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    monkeypatch.setattr(trainer, "_teardown", lambda: None)  # would fetch the weights
    start = module.on_train_start
    monkeypatch.setattr(module, "on_train_start", lambda: (start(), watched.__enter__()))
    try:
        with pytest.raises(PassedError):
            trainer.fit(module, datamodule=data)
    finally:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is watched:
            watched.__exit__(None, None, None)
    return counting


@pytest.mark.parametrize(
    "options",
    [{}, {"network": TwoTimescale}, {"augmentation": {"crop": 256, "level": 0.1}}],
    ids=["deepheart", "two timescales", "augmented"],
)
def test_no_batch_of_training_or_validation_waits(
    data: SimulatedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    counting = fit_on_meta(module_of(data, **options), data, tmp_path, monkeypatch)
    assert counting.train == len(data.train_dataloader()) >= 6
    assert counting.val == len(data.val_dataloader()) >= 3


@pytest.mark.parametrize("fault", ["reads", "moves", "logs a value", "shows the loss"])
def test_a_step_that_waits_is_seen(
    data: SimulatedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    class Faulty(HeartnetModule):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if fault == "reads":
                loss = loss * int(batch["lengths"].max())
            elif fault == "moves":
                loss = loss * torch.tensor([2.0]).to(loss.device)[0]
            elif fault == "logs a value":
                self.log("length", batch["lengths"].float().mean(), on_step=True, batch_size=1)
            else:
                self.log("loss", loss, prog_bar=True, batch_size=1)
            return loss

    module = module_of(data)
    module.__class__ = Faulty
    with pytest.raises(
        (RuntimeError, NotImplementedError),
        match=r"item\(\) cannot be called|Cannot copy out of meta|was moved from the host",
    ):
        fit_on_meta(module, data, tmp_path, monkeypatch)


class ErrorsWhenWaiting(lightning.Callback):
    """Lets CUDA raise whatever makes the host wait, between the first and the last batch of each but the first epoch.

    In the first, libraries are loaded and sums are begun; at the end of an epoch its scores are needed.
    """

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        self._watch(trainer, arguments[-1], trainer.num_training_batches)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        self._watch(trainer, arguments[3], int(trainer.num_val_batches[0]))

    def _watch(self, trainer: lightning.Trainer, batch: int, count: int) -> None:
        watched = trainer.current_epoch > 0 and batch < count - 1
        torch.cuda.set_sync_debug_mode("error" if watched else "default")
        self.batches += watched


@contextmanager
def no_errors_after() -> Iterator[None]:
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("network", [DeepHeart, TwoTimescale])
def test_nor_does_it_on_a_gpu_where_waiting_is_an_error(
    data: SimulatedData, tmp_path: Path, precision: Any, network: Any
) -> None:
    watch = ErrorsWhenWaiting()
    trainer = lightning.Trainer(
        max_epochs=3, log_every_n_steps=1, gradient_clip_val=1.0, num_sanity_val_steps=0, callbacks=[watch],
        accelerator="gpu", devices=1, precision=precision, logger=lightning.loggers.CSVLogger(tmp_path),
        default_root_dir=tmp_path, enable_model_summary=False,
    )  # fmt: skip
    with no_errors_after():
        trainer.fit(module_of(data, network, augmentation={"crop": 1024, "level": 0.1}), datamodule=data)
    assert watch.batches == 2 * (len(data.train_dataloader()) - 1 + len(data.val_dataloader()) - 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_that_would_be_seen(data: SimulatedData) -> None:
    class Faulty(HeartnetModule):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * float(batch["lengths"].max() > 0)

    module = module_of(data)
    module.__class__ = Faulty
    trainer = lightning.Trainer(
        max_epochs=2, callbacks=[ErrorsWhenWaiting()], accelerator="gpu", devices=1, logger=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with no_errors_after(), pytest.raises(RuntimeError, match="synchroniz"):
        trainer.fit(module, datamodule=data)


def test_what_watches_a_gpu_leaves_out_what_it_should(monkeypatch: pytest.MonkeyPatch, data: SimulatedData) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    watch = ErrorsWhenWaiting()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[watch], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module_of(data), datamodule=data)
    train, val = len(data.train_dataloader()), len(data.val_dataloader())
    first = ["default"] * (train + val)
    assert modes == [*first, *["error"] * (train - 1), "default", *["error"] * (val - 1), "default"]
    assert watch.batches == train + val - 2
