"""Reads the dates of an Apple Health export, and tells the local time of an instant by the time zones that it names."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.errors import HeartnetError
from heartnet.sources.apple_xml import attributes, tags_with, unescape
from heartnet.sources.times import parse_times
from heartnet.zones import check_zone, utc_offsets

FIRST = 0
"""1970-01-01 in microseconds since then; dates before it are no readings of a watch."""

LAST = 4_102_444_800_000_000
"""2100-01-01 in microseconds."""

_FURTHEST = 18 * 3600  # seconds from UTC
_MOST_ZONES = 2_000_000
_LENGTH = 25  # of 2018-09-10 02:28:55 -0700
_IS_DIGIT = np.array([letter == "d" for letter in "dddd-dd-dd dd:dd:dd sdddd"])
_MARKS = {4: "-", 7: "-", 10: " ", 13: ":", 16: ":", 19: " "}
_MONTHS = np.arange("0000-01", "10000-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)
_COMPACT = r"^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)([+-]\d{4})$"
_START = re.compile(rb"""startDate\s*=\s*["']([^"'<]*)["']""")


class Times(NamedTuple):
    """Dates that were read.

    Attributes:
        instants: int64, microseconds since 1970 UTC; 0 where not readable.
        offsets: int32, seconds east of UTC as written.
        readable: bool, whether this is a date with an offset.
        usable: bool, whether it is also one from `FIRST` to `LAST`.
    """

    instants: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int32]
    readable: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]


def parse_dates(texts: Sequence[bytes]) -> Times:
    """Read dates such as `2018-09-10 02:28:55 -0700`, and more slowly ISO 8601 or `20180910022855-0700`."""
    count = len(texts)
    usual = np.fromiter(map(len, texts), np.int64, count) == _LENGTH
    if usual.all():
        instants, offsets, readable = _usual(texts)
    else:
        instants, offsets, readable = np.zeros(count, np.int64), np.zeros(count, np.int32), np.zeros(count, np.bool_)
        if usual.any():
            instants[usual], offsets[usual], readable[usual] = _usual(_chosen(texts, usual))
    if not readable.all():
        others = ~readable
        instants[others], offsets[others], readable[others] = _unusual(_chosen(texts, others))
    return Times(instants, offsets, readable, readable & (instants >= FIRST) & (instants < LAST))


def _chosen(texts: Sequence[bytes], chosen: npt.NDArray[np.bool_]) -> list[bytes]:
    return [texts[at] for at in np.flatnonzero(chosen).tolist()]


_Parsed = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.bool_]]


def _usual(texts: Sequence[bytes]) -> _Parsed:
    letters = np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), _LENGTH)
    digits = letters - np.uint8(ord("0"))  # wraps around, so that all that are not digits are above 9
    readable = ((digits <= 9) == _IS_DIGIT).all(axis=1)
    for at, mark in _MARKS.items():
        readable &= letters[:, at] == ord(mark)
    west = letters[:, 20] == ord("-")
    readable &= west | (letters[:, 20] == ord("+"))

    def two(at: int) -> npt.NDArray[np.uint8]:
        return digits[:, at] * np.uint8(10) + digits[:, at + 1]

    century, year, month, day = two(0), two(2), two(5), two(8)
    hour, minute, second, zone_hour, zone_minute = two(11), two(14), two(17), two(21), two(23)
    readable &= (month >= 1) & (month <= 12) & (day >= 1)
    readable &= (hour < 24) & (minute < 60) & (second < 60) & (zone_minute < 60)
    months = np.where(readable, (century.astype(np.int32) * 100 + year) * 12 + month - 1, 0)
    days = _MONTHS[months] + day
    readable &= days <= _MONTHS[months + 1]
    offsets = (zone_hour.astype(np.int32) * 60 + zone_minute) * 60
    readable &= offsets <= _FURTHEST
    offsets = np.where(readable, np.where(west, -offsets, offsets), 0)
    minutes = ((days - 1) * 24 + hour) * 60 + minute
    return np.where(readable, (minutes * 60 + second - offsets) * 1_000_000, 0), offsets, readable


def _unusual(texts: Sequence[bytes]) -> _Parsed:
    column = pl.Series([text.decode("utf-8", "replace") for text in texts], dtype=pl.String).str.strip_chars()
    column = column.str.replace(_COMPACT, "${1}-$2-$3 $4:$5:$6 $7")
    time, offset = parse_times([column])
    readable = (time.is_not_null() & offset.is_not_null() & (offset.abs() <= _FURTHEST)).fill_null(False).to_numpy()
    instants, offsets = time.cast(pl.Int64).fill_null(0).to_numpy(), offset.fill_null(0).to_numpy()
    return np.where(readable, instants, 0), np.where(readable, offsets, 0), readable


class Zones:
    """Where a person was when: the time zones of an export's sleep records and workouts (`HKTimeZone`).

    An instant has the zone of the latest record at or before it, and the first one's before any.

    Attributes:
        unknown: names that are no time zone, with how often they stand in the export.
        unread: how many entries had no date that can be read, or were more than are kept.
    """

    def __init__(self) -> None:
        self.unknown: dict[str, int] = {}
        self.unread = 0
        self._names: dict[str, int] = {}
        self._instants = array("q")
        self._zones = array("H")
        self._start = b""

    def add(self, text: bytes, name: str) -> None:
        """Take the entries of the next piece of a document; `name` is the file's."""
        dates, zones = [], []
        seen = 0
        for at in tags_with(text, b"HKTimeZone"):
            entry = attributes(text, at)
            if entry is not None and entry.get("key") == b"HKTimeZone":
                self._see_start(text, seen, at)
                seen = at
                dates.append(self._start)
                zones.append(unescape(entry.get("value", b""), name).decode("utf-8", "replace"))
        self._see_start(text, seen, len(text))
        times = parse_dates(dates)
        for zone, instant, usable in zip(zones, times.instants.tolist(), times.usable.tolist(), strict=True):
            if not _is_zone(zone):
                key = zone[:50] if len(self.unknown) < 100 else "others"
                self.unknown[key] = self.unknown.get(key, 0) + 1
            elif not usable or len(self._instants) >= _MOST_ZONES:
                self.unread += 1
            else:
                self._instants.append(instant)
                self._zones.append(self._names.setdefault(zone, len(self._names)))

    def _see_start(self, text: bytes, begin: int, end: int) -> None:
        """Keep the last start date in a part of the text: that of what is nested in it, and of what follows."""
        at = text.rfind(b"startDate", begin, end)
        start = _START.match(text, at, end) if at >= 0 else None
        self._start = start[1] if start else self._start

    @property
    def names(self) -> list[str]:
        """The zones, in the order of the file."""
        return list(self._names)

    def offsets(self, instants: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Return the offsets from UTC, in seconds, of instants (microseconds since 1970); needs a zone."""
        times = np.frombuffer(self._instants, np.int64)
        order = np.argsort(times, kind="stable")
        latest = np.searchsorted(times[order], instants, side="right") - 1
        zones = np.frombuffer(self._zones, np.uint16)[order][np.maximum(latest, 0)]
        offsets = np.zeros(len(instants), np.int32)
        for number, zone in enumerate(self._names):
            chosen = zones == number
            if chosen.any():
                times_there = pl.Series(instants[chosen]).cast(pl.Datetime("us"))
                offsets[chosen] = utc_offsets(times_there, zone).to_numpy()
        return offsets


@lru_cache(1000)
def _is_zone(name: str) -> bool:
    if len(name) > 64:
        return False
    try:
        check_zone(name)
        utc_offsets(pl.Series([0]).cast(pl.Datetime("us")), name)
    except (HeartnetError, pl.exceptions.PolarsError):
        return False
    return True
