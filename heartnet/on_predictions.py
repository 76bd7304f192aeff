"""The shared way of the callbacks that look at what was predicted of all weeks of a validation or a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as lightning
import torch

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, publish, run_folder
from heartnet.predicted import KnownWeeks, Predicted, StepScores, rows_of, rows_of_weeks, step_scores
from heartnet.prediction_file import PredictionFile
from heartnet.predictions import FILES
from heartnet.tasks import Kind

Read = Callable[[Any, Any], Predicted]
"""Called with a module and a batch, says what is predicted of it: the adapter for data that are not heartnet's."""

_WEEKS_AT_ONCE = 1024
"""Weeks whose scores wait to become rows together, which takes a fraction of the time."""

_HOW = (
    "with heartnet's data module, let validation_step and test_step return {'scores': [batch, target]}; with other "
    "data, say what is predicted: Predictions(read=lambda module, batch: Predicted(('risk',), batch['user'], "
    "module(batch['x']).sigmoid(), batch['y']))"
)


@dataclass(frozen=True)
class PredictedSplit:
    """What was predicted of a whole split.

    Attributes:
        file: with the columns `heartnet.predictions.COLUMNS`.
        split: `val` or `test`.
        targets: names.
        kind: `conditions` or `synthetic`.
        weeks: how many.
        data: where the weeks came from; None if not from heartnet's data module. Of a cross-validation that of the
            last fold, with its splits and scaling.
        simulated: whether the weeks are.
        by: what was split, and is to be resampled.
        step: optimiser steps taken when it was predicted; a training may have gone on since.
        folds: of the tests of a whole cross-validation, what each network predicted of the people whom it had not seen,
            in the order of the file, whose column `fold` names them; of one network's split there are none.
    """

    file: Path
    split: str
    targets: tuple[str, ...]
    kind: Kind
    weeks: int
    data: WeeksDataModule | None
    simulated: bool
    by: Literal["user", "week"]
    step: int
    folds: tuple[Fold, ...] = ()

    @property
    def title(self) -> str:
        """What stands in a picture, before the word "split"."""
        return f"{len(self.folds)}-fold {self.split}" if self.folds else self.split

    def networks(
        self, module: lightning.LightningModule
    ) -> Iterator[tuple[lightning.LightningModule, PredictedSplit, str]]:
        """Yield each network, what it predicted, and the name of its fold; without folds `module`, this, and none."""
        if not self.folds:
            yield module, self, ""
        for fold in self.folds:
            yield fold.module, fold.predicted, fold.name


@dataclass(frozen=True)
class Fold:
    """One network of a cross-validation.

    Attributes:
        name: of its folder, such as `fold-0`.
        module: with the weights that were tested.
        predicted: its test.
        callbacks: that looked at its training.
    """

    name: str
    module: lightning.LightningModule
    predicted: PredictedSplit
    callbacks: tuple[OnPredictions, ...]


