"""What the amnesia profile costs beside one forward and backward pass over the same weeks, in processor seconds.

Alternates in one process, on the full DeepHeart with random inputs:

- `pass`: one forward, one backward of one logit a week to the inputs, in float64, on a copy made beforehand;
- `float64`, `float32`: `amnesia_profile`, all anchors and outputs, the copying and the averaging included;
- `one logit`: the same in float64 of one anchor of a network with one output, the work that `pass` does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.measure import alternate
from benchmarks.table import Row
from heartnet.conditions import CONDITIONS
from heartnet.diagnostics.amnesia import ANCHORS, amnesia_profile
from heartnet.diagnostics.isolate import isolated
from heartnet.diagnostics.probe import Probe
from heartnet.figures import amnesia_figure
from heartnet.model.deepheart import DeepHeart


def rows(*, quick: bool = False) -> list[Row]:
    readings = 256 if quick else 4096
    torch.manual_seed(0)
    probe = make_probe(1, readings)
    single = make_probe(1, readings, outputs=("diabetes",))
    count = len(ANCHORS) * len(probe.outputs)
    profile = amnesia_profile(probe, ["midpoint"], dtype=torch.float32)
    contenders: dict[str, Callable[[], object]] = {
        "pass": lambda: one_pass(probe),
        "float64": lambda: amnesia_profile(probe, dtype=torch.float64),
        "float32": lambda: amnesia_profile(probe, dtype=torch.float32),
        "one logit": lambda: amnesia_profile(single, ["midpoint"]),
        "figure": lambda: amnesia_figure(profile, profile).canvas.draw(),
    }
    took = {name: each.processor for name, each in alternate(contenders, 1 if quick else 3, warm_up=False).items()}
    beside = "one forward and backward, float64"
    return [
        Row("amnesia: one anchor of one output", took["one logit"], "s", beside, took["pass"], 1.1, "most"),
        Row(f"amnesia: {count} rows, float64", took["float64"], "s", beside, took["pass"]),
        Row(f"amnesia: {count} rows, float32", took["float32"], "s", beside, took["pass"]),
        Row("amnesia: its figure", took["figure"], "s"),
    ]


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


def one_pass(probe: Probe) -> None:
    with isolated(probe.network) as network:
        inputs = probe.inputs.double().requires_grad_()
        logits = network(inputs, *probe.rest)
        torch.autograd.grad(logits.score[:, 0].sum(), inputs)
