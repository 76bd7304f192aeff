"""Prints what a store of weeks holds and the account of its preparation, and has both drawn (`heartnet.page`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.folders import short
from heartnet.store import open_store, read_manifest
from heartnet.weeks import Weeks


def describe(path: str | Path, console: Console | None = None) -> tuple[Weeks, Account]:
    """Print the account and a summary of the store at `path`, and return what was read.

    Raises:
        HeartnetError: if it cannot be opened.
    """
    weeks, account = _opened(path)
    _print(weeks, account, str(path), console)
    return weeks, account


def describe_and_draw(arguments: argparse.Namespace) -> None:
    """Do what `heartnet describe` says: print the tables, then write the page and say on stderr where it is.

    The page is made first, so that a week that is not there is said before anything is printed. A page that cannot be
    written is an error if its place was asked for. Beside the store it is only said, for a store may lie where its
    reader may not write.

    Raises:
        HeartnetError: the store cannot be opened, the page cannot be written, or a week or a person is not there.
    """
    weeks, account = _opened(arguments.path)
    if arguments.no_page:
        _print(weeks, account, str(arguments.path))
        return
    from heartnet.page import page, write_page

    store = arguments.path.absolute()
    place = arguments.page or store.with_name(f"{store.name}.html")
    text = page(weeks, account, store.name, rows=arguments.week, users=arguments.user)
    _print(weeks, account, str(arguments.path))
    try:
        write_page(place, text)
    except HeartnetError as error:
        if arguments.page is not None:
            raise
        print(f"heartnet: no page was written: {error}", file=sys.stderr)
    else:
        print(f"The page, to open in a browser: {short(place)}", file=sys.stderr)


def _opened(path: str | Path) -> tuple[Weeks, Account]:
    return open_store(path), Account.from_json(read_manifest(path)["account"])


def _print(weeks: Weeks, account: Account, title: str, console: Console | None = None) -> None:
    console = console or Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
    if account.entries:
        console.print(account_table(account))
    console.print(summary_table(weeks, title))


def account_table(account: Account) -> Table:
    """Return the account as a table: what came in, what was dropped and why, with examples, and what is left."""
    table = Table(title="Account", title_justify="left")
    table.add_column("of")
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("for example")
    stages = list(dict.fromkeys(stage for stage, _, _ in account))
    for stage in stages:
        rows = [(what, count) for other, what, count in account if other == stage]
        rows.sort(key=lambda row: (row[0] == "left", row[0] != "in" and row[0] != "left"))
        for number, (what, count) in enumerate(rows):
            examples = "\n".join(account.examples.get((stage, what), [])[:1])
            style = "bold" if what in ("in", "left") else None
            table.add_row(stage if number == 0 else "", what, f"{count:,}", examples, style=style)
        table.add_section()
    return table


def summary_table(weeks: Weeks, title: str) -> Table:
    """Return counts, lengths and labels of the weeks as a table."""
    table = Table(title=title, title_justify="left", show_header=False)
    people = weeks.table["user_id"].n_unique()
    lengths = np.diff(weeks.offsets)
    wear = weeks.table["wear_hours"]
    table.add_row("weeks", f"{len(weeks):,} of {people:,} {'person' if people == 1 else 'people'}")
    table.add_row("readings", f"{len(weeks.readings):,}; {_spread(lengths, ',.0f')} a week")
    table.add_row("worn", f"{_spread(wear.to_numpy(), ',.1f')} hours a week")
    starts = weeks.table["start"].sort().dt.to_string("%Y-%m-%d %H:%M")
    table.add_row("start", f"{starts[0]} to {starts[-1]}")
    for column in ("age", "bmi"):
        values = weeks.table[column].drop_nulls().to_numpy()
        if len(values):
            table.add_row(column, f"{_spread(values, '.1f')}; missing for {len(weeks) - len(values):,} weeks")
    for condition in weeks.conditions:
        label = weeks.table[condition]
        positive, negative = int((label == 1).sum()), int((label == 0).sum())
        share = f" ({positive / (positive + negative):.1%})" if positive + negative else ""
        table.add_row(condition, f"{positive:,} positive{share}, {negative:,} negative, {label.null_count():,} missing")
    return table


def _spread(values: np.typing.NDArray[np.generic], form: str) -> str:
    low, middle, high = (format(float(value), form) for value in np.quantile(values.astype(float), [0, 0.5, 1]))
    return f"{middle} (from {low} to {high})"
