"""The page of a store: one HTML file that says and draws what is in it, and needs nothing but a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heartnet.account import Account
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.page.histograms import distributions, hours
from heartnet.page.weeks import LANE_HEIGHT, RATE_HEIGHT, STEPS_HEIGHT, WIDTH, WeekPicture, common_scale, week_picture
from heartnet.page.write import write_page as write
from heartnet.weeks import WEAR_GAP_SECONDS, Weeks

DRAWN = 8
"""Weeks that are drawn where none is asked for."""

MOST_DRAWN = 52
"""Weeks that are drawn at most; a page of so many has about 1 MB."""

_PARTS = ("in", "left", "dropped", "merged", "noted")

MARK = "<!-- made by heartnet describe -->"
"""In the second line of each page, so that no other file is ever replaced by one."""


@dataclass(frozen=True)
class Drawn:
    """A week to look at: its row of the table, its picture, and what is known of it, as pairs of name and value."""

    row: int
    about: Mapping[str, Any]
    facts: tuple[tuple[str, str], ...]
    picture: WeekPicture


def page(weeks: Weeks, account: Account, name: str, *, rows: Sequence[int] = (), users: Sequence[str] = ()) -> str:
    """Return the page as HTML; it refers to nothing outside itself and runs no script.

    Raises:
        HeartnetError: a week or a person that is not there.
    """
    chosen, how = choose(weeks, rows, users)
    scale = common_scale(weeks, chosen)
    return (
        templates()
        .get_template("page.html")
        .render(
            mark=MARK,
            name=name,
            simulated=weeks.simulated,
            effect_scale=weeks.provenance.get("effect_scale"),
            tiles=_tiles(weeks),
            stages=stages_of(account),
            labels=_labels(weeks),
            people=_people(weeks),
            how=how,
            drawn=[_drawn(weeks, row, week_picture(weeks, row, scale)) for row in chosen],
            scale=scale,
            size={"width": WIDTH, "rate": RATE_HEIGHT, "steps": STEPS_HEIGHT, "lane": LANE_HEIGHT},
            gap_minutes=WEAR_GAP_SECONDS / 60,
            histograms=distributions(weeks),
            files=_files(weeks.provenance),
            options=_options(weeks.provenance),
        )
    )


def templates(*folders: Path) -> Environment:
    """Return the templates in some folders and in this one; whatever a page is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": lambda number: f"{number:,}", "plain": _plain}
    return environment


def write_page(path: str | Path, text: str) -> None:
    """Write a page to `path`, whole or not at all.

    Raises:
        HeartnetError: the place cannot be written to, or at it lies something that is no such page.
    """
    write(path, text, MARK, "--page", ", --no-page leaves it out")


def choose(weeks: Weeks, rows: Sequence[int], users: Sequence[str]) -> tuple[list[int], str]:
    """Return the weeks to draw, and how they were chosen, in words.

    Raises:
        HeartnetError: a week or a person that is not there.
    """
    table = weeks.table.select("user_id", "wear_hours").with_row_index("row")
    if not rows and not users:
        return _representative(table)
    for row in rows:
        if not 0 <= row < len(weeks):
            raise HeartnetError(f"--week {row}: the store has weeks 0 to {len(weeks) - 1:,}")
    known = set(table["user_id"]) if users else set()
    for user in users:
        if user not in known:
            raise HeartnetError(f"--user {user}: not in the store.{did_you_mean(user, sorted(known))}")
    theirs = table.filter(pl.col("user_id").is_in(users))["row"].to_list()
    found = list(dict.fromkeys([*rows, *theirs]))
    how = "The weeks asked for."
    if len(found) > MOST_DRAWN:
        how = f"The first {MOST_DRAWN} of the {len(found):,} weeks asked for."
    return found[:MOST_DRAWN], how


def _representative(table: pl.DataFrame) -> tuple[list[int], str]:
    people = table.group_by("user_id", maintain_order=True).agg(pl.col("row", "wear_hours").first())
    if people.height > DRAWN:
        ordered = people.sort("wear_hours", "row")["row"].to_list()
        places = np.linspace(0, len(ordered) - 1, DRAWN).round().astype(int)
        how = f"The first week of {DRAWN} of {people.height:,} people: evenly spaced from least to most worn."
        return [ordered[place] for place in places], how
    if table.height <= DRAWN:
        return table["row"].to_list(), "All weeks."
    each = DRAWN // people.height
    rows = []
    for (_,), theirs in table.group_by("user_id", maintain_order=True):
        places = np.linspace(0, theirs.height - 1, min(each, theirs.height)).round().astype(int)
        rows += theirs["row"].gather(places).to_list()
    which = "Of each person, the first week" if each == 1 else f"Of each person, up to {each} weeks, evenly spaced"
    return rows, f"{which}: {len(rows)} of {table.height:,}."


