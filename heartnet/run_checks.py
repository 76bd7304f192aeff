"""What is refused once data and network are there: a monitor that nothing logs, a checkpoint beyond the run's end."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.metrics import SCORES
from heartnet.module import HeartnetModule, load_checkpoint


def check_monitor(monitor: str | None, data: WeeksDataModule, mode: str = "min", *, every_fold: bool = False) -> None:
    """Refuse to choose the best epoch by a number that will not be there, or the worst in its place.

    Args:
        monitor: name of the number; None chooses nothing.
        data: of the run.
        mode: `min` or `max`.
        every_fold: all folds of the data are trained on, not just the one that it is split for.

    Raises:
        HeartnetError: naming those that will, the mode, or the fold in which it is not defined.
    """
    if len(data.rows["val"]) == 0 and str(monitor).startswith("val/"):
        raise HeartnetError(
            f"checkpoint.monitor={monitor}: no week is in the validation split; "
            "set checkpoint.monitor=null, or raise data.val_share"
        )
    scores = (f"val/{score}/{name}" for score in SCORES[data.task.kind] for name in data.targets)
    known = ["train/loss", "val/loss", *scores]
    if monitor is not None and monitor not in known:
        raise HeartnetError(
            f"checkpoint.monitor={monitor}: there is {', '.join(known)}, or null.{did_you_mean(monitor, known)}"
        )
    better = "min" if monitor is None or monitor.endswith("/loss") or "/mae/" in monitor else "max"
    if monitor is not None and mode != better:
        raise HeartnetError(
            f"checkpoint.monitor={monitor}, checkpoint.mode={mode}: would keep and test the worst epoch; set "
            f"checkpoint.mode={better}"
        )
    if monitor is not None and monitor.startswith("val/") and not monitor.endswith("/loss"):
        _check_defined(monitor, data, every_fold=every_fold)


def _check_defined(monitor: str, data: WeeksDataModule, *, every_fold: bool) -> None:
    """Refuse a score that the validation weeks do not give, as an AUROC where all have the condition."""
    _, score, name = monitor.split("/")
    column = data.values[:, data.targets.index(name)]
    folds = range(data.folds) if every_fold and data.folds else ()
    splits = [(f" of fold {fold + 1} of {data.folds}", data.rows_of_fold(fold)["val"]) for fold in folds]
    for which, rows in splits or [("", data.rows["val"])]:
        known = column[rows][~np.isnan(column[rows])]
        if len(known) and (score == "mae" or len(np.unique(known)) > 1):
            continue
        what = f"all {len(known)} weeks have {name} {known[0]:g}" if len(known) else f"{name} is known of no week"
        fewer = ", make fewer folds" if which else ""
        raise HeartnetError(
            f"checkpoint.monitor={monitor}: in the validation split{which} {what}, so there is no such "
            f"number to choose by; set checkpoint.monitor=val/loss checkpoint.mode=min{fewer}, or raise data.val_share"
        )


def check_resumable(ckpt_path: str, module: HeartnetModule, max_epochs: int | None) -> str | None:
    """Refuse a checkpoint that a run cannot go on from; return what to tell of one with nothing left to do.

    Raises:
        HeartnetError: it cannot be read, is of another run, or has more epochs behind it than `max_epochs`.
    """
    checkpoint = load_checkpoint(Path(ckpt_path))
    module.on_load_checkpoint(checkpoint)
    done, wanted = checkpoint.get("epoch", -1) + 1, max_epochs or math.inf
    if done > wanted > 0:
        raise HeartnetError(
            f"ckpt_path={ckpt_path}: {done} epochs are done, and trainer.max_epochs={wanted}; to train on, "
            f"give the overrides that the run had (in its config.yaml) and trainer.max_epochs above {done}"
        )
    return f"All {done} epochs are done; to train on, raise trainer.max_epochs." if done == wanted else None
