"""Runs `heartnet prepare`: a source's readings, cleaned, cut into weeks, labelled, written, and accounted for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import polars as pl

from heartnet import progress
from heartnet.account import Account
from heartnet.attach import account_for_labels, attach_facts, attach_intervals, attach_labels, attach_people
from heartnet.clocks import one_clock
from heartnet.describe import describe
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.intake import DEFAULT_USER, Intake
from heartnet.labels import Rule, parse_conditions, read_intervals, read_labels, read_people, rules_for
from heartnet.readings import HEART_RATE_RANGE, RawReadings, clean
from heartnet.sources.columns import listing
from heartnet.sources.files import TableFile, sha256
from heartnet.spool import ROWS_IN_MEMORY, ROWS_OF_AN_EXPORT, week_of
from heartnet.store import StoreWriter
from heartnet.weeks import Weeks, cut_weeks

LARGEST_SUMMED = 1 << 30
"""Larger files are named in the provenance without a checksum, which would take longer than reading them."""

_PER_SOURCE = ("files", "user", "user_from_filename", "time_zone", "time_format", "time_unit")
_NOT_OPTIONS = ("out", "overwrite", "run", "command", "source", "module", "page", "no_page", *_PER_SOURCE)
_FILE_OPTIONS = ("labels", "label_intervals", "people")
_NEEDED_FOR = {
    "people": ("age", "sex", "bmi", "device"),
    "label_intervals": ("interval_start", "interval_end"),
    "kind": ("value", "kind_heart_rate", "kind_steps"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every source shares."""
    append: dict[str, Any] = {"action": "append", "default": [], "metavar": "COL"}
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the weeks go (needed)")
    parser.add_argument("--overwrite", action="store_true", help="replace the weeks that are there")
    parser.add_argument("--strict", action="store_true", help="end at the first bad row instead of counting it")
    people = parser.add_argument_group("people")
    people.add_argument("--user", metavar="NAME", help=f"the person of these files (default: {DEFAULT_USER})")
    people.add_argument("--user-from-filename", metavar="REGEX", help="finds the person in the file name, by one group")
    times = parser.add_argument_group("times")
    times.add_argument(
        "--time-zone", metavar="ZONE", help="such as Europe/Berlin: local time, where the files do not tell it"
    )
    times.add_argument("--time-format", metavar="FORMAT", help="strptime format, if not ISO 8601; %%z last")
    times.add_argument("--time-unit", choices=("s", "ms", "us", "ns"), help="unit of times that are numbers")
    weeks = parser.add_argument_group("weeks")
    weeks.add_argument(
        "--by", type=_by, default="week", metavar="week|N", help="calendar weeks (default), or runs of N readings"
    )
    weeks.add_argument("--min-wear-hours", type=_hours, metavar="H", help="default: 24 for weeks, 0 for runs")
    weeks.add_argument("--min-readings", type=int, default=1, metavar="N", help="with a heart rate (default: 1)")
    weeks.add_argument(
        "--heart-rate-range", type=_range, default=HEART_RATE_RANGE, metavar="LOW,HIGH", help="default: 20,250 bpm"
    )
    labels = parser.add_argument_group("labels and people")
    labels.add_argument("--labels", type=Path, metavar="FILE", help="table with one row a person")
    labels.add_argument("--label-intervals", type=Path, metavar="FILE", help="table with one row an interval of time")
    labels.add_argument("--interval-start", **append, help="start of an interval")
    labels.add_argument("--interval-end", **append, help="end of an interval")
    labels.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=RULE",
        help="COL (holds yes or no), COL:VALUE|VALUE or 'COL>=NUMBER'; default: columns named as conditions",
    )
    labels.add_argument(
        "--people", type=Path, metavar="FILE", help="table with age, sex, BMI, device; one row a person"
    )
    labels.add_argument("--user-id", **append, help="who a row is of, in any of the files")
    for role in ("age", "sex", "bmi", "device"):
        labels.add_argument(f"--{role}", **append, help="column of --people")


