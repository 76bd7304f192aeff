"""The file that predictions stream into: rows as they come, whole at the end or not there at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from heartnet.errors import HeartnetError
from heartnet.predictions import COLUMNS

ENDINGS = (".parquet", ".csv")
"""Of the files that scores are put into."""

ROWS_IN_MEMORY = 1 << 15
"""Rows held before they go to disk, at about 150 bytes each; and rows of a row group."""


class PredictionFile:
    """Writes predictions to a Parquet file with at least the columns `heartnet.predictions.COLUMNS`, as a context.

    `add` rows, then `finish`; without `finish`, also after an error, nothing is left behind, and a file that was there
    before is still there.

    Raises:
        HeartnetError: if the file cannot be written, for example on a full disk.
    """

    def __init__(self, path: Path, rows_in_memory: int = ROWS_IN_MEMORY) -> None:
        self.path, self.rows_in_memory = path, rows_in_memory
        self.rows = 0
        self._held: list[pl.DataFrame] = []
        self._held_rows = 0
        self._parts: list[Path] = []
        self._folder: Path | None = None

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.discard()

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows, as `heartnet.predictions.prediction_rows` makes them."""
        self._held.append(rows)
        self._held_rows += rows.height
        self.rows += rows.height
        if self._held_rows >= self.rows_in_memory:
            self._spill()

    def finish(self) -> None:
        """Put the file in its place."""
        self._spill()
        with self._told():
            whole = self._partial() / "whole.parquet"
            if self._parts:
                parts = pl.scan_parquet(self._parts, glob=False)
                parts.sink_parquet(whole, row_group_size=self.rows_in_memory, maintain_order=True)
            else:
                pl.DataFrame(schema=COLUMNS).write_parquet(whole)
            whole.replace(self.path)
        self.discard()

    def discard(self) -> None:
        """Forget what was added and not finished, and remove it from the disk."""
        self._held, self._held_rows, self._parts = [], 0, []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _spill(self) -> None:
        if not self._held:
            return
        with self._told():
            part = self._partial() / f"part-{len(self._parts):06d}.parquet"
            pl.concat(self._held).select(*COLUMNS, pl.exclude(*COLUMNS)).write_parquet(
                part, row_group_size=self.rows_in_memory
            )
        self._parts.append(part)
        self._held, self._held_rows = [], 0

    def _partial(self) -> Path:
        if self._folder is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Known before it is there, so that an interruption between the two leaves nothing.
            self._folder = self.path.with_name(f".{self.path.name}.partial-{secrets.token_hex(8)}")
            self._folder.mkdir(mode=0o700)
        return self._folder

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            raise HeartnetError(f"cannot write {self.path}: {error.strerror or error}") from error
        except pl.exceptions.PolarsError as error:
            self.discard()
            raise HeartnetError(f"cannot write {self.path}: {error}") from error


def put(whole: Path, out: Path) -> None:
    """Put a Parquet file where it belongs, on the same disk; as CSV, streamed, where its name ends so.

    Raises:
        HeartnetError: if it cannot be written; what was there before is then still there.
    """
    try:
        if out.suffix == ".csv":
            written = whole.with_suffix(".csv")
            pl.scan_parquet(whole, glob=False).sink_csv(written, maintain_order=True)
            written.replace(out)
        else:
            whole.replace(out)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise HeartnetError(f"cannot write {out}: {error}") from error
