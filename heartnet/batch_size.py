"""`data.batch_size=auto`: as many weeks a batch as a GPU's memory takes, known from two small batches.

Lightning's BatchSizeFinder doubles the batch until the memory runs out, with real steps on the batches that come, and
puts the weights back from a file. Here batches are sorted by length, so the one that fits may be of short weeks, and
random streams would move: a run would not be the same again.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
import yaml

from heartnet.datamodule import BATCH_SIZE, WeeksDataModule
from heartnet.diagnostics.isolate import bare_copy, rng_untouched
from heartnet.errors import HeartnetError
from heartnet.module import HeartnetModule

SHARE = 0.8
"""Of the free memory, taken at most: the rest is for callbacks, and for gaps between what is taken."""

STEPS = 20
"""An epoch keeps at least so many steps of the optimiser, however much memory there is."""

_FEW = (4, 8)
"""Weeks of the two batches that are measured."""

_MULTIPLE = 8
"""A batch is a multiple of this where it can be, since matrix units are."""

_STATES = 2
"""Numbers that AdamW keeps for each weight."""


@dataclass(frozen=True)
class Memory:
    """How the memory of a device is asked about.

    Attributes:
        free: bytes that could be taken now.
        peak: calls a function and returns the most bytes taken meanwhile beyond what was taken before; infinity if
            they did not suffice.
    """

    free: Callable[[], float]
    peak: Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class BatchSize:
    """How many weeks a batch has, and why, in a sentence."""

    weeks: int
    why: str


def fitting_batch_size(
    data: WeeksDataModule, module: HeartnetModule, trainer: lightning.Trainer, memory: Memory | None = None
) -> BatchSize:
    """Return the largest batch of the longest weeks that a training step has room for, and say why.

    Nothing of the training is touched: steps are done on a copy of the module, and random streams are put back. On a
    device whose memory nobody can ask about, as on a CPU, it is `heartnet.datamodule.BATCH_SIZE`.

    Args:
        data: of which the longest weeks to train on are taken.
        module: not yet on its device.
        trainer: says device, precision and accumulation.
        memory: None is that of CUDA, if the trainer uses it.

    Raises:
        HeartnetError: not even one week fits.
    """
    device = trainer.strategy.root_device
    if memory is None and device.type == "cuda":
        memory = cuda_memory(device)
    if memory is None:
        reason = "larger ones are no faster there" if device.type == "cpu" else "its memory cannot be asked about"
        return BatchSize(BATCH_SIZE, f"data.batch_size=auto: {BATCH_SIZE} weeks a batch on {device.type}; {reason}.")
    weights = sum(each.numel() * each.element_size() for each in module.parameters())
    meter = memory

    def needed(weeks: int) -> float:
        return meter.peak(lambda: train_once(data, module, trainer, weeks))

    needed(1)  # CUDA's libraries take memory of their own once they are used
    room = SHARE * memory.free() - _STATES * weights
    steps = STEPS * trainer.accumulate_grad_batches
    most = max(_rounded(len(data.rows["train"]) // steps), min(_MULTIPLE, len(data.rows["train"])))
    weeks, took = largest(needed, room, most)
    if weeks == 0:
        raise HeartnetError(
            f"data.batch_size=auto: not even one of the longest weeks fits into {room / 1e9:.2f} GB, {SHARE:.0%} of "
            "the memory that is free; take trainer.precision=bf16-mixed, model=compact or module.augmentation.crop=1024"
        )
    why = f"a step of the longest weeks takes {took / 1e9:.2g} GB, and {room / 1e9:.2g} GB are to be had"
    if weeks == most:
        why += f"; more would leave fewer than {STEPS} steps an epoch"
    rate = f"module.learning_rate stays {module.learning_rate:g}, of which larger batches often want more"
    return BatchSize(weeks, f"data.batch_size=auto: {weeks:,} weeks a batch; {why}. {rate}.")


def largest(needed: Callable[[int], float], room: float, most: int) -> tuple[int, float]:
    """Return the most weeks a batch, up to `most`, that need no more than `room` bytes, and what they need.

    Two small batches say what a step costs whatever it holds, and what each week adds; then the batch that this gives
    is tried too. Multiples of eight, from eight on; 0 if nothing fits.

    Args:
        needed: bytes that a step with so many weeks needs.
    """
    few, more = (min(each, most) for each in _FEW)
    low, high = needed(few), needed(more)
    each = (high - low) / max(more - few, 1)
    weeks = most
    if not math.isfinite(high):
        weeks = more - 1
    elif each > 0:
        weeks = min(most, _rounded(int((room - low + few * each) / each)))
    while weeks > 0:
        took = needed(weeks)
        if took <= room:
            return weeks, took
        weeks = _rounded(weeks * 9 // 10)
    return 0, math.inf


def train_once(data: WeeksDataModule, module: HeartnetModule, trainer: lightning.Trainer, weeks: int) -> None:
    """Go forward and backward through the longest weeks to train on, as a training step does, on a copy of a module."""
    rows, precision = data.rows["train"], trainer.precision_plugin
    order = rows[np.argsort(-data.lengths()[rows], kind="stable")]
    twin: Any = precision.convert_module(bare_copy(module)).to(trainer.strategy.root_device).train()
    with rng_untouched():  # after the copy has reached its device, whose streams exist only then
        batch = precision.convert_input(data.batch(np.resize(order[:weeks], weeks)))
        batch = twin.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        with precision.train_step_context():
            loss = twin.training_step(batch, 0)
        loss.backward()


def cuda_memory(device: torch.device) -> Memory:
    """Return how CUDA's memory is asked about."""

    def free() -> float:
        _let_go()
        return float(torch.cuda.mem_get_info(device)[0])

    def peak(function: Callable[[], object]) -> float:
        _let_go()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            function()
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            _let_go()
        return float(torch.cuda.max_memory_allocated(device) - before)

    return Memory(free, peak)


def batch_size_of(folder: Path) -> BatchSize:
    """Return how many weeks a batch the run in a folder has, which it can only go on with.

    Raises:
        HeartnetError: its `config.yaml` does not say.
    """
    file = folder / "config.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    weeks = values.get("data", {}).get("batch_size")
    if not isinstance(weeks, int):
        raise HeartnetError(
            f"data.batch_size=auto: {file} does not say how many weeks a batch the run has, and it can only go on with "
            "as many; give their number"
        )
    return BatchSize(weeks, f"data.batch_size=auto: {weeks:,} weeks a batch, as the run has had.")


def _rounded(weeks: int) -> int:
    return max(weeks // _MULTIPLE * _MULTIPLE if weeks >= _MULTIPLE else weeks, 0)


def _let_go() -> None:
    gc.collect()
    torch.cuda.empty_cache()
