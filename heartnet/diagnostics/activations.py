"""What each layer of a network puts out before its activation, and which activation that is, as module or function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heartnet.diagnostics.layers import plain_name, units_last

_ALWAYS = -math.inf, math.inf


@dataclass(frozen=True)
class Activation:
    """An activation function, by where it is flat.

    Attributes:
        name: PyTorch's name of the function.
        low: below it the slope is less than 1 % of the largest slope.
        high: above it likewise.
        bounded: flat on both sides by nature (a sigmoid), so that units saturate; others fall silent.
        exact: the slope is exactly 0 outside.
    """

    name: str
    low: float
    high: float
    bounded: bool = False
    exact: bool = False


ACTIVATIONS: Mapping[str, Activation] = {
    each.name: each
    for each in (
        Activation("relu", 0.0, math.inf, exact=True),
        Activation("hardswish", -3.0, math.inf, exact=True),
        *(Activation(name, *_ALWAYS) for name in ("leaky_relu", "prelu", "rrelu")),
        Activation("gelu", -3.06, math.inf),
        *(Activation(name, -6.3, math.inf) for name in ("silu", "mish")),
        *(Activation(name, -4.6, math.inf) for name in ("elu", "selu", "celu", "softplus")),
        Activation("log_sigmoid", -math.inf, 4.6),
        Activation("sigmoid", -5.98, 5.98, bounded=True),
        Activation("tanh", -2.99, 2.99, bounded=True),
        Activation("softsign", -9.0, 9.0, bounded=True),
        Activation("hardsigmoid", -3.0, 3.0, bounded=True, exact=True),
        Activation("hardtanh", -1.0, 1.0, bounded=True, exact=True),
    )
}
"""The functions that are known, with bounds for their default arguments; a test holds them against autograd."""

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_MIXES = (
    "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "embedding", "softmax", "scaled_dot_product_attention",
    "multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu", "cumsum", "sort", "fft", "bilinear",
)  # fmt: skip
_SAME_VALUES = frozenset({
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "movedim", "swapaxes",
    "contiguous", "clone", "to", "float", "half", "bfloat16", "double", "type", "detach", "get", "dropout", "identity",
})  # fmt: skip
_KEEP_AXES = ("pool", "pad", "interpolate", "upsample")


@dataclass(frozen=True)
class Place:
    """Which layer a tensor comes from.

    Attributes:
        name: the layer: a module, or the module whose `forward` calls the layer as a function.
        through: the normalisation between the layer and what was seen; the same name if there is none.
        axis: of the tensor that holds the layer's units.
        order: when the layer ran; 0 is the first.
        direct: the tensor holds what `through` put out, and nothing was added, pooled or cut.
    """

    name: str
    through: str
    axis: int
    order: int
    direct: bool = True


class Seen(Protocol):
    """What is told of each layer, in this order.

    `activation` is `"input"` for what goes into the layer; None for what it puts out; an `Activation` for what goes
    into that; or `"unknown"` for what reaches the next layer through something that is no known activation.
    """

    def __call__(
        self, place: Place, activation: Activation | str | None, values: Float[Tensor, "batch position unit"]
    ) -> None: ...


class Trace(TorchFunctionMode):
    """While active, follows calls of `network` and tells `seen` what each layer put out and what it went into.

    Every call of a PyTorch function passes through here, so an activation is seen whether it is a module, a function or
    a method, and however often a module is used. A layer is a convolution or a linear map (`nn.Module` or function).
    What it puts out is followed through normalisation, dropout, sums, masks, pooling and transposition. What runs
    inside compiled or scripted code, or in a function of C++, cannot be followed.

    `recurrent(place, module, inputs, output)` is called when a recurrent layer has run. Dropout does nothing meanwhile:
    its noise would hide that a unit does not depend on the input.

    Use it on a copy of a network (`heartnet.diagnostics.replay`), since the copy's dropout is turned off.
    """

    def __init__(
        self, network: nn.Module, prefix: str, seen: Seen, recurrent: Callable[[Place, nn.RNNBase, Any, Any], None]
    ) -> None:
        super().__init__()
        self._seen, self._recurrent = seen, recurrent
        self._running: list[str] = []
        self._order = 0
        self._busy = False
        self._known: set[tuple[str, int]] = set()  # layers whose activation has been seen
        for name, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            full = plain_name(name).removeprefix(prefix)
            module.register_forward_pre_hook(self._enter(full))
            module.register_forward_hook(self._leave(), always_call=True)
            if "drop" in type(module).__name__.lower():
                module.training = False
            elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
                module.dropout = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._busy:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", "")).strip("_")
        given = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("input")
        place = place_of(given)
        activation = None if place is None else _activation(name, args, kwargs)
        if place is not None and activation is not None:
            self._known.add((place.name, place.order))
            self._tell(place, activation, given)
        if "dropout" in name and isinstance(given, Tensor):
            return given
        layer = name in _LAYERS
        if layer and place is not None and (place.name, place.order) not in self._known:
            self._tell(place, "unknown", given)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 0:
            if layer:
                self._start(name, given, result)
            else:
                self._follow(name, args, result)
        return result

    def _start(self, name: str, given: Any, result: Tensor) -> None:
        axis = result.dim() - 1 - (int(name[-2]) if name.startswith("conv") else 0)
        place = self._new(axis)
        self._mark(result, place)
        if isinstance(given, Tensor) and given.dim() == result.dim():
            self._tell(place, "input", given)
        self._tell(place, None, result)

    def _follow(self, name: str, args: Any, result: Tensor) -> None:
        if name in _MIXES:
            self._mark(result, None)
            return
        found = [each for arg in _tensors(args) if (each := _carried(name, arg, result)) is not None]
        place = max(found, key=lambda each: each.order, default=None)
        if name.endswith("norm"):
            axis = result.dim() - 1 if name in ("layer_norm", "rms_norm") else min(1, result.dim() - 1)
            place = replace(place, through=self._here(), direct=True) if place is not None else self._new(axis)
        elif place is not None and name not in _SAME_VALUES:
            place = replace(place, direct=False)
        self._mark(result, place)

    def _new(self, axis: int) -> Place:
        self._order += 1
        return Place(self._here(), self._here(), axis, self._order - 1)

    def _here(self) -> str:
        return self._running[-1] if self._running else "forward"

    def _mark(self, tensor: Tensor, place: Place | None) -> None:
        tensor._heartnet_place = place  # type: ignore[attr-defined]

    def _tell(self, place: Place | None, activation: Activation | str | None, tensor: Tensor) -> None:
        assert place is not None
        self._busy = True  # what is computed in there is not the network's
        try:
            self._seen(place, activation, units_last(tensor.detach(), place.axis))
        finally:
            self._busy = False

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001
            self._running.append(name)

        return enter

    def _leave(self) -> Callable[[nn.Module, Any, Any], None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, nn.RNNBase) and output is not None:
                self._busy = True
                try:
                    self._recurrent(self._new(2), module, inputs, output)
                finally:
                    self._busy = False
            if self._running:
                self._running.pop()

        return leave


def place_of(tensor: Any) -> Place | None:
    """Return which layer a tensor comes from, if a `Trace` has followed it."""
    return getattr(tensor, "_heartnet_place", None) if isinstance(tensor, Tensor) else None


def _activation(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    """Return which activation a call is, with its own bounds; None if it is none."""
    if name in ("hardtanh", "clamp", "clip", "clamp_min"):
        low = _argument(args, kwargs, 1, ("min_val", "min"), -1.0 if name == "hardtanh" else None)
        high = _argument(args, kwargs, 2, ("max_val", "max"), 1.0 if name == "hardtanh" else None)
        if low == 0.0:
            return Activation("relu", 0.0, math.inf if high is None else high, exact=True)
        return None if low is None or high is None else Activation("hardtanh", low, high, bounded=True, exact=True)
    if name == "threshold":
        return Activation("threshold", _argument(args, kwargs, 1, ("threshold",), 0.0) or 0.0, math.inf, exact=True)
    return ACTIVATIONS.get(name)


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], at: int, names: Sequence[str], default: float | None
) -> float | None:
    value = args[at] if len(args) > at else next((kwargs[name] for name in names if name in kwargs), default)
    return float(value) if isinstance(value, int | float) else None


def _tensors(args: Sequence[Any]) -> Iterator[Tensor]:
    for each in args:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, tuple | list):
            yield from (inner for inner in each if isinstance(inner, Tensor))


def _carried(name: str, tensor: Tensor, result: Tensor) -> Place | None:
    """Return where the units of `tensor` stand in `result`; None if they do not."""
    place = place_of(tensor)
    if place is None or result is tensor:
        return place
    axis, units = place.axis, tensor.shape[place.axis]
    if result.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():  # a view: strides tell the axis
        same = [i for i in range(result.dim()) if (result.shape[i], result.stride(i)) == (units, tensor.stride(axis))]
        return replace(place, axis=axis if axis in same else same[0]) if same else None
    if result.shape == tensor.shape:
        return place
    if result.dim() == tensor.dim() and result.shape[axis] == units and any(word in name for word in _KEEP_AXES):
        return place
    if axis == tensor.dim() - 1 and result.shape[-1] == units and result.numel() == tensor.numel():
        return replace(place, axis=result.dim() - 1)
    return None
