"""Reads beats and rhythms of PhysioNet records, so that a database such as afdb becomes heart rates and labels.

A WFDB record is a few files of one name: a header (`04015.hea`) and annotation files, one an annotator (`04015.qrs`,
`04015.atr`); signals (`.dat`) are not read, and nothing is fetched. The header's first line is name, number of signals,
samples a second, number of samples, clock time and date of the start; an annotation is a sample, a code and a note
(https://wfdb.io/spec: header(5), annot(5)). The package `wfdb` decodes both.

Heart rate: 60 / RR at each beat, where RR is the time since the beat before it; the first beat has none. Time: the
header's date and clock time, as a wall clock; without a date the record starts on 1970-01-01, at the header's clock
time or at midnight. A rhythm lasts from its annotation (code `+`, note `(AFIB`) to the next one, the last one
to the last beat. Each record is a person of its own, called as the record, `rec04015` if that is a number.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.intake import Intake
from heartnet.labels import parse_conditions
from heartnet.sources.wfdb_records import (
    Annotations,
    BrokenRecordError,
    Library,
    Record,
    find_records,
    read_annotations,
    read_header,
)

HAS_LABELS = True
"""Without label tables, `--condition` names rhythms."""

DEFAULT_RULES = {"atrial_fibrillation": "AFIB"}
"""Labels without `--condition`: flutter (`AFL`) is another arrhythmia."""

_CHUNK_ROWS = 500_000
_RHYTHM = 28
_ROWS = "rows"
_RECORDS = "records"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `heartnet prepare wfdb`."""
    parser.add_argument(
        "files", nargs="+", metavar="RECORD", type=Path, help="record (04015.hea), folder of records, or zip archive"
    )
    group = parser.add_argument_group("annotators", "the name's end of annotation files; of several, the first there")
    group.add_argument("--beats", default="qrs,atr", metavar="NAME,…", help="who marked the beats (default: qrs,atr)")
    group.add_argument("--rhythms", default="atr", metavar="NAME,…", help="who marked the rhythms (default: atr)")


def read(arguments: argparse.Namespace, intake: Intake) -> None:
    """Read the beats of all records, and hand their rhythms in as labels.

    `--condition NAME=RHYTHM|RHYTHM` says which rhythms are positive, all others being negative; without any it is
    `atrial_fibrillation=AFIB`. Where label tables are given, conditions are theirs, and rhythms make no labels.

    Raises:
        HeartnetError: if no record can be read, an option names what is not there, or records lie over each other.
    """
    library = Library()
    beats, rhythms = (_names(getattr(arguments, option), f"--{option}") for option in ("beats", "rhythms"))
    records = find_records(arguments.files, ("hea", *beats, *rhythms))
    _check_annotator(beats, "--beats", records)
    undated: dict[str, str] = {}
    used: Counter[str] = Counter()
    found: list[pl.DataFrame] = []
    intake.account.add(_RECORDS, "in", len(records))
    for record in records:
        try:
            reading = _Reading(record, library, intake, beats, rhythms)
        except BrokenRecordError as reason:
            intake.account.bad(_RECORDS, f"dropped: {reason.what}", 1, [reason.example])
            continue
        _check_alone(reading, undated)
        reading.hand_in_beats()
        found.append(reading.intervals())
        used.update(reading.annotators)
    intake.account.add(_RECORDS, "left", len(found))
    if not found:
        reasons = (f"{what}, {examples[0]}" for (_, what), examples in intake.account.examples.items() if examples)
        raise HeartnetError(f"no record can be read: {'; '.join(reasons)}")
    intake.note("annotators", dict(used))
    _hand_in_labels(pl.concat(found), arguments, intake)


