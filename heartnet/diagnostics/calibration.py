"""Calibration: of the weeks with a score of 0.3, do three of ten have it? As statistics for resampling people.

Calibration within bins depends on the bins. Here they hold equally many weeks each (adaptive, J. Nixon et al.,
"Measuring calibration in deep learning", CVPR workshops 2019, arXiv:1904.01685): bins of equal width are nearly empty
at high scores of a rare condition. Whatever the bins, what is found is too large, since in each of them luck counts as
miscalibration (J. Bröcker, "Estimating reliability and resolution of probability forecasts through decomposition of
the empirical score", Climate Dynamics 39, 2012; A. Kumar, P. Liang and T. Ma, "Verified uncertainty calibration",
NeurIPS 2019, arXiv:1909.10155), so the squared error is also given less what luck adds. And it is too small where
errors within a bin cancel. What depends on no bins: the Brier score, `slope` and `offset`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int64, Shaped

from heartnet.resampling import Statistic

Floats = npt.NDArray[np.float64]

BINS = 10
"""Bins of equally many weeks; fewer where scores are equal."""

_ITERATIONS = 30
_STEEPEST = 100.0  # slope from which the scores tell the classes apart without any overlap, so that there is none


@dataclass(frozen=True)
class Decomposition:
    """The Brier score, mean of (score − label)², as a sum: `reliability - resolution + uncertainty + within`.

    Source: A. H. Murphy, "A new vector partition of the probability score", Journal of Applied Meteorology 12, 1973;
    `within`, which makes the sum exact for scores that differ within a bin: D. B. Stephenson, C. A. S. Coelho and
    I. T. Jolliffe, "Two extra components in the Brier score decomposition", Weather and Forecasting 23, 2008.

    Attributes:
        brier: the score.
        reliability: mean over bins of (mean score − share that has it)²; 0 is calibrated, luck makes it larger.
        resolution: mean over bins of (share that has it − share of all)²; the larger, the more the scores tell.
        uncertainty: of always saying the base rate.
        within: from scores and labels that go together, and scores that differ, within bins.
        debiased: `reliability` less what luck among as many people adds; it may be below 0, and is 0 on average for
            calibrated scores.
        ece: expected calibration error, mean over bins of |mean score − share that has it|.
        ece_of_luck: the same that calibrated scores would show on as many people.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float
    debiased: float
    ece: float
    ece_of_luck: float


def equal_mass_bins(score: Float[np.ndarray, " week"], most: int = BINS) -> Int64[np.ndarray, " week"]:
    """Return the bin of each week, from 0; as equally filled as can be with equal scores in one bin."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return np.unique((middle * most / len(score)).astype(np.int64), return_inverse=True)[1][place].astype(np.int64)


def decomposition(
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    bins: Int64[np.ndarray, " week"],
) -> Decomposition:
    """Take the Brier score apart.

    Luck in a bin is the variance of its mean residual between people, as in `debiased_error`; for `ece_of_luck` the
    error by luck alone is taken as normal.

    Args:
        score: probabilities.
        value: 1 or 0.
        users: whose week each is.
        bins: of `equal_mass_bins`, or others, numbered from 0.
    """
    number = len(score)
    count = np.bincount(bins).astype(np.float64)
    predicted, observed = np.bincount(bins, score) / count, np.bincount(bins, value) / count
    share, base = count / number, value.mean()
    gap = predicted - observed
    brier = float(((score - value) ** 2).mean())
    reliability = float(share @ gap**2)
    resolution, uncertainty = float(share @ (observed - base) ** 2), float(base * (1 - base))
    luck = _variance_of_means(score - value, users, bins)
    return Decomposition(
        brier=brier,
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within=brier - (reliability - resolution + uncertainty),
        debiased=reliability - float(share @ luck),
        ece=float(share @ abs(gap)),
        ece_of_luck=float(share @ np.sqrt(luck * 2 / np.pi)),
    )


def bin_means(each: Float[np.ndarray, " week"], bins: Int64[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "mean by bin", of labels for example, `[bin, draw]`; NaN for a bin nobody is drawn in."""
    inside = _inside(bins)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            found: Floats = ((inside * each) @ weights) / (inside @ weights)
        return found

    return statistic


