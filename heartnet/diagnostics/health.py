"""The state of a training: what is seen of it batch by batch, and at looks now and then."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from heartnet.diagnostics.layers import Layer, find_layers, watch
from heartnet.diagnostics.loss_calls import LossCall, LossCalls
from heartnet.diagnostics.start import equal_rows, equal_units
from heartnet.diagnostics.trends import Series
from heartnet.diagnostics.weights import Weights

_VALUES = 65_536
"""Of a layer's output, about so many values are read."""


@dataclass
class Output:
    """What has been seen of one argument of the loss, an output (a condition) of the network; sums over looks."""

    looks: int = 0
    known: float = 0.0
    positives: float = 0.0
    count: float = 0.0
    zeros: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    unmoved: int = 0  # looks in which targets were known and no gradient came back
    gradient: float = 0.0
    independent: bool = False  # of the other outputs: a yes or no, no class among several


@dataclass
class Look:
    """What one look gave; floats.

    Attributes:
        step: optimiser steps before it.
        gradients: norm by layer.
        updates: by layer, the norm of a step's change over that of the weights; empty if no step was taken.
        activations: root mean square by layer, in the order in which they ran.
        clipped: gradient norm after clipping over that before.
        loss_sign: sum of the gradient of the loss with respect to the loss functions' results; None if none was seen.
        shares: of each output of the loss, its part of the gradient's norm.
    """

    step: int
    gradients: dict[str, float] = field(default_factory=dict)
    updates: dict[str, float] = field(default_factory=dict)
    activations: dict[str, float] = field(default_factory=dict)
    clipped: float | None = None
    loss_sign: float | None = None
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Healthy:
    """The last batches whose loss and gradients were finite."""

    step: int
    loss: float
    gradient: float


