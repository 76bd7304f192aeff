"""The progress bar counts epochs from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faults
import pytest
import pytorch_lightning as lightning

from heartnet.training_bar import TrainingBar


class Reads(lightning.Callback):
    """What stands before the bar, in each epoch."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        bar = trainer.progress_bar_callback
        assert isinstance(bar, TrainingBar)
        assert bar.progress is not None
        words = str(bar.progress.tasks[0].description).rpartition("]")[2].strip()
        self.seen += [] if words in self.seen else [words]


@pytest.mark.parametrize(
    ("limits", "seen"),
    [({"max_epochs": 2}, ["Epoch 1/2", "Epoch 2/2"]), ({"max_epochs": -1, "max_steps": 1}, ["Epoch 1"])],
)
def test_the_last_of_two_epochs_is_the_second(tmp_path: Path, limits: dict[str, Any], seen: list[str]) -> None:
    reads = Reads()
    it = faults.training("image")
    lightning.Trainer(
        default_root_dir=tmp_path, callbacks=[TrainingBar(), reads], logger=False, enable_checkpointing=False,
        enable_model_summary=False, accelerator="cpu", limit_train_batches=1, limit_val_batches=1,
        num_sanity_val_steps=0, **limits,
    ).fit(it.module, *it.data)  # fmt: skip
    assert reads.seen == seen