def debiased_error(
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    bins: Int64[np.ndarray, " week"],
) -> Statistic:
    """Return the statistic "mean over bins of (mean score − share that has it)², less what luck adds".

    What luck adds to a bin is the variance of its mean residual between people, whose weeks go together. With one week
    a person and equal scores in a bin it is the debiased estimator of Kumar et al. It may be below 0; for calibrated
    scores it is 0 on average. Users have to be drawn with all their weeks.
    """
    inside = _inside(bins)
    _, first, user = np.unique(users, return_index=True, return_inverse=True)
    whose = (np.arange(len(first)) == user[:, None]).astype(np.float64) if len(first) < len(user) else None
    residual, weeks = (part if whose is None else part @ whose for part in (inside * (score - value), inside))
    if whose is None:
        residual, weeks = residual[:, np.argsort(user)], weeks[:, np.argsort(user)]

    def statistic(weights: Floats) -> Floats:
        drawn = weights[first]
        count, people = weeks @ drawn, (weeks > 0) @ drawn
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = (residual @ drawn) / count
            away = residual**2 @ drawn - 2 * gap * ((residual * weeks) @ drawn) + gap**2 * (weeks**2 @ drawn)
            # Of a bin of one person nothing is known of the luck.
            luck = np.where(people > 1, away / count**2 * people / np.maximum(people - 1, 1), 0)
        found: Floats = (np.where(count > 0, gap**2 - luck, 0) * count).sum(axis=0) / count.sum(axis=0)
        return found

    return statistic


def offset(score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "mean score less the share that has it": above 0 the scores are too high as a whole."""

    def statistic(weights: Floats) -> Floats:
        found: Floats = ((score - value) @ weights) / weights.sum(axis=0)
        return found

    return statistic


def slope(logit: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "calibration slope": of a logistic regression of the label on the logit of the score.

    Below 1 the scores are overconfident: differences between logits should be smaller by this factor. Above 1 they are
    underconfident. NaN for a draw in which the regression has no solution: one class only, equal scores, or classes
    that do not overlap.

    Source: D. R. Cox, "Two further applications of a model for binary regression", Biometrika 45, 1958.
    """
    centre, spread = float(np.mean(logit)), float(np.std(logit))
    if not spread > 0:
        return lambda weights: np.full(weights.shape[1], np.nan)
    x = ((logit - centre) / spread)[:, None]
    y = value[:, None]

    def statistic(weights: Floats) -> Floats:
        total = weights.sum(axis=0)
        level, tilt = np.zeros_like(total), np.zeros_like(total)
        step = np.full_like(total, np.inf)
        for _ in range(_ITERATIONS):
            wave = 1 / (1 + np.exp(-np.clip(level + tilt * x, -500, 500)))
            rest, curve = weights * (y - wave), weights * wave * (1 - wave)
            a, b, c = curve.sum(axis=0), (curve * x).sum(axis=0), (curve * x * x).sum(axis=0)
            pull, turn = rest.sum(axis=0), (rest * x).sum(axis=0)
            whole = a * c - b * b
            ok = whole > 1e-12 * total**2
            whole = np.where(ok, whole, 1.0)
            # At most 2 standard deviations of the logits a step: Newton's method overshoots far from the solution.
            up = np.where(ok, np.clip((c * pull - b * turn) / whole, -2, 2), 0.0)
            step = np.where(ok, np.clip((a * turn - b * pull) / whole, -2, 2), np.inf)
            level, tilt = level + up, tilt + np.where(ok, step, 0.0)
            if not (abs(np.where(ok, step, 0.0)) > 1e-9).any():
                break
        having = (weights * y).sum(axis=0)
        solved = (abs(step) < 1e-6) & (abs(tilt) < _STEEPEST) & (having > 0) & (having < total)
        found = np.where(solved, tilt / spread, np.nan)
        return found

    return statistic


def _inside(bins: npt.NDArray[np.int64]) -> Floats:
    """Return `[bin, week]`, 1 where the week lies in the bin."""
    inside: Floats = (np.arange(bins.max(initial=-1) + 1)[:, None] == bins).astype(np.float64)
    return inside


def _variance_of_means(residual: Floats, users: npt.NDArray[np.generic], bins: npt.NDArray[np.int64]) -> Floats:
    """Return the variance, between people, of each bin's mean residual; of a bin of one person it is unknown, so 0."""
    cells, cell = np.unique(np.stack([bins, np.unique(users, return_inverse=True)[1]]), axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    place, weeks = cells[0], np.bincount(cell)
    count, people = np.bincount(place, weeks), np.bincount(place)
    mean = np.bincount(place, np.bincount(cell, residual)) / count
    away = np.bincount(cell, residual) - weeks * mean[place]
    variance: Floats = np.bincount(place, away**2) / count**2 * people / np.maximum(people - 1, 1)
    return variance
