"""Intervals from resampling people: all weeks of a person are drawn together, and models on the same people.

Weeks of one person resemble one another, so an interval from resampling weeks is too narrow by far. An interval from
here says how much a score would vary with other people in the test; the training is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Shaped

Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Takes how often each week was drawn, `[week, draw]`, and returns the score of each draw, `[draw]`, NaN if there is
none; or several scores, `[score, draw]`."""

_CELLS = 1_000_000
"""Weeks times draws worked on at once."""

_MOST_CELLS = 200_000_000  # weeks times draws
_FEWEST_DRAWS = 200

MANY = 4096
"""Weeks above which `merged_intervals` merges them."""

_CELLS_KEPT = 2048  # about as many merged weeks as are worked on
_MOST_UNITS = 10_000  # that are drawn, of very many users: groups of them, whose spread is the same

_GROUPS = 200
"""Of users, left out one after the other to find the acceleration; with fewer users each is one. It is the same number
to expect of any groups, since in a sum of squares or of cubes what independent users have to do with one another is 0
on average."""


@dataclass(frozen=True)
class Interval:
    """A score, and an interval that is to hold the true one; NaN where there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        within = "no interval" if math.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.value:.3f} ({within})"


def interval(
    statistic: Statistic,
    users: Shaped[np.ndarray, " week"],
    strata: Shaped[np.ndarray, " week"] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a score with its interval from resampling users; as `intervals`, for a statistic of one score."""
    return intervals(lambda weights: statistic(weights)[None], users, strata, draws=draws, level=level, seed=seed)[0]


