"""Predictions: one row a week, target and model; what their columns are; and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Float

from heartnet.diagnostics.within_folds import EACH_WEEK, TOGETHER, WITHIN, WITHIN_FIRST, auroc_within, one_class
from heartnet.errors import HeartnetError
from heartnet.features import HABITS, HOURLY_SUMMARY, habits, hourly_summary
from heartnet.folders import parts_of
from heartnet.weeks import Weeks

if TYPE_CHECKING:
    from heartnet.datamodule import WeeksDataModule

NETWORK = "network"
"""The name of the trained network among the models of a predictions table."""

CEILING = "ceiling"
"""The name of who sees the true traits of simulated people (`heartnet.simulate.ceiling`)."""

PREDICTED: dict[str, Any] = {
    "model": pl.String,
    "user_id": pl.String,
    "start": pl.Datetime("us"),
    "week": pl.Int64,
    "target": pl.String,
    "value": pl.Float32,
    "score": pl.Float32,
}
"""What every predictions table has; the models of a run are compared by it.

`model`: `NETWORK`, `CEILING` or a baseline. `start`: of the week, local time. `week`: row in the data. `target`: a
condition or a synthetic target. `value`: 1 has the condition, 0 has it not; or the synthetic target in its unit
(`heartnet.synthetic.TARGETS`); null is unknown. `score`: a probability, or a prediction in the target's unit.
"""

KNOWN: dict[str, Any] = {
    "split": pl.String,
    "logit": pl.Float32,
    "age": pl.Float32,
    "sex": pl.String,
    "bmi": pl.Float32,
    "device": pl.String,
    "wear_hours": pl.Float32,
    "readings": pl.Int64,
    **dict.fromkeys(HABITS, pl.Float32),
    **dict.fromkeys(HOURLY_SUMMARY, pl.Float32),
}
"""What the network's predictions have besides, of the callback `predictions` and of `heartnet predict`.

`split`: `train`, `val` or `test`; null is none of a run's. `logit`: what the network said, before the sigmoid; null for
synthetic targets. `age`: years. `sex`: `female`, `male`. `bmi`: kg/m². `device`: as the data names it. `wear_hours`:
hours worn in the week. `readings`: rows of the week. Then how the week was measured, exercised, travelled and slept, in
the units of `heartnet.features.HABITS_UNITS`. The others, mean and spread over the week of what is known of each hour,
in the units of `heartnet.hourly.HOURLY_UNITS`. Null is unknown.
"""

COLUMNS: dict[str, Any] = PREDICTED | KNOWN
"""The columns there always are, in their order, with their types, as `heartnet.prediction_file.PredictionFile` writes
them. After them come those that an adapter knows besides (`heartnet.predicted.Predicted.known`): Float64, or String."""

FOLD = "fold"
"""The column, a String, that the predictions of a whole cross-validation have besides: the fold whose network it was,
as its folder is called."""

_TAKEN = frozenset({"place", "row"})

FILES = {"val": "val_predictions.parquet", "test": "predictions.parquet"}
"""Where a run's folder keeps the network's predictions. What begins with `predictions` is of the test."""


def known_of(weeks: Weeks, rows: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Return one row a week: who it is of, where it stands, and what else is known of it, as in `COLUMNS`."""
    summary = pl.from_numpy(hourly_summary(weeks, rows), schema=list(HOURLY_SUMMARY))
    columns = ("user_id", "start", "age", "sex", "bmi", "device", "wear_hours", "readings")
    table = weeks.table[rows].select(columns).with_columns(pl.Series("week", rows, dtype=pl.Int64))
    how = pl.from_numpy(habits(weeks, rows), schema=list(HABITS))
    return pl.concat([table, how.fill_nan(None), summary.fill_nan(None)], how="horizontal")


