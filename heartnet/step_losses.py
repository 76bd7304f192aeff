"""What a training logs, on its way to the loggers: the losses of steps, and the scores of validations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

SECONDS = 1.0
"""For which losses wait at most, unless a step takes longer, before they are written."""


class StepLosses:
    """Logs the loss of each step as `train/loss`, together with those of the same second.

    That costs a tenth of what `self.log` costs, which is more than all else that Lightning does in a step, and a GPU is
    waited for once a second in place of at each step. `trainer.log_every_n_steps` holds.

    Logs:
        `train/loss` by step, and `epoch` at the last of the steps that are written together.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[int, float, Tensor]] = []
        self.written = 0.0

    def add(self, trainer: pl.Trainer, loss: Tensor) -> None:
        """Take the loss of a step whose optimiser has not stepped yet."""
        step = trainer.global_step
        trainer.callback_metrics["train/loss"] = loss
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (step + 1) % every == 0:  # 0 logs no step
            self.waiting.append((step, time.time(), loss))
        if time.monotonic() - self.written >= SECONDS:
            self.write(trainer)

    def write(self, trainer: pl.Trainer) -> None:
        """Hand over what waits; to be called at the end of an epoch too."""
        self.written = time.monotonic()
        if not self.waiting:
            return
        steps, times, losses = zip(*self.waiting, strict=True)
        self.waiting = []
        values = torch.stack(losses).tolist()
        trainer.progress_bar_metrics["train/loss"] = values[-1]
        for logger in trainer.loggers if trainer.is_global_zero else ():
            for step, moment, value in zip(steps, times, values, strict=True):
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_scalar("train/loss", value, step, moment)
                else:
                    logger.log_metrics({"train/loss": value}, step=step)
            logger.log_metrics({"epoch": trainer.current_epoch}, step=steps[-1])


def log_validation(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
    """Log the numbers of a validation within a training as `self.log_dict` would, in a tenth of its time.

    Args:
        values: by tag; `val/loss` is shown with the progress too.
    """
    if trainer.sanity_checking:
        return
    trainer.callback_metrics.update(values)
    trainer.logged_metrics.update(values)
    numbers = {name: value.item() for name, value in values.items()}
    trainer.progress_bar_metrics.update({name: value for name, value in numbers.items() if name == "val/loss"})
    step = trainer.fit_loop.epoch_loop._batches_that_stepped  # where Lightning puts a validation
    for logger in trainer.loggers:
        logger.log_metrics({**numbers, "epoch": trainer.current_epoch}, step=step)
        logger.save()


class LossesOfABrokenRun(pl.Callback):
    """Writes the losses that still wait when an error or an interruption ends a training: those to look at."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        del exception
        with suppress(Exception):  # a GPU that failed may not give them, and its own error is the one to tell
            if isinstance(losses := getattr(pl_module, "losses", None), StepLosses):
                losses.write(trainer)
