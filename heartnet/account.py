"""The account of a preparation: what came in, what was dropped and why, what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from heartnet.errors import HeartnetError


@dataclass
class Account:
    """Counts by stage and reason, in the order in which they were first noted.

    `entries` maps `(stage, what)` to a count, for example `("values", "dropped: heart rate outside 20–250 bpm")`
    to 17. `examples` keeps, for each reason, up to `max_examples` places (`"hr.csv row 12: '900'"`), so that a
    person can find the row. In each stage, what came `in` less all that begins with `dropped` or `merged` is what is
    `left`. With `strict`, the first bad row is an error.
    """

    entries: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    max_examples: int = 3
    strict: bool = False

    def add(self, stage: str, what: str, count: int, examples: Sequence[str] | None = None) -> None:
        """Add `count` to the entry; a count of 0 leaves the entry visible as 0."""
        key = (stage, what)
        self.entries[key] = self.entries.get(key, 0) + int(count)
        kept = self.examples.setdefault(key, [])
        kept.extend((examples or [])[: self.max_examples - len(kept)])

    def note(self, stage: str, what: str, count: int, examples: Sequence[str] = ()) -> None:
        """Add `count` to the entry, unless it is 0."""
        if count:
            self.add(stage, what, count, examples)

    def bad(self, stage: str, what: str, count: int, examples: Sequence[str]) -> None:
        """Count bad input, if there is any.

        Raises:
            HeartnetError: with `strict`, naming the first example.
        """
        if not count:
            return
        if self.strict:
            raise HeartnetError(f"{examples[0]}: {what} (--strict ends the import at the first bad row)")
        self.note(stage, what, count, examples)

    def count(self, stage: str, what: str) -> int:
        """Return the count of an entry, 0 if it was never noted."""
        return self.entries.get((stage, what), 0)

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        for (stage, what), count in self.entries.items():
            yield stage, what, count

    def as_json(self) -> list[dict[str, Any]]:
        """Return plain rows for the store's manifest."""
        return [
            {"stage": stage, "what": what, "count": count, "examples": self.examples[stage, what]}
            for stage, what, count in self
        ]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, Any]]) -> Account:
        """Return the account that `as_json` wrote."""
        account = cls()
        for row in rows:
            account.add(row["stage"], row["what"], row["count"], row["examples"])
        return account
