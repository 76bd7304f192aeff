"""The decoder of a sequence autoencoder: from what a network knows of a whole week back to the week."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

WAVES = 8
"""Sines and cosines of 1, 2 … `WAVES` periods in the longest sequence tell the decoder where a step is."""


class SequenceDecoder(nn.Module):
    """Rebuilds a sequence from one vector: an LSTM, begun at a state made of it, several readings at each of its steps.

    After the sequence autoencoder (A. M. Dai and Q. V. Le, "Semi-supervised Sequence Learning", NeurIPS 2015), which
    DeepHeart was pretrained with (Ballinger et al., AAAI 2018). Unlike theirs, the decoder is not told the readings
    before the one that it has to rebuild, only where it is: what it knows of the sequence is in the vector. A block of
    readings at a step keeps 4,096 readings from being as many steps. What it makes of a beginning does not depend on
    `time`, so that padding changes nothing.

    Args:
        features: numbers in the vector.
        channels: of the sequence.
        longest: readings of the longest sequence.
        steps: of the LSTM, for the longest sequence.
        units: of the LSTM.
    """

    def __init__(self, features: int, channels: int, longest: int, steps: int = 64, units: int = 64) -> None:
        super().__init__()
        self.channels, self.longest, self.block = channels, longest, math.ceil(longest / steps)
        self.first = nn.Linear(features, 2 * units)
        self.lstm = nn.LSTM(features + 2 * WAVES, units, batch_first=True)
        self.last = nn.Linear(units, self.block * channels)

    def forward(self, features: Float[Tensor, "batch feature"], time: int) -> Float[Tensor, "batch time channel"]:
        """Return the first `time` readings for each vector."""
        steps = math.ceil(time / self.block)
        hidden, cell = self.first(features)[None].tanh().chunk(2, dim=2)
        place = torch.arange(steps, device=features.device) * (2 * math.pi * self.block / self.longest)
        angle = place[:, None] * torch.arange(1, WAVES + 1, device=features.device)
        waves = torch.cat([angle.sin(), angle.cos()], dim=1).to(features.dtype).expand(len(features), -1, -1)
        given = torch.cat([features[:, None].expand(-1, steps, -1), waves], dim=2)
        blocks: Tensor = self.last(self.lstm(given, (hidden.contiguous(), cell.contiguous()))[0])
        return blocks.reshape(len(features), steps * self.block, self.channels)[:, :time]
