"""The intake: what sources hand in, and all that is known of the people, before anything is cleaned or cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.spool import ROWS_IN_MEMORY, Spool, week_of
from heartnet.zones import check_zone, from_wall_clock, utc_offsets

DEFAULT_USER = "person-1"
"""The person, where nothing says who it is."""

RAW_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "time": pl.Datetime("us"),
        "utc_offset": pl.Int32(),
        "instant": pl.Boolean(),
        "heart_rate": pl.Float32(),
        "steps": pl.Float32(),
        "duration": pl.Float32(),
        "device": pl.UInt16(),
        "file": pl.UInt32(),
        "row": pl.Int64(),
    }
)
"""Readings as written, in any order.

`instant`: `time` is UTC; else it is a wall clock of no known place. `utc_offset`: seconds east of UTC, null where it is
not known. `heart_rate` in beats a minute. `steps`: counted in the `duration` seconds that end at `time` (null: not
known). `device`: as `Intake.device` numbers it, 0 where not known. `file`: as `Intake.file` numbers it; `row` in it,
null if it has no rows.
"""

EVENT_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "start": pl.Datetime("us"),
        "end": pl.Datetime("us"),
        "instant": pl.Boolean(),
        "kind": pl.String(),
    }
)
"""Spans of a person's time; `kind` is one of `heartnet.events.KINDS`: `"asleep"` or `"in_workout"`."""

SOURCE_RANKS = 10
"""Ranks of devices of one source; those of the next source begin above them."""

Progress = Callable[[str, int], None]
"""Told what is being read, and how many bytes of the files were read since the last call."""


@dataclass(frozen=True)
class Device:
    """A device: of two that counted the same steps, the lower rank is believed (0 a watch, 1 a phone, 2 others)."""

    name: str
    rank: int


@dataclass
class Person:
    """What exports say of a person; None is unknown."""

    born: date | None = None
    age: float | None = None
    sex: Literal["female", "male"] | None = None
    bmi: float | None = None


