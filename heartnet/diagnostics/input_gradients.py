"""Gradients of many logits by the inputs of a week: rows of a Jacobian, from as few passes as can be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from heartnet.diagnostics.input_lstm import input_lstms
from heartnet.diagnostics.isolate import device_of, isolated
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.errors import HeartnetError

SCORE = -1
"""In place of a reading: the logit after the readout."""

SEEDS = {torch.float32: 2.0**96}
"""What the backward pass starts from. A power of two scales exactly and is divided out again in float64: with it,
float32 holds gradients down to 1e-67 instead of 1e-38."""

_READINGS = 65_536


class NoStepsError(HeartnetError):
    """Logits were asked for at some reading, and the network has none at every step."""


def input_gradients(
    probe: Probe,
    readings: Int64[np.ndarray, "row week"],
    outputs: Int64[np.ndarray, " row"],
    *,
    dtype: torch.dtype = torch.float64,
    readings_at_once: int = _READINGS,
) -> list[Float64[np.ndarray, "row channel _time"]]:
    """Return for each week d logit(reading, output) / d input(t, channel), at the valid readings of that week.

    The network is copied and measured in `dtype` and in evaluation mode; nothing of it changes. On a CPU, and if its
    recurrent layers are LSTMs, it goes forward once, and back with all rows side by side; otherwise the input is
    repeated along the batch, once for each row, so that one forward and one backward pass yield them all.

    Args:
        probe: the network and the weeks. Weeks must not depend on one another.
        readings: of each row and week, the reading whose logit is meant, or `SCORE`.
        outputs: of each row, which logit.
        dtype: float32 is faster on a CPU, and holds magnitudes down to 1e-67 where float64 holds 1e-308.
        readings_at_once: rows times readings in one pass; bounds the memory.

    Raises:
        NoStepsError: a reading was asked for, and the network has no logits at every step.
        HeartnetError: a network that does not answer as `Probe` says.
    """
    found = _side_by_side(probe, dtype, readings, outputs, readings_at_once)
    if found is None:
        with isolated(probe.network, dtype) as network:
            moved = _as_measured(probe, device_of(probe.network), dtype)
            try:
                found = _repeated(network, moved, readings, outputs, readings_at_once)
            except (RuntimeError, TypeError, ValueError) as error:
                name = type(network).__name__
                error.add_note(f"This was raised by {name} while its gradients were measured in {dtype}.")
                raise
    seed = SEEDS.get(dtype, 1.0)
    return [week[..., : int(length)] / seed for week, length in zip(found, probe.lengths, strict=True)]


def jacobian(
    probe: Probe, anchors: int = 64, output: int = 0, *, dtype: torch.dtype = torch.float64
) -> list[Float64[np.ndarray, "anchor channel _time"]]:
    """Return for each week how one logit, at readings evenly spread over the week, depends on each input.

    Args:
        probe: the network, which has logits at every step, and the weeks.
        anchors: readings whose logits are looked at, from the first to the last of each week.
        output: which logit.
        dtype: as in `input_gradients`.

    Raises:
        HeartnetError: as `input_gradients` does.
    """
    lengths = probe.lengths.detach().cpu().numpy()
    readings = np.linspace(0, lengths - 1, anchors).round().astype(np.int64)
    return input_gradients(probe, readings, np.full(anchors, output), dtype=dtype)


def _as_measured(probe: Probe, device: torch.device, dtype: torch.dtype) -> Probe:
    def move(tensor: Tensor) -> Tensor:
        # A clone, because what was made in inference mode can take no part in a backward pass.
        clone = tensor.detach().to(device).clone()
        return clone.to(dtype) if clone.is_floating_point() else clone

    return Probe(
        probe.network,
        move(probe.inputs),
        tuple(move(each) for each in probe.rest),
        move(probe.lengths),
        probe.outputs,
        probe.channels,
    )


def _side_by_side(
    probe: Probe, dtype: torch.dtype, readings: Any, outputs: Any, readings_at_once: int
) -> list[Float64[np.ndarray, "row channel time"]] | None:
    """Go forward with some weeks, and back with many rows; None if that cannot be done with this network."""
    batch, time, channels = probe.inputs.shape
    rows = len(outputs)
    found = np.zeros((batch, rows, channels, time))
    with (
        isolated(probe.network, dtype) as network,
        input_lstms(network) as able,
        threadpool_limits(1, user_api="blas"),  # its threads and ours would wait for one another
        warnings.catch_warnings(),
    ):
        if not able or device_of(network).type != "cpu":
            return None
        warnings.simplefilter("ignore")  # of operations that vmap takes one row at a time
        moved = _as_measured(probe, torch.device("cpu"), dtype)
        try:
            for weeks in _chunks(batch, max(readings_at_once // (time * rows), 1)):
                inputs = moved.inputs[weeks].requires_grad_()
                logits = _logits(network, inputs, moved, weeks)
                # Weeks do not depend on one another, so the gradient of their sum holds each one's own.
                each = [
                    (row, week, week - weeks.start) for row in range(rows) for week in range(weeks.start, weeks.stop)
                ]
                total = _picked(logits, each, readings, outputs, time).reshape(rows, -1).sum(dim=1)
                for chunk in _chunks(rows, max(readings_at_once // (time * len(inputs)), 1)):
                    found[weeks, chunk] = _rows(total, inputs, chunk)
        except (RuntimeError, TypeError, ValueError):  # somebody else's operations; or their error, which comes again
            return None
    return list(found)


def _rows(total: Tensor, inputs: Tensor, chunk: slice) -> Float64[np.ndarray, "week row channel time"]:
    if not total.requires_grad:
        return np.zeros((len(inputs), 1, inputs.shape[2], inputs.shape[1]))
    seeds = torch.eye(len(total), dtype=total.dtype)[chunk] * SEEDS.get(total.dtype, 1.0)
    gradient = torch.func.vmap(lambda seed: _gradient(total, inputs, seed))(seeds)
    found: Float64[np.ndarray, "week row channel time"] = gradient.detach().double().permute(1, 0, 3, 2).numpy()
    return found


def _gradient(total: Tensor, inputs: Tensor, seed: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(total, inputs, seed, retain_graph=True, allow_unused=True)
    return torch.zeros_like(inputs) if found is None else found


def _repeated(
    network: nn.Module, probe: Probe, readings: Any, outputs: Any, readings_at_once: int
) -> list[Float64[np.ndarray, "row channel time"]]:
    """Go forward and back with each week as often as there are rows."""
    batch, time, channels = probe.inputs.shape
    rows = len(outputs)
    found = np.zeros((batch * rows, channels, time))
    for chunk in _chunks(batch * rows, max(readings_at_once // time, 1)):
        numbers = torch.arange(chunk.start, chunk.stop, device=probe.inputs.device)
        inputs = probe.inputs[numbers // rows].requires_grad_()
        logits = _logits(network, inputs, probe, numbers // rows)
        each = [(int(n) % rows, int(n) // rows, i) for i, n in enumerate(numbers)]
        total = _picked(logits, each, readings, outputs, time).sum()
        if total.requires_grad:
            seed = torch.tensor(SEEDS.get(total.dtype, 1.0), dtype=total.dtype, device=total.device)
            (gradient,) = torch.autograd.grad(total, inputs, seed, allow_unused=True)
            if gradient is not None:
                found[chunk] = gradient.detach().to("cpu", torch.float64).transpose(1, 2).numpy()
    return list(found.reshape(batch, rows, channels, time))


def _chunks(count: int, size: int) -> Iterator[slice]:
    """Cut into the fewest chunks of at most `size`, all about equally long."""
    chunks = -(-count // size)
    for start, end in pairwise(count * i // chunks for i in range(chunks + 1)):
        yield slice(start, end)


def _logits(network: nn.Module, inputs: Tensor, probe: Probe, weeks: slice | Tensor) -> Logits:
    logits = network(inputs, *(each[weeks] for each in probe.rest))
    if not isinstance(logits, Logits):
        raise HeartnetError(
            f"the probe's network returned {type(logits).__name__}, not Logits(steps, score); "
            "wrap it with heartnet.diagnostics.adapt.adapt"
        )
    batch, outputs = len(inputs), len(probe.outputs)
    if logits.score.shape != (batch, outputs):
        raise HeartnetError(f"the score has shape {tuple(logits.score.shape)}, expected [{batch}, {outputs}]")
    if logits.steps is not None:
        shape, time = tuple(logits.steps.shape), inputs.shape[1]
        if len(shape) != 3 or shape[0] != batch or shape[2] != outputs or not 1 <= shape[1] <= time:
            raise HeartnetError(f"the steps have shape {shape}, expected [{batch}, up to {time}, {outputs}]")
    return logits


def _picked(logits: Logits, each: list[tuple[int, int, int]], readings: Any, outputs: Any, time: int) -> Tensor:
    """Return the logit of each row, week and place in the batch."""
    picked = []
    for row, week, place in each:
        reading = int(readings[row, week])
        if reading == SCORE:
            picked.append(logits.score[place, outputs[row]])
        elif logits.steps is None:
            raise NoStepsError("the network has no logits at every step")
        else:
            stride = -(-time // logits.steps.shape[1])
            picked.append(logits.steps[place, reading // stride, outputs[row]])
    return torch.stack(picked)
