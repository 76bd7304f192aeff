"""Reads FIT files of Garmin watches: heart rate and steps of the day, workouts and sleep.

They lie in the folders `GARMIN/Monitor` (`*_WELLNESS.fit`), `Activity` and `Sleep` of a watch, and in an account's
export, there in zip archives within the zip. The package `fitdecode` decodes them; a file whose checksum is wrong is
left out whole. Messages and fields are those of the FIT profile (https://developer.garmin.com/fit/overview):

- `monitoring` (55): a heart rate, about one a minute, or the `cycles` of an activity type since local midnight, which
  are steps for walking and running (raw, without the profile's scale of 2). Its time is whole (253), or only its low
  16 bits (26), or 8 bits of minutes (25), counted on from the message before.
- `monitoring_info` (103): the same moment in UTC and on the watch's clock, hence the offset from UTC of all after it.
- `record` (20), `session` (18), `activity` (34): a workout's heart rate, mostly one a second; when it was; the offset.
- `sleep_level` (275): from when on somebody is awake, or in light, deep or REM sleep.
- `user_profile` (3): sex, age, height and weight.

Steps are what a count grew by since the one before of that activity, over the time since the watch's count before of
whichever activity; so no two intervals of a watch overlap. A count begins at 0 at local midnight, and where it is
smaller than before; a count of midnight itself is the old day's. Counts are put in order over all files of a watch, so
that files may come in any order, and twice.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from heartnet.errors import HeartnetError
from heartnet.intake import Intake
from heartnet.sources.archives import Member, members
from heartnet.sources.garmin_fit import NOT_MEASURED, BrokenFitError, Part, library, read_parts

_FILE_BYTES = 32 << 20  # a week of workout, one record a second
_ARCHIVE_BYTES = 8 << 30
_ROWS = "rows"
_FILES = "files"
_DAY = 86_400
_FASTEST = 5  # steps a second; a count too large for the time since midnight goes on from the day before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `heartnet prepare garmin`: none of its own."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="FIT file, folder of them, or zip archive (account export)"
    )


def read(arguments: argparse.Namespace, intake: Intake) -> None:
    """Read all FIT files at the paths; a broken one is counted, and the others are read.

    Raises:
        HeartnetError: if no file can be read, or none holds heart rate or steps.
    """
    importer = _Import(intake)
    for path in arguments.files:
        for member in _fit_files(path, intake):
            importer.take(member)
    importer.finish(arguments.files)


class _Import:
    """Takes one file after the other; steps wait until all counts are there."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.fitdecode = library()
        self.seen: set[bytes] = set()
        self.devices: dict[tuple[str, int | None], int] = {}
        self.counts: list[pl.DataFrame] = []
        self.files = self.useful = self.rows = 0

    def take(self, member: Member) -> None:
        """Read a file and hand in its heart rates, workouts and sleep."""
        account = self.intake.account
        self.files += 1
        account.add(_FILES, "in", 1)
        try:
            with member.open() as stream:
                data = stream.read(_FILE_BYTES + 1)
        except HeartnetError as error:
            account.bad(_FILES, "dropped: cannot be read", 1, [str(error)])
            return
        finally:
            self.intake.read(member.name, member.size)
        digest = hashlib.sha256(data).digest()
        if len(data) > _FILE_BYTES:
            account.bad(_FILES, f"dropped: larger than {_FILE_BYTES >> 20} MiB", 1, [member.full_name])
        elif digest in self.seen:
            account.note(_FILES, "dropped: the same file again", 1, [member.full_name])
        else:
            self.seen.add(digest)
            self._decode(member, data)

    def _decode(self, member: Member, data: bytes) -> None:
        account = self.intake.account
        parts: list[Part] = []
        try:
            for part in read_parts(data, self.fitdecode):
                parts.append(part)
        except BrokenFitError as error:
            kept = "noted: broken after a part that is whole" if parts else "dropped: broken or cut off"
            account.bad(_FILES, kept, 1, [f"{member.full_name}: {error}"])
        before = self.rows
        for part in parts:
            self._hand_in(member, part)
        self.useful += bool(parts)
        if parts and self.rows == before:
            account.note(_FILES, "noted: without heart rate, steps, workout or sleep", 1, [member.full_name])

    def _hand_in(self, member: Member, part: Part) -> None:
        account = self.intake.account
        user, file = self.intake.user_of(member.name), self.intake.file(member.full_name)
        heart, counts = part.heart_rates(), part.counts()
        rows = heart.height + counts.height + sum(len(numbers) for numbers in part.dropped.values())
        account.add(_ROWS, "in", rows)
        for kind, reasons in (("dropped", part.dropped), ("noted", part.noted)):
            for what, numbers in reasons.items():
                places = [f"{member.full_name} message {number}" for number in numbers[: account.max_examples]]
                count = account.bad if kind == "dropped" and what != NOT_MEASURED else account.note
                count(_ROWS, f"{kind}: {what}", len(numbers), places)
        self.intake.person(user, part.person)
        device = self._device(part)
        who = [pl.lit(user).alias("user_id"), pl.lit(device).alias("device"), pl.lit(file).alias("file")]
        self.intake.readings(heart.with_columns(*who, instant=pl.lit(True)))
        if counts.height:
            self.counts.append(counts.with_columns(*who))
        for kind, spans in (("in_workout", part.workouts), ("asleep", part.sleep())):
            frame = pl.DataFrame(spans, schema={"start": pl.Int64, "end": pl.Int64}, orient="row")
            times = (pl.col("start", "end") * 1_000_000).cast(pl.Datetime("us"))
            self.intake.events(frame.select(times, user_id=pl.lit(user), kind=pl.lit(kind)))
            rows += len(spans)
        self.rows += rows

    def _device(self, part: Part) -> int:
        """Return the number of the watch; a second one of the same make has a name of its own."""
        key = (part.device, part.serial)
        if key not in self.devices:
            same = sum(name == part.device for name, _ in self.devices)
            self.devices[key] = self.intake.device(f"{part.device} ({same + 1})" if same else part.device, 0)
        return self.devices[key]

    def finish(self, paths: Sequence[Path]) -> None:
        """Hand in the steps, or say what is wrong if nothing was read at all."""
        account = self.intake.account
        if self.counts:
            steps = _steps(pl.concat(self.counts))
            before = sum(frame.height for frame in self.counts)
            account.note(_ROWS, "merged: step count again, or of another activity then", before - steps.height)
            self.intake.readings(steps)
        account.add(_FILES, "left", self.useful)
        where = ", ".join(path.name for path in paths)
        found = [place for (stage, _), places in account.examples.items() if stage == _FILES for place in places]
        example = f"; for example {found[0]}" if found else ""
        if not self.files:
            raise HeartnetError(
                f"{where}: no FIT file there; expected names that end in .fit, or a zip archive of them{example}"
            )
        if not self.rows:
            raise HeartnetError(
                f"{where}: none of {self.files} FIT files has heart rate or steps that can be read{example}"
            )


