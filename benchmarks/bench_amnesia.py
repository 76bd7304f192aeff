"""What gradients of the inputs cost beside one forward and backward pass over the same weeks, in processor seconds.

Alternates in one process, on the full DeepHeart with random inputs:

- `pass`: one forward, one backward of one logit a week to the inputs, by PyTorch in float64, on a copy made beforehand;
- `float64`, `float32`: `amnesia_profile`, all anchors and outputs, the copying and the averaging included;
- `one logit`: the same in float64 of one anchor of a network with one output, the work that `pass` does;
- `jacobian`: `input_gradients.jacobian`, 64 anchors by all inputs, beside a loop of `pass` over anchors, of which
  `LOOPED` are timed;
- `captum`: Captum's `Saliency` of one logit in float64, whose answer is compared first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import alternate
from benchmarks.table import Row
from heartnet.conditions import CONDITIONS
from heartnet.diagnostics.amnesia import ANCHORS, amnesia_profile
from heartnet.diagnostics.input_gradients import SCORE, input_gradients, jacobian
from heartnet.diagnostics.isolate import isolated
from heartnet.diagnostics.probe import Probe
from heartnet.figures import amnesia_figure
from heartnet.model.deepheart import DeepHeart

JACOBIAN_ROWS, LOOPED = 64, 2


def rows(*, quick: bool = False) -> list[Row]:
    readings = 256 if quick else 4096
    torch.manual_seed(0)
    probe = make_probe(1, readings)
    single = make_probe(1, readings, outputs=("diabetes",))
    count = len(ANCHORS) * len(probe.outputs)
    profile = amnesia_profile(probe, ["midpoint"], dtype=torch.float32)
    compare(probe)
    contenders: dict[str, Callable[[], object]] = {
        "pass": lambda: one_pass(probe),
        "float64": lambda: amnesia_profile(probe, dtype=torch.float64),
        "float32": lambda: amnesia_profile(probe, dtype=torch.float32),
        "one logit": lambda: amnesia_profile(single, ["midpoint"]),
        "jacobian": lambda: jacobian(probe, JACOBIAN_ROWS),
        "loop": lambda: [one_pass(probe, reading) for reading in range(0, readings, readings // LOOPED)],
        "captum": lambda: saliency(probe),
        "figure": lambda: amnesia_figure(profile, profile).canvas.draw(),
    }
    took = {name: each.processor for name, each in alternate(contenders, 1 if quick else 3, warm_up=False).items()}
    beside = "one forward and backward, float64"
    loop = took["loop"] / LOOPED * JACOBIAN_ROWS
    return [
        Row("amnesia: one anchor of one output", took["one logit"], "s", beside, took["pass"], 1.1, "most"),
        Row(f"amnesia: {count} rows, float64", took["float64"], "s", beside, took["pass"], 1.1, "most"),
        Row(f"amnesia: {count} rows, float32", took["float32"], "s", beside, took["pass"]),
        Row(f"Jacobian: {JACOBIAN_ROWS} anchors × {readings:,} inputs", took["jacobian"], "s", "anchors looped", loop,
            0.1, "most", note=f"{LOOPED} anchors of the loop were timed; it takes the same for each"),
        Row("amnesia: one anchor of one output", took["one logit"], "s", "Captum's Saliency", took["captum"]),
        Row("amnesia: its figure", took["figure"], "s"),
    ]  # fmt: skip


def make_probe(weeks: int, readings: int, outputs: tuple[str, ...] = CONDITIONS) -> Probe:
    lengths = torch.full((weeks,), readings)
    return Probe(
        network=DeepHeart(outputs=len(outputs), forget_bias="chrono"),
        inputs=torch.randn(weeks, readings, 3),
        rest=(lengths,),
        lengths=lengths,
        outputs=outputs,
        channels=("heart_rate", "steps", "dt"),
        dt=torch.full((weeks, readings), 300.0),
    )


def one_pass(probe: Probe, reading: int = SCORE) -> Tensor:
    with isolated(probe.network) as network:
        inputs = probe.inputs.double().requires_grad_()
        logits = network(inputs, *probe.rest)
        logit = logits.score[:, 0] if reading == SCORE else logits.steps[:, reading, 0]
        return torch.autograd.grad(logit.sum(), inputs)[0]


def saliency(probe: Probe) -> Tensor:
    from captum.attr import Saliency

    with isolated(probe.network) as network:
        inputs = probe.inputs.double().requires_grad_()
        found: Tensor = Saliency(lambda x: network(x, *probe.rest).score).attribute(inputs, target=0, abs=False)
        return found


def compare(probe: Probe) -> None:
    """See that all find the same."""
    (ours,) = input_gradients(probe, np.array([[SCORE]]), np.array([0]))
    for other in (one_pass(probe), saliency(probe)):
        np.testing.assert_allclose(ours[0].T, other[0].numpy(), rtol=1e-8, atol=1e-15)
