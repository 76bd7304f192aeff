"""The wins and losses of a run as its page holds them: by condition the table, and pictures to page through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import polars as pl

from heartnet.report.curves import short
from heartnet.report.events import Logged
from heartnet.report.pictures import ShownPicture, shown_picture

PREFIX = "wins_and_losses/"
"""Of the tags of their pictures and texts, which stand nowhere else on the page."""

T = TypeVar("T")

_TAG = re.compile(PREFIX + r"(val|test)/(.+)/([^/]+)/(\d+)", re.DOTALL)
_SPLITS = ("test", "val")  # in this order
_MOST = 400  # weeks on a page
_COLUMNS = {
    "user_id": "person", "start": "week", "score": "score", "value": "label", "age": "age", "sex": "sex", "bmi": "BMI",
    "device": "device", "wear_hours": "hours worn", "readings": "readings", "fold": "fold",
}  # fmt: skip


@dataclass(frozen=True)
class ShownWeek:
    """One week: what it is an example of (`kind`, and whether that is a loss), its cells, and its picture if any."""

    kind: str
    loss: bool
    rank: int
    cells: tuple[str, ...]
    picture: ShownPicture | None

    @property
    def name(self) -> str:
        return f"{self.kind} {self.rank}"


@dataclass(frozen=True)
class ShownCondition:
    """The weeks of one condition and split; `heads` name the cells, and `kinds` say what comes first of each kind."""

    part: str
    split: str
    target: str
    heads: tuple[str, ...]
    kinds: Mapping[str, str]
    weeks: tuple[ShownWeek, ...]

    @property
    def drawn(self) -> list[ShownWeek]:
        return [each for each in self.weeks if each.picture is not None and each.picture.data]


def read_weeks(folder: Path, noted: list[str]) -> pl.DataFrame | None:
    """Return what `wins_and_losses` wrote to a folder, the test first; None if there is nothing that can be read."""
    from heartnet.diagnostics.wins_and_losses import FILES  # takes a while

    frames = []
    for split in _SPLITS:
        file = folder / FILES[split]
        if not file.is_file():
            continue
        try:
            frame = pl.read_csv(file, infer_schema=False).head(_MOST)
            if "fold" not in frame.columns:  # heartnet.predictions.FOLD, which only a cross-validation has
                frame = frame.with_columns(pl.lit(None, pl.String).alias("fold"))
            frames.append(frame.select("kind", "rank", "target", pl.lit(split).alias("split"), *_COLUMNS))
        except (pl.exceptions.PolarsError, OSError) as error:
            noted.append(f"{file.name} cannot be read: {str(error).splitlines()[0]}")
    return pl.concat(frames) if frames else None


def without_weeks(parts: Mapping[str, Logged]) -> dict[str, Logged]:
    """Return what was logged without what stands on the page here."""
    return {
        part: replace(each, pictures=_others(each.pictures), older=_others(each.older), texts=_others(each.texts))
        for part, each in parts.items()
    }


def conditions_of(
    tables: Mapping[str, pl.DataFrame], parts: Mapping[str, Logged], budget: int
) -> tuple[list[ShownCondition], int]:
    """Return the weeks by condition, and how many pictures are left out.

    Where the test's weeks are drawn, those of the validation are in the tables only: they would double the page.

    Args:
        tables: by part, as `read_weeks` returns them.
        parts: what was logged, by part; the newest picture of each tag is shown.
        budget: bytes of all pictures, as they are encoded here.
    """
    from heartnet.diagnostics.wins_and_losses import KINDS, LOSSES

    pictures: dict[tuple[str, ...], ShownPicture] = {}
    left_out = 0
    for part, logged in parts.items():
        tags = {tag: found for tag in logged.pictures if (found := _TAG.fullmatch(tag))}
        drawn = next((split for split in _SPLITS if any(found[1] == split for found in tags.values())), "")
        for tag, each in logged.pictures.items():
            if found := tags.get(tag):
                shown = shown_picture(each[-1], budget if found[1] == drawn else 0)
                budget -= len(shown.data) * 3 // 4
                left_out += not shown.data
                pictures[(part, *found.groups())] = shown
    conditions = []
    for part, table in tables.items():
        for (split, target), rows in table.group_by("split", "target", maintain_order=True):
            kept = [name for name in _COLUMNS if rows[name].null_count() < rows.height]
            weeks = [
                ShownWeek(
                    str(row["kind"]).replace("_", " "), row["kind"] in LOSSES, _whole(row["rank"]),
                    tuple(_cell(name, row[name]) for name in kept),
                    pictures.get((part, str(split), str(target), str(row["kind"]), str(row["rank"]))),
                )
                for row in rows.iter_rows(named=True)
            ]  # fmt: skip
            heads = tuple(_COLUMNS[name] for name in kept)
            kinds = {kind.replace("_", " "): words for kind, words in KINDS.items()}
            conditions.append(ShownCondition(part, str(split), str(target), heads, kinds, tuple(weeks)))
    return conditions, left_out


def _others(by_tag: Mapping[str, T]) -> dict[str, T]:
    return {tag: value for tag, value in by_tag.items() if not tag.startswith(PREFIX)}


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _cell(name: str, text: str | None) -> str:
    """Return what a page shows of a cell of the file; as it is if it is no number or time, where one was expected."""
    if text is None:
        return "–"
    try:
        if name == "start":
            return f"{datetime.fromisoformat(text):%d %b %Y, %H:%M}".removesuffix(", 00:00")
        if name in ("age", "wear_hours", "readings"):
            return f"{float(text):,.0f}" if float(text) >= 10 else short(float(text))
        if name in ("score", "bmi"):
            return f"{float(text):.3g}"
        if name == "value":
            return {1.0: "has it", 0.0: "has it not"}.get(float(text), text)
    except (ValueError, OverflowError):
        pass
    return text
