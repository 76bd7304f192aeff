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
ALONE = "no metric, log, callback or checkpoint; the same optimiser, schedule and clipping"


def rows(*, quick: bool = False) -> list[Row]:
    sys.path.insert(0, str(ROOT))
    found, less = [], ["data.users=24", "trainer.max_epochs=1"] if quick else []
    for name, (overrides, repeats) in CASES.items():
        bare, ours, lightning = compared([*overrides, *less], 1 if quick else repeats)
        found.append(Row(f"training, {name}", ours, "s", "a bare loop", bare, 1.03, "most"))
        found.append(Row(f"training, {name}, by Lightning alone", lightning, "s", "a bare loop", bare, note=ALONE))
    (step, epoch, run), own = added(1 if quick else 9)
    found.append(Row("what Lightning, metrics and logging add to a step", step, "ms"))
    found.append(Row("of which Lightning's own loop", own, "ms", note=ALONE))
    note = "a validation of 36 weeks, and two checkpoints, of a tiny network"
    found.append(Row("and to an epoch", epoch, "ms", note=note))
    return [*found, Row("and to a run", run, "ms")]


def added(repeats: int) -> tuple[Any, float]:
    """Return the milliseconds that are added to each step, epoch and run, and what Lightning alone adds to a step."""
    cases = [
        [*TINY, f"trainer.max_epochs={epochs}", f"+trainer.limit_train_batches={steps}"] for epochs, steps in LENGTHS
    ]
    took = np.array([compared(case, repeats) for case in cases])
    equations = [[epochs * steps, epochs, 1.0] for epochs, steps in LENGTHS]
    ours, lightning = (1000 * np.linalg.solve(equations, took[:, i] - took[:, 0]) for i in (1, 2))
    return ours, float(lightning[0])


def compared(overrides: list[str], repeats: int) -> tuple[float, float, float]:
    """Return the seconds of the bare loop, of `Trainer.fit`, and of that with nothing of ours around a step."""
    from heartnet.built import build, build_trainer
    from heartnet.terminal import quiet_lightning

    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*overrides, "threads=1", "trainer.enable_progress_bar=false"])
        data, module, _ = build(config, Path(folder))
        weights = copy.deepcopy(module.state_dict())
        # Making one is a part of the start, which has a benchmark of its own.
        trainers = iter([build_trainer(config, Path(folder)) for _ in range(repeats + 1)])
        plain = iter([alone(config, module, folder) for _ in range(repeats + 1)])
        runs: dict[str, Callable[[], None]] = {
            "bare": lambda: bare_loop(
                module, data, config.trainer.max_epochs, config.trainer.get("limit_train_batches")
            ),
            "ours": lambda: fit(next(trainers), module, data),
            "lightning": lambda: fit(*next(plain), data),
        }

        def fresh(run: Callable[[], None]) -> Callable[[], None]:
            def begin() -> None:
                module.load_state_dict(weights)
                module.train()
                run()

            return begin

        took = alternate({name: fresh(run) for name, run in runs.items()}, repeats, warm_up=repeats > 1)
    return took["bare"].processor, took["ours"].processor, took["lightning"].processor


def alone(config: Any, module: Any, folder: str) -> tuple[Any, Any]:
    """Return a trainer without loggers, callbacks and checkpoints, and a module that does what a step needs."""
    import pytorch_lightning as lightning

    class Plain(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.whole = module.network, [module]  # in a list, so as to be no part of this one

        def training_step(self, batch: Any, index: int) -> Any:  # noqa: ARG002
            return self.whole[0].loss(self.whole[0].score(batch), batch["targets"])

        def validation_step(self, batch: Any, index: int) -> None:
            self.training_step(batch, index)

        def configure_optimizers(self) -> Any:
            from heartnet.module import one_cycle

            optimizer, steps = adamw(self.whole[0]), int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    trainer = lightning.Trainer(
        max_epochs=config.trainer.max_epochs, limit_train_batches=config.trainer.get("limit_train_batches"),
        gradient_clip_val=1.0, accelerator="cpu", devices=1, num_sanity_val_steps=0, default_root_dir=folder,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    return trainer, Plain()


def fit(trainer: Any, module: Any, data: Any) -> None:
    trainer.fit(module, datamodule=data)


def bare_loop(module: Any, data: Any, epochs: int, batches: int | None = None) -> None:
    """Train on all batches of each epoch, or its first, and score the validation weeks after each."""
    from heartnet.module import one_cycle

    steps = (batches or len(data.train_dataloader())) * epochs
    optimizer = adamw(module)
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


def adamw(module: Any) -> torch.optim.Optimizer:
    """Return the optimiser that the module makes for itself."""
    return torch.optim.AdamW(module.parameters(), lr=module.learning_rate, weight_decay=module.weight_decay, fused=True)
