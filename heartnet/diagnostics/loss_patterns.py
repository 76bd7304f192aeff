"""What losses have in common that wins have not: proposed on one half of the people, tested on the other.

By hand one sorts by error, looks at the worst, has an idea, and checks that it does not hold in wins as well (M.
Matelis and A. Singh, "Debuggable Deep Learning", 2019: who works out a lot, and who travels). Here ideas are all single
conditions on what is known of weeks, and pairs of those that look best; what looks best on one half is put to the other
half, where nothing was chosen, corrected for how many were. There scores have to tell less by more than a fifth, and on
both halves to rank worse inside than outside: where they lie farther apart, a curve of less steepness can rank better
all the same, and its losses are matched by more wins. Of the device, which is nothing of the person, ranks alone are
asked (`heartnet.diagnostics.loss_patterns_telling`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Float

from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.loss_patterns_found import LossPattern, Pattern, Search
from heartnet.diagnostics.loss_patterns_groups import in_and_out
from heartnet.diagnostics.loss_patterns_proposals import Flags, holds, large_enough, of_recording, proposals, words
from heartnet.diagnostics.loss_patterns_telling import Telling, chance_of, deviation, holm, how_many
from heartnet.resampling import auroc

Floats = npt.NDArray[np.float64]
_Strength = tuple[float, tuple[int, ...]]
"""Standard deviations, and of which conditions."""

LEVEL = 0.02
"""Probability of naming any pattern where there is none in which scores tell less by more than `LESS`."""

LESS = 0.2
"""Share by which scores may tell less inside without that being worth a name. No network is as good everywhere, and of
enough people every small difference is beyond chance."""

MOST_TRIED = 5
"""Patterns put to the half kept aside."""

PROMISING = 3.0
"""Standard deviations on the first half from which a pattern is promising."""

LIVELY = 1.0
"""Standard deviations on the first half, nothing left out, below which a condition is not looked at again."""

TOGETHER = 0.7
"""Standard deviations by which one condition must tell more than all together to be asked alone: the best of several
looks better than it is."""

SAME = 1.64
"""Below it, with the weeks of another pattern left out, a promising pattern has nothing to say of its own."""

LEFT = 1.0
"""Standard deviations up to which what a pair leaves of each of both may show, for the pair to be what matters."""

_PAIRED = 10  # of the best single conditions, each with each
_PASSES = 2  # of choosing each again, beside the others


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
            each = [how_many(self.users[rows & (value == label)], self.people) for label in (0, 1)]
            if min(each) >= FEWEST:
                it = rows & ~np.isnan(value)
                found[place] = Telling(self.scores[it, place], value[it], self.users[it], self.people)
        return found

    def can_tell(self) -> bool:
        return bool(self.conditions(np.ones(len(self.users), dtype=bool)))

    def contributions(
        self, asked: dict[int, Telling], rows: Flags, inside: Flags, *, ranks: bool, less: float = 0.0
    ) -> dict[int, Floats]:
        """Return what each person adds, by condition; of those that say something of the pattern."""
        if not large_enough(inside[rows], self.users[rows]):
            return {}
        each = {
            place: (it.ranks if ranks else it.contributions)(inside[rows & ~np.isnan(self.values[:, place])], less)
            for place, it in asked.items()
        }
        return {place: it for place, it in each.items() if it is not None}

    def ranked_worse(self, scope: Sequence[int], rows: Flags, inside: Flags) -> bool:
        """Return whether the AUROC inside is lower than outside, on average over conditions."""
        lost = []
        for place in scope:
            known = rows & ~np.isnan(self.values[:, place])
            one, other = (self._auroc(place, known & each) for each in (inside, ~inside))
            lost.append(other - one)
        return bool(np.isfinite(lost).any()) and float(np.nanmean(lost)) > 0

    def _auroc(self, place: int, rows: Flags) -> float:
        value = self.values[rows, place]
        if not 0 < value.sum() < len(value):
            return math.nan
        return float(auroc(self.scores[rows, place], value)(np.ones((len(value), 1)))[0])


def _propose(half: _Half) -> tuple[int, list[_Chosen]]:
    """Return how many patterns were looked at, and the best, each chosen with the weeks of all others left out.

    Where several things go wrong, the weeks outside a pattern are no better than those inside until the others are
    left out. So patterns are taken one by one, and each is then chosen again, beside all the others.
    """
    looked = _Looks(half)
    chosen: list[Pattern] = []
    while len(chosen) < MOST_TRIED and (best := looked.best(chosen)) is not None:
        chosen.append(best)
    for _ in range(_PASSES):
        for each in tuple(chosen):
            place = chosen.index(each)
            rest = chosen[:place] + chosen[place + 1 :]
            again = looked.best(rest)
            chosen = rest if again is None else [*rest[:place], again, *rest[place:]]
    asked = len(half.conditions(np.ones(len(half.users), dtype=bool)))
    return len(looked.members) * (asked + (asked > 1)), [
        _Chosen(each, *looked.about(each, [other for other in chosen if other != each])) for each in chosen
    ]


class _Looks:
    """The patterns of a half, and how much each tells with the weeks of some others left out."""

    def __init__(self, half: _Half) -> None:
        self.half = half
        self.singles = _distinct({pattern: holds(pattern, half.weeks) for pattern in proposals(half.weeks)})
        self.members = dict(self.singles)
        self._known: dict[frozenset[Pattern], dict[Pattern, _Strength]] = {}

    def best(self, without: Sequence[Pattern]) -> Pattern | None:
        """Return the most promising pattern, if there is one."""
        found, rows = self._strengths(without), self._rows(without)
        promising = [pattern for pattern, (z, _) in found.items() if z >= PROMISING]
        promising.sort(key=lambda pattern: -found[pattern][0])
        worse = (each for each in promising if self.half.ranked_worse(found[each][1], rows, self.members[each]))
        return next(worse, None)

    def about(self, pattern: Pattern, without: Sequence[Pattern]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return of which conditions a pattern tells, and which others tell the same, in words."""
        found = self._strengths(without)
        rows = self._rows(without)
        scope = self._strength(self.half.conditions(rows), rows, pattern)[1]
        rows = self._rows([*without, pattern])
        asked = self.half.conditions(rows)
        alike = [
            other
            for other, (z, _) in found.items()
            if len(other) == 1 and other != pattern and z >= PROMISING
            and _overlap(self.members[other], self.members[pattern])
            and self._strength(asked, rows, other)[0] < SAME
        ]  # fmt: skip
        alike.sort(key=lambda other: -found[other][0])
        return scope, tuple(words(other) for other in alike[:3])

    def _strengths(self, without: Sequence[Pattern]) -> dict[Pattern, _Strength]:
        """Return them of all single conditions, and of the pairs that are more than each of both."""
        key = frozenset(without)
        if key in self._known:
            return self._known[key]
        rows = self._rows(without)
        asked = self.half.conditions(rows)
        found = {pattern: self._strength(asked, rows, pattern) for pattern in self.singles}
        if not self._known:
            self.singles = {pattern: self.singles[pattern] for pattern, (z, _) in found.items() if z >= LIVELY}
        best = sorted(self.singles, key=lambda pattern: -found[pattern][0])[:_PAIRED]
        for one, other in combinations(best, 2):
            pair, inside = (*one, *other), self.singles[one] & self.singles[other]
            strength = self._strength(asked, rows, pair, inside)
            if not math.isfinite(strength[0]):
                continue
            self.members[pair] = inside
            left = (self._strength(asked, rows, each, self.singles[each] & ~inside)[0] for each in (one, other))
            if strength[0] > max(found[one][0], found[other][0]) and max(left) < LEFT:
                found[pair] = strength
        self._known[key] = found
        return found

    def _rows(self, without: Sequence[Pattern]) -> Flags:
        rows = np.ones(len(self.half.users), dtype=bool)
        for pattern in without:
            rows &= ~self.members[pattern]
        return rows

    def _strength(
        self, asked: dict[int, Telling], rows: Flags, pattern: Pattern, inside: Flags | None = None
    ) -> _Strength:
        """Return that of a pattern, where it holds or, of that, `inside`."""
        inside = self.members[pattern] if inside is None else inside
        return _best(self.half.contributions(asked, rows, inside & rows, ranks=of_recording(pattern)))


