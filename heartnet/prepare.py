"""Runs `heartnet prepare`: a source's readings, cleaned, cut into weeks, labelled, written, and accounted for."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import polars as pl

from heartnet.account import Account
from heartnet.attach import account_for_labels, attach_intervals, attach_labels, attach_people
from heartnet.describe import describe
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.labels import Rule, parse_conditions, read_intervals, read_labels, read_people, rules_for
from heartnet.readings import HEART_RATE_RANGE, RawReadings, clean
from heartnet.sources.columns import listing
from heartnet.sources.files import TableFile
from heartnet.store import check_target, write_store
from heartnet.weeks import Weeks, cut_weeks

Read = Callable[..., RawReadings]
"""A source's `read(arguments, account, progress)`."""

_NOT_OPTIONS = ("files", "out", "overwrite", "run", "command", "source")
_FILE_OPTIONS = ("labels", "label_intervals", "people")
_NEEDED_FOR = {
    "people": ("age", "sex", "bmi", "device"),
    "label_intervals": ("interval_start", "interval_end"),
    "kind": ("value", "kind_heart_rate", "kind_steps"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every source shares."""
    append: dict[str, Any] = {"action": "append", "default": [], "metavar": "COL"}
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the weeks go")
    parser.add_argument("--overwrite", action="store_true", help="replace the weeks that are there")
    parser.add_argument("--strict", action="store_true", help="end at the first bad row instead of counting it")
    times = parser.add_argument_group("times")
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


def prepare(arguments: argparse.Namespace, read: Read) -> None:
    """Make a store of what `read` delivers, and print its account.

    Raises:
        HeartnetError: for whatever is wrong with files or options; nothing is written then.
    """
    _check_options(arguments)
    check_target(arguments.out, overwrite=arguments.overwrite)
    account = Account(strict=arguments.strict)
    joins = [*_people(arguments, account), *_labels(arguments, account)]
    with _progress(arguments) as progress:
        raw = read(arguments, account, progress)
    readings = clean(raw, account, arguments.heart_rate_range)
    everyone = readings["user_id"].unique(maintain_order=True).to_list()
    weeks = cut_weeks(
        readings,
        by=arguments.by,
        min_wear_hours=arguments.min_wear_hours,
        min_readings=arguments.min_readings,
        account=account,
    )
    for join, table, source in joins:
        weeks = join(weeks, table, account, everyone, source)
    account_for_labels(weeks, account)
    weeks = replace(weeks, provenance=_provenance(arguments, raw))
    write_store(weeks, arguments.out, account=account, overwrite=arguments.overwrite)
    describe(arguments.out)


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


def _labels(arguments: argparse.Namespace, account: Account) -> list[Join]:
    """Read the label tables; each condition is served by the one table that has its column."""
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


def _provenance(arguments: argparse.Namespace, raw: RawReadings) -> dict[str, object]:
    """Return what the weeks were made of: options, and files by name and checksum."""
    options = {key: value for key, value in vars(arguments).items() if key not in _NOT_OPTIONS}
    options.update({key: options[key].name for key in _FILE_OPTIONS if options[key] is not None})
    for path in getattr(arguments, "files", []):
        named = {key: value for key, value in options.items() if isinstance(value, list)}
        options.update({key: [item.replace(f"{path}:", f"{path.name}:") for item in named[key]] for key in named})
    paths = [*getattr(arguments, "files", []), *(getattr(arguments, key) for key in _FILE_OPTIONS)]
    files = [TableFile(path) for path in dict.fromkeys(path for path in paths if path is not None)]
    try:
        release = version("heartnet")
    except PackageNotFoundError:
        release = "unknown"
    return {
        "kind": "prepared",
        "source": arguments.source,
        "heartnet": release,
        "options": options,
        "files": [{"name": f.name, "bytes": f.path.stat().st_size, "sha256": f.sha256()} for f in files],
        **raw.provenance,
    }


@contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[Callable[[TableFile, int], None] | None]:
    """Show how much of the files is read, if somebody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    total = sum(path.stat().st_size for path in arguments.files if path.is_file())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=total)
        yield lambda file, count: bar.update(task, advance=count, description=f"reading {file.name}")


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
