"""Reads labels, by person or by interval of time, and people's metadata from tables; `heartnet.attach` joins them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from heartnet.account import Account
from heartnet.conditions import CONDITIONS
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.intake import DEFAULT_USER
from heartnet.sources.columns import find_column, listing, option
from heartnet.sources.files import TableFile
from heartnet.sources.times import parse_times

YES = ("1", "1.0", "true", "t", "yes", "y", "positive")
NO = ("0", "0.0", "false", "f", "no", "n", "negative")
"""What a label column may say, in any case; nothing, or a word for missing, is a missing label."""

_COMPARISON = re.compile(r"^(?P<column>.*?)\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>[-+]?\d+(\.\d*)?)$")
_SEX = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}


@dataclass(frozen=True)
class Rule:
    """How a column makes a label: `COL` holds yes or no, `COL:A|B` equals one of these, `COL>=6.5` compares."""

    condition: str
    column: str
    values: tuple[str, ...] = ()
    sign: str = ""
    limit: float = 0.0


def parse_conditions(specifications: Sequence[str]) -> dict[str, str]:
    """Return the expression for each condition of `NAME=COL`, `NAME=COL:VALUE|VALUE` or `NAME=COL>=NUMBER`.

    Raises:
        HeartnetError: if one is not of this form, a condition comes twice, or its name is nearly, and not quite, one
            of `CONDITIONS`.
    """
    rules: dict[str, str] = {}
    for text in specifications:
        name, equals, expression = (part.strip() for part in text.partition("="))
        if not equals or not expression or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or expression[0] in "=":
            raise HeartnetError(
                f"--condition {text!r}: expected NAME=COL, NAME=COL:VALUE or 'NAME=COL>=NUMBER', the name in "
                "lower case with underscores, for example 'diabetes=A1c>=6.5'"
            )
        near = difflib.get_close_matches(name, CONDITIONS, n=1, cutoff=0.8)
        if near and name not in CONDITIONS and not any(known in name for known in CONDITIONS):
            raise HeartnetError(f"--condition {text!r}: unknown condition {name!r}.{did_you_mean(name, CONDITIONS)}")
        if name in rules:
            raise HeartnetError(f"--condition {name} is given twice: {rules[name]!r} and {expression!r}")
        rules[name] = expression
    return rules


def rules_for(file: TableFile, expressions: Mapping[str, str]) -> list[Rule]:
    """Return the rules that `file` can serve: those of `expressions` whose column it has.

    Without any expression, its columns that are named as conditions are taken, in whatever order they stand.
    """
    if not expressions:
        plain = {re.sub(r"[ -]", "_", column.lower()): column for column in file.columns}
        for name, column in plain.items():
            if name not in CONDITIONS and difflib.get_close_matches(name, CONDITIONS, n=1, cutoff=0.8):
                raise HeartnetError(
                    f"{file.name}: column {column!r} is almost the name of a condition."
                    f"{did_you_mean(name, CONDITIONS)} Rename it, or say with --condition which columns are labels"
                )
        return [Rule(name, file.find(plain[name], "labels")) for name in CONDITIONS if name in plain]
    found = (_rule(name, expression, file) for name, expression in expressions.items())
    return [rule for rule in found if rule is not None]


def read_labels(file: TableFile, rules: Sequence[Rule], account: Account, user_id: Sequence[str] = ()) -> pl.DataFrame:
    """Return one row a person: `user_id`, and for each condition 1, 0 or null (Int8).

    Raises:
        HeartnetError: if two rows of a person contradict each other.
    """
    stage = f"--labels {file.name}"
    people = _read(file, [_id_column(file, user_id), *(rule.column for rule in rules)], account, stage)
    labels = {rule.condition: _apply(rule, people, file.name, account, stage) for rule in rules}
    frame = pl.DataFrame({"user_id": people[_id_column(file, user_id)], "row": people[_ROW], **labels})
    return _one_row_each(_with_person(frame, file.name, account, stage), file.name)


def read_people(file: TableFile, account: Account, columns: Mapping[str, Sequence[str]] | None = None) -> pl.DataFrame:
    """Return one row a person: `user_id` and what there is of `age` (years), `sex`, `bmi` (kg/m²) and `device`.

    Args:
        columns: the column options `user_id`, `age`, `sex`, `bmi`, `device`; the usual names where there is none.
    """
    columns = columns or {}
    found = {}
    for role in ("age", "sex", "bmi", "device"):
        column = find_column(role, columns.get(role, ()), file, [file])
        if column is None and columns.get(role):
            file.find(columns[role][0], f"--{role}")
        if column is not None:
            found[role] = column
    if not found:
        raise HeartnetError(f"{file.name} has no column of age, sex, BMI or device (--people). {listing(file)}")
    id_column = _id_column(file, columns.get("user_id", ()))
    stage = f"--people {file.name}"
    people = _read(file, [id_column, *found.values()], account, stage)
    values = {}
    for role, column in found.items():
        text = people[column]
        if role in ("age", "bmi"):
            number = text.cast(pl.Float64, strict=False)
            plausible = number.is_between(*((0, 120) if role == "age" else (5, 150))).fill_null(False)
            values[role] = number.set(~plausible, None)
        else:
            values[role] = text.str.to_lowercase().replace_strict(_SEX, default=None) if role == "sex" else text
        lost = text.is_not_null() & values[role].is_null()
        _note(account, stage, f"noted: {role} not understood", file.name, people, column, lost)
    frame = pl.DataFrame({"user_id": people[id_column], "row": people[_ROW], **values})
    return _one_row_each(_with_person(frame, file.name, account, stage), file.name)


def read_intervals(
    file: TableFile,
    rules: Sequence[Rule],
    account: Account,
    columns: Mapping[str, Sequence[str]] | None = None,
    *,
    user: str | None = None,
    time_format: str | None = None,
    time_unit: str | None = None,
) -> pl.DataFrame:
    """Return labelled intervals: `user_id`, `start` and `end` (microseconds), `instant`, and the conditions (Int8).

    `instant` tells that the times were written with an offset and are UTC; else they are local.

    Args:
        columns: the column options `user_id`, `interval_start`, `interval_end`; the usual names where there is none.
        user: the person, if no column says who it is; `DEFAULT_USER` if this is not given either.
    """
    columns = columns or {}
    ends = {}
    for role in ("interval_start", "interval_end"):
        column = find_column(role, columns.get(role, ()), file, [file])
        if column is None:
            raise HeartnetError(
                f"{file.name} has no column for the {role.replace('_', ' ')}; name it with {option(role)} COL. "
                + listing(file)
            )
        ends[role] = column
    by_column = user is None or bool(columns.get("user_id"))
    id_column = find_column("user_id", columns.get("user_id", ()), file, [file]) if by_column else None
    stage = f"--label-intervals {file.name}"
    wanted = [*([id_column] if id_column else []), *ends.values(), *(rule.column for rule in rules)]
    frame = _read(file, wanted, account, stage)
    times = {}
    instant = pl.Series([True]).new_from_index(0, frame.height)
    for role, column in ends.items():
        time, offset = parse_times([frame[column]], time_format, time_unit)
        if frame.height and time.null_count() == frame.height:
            raise HeartnetError(
                f"{file.name}: no time of column {column!r} can be read, for example {frame[column][0]!r}; say how "
                "they are written with --time-format, or that they are numbers with --time-unit s, ms, us or ns"
            )
        times[role] = time.dt.timestamp("us")
        instant = instant & offset.is_not_null()
    labels = {rule.condition: _apply(rule, frame, file.name, account, stage) for rule in rules}
    start, end = times["interval_start"], times["interval_end"]
    bad = ~(start <= end).fill_null(False)
    what = "dropped: interval without times, or that ends before it starts"
    _note(account, stage, what, file.name, frame, ends["interval_start"], bad)
    who = frame[id_column] if id_column else pl.Series([user or DEFAULT_USER]).new_from_index(0, frame.height)
    if bad.all():
        raise HeartnetError(
            f"{file.name}: no interval is left: each lacks a time, or ends ({ends['interval_end']!r}) before it starts "
            f"({ends['interval_start']!r}); were the two columns swapped?"
        )
    found = pl.DataFrame(
        {"user_id": who, "row": frame[_ROW], "start": start, "end": end, "instant": instant, **labels}
    ).filter(~bad)
    return _with_person(found, file.name, account, stage).drop("row")


_ROW = "\0row"


def _rule(name: str, expression: str, file: TableFile) -> Rule | None:
    if expression.startswith(f"{file.name}:"):
        expression = expression[len(file.name) + 1 :]
    if len(file.columns_like(expression)) == 1:
        return Rule(name, file.columns_like(expression)[0])
    compared = _COMPARISON.match(expression)
    if compared:
        if file.columns_like(compared["column"]):
            column = file.find(compared["column"], f"--condition {name}")
            return Rule(name, column, sign=compared["sign"], limit=float(compared["limit"]))
        return None
    column, colon, values = expression.rpartition(":")
    if colon and file.columns_like(column):
        return Rule(name, file.find(column, f"--condition {name}"), tuple(v.strip() for v in values.split("|")))
    return None


def _apply(rule: Rule, frame: pl.DataFrame, source: str, account: Account, stage: str) -> pl.Series:
    text = frame[rule.column]
    if rule.values:
        there = text.drop_nulls().unique().sort().to_list()
        for value in rule.values:
            if value not in there:
                raise HeartnetError(
                    f"{source}: no row has {value!r} in column {rule.column!r} (--condition {rule.condition}); there "
                    f"are {', '.join(repr(v) for v in there[:12])}.{did_you_mean(value, there)}"
                )
        return text.is_in(rule.values).cast(pl.Int8)
    if rule.sign:
        number = text.cast(pl.Float64, strict=False)
        number = number.set(~number.is_finite().fill_null(True), None)  # polars holds NaN for larger than any number
        compared = {">=": number >= rule.limit, "<=": number <= rule.limit, ">": number > rule.limit}
        label = compared.get(rule.sign, number < rule.limit).cast(pl.Int8)
    else:
        meaning = {**dict.fromkeys(YES, 1), **dict.fromkeys(NO, 0)}
        label = text.str.to_lowercase().replace_strict(meaning, default=None, return_dtype=pl.Int8)
    _note(
        account, stage, "noted: label not understood", source, frame, rule.column, text.is_not_null() & label.is_null()
    )
    if label.null_count() == len(label) and text.null_count() < len(text):
        raise HeartnetError(
            f"{source}: no value of column {rule.column!r} can be read as {rule.condition}, for example "
            f"{text.drop_nulls()[0]!r}; expected 1 or 0, yes or no, or say which value means yes with "
            f"--condition {rule.condition}={rule.column}:VALUE"
        )
    return label


def _read(file: TableFile, columns: Sequence[str], account: Account, stage: str) -> pl.DataFrame:
    """Return the columns as text, and the row numbers, of a table small enough to be read at once."""
    frames = [
        chunk.frame.with_columns(pl.all().cast(pl.String).str.strip_chars(), pl.Series(_ROW, chunk.rows))
        for chunk in file.chunks(columns, account, stage)
    ]
    return pl.concat(frames)


def _id_column(file: TableFile, wanted: Sequence[str]) -> str:
    column = find_column("user_id", [name for name in wanted if file.columns_like(name)], file, [file])
    if column is None:
        raise HeartnetError(
            f"{file.name} has no column that says who a row is of; name it with --user-id COL. {listing(file)}"
        )
    return column


def _with_person(frame: pl.DataFrame, source: str, account: Account, stage: str) -> pl.DataFrame:
    """Return the rows that say who they are of, and count the others."""
    nobody = frame["user_id"].fill_null("") == ""
    places = [f"{source} row {row}" for row in frame["row"].filter(nobody).head(account.max_examples)]
    account.bad(stage, "dropped: no person", int(nobody.sum()), places)
    return frame.filter(~nobody)


def _one_row_each(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """Return one row a person; a blank gives way to a value, and two values are an error."""
    values = [name for name in frame.columns if name not in ("user_id", "row")]
    for name in values:
        groups = frame.group_by("user_id", maintain_order=True).agg(pl.col(name).drop_nulls().unique(), pl.col("row"))
        conflict = groups.filter(pl.col(name).list.len() > 1)
        if conflict.height:
            person, found, rows = conflict.row(0)
            values_found = " and ".join(str(value) for value in sorted(found))
            raise HeartnetError(
                f"{source} contradicts itself about {person!r}: {name} is {values_found} "
                f"in rows {', '.join(str(row) for row in rows)}; expected one value a person"
            )
    return frame.group_by("user_id", maintain_order=True).agg(pl.col(values).drop_nulls().first())


def _note(
    account: Account, stage: str, what: str, source: str, frame: pl.DataFrame, column: str, where: pl.Series
) -> None:
    rows = frame.filter(where).head(account.max_examples).select(_ROW, column).rows()
    places = [f"{source} row {row}: {column} {value!r}" for row, value in rows]
    account.bad(stage, what, int(where.sum()), places)
