"""A training step of the full DeepHeart: ours, packed and padded `nn.LSTM`, Keras on JAX, and a JAX `lax.scan`.

Forward, backward and AdamW in float32 on the same simulated weeks, with dropout, each library's own. First scores and
gradients without dropout, from the same weights, are compared with our network in float64, on weeks of one length and
of several. Each contender has a process of its own, and they take turns: on one core in processor seconds, then on all
cores in seconds by the clock, with as many threads as there are cores.

Peers are given what is ours: batches of 8 weeks of similar length, cut to their longest, and memory that is kept
(`heartnet.allocator`; those on JAX keep it by settings of glibc, `XLA_MEMORY`). Those that compile for each length get
batches cut to the next multiple of 512, which they compile for once, and that is not counted. Padded `nn.LSTM` as one
would run it stands in a row of its own: the same weeks in batches at random, and memory as it comes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.table import Row
from heartnet.datamodule import SimulatedData
from heartnet.model.deepheart import DeepHeart
from heartnet.tasks import Conditions
from heartnet.weeks import MAX_READINGS

PEERS = {
    "padded": "padded nn.LSTM", "stock": "padded nn.LSTM as one would run it: batches at random, memory as it comes",
    "jax": "JAX lax.scan", "keras": "Keras 3 on JAX",
}  # fmt: skip
REFERENCE = "ours float64"
BATCHES, PACKED_READINGS = 4, 256
CHECKED = 2304  # readings of the weeks that are compared: more than one piece of ours
XLA_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368:glibc.malloc.arena_max=1"
"""XLA asks for the memory of a step in one block, larger than those that `keep_memory` keeps."""

TOLERANCES = {"float32": 1e-5, "bfloat16": 0.05}
"""How far scores and gradients may lie from the reference, as a share of the largest; a step of bfloat16 is 0.4 %."""


def rows(*, quick: bool = False) -> list[Row]:
    repeats = 1 if quick else 3
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        every, short = Path(folder) / "batches.npz", Path(folder) / "short.npz"
        weeks = write(every, steps=512 if quick else 4096, count=1 if quick else BATCHES)
        write(short, steps=64 if quick else PACKED_READINGS, count=1)
        cores = os.sched_getaffinity(0)
        for used in ({min(cores)}, cores):
            names = ["ours", *PEERS, "ours bfloat16"]
            seconds = timed(every, names, used, repeats)
            speeds = {name: weeks / took for name, took in seconds.items()}
            best = max(PEERS, key=lambda name: speeds[name])
            where = "one core" if len(used) == 1 else f"{len(used)} cores"
            unit = "weeks/s"
            found.append(
                Row(f"training step, {where}", speeds["ours"], unit, f"best: {PEERS[best]}", speeds[best], 1.5)
            )
            found.append(
                Row(f"training step, {where}, bfloat16", speeds["ours bfloat16"], unit,
                    f"best: {PEERS[best]}, float32", speeds[best], 3.0)
            )  # fmt: skip
            found += [
                Row(f"training step, {where}", speeds["ours"], unit, PEERS[name], speeds[name])
                for name in PEERS
                if name != best
            ]
            if len(used) == 1:
                took = timed(short, ["ours", "packed"], used, 1 if quick else 2)
                found.append(
                    Row(f"training step of {PACKED_READINGS} readings, {where}", 8 / took["ours"], unit,
                        "packed nn.LSTM", 8 / took["packed"],
                        note="packed is too slow to be timed on whole weeks; its time grows with the readings")
                )  # fmt: skip
    return found


def write(file: Path, steps: int, count: int) -> int:
    """Keep weights, some batches of an epoch from short to long, and two to compare on; return the weeks in them."""
    torch.manual_seed(0)
    data = SimulatedData(Conditions(), users=240, weeks_per_user=1)
    batches = sorted(data.train_dataloader(), key=lambda batch: batch["inputs"].shape[1])
    chosen = [batches[round((i + 0.5) * len(batches) / count - 0.5)] for i in range(count)]
    network = DeepHeart(data.channels, len(data.targets))
    weights = {f"weights/{name}": value.numpy() for name, value in network.state_dict().items()}
    kept = {f"batches/{i}": shrunk(batch, steps) for i, batch in enumerate(chosen)}
    kept |= {f"shuffled/{i}": batch for i, batch in enumerate(shuffled(list(kept.values())))}
    longest = min(steps, CHECKED)
    kept["uneven"] = cut(chosen[0], (torch.tensor([1, 0.8, 1, 0.002, 0.01, 0.5, 0.996, 1]) * longest).ceil().long())
    kept["even"] = cut(chosen[0], torch.full((8,), min(steps, PACKED_READINGS)))
    arrays = {
        f"{name}/{key}": batch[key].numpy() for name, batch in kept.items() for key in ("inputs", "lengths", "targets")
    }
    np.savez(file, channels=data.channels, outputs=len(data.targets), count=count, **weights, **arrays)  # type: ignore[arg-type]
    return sum(len(batch["lengths"]) for batch in chosen)


def shuffled(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same weeks in as many batches, dealt at random, each padded to its longest week."""
    weeks = [{key: batch[key][i] for key in ("inputs", "lengths", "targets")} for batch in batches for i in range(8)]
    dealt = torch.randperm(len(weeks), generator=torch.Generator().manual_seed(0)).split(8)
    return [
        {
            "inputs": pad_sequence([weeks[i]["inputs"][: weeks[i]["lengths"]] for i in rows], batch_first=True),
            **{key: torch.stack([weeks[i][key] for i in rows]) for key in ("lengths", "targets")},
        }
        for rows in dealt
    ]


