"""What every unit of a network does during one training step: active or silent, varying or constant, saturated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heartnet.diagnostics.activations import Activation, Place, Trace
from heartnet.diagnostics.layers import plain_name
from heartnet.diagnostics.recurrent import layers_of
from heartnet.diagnostics.replay import Replay, rows_of
from heartnet.diagnostics.saturation import GATES, gate_shares, gates, sequences, stuck
from heartnet.diagnostics.unit_counts import spread_sample, unit_counts, varies
from heartnet.diagnostics.valid_steps import ValidSteps

READINGS = 2 * 4096
"""Readings of a batch that are looked at, padding included; of longer sequences two."""

_LONG = 0.95  # of the time
_ROUNDING = 1e-5  # of the largest value: what varies less does not vary

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
_Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class LayerUnits:
    """The units of one layer in one look; arrays are `[unit]`.

    Attributes:
        name: the layer.
        through: the normalisation between it and its activation, whose bias decides; else the name again.
        activation: PyTorch's name of what follows; `"unknown"` for something else that makes exact zeros; None if
            nothing was seen to follow.
        exact: what follows has a slope of exactly 0 where it is flat.
        values: values seen of each unit: valid positions of all sequences, in all uses of the layer.
        active: share of them at which the activation is not flat; NaN if that is not known.
        saturated: units whose sigmoid, tanh or gate is at its ends for 95 % of the time.
        spread: standard deviation over time, before the activation; over the batch where there is no time.
        moves: units that depend on the input: two sequences differ at the same position.
        fed: the layer's input depends on the input.
        finite: all values looked at are numbers.
        sample: some values before the activation, `[value]`.
        stuck: for each gate of a recurrent layer, the share of units that are saturated by it.
        hidden: what cannot be seen of this layer, in words; empty if all can.
        bounds: where the output of module `through` is not flat in what follows; None if that output alone does not
            tell, because something is added to it, or because no module puts it out.
    """

    name: str
    through: str
    activation: str | None
    exact: bool
    values: int
    active: Floats
    saturated: Flags
    spread: Floats
    moves: Flags
    fed: bool
    finite: bool
    sample: Floats
    stuck: Mapping[str, float]
    hidden: str = ""
    bounds: tuple[float, float] | None = None

    @property
    def silent(self) -> Flags:
        """Units that are never active although the layer's input varies."""
        silent: Flags = (self.active == 0) & self.fed
        return silent

    @property
    def constant(self) -> Flags:
        """Units that do not vary because the layer's input does not."""
        return ~self.moves & (not self.fed)


def look(
    module: nn.Module,
    batch: Any,
    index: int = 0,
    context: _Context = nullcontext,
    prefix: str = "",
) -> list[LayerUnits]:
    """Return what the units of each layer do in the training step of `batch`, in the order in which the layers run.

    The step is done on a copy, in training mode but without dropout. The device is waited for once.

    Args:
        module: has a `training_step`, as a LightningModule has.
        batch: on the module's device. Where it, or what a module is called with, has `lengths`, padding does not count.
        context: entered for the step, for example autocast.
        prefix: taken off the names of layers.

    Raises:
        HeartnetError: the module cannot be copied.
    """
    # Without a graph the step takes half the time, but some modules ask for gradients in their training step.
    try:
        return _look(module, batch, index, context, prefix, graph=False)
    except Exception:
        return _look(module, batch, index, context, prefix, graph=True)


