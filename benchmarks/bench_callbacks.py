"""What all callbacks of `+callbacks=all` cost in training the full model, and each one's share.

An epoch of 1,000 weeks is trained with all of them, at their default cadence. Every hook of every callback is timed by
the clock (in processor seconds they would look cheap: they run on one thread, training on all), and held against the
rest of `trainer.fit`, which is what the same epoch takes without them: their share of a run of a single epoch. Other
programs should not run meanwhile. What ten epochs would take is added up from the same run: what is done once, what
comes with steps, with validations, and looks by their cadence.

Then the peak of memory of a shorter training, each in a process of its own: as it is, with all callbacks, and without
keeping memory for the next step (`heartnet.allocator`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from hydra import compose, initialize_config_dir

from benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 10
FIRST_STEPS = 65
"""In which callbacks look often: at steps 0, 1, 2, 4, … 64."""

Spent = dict[tuple[str, str], float]


def rows(*, quick: bool = False) -> list[Row]:
    sys.path.insert(0, str(ROOT))
    import train
    from heartnet.terminal import quiet_lightning

    quiet_lightning()
    overrides = ["model=compact", "data.users=24"] if quick else ["data.users=1429"]  # 70 % of them train
    spent: Spent = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config", [*overrides, "+callbacks=all", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
        )
        data, module, trainer = train.build(config, Path(folder))
        ours = [each for each in trainer.callbacks if type(each).__module__.startswith("callbacks.")]
        for each in ours:
            timed(each, spent)
        start = time.perf_counter()
        trainer.fit(module, datamodule=data)
        rest = time.perf_counter() - start - sum(spent.values())
    every = {node["_target_"].rpartition(".")[2]: node.get("every_n_epochs") for node in config.callbacks.values()}
    names = [type(each).__name__ for each in ours]
    one = {name: in_epochs(1, name, every[name], spent, trainer.global_step) / rest for name in names}
    ten = {name: in_epochs(EPOCHS, name, every[name], spent, trainer.global_step) / (EPOCHS * rest) for name in names}
    what = f"callbacks, share of an epoch of {len(data.rows['train']):,} weeks"
    return [
        Row(f"{what}: all", sum(one.values()), limit=0.05, sense="most", of="ours",
            note=f"a run of one epoch: {sum(spent.values()):.1f} s beside {rest:.1f} s for {trainer.global_step} steps "
            "and the validation"),
        Row(f"callbacks, share of {EPOCHS} such epochs: all", sum(ten.values()), limit=0.05, sense="most", of="ours",
            note="added up from what was measured in the run of one"),
        *(Row(f"{what}: {name}", share) for name, share in sorted(one.items(), key=lambda each: -each[1])),
        *memory(quick=quick),
    ]  # fmt: skip


def memory(*, quick: bool) -> list[Row]:
    overrides = ["model=compact", "data.users=24"] if quick else ["data.users=130", "trainer.max_epochs=2"]
    plain = peak(overrides)
    return [
        Row("callbacks: peak of memory with all", peak([*overrides, "+callbacks=all"]), "MB", "without", plain),
        Row("training: peak of memory", plain, "MB", "not kept for the next step",
            peak(overrides, {"MALLOC_ARENA_MAX": "8"})),
    ]  # fmt: skip


def peak(overrides: list[str], environment: Mapping[str, str] | None = None) -> float:
    """Return the most memory, in MB, that `train.py` held, in a process of its own, on one thread.

    The system's own account of a process that has ended would count what this one held when it started that.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "threads=1", "test=false", f"hydra.run.dir={folder}", *overrides]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL
        )
        most = 0.0
        while process.poll() is None:
            most = max(most, resident_peak(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return most


def resident_peak(process: int) -> float:
    """Return the most memory, in MB, that a process has held so far; 0 if it is just ending."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def in_epochs(count: int, name: str, every: int | None, spent: Spent, steps: int) -> float:
    """Return the seconds that a callback would take in `count` epochs, of what it took in one of `steps` steps.

    `every` is None if it counts no epochs: then it looks after each, and once more at the end.
    """
    once, first, later, validation, looks, end = (spent[name, part] for part in PARTS)
    often = count if every is None else max(count / every, 1.0)
    more = (count * steps - FIRST_STEPS) / max(steps - FIRST_STEPS, 1)
    return once + first + later * more + validation * count + looks * often + end * (often if every else 1.0)


PARTS = ("once", "first steps", "later steps", "validation", "looks", "end")


def timed(callback: lightning.Callback, spent: Spent) -> None:
    """Time each hook of a callback, by how often it comes."""
    name = type(callback).__name__
    for hook in (each for each in dir(lightning.Callback) if each.startswith("on_")):
        if getattr(type(callback), hook) is not getattr(lightning.Callback, hook):
            setattr(callback, hook, clocked(getattr(callback, hook), name, part_of(hook), spent))


def part_of(hook: str) -> str:
    """Return which of `PARTS` a hook belongs to; `steps` are told apart by their number."""
    if "validation" in hook or "sanity" in hook:
        return "looks" if hook in ("on_validation_end", "on_validation_epoch_end") else "validation"
    if any(word in hook for word in ("batch", "step", "backward", "zero_grad")):
        return "steps"
    if hook in ("on_train_epoch_end", "on_train_epoch_start"):
        return "looks"
    return "end" if hook in ("on_train_end", "on_fit_end") else "once"


def clocked(hook: Callable[..., Any], name: str, part: str, spent: Spent) -> Callable[..., Any]:
    def call(trainer: Any, *arguments: Any, **named: Any) -> Any:
        here = part if part != "steps" else "first steps" if trainer.global_step < FIRST_STEPS else "later steps"
        start = time.perf_counter()
        try:
            return hook(trainer, *arguments, **named)
        finally:
            spent[name, here] += time.perf_counter() - start

    return call
