"""A process that trains one contender on given batches: `python -m benchmarks.training_worker FILE NAME`.

Each has its own, so that the threads and the memory of one library do not disturb another. It reads a word a line:
`check` makes it write scores and gradients to a file, `epoch` trains on each batch once; it answers with a line of
JSON, the processor seconds and the wall seconds that it took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

from heartnet.allocator import keep_memory


def main(file: str, name: str) -> None:
    stored = dict(np.load(file, allow_pickle=False))
    weights = {key.removeprefix("weights/"): value for key, value in stored.items() if key.startswith("weights/")}
    training = make(name, weights, int(stored["channels"]), int(stored["outputs"]))
    served = "shuffled" if name == "stock" else "batches"
    batches = [fit(name, batch_of(stored, f"{served}/{i}")) for i in range(int(stored["count"]))]
    for line in sys.stdin:
        start = time.process_time(), time.perf_counter()
        if line.strip() == "check":
            found = {}
            for which in ("uneven", "even"):
                found[f"scores, {which}"], found[f"gradient, {which}"] = training.check(batch_of(stored, which))
            np.savez(f"{file}.{name}.npz", **found)
        else:
            for batch in batches:
                training.step(batch)
        took = time.process_time() - start[0], time.perf_counter() - start[1]
        print(json.dumps(took), file=answers, flush=True)


def make(name: str, weights: dict[str, Any], channels: int, outputs: int) -> Any:
    if name in ("keras", "jax"):
        from benchmarks.peers_jax import KerasTraining, ScanTraining

        return (KerasTraining if name == "keras" else ScanTraining)(weights, channels, outputs)
    from benchmarks.peers_torch import TorchTraining

    kind, _, precision = name.partition(" ")
    threads = len(os.sched_getaffinity(0))
    return TorchTraining(kind, weights, channels, outputs, threads=threads, precision=precision or "float32")


def batch_of(stored: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: stored[f"{name}/{key}"] for key in ("inputs", "lengths", "targets")}


def fit(name: str, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as a contender wants it: those that compile for each length see few, multiples of 512."""
    if name not in ("keras", "jax"):
        return batch
    more = -batch["inputs"].shape[1] % 512
    return {**batch, "inputs": np.pad(batch["inputs"], ((0, 0), (0, more), (0, 0)))}


if __name__ == "__main__":
    if sys.argv[2] not in ("stock", "jax", "keras"):
        keep_memory()
    answers = os.fdopen(os.dup(1), "w")  # of this protocol alone; what libraries print goes to the terminal
    os.dup2(2, 1)
    main(*sys.argv[1:])
