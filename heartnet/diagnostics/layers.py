"""Which layers a network has, and what each puts out, as units over positions, whoever wrote the network."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.model.pieces import only_looks

Kind = Literal["convolution", "recurrent", "linear", "attention", "normalisation", "activation"]

_CLASSES: tuple[tuple[Kind, tuple[type[nn.Module], ...]], ...] = (
    ("convolution", (nn.modules.conv._ConvNd,)),
    ("recurrent", (nn.RNNBase,)),
    ("linear", (nn.Linear, nn.Bilinear, nn.Embedding)),
    ("attention", (nn.MultiheadAttention,)),
    ("normalisation", (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)),
)


@dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Attributes:
        name: where it stands, dotted, as `named_modules` gives it (without what `torch.compile` adds).
        module: the layer itself.
        kind: what it is.
        also: further names of the same module, where a network uses it in several places.
    """

    name: str
    module: nn.Module
    kind: Kind
    also: tuple[str, ...] = ()


def find_layers(
    network: nn.Module, patterns: Sequence[str] = ("*",), kinds: Sequence[Kind] = get_args(Kind)
) -> list[Layer]:
    """Return the layers whose name fits one of the patterns, in the order in which the network registers them.

    A layer is a convolution, a recurrent layer, a linear one, attention, a normalisation, or a module of
    `torch.nn.modules.activation`. Activations that are called as functions have no module, and are not found.

    Args:
        patterns: globs over dotted names, such as `convolutions.*` or `*lstm*`.

    Raises:
        HeartnetError: a pattern other than `*` fits no layer at all.
    """
    names: dict[int, list[str]] = {}
    found: dict[int, tuple[nn.Module, Kind]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        kind = kind_of(module)
        if kind is not None:
            names.setdefault(id(module), []).append(plain_name(name))
            found[id(module)] = module, kind
    everything = [Layer(names[key][0], module, kind, tuple(names[key][1:])) for key, (module, kind) in found.items()]
    for pattern in patterns:
        if pattern != "*" and not any(_fits(layer, [pattern]) for layer in everything):
            known = [layer.name for layer in everything]
            raise HeartnetError(
                f"no layer of {type(network).__name__} is called {pattern!r}.{did_you_mean(pattern, known)} "
                f"Its layers are {', '.join(known) or 'none that can be seen from outside'}"
            )
    return [layer for layer in everything if layer.kind in kinds and _fits(layer, patterns)]


def plain_name(name: str) -> str:
    """Return a dotted name without what `torch.compile` adds to it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def kind_of(module: nn.Module) -> Kind | None:
    """Return what kind of layer a module is; None if it is none (a container, dropout, pooling …)."""
    for kind, classes in _CLASSES:
        if isinstance(module, classes):
            return kind
    own = type(module).__module__ == "torch.nn.modules.activation"
    return "activation" if own and not isinstance(module, nn.Softmax | nn.LogSoftmax | nn.Softmax2d) else None


@contextmanager
def watch(
    layers: Sequence[Layer],
    seen: Callable[[Layer, Float[Tensor, "batch position unit"]], None],
    *,
    looks: bool = False,
) -> Iterator[None]:
    """Call `seen` with the output of each layer whenever it runs; hooks are gone at the end, also after an error.

    What is passed is a view of the output that is part of the graph: its units last, the sequences of the batch first,
    and all that is between (time, or height and width) flattened into positions. The units of an activation stand
    where those of the last layer stood that put out the same shape, or else, since pooling may be in between, as many
    units in as many dimensions.

    `looks` says that `seen` neither changes nor keeps what it gets, so that it may come in pieces of a batch
    (`heartnet.model.pieces.only_looks`).

    Hooks do not reach into code that is compiled already: watch a copy (`heartnet.diagnostics.isolate`).
    """
    axes: dict[tuple[int, ...], int] = {}  # by shape, and by (minus dimensions, units)

    def hook(layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            tensor = _tensor(output, module)
            if tensor is None:
                return
            axis = unit_axis(layer.kind, module, tensor, axes)
            axes[tensor.shape] = axes[-tensor.dim(), tensor.shape[axis]] = axis
            seen(layer, units_last(tensor, axis))

        return see

    hooks = [(layer, hook(layer)) for layer in layers]
    handles = [layer.module.register_forward_hook(only_looks(it) if looks else it) for layer, it in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fits(layer: Layer, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (layer.name, *layer.also) for pattern in patterns)


def _tensor(output: Any, module: nn.Module) -> Tensor | None:
    """Return the sequence of outputs, batch first where the module is recurrent."""
    first = output[0] if isinstance(output, tuple) and not isinstance(output, PackedSequence) else output
    if isinstance(first, PackedSequence):
        first, _ = pad_packed_sequence(first, batch_first=True)
    elif isinstance(first, Tensor) and isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        if first.dim() == 2:  # one sequence without a batch
            first = first[None]
        elif not module.batch_first:
            first = first.transpose(0, 1)
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.dim() > 0 else None


def unit_axis(kind: Kind, module: nn.Module, tensor: Tensor, axes: Mapping[tuple[int, ...], int]) -> int:
    """Return which axis of a layer's output holds its units.

    Args:
        axes: of activations alone: what is known of other layers, by shape, and by (minus dimensions, units).
    """
    if kind == "convolution":
        return tensor.dim() - 1 - _spatial(module)
    if kind == "normalisation" and not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return min(1, tensor.dim() - 1)
    if kind == "activation":
        alike = (i for i, units in enumerate(tensor.shape) if axes.get((-tensor.dim(), units)) == i)
        return axes.get(tensor.shape, next(alike, tensor.dim() - 1))
    return tensor.dim() - 1


def _spatial(module: nn.Module) -> int:
    assert isinstance(module, nn.modules.conv._ConvNd)
    return len(module.kernel_size)


def units_last(tensor: Tensor, axis: int) -> Float[Tensor, "batch position unit"]:
    """Return a tensor with the units of `axis` last and all between them and the first axis flattened."""
    if axis == 0:  # one sequence without a batch
        tensor, axis = tensor[None], 1
    if tensor.dim() == 1:
        tensor, axis = tensor[None], 1
    moved = tensor.movedim(axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])
