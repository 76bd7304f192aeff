"""What losses have in common that wins have not: proposed on one half of the people, tested on the other.

By hand one sorts by error, looks at the worst, has an idea, and checks that it does not hold in wins as well (M.
Matelis and A. Singh, "Debuggable Deep Learning", 2019: who works out a lot, and who travels). Here ideas are all single
conditions on what is known of weeks, and pairs of those that look best; what looks best on one half is put to the other
half, where nothing was chosen, corrected for how many were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Float

from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.loss_patterns_groups import InAndOut, as_row, in_and_out
from heartnet.diagnostics.loss_patterns_proposals import Clause, Flags, holds, large_enough, proposals, words
from heartnet.diagnostics.loss_patterns_telling import Telling, chance_of, deviation, holm

Floats = npt.NDArray[np.float64]
Pattern = tuple[Clause, ...]

LEVEL = 0.01
"""Probability of naming any pattern where there is none."""

MOST_TRIED = 5
"""Patterns put to the half kept aside."""

PROMISING = 2.5
"""Standard deviations on the first half from which a pattern is promising."""

SAME = 1.64
"""Below it, with the weeks of a better pattern left out, a promising pattern has nothing to say of its own."""

LEFT = 1.0
"""Standard deviations up to which what a pair leaves of each of both may show, for the pair to be what matters."""

_PAIRED = 10  # of the best single conditions, each with each


@dataclass(frozen=True)
class LossPattern:
    """A pattern that held on the people kept aside.

    Attributes:
        clauses: what it is.
        scope: the conditions it was found in, together.
        chance: probability of as much by chance on the half kept aside, corrected for how many were tried.
        deviation: standard deviations by which scores tell less inside, there.
        weeks, people: in which it holds, on both halves.
        alike: patterns that say the same, in words, the best first.
        groups: of each condition of the scope, the scores inside and outside, on the half kept aside.
    """

    clauses: Pattern
    scope: tuple[str, ...]
    chance: float
    deviation: float
    weeks: int
    people: int
    alike: tuple[str, ...] = ()
    groups: tuple[InAndOut, ...] = ()

    @property
    def words(self) -> str:
        return words(self.clauses)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain lists, texts and numbers."""
        return {
            "pattern": self.words,
            "clauses": [asdict(clause) for clause in self.clauses],
            "found_in": list(self.scope),
            "chance": self.chance,
            "deviation": self.deviation,
            "weeks": self.weeks,
            "people": self.people,
            "alike": list(self.alike),
            "kept_aside": [
                {"target": each.target, **as_row(each.inside, "_inside"), **as_row(each.outside, "_outside")}
                for each in self.groups
            ],
        }


