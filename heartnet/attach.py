"""Joins labels and people's metadata to user-weeks, by the people's names and the conditions' names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.account import Account
from heartnet.conditions import in_order
from heartnet.errors import HeartnetError
from heartnet.intake import Person
from heartnet.weeks import Weeks


def attach_people(
    weeks: Weeks, people: pl.DataFrame, account: Account, everyone: Collection[str], source: str
) -> Weeks:
    """Return the weeks with the metadata of their people.

    Args:
        people: as from `heartnet.labels.read_people`.
        account: notes who is in one and not in the other.
        everyone: the people of the readings, also those without a week.
        source: option and name of the file, for messages and the account.

    Raises:
        HeartnetError: if none of `people` is in the readings; with a strict account, if one is not.
    """
    row = _rows_by_person(weeks, people["user_id"], account, everyone, source)
    columns = [
        pl.coalesce(people[name].gather(row), weeks.table[name]).alias(name)
        for name in people.columns
        if name != "user_id"
    ]
    return replace(weeks, table=weeks.table.with_columns(columns))


def attach_facts(weeks: Weeks, people: Mapping[str, Person]) -> Weeks:
    """Return the weeks with what exports say of their people: age at the week's start, sex and BMI."""

    def age(user: str, start: datetime) -> float | None:
        born = people[user].born
        return people[user].age if born is None else round((start.date() - born).days / 365.25, 1)

    rows = [
        (age(user, start), people[user].sex, people[user].bmi) if user in people else (None, None, None)
        for user, start in weeks.table.select("user_id", "start").rows()
    ]
    schema = {"age": pl.Float64, "sex": pl.String, "bmi": pl.Float64}
    return replace(weeks, table=weeks.table.with_columns(pl.DataFrame(rows, schema=schema, orient="row")))


def attach_labels(
    weeks: Weeks, labels: pl.DataFrame, account: Account, everyone: Collection[str], source: str
) -> Weeks:
    """Return the weeks with the labels of their people, `labels` as from `read_labels`; the rest as `attach_people`."""
    row = _rows_by_person(weeks, labels["user_id"], account, everyone, source)
    names = [name for name in labels.columns if name != "user_id"]
    return _with_conditions(weeks, {name: labels[name].gather(row) for name in names})


def attach_intervals(
    weeks: Weeks, intervals: pl.DataFrame, account: Account, everyone: Collection[str], source: str
) -> Weeks:
    """Return the weeks with labels from intervals, `intervals` as from `read_intervals`; the rest as `attach_people`.

    The time of a week runs from its first reading to its last. It is positive when more than half of that lies in
    positive intervals, negative otherwise, and without a label when less than half lies in labelled intervals.
    Intervals written with an offset meet the readings in UTC, by the offset of the week's first reading; others in
    local time.
    """
    people = intervals["user_id"].unique(maintain_order=True)
    of_week = _rows_by_person(weeks, people, account, everyone, source)
    names = [name for name in intervals.columns if name not in ("user_id", "start", "end", "instant")]
    labels = {name: np.full(len(weeks), -1, np.int8) for name in names}
    first, last = weeks.local_time[weeks.offsets[:-1]], weeks.local_time[weeks.offsets[1:] - 1]
    offset = weeks.table["utc_offset"].cast(pl.Int64).to_numpy() * 1_000_000
    of_week_number = of_week.fill_null(-1).to_numpy()
    for number, person in enumerate(people):
        at = np.flatnonzero(of_week_number == number)
        own = intervals.filter(pl.col("user_id") == person)
        for name in names if len(at) else ():
            known = positive = np.zeros(len(at), np.int64)
            for instant, clock in ((False, 0), (True, offset[at])):
                here = own.filter((pl.col("instant") == instant) & pl.col(name).is_not_null())
                known = known + _time_within(here, first[at] - clock, last[at] - clock)
                here = here.filter(pl.col(name) == 1)
                positive = positive + _time_within(here, first[at] - clock, last[at] - clock)
            span = last[at] - first[at]
            labels[name][at] = np.where((2 * known < span) | (span <= 0), -1, 2 * positive > span)
    series = {name: pl.Series(values, dtype=pl.Int8) for name, values in labels.items()}
    return _with_conditions(weeks, {name: column.set(column == -1, None) for name, column in series.items()})


