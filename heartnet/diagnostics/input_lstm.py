"""An LSTM for gradients of inputs: many rows of a Jacobian from one forward pass, on a CPU.

PyTorch's own LSTM spends most of a pass over a single week in float64 on the bookkeeping of some hundred thousand
small steps, and its backward pass takes one row for each copy of the week that went forward. This one goes forward once
for all rows, keeps what the backward pass multiplies by, and goes back with all rows side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from heartnet.model.pieces import later

Array = npt.NDArray[Any]

_STEPS = 64
"""Steps whose gradients go to the inputs in one matrix product."""


@contextmanager
def input_lstms(network: nn.Module) -> Iterator[bool]:
    """Let the LSTMs of a network on a CPU give gradients of their inputs and first states only, and fast.

    Yields whether all recurrent layers do, so that `torch.func.vmap` over the backward pass takes many rows at once.
    `network` should be a copy whose weights ask for no gradient (`heartnet.diagnostics.isolate`).
    """
    layers = [each for each in network.modules() if isinstance(each, nn.RNNBase | nn.RNNCellBase)]
    lstms = [each for each in layers if _able(each)]
    able = len(lstms) == len(layers)
    for layer in lstms if able else ():
        layer.forward = _Forward(layer)  # type: ignore[method-assign, assignment]
    try:
        yield able
    finally:
        for layer in lstms if able else ():
            del layer.forward


def _able(layer: nn.Module) -> TypeGuard[nn.LSTM]:
    return (
        type(layer) is nn.LSTM
        and layer.proj_size == 0
        and "forward" not in vars(layer)
        and all(each.device.type == "cpu" and each.dtype in (torch.float32, torch.float64) for each in _weights(layer))
    )


def _weights(layer: nn.LSTM) -> list[Tensor]:
    return [each for weights in layer.all_weights for each in weights]


class _Forward:
    """What stands in for `nn.LSTM.forward`; what it cannot do (packed sequences) the layer's own does."""

    def __init__(self, layer: nn.LSTM) -> None:
        self.layer = layer
        # Gates in the order input, forget, output, cell, so that the three sigmoids lie side by side.
        units = layer.hidden_size
        order = torch.cat(
            [torch.arange(2 * units), torch.arange(3 * units, 4 * units), torch.arange(2 * units, 3 * units)]
        )
        self.weights = [
            (w[0][order].numpy(), w[1][order].numpy(), (w[2] + w[3])[order].numpy() if layer.bias else None)
            for w in ([each.detach() for each in weights] for weights in layer.all_weights)
        ]

    def __call__(self, inputs: Any, state: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        layer = self.layer
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            found: tuple[Any, tuple[Tensor, Tensor]] = nn.LSTM.forward(layer, inputs, state)
            return found
        hidden = inputs.transpose(0, 1) if layer.batch_first else inputs
        directions = 1 + layer.bidirectional
        shape = (layer.num_layers * directions, hidden.shape[1], layer.hidden_size)
        h, c = (hidden.new_zeros(shape), hidden.new_zeros(shape)) if state is None else state
        last: list[tuple[Tensor, Tensor]] = []
        for i in range(layer.num_layers):
            sides = []
            for j in range(i * directions, (i + 1) * directions):
                back = j % directions == 1
                given = hidden.flip(0) if back else hidden
                out, final_c = _Lstm.apply(given, h[j], c[j], self.weights[j])  # type: ignore[no-untyped-call]
                last.append((out[-1], final_c))
                sides.append(out.flip(0) if back else out)
            hidden = torch.cat(sides, dim=-1) if len(sides) > 1 else sides[0]
        out = hidden.transpose(0, 1) if layer.batch_first else hidden
        return out, (torch.stack([each[0] for each in last]), torch.stack([each[1] for each in last]))


class _Lstm(torch.autograd.Function):
    """One layer in one direction: outputs `[time, batch, unit]` and the last cells' state."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, h: Tensor, c: Tensor, weights: tuple[Array, Array, Array | None]) -> Any:
        given, first_h, first_c = (each.detach().numpy() for each in (inputs, h, c))
        outputs, ctx.kept = _go_forward(given, first_h, first_c, *weights)
        ctx.weights = weights
        return torch.from_numpy(outputs), torch.from_numpy(ctx.kept[1][-1].copy())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs: Tensor, final_c: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        given, h, c = _Backward.apply(outputs, final_c, ctx.kept, ctx.weights)  # type: ignore[no-untyped-call]
        return given, h, c, None


class _Backward(torch.autograd.Function):
    """The backward pass, which `torch.func.vmap` gives all its rows at once."""

    @staticmethod
    def forward(outputs: Tensor, final_c: Tensor, kept: Any, weights: Any) -> tuple[Tensor, ...]:
        return tuple(each[0] for each in _Backward.rows(outputs[None], final_c[None], kept, weights))

    @staticmethod
    def rows(outputs: Tensor, final_c: Tensor, kept: Any, weights: Any) -> tuple[Tensor, ...]:
        found = _go_back(outputs.detach().numpy(), final_c.detach().numpy(), kept, *weights[:2])
        return tuple(map(torch.from_numpy, found))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, outputs: Tensor, final_c: Tensor, kept: Any, weights: Any) -> Any:
        def first(each: Tensor, place: int | None) -> Tensor:
            return each.expand(info.batch_size, *each.shape) if place is None else each.movedim(place, 0)

        return _Backward.rows(first(outputs, in_dims[0]), first(final_c, in_dims[1]), kept, weights), (0, 0, 0)


def _go_forward(
    inputs: Array, h: Array, c: Array, w_inputs: Array, w_hidden: Array, bias: Array | None
) -> tuple[Array, tuple[Array, ...]]:
    time, batch, size = inputs.shape
    units = h.shape[1]
    gates = (inputs.reshape(time * batch, size) @ w_inputs.T).reshape(time, batch, 4 * units)
    if bias is not None:
        gates += bias
    outputs, cells = np.empty((time, batch, units), gates.dtype), np.empty((time + 1, batch, units), gates.dtype)
    bent = np.empty_like(outputs)  # tanh of the cells
    cells[0] = c
    w_hidden, from_hidden = np.ascontiguousarray(w_hidden.T), np.empty((batch, 4 * units), gates.dtype)
    with np.errstate(over="ignore"):
        for t in range(time):
            gate = gates[t]
            gate += np.matmul(h, w_hidden, out=from_hidden)
            three, cell = gate[:, : 3 * units], gate[:, 3 * units :]
            np.negative(three, out=three)
            np.exp(three, out=three)
            three += 1
            np.reciprocal(three, out=three)
            np.tanh(cell, out=cell)
            c = np.multiply(gate[:, units : 2 * units], c, out=cells[t + 1])
            c += gate[:, :units] * cell
            h = np.multiply(gate[:, 2 * units : 3 * units], np.tanh(c, out=bent[t]), out=outputs[t])
    return outputs, (gates, cells, bent)


def _go_back(
    outputs: Array, final_c: Array, kept: tuple[Array, ...], w_inputs: Array, w_hidden: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs, first h and first c; of `outputs` `[row, time, batch, unit]`."""
    gates, cells, bent = kept
    rows, time, batch, units = outputs.shape
    i, f, o, g = (gates[..., k * units : (k + 1) * units] for k in range(4))
    to_c, to_o = o * (1 - bent * bent), bent * o * (1 - o)  # what dh brings c, and the output gate
    factor = np.concatenate([g * i * (1 - i), cells[:-1] * f * (1 - f), np.zeros_like(o), i * (1 - g * g)], axis=2)
    d_inputs = np.empty((rows, time, batch, w_inputs.shape[1]), gates.dtype)
    d_h, d_c = np.zeros((rows, batch, units), gates.dtype), np.array(final_c)
    flat, w_hidden = (rows * batch, 4 * units), np.asfortranarray(w_hidden)  # as BLAS takes few rows sooner

    def to_inputs(d_gates: Array, start: int) -> None:
        found = d_gates.reshape(-1, 4 * units) @ w_inputs
        d_inputs[:, start : start + len(d_gates)] = found.reshape(-1, rows, batch, found.shape[1]).swapaxes(0, 1)

    # While steps go on one after the other, another thread brings to the inputs those that are done.
    waiting = []
    for end in range(time, 0, -_STEPS):
        start = max(end - _STEPS, 0)
        d_gates = np.empty((end - start, rows, batch, 4 * units), gates.dtype)
        for t in range(end - 1, start - 1, -1):
            d_h += outputs[:, t]
            d_c += d_h * to_c[t]
            gate = d_gates[t - start]
            by_gate = gate.reshape(rows, batch, 4, units)
            np.multiply(factor[t].reshape(batch, 4, units), d_c[:, :, None], out=by_gate)
            np.multiply(to_o[t], d_h, out=by_gate[:, :, 2])
            d_h = (gate.reshape(flat) @ w_hidden).reshape(d_h.shape)
            d_c *= f[t]
        waiting.append(later(partial(to_inputs, d_gates, start)))
    for each in waiting:
        each()
    return d_inputs, d_h, d_c
