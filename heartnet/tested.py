"""The test of a run: which weights it takes, those of `heartnet predict`, `export` and `card`, and what it keeps."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning as lightning

    from heartnet.datamodule import WeeksDataModule
    from heartnet.module import HeartnetModule

FILE = "tested.json"
"""Where a run's folder keeps it, beside the predictions of that test."""


@dataclass(frozen=True)
class ScoredCheckpoint:
    """The checkpoint that a run tested.

    Attributes:
        name: of the file, in `checkpoints/`.
        sha256: of the file, in hexadecimal digits, for the newest is overwritten when a run goes on.
        epochs: behind it.
        of_epochs: that the run had trained.
        step: optimiser steps behind it.
        of_steps: that the run had trained.
        monitor: by which it is the best; empty for the newest of a run that kept no best.
        lost: a monitor that was NaN or infinite in each epoch, so that none is the best.
    """

    name: str
    sha256: str
    epochs: int
    of_epochs: int
    step: int
    of_steps: int
    monitor: str = ""
    lost: str = ""

    def __str__(self) -> str:
        when = f"{self.name}, after epoch {self.epochs} of {self.of_epochs} (step {self.step:,} of {self.of_steps:,})"
        return f"{when}, {self.which}"

    @property
    def which(self) -> str:
        """Why it is this one, in words."""
        if self.monitor:
            return f"the best by {self.monitor}"
        return f"the newest{f', for {self.lost} was NaN or infinite in each epoch' if self.lost else ''}"

    def write(self, folder: Path) -> None:
        """Write it to a run's folder, whole or not at all."""
        partial = folder / f"{FILE}.partial"
        partial.write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(folder / FILE)


def read_tested(folder: Path) -> ScoredCheckpoint | None:
    """Return what the run in `folder` tested; None if nothing readable says it."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        row = json.loads((folder / FILE).read_text(encoding="utf-8"))
        epochs, of_epochs, step, of_steps = (int(row[name]) for name in ("epochs", "of_epochs", "step", "of_steps"))
        name, sha256, monitor = (str(row[name]) for name in ("name", "sha256", "monitor"))
        return ScoredCheckpoint(name, sha256, epochs, of_epochs, step, of_steps, monitor, str(row.get("lost", "")))
    return None


def tested_lines(folder: Path) -> list[str]:
    """Return what the run in `folder`, or each of its folds, tested, in words; nothing where that is not known."""
    folds = sorted(folder.glob(f"fold-*/{FILE}"), key=lambda path: (len(path.parent.name), path))
    found = {home: read_tested(home) for home in (folder, *(path.parent for path in folds))}
    return [
        f"Tested{'' if home == folder else f', {home.name}'}: {tested}." for home, tested in found.items() if tested
    ]


def keep_test(folder: Path, data: WeeksDataModule, module: HeartnetModule, trainer: lightning.Trainer) -> None:
    """Test the best weights of a training, and keep in the run's folder what they predict, and what could be known."""
    from heartnet import terminal
    from heartnet.predictions import NETWORK, ceiling_predictions, predictions_frame

    for old in (*folder.glob("predictions*.parquet"), folder / FILE):  # of a run before, perhaps on other data
        old.unlink(missing_ok=True)
    tested = load_tested(folder, module, trainer)
    trainer.test(module, datamodule=data, verbose=False)
    if tested is not None:
        tested.write(folder)
    untold = "the weights at the end, of which no checkpoint was kept"
    if trainer.global_step == 0:
        untold = "the weights that the network began with, for it was not trained"
    terminal.print_line(f"Tested: {tested or untold}.")
    if not (folder / "predictions.parquet").is_file():  # else the callback wrote it, with more columns
        frame = predictions_frame(data, module.test_rows, module.test_scores, NETWORK)
        folder.mkdir(parents=True, exist_ok=True)  # of a fold's fast_dev_run, which keeps nothing else
        frame.write_parquet(folder / "predictions.parquet")
    if (best := ceiling_predictions(data, data.rows["test"])) is not None:
        best.write_parquet(folder / "predictions_ceiling.parquet")


def load_tested(folder: Path, module: HeartnetModule, trainer: lightning.Trainer) -> ScoredCheckpoint | None:
    """Give a module that was trained the weights to test, with what callbacks saved with them; say which they are.

    The weights are those of the best checkpoint, where the run chose one by a monitor, else of the newest: the same
    that `heartnet.chosen_checkpoint.choose_checkpoint` takes. From now on the trainer counts the steps behind them.

    Args:
        folder: of the run.
        module: trained; its weights are replaced.
        trainer: that trained it.

    Returns:
        None if this training kept no checkpoint; the weights are then left as they are.
    """
    from heartnet.chosen_checkpoint import checkpoint_of
    from heartnet.module import load_checkpoint

    # The folder may hold checkpoints of a training before this one, and a training may go on from another folder's.
    kept = [Path(getattr(callback, "best_model_path", "")) for callback in trainer.checkpoint_callbacks]
    own = any(path.is_file() and path.resolve().parent == (folder / "checkpoints").resolve() for path in kept)
    if not own or not any(folder.glob("checkpoints/last*.ckpt")):
        return None
    path, monitor = checkpoint_of(folder)
    checkpoint = load_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.on_load_checkpoint(trainer, module, checkpoint)  # Lightning would do so for a training only
    found = ScoredCheckpoint(
        path.name, file_hash(path), int(checkpoint["epoch"]) + 1, trainer.current_epoch,
        int(checkpoint["global_step"]), trainer.global_step, monitor, _lost(trainer),
    )  # fmt: skip
    # What the test logs, draws and finds stands at the step of the weights that it is of.
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = found.step
    return found


def _lost(trainer: lightning.Trainer) -> str:
    """Return the monitor by which no epoch is the best, for it was NaN or infinite in each; empty if there is none."""
    for callback in trainer.checkpoint_callbacks:
        score = getattr(callback, "best_model_score", None)
        if score is not None and not math.isfinite(float(score)):
            return str(getattr(callback, "monitor", None) or "")
    return ""


def of_the_test(checkpoint: Path) -> str:
    """Say whether the run's test, and so the scores in its folder, is of this checkpoint."""
    tested = read_tested(home_of(checkpoint))
    if tested is None:
        return "which checkpoint its run tested is not known"
    if tested.sha256 == file_hash(checkpoint):
        return "its run tested it"
    return f"its run's test is of another one: {tested}"


def home_of(checkpoint: Path) -> Path:
    """Return the folder of the run, or of the fold, that a checkpoint is of."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
