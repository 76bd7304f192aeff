"""Pretraining of a network without its last layer: on synthetic targets, or as a sequence autoencoder."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from heartnet.diagnostics.isolate import bare_copy, device_of
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.module import HeartnetModule, one_cycle
from heartnet.pretraining_objectives import Objective, Rebuild

ProbeOf = Callable[[lightning.LightningModule, Any], Probe]
OWN_LAST_LAYERS = ("network.head", "network.metadata_logit")
"""The last layers of heartnet's own networks: what makes logits of features, or adds to them."""


class Batches(Protocol):
    """What pretraining is fed from."""

    @property
    def batches(self) -> int: ...

    def train(self, epoch: int) -> Iterator[Any]: ...

    def val(self) -> Iterator[Any]: ...


class Encoder(nn.Module):
    """A copy of a module whose score is its features: what its last layer would have been given, after the readout.

    The last layer is replaced by the identity, so that whatever readout there is stays in use.

    Args:
        module: copied (`heartnet.diagnostics.isolate.bare_copy`).
        last_layer: name of the last layer in the module, as `named_modules` has it; None for heartnet's own networks.
        probe_of: `probe_of(module, batch)` says how the module is called.

    Raises:
        HeartnetError: there is no such layer, or none is named and the module is not heartnet's.
    """

    def __init__(self, module: lightning.LightningModule, last_layer: str | None, probe_of: ProbeOf) -> None:
        super().__init__()
        self.probe_of = probe_of
        twin = bare_copy(module)
        assert isinstance(twin, lightning.LightningModule)
        self.module: lightning.LightningModule = twin
        self.last_layers = _last_layers(module, last_layer)
        for name in self.last_layers:
            parent, _, own = name.rpartition(".")
            # What only adds to the logits has no features before it.
            setattr(self.module.get_submodule(parent), own, nn.Identity() if name == self.last_layers[0] else None)
        self.first = _copied(self.module.state_dict())

    def forward(self, batch: Any) -> tuple[Float[Tensor, "batch feature"], Probe]:
        batch = self.module.transfer_batch_to_device(batch, device_of(self.module), 0)
        probe = self.probe_of(self.module, batch)
        features: Tensor = probe.network(probe.inputs, *probe.rest).score
        return features.float(), probe

    def weights(self) -> dict[str, Tensor]:
        """Return a copy, on the CPU, of the weights and buffers that are not as they were, by name in the module."""
        now = _copied(self.module.state_dict())
        return {name: value for name, value in now.items() if not torch.equal(value, self.first[name])}


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


@dataclass(frozen=True)
class Look:
    """What an epoch came to: mean squared errors in standard deviations, and shares of variance explained by column."""

    epoch: int
    step: int
    train_loss: float
    val_loss: float
    explained: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """The weights of the best epoch (none, if no epoch had a finite loss), and what it came to."""

    weights: dict[str, Tensor]
    best: Look | None
    epochs: int
    begun_at: int


