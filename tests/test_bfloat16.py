"""Training in bfloat16 follows training in float32 as closely as one seed follows another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as lightning
import torch

from heartnet.datamodule import SimulatedData
from heartnet.model.deepheart import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]

SEEDS, EPOCHS = 5, 6


class Curve(lightning.Callback):
    """The mean loss of each epoch's steps."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG002
        self._losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self.epochs.append(float(np.mean(self._losses)))
        self._losses.clear()


def curves(folder: Path, precision: Literal["32-true", "bf16-mixed", "bf16-true"]) -> npt.NDArray[np.float64]:
    """Return the losses `[seed, epoch]` of a small network on simulated weeks; seeds change weights and dropout."""
    found = []
    for seed in range(SEEDS):
        data = SimulatedData(Conditions(), users=120, weeks_per_user=1, effect_scale=4.0, batch_size=16, seed=seed)
        torch.manual_seed(seed)
        network = DeepHeart(data.channels, len(data.targets), conv_units=16, lstm_units=16, lstm_layers=2, pool=4)
        mean, std = data.target_statistics()
        module = HeartnetModule(
            network, kind="conditions", targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
            scaling=data.scaling.as_dict(), learning_rate=1e-2, seed=seed,
        )  # fmt: skip
        curve = Curve()
        lightning.Trainer(
            default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, max_epochs=EPOCHS, precision=precision,
            limit_val_batches=0, callbacks=[curve],
        ).fit(module, datamodule=data)  # fmt: skip
        found.append(curve.epochs)
    return np.array(found)


def test_curves_in_bfloat16_lie_within_the_spread_of_seeds(tmp_path: Path) -> None:
    exact = curves(tmp_path, "32-true")
    spread = exact.std(axis=0, ddof=1)
    assert (exact[:, -1] < 0.9 * exact[:, 0]).all()  # they learn, so there is something to be told apart

    def apart(precision: Literal["bf16-mixed", "bf16-true"]) -> float:
        return float((np.abs(curves(tmp_path, precision) - exact) / spread).max())

    # Weights in bfloat16, too, lose what a step adds to them, which this would see.
    assert apart("bf16-mixed") < 0.3 < apart("bf16-true")
