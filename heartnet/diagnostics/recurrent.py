"""The layers within an `nn.LSTM`, `nn.GRU` or `nn.RNN` of several: what goes into each, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

_KINDS: Mapping[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


@torch.no_grad()
def layers_of(
    module: nn.RNNBase, inputs: Float[Tensor, "batch time channel"], lengths: Int[Tensor, " batch"] | None, given: Any
) -> Iterator[tuple[nn.RNNBase, Float[Tensor, "batch time channel"], Float[Tensor, "batch time feature"]]]:
    """Run each layer of a module by itself, one after the other, without dropout, in the type of its weights.

    Only the last layer's output leaves a module of several, so the others' are computed again: about the cost of one
    more forward pass.

    Args:
        module: of one or more layers, one or both directions.
        inputs: batch first, whatever the module's `batch_first` is.
        lengths: of the sequences, if the module was given a packed sequence.
        given: what the module was called with; a first state is its second part.

    Yields:
        a module of one layer that has the layer's weights, its inputs and its outputs, both batch first.
    """
    state = given[1] if isinstance(given, tuple) and len(given) > 1 else None
    x = inputs.detach().to(next(module.parameters()).dtype)
    for number in range(module.num_layers):
        layer = _layer(module, number, x.shape[2])
        first = _part(state, number, 2 if module.bidirectional else 1, batched=len(x))
        with torch.autocast(x.device.type, enabled=False):
            y = _run(layer, x, lengths, first)
        yield layer, x, y
        x = y


def _layer(module: nn.RNNBase, number: int, channels: int) -> nn.RNNBase:
    options: dict[str, Any] = {"proj_size": module.proj_size} if module.mode == "LSTM" else {}
    if module.mode.startswith("RNN"):
        options = {"nonlinearity": module.mode.removeprefix("RNN_").lower()}
    layer: nn.RNNBase = _KINDS[module.mode](  # on `meta`, where no weights are made and no random numbers drawn
        channels, module.hidden_size, bias=module.bias, batch_first=True, bidirectional=module.bidirectional,
        device="meta", **options,
    )  # fmt: skip
    for name, _ in list(layer.named_parameters()):
        weight = module.get_parameter(name.replace("_l0", f"_l{number}"))
        setattr(layer, name, nn.Parameter(weight.detach(), requires_grad=False))
    layer.flatten_parameters()
    return layer


def _part(state: Any, number: int, directions: int, batched: int) -> Any:
    """Return a layer's part of the first state of all layers."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(_part(each, number, directions, batched) for each in state)
    part = state[number * directions : (number + 1) * directions]
    return part if part.dim() == 3 else part[:, None]


def _run(layer: nn.RNNBase, x: Tensor, lengths: Tensor | None, first: Any) -> Tensor:
    first = tuple(each.to(x.dtype) for each in first) if isinstance(first, tuple) else first
    first = first.to(x.dtype) if isinstance(first, Tensor) else first
    if lengths is None:
        out: Tensor = layer(x, first)[0]
        return out
    packed, _ = layer(pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False), first)
    out, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    return out
