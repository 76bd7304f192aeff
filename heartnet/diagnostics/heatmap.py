"""What each unit of a network does over a few weeks: units × positions, in forward time, and the order to show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heartnet.diagnostics.adapt import Adapted
from heartnet.diagnostics.isolate import device_of, isolated
from heartnet.diagnostics.layers import Kind, Layer, find_layers, watch
from heartnet.diagnostics.pixels import Part, Pixels
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.timescales import Timescale, timescale_of, timescales
from heartnet.errors import HeartnetError
from heartnet.model.lstm import LengthFlipLSTM

SHOWN: tuple[Kind, ...] = ("convolution", "recurrent")
"""The layers that are looked at where nobody names others."""

MOST_ORDERED = 256
"""Units up to which the order is the optimal one; of more, whose cost grows with the cube, it is the tree's own."""

FOLLOWS_HEART_RATE = 0.2
"""|correlation| with heart rate from which a unit's sign is made that of heart rate, not that of its neighbour."""

_CONSTANT = 1e-5  # spread of a row beside the layer's typical spread, or its own value: rounding of float32
_EDGE = 16  # positions at either end that see the padding of convolutions
_ACTIVATIONS = frozenset({
    "relu", "relu6", "leaky_relu", "rrelu", "prelu", "gelu", "elu", "celu", "selu", "silu", "mish", "softplus",
    "hardswish", "hardtanh", "hardsigmoid", "logsigmoid", "softsign", "threshold", "clamp", "sigmoid", "tanh",
})  # fmt: skip
_IN_BETWEEN = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "dropout"})


@dataclass(frozen=True)
class Rows:
    """What the units of a layer put out over each week.

    Attributes:
        layer: its name; both directions of a `LengthFlipLSTM` are one layer, `lstm.0`.
        kind: what it is.
        weeks: `[unit, position]` of each week, valid positions alone, in forward time.
        stage: `"output"`, or the name of the activation function after which it is.
        ahead: units that read forward in time; those after them read backward.
        apart: whether the layer sees the readings of one timescale alone (`heartnet.model.TwoTimescale`); then its
            values are held until the next of them.
    """

    layer: str
    kind: Kind
    weeks: tuple[Float32[np.ndarray, "unit _"], ...]
    stage: str
    ahead: int
    apart: bool = False

    @property
    def units(self) -> int:
        return len(self.weeks[0])

    @property
    def constant(self) -> float:
        """Return the share of units that do not change in time, in all weeks."""
        return float(np.all([constant_rows(week) for week in self.weeks], axis=0).mean())


@dataclass(frozen=True)
class Order:
    """How the units of a layer stand in a picture.

    Attributes:
        rows: units, from top to bottom.
        signs: −1 for each unit that is shown upside down, otherwise 1; by unit, not by row.
    """

    rows: Int64[np.ndarray, " unit"]
    signs: Int64[np.ndarray, " unit"]


def collect(probe: Probe, patterns: Sequence[str] | None = None, *, after_activation: bool = True) -> list[Rows]:
    """Run a copy of the network once over the probe's weeks, in evaluation mode and float32, and return its layers.

    Of a layer that runs several times, the first is taken. The backward direction of a `LengthFlipLSTM` runs on
    flipped sequences and is flipped back here.

    Args:
        patterns: globs over the layers' names; None for each convolution and recurrent layer.
        after_activation: show convolutions and linear layers after the activation function, where one follows
            (normalisation and dropout in between do not hide it): this is what the next layer sees, and what the
            talk shows. An activation after a reshape is not found; `stage` says what was.

    Raises:
        HeartnetError: a pattern that fits no layer, or a network that cannot be called as the probe says.
    """
    seen: dict[str, tuple[Tensor, str]] = {}
    with isolated(probe.network, torch.float32) as twin, torch.no_grad(), ExitStack() as stack:
        called, network = bare(twin)
        layers = find_layers(network) if patterns is None else find_layers(network, patterns)
        layers = [each for each in layers if patterns is not None or each.kind in SHOWN]
        if not layers:
            name, others = type(network).__name__, [each.name for each in find_layers(network)][:8]
            choose = f"choose among others, layers={others}" if others else "it has no others that can be seen either"
            raise HeartnetError(f"{name} has no convolution or recurrent layer; {choose}")
        stack.enter_context(watch(layers, lambda layer, out: _keep(seen, layer, out)))
        lengths = stack.enter_context(_flipped_lengths(network))
        if after_activation:
            stack.enter_context(_following(layers, seen))
        device = device_of(twin)
        inputs, *rest = (each.detach().to(device).clone() for each in (probe.inputs, *probe.rest))
        try:
            called(inputs.float(), *(each.float() if each.is_floating_point() else each for each in rest))
        except HeartnetError:
            raise
        except Exception as error:  # foreign networks raise what they like
            name = type(network).__name__
            raise HeartnetError(f"{name} cannot be run on the fixed weeks ({type(error).__name__}: {error})") from error
        apart = timescales(network, inputs.float(), probe.lengths.to(device))
    valid, time = [int(length) for length in probe.lengths], probe.inputs.shape[1]
    found = []
    for layer in layers:
        if layer.name in seen:
            out, stage = seen[layer.name]
            part = timescale_of(layer.name, apart)
            pooled = max(round(time / out.shape[1]), 1) if part is None else part.pooled(out.shape[1])
            found.append(_cut(layer, out, stage, valid if part is None else part.lengths, pooled))
    return [_held(each, timescale_of(each.layer, apart), valid) for each in _in_forward_time(found, network, lengths)]


