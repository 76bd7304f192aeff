"""The table of `heartnet compare`, on the terminal and as CSV."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from heartnet.compare_rows import Row
from heartnet.diagnostics.amnesia import ANCHORS
from heartnet.diagnostics.within_folds import EACH_WEEK, WITHIN_FIRST
from heartnet.predictions import NETWORK
from heartnet.resampling import Interval

NOTHING = "–"

_NAME = 30  # letters of a name that stay on one line
_CELL = 16  # letters of a score of one condition with its interval, and a space

_console = Console(highlight=False, markup=False)


def print_table(rows: Sequence[Row]) -> None:
    """Print the scores with their intervals, how far trainings lie apart, what was measured of the networks, and what
    one has to know. Of several tests, whose scores do not compare, each has tables of its own."""
    tests = sorted({row.test for row in rows if row.scored is not None})
    if len(tests) < 2:
        _print_scores(rows)
    for number in tests if len(tests) > 1 else ():
        own = [row for row in rows if row.scored is not None and row.test == number]
        _console.print(f"Test {number}: {_size(own[0])}")
        _print_scores([_named(row) for row in own])
        for line in dict.fromkeys(note for row in own for note in row.notes):
            _console.print(line, soft_wrap=True)
    networks = [row for row in rows if row.model == NETWORK]
    decades = [(f"decades: {each}", [_number(row.decades.get(each), ".2f") for row in networks]) for each in ANCHORS]
    others = [
        ("silent", [_number(row.silent, ".0%") for row in networks]),
        ("weights", [_number(row.weights, ",") for row in networks]),
        ("weeks/s", [_number(row.pace, ",.0f" if (row.pace or 0) >= 100 else ".3g") for row in networks]),
    ]
    _print(networks, [*decades, *others])
    for line in _notes(rows):
        _console.print(line, soft_wrap=True)


def _print_scores(rows: Sequence[Row]) -> None:
    targets = list(dict.fromkeys(name for row in rows for name in row.each))
    references = list(dict.fromkeys(row.to for row in rows if row.to))
    what = "mean" if len(targets) > 1 else next(iter(targets), "score")
    less = f"less {' or '.join(references)}"
    within = " within folds" if _all_within(rows) else ""
    scores = [(what + within, [_score(row.mean) for row in rows])]
    if references:
        scores.append((less, [_score(row.difference, "+.3f") for row in rows]))
    _print(rows, scores)
    if any(row.within for row in rows):
        scores = [(f"{what}, all folds together", [_score(row.pooled) for row in rows])]
        if references:
            scores.append((less, [_score(row.pooled_difference, "+.3f") for row in rows]))
        _print(rows, scores)
    if len(targets) > 1:
        name = min(max(len(row.name) for row in rows), _NAME)
        most = max((_console.width - name - 2) // _CELL, 1)
        for first in range(0, len(targets), most):
            some = targets[first : first + most]
            _print(rows, [(name + within, [_short(row.each.get(name)) for row in rows]) for name in some])
    networks = [row for row in rows if row.model == NETWORK]
    if any(len(row.by_training) > 1 for row in networks):
        trainings = [
            ("trainings", [str(len(row.by_training) or NOTHING) for row in networks]),
            (what + within, [_range(row.by_training, ".3f") for row in networks]),
        ]
        if references:
            trainings.append((less, [_range(row.difference_by_training, "+.3f") for row in networks]))
        _print(networks, trainings)


def _named(row: Row) -> Row:
    """Return a row as it is called among those of its own test."""
    test = f", test {row.test}"
    return replace(row, name=row.name.removesuffix(test), to=row.to.removesuffix(test))


def _size(row: Row) -> str:
    assert row.scored is not None
    return f"{len(row.scored.weeks):,} weeks of {row.scored.weeks['user_id'].n_unique():,} people"


def as_csv(rows: Sequence[Row]) -> str:
    """Return the table with a header; empty is unknown.

    `…_low` and `…_high` are the 95 % intervals; `…_lowest`, `…_highest` and `…_sd` (standard deviation, divided by one
    less than there are) are over trainings. `within_folds` says of a cross-validation whether `mean` is; `pooled` then
    ranks the weeks of all folds together.
    """
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
                "trainings": len(row.by_training) if row.model == NETWORK else None,
                "seeds": " ".join(str(seed) for seed in row.seeds if seed is not None) or None,
                "within_folds": row.within,
                **_columns("mean", row.mean),
                **_over_trainings("mean", row.by_training),
                **{key: value for name in targets for key, value in _columns(name, row.each.get(name)).items()},
                **_columns("difference", row.difference),
                **_over_trainings("difference", row.difference_by_training),
                **_columns("pooled", row.pooled),
                **_columns("pooled_difference", row.pooled_difference),
                **{f"decades_{anchor}": row.decades.get(anchor) for anchor in ANCHORS},
                "silent": row.silent,
                "weights": row.weights,
                "weeks_a_second": row.pace,
            }
            for row in rows
        ],
        infer_schema_length=None,
    ).write_csv()


def _all_within(rows: Sequence[Row]) -> bool:
    scored = [row for row in rows if row.mean is not None]
    return bool(scored) and all(row.within for row in scored)


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


def _range(values: Sequence[float], form: str) -> str:
    if len(values) < 2 or math.isnan(values[0]):
        return NOTHING
    return f"{min(values):{form}} to {max(values):{form}}"


def _over_trainings(name: str, values: Sequence[float]) -> dict[str, float | None]:
    several = len(values) > 1 and not math.isnan(values[0])
    found = (min(values), max(values), statistics.stdev(values)) if several else (None, None, None)
    return dict(zip((f"{name}_lowest", f"{name}_highest", f"{name}_sd"), found, strict=True))


def _notes(rows: Sequence[Row]) -> list[str]:
    tests = {row.test: row for row in rows if row.scored is not None}
    lines = [f"Test: {_size(row)}." for row in tests.values()] if len(tests) == 1 else []
    lines += [*_intervals(rows), *_within(rows)]
    networks = [row for row in rows if row.model == NETWORK]
    simulated = [row.name for row in networks if row.simulated]
    if simulated:
        which = "" if len(simulated) == len(networks) else f" are those of {'; '.join(simulated)}"
        lines.append(f"Simulated weeks{which}: these scores say nothing about real people.")
    lines += [
        "decades: by how many powers of ten a far reading counts less than a near one (amnesia), at its worst.",
        "silent: units of a layer that fall silent in workouts (activation_heatmap), of the worst layer.",
        "weeks/s: in training, median over steps, on that machine under the load of the time.",
    ]
    if any(len(row.by_training) > 1 for row in rows):
        lines.append("Of several trainings decades, silent and weeks/s are the median.")
    left = [row for row in rows if len(tests) < 2 or row.scored is None]  # the others' stand with their test
    return [*lines, *dict.fromkeys(note for row in left for note in row.notes)]


def _intervals(rows: Sequence[Row]) -> list[str]:
    each = [one for row in rows for one in (row.mean, *row.each.values()) if one is not None]
    without = [math.isnan(one.low) for one in each if not math.isnan(one.value)]
    if all(without):
        return ["No intervals: people are too few, or each draw gives the same."] if without else []
    networks = [row for row in rows if row.model == NETWORK and row.scored is not None]
    a_fold = " a fold" if networks and all(row.scored and row.scored.folds is not None for row in networks) else ""
    counts = sorted({len(row.by_training) for row in networks if row.by_training}) or [1]
    said = "In brackets 95 % intervals from resampling people"
    bare = " Where there are none, people are too few, or each draw gives the same." if any(without) else ""
    if counts[-1] == 1:
        return [f"{said}; of one training{a_fold or ' each'}, so its luck is not in them.{bare}"]
    every = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return [
        f"{said}, of the mean of {every} trainings{a_fold} that differ in their seed. How far these lie apart is not "
        f"in the brackets: it stands under trainings, lowest to highest; --each has a row for each.{bare}"
    ]


def _within(rows: Sequence[Row]) -> list[str]:
    if not any(row.scored is not None and row.scored.folds is not None for row in rows):
        return []
    lines = [f"Of a cross-validation: {EACH_WEEK[0].lower()}{EACH_WEEK[1:]}"]
    names = [row.name for row in rows if row.within]
    if not names:
        return lines
    which = "" if _all_within(rows) else f" Rows within folds: {'; '.join(names)}."
    return [*lines, f"{WITHIN_FIRST}{which}"]
