"""What a simple model that one trusts makes of the same weeks: is the task too easy, are labels unrelated?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from heartnet.diagnostics.contract_batches import Parts, parts_of
from heartnet.diagnostics.overfit_answers import auroc

_FLAT = 256
"""Inputs of at most so many numbers, all valid, are seen whole, as pictures are; of others the summary."""


@dataclass(frozen=True)
class Simple:
    """What a logistic regression, scored on weeks that it did not see, makes of one target.

    Attributes:
        weeks, positives: known, and of them positive.
        auroc: on weeks left out of the fit, with the half-width of its 95 % interval (Hanley and McNeil 1982).
    """

    weeks: int
    positives: int
    auroc: float
    half_width: float


def features_of(batches: Sequence[Any]) -> Float[np.ndarray, "week feature"] | None:
    """Return simple features of each week: mean, spread and quantiles of each channel over valid readings, and their
    number; or small inputs whole. Metadata stay out. None if there are no inputs of one kind."""
    parts = [parts_of(batch) for batch in batches]
    inputs = [each.inputs for each in parts]
    if any(each is None for each in inputs) or len({each.shape[2] for each in inputs if each is not None}) != 1:
        return None
    shapes = {tuple(each.shape[1:]) for each in inputs if each is not None}
    if len(shapes) == 1 and math.prod(next(iter(shapes))) <= _FLAT and all(each.valid is None for each in parts):
        flat = [each.flatten(1).double().cpu().numpy() for each in inputs if each is not None]
        return np.asarray(np.nan_to_num(np.concatenate(flat), posinf=0, neginf=0))
    return np.concatenate([_summary(each) for each in parts])


def _summary(parts: Parts) -> Float[np.ndarray, "week feature"]:
    assert parts.inputs is not None
    values = parts.inputs.double().cpu().numpy()
    valid = np.ones(values.shape[:2], bool) if parts.valid is None else parts.valid.cpu().numpy()
    found = []
    for week, inside in zip(values, valid, strict=True):
        kept = np.nan_to_num(week[inside], posinf=0, neginf=0)
        kept = kept if len(kept) else np.zeros((1, week.shape[1]))
        found.append(
            [len(kept), *kept.mean(axis=0), *kept.std(axis=0), *np.quantile(kept, (0.1, 0.5, 0.9), axis=0).flat]
        )
    return np.array(found)


def targets_of(batches: Sequence[Any]) -> tuple[Float[np.ndarray, "week target"], bool] | None:
    """Return targets of 0, 1 and NaN, one column a condition, or one a class; and whether they are classes.

    None if there are none, or they are values.
    """
    found = [parts_of(batch).targets for batch in batches]
    if any(each is None for each in found) or len({each.shape[1] for each in found if each is not None}) != 1:
        return None
    table = np.concatenate([each.double().cpu().numpy() for each in found if each is not None])
    known = table[~np.isnan(table)]
    if np.isin(known, (0, 1)).all():
        return table, False
    classes = np.unique(known)
    if table.shape[1] == 1 and len(classes) <= 20 and (classes == np.round(classes)).all() and (classes >= 0).all():
        columns = np.arange(int(classes.max()) + 1)
        return np.where(np.isnan(table), np.nan, (table == columns).astype(float)), True
    return None


def simple_models(
    features: Float[np.ndarray, "week feature"],
    targets: Float[np.ndarray, "week target"],
    people: Sequence[Any] | None = None,
) -> list[Simple | None]:
    """Fit a logistic regression to each target by five-fold cross-validation, all weeks of a person in one fold.

    Returns:
        one a target; None where fewer than ten weeks of a class are known.
    """
    return [_simple(features, column, None if people is None else np.asarray(people)) for column in targets.T]


def _simple(
    features: Float[np.ndarray, "week feature"], target: Float[np.ndarray, " week"], people: Any
) -> Simple | None:
    known = np.flatnonzero(~np.isnan(target))
    label = target[known] > 0.5
    positives, others = int(label.sum()), int((~label).sum())
    if min(positives, others) < 10:
        return None
    score = _left_out(features[known], label, None if people is None else people[known])
    area = auroc(score, label.astype(float))
    return Simple(len(known), positives, area, 1.96 * _error(area, positives, others))


def _left_out(features: Any, label: Bool[np.ndarray, " week"], people: Any) -> Float[np.ndarray, " week"]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    if people is not None and len(set(people)) < len(people):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not converge is only less of a model
        found = cross_val_predict(model, features, label, groups=people, cv=folds, method="decision_function")
    return np.asarray(found, dtype=np.float64)


def _error(area: float, positives: int, others: int) -> float:
    """Standard error of an AUROC (Hanley and McNeil 1982)."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (first - area**2) + (others - 1) * (second - area**2)
    return math.sqrt(max(variance, 0) / (positives * others))


def same_inputs(batches: Sequence[Any]) -> Int[np.ndarray, " week"] | None:
    """Return a number for each week that it shares with those of exactly its inputs; None if there are no inputs."""
    seen: dict[bytes, int] = {}
    found = []
    for batch in batches:
        parts = parts_of(batch)
        if parts.inputs is None:
            return None
        valid = None if parts.valid is None else parts.valid.sum(dim=1).tolist()
        for i, week in enumerate(parts.inputs.cpu()):
            inside = week if valid is None else week[: valid[i]]
            key = inside.contiguous().float().numpy().tobytes()
            if parts.metadata is not None:
                key += parts.metadata[i].cpu().float().numpy().tobytes()
            found.append(seen.setdefault(key, len(seen)))
    return np.array(found, dtype=np.int64)
