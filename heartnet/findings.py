"""Findings: the verdict in which each technique ends, and where verdicts go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["pass", "warn", "fail"]
_WORST_FIRST: dict[str, int] = {"fail": 0, "warn": 1, "pass": 2}


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes:
        check: the technique, for example `"amnesia"`.
        status: `"pass"`, `"warn"` or `"fail"`.
        where: condition, layer or split that it is about.
        value: what was measured, in `unit`; None if it could not be.
        limit: the value up to which the check passes.
        message: what is wrong, in plain words.
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


def append_jsonl(findings: Iterable[Finding], path: Path) -> None:
    """Append findings to `path`, one JSON object a line, each line written whole."""
    text = "".join(json.dumps(finding.as_json(), allow_nan=False) + "\n" for finding in findings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def latest(findings: Iterable[Finding]) -> list[Finding]:
    """Return the newest finding for each (check, where), worst first."""
    newest = {(finding.check, finding.where): finding for finding in findings}
    return sorted(newest.values(), key=lambda f: (_WORST_FIRST[f.status], f.check, f.where))