def account_for_labels(weeks: Weeks, account: Account) -> None:
    """Note, for each condition, the weeks and people that are positive, negative and without a label."""
    for condition in weeks.conditions:
        label = weeks.table[condition]
        account.add(condition, "positive weeks", int((label == 1).sum()))
        account.add(condition, "negative weeks", int((label == 0).sum()))
        account.add(condition, "weeks without a label", label.null_count())
        for what, value in (("people with a positive week", 1), ("people with a negative week", 0)):
            account.add(condition, what, weeks.table.filter(pl.col(condition) == value)["user_id"].n_unique())


def _rows_by_person(
    weeks: Weeks, known: pl.Series, account: Account, everyone: Collection[str], source: str
) -> pl.Series:
    """Return for each week the row of its person in `known`, or null.

    Names match exactly, or else, if both are whole numbers, by value (`1` and `001`) where that is unambiguous.
    """
    row_of = {name: row for row, name in enumerate(known)}
    if not row_of:
        raise HeartnetError(f"{source}: no row says who it is of")
    labelled, measured = _by_number(known), _by_number(everyone)
    matched: dict[str, int] = {}
    for person in everyone:
        if person in row_of:
            matched[person] = row_of[person]
        elif person.isdecimal() and len(measured[int(person)]) == len(labelled.get(int(person), [])) == 1:
            matched[person] = row_of[labelled[int(person)][0]]
    if not matched:
        raise HeartnetError(
            f"{source}: none of its {len(row_of):,} people is in the readings. It names {known[0]!r}; the readings are "
            f"of {next(iter(everyone))!r}: are these the same names?"
        )
    found = set(matched.values())
    unknown = [name for name, row in row_of.items() if row not in found]
    account.bad("people", f"noted: in {source} and not in the readings", len(unknown), [repr(name) for name in unknown])
    lacking = sorted(set(weeks.table["user_id"]) - set(matched))
    account.note("people", f"noted: with weeks and not in {source}", len(lacking), [repr(name) for name in lacking])
    return weeks.table["user_id"].replace_strict(matched, default=None, return_dtype=pl.Int64)


def _by_number(names: Iterable[str]) -> dict[int, list[str]]:
    numbered: dict[int, list[str]] = {}
    for name in names:
        if name.isdecimal():
            numbered.setdefault(int(name), []).append(name)
    return numbered


def _with_conditions(weeks: Weeks, labels: Mapping[str, pl.Series]) -> Weeks:
    twice = [name for name in labels if name in weeks.conditions]
    if twice:
        raise HeartnetError(
            f"condition {twice[0]!r} is given both by person and by interval; name one with --condition"
        )
    conditions = in_order([*weeks.conditions, *labels])
    table = weeks.table.with_columns(**labels)
    others = [name for name in table.columns if name not in conditions]
    return replace(weeks, table=table.select(*others, *conditions), conditions=conditions)


def _time_within(
    intervals: pl.DataFrame, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the microseconds of each window that lie in at least one of the intervals."""
    ordered = intervals.sort("start")
    start, end = ordered["start"].to_numpy(), ordered["end"].cum_max().to_numpy()
    if len(start) == 0:
        return np.zeros(len(first), np.int64)
    begin = np.maximum(start, np.concatenate([start[:1], end[:-1]]))
    length = np.maximum(end - begin, 0)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])

    def elapsed(at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        index = np.searchsorted(begin, at, side="right") - 1
        inside = np.clip(at - begin[index], 0, length[index])
        return np.where(index < 0, 0, before[index] + inside)

    return elapsed(last) - elapsed(first)
