"""A line of the table of benchmarks, and how lines are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One thing measured, ours and a peer's.

    Attributes:
        what: what was measured, of ours.
        ours: median of several runs, in `unit`.
        unit: of `ours` and `peer`; `""` for a share or a slope.
        beside: what the peer is; `""` without one.
        peer: median of as many runs, alternating with ours; None without a peer.
        limit: what is asked for; None where nothing is.
        sense: whether the limit is the least or the most.
        of: whether the limit is one of the ratio ours / peer, or of ours.
        note: what the number leaves out, or why it misses its limit.
    """

    what: str
    ours: float
    unit: str = ""
    beside: str = ""
    peer: float | None = None
    limit: float | None = None
    sense: Literal["least", "most"] = "least"
    of: Literal["ratio", "ours"] = "ratio"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the limit is met; None without a limit."""
        value = self.ratio if self.of == "ratio" else self.ours
        if self.limit is None or value is None:
            return None
        return value >= self.limit if self.sense == "least" else value <= self.limit

    def cells(self) -> list[str]:
        limit = ""
        if self.limit is not None:
            unit = " ×" if self.of == "ratio" else f" {self.unit}".rstrip()
            limit = f"{'≥' if self.sense == 'least' else '≤'} {number(self.limit)}{unit}"
        return [
            self.what,
            f"{number(self.ours)} {self.unit}".rstrip(),
            "" if self.peer is None else f"{number(self.peer)} {self.unit}".rstrip() + f" ({self.beside})",
            "" if self.ratio is None else f"{number(self.ratio)} ×",
            limit,
            {None: "", True: "met", False: "missed"}[self.met],
        ]


HEAD = ["", "ours", "peer", "ratio", "limit", ""]


def number(value: float) -> str:
    """Return a number to three digits, with commas from a thousand on."""
    if value == 0 or not abs(value) < 1e15:
        return f"{value:g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def as_text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal, the notes below it."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([*lines, *(f"{row.what}: {row.note}" for row in rows if row.note)])


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, the notes as a list below it."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {row.what}: {row.note}" for row in rows if row.note)
    return f"{table}\n\n{notes}\n" if notes else f"{table}\n"
