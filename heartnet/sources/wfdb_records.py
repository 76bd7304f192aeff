"""Finds the records of a PhysioNet database on disk, and decodes their headers and annotation files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.intake import Intake
from heartnet.sources.archives import Member, members

RATES = (1.0, 1e6)
"""Samples a second that a record may have."""

_HEADER_BYTES = 1 << 20
_ANNOTATION_BYTES = 1 << 22  # two million beats, three weeks of them; decoding takes some 150 bytes for each
_LONGEST = 366 * 86_400  # seconds, where the header does not say how long the record is


@dataclass
class Record:
    """The files of a record, by what follows the last dot of their names."""

    place: str
    files: dict[str, Member] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)

    @property
    def user(self) -> str:
        name = self.place.rpartition("/")[2]
        return f"rec{name}" if name.isdecimal() else name


@dataclass(frozen=True)
class Header:
    """What the record line says; `rate` in samples a second, `length` in seconds."""

    rate: float
    length: float
    start: datetime
    dated: bool


@dataclass(frozen=True)
class Annotations:
    """Annotations of a file, `[annotation]`: seconds since the record's start, codes and notes."""

    seconds: npt.NDArray[np.float64]
    codes: npt.NDArray[np.int64]
    notes: list[str]


class BrokenRecordError(Exception):
    """A record that cannot be used: for what reason, and which file says so."""

    def __init__(self, what: str, example: str) -> None:
        super().__init__(what)
        self.what = what
        self.example = example


class Library:
    """The two modules of the package `wfdb` that decode files; neither is given a name to open or to fetch."""

    def __init__(self) -> None:
        try:
            from wfdb.io import annotation, header
        except ImportError as error:
            raise HeartnetError(
                f"PhysioNet records are read with the package wfdb ({error}): pip install 'heartnet[wfdb]'"
            ) from error
        self.annotation: ModuleType = annotation
        self.header: ModuleType = header
        self.is_beat = np.zeros(64, bool)
        self.is_beat[: len(annotation.is_qrs)] = annotation.is_qrs


def find_records(paths: Sequence[Path], wanted: Sequence[str]) -> list[Record]:
    """Return the records that lie at the paths, each once, with those of their files whose ending is wanted.

    Raises:
        HeartnetError: if there is none.
    """
    records: dict[str, Record] = {}
    for path in paths:
        for member in _files(path):
            whole = member.source if member.name == member.source.name else member.source / member.name
            name, dot, ending = member.full_name.rpartition(".")
            if not dot or "/" in ending:
                continue
            key = str(whole.absolute())[: -len(ending) - 1]
            record = records.setdefault(key, Record(name))
            if ending in wanted:
                record.files[ending] = member
            if ending not in ("hea", "dat"):
                record.there.add(ending)
    found = [record for record in records.values() if record.files]
    if not found:
        looked = ", ".join(path.name or str(path) for path in paths)  # that of "." is empty
        raise HeartnetError(f"{looked}: no record there; expected files such as 04015.hea, 04015.qrs and 04015.atr")
    return found


def _files(path: Path) -> Iterator[Member]:
    """Yield the files of a folder or archive, or those of the one record that the path names, with an ending or not."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        yield from members(path)
        return
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    record = path.stem if path.is_file() else path.name
    own = [file for file in beside if file.is_file() and file.stem == record and file.suffix]
    if not own and not path.is_file():
        raise HeartnetError(
            f"{path}: no such file, and no file of a record of that name."
            f"{did_you_mean(path.name, [name for file in beside for name in (file.name, file.stem)])}"
        )
    for file in own:
        yield from members(file)


def read_header(record: Record, library: Library, intake: Intake) -> Header:
    """Return what the header says.

    Raises:
        BrokenRecordError: if there is none, or it is none of WFDB.
    """
    if "hea" not in record.files:
        raise BrokenRecordError("no header", f"{record.place}.hea is not there")
    member = record.files["hea"]
    text = _content(member, _HEADER_BYTES, intake).decode("ascii", "ignore")
    lines = library.header.parse_header_content(text)[0]
    line = lines[0][:500] if lines else ""
    match = library.header.rx_record.match(line)
    if match is None:
        raise BrokenRecordError("header that cannot be read", f"{member.full_name} begins {line[:60]!r}")
    rate = float(match["fs"]) if match["fs"].strip(".") else 250.0  # as header(5) has it
    samples = float(match["sig_len"] or 0)
    start, dated = datetime(1970, 1, 1), False
    try:
        clock = library.header.wfdb_strptime(match["base_time"]) if match["base_time"] else time()
        if match["base_date"]:
            start, dated = datetime.strptime(match["base_date"], "%d/%m/%Y"), True
        start = datetime.combine(start, clock)
    except ValueError:
        intake.account.bad(
            "records", "noted: start that cannot be read, taken as 1970-01-01", 1, [f"{member.full_name}: {line!r}"]
        )
    return Header(rate, min(samples / rate, _LONGEST) if samples and rate else _LONGEST, start, dated)


def read_annotations(member: Member, header: Header, library: Library, intake: Intake) -> Annotations:
    """Return what an annotation file holds, but for notes on the file itself (`## …`) and fillers (code 0).

    Raises:
        BrokenRecordError: if the file is broken or cut off, or its sampling frequency, or else the header's, cannot be.
    """
    data = _content(member, _ANNOTATION_BYTES, intake)
    if len(data) % 2 or data[-2:] != b"\0\0":
        raise BrokenRecordError("annotation file broken or cut off", f"{member.full_name} does not end as it should")
    try:
        decoded: Any = library.annotation.proc_ann_bytes(np.frombuffer(data, np.uint8).reshape(-1, 2), None)
    except (IndexError, ValueError, OverflowError) as error:
        raise BrokenRecordError("annotation file broken or cut off", f"{member.full_name}: {error}") from error
    samples, codes = (np.array(column, np.int64) for column in decoded[:2])
    notes: list[str] = decoded[5]
    matches = (library.annotation.rx_fs.match(note) for note in notes)
    rate = next((float(match["fs"]) for match in matches if match), header.rate)
    if not RATES[0] <= rate <= RATES[1]:
        expected = f"expected {RATES[0]:g} to {RATES[1]:,.0f}"
        raise BrokenRecordError("sampling frequency that cannot be", f"{member.full_name}: {rate:g} Hz, {expected}")
    there = np.flatnonzero((codes != 0) & ~np.array([note.startswith("## ") for note in notes], bool))
    return Annotations(samples[there] / rate, codes[there], [notes[row] for row in there])


def _content(member: Member, limit: int, intake: Intake) -> bytes:
    try:
        with member.open() as stream:
            data = stream.read(limit + 1)
    except HeartnetError as error:
        raise BrokenRecordError("file that cannot be read", str(error)) from error
    intake.read(member.name, member.size)
    if len(data) > limit:
        raise BrokenRecordError(f"file of more than {limit >> 20} MiB", member.full_name)
    return data