def inputs_of(probe: Probe) -> Rows:
    """Return what the network sees over the weeks, as a layer called `inputs`."""
    weeks = tuple(
        np.ascontiguousarray(values[: int(length)].T.float().cpu().numpy())
        for values, length in zip(probe.inputs, probe.lengths, strict=True)
    )
    return Rows("inputs", "linear", weeks, "output", len(probe.channels))


def bare(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return what is called of a probe's network, whatever it answers, and the network whose layers have the names."""
    called = network.network if isinstance(network, Adapted) else network
    named = called
    while isinstance(named, Pixels | Part):
        named = named.network
    return called, named


def order_of(activations: Float32[np.ndarray, "unit position"], rate: np.ndarray | None = None) -> Order:
    """Return an order in which units that do alike stand together, and signs that make them comparable.

    Neighbours are alike by optimal leaf ordering (Bar-Joseph, Gifford & Jaakkola, "Fast optimal leaf ordering for
    hierarchical clustering", Bioinformatics 2001) of an average-linkage tree over 1 − |correlation|. A unit is turned
    upside down if it then goes up with heart rate, or, where |correlation| with that is below `FOLLOWS_HEART_RATE`,
    with the unit above. Constant units come last, by their value.

    Args:
        rate: heart rate at each position, or None; NaN is left out.
    """
    still = constant_rows(activations)
    moving, constant = np.flatnonzero(~still), np.flatnonzero(still)
    constant = constant[np.argsort(-activations[constant, activations.shape[1] // 2], kind="stable")]
    signs = np.ones(len(activations), dtype=np.int64)
    rows = np.nan_to_num(activations[moving].astype(np.float64), posinf=0.0, neginf=0.0)
    rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    alike = np.clip(rows @ rows.T, -1.0, 1.0)
    follows = _correlation(rows, rate)
    leaves, above = _leaves(alike), None
    for leaf in leaves:
        if abs(follows[leaf]) >= FOLLOWS_HEART_RATE or above is None:
            way = follows[leaf]
        else:
            way = alike[leaf, above] * signs[moving[above]]
        signs[moving[leaf]] = -1 if way < 0 else 1
        above = leaf
    return Order(np.concatenate([moving[leaves], constant]), signs)


def constant_rows(activations: Float32[np.ndarray, "unit position"]) -> Bool[np.ndarray, " unit"]:
    """Tell which units do not change in time: their spread is that of rounding.

    The ends, where convolutions see padding, do not count.
    """
    edge = min(_EDGE, activations.shape[1] // 4)
    inner = activations[:, edge : activations.shape[1] - edge]
    if inner.shape[1] < 2:
        return np.zeros(len(activations), bool)
    with np.errstate(invalid="ignore"):
        spread = inner.max(axis=1) - inner.min(axis=1)
    moving = spread[np.isfinite(spread) & (spread > 0)]
    typical = float(np.median(moving)) if len(moving) else 0.0
    least = _CONSTANT * np.maximum(np.abs(inner).max(axis=1), typical)
    still: np.ndarray = np.isfinite(spread) & (spread <= least)
    return still


def _keep(seen: dict[str, tuple[Tensor, str]], layer: Layer, out: Tensor) -> None:
    if layer.name not in seen:
        seen[layer.name] = out.clone(), "output"  # what follows may work in place


class _Follow(TorchFunctionMode):
    """Follows the outputs of layers through normalisation and dropout to the activation function."""

    def __init__(self, seen: dict[str, tuple[Tensor, str]]) -> None:
        super().__init__()
        self.seen = seen
        self.tips: dict[int, tuple[Layer, Tensor]] = {}  # holds the tensors, so that no other takes their identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args[0] if args else None
        result = func(*args, **(kwargs or {}))
        if id(given) not in self.tips or not isinstance(result, Tensor):
            return result
        layer, tensor = self.tips[id(given)]
        name = getattr(func, "__name__", "").rstrip("_")
        if name in _ACTIVATIONS and result.shape == tensor.shape:
            self.seen[layer.name] = _units_last(layer, result).clone(), name
            del self.tips[id(given)]
        elif name in _IN_BETWEEN:
            self.tips[id(result)] = layer, result
        return result


@contextmanager
def _following(layers: Sequence[Layer], seen: dict[str, tuple[Tensor, str]]) -> Iterator[None]:
    follow = _Follow(seen)
    begun: set[str] = set()

    def start(layer: Layer) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            if layer.name not in begun and isinstance(output, Tensor) and output.dim() >= 3:
                begun.add(layer.name)
                follow.tips[id(output)] = layer, output

        return hook

    followed = [each for each in layers if each.kind in ("convolution", "linear")]
    handles = [layer.module.register_forward_hook(start(layer)) for layer in followed]
    try:
        with follow:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _units_last(layer: Layer, out: Tensor) -> Tensor:
    if layer.kind == "linear":
        return out.reshape(len(out), -1, out.shape[-1])
    return out.flatten(2).transpose(1, 2)


@contextmanager
def _flipped_lengths(network: nn.Module) -> Iterator[dict[int, list[int]]]:
    """Note what lengths each `LengthFlipLSTM` is called with, in steps, by the module's identity."""
    found: dict[int, list[int]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        lengths = kwargs["lengths"] if "lengths" in kwargs else args[1]
        found.setdefault(id(module), [int(length) for length in lengths])

    flips = [module for module in network.modules() if isinstance(module, LengthFlipLSTM)]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in flips]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _cut(layer: Layer, out: Tensor, stage: str, lengths: Sequence[int], pooled: int) -> Rows:
    """Leave out padding: of a layer that pools readings, a week holds as many fewer positions."""
    valid = [min(max(-(-length // pooled), 1), out.shape[1]) for length in lengths]
    weeks = tuple(each[:n].T.float().cpu().numpy() for each, n in zip(out, valid, strict=False))
    both = isinstance(layer.module, nn.RNNBase) and layer.module.bidirectional
    units = out.shape[2]
    return Rows(layer.name, layer.kind, weeks, stage, units // 2 if both else units)


def _in_forward_time(found: Sequence[Rows], network: nn.Module, lengths: dict[int, list[int]]) -> list[Rows]:
    """Flip the backward layers of each `LengthFlipLSTM`, and join them to those that read forward."""
    flips = {name: lengths[id(each)] for name, each in network.named_modules() if id(each) in lengths}
    by_name = {each.layer: each for each in found}
    for parent, steps in flips.items():
        prefix = f"{parent}." if parent else ""
        for name in [each for each in by_name if each.startswith(f"{prefix}back.")]:
            back, number = by_name[name], name.removeprefix(f"{prefix}back.")
            weeks = tuple(
                np.ascontiguousarray(each[:, :n][:, ::-1]) for each, n in zip(back.weeks, steps, strict=False)
            )
            by_name[name] = replace(back, weeks=weeks, ahead=0)
            if (other := f"{prefix}ahead.{number}") in by_name:
                both = [
                    np.concatenate([a[:, : b.shape[1]], b]) for a, b in zip(by_name[other].weeks, weeks, strict=True)
                ]
                by_name[other] = replace(by_name[other], layer=f"{prefix}{number}", weeks=tuple(both))
                del by_name[name]
    return list(by_name.values())


def _held(rows: Rows, part: Timescale | None, lengths: Sequence[int]) -> Rows:
    if part is None:
        return rows
    weeks = tuple(part.held(i, week, length) for i, (week, length) in enumerate(zip(rows.weeks, lengths, strict=True)))
    return replace(rows, weeks=weeks, apart=True)


def _leaves(alike: np.ndarray) -> Int64[np.ndarray, " unit"]:
    if len(alike) < 2:
        return np.arange(len(alike))
    distance = 1.0 - np.abs(alike)
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    tree = linkage(condensed, "average")
    if len(alike) <= MOST_ORDERED:
        tree = optimal_leaf_ordering(tree, condensed)
    leaves: np.ndarray = leaves_list(tree)
    return leaves.astype(np.int64)


def _correlation(rows: np.ndarray, rate: np.ndarray | None) -> np.ndarray:
    """Return the correlation of each row, of mean 0 and norm 1, with heart rate; 0 where there is none."""
    if rate is None or np.isfinite(rate).sum() < 2:
        return np.zeros(len(rows))
    centred = np.nan_to_num(rate - np.nanmean(rate))
    norm = np.linalg.norm(centred)
    found: np.ndarray = rows @ centred / norm if norm > 0 else np.zeros(len(rows))
    return found
