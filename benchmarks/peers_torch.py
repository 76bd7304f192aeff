"""DeepHeart in PyTorch: ours, and with `nn.LSTM` as one would write it, packed or padded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from heartnet.model import pieces
from heartnet.model.deepheart import DeepHeart

KERNELS = (12, 5, 5)
LAYERS, UNITS, CONVOLUTION, DROPOUT = 4, 64, 128, 0.2

Weights = Mapping[str, npt.NDArray[np.float32]]
"""The weights of `DeepHeart`, by their names in its `state_dict`."""

Batch = Mapping[str, npt.NDArray[np.float32]]
"""`inputs` [batch, time, channel], 0 where padded; `lengths` [batch]; `targets` [batch, target], NaN where missing."""


class StockDeepHeart(nn.Module):
    """The same network with `nn.LSTM(bidirectional=True)`.

    Args:
        packed: each sequence read to its own end. Otherwise the backward direction reads the padding first.
    """

    def __init__(self, channels: int, outputs: int, *, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.convolutions = nn.ModuleList(
            nn.Conv1d(CONVOLUTION if i else channels, CONVOLUTION, size) for i, size in enumerate(KERNELS)
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.lstm = nn.LSTM(CONVOLUTION, UNITS, LAYERS, bidirectional=True, dropout=DROPOUT)
        self.head = nn.Conv1d(2 * UNITS, outputs, 1)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(inputs.shape[1]) < lengths[:, None])[:, None].float()
        hidden = inputs.transpose(1, 2)
        for i, (convolution, size) in enumerate(zip(self.convolutions, KERNELS, strict=True)):
            out = self.dropout(F.leaky_relu(convolution(F.pad(hidden, ((size - 1) // 2, size // 2)))))
            hidden = (hidden + out if i else out) * mask
        steps = hidden.permute(2, 0, 1)
        if self.packed:
            result, _ = self.lstm(pack_padded_sequence(steps, lengths, enforce_sorted=False))
            features, _ = pad_packed_sequence(result, total_length=inputs.shape[1])
        else:
            features, _ = self.lstm(steps)
        return (self.head(self.dropout(features).permute(1, 2, 0)) * mask).sum(dim=2) / lengths[:, None]

    def load(self, weights: Weights) -> None:
        """Take over the weights of `DeepHeart`."""
        own = {}
        for name in self.state_dict():
            ours = name
            if name.startswith("lstm."):
                kind, layer = name.removesuffix("_reverse").removeprefix("lstm.").rsplit("_l", 1)
                ours = f"lstm.{'back' if name.endswith('_reverse') else 'ahead'}.{layer}.{kind}_l0"
            own[name] = torch.from_numpy(np.array(weights[ours]))
        self.load_state_dict(own)


class TorchTraining:
    """Trains one of the networks, with dropout; `check` is without, so that all contenders have to do the very same.

    Args:
        kind: `ours`, `packed`, `padded`, or `stock`, which is `padded` too. Ours works in pieces, a thread each
            (`heartnet.model.pieces`), the others with that many threads an operation.
        precision: `float32`; `bfloat16`, under autocast; `float64`, to compare with.
    """

    def __init__(
        self, kind: str, weights: Weights, channels: int, outputs: int, *, threads: int, precision: str = "float32"
    ) -> None:
        pieces.use_threads(threads)
        torch.set_num_threads(1 if kind == "ours" else threads)
        if kind == "ours":
            self.network: nn.Module = DeepHeart(channels, outputs, dropout=DROPOUT)
            self.network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
        else:
            stock = StockDeepHeart(channels, outputs, packed=kind == "packed")
            stock.load(weights)
            self.network = stock
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.network.to(self.dtype)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)

    def score(self, batch: Batch) -> Tensor:
        inputs, lengths = torch.from_numpy(batch["inputs"]).to(self.dtype), torch.from_numpy(batch["lengths"])
        with self.autocast:
            ours = isinstance(self.network, DeepHeart)
            score: Tensor = pieces.score(self.network, inputs, lengths, None) if ours else self.network(inputs, lengths)
        return score.to(self.dtype)

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def check(self, batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the scores, and the gradient of the loss to the first convolution's weight [unit, channel, step]."""
        self.network.eval()
        self.optimizer.zero_grad()
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        first = self.network.get_parameter("convolutions.0.weight").grad
        assert first is not None
        scores = self.score(batch).detach().numpy()
        self.network.train()
        return scores, first.numpy()

    def loss(self, batch: Batch) -> Tensor:
        targets = torch.from_numpy(batch["targets"]).to(self.dtype)
        known = ~targets.isnan()
        each = F.binary_cross_entropy_with_logits(self.score(batch), targets.nan_to_num(), reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)
