"""Does each score tell its own label best, or that of another head, its opposite, or that of a neighbouring sample?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

SIGMAS = 4.0
"""Standard errors of chance that what is found must exceed, over the heads together: 3 in 100,000."""
_FEWEST = 3
"""People with a label, and without, below which nothing is said of it."""
_SHIFTS = (-2, -1, 1, 2)
_MOST_HEADS = 16
_GAIN = 0.1


@dataclass(frozen=True)
class Heads:
    """How well each score tells each label.

    Attributes:
        area: AUROC of score `i` for label `j`; NaN where too few people are known.
        order: the label that each score tells best, one for each; `0, 1, 2 …` if all is well.
        sigmas: how surely other labels are told among samples alike in the own label, in standard errors of chance.
        opposite: scores that tell the opposite of their label beyond chance.
        shift: by how many samples labels are shifted, if shifted ones are told beyond chance and own ones are not.
        shifted: mean AUROC of the shifted labels.
    """

    area: Float64[np.ndarray, "score label"]
    order: Sequence[int]
    sigmas: float
    opposite: Sequence[int]
    shift: int
    shifted: float


def heads(
    scores: Float[np.ndarray, "sample head"],
    labels: Float[np.ndarray, "sample head"],
    people: Int64[np.ndarray, " sample"] | None = None,
    *,
    classes: bool = False,
) -> Heads | None:
    """Compare scores with labels of their own and other heads; None where there is nothing to compare.

    Args:
        scores: logits; of several samples of one person.
        labels: 1, 0 or NaN (missing), samples in the order of the data.
        people: whose each sample is; by default each is another one's.
        classes: the heads are classes, of which one is true.
    """
    count = scores.shape[1]
    if scores.shape != labels.shape or count > _MOST_HEADS or len(scores) < 2 * _FEWEST:
        return None
    repeated = people is not None and len(np.unique(people)) < len(people)
    if people is not None:
        scores, labels = _by_person(scores, labels, people)
    finite = np.isfinite(scores).all(axis=1)
    scores, labels = scores[finite].astype(float), labels[finite].astype(float)
    enough = np.array([_enough(labels[:, j]) for j in range(count)])
    if not enough.any():
        return None
    which = [int(i) for i in np.flatnonzero(enough)]
    area = np.full((count, count), np.nan)
    for j in which:
        area[:, j] = [auroc(scores[:, i], labels[:, j]) for i in range(count)]
    order, sigmas = _assign(scores if classes else _apart(scores), labels, area, which)
    sure = {i: rank_sum(scores[:, i], labels[:, i]) for i in which}
    opposite = [] if classes else [i for i in which if sure[i] < -SIGMAS and order[i] == i]
    shift, shifted = _shifted(scores, labels, which) if not repeated and max(sure.values()) < 2 else (0, np.nan)
    return Heads(area, order, sigmas, opposite, shift, shifted)


def auroc(scores: Float[np.ndarray, " sample"], labels: Float[np.ndarray, " sample"]) -> float:
    """Return the chance that a positive lies above a negative, ties counting half; NaN if one of them is missing."""
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    above = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(above.mean() / (2 * len(negative)))


def rank_sum(
    scores: Float[np.ndarray, " sample"],
    labels: Float[np.ndarray, " sample"],
    strata: Float[np.ndarray, " sample"] | None = None,
) -> float:
    """Return how far the ranks of positives are above chance, in its standard errors, within strata added up.

    The rank sum of F. Wilcoxon (Biometrics Bulletin 1, 1945), its strata as by P. van Elteren (1960) without weights.
    """
    strata = np.zeros(len(scores)) if strata is None else strata
    above = variance = 0.0
    for value in np.unique(strata[~np.isnan(strata)]):
        one, own = scores[strata == value], labels[strata == value]
        have, lack = int((own == 1).sum()), int((own == 0).sum())
        if have and lack:
            above += (auroc(one, own) - 0.5) * have * lack
            variance += have * lack * (have + lack + 1) / 12
    return above / float(np.sqrt(variance)) if variance > 0 else 0.0


def _by_person(
    scores: Float[np.ndarray, "sample head"],
    labels: Float[np.ndarray, "sample head"],
    people: Int64[np.ndarray, " sample"],
) -> tuple[Float64[np.ndarray, "person head"], Float64[np.ndarray, "person head"]]:
    """Count samples of one person with the same labels once, by their mean score; in the order of the data."""
    keys = np.concatenate([people[:, None], np.nan_to_num(labels, nan=-1)], axis=1)
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    mean = np.zeros((len(first), scores.shape[1]))
    np.add.at(mean, which, scores)
    order = np.argsort(first)
    return (mean / np.bincount(which)[:, None])[order], labels[first][order].astype(np.float64)


def _enough(labels: Float[np.ndarray, " sample"]) -> bool:
    binary = bool(np.isin(labels[~np.isnan(labels)], (0, 1)).all())
    return binary and all(int((labels == value).sum()) >= _FEWEST for value in (0, 1))


def _assign(
    scores: Float[np.ndarray, "sample head"],
    labels: Float[np.ndarray, "sample head"],
    area: Float64[np.ndarray, "score label"],
    which: Sequence[int],
) -> tuple[list[int], float]:
    """Return which label each score tells best, and how surely; heads with too few labels stay where they are.

    Labels may go together, so that a score tells another label by way of its own. Hence the other label has to be told
    among samples that are alike in the own one. The best of all orders is the best of many, which raises the limit.
    """
    own = list(range(len(area)))
    _, best = linear_sum_assignment(-area[np.ix_(which, which)])
    order = own.copy()
    for i, j in zip(which, best.tolist(), strict=True):
        order[i] = which[j]
    moved = [i for i in which if order[i] != i]
    gains = [area[i, order[i]] - area[i, i] for i in moved]
    if not moved or min(gains) <= 0 or float(np.mean(gains)) < _GAIN:
        return own, 0.0
    sure = [rank_sum(scores[:, i], labels[:, order[i]], labels[:, i]) for i in moved]
    sigmas = _together(sure, scores[:, moved], labels[:, [order[i] for i in moved]])
    orders = math.factorial(len(which)) - 1
    limit = float(norm.isf(norm.sf(SIGMAS) / orders))
    return (order if sigmas > limit and min(sure) > 1 else own), sigmas


def _apart(scores: Float[np.ndarray, "sample head"]) -> Float64[np.ndarray, "sample head"]:
    """Return the ranks of each score without what it has in common with the mean of the others."""
    ranks = np.argsort(np.argsort(scores, axis=0), axis=0).astype(float)
    ranks -= ranks.mean(axis=0)
    others = (ranks.sum(axis=1, keepdims=True) - ranks) / max(ranks.shape[1] - 1, 1)
    return np.asarray(ranks - others * (ranks * others).sum(axis=0) / np.maximum((others**2).sum(axis=0), 1e-12))


def _shifted(
    scores: Float[np.ndarray, "sample head"], labels: Float[np.ndarray, "sample head"], which: Sequence[int]
) -> tuple[int, float]:
    """Return by how many samples labels are shifted, and the AUROC of shifted ones; 0 if none is told beyond chance."""
    best, told, surest = 0, float("nan"), SIGMAS
    for shift in _SHIFTS:
        rolled = np.roll(labels, shift, axis=0)
        sure = [rank_sum(scores[:, i], rolled[:, i]) for i in which]
        sigmas = _together(sure, scores[:, which], rolled[:, which])
        if sigmas > surest:
            best, surest = shift, sigmas
            told = float(np.mean([auroc(scores[:, i], rolled[:, i]) for i in which]))
    return best, told


def _together(
    sure: Sequence[float], scores: Float[np.ndarray, "sample some"], labels: Float[np.ndarray, "sample some"]
) -> float:
    """Return the sum of standard scores over its spread by chance.

    Rank sums go together by chance as far as both their scores and their labels do: their correlation is the product.
    """
    order = np.argsort(np.argsort(scores, axis=0), axis=0).astype(float)
    known = np.where(np.isnan(labels), np.nanmean(labels, axis=0), labels)
    both = np.corrcoef(order.T) * np.corrcoef(known.T)
    return float(np.sum(sure) / np.sqrt(max(np.nan_to_num(both).sum(), len(sure))))
