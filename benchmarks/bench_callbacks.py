"""What each callback costs in training the full model, at its default cadence, in one run with all of them on.

    python benchmarks/bench_callbacks.py --users 360 --epochs 2

Every hook of every callback is timed, in processor seconds of the process (so that other programs do not count), and
compared with the rest of `trainer.fit`. Looks are made before training, every few epochs and at the end, so their share
falls with the length of a run; the last column is what the measured costs would be in ten epochs of 1,000 weeks.
Memory is the process's resident memory after each epoch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.loggers import TensorBoardLogger

import callbacks
from callbacks.activation_heatmap import ActivationHeatmap
from callbacks.amnesia import Amnesia
from callbacks.baseline import Baseline
from callbacks.dead_units import DeadUnits
from callbacks.input_contract import InputContract
from callbacks.training_health import TrainingHealth
from heartnet.datamodule import SimulatedData
from heartnet.model.deepheart import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions

CALLBACKS = (ActivationHeatmap, Amnesia, Baseline, DeadUnits, InputContract, TrainingHealth)
LONG_WEEKS, LONG_EPOCHS = 1000, 10


class Memory(lightning.Callback):
    """Notes the resident memory, MB, after each epoch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        self.seen += [int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=360)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = SimulatedData(Conditions(), users=options.users, weeks_per_user=1)
    mean, std = data.target_statistics()
    module = HeartnetModule(
        DeepHeart(outputs=len(data.targets)),
        kind="conditions",
        targets=data.targets,
        target_mean=mean.tolist(),
        target_std=std.tolist(),
        scaling=data.scaling.as_dict(),
    )
    spent: dict[tuple[str, bool], float] = defaultdict(float)
    each = [timed(kind(), spent) for kind in CALLBACKS]
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=options.epochs,
            callbacks=[*each, memory],
            logger=TensorBoardLogger(folder, name=None, version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            accelerator="cpu",
        )
        start = time.process_time()
        trainer.fit(module, datamodule=data)
        total = time.process_time() - start
    steps = trainer.global_step
    rest = total - sum(spent.values())
    longer = LONG_EPOCHS * LONG_WEEKS / (data.batch_size * steps)
    print(f"{steps} steps of the full model: {rest:.0f} s, {rest / steps:.2f} s a step, one thread")
    print(f"{'callback':<20}{'seconds':>9}{'share':>8}{'of a long run':>15}")
    sums = [0.0, 0.0]
    for kind in CALLBACKS:
        name = kind.__name__
        looks, batches = spent[name, False], spent[name, True]
        often = 1 + LONG_EPOCHS / cadence(name) if cadence(name) else 1
        long_cost = looks * often / 2 + batches * longer
        sums = [sums[0] + looks + batches, sums[1] + long_cost]
        print(f"{name:<20}{looks + batches:9.1f}{(looks + batches) / rest:8.1%}{long_cost / (rest * longer):15.1%}")
    print(f"{'all':<20}{sums[0]:9.1f}{sums[0] / rest:8.1%}{sums[1] / (rest * longer):15.1%}")
    print(f"resident memory after each epoch: {', '.join(map(str, memory.seen))} MB")


def timed(callback: lightning.Callback, spent: dict[tuple[str, bool], float]) -> lightning.Callback:
    """Return the callback with each of its hooks timed; those of batches and steps apart from the others."""
    name = type(callback).__name__
    for hook in (each for each in dir(lightning.Callback) if each.startswith("on_")):
        if getattr(type(callback), hook) is not getattr(lightning.Callback, hook):
            often = "batch" in hook or "step" in hook or "backward" in hook or "zero_grad" in hook
            setattr(callback, hook, clocked(getattr(callback, hook), name, often=often, spent=spent))
    return callback


def clocked(
    hook: Callable[..., Any], name: str, *, often: bool, spent: dict[tuple[str, bool], float]
) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return hook(*arguments, **named)
        finally:
            spent[name, often] += time.process_time() - start

    return call


def cadence(name: str) -> int | None:
    """Return after how many epochs a callback looks, by its YAML; None if it does not count epochs."""
    stem = "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
    folder = Path(callbacks.__file__).parent.parent / "conf" / "callbacks"
    settings = yaml.safe_load((folder / f"{stem}.yaml").read_text(encoding="utf-8"))
    found = next(iter(settings.values())) if len(settings) == 1 else settings
    return found.get("every_n_epochs") if isinstance(found, dict) else None


if __name__ == "__main__":
    main()
