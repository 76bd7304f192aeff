"""The scores of a run's test split as a table of its page: the network beside whatever it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from heartnet.diagnostics.within_folds import ONE_CLASS
from heartnet.report.curves import short

POOLED = "Folds are pooled: each week is scored by the network that had not seen its person."
"""What one has to know of a number over all folds of a cross-validation."""


@dataclass(frozen=True)
class Scores:
    """A table of scores.

    Attributes:
        title: names of the first score and of the second, which stands in brackets.
        models: heads of the columns.
        rows: target, weeks (of conditions: those with it, of how many), and for each model the two scores and whether
            its first one is the best of the row.
        notes: what one has to know to read it.
    """

    title: tuple[str, str]
    models: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, str, bool], ...]], ...]
    notes: tuple[str, ...]


def scores_of(predictions: pl.DataFrame | None, simulated: bool, notes: Sequence[str] = ()) -> Scores | None:
    """Return the scores of predictions; None if there are none whose targets are known.

    Args:
        predictions: of all models.
        simulated: whether the weeks are.
        notes: what else one has to know of them.
    """
    from heartnet.predictions import CEILING, score_table  # scikit-learn takes a while

    known = pl.DataFrame() if predictions is None else predictions.drop_nulls("value")
    if predictions is None or known.is_empty():
        return None
    conditions = known["value"].is_in([0.0, 1.0]).all()
    first, second = ("auroc", "average_precision") if conditions else ("mae", "r2")
    table = score_table(predictions, "conditions" if conditions else "synthetic")
    models = tuple(table["model"].unique(maintain_order=True))
    rows = []
    targets = table["target"].unique(maintain_order=True).to_list()
    for target in targets:
        part = table.filter(pl.col("target") == target)
        one = part.row(0, named=True)
        weeks = f"{one['positive_weeks']:,} of {one['weeks']:,}" if conditions else f"{one['weeks']:,}"
        rows.append((target, weeks, _cells(part, models, first, second, CEILING)))
    if len(targets) > 1:
        mean = table.group_by("model").agg(pl.col(first, second).mean())
        rows.append(("mean", "", _cells(mean, models, first, second, CEILING)))
    notes = [note for note in notes if note]
    if CEILING in models:
        notes.append("ceiling: one who sees the true traits of these simulated people; above it is only luck.")
    for (model,), part in predictions.group_by("model", maintain_order=True):
        if wrong := part.filter(~pl.col("score").is_finite()).height:
            notes.append(f"{model}: {wrong:,} of {part.height:,} predictions are NaN or infinite, so it has diverged.")
    if simulated:
        notes.append("Simulated weeks: these scores say nothing about real people.")
    title = ("AUROC", "average precision") if conditions else ("mean absolute error", "R²")
    return Scores(title, models, tuple(rows), tuple(notes))


def pooled_lines(folder: Path) -> list[str]:
    """Return what one has to know of scores of all folds of a cross-validation; nothing of another run."""
    from heartnet.predictions import aurocs_within, read_predictions  # takes a while

    if not any(folder.glob("fold-*/predictions.parquet")):
        return []
    within: dict[str, dict[str, float]] = {}
    with suppress(pl.exceptions.PolarsError, OSError):  # the table was made of what can be read
        within = aurocs_within(read_predictions(folder))
    told = {target: {model: each for model, each in it.items() if each == each} for target, it in within.items()}
    lines = [
        f"{target}: {', '.join(f'{model} {each:.3f}' for model, each in it.items())}."
        for target, it in told.items()
        if it
    ]
    if lines:
        lines = [
            "Networks of folds need not score on one level, which an AUROC of all weeks pays for. Within folds it is",
            *lines,
        ]
    lines += [f"{target}: {ONE_CLASS}." for target, it in told.items() if not it and within[target]]
    return [POOLED, *lines]


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
        cells.append((text[0], text[1], one is not None and one == best and model != ceiling))
    return tuple(cells)