@dataclass
class Intake:
    """Takes what a source reads, a chunk at a time.

    Attributes:
        account: where a source counts what it skips; stage `"rows"` holds an entry `"in"` for all rows or records that
            could have been readings.
        progress: to be told of bytes read; None if nobody watches.
        zone: time zone of times without an offset (`--time-zone`); None takes UTC instants as UTC and wall clocks as
            they are.
        user: the person of the files (`--user`).
        user_from_filename: a regular expression with one group, the person's name.
        default_user: the person where neither tells.
        folder: where readings go if there are too many for memory.
        rows_in_memory: how many are too many.
    """

    account: Account
    progress: Progress | None = None
    zone: str | None = None
    user: str | None = None
    user_from_filename: str | None = None
    files: list[str] = field(default_factory=list)
    devices: list[Device] = field(default_factory=lambda: [Device("", 9)])
    people: dict[str, Person] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
    folder: Path | None = None
    rows_in_memory: int = ROWS_IN_MEMORY
    default_user: str = DEFAULT_USER
    _users: dict[str, int] = field(default_factory=dict)
    _source: int = 0
    _events: list[pl.DataFrame] = field(default_factory=list)
    _labels: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder, self.rows_in_memory)
        if self.zone is not None:
            check_zone(self.zone)

    def file(self, name: str) -> int:
        """Return the number of a file, by the name that messages give it (`export.zip/export.xml`)."""
        self.files.append(name)
        return len(self.files) - 1

    def next(self, *, zone: str | None, user: str | None, user_from_filename: str | None) -> Intake:
        """Begin another source, whose devices are believed less than all of those before; return the intake."""
        self.zone, self.user, self.user_from_filename = (
            zone if zone is None else check_zone(zone),
            user,
            user_from_filename,
        )
        self.provenance = {}
        self._source += 1
        return self

    def device(self, name: str, rank: int) -> int:
        """Return the number of a device; the same for the same name and rank of one source."""
        device = Device(name, rank + SOURCE_RANKS * self._source)
        if device not in self.devices:
            self.devices.append(device)
        return self.devices.index(device)

    def user_of(self, file_name: str) -> str:
        """Return the person that all rows of a file are of, by `--user-from-filename`, `--user`, or by default.

        Raises:
            HeartnetError: if the expression finds no person in the name.
        """
        if self.user_from_filename is None:
            return self.user or self.default_user
        try:
            match = re.search(self.user_from_filename, file_name)
        except re.error as error:
            raise HeartnetError(
                f"--user-from-filename {self.user_from_filename!r} is not a regular expression: {error}"
            ) from error
        if match is None or len(match.groups()) != 1 or not match.group(1):
            raise HeartnetError(
                f"--user-from-filename {self.user_from_filename!r} does not find a person in {file_name!r}: expected "
                r"one group that matches, for example 'CGMacros-(\d+)'"
            )
        return str(match.group(1))

    def read(self, what: str, count: int) -> None:
        """Tell how many bytes of the files were read since the last call."""
        if self.progress is not None:
            self.progress(what, count)

    def readings(self, frame: pl.DataFrame, zone: str | None = None) -> None:
        """Take readings: columns of `RAW_SCHEMA`, of which those that are missing are null (`device`: 0).

        `user_id` may also be categorical. `instant` is true where an offset is given; where the column is missing, it
        is false elsewhere.

        Args:
            zone: the time zone of times without an offset, as far as the source knows it; `--time-zone` goes first.
        """
        if frame.is_empty():
            return
        missing = {name: dtype for name, dtype in RAW_SCHEMA.items() if name not in frame.columns}
        frame = frame.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in missing.items())
        frame = frame.select(
            pl.col(name) if name == "user_id" else pl.col(name).cast(dtype) for name, dtype in RAW_SCHEMA.items()
        )
        frame = frame.with_columns(
            pl.col("device").fill_null(self.device("", 9)),
            pl.col("instant").fill_null(False) | pl.col("utc_offset").is_not_null(),
        )
        frame = _localised(frame, self.zone or zone)
        frame = self._within_weeks(frame)
        local = pl.col("time") + pl.duration(seconds=pl.col("utc_offset").fill_null(0))
        user = self._numbers(frame["user_id"])
        self.spool.add(frame.drop("user_id").with_columns(user, week=week_of(local)))

    def events(self, frame: pl.DataFrame, zone: str | None = None) -> None:
        """Take spans of sleep and workouts: columns of `EVENT_SCHEMA`; `instant` is true where it is missing."""
        if frame.is_empty():
            return
        if "instant" not in frame.columns:
            frame = frame.with_columns(instant=pl.lit(True))
        frame = frame.select(pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items())
        self._events.append(_instants(frame, ("start", "end"), self.zone or zone))

    def labels(self, frame: pl.DataFrame) -> None:
        """Take spans of time with labels: `user_id`, `start`, `end`, `instant`, and an Int8 column a condition."""
        self._labels.append(frame)

    def person(self, user_id: str, facts: Person) -> None:
        """Take what an export says of a person; what was said first stays."""
        known = self.people.setdefault(user_id, Person())
        for name, value in vars(facts).items():
            if getattr(known, name) is None:
                setattr(known, name, value)

    def note(self, key: str, value: object) -> None:
        """Keep something about the source beside the weeks, for example which column was what."""
        self.provenance[key] = value

    @property
    def several(self) -> bool:
        """Whether there was more than one source."""
        return self._source > 0

    @property
    def users(self) -> list[str]:
        """The people of the readings, by name."""
        return sorted(self._users)

    def blocks(self, *, whole_people: bool = False) -> Iterator[pl.DataFrame]:
        """Yield all readings, each week of a person (or each person) whole in one block, people by name.

        Columns are those of `RAW_SCHEMA`, with `user_id` an Enum of all people, and `week` (Int32), the number of the
        calendar week of local time; 0 with `whole_people`.
        """
        place = np.argsort(np.argsort(list(self._users))) if self._users else np.zeros(0, np.int64)
        people = pl.Series("user_id", self.users, dtype=pl.Enum(self.users))
        for frame in self.spool.blocks(place, whole_people=whole_people):
            user = people.gather(place[frame["user"].to_numpy()])
            week = pl.lit(0, pl.Int32) if whole_people else pl.col("week")
            yield frame.select(user, *[name for name in RAW_SCHEMA.names() if name != "user_id"], week.alias("week"))

    def all_readings(self) -> pl.DataFrame:
        """Return what was handed in and is held in memory, columns of `RAW_SCHEMA`; for tests."""
        frame = self.spool.everything()
        if frame is None:
            return RAW_SCHEMA.to_frame()
        return frame.with_columns(user_id=pl.Series(list(self._users)).gather(frame["user"])).select(RAW_SCHEMA.names())

    def all_events(self) -> pl.DataFrame:
        """Return the events handed in, columns of `EVENT_SCHEMA`."""
        return pl.concat(self._events) if self._events else EVENT_SCHEMA.to_frame()

    def all_labels(self) -> Sequence[pl.DataFrame]:
        return self._labels

    def _within_weeks(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Cut counts of steps that lie on both sides of Monday's midnight in two, each with its share of the time."""
        offset = pl.duration(seconds=pl.col("utc_offset").fill_null(0))
        span = pl.duration(microseconds=(pl.col("duration").cast(pl.Float64) * 1e6).cast(pl.Int64))
        midnight = (pl.col("time") + offset).dt.truncate("1w") - offset
        over = (pl.col("steps") > 0) & (pl.col("duration") <= 86_400) & (pl.col("time") > midnight)
        torn = frame.select((over & (pl.col("time") - span < midnight)).fill_null(False)).to_series()
        if not torn.any():
            return frame
        after = (pl.col("time") - midnight).dt.total_microseconds() / 1e6
        parts = frame.filter(torn).with_columns(share=after / pl.col("duration").cast(pl.Float64), midnight=midnight)
        steps, length, moment = pl.col("steps"), pl.col("duration"), pl.duration(microseconds=1)
        old = parts.with_columns(
            heart_rate=pl.lit(None, pl.Float32),
            time=pl.col("midnight") - moment,
            steps=steps * (1 - pl.col("share")),
            duration=length * (1 - pl.col("share")),
        )
        new = parts.with_columns(steps=steps * pl.col("share"), duration=length * pl.col("share"))
        self.account.add("rows", "in", parts.height)
        self.account.note("rows", "noted: steps over Monday's midnight, a row for each week", parts.height)
        cast = [pl.col(name).cast(pl.Float32) for name in ("steps", "duration")]
        return pl.concat([frame.filter(~torn), *(part.select(frame.columns).with_columns(cast) for part in (old, new))])

    def _numbers(self, users: pl.Series) -> pl.Series:
        """Return a number for each person; new people get the next."""
        runs = users.rle()
        names = runs.struct.field("value").cast(pl.String)
        for name in names.unique(maintain_order=True):
            self._users.setdefault(name, len(self._users))
        numbers = names.replace_strict(self._users, return_dtype=pl.UInt32)
        return pl.Series("user", np.repeat(numbers.to_numpy(), runs.struct.field("len").to_numpy()))


def _localised(frame: pl.DataFrame, zone: str | None) -> pl.DataFrame:
    """Return the frame with UTC instants and offsets wherever the zone tells them."""
    if zone is None or frame["utc_offset"].null_count() == 0:
        return frame
    frame = _instants(frame, ("time",), zone)
    offsets = utc_offsets(frame["time"], zone)
    return frame.with_columns(pl.col("utc_offset").fill_null(offsets))


def _instants(frame: pl.DataFrame, columns: Sequence[str], zone: str | None) -> pl.DataFrame:
    if zone is None or frame["instant"].all():
        return frame
    instants: Mapping[str, pl.Series] = {name: from_wall_clock(frame[name], zone) for name in columns}
    found = [pl.when("instant").then(name).otherwise(series).alias(name) for name, series in instants.items()]
    return frame.with_columns(found).with_columns(instant=pl.lit(True))
