"""Opens a table on disk, delimited text (also gzipped) or Parquet, and hands out its numbered rows in chunks."""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError, did_you_mean

CHUNK_BYTES = 1 << 23
CHUNK_ROWS = 1 << 20
LONGEST_LINE = 1 << 26
"""Bytes; a file with a longer line is no table, and need not fit into memory."""

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "none")
"""Text that means: nothing was measured."""

_T = TypeVar("_T")

Progress = Callable[[int], None]
"""Told how many bytes of a file were read since the last call."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table.

    Attributes:
        frame: the columns asked for; strings from delimited text (missing is null), typed from Parquet.
        rows: int64, `[row]`: the line in the text file, where the header is row 1; in Parquet the first row is row 1.
    """

    frame: pl.DataFrame
    rows: npt.NDArray[np.int64]


class TableFile:
    """A table on disk. What it holds is told from its first bytes, not from its name.

    Attributes:
        path: where it lies.
        name: its name without folders, for messages and provenance.
        columns: the column names, without blanks around them.

    Raises:
        HeartnetError: if it is not there, a folder, empty, or not a table.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        _require_file(self.path)
        with _reading(self.path), self.path.open("rb") as file:
            magic = file.read(4)
        self.is_parquet = magic == b"PAR1"
        self._separator = ","
        self._raw_columns = _parquet_columns(self.path) if self.is_parquet else self._text_header()
        self.columns = tuple(name.strip() for name in self._raw_columns)

    def find(self, wanted: str, option: str) -> str:
        """Return the column called `wanted`, case and blanks around it ignored.

        Raises:
            HeartnetError: if there is none, or more than one; lists the columns that are there.
        """
        found = self.columns_like(wanted)
        if len(found) == 1:
            return found[0]
        listing = ", ".join(repr(column) for column in self.columns)
        problem = f"has {len(found)} columns {wanted!r}" if found else f"has no column {wanted!r}"
        raise HeartnetError(
            f"{self.name} {problem} ({option}). Its columns are {listing}.{did_you_mean(wanted, self.columns)}"
        )

    def columns_like(self, wanted: str) -> list[str]:
        """Return the columns that are called `wanted`: exactly, or else with case and blanks around it ignored."""
        exact = [column for column in self.columns if column == wanted.strip()]
        return exact or [column for column in self.columns if column.lower() == wanted.strip().lower()]

    def chunks(
        self, columns: Sequence[str], account: Account, stage: str = "rows", progress: Progress | None = None
    ) -> Iterator[Chunk]:
        """Yield the rows, counting them in `account` under `stage`, as well as rows with too few or many fields.

        Raises:
            HeartnetError: if the file is damaged, not UTF-8, or has a header and no rows.
        """
        wanted = list(dict.fromkeys(columns))
        indices = [self.columns.index(column) for column in wanted]
        source = self._parquet_chunks(indices) if self.is_parquet else self._text_chunks(indices, account, stage)
        total = 0
        done = 0
        size = self.path.stat().st_size
        for chunk, position in source:
            if progress is not None:
                progress(position - done)
            done = position
            total += len(chunk.rows)
            account.add(stage, "in", len(chunk.rows))
            yield Chunk(chunk.frame.rename(dict(zip(chunk.frame.columns, wanted, strict=True))), chunk.rows)
        if progress is not None:
            progress(size - done)
        if total == 0:
            places = account.examples.get((stage, self._ragged()), [])
            example = f"; for example {places[0]} (expected {len(self.columns)} fields)" if places else ""
            raise HeartnetError(f"{self.name} has column names and no rows that fit them: nothing to read{example}")

    def _ragged(self) -> str:
        return f"dropped: not the {len(self.columns)} fields of the header"

    def _text_header(self) -> tuple[str, ...]:
        for lines, _, _ in _blocks(self.path):
            text = _decode(lines, self.name, 1)
            header = next((line for line in text.split("\n") if line.strip()), None)
            if header is not None:
                header = header.rstrip("\r")
                if "\r" in header:
                    raise HeartnetError(
                        f"{self.name} ends its lines as old Macs did (CR); convert it, for example with: tr '\\r' '\\n'"
                    )
                self._separator = max(",;\t|", key=header.count)
                return tuple(next(csv.reader([header], delimiter=self._separator)))
        raise HeartnetError(f"{self.name} is empty: nothing to read")

    def _text_chunks(self, indices: list[int], account: Account, stage: str) -> Iterator[tuple[Chunk, int]]:
        seen_header = False
        for lines, first_row, position in _blocks(self.path):
            _decode(lines, self.name, first_row)
            split = _Lines(lines, self._separator)
            rows = np.flatnonzero(~split.blank)
            if not seen_header and len(rows):
                rows, seen_header = rows[1:], True
            fits = split.fields[rows] == len(self.columns)
            ragged = rows[~fits]
            if len(ragged):
                account.add(stage, "in", len(ragged))
                places = [
                    f"{self.name} row {first_row + row}: {split.text(row)!r}" for row in ragged[: account.max_examples]
                ]
                account.bad(stage, self._ragged(), len(ragged), places)
            rows = rows[fits]
            if len(rows):
                yield Chunk(self._parse(split.only(rows), indices, len(rows)), rows + first_row), position

    def _parse(self, lines: bytes, indices: list[int], expected: int) -> pl.DataFrame:
        try:
            frame = pl.read_csv(
                lines,
                has_header=False,
                columns=indices,
                infer_schema=False,
                separator=self._separator,
                quote_char='"' if b'"' in lines else None,
            )
        except pl.exceptions.PolarsError as error:
            raise HeartnetError(f"{self.name} is not a table that can be read: {error}") from error
        if frame.height != expected:
            raise HeartnetError(f"{self.name}: quotes that do not close make {expected} lines {frame.height} rows")
        text = pl.all().str.strip_chars()
        return frame.select(pl.when(text.is_in(MISSING)).then(None).otherwise(text).name.keep())

    def _parquet_chunks(self, indices: list[int]) -> Iterator[tuple[Chunk, int]]:
        columns = [self._raw_columns[index] for index in indices]
        table = pl.scan_parquet(self.path, glob=False).select(columns)
        height = int(_parquet(self.path, lambda: table.select(pl.len()).collect()).item())
        size = self.path.stat().st_size
        for first in range(0, height, CHUNK_ROWS):
            frame = _parquet(self.path, table.slice(first, CHUNK_ROWS).collect)
            rows = np.arange(first + 1, first + 1 + frame.height, dtype=np.int64)
            yield Chunk(frame, rows), size * (first + frame.height) // height


def sha256(path: Path) -> str:
    """Return the checksum of a file, for provenance."""
    with _reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Lines:
    """A block of text that ends in a line end, cut into lines; a quoted field must end on its own line."""

    def __init__(self, block: bytes, separator: str) -> None:
        self._bytes = block
        self._block = np.frombuffer(block, np.uint8)
        self.ends = np.flatnonzero(self._block == 10)
        self.starts = np.concatenate([np.zeros(1, np.int64), self.ends[:-1] + 1])
        separators = self._block == ord(separator)
        unbalanced = np.zeros(len(self.ends), bool)
        if b'"' in block:
            quotes = np.concatenate([np.zeros(1, np.int32), np.cumsum(self._block == 34, dtype=np.int32)])
            before = quotes[self.starts]
            inside = (quotes[:-1] - np.repeat(before, self.ends - self.starts + 1)) % 2 == 1
            separators &= ~inside
            unbalanced = (quotes[self.ends] - before) % 2 == 1
        positions = np.flatnonzero(separators)
        counts = np.searchsorted(positions, self.ends) - np.searchsorted(positions, self.starts)
        length = self.ends - self.starts - (self._block[np.maximum(self.ends - 1, 0)] == 13)
        self.blank = length <= 0
        self.fields = np.where(unbalanced, -1, counts + 1)

    def text(self, line: int) -> str:
        return self._block[self.starts[line] : self.ends[line]].tobytes().decode().rstrip("\r")[:80]

    def only(self, lines: npt.NDArray[np.int64]) -> bytes:
        keep = np.zeros(len(self.ends), bool)
        keep[lines] = True
        if keep.all():
            return self._bytes
        return bytes(self._block[np.repeat(keep, self.ends - self.starts + 1)])


def _require_file(path: Path) -> None:
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise HeartnetError(f"{path} does not exist.{did_you_mean(path.name, beside)}")
    if path.is_dir():
        raise HeartnetError(f"{path} is a folder; name the files in it, for example {path / '*.csv'}")
    if path.stat().st_size == 0:
        raise HeartnetError(f"{path.name} is empty: nothing to read")


class _reading:  # noqa: N801
    """Turns what goes wrong while reading a file into an error that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise HeartnetError(f"{self.path.name} is a damaged gzip file, or ends early: {error}") from error
        if isinstance(error, OSError):
            raise HeartnetError(f"{self.path} cannot be read: {error.strerror or error}") from error


