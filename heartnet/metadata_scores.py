"""What a logistic regression on age, sex and BMI says of the weeks that a network was asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Bool, Float, Int64, Shaped

from heartnet.baselines import baseline_scores, simple_model
from heartnet.datamodule import WeeksDataModule
from heartnet.predictions import FOLD, NETWORK
from heartnet.scaling import METADATA, metadata_values
from heartnet.tasks import Kind

_FOLDS = 10


def known_weeks(file: Path, target: str) -> pl.DataFrame:
    """Return `user_id`, `week`, `value`, `score`, `wear_hours`, age, sex and BMI of the network's weeks with a known
    target, in the order of the file; of a cross-validation with the column `heartnet.predictions.FOLD`.

    Args:
        file: with the columns `heartnet.predictions.COLUMNS`.
        target: which.
    """
    rows = pl.scan_parquet(file, glob=False).filter(
        pl.col("model") == NETWORK, pl.col("target") == target, pl.col("value").is_not_null()
    )
    fold = [FOLD] if FOLD in rows.collect_schema() else []
    return rows.select("user_id", "week", "value", "score", "wear_hours", *METADATA, *fold).collect()


def metadata_score(
    table: pl.DataFrame, target: str, kind: Kind, data: WeeksDataModule | None = None
) -> npt.NDArray[np.float64] | None:
    """Return `[week]`: a probability, or for synthetic targets a prediction in the target's unit; None if nothing is
    known of the people, or too little to fit.

    With heartnet's data module the model is fitted on its training split. Of other data nobody knows the training
    split: there it is cross-fitted by user, each week scored by a model that did not see its person.

    Args:
        table: as `known_weeks` returns it.
        target: which.
        kind: of the task.
        data: whose weeks they are.
    """
    if data is not None:
        scores = baseline_scores(data, "metadata", table["week"].to_numpy())
        return None if scores is None else scores[:, data.targets.index(target)].astype(np.float64)
    return crossfitted(
        metadata_values(table),
        table["value"].to_numpy().astype(np.float64),
        table["user_id"].to_numpy().astype(str),
        conditions=kind == "conditions",
    )


def crossfitted(
    metadata: Float[np.ndarray, "week field"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    *,
    conditions: bool,
    folds: int = _FOLDS,
) -> npt.NDArray[np.float64] | None:
    """Return the scores `[week]` of models on the metadata that did not see the week's user; None if that is too few.

    Args:
        metadata: in natural units, NaN where missing.
        value: 1 or 0, or the target.
        users: whose week each is.
        conditions: whether it is logistic regression.
        folds: groups of users, at most; less where fewer users have it, or have it not.
    """
    if np.isnan(metadata).all():
        return None
    counts = [len(np.unique(users[value == each])) for each in (0, 1)] if conditions else [len(np.unique(users))]
    folds = min(folds, *counts) if conditions else min(folds, counts[0])
    if folds < 2:
        return None
    scores, fold = np.empty(len(value)), _dealt(users, value == 1, folds)
    for each in range(folds):
        train, test = fold != each, fold == each
        if conditions and len(np.unique(value[train])) < 2:
            scores[test] = value[train].mean()
            continue
        useful = ~np.isnan(metadata[train]).all(axis=0)
        model = simple_model("metadata", conditions=conditions).fit(metadata[train][:, useful], value[train])
        asked = metadata[test][:, useful]
        scores[test] = model.predict_proba(asked)[:, 1] if conditions else model.predict(asked)
    return scores


def _dealt(
    users: Shaped[np.ndarray, " week"], has: Bool[np.ndarray, " week"], folds: int
) -> Int64[np.ndarray, " week"]:
    """Return the fold of each week: shuffled users are dealt out, those who have it in some week after the others.

    scikit-learn's stratified folds of groups do the same one user at a time, in 2 minutes for 200,000.
    """
    names, user = np.unique(users, return_inverse=True)
    having = np.bincount(user, has, minlength=len(names)) > 0
    order = np.lexsort([np.random.default_rng(0).permutation(len(names)), having])
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    found: npt.NDArray[np.int64] = fold[user]
    return found