def prepare(sources: Sequence[argparse.Namespace]) -> None:
    """Make a store of what one or more sources deliver, and print its account.

    Args:
        sources: the options of each, with its `module`; what they share is settled in the first
            (`settle_shared_options`).

    Raises:
        HeartnetError: for whatever is wrong with files or options; nothing is written then.
    """
    shared = sources[0]
    _check_options(shared)
    account = Account(strict=shared.strict)
    joins = [*_people(shared, account), *_labels(sources, account)]
    with StoreWriter(shared.out, overwrite=shared.overwrite) as writer:
        intake, told = _read(sources, account, writer.folder)
        try:
            _cut(intake, shared, account, writer)
        finally:
            intake.spool.close()
        weeks = attach_facts(writer.weeks(), intake.people)
        spans = (labels.with_columns(pl.col("start", "end").to_physical()) for labels in intake.all_labels())
        joins += [(attach_intervals, labels, "the rhythms") for labels in spans]
        for join, table, source in joins:
            weeks = join(weeks, table, account, intake.users, source)
        account_for_labels(weeks, account)
        weeks = replace(weeks, provenance=_provenance(sources, told))
        writer.finish(weeks, account)
    describe(shared.out)


def settle_shared_options(sources: Sequence[argparse.Namespace]) -> None:
    """Give all sources the options that they share, under whichever they were given.

    Raises:
        HeartnetError: if one is given twice, or there is no `--out`.
    """
    own = argparse.ArgumentParser(add_help=False)
    add_arguments(own)
    first = sources[0]
    for action in own._actions:
        name = action.dest
        for other in sources[1:] if name not in _PER_SOURCE else ():
            given, default = getattr(other, name), own.get_default(name)
            if given == default:
                continue
            if isinstance(given, list):
                setattr(first, name, [*getattr(first, name), *given])
            elif getattr(first, name) in (default, given):
                setattr(first, name, given)
            else:
                both = f"{getattr(first, name)} and {given}"
                raise HeartnetError(f"{action.option_strings[0]} is given twice: {both}; it is shared by all sources")
        for other in sources[1:] if name not in _PER_SOURCE and hasattr(first, name) else ():
            setattr(other, name, getattr(first, name))
    if first.out is None:
        raise HeartnetError("the option --out FOLDER is missing: where shall the weeks go?")


def _read(sources: Sequence[argparse.Namespace], account: Account, folder: Path) -> tuple[Intake, list[dict[str, Any]]]:
    """Return what all sources handed in, and what they told of themselves."""
    told: list[dict[str, Any]] = []
    paths = [path for each in sources for path in each.files]
    intake: Intake | None = None
    rows = ROWS_IN_MEMORY if all(each.source == "table" for each in sources) else ROWS_OF_AN_EXPORT
    with progress.reading(paths) as bar:
        for each in sources:
            settings = {
                "zone": each.time_zone or _zone(sources),
                "user": each.user,
                "user_from_filename": each.user_from_filename,
            }
            intake = (
                Intake(account, bar, folder=folder, rows_in_memory=rows, default_user=_person(sources), **settings)
                if intake is None
                else intake.next(**settings)
            )
            each.module.read(each, intake)
            told.append(intake.provenance)
    assert intake is not None, "there is at least one source"
    return intake, told


def _person(sources: Sequence[argparse.Namespace]) -> str:
    """Return the person of sources that do not say whose they are: the one named by the others, if it is one."""
    named = {each.user for each in sources if each.user is not None}
    return named.pop() if len(named) == 1 else DEFAULT_USER


def _zone(sources: Sequence[argparse.Namespace]) -> str | None:
    """Return the time zone of sources for which none was given: the one given for others, if it is one."""
    given = {each.time_zone for each in sources if each.time_zone is not None}
    return given.pop() if len(given) == 1 else None


