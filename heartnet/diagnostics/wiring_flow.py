"""Does the loss of each output (condition) reach each layer?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heartnet.diagnostics.layers import plain_name
from heartnet.diagnostics.replay import tensors_in
from heartnet.diagnostics.wiring import Bench
from heartnet.diagnostics.wiring_calls import Call

MOST_OUTPUTS = 64
_CLASSES = ("cross_entropy", "nll_loss")


@dataclass(frozen=True)
class Flow:
    """Where gradients go, in evaluation mode, of a few samples.

    Attributes:
        weighed: for each output, whether the loss depends on its scores (of classes: on samples of that class); None
            where no label at hand could tell.
        reaches: for each output, whether its scores depend on any weight.
        layers: names of those that hold weights that ask for a gradient, and that ran.
        silent: of these, the ones that no score depends on.
        reason: why it cannot be told; then all else is empty.
    """

    weighed: Sequence[bool | None] = ()
    reaches: Sequence[bool] = ()
    layers: Sequence[str] = ()
    silent: Sequence[str] = ()
    reason: str = ""


def flow(bench: Bench, *, heartnet: bool = False) -> Flow:
    """Return where the gradients of the outputs and of the loss go.

    Args:
        heartnet: the batch's `targets` that are missing are set to 0 and 1, so that each output is looked at.
    """
    batch = bench.batch
    if heartnet:
        targets = batch["targets"]
        filled = (torch.arange(targets.numel(), device=targets.device) % 2).reshape(targets.shape).to(targets.dtype)
        batch = {**batch, "targets": torch.where(targets.isnan(), filled, targets)}
    loss, calls = bench.step(batch=batch)
    calls = [each for each in calls if each.input.requires_grad and each.input.dim() > 0]
    if loss is not None and not loss.requires_grad:
        return Flow(reason="no gradient reaches the loss")
    table = _scores(calls[0]) if calls else bench.scores()
    if table.shape[1] > MOST_OUTPUTS:
        return Flow(reason=f"{table.shape[1]} outputs are too many to follow one by one")
    weighed = _weighed(calls[0], loss, table.shape[1]) if len(calls) == 1 else []
    if not heartnet:
        weighed = [None if each is False and _unknown(batch, calls[0], i) else each for i, each in enumerate(weighed)]
    names, weights = _weights(bench)
    touched = torch.zeros(len(weights), dtype=torch.bool)
    reaches = []
    for i in range(table.shape[1]):
        moved = _moved(table[:, i], weights)
        touched |= moved
        reaches.append(bool(moved.any()))
    for each in calls[1:]:
        touched |= _moved(each.input, weights)
    if len(calls) > 1:  # outputs of several losses, which may come from several networks
        reaches = []
    return Flow(weighed, reaches, *_by_layer(bench, names, touched))


def _moved(scores: Tensor, weights: Sequence[Tensor]) -> Bool[Tensor, " weight"]:
    """Return which weights move scores."""
    mix = torch.linspace(1.0, 2.0, scores.numel(), dtype=scores.dtype, device=scores.device).reshape(scores.shape)
    grads = torch.autograd.grad((scores * mix).sum(), weights, retain_graph=True, allow_unused=True)
    return torch.tensor([each is not None and bool(each.abs().max() > 0) for each in grads])


def _scores(call: Call) -> Tensor:
    """Return what a loss function was given, outputs second."""
    if call.input.dim() > 1:
        return call.input
    return call.input[None] if call.name in _CLASSES else call.input[:, None]


def _weighed(call: Call, loss: Tensor | None, outputs: int) -> list[bool | None]:
    """Return for each output whether the loss changes with its scores; of classes, with the samples of that class."""
    result = loss if loss is not None and loss.requires_grad else call.result
    if not isinstance(result, Tensor) or not result.requires_grad:
        return [None] * outputs
    (grad,) = torch.autograd.grad(result.sum(), call.input, retain_graph=True, allow_unused=True)
    if grad is None:
        return [False] * outputs
    if call.name in _CLASSES:
        if call.target.is_floating_point() or call.input.dim() != 2:
            return [None] * outputs
        return [_any(grad, call.target == i) for i in range(outputs)]
    values = grad if grad.dim() > 1 else grad[:, None]
    return [bool(values[:, i].abs().max() > 0) for i in range(outputs)]


def _unknown(batch: Any, call: Call, output: int) -> bool:
    """Return whether the labels of an output may be missing in all samples: NaN, negative, or masked by zeros."""
    if call.name in _CLASSES or call.target.shape != call.input.shape:
        return False
    labels = call.target if call.target.dim() == 1 else call.target[:, output]
    zeros = 0
    for each in tensors_in(batch):
        column = each if each.dim() == 1 else each[:, output] if each.shape == call.input.shape else None
        if column is None or len(column) != len(labels):
            continue
        if bool((column.isnan() | (column < 0)).all()):
            return True
        zeros += bool((column == 0).all())
    return zeros > bool((labels == 0).all())  # the labels may be zeros themselves


def _any(grad: Float[Tensor, "sample output"], rows: Bool[Tensor, " sample"]) -> bool | None:
    return bool(grad[rows].abs().max() > 0) if bool(rows.any()) else None


def _weights(bench: Bench) -> tuple[list[str], list[Tensor]]:
    named = [(name, each) for name, each in bench.module.named_parameters() if each.requires_grad]
    return [name for name, _ in named], [each for _, each in named]


def _by_layer(bench: Bench, names: Sequence[str], touched: Bool[Tensor, " weight"]) -> tuple[list[str], list[str]]:
    """Return layers that ran, and those of them that no score depends on, in the order in which they ran."""
    seen: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, module in bench.module.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        bench.scores()
    finally:
        for handle in handles:
            handle.remove()
    reached: dict[str, bool] = {}
    for name, moved in zip(names, touched.tolist(), strict=True):
        layer = name.rpartition(".")[0]
        reached[layer] = reached.get(layer, False) or moved
    ran = [name for name in dict.fromkeys(seen) if name in reached]
    return [plain_name(each) for each in ran], [plain_name(each) for each in ran if not reached[each]]