class _Reading:
    """One record, read: which beats and rhythms it has, and when."""

    def __init__(
        self, record: Record, library: Library, intake: Intake, beats: Sequence[str], rhythms: Sequence[str]
    ) -> None:
        self.record = record
        self.intake = intake
        given = intake.user is not None or intake.user_from_filename is not None
        self.user = intake.user_of(record.place) if given else record.user
        self.header = read_header(record, library, intake)
        beats_of = next((name for name in beats if name in record.files), None)
        if beats_of is None:
            there = ", ".join(sorted(record.there)) or "none"
            raise BrokenRecordError(
                f"no beats of annotator {' or '.join(beats)}", f"{record.place}: annotators {there}"
            )
        self.member = record.files[beats_of]
        self.annotators = [f"beats {beats_of}"]
        self.beats = read_annotations(self.member, self.header, library, intake)
        self.is_beat = library.is_beat[self.beats.codes]
        if not self.is_beat.any():
            count = len(self.is_beat)
            raise BrokenRecordError("no beat in the annotations", f"{self.member.full_name}: {count} annotations")
        self.last = 0.0
        self.rhythms: Annotations | None = None
        rhythms_of = next((name for name in rhythms if name in record.files), None)
        if rhythms_of is not None:
            own = record.files[rhythms_of]
            same = rhythms_of == beats_of
            self.rhythms = self.beats if same else read_annotations(own, self.header, library, intake)
            self.annotators.append(f"rhythms {rhythms_of}")
        else:
            intake.account.note(_RECORDS, "noted: no rhythms, so no labels", 1, [record.place])

    def hand_in_beats(self) -> None:
        """Hand in a reading for each beat but the first, and count the others."""
        account = self.intake.account
        rows = np.flatnonzero(self.is_beat) + 1
        seconds = self.beats.seconds[self.is_beat]
        account.add(_ROWS, "in", len(rows))
        account.note(_ROWS, "noted: annotations that are not beats", len(self.is_beat) - len(rows))
        outside = (seconds < 0) | (seconds > self.header.length)
        self._drop("dropped: beat outside the record", outside, rows, seconds)
        rows, seconds = rows[~outside], seconds[~outside]
        late = np.zeros(len(seconds), bool)
        late[1:] = seconds[1:] <= np.maximum.accumulate(seconds)[:-1]
        self._drop("dropped: beat not after the beat before it", late, rows, seconds)
        rows, seconds = rows[~late], seconds[~late]
        account.note(_ROWS, "dropped: first beat of a record, with no interval before it", len(rows[:1]))
        self.last = float(seconds[-1]) if len(seconds) else 0.0
        frame = pl.DataFrame(
            {
                "time": self._times(seconds[1:]),
                "heart_rate": (60 / np.diff(seconds)).astype(np.float32),
                "row": rows[1:],
            }
        ).with_columns(user_id=pl.lit(self.user), file=pl.lit(self.intake.file(self.member.full_name)))
        for chunk in frame.iter_slices(_CHUNK_ROWS):
            self.intake.readings(chunk)

    def intervals(self) -> pl.DataFrame:
        """Return the rhythms: `user_id`, `start`, `end` (Datetime), `rhythm`."""
        seconds: npt.NDArray[np.float64] = np.zeros(0)
        names: list[str] = []
        if self.rhythms is not None:
            rhythms = self.rhythms
            notes = [note.strip("\0 ") for note in rhythms.notes]
            there = [row for row in np.flatnonzero(rhythms.codes == _RHYTHM) if notes[row].startswith("(")]
            seconds = rhythms.seconds[there]
            names = [notes[row][1:] for row in there]
        account = self.intake.account
        order = np.argsort(seconds, kind="stable")
        start = seconds[order]
        end = np.append(start[1:], self.last)
        end = end[: len(start)]
        kept = (start >= 0) & (end > start) & (end <= self.header.length)
        account.note("rhythms", "in", len(start))
        places = [f"{self.record.place}: ({names[order[row]]} at {start[row]:g} s" for row in np.flatnonzero(~kept)]
        account.bad("rhythms", "dropped: rhythm without time, or outside the record", len(places), places)
        return pl.DataFrame(
            {
                "user_id": pl.Series([self.user] * int(kept.sum()), dtype=pl.String),
                "start": self._times(start[kept]),
                "end": self._times(end[kept]),
                "rhythm": pl.Series([names[row] for row in order[kept]], dtype=pl.String),
            }
        )

    def _times(self, seconds: npt.NDArray[np.float64]) -> pl.Series:
        start = (self.header.start - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        return pl.Series(np.rint(seconds * 1e6).astype(np.int64) + start).cast(pl.Datetime("us"))

    def _drop(
        self, what: str, where: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], seconds: npt.NDArray[np.float64]
    ) -> None:
        at = np.flatnonzero(where)
        limit = self.intake.account.max_examples
        places = [f"{self.member.full_name} row {rows[i]}: beat at {seconds[i]:g} s" for i in at[:limit]]
        self.intake.account.bad(_ROWS, what, len(at), places)


def _names(text: str, option: str) -> list[str]:
    names = [name.strip().lstrip(".") for name in text.split(",")]
    if not all(re.fullmatch(r"[A-Za-z]\w*", name) for name in names):
        raise HeartnetError(f"{option} {text!r}: expected names of annotators such as qrs or qrsc,qrs")
    return names


def _check_annotator(names: Sequence[str], option: str, records: Sequence[Record]) -> None:
    if not any(name in record.files for record in records for name in names):
        there = sorted({name for record in records for name in record.there})
        raise HeartnetError(
            f"{option} {','.join(names)}: no record has annotations of this name; there are "
            f"{', '.join(there) or 'no annotation files at all'}.{did_you_mean(names[0], there)}"
        )


def _check_alone(reading: _Reading, undated: dict[str, str]) -> None:
    """Raise if two records of a person both start on 1970-01-01, for want of a date, so that their beats would mix."""
    if reading.header.dated:
        return
    if reading.user in undated:
        raise HeartnetError(
            f"{undated[reading.user]} and {reading.record.place} are both of {reading.user!r} and neither header has a "
            "date, so that they would lie over each other: make a person of each, with --user-from-filename REGEX "
            "(given folder/record), or without --user"
        )
    undated[reading.user] = reading.record.place


def _hand_in_labels(intervals: pl.DataFrame, arguments: argparse.Namespace, intake: Intake) -> None:
    known = sorted(intervals["rhythm"].unique())
    for rhythm in known:
        intake.account.add("rhythms", f"noted: {rhythm}", int((intervals["rhythm"] == rhythm).sum()))
    if arguments.labels is not None or arguments.label_intervals is not None:
        intake.account.note("rhythms", "noted: no labels, as a table gives them", intervals.height)
        return
    given = parse_conditions(arguments.condition)
    if given and not known:
        raise HeartnetError(
            f"--condition {arguments.condition[0]}: no record has rhythms of annotator {arguments.rhythms}; name "
            "another with --rhythms, or leave --condition out"
        )
    labels = {}
    for name, expression in (given or DEFAULT_RULES).items():
        values = [value.strip().removeprefix("(") for value in expression.split("|")]
        unknown = [value for value in values if value not in known]
        if given and unknown:
            raise HeartnetError(
                f"--condition {name}={expression}: no rhythm is called {unknown[0]!r}; there are {', '.join(known)}."
                f"{did_you_mean(unknown[0], known)}"
            )
        labels[name] = intervals["rhythm"].is_in(values).cast(pl.Int8)
        intake.account.note("rhythms", f"noted: {name} is {' or '.join(values)}", int(labels[name].sum()))
    if known:
        intake.note("conditions", given or DEFAULT_RULES)
        intake.labels(intervals.drop("rhythm").with_columns(instant=pl.lit(False)).with_columns(**labels))
