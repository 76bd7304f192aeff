"""The scores of a run's test split as tables of its page: the network beside whatever it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from heartnet.diagnostics.within_folds import TOGETHER
from heartnet.predictions import CEILING, fold_notes, score_tables
from heartnet.report.curves import short


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all models.

    Attributes:
        over: how weeks of a cross-validation are ranked; empty for one network.
        rows: target, weeks (of conditions: those with it, of how many), and for each model the two scores, of which
            the second may be empty, and whether its first one is the best of the row.
    """

    over: str
    rows: tuple[tuple[str, str, tuple[tuple[str, str, bool], ...]], ...]


@dataclass(frozen=True)
class Scores:
    """The scores of a test, as a page shows them.

    Attributes:
        title: names of the first score and of the second, which stands in brackets.
        models: heads of the columns.
        tables: that to be read first, first.
        notes: what one has to know to read them.
    """

    title: tuple[str, str]
    models: tuple[str, ...]
    tables: tuple[ScoreTable, ...]
    notes: tuple[str, ...]

    @property
    def leading(self) -> str:
        """What the first scores of the first table are called."""
        over = self.tables[0].over
        return f"{self.title[0]}{' of' if over == TOGETHER else ''} {over}".strip()


def scores_of(predictions: pl.DataFrame | None, simulated: bool, notes: Sequence[str] = ()) -> Scores | None:
    """Return the scores of predictions; None if there are none whose targets are known.

    Args:
        predictions: of all models, with their fold.
        simulated: whether the weeks are.
        notes: what else one has to know of them.
    """
    known = pl.DataFrame() if predictions is None else predictions.drop_nulls("value")
    if predictions is None or known.is_empty():
        return None
    conditions = known["value"].is_in([0.0, 1.0]).all()
    first, second = ("auroc", "average_precision") if conditions else ("mae", "r2")
    found = score_tables(predictions, "conditions" if conditions else "synthetic")
    models = tuple(next(iter(found.values()))["model"].unique(maintain_order=True))
    tables = tuple(
        ScoreTable(over, tuple(_rows(table, models, first, second, CEILING))) for over, table in found.items()
    )
    notes = [*fold_notes(predictions), *notes]
    if CEILING in models:
        notes.append("ceiling: one who sees the true traits of these simulated people; above it is only luck.")
    for (model,), part in predictions.group_by("model", maintain_order=True):
        if wrong := part.filter(~pl.col("score").is_finite()).height:
            notes.append(f"{model}: {wrong:,} of {part.height:,} predictions are NaN or infinite, so it has diverged.")
    if simulated:
        notes.append("Simulated weeks: these scores say nothing about real people.")
    title = ("AUROC", "average precision") if conditions else ("mean absolute error", "R²")
    return Scores(title, models, tables, tuple(notes))


def _rows(
    table: pl.DataFrame, models: tuple[str, ...], first: str, second: str, ceiling: str
) -> Iterator[tuple[str, str, tuple[tuple[str, str, bool], ...]]]:
    targets = table["target"].unique(maintain_order=True).to_list()
    for target in targets:
        part = table.filter(pl.col("target") == target)
        one = part.row(0, named=True)
        weeks = f"{one['positive_weeks']:,} of {one['weeks']:,}" if first == "auroc" else f"{one['weeks']:,}"
        yield target, weeks, _cells(part, models, first, second, ceiling)
    if len(targets) > 1 and first == "auroc":  # synthetic targets have units of their own
        there = [name for name in (first, second) if name in table.columns]
        mean = table.group_by("model").agg(pl.col(there).mean())
        yield "mean", "", _cells(mean, models, first, second, ceiling)


def _cells(
    part: pl.DataFrame, models: tuple[str, ...], first: str, second: str, ceiling: str
) -> tuple[tuple[str, str, bool], ...]:
    rows = {row["model"]: row for row in part.iter_rows(named=True)}
    values = {model: rows.get(model, {}).get(first) for model in models}
    rivals = [value for model, value in values.items() if value is not None and model != ceiling]
    best = None if len(rivals) < 2 else max(rivals) if first == "auroc" else min(rivals)
    cells = []
    for model in models:
        one, other = (rows.get(model, {}).get(score) for score in (first, second))
        text = ["–" if each is None else f"{each:.3f}" if first == "auroc" else short(each) for each in (one, other)]
        brackets = text[1] if second in part.columns else ""
        cells.append((text[0], brackets, one is not None and one == best and model != ceiling))
    return tuple(cells)
