"""Shows how far a preparation or prediction has come, with a rate and the time that is left, if somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Told = Callable[[str, int], None]
"""Told what is done, and how much of it since the last call."""


@contextmanager
def reading(paths: Sequence[Path]) -> Iterator[Told | None]:
    """Show how many bytes of the files are read; yields None if nobody watches."""
    with _shown(sum(_bytes(path) for path in paths), "reading") as told:
        yield told


@contextmanager
def cutting(rows: int) -> Iterator[Told | None]:
    """Show how many readings are cut into weeks; yields None if nobody watches."""
    with _shown(rows, "cutting weeks", counted=True) as told:
        yield told


@contextmanager
def predicting(weeks: int) -> Iterator[Told | None]:
    """Show of how many weeks predictions are made; yields None if nobody watches."""
    with _shown(weeks, "predicting", counted=True) as told:
        yield told


@contextmanager
def _shown(total: int, what: str, *, counted: bool = False) -> Iterator[Told | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (MofNCompleteColumn(),) if counted else (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda name, count: bar.update(task, advance=count, description=f"{what} {name}".strip())


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0
