"""How well scores of several networks rank weeks, where only weeks that one network scored are compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Shaped

from heartnet.resampling import Statistic, auroc

Floats = npt.NDArray[np.float64]

WITHIN, TOGETHER = "within folds", "all folds together"
"""How weeks of a cross-validation are ranked: with those that the same network scored, or with all."""

EACH_WEEK = "Each week is scored by the network of the fold that had not seen its person."
"""What has to be said of all scores of a cross-validation."""

WITHIN_FIRST = (
    "Within folds only weeks that one network scored are ranked; all folds together rank worse where one fold's "
    "network scores higher throughout than another's."
)
"""Why the AUROC within folds comes first."""

ONE_CLASS = (
    "no fold tests both people with it and people without, so only weeks of different networks can be compared: chance "
    "then lies below 0.5, and the networks' levels blur the ranking"
)
"""What `one_class` begins with."""

_FOLDS, _PEOPLE = 5, 3  # that are proposed, and that each of them is to have
_ROUNDING = 1e-6  # relative: what rounding in 32 bits makes of one score


def one_class(folds: int, people: int) -> str:
    """Return what has to be said where no fold has both classes, as where each person is a fold, and what to do.

    An AUROC of all weeks above 0.5 still tells, one at it or below does not.

    Source: A. Airola and others, "An experimental comparison of cross-validation techniques for estimating the area
    under the ROC curve", Computational Statistics & Data Analysis 55, 2011.

    Args:
        folds: that there are.
        people: in all of them, whose label is known.
    """
    fewer = min(_FOLDS, people // _PEOPLE)
    if 2 <= fewer < folds:
        return f"{ONE_CLASS}; fewer, larger folds tell more, as data.folds={fewer}"
    return f"{ONE_CLASS}; {people} people in {folds} folds are too few: add some with it and some without"


def auroc_within(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], fold: Shaped[np.ndarray, " week"]
) -> Statistic:
    """Return the statistic "share of pairs, one week with it and one without, of one fold, that are ranked rightly".

    The mean of the folds' AUROCs, each weighted by its pairs; ties count half. NaN for a draw in which no fold has both
    classes. Networks of different folds need not score on one scale, and this does not ask it of them; the AUROC of all
    weeks does.

    Source: G. Forman and M. Scholz, "Apples-to-apples in cross-validation studies", ACM SIGKDD Explorations 12, 2010.

    Args:
        score: any monotone score of each network.
        value: 1 or 0.
        fold: which network scored the week.
    """
    places = [np.flatnonzero(fold == each) for each in np.unique(fold)]
    parts = [(auroc(score[place], value[place]), place, value[place] == 1) for place in places]

    def statistic(weights: Floats) -> Floats:
        right, pairs = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for own, place, positive in parts:
            drawn = weights[place]
            count = drawn[positive].sum(axis=0) * drawn[~positive].sum(axis=0)
            right += np.where(count > 0, np.nan_to_num(own(drawn)) * count, 0.0)
            pairs += count
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = right / np.where(pairs > 0, pairs, np.nan)
        return found

    return statistic


def above_all(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], fold: Shaped[np.ndarray, " week"]
) -> Statistic:
    """Return the statistic by how much the AUROC within folds is higher than that of all weeks; as `auroc_within`."""
    inside, all_weeks = auroc_within(score, value, fold), auroc(score, value)
    return lambda weights: inside(weights) - all_weeks(weights)


def on_one_level(
    score: Float[np.ndarray, " week"], fold: Shaped[np.ndarray, " week"], *, spread: bool = False
) -> Float[np.ndarray, " week"]:
    """Return probabilities with the mean logit of each fold moved to that of all weeks, so that folds can be compared.

    No label is looked at. What folds truly differ in is moved away too; on two runs the AUROC of all weeks was then
    within 0.04 of that within folds, where it had been 0.27 off.

    Args:
        score: probabilities; if one is not finite, they are returned as they are.
        fold: which network scored the week.
        spread: whether the logits of each fold get the same standard deviation as well.
    """
    if not np.isfinite(score).all():
        return score
    inside = np.clip(score.astype(np.float64), 1e-12, 1 - 1e-12)
    logit = np.log(inside / (1 - inside))
    place = np.unique(fold, return_inverse=True)[1]
    count = np.bincount(place)
    away = logit - (np.bincount(place, logit) / count)[place]
    if spread:
        own = np.sqrt(np.bincount(place, away**2) / count)
        away *= np.where(own > 0, np.sqrt((away**2).mean()) / np.where(own > 0, own, 1.0), 1.0)[place]
    found: Floats = 1 / (1 + np.exp(-(away + logit.mean())))
    return found


def says_the_same(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], fold: Shaped[np.ndarray, " week"]
) -> Bool[np.ndarray, " week"]:
    """Return which weeks are of a network that gives all of its weeks one score, `[week]`: none of them stands out.

    Of one network alone, or where no fold has both classes, there are none: then all weeks are compared.

    Args:
        score: finite.
        value: 1 or 0.
        fold: which network scored the week.
    """
    found = np.zeros(len(score), dtype=bool)
    places = [np.flatnonzero(fold == each) for each in np.unique(fold)]
    if len(places) > 1 and any(0 < value[place].sum() < len(place) for place in places):
        for place in places:
            found[place] = len(place) > 1 and np.ptp(score[place]) <= _ROUNDING * np.abs(score[place]).max()
    return found


def from_own_level(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], fold: Shaped[np.ndarray, " week"]
) -> tuple[Float[np.ndarray, " week"], dict[int, float]]:
    """Return how far above its network's own level each week is, `[week]`, and by fold the score at that level.

    The logits of each network are taken from the middle between their means with and without, in their standard
    deviation with both counting half, so that neither depends on how many of the fold have it. From the level on as
    many weeks of all folds are called positive as are. So neither a network that scores high, nor one that scores
    steeply, has more weeks far off than others.

    A fold with one class has no such middle. The mean of its logits is put where weeks of its label are, on average, in
    the folds with both, in their mean unit. If no fold has both, all are taken as one.

    Args:
        score: probabilities, finite.
        value: 1 or 0; both are there.
        fold: which network scored the week; none of one that `says_the_same`, which has no level to stand out from.
    """
    inside = np.clip(score, 1e-12, 1 - 1e-12)
    logit = np.log(inside / (1 - inside))
    names = np.unique(fold).tolist()
    middle, unit = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    both = [each for each in names if 0 < value[fold == each].sum() < (fold == each).sum()]
    for each in both:
        has, has_not = (logit[(fold == each) & (value == label)] for label in (1, 0))
        middle[each] = float(has.mean() + has_not.mean()) / 2
        unit[each] = float(np.sqrt((has.var() + has_not.var()) / 2 + ((has.mean() - has_not.mean()) / 2) ** 2)) or 1.0
    usual, inside_both = (logit - _by_fold(middle, fold)) / _by_fold(unit, fold), np.isin(fold, both)
    for each in set(names) - set(both) if both else ():
        mine = fold == each
        unit[each] = float(np.mean([unit[other] for other in both]))
        like = usual[inside_both & (value == value[mine][0])].mean()
        middle[each] = float(logit[mine].mean() - like * unit[each])
    away = (logit - _by_fold(middle, fold)) / _by_fold(unit, fold)
    level = level_of(away, value)
    levels = {each: float(1 / (1 + np.exp(-(middle[each] + level * unit[each])))) for each in names}
    return away - level, levels


def _by_fold(of: Mapping[int, float], fold: Shaped[np.ndarray, " week"]) -> Floats:
    return np.array([of[each] for each in fold.tolist()])


def level_of(score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]) -> float:
    """Return the score from which on as many weeks are called positive as are; there must be one."""
    place = len(score) - int(value.sum())
    return float(np.partition(score, place)[place])
