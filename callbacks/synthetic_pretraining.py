"""Before training, the network learns from weeks without labels; all its weights but the last layer's are kept."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytorch_lightning as lightning
import torch
from torch import Tensor

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.adapt import guess_probe, own_probe
from heartnet.diagnostics.fixed import first_loader
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.findings import Finding, publish, run_folder
from heartnet.module import HeartnetModule
from heartnet.pretraining import Encoder, Look, Outcome, ProbeOf, hand_over, means_explain, pretrain
from heartnet.pretraining_objectives import Objective, make_objective
from heartnet.pretraining_verdict import account, verdict
from heartnet.pretraining_weeks import PretrainingRows, PretrainingWeeks
from heartnet.synthetic import TARGETS
from heartnet.terminal import print_line

ObjectiveName = Literal["heuristic", "autoencoder", "none"]
FILE = "pretraining.ckpt"
"""In the run's `checkpoints/`: how far it has come, after each epoch; `ckpt_path=` to it goes on (`train.py`)."""


class SyntheticPretraining(lightning.Callback):
    """Trains the network on weeks without labels before `fit` begins, and hands over all weights but the last layer's.

    The post's semi-supervised training, "by pre-training the network on the synthetic task": `heuristic` predicts
    synthetic targets (`heartnet.synthetic`) from the features that the last layer would see, `autoencoder` rebuilds the
    scaled readings from them (A. M. Dai and Q. V. Le, NeurIPS 2015; both in Ballinger et al., AAAI 2018). Seen are the
    weeks to train on, those whose labels are not used, those without any, and `data.unlabelled_path`: never a week of
    who is in the validation or test split. A part of these people is kept apart to stop early on.

    It works on a copy. The module then has other weights, and nothing else has changed: random streams, the order of
    batches, optimisers. A run that goes on from a checkpoint does not pretrain again. A pretraining that was
    interrupted goes on from its last epoch in the same folder, exactly; one of other weeks or options begins anew.

    On a module from elsewhere: say the last layer by name, and, if it cannot be guessed
    (`heartnet.diagnostics.adapt.guess_probe`), how the module is called; `heuristic` also needs the values:

        SyntheticPretraining("autoencoder", last_layer="head", probe=lambda module, batch: adapt(module.net, batch[0]))
        SyntheticPretraining(targets=["mean"], values=lambda batch: batch[0].mean(1)[:, :1], last_layer="head")

    Its training loader has to make batches of a data set with rows. Other callbacks that keep weights of their own at
    the start (weight averaging) come behind it.

    Logs, by optimiser steps of the pretraining:
        `synthetic_pretraining/loss`: mean squared error over an epoch, in standard deviations of what is predicted.
        `synthetic_pretraining/val_loss`: the same on the people kept apart.
        `synthetic_pretraining/explained/{target or channel}`: share of variance explained, on the people kept apart.
        `findings`: the table of verdicts (text).

    Writes `checkpoints/pretraining.ckpt`, in a sweep with `share` instead `pretraining/` in the sweep's folder, and
    appends to `findings.jsonl` in the run's folder.

    Args:
        objective: `heuristic`, `autoencoder`, or `none`, which only counts weeks (for sweeps).
        targets: names of synthetic targets; None for all of `heartnet.synthetic.TARGETS`.
        max_epochs: of pretraining.
        patience: epochs without improvement after which it ends; the best epoch's weights are kept.
        learning_rate: of AdamW, at the peak of the one-cycle schedule.
        val_share: share of the people that is kept apart.
        batch_size: None for that of the data.
        share: let runs of a sweep use one pretraining, where weeks, options and first weights are the same.
        last_layer: its name in a module from elsewhere.
        probe: `probe(module, batch)` for a module that has no method `probe`.
        values: `values(batch)` gives `[batch, target]`, NaN where missing, for data from elsewhere.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "loss": [r"synthetic_pretraining/(val_)?loss$"],
        "variance explained": [r"synthetic_pretraining/explained/.*"],
    }

    def __init__(
        self,
        objective: ObjectiveName = "heuristic",
        targets: Sequence[str] | None = None,
        max_epochs: int = 20,
        patience: int = 5,
        learning_rate: float = 2e-3,
        val_share: float = 0.15,
        batch_size: int | None = None,
        share: bool = True,
        last_layer: str | None = None,
        probe: ProbeOf | None = None,
        values: Callable[[Any], Tensor] | None = None,
    ) -> None:
        if objective not in get_args(ObjectiveName):
            raise _refused(
                f"objective={objective}: must be {', '.join(get_args(ObjectiveName))}."
                f"{did_you_mean(str(objective), get_args(ObjectiveName))}"
            )
        for name, count in {"max_epochs": max_epochs, "patience": patience, "batch_size": batch_size or 1}.items():
            if count < 1:
                raise _refused(f"{name}={count}: must be at least 1")
        if not learning_rate > 0:
            raise _refused(f"learning_rate={learning_rate}: must be above 0")
        if not 0 < val_share < 1:
            raise _refused(f"val_share={val_share}: must be between 0 and 1")
        for name in targets or () if values is None else ():
            if name not in TARGETS:
                raise _refused(f"targets: no synthetic target {name!r}; there are {', '.join(TARGETS)}")
        if targets is not None and len(targets) == 0:
            raise _refused("targets=[]: names nothing to learn; null is all")
        self.objective: str = objective
        self.targets = None if targets is None else tuple(targets)
        self.max_epochs, self.patience, self.learning_rate = max_epochs, patience, learning_rate
        self.val_share, self.batch_size, self.share = val_share, batch_size, share
        self.last_layer, self.probe, self.values = last_layer, probe or _probe_of, values
        self.done = False

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done = state_dict["done"]

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.done and not trainer.ckpt_path:
            folder = run_folder(trainer)
            publish(self._pretrain_or_say(trainer, pl_module, folder), trainer)
            self.done = True

    def _pretrain_or_say(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, folder: Path
    ) -> list[Finding]:
        """Pretrain; end no run where a module from elsewhere cannot be pretrained as it is, but say why."""
        try:
            if trainer.world_size != 1:
                raise HeartnetError("synthetic_pretraining works on one device; set trainer.devices=1")
            with rng_untouched():
                return self._pretrain(trainer, module, folder)
        except HeartnetError as error:
            if isinstance(module, HeartnetModule):
                raise
            return [Finding("synthetic_pretraining", "warn", "network", None, None, "", f"not pretrained: {error}")]

    def _pretrain(self, trainer: lightning.Trainer, module: lightning.LightningModule, folder: Path) -> list[Finding]:
        data = getattr(trainer, "datamodule", None)
        seed = int(getattr(module, "seed", 0) or 0)
        weeks: PretrainingWeeks | PretrainingRows
        found: list[Finding] = []
        if isinstance(data, WeeksDataModule):
            size = self.batch_size or data.batch_size
            weeks = PretrainingWeeks(data, val_share=self.val_share, batch_size=size, seed=seed)
            found = [account(weeks.used, pretrains=self.objective != "none")]
            print_line(f"Synthetic pretraining {found[0].message}.")
        elif self.objective != "none":
            trainer.fit_loop.setup_data()  # else the loaders come only after this hook
            loader = first_loader(trainer.train_dataloader)
            weeks = PretrainingRows(loader, val_share=self.val_share, batch_size=self.batch_size, seed=seed)
        if self.objective == "none":
            return found
        encoder = Encoder(module, self.last_layer, self.probe)
        torch.manual_seed(seed)
        objective = make_objective(self.objective, encoder, weeks, self.targets, self.values).to(module.device)
        about = self._fingerprint(encoder, objective, weeks, seed)
        quick = bool(getattr(trainer, "fast_dev_run", False))
        with _bar(trainer, weeks.batches, self.max_epochs) as (look_at, progress):

            def told(look: Look) -> None:
                if look_at is not None:
                    look_at(look)
                _log(trainer, look)

            outcome = pretrain(
                encoder,
                objective,
                weeks,
                max_epochs=1 if quick else self.max_epochs,
                patience=self.patience,
                learning_rate=self.learning_rate,
                seed=seed,
                file=None if quick else self._file(folder, about),
                fingerprint=about,
                told=told,
                progress=progress,
            )
        hand_over(outcome.weights, module)
        _say(outcome)
        own, means = isinstance(module, HeartnetModule), means_explain(encoder, objective, weeks)
        return [*found, verdict(outcome, self.objective, self.max_epochs, own=own, means=means)]

    def _fingerprint(
        self, encoder: Encoder, objective: Objective, weeks: PretrainingWeeks | PretrainingRows, seed: int
    ) -> str:
        """Return what two pretrainings share that come to the same weights."""
        options = (self.objective, objective.names, self.max_epochs, self.patience, self.learning_rate, seed)
        digest = hashlib.blake2b(repr((*options, self.val_share, weeks.batch_size, str(encoder.module))).encode())
        # Parameters only: among the buffers are the base rates of those whose labels are used.
        for name, value in (*encoder.named_parameters(), *objective.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        if isinstance(weeks, PretrainingWeeks):
            digest.update(weeks.fingerprint().encode())
        return digest.hexdigest()

    def _file(self, folder: Path, fingerprint: str) -> Path:
        sweeps = [each for each in list(folder.absolute().parents)[:2] if (each / "multirun.yaml").is_file()]
        if self.share and sweeps:
            return sweeps[0] / "pretraining" / f"{self.objective}-{fingerprint[:16]}.ckpt"
        return folder / "checkpoints" / FILE


def _refused(what: str) -> HeartnetError:
    return HeartnetError(f"callbacks.synthetic_pretraining.{what}")


def _probe_of(module: lightning.LightningModule, batch: Any) -> Probe:
    own = own_probe(module)
    return guess_probe(module, batch, outputs=("features",)) if own is None else own(batch)


def _log(trainer: lightning.Trainer, look: Look) -> None:
    numbers = {"loss": look.train_loss, "val_loss": look.val_loss}
    numbers |= {f"explained/{name}": value for name, value in look.explained.items()}
    for logger in trainer.loggers:
        logger.log_metrics({f"synthetic_pretraining/{name}": value for name, value in numbers.items()}, step=look.step)


def _say(outcome: Outcome) -> None:
    how = f"Pretrained for {outcome.epochs} epochs"
    if outcome.begun_at == outcome.epochs:
        how += ", before this run"
    elif outcome.begun_at:
        how += f", going on after epoch {outcome.begun_at}"
    if outcome.best is not None:
        how += f"; kept is epoch {outcome.best.epoch + 1}, loss {outcome.best.val_loss:.3f}"
    print_line(f"{how}.")


@contextmanager
def _bar(
    trainer: lightning.Trainer, batches: int, epochs: int
) -> Iterator[tuple[Callable[[Look], None] | None, Callable[[int, int], None] | None]]:
    """Show how far it has come, if somebody watches and the trainer shows its own."""
    if trainer.progress_bar_callback is None or not sys.stderr.isatty():
        yield None, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as bar:
        task = bar.add_task("pretraining", total=batches * epochs)
        yield (
            lambda look: bar.update(task, description=f"pretraining, loss {look.val_loss:.3f}"),
            lambda epoch, batch: bar.update(task, completed=epoch * batches + batch),
        )
