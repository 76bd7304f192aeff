"""What each callback costs in training the full model, at its default cadence, in one run with all of them on.

    python benchmarks/bench_callbacks.py --users 360 --epochs 4

Every hook of every callback is timed, in processor seconds of the process (so that other programs do not count), and
compared with the rest of `trainer.fit`. Looks are made before training, every few epochs and at the end, and more often
in the first steps, so their share falls with the length of a run; the last column is what the measured costs add up to
in ten epochs of 1,000 weeks: looks by their cadence, the first steps once, later steps by their number.
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
FIRST_STEPS = 65
"""In which callbacks look often: at steps 0, 1, 2, 4, … 64."""


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
    parser.add_argument("--epochs", type=int, default=4)
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
    spent: dict[tuple[str, str], float] = defaultdict(float)
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
    long_steps = LONG_EPOCHS * LONG_WEEKS / data.batch_size
    print(f"{steps} steps of the full model: {rest:.0f} s, {rest / steps:.2f} s a step, one thread")
    print(f"{'callback':<20}{'seconds':>9}{'share':>8}{'of a long run':>15}")
    sums = [0.0, 0.0]
    for kind in CALLBACKS:
        name = kind.__name__
        looks, first, later = (spent[name, part] for part in ("looks", "first steps", "later steps"))
        often = 1 + LONG_EPOCHS / (cadence(name) or LONG_EPOCHS)  # before training, and after every few epochs
        long = looks * often / 2 + first + later * (long_steps - FIRST_STEPS) / max(steps - FIRST_STEPS, 1)
        sums = [sums[0] + looks + first + later, sums[1] + long]
        shares = (looks + first + later) / rest, long / (rest / steps * long_steps)
        print(f"{name:<20}{looks + first + later:9.1f}{shares[0]:8.1%}{shares[1]:15.1%}")
    print(f"{'all':<20}{sums[0]:9.1f}{sums[0] / rest:8.1%}{sums[1] / (rest / steps * long_steps):15.1%}")
    print(f"resident memory after each epoch: {', '.join(map(str, memory.seen))} MB")


def timed(callback: lightning.Callback, spent: dict[tuple[str, str], float]) -> lightning.Callback:
    """Return the callback with each of its hooks timed; those of batches and steps apart from the others."""
    name = type(callback).__name__
    for hook in (each for each in dir(lightning.Callback) if each.startswith("on_")):
        if getattr(type(callback), hook) is not getattr(lightning.Callback, hook):
            often = any(word in hook for word in ("batch", "step", "backward", "zero_grad"))
            setattr(callback, hook, clocked(getattr(callback, hook), name, often=often, spent=spent))
    return callback


def clocked(
    hook: Callable[..., Any], name: str, *, often: bool, spent: dict[tuple[str, str], float]
) -> Callable[..., Any]:
    def call(trainer: Any, *arguments: Any, **named: Any) -> Any:
        part = "looks" if not often else "first steps" if trainer.global_step < FIRST_STEPS else "later steps"
        start = time.process_time()
        try:
            return hook(trainer, *arguments, **named)
        finally:
            spent[name, part] += time.process_time() - start

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
