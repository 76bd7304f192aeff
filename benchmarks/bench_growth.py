"""How time and memory grow with the length of weeks, the batch, the people and the weeks; drawn to `docs/growth.png`.

    python -m benchmarks --only growth

Each point is measured in a forked process of its own: processor seconds on one thread, and the peak of its memory above
what it was at the fork. The growth is the slope of a straight line through the logarithms: 1 is linear, below 1
something fixed weighs in, above 1 it would be worse than linear.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.bench_loader import write
from benchmarks.measure import status
from benchmarks.table import Row
from heartnet.datamodule import SimulatedData, StoredData
from heartnet.model import pieces
from heartnet.model.deepheart import DeepHeart
from heartnet.tasks import Conditions

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "growth.png"
LINEAR = 1.1
"""Slope up to which growth counts as linear, which leaves room for caches that overflow."""

Point = tuple[int, float, float]
"""Size, seconds, MB."""


def rows(*, quick: bool = False) -> list[Row]:
    torch.set_num_threads(1)
    sizes = 3 if quick else 6
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, tuple[list[int], Callable[[int], Callable[[], None]]]] = {
            "readings a week": ([512 // (4 if quick else 1) * 2**i for i in range(sizes)], lambda n: step(2, n)),
            "weeks a batch": ([2**i for i in range(sizes + 1)], lambda n: step(n, 128 if quick else 1024)),
            "people, simulated": ([100 * 2**i for i in range(sizes - 1)], people),
            "weeks, an epoch of a store": ([500 * 2**i for i in range(sizes)], lambda n: epoch(Path(folder), n)),
        }
        for count in cases["weeks, an epoch of a store"][0]:
            in_child(write, Path(folder) / str(count), count, 400)
        found = {name: [point(size, run) for size in each] for name, (each, run) in cases.items()}
    if not quick:
        draw(found).savefig(PICTURE, dpi=110)
    lines = []
    for name, points in found.items():
        span = f"{name}, {points[0][0]:,} to {points[-1][0]:,}"
        lines += [
            Row(f"growth of time with {span}", slope(points, 1), limit=LINEAR, sense="most", of="ours"),
            Row(f"growth of memory with {span}", slope(points, 2), limit=LINEAR, sense="most", of="ours"),
        ]
    return lines


def step(batch: int, readings: int) -> Callable[[], None]:
    """Make a training step of the full DeepHeart."""
    network = DeepHeart()
    optimizer = torch.optim.AdamW(network.parameters())

    pieces.score(network, torch.randn(1, 64, 3), torch.tensor([64]), None).sum().backward()  # first calls cost more

    def run() -> None:
        lengths = torch.full((batch,), readings)
        pieces.score(network, torch.randn(batch, readings, 3), lengths, None).sum().backward()
        optimizer.step()

    return run


def people(count: int) -> Callable[[], None]:
    """Simulate people of a week each, and make them ready to be trained on."""

    def run() -> None:
        SimulatedData(Conditions(), users=count, weeks_per_user=1)

    return run


def epoch(folder: Path, weeks: int) -> Callable[[], None]:
    """Open a store of weeks, and make all batches of an epoch."""

    def run() -> None:
        for _ in StoredData(Conditions(), path=folder / str(weeks)).train_dataloader():
            pass

    return run


def point(size: int, make: Callable[[int], Callable[[], None]]) -> Point:
    """Return size, processor seconds (the lesser of two runs) and peak memory of one point."""
    found = [in_child(measured, size, make) for _ in range(2)]
    return size, min(each[0] for each in found), found[0][1]


def measured(size: int, make: Callable[[int], Callable[[], None]]) -> tuple[float, float]:
    run = make(size)
    before, start = status("VmRSS"), time.process_time()
    run()
    return time.process_time() - start, max(status("VmHWM") - before, 1) / 1e6


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a forked process; this one never starts the threads of polars, which would not
    live on in it."""

    def child() -> None:
        there.send(function(*arguments))

    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def slope(points: list[Point], of: int) -> float:
    """Return the exponent by which something grows with the size."""
    return float(np.polyfit(np.log([each[0] for each in points]), np.log([each[of] for each in points]), 1)[0])


def draw(found: dict[str, list[Point]]) -> Figure:
    """Draw time above memory, a column for each size, both axes logarithmic, beside a dotted line that is linear."""
    figure = Figure(figsize=(3 * len(found), 5), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (name, points) in enumerate(found.items()):
        sizes = np.array([each[0] for each in points], float)
        for row, unit in enumerate(("processor seconds", "MB above the start")):
            values = [each[row + 1] for each in points]
            panel = panels[row][column]
            panel.loglog(sizes, values, "o-", base=2)
            panel.loglog(sizes, values[-1] * sizes / sizes[-1], ":", color="grey", base=2)
            panel.set_title(f"slope {slope(points, row + 1):.2f}", fontsize=9)
            panel.set_xlabel(name if row else "")
            panel.set_ylabel("" if column else unit)
            panel.set_xticks(sizes, [f"{int(size):,}" for size in sizes], fontsize=7, rotation=45)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:.3g}")
            panel.tick_params(axis="y", labelsize=7)
    return figure
