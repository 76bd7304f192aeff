"""Reads the export of Apple's Health app: `heartnet prepare apple-health export.zip --out weeks/`.

The format. `export.zip` holds `apple_health_export/export.xml`, also under a localised name (`Exportieren.xml`); it is
known by its root element, `HealthData`. Beside it lie `export_cda.xml`, electrocardiograms (CSV) and routes (GPX),
which are not read. Read are, in any order:

- `<Record type="HKQuantityTypeIdentifierHeartRate" sourceName device unit startDate endDate value>`: a heart rate at
  `startDate`, `unit` `count/min`, `count/s` or `count/hr`; nested in it, `<MetadataEntry
  key="HKMetadataKeyHeartRateMotionContext">` 0 (not set), 1 (sedentary) or 2 (active), which is counted;
- `<Record type="HKQuantityTypeIdentifierStepCount" …>`: steps from `startDate` to `endDate`, unit `count`. A watch and
  a phone in the pocket both count; each interval is handed in with its device;
- `<Record type="HKCategoryTypeIdentifierSleepAnalysis" value="HKCategoryValueSleepAnalysisAsleep…">` and `<Workout>`:
  spans asleep and in a workout;
- `<Me>`: date of birth and sex.

Records in a `<Correlation>` stand in the file a second time, and are read once. Dates (`2018-09-10 02:28:55 -0700`)
are right as instants, but all carry the offset in force when the export was made, so that local time is an hour off
for half of the year, and further on journeys. Local time is therefore that of `--time-zone`; else that of the
`HKTimeZone` entries of sleep records and workouts, which may stand behind the readings that need them: these wait, and
where they become too many, the rest of the file is searched for time zones first; else it is as written.

Nothing is unpacked to disk, and memory does not grow with the file. A person's names for their devices are not kept.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.errors import HeartnetError
from heartnet.intake import Intake, Person
from heartnet.sources.apple_records import Record, count_records, device_of, find_records
from heartnet.sources.apple_times import Zones, parse_dates
from heartnet.sources.apple_xml import Document, attributes, tags_with, unescape
from heartnet.sources.archives import Member, members

_ROWS = 100_000  # readings handed in at once
_MOST_KEPT = 1_500_000  # readings kept until all time zones are known, in 60 MB
_ROWS_AT_ONCE = 20_000  # as Python objects, of which there should not be too many
_TEXT_AT_ONCE = 1 << 25  # bytes of text that such objects are taken from
_LONGEST_TIME = 40  # bytes of a date that are kept
_MOST_DEVICES = 10_000  # names and models as written, that are kept
_LONGEST_DEVICE = 1000  # bytes of these

_FACTORS = {
    (b"HeartRate", b"count/min"): 1.0,
    (b"HeartRate", b"count/s"): 60.0,
    (b"HeartRate", b"count/hr"): 1 / 60,
    (b"StepCount", b"count"): 1.0,
}
_INFINITE = 1e30  # what float32 cannot hold, times a factor
_MOTIONS = {b"0": "motion not set", b"1": "sedentary", b"2": "active"}
_ASLEEP = b"HKCategoryValueSleepAnalysisAsleep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `heartnet prepare apple-health`."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="export.zip, its export.xml, or the unpacked folder"
    )


def read(arguments: argparse.Namespace, intake: Intake) -> None:
    """Read what the options of `add_arguments` name.

    Raises:
        HeartnetError: if none of the files is an Apple Health export that can be read.
    """
    errors: list[HeartnetError] = []
    count = 0
    for path in arguments.files:
        user = intake.user_of(path.name)
        exports: list[Member] = []
        others: list[str] = []
        before = len(errors)
        try:
            for member in members(path):
                _sort(member, intake, exports, others, errors)
        except HeartnetError as error:
            errors.append(error)
        for member in exports:
            _Export(member, user, intake).read()
        count += len(exports)
        if not exports and len(errors) == before:
            found = f"; it holds {', '.join(others[:3])}" if others else ""
            errors.append(
                HeartnetError(
                    f"{path} is not an Apple Health export: expected XML with the root HealthData, as export.xml in "
                    f"export.zip has{found}"
                )
            )
    if errors and (count == 0 or intake.account.strict):
        raise errors[0]
    intake.account.add("rows", "in", 0)
    intake.account.add("files", "in", count + len(errors))
    intake.account.note("files", "dropped: file that cannot be read", len(errors), [str(error) for error in errors])


def _sort(
    member: Member, intake: Intake, exports: list[Member], others: list[str], errors: list[HeartnetError]
) -> None:
    """Append a file to `exports` if it is one, to `others` if it is other XML, to `errors` if it is broken."""
    single = member.source.name == member.name
    if single or member.name.lower().endswith(".xml"):
        try:
            with member.open() as stream:
                root = Document(stream, member.full_name).root
        except HeartnetError as error:
            errors.append(error)
        else:
            if root == "HealthData":
                exports.append(member)
                return
            others.append(f"{member.name} ({root})")
    intake.read(member.source.name, member.size)


class _Export:
    """Hands in what one `export.xml` holds."""

    def __init__(self, member: Member, user: str, intake: Intake) -> None:
        self.member = member
        self.name = member.full_name
        self.user = user
        self.intake = intake
        self.file = intake.file(self.name)
        self.zones = Zones()
        self.zones_known = intake.zone is not None  # or need not be
        self.row = 0
        self.frames: list[pl.DataFrame] = []
        self.events: list[tuple[str, bytes, bytes]] = []
        self.motions: Counter[bytes] = Counter()
        self.devices: dict[bytes, int] = {}
        self.known_me = False

    def read(self) -> None:
        rows: list[Record] = []
        held = 0
        for text in self._pieces():
            if not self.zones_known:
                self.zones.add(text, self.name)
            self._person(text)
            self._events(text)
            rows += find_records(text, self.name)
            held += len(text)
            if len(rows) >= _ROWS_AT_ONCE or held >= _TEXT_AT_ONCE:
                self._take(rows)
                rows, held = [], 0
            if len(self.events) >= _ROWS:
                self._hand_in_events()
        self._take(rows)
        self.zones_known = True
        self._hand_in()
        self._hand_in_events()
        self._account()

    def _pieces(self) -> Iterator[bytes]:
        """Yield the pieces of the document, tell the progress, and count what else there is to say of it."""
        told, seen, size = 0, 0, self.member.size
        account = self.intake.account
        with self.member.open() as stream:
            document = Document(stream, self.name)
            for text in document:
                yield text
                repeated = count_records(document.correlations)
                account.note("rows", "noted: in a correlation, which only repeats records", repeated)
                seen += len(text) + len(document.correlations)
                now = int(size * min(seen / max(self.member.length, 1), 1))
                self.intake.read(self.member.source.name, now - told)
                told = now
        self.intake.read(self.member.source.name, size - told)
        if document.failed or not document.ended:
            why = document.failed or f"{self.name} has no </HealthData> at its end; export it again for the rest"
            account.bad("files", "noted: ends early; what could be read is kept", 1, [why])

    def _find_all_zones(self) -> None:
        """Collect the time zones of the whole document, of which the part read so far has too many readings to keep."""
        self.zones, self.zones_known = Zones(), True
        with suppress(HeartnetError), self.member.open() as stream:  # when it is read on, that comes to the same error
            for text in Document(stream, self.name).uncleaned():
                self.zones.add(text, self.name)
                self.intake.read(f"time zones of {self.member.source.name}", 0)

    def _person(self, text: bytes) -> None:
        found = None if self.known_me else re.search(rb"<Me(?=\s)", text)
        me = attributes(text, found.start()) if found else None
        if me is None:
            return
        self.known_me = True
        sex = me.get("HKCharacteristicTypeIdentifierBiologicalSex", b"").removeprefix(b"HKBiologicalSex")
        written = unescape(me.get("HKCharacteristicTypeIdentifierDateOfBirth", b""), self.name).decode(errors="replace")
        person = Person(sex="female" if sex == b"Female" else "male" if sex == b"Male" else None)
        try:
            person.born = date.fromisoformat(written) if written else None
        except ValueError:
            places = [f"{self.name}: {written[:_LONGEST_TIME]!r}"]
            self.intake.account.note("people", "noted: date of birth not readable", 1, places)
        self.intake.person(self.user, person)

    def _events(self, text: bytes) -> None:
        for at in tags_with(text, b"workoutActivityType"):
            if text.startswith(b"<Workout", at):
                self._event("in_workout", attributes(text, at))
        for at in tags_with(text, b"HKCategoryTypeIdentifierSleepAnalysis"):
            tag = attributes(text, at)
            if text.startswith(b"<Record", at) and (tag is None or tag.get("value", b"").startswith(_ASLEEP)):
                self._event("asleep", tag)

    def _event(self, kind: str, tag: dict[str, bytes] | None) -> None:
        start, end = (unescape((tag or {}).get(name, b""), self.name) for name in ("startDate", "endDate"))
        self.events.append((kind, start[:_LONGEST_TIME], end[:_LONGEST_TIME]))

    def _hand_in_events(self) -> None:
        if not self.events:
            return
        account = self.intake.account
        kinds, starts, ends = zip(*self.events, strict=True)
        self.events = []
        start, end = parse_dates(starts), parse_dates(ends)
        account.add("events", "in", len(kinds))
        usable = start.usable & end.usable
        places = [f"{self.name}: {kinds[at]} from {starts[at]!r} to {ends[at]!r}" for at in np.flatnonzero(~usable)[:3]]
        account.bad("events", "dropped: time not readable", int((~usable).sum()), places)
        empty = usable & (end.instants <= start.instants)
        account.note("events", "dropped: ends where it starts, or before", int(empty.sum()))
        frame = pl.DataFrame(
            {
                "start": pl.Series(start.instants).cast(pl.Datetime("us")),
                "end": pl.Series(end.instants).cast(pl.Datetime("us")),
                "kind": pl.Series(kinds, dtype=pl.String),
            }
        ).with_columns(user_id=pl.lit(self.user), instant=pl.lit(True))
        self.intake.events(frame.filter(usable & ~empty))

    def _take(self, rows: Sequence[Record]) -> None:
        """Make readings of records; the account gets those that are none."""
        if not rows:
            return
        kinds, sources, devices, units, starts, ends, values, motions = zip(*rows, strict=True)
        start = parse_dates(starts)
        heart_rate = np.fromiter(map(b"HeartRate".__eq__, kinds), np.bool_, len(rows))
        times, readable, usable = start.instants.copy(), start.readable.copy(), start.usable.copy()
        walks = np.flatnonzero(~heart_rate)
        end = parse_dates([ends[at] for at in walks.tolist()])
        times[walks], readable[walks] = end.instants, readable[walks] & end.readable
        usable[walks] &= end.usable
        factor = np.fromiter(map(_FACTORS.get, zip(kinds, units, strict=True), repeat(np.nan)), np.float64, len(rows))
        if not b"".join(values).isascii():
            values = tuple(text if text.isascii() else b"" for text in values)
        numbers = pl.Series(values, dtype=pl.Binary).cast(pl.String).cast(pl.Float64, strict=False)
        value = numbers.fill_null(np.nan).to_numpy()
        kept = self._checked(
            rows,
            {
                "record not readable": np.fromiter(map(b"".__ne__, kinds), np.bool_, len(rows)),
                "time not readable": readable,
                "time before 1970 or after 2099": usable,
                "unit not known": np.isfinite(factor),
                "not a number": np.abs(value) < _INFINITE,
                "ends before it starts": heart_rate | (times >= start.instants),
            },
        )
        self.motions.update(motions)
        value = np.where(kept, value, np.nan) * factor
        seconds = (times - start.instants) / 1e6
        frame = pl.DataFrame(
            {
                "time": pl.Series(times).cast(pl.Datetime("us")),
                "utc_offset": start.offsets,
                "heart_rate": np.where(heart_rate, value, np.nan).astype(np.float32),
                "steps": np.where(heart_rate, np.nan, value).astype(np.float32),
                "duration": np.where(heart_rate, np.nan, seconds).astype(np.float32),
                "device": self._devices(sources, devices),
                "row": np.arange(self.row + 1, self.row + 1 + len(rows)),
            }
        ).with_columns(pl.col("heart_rate", "steps", "duration").fill_nan(None))
        self.row += len(rows)
        self.frames.append(frame.filter(kept))
        if sum(map(len, self.frames)) >= (_ROWS if self.zones_known else _MOST_KEPT):
            self._hand_in()

    def _checked(self, rows: Sequence[Record], good: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
        """Return which records pass all checks, and count those that fail one by the first that they fail."""
        account = self.intake.account
        account.add("rows", "in", len(rows))
        kept = np.ones(len(rows), np.bool_)
        for what, passed in good.items():
            failed = kept & ~passed
            if failed.any():
                places = [
                    f"{self.name}, heart rate or step record {self.row + 1 + at}: "
                    + (" ".join(repr(text.decode(errors="replace")[:40]) for text in rows[at][3:7]) or "damaged")
                    for at in np.flatnonzero(failed)[: account.max_examples].tolist()
                ]
                account.bad("rows", f"dropped: {what}", int(failed.sum()), places)
            kept &= passed
        return kept

    def _devices(self, sources: Sequence[bytes], devices: Sequence[bytes]) -> npt.NDArray[np.uint16]:
        """Return the number of each record's device."""
        keys = [device or source for source, device in zip(sources, devices, strict=True)]
        new = set(keys) - self.devices.keys()
        for key in new:
            name, rank = device_of(unescape(key, self.name)[:_LONGEST_DEVICE].decode("utf-8", "replace"))
            self.devices[key] = self.intake.device(name, rank)
        numbers = np.fromiter(map(self.devices.__getitem__, keys), np.uint16, len(keys))
        if len(self.devices) > _MOST_DEVICES or any(len(key) > _LONGEST_DEVICE for key in new):
            self.devices.clear()
        return numbers

    def _hand_in(self) -> None:
        """Hand in the readings, with the local time that the zones tell."""
        if not self.zones_known:
            self._find_all_zones()
        while self.frames:
            frames: list[pl.DataFrame] = []
            while self.frames and sum(map(len, frames)) < _ROWS:
                frames.append(self.frames.pop(0))
            frame = pl.concat(frames).with_columns(
                user_id=pl.lit(self.user), instant=pl.lit(True), file=pl.lit(self.file, pl.UInt32)
            )
            self.intake.readings(self._localised(frame))

    def _localised(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.intake.zone is not None:
            return frame.with_columns(utc_offset=pl.lit(None, pl.Int32))
        if not self.zones.names:
            what = "noted: local time by the offset at the time of export (say where, with --time-zone)"
            self.intake.account.note("rows", what, len(frame))
            return frame
        what = "noted: local time by the time zones of sleep and workouts in the export"
        self.intake.account.note("rows", what, len(frame), self.zones.names[:3])
        return frame.with_columns(utc_offset=pl.Series(self.zones.offsets(frame["time"].cast(pl.Int64).to_numpy())))

    def _account(self) -> None:
        account = self.intake.account
        for value, motion in _MOTIONS.items():
            account.note("rows", f"noted: heart rate with motion context: {motion}", self.motions[value])
        for zone, count in self.zones.unknown.items():
            account.note("time zones", "noted: unknown time zone", count, [f"{self.name}: {zone!r}"])
        account.note("time zones", "noted: time zone without a date that can be read", self.zones.unread)
