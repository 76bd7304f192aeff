"""Layers that see the readings of one timescale alone: what they put out, back at the readings of the whole week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor, nn

from heartnet.model.two_timescale import TwoTimescale


@dataclass(frozen=True)
class Timescale:
    """The readings that some layers see.

    Attributes:
        prefix: of the names of these layers.
        lengths: how many readings each week has, at least 1.
        time: of the longest.
        pool: steps averaged into one after each convolution.
        rank: for each reading of each week, which of these it is, or else the last one before; −1 before the first.
    """

    prefix: str
    lengths: list[int]
    time: int
    pool: int
    rank: Int64[np.ndarray, "week reading"]

    def pooled(self, positions: int) -> int:
        """Return how many readings are one position of a layer that has so many positions."""
        return self._pooled(self.time, positions)

    def held(
        self, week: int, rows: Float32[np.ndarray, "unit position"], readings: int
    ) -> Float32[np.ndarray, "unit _"]:
        """Return what units put out at each of a week's readings, held until the next one of this timescale.

        This is what the last layer sees of them; 0 before the first.

        Args:
            week: which.
            rows: at the readings of this timescale, perhaps pooled.
            readings: of the week.
        """
        rank, positions = self.rank[week, :readings], rows.shape[1]
        pooled = self._pooled(self.lengths[week], positions)
        found: np.ndarray = np.where(rank >= 0, rows[:, np.minimum(rank // pooled, positions - 1)], np.float32(0))
        return found

    def _pooled(self, readings: int, positions: int) -> int:
        pooled = 1
        while -(-readings // pooled) > positions:
            pooled *= self.pool
        return pooled


@torch.no_grad()
def timescales(
    network: nn.Module, inputs: Float[Tensor, "batch time channel"], lengths: Int[Tensor, " batch"]
) -> list[Timescale]:
    """Return the timescales that a network takes apart; none for one that reads all readings alike."""
    if not isinstance(network, TwoTimescale):
        return []
    return [
        Timescale(
            f"branches.{name}.",
            part.lengths.clamp(min=1).tolist(),
            part.inputs.shape[1],
            network.arguments["pool"],
            part.rank.cpu().numpy(),
        )
        for name, part in network.stretches(inputs, lengths).items()
    ]


def timescale_of(layer: str, found: Sequence[Timescale]) -> Timescale | None:
    """Return which of the timescales a layer sees; None for one that sees the whole week."""
    return next((each for each in found if layer.startswith(each.prefix)), None)
