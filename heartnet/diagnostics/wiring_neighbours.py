"""Does the score of a sample depend on the other samples of its batch? By gradients with respect to each input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heartnet.diagnostics.replay import rows_of, tensors_in
from heartnet.diagnostics.wiring import Bench, Seen, differs, map_tensors, norms_of


@dataclass(frozen=True)
class Neighbours:
    """How samples of a batch meet.

    Attributes:
        value: largest gradient of a sample's score with respect to another sample, over the largest one with respect
            to itself. Where inputs have no gradient (whole numbers): largest change of a score, over the largest
            score, when the other samples become copies of its own. None if it cannot be told.
        layer: first module whose output for a sample changes with the others; `""` if none can be seen.
        normalised: batch normalisation, which mixes samples on purpose, was held fixed for the measurement.
        reason: why it cannot be told.
    """

    value: float | None
    layer: str = ""
    normalised: bool = False
    reason: str = ""


def neighbours(bench: Bench, *, training: bool) -> Neighbours:
    """Return how much samples of a batch meet, in evaluation mode or in the modes of training.

    In training, batch normalisation is held at its running statistics and dropout draws the same numbers each time.
    """
    if bench.size < 2:
        return Neighbours(None, reason="the batch has a single sample")
    modes = dict(bench.training)
    norms = norms_of(bench.module) if training else []
    if training:
        bench.module.train()
        norms = norms_of(bench.module)
        names = {id(each): name for name, each in bench.module.named_modules()}
        norms = [each for each in norms if modes.get(names[id(each)], True)]
        bench.training = modes | {names[id(each)]: False for each in norms}
    try:
        if _compares_samples(bench, training=training):
            return Neighbours(None, reason="its loss compares the samples of a batch with one another, on purpose")
        value = _by_gradient(bench, training=training)
        value = _by_exchange(bench, training=training) if value is None else value
        layer = ""
        if value is None:
            return Neighbours(None, reason="no input reaches the score by a gradient, nor can samples be exchanged")
        if value > limit(bench):
            layer = _place(bench, training=training)
        return Neighbours(value, layer, bool(norms))
    finally:
        bench.training = modes


def limit(bench: Bench) -> float:
    """Return the value up to which a meeting is rounding."""
    return 1e-9 if bench.double else 1e-5


def _by_gradient(bench: Bench, *, training: bool) -> float | None:
    leaves: list[Tensor] = []

    def ask(value: Tensor) -> Tensor:
        if not value.is_floating_point() or value.dim() == 0 or len(value) != bench.size:
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1]

    scores = bench.scores(map_tensors(bench.tree, ask), training=training)
    if not leaves or not scores.requires_grad:
        return None
    weights = torch.linspace(1.0, 2.0, scores.shape[1], dtype=scores.dtype, device=scores.device)
    own = other = 0.0
    for i in range(bench.size):
        grads = torch.autograd.grad(scores[i] @ weights, leaves, retain_graph=True, allow_unused=True)
        for grad in (each for each in grads if each is not None):
            size = grad.detach().abs().flatten(1).amax(dim=1) if grad.dim() > 1 else grad.detach().abs()
            own = max(own, float(size[i]))
            size[i] = 0
            other = max(other, float(size.max()))
    return other / own if own > 0 else (1.0 if other > 0 else None)


def _by_exchange(bench: Bench, *, training: bool) -> float | None:
    both = bench.scores(training=training).detach()
    alone = bench.scores(rows_of(bench.tree, [0] * bench.size), training=training).detach()
    return differs(both[:1], alone[:1]) if both.shape == alone.shape else None


def _place(bench: Bench, *, training: bool) -> str:
    one, other = list[Seen](), list[Seen]()
    bench.scores(training=training, seen=one)
    bench.scores(rows_of(bench.tree, [0] * bench.size), training=training, seen=other)
    for a, b in zip(one, other, strict=False):
        if a.name == b.name and len(a.output) == bench.size and (differs(a.output[:1], b.output[:1]) or 0.0) > 1e-6:
            return a.name
    return ""


def _compares_samples(bench: Bench, *, training: bool) -> bool:
    """Whether a sample has as many scores as the batch has samples, however many these are."""
    if bench.scores(training=training).shape[1] != bench.size or bench.size < 2:
        return False
    fewer = rows_of(bench.tree, list(range(bench.size - 1)))
    kept = next(tensors_in(fewer), None)
    return kept is not None and bench.scores(fewer, training=training).shape[1] == bench.size - 1
