"""Reads what a run's folder holds, of whatever run: parts may lack, and what cannot be read is noted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.findings import FILE as FINDINGS
from heartnet.findings import Finding, of_all_parts, read_jsonl
from heartnet.predictions import FOLD, prediction_files, with_fold
from heartnet.report.events import PATTERN, Logged, event_files, read_events
from heartnet.report.weeks import read_weeks
from heartnet.status import FILE as STATUS
from heartnet.status import RunStatus, read_status
from heartnet.store import read_manifest

MOST_PARTS = 20
"""Folders of event files within a run's folder (its folds) that are read."""

_CONFIGURATIONS = ("config.yaml", ".hydra/overrides.yaml", ".hydra/config.yaml", "hparams.yaml")
_DEPTH = 5  # of folders below the one that is given


@dataclass
class Run:
    """What a run's folder holds.

    Attributes:
        folder: where it lies.
        name: the last two parts of its path.
        command: the command line that made it; empty if unknown.
        status: how far it got; None if unknown.
        configurations: names and texts of its configuration files, except empty ones.
        values: what the first of them says; empty if it cannot be read.
        findings: all, oldest first; those of a fold with its name before `where`.
        parts: what was logged, by folder within this one; `""` is this one.
        predictions: of the test split, all models; None if there are none.
        weeks: the table of wins and losses, by folder as `parts`; of those that have one.
        simulated: whether its data are simulated; None if unknown.
        account: of the preparation of its data; None if that is not at hand.
        noted: what could not be read, in words.
    """

    folder: Path
    name: str
    command: str = ""
    status: RunStatus | None = None
    configurations: list[tuple[str, str]] = field(default_factory=list)
    values: Mapping[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    parts: dict[str, Logged] = field(default_factory=dict)
    predictions: pl.DataFrame | None = None
    weeks: dict[str, pl.DataFrame] = field(default_factory=dict)
    simulated: bool | None = None
    account: Account | None = None
    noted: list[str] = field(default_factory=list)


def is_run(folder: Path) -> bool:
    """Say whether something in the folder itself was left by a run."""
    if any((folder / name).is_file() for name in (FINDINGS, STATUS, "hparams.yaml")):
        return True
    if any(True for pattern in (PATTERN, "predictions*.parquet") for _ in folder.glob(pattern)):
        return True
    return _command(_text(folder / "config.yaml")) != ""


def runs_below(folder: Path) -> list[Path]:
    """Return the folders of runs in a folder that is none itself, in the order of their names, 2 before 10."""
    found = []
    for each, inside, _ in _walk(folder):
        if is_run(Path(each)):
            inside.clear()
            found.append(Path(each))
    return sorted(found, key=lambda path: [(len(part), part) if part.isdigit() else (0, part) for part in path.parts])


def read_run(folder: Path) -> Run:
    """Return what a run's folder holds."""
    run = Run(folder, "/".join(folder.resolve().parts[-2:]).lstrip("/"), status=read_status(folder))
    _read_configurations(run)
    by_part: dict[str, list[Finding]] = {}
    for part in _parts(run):
        place = folder / part
        if files := event_files(place):
            run.parts[part] = logged = read_events(files)
            run.noted += [f"{part}/{note}" if part else note for note in logged.noted]
        if (weeks := read_weeks(place, run.noted)) is not None:
            run.weeks[part] = weeks
        skipped: list[str] = []
        by_part[part] = read_jsonl(place / FINDINGS, skipped)
        run.noted += skipped
    run.findings += of_all_parts(by_part)
    _read_predictions(run)
    _read_account(run)
    return run


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder, not too deep, in order, and not into hidden folders and links; the caller may clear the second."""
    top = len(folder.parts)
    for place, inside, files in os.walk(folder):
        inside[:] = (
            sorted(name for name in inside if not name.startswith(".")) if len(Path(place).parts) - top < _DEPTH else []
        )
        yield place, inside, files


def _parts(run: Run) -> list[str]:
    """Return the folders within a run's own that hold events or findings, and no run with its own configuration."""
    found = []
    for each, inside, files in _walk(run.folder):
        place = Path(each)
        if place != run.folder and (place / STATUS).is_file():
            inside.clear()
        elif FINDINGS in files or any(name.startswith(PATTERN.rstrip("*")) for name in files):
            found.append("" if place == run.folder else place.relative_to(run.folder).as_posix())
    if len(found) > MOST_PARTS:
        run.noted.append(f"{len(found)} folders within hold events or findings; the first {MOST_PARTS} are shown")
    return found[:MOST_PARTS]


def _read_configurations(run: Run) -> None:
    for name in _CONFIGURATIONS:
        text = _text(run.folder / name)
        if text.strip() in ("", "{}", "[]"):
            continue
        run.configurations.append((name, text))
        run.command = run.command or _command(text)
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            run.noted.append(f"{name} is no plain YAML ({type(error).__name__}); it is shown as it is")
            continue
        if isinstance(values, Mapping) and not run.values:
            run.values = values


def _read_predictions(run: Run) -> None:
    frames = []
    for file in prediction_files(run.folder):
        try:
            frame = with_fold(pl.read_parquet(file, glob=False), file, run.folder)
            frames.append(frame.select("model", "user_id", "target", "value", "score", FOLD))
        except (pl.exceptions.PolarsError, OSError) as error:
            run.noted.append(f"{file.name} cannot be read: {str(error).splitlines()[0]}")
    if frames:
        run.predictions = pl.concat(frames, how="vertical_relaxed")


def _read_account(run: Run) -> None:
    data = run.values.get("data")
    if not isinstance(data, Mapping):
        return
    if str(data.get("_target_", "")).endswith(".SimulatedData"):
        run.simulated = True
    elif isinstance(data.get("path"), str):
        try:
            manifest = read_manifest(data["path"])
            run.simulated = manifest["provenance"].get("kind") == "simulated"
            run.account = Account.from_json(manifest["account"])
        except (HeartnetError, KeyError, TypeError, AttributeError):
            run.noted.append(f"the data ({data['path']}) are not at hand here, so their account is left out")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    except OSError:
        return ""


def _command(text: str) -> str:
    """Return the command line that stands on top of a configuration."""
    first = re.match(r"# (python .+)", text)
    return first[1].strip() if first else ""
