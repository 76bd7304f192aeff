"""Reads what Fitbit gives its users: a Google Takeout, folder or zip, in both its generations; and Fitabase tables.

The formats, as other projects document them (there is no specification; found in public importers and write-ups of
exports of 2023 to 2026):

- `Takeout/Fitbit/` or, since 2026, `Takeout/Google Health/`. A file is known by its name, whatever its folder.
- `Global Export Data/heart_rate-2024-01-03.json`: a list of `{"dateTime": "01/03/24 08:00:05", "value": {"bpm": 71,
  "confidence": 2}}`. The file is named by the local day and its times are UTC: a file of Sydney runs from 13:00:07 to
  12:59:57 of the next day. `confidence` is 0 to 3, 0 none.
- `Global Export Data/steps-2024-01-01.json`: a list of `{"dateTime": "01/01/24 00:01:00", "value": "12"}`, a minute
  each, named by its begin; UTC too.
- `exercise-0.json`: `startTime` (as above; UTC), `duration` in milliseconds.
- `sleep-2024-01-01.json`: `startTime`, `endTime` and `levels.data`, a list of `{"dateTime": "2024-01-02T23:12:30.000",
  "level": "light", "seconds": 300}`: the wall clock of the person. Short times awake (`shortData`, up to 3 minutes) are
  not taken out.
- `Your Profile/Profile.csv`: `date_of_birth`, `gender`, `height` (cm), `weight` (kg), `timezone`.
- `Physical Activity_GoogleData/heart_rate_2024-01-03.csv`: `timestamp,beats per minute,data source`, times such as
  `2024-01-03T08:00:05Z`; `steps_2024-01-01.csv`: `timestamp,steps,data source`, taken as the minute that begins there.
- `Health Fitness Data_GoogleData/UserSleepStages_….csv` and `UserExercises_….csv`: with UTC times and offsets. Where
  they hold a night, its log in `sleep-….json` is left out.
- Fitabase: `heartrate_seconds….csv` (`Id,Time,Value`) and `minuteSteps….csv` (`Id,ActivityMinute,Steps`), also gzipped;
  the wall clock of the person, such as `4/12/2016 7:21:00 AM`; `Id` is the person.

Both generations hold the same readings; the same moment twice is settled when readings are cleaned. The newer one does
not tell the confidence: a reading that the older one holds with too low a confidence is dropped from both.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

import polars as pl

from heartnet.errors import HeartnetError
from heartnet.intake import Intake, Person
from heartnet.sources import fitbit_json, fitbit_tables
from heartnet.sources.archives import Member, members
from heartnet.sources.fitbit_tables import Table
from heartnet.zones import check_zone

_DAY = r"\d{4}-\d{2}-\d{2}"
_NAMES = {
    "profile": r"profile\.csv",
    "sleep_csv": r"usersleepstages.*\.csv",
    "exercise_csv": r"userexercises.*\.csv",
    "sleep_json": r"sleep-.*\.json",
    "exercise_json": r"exercise-\d.*\.json",
    "heart_rate_json": rf"heart_rate-{_DAY}.*\.json",
    "steps_json": rf"steps-{_DAY}.*\.json",
    "heart_rate_csv": rf"heart_rate_{_DAY}.*\.csv",
    "steps_csv": rf"steps_{_DAY}.*\.csv",
    "fitabase_heart_rate": r"heartrate_?seconds.*\.csv(\.gz)?",
    "fitabase_steps": r"minute_?steps(?!wide).*\.csv(\.gz)?",
}
"""File names by kind, in the order in which kinds are read: what the later need is known when they come."""

_EXPECTED = (
    "expected a Google Takeout of Fitbit (heart_rate-2024-01-03.json, steps-2024-01-01.json, heart_rate_2024-01-03.csv "
    "…), or tables of Fitabase (heartrate_seconds with Id,Time,Value; minuteSteps with Id,ActivityMinute,Steps)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `heartnet prepare fitbit`."""
    help = "Google Takeout (zip, or its folder), files of it, or Fitabase tables (.csv, .csv.gz)"
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help=help)
    help = "drop heart rates of which Fitbit is less sure, 0 (all are taken) to 3; default: 1"
    parser.add_argument("--min-confidence", type=int, default=1, choices=range(4), metavar="0-3", help=help)


