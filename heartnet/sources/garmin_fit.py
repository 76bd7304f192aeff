"""Decodes FIT files of watches into heart rates, step counts, workouts and sleep, with times in UTC."""

from __future__ import annotations

import io
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal

import numpy as np
import polars as pl

from heartnet.errors import HeartnetError
from heartnet.intake import Person

EPOCH = 631_065_600
"""FIT counts seconds from 1989-12-31 00:00 UTC; this is that moment in Unix time."""

FIRST_DATE = 0x10000000
"""Smaller FIT times are seconds since the device was switched on."""

UNKNOWN = -(1 << 31)
"""Stands for an offset from UTC that is not known."""

STEPPING = {1: "running", 6: "walking"}
"""Activity types whose cycles are steps (field `steps` of message `monitoring` in the FIT profile)."""

NOT_MEASURED = "heart rate of 0: not measured"
"""Why a record is dropped that is as it should be."""

ASLEEP = (2, 3, 4)
"""Sleep levels: light, deep, REM; 0 is unmeasurable and 1 awake."""

_SEVERAL_DAYS = 7 * 86_400
_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, struct.error)


class BrokenFitError(Exception):
    """A file that is no FIT file, is cut off, or whose checksum does not fit."""


@dataclass
class Part:
    """What one FIT file, from header to checksum, holds; a file on disk may hold several, one after the other.

    Attributes:
        device: manufacturer and product, as the FIT profile names them.
        serial: its serial number, None if there is none.
        dropped: for each reason, the numbers of the messages that could have been readings and are none.
        noted: messages that are of no use here, likewise.
        person: what the file says of its owner.
    """

    device: str = "FIT device"
    serial: int | None = None
    dropped: dict[str, array[int]] = field(default_factory=lambda: defaultdict(_integers))
    noted: dict[str, array[int]] = field(default_factory=lambda: defaultdict(_integers))
    workouts: list[tuple[int, int]] = field(default_factory=list)
    person: Person = field(default_factory=Person)
    _heart: array[int] = field(default_factory=lambda: array("q"))
    _counts: array[int] = field(default_factory=lambda: array("q"))
    _levels: list[tuple[int, int]] = field(default_factory=list)
    _time: int | None = None
    _offset: int = UNKNOWN
    _last: int = 0
    _count: dict[int, int] = field(default_factory=dict)

    def heart_rates(self) -> pl.DataFrame:
        """Return `time`, `utc_offset`, `heart_rate`, `row` (the message's number)."""
        return self._frame(self._heart, ("time", "utc_offset", "heart_rate", "row"))

    def counts(self) -> pl.DataFrame:
        """Return `time` (Unix, s), `utc_offset` (s), `activity`, `count` since midnight, `row`, as the device wrote."""
        frame = self._frame(self._counts, ("time", "utc_offset", "activity", "count", "row"))
        return frame.with_columns(pl.col("time").dt.epoch("s"))

    def sleep(self) -> list[tuple[int, int]]:
        """Return the spans asleep, in Unix time; a level lasts to the next one, the last to the file's last time."""
        levels = [*sorted(self._levels), (self._last, 0)]
        spans: list[tuple[int, int]] = []
        for (start, level), (end, _) in pairwise(levels):
            if level in ASLEEP and start < end <= start + 86_400:
                if spans and spans[-1][1] == start:
                    start = spans.pop()[0]
                spans.append((start, end))
        return spans

    def add(self, message: Any, number: int) -> None:
        """Take a data message of the decoder."""
        kind = message.global_mesg_num
        if kind == 0:
            self._file_id(message)
            return
        known = {
            3: self._profile,
            18: self._session,
            20: self._record,
            34: self._activity,
            55: self._monitoring,
            103: self._info,
        }
        values = _values(message)
        if 253 in values and values[253] >= FIRST_DATE:
            self._last = max(self._last, values[253] + EPOCH)
        if kind in known:
            known[kind](values, number)
        elif kind == 275 and values.get(253, 0) >= FIRST_DATE:
            self._levels.append((values[253] + EPOCH, values.get(0, 0)))

    def _file_id(self, message: Any) -> None:
        words = [message.get_value(name, fallback=None) for name in ("manufacturer", "product")]
        self.device = " ".join(str(word)[:40] for word in words if isinstance(word, str | int)) or self.device
        self.serial = _values(message).get(3)

    def _profile(self, values: dict[int, int], _: int) -> None:
        """Take `user_profile`: sex, age in years, height in cm, weight in tenths of a kg."""
        sexes: dict[int | None, Literal["female", "male"]] = {0: "female", 1: "male"}
        height, weight = values.get(3, 0), values.get(4, 0)
        bmi = weight / 10 / (height / 100) ** 2 if 100 <= height <= 250 and weight else None
        self.person = Person(sex=sexes.get(values.get(1)), age=values.get(2), bmi=bmi)

    def _info(self, values: dict[int, int], number: int) -> None:
        """Take `monitoring_info`: the moment in UTC and on the device's clock."""
        self._time = values.get(253, self._time)
        self._offset = self._offset_of(values.get(0), values.get(253), number)

    def _activity(self, values: dict[int, int], number: int) -> None:
        """Take `activity`, which ends a workout's file and tells the offset of all that stands before."""
        self._offset = self._offset_of(values.get(5), values.get(253), number)

    def _offset_of(self, local: int | None, utc: int | None, number: int) -> int:
        if local is None or utc is None or min(local, utc) < FIRST_DATE:
            return self._offset
        quarters = round((local - utc) / 900)
        if abs(local - utc - 900 * quarters) > 60 or not -12 * 4 <= quarters <= 14 * 4:
            self.noted["offset from UTC that cannot be"].append(number)
            return self._offset
        return 900 * quarters

    def _session(self, values: dict[int, int], number: int) -> None:
        start, end = values.get(2), values.get(253)
        if start is not None and 7 in values:
            end = start + round(values[7] / 1000)
        if start is None or end is None or not FIRST_DATE <= start < end <= start + _SEVERAL_DAYS:
            self.noted["workout without times that can be"].append(number)
        else:
            self.workouts.append((start + EPOCH, end + EPOCH))

    def _record(self, values: dict[int, int], number: int) -> None:
        """Take `record`, of a workout, mostly one a second."""
        if 3 in values:
            self._heart_rate(values.get(253), values[3], number)

    def _monitoring(self, values: dict[int, int], number: int) -> None:
        self._time = _monitoring_time(values, self._time)
        if 27 in values:
            self._heart_rate(self._time, values[27], number)
        if 3 not in values and 9 not in values:
            return
        activity = values.get(5, 0)
        if activity not in STEPPING:
            self.noted["cycles that are not steps"].append(number)
            return
        count = values[3] if 3 in values else _whole_count(values[9], self._count.get(activity, 0))
        self._count[activity] = count
        if self._dated(self._time, number):
            self._counts.extend(((self._time or 0) + EPOCH, self._offset, activity, count, number))

    def _heart_rate(self, time: int | None, rate: int, number: int) -> None:
        if self._dated(time, number):
            if rate == 0:
                self.dropped[NOT_MEASURED].append(number)
            else:
                self._heart.extend(((time or 0) + EPOCH, self._offset, rate, number))

    def _dated(self, time: int | None, number: int) -> bool:
        if time is None:
            self.dropped["no time: before any full timestamp"].append(number)
        elif time < FIRST_DATE:
            self.dropped["no date: time since the device was switched on"].append(number)
        return time is not None and time >= FIRST_DATE

    def _frame(self, values: array[int], columns: tuple[str, ...]) -> pl.DataFrame:
        table = np.frombuffer(values, np.int64).reshape(-1, len(columns))
        frame = pl.DataFrame({name: table[:, at] for at, name in enumerate(columns)})
        offset = pl.col("utc_offset")
        known = None if self._offset == UNKNOWN else self._offset
        return frame.with_columns(
            pl.when(offset == UNKNOWN).then(known).otherwise(offset).cast(pl.Int32).alias("utc_offset"),
            (pl.col("time") * 1_000_000).cast(pl.Datetime("us")),
        )


