"""What does a network answer to nothing: does an input of zeros give the base rates?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heartnet.diagnostics.wiring import Bench, map_tensors, tree_rows


@dataclass(frozen=True)
class Zero:
    """Scores of an input of zeros, `score`, beside where they should be, `base`; logits, one an output."""

    score: Float[Tensor, " output"]
    base: Float[Tensor, " output"]

    @property
    def distance(self) -> Float[Tensor, " output"]:
        return (self.score - self.base).abs()


def zero_input(bench: Bench, base: Sequence[float]) -> Zero:
    """Return the scores of zeros in evaluation mode; lengths and other whole numbers stay.

    Args:
        base: the scores of the base rates.
    """
    tree = map_tensors(tree_rows(bench, 1), lambda each: torch.zeros_like(each) if each.is_floating_point() else each)
    with torch.no_grad():
        score = bench.scores(tree).detach()[0]
    return Zero(score.double().cpu(), torch.tensor(list(base), dtype=torch.float64))
