"""Training the full DeepHeart on a GPU: user-weeks a second beside cuDNN's LSTM kernels alone, which nobody can avoid.

`Trainer.fit` as `train.py` makes it, loader, logging and clipping included, on simulated weeks of real lengths, which
are repeated; the first batches are not counted. The kernels alone go forward and backward through the same shapes,
layer by layer. Then batch sizes, bfloat16, and `compile=convolutions`. Contenders take turns, medians by the clock.
Without a GPU it says so, and has no rows.
"""

from __future__ import annotations

import copy
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from torch import Tensor, nn

from benchmarks.table import Row
from heartnet.batch_size import fitting_batch_size
from heartnet.model.compiled import BACKEND, compile_convolutions
from heartnet.model.lstm import LengthFlipLSTM

ROOT = Path(__file__).resolve().parents[1]
PAPER_WEEKS = 33_628
"""That DeepHeart was trained on (Ballinger et al., AAAI 2018)."""

SIZES = (8, 32, 128, 512)
WARM, TIMED = 4, 16
"""Batches of a run that are not counted, and those that are."""

Shapes = Sequence[tuple[int, int]]
"""Steps and weeks of each batch."""


def rows(
    *,
    quick: bool = False,
    device: torch.device | None = None,
    overrides: Sequence[str] = (),
    sizes: Sequence[int] = SIZES,
    backend: str = BACKEND,
) -> list[Row]:
    if device is None and not torch.cuda.is_available():
        print("no GPU here, so nothing of this was measured")
        return []
    device = torch.device("cuda") if device is None else device
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, Path(folder), overrides, warm=1 if quick else WARM, timed=2 if quick else TIMED)
        weeks, memory = bench.largest()
        found = table(bench, weeks, repeats=1 if quick else 3, backend=backend)
        speeds = in_turns(
            {str(size): lambda size=size: bench.run(size).speed for size in sizes if size <= weeks},
            1 if quick else 2,
        )
        found += [Row(f"GPU: training, batches of {size}", speed, "weeks/s") for size, speed in speeds.items()]
        return [*found, *memory]


def table(bench: Bench, weeks: int, repeats: int, backend: str) -> list[Row]:
    """Return the lines of batches of one size: beside the kernels, by precision, and with `compile`."""
    shapes = bench.run(weeks).shapes
    runs: dict[str, Callable[[], float]] = {}
    for precision in ("bf16-mixed", "32-true"):
        runs |= {
            precision: lambda p=precision: bench.run(weeks, p).speed,  # type: ignore[misc]
            f"{precision} kernels": lambda p=precision: bench.kernels(shapes, p),  # type: ignore[misc]
            f"{precision} stock": lambda p=precision: bench.stock(shapes, p),  # type: ignore[misc]
        }
    runs["compiled"] = lambda: bench.run(weeks, backend=backend).speed
    speed = in_turns(runs, repeats)
    found = []
    for name, precision in {"bfloat16": "bf16-mixed", "float32": "32-true"}.items():
        ours, unit = speed[precision], "weeks/s"
        beside = "LSTM kernels alone"
        found += [
            Row(f"GPU: training, {name}, batches of {weeks}", ours, unit, beside, speed[f"{precision} kernels"], 0.8),
            Row(f"GPU: the same, {name}", ours, unit, "nn.LSTM of both directions alone", speed[f"{precision} stock"]),
            Row(f"GPU: an epoch of {PAPER_WEEKS:,} weeks, {name}", PAPER_WEEKS / ours / 60, "min"),
        ]
    ours = speed["bf16-mixed"]
    return [
        *found,
        Row("GPU: training in bfloat16", ours, "weeks/s", "float32", speed["32-true"]),
        Row("GPU: compile=convolutions", speed["compiled"], "weeks/s", "compile=null", ours),
    ]


