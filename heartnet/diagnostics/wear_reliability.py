"""How far a week's score can be trusted, by the hours that the watch was worn in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Shaped

from heartnet.diagnostics.comparison import FEWEST
from heartnet.resampling import Interval, Statistic, auroc, by_label, intervals

Floats = npt.NDArray[np.float64]

BANDS = 4
"""Bands of wear with equally many weeks each."""

STRICT = 0.99
"""Level of the intervals that a verdict rests on: there are several bands, and two numbers of each."""

NOTABLE_RATIO = 1.25
"""Spread between weeks of one person, as a multiple of that above the band, from which it is notable."""

NOTABLE_LOSS = 0.02
"""AUROC, less than that above the band, from which it is notable."""

_NONE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class WearBand:
    """Weeks with about as many hours of wear.

    Attributes:
        low, high: hours; from `low` up to but not including `high` (the last band: including it).
        weeks, people, having, without: in it; of people, who have it in some of these weeks, or have it not.
        auroc: of its weeks; NaN with fewer than `FEWEST` people with or without it.
        spread: between the logits of one person's weeks: the root mean square distance of a week in the band from the
            mean of the same person's other weeks, wherever these lie, less what these few add (`_distances`).
        loss: AUROC of the weeks above the band less its own, with an interval of level `STRICT`.
        ratio: its spread over that of the weeks above it, likewise.
    """

    low: float
    high: float
    weeks: int
    people: int
    having: int
    without: int
    auroc: Interval = _NONE
    spread: Interval = _NONE
    loss: Interval = _NONE
    ratio: Interval = _NONE

    @property
    def worse(self) -> bool:
        """Whether its scores are less reliable than those of weeks worn longer, beyond luck, and notably so."""
        ranks = self.loss.low > 0 and self.loss.value > NOTABLE_LOSS
        return ranks or (self.ratio.low > 1 and self.ratio.value > NOTABLE_RATIO)


@dataclass(frozen=True)
class WearReliability:
    """What is known of a condition's scores by wear.

    Attributes:
        target: the condition.
        weeks: with a known label and known hours of wear.
        without_wear: weeks with a known label whose wear is unknown; they are left out.
        bands: from little wear to much; empty if wear hardly differs, there are too few weeks, or scores are not
            finite.
    """

    target: str
    weeks: int
    without_wear: int = 0
    bands: tuple[WearBand, ...] = field(default_factory=tuple)

    @property
    def trusted_from(self) -> float | None:
        """Hours from which on no band is worse than what lies above it; None if that holds from the first on."""
        worse = [band.high for band in self.bands if band.worse]
        return max(worse) if worse else None

    @property
    def few(self) -> bool:
        """Whether no band can be compared with another."""
        return not any(math.isfinite(band.loss.low) or math.isfinite(band.ratio.low) for band in self.bands)


def wear_reliability(
    target: str,
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    wear: Float[np.ndarray, " week"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> WearReliability:
    """Return AUROC and spread within people by bands of wear, with intervals of 95 % from resampling people.

    Args:
        target: the condition.
        score: probabilities.
        value: 1 or 0.
        users: whose week each is.
        wear: hours; NaN is unknown.
        draws: resamples.
        seed: of the draws.
    """
    known = np.isfinite(wear)
    bare = WearReliability(target, int(known.sum()), int((~known).sum()))
    score, value, wear = score[known], value[known], wear[known]
    edges = _edges(wear)
    if len(edges) < 3 or not np.isfinite(score).all():
        return bare
    user = np.unique(users[known], return_inverse=True)[1]
    inside = np.clip(score, 1e-13, 1 - 1e-13)
    away = _distances(np.log(inside / (1 - inside)), user)
    place = np.searchsorted(edges[1:-1], wear, side="right")
    bands = []
    for i in range(len(edges) - 1):
        mine, above = place == i, place > i
        bands.append(_band((edges[i], edges[i + 1]), mine, above, (score, value, user, away), draws, seed))
    return WearReliability(target, bare.weeks, bare.without_wear, tuple(bands))


def _edges(wear: Floats) -> Floats:
    """Return the edges of the bands, whole hours where there are enough; two if wear hardly differs."""
    if len(wear) == 0:
        return np.zeros(0)
    cuts = np.quantile(wear, np.linspace(0, 1, BANDS + 1))
    inner = np.round(cuts[1:-1]) if cuts[-1] - cuts[0] >= 4 * BANDS else cuts[1:-1]
    inner = np.unique(inner[(inner > cuts[0]) & (inner < cuts[-1])])
    return np.concatenate([cuts[:1], inner, cuts[-1:]])


def _distances(logit: Floats, user: npt.NDArray[np.int64]) -> Floats:
    """Return the squared distance of each week from the mean of the person's other weeks, NaN where there are none.

    That mean of `n − 1` weeks has luck of its own. If all n weeks are equally noisy, the distance is too large by the
    factor n / (n − 1), by which it is divided.
    """
    count = np.bincount(user)[user].astype(np.float64)
    total = np.bincount(user, logit)[user]
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (total - logit) / (count - 1)
        found: Floats = np.where(count > 1, (logit - others) ** 2 * (count - 1) / count, np.nan)
    return found


def _band(
    ends: tuple[float, float],
    mine: npt.NDArray[np.bool_],
    above: npt.NDArray[np.bool_],
    arrays: tuple[Floats, Floats, npt.NDArray[np.int64], Floats],
    draws: int,
    seed: int,
) -> WearBand:
    score, value, user, away = arrays
    people, having, without = (len(np.unique(user[mine & mark])) for mark in (True, value == 1, value == 0))
    found: dict[str, Interval] = {}
    if _enough(user, value, mine):
        own = _among(auroc(score[mine], value[mine]), mine)
        [found["auroc"]] = intervals(_row(own), user, by_label(user, value), draws=draws, seed=seed)
        if _enough(user, value, above):
            other = _among(auroc(score[above], value[above]), above)
            [found["loss"]] = intervals(
                lambda weights: (other(weights) - own(weights))[None], user, by_label(user, value), draws=draws,
                level=STRICT, seed=seed,
            )  # fmt: skip
    several = np.isfinite(away)
    if len(np.unique(user[several & mine])) >= FEWEST:
        own_spread = _root_mean(away, several & mine)
        [found["spread"]] = intervals(_row(own_spread), user, draws=draws, seed=seed)
        if len(np.unique(user[several & above])) >= FEWEST and found["spread"].value > 0:
            other_spread = _root_mean(away, several & above)

            def ratio(weights: Floats) -> Floats:
                with np.errstate(invalid="ignore", divide="ignore"):
                    quotient: Floats = (own_spread(weights) / other_spread(weights))[None]
                return quotient

            [found["ratio"]] = intervals(ratio, user, draws=draws, level=STRICT, seed=seed)
    return WearBand(ends[0], ends[1], int(mine.sum()), people, having, without, **found)


def _enough(user: npt.NDArray[np.int64], value: Floats, which: npt.NDArray[np.bool_]) -> bool:
    return all(len(np.unique(user[which & (value == label)])) >= FEWEST for label in (0, 1))


def _among(statistic: Statistic, which: npt.NDArray[np.bool_]) -> Statistic:
    return lambda weights: statistic(weights[which])


def _root_mean(squares: Floats, which: npt.NDArray[np.bool_]) -> Statistic:
    chosen = squares[which]

    def statistic(weights: Floats) -> Floats:
        drawn = weights[which]
        with np.errstate(invalid="ignore"):
            found: Floats = np.sqrt((chosen @ drawn) / drawn.sum(axis=0))
        return found

    return statistic


def _row(statistic: Statistic) -> Statistic:
    return lambda weights: statistic(weights)[None]
