"""Labels of the validation split beside those of training, before any step: by a regression on what channels say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from heartnet.diagnostics.contract_batches import parts_of
from heartnet.diagnostics.look_ahead import look_ahead
from heartnet.diagnostics.wiring_heads import heads
from heartnet.diagnostics.wiring_verdicts import wrong_heads
from heartnet.findings import BAD, Finding

_MOST_FEATURES = 256
_MOST_CLASSES = 16
_RIDGE = 1.0


def check_splits(
    train: Sequence[Any],
    val: Sequence[Any],
    count: int,
    people: Int64[np.ndarray, " week"] | None,
    names: Sequence[str],
) -> list[Finding]:
    """Return whether a ridge regression of the training labels tells other labels of the validation split better.

    Args:
        train, val: loaders; the first of each is read, without a trace.
        count: batches of each.
        people: whose each week of the data is, by index; None if nobody knows.
        names: of the labels.
    """
    if not train or not val:
        return []
    one, other = _read(train[0], count), _read(val[0], count)
    if one is None or other is None or one[0].shape[1] != other[0].shape[1] or one[1].shape[1] != other[1].shape[1]:
        return []
    (seen, known, _), (features, labels, index) = one, other
    classes = 0
    if known.shape[1] == 1 and not np.isin(known[~np.isnan(known)], (0, 1)).all():
        classes = _classes(known, labels)
        if classes == 0:
            return []
        known, labels = _one_hot(known, classes), _one_hot(labels, classes)
    scores = _told(seen, known, features)
    whose = None if people is None or index is None else people[index]
    found = heads(scores, labels, whose, classes=classes > 0)
    what = "scores of a regression on each channel's mean and spread, fitted on the training labels,"
    return [each for each in wrong_heads(found, names, what, "val", classes=classes > 0) if each.status in BAD]


def _read(loader: Any, count: int) -> tuple[Any, Any, Any] | None:
    """Return features, labels and index of the samples in some batches of a loader, in the order of the data."""
    features, labels, index = [], [], []
    for _, batch in look_ahead(loader, count):
        parts = parts_of(batch)
        if parts.inputs is None or parts.targets is None or parts.targets.shape[1] > _MOST_CLASSES:
            return None
        values = _features(parts)
        features.append(values)
        labels.append(parts.targets.cpu().double().numpy())
        if parts.index is not None:
            index.append(parts.index.cpu().numpy().astype(np.int64))
    if not features or len({each.shape[1] for each in features}) > 1:
        return None
    if len(index) != len(features):
        return np.concatenate(features), np.concatenate(labels), None
    order = np.argsort(np.concatenate(index), kind="stable")
    return np.concatenate(features)[order], np.concatenate(labels)[order], np.concatenate(index)[order]


def _features(parts: Any) -> Float[np.ndarray, "week feature"]:
    """Return mean, spread, lowest and highest of each channel, and the metadata; of pictures, a few patches."""
    inputs = parts.inputs.double().cpu().numpy()
    inside = np.ones(inputs.shape[:2], bool) if parts.valid is None else parts.valid.cpu().numpy()
    values = np.where(inside[..., None], np.nan_to_num(inputs), 0)
    count = np.maximum(inside.sum(axis=1), 1)[:, None]
    mean = values.sum(axis=1) / count
    spread = np.sqrt(np.maximum((values**2).sum(axis=1) / count - mean**2, 0))
    found = [mean, spread]
    if parts.valid is None:  # all samples are of one size: their values themselves, at most so many
        flat = values.reshape(len(values), -1)
        found.append(flat[:, :: max(-(-flat.shape[1] // _MOST_FEATURES), 1)])
    if parts.metadata is not None:
        found.append(np.nan_to_num(parts.metadata.double().cpu().numpy()))
    return np.concatenate(found, axis=1)


def _told(
    seen: Float[np.ndarray, "some feature"],
    known: Float[np.ndarray, "some label"],
    features: Float[np.ndarray, "week feature"],
) -> Float[np.ndarray, "week label"]:
    """Return what a ridge regression, fitted on labels that are known, says of other weeks."""
    mean, std = seen.mean(axis=0), seen.std(axis=0)
    seen, features = ((each - mean) / np.where(std > 1e-9, std, 1.0) for each in (seen, features))
    scores = np.zeros((len(features), known.shape[1]))
    for j in range(known.shape[1]):
        rows = ~np.isnan(known[:, j])
        x, y = seen[rows], known[rows, j]
        if len(y) > 1:
            ridge = _RIDGE * np.sqrt(len(y)) * np.eye(x.shape[1])
            scores[:, j] = features @ np.linalg.solve(x.T @ x + ridge, x.T @ (y - y.mean()))
    return scores


def _classes(*labels: Float[np.ndarray, "_ 1"]) -> int:
    """Return the number of classes that labels count; 0 if they count none."""
    values = np.concatenate(labels)
    whole = np.isfinite(values).all() and (values == np.round(values)).all() and values.min() >= 0
    return int(values.max()) + 1 if whole and values.max() < _MOST_CLASSES else 0


def _one_hot(labels: Float[np.ndarray, "week 1"], classes: int) -> Float[np.ndarray, "week label"]:
    return np.asarray(np.eye(classes)[labels[:, 0].astype(int)])