def _blocks(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield `(whole lines, number of the first, bytes of the file read)`."""
    with _reading(path), path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        text = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
        rest = b""
        row = 1
        while block := text.read(CHUNK_BYTES):
            if row == 1 and not rest and block.startswith(b"\xef\xbb\xbf"):
                block = block[3:]
            if len(rest) > LONGEST_LINE:
                raise HeartnetError(f"{path.name} row {row} is longer than {LONGEST_LINE:,} bytes: this is no table")
            if b"\0" in block:
                raise HeartnetError(f"{path.name} holds binary data, not a text table; export it as CSV or Parquet")
            lines, end, rest = (rest + block).rpartition(b"\n")
            if end:
                yield lines + end, row, raw.tell()
                row += lines.count(b"\n") + 1
        if rest.strip():
            yield rest + b"\n", row, raw.tell()


def _decode(block: bytes, name: str, first_row: int) -> str:
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        row = first_row + block.count(b"\n", 0, error.start)
        raise HeartnetError(
            f"{name} row {row} is not UTF-8 text (byte 0x{block[error.start]:02x}). If it is text, save it as UTF-8, "
            "for example with: iconv -f LATIN1 -t UTF-8"
        ) from error


def _parquet_columns(path: Path) -> tuple[str, ...]:
    names = _parquet(path, lambda: pl.scan_parquet(path, glob=False).collect_schema())
    return tuple(names)


def _parquet(path: Path, action: Callable[[], _T]) -> _T:
    try:
        return action()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise HeartnetError(f"{path.name} cannot be read as Parquet: {reason}") from error
