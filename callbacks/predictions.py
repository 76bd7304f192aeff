"""What did it say of each week, how well does that tell who has the condition, and does it mean what it says?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as lightning
import torch

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.score_quality import Agreement, Quality, agreement, quality
from heartnet.diagnostics.score_verdicts import CHECK, agreement_finding, quality_findings
from heartnet.errors import HeartnetError
from heartnet.figure_curves import agreement_figure, quality_figure
from heartnet.findings import Finding, publish, run_folder
from heartnet.predicted import Predicted, rows_of, rows_of_weeks
from heartnet.prediction_file import PredictionFile
from heartnet.predictions import FILES, scored_weeks
from heartnet.synthetic import TARGETS
from heartnet.tasks import Kind

Read = Callable[[Any, Any], Predicted]

_HOW = (
    "with heartnet's data module, let validation_step and test_step return {'scores': [batch, target]}; with other "
    "data, say what is predicted: Predictions(read=lambda module, batch: Predicted(('risk',), batch['user'], "
    "module(batch['x']).sigmoid(), batch['y']))"
)


class Predictions(lightning.Callback):
    """Writes what is predicted of each week of the validation and test splits, and says how good that is.

    One row a week and target: whose week, its label, score and logit, age, sex, BMI, device, wear, and a summary of its
    hours (`heartnet.predictions.COLUMNS` has them all, with units). Rows go to disk as batches come, so a million weeks
    do not sit in memory, and the file is in its place once it is whole: `predictions.parquet` of the test,
    `val_predictions.parquet` of the newest validation, in the run's folder.

    Then, for each condition: ROC and precision over recall, reliability, Brier score and its parts, calibration error,
    slope and offset, and histograms of the scores, all with intervals of 95 % from resampling people
    (`heartnet.diagnostics.score_quality`); for synthetic targets the share of variance explained and the error. The
    findings say what the scores tell (AUROC), and whether they are over- or underconfident, or that there are too few
    people to tell. During training the validation is looked at after each `every_n_epochs`-th epoch and after the last.
    The network, its training and the random streams are left as they are.

    Works with any LightningModule on heartnet's data module, if `validation_step` and `test_step` return scores
    (heartnet's own do); with other data, an adapter makes what is written:

        def read(module, batch):
            x, y, people = batch
            logits = module(x)
            return Predicted(("risk",), people, logits.sigmoid(), y, logits)
        Predictions(read=read)

    Logs, for each split, `val` or `test`, and condition:
        `predictions/{split}/auroc/{condition}`, `…/average_precision/{condition}`, `…/brier/{condition}`: the scores,
        and with `_low` and `_high` behind their name the interval.
        `predictions/{split}/slope/{condition}` and `…/offset/{condition}`: likewise; of the calibration. A slope below
        1 is overconfident; the offset is the mean score less the share that has it.
        `predictions/{split}/calibration_error/{condition}`: likewise; root mean square over bins of equally many
        weeks, less what luck adds.
        `predictions/{split}/expected_calibration_error/{condition}`: over the same bins, luck included.
        `predictions/{split}/r2/{target}`, `…/mae/{target}`: of synthetic targets, with `_low` and `_high`.
        `predictions/{split}/{target}`: the picture.
        `findings`: the table of verdicts (text).

    Args:
        every_n_epochs: look at the validation after each n-th epoch; it is written after each.
        draws: resamples for an interval; fewer of more than 200,000 weeks.
        read: called with the module and a batch, returns what is predicted of it, as
            `heartnet.predicted.Predicted`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        f"{title}, {words}": [rf"predictions/{split}/{number}(_low|_high)?/"]
        for number, title in (("auroc", "AUROC"), ("slope", "calibration slope"), ("brier", "Brier score"))
        for split, words in (("val", "validation"), ("test", "test"))
    }

    def __init__(self, every_n_epochs: int = 5, draws: int = 1000, read: Read | None = None) -> None:
        if every_n_epochs < 1:
            raise HeartnetError(f"callbacks.predictions.every_n_epochs={every_n_epochs}: must be at least 1")
        if draws < 100:
            raise HeartnetError(f"callbacks.predictions.draws={draws}: must be at least 100, for an interval of 95 %")
        self.every_n_epochs, self.draws, self.read = every_n_epochs, draws, read
        self._file: PredictionFile | None = None
        self._weeks = 0
        self._targets: tuple[str, ...] = ()
        self._kind: Kind = "conditions"
        self._failed = ""
        self._said = ""
        self._waiting = False

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer, "val")

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self._begin(trainer, "test")

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._take(trainer, pl_module, outputs, batch, "val")

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._take(trainer, pl_module, outputs, batch, "test")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._finish()
        training = trainer.state.fn == "fit"
        self._waiting = training and (trainer.current_epoch + 1) % self.every_n_epochs != 0
        if not self._waiting and not trainer.sanity_checking:
            self._look(trainer, pl_module, "val")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._finish()
        self._look(trainer, pl_module, "test")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._waiting:
            self._waiting = False
            self._look(trainer, pl_module, "val")

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        del trainer, pl_module
        self._discard()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._discard()

    def _begin(self, trainer: lightning.Trainer, split: str) -> None:
        self._discard()
        self._weeks, self._targets, self._failed = 0, (), ""
        folder = run_folder(trainer)  # asks all ranks
        if trainer.world_size > 1:
            self._failed = "needs one device, for each process sees only its own weeks; set trainer.devices=1"
        elif not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", False):
            self._file = PredictionFile(folder / FILES[split])

    def _take(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, split: str
    ) -> None:
        if self._file is None or self._failed:
            return
        try:
            if self.read is not None:
                with rng_untouched(), torch.no_grad():
                    found = self.read(module, batch)
                rows, self._targets, self._kind = rows_of(found, self._weeks, split), tuple(found.targets), found.kind
            elif (data := _data_of(trainer)) is not None:
                rows, self._targets, self._kind = (
                    rows_of_weeks(data, batch, outputs, split), data.targets, data.task.kind,
                )  # fmt: skip
            else:
                raise HeartnetError("knows nothing of these data")
            self._file.add(rows)
            self._weeks += rows.height // len(self._targets)
        except Exception as error:  # somebody else's module, or a full disk; the run goes on
            self._fail(error)

    def _finish(self) -> None:
        if self._file is not None and self._weeks and not self._failed:
            try:
                self._file.finish()
            except HeartnetError as error:
                self._fail(error)
        self._discard()

    def _fail(self, error: Exception) -> None:
        self._failed = str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {error}"
        self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule, split: str) -> None:
        folder = run_folder(trainer)
        found: list[Finding] = []
        if self._failed and self._failed != self._said:
            self._said = self._failed
            message = f"Predictions are not written: {self._failed}. They need scores: {_HOW}."
            found = [Finding(CHECK, "warn", split, None, None, "", message, (), trainer.global_step)]
        elif not self._failed and self._weeks and trainer.is_global_zero:
            for target in self._targets:
                found += self._judge(trainer, module, folder / FILES[split], split, target)
        publish(found, trainer)

    def _judge(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, file: Path, split: str, target: str
    ) -> list[Finding]:
        """Measure, log and draw one target."""
        data, step = (None if self.read is not None else _data_of(trainer)), trainer.global_step
        weeks = scored_weeks(file, target)
        if not len(weeks["value"]):
            return []
        by: Any = "week" if data is not None and data.split_by == "week" else "user"
        simulated = data is not None and data.weeks.simulated
        arrays = (weeks["score"], weeks["value"], weeks["user"])
        about: dict[str, Any] = {"simulated": simulated, "step": step}
        if self._kind == "conditions":
            it = quality(target, *arrays, by=by, draws=self.draws)
            self._log(trainer, split, it, target)
            if it.roc is not None:
                _draw(trainer, f"predictions/{split}/{target}", quality_figure(it, split, **about))
            return quality_findings(it, split, settings=_settings(trainer, module), **about)
        other = agreement(target, *arrays, by=by, draws=self.draws)
        self._log(trainer, split, other, target)
        unit = TARGETS[target].unit if target in TARGETS else ""
        if not other.diverged:
            figure = agreement_figure(other, *arrays[:2], split, unit=unit, **about)
            _draw(trainer, f"predictions/{split}/{target}", figure)
        return [agreement_finding(other, split, unit=unit, **about)]

    def _log(self, trainer: lightning.Trainer, split: str, it: Quality | Agreement, target: str) -> None:
        numbers = {
            f"predictions/{split}/{name}/{target}": value for name, value in it.numbers().items() if value == value
        }
        for logger in trainer.loggers if numbers else ():
            logger.log_metrics(numbers, step=trainer.global_step)


def _data_of(trainer: lightning.Trainer) -> WeeksDataModule | None:
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, WeeksDataModule) else None


def _draw(trainer: lightning.Trainer, tag: str, figure: Any) -> None:
    for logger in trainer.loggers:
        add_figure = getattr(getattr(logger, "experiment", None), "add_figure", None)
        if add_figure is not None:
            add_figure(tag, figure, global_step=trainer.global_step, close=False)


def _settings(trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, object]:
    """Return how a network of ours was made, by Hydra override; nothing of another one."""
    arguments = getattr(getattr(module, "network", None), "arguments", None)
    if not isinstance(arguments, Mapping):
        return {}
    settings: dict[str, object] = {f"model.{name}": value for name, value in arguments.items()}
    settings["module.weight_decay"] = getattr(module, "weight_decay", None)
    return settings | {"trainer.max_epochs": trainer.max_epochs}
