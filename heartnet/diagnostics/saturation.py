"""Which gates of a recurrent layer are stuck: computed from what goes in, what comes out, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from heartnet.diagnostics.activations import ACTIVATIONS

GATES: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("input", "forget", "cell", "output"),
    "GRU": ("reset", "update", "new"),
}
"""Gates by a module's `mode`, in the order of PyTorch's weights; `cell` and `new` are a tanh, the others sigmoids."""

_TANH = ("cell", "new")
_LONG = 0.95  # of the time
_BOTH = 0.05


def gates(
    module: nn.RNNBase,
    inputs: Float[Tensor, "batch time channel"],
    outputs: Float[Tensor, "batch time feature"],
    valid: Int[Tensor, " batch"],
    rows: int = 512,
) -> dict[str, Float[Tensor, "row unit"]]:
    """Return values of each gate before its sigmoid or tanh, at up to `rows` steps spread over the batch.

    The state before step t is the output at t - 1 (t + 1 for the reverse direction), so one matrix product gives the
    gates without running the layer; the first step of each sequence is left out. Gates of the reverse direction end in
    `_reverse`. A layer whose sequences all have fewer than two steps has none.

    Args:
        module: `nn.LSTM` or `nn.GRU` of one layer.
        valid: steps of each sequence.

    Raises:
        ValueError: the module has several layers (see `heartnet.diagnostics.recurrent`), or is of another kind.
    """
    names = GATES.get(module.mode)
    if names is None or module.num_layers > 1:
        raise ValueError(f"the gates of {module} cannot be computed from outside")
    found: dict[str, Tensor] = {}
    time = outputs.shape[1]
    if time < 2:
        return found
    each = max(1, rows // len(outputs))
    # Steps 1 … valid - 1, evenly; sequences of one step are left out by weight 0 further down.
    share = (torch.arange(each, device=outputs.device) + 0.5) / each
    steps = 1 + (share * (valid[:, None] - 1).clamp(min=1)).long()
    steps = steps.clamp(max=time - 1)
    who = torch.arange(len(outputs), device=outputs.device)[:, None].expand_as(steps)
    size = outputs.shape[2] // (2 if module.bidirectional else 1)
    for i, suffix in enumerate(("", "_reverse") if module.bidirectional else ("",)):
        now, before = (steps, steps - 1) if not suffix else (steps - 1, steps)
        x, state = inputs[who, now].flatten(0, 1), outputs[who, before, i * size : (i + 1) * size].flatten(0, 1)
        enough = (valid > 1)[:, None].expand_as(steps).flatten()
        values = _before_activation(module, suffix, x, state)
        for name, value in zip(names, values, strict=True):
            found[name + suffix] = torch.where(enough[:, None], value, torch.nan)
    return found


def _before_activation(
    module: nn.RNNBase, suffix: str, x: Float[Tensor, "row channel"], state: Float[Tensor, "row unit"]
) -> tuple[Tensor, ...]:
    weights = {name: module.get_parameter(f"weight_{name}_l0{suffix}").detach() for name in ("ih", "hh")}
    biases = {
        name: module.get_parameter(f"bias_{name}_l0{suffix}").detach() if module.bias else None for name in ("ih", "hh")
    }
    dtype = weights["ih"].dtype
    with torch.autocast(x.device.type, enabled=False):
        ours = F.linear(x.to(dtype), weights["ih"], biases["ih"])
        theirs = F.linear(state.to(dtype), weights["hh"], biases["hh"])
    if module.mode == "LSTM":
        return (ours + theirs).chunk(4, dim=1)
    (r, z, n), (hr, hz, hn) = ours.chunk(3, dim=1), theirs.chunk(3, dim=1)
    return r + hr, z + hz, n + torch.sigmoid(r + hr) * hn


def gate_shares(values: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "side unit"]]:
    """Return for each gate the share of steps at which each unit is below and above what its slope can bear."""
    shares = {}
    for name, value in values.items():
        limit = ACTIVATIONS["tanh" if name.removesuffix("_reverse") in _TANH else "sigmoid"].high
        known = (~value.isnan()).sum(dim=0).clamp(min=1)
        shares[name] = torch.stack([(value < -limit).sum(dim=0) / known, (value > limit).sum(dim=0) / known])
    return shares


def stuck(name: str, low: Any, high: Any) -> Any:
    """Return which units of a gate cannot learn, from the shares (NumPy, `[unit]`) of `gate_shares`.

    That is a candidate (`cell`, `new`) at its ends for 95 % of the time; an output gate that is shut; and another gate
    at its ends for 95 % of the time that is at both. A gate that stays at one end is no fault: an open forget gate
    remembers, and `forget_bias=chrono` sets it so.
    """
    gate = name.removesuffix("_reverse")
    ends = low + high >= _LONG
    if gate in _TANH:
        return ends
    return (ends & (low >= _BOTH) & (high >= _BOTH)) | ((gate == "output") & (low >= _LONG))


def sequences(module: nn.RNNBase, inputs: Any, outputs: Any) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return inputs and outputs of a recurrent layer as `[batch, time, …]`, and its lengths if it was given them.

    None if what went in or came out is not understood.
    """
    given = inputs[0] if isinstance(inputs, tuple) and inputs else None
    got = outputs[0] if isinstance(outputs, tuple) and not isinstance(outputs, PackedSequence) else outputs
    if isinstance(given, PackedSequence) and isinstance(got, PackedSequence):
        x, lengths = pad_packed_sequence(given, batch_first=True)
        y, _ = pad_packed_sequence(got, batch_first=True)
        return x.detach(), y.detach(), lengths.to(x.device)
    if not isinstance(given, Tensor) or not isinstance(got, Tensor) or given.dim() not in (2, 3):
        return None
    if given.dim() == 2:
        return given.detach()[None], got.detach()[None], None
    pair = (given.detach(), got.detach())
    x, y = pair if module.batch_first else tuple(each.transpose(0, 1) for each in pair)
    return x, y, None
