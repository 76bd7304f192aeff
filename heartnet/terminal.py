"""What a run prints: the data it has, its scores, its findings."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from heartnet.datamodule import WeeksDataModule
from heartnet.finding_rows import findings_table, why_none
from heartnet.findings import FILE, Finding, Status, latest, of_all_parts, read_jsonl
from heartnet.folders import parts_of
from heartnet.metrics import SCORES
from heartnet.predictions import CEILING, fold_notes, prediction_files, read_predictions, score_tables
from heartnet.simulate.ceiling import ceiling, expected_auroc, lacking
from heartnet.splits import SPLITS

_console = Console(highlight=False)


def print_line(text: str) -> None:
    """Print a line that a person may want to copy."""
    _console.print(text, soft_wrap=True, markup=False)


def quiet_lightning() -> None:
    """Silence what Lightning says to everybody: tips, and warnings that no one here can act on."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # which were asked for
    for pattern in (
        ".*does not have many workers.*",
        "Total length of `DataLoader` across ranks is zero.*",  # no one in the validation split, as asked for
        ".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # Lightning's own call of torch
    ):
        warnings.filterwarnings("ignore", pattern)


def print_data(data: WeeksDataModule) -> None:
    """Print weeks and people of each split, and the share of positives (conditions) or the mean (synthetic targets)."""
    conditions = data.task.kind == "conditions"
    print_line(_about(data))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("positive of known" if conditions else "mean (known)", no_wrap=True)
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    people = [data.weeks.table[data.rows[split]]["user_id"].n_unique() for split in SPLITS]
    for i, target in enumerate(data.targets):
        table.add_row(target, *(_known(data.values[data.rows[split], i], conditions) for split in SPLITS))
    table.add_section()
    table.add_row("weeks", *(str(len(data.rows[split])) for split in SPLITS))
    table.add_row("people", *map(str, people))
    _console.print(table)
    if data.without_target:
        print_line(f"{data.without_target} weeks without any known target are left out.")
    if data.split_by == "week":
        print_line("Split by week, not by person: the scores say nothing about new people.")


def _known(values: npt.NDArray[np.float32], conditions: bool) -> str:
    known = values[~np.isnan(values)]
    if conditions:
        return f"{int(known.sum())} of {len(known)}"
    return f"{known.mean():.2f} ({len(known)})" if len(known) else "– (0)"


def print_scores(folder: Path, data: WeeksDataModule) -> None:
    """Print the scores of the test split, network and baselines side by side, from the predictions in `folder`."""
    if not prediction_files(folder):
        print_line("No week is in the test split, so there are no scores.")
        return
    predictions = read_predictions(folder)
    conditions = data.task.kind == "conditions"
    tables = score_tables(predictions, data.task.kind)
    models = next(iter(tables.values()))["model"].unique(maintain_order=True).to_list()
    title = "Test scores" + (" on SIMULATED weeks" if data.weeks.simulated else "")
    for over, table in tables.items():
        _console.print(_score_table(table, ", ".join(filter(None, [title, over])), data, models))
    for note in fold_notes(predictions):
        print_line(note)
    if CEILING in models:
        _print_ceiling(data)
    elif conditions and data.weeks.simulated:
        print_line(f"No ceiling: these simulated weeks lack {', '.join(lacking(data.weeks, data.targets))}.")
    for (model,), part in predictions.group_by("model", maintain_order=True):
        wrong = part.filter(~pl.col("score").is_finite())["week"].n_unique()
        if wrong:
            print_line(f"{model}: NaN or infinite for {wrong} of {part['week'].n_unique()} weeks, so it has diverged.")


def _score_table(scores: pl.DataFrame, title: str, data: WeeksDataModule, models: list[str]) -> Table:
    """Return the table with both scores, or with the first alone where there is no second or no room for it."""
    second = SCORES[data.task.kind][1]
    both = _filled_table(scores, title, data, models, [CEILING])  # the ceiling is one of the AUROC
    room = Measurement.get(_console, _console.options.update(max_width=10_000), both).maximum <= _console.width
    return both if room and second in scores.columns else _filled_table(scores, title, data, models, models)


def _filled_table(
    scores: pl.DataFrame, title: str, data: WeeksDataModule, models: list[str], brief: list[str]
) -> Table:  # fmt: skip
    conditions = data.task.kind == "conditions"
    first, second = SCORES[data.task.kind]
    padding = (0, 1 if len(models) < 4 else 0)
    lines = []
    for target in data.targets:
        part = scores.filter(pl.col("target") == target)
        if not part.is_empty():
            row = part.row(0, named=True)
            count = f"{row['positive_weeks']} of {row['weeks']}" if conditions else str(row["weeks"])
            lines.append([target, count, *_cells(part, models, brief, first, second)])
    if len(data.targets) > 1 and conditions:  # synthetic targets have units of their own
        mean = scores.group_by("model").agg(pl.col([name for name in (first, second) if name in scores.columns]).mean())
        lines.append(["mean", "", *_cells(mean, models, brief, first, second)])
    scored = _NAMES[first] if brief == models else f"{_NAMES[first]} ({_NAMES[second]})"
    heads = [scored, "positive" if conditions else "weeks", *models]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=padding)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


_NAMES = {"auroc": "AUROC", "average_precision": "AP", "mae": "MAE", "r2": "R²"}


def _cells(part: pl.DataFrame, models: list[str], brief: list[str], first: str, second: str) -> list[str]:
    """Return a cell a model, of both scores or, for the brief ones, of the first."""
    rows = {row["model"]: row for row in part.iter_rows(named=True)}
    cells = []
    for model in models:
        one, other = (rows.get(model, {}).get(score) for score in (first, second))
        cell = "–" if one is None else f"{one:.3f}"
        cells.append(cell if model in brief else f"{cell} ({'–' if other is None else f'{other:.2f}'})")
    return cells


def _print_ceiling(data: WeeksDataModule) -> None:
    """Say what the ceiling is, and its AUROC over more weeks than the test split holds."""
    count = min(len(data.weeks), 2000)
    rows = np.linspace(0, len(data.weeks) - 1, count).astype(np.int64)
    best = ceiling(data.weeks, rows, data.targets)
    aurocs = ", ".join(f"{expected_auroc(best[:, i]):.3f}".replace("nan", "–") for i in range(len(data.targets)))
    print_line("ceiling: one who sees the true traits of simulated people; above it is luck.")
    print_line(f"Of {count:,} such weeks one expects {aurocs}, in this order.")


def print_findings(folder: Path) -> Status | None:
    """Print the newest findings of the run and its folds, and return the worst status; if there are none, say why."""
    skipped: list[str] = []
    by_part: dict[str, list[Finding]] = {}
    for part in parts_of(folder):
        by_part["" if part == folder else part.name] = read_jsonl(part / FILE, skipped)
    found = of_all_parts(by_part)
    for note in skipped:
        print_line(f"Left out: {note}")
    if not found:
        configuration = folder / "config.yaml"
        values = yaml.safe_load(configuration.read_text(encoding="utf-8")) if configuration.is_file() else None
        print_line(f"No findings: {why_none(values or {})}.")
        return None
    newest = latest(found)
    _console.print(findings_table(newest))
    return newest[0].status


def _about(data: WeeksDataModule) -> str:
    if data.weeks.simulated:
        scale = data.weeks.provenance.get("effect_scale")
        return f"SIMULATED weeks, effect scale {scale:g}: scores on them say nothing about real people"
    return "Weeks"