def prediction_rows(
    known: pl.DataFrame,
    targets: Sequence[str],
    scores: Float[np.ndarray, "week target"],
    values: Float[np.ndarray, "week target"] | None = None,
    logits: Float[np.ndarray, "week target"] | None = None,
    split: str | Sequence[str | None] | None = None,
) -> pl.DataFrame:
    """Return the network's predictions with all of `COLUMNS`, the targets of a week one after the other.

    Args:
        known: one row a week; columns it lacks are null, those that are not in `COLUMNS` come after them.
        targets: names.
        scores: probabilities, or targets in their unit.
        values: NaN is unknown; None is unknown for all.
        logits: None if there are none.
        split: of all weeks, or of each.

    Raises:
        HeartnetError: what stands in a column is of another type, or a column has a name that cannot be used.
    """
    given = [name for name in known.columns if name not in ("model", "split")]
    further = [name for name in given if name not in COLUMNS]
    if taken := _TAKEN.intersection(further):
        raise HeartnetError(f"predictions: a column is called {min(taken)!r}, which is used here; give it another name")
    weeks = known.select(
        pl.lit(NETWORK).alias("model"),
        pl.lit(split).alias("split") if split is None or isinstance(split, str) else pl.Series("split", split),
        *given,
    )
    frames = [
        weeks.with_columns(
            pl.lit(name).alias("target"),
            pl.lit(i).alias("place"),
            pl.int_range(pl.len()).alias("row"),
            *(
                pl.lit(None).alias(column) if each is None else pl.Series(column, each[:, i]).fill_nan(None)
                for column, each in (("value", values), ("logit", logits))
            ),
            pl.Series("score", scores[:, i]),
        )
        for i, name in enumerate(targets)
    ]
    rows = pl.concat(frames).sort("row", "place")
    try:
        return rows.select(
            *(
                (pl.col(name) if name in rows.columns else pl.lit(None).alias(name)).cast(dtype)
                for name, dtype in COLUMNS.items()
            ),
            *(pl.col(name).cast(pl.Float64 if rows[name].dtype.is_numeric() else pl.String) for name in further),
        ).with_columns(pl.col(pl.Float32, pl.Float64).exclude("score", "logit").fill_nan(None))
    except pl.exceptions.PolarsError as error:
        raise HeartnetError(f"predictions: a column is of another type than expected: {error}") from error


def predictions_frame(
    data: WeeksDataModule, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], model: str
) -> pl.DataFrame:
    """Return the columns `PREDICTED` of a model.

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
    return pl.concat(frames).select(*PREDICTED)


def ceiling_predictions(data: WeeksDataModule, rows: npt.NDArray[np.int64]) -> pl.DataFrame | None:
    """Return what one who sees the true traits predicts; None where the truth is unknown or no condition."""
    from heartnet.simulate.ceiling import ceiling, lacking  # needs torch, without which predictions can be read

    if not data.weeks.simulated or data.task.kind != "conditions" or lacking(data.weeks, data.targets):
        return None
    return predictions_frame(data, rows, ceiling(data.weeks, rows, data.targets).astype(np.float32), CEILING)


def prediction_files(folder: Path) -> list[Path]:
    """Return the files of a run's test predictions, the network's first: its own, and those of its folds that it has
    not put together."""
    files = [file for part in parts_of(folder) for file in part.glob("predictions*.parquet")]
    files = sorted(files, key=lambda file: (file.name, len(file.parts), file))
    own = {file.name for file in files if file.parent == folder}
    return [file for file in files if file.parent == folder or file.name not in own]


def read_predictions(folder: Path) -> pl.DataFrame:
    """Return the columns `PREDICTED` and `FOLD` of all test predictions of a run, the network's first.

    The fold is the name of its folder; null where one network scored all weeks.
    """
    frames = []
    for file in prediction_files(folder):
        frame = with_fold(pl.read_parquet(file, glob=False), file, folder)
        frames.append(frame.select(name for name in (*PREDICTED, FOLD) if name in frame.columns))
    return pl.concat(frames)


def with_fold(frame: pl.DataFrame, file: Path, folder: Path) -> pl.DataFrame:
    """Return predictions of `file` with their `FOLD`, which of a fold's own file is the name of its folder."""
    if FOLD in frame.columns:
        return frame
    name = None if file.parent == folder else file.parent.relative_to(folder).as_posix()
    return frame.with_columns(pl.lit(name, pl.String).alias(FOLD))


