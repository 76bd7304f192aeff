"""What a logistic regression on age, sex and BMI says of the weeks that a network was asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Float, Shaped

from heartnet.baselines import baseline_scores, simple_model
from heartnet.datamodule import WeeksDataModule
from heartnet.predictions import NETWORK
from heartnet.scaling import METADATA, metadata_values
from heartnet.tasks import Kind

_FOLDS = 10


def known_weeks(file: Path, target: str) -> pl.DataFrame:
    """Return `user_id`, `week`, `value`, `score`, `wear_hours`, age, sex and BMI of the network's weeks with a known
    target, in the order of the file.

    Args:
        file: with the columns `heartnet.predictions.COLUMNS`.
        target: which.
    """
    rows = pl.scan_parquet(file, glob=False).filter(
        pl.col("model") == NETWORK, pl.col("target") == target, pl.col("value").is_not_null()
    )
    return rows.select("user_id", "week", "value", "score", "wear_hours", *METADATA).collect()


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
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if np.isnan(metadata).all():
        return None
    counts = [len(np.unique(users[value == each])) for each in (0, 1)] if conditions else [len(np.unique(users))]
    folds = min(folds, *counts) if conditions else min(folds, counts[0])
    if folds < 2:
        return None
    kind = StratifiedGroupKFold if conditions else GroupKFold
    scores = np.empty(len(value))
    for train, test in kind(folds, shuffle=True, random_state=0).split(metadata, value, users):
        if conditions and len(np.unique(value[train])) < 2:
            scores[test] = value[train].mean()
            continue
        useful = ~np.isnan(metadata[train]).all(axis=0)
        model = simple_model("metadata", conditions=conditions).fit(metadata[train][:, useful], value[train])
        asked = metadata[test][:, useful]
        scores[test] = model.predict_proba(asked)[:, 1] if conditions else model.predict(asked)
    return scores
