"""Decides which numbers stand together in a chart, and which charts in a group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from heartnet.report.curves import Chart, chart
from heartnet.report.events import Layout, Series

MOST_LINES = 12
"""Lines of a chart; more make further charts."""

TRAINING = "training"
"""The group of what is logged for each split; it comes first."""

_SPLIT = re.compile(r"(train(?:ing)?|val(?:id(?:ation)?)?|test)(?:/|_|-|\.)(.+?)(_step|_epoch)?$")
_UNSAID = {"epoch", "step", "hp_metric"}  # Lightning's own, which are no measurement
_UNITS = {"decades": "decades", "memory_steps": "readings", "memory_hours": "hours of wear"}


@dataclass(frozen=True)
class Group:
    """Charts that belong together, and the numbers that were logged once: tag, value, step."""

    title: str
    charts: tuple[Chart, ...]
    once: tuple[tuple[str, float, int], ...]


def groups(scalars: Mapping[str, Series], layout: Layout = ()) -> list[Group]:
    """Return all numbers of a run in groups of charts.

    First come those that the layout of the run's custom scalars puts together; each of the others stands with those of
    the same prefix. A number that was logged once is no curve: it stands in a list.

    Args:
        scalars: by tag.
        layout: as `heartnet.report.events.Logged` has it.
    """
    curves = {tag: each for tag, each in scalars.items() if tag not in _UNSAID and len(each.steps) > 1}
    found: dict[str, dict[str, list[str]]] = {}
    placed: set[str] = set()
    for category, charts in layout:
        for title, patterns in charts:
            tags = [tag for tag in curves if any(_matches(pattern, tag) for pattern in patterns)]
            if tags:
                found.setdefault(category.replace("_", " "), {})[title] = tags
                placed.update(tags)
    rest: dict[str, list[str]] = {}
    for tag in curves:
        if tag not in placed:
            rest.setdefault(_group(tag), []).append(tag)
    for group, tags in rest.items():
        for title, own in (_by_score(tags) if group == TRAINING else _by_kind(tags)).items():
            found.setdefault(group, {}).setdefault(title, []).extend(own)
    once: dict[str, list[tuple[str, float, int]]] = {}
    for tag, each in scalars.items():
        if tag not in _UNSAID and len(each.steps) == 1:
            once.setdefault(_group(tag), []).append((tag, float(each.values[0]), int(each.steps[0])))
    names = sorted({*found, *once}, key=lambda name: (name != TRAINING, name not in found))
    return [
        Group(name, tuple(_charts(found.get(name, {}), curves)), tuple(sorted(once.get(name, [])))) for name in names
    ]


def _charts(tags_of: Mapping[str, Sequence[str]], curves: Mapping[str, Series]) -> Iterator[Chart]:
    for title, tags in tags_of.items():
        for name, piece in _pieces(title, tags):
            chance = (0.5, "chance") if "auroc" in tags[0].lower() else None
            unit = next((unit for key, unit in _UNITS.items() if key in piece[0].split("/")), "")
            yield chart(name, {tag: curves[tag] for tag in piece}, "" if unit in title else unit, chance)


def _pieces(title: str, tags: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield title and tags of the charts that one chart with too many lines becomes: by kind, then by number."""
    if len(tags) <= MOST_LINES:
        yield title, tags
        return
    kinds = _by_kind(tags)
    for kind, own in kinds.items():
        name = f"{title}: {kind}" if len(kinds) > 1 else title
        for i in range(0, len(own), MOST_LINES):
            count = -(-len(own) // MOST_LINES)
            yield (name if count == 1 else f"{name} ({i // MOST_LINES + 1} of {count})"), own[i : i + MOST_LINES]


def _group(tag: str) -> str:
    """Return the group of a tag that no layout speaks of."""
    if _SPLIT.fullmatch(tag):
        return TRAINING
    first, slash, _ = tag.partition("/")
    return first.replace("_", " ") if slash else "others"


def _by_score(tags: Sequence[str]) -> dict[str, list[str]]:
    """Return what is logged for each split, by what it is."""
    found: dict[str, list[str]] = {}
    for tag in tags:
        split = _SPLIT.fullmatch(tag)
        found.setdefault(split[2] if split else tag, []).append(tag)
    return found


def _by_kind(tags: Sequence[str]) -> dict[str, list[str]]:
    """Return tags of one prefix by what they measure; one without further parts stands alone.

    Of names such as prefix/layer/number or prefix/number/layer, the part with fewer values is the number.
    """
    deep = [parts for tag in tags if len(parts := tag.split("/")) > 2]
    place = min((-1, 1), key=lambda i: len({parts[i] for parts in deep}))
    found: dict[str, list[str]] = {}
    for tag in tags:
        parts = tag.split("/")
        found.setdefault(parts[place] if len(parts) > 2 else tag, []).append(tag)
    return found


def _matches(pattern: str, tag: str) -> bool:
    """Say whether a pattern of a layout fits a tag, as TensorBoard has it: from its beginning."""
    try:
        return re.match(pattern, tag) is not None
    except re.error:
        return False