def _tiles(weeks: Weeks) -> list[tuple[str, str, str]]:
    """Return name, number and a remark of what sums a store up."""
    table = weeks.table
    starts = table["start"].sort().dt.to_string("%d %b %Y")
    first, last = starts[0], starts[-1]
    each = table.group_by("user_id").len()["len"]
    median = "" if each.n_unique() == 1 else ", median"
    wear = float(np.median(table["wear_hours"].to_numpy()))
    return [
        (
            "people",
            f"{each.len():,}",
            "one week each" if each.max() == 1 else f"{np.median(each):,.0f} weeks each{median}",
        ),
        ("weeks", f"{len(weeks):,}", first if first == last else f"{first} to {last}"),
        ("readings", f"{len(weeks.readings):,}", f"{np.median(np.diff(weeks.offsets)):,.0f} a week, median"),
        ("worn", hours(wear), "a week, median"),
    ]


def stages_of(account: Account) -> list[dict[str, Any]]:
    """Return the account by stage: what came in first, what is left last, each with its share."""
    stages = []
    for stage in dict.fromkeys(stage for stage, _, _ in account):
        rows = [(what, count) for other, what, count in account if other == stage]
        rows.sort(key=lambda row: (row[0] == "left", row[0] != "in"))
        came = dict(rows).get("in", 0)
        stages.append(
            {
                "name": stage,
                "rows": [
                    {
                        "what": what,
                        "kind": what if what in ("in", "left") else what.partition(":")[0],
                        "count": count,
                        "share": count / came if came and what.partition(":")[0] in _PARTS else None,
                        "examples": account.examples.get((stage, what), []),
                    }
                    for what, count in rows
                ],
            }
        )
    return stages


def _labels(weeks: Weeks) -> list[dict[str, Any]]:
    """Return for each condition the weeks and the people with it, without it, and of whom nobody knows."""
    found = []
    for condition in weeks.conditions:
        # A person with the condition in any week counts as one with it.
        people = weeks.table.group_by("user_id").agg(pl.col(condition).max())[condition]
        counts = {
            unit: [int((label == 1).sum()), int((label == 0).sum()), label.null_count()]
            for unit, label in (("weeks", weeks.table[condition]), ("people", people))
        }
        found.append({"name": condition, **counts})
    return found


def _people(weeks: Weeks) -> list[tuple[str, str]]:
    """Return what is known of the people: age, BMI, sex, device; each counts once."""
    people = weeks.table.unique("user_id", maintain_order=True)
    found = []
    for name, unit in (("age", "years"), ("bmi", "kg/m²")):
        values = people[name].drop_nulls()
        if len(values):
            low, middle, high = (values.quantile(share, "linear") for share in (0, 0.5, 1))
            text = f"median {middle:.1f} {unit}, from {low:.1f} to {high:.1f}"
            found.append((name, text + _unknown(people.height - len(values))))
    for name in ("sex", "device"):
        counts = people[name].drop_nulls().value_counts(sort=True)
        if counts.height:
            parts = [f"{value}: {count:,}" for value, count in counts.head(6).iter_rows()]
            parts += [f"{counts.height - 6:,} others"] if counts.height > 6 else []
            found.append((name, ", ".join(parts) + _unknown(people[name].null_count())))
    return found


def _unknown(count: int) -> str:
    return f"; not known of {count:,}" if count else ""


def _drawn(weeks: Weeks, row: int, picture: WeekPicture) -> Drawn:
    about = weeks.table.row(row, named=True)
    readings = weeks.week(row)
    rates, steps = (readings[:, column][~np.isnan(readings[:, column])] for column in (0, 1))
    facts = [("worn", hours(about["wear_hours"])), ("readings", f"{len(readings):,}")]
    if len(rates):
        facts.append(("median", f"{np.median(rates):.0f} bpm"))
    if len(steps):
        facts.append(("steps", f"{steps.sum(dtype=np.float64):,.0f}"))
    for name, form in (("age", "{:.0f}"), ("sex", "{}"), ("bmi", "{:.1f}"), ("device", "{}")):
        if about[name] is not None:
            facts.append((name, form.format(about[name])))
    return Drawn(row, about | {"labels": [(name, about[name]) for name in weeks.conditions]}, tuple(facts), picture)


def _files(value: Any) -> list[Mapping[str, Any]]:
    """Return the files that a provenance names, of all its sources."""
    if isinstance(value, list):
        return [file for each in value for file in _files(each)]
    if not isinstance(value, Mapping):
        return []
    own = value.get("files")
    found = [file for file in own if isinstance(file, Mapping)] if isinstance(own, list) else []
    return found + [file for key, each in value.items() if key != "files" for file in _files(each)]


def _options(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Return the rest of a provenance as one list; what says nothing is left out."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{above}{key}"
        if key == "sources" and isinstance(value, list):
            for each in value:
                if isinstance(each, Mapping):
                    source = each.get("source", "source")
                    found.append(("source", source))
                    found += _options({k: v for k, v in each.items() if k != "source"}, f"{above}{source} · ")
        elif isinstance(value, Mapping):
            found += _options(value, above if key == "options" else f"{name} · ")
        elif key != "files" and value not in (None, [], "", False):
            found.append((name, value))
    return found


def _plain(value: Any) -> str:
    """Return a value of the provenance as a person would write it."""
    if isinstance(value, list):
        return (
            "; ".join(map(_plain, value))
            if any(isinstance(each, Mapping) for each in value)
            else ", ".join(map(_plain, value))
        )
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items() if each not in (None, [], ""))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