def library() -> ModuleType:
    """Return the package that decodes FIT files.

    Raises:
        HeartnetError: if it is not installed.
    """
    try:
        import fitdecode
    except ImportError as error:
        raise HeartnetError(
            f"FIT files are read with the package fitdecode ({error}): pip install 'heartnet[garmin]'"
        ) from error
    module: ModuleType = fitdecode
    return module


def read_parts(data: bytes, fitdecode: ModuleType) -> Iterator[Part]:
    """Yield what the FIT files in `data` hold, each once its checksum was right.

    Raises:
        BrokenFitError: at the first that is broken.
    """
    part = Part()
    number = 0
    reader = fitdecode.FitReader(
        io.BytesIO(data),
        processor=None,
        check_crc=fitdecode.CrcCheck.RAISE,
        error_handling=fitdecode.ErrorHandling.IGNORE,  # watches write fields of odd sizes; the checksum is what counts
    )
    try:
        for frame in reader:
            if frame.frame_type == fitdecode.FIT_FRAME_HEADER:
                part = Part()
            elif frame.frame_type == fitdecode.FIT_FRAME_DATA:
                number += 1
                part.add(frame, number)
            elif frame.frame_type == fitdecode.FIT_FRAME_CRC:
                yield part
    except (fitdecode.FitError, *_ERRORS) as error:
        raise BrokenFitError(str(error) or type(error).__name__) from error
    if not number:
        raise BrokenFitError("it holds no message")


def _integers() -> array[int]:
    return array("q")


def _values(message: Any) -> dict[int, int]:
    """Return the message's numbers as written, unscaled, by the number of their field; developers' fields left out."""
    return {
        data.def_num: data.raw_value
        for data in reversed(message.fields)
        if isinstance(data.raw_value, int) and not (data.field_def is not None and data.field_def.is_dev)
    }


def _monitoring_time(values: dict[int, int], time: int | None) -> int | None:
    """Return a monitoring message's time, from that of the one before: whole, its low 16 bits, or 8 bits of minutes.

    What counts up from the last time is never behind it, so that a smaller number has rolled over; as Garmin's own
    `MonitoringReader` does it.
    """
    if 253 in values:
        return values[253]
    if time is not None and 26 in values:
        return time + ((values[26] - time) & 0xFFFF)
    if time is not None and 25 in values:
        minutes = time // 60
        return 60 * (minutes + ((values[25] - minutes) & 0xFF))
    return time


def _whole_count(low: int, last: int) -> int:
    """Return a count of which only the low 16 bits are given: rolled over if it fell by more than half of them."""
    count = (last & ~0xFFFF) + low
    if count >= last:
        return count
    return count + 0x10000 if last - count > 0x8000 else low