def scored_weeks(file: Path, target: str, without: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """Return `user` and `fold` (a number each), `value` and `score`, `[week]` each, of the network's weeks with a known
    target; of a run without folds all are of one.

    Read a target at a time, of a file of whatever size, and only these columns.

    Args:
        file: with all of `COLUMNS`.
        target: which.
        without: splits that are left out.
    """
    rows = pl.scan_parquet(file, glob=False).filter(
        pl.col("model") == NETWORK,
        pl.col("target") == target,
        pl.col("value").is_not_null(),
        pl.col("split").is_in(without).fill_null(False).not_(),
    )
    fold = pl.col(FOLD).rank("dense").fill_null(0) if FOLD in rows.collect_schema() else pl.lit(1)
    found = rows.select(
        pl.col("user_id").rank("dense").alias("user"), fold.alias("fold"), "value", "score"
    ).collect()  # fmt: skip
    return {
        "user": found["user"].to_numpy().astype(np.int64),
        "fold": found["fold"].to_numpy().astype(np.int64),
        "value": found["value"].to_numpy().astype(np.float64),
        "score": found["score"].fill_null(float("nan")).to_numpy().astype(np.float64),
    }


def aurocs_within(predictions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return the AUROC within folds by condition and model, of predictions of a cross-validation.

    NaN where no fold has both classes. Of models with scores that are not finite there is nothing, nor of synthetic
    targets, nor of a run of one network.

    Args:
        predictions: of `read_predictions`.
    """
    known = predictions.drop_nulls(("value", FOLD))
    if known[FOLD].n_unique() < 2 or not known["value"].is_in([0.0, 1.0]).all():
        return {}
    found: dict[str, dict[str, float]] = {}
    for (target, model), part in known.group_by("target", "model", maintain_order=True):
        score, value = (part[name].to_numpy().astype(np.float64) for name in ("score", "value"))
        if np.isfinite(score).all():
            within = auroc_within(score, value, part[FOLD].to_numpy())
            found.setdefault(str(target), {})[str(model)] = float(within(np.ones((len(value), 1)))[0])
    return found


def score_tables(predictions: pl.DataFrame, kind: str) -> dict[str, pl.DataFrame]:
    """Return `score_table` by how weeks are ranked, in the order in which they are to be read.

    Of one network there is one table, under an empty name. Of the networks of a cross-validation `WITHIN` leads, with
    `auroc` alone, where any fold has both classes; then comes `TOGETHER`.

    Args:
        predictions: as `read_predictions` returns them.
        kind: `"conditions"` or `"synthetic"`.
    """
    whole = score_table(predictions, kind)
    if predictions.drop_nulls("value")[FOLD].drop_nulls().n_unique() < 2:
        return {"": whole}
    found = aurocs_within(predictions)
    aurocs = [found.get(target, {}).get(model) for target, model in whole.select("target", "model").iter_rows()]
    own = pl.Series("auroc", aurocs, dtype=pl.Float64).fill_nan(None)
    if own.is_null().all():
        return {TOGETHER: whole}
    return {WITHIN: whole.drop("average_precision").with_columns(own), TOGETHER: whole}


def fold_notes(predictions: pl.DataFrame) -> list[str]:
    """Return what one has to know of scores of a cross-validation; nothing of another run.

    Args:
        predictions: as `read_predictions` returns them.
    """
    if predictions[FOLD].null_count() == len(predictions):
        return []
    found = {target: [each == each for each in it.values()] for target, it in aurocs_within(predictions).items()}
    first = f"{EACH_WEEK} {WITHIN_FIRST}" if any(map(any, found.values())) else EACH_WEEK
    counts = predictions.drop_nulls("value").group_by("target").agg(pl.col("value", FOLD, "user_id").n_unique())
    by_target = {row["target"]: row for row in counts.iter_rows(named=True)}
    alone = [by_target[target] for target, told in found.items() if not any(told)]
    said = [f"{it['target']}: {one_class(it[FOLD], it['user_id'])}." for it in alone if it["value"] > 1]
    return [first, *said]


def score_table(predictions: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return one row a target and model, with `weeks`, `users` and the scores.

    Scores are `positive_weeks`, `auroc` and `average_precision` for conditions; `mae` and `r2` for synthetic targets.
    A score that is not defined (one class only; R² of one value only; predictions that are not finite, of a network
    that diverged) is null. Missing targets are left out.
    """
    from sklearn.metrics import average_precision_score, r2_score, roc_auc_score  # takes a while

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