def _test(
    half: _Half,
    chosen: list[_Chosen],
    targets: Sequence[str],
    halves: list[_Half],
    so_far: Search,
    draws: int,
    seed: int,
) -> Search:
    members = [holds(it.clauses, half.weeks) for it in chosen]
    asked_of, chances, deviations = [], [], []
    for i, it in enumerate(chosen):
        rows = ~np.logical_or.reduce([np.zeros(len(half.users), dtype=bool), *members[:i], *members[i + 1 :]])
        asked_of.append(rows)
        found = half.contributions(
            half.conditions(rows), rows, members[i] & rows, ranks=of_recording(it.clauses), less=LESS
        )
        total = sum((found[place] for place in it.scope if place in found), np.zeros(half.people))
        asked = total.any() and half.ranked_worse(it.scope, rows, members[i])
        chances.append(chance_of(total, seed=seed) if asked else 1.0)
        deviations.append(deviation(total))
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
                    half.scores[asked_of[i], place],
                    half.values[asked_of[i], place],
                    half.users[asked_of[i]],
                    members[i][asked_of[i]],
                    draws=draws,
                    seed=seed,
                )
                for place in sorted(range(len(targets)), key=lambda place: place not in it.scope)
            ),
        )
        for i, it in enumerate(chosen)
        if corrected[i] <= LEVEL
    ]
    tried = tuple((words(it.clauses), corrected[i]) for i, it in enumerate(chosen))
    return Search(so_far.weeks, so_far.people, so_far.by, so_far.looked_at, tried, tuple(patterns))


def _best(contributions: dict[int, Floats]) -> _Strength:
    """Return the largest deviation, of one condition or of all together, and of which; minus infinity of none."""
    if not contributions:
        return -math.inf, ()
    scopes: dict[tuple[int, ...], Floats] = {(place,): it for place, it in contributions.items()}
    scopes[tuple(contributions)] = sum(contributions.values(), np.zeros(1))
    found = {scope: deviation(it) for scope, it in scopes.items()}
    scope = max(found, key=lambda each: found[each] + TOGETHER * (len(each) == len(contributions)))
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