class Health:
    """What is seen of a training.

    Args:
        network: all that is trained; a LightningModule as a rule.
        optimised: the parameters that the optimisers have.
        outputs: names of the outputs, where they are known.
    """

    def __init__(self, network: nn.Module, optimised: Iterable[Tensor], outputs: Sequence[str] = ()) -> None:
        self.network, self.names = network, tuple(outputs)
        self.weights = Weights(network, optimised)
        self.watched = find_layers(network)
        self.compiled = any(_is_compiled(each) for each in network.modules())
        self.losses = Series()
        self.healthy: deque[Healthy] = deque(maxlen=3)
        self.looks: deque[Look] = deque(maxlen=64)
        self.first: Look | None = None
        self.outputs: dict[str, Output] = {}
        self.started: list[tuple[float, float, list[float], list[float], str]] = []
        # of the first batches: loss, loss of logits of 0, positives and known labels by output, kind
        self.largest: dict[str, float] = {}  # update of each layer, of all looks
        self.rows: dict[str, tuple[int, int]] = {}  # of the last layer: looks, and looks without a gradient
        self.equal: str | None = None
        self.called: set[str] = set()
        self.batches = 0
        self.skipped = 0
        self._open: ExitStack | None = None
        self._seen: LossCalls | None = None
        self._outputs: dict[str, Tensor] = {}
        self._step = self._at = 0
        self._loss: float | None = None
        self._norms: dict[int, float] = {}

    # Each batch

    def backward(self, loss: Tensor | None, step: int) -> bool:
        """Note loss and gradients after a backward pass, for which an accelerator is waited; return if all is finite.

        Gradients must not be scaled.
        """
        places, norms = self.weights.norms()
        head = torch.zeros(1, device=norms.device) if loss is None else loss.detach().float().reshape(-1)[:1]
        value, *found = torch.cat([head.to(norms.device), norms]).tolist()
        self._at = step
        self.weights.note(places, found)
        total = math.hypot(*found) if found else 0.0
        self._loss = None if loss is None else value
        if math.isfinite(value) and (math.isfinite(total) or not self.weights.not_finite()):
            self.healthy.append(Healthy(step, value, total))
            return True
        return False

    def end_batch(self) -> None:
        """Count the batch."""
        self.batches += 1
        if self._loss is not None:
            self.losses.add(self._loss)
        self._loss, self._norms = None, self.weights.end_batch(self._at)

    # Looks

    def open(self, batch: Any, step: int) -> None:
        """Begin to watch layers and calls of loss functions, until `close`."""
        self.shut()
        self._open, self._outputs, self._step = ExitStack(), {}, step
        if self.compiled:  # its inside cannot be seen, and a mode would have it compiled again
            return
        self._seen = self._open.enter_context(LossCalls(batch))
        self._open.enter_context(watch(self.watched, self._watch, looks=True))

    def shut(self) -> None:
        """Stop watching; nothing is left behind."""
        if self._open is not None:
            self._open.close()
        self._open = self._seen = None
        self.weights.forget()

    @property
    def looking(self) -> bool:
        return self._open is not None

    def close(self) -> Look:
        """Stop watching, and return what was seen in the batch. Call it after `end_batch`."""
        seen = [] if self._seen is None else self._seen.calls
        look = Look(self._step, gradients=self.weights.by_layer(self._norms), **self._moves())
        look.activations = dict(zip(self._outputs, _floats(list(self._outputs.values())), strict=True))
        for layer, update in look.updates.items():
            self.largest[layer] = max(update, self.largest.get(layer, 0.0))
        self._read(seen, look)
        self._read_rows(list(look.activations))
        self.called |= set(look.activations)
        self._outputs = {}
        self.shut()
        self.first = self.first or look
        self.looks.append(look)
        return look

    def _watch(self, layer: Layer, output: Tensor) -> None:
        values = output.detach()
        every = max(values.numel() // _VALUES, 1)
        few = values[:, ::every] if values.shape[1] > 1 else values[::every]
        self._outputs.pop(layer.name, None)
        self._outputs[layer.name] = few.float().square().mean().sqrt()
        constant = layer.kind in ("convolution", "linear", "recurrent")
        if self.first is None and constant and self.equal is None and equal_units(few.float()):
            self.equal = layer.name

    def _moves(self) -> dict[str, Any]:
        """Return updates by layer and the share of the gradient that clipping left."""
        after = self.weights.after_step()
        if after is None:
            return {}
        layers, norms = after
        rows = norms.tolist()
        updates = {name: step / size for name, step, size in zip(layers, *rows, strict=True) if size > 0}
        before = math.hypot(*self._norms.values()) if self._norms else 0.0
        left = math.hypot(*self.weights.norms()[1].tolist(), 0.0)
        clipped = left / before if before > 0 and left > 0 else None
        return {"updates": updates, "clipped": clipped}

    def _read(self, calls: Sequence[LossCall], look: Look) -> None:
        """Read what the loss functions were given, all at once, and add it up."""
        known = [call for call in calls if call.kind != "other" and call.gradient is not None]
        signs = [call.sign for call in calls if call.sign is not None]
        tables = [_summary(call) for call in known]
        flat = _floats(
            [*signs, *(call.value for call in known), *(each for table in tables for each in table.flatten())]
        )
        if signs:
            look.loss_sign = max(flat[: len(signs)])
        values, rest = flat[len(signs) : len(signs) + len(known)], flat[len(signs) + len(known) :]
        for number, (call, table, value) in enumerate(zip(known, tables, values, strict=True)):
            size = table.numel()
            rows = torch.tensor(rest[:size]).reshape(table.shape).tolist()
            rest = rest[size:]
            self._add(number, call, rows, value, look)

    def _add(self, number: int, call: LossCall, rows: list[list[float]], value: float, look: Look) -> None:
        columns = list(zip(*rows, strict=True))
        names = self.names_of(call, number)
        if len(self.started) < 3 and number == 0 and self.batches <= 3:  # `batches` counts this one
            positives, known = [each[0] for each in columns], [each[1] for each in columns]
            self.started.append((value, call.uninformed, positives, known, call.kind))
        total = math.sqrt(sum(each[5] for each in columns))
        for name, (positives, asked, low, high, zeros, gradient) in zip(names, columns, strict=True):
            output = self.outputs.setdefault(name, Output())
            output.looks, output.independent = output.looks + 1, call.kind == "binary"
            output.known += asked
            output.positives += positives
            output.count += len(call.logits)
            output.zeros += zeros if look.step > 0 else 0
            output.low, output.high = min(output.low, low), max(output.high, high)
            output.gradient += math.sqrt(gradient)
            output.unmoved += asked > 0 and gradient == 0 and total > 0
            look.shares[name] = math.sqrt(gradient) / total if total > 0 else 0.0

    def _read_rows(self, order: Sequence[str]) -> None:
        """Count the units of the last layer whose weights got no gradient while others' did: it may have no other."""
        heads = [each for each in self.watched if each.kind in ("linear", "convolution")]
        last = max(heads, key=lambda each: order.index(each.name) if each.name in order else -1, default=None)
        weight = getattr(last.module, "weight", None) if last is not None else None
        if last is None or last.name not in order or not isinstance(weight, Tensor) or weight.grad is None:
            return
        rows = weight.grad.detach().flatten(1).abs().amax(dim=1)
        if isinstance(last.module, nn.modules.conv._ConvTransposeNd) or len(rows) < 2:
            return
        known = self.names if len(self.names) == len(rows) else [f"output_{i}" for i in range(len(rows))]
        still = [bool(self._norms) and each == 0 for each in rows.tolist()]
        for name, none in zip(known, still, strict=True):
            count, zeros = self.rows.get(name, (0, 0))
            self.rows[name] = (count + 1, zeros + (none and not all(still)))

    def names_of(self, call: LossCall, number: int) -> list[str]:
        """Return names of the outputs that a loss function is given."""
        count = call.logits.shape[1]
        if len(self.names) == count:
            return list(self.names)
        prefix = "output" if number == 0 else f"loss_{number}_output"
        return [f"{prefix}_{i}" for i in range(count)]

    def last_layer(self) -> str:
        """Return the layer with weights that ran last in the last look; `""` if none was seen."""
        order = list(self.looks[-1].activations) if self.looks else []
        return next((name for name in reversed(order) if name in self.weights.layers), "")

    def same_rows(self) -> list[str]:
        """Return trained matrices of which all rows are the same and not 0."""
        return [
            each.name
            for each in self.weights.all
            if each.tensor.dim() > 1 and len(each.tensor) > 2 and each.tensor.requires_grad
            and equal_rows(each.tensor) == len(each.tensor)
        ]  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return plain values from which a resumed run goes on."""
        return {
            "weights": self.weights.state(),
            "losses": self.losses.state(),
            "outputs": {name: vars(each).copy() for name, each in self.outputs.items()},
            "started": [list(each) for each in self.started],
            "largest": dict(self.largest),
            "rows": {name: list(each) for name, each in self.rows.items()},
            "called": sorted(self.called),
            "batches": self.batches,
            "first": None if self.first is None else vars(self.first).copy(),
            "looks": [vars(each).copy() for each in self.looks],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.weights.load(state["weights"])
        self.losses.load(state["losses"])
        self.outputs = {name: Output(**each) for name, each in state["outputs"].items()}
        self.started = [tuple(each) for each in state["started"]]
        self.largest = dict(state["largest"])
        self.rows = {name: (each[0], each[1]) for name, each in state["rows"].items()}
        self.called, self.batches = set(state["called"]), state["batches"]
        self.first = None if state["first"] is None else Look(**state["first"])
        self.looks.extend(Look(**each) for each in state["looks"])


def _summary(call: LossCall) -> Tensor:
    """Return, by output: positives, known, lowest, highest, exact zeros, squared gradient; `[6, output]`."""
    logits, gradient = call.logits.float(), call.gradient
    assert gradient is not None
    rows = (call.positives, call.known, logits.amin(0), logits.amax(0), (logits == 0).sum(0), gradient)
    return torch.stack([each.float() for each in rows])


def _floats(tensors: Sequence[Tensor]) -> list[float]:
    """Return numbers that are on devices as floats, with one transfer a device."""
    if not tensors:
        return []
    device = tensors[0].device
    return [float(each) for each in torch.stack([each.detach().float().to(device) for each in tensors]).tolist()]


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