class OnPredictions(lightning.Callback):
    """Collects what is predicted of each week of a validation or test into a file, then looks at it.

    A subclass says `check`, the name of its findings, and implements `look`. Several of them in one trainer share one
    file: the first of them collects, with the first `read` that any of them has. Rows go to disk as batches come, and
    the file is in its place once it is whole: `heartnet.predictions.FILES` in the run's folder. The network, its
    training and the random streams are left as they are, and no error here ends a run.

    In a cross-validation the tests of all folds are looked at together, after the last (`heartnet.pooled`): then
    `awaits_folds` is set, the test of a fold is only written, and `look_at` is called once, of all.

    Args:
        every_n_epochs: look at the validation after each n-th epoch and after the last; it is written after each.
        read: the adapter for data that are not heartnet's.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    check: ClassVar[str]

    def __init__(self, *, every_n_epochs: int, read: Read | None) -> None:
        if type(every_n_epochs) is not int or every_n_epochs < 1:
            raise HeartnetError(
                f"callbacks.{self.check}.every_n_epochs={every_n_epochs}: must be a whole number of at least 1"
            )
        if read is not None and not callable(read):
            raise HeartnetError(f"callbacks.{self.check}.read={read}: must be a function of a module and a batch")
        self.every_n_epochs, self.read = every_n_epochs, read
        self.awaits_folds = False
        self._collected = _Collected()
        self._waiting = False

    def look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        """Measure, log and draw; return the findings, which are then published. Gradients can be had in here."""
        raise NotImplementedError

    def look_at(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> None:
        """Look at predictions that another has collected, and publish what is found."""
        publish(self._looked(trainer, pl_module, predicted), trainer)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer, "val")

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer, "test")

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self._leader(trainer) is self:
            self._collected.take(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self._leader(trainer) is self:
            self._collected.take(trainer, pl_module, outputs, batch)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._finish(trainer)
        training = trainer.state.fn == "fit"
        self._waiting = training and (trainer.current_epoch + 1) % self.every_n_epochs != 0
        if not self._waiting and not trainer.sanity_checking:
            self._look(trainer, pl_module)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._finish(trainer)
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._waiting:
            self._waiting = False
            self._look(trainer, pl_module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        del trainer, pl_module
        self._collected.discard()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._collected.discard()

    def _leader(self, trainer: lightning.Trainer) -> OnPredictions:
        """Return which of the trainer's callbacks collects for all of them."""
        return next(iter(those_on_predictions(trainer)), self)

    def _begin(self, trainer: lightning.Trainer, split: str) -> None:
        if self._leader(trainer) is self:
            read = next((each.read for each in those_on_predictions(trainer) if each.read is not None), None)
            self._collected.begin(trainer, split, read)

    def _finish(self, trainer: lightning.Trainer) -> None:
        if self._leader(trainer) is self:
            self._collected.finish()

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        leader = self._leader(trainer)
        found: list[Finding] = []
        failed, predicted = leader._collected.failed, leader._collected.predicted
        if failed and leader is self and failed != leader._collected.said:
            leader._collected.said = failed
            message = f"Predictions are not written: {failed}. They need scores: {_HOW}."
            split = leader._collected.split
            found = [Finding(self.check, "warn", split, None, None, "", message, (), trainer.global_step)]
        elif self.awaits_folds and predicted is not None and predicted.split == "test":
            pass
        elif not failed and predicted is not None and trainer.is_global_zero:
            found = self._looked(trainer, module, predicted)
        publish(found, trainer)

    def _looked(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        try:
            # Tests run in inference mode, in which no gradient can be had.
            with torch.inference_mode(mode=False), rng_untouched():
                return self.look(trainer, module, predicted)
        except Exception as error:  # somebody else's module, or a full disk; the run goes on
            message = f"This could not be measured: {_words(error)}."
            return [Finding(self.check, "warn", predicted.split, None, None, "", message, (), trainer.global_step)]


class _Collected:
    """What is predicted in one pass over a split, on its way to the file."""

    def __init__(self) -> None:
        self.failed = ""
        self.said = ""
        self.split = ""
        self.predicted: PredictedSplit | None = None
        self._file: PredictionFile | None = None
        self._read: Read | None = None
        self._weeks = self._step = 0
        self._targets: tuple[str, ...] = ()
        self._kind: Kind = "conditions"
        self._data: WeeksDataModule | None = None
        self._waiting: list[StepScores] = []
        self._known = KnownWeeks()

    def begin(self, trainer: lightning.Trainer, split: str, read: Read | None) -> None:
        self.discard()
        self.failed, self.split, self.predicted = "", split, None
        self._read, self._weeks, self._targets = read, 0, ()
        self._data = None if read is not None else data_of(trainer)
        self._known.begin()
        folder = run_folder(trainer)  # asks all ranks
        if trainer.world_size > 1:
            self.failed = "needs one device, for each process sees only its own weeks; set trainer.devices=1"
        elif not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", False):
            self._file = PredictionFile(folder / FILES[split])

    def take(self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any) -> None:
        self._step = trainer.global_step
        if self._file is None or self.failed:
            return
        try:
            if self._read is not None:
                with rng_untouched(), torch.no_grad():
                    found = self._read(module, batch)
                rows, self._targets = rows_of(found, self._weeks, self.split), tuple(found.targets)
                self._kind = found.kind
                self._file.add(rows)
                self._weeks += rows.height // len(self._targets)
            elif self._data is not None:
                self._targets, self._kind = tuple(self._data.targets), self._data.task.kind
                self._wait(self._file, self._data, step_scores(self._data, batch, outputs))
            else:
                raise HeartnetError("knows nothing of these data")
        except Exception as error:  # somebody else's module, or a full disk; the run goes on
            self._fail(error)

    def _wait(self, file: PredictionFile, data: WeeksDataModule, scores: StepScores) -> None:
        if self._waiting and (self._waiting[0].logits is None) != (scores.logits is None):
            self._add(file, data)
        self._waiting.append(scores)
        self._weeks += len(scores.rows)
        if sum(len(each.rows) for each in self._waiting) >= _WEEKS_AT_ONCE:
            self._add(file, data)

    def _add(self, file: PredictionFile, data: WeeksDataModule) -> None:
        if self._waiting:
            file.add(rows_of_weeks(data, self._waiting, self.split, self._known))
            self._waiting = []

    def finish(self) -> None:
        if self._file is not None and self._weeks and not self.failed:
            try:
                if self._data is not None:
                    self._add(self._file, self._data)
                self._file.finish()
            except Exception as error:  # a full disk, say; the run goes on
                self._fail(error)
            else:
                data = self._data
                self.predicted = PredictedSplit(
                    self._file.path, self.split, self._targets, self._kind, self._weeks, data,
                    simulated=data is not None and data.weeks.simulated,
                    by="week" if data is not None and data.split_by == "week" else "user", step=self._step,
                )  # fmt: skip
        self.discard()

    def discard(self) -> None:
        self._waiting = []
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _fail(self, error: Exception) -> None:
        self.failed = _words(error)
        self.discard()


def data_of(trainer: lightning.Trainer) -> WeeksDataModule | None:
    """Return heartnet's data module; None if the data come from elsewhere."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, WeeksDataModule) else None


def those_on_predictions(trainer: lightning.Trainer) -> list[OnPredictions]:
    """Return the trainer's callbacks that look at predictions, in their order."""
    return [each for each in getattr(trainer, "callbacks", ()) if isinstance(each, OnPredictions)]


def collected(trainer: lightning.Trainer) -> PredictedSplit | None:
    """Return what was predicted in the newest pass; None if nobody collected it, or it could not be written."""
    first = next(iter(those_on_predictions(trainer)), None)
    return None if first is None or first._collected.failed else first._collected.predicted


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {error}"
