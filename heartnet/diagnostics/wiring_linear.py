"""Is there an activation function between layers? By superposition: f(h+x+y) − f(h+x) − f(h+y) + f(h) = 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from heartnet.diagnostics.layers import plain_name
from heartnet.diagnostics.wiring import Bench, map_tensors, tree_rows

SECONDS = 8.0
"""After which no further layer is looked at."""
_AFFINE = 1e-9
_AFFINE_SINGLE = 1e-4
_LOUD = 3.0


@dataclass(frozen=True)
class Collapse:
    """Layers in a row that together are one linear layer.

    Attributes:
        first, last: names of layers; `last` is an affine function of what `first` puts out.
        residual: the superposition's remainder over the change, 0 if it is affine up to rounding.
        of: how many layers were looked at.
    """

    first: str
    last: str
    residual: float


@dataclass(frozen=True)
class Linearity:
    """Which layers collapse into one, whether all of them do, and how many were looked at of how many."""

    collapsed: Sequence[Collapse]
    whole: bool
    looked: int
    layers: int


def linearity(bench: Bench) -> Linearity:
    """Return which layers follow another one without an activation function in between, in evaluation mode.

    What a layer puts out is moved twice, by random values three times as large as itself, and the outputs of the
    layers after it must not add up. Activations that are functions are seen as well as modules. Left out: layers that
    share their input with another one (as query, key and value do), convolutions in groups, and those through which
    fewer units go than before and after, since such are meant as they are.
    """
    layers = _layers(bench)
    names, modules = [name for name, _ in layers], [module for _, module in layers]
    tree = tree_rows(bench, 2)
    order, siblings, still = _order(bench, modules, tree)
    start = time.monotonic()
    found: list[Collapse] = []
    looked = 0
    for i in order:
        if time.monotonic() - start > SECONDS:
            break
        looked += 1
        if i in siblings or _grouped(modules[i]):
            continue
        for j, residual in _affine_in(bench, modules, i, tree, still).items():
            direct = not any(each.first == names[i] for each in found)
            if direct and j not in siblings and not _narrow(modules[i], modules[j]):
                found.append(Collapse(names[i], names[j], residual))
    whole = len(order) > 1 and bool(found) and _whole(bench)
    return Linearity(found, whole, looked, len(order))


def _layers(bench: Bench) -> list[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return [
        (plain_name(name), each)
        for name, each in bench.module.named_modules()
        if isinstance(each, kinds) and not parametrize.is_parametrized(each)
    ]


def _order(bench: Bench, modules: Sequence[nn.Module], tree: Any) -> tuple[list[int], set[int], dict[int, Tensor]]:
    """Return the layers that run once, in their order, those that share their input with another, and all outputs."""
    ran: list[int] = []
    outputs: dict[int, Tensor] = {}
    given: dict[int, list[int]] = {}
    keep: list[Tensor] = []

    def note(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            ran.append(index)
            if isinstance(output, Tensor):
                outputs[index] = output.detach().clone()
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                keep.append(args[0])  # or its place would be another's
                given.setdefault(id(args[0]), []).append(index)

        return hook

    _run(bench, [each.register_forward_hook(note(i)) for i, each in enumerate(modules)], tree)
    siblings = {i for group in given.values() if len(set(group)) > 1 for i in group}
    return [i for i in dict.fromkeys(ran) if ran.count(i) == 1], siblings, outputs


def _affine_in(
    bench: Bench, modules: Sequence[nn.Module], source: int, tree: Any, still: dict[int, Tensor]
) -> dict[int, float]:
    """Return the layers whose output is an affine function of what the layer `source` puts out, as it runs.

    Args:
        still: what the layers put out if nothing is moved.
    """
    generator = torch.Generator().manual_seed(0)
    moves: list[Tensor] = []
    results = [{i: each for i, each in still.items() if i != source}]
    for signs in ((1, 0), (0, 1), (1, 1)):
        outputs: dict[int, Tensor] = {}
        results.append(outputs)

        def note(
            index: int, signs: tuple[int, int] = signs, outputs: dict[int, Tensor] = outputs
        ) -> Callable[..., Tensor | None]:
            def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
                del args
                if index != source:
                    outputs[index] = output.detach().clone()
                    return None
                if not moves:
                    size = _LOUD * (float(output.detach().square().mean().sqrt()) + 1e-3)
                    moves.extend(torch.randn(output.shape, generator=generator).to(output) * size for _ in range(2))
                return output + signs[0] * moves[0] + signs[1] * moves[1]

            return hook

        _run(bench, [each.register_forward_hook(note(i)) for i, each in enumerate(modules)], tree)
    limit = _AFFINE if bench.double else _AFFINE_SINGLE
    found = {}
    for j in results[0]:
        values = [each[j].double() for each in results if j in each]
        if len(values) == 4 and len({each.shape for each in values}) == 1:
            residual = _residual(values)
            if residual is not None and residual <= limit:
                found[j] = residual
    return found


def _residual(values: Sequence[Tensor]) -> float | None:
    """Return what is left of f(h+x+y) − f(h+x) − f(h+y) + f(h), over the change; None if nothing changes."""
    none, one, other, both = values
    change = float(torch.stack([(one - none).abs().max(), (other - none).abs().max()]).min())
    return float((both - one - other + none).abs().max()) / change if change > 1e-12 * float(none.abs().max()) else None


def _whole(bench: Bench) -> bool:
    """Whether the scores are an affine function of the inputs."""
    generator = torch.Generator().manual_seed(0)
    tree = tree_rows(bench, 2)
    moves: dict[int, tuple[Tensor, Tensor]] = {}
    values = []
    for signs in ((0, 0), (1, 0), (0, 1), (1, 1)):
        place = [0]

        def move(value: Tensor, signs: tuple[int, int] = signs, place: list[int] = place) -> Tensor:
            if not value.is_floating_point():
                return value
            place[0] += 1
            if place[0] > 1:  # the inputs are the first; what follows may be labels
                return value
            if 1 not in moves:
                size = _LOUD * (float(value.square().mean().sqrt()) + 1e-3)
                one, other = (torch.randn(value.shape, generator=generator).to(value) * size for _ in range(2))
                moves[1] = one, other
            return value + signs[0] * moves[1][0] + signs[1] * moves[1][1]

        with torch.no_grad():
            values.append(bench.scores(map_tensors(tree, move)).detach().double())
    residual = _residual(values) if len({each.shape for each in values}) == 1 else None
    return residual is not None and residual <= (_AFFINE if bench.double else _AFFINE_SINGLE)


def _run(bench: Bench, handles: Sequence[Any], tree: Any) -> None:
    try:
        with torch.no_grad():
            bench.scores(tree)
    finally:
        for handle in handles:
            handle.remove()


def _grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1


def _narrow(first: nn.Module, last: nn.Module) -> bool:
    """Whether fewer units lie between two layers than before and after: a factorised layer."""
    middle, before, after = _units(first)[1], _units(first)[0], _units(last)[1]
    return middle < min(before, after) or _grouped(last)


def _units(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, nn.modules.conv._ConvNd)
    return module.in_channels, module.out_channels
