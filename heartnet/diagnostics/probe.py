"""The one view of a model and a batch that every measurement takes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from heartnet.logits import Logits

__all__ = ["Logits", "Probe"]


@dataclass(frozen=True)
class Probe:
    """A network and what it is called with, as `network(inputs, *rest)`, which returns `Logits`.

    Attributes:
        network: the module; measurements work on a copy and never change it.
        inputs: what the network sees, scaled, padded with 0.
        rest: further arguments, each with the batch first (for example lengths and metadata).
        lengths: valid readings of each sequence; the rest is padding.
        outputs: names of the outputs (the conditions or synthetic targets).
        channels: names of the input channels.
        dt: seconds since the reading before, unscaled, NaN where unknown; None if the inputs have no time.
    """

    network: nn.Module
    inputs: Float[Tensor, "batch time channel"]
    rest: tuple[Tensor, ...]
    lengths: Int[Tensor, " batch"]
    outputs: tuple[str, ...]
    channels: tuple[str, ...]
    dt: Float[Tensor, "batch time"] | None = None
