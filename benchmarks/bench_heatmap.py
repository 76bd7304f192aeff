"""What a look of the activation heatmap costs beside training the full model.

On the full DeepHeart and simulated weeks of up to 4,096 readings, on one thread, medians of processor seconds, which
other work on the machine changes little:

- `picture`: one heatmap of 128 × 4,096, drawn and written to TensorBoard, once what stands above it is drawn (`panels`,
  once a week and run) and the units are in order (`order`, once a layer and run); `unit picture` likewise;
- `run`: the copy of the network over 6 weeks; `untrained`, `units`: all units and signals of them, without and with
  chance; `cadence`, `constant`;
- `look`: what a look during training costs, `step`: a training step on 8 weeks, and `of training`: the looks before and
  after, with units and all pictures, over the default run (2 epochs of 168 weeks, so that there are no others).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from benchmarks.table import Row
from heartnet.datamodule import SimulatedData
from heartnet.diagnostics.cadence import cadence_of
from heartnet.diagnostics.heatmap import Rows, collect, constant_rows, order_of
from heartnet.diagnostics.signals import signals_of
from heartnet.diagnostics.units import unit_meanings
from heartnet.figure_heatmap import heatmap_figure, panels
from heartnet.figure_units import unit_figure
from heartnet.known import known_week, telling_rows
from heartnet.loggers import log_picture
from heartnet.model.deepheart import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions

STEPS = 2 * 168 // 8
"""Of the default run: two epochs of 168 weeks, 8 a step."""


def rows(*, quick: bool = False) -> list[Row]:
    repeats = 1 if quick else 5
    torch.manual_seed(0)
    data = SimulatedData(Conditions(), users=60, weeks_per_user=1, val_share=0.5)
    module = make_module(data)
    train = data.batch(data.rows["train"][:8])
    shown = telling_rows(data, 6, 64)
    batch = data.batch(np.array(shown))
    probe = module.probe(batch)
    weeks = [known_week(probe, place, data, row) for place, row in enumerate(shown)]
    inputs = Rows(
        "inputs", "linear",
        tuple(x[: int(n)].T.numpy().copy() for x, n in zip(probe.inputs, probe.lengths, strict=True)), "output", 3,
    )  # fmt: skip
    layers = collect(probe)
    signals = [signals_of(week) for week in weeks]
    layer, above = layers[2], panels(weeks[0])
    order = order_of(layer.weeks[0], weeks[0].heart_rate)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        module.loss(module.score(train), train["targets"]).backward()
        optimiser.step()

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        trainer: Any = SimpleNamespace(loggers=[SimpleNamespace(experiment=writer)], global_step=0)

        def written(tag: str, figure: Figure) -> None:
            log_picture(trainer, tag, figure)
            writer.flush()  # a thread writes it

        tasks: dict[str, Callable[[], object]] = {
            "panels": lambda: panels(weeks[0]),
            "order": lambda: order_of(layer.weeks[0], weeks[0].heart_rate),
            "picture": lambda: written("picture", heatmap_figure(layer, 0, weeks[0], order, above=above)),
            "unit picture": lambda: written(
                "unit", unit_figure(layer.weeks[0][0], weeks[0], title="unit", signal="asleep")
            ),
            "run": lambda: collect(probe),
            "cadence": lambda: cadence_of(layers, inputs, probe.channels, weeks),
            "constant": lambda: [constant_rows(week) for each in layers for week in each.weeks],
            "untrained": lambda: unit_meanings([inputs, *layers], signals, shifts=0),
            "units": lambda: unit_meanings([inputs, *layers], signals),
            "step": step,
        }
        found = {name: median(task, repeats) for name, task in tasks.items()}
        writer.close()
    look = found["run"] + found["cadence"] + found["constant"] + len(layers) * found["picture"]
    once = found["panels"] + len(layers) * found["order"] + found["untrained"] + found["units"]
    total, training = 2 * look + once + 4 * found["unit picture"], STEPS * found["step"]
    return [
        *(Row(f"heatmap: {name}", found[name], "s") for name in ("run", "units", "picture")),
        Row("heatmap: a look, all layers of one week drawn", look, "s", "a training step", found["step"]),
        Row("heatmap: both looks, of a default run's training", total / training, limit=0.05, sense="most", of="ours"),
    ]


def median(task: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return statistics.median(times)


def make_module(data: SimulatedData) -> HeartnetModule:
    count = len(data.targets)
    return HeartnetModule(
        DeepHeart(outputs=count), kind="conditions", targets=data.targets, target_mean=[0.2] * count,
        target_std=[1.0] * count, scaling=data.scaling.as_dict(),
    )  # fmt: skip
