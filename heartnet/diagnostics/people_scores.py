"""One score a person from several weeks: how good is each way to make it, and which is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Float

from heartnet.diagnostics.calibration import offset, slope
from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.within_folds import auroc_within, one_class
from heartnet.people import FALLBACK, LEARNED, WAYS, Way, features, sigmoid
from heartnet.predictions import FOLD
from heartnet.resampling import Interval, Statistic, fewer, intervals, mean

Floats = npt.NDArray[np.float64]

FOLDS = 5
"""Of the cross-fitting: each person is scored by coefficients that the others gave."""

STRICT = 0.99
"""Level of the interval of a difference that a choice rests on: several ways are compared with one."""

OWN = "own"
"""The name of what folds chose each for itself, where that is not one way without coefficients."""

_NONE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class WayScore:
    """How good the scores that a way makes of people are; intervals are from resampling people, and of fewer than
    `FEWEST` people with the condition or without there are none: of three that are ranked rightly each draw is.

    Attributes:
        auroc: with its interval.
        brier: mean of (score − label)².
        slope: of the calibration; below 1 is overconfident (`heartnet.diagnostics.calibration.slope`).
        offset: mean score less the share that has it.
        worse: its Brier score less that of the fallback, on the same people, with an interval of level `STRICT`; below
            0 it is better.
    """

    auroc: Interval
    brier: Interval
    slope: Interval
    offset: Interval
    worse: Interval

    def bare(self) -> WayScore:
        """Return it without intervals."""
        return WayScore(*map(_bare, (self.auroc, self.brier, self.slope, self.offset, self.worse)))


@dataclass(frozen=True)
class PeopleScores:
    """What is known of a condition's scores of people.

    Attributes:
        target: the condition.
        people: whose label is known and the same in all their weeks.
        changing: people whose label changes between weeks; they are left out.
        having, without: how many of `people` have it, and have it not.
        several: how many of `people` have more than one week.
        weeks: of `people`.
        diverged: people among them with a score that is NaN or infinite; if any, nothing below is known.
        week: AUROC of single weeks, each scored by itself.
        ways: by name; `LEARNED` is cross-fitted where its coefficients were not given. Empty with one class only.
        gain: AUROC of people, by the chosen way, less that of single weeks, on the same people.
        chosen: the way.
        taken: the name in `ways` of what was taken: the kind of `chosen`, or `OWN` where folds chose differently.
        validated: whether it was chosen on a validation.
        folds: whether the people are of several folds, and each AUROC is within them.
        one_class: what has to be said where the people are of several folds of which none has both classes, as where
            each person is a fold; each AUROC is then of all people together, and says little. Empty otherwise.
    """

    target: str
    people: int
    changing: int = 0
    having: int = 0
    without: int = 0
    several: int = 0
    weeks: int = 0
    diverged: int = 0
    week: Interval = _NONE
    ways: Mapping[str, WayScore] = field(default_factory=dict)
    gain: Interval = _NONE
    chosen: Way = field(default_factory=Way)
    taken: str = FALLBACK
    validated: bool = True
    folds: bool = False
    one_class: str = ""

    @property
    def few(self) -> bool:
        """Whether there are too few people to compare ways on."""
        return min(self.having, self.without) < FEWEST

    def numbers(self) -> dict[str, float]:
        """Return the numbers by name, with `_low` and `_high`; NaN where there is none."""
        found: dict[str, float] = {}
        several = {"week_auroc": self.week, "gain": self.gain}
        for way, it in self.ways.items():
            several |= {f"{way}_auroc": it.auroc, f"{way}_brier": it.brier, f"{way}_slope": it.slope}
        for name, each in several.items():
            found |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        return found


def people_scores(
    target: str,
    table: pl.DataFrame,
    score: Float[np.ndarray, " week"],
    user: npt.NDArray[np.str_],
    *,
    chosen: Way | Mapping[str, Way | None] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> PeopleScores:
    """Return how good the scores of people are, by each way, and the way that is chosen on them, or was before.

    Of a cross-validation nothing is chosen here: each person's score is made in the way that their fold chose on its
    validation, or by the fallback where it has none. `LEARNED` stands beside it, cross-fitted over people of all folds.
    Each AUROC is one within folds, of pairs of people whom one network scored, if there are any.

    Args:
        target: the condition.
        table: of `heartnet.people.person_table`, its rows of this target.
        score: of single weeks.
        user: whose each of these weeks is, as the table's `user_id`; weeks of others are left out.
        chosen: the way chosen before; None chooses here, with `LEARNED` cross-fitted. Of a cross-validation, by fold
            what it chose, None if nothing; the table then has the column `heartnet.predictions.FOLD`.
        draws: resamples.
        seed: of folds and draws.
    """
    known = table.filter(pl.col("value").is_not_null())
    value = known["value"].to_numpy().astype(np.float64)
    having = int((value == 1).sum())
    bare = PeopleScores(
        target, len(known), int(table["changes"].sum()), having, len(known) - having,
        several=int((known["weeks"] > 1).sum()), weeks=int(known["weeks"].sum()),
        chosen=chosen if isinstance(chosen, Way) else Way(),
        diverged=int((~np.isfinite(known["mean"].to_numpy())).sum()),
    )  # fmt: skip
    if bare.diverged or 0 in (bare.having, bare.without):
        return bare
    scores = _scores(known, value, seed) if chosen is None else {name: Way(name).scores(known) for name in WAYS}
    draws = fewer(draws, len(value))
    validated, of_folds = True, isinstance(chosen, Mapping)
    if isinstance(chosen, Mapping):
        scores = _scores(known, value, seed)
        own, validated = {fold: way or Way() for fold, way in chosen.items()}, any(chosen.values())
        taken, scores[taken] = _of_folds(known, own, scores)
        chosen = Way(taken) if taken in WAYS else Way()
    else:
        if chosen is None:
            chosen = choice(table, draws=draws, seed=seed)
        elif chosen.kind == LEARNED:
            scores[LEARNED] = chosen.scores(known)
        taken = chosen.kind
    fold = known[FOLD].to_numpy() if of_folds else np.zeros(len(known))
    said = ""
    if all(len(np.unique(value[fold == each])) == 1 for each in np.unique(fold)):
        said = one_class(len(np.unique(fold)), len(known))
        fold = np.zeros(len(known))
    ways = {name: _scored(each, scores[FALLBACK], value, fold, draws, seed) for name, each in scores.items()}
    week, gain = _gain(scores[taken], value, fold, known["user_id"].to_numpy(), score, user, draws, seed)
    if bare.few:
        ways, week, gain = {name: way.bare() for name, way in ways.items()}, _bare(week), _bare(gain)
    return replace(
        bare, ways=ways, chosen=chosen, taken=taken, validated=validated, folds=of_folds and not said,
        one_class=said, week=week, gain=gain,
    )  # fmt: skip


def choice(table: pl.DataFrame, *, draws: int = 1000, seed: int = 0) -> Way:
    """Return the way that is chosen on some people: those of the validation, never those it is judged on.

    It is the fallback, unless another way has a Brier score that is lower beyond luck, by the interval of level
    `STRICT` of the difference; of several such it is the one with the lowest. The Brier score counts ranking and
    calibration alike. A bare lowest number would be picked by luck.

    Args:
        table: of `heartnet.people.person_table`, its rows of one target.
        draws: resamples.
        seed: of folds and draws.
    """
    known = table.filter(pl.col("value").is_not_null())
    value = known["value"].to_numpy().astype(np.float64)
    if min((value == 1).sum(), (value == 0).sum()) < FEWEST or not (known["weeks"] > 1).any():
        return Way()
    if not np.isfinite(known["mean"].to_numpy()).all():
        return Way()
    errors = {name: (each - value) ** 2 for name, each in _scores(known, value, seed).items()}
    draws = fewer(draws, len(value))
    better = [name for name, each in errors.items() if _worse(each, errors[FALLBACK], draws, seed).high < 0]
    best = min(better, key=lambda name: float(errors[name].mean()), default=FALLBACK)
    return fitted(features(known), value) if best == LEARNED else Way(best)


def cross_fitted(seen: Float[np.ndarray, "person feature"], value: Floats, seed: int = 0) -> Floats:
    """Return the score of each person by a regression on the others: in `FOLDS` folds, alike in their labels."""
    from sklearn.model_selection import StratifiedKFold

    found = np.empty(len(value))
    for rest, fold in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(seen, value):
        constant, *others = fitted(seen[rest], value[rest]).coefficients
        found[fold] = sigmoid(constant + seen[fold] @ np.array(others))
    return found


def fitted(seen: Float[np.ndarray, "person feature"], value: Floats) -> Way:
    """Return `LEARNED` with the coefficients of a logistic regression (scikit-learn's, its penalty on spreads of 1)."""
    from sklearn.linear_model import LogisticRegression

    centre, spread = seen.mean(axis=0), seen.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    model = LogisticRegression(max_iter=1000).fit((seen - centre) / spread, value)
    slopes = model.coef_[0] / spread
    return Way(LEARNED, (float(model.intercept_[0] - slopes @ centre), *map(float, slopes)))


def _scored(score: Floats, fallback: Floats, value: Floats, fold: npt.NDArray[Any], draws: int, seed: int) -> WayScore:
    people = np.arange(len(value))
    [ranked] = intervals(_row(auroc_within(score, value, fold)), people, value, draws=draws, seed=seed)
    inside = np.clip(score, 1e-7, 1 - 1e-7)
    both = (
        mean((score - value) ** 2), slope(np.log(inside / (1 - inside)), value), offset(score, value)
    )  # fmt: skip
    brier, tilt, off = intervals(
        lambda weights: np.stack([each(weights) for each in both]), people, draws=draws, seed=seed
    )
    worse = _worse((score - value) ** 2, (fallback - value) ** 2, draws, seed)
    return WayScore(ranked, brier, tilt, off, worse)


def _scores(known: pl.DataFrame, value: Floats, seed: int) -> dict[str, Floats]:
    """Return the scores of people by each way, `LEARNED` cross-fitted if there is something to learn from."""
    scores = {name: Way(name).scores(known) for name in WAYS}
    if min((value == 1).sum(), (value == 0).sum()) >= FEWEST and (known["weeks"] > 1).any():
        scores[LEARNED] = cross_fitted(features(known), value, seed)
    return scores


def _worse(error: Floats, fallback: Floats, draws: int, seed: int) -> Interval:
    people = np.arange(len(error))
    [found] = intervals(_row(mean(error - fallback)), people, draws=draws, level=STRICT, seed=seed)
    return found


def _gain(
    person: Floats, value: Floats, fold: npt.NDArray[Any], names: npt.NDArray[np.str_], score: Floats,
    user: npt.NDArray[np.str_], draws: int, seed: int,
) -> tuple[Interval, Interval]:  # fmt: skip
    """Return the AUROC of single weeks, and by how much that of people is higher, on the same people."""
    order = np.argsort(names)
    place = order[np.searchsorted(names, user, sorter=order).clip(max=len(names) - 1)]
    inside = names[place] == user
    place, score = place[inside], score[inside]
    of_people, of_weeks = auroc_within(person, value, fold), auroc_within(score, value[place], fold[place])

    def both(weights: Floats) -> Floats:
        single = of_weeks(weights[place])
        return np.stack([single, of_people(weights) - single])

    week, gain = intervals(both, np.arange(len(names)), value, draws=draws, seed=seed)
    return week, gain


def _of_folds(known: pl.DataFrame, own: Mapping[str, Way], scores: Mapping[str, Floats]) -> tuple[str, Floats]:
    """Return the score of each person in the way of their fold, and its name."""
    kinds = {way.kind for way in own.values()}
    if len(kinds) == 1 and kinds <= set(WAYS):
        return min(kinds), scores[min(kinds)]
    found, fold = np.empty(len(known)), known[FOLD].to_numpy()
    for name, way in own.items():
        found[fold == name] = way.scores(known.filter(pl.col(FOLD) == name))
    return OWN, found


def _bare(it: Interval) -> Interval:
    return Interval(it.value, math.nan, math.nan)


def _row(statistic: Statistic) -> Statistic:
    return lambda weights: statistic(weights)[None]
