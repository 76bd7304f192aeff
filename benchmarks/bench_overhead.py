"""What Lightning, our metrics, logging and checkpoints cost: `Trainer.fit` beside a bare loop on the same weeks.

Both train and validate the network that `train.py` would make, for as many epochs of the same simulated weeks from the
same loaders, on one thread, in turns, in processor seconds. The bare loop does forward, backward, clipping, AdamW and
the schedule, and a forward of the validation weeks; no metric, log or checkpoint. The full model is what people train.
Runs of a network of next to no work, of other lengths, tell what is added to each step, each epoch and each run.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from benchmarks.measure import alternate
from benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[1]
TINY = ["model=compact", "model.conv_units=2", "model.lstm_units=2", "model.lstm_layers=1", "model.pool=8"]
CASES = {
    "the full model": (["model=deepheart", "data.users=80", "trainer.max_epochs=1"], 2),
    "model=compact": (["model=compact"], 9),
}
LENGTHS = ((2, 21), (2, 1), (12, 1))
"""Epochs, and steps of each, of the runs that are told apart."""


def rows(*, quick: bool = False) -> list[Row]:
    sys.path.insert(0, str(ROOT))
    found, less = [], ["data.users=24", "trainer.max_epochs=1"] if quick else []
    for name, (overrides, repeats) in CASES.items():
        bare, ours = compared([*overrides, *less], 1 if quick else repeats)
        found.append(Row(f"training, {name}", ours, "s", "a bare loop", bare, 1.03, "most"))
    step, epoch, run = 1000 * added(1 if quick else 9)
    found.append(Row("what Lightning, metrics and logging add to a step", step, "ms"))
    note = "a validation of 36 weeks, and two checkpoints, of a tiny network"
    found.append(Row("and to an epoch", epoch, "ms", note=note))
    return [*found, Row("and to a run", run, "ms")]


def added(repeats: int) -> Any:
    """Return the seconds that are added to each step, each epoch and each run."""
    cases = [
        [*TINY, f"trainer.max_epochs={epochs}", f"+trainer.limit_train_batches={steps}"] for epochs, steps in LENGTHS
    ]
    more = [ours - bare for bare, ours in (compared(case, repeats) for case in cases)]
    return np.linalg.solve([[epochs * steps, epochs, 1.0] for epochs, steps in LENGTHS], more)


def compared(overrides: list[str], repeats: int) -> tuple[float, float]:
    """Return the seconds of the bare loop and of `Trainer.fit`."""
    from heartnet.built import build, build_trainer
    from heartnet.terminal import quiet_lightning

    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*overrides, "threads=1", "trainer.enable_progress_bar=false"])
        data, module, _ = build(config, Path(folder))
        weights = copy.deepcopy(module.state_dict())
        # Making one is a part of the start, which has a benchmark of its own.
        trainers = iter([build_trainer(config, Path(folder)) for _ in range(repeats + 1)])
        runs: dict[str, Callable[[], None]] = {
            "bare": lambda: bare_loop(
                module, data, config.trainer.max_epochs, config.trainer.get("limit_train_batches")
            ),
            "ours": lambda: fit(next(trainers), module, data),
        }

        def fresh(run: Callable[[], None]) -> Callable[[], None]:
            def begin() -> None:
                module.load_state_dict(weights)
                module.train()
                run()

            return begin

        took = alternate({name: fresh(run) for name, run in runs.items()}, repeats, warm_up=repeats > 1)
    return took["bare"].processor, took["ours"].processor


def fit(trainer: Any, module: Any, data: Any) -> None:
    trainer.fit(module, datamodule=data)


def bare_loop(module: Any, data: Any, epochs: int, batches: int | None = None) -> None:
    """Train on all batches of each epoch, or its first, and score the validation weeks after each."""
    from heartnet.module import one_cycle

    steps = (batches or len(data.train_dataloader())) * epochs
    optimizer = torch.optim.AdamW(module.parameters(), lr=module.learning_rate, weight_decay=module.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    for _ in range(epochs):
        module.train()
        for batch in islice(data.train_dataloader(), batches):
            optimizer.zero_grad()
            module.loss(module.score(batch), batch["targets"]).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.no_grad():
            for batch in data.val_dataloader():
                module.loss(module.score(batch), batch["targets"])
