"""Where in a week the score came from: the logit at each step, the input gradient, and gradient × input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from heartnet.diagnostics.isolate import device_of, isolated
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.errors import HeartnetError


@dataclass(frozen=True)
class Attribution:
    """What one output of a network made of one week; all of its valid steps, no padding.

    Attributes:
        output: its name.
        channels: of the inputs.
        score: its logit.
        inputs: what the network saw.
        gradient: d score / d inputs.
        steps: the logit at each step of the network; None if it has none. One may stand for several inputs.
        stride: for how many.
        beside: gradient × value, summed over all else that the network was given as numbers, such as age, sex and BMI.
    """

    output: str
    channels: tuple[str, ...]
    score: float
    inputs: Float64[np.ndarray, "time channel"]
    gradient: Float64[np.ndarray, "time channel"]
    steps: Float64[np.ndarray, " step"] | None
    stride: int
    beside: float

    @property
    def contribution(self) -> Float64[np.ndarray, "time channel"]:
        """Gradient × input: by how much, in a straight line, the input moves the logit away from where 0 would be.

        Of scaled inputs 0 is the mean of the channel, or a missing value. For a linear network it is exact: with
        `beside` and the bias it sums up to the score.
        """
        found: np.ndarray = self.gradient * self.inputs
        return found


def attribution(probe: Probe, row: int, output: int, *, dtype: torch.dtype = torch.float64) -> Attribution:
    """Return where one score of one week came from.

    The network is copied and measured in evaluation mode, on this week alone; nothing of it changes
    (`heartnet.diagnostics.isolate`).

    Args:
        probe: the network and some weeks.
        row: which week.
        output: which output.
        dtype: in float32, a third of the time, gradients below 1e-38 of very forgetful networks are 0.

    Raises:
        HeartnetError: a network that does not answer as `Probe` says.

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, "Deep inside convolutional networks", 2014 (the gradient);
    A. Shrikumar et al., "Not just a black box", 2016 (gradient × input).
    """
    device = device_of(probe.network)

    def one(tensor: Tensor) -> Tensor:
        # A clone, because what was made in inference mode can take no part in a backward pass.
        clone = tensor[row : row + 1].detach().to(device).clone()
        return clone.to(dtype).requires_grad_() if clone.is_floating_point() else clone

    with isolated(probe.network, dtype) as network:
        inputs, rest = one(probe.inputs), [one(each) for each in probe.rest]
        logits = network(inputs, *rest)
        _check(logits, len(probe.outputs))
        score = logits.score[0, output]
        asked = [each for each in (inputs, *rest) if each.requires_grad]
        gradients = _gradients(score, asked)
    length, steps, stride = int(probe.lengths[row]), None, 1
    if logits.steps is not None:
        stride = -(-inputs.shape[1] // logits.steps.shape[1])
        steps = _plain(logits.steps[0, : -(-length // stride), output])
    return Attribution(
        output=probe.outputs[output],
        channels=probe.channels,
        score=float(score.detach()),
        inputs=_plain(inputs[0, :length]),
        gradient=_plain(gradients[0][0, :length]),
        steps=steps,
        stride=stride,
        beside=float(sum((_plain(g) * _plain(x)).sum() for g, x in zip(gradients[1:], asked[1:], strict=True))),
    )


def _check(logits: object, outputs: int) -> None:
    if not isinstance(logits, Logits) or logits.score.shape != (1, outputs):
        found = list(logits.score.shape) if isinstance(logits, Logits) else type(logits).__name__
        raise HeartnetError(f"of one week, the network answered {found}; expected Logits whose score is [1, {outputs}]")


def _gradients(score: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return d score / d input of each; 0 where nothing leads from one to the other."""
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if score.requires_grad:
        found = torch.autograd.grad(score, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def _plain(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().to("cpu", torch.float64).numpy()
    return found
