"""The findings of a run as its page shows them: in rows, worst first, with the history of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heartnet.finding_rows import WORST_FIRST, Row, rows
from heartnet.findings import Finding, latest
from heartnet.report.curves import short

MOST = 400
"""Findings that are shown; of more, the worst."""

WIDTH, HEIGHT = 120.0, 26.0
"""Size of the picture of a history."""

_LOOKS = 60  # that are drawn, the newest
_CHARACTERS = 1500  # of a message


@dataclass(frozen=True)
class Shown:
    """A finding as it is shown.

    Attributes:
        finding: the newest.
        value: with its unit.
        limit: with its unit; empty if there is none.
        message: in words.
        looks: how often it was measured.
        since: the step from which on all looks had this status.
        path: the values over the looks; empty if they are fewer than two.
        dots: place, height and status of each look that is drawn.
        limit_at: height of the limit, if it lies within.
    """

    finding: Finding
    value: str
    limit: str
    message: str
    looks: int
    since: int
    path: str
    dots: tuple[tuple[float, float, str], ...]
    limit_at: float | None


@dataclass(frozen=True)
class ShownRow:
    """Findings that say the same (`heartnet.finding_rows.rows`), each with its history, the worst first."""

    row: Row
    members: tuple[Shown, ...]


def shown(findings: Sequence[Finding]) -> tuple[list[ShownRow], int]:
    """Return the newest finding for each (check, where) in rows, worst first, with the looks before it.

    Also return how many are left out, none worse than those that are not.

    Args:
        findings: all, oldest first.
    """
    history: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        history.setdefault((each.check, each.where), []).append(each)
    newest = latest(findings)
    found = [
        ShownRow(row, tuple(_shown(each, history[each.check, each.where]) for each in row.findings))
        for row in rows(newest[:MOST])
    ]
    return found, max(len(newest) - MOST, 0)


def counts(found: Sequence[Row]) -> dict[str, int]:
    """Return how many rows there are of each status, the worst first."""
    return {status: sum(each.worst.status == status for each in found) for status in WORST_FIRST}


def _shown(newest: Finding, looks: Sequence[Finding]) -> Shown:
    since = newest.step
    for each in reversed(looks):
        if each.status != newest.status:
            break
        since = each.step
    path, dots, limit_at = _picture([each for each in looks if _is_number(each.value)][-_LOOKS:], newest.limit)
    message = newest.message if len(newest.message) <= _CHARACTERS else f"{newest.message[:_CHARACTERS]} …"
    return Shown(
        finding=newest,
        value="–" if newest.value is None else f"{short(newest.value)} {newest.unit}".strip(),
        limit="" if newest.limit is None else f"{short(newest.limit)} {newest.unit}".strip(),
        message=message,
        looks=len(looks),
        since=since,
        path=path,
        dots=dots,
        limit_at=limit_at,
    )


def _picture(
    looks: Sequence[Finding], limit: float | None
) -> tuple[str, tuple[tuple[float, float, str], ...], float | None]:
    if len(looks) < 2:
        return "", (), None
    values = np.clip(np.array([each.value for each in looks], dtype=np.float64), -1e300, 1e300)
    edge = float(limit) if _is_number(limit) and limit is not None else float(values[0])
    low, high = min(values.min(), edge), max(values.max(), edge)
    span = (high - low) or 1.0
    x = np.linspace(4, WIDTH - 4, len(looks))
    y = 4 + (HEIGHT - 8) * (1 - (values - low) / span)
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    dots = tuple((a, b, each.status) for (a, b), each in zip(points, looks, strict=True))
    limit_at = 4 + (HEIGHT - 8) * (1 - (edge - low) / span) if _is_number(limit) else None
    return path, dots, limit_at


def _is_number(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