def _fit_files(path: Path, intake: Intake) -> Iterator[Member]:
    """Yield the FIT files at a path, also those in zip archives in a folder or in an account's export."""
    for member in members(path, _wanted):
        if not member.name.lower().endswith(".zip"):
            yield member
            continue
        with TemporaryDirectory(prefix="heartnet-") as folder:
            try:
                inner = list(members(_on_disk(member, Path(folder)), _is_fit))
            except HeartnetError as error:
                intake.account.add(_FILES, "in", 1)
                intake.account.bad(_FILES, "dropped: zip archive that cannot be read", 1, [str(error)])
                continue
            yield from inner


def _on_disk(member: Member, folder: Path) -> Path:
    """Return where an archive lies, copied to `folder` if it lies in another archive."""
    if member.source.is_dir():
        return member.source / member.name
    if member.length > _ARCHIVE_BYTES:
        raise HeartnetError(f"{member.full_name} holds more than {_ARCHIVE_BYTES >> 30} GiB; unpack it yourself")
    copy = folder / Path(member.name).name
    with member.open() as stream, copy.open("wb") as file:
        shutil.copyfileobj(stream, file)
    return copy


def _is_fit(name: str) -> bool:
    return name.lower().endswith(".fit") and not name.rpartition("/")[2].startswith("._")  # what macOS adds


def _wanted(name: str) -> bool:
    return _is_fit(name) or name.lower().endswith(".zip")


def _steps(counts: pl.DataFrame) -> pl.DataFrame:
    """Return the steps of each interval between two moments at which a watch wrote a count.

    Args:
        counts: `time` (Unix, s), `utc_offset` (s or null), `activity`, `count`, `row`, `user_id`, `device`, `file`.
    """
    watch = ["user_id", "device"]
    last_of = pl.col("count").arg_max()  # at midnight that of the old day, not the 0 of the new one
    table = (
        counts.group_by(*watch, "activity", "time")
        .agg(pl.all().get(last_of))
        .sort(*watch, "time", "activity")
        .with_columns(before=pl.col("count").shift().over(*watch, "activity"))
    )
    day = (pl.col("time") + pl.col("utc_offset") - 1) // _DAY  # midnight is the old day's
    previous_day = day.shift().over(*watch, "activity")
    longer_than_a_day = pl.col("time") - pl.col("time").shift().over(*watch, "activity") >= _DAY
    midnight = day * _DAY - pl.col("utc_offset")
    new_day = (day > previous_day) & (pl.col("count") <= _FASTEST * (pl.col("time") - midnight))
    smaller = pl.col("before").is_null() | (pl.col("count") < pl.col("before"))
    anew = smaller | pl.coalesce(new_day, longer_than_a_day)
    steps = pl.when(anew).then("count").otherwise(pl.col("count") - pl.col("before"))
    table = table.with_columns(steps=steps, midnight=midnight)
    moments = table.group_by(*watch, "time", maintain_order=True).agg(
        pl.col("utc_offset", "midnight", "file", "row").last(), pl.col("steps").sum()
    )
    last = pl.col("time").shift().over(*watch)
    return moments.with_columns(
        (pl.col("time") * 1_000_000).cast(pl.Datetime("us")),
        duration=pl.col("time") - pl.max_horizontal(last, "midnight"),
        instant=pl.lit(True),
    ).drop("midnight")
