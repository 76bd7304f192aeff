"""The scores of the rows of `heartnet compare`: intervals over people, the same people for all rows of a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from heartnet.compare_rows import Row, Scored
from heartnet.diagnostics.within_folds import auroc_within, one_class
from heartnet.few_people import too_few
from heartnet.predictions import CEILING, NETWORK
from heartnet.resampling import Interval, Statistic, auroc, by_label, explained, intervals

Floats = npt.NDArray[np.float64]
Folds = npt.NDArray[np.str_] | None
Term = tuple[Scored, str, Folds]
"""A score of all trainings: whose, of which target, and within which folds; None ranks all weeks together."""

Asked = dict[Hashable, tuple[list[Term], list[Term]]]
"""Means over terms, of which those of others may be taken away."""


def plainly_scored(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with their scores, still without intervals."""
    return [row if row.scored is None else _plainly(row, row.scored) for row in rows]


def with_intervals(rows: Sequence[Row], references: Mapping[int, Row], draws: int) -> list[Row]:
    """Return the rows with intervals, and with their differences from the reference of their test weeks.

    People are drawn with replacement, with all their weeks, the same for all rows of a test and all trainings of a row:
    what a draw gives is the mean over trainings, and differences are paired. So other people are in the intervals, and
    other trainings are not.

    Args:
        rows: of `plainly_scored`.
        references: by test; rows of `rows`.
        draws: resamples of people.
    """
    found = list(rows)
    for test in dict.fromkeys(row.test for row in rows if row.mean is not None):
        places = [place for place, row in enumerate(rows) if row.test == test and row.mean is not None]
        told = _of_test([rows[place] for place in places], references.get(test), draws)
        for place, row in zip(places, told, strict=True):
            found[place] = row
    return found


def _plainly(row: Row, scored: Scored) -> Row:
    notes = list(row.notes)
    each: dict[str, Floats] = {}
    pooled: dict[str, Floats] = {}
    within = False
    few: list[str] = []
    unranked: list[str] = []
    for name, value in scored.values.items():
        if np.isnan(value).all():
            continue
        folds = _folds(scored, name)
        within |= folds is not None
        each[name], pooled[name] = _points((scored, name, folds)), _points((scored, name, None))
        people = _people(scored, name)
        if scored.conditions and scored.folds is not None and folds is None and min(people):
            known = ~np.isnan(value)
            notes.append(
                f"{name}: {one_class(len(np.unique(scored.folds[0, known])), len(np.unique(scored.users[known])))}"
            )
        if scored.conditions and row.model == NETWORK and too_few(*people):
            which = few if min(people) else unranked
            which.append(f"{name} ({people[0]}, {people[1]})")
    if unranked:
        notes.append(f"People with and without, nothing to rank: {', '.join(unranked)}.")
    if few:
        where = "of these scores, and of means and differences that they are in"
        notes.append(f"People with and without, too few for an interval {where}: {', '.join(few)}.")
    if not each:
        return row
    return replace(
        row,
        each={name: _bare(one) for name, one in each.items()},
        mean=_bare(_over(each)),
        by_training=tuple(_over(each).tolist()),
        pooled=_bare(_over(pooled)) if within else None,
        within=within,
        notes=tuple(notes),
    )


def _of_test(rows: Sequence[Row], reference: Row | None, draws: int) -> list[Row]:
    """Return rows of the same test weeks with their intervals."""
    scored = [row.scored for row in rows if row.scored is not None]
    names = list(dict.fromkeys(name for row in rows for name in row.each))
    asked: Asked = {}
    for i, (row, own) in enumerate(zip(rows, scored, strict=True)):
        asked["mean", i] = ([(own, name, _folds(own, name)) for name in _defined(row)], [])
        if row.pooled is not None:
            asked["pooled", i] = ([(own, name, None) for name in _defined(row)], [])
        if reference is None or reference.scored is None or row is reference or row.model == CEILING:
            continue
        other, both = reference.scored, [name for name in _defined(row) if name in _defined(reference)]
        asked["difference", i] = [_like(own, other, name) for name in both], [_like(other, own, name) for name in both]
        if row.pooled is not None:
            asked["pooled difference", i] = [(own, name, None) for name in both], [(other, name, None) for name in both]
    if len(names) == 1:
        found = _intervals(asked, scored[0], names[0], draws)
        found |= {("each", names[0], i): found["mean", i] for i in range(len(rows))}
    else:
        found = _intervals(asked, scored[0], None, draws)
        for name in names:
            mine: Asked = {("each", name, i): ([(own, name, _folds(own, name))], []) for i, own in enumerate(scored)}
            found |= _intervals(mine, scored[0], name, draws)
    return [
        replace(
            row,
            mean=found["mean", i],
            each={name: found["each", name, i] for name in row.each},
            pooled=found.get(("pooled", i)),
            difference=found.get(("difference", i)),
            pooled_difference=found.get(("pooled difference", i)),
            difference_by_training=_by_training(row, reference, asked.get(("difference", i))),
            to=reference.name if reference is not None and ("difference", i) in asked else "",
        )
        for i, row in enumerate(rows)
    ]


