"""What can be told of a network before its first step, on a copy: mixed samples, odd initial weights, equal units."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.layers import Layer, find_layers, watch
from heartnet.diagnostics.loss_calls import LossCalls
from heartnet.diagnostics.replay import Replay, Streams, batch_size, evaluating, rows_of


@dataclass(frozen=True)
class Scale:
    """How large a layer's weights and outputs are, beside the same layer freshly initialised.

    Attributes:
        layer: its name.
        weights: root mean square of its weights, over that of fresh ones; 1 where it cannot be initialised anew.
        output: root mean square of its output over that of the fresh network, on the same samples.
        gain: `output` over that of the layer before: what this layer alone adds.
        bias: mean of its biases, where they make up most of its output; else 0.
    """

    layer: str
    weights: float
    output: float
    gain: float
    bias: float = 0.0


@dataclass(frozen=True)
class Mixing:
    """How samples of a batch meet.

    Attributes:
        value: largest difference of a sample's logits, over the largest logit; 0 if samples do not meet.
        layer: the first layer whose output moves; `""` if it is none that can be seen.
    """

    value: float
    layer: str


def mixing(replay: Replay, batch: Any) -> Mixing | None:
    """Return how far the logits of a sample move when the other samples of its batch become copies of it.

    The copy is in evaluation mode, so batch normalisation and dropout are out of it, and both passes have the same
    random numbers and shapes: without mixing they give the same, bit for bit. Logits are what torch's loss functions
    are given; where none is called with one row a sample, the last layer's output.

    Args:
        batch: its first two samples are used.

    Returns:
        None if it cannot be told: a batch of one, no output with a dimension of the batch, a loss between the
        samples of a batch, samples that are mixed at random (mixup), or a step that changes weights by itself.
    """
    if (batch_size(batch) or 0) < 2:
        return None
    streams = Streams.now()
    with evaluating(replay.twin):
        before = [each._version for each in replay.twin.parameters()]
        both, layers = _outputs(replay, rows_of(batch, [0, 1]), streams)
        if both is None or before != [each._version for each in replay.twin.parameters()]:
            return None
        found = [Mixing(0.0, "")]
        for sample in (0, 1):  # with a wrong shape, the first sample may keep what is read of it
            alone, same_layers = _outputs(replay, rows_of(batch, [sample, sample]), streams)
            if alone is None or both.shape != alone.shape:
                return None
            row = _place_of(sample, layers, same_layers)
            size = float(torch.cat([both, alone]).abs().max())
            value = float((both[row] - alone[row]).abs().max()) / size if size > 0 else 0.0
            if value > 0 and _at_random(replay, batch, both, alone, sample):
                return None
            seen = (name for name in layers if name in same_layers)
            moved = (name for name in seen if not _alike(layers[name][row], same_layers[name][row]))
            found.append(Mixing(value, next(moved, "")))
    return max(found, key=lambda each: each.value)


def scales(replay: Replay, batch: Any, seed: int = 0) -> list[Scale]:
    """Return the scale of each layer beside the same layer initialised anew, in the order in which they run.

    Layers are initialised by their own `reset_parameters`. The copy of `replay` is used up by it.

    Args:
        batch: its first two samples are used.
    """
    network: nn.Module = replay.twin
    layers = [each for each in find_layers(network) if each.kind in ("convolution", "linear", "recurrent")]
    few, streams = rows_of(batch, [0, 1]) if (batch_size(batch) or 0) > 1 else batch, Streams.now()
    with evaluating(network):
        weights = {layer.name: _weights(layer.module) for layer in layers}
        biases = {layer.name: _bias(layer.module) for layer in layers}
        now = _sizes(replay, layers, few, streams)
        with rng_untouched():
            torch.manual_seed(seed)
            fresh_ones = {layer.name for layer in layers if _reset(layer.module)}
        fresh_weights = {layer.name: _weights(layer.module) for layer in layers}
        fresh = _sizes(replay, layers, few, streams)
    found, before = [], 1.0
    for name, size in now.items():
        output = size / fresh[name] if fresh.get(name) and size else 1.0
        known = name in fresh_ones and fresh_weights[name] > 0 and weights[name] > 0
        ratio = weights[name] / fresh_weights[name] if known else 1.0
        bias = biases[name] if abs(biases[name]) > 0.5 * size > 0 else 0.0
        found.append(Scale(name, ratio, output, output / before, bias))
        before = output
    return found


def equal_units(output: Float[Tensor, "batch position unit"]) -> bool:
    """Return whether all units put out the same, up to rounding, and more than zeros."""
    if output.shape[-1] < 2 or output.shape[0] * output.shape[1] < 2:
        return False
    size = output.abs().max()
    return bool((size > 0) & ((output - output[..., :1]).abs().max() <= 1e-5 * size))


def equal_rows(weight: Tensor) -> int:
    """Return how many rows of a weight are the same as the first, up to rounding; 0 if it holds only zeros."""
    rows = weight.detach().flatten(1).float()
    size = rows.abs().max()
    if size == 0:
        return 0
    return int(((rows - rows[:1]).abs().amax(dim=1) <= 1e-6 * size).sum())


def _outputs(
    replay: Replay, batch: Any, streams: Streams
) -> tuple[Float[Tensor, "sample value"] | None, dict[str, Tensor]]:
    """Return logits by sample, and of each layer what it puts out, a row a sample, in the order of running."""
    size = batch_size(batch)
    layers: dict[str, Tensor] = {}
    last: list[Tensor] = []

    def keep(layer: Layer, output: Tensor) -> None:
        last[:] = [output.detach()]
        if len(output) == size:
            layers[layer.name] = output.detach()[:, :: max(output[0].numel() // 65_536, 1)].clone()

    with LossCalls(batch) as seen, watch(find_layers(replay.twin), keep):
        replay.step(batch, streams=streams)
    tables = [call.logits for call in seen.calls if call.kind != "other" and call.samples == size]
    fits = [table.reshape(size or 1, -1) for table in tables or [each for each in last if len(each) == size]]
    if not fits or any(call.kind == "classes" and call.logits.shape[1] == size for call in seen.calls):
        return None, {}  # as many classes as samples: the samples are compared with one another
    return torch.cat(fits, dim=1).float(), layers


def _place_of(sample: int, layers: dict[str, Tensor], alone: dict[str, Tensor]) -> int:
    """Return where a sample stands: the step may sort samples before it hands them to the first layer."""
    name = next((name for name in layers if name in alone), None)
    if name is None or _alike(layers[name][sample], alone[name][sample]):
        return sample
    return 1 - sample if _alike(layers[name][1 - sample], alone[name][sample]) else sample


def _at_random(replay: Replay, batch: Any, both: Tensor, alone: Tensor, sample: int) -> bool:
    """Return whether other random numbers change the logits of different samples, and not those of copies of one."""
    with rng_untouched():
        torch.rand(1)
        np.random.rand()
        random.random()
        other = Streams.now()
    again, _ = _outputs(replay, rows_of(batch, [0, 1]), other)
    same, _ = _outputs(replay, rows_of(batch, [sample, sample]), other)
    return again is not None and same is not None and not _alike(both, again) and _alike(alone, same)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-5 * one.abs().max())


def _sizes(replay: Replay, layers: Sequence[Layer], batch: Any, streams: Streams) -> dict[str, float]:
    sizes: dict[str, float] = {}
    with watch(layers, lambda layer, output: sizes.update({layer.name: rms(output)})):
        replay.step(batch, streams=streams)
    return sizes


def rms(values: Tensor) -> float:
    """Return the root mean square."""
    return float(values.detach().float().square().mean().sqrt())


def _weights(module: nn.Module) -> float:
    matrices = [each.detach().float().flatten() for each in module.parameters(recurse=False) if each.dim() > 1]
    return rms(torch.cat(matrices)) if matrices else 0.0


def _bias(module: nn.Module) -> float:
    bias = getattr(module, "bias", None)
    return float(bias.detach().float().mean()) if isinstance(bias, Tensor) and bias.numel() else 0.0


def _reset(module: nn.Module) -> bool:
    reset: Callable[[], object] | None = getattr(module, "reset_parameters", None)
    if reset is None:
        return False
    try:
        reset()
    except (AttributeError, RuntimeError):  # weights that are computed from others cannot be set
        return False
    return True
