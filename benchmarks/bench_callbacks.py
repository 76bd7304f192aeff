"""What all callbacks of `+callbacks=all` cost in training the full model, and each one's share.

Ten epochs of 1,000 weeks are trained with all of them, at their default cadence. Every hook of every callback is timed
by the clock (in processor seconds they would look cheap: they run on one thread, training on all), and held against the
rest of `trainer.fit`, which is what the same epochs take without them. What they would take in a run of a single epoch
is added up: what came before the first step, in the last epoch and after it, and what the first epoch has beyond the
second, since some look often at first. Other programs should not run meanwhile.

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
Spent = dict[tuple[str, int | str], float]
"""Seconds of each callback: at the start, in each epoch, at the end."""


def rows(*, quick: bool = False) -> list[Row]:
    sys.path.insert(0, str(ROOT))
    import train
    from heartnet.terminal import quiet_lightning

    quiet_lightning()
    overrides = ["model=compact", "data.users=24"] if quick else ["data.users=1429"]  # 70 % of them train
    spent: Spent = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config",
            [*overrides, "+callbacks=all", f"trainer.max_epochs={EPOCHS}", "trainer.enable_progress_bar=false"],
        )
        data, module, trainer = train.build(config, Path(folder))
        ours = [each for each in trainer.callbacks if type(each).__module__.startswith("callbacks.")]
        for each in ours:
            timed(each, spent)
        start = time.perf_counter()
        trainer.fit(module, datamodule=data)
        rest = time.perf_counter() - start - sum(spent.values())
    names = [type(each).__name__ for each in ours]
    one = {name: sum(spent[name, part] for part in ("start", 0, EPOCHS - 1, "end")) - spent[name, 1] for name in names}
    all_of = {name: sum(seconds for (whose, _), seconds in spent.items() if whose == name) for name in names}
    weeks = f"{len(data.rows['train']):,} weeks"
    return [
        Row(f"callbacks, share of {EPOCHS} epochs of {weeks}: all", sum(all_of.values()) / rest, limit=0.05,
            sense="most", of="ours",
            note=f"{sum(all_of.values()):.1f} s beside {rest:.1f} s for {trainer.global_step:,} steps and {EPOCHS} "
            "validations"),
        *(Row(f"callbacks, share of {EPOCHS} epochs of {weeks}: {name}", seconds / rest)
          for name, seconds in sorted(all_of.items(), key=lambda each: -each[1])),
        Row("callbacks, share of a run of one epoch: all", sum(one.values()) * EPOCHS / rest, limit=0.05,
            sense="most", of="ours",
            note="added up from the same run: "
            + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(one.items(), key=lambda e: -e[1]))),
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


def timed(callback: lightning.Callback, spent: Spent) -> None:
    """Time each hook of a callback."""
    name = type(callback).__name__
    for hook in (each for each in dir(lightning.Callback) if each.startswith("on_")):
        if getattr(type(callback), hook) is not getattr(lightning.Callback, hook):
            setattr(callback, hook, clocked(getattr(callback, hook), name, hook, spent))


def clocked(hook: Callable[..., Any], callback: str, name: str, spent: Spent) -> Callable[..., Any]:
    def call(trainer: Any, *arguments: Any, **named: Any) -> Any:
        part: int | str = trainer.current_epoch
        if name in ("on_train_end", "on_fit_end"):
            part = "end"
        elif name in ("on_fit_start", "on_train_start") or trainer.sanity_checking:
            part = "start"
        begin = time.perf_counter()
        try:
            return hook(trainer, *arguments, **named)
        finally:
            spent[callback, part] += time.perf_counter() - begin

    return call
