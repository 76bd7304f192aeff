"""Is the training wired as it should be? Samples, padding, modes, loss, gradients, activations, saving, labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as lightning
from pytorch_lightning.loggers.logger import DummyLogger
from torch import nn

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.adapt import own_probe
from heartnet.diagnostics.fixed import leaves
from heartnet.diagnostics.wiring import ProbeOf, Subject, said
from heartnet.diagnostics.wiring_checks import Facts, check_wiring
from heartnet.diagnostics.wiring_heads import heads
from heartnet.diagnostics.wiring_splits import check_splits
from heartnet.diagnostics.wiring_trained import TrainedScores
from heartnet.diagnostics.wiring_verdicts import finding, wrong_heads
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, publish


class Wiring(lightning.Callback):
    """Checks, in seconds before the first step and on copies, what no training can make good.

    On four samples of the first batch (sequences of known length are cut to 96 readings), in float64:

    - `mixing`: no score depends on another sample of the batch, in evaluation and in training mode (by gradients;
      batch normalisation, which mixes in training on purpose, is held fixed and mentioned);
    - `padding`, `alone`, `order`: further padding, a batch of one, and another order change no score;
    - `repeatable`, `modes`: two passes in evaluation mode are equal, and training mode equals evaluation mode once
      dropout is off; the first module that differs is named;
    - `loss/value`, `loss/initial`: the loss is what plain NumPy computes from the same logits and labels, and starts
      near the base rates; `zero`: so does the answer to zeros (heartnet's modules);
    - `gradient`: the loss of each condition reaches its scores and each layer; `range`: no activation cuts the scores;
    - `linear`: no two layers in a row are one linear layer, because there is no activation function between them;
    - `saved`: scores survive saving and loading.

    And on labels: before training, whether a ridge regression on mean and spread of the channels, fitted on the
    training split, tells another label of the validation split better than its own, or that of a neighbouring sample;
    after each validation, the same of the network's own scores.

    Any LightningModule can be checked. Its scores are what its training step gives to a loss function of
    `torch.nn.functional`, or its last layer's output. What cannot be checked is said once, in a finding `not checked`.
    Training is not disturbed: weights end up the same, bit for bit.

    Logs:
        `wiring/auroc/{output}`: of the network's scores after each validation, for its own label.
        `wiring/other/{output}`: the best AUROC of its scores for another output's label.
        `findings`: the table of verdicts (text).

    Appends to `findings.jsonl` in the run's folder. A problem comes once.

    Args:
        rows: samples of the first batch that are used.
        label_batches: batches of each split whose labels are looked at before training; 0 for none. Loaders of
            iterable data sets are left alone.
        probe: returns a `Probe` of a module and a batch, for modules whose scores are not seen otherwise:
            `Wiring(probe=lambda module, batch: adapt(module.network, batch[0], outputs=("risk",)))`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "AUROC for the own label": [r"wiring/auroc/"],
        "best AUROC for another label": [r"wiring/other/"],
    }

    def __init__(self, rows: int = 4, label_batches: int = 32, probe: ProbeOf | None = None) -> None:
        if rows < 2:
            raise HeartnetError(f"callbacks.wiring.rows={rows}: must be at least 2, to see whether samples meet")
        if label_batches < 0:
            raise HeartnetError(f"callbacks.wiring.label_batches={label_batches}: must be at least 0")
        self.rows, self.label_batches, self.probe = rows, label_batches, probe
        self._said: set[str] = set()
        self._checked = False
        self._trained: TrainedScores | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"said": sorted(self._said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._said = set(state_dict["said"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._checked, self._trained = False, TrainedScores()
        self._publish(trainer, self._splits(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        del batch_idx
        if not self._checked:
            self._checked = True
            self._publish(trainer, self._check(trainer, pl_module, batch))

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._trained is not None and not trainer.sanity_checking:
            self._trained.open(pl_module)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del trainer, pl_module, outputs, batch_idx
        if self._trained is not None:
            self._trained.add(batch, dataloader_idx)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._trained is not None and not trainer.sanity_checking:
            self._publish(trainer, self._judge(trainer, pl_module, self._trained))

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        del exception
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        if self._trained is not None:
            self._trained.close()

    def _check(self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any) -> list[Finding]:
        quiet = copy.copy(trainer)
        quiet.loggers = [DummyLogger() for _ in trainer.loggers]
        subject = Subject(
            module,
            batch,
            self.probe or _probe_of(module),
            trainer.precision_plugin.train_step_context,
            quiet,
            self.rows,
        )
        return check_wiring(subject, _facts(module, initial=trainer.global_step == 0))

    def _splits(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> list[Finding]:
        if self.label_batches == 0 or not trainer.is_global_zero:
            return []
        train, val = leaves(trainer.train_dataloader), leaves(trainer.val_dataloaders)
        try:
            return check_splits(train, val, self.label_batches, _people_of(trainer), _facts(module).names)
        except Exception as error:  # of batches that nobody can read
            return [finding("unknown", "labels", f"labels could not be compared between splits ({said(error)})")]

    def _judge(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, trained: TrainedScores
    ) -> list[Finding]:
        taken = trained.close()
        if taken is None or trainer.global_step == 0:
            return []
        scores, labels, index, classes = taken
        people = _people_of(trainer)
        whose = None if people is None or index is None else people[index]
        told, names = heads(scores, labels, whose, classes=classes), _facts(module).names
        if told is None:
            return []
        numbers: dict[str, float] = {}
        for i, row in enumerate(told.area):
            name = names[i] if i < len(names) else f"output_{i}"
            others = np.delete(row, i)
            numbers |= {f"wiring/auroc/{name}": row[i]} if np.isfinite(row[i]) else {}
            numbers |= {f"wiring/other/{name}": np.nanmax(others)} if np.isfinite(others).any() else {}
        for logger in trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in numbers.items()}, step=trainer.global_step)
        return wrong_heads(told, names, "the trained scores", "val", classes=classes)

    def _publish(self, trainer: lightning.Trainer, found: Sequence[Finding]) -> None:
        new = [each for each in found if f"{each.status} {each.where}" not in self._said]
        self._said |= {f"{each.status} {each.where}" for each in new}
        publish([replace(each, step=trainer.global_step) for each in new], trainer)


def _probe_of(module: Any) -> ProbeOf | None:
    return (lambda twin, batch: twin.probe(batch)) if own_probe(module) is not None else None


def _facts(module: Any, *, initial: bool = True) -> Facts:
    """Return what a module of heartnet knows of itself; of others, only the names of their outputs, if they say."""
    names = getattr(module, "targets", ())
    names = tuple(names) if isinstance(names, tuple | list) and all(isinstance(each, str) for each in names) else ()
    own = getattr(module, "network", None)
    if not (isinstance(own, nn.Module) and hasattr(module, "target_mean") and hasattr(module, "kind")):
        return Facts(names=names, initial=initial)
    arguments = getattr(own, "arguments", None)
    return Facts(
        kind=module.kind,
        names=names,
        mean=module.target_mean.tolist(),
        std=module.target_std.tolist(),
        initial=initial,
        settings=arguments if isinstance(arguments, Mapping) else {},
    )


def _people_of(trainer: lightning.Trainer) -> Any:
    """Return the person of each week of a data module of heartnet, as numbers; None for another."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, WeeksDataModule):
        return None
    return np.unique(data.weeks.table["user_id"].to_numpy().astype(str), return_inverse=True)[1]