def _intervals(asked: Asked, scored: Scored, target: str | None, draws: int) -> dict[Hashable, Interval]:
    """Return intervals of means of terms, less those of others, on the same draws.

    Of one target its known weeks are drawn, of a condition as many people with it as there are; of several all weeks.
    An interval of no width, as of a few people who are all ranked rightly, says nothing, and is left out; so is one in
    which a condition takes part that too few people have or have not.
    """
    inside = np.ones(len(scored.users), bool) if target is None else ~np.isnan(scored.values[target])
    users = scored.users[inside]
    strata = by_label(users, scored.values[target][inside]) if target is not None and scored.conditions else None
    terms = {_key(term): term for pair in asked.values() for part in pair for term in part}
    statistics = {key: _statistic(term, inside) for key, term in terms.items()}

    def together(weights: Floats) -> Floats:
        drawn = {key: each(weights).mean(axis=0) for key, each in statistics.items()}

        def over(part: Sequence[Term]) -> Floats:
            return np.mean([drawn[_key(term)] for term in part], axis=0) if part else np.zeros(weights.shape[1])

        return np.stack([over(plus) - over(less) if plus else over(plus) * math.nan for plus, less in asked.values()])

    found = intervals(together, users, strata, draws=draws)
    return {
        key: it if it.low < it.high and not _few(*asked[key]) else _bare(np.array([it.value]))
        for key, it in zip(asked, found, strict=True)
    }


def _few(*parts: Sequence[Term]) -> bool:
    """Say whether too few people have, or have not, a condition of these scores."""
    names = {name: scored for part in parts for scored, name, _ in part if scored.conditions}
    return any(too_few(*_people(scored, name)) for name, scored in names.items())


def _people(scored: Scored, target: str) -> tuple[int, int]:
    """Return how many people have a condition in some week, and have it not in some week."""
    having, without = (len(np.unique(scored.users[scored.values[target] == which])) for which in (1, 0))
    return having, without


def _by_training(row: Row, reference: Row | None, terms: tuple[list[Term], list[Term]] | None) -> tuple[float, ...]:
    """Return the difference of each training from the reference's of the same seed, or else of each from each."""
    if reference is None or terms is None or not terms[0]:
        return ()
    own, other = (_over({name: _points((whose, name, folds)) for whose, name, folds in part}) for part in terms)
    if len(other) > 1 and set(row.seeds) == set(reference.seeds):
        place = {seed: i for i, seed in enumerate(reference.seeds)}
        return tuple((own - other[[place[seed] for seed in row.seeds]]).tolist())
    return tuple((own[:, None] - other).ravel().tolist())


def _folds(scored: Scored, target: str) -> Folds:
    """Return the folds within which a target is scored: none, if no fold has both classes."""
    if scored.folds is None or not scored.conditions:
        return None
    return None if np.isnan(_points((scored, target, scored.folds))).any() else scored.folds


def _like(own: Scored, other: Scored, target: str) -> Term:
    """Return how a target is scored beside another row: within that one's folds, where there are no own ones."""
    return own, target, _folds(own, target) if own.folds is not None else _folds(other, target)


def _defined(row: Row) -> list[str]:
    return [name for name, each in row.each.items() if not math.isnan(each.value)]


def _over(each: Mapping[str, Floats]) -> Floats:
    """Return the mean over those targets that have a score, `[training]`."""
    defined = [one for one in each.values() if not np.isnan(one).any()]
    first = next(iter(each.values()))
    return np.mean(defined, axis=0) if defined else np.full(len(first), math.nan)


def _bare(by_training: Floats) -> Interval:
    return Interval(float(by_training.mean()), math.nan, math.nan)


def _points(term: Term) -> Floats:
    """Return the score of each training, `[training]`."""
    found = _statistic(term)(np.ones((int((~np.isnan(term[0].values[term[1]])).sum()), 1)))
    return found[:, 0]


def _key(term: Term) -> tuple[int, str, int]:
    return id(term[0]), term[1], id(term[2])


def _statistic(term: Term, inside: npt.NDArray[np.bool_] | None = None) -> Callable[[Floats], Floats]:
    """Return the statistic of each training, `[training, draw]`, of draws of the weeks `inside`, or of known ones."""
    scored, target, folds = term
    known = ~np.isnan(scored.values[target])
    value = scored.values[target][known]
    each: list[Statistic] = []
    for training, score in enumerate(scored.scores[target]):
        if not scored.conditions:
            each.append(explained(score[known], value))
        elif folds is None:
            each.append(auroc(score[known], value))
        else:  # those of another row may be of other trainings
            each.append(auroc_within(score[known], value, folds[min(training, len(folds) - 1)][known]))
    own = slice(None) if inside is None else known[inside]
    return lambda weights: np.stack([one(weights[own]) for one in each])
