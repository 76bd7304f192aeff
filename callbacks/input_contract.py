"""Is what reaches the network what the data holds? Rows, people, labels, channels, and a round trip of weeks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytorch_lightning as lightning
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from heartnet.datamodule import StoredData, WeeksDataModule
from heartnet.diagnostics.contract import Contract
from heartnet.diagnostics.contract_batches import parts_of
from heartnet.diagnostics.contract_data import Held
from heartnet.diagnostics.fixed import leaves
from heartnet.diagnostics.look_ahead import look_ahead
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, publish
from heartnet.model.pieces import only_looks


class InputContract(lightning.Callback):
    """Checks, before the first step and on batches as they come, that the network gets what the data holds.

    With a data module of heartnet, against the data itself:

    - `rows`: weeks in each split against the data, and against the account of its preparation; weeks that no batch
      of an epoch brought;
    - `people`: no one in two splits (unless `data.split_by=week`), and no week twice, also under another name;
    - labels: those in batches are the data's own, by name and `index`; permuted and exchanged columns are named;
    - channels: a round trip of weeks from the tensor back to bpm, steps and seconds (`heartnet.diagnostics.round_trip`)
      within 0.01; swapped, unscaled, zeroed, filled, shifted channels and other units are named; NaN anywhere; the
      data's own dt against its clock;
    - a channel that tells a label too well to be true.

    With any other module and loaders, of tuples or dicts, only what needs no such knowledge: NaN, constant and
    identical channels, a scale far from 0 and 1, one input under two indices or in two splits, channels and base rates
    in validation that are unlike those in training (by tests that allow for chance), labels that a channel tells.

    A finding is published once for each place, as soon as it is seen. Training is not disturbed: weights end up the
    same, bit for bit. Sums stay on the batches' device; an accelerator is waited for at the batches 1, 2, 4, 8 … of
    each split, every `every_n_batches`, and at the end of epochs.

    Logs at the end of each epoch, with `split` as `train`, `val`, `test`, for up to 16 channels as the network sees
    them and up to 16 targets:
        `input_contract/{split}/weeks`: weeks that came.
        `input_contract/{split}/mean/{channel}`, `…/spread/{channel}`, `…/lowest/{channel}`, `…/highest/{channel}`: of
        the values before padding.
        `input_contract/{split}/base_rate/{condition}`: share of positives among known labels.
        `findings`: the table of verdicts (text).

    Appends to `findings.jsonl` in the run's folder. With several processes, rank zero speaks of its share of the data,
    at the end of epochs.

    Args:
        look_ahead: batches of each split to look at before the first step, spread evenly over its loader, whose
            sampler and random streams stay as they are; 0 for none. Loaders of iterable data sets are left alone.
        every_n_batches: how often an accelerator is waited for.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        **{
            f"{what} by channel": [rf"input_contract/[^/]+/{what}/"] for what in ("mean", "spread", "lowest", "highest")
        },
        "base rate": [r"input_contract/[^/]+/base_rate/"],
        "weeks": [r"input_contract/[^/]+/weeks$"],
    }

    def __init__(self, look_ahead: int = 8, every_n_batches: int = 50) -> None:
        if look_ahead < 0:
            raise HeartnetError(f"callbacks.input_contract.look_ahead={look_ahead}: must be at least 0")
        if every_n_batches < 1:
            raise HeartnetError(f"callbacks.input_contract.every_n_batches={every_n_batches}: must be at least 1")
        self.look_ahead, self.every_n_batches = look_ahead, every_n_batches
        self.contract: Contract | None = None
        self._pending: list[Finding] = []
        self._hook: RemovableHandle | None = None  # while a batch is on its way to the network

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
        data = _data_of(trainer)
        self.contract = Contract(None if data is None else held_by(data), read_every=self.every_n_batches)
        if data is not None and len(data.rows["test"]):
            loaders["test"] = data.test_dataloader()
        self._begin(trainer, self.contract, loaders)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if self.contract is None:
            data = _data_of(trainer)
            self.contract = Contract(None if data is None else held_by(data), read_every=self.every_n_batches)
            self._begin(trainer, self.contract, {"test": trainer.test_dataloaders})

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._see(trainer, "train", batch, batch_idx == 0)
        self._watch(trainer, pl_module)

    def on_train_batch_end(self, *_: Any) -> None:
        self._unhook()

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del pl_module
        if not trainer.sanity_checking:
            self._see(trainer, "val", batch, batch_idx == dataloader_idx == 0)

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del pl_module
        self._see(trainer, "test", batch, batch_idx == dataloader_idx == 0)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self._end(trainer, "train", trainer.train_dataloader)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if not trainer.sanity_checking:
            self._end(trainer, "val", trainer.val_dataloaders)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self._end(trainer, "test", trainer.test_dataloaders)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self._publish(trainer, [] if self.contract is None else self.contract.passes(), now=True)
        self._unhook()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._unhook()

    def _begin(self, trainer: lightning.Trainer, contract: Contract, loaders: Mapping[str, Any]) -> None:
        found = contract.begin()
        for split, loader in loaders.items():
            for leaf in leaves(loader):
                found += contract.ahead(split, look_ahead(leaf, self.look_ahead))
        self._publish(trainer, found, now=True)

    def _see(self, trainer: lightning.Trainer, split: str, batch: Any, first: bool) -> None:
        if self.contract is not None:
            self._publish(trainer, self.contract.see(split, batch, first=first), now=trainer.world_size == 1)

    def _end(self, trainer: lightning.Trainer, split: str, loaders: Any) -> None:
        if self.contract is None:
            return
        batches = _size(loaders) if trainer.world_size == 1 else None
        found, numbers = self.contract.end(split, batches)
        self._publish(trainer, found, now=True)
        for logger in trainer.loggers:
            named = {f"input_contract/{name}": value for name, value in numbers.items()}
            logger.log_metrics(named, step=trainer.global_step)

    def _publish(self, trainer: lightning.Trainer, found: Sequence[Finding], *, now: bool) -> None:
        """Publish findings, or keep them until all processes are here, since they have to do it together."""
        self._pending += [_at(each, trainer.global_step) for each in found]
        if now and (self._pending or trainer.world_size > 1):
            publish(self._pending, trainer)
            self._pending = []

    def _watch(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at what the network is first called with after a training batch: augmentation comes in between."""
        own = getattr(pl_module, "network", None)
        network = own if isinstance(own, nn.Module) else pl_module
        compiled = hasattr(network, "_orig_mod") or getattr(pl_module, "_compiler_ctx", None) is not None
        if compiled or isinstance(network, torch.jit.ScriptModule):
            return  # a hook would break the graph

        def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._unhook()
            if self.contract is not None:
                given = [each for part in (*args, *kwargs.values()) for each in _tensors(part)]
                read = trainer.global_step % self.every_n_batches == 0
                found = self.contract.see_at_network("train", parts_of(given), read=read)
                self._publish(trainer, found, now=trainer.world_size == 1)

        self._unhook()
        self._hook = network.register_forward_pre_hook(only_looks(look, "batch"), with_kwargs=True)

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None


def held_by(data: WeeksDataModule) -> Held:
    """Return what a data module holds, for `heartnet.diagnostics.contract.Contract`."""
    return Held(
        weeks=data.weeks,
        rows=data.rows,
        targets=data.targets,
        kind=data.task.kind,
        values=data.values,
        scaling=data.scaling,
        hourly=data.view == "hourly",
        mask_channel=data.mask_channel,
        split_by=data.split_by,
        account=data.account if isinstance(data, StoredData) else None,
    )


def _data_of(trainer: lightning.Trainer) -> WeeksDataModule | None:
    """Return the data module of heartnet that a trainer, or a loader given to it, has its batches from."""
    loaders = (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders)
    sets = [getattr(leaf, "dataset", None) for each in loaders for leaf in leaves(each)]
    found = [getattr(trainer, "datamodule", None), *(getattr(each, "data", None) for each in sets)]
    return next((each for each in found if isinstance(each, WeeksDataModule)), None)


def _at(finding: Finding, step: int) -> Finding:
    return replace(finding, step=step)


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else [value]


def _size(loaders: Any) -> int | None:
    """Return how many batches loaders have, if they know."""
    try:
        return sum(len(leaf) for leaf in leaves(loaders))
    except (TypeError, NotImplementedError):
        return None
