"""What the amnesia profile costs beside one forward and backward pass over the same weeks.

    python benchmarks/bench_amnesia.py

Alternates in one process, on the full DeepHeart with random inputs:

- `pass`: one forward, one backward of one logit a week to the inputs, in float64, on a copy made beforehand;
- `float64`, `float32`: `amnesia_profile`, all anchors and outputs, the copying and the averaging included;
- `one logit`: the same in float64 of one anchor of a network with one output, the work that `pass` does.

Prints the median of each in seconds, the ratio to `pass`, the rows a second, and the figure's own time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from heartnet.conditions import CONDITIONS
from heartnet.diagnostics.amnesia import ANCHORS, amnesia_profile
from heartnet.diagnostics.isolate import isolated
from heartnet.diagnostics.probe import Probe
from heartnet.figures import amnesia_figure
from heartnet.model.deepheart import DeepHeart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=int, default=1)
    parser.add_argument("--readings", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    probe = make_probe(options.weeks, options.readings)
    single = make_probe(options.weeks, options.readings, outputs=("diabetes",))
    rows = options.weeks * len(ANCHORS) * len(probe.outputs)
    contenders: dict[str, Callable[[], object]] = {
        "pass": lambda: one_pass(probe),
        "float64": lambda: amnesia_profile(probe, dtype=torch.float64),
        "float32": lambda: amnesia_profile(probe, dtype=torch.float32),
        "one logit": lambda: amnesia_profile(single, ["midpoint"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(
        f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s); {options.weeks} week(s) of "
        f"{options.readings} readings, {rows} rows, median of {options.repeats}"
    )
    base = statistics.median(seconds["pass"])
    for name, times in seconds.items():
        median = statistics.median(times)
        done = options.weeks if name in ("pass", "one logit") else rows
        print(f"{name:9} {median:8.2f} s   {median / base:5.2f} × pass   {done / median:6.2f} rows/s")
    profile = amnesia_profile(probe, ["midpoint"], dtype=torch.float32)
    start = time.perf_counter()
    amnesia_figure(profile, profile).canvas.draw()
    print(f"figure    {time.perf_counter() - start:8.2f} s")


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


if __name__ == "__main__":
    main()