@dataclass(frozen=True)
class Search:
    """What was looked at and found.

    Attributes:
        weeks, people: with a known label of any condition and a finite score.
        by: what was split in halves and resampled.
        looked_at: patterns looked at on the one half, over all conditions.
        tried: those put to the other half, in words, with their probabilities, corrected.
        patterns: those that held.
        enough: whether there are people enough to look.
    """

    weeks: int
    people: int
    by: Literal["user", "week"]
    looked_at: int = 0
    tried: tuple[tuple[str, float], ...] = ()
    patterns: tuple[LossPattern, ...] = field(default_factory=tuple)
    enough: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain lists, texts and numbers; null is not defined."""
        return {
            "weeks": self.weeks,
            "people": self.people,
            "enough_people": self.enough,
            "looked_at": self.looked_at,
            "tried": [{"pattern": name, "chance": chance} for name, chance in self.tried],
            "patterns": [each.as_json() for each in self.patterns],
        }


def find_patterns(
    weeks: pl.DataFrame,
    targets: Sequence[str],
    scores: Float[np.ndarray, "week target"],
    values: Float[np.ndarray, "week target"],
    *,
    by: Literal["user", "week"] = "user",
    draws: int = 1000,
    seed: int = 0,
) -> Search:
    """Return the patterns in which scores tell less than elsewhere.

    Args:
        weeks: `user_id` and what is known of each week, by column.
        targets: conditions.
        scores: probabilities; weeks where one is not finite are left out for that condition.
        values: 1 or 0; NaN is unknown.
        by: `week` for data of one person, of whose weeks halves are made.
        draws: resamples for the intervals.
        seed: of the halves, the flips and the draws.
    """
    values = np.where(np.isfinite(scores) & np.isfinite(values), values, np.nan)
    known = np.flatnonzero(~np.isnan(values).all(axis=1))
    names = weeks["user_id"].to_numpy()[known] if by == "user" else known
    users = np.unique(names, return_inverse=True)[1].astype(np.int64)
    people = int(users.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    order = rng.permutation(people)
    place = np.empty(people, np.int64)
    place[order] = np.arange(people)
    halves = [
        _Half(weeks[rows], users[part], scores[rows], values[rows])
        for part in (place[users] % 2 == 0, place[users] % 2 == 1)
        for rows in (known[part],)
    ]
    first, second = halves
    if not (first.can_tell() and second.can_tell()):
        return Search(len(known), people, by, enough=False)
    looked_at, chosen_ones = _propose(first)
    return _test(second, chosen_ones, targets, halves, Search(len(known), people, by, looked_at), draws, seed)


@dataclass(frozen=True)
class _Chosen:
    """A pattern to be tested; `scope` are places of conditions."""

    clauses: Pattern
    scope: tuple[int, ...]
    alike: tuple[str, ...]


class _Half:
    """The weeks of a half of the people; `users` from 0, over both halves."""

    def __init__(self, weeks: pl.DataFrame, users: npt.NDArray[np.int64], scores: Floats, values: Floats) -> None:
        self.weeks, self.scores, self.values = weeks, scores, values
        self.users = np.unique(users, return_inverse=True)[1].astype(np.int64)
        self.people = int(self.users.max(initial=-1)) + 1

    def conditions(self, rows: Flags) -> dict[int, Telling]:
        """Return what is asked of each condition with enough people who have it, and who have it not, by its place."""
        found = {}
        for place in range(self.values.shape[1]):
            value = self.values[:, place]
            each = [len(np.unique(self.users[rows & (value == label)])) for label in (0, 1)]
            if min(each) >= FEWEST:
                it = rows & ~np.isnan(value)
                found[place] = Telling(self.scores[it, place], value[it], self.users[it], self.people)
        return found

    def can_tell(self) -> bool:
        return bool(self.conditions(np.ones(len(self.users), dtype=bool)))

    def contributions(self, asked: dict[int, Telling], rows: Flags, inside: Flags) -> dict[int, Floats]:
        """Return what each person adds, by condition; of those that say something of the pattern."""
        if not large_enough(inside[rows], self.users[rows]):
            return {}
        each = {place: it.contributions(inside[rows & ~np.isnan(self.values[:, place])]) for place, it in asked.items()}
        return {place: it for place, it in each.items() if it is not None}


def _propose(half: _Half) -> tuple[int, list[_Chosen]]:
    """Return how many patterns were looked at, and the best, each chosen with the weeks of those before left out."""
    members = {pattern: holds(pattern, half.weeks) for pattern in proposals(half.weeks)}
    members = _distinct(members)
    rows = np.ones(len(half.users), dtype=bool)
    asked = half.conditions(rows)
    before = {pattern: _best(half.contributions(asked, rows, inside)) for pattern, inside in members.items()}
    singles = sorted(before, key=lambda pattern: -before[pattern][0])[:_PAIRED]
    looked_at = sum(math.isfinite(z) for z, _ in before.values())
    for one, other in combinations(singles, 2):
        inside = members[one] & members[other]
        found = _best(half.contributions(asked, rows, inside))
        looked_at += math.isfinite(found[0])
        left = [_best(half.contributions(asked, rows, members[each] & ~inside))[0] for each in (one, other)]
        if found[0] > max(before[one][0], before[other][0]) and max(left) < LEFT:
            before[(*one, *other)], members[(*one, *other)] = found, inside
    looked_at *= len(asked) + (len(asked) > 1)

    now = {pattern: found for pattern, found in before.items() if found[0] >= PROMISING}
    chosen: list[_Chosen] = []
    while now and len(chosen) < MOST_TRIED:
        best = max(now, key=lambda pattern: now[pattern][0])
        rows = rows & ~members[best]
        asked = half.conditions(rows)
        after = {
            pattern: _best(half.contributions(asked, rows, members[pattern] & rows))
            for pattern in now
            if pattern != best
        }
        alike = [p for p in after if after[p][0] < SAME and len(p) == 1 and _overlap(members[p], members[best])]
        alike.sort(key=lambda pattern: -now[pattern][0])
        chosen.append(_Chosen(best, now[best][1], tuple(words(pattern) for pattern in alike[:3])))
        now = {pattern: found for pattern, found in after.items() if found[0] >= PROMISING}
    return looked_at, chosen


def _test(
    half: _Half,
    chosen: list[_Chosen],
    targets: Sequence[str],
    halves: list[_Half],
    so_far: Search,
    draws: int,
    seed: int,
) -> Search:
    rows = np.ones(len(half.users), dtype=bool)
    chances, deviations, insides = [], [], []
    for it in chosen:
        inside = holds(it.clauses, half.weeks)
        found = half.contributions(half.conditions(rows), rows, inside & rows)
        total = sum((found[place] for place in it.scope if place in found), np.zeros(half.people))
        chances.append(chance_of(total, seed=seed) if total.any() else 1.0)
        deviations.append(deviation(total))
        insides.append(inside & rows)
        rows = rows & ~inside
    corrected = holm(chances)
    patterns = [
        LossPattern(
            it.clauses,
            tuple(targets[place] for place in it.scope),
            corrected[i],
            deviations[i],
            *_touched(it.clauses, halves),
            it.alike,
            tuple(
                in_and_out(
                    targets[place],
                    half.scores[:, place],
                    half.values[:, place],
                    half.users,
                    holds(it.clauses, half.weeks),
                    draws=draws,
                    seed=seed,
                )
                for place in it.scope
            ),
        )
        for i, it in enumerate(chosen)
        if corrected[i] <= LEVEL
    ]
    tried = tuple((words(it.clauses), corrected[i]) for i, it in enumerate(chosen))
    return Search(
        so_far.weeks, so_far.people, so_far.by, so_far.looked_at, tried, tuple(patterns)
    )  # fmt: skip


def _best(contributions: dict[int, Floats]) -> tuple[float, tuple[int, ...]]:
    """Return the largest deviation, of one condition or of all together, and of which; minus infinity of none."""
    if not contributions:
        return -math.inf, ()
    scopes: dict[tuple[int, ...], Floats] = {(place,): it for place, it in contributions.items()}
    scopes[tuple(contributions)] = sum(contributions.values(), np.zeros(1))
    found = {scope: deviation(it) for scope, it in scopes.items()}
    scope = max(found, key=lambda each: found[each])
    return found[scope], scope


def _distinct(members: dict[Pattern, Flags]) -> dict[Pattern, Flags]:
    """Return the patterns without those that hold in the very weeks of one before."""
    seen: dict[bytes, Pattern] = {}
    for pattern, inside in members.items():
        seen.setdefault(np.packbits(inside).tobytes(), pattern)
    return {pattern: members[pattern] for pattern in seen.values()}


def _overlap(one: Flags, other: Flags) -> bool:
    """Return whether at least half of the smaller of both lies in the other."""
    return 2 * int((one & other).sum()) >= min(int(one.sum()), int(other.sum()))


def _touched(clauses: Pattern, halves: Sequence[_Half]) -> tuple[int, int]:
    """Return in how many weeks and people a pattern holds."""
    inside = [holds(clauses, half.weeks) for half in halves]
    people = [len(np.unique(half.users[each])) for half, each in zip(halves, inside, strict=True)]
    return int(sum(each.sum() for each in inside)), sum(people)
