"""Predictions: one row a week, target and model; and the scores that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

if TYPE_CHECKING:
    from heartnet.datamodule import WeeksDataModule

NETWORK = "network"
"""The name of the trained network among the models of a predictions table."""

CEILING = "ceiling"
"""The name of who sees the true traits of simulated people (`heartnet.simulate.ceiling`)."""


def predictions_frame(
    data: WeeksDataModule, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], model: str
) -> pl.DataFrame:
    """Return columns `model`, `user_id`, `start`, `week` (row in the data), `target`, `value` (null: missing), `score`.

    Args:
        data: where the weeks and the targets come from.
        rows: `[row]`, the weeks.
        scores: `[row, target]`, probabilities, or synthetic targets in their unit.
        model: who made them.
    """
    about = (
        data.weeks.table[rows]
        .select("user_id", "start")
        .with_columns(pl.lit(model).alias("model"), pl.Series("week", rows))
    )
    frames = [
        about.with_columns(
            pl.lit(name).alias("target"),
            pl.Series("value", data.values[rows, i], dtype=pl.Float32).fill_nan(None),
            pl.Series("score", scores[:, i], dtype=pl.Float32),
        )
        for i, name in enumerate(data.targets)
    ]
    return pl.concat(frames).select("model", "user_id", "start", "week", "target", "value", "score")


def ceiling_predictions(data: WeeksDataModule, rows: npt.NDArray[np.int64]) -> pl.DataFrame | None:
    """Return what one who sees the true traits predicts; None where the truth is unknown or no condition."""
    from heartnet.simulate.ceiling import ceiling, lacking  # needs torch, without which predictions can be read

    if not data.weeks.simulated or data.task.kind != "conditions" or lacking(data.weeks, data.targets):
        return None
    return predictions_frame(data, rows, ceiling(data.weeks, rows, data.targets).astype(np.float32), CEILING)


def read_predictions(folder: Path) -> pl.DataFrame:
    """Return all predictions in a run's folder and its folds, the network's first."""
    files = sorted(folder.rglob("predictions*.parquet"))
    return pl.concat([pl.read_parquet(file, glob=False) for file in files])


def score_table(predictions: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return one row a target and model, with `weeks`, `users` and the scores.

    Scores are `positive_weeks`, `auroc` and `average_precision` for conditions; `mae` and `r2` for synthetic targets.
    A score that is not defined (one class only; R² of one value only; predictions that are not finite, of a network
    that diverged) is null. Missing targets are left out.
    """
    rows = []
    known = predictions.drop_nulls("value")
    for (target, model), part in known.group_by(["target", "model"], maintain_order=True):
        value, score = part["value"].to_numpy().astype(np.float64), part["score"].to_numpy().astype(np.float64)
        row = {"target": target, "model": model, "weeks": len(part), "users": part["user_id"].n_unique()}
        if not np.isfinite(score).all():
            names = ("auroc", "average_precision") if kind == "conditions" else ("mae", "r2")
            row |= {"positive_weeks": int(value.sum())} if kind == "conditions" else {}
            row |= dict.fromkeys(names)
        elif kind == "conditions":
            both = 0 < value.sum() < len(value)
            row |= {
                "positive_weeks": int(value.sum()),
                "auroc": float(roc_auc_score(value, score)) if both else None,
                "average_precision": float(average_precision_score(value, score)) if both else None,
            }
        else:
            row |= {
                "mae": float(np.abs(value - score).mean()),
                "r2": float(r2_score(value, score)) if value.min() < value.max() else None,
            }
        rows.append(row)
    return pl.DataFrame(rows)