def pretrain(
    encoder: Encoder,
    objective: Objective,
    batches: Batches,
    *,
    max_epochs: int,
    patience: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    seed: int = 0,
    file: Path | None = None,
    fingerprint: str = "",
    told: Callable[[Look], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Train encoder and objective, and return the encoder's weights of the epoch that did best on the part kept apart.

    AdamW, the one-cycle schedule of `HeartnetModule` over `max_epochs`, gradients clipped to a norm of 1. Random
    numbers of an epoch follow from `seed` and the epoch alone, so that going on from `file` is exact. Draws from
    torch's random stream: guard it with `heartnet.diagnostics.isolate.rng_untouched`.

    Args:
        max_epochs: at most so many.
        patience: epochs without improvement after which it ends.
        file: written after each epoch, and gone on from if its `fingerprint` is the same; None for no file.
        told: is told of each epoch.
        progress: is told of epoch and batches done in it, after each batch.
    """
    trained = [each for each in (*encoder.parameters(), *objective.parameters()) if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=weight_decay)
    steps = max_epochs * batches.batches
    state: dict[str, Any] = {"fingerprint": fingerprint, "epoch": 0, "step": 0, "best": None, "weights": {}}
    found = read_state(file, fingerprint)
    if found is not None:
        state = found
        if not state["done"]:
            encoder.load_state_dict(state.pop("encoder"))
            objective.load_state_dict(state.pop("objective"))
            optimizer.load_state_dict(state.pop("optimizer"))
    begun_at, done = state["epoch"], state.get("done", False)
    while not done and state["epoch"] < max_epochs:
        epoch = state["epoch"]
        torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)
        total, rows = 0.0, 0
        encoder.train()
        for i, batch in enumerate(batches.train(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * one_cycle(state["step"], steps)
            loss, _ = _loss(encoder, objective, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            state["step"] += 1
            total, rows = total + loss.item(), rows + 1
            if progress is not None:
                progress(epoch, i + 1)
        val_loss, explained = evaluate(encoder, objective, batches.val())
        look = Look(epoch, state["step"], total / max(rows, 1), val_loss, explained)
        if math.isfinite(val_loss) and (state["best"] is None or val_loss < state["best"]["val_loss"]):
            state |= {"best": vars(look), "weights": encoder.weights()}
        state["epoch"] += 1
        since = epoch - (state["best"]["epoch"] if state["best"] else -1)
        done = since >= patience or not math.isfinite(look.train_loss) or state["epoch"] == max_epochs
        _write_state(file, state, done, encoder, objective, optimizer)
        if told is not None:
            told(look)
    best = Look(**state["best"]) if state["best"] else None
    return Outcome(state["weights"], best, state["epoch"], begun_at)


def evaluate(encoder: Encoder, objective: Objective, batches: Iterator[Any]) -> tuple[float, dict[str, float]]:
    """Return the mean squared error, and the share of variance explained by column where that is defined."""
    sums = torch.zeros(4, len(objective.names), dtype=torch.float64)  # errors², values, values², count
    encoder.eval()
    with torch.no_grad():
        for batch in batches:
            _, (predicted, truth) = _loss(encoder, objective, batch)
            known = ~truth.isnan()
            value, error = truth.nan_to_num().double(), (predicted - truth).double().masked_fill(~known, 0)
            sums += torch.stack([(each * known).sum(dim=0) for each in (error**2, value, value**2, known)]).cpu()
    errors, values, squares, count = sums
    spread = squares - values**2 / count.clamp(min=1)
    explained = {
        name: float(1 - errors[i] / spread[i])
        for i, name in enumerate(objective.names)
        if count[i] >= 2 and spread[i] > 1e-6 * count[i]
    }
    return float(errors.sum() / count.sum().clamp(min=1)), explained


def means_explain(encoder: Encoder, objective: Objective, batches: Batches) -> float:
    """Return the share of variance that each week's own means explain of it, averaged over channels; 0 for targets."""
    if not isinstance(objective, Rebuild):
        return 0.0
    objective.by_means = True
    explained = evaluate(encoder, objective, batches.val())[1]
    objective.by_means = False
    return sum(explained.values()) / max(len(explained), 1)


def hand_over(weights: Mapping[str, Tensor], module: lightning.LightningModule) -> int:
    """Copy weights into a module, in place, by name; return how many numbers."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    return sum(value.numel() for value in weights.values())


def read_state(file: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """Return what a pretraining left in a file; None if there is none, of other weeks or options, or a damaged one."""
    if file is None or not file.is_file():
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises many kinds for a damaged file; pretraining then begins anew
        return None
    return state if isinstance(state, dict) and state.get("fingerprint") == fingerprint else None


def _write_state(
    file: Path | None,
    state: dict[str, Any],
    done: bool,
    encoder: Encoder,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
) -> None:
    if file is None:
        return
    parts = {"encoder": encoder, "objective": objective, "optimizer": optimizer}
    now = {**state, "done": done} | ({} if done else {name: part.state_dict() for name, part in parts.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    torch.save(now, partial)
    partial.replace(file)


def _loss(encoder: Encoder, objective: Objective, batch: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    predicted, truth = objective(*encoder(batch), batch)
    known = ~truth.isnan()
    errors = torch.where(known, predicted - truth.nan_to_num(), 0.0) ** 2
    return errors.sum() / known.sum().clamp(min=1), (predicted, truth)


def _last_layers(module: lightning.LightningModule, last_layer: str | None) -> list[str]:
    names = [name for name, _ in module.named_modules() if name]
    if last_layer is not None:
        if last_layer not in names:
            raise HeartnetError(
                f"callbacks.synthetic_pretraining.last_layer={last_layer}: {type(module).__name__} has no such layer; "
                f"it has {', '.join(names)}.{did_you_mean(last_layer, names)}"
            )
        return [last_layer]
    found = [name for name in OWN_LAST_LAYERS if name in names]
    if not isinstance(module, HeartnetModule) or not found:
        raise HeartnetError(
            f"synthetic_pretraining has to know the last layer of {type(module).__name__}, which is left as it is; "
            f"say it by name, for example SyntheticPretraining(last_layer={names[-1] if names else ''!r})"
        )
    return found
