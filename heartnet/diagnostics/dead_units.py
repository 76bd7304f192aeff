"""What every unit of a network does during one training step: active or silent, varying or constant, saturated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from heartnet.diagnostics.activations import Activation, Place, Trace
from heartnet.diagnostics.layers import plain_name
from heartnet.diagnostics.replay import Replay, tensors_in
from heartnet.diagnostics.saturation import GATES, gate_shares, gates, sequences, stuck
from heartnet.diagnostics.unit_counts import spread_sample, unit_counts, varies

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
    tallies = _Tallies(_lengths_in(batch))
    for each in replay.twin.modules():
        if not isinstance(each, torch.jit.ScriptModule):  # which take no hooks
            each.register_forward_pre_hook(tallies.find_lengths, with_kwargs=True)
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


class _Tallies:
    def __init__(self, lengths: tuple[Tensor, int] | None) -> None:
        self.lengths = lengths
        self.found = False
        self.layers: dict[str, _Tally] = {}

    def find_lengths(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take the lengths that a module is called with: the batch may have been cut or augmented."""
        if not self.found:
            names = _arguments(module)
            named = {**dict(zip(names, args, strict=False)), **kwargs}
            for each in (named, *(value for value in named.values() if isinstance(value, Mapping))):
                if (lengths := _lengths_in(each)) is not None:
                    self.lengths, self.found = lengths, True
                    return

    def see(self, place: Place, activation: Activation | str | None, values: Tensor) -> None:
        tally = self.layers.setdefault(place.name, _Tally(place))
        values, steps = self._valid(values)
        if activation == "input":
            tally.fed = _most(tally.fed, varies(values, steps).amax(dim=1))
        elif activation == "unknown":
            tally.activation = tally.activation or "unknown"
            tally.active = _plus(tally.active, (values != 0).sum(dim=(0, 1)))
        else:
            if isinstance(activation, Activation):
                if tally.activation is None:
                    tally.counts = tally.counted = None
                tally.place, tally.activation = place, activation
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
        tally = self.layers.setdefault(place.name, _Tally(place))
        if given is None:
            tally.hidden = "what it is given is not a tensor or a packed sequence"
            return
        x, y, lengths = given
        steps = lengths if lengths is not None else self._valid(y)[1]
        tally.fed = _most(tally.fed, varies(x, steps).amax(dim=1))
        kind = type(module).__name__
        tally.activation = None if kind in GATES else _PLAIN.get(str(getattr(module, "nonlinearity", "")))
        self._add(tally, y, steps, tally.activation)
        if module.num_layers > 1:
            tally.hidden = f"of its {module.num_layers} layers in one module only the last can be seen, and no gates"
        elif kind in GATES:
            full = steps if steps is not None else torch.full((len(y),), y.shape[1], device=y.device)
            tally.gates = gate_shares(gates(module, x, y, full))

    def _valid(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return values with the batch first, and how many positions of each sequence are no padding."""
        if self.lengths is None:
            return values, None
        lengths, time = self.lengths
        batch, positions = values.shape[:2]
        if batch != len(lengths) and positions == len(lengths):
            values = values.transpose(0, 1)
            batch, positions = positions, batch
        if batch != len(lengths) or positions == 1:
            return values, None
        return values, (lengths * positions // max(time, 1)).clamp(1, positions)

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
    "tanh": Activation("tanh", -0.9950, 0.9950, bounded=True),  # of outputs, which is what can be seen
    "relu": Activation("relu", 0.0, np.inf, exact=True),
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
    )


def _arguments(module: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # compiled code has none
        return []


def _lengths_in(value: Any) -> tuple[Tensor, int] | None:
    """Return the lengths that stand in a mapping, and the positions of the sequences beside them."""
    if not isinstance(value, Mapping):
        return None
    lengths = next((value[name] for name in ("lengths", "length") if isinstance(value.get(name), Tensor)), None)
    if lengths is None or lengths.dim() != 1 or lengths.is_floating_point():
        return None
    sizes = _sizes(list(value.values()), len(lengths))
    return (lengths, min(sizes)) if sizes else None


def _sizes(values: Sequence[Any], batch: int) -> list[int]:
    floats = [t for t in tensors_in(values) if t.is_floating_point() and t.dim() == 3 and len(t) == batch]
    return [max(t.shape[1:]) for t in floats]


def _most(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.maximum(old, new)


def _plus(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else old + new
