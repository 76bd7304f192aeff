"""The report of a run: one HTML file with its findings, scores, curves, pictures and configuration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from heartnet.errors import HeartnetError
from heartnet.finding_rows import why_none
from heartnet.folders import short as short_path
from heartnet.page import stages_of, templates
from heartnet.page.write import write_page
from heartnet.report.charts import Group, groups
from heartnet.report.curves import HEIGHT, WIDTH, short
from heartnet.report.findings import HEIGHT as HISTORY_HEIGHT
from heartnet.report.findings import WIDTH as HISTORY_WIDTH
from heartnet.report.findings import counts, shown
from heartnet.report.folder import Run, is_run, read_run, runs_below
from heartnet.report.pictures import gallery
from heartnet.report.scores import scores_of
from heartnet.report.weeks import PREFIX, conditions_of, without_weeks
from heartnet.tested import tested_lines

FILE = "report.html"
"""Where a run's folder keeps its report."""

MARK = "<!-- made by heartnet report -->"
"""In the second line of each page, so that no other file is ever replaced by one."""

MOST_BYTES = 20_000_000
"""Bytes of a page at most."""

_PICTURE_BYTES = (2_000_000, 0)  # of all pictures, tried in turn until the page is small enough
_WEEKS_BYTES = (4_000_000, 0)  # likewise, of the wins and losses
_CHART_BYTES = 2_500_000
_CHARACTERS = 150_000  # of all texts, and of each configuration file
_ONCE = 300  # numbers of a group that are listed


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run, from its files only, and return where it is.

    A folder that is no run but holds some (a sweep, or `runs`) gets a page that lists them, beside the page of each.

    Args:
        run: the folder of the run.
        out: where the page goes; `report.html` in the folder if None.

    Raises:
        HeartnetError: there is no run in the folder, or the page cannot be written.
    """
    from heartnet.report.index import write_index

    folder = Path(run)
    if not folder.is_dir():
        raise HeartnetError(
            f"{folder} {'is no folder' if folder.exists() else 'does not exist'}: name the folder of a run"
        )
    place = Path(out) if out is not None else folder / FILE
    if is_run(folder):
        write_page(place, page(read_run(folder)), MARK, "--out")
        return place
    below = runs_below(folder)
    if not below:
        raise HeartnetError(
            f"{folder}: no run is in this folder: neither TensorBoard's event files nor findings.jsonl; "
            "runs of train.py are in runs/DATE/TIME"
        )
    if out is not None:
        names = ", ".join(each.relative_to(folder).as_posix() for each in below[:5])
        more = f" and {len(below) - 5} more" if len(below) > 5 else ""
        raise HeartnetError(f"{folder} holds several runs ({names}{more}): name one of them, or leave out --out")
    write_index(folder, below)
    return place


def report_command(arguments: argparse.Namespace) -> None:
    """Do what `heartnet report` says: write the page, and print where it is."""
    print(short_path(write_report(arguments.run_folder, arguments.out).absolute()))


def report_if_possible(folder: Path) -> Path | None:
    """Write the page at the end of a run, which must not fail for it; return its place, or say why there is none."""
    try:
        return write_report(folder)
    except Exception as error:  # whatever it is, what the run found is kept, and the page can be made again
        reason = str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {error}"
        print(f"no {FILE} was written: {reason}; to try again: heartnet report {short_path(folder)}", file=sys.stderr)
        return None


def page(run: Run) -> str:
    """Return the page of a run as HTML; it refers to nothing outside itself and runs no script."""
    found, more_findings = shown(run.findings)
    count = counts([each.row for each in found])
    parts = {name: groups(logged.scalars, logged.layout) for name, logged in run.parts.items()}
    left_out = _bound_charts(parts)
    values: dict[str, Any] = {
        "mark": MARK,
        "run": run,
        "when": _when(run),
        "tiles": _tiles(run, count),
        "findings": found,
        "more_findings": more_findings,
        "why_none": why_none(run.values) if run.values else "no technique that ends in findings was switched on",
        "counts": count,
        "history": {"width": HISTORY_WIDTH, "height": HISTORY_HEIGHT},
        "scores": scores_of(run.predictions, bool(run.simulated), tested_lines(run.folder)),
        "parts": parts,
        "charts_left_out": left_out,
        "most_once": _ONCE,
        "size": {"width": WIDTH, "height": HEIGHT},
        "texts": _texts(run),
        "others": sorted({kind for logged in run.parts.values() for kind in logged.others.values()}),
        "stages": [] if run.account is None else stages_of(run.account),
        "configurations": [(name, text[:_CHARACTERS], len(text) > _CHARACTERS) for name, text in run.configurations],
    }
    environment = templates(Path(__file__).parent)
    environment.filters |= {"number": short}
    template = environment.get_template("report.html")
    text = ""
    for budget, weeks_budget in zip(_PICTURE_BYTES, _WEEKS_BYTES, strict=True):
        conditions, weeks_left_out = conditions_of(run.weeks, run.parts, weeks_budget)
        others = gallery(without_weeks(run.parts), budget)
        text = template.render(**values, conditions=conditions, weeks_left_out=weeks_left_out, gallery=others)
        if len(text.encode("utf-8", errors="replace")) < MOST_BYTES:
            break
    size = len(text.encode("utf-8", errors="replace")) / 1e6
    return text.replace("<!-- size -->", f"{size:.1f} MB" if size >= 1 else f"{size * 1000:.0f} kB", 1)


def _bound_charts(parts: dict[str, list[Group]]) -> int:
    """Leave out charts beyond `_CHART_BYTES`, and return how many."""
    size, left_out = 0, 0
    for name, own in parts.items():
        bounded = []
        for group in own:
            kept = []
            for chart in group.charts:
                size += sum(
                    len(line.path) + len(line.band) + len(line.lost) + 60 * len(line.dot) for line in chart.lines
                )
                size += 2000
                if size <= _CHART_BYTES:
                    kept.append(chart)
            left_out += len(group.charts) - len(kept)
            bounded.append(Group(group.title, tuple(kept), group.once))
        parts[name] = bounded
    return left_out


def _texts(run: Run) -> list[tuple[str, int, str]]:
    """Return tag, step and text of what was logged as text; the table of findings stands on the page already."""
    found, left = [], _CHARACTERS
    for part, logged in run.parts.items():
        for tag, (step, text) in logged.texts.items():
            if tag != "findings" and not tag.startswith(PREFIX):
                cut = text[: max(left, 0)]
                left -= len(cut)
                found.append((f"{part}/{tag}" if part else tag, step, cut if cut == text else f"{cut} … (cut off)"))
    return found


def _when(run: Run) -> str:
    """Return in words when the run wrote its first and its last entry, in local time."""
    times = [time for logged in run.parts.values() for time in (logged.first, logged.last) if time is not None]
    if not times:
        return ""
    first, last = (datetime.fromtimestamp(time) for time in (min(times), max(times)))
    until = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%d %b %Y, %H:%M}"
    return f"{first:%d %b %Y, %H:%M} to {until}"


def _tiles(run: Run, counts: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Return name, value and a remark of what sums a run up."""
    tiles: list[tuple[str, str, str]] = []
    if run.status is not None:
        state = run.status.state
        remark = {
            "running": "or stopped without a word",
            "finished": "trained and tested",
            "interrupted": "before its end",
            "failed": "before its end",
        }[state]
        tiles.append(("run", state, remark))
    worst = next((status for status, count in counts.items() if count), None)
    if worst is not None:
        others = ", ".join(f"{count} {status}" for status, count in counts.items() if count and status != worst)
        tiles.append(("findings", f"{counts[worst]} {worst}", others or "no others"))
    scalars = [logged.scalars for logged in run.parts.values()]
    epochs = [each["epoch"].values[-1] for each in scalars if "epoch" in each]
    steps = [int(series.steps[-1]) for each in scalars for series in each.values()]
    if steps:
        most = _at(run.values, "trainer", "max_epochs")
        # After training, Lightning logs the number of epochs; within it, their number counted from 0.
        done = int(max(epochs)) + 1 if epochs and np.isfinite(epochs).all() else 0
        known = isinstance(most, int) and most > 0 and done > 0
        epoch = f"epoch {min(done, most)} of {most}" if known else "of the optimiser"
        tiles.append(("steps", f"{max(steps):,}", epoch))
    times = [time for logged in run.parts.values() for time in (logged.first, logged.last) if time is not None]
    if times and max(times) - min(times) >= 1:
        tiles.append(("time", _duration(max(times) - min(times)), "first to last entry"))
    losses = [(tag, each[tag]) for each in scalars for tag in ("val/loss", "val_loss") if tag in each]
    if len(losses) == 1 and np.isfinite(losses[0][1].values).any():
        tag, series = losses[0]
        best = int(np.nanargmin(np.where(np.isfinite(series.values), series.values, np.nan)))
        tiles.append(
            (tag, short(series.values[-1]), f"lowest {short(series.values[best])}, step {series.steps[best]:,}")
        )
    return tiles


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _at(values: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        values = values.get(key, {}) if isinstance(values, Mapping) else {}
    return values
