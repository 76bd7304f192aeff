"""How far a run got, kept in its folder: it runs, finished, was interrupted or failed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

State = Literal["running", "finished", "interrupted", "failed"]

FILE = "status.json"
"""Where a run's folder keeps it."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, since when (local time, ISO 8601), and what went wrong, if something did."""

    state: State
    at: str
    message: str = ""


def write_status(folder: Path, state: State, message: str = "") -> None:
    """Write the state of the run in `folder`, whole or not at all."""
    status = RunStatus(state, datetime.now().astimezone().isoformat(timespec="seconds"), message)
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(asdict(status), ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / FILE)


def read_status(folder: Path) -> RunStatus | None:
    """Return the state of the run in `folder`; None if nothing readable says it."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        row = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if row["state"] in get_args(State):
            return RunStatus(row["state"], str(row["at"]), str(row.get("message", "")))
    return None
