"""The weights of a network in training: which gradients reach them, and how far a step moves them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COUNTS = ("asked", "reached", "nonzero", "steps", "moved", "last", "idle", "longest", "missing", "part")


@dataclass
class Weight:
    """One parameter, and what has been seen of it, counted in batches.

    Attributes:
        name: as `named_parameters` gives it, without what `torch.compile` adds.
        layer: the module that holds it; its own name where that is the network itself.
        tensor: the parameter.
        optimised: an optimiser has it.
        asked: batches in which it asked for a gradient.
        reached: … and a gradient was there after the backward pass.
        nonzero: … that was not all zeros.
        steps: optimiser steps that were looked at while it asked for a gradient.
        moved: … after which it was another.
        last: optimiser steps before the last batch that brought a gradient of more than zeros; -1 if none did.
        idle: batches since that brought none, or only zeros.
        longest: most batches running that did so before.
        missing: batches running that brought none, not even zeros.
        part: largest norm of its gradient, beside the largest of a weight in the same batch.
    """

    name: str
    layer: str
    tensor: Tensor
    optimised: bool
    asked: int = 0
    reached: int = 0
    nonzero: int = 0
    steps: int = 0
    moved: int = 0
    last: int = -1
    idle: int = 0
    longest: int = 0
    missing: int = 0
    part: float = 0.0


class Weights:
    """All parameters of a network, each once, also where layers share them.

    Args:
        network: whose parameters.
        optimised: those that the optimisers have.
    """

    def __init__(self, network: nn.Module, optimised: Iterable[Tensor]) -> None:
        held = {id(each) for each in optimised}
        named = [(plain(name), each) for name, each in network.named_parameters()]
        named = [(name, each) for name, each in named if not isinstance(each, nn.UninitializedParameter)]
        self.all = [Weight(name, name.rpartition(".")[0] or name, each, id(each) in held) for name, each in named]
        self.layers: dict[str, list[int]] = {}
        for place, each in enumerate(self.all):
            self.layers.setdefault(each.layer, []).append(place)
        self.batch: dict[int, float] = {}  # gradient norms of the batch, by place in `all`
        self._before: list[Tensor] | None = None

    def norms(self) -> tuple[list[int], Float[Tensor, " weight"]]:
        """Return the places of the weights that have a gradient, and its norms, on their device."""
        places = [place for place, each in enumerate(self.all) if each.tensor.grad is not None]
        gradients = [_values(self.all[place].tensor.grad) for place in places]
        if not gradients:
            return [], torch.zeros(0)
        device = gradients[0].device
        found = _norms(gradients)
        return places, torch.stack([each.to(device) for each in found])

    def not_finite(self) -> list[str]:
        """Return the names of the weights whose gradient holds NaN or infinity."""
        gradients = [(each.name, each.tensor.grad) for each in self.all]
        return [name for name, grad in gradients if grad is not None and not bool(_values(grad).isfinite().all())]

    def note(self, places: Sequence[int], norms: Sequence[float]) -> None:
        """Note the gradient norms after a backward pass; there may be several in a batch."""
        self.batch.update(zip(places, norms, strict=True))

    def end_batch(self, step: int = 0) -> dict[int, float]:
        """Count what the batch brought, after so many optimiser steps, and return its gradient norms."""
        done, self.batch = self.batch, {}
        largest = max(done.values(), default=0.0) or 1.0
        for place, each in enumerate(self.all if done else ()):
            if each.tensor.requires_grad:
                each.asked += 1
                each.reached += place in done
                each.missing = 0 if place in done else each.missing + 1
                if done.get(place, 0.0) != 0:
                    each.nonzero += 1
                    each.part = max(each.part, done[place] / largest)
                    each.last, each.longest, each.idle = step, max(each.longest, each.idle), 0
                else:
                    each.idle += 1
        return done

    def before_step(self) -> None:
        """Keep a copy of the weights, if none is kept, to see how far the step moves them."""
        if self._before is None:
            with torch.no_grad():
                self._before = [each.tensor.detach().clone() for each in self.all]

    def after_step(self) -> tuple[list[str], Float[Tensor, "quantity layer"]] | None:
        """Return how far a step moved each layer: norms of the change and of the weights before, on the device.

        A layer's norms are over its matrices, where it has any: biases that start at 0 have no size to compare with.
        Weights count as no smaller than a third of PyTorch's initial ones, lest those that start at 0 seem to leap.
        None without `before_step`.
        """
        before, self._before = self._before, None
        if not before:
            return None
        with torch.no_grad():
            change = torch._foreach_sub([each.tensor.detach() for each in self.all], before)
        device = change[0].device
        steps, sizes = (
            torch.stack([each.to(device) for each in _norms(values)]).square() for values in (change, before)
        )
        matrices = {name: self.matrices(places) for name, places in self.layers.items()}
        rows = [torch.stack([values[places].sum().sqrt() for places in matrices.values()]) for values in (steps, sizes)]
        least = [self._usual(places) / 3 for places in matrices.values()]
        rows[1] = torch.maximum(rows[1], torch.tensor(least, device=device))
        for each, moved in zip(self.all, (steps > 0).tolist(), strict=True):
            if each.tensor.requires_grad:
                each.steps += 1
                each.moved += moved
        return list(self.layers), torch.stack(rows)

    def forget(self) -> None:
        """Let go of the copy of the weights."""
        self._before = None

    def by_layer(self, norms: dict[int, float]) -> dict[str, float]:
        """Return the gradient norm of each layer that has a gradient."""
        found = {}
        for name, places in self.layers.items():
            here = [norms[place] for place in places if place in norms]
            if here:
                found[name] = math.sqrt(sum(each * each for each in here))
        return found

    def matrices(self, places: Sequence[int]) -> list[int]:
        """Return the places of a layer by which its update is measured: its matrices, or all if it has none."""
        return [place for place in places if self.all[place].tensor.dim() > 1] or list(places)

    def state(self) -> dict[str, list[float]]:
        return {each.name: [getattr(each, count) for count in _COUNTS] for each in self.all}

    def load(self, state: dict[str, list[float]]) -> None:
        for each in self.all:
            for count, value in zip(_COUNTS, state.get(each.name, ()), strict=False):
                setattr(each, count, value)

    def _usual(self, places: Sequence[int]) -> float:
        """Return the norm that weights have at the start: uniform within ±1/√inputs; scales of normalisations are 1."""
        tensors = [self.all[place].tensor for place in places]
        return math.sqrt(sum(len(each) / 3 if each.dim() > 1 else each.numel() for each in tensors))


def plain(name: str) -> str:
    """Return a dotted name without what `torch.compile` adds."""
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod")


def _values(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms(values: Sequence[Tensor]) -> list[Tensor]:
    """Return norms in float32, which 16 bits cannot hold, or in float64 where a value has that."""
    real = [torch.view_as_real(each) if each.is_complex() else each for each in values]
    wide = any(each.dtype == torch.float64 for each in real)
    return [each.float() for each in torch._foreach_norm(real, 2, dtype=torch.float64 if wide else torch.float32)]
