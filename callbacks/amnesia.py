"""Does the network forget? The amnesia profile before, during and after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as lightning
import torch

from heartnet.diagnostics.adapt import first_line, guess_probe, own_probe
from heartnet.diagnostics.amnesia import ANCHORS, AmnesiaProfile, amnesia_profile, check_anchors
from heartnet.diagnostics.archive import from_tensors, save_npz, to_tensors
from heartnet.diagnostics.fixed import first_loader, fixed_weeks
from heartnet.diagnostics.memory import Memory, memories, verdict
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.figures import amnesia_figure
from heartnet.findings import Finding, publish, run_folder
from heartnet.loggers import log_picture, takes_pictures
from heartnet.on_predictions import data_of

ProbeOf = Callable[[lightning.LightningModule, Any], Probe]
_DTYPES = {"float64": torch.float64, "float32": torch.float32}
_TITLES = {"decades": "decades", "memory_hours": "memory in hours of wear", "memory_steps": "memory in readings"}


class Amnesia(lightning.Callback):
    """Measures d output / d input on the same few weeks before training, at the end of epochs, and at the end.

    The measurement is `heartnet.diagnostics.amnesia.amnesia_profile`, the numbers and the verdict are those of
    `heartnet.diagnostics.memory`. The weeks are the longest among the first of the validation data (of the training
    data if there is none), and stay the same. Training is not disturbed: weights end up the same, bit for bit.

    Works on any LightningModule whose inputs are sequences: one with a method `probe(batch) -> Probe`, so annotated, is
    asked for it; of others it guesses (`heartnet.diagnostics.adapt.guess_probe`), and if that fails, `probe=` says in a
    few lines how to call it:

        Amnesia(probe=lambda module, batch: adapt(module.net, batch["x"], outputs=("risk",), logits=to_logits))

    Logs, by condition (or other output):
        `amnesia/{condition}/decades`: log10 of the near over the far gradient at the midpoint (at the score, for a
        network without logits at every step). 0 remembers all alike; a lower bound where the type could hold no more.
        `amnesia/{condition}/{anchor}/decades`: the same for each anchor: `midpoint`, `last`, `score`.
        `amnesia/{condition}/{anchor}/memory_steps`: readings that hold 90 % of the gradient.
        `amnesia/{condition}/{anchor}/memory_hours`: the same in hours of wear, if the probe has dt.
        `amnesia/profile`: the picture at the midpoint (or the score); `amnesia/profile/{anchor}` at the others, after
            the start, which is drawn in them too.
        `findings`: the table of verdicts (text).

    Writes `amnesia.npz` (plain arrays: the initial and the latest profile; `heartnet.diagnostics.archive` reads it) and
    appends to `findings.jsonl` in the run's folder.

    Args:
        every_n_epochs: look at the end of each n-th epoch, and always after the last.
        weeks: how many weeks to average over. The full DeepHeart takes about 3 s a week on a CPU, with four conditions
            and three anchors.
        anchors: where logits are read; see `amnesia_profile`.
        probe: `probe(module, batch)` for a module that has no method `probe(batch) -> Probe`.
        among: how many weeks to choose the longest from.
        dtype: `"float64"`, or `"float32"`, twice as fast on a CPU, which sees no more than 63 decades where a new
            DeepHeart has 200. A module from elsewhere that makes tensors of float32 itself is measured in that.
        readings_at_once: bounds the memory; see `amnesia_profile`.

    Raises:
        HeartnetError: an argument that cannot work, or a module of which no probe can be made.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "decades": [r"amnesia/[^/]+/decades$"],
        **{
            f"{anchor}: {title}": [rf"amnesia/[^/]+/{anchor}/{number}$"]
            for anchor in ANCHORS
            for number, title in _TITLES.items()
        },
    }

    def __init__(
        self,
        every_n_epochs: int = 5,
        weeks: int = 1,
        anchors: Sequence[str] = ANCHORS,
        probe: ProbeOf | None = None,
        among: int = 64,
        dtype: str = "float64",
        readings_at_once: int = 65_536,
    ) -> None:
        numbers = {
            "every_n_epochs": every_n_epochs, "weeks": weeks, "among": among, "readings_at_once": readings_at_once,
        }  # fmt: skip
        for name, value in numbers.items():
            if value < 1:
                raise HeartnetError(f"callbacks.amnesia.{name}={value}: must be at least 1")
        if dtype not in _DTYPES:
            raise HeartnetError(
                f"callbacks.amnesia.dtype={dtype}: not one of {', '.join(_DTYPES)}.{did_you_mean(dtype, _DTYPES)}"
            )
        check_anchors(anchors)
        self.every_n_epochs = every_n_epochs
        self.weeks, self.among = weeks, among
        self.anchors = tuple(anchors)
        self.probe = probe or _probe_of
        self.dtype = dtype
        self.readings_at_once = readings_at_once
        self.initial: AmnesiaProfile | None = None
        self.initial_step = 0
        self._weeks: Probe | None = None
        self._looked_at = -1
        self._blind = False

    def state_dict(self) -> dict[str, Any]:
        initial = None if self.initial is None else to_tensors(self.initial)
        return {"initial": initial, "initial_step": self.initial_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        initial = state_dict["initial"]
        self.initial = None if initial is None else from_tensors(initial)
        self.initial_step = state_dict["initial_step"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.global_step == 0 or self.initial is None:
            self.initial = None
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._looked_at != trainer.global_step:
            self._look(trainer, pl_module)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._weeks, self._looked_at = None, -1

    def _look(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._looked_at = trainer.global_step
        folder = run_folder(trainer)  # asks all ranks, as `publish` does; the rest is for rank zero
        found = self._measure_or_say(trainer, pl_module, folder) if trainer.is_global_zero else []
        publish(found, trainer)

    def _measure_or_say(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, folder: Path
    ) -> list[Finding]:
        """Measure; say once, and end no run, where a module from elsewhere cannot be read without a `probe`."""
        if self._blind:
            return []
        try:
            return self._measure(trainer, pl_module, folder)
        except Exception as error:  # a foreign module raises what it likes
            if self.probe is not _probe_of or own_probe(pl_module) is not None:
                raise
            self._blind = True
            known = isinstance(error, HeartnetError)
            message = f"not measured: {error if known else f'{type(error).__name__}: {first_line(error)}'}"
            return [Finding("amnesia", "warn", "network", None, None, "", message, (), trainer.global_step)]

    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, folder: Path) -> list[Finding]:
        step = trainer.global_step
        if self._weeks is None:
            self._weeks = fixed_weeks(
                first_loader(trainer.val_dataloaders, trainer.train_dataloader),
                lambda batch: self.probe(pl_module, _moved(pl_module, batch)),
                self.weeks,
                self.among,
            )
        now = self._profile(self._weeks, own=own_probe(pl_module) is not None)
        if self.initial is None:
            self.initial, self.initial_step = now, step
        numbers = memories(now)
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(numbers, now.main), step=step)
        self._draw(trainer, now, step)
        if not getattr(trainer, "fast_dev_run", False):
            save_npz(folder / "amnesia.npz", initial=self.initial, now=now)
        return verdict(numbers, _settings(self._weeks.network), step)

    def _profile(self, weeks: Probe, *, own: bool) -> AmnesiaProfile:
        """Return the profile, in float32 where a module from elsewhere makes tensors of that type itself."""
        try:
            return amnesia_profile(
                weeks, self.anchors, dtype=_DTYPES[self.dtype], readings_at_once=self.readings_at_once
            )
        except (RuntimeError, ValueError, TypeError) as error:
            if self.dtype == "float32" or own or "float" not in str(error).lower():
                raise
            self.dtype = "float32"
            return self._profile(weeks, own=own)

    def _draw(self, trainer: lightning.Trainer, now: AmnesiaProfile, step: int) -> None:
        initial = self.initial if self.initial_step != step else None
        data = data_of(trainer)
        about: dict[str, Any] = {"step": step, "initial_step": self.initial_step}
        about["simulated"] = data is not None and data.weeks.simulated
        anchors = [at.anchor for at in now.anchors] if initial is not None else [now.main]
        for anchor in anchors if takes_pictures(trainer) else ():
            tag = "amnesia/profile" if anchor == now.main else f"amnesia/profile/{anchor}"
            log_picture(trainer, tag, amnesia_figure(now, initial, anchor=anchor, **about))


def _scalars(numbers: Sequence[Memory], main: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in numbers:
        for name in ("decades", "memory_steps", "memory_hours"):
            value = getattr(each, name)
            if value is not None:
                found[f"amnesia/{each.output}/{each.anchor}/{name}"] = value
        if each.anchor == main and each.decades is not None:
            found[f"amnesia/{each.output}/decades"] = each.decades
    return found


def _settings(network: torch.nn.Module) -> dict[str, object]:
    """Return what the network was made with, by Hydra override; empty for a network from elsewhere."""
    arguments = getattr(network, "arguments", None)
    return {f"model.{name}": value for name, value in arguments.items()} if isinstance(arguments, Mapping) else {}


def _probe_of(module: lightning.LightningModule, batch: Any) -> Probe:
    own = own_probe(module)
    return guess_probe(module, batch) if own is None else own(batch)


def _moved(module: lightning.LightningModule, batch: Any) -> Any:
    return module.transfer_batch_to_device(batch, module.device, 0)