def read(arguments: argparse.Namespace, intake: Intake) -> None:
    """Hand in the heart rates, steps, sleep and workouts of the exports. A file that cannot be read is counted.

    Raises:
        HeartnetError: if nothing can be read, or, with `--strict`, if a file cannot be read.
    """
    errors: list[HeartnetError] = []
    try:
        _read_all(arguments, intake, errors)
    finally:
        errors.clear()  # errors know of the frames that know of them: archives would stay open until that is found


def _read_all(arguments: argparse.Namespace, intake: Intake, errors: list[HeartnetError]) -> None:
    found: list[tuple[str, Member, str]] = []
    for path in arguments.files:
        user = intake.user_of(path.name)
        try:
            found += [(kind, member, user) for kind, member in _find(path, intake)]
        except HeartnetError as error:
            errors.append(error)
    count = len(found) + len(errors)
    importer = _Importer(intake, arguments.min_confidence)
    order = list(_NAMES)
    for kind, member, user in sorted(found, key=lambda each: order.index(each[0])):
        if errors and intake.account.strict:
            break
        try:
            importer.take(kind, member, user)
        except HeartnetError as error:
            errors.append(error)
    if errors and (intake.account.strict or not importer.handed_in):
        raise errors[0]
    if not importer.handed_in:
        raise HeartnetError(f"no heart rate and no steps in {count} files of Fitbit: nothing to read")
    intake.account.add("files", "in", count)
    intake.account.note("files", "dropped: file that cannot be read", len(errors), [str(error) for error in errors])


def _find(path: Path, intake: Intake) -> list[tuple[str, Member]]:
    """Return the files of known kinds; a table that is named directly is known by its columns too."""
    found: list[tuple[str, Member]] = []
    others = 0
    for member in members(path):
        name = member.name.rpartition("/")[2].lower()
        kind = next((kind for kind, pattern in _NAMES.items() if re.fullmatch(pattern, name)), None)
        if kind is None and member.name == path.name:
            kind = Table(member).kind()
        if kind is None:
            others += 1
        else:
            found.append((kind, member))
    if not found:
        raise HeartnetError(f"{path} holds nothing that is known of Fitbit: {_EXPECTED}")
    intake.account.note("files", "noted: files of other kinds, not read", others)
    return found


