"""How a network's scores go with those of a model on age, sex and BMI, and how they move from week to week."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Shaped

from heartnet.diagnostics.comparison import Unit, logits_of
from heartnet.resampling import Interval, Statistic, auroc, by_label, fewer, merged_intervals, sum_intervals
from heartnet.tasks import Kind

Floats = npt.NDArray[np.float64]

_NONE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Reliance:
    """What the scatter of the network's score over the metadata model's shows, with intervals.

    They are from resampling people; where weeks were split and not people, from resampling weeks, except those of how
    scores move from week to week, for these are of people.

    Attributes:
        target: its name.
        kind: of the task.
        weeks: of which the target is known.
        users: how many people they are of.
        diverged: weeks whose score is NaN or infinite; if any, nothing below is known.
        by: what was split, and is resampled.
        having, without: of a condition, how many people have it in some week, and have it not in some week; by week,
            how many weeks.
        several: people with several weeks (of the same label, where that changes).
        auroc: the network's, for a condition.
        metadata_auroc: the metadata model's, likewise.
        gain: the first less the second, on the same people.
        rank: Spearman's rank correlation of the two scores.
        given_metadata: partial rank correlation of the network's score with the target, given the metadata score: what
            it knows beyond that.
        given_score: of the metadata score with the target, given the network's: what that leaves out.
        between: spread (standard deviation) between people, less what weeks add to it; of a condition in logits, else
            in the target's unit.
        within: spread between weeks of one person.
        share_within: share of the variance that lies within people: 0 is the same score every week, 1 is as if weeks
            were dealt out among people.
        range: mean over people with several weeks of their highest less their lowest score.
        widest: lowest and highest score of the person with the largest range; NaN without one.
        wear: rank correlation of how far a week's score lies from its person's mean, with the hours worn.
    """

    target: str
    kind: Kind
    weeks: int
    users: int
    diverged: int = 0
    by: Unit = "user"
    having: int = 0
    without: int = 0
    several: int = 0
    auroc: Interval = _NONE
    metadata_auroc: Interval = _NONE
    gain: Interval = _NONE
    rank: Interval = _NONE
    given_metadata: Interval = _NONE
    given_score: Interval = _NONE
    between: Interval = _NONE
    within: Interval = _NONE
    share_within: Interval = _NONE
    range: Interval = _NONE
    widest: tuple[float, float] = (math.nan, math.nan)
    wear: Interval = _NONE

    def numbers(self) -> dict[str, float]:
        """Return the numbers by name, those of intervals with `_low` and `_high`; NaN where there is none."""
        found: dict[str, float] = {}
        for name in (
            "rank", "gain", "given_metadata", "given_score", "between", "within", "share_within", "range", "wear",
        ):  # fmt: skip
            it: Interval = getattr(self, name)
            found |= {name: it.value, f"{name}_low": it.low, f"{name}_high": it.high}
        return found


def reliance(
    target: str,
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    metadata: Float[np.ndarray, " week"] | None,
    *,
    kind: Kind = "conditions",
    by: Unit = "user",
    wear_hours: Float[np.ndarray, " week"] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Reliance:
    """Return how a network's scores go with the metadata model's, and how they move from week to week.

    Args:
        target: its name.
        score: probabilities, or predictions of a synthetic target.
        value: 1 or 0, or the target; known.
        users: whose week each is.
        metadata: the scores of a model on age, sex and BMI; None if there is none.
        kind: of the task.
        by: what was split, and is resampled.
        wear_hours: NaN where unknown; None is unknown.
        draws: resamples; fewer of very many weeks.
        seed: of the draws.
    """
    people, user = np.unique(users, return_inverse=True)
    conditions = kind == "conditions"
    bare = Reliance(target, kind, len(score), len(people), int((~np.isfinite(score)).sum()), by)
    drawn = user if by == "user" else np.arange(len(user))
    if conditions:
        having, without = (len(np.unique(drawn[value == each])) for each in (1, 0))
        bare = replace(bare, having=having, without=without)
    if bare.diverged or not bare.weeks:
        return bare
    options = {"draws": fewer(draws, len(score)), "seed": seed}
    strata = by_label(drawn, value) if conditions else None
    if conditions and bare.having and bare.without:
        arrays = (score, score if metadata is None else metadata, value)
        own, other, gain = merged_intervals(_aurocs, arrays, drawn, strata, **options)
        bare = replace(bare, auroc=own)
        if metadata is not None:
            bare = replace(bare, metadata_auroc=other, gain=gain)
    if metadata is not None:
        arrays = (score, metadata, value)
        rank, given_metadata, given_score = merged_intervals(relations, arrays, drawn, strata, **options)
        bare = replace(bare, rank=rank, given_metadata=given_metadata, given_score=given_score)
    return _from_week_to_week(bare, score, value, user, wear_hours, options)


def relations(
    score: Float[np.ndarray, " week"], metadata: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"]
) -> Statistic:
    """Return the statistic of three: rank correlation of both scores, and the partial rank correlations with the value
    of the first given the second and of the second given the first. NaN where one is constant.

    The partial correlation of ranks is that of what linear regressions on the third one's ranks leave over.
    """
    ranks = [_ranks(each) for each in (score, metadata, value)]

    def statistic(weights: Floats) -> Floats:
        one, two, three = (_standardised(each(weights), weights) for each in ranks)
        both, first, second = ((a * b * weights).sum(axis=0) for a, b in ((one, two), (one, three), (two, three)))
        found: Floats = np.stack([both, _partial(first, both, second), _partial(second, both, first)])
        return found

    return statistic


def components(
    score: Float[np.ndarray, " week"], group: Shaped[np.ndarray, " week"]
) -> tuple[Statistic, Float[np.ndarray, "sum group"]]:
    """Return the statistic of three, spread between groups, spread within them, share of the variance within, and what
    each group adds to the sums that it is made of.

    The variance components of a one-way layout with random effects and unequal groups, by analysis of variance (S. R.
    Searle, G. Casella and C. E. McCulloch, "Variance Components", 1992, chapter 3); below 0 counts as 0. A group drawn
    twice is two groups. NaN without two groups, or without a group of two weeks.

    Args:
        score: of each week.
        group: weeks that should be alike: those of a person, and of one label where that changes.
    """
    _, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
    centred = score - score.mean()
    means = np.bincount(place, centred) / sizes
    inside = np.bincount(place, (centred - means[place]) ** 2)

    def statistic(sums: Floats) -> Floats:
        groups, weeks, squared_sizes, total, squares, within = sums
        with np.errstate(divide="ignore", invalid="ignore"):
            within = np.where(weeks > groups, within / (weeks - groups), np.nan)
            size = (weeks - squared_sizes / weeks) / (groups - 1)
            between = np.maximum(((squares - total**2 / weeks) / (groups - 1) - within) / size, 0)
            found: Floats = np.stack([np.sqrt(between), np.sqrt(within), within / (between + within)])
        return found

    return statistic, np.stack([np.ones(len(sizes)), sizes, sizes**2, sizes * means, sizes * means**2, inside])


def _aurocs(score: Floats, metadata: Floats, value: Floats) -> Statistic:
    """Return the statistic of three: both AUROCs, and the first less the second."""
    one, other = auroc(score, value), auroc(metadata, value)

    def statistic(weights: Floats) -> Floats:
        first, second = one(weights), other(weights)
        return np.stack([first, second, first - second])

    return statistic


def _from_week_to_week(
    bare: Reliance,
    score: Floats,
    value: Floats,
    user: npt.NDArray[np.int64],
    wear_hours: Floats | None,
    options: Mapping[str, Any],
) -> Reliance:
    """Add what is known of the weeks of a person; where a label changes, of its weeks of the same label."""
    group = np.unique(2 * user + ((value == 1) & (bare.kind == "conditions")), return_inverse=True)[1]
    sizes = np.bincount(group)
    several = sizes > 1
    count = len(np.unique(user[several[group]]))
    if not count or len(sizes) < 2:
        return replace(bare, several=count)
    strata = by_label(user, value) if bare.kind == "conditions" else None
    shown = logits_of(score) if bare.kind == "conditions" else score
    lowest, highest = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    np.minimum.at(lowest, group, score)
    np.maximum.at(highest, group, score)
    ranges = highest - lowest

    def of_groups(statistic: Statistic, sums: Floats) -> list[Interval]:
        first = np.unique(group, return_index=True)[1]
        return sum_intervals(statistic, sums, user[first], None if strata is None else strata[first], **options)

    def mean_range(sums: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            found: Floats = (sums[0] / sums[1])[None]
        return found

    between, within, share = of_groups(*components(shown, group))
    wide = np.argmax(ranges)
    bare = replace(
        bare, several=count, between=between, within=within, share_within=share,
        range=of_groups(mean_range, np.stack([ranges, several]).astype(np.float64))[0],
        widest=(float(lowest[wide]), float(highest[wide])),
    )  # fmt: skip
    if wear_hours is None or np.isnan(wear_hours).any():
        return bare
    away = np.abs(shown - (np.bincount(group, shown) / sizes)[group])
    some = several[group]
    own = None if strata is None else strata[some]
    wear = merged_intervals(_rank_correlation, (away[some], wear_hours[some]), user[some], own, **options)
    return replace(bare, wear=wear[0])


def _rank_correlation(one: Floats, other: Floats) -> Statistic:
    """Return the statistic "rank correlation", `[1, draw]`."""
    ranks = _ranks(one), _ranks(other)

    def statistic(weights: Floats) -> Floats:
        first, second = (_standardised(each(weights), weights) for each in ranks)
        found: Floats = (first * second * weights).sum(axis=0)[None]
        return found

    return statistic


def _ranks(values: Floats) -> Statistic:
    """Return the statistic that gives each week its rank among those drawn, ties their mean, `[week, draw]`."""
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=np.inf))
    tied = np.empty(len(values), dtype=np.int64)
    tied[order] = np.searchsorted(ends, np.arange(len(values)))

    def statistic(weights: Floats) -> Floats:
        upto = np.cumsum(weights[order], axis=0)[ends]
        before = np.concatenate([np.zeros((1, upto.shape[1])), upto[:-1]])
        found: Floats = ((upto + before) / 2)[tied]
        return found

    return statistic


def _standardised(ranks: Floats, weights: Floats) -> Floats:
    """Return ranks less their mean, of length 1 under the weights; NaN where all are alike."""
    away = ranks - (ranks * weights).sum(axis=0) / weights.sum(axis=0)
    size = np.sqrt((away**2 * weights).sum(axis=0))
    found: Floats = away / np.where(size > 1e-9, size, np.nan)
    return found


def _partial(wanted: Floats, one: Floats, other: Floats) -> Floats:
    rest = (1 - one**2) * (1 - other**2)
    found: Floats = (wanted - one * other) / np.sqrt(np.where(rest > 1e-12, rest, np.nan))
    return found
