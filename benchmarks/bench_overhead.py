"""What Lightning, our metrics, logging and checkpoints cost: `Trainer.fit` beside a bare loop on the same weeks.

Both train and validate the network that `train.py` would make, for as many epochs of the same simulated weeks from the
same loaders, on one thread, in turns, in processor seconds. The bare loop does forward, backward, clipping, AdamW and
the schedule, and a forward of the validation weeks; no metric, log or checkpoint. The full model is what people train.
A network of next to no work shows what a step costs besides.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks.measure import alternate
from benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[1]
TINY = ["model=compact", "model.conv_units=2", "model.lstm_units=2", "model.lstm_layers=1", "model.pool=8"]
CASES = {
    "the full model": (["model=deepheart", "data.users=80", "trainer.max_epochs=1"], 2),
    "model=compact": (["model=compact"], 5),
}


def rows(*, quick: bool = False) -> list[Row]:
    sys.path.insert(0, str(ROOT))
    found, less = [], ["data.users=24", "trainer.max_epochs=1"] if quick else []
    for name, (overrides, repeats) in CASES.items():
        bare, ours, _ = compared([*overrides, *less], 1 if quick else repeats)
        found.append(Row(f"training, {name}", ours, "s", "a bare loop", bare, 1.03, "most"))
    bare, ours, steps = compared([*TINY, *less], 1 if quick else 5)
    note = f"{steps} steps of a tiny network, with what the start, its validations and its checkpoints take"
    found.append(Row("what Lightning adds to a step", 1000 * (ours - bare) / steps, "ms", note=note))
    return found


def compared(overrides: list[str], repeats: int) -> tuple[float, float, int]:
    """Return the seconds of the bare loop and of `Trainer.fit`, and their steps."""
    import train
    from heartnet.terminal import quiet_lightning

    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*overrides, "threads=1", "trainer.enable_progress_bar=false"])
        data, module, _ = train.build(config, Path(folder))
        weights = copy.deepcopy(module.state_dict())
        # Making one is a part of the start, which has a benchmark of its own.
        trainers = iter([train.build_trainer(config, Path(folder)) for _ in range(repeats + 1)])
        runs: dict[str, Callable[[], None]] = {
            "bare": lambda: bare_loop(module, data, config.trainer.max_epochs),
            "ours": lambda: fit(next(trainers), module, data),
        }

        def fresh(run: Callable[[], None]) -> Callable[[], None]:
            def begin() -> None:
                module.load_state_dict(weights)
                module.train()
                run()

            return begin

        took = alternate({name: fresh(run) for name, run in runs.items()}, repeats, warm_up=repeats > 1)
    steps = len(data.train_dataloader()) * config.trainer.max_epochs
    return took["bare"].processor, took["ours"].processor, steps


def fit(trainer: Any, module: Any, data: Any) -> None:
    trainer.fit(module, datamodule=data)


def bare_loop(module: Any, data: Any, epochs: int) -> None:
    """Train, and score the validation weeks after each epoch."""
    from heartnet.module import one_cycle

    steps = len(data.train_dataloader()) * epochs
    optimizer = torch.optim.AdamW(module.parameters(), lr=module.learning_rate, weight_decay=module.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    for _ in range(epochs):
        module.train()
        for batch in data.train_dataloader():
            optimizer.zero_grad()
            module.loss(module.score(batch), batch["targets"]).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.no_grad():
            for batch in data.val_dataloader():
                module.loss(module.score(batch), batch["targets"])