@dataclass
class _Importer:
    """Hands in files one by one, and remembers of them what later ones need.

    Attributes:
        zones: time zone by person.
        nights: by person, the local days on which a sleep ended that the newer generation holds.
        unsure: by person, the moments of heart rates of too low a confidence.
        handed_in: readings.
    """

    intake: Intake
    min_confidence: int
    zones: dict[str, str] = field(default_factory=dict)
    nights: dict[str, set[date]] = field(default_factory=lambda: defaultdict(set))
    unsure: dict[str, list[pl.Series]] = field(default_factory=lambda: defaultdict(list))
    handed_in: int = 0

    def take(self, kind: str, member: Member, user: str) -> None:
        """Read a file of a kind of `_NAMES`.

        Raises:
            HeartnetError: if it cannot be read; what was read before is handed in.
        """
        if kind == "profile":
            self._profile(member, user)
        elif kind.endswith("_json"):
            self._json(kind, member, user)
        else:
            self._table(kind, member, user)

    def _profile(self, member: Member, user: str) -> None:
        with member.open() as stream:
            text = stream.read(1 << 20).decode("utf-8-sig", "replace")
        facts = next(csv.DictReader(text.splitlines()[:2]), None) or {}
        if not {"timezone", "date_of_birth"} & facts.keys():
            return  # of something else
        zone = str(facts.get("timezone") or "")
        self.intake.person(user, _person(facts))
        try:
            self.zones.setdefault(user, check_zone(zone))
        except HeartnetError as error:
            self.intake.account.note(
                "files", "noted: profile without a known time zone", 1, [f"{member.full_name}: {error}"]
            )

    def _json(self, kind: str, member: Member, user: str) -> None:
        entries = fitbit_json.read_entries(member)
        self.intake.read(member.full_name, member.size)
        if kind == "heart_rate_json":
            frame = fitbit_json.heart_rates(entries)
            self._readings(frame, "heart_rate", member, user, self.intake.file(member.full_name))
        elif kind == "steps_json":
            frame = fitbit_json.steps(entries)
            self._readings(frame, "steps", member, user, self.intake.file(member.full_name))
        elif kind == "exercise_json":
            self._events(fitbit_json.exercise(entries), "in_workout", member, user)
        else:
            self._sleep_logs(fitbit_json.sleep(entries), member, user)

    def _table(self, kind: str, member: Member, user: str) -> None:
        table = Table(member)
        if table.is_empty():
            return
        table.require(kind)
        file = self.intake.file(member.full_name)
        for chunk in table.chunks(self.intake):
            if kind == "heart_rate_csv":
                self._readings(fitbit_tables.heart_rates(chunk), "heart_rate", member, user, file)
            elif kind == "steps_csv":
                self._readings(fitbit_tables.steps(chunk), "steps", member, user, file)
            elif kind == "fitabase_heart_rate":
                frame = fitbit_tables.fitabase(chunk, "time", "value", "heart_rate")
                self._readings(frame, "heart_rate", member, user, file)
            elif kind == "fitabase_steps":
                frame = fitbit_tables.fitabase(chunk, "activityminute", "steps", "steps")
                self._readings(frame, "steps", member, user, file)
            elif kind == "exercise_csv":
                spans = fitbit_tables.spans(chunk, "exercise_start", "exercise_end")
                self._events(spans, "in_workout", member, user)
            else:
                self._sleep_stages(chunk, member, user)

    def _readings(self, frame: pl.DataFrame, channel: str, member: Member, user: str, file: int) -> None:
        """Hand in the readings of a frame with `time` and a channel.

        Without `offset`, times are UTC, or with `user_id` wall clocks.
        """
        self.intake.account.add("rows", "in", frame.height)
        frame = self._without(frame, pl.col("time").is_null(), "rows", "dropped: no time from 1970 to 2100", member)
        what = f"dropped: no number of {channel.replace('_', ' ')}"
        frame = self._without(frame, pl.col(channel).is_null(), "rows", what, member)
        if "user_id" in frame.columns:
            frame = self._without(frame, pl.col("user_id").is_null(), "rows", "dropped: no person", member)
            frame = frame.with_columns(instant=pl.lit(False), offset=pl.lit(None, pl.Int32))
        else:
            offset = pl.col("offset") if "offset" in frame.columns else pl.lit(0)
            # an offset of 0 is how UTC is written, not where the person was
            instant, offset = offset.is_not_null(), pl.when(offset != 0).then(offset)
            frame = frame.with_columns(user_id=pl.lit(user), instant=instant, offset=offset)
        if channel == "heart_rate":
            frame = self._sure(frame, user)
        minute = pl.duration(minutes=1) if channel == "steps" else pl.duration()
        self.intake.readings(
            frame.select(
                "user_id",
                pl.col("time") + minute,
                pl.col("offset").alias("utc_offset"),
                "instant",
                channel,
                pl.lit(60.0 if channel == "steps" else None, pl.Float32).alias("duration"),
                self._devices(frame).alias("device"),
                pl.lit(file, pl.UInt32).alias("file"),
                "row",
            ),
            self.zones.get(user),
        )
        self.handed_in += frame.height

    def _sure(self, frame: pl.DataFrame, user: str) -> pl.DataFrame:
        """Return the heart rates of enough confidence; where none is told, those that were not too low elsewhere."""
        if "confidence" in frame.columns:
            unsure = frame.select((pl.col("confidence") < self.min_confidence).fill_null(False)).to_series()
            if unsure.any():
                self.unsure[user].append(frame.filter(unsure)["time"].sort())
        elif not self.unsure[user]:
            return frame
        else:
            if len(self.unsure[user]) > 1:
                self.unsure[user] = [pl.concat(self.unsure[user]).sort()]
            moments = self.unsure[user][0]
            at = moments.search_sorted(frame["time"]).clip(0, len(moments) - 1)
            unsure = moments.gather(at) == frame["time"]
        what = f"dropped: heart rate with a confidence below {self.min_confidence} (--min-confidence)"
        self.intake.account.note("rows", what, int(unsure.sum()))
        return frame.filter(~unsure)

    def _devices(self, frame: pl.DataFrame) -> pl.Series:
        if "device" not in frame.columns:
            return pl.repeat(self.intake.device("Fitbit", 0), frame.height, dtype=pl.UInt16, eager=True)
        names = frame["device"].fill_null("Fitbit").str.slice(0, 80)
        numbers = {name: self.intake.device(name, _rank(name)) for name in names.unique(maintain_order=True)}
        return names.replace_strict(numbers, return_dtype=pl.UInt16)

    def _sleep_stages(self, chunk: pl.DataFrame, member: Member, user: str) -> None:
        spans = fitbit_tables.spans(chunk, "sleep_stage_start", "sleep_stage_end")
        offset = chunk["end_utc_offset"].str.extract_groups(r"^([+-]\d{2}):?(\d{2})").struct.unnest()
        seconds = offset["1"].cast(pl.Int64) * 3600 + (offset["1"].str.slice(0, 1) + offset["2"]).cast(pl.Int64) * 60
        local = spans["end"] + (seconds.fill_null(0) * 1_000_000).cast(pl.Duration("us"))
        ends = pl.DataFrame({"sleep": chunk["sleep_id"], "end": local}).group_by("sleep").agg(pl.col("end").max())
        self.nights[user].update(ends["end"].drop_nulls().dt.date())
        asleep = chunk["sleep_stage_type"].str.to_lowercase().is_in(list(fitbit_json.ASLEEP)).fill_null(False)
        self._events(spans.filter(asleep), "asleep", member, user)

    def _sleep_logs(self, frame: pl.DataFrame, member: Member, user: str) -> None:
        account = self.intake.account
        if self.intake.zone is None and user not in self.zones:
            what = "noted: sleep left out, its times are local and no time zone is known (--time-zone, or Profile.csv)"
            account.note("events", what, frame.height, [member.full_name])
            return
        newer = frame["woke"].dt.date().is_in(list(self.nights[user])).fill_null(False)
        account.note("events", "noted: sleep left out, which UserSleepStages hold too", int(newer.sum()))
        # exports begin with the last night; wall clocks are handed in as they happened
        logs = frame.filter(~newer).sort("woke", maintain_order=True)
        self._events(logs, "asleep", member, user, instant=False)

    def _events(self, frame: pl.DataFrame, kind: str, member: Member, user: str, *, instant: bool = True) -> None:
        self.intake.account.add("events", "in", frame.height)
        bad = ~(pl.col("start") < pl.col("end")).fill_null(False)
        frame = self._without(frame, bad, "events", "dropped: no start before its end, from 1970 to 2100", member)
        facts = {"user_id": user, "instant": instant, "kind": kind}
        columns = [pl.lit(value).alias(name) for name, value in facts.items()]
        self.intake.events(frame.select("start", "end", *columns), self.zones.get(user))

    def _without(self, frame: pl.DataFrame, bad: pl.Expr, stage: str, what: str, member: Member) -> pl.DataFrame:
        """Return the rows that are not bad, and count the others."""
        frame = frame.with_columns(bad=bad)
        rows, account = frame.filter("bad"), self.intake.account
        examples = rows.head(account.max_examples).select("row", "said").rows()
        places = [f"{member.full_name} row {row}: {str(said or '')[:60]!r}" for row, said in examples]
        account.bad(stage, what, rows.height, places)
        return frame.filter(~pl.col("bad")).drop("bad")


def _person(facts: dict[str, str]) -> Person:
    """Return what a profile says."""
    try:
        born = date.fromisoformat(facts.get("date_of_birth") or "")
    except ValueError:
        born = None
    sexes: dict[str, Literal["female", "male"]] = {"female": "female", "male": "male"}
    try:
        centimetres, kilograms = (float(facts.get(name) or "nan") for name in ("height", "weight"))
    except ValueError:
        centimetres = kilograms = math.nan
    bmi = kilograms / (centimetres / 100) ** 2 if centimetres > 0 else math.nan
    return Person(born=born, sex=sexes.get(str(facts.get("gender")).lower()), bmi=bmi if 8 < bmi < 100 else None)


def _rank(source: str) -> int:
    """Return how far a data source is believed: Fitbit's own devices, the phone, what other apps have copied there."""
    name = source.lower()
    if "phone" in name or name == "mobiletrack":
        return 1
    return 2 if any(word in name for word in ("health connect", "health kit", "web api")) else 0
