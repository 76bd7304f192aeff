"""What a search for loss patterns found: the patterns that held, and all that was looked at and tried."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from heartnet.diagnostics.loss_patterns_groups import InAndOut, as_row
from heartnet.diagnostics.loss_patterns_proposals import Clause, words

Pattern = tuple[Clause, ...]


@dataclass(frozen=True)
class LossPattern:
    """A pattern that held on the people kept aside.

    Attributes:
        clauses: what it is.
        scope: the conditions it was found in, together.
        chance: probability of as much on the half kept aside if scores told no more than a fifth less
            (`heartnet.diagnostics.loss_patterns.LESS`), corrected for how many were tried.
        deviation: standard deviations by which scores tell less inside than a fifth less, there; like `chance` with
            the weeks of all other patterns that were tried left out.
        weeks, people: in which it holds, on both halves.
        alike: patterns that say the same, in words, the best first.
        groups: of each condition, those of the scope first, the scores inside and outside, on the half kept aside,
            with the weeks of all other patterns that were tried left out.
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
