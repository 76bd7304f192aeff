"""The progress bar of a training, which counts epochs from 1."""

from __future__ import annotations

from pytorch_lightning.callbacks import RichProgressBar


class TrainingBar(RichProgressBar):
    """Lightning's bar, where the last of two epochs is `Epoch 2/2`, as everywhere else, and not `Epoch 1/1`."""

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        words = f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs is not None and epochs > 0 else "")
        return words.ljust(len(self.validation_description))