def in_turns(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Return the median of what each contender says of itself."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            found[name].append(run())
    return {name: statistics.median(each) for name, each in found.items()}


@dataclass(frozen=True)
class Run:
    """What a training did, without its first batches: weeks a second, and the shape of each batch."""

    speed: float
    shapes: Shapes


class Bench:
    """Trains the same network anew, in several ways.

    Args:
        device: to train on.
        folder: for what runs write.
        overrides: of the configuration.
        warm: batches at the start of each run that are not counted.
        timed: batches that are.
    """

    def __init__(self, device: torch.device, folder: Path, overrides: Sequence[str], warm: int, timed: int) -> None:
        sys.path.insert(0, str(ROOT))
        from heartnet import built
        from heartnet.terminal import quiet_lightning

        quiet_lightning()
        self.built, self.device, self.folder, self.warm, self.timed = built, device, folder, warm, timed
        asked = [
            "data.users=240", "checkpoint.monitor=null", "trainer.max_epochs=1", "+trainer.limit_val_batches=0",
            "trainer.enable_progress_bar=false", f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}",
            "threads=1", *overrides,
        ]  # fmt: skip
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            self.config = compose("config", asked)
        self.data, self.first, _ = built.build(self.config, folder)
        self.rows = self.data.rows["train"]

    def largest(self) -> tuple[int, list[Row]]:
        """Return the batch that `data.batch_size=auto` takes for as many weeks as the paper had, and what it filled."""
        self._repeat(PAPER_WEEKS)
        found = fitting_batch_size(self.data, self.first, self._trainer("bf16-mixed"))
        print(found.why)
        if self.device.type != "cuda":
            return found.weeks, []
        torch.cuda.reset_peak_memory_stats(self.device)
        self.run(found.weeks)
        peak, card = torch.cuda.max_memory_reserved(self.device), torch.cuda.mem_get_info(self.device)[1]
        row = Row(f"GPU: memory of batches of {found.weeks}", peak / 1e9, "GB", "of the card", card / 1e9, 0.9, "most")
        return found.weeks, [row]

    def run(self, weeks: int, precision: str = "bf16-mixed", backend: str | None = None) -> Run:
        """Train with so many weeks a batch, compiled if a backend is named."""
        self._repeat(weeks * (self.warm + self.timed))
        self.data.batch_size = weeks
        torch.manual_seed(0)
        module = self.built.build_module(self.config, self.data)
        if backend is not None:
            compile_convolutions(module.network, self.device, backend)
        clock, trainer = Clock(self.device, self.warm), self._trainer(precision)
        trainer.callbacks.insert(0, clock)
        trainer.fit(module, datamodule=self.data)
        return Run(sum(count for _, count in clock.shapes) / clock.seconds, clock.shapes)

    def kernels(self, shapes: Shapes, precision: str) -> float:
        """Return the weeks a second of the LSTM layers alone, each for itself, as DeepHeart has them."""
        lstm: Any = copy.deepcopy(self.first.network.lstm).to(self.device)
        assert isinstance(lstm, LengthFlipLSTM)
        return self._alone(
            [each for pair in zip(lstm.ahead, lstm.back, strict=True) for each in pair], shapes, precision
        )

    def stock(self, shapes: Shapes, precision: str) -> float:
        """Return the weeks a second of one `nn.LSTM` of both directions and all layers, which reads padding too."""
        lstm: Any = self.first.network.lstm
        size, layers = lstm.ahead[0].input_size, len(lstm.ahead)
        whole = nn.LSTM(size, lstm.hidden_size, layers, bidirectional=True).to(self.device)
        return self._alone([whole], shapes, precision)

    def _alone(self, layers: Sequence[nn.LSTM], shapes: Shapes, precision: str) -> float:
        dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        stride: Any = self.first.network.stride
        shapes = [(-(-steps // stride), weeks) for steps, weeks in shapes]  # as they come out of the convolutions
        widest = max(max(each.input_size, 2 * each.hidden_size) for each in layers)
        numbers = torch.randn(max(math.prod(shape) for shape in shapes) * widest, device=self.device).to(dtype)

        def step(shape: tuple[int, int]) -> None:
            for layer in layers:
                inputs = _cut(numbers, *shape, layer.input_size).detach().requires_grad_()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                    out, _ = layer(inputs)
                out.backward(_cut(numbers, *out.shape).to(out.dtype))
                layer.zero_grad()

        for shape in shapes[: self.warm]:
            step(shape)
        start = now(self.device)
        for shape in shapes:
            step(shape)
        return sum(count for _, count in shapes) / (now(self.device) - start)

    def _repeat(self, weeks: int) -> None:
        self.data.rows = {**self.data.rows, "train": np.resize(self.rows, weeks)}

    def _trainer(self, precision: str) -> lightning.Trainer:
        with open_dict(self.config):
            self.config.trainer.precision = precision
        trainer: lightning.Trainer = self.built.build_trainer(self.config, self.folder)
        return trainer


class Clock(lightning.Callback):
    """Takes the time of a training's batches, all but the first few; notes their shapes."""

    def __init__(self, device: torch.device, warm: int) -> None:
        self.device, self.warm, self.start, self.seconds = device, warm, 0.0, 0.0
        self.shapes: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        del trainer, module
        if batch_idx == self.warm:
            self.start = now(self.device)
        if batch_idx >= self.warm:
            weeks, steps = batch["inputs"].shape[:2]
            self.shapes.append((steps, weeks))

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds = now(self.device) - self.start


def now(device: torch.device) -> float:
    """Return the seconds of a clock, once a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cut(numbers: Tensor, steps: int, weeks: int, units: int) -> Tensor:
    return numbers[: steps * weeks * units].view(steps, weeks, units)