def shrunk(batch: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return weeks that are as if the longest week had `steps` readings, their lengths as unlike as they were."""
    return batch if steps == MAX_READINGS else cut(batch, (batch["lengths"] * steps / MAX_READINGS).ceil().long())


def cut(batch: dict[str, Any], lengths: torch.Tensor) -> dict[str, Any]:
    """Return the first readings of each week, 0 where there are none."""
    inputs = batch["inputs"][:, : int(lengths.max())].clone()
    inputs *= torch.arange(inputs.shape[1])[None, :, None] < lengths[:, None, None]
    return {"inputs": inputs, "lengths": lengths, "targets": batch["targets"]}


def timed(file: Path, names: list[str], cores: set[int], repeats: int) -> dict[str, float]:
    """Return the seconds of each contender for all batches, medians of runs in turns, the first not counted."""
    workers = {name: worker(file, name, cores) for name in [REFERENCE, *names]}
    try:
        for process in workers.values():
            ask(process, "check")
        reference = workers.pop(REFERENCE)
        reference.kill()
        reference.communicate()
        compare(file, names)
        took: dict[str, list[float]] = {name: [] for name in names}
        for round_ in range(repeats + 1):
            for name, process in workers.items():
                processor, wall = ask(process, "epoch")
                took[name] += [processor if len(cores) == 1 else wall] * (round_ > 0)
    finally:
        for process in workers.values():
            process.kill()
            process.communicate()
    return {name: statistics.median(times) for name, times in took.items()}


def worker(file: Path, name: str, cores: set[int]) -> subprocess.Popen[str]:
    """Start the process of a contender on some cores, with as many threads."""
    count = len(cores)
    flags = f"--xla_cpu_multi_thread_eigen={'true' if count > 1 else 'false'}"
    memory = {"GLIBC_TUNABLES": XLA_MEMORY} if name in ("jax", "keras") else {}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.training_worker", str(file), name],
        env={**os.environ, **memory, "OMP_NUM_THREADS": str(count), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu",
             "KERAS_BACKEND": "jax"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip


def ask(process: subprocess.Popen[str], word: str) -> tuple[float, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended; what it said stands above")
    processor, wall = json.loads(line)
    return processor, wall


def compare(file: Path, names: list[str]) -> None:
    """Raise unless scores and gradients of all agree with our network in float64, where they can."""
    found = {name: np.load(f"{file}.{name}.npz", allow_pickle=False) for name in [REFERENCE, *names]}
    for name in names:
        tolerance = TOLERANCES["bfloat16" if name.endswith("bfloat16") else "float32"]
        # Padded, the backward direction of a shorter week begins in the padding: of weeks of several lengths only the
        # scores of the longest agree.
        padded = name in ("padded", "stock")
        for what in ("scores, uneven", "gradient, uneven", "scores, even", "gradient, even"):
            if padded and what == "gradient, uneven":
                continue
            places = [0, 2, 7] if padded and what == "scores, uneven" else slice(None)
            right, theirs = found[REFERENCE][what][places], found[name][what][places]
            off = float(np.abs(right - theirs).max() / np.abs(right).max())
            if off > tolerance:
                raise RuntimeError(f"{name}: {what}, are off by {off:.1e} of the largest, above {tolerance}")
