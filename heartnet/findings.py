"""Findings: the verdict in which each technique ends, and where verdicts are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from heartnet.errors import HeartnetError
from heartnet.finding_rows import findings_markdown, worst_first
from heartnet.loggers import log_text

if TYPE_CHECKING:
    import pytorch_lightning as lightning

Status = Literal["pass", "unknown", "warn", "fail"]

BAD: tuple[Status, ...] = ("warn", "fail")
"""What asks for something to be done."""

FILE = "findings.jsonl"
"""Where a run's folder keeps its findings."""


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes:
        check: the technique, for example `"amnesia"`.
        status: `"pass"`, `"warn"` or `"fail"`; `"unknown"` where data or network give nothing to judge by, such as too
            few people: `message` says what is missing.
        where: condition, layer or split that it is about.
        value: what was measured, in `unit`; None if it could not be.
        limit: the value up to which the check passes.
        message: what is wrong, in plain words; of a pass or an unknown, its first sentence says it in short.
        try_: Hydra overrides that may fix it; `"try"` in JSON.
        step: optimiser steps taken when it was measured.
    """

    check: str
    status: Status
    where: str
    value: float | None
    limit: float | None
    unit: str
    message: str
    try_: Sequence[str] = field(default_factory=tuple)
    step: int = 0

    def as_json(self) -> dict[str, Any]:
        row = asdict(self)
        row["try"] = list(row.pop("try_"))
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Finding:
        """Return the finding that `as_json` wrote; keys from a newer version are left out.

        Raises:
            ValueError: a key is missing, a value is of another type, or the status is unknown.
        """
        if isinstance(row.get("try"), str):
            raise ValueError("try is no list")
        row = {**row, "try_": tuple(row.get("try", ()))}
        if row.get("status") not in get_args(Status):
            raise ValueError(f"status {row.get('status')!r} is none of {', '.join(get_args(Status))}")
        missing = [each.name for each in fields(cls) if each.name not in row]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        texts = [row["check"], row["where"], row["unit"], row["message"], *row["try_"]]
        numbers = [number for number in (row["value"], row["limit"], row["step"]) if number is not None]
        if not all(isinstance(each, str) for each in texts) or not all(type(each) in (int, float) for each in numbers):
            raise ValueError("a text is no text, or a number no number")
        return cls(**{each.name: row[each.name] for each in fields(cls)})


def append_jsonl(findings: Iterable[Finding], path: Path) -> None:
    """Append findings to `path`, one JSON object a line, each line written whole."""
    text = "".join(json.dumps(finding.as_json(), allow_nan=False) + "\n" for finding in findings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: Path, skipped: list[str] | None = None) -> list[Finding]:
    """Return the findings in `path`, oldest first; none if there is no such file.

    Args:
        path: the file.
        skipped: takes a message for each line that is not a finding, which is then left out.

    Raises:
        HeartnetError: a line that is not a finding, unless there is `skipped`.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line:
            continue
        try:
            found.append(Finding.from_json(json.loads(line)))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            if skipped is None:
                raise HeartnetError(f"{path}, line {number}: not a finding ({error}); delete the line") from error
            skipped.append(f"{path.name}, line {number}: not a finding ({error})")
    return found


def in_part(findings: Iterable[Finding], part: str) -> list[Finding]:
    """Return findings of a part of a run, such as a fold, with its name before `where`; `""` is the run itself."""
    return [replace(each, where=f"{part}: {each.where}") if part else each for each in findings]


def of_all_parts(by_part: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """Return the findings of a run, under `""`, and of its parts, without what the run judged over all parts together.

    So a fold of a cross-validation does not say "too few people" of what is told from all folds.
    """
    whole = {each.check for each in by_part.get("", ())}
    found = []
    for part, findings in by_part.items():
        found += in_part([each for each in findings if not part or each.check not in whole], part)
    return found


def latest(findings: Iterable[Finding]) -> list[Finding]:
    """Return the newest finding for each (check, where), worst first (`heartnet.finding_rows.worst_first`)."""
    newest = {(finding.check, finding.where): finding for finding in findings}
    return sorted(newest.values(), key=worst_first)


def publish(findings: Sequence[Finding], trainer: lightning.Trainer) -> None:
    """Append findings to the run's `findings.jsonl`, and write the newest of each to TensorBoard's text tab.

    The table stands under `findings`, worst first. Call it on every rank; rank zero writes. A `fast_dev_run` writes
    nothing.
    """
    # `log_dir` is a broadcast, so every rank has to ask for it.
    folder = run_folder(trainer)
    if not findings or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return
    append_jsonl(findings, folder / FILE)
    log_text(trainer, "findings", findings_markdown(latest(read_jsonl(folder / FILE))))


def run_folder(trainer: lightning.Trainer) -> Path:
    """Return the folder that a run writes to: its first logger's, else the trainer's root. Call it on every rank."""
    return Path(trainer.log_dir or trainer.default_root_dir)
