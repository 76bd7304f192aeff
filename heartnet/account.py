"""The account of a preparation: what came in, what was dropped and why, what is left."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Account:
    """Counts by stage and reason, in the order in which they were first noted.

    `entries` maps `(stage, what)` to a count, for example `("readings", "dropped: heart rate outside 20–250 bpm")`
    to 17. `examples` keeps, for each reason, up to `max_examples` places (`"hr.csv row 12: '900'"`), so that a
    person can find the row.
    """

    entries: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    max_examples: int = 3

    def add(self, stage: str, what: str, count: int, examples: list[str] | None = None) -> None:
        """Add `count` to the entry; a count of 0 leaves the entry visible as 0."""
        key = (stage, what)
        self.entries[key] = self.entries.get(key, 0) + int(count)
        kept = self.examples.setdefault(key, [])
        kept.extend((examples or [])[: self.max_examples - len(kept)])

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        for (stage, what), count in self.entries.items():
            yield stage, what, count

    def as_json(self) -> list[dict[str, Any]]:
        """Return plain rows for the store's manifest."""
        return [
            {"stage": stage, "what": what, "count": count, "examples": self.examples[stage, what]}
            for stage, what, count in self
        ]
