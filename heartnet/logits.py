"""What a network answers with."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Logits(NamedTuple):
    """Logits at every step, and after the readout.

    `steps` may have fewer steps than the input has readings: with `S` steps for `T` readings, step `s` covers readings
    `s * ceil(T / S)` and the following. It is None for networks without step-wise outputs.
    """

    steps: Float[Tensor, "batch step output"] | None
    score: Float[Tensor, "batch output"]
