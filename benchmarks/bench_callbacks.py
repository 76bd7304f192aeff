"""What each callback of `+callbacks=all` costs in training the full model, at its default cadence, all in one run.

Every hook of every callback is timed, in processor seconds of the process (so that other programs do not count), and
compared with the rest of `trainer.fit`. Looks are made before training, every few epochs and at the end, and more often
in the first steps, so their share falls with the length of a run: the table shows what the measured costs add up to in
ten epochs of 1,000 weeks, and in a run of one: looks by their cadence, the first steps once, later steps by their
number.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from hydra import compose, initialize_config_dir

from benchmarks.measure import status
from benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[1]
LONG_WEEKS, LONG_EPOCHS = 1000, 10
FIRST_STEPS = 65
"""In which callbacks look often: at steps 0, 1, 2, 4, … 64."""

Spent = dict[tuple[str, str], float]


class Memory(lightning.Callback):
    """Notes the resident memory, MB, after each epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self.seen.append(status("VmRSS") / 1e6)


def rows(*, quick: bool = False) -> list[Row]:
    sys.path.insert(0, str(ROOT))
    from heartnet.built import build
    from heartnet.terminal import quiet_lightning

    quiet_lightning()
    overrides = ["model=compact", "data.users=24"] if quick else ["data.users=260"]
    spent: Spent = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config", [*overrides, "+callbacks=all", "trainer.max_epochs=4", "trainer.enable_progress_bar=false"]
        )
        data, module, trainer = build(config, Path(folder))
        ours = [each for each in trainer.callbacks if type(each).__module__.startswith("callbacks.")]
        for each in ours:
            timed(each, spent)
        memory = Memory()
        trainer.callbacks.append(memory)
        start = time.process_time()
        trainer.fit(module, datamodule=data)
        total = time.process_time() - start
    step = (total - sum(spent.values())) / trainer.global_step
    epochs = {node["_target_"].rpartition(".")[2]: node.get("every_n_epochs") for node in config.callbacks.values()}
    shares, alone = (
        {
            name: in_a_run(count, name, epochs[name], spent, trainer.global_step, data.batch_size)
            / (step * count * LONG_WEEKS / data.batch_size)
            for name in (type(each).__name__ for each in ours)
        }
        for count in (LONG_EPOCHS, 1)
    )
    what = "callbacks, share of ten epochs of 1,000 weeks"
    return [
        Row(f"{what}: all", sum(shares.values()), limit=0.05, sense="most", of="ours",
            note=f"{trainer.global_step} steps of {step:.2f} s were measured, and took "
            f"{sum(spent.values()) / (total - sum(spent.values())):.1%} longer with all of them"),
        Row("callbacks, share of a run of one epoch of 1,000 weeks: all", sum(alone.values())),
        *(Row(f"{what}: {name}", share) for name, share in sorted(shares.items(), key=lambda each: -each[1])),
        Row("callbacks: resident memory after the last epoch", memory.seen[-1], "MB", "after the first",
            memory.seen[0], 1.1, "most"),
    ]  # fmt: skip


def in_a_run(count: int, name: str, every: int | None, spent: Spent, steps: int, batch_size: int) -> float:
    """Return the seconds that a callback would take in `count` epochs; `every` is None if it counts no epochs."""
    looks, first, later = (spent[name, part] for part in ("looks", "first steps", "later steps"))
    often = 1 + max(count / (every or count), 1)  # before training, and after every few epochs or at least the last
    later_steps = count * LONG_WEEKS / batch_size - FIRST_STEPS
    return looks * often / 2 + first + later * later_steps / max(steps - FIRST_STEPS, 1)


def timed(callback: lightning.Callback, spent: Spent) -> None:
    """Time each hook of a callback; those of batches and steps apart from the others."""
    name = type(callback).__name__
    for hook in (each for each in dir(lightning.Callback) if each.startswith("on_")):
        if getattr(type(callback), hook) is not getattr(lightning.Callback, hook):
            often = any(word in hook for word in ("batch", "step", "backward", "zero_grad"))
            setattr(callback, hook, clocked(getattr(callback, hook), name, often=often, spent=spent))


def clocked(hook: Callable[..., Any], name: str, *, often: bool, spent: Spent) -> Callable[..., Any]:
    def call(trainer: Any, *arguments: Any, **named: Any) -> Any:
        part = "looks" if not often else "first steps" if trainer.global_step < FIRST_STEPS else "later steps"
        start = time.process_time()
        try:
            return hook(trainer, *arguments, **named)
        finally:
            spent[name, part] += time.process_time() - start

    return call
