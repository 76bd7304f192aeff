"""Dropout that can draw from a random stream of the thread it runs in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
_stream = threading.local()


class Dropout(nn.Dropout):
    """`nn.Dropout`; within `stream`, of the same distribution but drawn from that stream, and four times as fast.

    The probability of keeping a value is then a multiple of 1 / 65,536, and what is kept is scaled by that.
    """

    def forward(self, input: Tensor) -> Tensor:
        generator: torch.Generator | None = getattr(_stream, "generator", None)
        if generator is None or not self.training or self.p == 0:
            return super().forward(input)
        kept = round((1 - self.p) * _LEVELS)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        levels = words.view(torch.int16)[: input.numel()].view(input.shape)
        return input * ((levels < kept - _LEVELS // 2) * (_LEVELS / max(kept, 1))).to(input.dtype)


@contextmanager
def stream(seed: int) -> Iterator[None]:
    """Let `Dropout` in this thread draw from a stream of its own, and leave PyTorch's as it is."""
    _stream.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _stream.generator = None


def draws_from_stream() -> bool:
    """Whether `Dropout` in this thread draws from a stream of its own."""
    return getattr(_stream, "generator", None) is not None
