"""The page of several runs (a sweep, or `runs`): what differs between them, how each ended, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from heartnet.compare import overrides
from heartnet.finding_rows import rows
from heartnet.findings import latest
from heartnet.page import templates
from heartnet.page.write import write_page
from heartnet.report import FILE, MARK, page
from heartnet.report.curves import short
from heartnet.report.findings import counts
from heartnet.report.folder import Run, read_run
from heartnet.report.scores import scores_of

MOST_RUNS = 200
"""Runs that are listed; of more, the newest."""

_MOST_KEYS = 6  # options that differ
_PLACES = ("hydra", "ckpt_path")  # keys that differ in each run and say nothing


def write_index(folder: Path, runs: Sequence[Path]) -> None:
    """Write the page of each run that has none or has gone on since, and in `folder` one that lists them.

    Raises:
        HeartnetError: a page cannot be written.
    """
    listed, values, given = [], [], []
    for each in runs[-MOST_RUNS:]:
        run = read_run(each)
        if not _is_fresh(each):
            write_page(each / FILE, page(run), MARK, "--out")
        listed.append(_row(run, each.relative_to(folder)))
        values.append(_flat({"callbacks": None, **run.values}))
        given.append(_given(run))
    shared = set.intersection(*(set(flat) for flat in values))
    keys = sorted(key for key in shared if len({flat[key] for flat in values}) > 1)
    asked = dict.fromkeys(key for each in given for key in each if key not in shared)
    swept = [key for key in asked if len({each.get(key) for each in given}) > 1]
    # What was asked for comes first: a group's name (architecture=…) stands for many of the options that differ.
    keys = [*swept, *sorted(keys, key=lambda key: not any(key in each for each in given))]
    for row, flat, own in zip(listed, values, given, strict=True):
        row["differs"] = [flat[key] if key in shared else own.get(key, "–") for key in keys[:_MOST_KEYS]]
    targets = list(dict.fromkeys(name for row in listed for name in row["scores"]))
    environment = templates(Path(__file__).parent)
    text = environment.get_template("index.html").render(
        mark=MARK,
        name="/".join(folder.resolve().parts[-2:]).lstrip("/"),
        rows=listed,
        keys=keys[:_MOST_KEYS],
        more_keys=len(keys) - _MOST_KEYS,
        targets=targets,
        measures=list(dict.fromkeys(row["measure"] for row in listed if row["scores"])),
        left_out=len(runs) - len(listed),
        simulated=sum(bool(row["simulated"]) for row in listed),
    )
    write_page(folder / FILE, text, MARK, "--out")


def _is_fresh(folder: Path) -> bool:
    """Say whether a run's page is newer than all else in its folder, and than what makes pages."""
    own = folder / FILE
    others = [path for path in folder.rglob("*") if path != own and path.is_file()]
    made_by = [path for path in Path(__file__).parent.iterdir() if path.is_file()]
    return own.is_file() and all(path.stat().st_mtime < own.stat().st_mtime for path in (*others, *made_by))


def _row(run: Run, place: Path) -> dict[str, Any]:
    scores = scores_of(run.predictions, bool(run.simulated))
    losses = [
        logged.scalars[tag].values[-1]
        for logged in run.parts.values()
        for tag in ("val/loss", "val_loss")
        if tag in logged.scalars
    ]
    return {
        "name": place.as_posix(),
        "link": quote((place / FILE).as_posix()),
        "state": "" if run.status is None else run.status.state,
        "counts": counts(rows(latest(run.findings))),
        "loss": short(losses[0]) if len(losses) == 1 else "",
        "scores": {} if scores is None else {target: cells[0][0] for target, _, cells in scores.tables[0].rows},
        "measure": "" if scores is None else scores.leading,
        "simulated": run.simulated,
    }


def _given(run: Run) -> dict[str, str]:
    """Return the overrides of a run's command line, by key."""
    pairs = (each.partition("=") for each in overrides(run.command))
    return {key.lstrip("+~"): value[:80] for key, _, value in pairs}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return options by their full name; of a group of nodes that runs choose from, the names chosen too."""
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if name == "callbacks" or isinstance(value, Mapping):
            value = value if isinstance(value, Mapping) else {}
            found |= {name: ", ".join(map(str, value)) or "none"} if name == "callbacks" else {}
            found |= _flat(value, f"{name}.")
        elif name.partition(".")[0] not in _PLACES:
            found[name] = str(value)[:80]
    return found