def _cut(intake: Intake, arguments: argparse.Namespace, account: Account, writer: StoreWriter) -> None:
    """Clean what was read and cut it into weeks, a block after the other."""
    events = intake.all_events()
    names = [device.name for device in intake.devices]
    readings = weeks = 0
    with progress.cutting(intake.spool.rows) as bar:
        for frame in _blocks(intake, account, by=arguments.by):
            cleaned = clean(RawReadings(frame, intake.files, intake.devices), account, arguments.heart_rate_range)
            readings += cleaned.height
            if cleaned.height:
                cut = cut_weeks(
                    cleaned,
                    by=arguments.by,
                    min_wear_hours=arguments.min_wear_hours,
                    min_readings=arguments.min_readings,
                    account=account,
                    events=events if events.height else None,
                    devices=names,
                )
                weeks += len(cut)
                writer.append(cut)
            if bar is not None:
                bar("", frame.height)
    if not readings:
        raise _nothing_read(intake, account)
    if not weeks:
        raise _no_week_left(account)
    left = writer.weeks().table["user_id"].n_unique()
    account.add("people", "in", len(intake.users))
    account.note("people", "dropped: no week left", len(intake.users) - left)
    account.add("people", "left", left)


def _blocks(intake: Intake, account: Account, by: Literal["week"] | int) -> Iterator[pl.DataFrame]:
    """Yield the readings in blocks of whole weeks, or of whole people where these are needed."""
    if not intake.several:
        yield from intake.blocks(whole_people=by != "week")
        return
    for frame in intake.blocks(whole_people=True):
        settled, changed = one_clock(frame, intake.devices)
        account.note("rows", "noted: local time of the source named first", changed)
        local = pl.col("time") + pl.duration(seconds=pl.col("utc_offset").fill_null(0))
        yield settled.with_columns(week=week_of(local) if by == "week" else pl.lit(0, pl.Int32))


def _nothing_read(intake: Intake, account: Account) -> HeartnetError:
    reasons = [f"{what}: {count:,}" for stage, what, count in account if "dropped" in what and count]
    examples = [place for (_, what), places in account.examples.items() if "dropped" in what for place in places]
    why = "; ".join(reasons) or "It holds no heart rate and no steps"
    files = ", ".join(intake.files[:5]) + (f" and {len(intake.files) - 5:,} more" if len(intake.files) > 5 else "")
    return HeartnetError(
        f"no reading is left of {files or 'what was given'}. {why}"
        + (f". For example {examples[0]}" if examples else "")
    )


