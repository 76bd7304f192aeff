"""ROC, precision-recall and histograms of scores, as statistics whose intervals come from resampling people."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from heartnet.resampling import Statistic

Floats = npt.NDArray[np.float64]


def roc_curve(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], at: Float[np.ndarray, " point"]
) -> Statistic:
    """Return the statistic "share of the weeks with it that score above the threshold" at given false-alarm shares.

    The curve is straight between thresholds, so that ties count half, as in the AUROC; where it rises straight up, the
    upper end counts. NaN for a draw with one class.

    Args:
        score: any monotone score.
        value: 1 or 0.
        at: share of the weeks without it that score above the threshold, from 0 to 1.
    """
    ranked = _Ranked(score, value)

    def statistic(weights: Floats) -> Floats:
        true, false = ranked.above(weights)
        return _each_draw(lambda x, y: np.interp(at, x, y), _share(false), _share(true), len(at))

    return statistic


def precision_recall_curve(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], at: Float[np.ndarray, " point"]
) -> Statistic:
    """Return the statistic "share with it among those above the threshold" at given recalls.

    At each recall stands the highest threshold that reaches it, without interpolation, so that the area under the
    steps is the average precision. NaN for a draw without anybody who has it.

    Args:
        score: any monotone score.
        value: 1 or 0.
        at: share of the weeks with it that score above the threshold, above 0 and up to 1.
    """
    ranked = _Ranked(score, value)

    def statistic(weights: Floats) -> Floats:
        true, false = ranked.above(weights)
        with np.errstate(invalid="ignore"):
            precision = true / (true + false)
        # What is a recall of 0.3 must not miss 0.30000000000000004.
        return _each_draw(
            lambda x, y: y[np.minimum(np.searchsorted(x, at - 1e-12), len(x) - 1)], _share(true), precision, len(at)
        )

    return statistic


def average_precision(score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "average precision", the area under the steps of precision over recall, as scikit-learn's.

    NaN for a draw without anybody who has it.
    """
    ranked = _Ranked(score, value)

    def statistic(weights: Floats) -> Floats:
        true, false = ranked.above(weights)
        total = true + false
        precision = np.divide(true, total, out=np.zeros_like(true), where=total > 0)
        with np.errstate(invalid="ignore"):
            found: Floats = (np.diff(true, axis=0) * precision[1:]).sum(axis=0) / true[-1]
        return found

    return statistic


def histogram(
    score: Float[np.ndarray, " week"], chosen: Float[np.ndarray, " week"], edges: Float[np.ndarray, " edge"]
) -> Statistic:
    """Return the statistic "share of the chosen weeks whose score lies in each bin"; NaN for a draw without any.

    Args:
        score: the scores; a score on an edge lies above it, on the last one below.
        chosen: 1 or 0.
        edges: of the bins, rising; a score beyond the ends lies in no bin.
    """
    bins = len(edges) - 1
    place = np.where(score == edges[-1], bins - 1, np.searchsorted(edges, score, side="right") - 1)
    inside = (np.arange(bins)[:, None] == place) * chosen

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            found: Floats = (inside @ weights) / (chosen @ weights)
        return found

    return statistic


class _Ranked:
    """Weeks by falling score, those with equal scores together."""

    def __init__(self, score: Floats, value: Floats) -> None:
        self.order = np.argsort(-score, kind="stable")
        self.ends = np.flatnonzero(np.diff(score[self.order], append=np.nan) != 0)
        self.positive = (value[self.order] == 1)[:, None]

    def above(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return how many with it, and how many without, score at or above each threshold; first above them all."""
        drawn = weights[self.order]
        start = np.zeros((1, drawn.shape[1]))
        true, false = (
            np.concatenate([start, np.cumsum(np.where(which, drawn, 0.0), axis=0)[self.ends]])
            for which in (self.positive, ~self.positive)
        )
        return true, false


def _share(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        found: Floats = counts / counts[-1]
    return found


def _each_draw(read: object, x: Floats, y: Floats, points: int) -> Floats:
    found = np.full((points, x.shape[1]), np.nan)
    for draw in np.flatnonzero(np.isfinite(x[-1]) & np.isfinite(y[-1])):
        found[:, draw] = read(x[:, draw], y[:, draw])  # type: ignore[operator]
    return found