def intervals(
    statistic: Statistic,
    users: Shaped[np.ndarray, " week"],
    strata: Shaped[np.ndarray, " week"] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Return scores with their intervals from resampling users (bias-corrected and accelerated).

    All scores are of the same draws: of two models and their difference, the interval of the difference is a paired
    one. The same users, strata, draws and seed give the same draws, whatever the scores. Draws for which a score is NaN
    are left out of its interval.

    Source: B. Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82, 1987;
    the acceleration from leaving out users, or groups of them, one at a time.

    Args:
        statistic: the scores, `[score, draw]`.
        users: whose week each is.
        strata: of each week, the same for all weeks of a user; as many users of each stratum are drawn as there are.
            `by_label` makes them. None draws from all.
        draws: resamples.
        level: probability that an interval is to hold the truth.
        seed: of the draws.
    """
    _, user = np.unique(users, return_inverse=True)
    values = statistic(np.ones((len(user), 1)))[:, 0]
    count = int(user.max(initial=-1)) + 1
    if count < 2:
        return [Interval(float(value), math.nan, math.nan) for value in values]
    stratum = np.zeros(count, dtype=np.int64)
    if strata is not None:
        stratum[user] = np.unique(strata, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    group = (rng.permutation(count) % min(count, _GROUPS))[user]
    step = max(_CELLS // len(user), 1)
    drawn = [
        statistic(_draw(stratum, min(step, draws - first), rng)[user]) for first in range(0, draws, step)
    ]  # fmt: skip
    groups = np.arange(group.max() + 1)
    left_out = [
        statistic((group[:, None] != groups[first : first + step]).astype(np.float64))
        for first in range(0, len(groups), step)
    ]
    each = zip(values, np.concatenate(drawn, axis=1), np.concatenate(left_out, axis=1), strict=True)
    return [Interval(float(value), *_bca(float(value), some, others, level)) for value, some, others in each]


def merged_intervals(
    make: Callable[..., Statistic],
    arrays: Sequence[Float[np.ndarray, " week"]],
    users: Shaped[np.ndarray, " week"],
    strata: Shaped[np.ndarray, " week"] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Return what `intervals(make(*arrays), users, …)` returns; of more than `MANY` weeks in a fraction of the time.

    For statistics that know only the order of values, such as an AUROC or a rank correlation. The scores are of the
    weeks as they are. What each draw would differ from them by is found on merged weeks: values that are neighbours in
    order become one, in bins of equally many weeks, as narrow as about 2,000 different weeks allow (scores that go with
    one another need fewer); how often a draw has each of these is a sum over users. Of more than 40,000 users, groups
    of users of one stratum are drawn.

    Args:
        make: returns the statistic of some arrays.
        arrays: of finite values.
        users, strata, draws, level, seed: as of `intervals`; users of one stratum each.
    """
    if len(users) <= MANY:
        return intervals(make(*arrays), users, strata, draws=draws, level=level, seed=seed)
    from scipy.sparse import csr_array

    unit, stratum = _units(users, strata, seed)
    cell, values = _merged(arrays)
    count = csr_array((np.ones(len(cell)), (cell, unit)), shape=(len(values[0]), len(stratum)))
    binned = make(*values)
    found = intervals(
        lambda weights: binned(count @ weights), np.arange(len(stratum)), stratum, draws=draws, level=level, seed=seed
    )
    exact = make(*arrays)(np.ones((len(users), 1)))[:, 0].tolist()
    return [
        Interval(value, it.low + value - it.value, it.high + value - it.value)
        for value, it in zip(exact, found, strict=True)
    ]


def sum_intervals(
    statistic: Statistic,
    sums: Float[np.ndarray, "sum part"],
    users: Shaped[np.ndarray, " part"],
    strata: Shaped[np.ndarray, " part"] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Return what `intervals` returns, for scores that only know sums over what was drawn.

    Args:
        statistic: takes sums, `[sum, draw]`.
        sums: what each part of the weeks, such as those of a person, adds to them.
        users: whose part it is; the others as of `intervals`.
    """
    unit, stratum = _units(users, strata, seed)
    each = np.stack([np.bincount(unit, row, minlength=len(stratum)) for row in sums])
    return intervals(
        lambda weights: statistic(each @ weights), np.arange(len(stratum)), stratum, draws=draws, level=level, seed=seed
    )


def fewer(draws: int, weeks: int) -> int:
    """Return how many draws to make: of very many weeks, whose intervals are narrow, fewer than asked for."""
    return min(draws, max(_MOST_CELLS // max(weeks, 1), _FEWEST_DRAWS))


def by_label(users: Shaped[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> Bool[np.ndarray, " week"]:
    """Return strata for a condition: whether the week's user has it in any week.

    So that each draw holds both classes, and the interval speaks of the ranking, which does not depend on how many have
    the condition, not of the luck of how many happen to be drawn. With a rare condition draws without anybody who has
    it would otherwise have to be thrown away.
    """
    names, user = np.unique(users, return_inverse=True)
    has = np.bincount(user, value == 1, minlength=len(names)) > 0
    found: npt.NDArray[np.bool_] = has[user]
    return found


def auroc(score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "area under the ROC curve": ties count half; NaN for a draw with one class.

    Args:
        score: any monotone score.
        value: 1 or 0.
    """
    order = np.argsort(score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.inf))
    group = np.searchsorted(ends, np.arange(len(order)))
    positive = value[order] == 1

    def statistic(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        drawn = weights[order]
        below = np.cumsum(np.where(positive[:, None], 0.0, drawn), axis=0)
        negatives = below[-1]
        below = below[ends]  # negatives up to and with each group of equal scores
        before = np.concatenate([np.zeros((1, below.shape[1])), below[:-1]])
        ahead = (below + before)[group[positive]] / 2
        have = drawn[positive]
        with np.errstate(invalid="ignore"):
            found: npt.NDArray[np.float64] = (have * ahead).sum(axis=0) / (have.sum(axis=0) * negatives)
        return found

    return statistic


def mean(each: Float[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "mean over weeks", of absolute errors, for example."""

    def statistic(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = (each @ weights) / weights.sum(axis=0)
        return found

    return statistic


def explained(score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> Statistic:
    """Return the statistic "share of variance explained", R²; NaN for a draw whose weeks are all alike."""
    # About its mean, so that the variance is no difference of large numbers.
    away = value - value.mean()
    error = (value - score) ** 2

    def statistic(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = weights.sum(axis=0)
        spread = (away**2) @ weights - (away @ weights) ** 2 / total
        with np.errstate(divide="ignore", invalid="ignore"):
            found: npt.NDArray[np.float64] = 1 - (error @ weights) / np.where(spread > 1e-12 * total, spread, np.nan)
        return found

    return statistic


def _units(
    users: Shaped[np.ndarray, " week"], strata: Shaped[np.ndarray, " week"] | None, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return with which unit each week is drawn, and the units' strata: users, or groups of very many."""
    _, first, user = np.unique(users, return_index=True, return_inverse=True)
    stratum = np.zeros(len(first), np.int64) if strata is None else np.unique(strata, return_inverse=True)[1][first]
    if len(stratum) <= 4 * _MOST_UNITS:
        return user, stratum
    order = np.lexsort((np.random.default_rng(seed).random(len(stratum)), stratum))
    size = -(-len(stratum) // _MOST_UNITS)
    place = np.arange(len(order)) - np.searchsorted(stratum[order], stratum[order])  # in its stratum
    begins = place % size == 0
    unit = np.empty(len(order), dtype=np.int64)
    unit[order] = np.cumsum(begins) - 1
    return unit[user], stratum[order[begins]]


def _merged(
    arrays: Sequence[npt.NDArray[np.float64]],
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.float64]]]:
    """Return which merged week each week is, `[week]`, and their values: the numbers of their bins."""
    ranks = [_dense_ranks(each) for each in arrays]
    bins = _CELLS_KEPT
    while True:
        binned = [_bins(rank, upto, bins) for rank, upto in ranks]
        sizes = [int(each.max()) + 1 for each in binned]
        keys, place = np.unique(np.ravel_multi_index(binned, sizes), return_inverse=True)
        if len(keys) <= _CELLS_KEPT or bins == 1:
            return place, [each.astype(np.float64) for each in np.unravel_index(keys, sizes)]
        bins //= 2


def _dense_ranks(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which of the different values each week has, `[week]`, and how many weeks are up to each of these."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return place, np.cumsum(counts)


def _bins(rank: npt.NDArray[np.int64], upto: npt.NDArray[np.int64], bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each week: equally many weeks in each, as far as those of one value stay together."""
    if len(upto) <= bins:
        return rank
    middle = (upto + np.concatenate([[0], upto[:-1]])) / 2
    found = np.cumsum(np.diff((middle * bins / upto[-1]).astype(np.int64), prepend=0) > 0)
    return found[rank]


def _draw(stratum: npt.NDArray[np.int64], draws: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return how often each user is drawn, `[user, draw]`."""
    found = np.empty((len(stratum), draws))
    for each in np.unique(stratum):
        members = np.flatnonzero(stratum == each)
        picked = rng.integers(0, len(members), (draws, len(members))) + len(members) * np.arange(draws)[:, None]
        found[members] = np.bincount(picked.ravel(), minlength=draws * len(members)).reshape(draws, -1).T
    return found


def _bca(
    value: float, drawn: npt.NDArray[np.float64], left_out: npt.NDArray[np.float64], level: float
) -> tuple[float, float]:
    """Return the limits; those of the plain percentiles where the correction is not defined."""
    from scipy.special import ndtr, ndtri

    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if len(drawn) == 0 or math.isnan(value):
        return math.nan, math.nan
    share = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if 0 < share < 1 and len(left_out) > 1:
        away = left_out.mean() - left_out
        size = (away**2).sum() ** 1.5
        acceleration = float((away**3).sum() / (6 * size)) if size > 0 else 0.0
        bias = ndtri(share)
        shifted = bias + ndtri(tails)
        tails = ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 0.1))
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)
