"""Reads the JSON files of a Fitbit export: heart rate, steps, sleep and exercise, one file a day or month."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from heartnet.errors import HeartnetError
from heartnet.sources.archives import Member
from heartnet.sources.fitbit_tables import in_range

JSON_BYTES = 32 << 20
"""The largest JSON file that is read. A day of heart rate has 1 to 7 MB; some ten times as much memory is needed."""

ASLEEP = ("light", "deep", "rem", "asleep")
"""Levels of sleep in which a person sleeps; the others are `wake`, `awake` and `restless`."""


def read_entries(member: Member) -> list[Any]:
    """Return the list that a JSON file holds.

    Raises:
        HeartnetError: if it is too large, broken, or holds something else.
    """
    data = bytearray()
    with member.open() as stream:
        while block := stream.read(1 << 20):
            data += block
            if len(data) > JSON_BYTES:
                raise HeartnetError(
                    f"{member.full_name} holds {member.length:,} bytes; expected at most {JSON_BYTES:,} of a JSON file"
                )
    try:
        entries = json.loads(data)
    except RecursionError as error:
        raise HeartnetError(f"{member.full_name} is no readable JSON: it nests too deep") from error
    except ValueError as error:
        raise HeartnetError(f"{member.full_name} is broken JSON: {error}") from error
    if not isinstance(entries, list):
        raise HeartnetError(f"{member.full_name} holds a {type(entries).__name__}; expected a list of entries")
    return entries


def heart_rates(entries: list[Any]) -> pl.DataFrame:
    """Return `row`, `said`, `time` (UTC), `heart_rate`, `confidence` of `{dateTime, value: {bpm, confidence}}`."""
    values = [_field(entry, "value") for entry in entries]
    return _frame(entries).with_columns(
        pl.Series("heart_rate", [_number(_field(value, "bpm")) for value in values], dtype=pl.Float64),
        pl.Series("confidence", [_number(_field(value, "confidence")) for value in values], dtype=pl.Float64),
    )


def steps(entries: list[Any]) -> pl.DataFrame:
    """Return `row`, `said`, `time` (UTC, begin of the minute), `steps` of entries `{dateTime, value}`."""
    values = [_field(entry, "value") for entry in entries]
    return _frame(entries).with_columns(pl.Series("steps", [_number(value) for value in values], dtype=pl.Float64))


def sleep(entries: list[Any]) -> pl.DataFrame:
    """Return the spans asleep of sleep logs: `row` (of the log), `said`, `start`, `end`, and `woke`, the log's end.

    All are wall clocks. A log without levels is one span from its start to its end.
    """
    spans: list[tuple[int, str, str | None, float | None, str | None, str | None]] = []
    for row, entry in enumerate(entries, 1):
        log_end = _text(_field(entry, "endTime"))
        levels = _field(_field(entry, "levels"), "data")
        if isinstance(levels, list) and levels:
            for level in levels:
                name = _text(_field(level, "level"))
                if name is None or name.lower() in ASLEEP:
                    begin, lasts = _text(_field(level, "dateTime")), _number(_field(level, "seconds"))
                    spans.append((row, _said(level), begin, lasts, None, log_end))
        else:
            spans.append((row, _said(entry), _text(_field(entry, "startTime")), None, log_end, log_end))
    frame = pl.DataFrame(spans, schema=_SPANS, orient="row")
    start, end, woke = (_iso(frame[name]) for name in ("start", "end", "woke"))
    return frame.select("row", "said", start, pl.coalesce(end, start + _seconds(frame["seconds"])).alias("end"), woke)


def exercise(entries: list[Any]) -> pl.DataFrame:
    """Return the spans of workouts: `row`, `said`, `start`, `end` (UTC)."""
    start = _american([_text(_field(entry, "startTime")) for entry in entries]).alias("start")
    milliseconds = [_number(_field(entry, "duration")) for entry in entries]
    seconds = pl.Series(milliseconds, dtype=pl.Float64) / 1000
    end = (start + _seconds(seconds)).alias("end")
    rows = pl.Series("row", range(1, len(entries) + 1), dtype=pl.Int64)
    return pl.DataFrame([rows, pl.Series("said", map(_said, entries), dtype=pl.String), start, end])


_SPANS = {
    "row": pl.Int64,
    "said": pl.String,
    "start": pl.String,
    "seconds": pl.Float64,
    "end": pl.String,
    "woke": pl.String,
}


def _frame(entries: list[Any]) -> pl.DataFrame:
    said = [_field(entry, "dateTime") for entry in entries]
    return pl.DataFrame(
        {
            "row": pl.Series(range(1, len(entries) + 1), dtype=pl.Int64),
            "said": pl.Series([_text(text) for text in said], dtype=pl.String),
            "time": _american([_text(text) for text in said]),
        }
    )


def _field(entry: Any, name: str) -> Any:
    return entry.get(name) if type(entry) is dict else None


def _text(value: Any) -> str | None:
    return value if type(value) is str and value.isascii() else None


def _said(value: Any) -> str:
    return str(value)[:80].encode("ascii", "replace").decode()


def _number(value: Any) -> float | None:
    if type(value) is str:
        try:
            value = float(value[:20])
        except ValueError:
            return None
    # compared before it is converted: an integer may have thousands of digits
    return float(value) if type(value) in (int, float) and -1e15 < value < 1e15 else None


def _american(texts: list[str | None]) -> pl.Series:
    return in_range(
        pl.Series(texts, dtype=pl.String).str.strptime(pl.Datetime("us"), "%m/%d/%y %H:%M:%S", strict=False)
    )


def _iso(texts: pl.Series) -> pl.Series:
    return in_range(texts.str.strptime(pl.Datetime("us"), "%Y-%m-%dT%H:%M:%S%.f", strict=False)).alias(texts.name)


def _seconds(column: pl.Series) -> pl.Series:
    """Return durations, null unless from 0 to a year."""
    seconds = pl.select(pl.when(column.is_between(0, 366 * 86_400)).then(column)).to_series()
    return (seconds * 1_000_000).cast(pl.Int64).cast(pl.Duration("us"))