def some_rows(batch: Any) -> Any:
    """Return as many samples of a batch of sequences, `inputs` [batch, time, channel], as a look needs, at least two.

    A look at two long weeks finds the same units as one at eight: those that only others wake get a gradient there, or
    are seen between looks. Anything else than a dict with `inputs` stays as it is.
    """
    inputs = batch.get("inputs") if isinstance(batch, Mapping) else None
    if not isinstance(inputs, Tensor) or inputs.dim() != 3:
        return batch
    count = max(READINGS // max(inputs.shape[1], 1), 2)
    return rows_of(batch, np.linspace(0, len(inputs) - 1, count).astype(int).tolist()) if count < len(inputs) else batch


def unseen(module: nn.Module, prefix: str = "") -> dict[str, str]:
    """Return which parts of a module a look does not see into, by name, and why."""
    found: dict[str, str] = {}
    for name, each in module.named_modules():
        why = ""
        if isinstance(each, torch.jit.ScriptModule):
            why = "it is scripted"
        elif isinstance(each, nn.RNNCellBase):
            why = "a cell that is called step by step is not looked into"
        if why and not any(plain_name(name).startswith(f"{outer}.") for outer in found):
            found[plain_name(name).removeprefix(prefix)] = why
    return found


def _look(
    module: nn.Module, batch: Any, index: int, context: _Context, prefix: str, *, graph: bool
) -> list[LayerUnits]:
    replay = Replay(module, context)
    if not replay.manual and not graph:
        replay.twin.requires_grad_(False)
    steps = ValidSteps(batch)
    tallies = _Tallies(steps)
    for each in replay.twin.modules():
        if not isinstance(each, torch.jit.ScriptModule):  # which take no hooks
            each.register_forward_pre_hook(steps.find, with_kwargs=True)
    with Trace(replay.twin, prefix, tallies.see, tallies.see_recurrent):
        replay.step(batch, index)
    return tallies.read()


@dataclass
class _Tally:
    """Running sums of a layer, on the device."""

    place: Place
    activation: Activation | str | None = None
    values: int = 0
    bare: Tensor | None = None  # of the layer's own output, until what follows is known
    counts: Tensor | None = None  # [active, spread, range, scale; unit]
    counted: Tensor | None = None  # values a unit
    active: Tensor | None = None  # of what reaches the next layer, if the activation is unknown
    fed: Tensor | None = None  # [range, scale]
    sample: Tensor | None = None
    gates: dict[str, Tensor] = field(default_factory=dict)
    hidden: str = ""
    direct: bool = True  # what goes into the activation is what the layer puts out
    outputs: int = 0
    activations: int = 0


class _Tallies:
    def __init__(self, steps: ValidSteps) -> None:
        self.steps = steps
        self.layers: dict[str, _Tally] = {}

    def see(self, place: Place, activation: Activation | str | None, values: Tensor) -> None:
        tally = self.layers.setdefault(place.name, _Tally(place))
        values, steps = self.steps.of(values)
        if activation == "input":
            tally.fed = _most(tally.fed, varies(values, steps).amax(dim=1))
        elif activation == "unknown":
            tally.activation = tally.activation or "unknown"
            tally.active = _plus(tally.active, (values != 0).sum(dim=(0, 1)))
        else:
            tally.direct &= place.direct
            tally.outputs += activation is None
            if isinstance(activation, Activation):
                if tally.activation is None:
                    tally.counts = tally.counted = None
                tally.direct &= tally.activation in (None, activation)
                tally.place, tally.activation, tally.activations = place, activation, tally.activations + 1
            elif tally.activation is not None:
                return  # the layer is used once more, and its activation comes
            self._add(tally, values, steps, activation)

    def _add(self, tally: _Tally, values: Tensor, steps: Tensor | None, activation: Activation | str | None) -> None:
        low, high = (activation.low, activation.high) if isinstance(activation, Activation) else (-np.inf, np.inf)
        new = unit_counts(values, steps, low, high)
        old = tally.counts
        tally.counts = new if old is None else torch.cat([old[:1] + new[:1], torch.maximum(old[1:], new[1:])])
        count = steps.sum() if steps is not None else values.new_tensor(len(values) * values.shape[1])
        tally.counted = _plus(tally.counted, count.float())
        tally.sample = spread_sample(values, steps)

    def see_recurrent(self, place: Place, module: nn.RNNBase, inputs: Any, output: Any) -> None:
        given = sequences(module, inputs, output)
        if given is None:
            tally = self.layers.setdefault(place.name, _Tally(place))
            tally.hidden = "what it is given is not a tensor or a packed sequence"
            return
        x, y, lengths = given
        if module.num_layers == 1:
            self._see_recurrent(place, module, x, y, lengths)
            return
        for number, (layer, x_in, y_out) in enumerate(layers_of(module, x, lengths, inputs)):
            name = f"{place.name}.l{number}"
            self._see_recurrent(replace(place, name=name, through=name, direct=False), layer, x_in, y_out, lengths)

    def _see_recurrent(self, place: Place, module: nn.RNNBase, x: Tensor, y: Tensor, lengths: Tensor | None) -> None:
        tally = self.layers.setdefault(place.name, _Tally(place))
        steps = lengths if lengths is not None else self.steps.of(y)[1]
        tally.fed = _most(tally.fed, varies(x, steps).amax(dim=1))
        tally.activation = None if module.mode in GATES else _PLAIN.get(module.mode)
        tally.direct &= place.direct
        tally.outputs += 1
        tally.activations += tally.activation is not None
        self._add(tally, y, steps, tally.activation)
        if module.mode in GATES:
            full = steps if steps is not None else torch.full((len(y),), y.shape[1], device=y.device)
            tally.gates = gate_shares(gates(module, x, y, full))

    def read(self) -> list[LayerUnits]:
        """Bring all sums to the host at once."""
        tallies = [(name, t) for name, t in self.layers.items() if t.counts is not None]
        parts: list[Tensor] = []
        for _, t in tallies:
            assert t.counts is not None
            assert t.counted is not None
            assert t.sample is not None
            nothing = t.counts.new_zeros(0)
            parts += [t.counts, t.counted, nothing if t.active is None else t.active]
            parts += [nothing if t.fed is None else t.fed, t.sample, *t.gates.values()]
        if not parts:
            return []
        flat = torch.cat([part.detach().reshape(-1).float() for part in parts]).cpu().numpy()
        ends = np.cumsum([part.numel() for part in parts])
        arrays = iter([a.reshape(p.shape) for a, p in zip(np.split(flat, ends[:-1]), parts, strict=True)])
        found = []
        for name, t in tallies:
            counts, counted, active, fed, sample = (next(arrays) for _ in range(5))
            shares = {gate: next(arrays) for gate in t.gates}
            found.append((t.place.order, _units(name, t, counts, float(counted), active, fed, sample, shares)))
        return [units for _, units in sorted(found, key=lambda each: each[0])]


_PLAIN = {
    "RNN_TANH": Activation("tanh", -0.9950, 0.9950, bounded=True),  # of outputs, which is what can be seen
    "RNN_RELU": Activation("relu", 0.0, np.inf, exact=True),
}


def _units(
    name: str, t: _Tally, counts: Floats, values: float, active: Floats, fed: Floats, sample: Floats, shares: Any
) -> LayerUnits:
    lively, spread, moved, scale = counts
    known = isinstance(t.activation, Activation)
    finite = np.isfinite(scale)
    if known:
        active = np.where(finite, lively / max(values, 1), np.nan).astype(np.float32)
    elif len(active):
        active = active / max(values, 1)
    else:
        active = np.full(len(scale), np.nan, np.float32)
    bounded = known and t.activation.bounded  # type: ignore[union-attr]
    saturated = (1 - active >= _LONG) if bounded else np.zeros(len(scale), bool)
    if bounded:
        active = np.full(len(scale), np.nan, np.float32)
    by_gate = {gate: stuck(gate, low, high) for gate, (low, high) in shares.items()}
    for gate, units in by_gate.items():
        mine = slice(-len(units), None) if gate.endswith("_reverse") else slice(len(units))
        if saturated[mine].shape == units.shape:  # a projection mixes the units
            saturated[mine] |= units
    return LayerUnits(
        name=name,
        through=t.place.through,
        activation=t.activation.name if isinstance(t.activation, Activation) else t.activation,
        exact=t.activation == "unknown" or (isinstance(t.activation, Activation) and t.activation.exact),
        values=int(values),
        active=active,
        saturated=saturated,
        spread=spread,
        moves=moved > _ROUNDING * scale,
        fed=bool(len(fed) == 0 or not np.isfinite(fed[1]) or fed[0] > _ROUNDING * fed[1]),
        finite=bool(finite.all()),
        sample=sample[np.isfinite(sample)],
        stuck={gate: float(np.mean(units)) for gate, units in by_gate.items()},
        hidden=t.hidden,
        bounds=_bounds(t),
    )


def _bounds(t: _Tally) -> tuple[float, float] | None:
    if isinstance(t.activation, Activation):
        return (t.activation.low, t.activation.high) if t.direct and t.outputs == t.activations else None
    return (-np.inf, np.inf) if t.activation is None and t.direct else None


def _most(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.maximum(old, new)


def _plus(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else old + new