def _no_week_left(account: Account) -> HeartnetError:
    why = "; ".join(f"{count:,} {what}" for stage, what, count in account if stage == "weeks" and "dropped" in what)
    found = account.count("weeks", "in")
    lower = {
        "readings left at a person's end": "cut shorter pieces (--by 256)",
        "worn less than": "lower --min-wear-hours",
        "with a heart rate": "lower --min-readings, if there are heart rates at all",
    }
    advice = [cure for reason, cure in lower.items() if reason in why]
    return HeartnetError(f"no week is left of {found:,}: {why}. To keep some, {' or '.join(advice)}")


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise if an option was given that says something about a file that was not."""
    for needed, options in _NEEDED_FOR.items():
        for option in options:
            if getattr(arguments, option, None) and not getattr(arguments, needed, None):
                name, other = (f"--{each.replace('_', '-')}" for each in (option, needed))
                raise HeartnetError(
                    f"{name} says something about {other}, which is not given; add it, or leave {name} out"
                )


Join = tuple[Callable[..., Weeks], pl.DataFrame, str]


def _people(arguments: argparse.Namespace, account: Account) -> list[Join]:
    if arguments.people is None:
        return []
    file = TableFile(arguments.people)
    return [(attach_people, read_people(file, account, vars(arguments)), f"--people {file.name}")]


def _labels(sources: Sequence[argparse.Namespace], account: Account) -> list[Join]:
    """Read the label tables; each condition is served by the one table that has its column.

    Without a table, a source that has labels of its own (`HAS_LABELS`) is asked for the conditions.
    """
    arguments = sources[0]
    own = any(getattr(each.module, "HAS_LABELS", False) for each in sources)
    if own and arguments.labels is None and arguments.label_intervals is None:
        return []
    expressions = parse_conditions(arguments.condition)
    files = {o: TableFile(path) for o in ("labels", "label_intervals") if (path := getattr(arguments, o)) is not None}
    rules = {option: rules_for(file, expressions) for option, file in files.items()}
    _check_rules(rules, expressions, files)
    joins: list[Join] = []
    if "labels" in files and rules["labels"]:
        labels = read_labels(files["labels"], rules["labels"], account, arguments.user_id)
        joins.append((attach_labels, labels, f"--labels {files['labels'].name}"))
    if "label_intervals" in files and rules["label_intervals"]:
        intervals = read_intervals(
            files["label_intervals"],
            rules["label_intervals"],
            account,
            vars(arguments),
            user=getattr(arguments, "user", None),
            time_format=arguments.time_format,
            time_unit=arguments.time_unit,
        )
        joins.append((attach_intervals, intervals, f"--label-intervals {files['label_intervals'].name}"))
    return joins


def _check_rules(rules: dict[str, list[Rule]], expressions: dict[str, str], files: dict[str, TableFile]) -> None:
    """Raise if a condition is served by no table or by both, or a table serves none."""
    if expressions and not rules:
        raise HeartnetError("--condition needs a table to take it from: --labels FILE or --label-intervals FILE")
    served = [rule.condition for found in rules.values() for rule in found]
    columns = [column for file in files.values() for column in file.columns]
    for name, expression in expressions.items():
        if name not in served:
            raise HeartnetError(
                f"--condition {name}={expression}: no such column.{did_you_mean(expression, columns)} "
                + " ".join(listing(file) for file in files.values())
            )
    for name in served:
        if served.count(name) > 1:
            both = " and from ".join(file.name for file in files.values())
            raise HeartnetError(f"condition {name!r} can come from {both}: say which with --condition NAME=FILE:COL")
    for option, found in rules.items():
        if not found and expressions:
            raise HeartnetError(
                f"--{option.replace('_', '-')} {files[option].name}: no --condition names a column of it; with any "
                f"--condition, each condition needs one, such as --condition diabetes=COL. {listing(files[option])}"
            )
        if not found:
            raise HeartnetError(
                f"--{option.replace('_', '-')} {files[option].name}: no column is named as a condition, and no "
                f"--condition names one, for example --condition diabetes=COL. {listing(files[option])}"
            )


def _provenance(sources: Sequence[argparse.Namespace], told: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Return what the weeks were made of: options, and files by name and checksum."""
    shared = argparse.ArgumentParser(add_help=False)
    add_arguments(shared)
    common = {action.dest for action in shared._actions} - set(_PER_SOURCE)
    options = {key: value for key, value in vars(sources[0]).items() if key in common and key not in _NOT_OPTIONS}
    tables = [options[key] for key in _FILE_OPTIONS if options[key] is not None]
    options.update({key: options[key].name for key in _FILE_OPTIONS if options[key] is not None})
    try:
        release = version("heartnet")
    except PackageNotFoundError:
        release = "unknown"
    return {
        "kind": "prepared",
        "heartnet": release,
        "options": options,
        "files": [_file(path) for path in tables],
        "sources": [
            {
                "source": each.source,
                "options": _own_options(each, common),
                "files": [_file(path) for path in each.files],
                **facts,
            }
            for each, facts in zip(sources, told, strict=True)
        ],
    }


def _own_options(source: argparse.Namespace, common: set[str]) -> dict[str, Any]:
    """Return the options of one source, without the folders of its files."""
    found = {k: v for k, v in vars(source).items() if k not in common and k not in _NOT_OPTIONS}
    found |= {key: getattr(source, key) for key in _PER_SOURCE if key != "files"}
    for path in source.files:
        lists = {key: value for key, value in found.items() if isinstance(value, list)}
        found |= {key: [item.replace(f"{path}:", f"{path.name}:") for item in value] for key, value in lists.items()}
    return found


def _file(path: Path) -> dict[str, Any]:
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return {"name": path.resolve().name, "files": len(files), "bytes": sum(file.stat().st_size for file in files)}
    size = path.stat().st_size
    return {"name": path.name, "bytes": size, "sha256": sha256(path) if size <= LARGEST_SUMMED else None}


def _by(text: str) -> Literal["week"] | int:
    if text == "week":
        return "week"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected week, or a number of readings such as 512") from None


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers, LOW,HIGH, such as 20,250") from None
    if not 0 < low < high < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LOW,HIGH with 0 < LOW < HIGH")
    return low, high


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of hours, 0 or more")
    return hours
