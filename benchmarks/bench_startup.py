"""How long `train.py` takes to its first batch, and to answer `--help` and `--cfg job`, in processor seconds."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pytorch_lightning as lightning

from benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[1]


class EndAtFirstBatch(lightning.Callback):
    """Ends the process where training would begin."""

    def on_train_batch_start(self, *_: object) -> None:
        os._exit(0)


def rows(*, quick: bool = False) -> list[Row]:
    repeats = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        first = ["train.py", "+callbacks.end._target_=benchmarks.bench_startup.EndAtFirstBatch",
                 f"hydra.run.dir={folder}"]  # fmt: skip
        commands = {
            "train.py, to its first batch": (first, 8.0),
            "train.py --help": (["train.py", "--help"], 1.0),
            "train.py --cfg job": (["train.py", "--cfg", "job"], 1.0),
            "heartnet --help": (["-m", "heartnet.cli", "--help"], 1.0),
            "import torch, pytorch_lightning (in the first)": (["-c", "import torch, pytorch_lightning"], None),
        }
        took: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(repeats):
            for what, (command, _limit) in commands.items():
                took[what].append(seconds(command))
    return [
        Row(f"start-up: {what}", statistics.median(took[what]), "s", limit=limit, sense="most", of="ours")
        for what, (_, limit) in commands.items()
    ]


def seconds(command: list[str]) -> float:
    """Return the processor seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
