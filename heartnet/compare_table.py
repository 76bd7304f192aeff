"""The table of `heartnet compare`, on the terminal and as CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from heartnet.compare import Row
from heartnet.diagnostics.amnesia import ANCHORS
from heartnet.predictions import NETWORK
from heartnet.resampling import Interval

NOTHING = "–"

_NAME = 30  # letters of a name that stay on one line

_console = Console(highlight=False, markup=False)


def print_table(rows: Sequence[Row]) -> None:
    """Print the scores with their intervals, what was measured of the networks, and what one has to know."""
    targets = list(dict.fromkeys(name for row in rows for name in row.each))
    references = list(dict.fromkeys(row.to for row in rows if row.to))
    scores = [("mean" if len(targets) > 1 else next(iter(targets), "score"), [_score(row.mean) for row in rows])]
    if references:
        scores.append((f"less {' or '.join(references)}", [_score(row.difference, "+.3f") for row in rows]))
    _print(rows, scores)
    if len(targets) > 1:
        _print(rows, [(name, [_short(row.each.get(name)) for row in rows]) for name in targets])
    networks = [row for row in rows if row.model == NETWORK]
    decades = [(f"decades: {each}", [_number(row.decades.get(each), ".2f") for row in networks]) for each in ANCHORS]
    others = [
        ("silent", [_number(row.silent, ".0%") for row in networks]),
        ("weights", [_number(row.weights, ",") for row in networks]),
        ("weeks/s", [_number(row.pace, ",.3g") for row in networks]),
    ]
    _print(networks, [*decades, *others])
    for line in _notes(rows):
        _console.print(line, soft_wrap=True)


def as_csv(rows: Sequence[Row]) -> str:
    """Return the table with a header; empty is unknown. `…_low` and `…_high` are the 95 % intervals."""
    targets = list(dict.fromkeys(name for row in rows for name in row.each))
    return pl.DataFrame(
        [
            {
                "name": row.name,
                "model": row.model,
                "folder": str(row.folder),
                "test": row.test or None,
                "weeks": None if row.scored is None else len(row.scored.weeks),
                "people": None if row.scored is None else row.scored.weeks["user_id"].n_unique(),
                **_columns("mean", row.mean),
                **{key: value for name in targets for key, value in _columns(name, row.each.get(name)).items()},
                **_columns("difference", row.difference),
                **{f"decades_{anchor}": row.decades.get(anchor) for anchor in ANCHORS},
                "silent": row.silent,
                "weights": row.weights,
                "weeks_a_second": row.pace,
            }
            for row in rows
        ],
        infer_schema_length=None,
    ).write_csv()


def _print(rows: Sequence[Row], columns: Sequence[tuple[str, Sequence[str]]]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if len(columns) < 4 else 0))
    table.add_column("", overflow="fold", no_wrap=max((len(row.name) for row in rows), default=0) <= _NAME)
    for head, _ in columns:
        table.add_column(head.replace("_", " "), justify="right")
    before = NETWORK
    for i, row in enumerate(rows):
        if row.model != before and before == NETWORK:
            table.add_section()
        before = row.model
        table.add_row(row.name, *(cells[i] for _, cells in columns))
    _console.print(table)


def _score(found: Interval | None, form: str = ".3f") -> str:
    if found is None or math.isnan(found.value):
        return NOTHING
    if math.isnan(found.low):
        return f"{found.value:{form}}"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _short(found: Interval | None) -> str:
    if found is None or math.isnan(found.value):
        return NOTHING
    limits = re.sub(r"\b0\.", ".", f" ({found.low:.2f}–{found.high:.2f})")
    return f"{found.value:.2f}" + ("" if math.isnan(found.low) else limits)


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value:{form}}"


def _columns(name: str, found: Interval | None) -> dict[str, float | None]:
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    known = (None if value is None or math.isnan(value) else value for value in values)
    return dict(zip((name, f"{name}_low", f"{name}_high"), known, strict=True))


def _notes(rows: Sequence[Row]) -> list[str]:
    tests = {row.test: row for row in rows if row.scored is not None}
    lines = []
    for number, row in sorted(tests.items()):
        assert row.scored is not None
        of = f"Test {number}" if len(tests) > 1 else "Test"
        lines.append(
            f"{of}: {len(row.scored.weeks):,} weeks of {row.scored.weeks['user_id'].n_unique():,} people"
            + (f" ({', '.join(each.name for each in rows if each.test == number)})." if len(tests) > 1 else ".")
        )
    lines.append("In brackets 95 % intervals from resampling people; of one training each, so its luck is not in them.")
    if any(row.simulated for row in rows):
        lines.append("Simulated weeks: these scores say nothing about real people.")
    lines += [
        "decades: by how many powers of ten a far reading counts less than a near one (amnesia), at its worst.",
        "silent: units of a layer that fall silent in workouts (activation_heatmap), of the worst layer.",
        "weeks/s: in training, median over steps, on that machine under the load of the time.",
    ]
    return [*lines, *dict.fromkeys(note for row in rows for note in row.notes)]
