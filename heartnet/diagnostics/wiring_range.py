"""Can every score go up and down freely, or does an activation before the loss cut its range?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heartnet.diagnostics.wiring import Bench, tree_rows

DRAWS = 24
"""A free score keeps one sign in all of them with a chance of 1 in 8 million. Most show in a few that they are free."""
_LOGITS = ("binary_cross_entropy_with_logits", "cross_entropy")


@dataclass(frozen=True)
class Range:
    """The range of one output over random weights of the layers.

    `cut_by` is `"ReLU"`, `"sigmoid"`, `"softmax"`, `"tanh"`, or `""` if it goes up and down freely.
    """

    output: int
    lowest: float
    highest: float
    cut_by: str


def ranges(bench: Bench, *, binary: bool | None = None) -> list[Range]:
    """Return the range of each output, in evaluation mode, over random weights and biases of convolutions and linear
    layers.

    Nothing is returned where no loss function is called that expects logits; `binary` says so of a module whose loss
    is known.
    """
    if binary is None:
        _, calls = bench.step()
        names = {each.name for each in calls}
        if len(calls) != 1 or not names <= set(_LOGITS):
            return []
        binary = "cross_entropy" not in names
    state = {name: each.detach().clone() for name, each in bench.module.state_dict().items()}
    layers = [each for each in bench.module.modules() if isinstance(each, nn.Linear | nn.modules.conv._ConvNd)]
    generator = torch.Generator().manual_seed(0)
    few = tree_rows(bench, 2)
    found: list[Tensor] = []
    try:
        for _ in range(DRAWS):
            _shake(layers, generator)
            with torch.no_grad():
                found.append(bench.scores(few).detach().double())
            bench.module.load_state_dict(state)
            if _free(torch.cat(found)):
                break
    finally:
        bench.module.load_state_dict(state)
    values = torch.cat(found)
    if not bool(values.isfinite().all()):
        return []
    together = values.shape[1] > 1 and bool(((values.sum(dim=1) - 1).abs() < 1e-4).all())
    return [_range(i, values[:, i], binary=binary, sums_to_1=together) for i in range(values.shape[1])]


def _shake(layers: Sequence[nn.Module], generator: torch.Generator) -> None:
    """Give every unit another sign, and a large bias."""
    with torch.no_grad():
        for each in layers:
            weight, bias = getattr(each, "weight", None), getattr(each, "bias", None)
            if isinstance(weight, nn.Parameter):
                signs = torch.randint(0, 2, (len(weight),), generator=generator) * 2 - 1
                weight.mul_(signs.reshape(-1, *(1 for _ in weight.shape[1:])).to(weight) * 2)
            if isinstance(bias, nn.Parameter):
                bias.copy_((torch.randn(bias.shape, generator=generator) * 4).to(bias))


def _free(values: Float[Tensor, "draw output"]) -> bool:
    """Whether no activation can cut any score, whatever further draws bring."""
    lowest, highest = values.amin(dim=0), values.amax(dim=0)
    return bool(((lowest < 0) & (highest > 0) & ((lowest < -1) | (highest > 1))).all())


def _range(output: int, values: Float[Tensor, " draw"], *, binary: bool, sums_to_1: bool) -> Range:
    lowest, highest = float(values.min()), float(values.max())
    cut = ""
    if highest > lowest:
        if sums_to_1 and lowest >= 0:
            cut = "softmax"
        elif lowest >= 0 and highest <= 1:
            cut = "sigmoid"
        elif lowest == 0:
            cut = "ReLU"
        elif binary and lowest >= -1 and highest <= 1 and highest - lowest > 1:
            cut = "tanh"
    return Range(output, lowest, highest, cut)
