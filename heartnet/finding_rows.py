"""Findings as people read them: like ones folded into one row, the worst first; on the terminal and as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from heartnet.findings import Finding, Status

MOST_NAMED = 8
"""Conditions, layers or folds of a row that are named."""

WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "unknown", "pass")

_COLOURS = {"fail": "bold red", "warn": "yellow", "unknown": "cyan", "pass": "green"}
_NUMBER = re.compile(r"\d[\d,.]*(?:e[+-]?\d+)?(?:\^\d+)?(?: million)?")
_SHORT = 72  # characters of a sentence that may stand for what passed
_BRIEF = 320  # characters of the sentences that say why something is unknown, if there are several


@dataclass(frozen=True)
class Row:
    """Findings of one check with the same status, kind of message and cure; the worst stands for them all.

    Attributes:
        findings: worst first, at least one.
        where: conditions, layers, splits or folds that it is about, those where it is worst first.
    """

    findings: tuple[Finding, ...]
    where: str

    @property
    def worst(self) -> Finding:
        return self.findings[0]

    @property
    def value(self) -> str:
        """The worst value with its unit, and the limit in brackets."""
        text = value_text(self.worst)
        return f"worst {text}" if len(self.findings) > 1 and self.worst.value is not None else text

    @property
    def message(self) -> str:
        """What is wrong; of several findings, where it is worst."""
        each = self.worst
        worst = f"Worst, {each.where.replace(': ', ', ')}: " if len(self.findings) > 1 and each.message else ""
        return worst + each.message

    @property
    def when(self) -> str:
        """The optimiser steps at which it was measured, in words."""
        steps = [each.step for each in self.findings]
        if max(steps) == 0:
            return "before the first step"
        return f"step {steps[0]:,}" if min(steps) == max(steps) else f"steps {min(steps):,} to {max(steps):,}"


def rows(findings: Iterable[Finding]) -> list[Row]:
    """Fold findings that say the same of several conditions, layers or folds into a row each; the worst row first.

    Two say the same if check, status, unit and cure are equal and their messages, of a pass or an unknown the first
    sentence, differ in nothing but numbers and the names in `where`.
    """
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for each in sorted(findings, key=worst_first):
        alike.setdefault((each.check, each.status, each.unit, tuple(each.try_), _kind(each)), []).append(each)
    return [Row(tuple(members), where_text([each.where for each in members])) for members in alike.values()]


def worst_first(finding: Finding) -> tuple[int, float, str, str]:
    """Return what sorts findings: by status, then by how far the value is from the limit, then by name."""
    return WORST_FIRST.index(finding.status), -distance(finding), finding.check, finding.where


def distance(finding: Finding) -> float:
    """Return how far a value v is from its limit l, relative to both: |v − l| / (|v| + |l|), from 0 to 1.

    What has no limit is as far as can be. What could not be measured comes first where it fails (a loss that is NaN)
    and last where it warns.
    """
    if finding.value is None:
        return 2.0 if finding.status == "fail" else -1.0
    if finding.limit is None or not math.isfinite(finding.value) or not math.isfinite(finding.limit):
        return 1.0
    size = abs(finding.value) + abs(finding.limit)
    return abs(finding.value - finding.limit) / size if 0 < size < math.inf else 0.0


def where_text(wheres: Sequence[str]) -> str:
    """Return places such as `a/last`, `b/last` as `last (a, b)`; folds, which stand in front, as a second factor."""
    distinct = list(dict.fromkeys(wheres))
    parts = [tuple(re.split(r": |/|, ", where)) for where in distinct]
    if len(distinct) > 1 and len({len(each) for each in parts}) == 1:
        columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
        differ = [column for column in columns if len(column) > 1]
        if math.prod(map(len, differ)) == len(set(parts)):
            shared = "/".join(column[0] for column in columns if len(column) == 1)
            listed = " × ".join(map(_listed, differ))
            return f"{shared} ({listed})" if shared else listed
    return _listed(distinct)


def passed(some: Sequence[Row]) -> dict[str, list[str]]:
    """Return for each check that passed, in the order of their names, what did, in words."""
    found: dict[str, list[str]] = {}
    for row in sorted(some, key=lambda row: (row.worst.check, row.where)):
        if row.worst.status == "pass":
            words = found.setdefault(row.worst.check, [])
            if (own := passed_words(row)) not in words:
                words.append(own)
    return found


def passed_words(row: Row) -> str:
    """Return in a few words what a row that passes says."""
    first = _sentences(row.worst.message)[0]
    first = first[:1].lower() + first[1:] if first[1:2].islower() or first[:2] == "A " else first
    return first if 0 < len(first) <= _SHORT else row.where.replace("_", " ")


def unknown_words(row: Row) -> str:
    """Return why nothing is known: as many sentences of the message as are brief, the first at least.

    Of several findings, of the one where it is worst, which is named.
    """
    first, *more = _sentences(row.message)
    for each in more:
        if len(first) + len(each) > _BRIEF:
            break
        first = f"{first}. {each}"
    return f"{first}." if f"{first}." in row.message else first


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return findings as a table for the terminal, however narrow: worst first, what passes in a row for each check.

    Of what is unknown, it says why in few words.
    """
    table = Table(title="Findings, worst first", title_justify="left", show_lines=True)
    table.add_column("status", no_wrap=True)
    table.add_column("check, where: value (limit), when")
    folded = rows(findings)
    for row in folded:
        each = row.worst
        if each.status == "pass":
            continue
        if each.status == "unknown":
            what = Text.assemble((f"{each.check}, {row.where}: ", "bold"), unknown_words(row))
            table.add_row(Text(each.status, style=_COLOURS[each.status]), what)
            continue
        what = Text.assemble((f"{each.check}, {row.where}: ", "bold"), f"{row.value}, {row.when}")
        if row.message:
            what.append(f"\n{row.message}")
        if each.try_:
            what.append("\ntry: " + " or ".join(each.try_), style="bold")
        table.add_row(Text(each.status, style=_COLOURS[each.status]), what)
    for check, words in passed(folded).items():
        what = Text.assemble((f"{check}: ", "bold"), _said(words))
        table.add_row(Text("pass", style=_COLOURS["pass"]), what)
    return table


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Return the same table as Markdown, for TensorBoard's text tab."""
    lines = ["| status | check | where | value (limit) | what | try | measured |", "|---|---|---|---:|---|---|---|"]
    folded = rows(findings)
    for row in folded:
        each = row.worst
        if each.status != "pass":
            cures = "<br>".join(f"`{override}`" for override in each.try_)
            value = "" if each.status == "unknown" and each.value is None else row.value
            lines.append(_line(each.status, each.check, row.where, value, row.message, cures, row.when))
    for check, words in passed(folded).items():
        lines.append(_line("pass", check, "", "", _said(words), "", ""))
    return "\n".join(lines)


def why_none(values: Mapping[str, Any]) -> str:
    """Return why a run with this configuration may have no findings, and what to do."""
    trainer = values.get("trainer")
    trainer = trainer if isinstance(trainer, Mapping) else {}
    if not values.get("callbacks"):
        return "no technique was switched on; +callbacks=amnesia is one, +callbacks=all are all that only look on"
    if trainer.get("fast_dev_run"):
        return f"trainer.fast_dev_run={str(trainer['fast_dev_run']).lower()} keeps nothing of a run; leave it out"
    for key in ("max_epochs", "max_steps"):
        if trainer.get(key) == 0:
            return f"trainer.{key}=0 trains nothing, and techniques look while a network trains; raise it"
    names = ", ".join(map(str, values["callbacks"]))
    return f"what was switched on ({names}) ends in none, or the run ended before its first look"


def value_text(finding: Finding) -> str:
    """Return the value with its unit, and the limit in brackets."""
    if finding.value is None:
        return "no value"
    limit = "" if finding.limit is None else f" (limit {_short(finding.limit)})"
    return f"{_short(finding.value)} {finding.unit}".strip() + limit


def _kind(finding: Finding) -> str:
    """Return the message without numbers and without what `where` names; without a message, what it is about."""
    if not finding.message:
        return finding.where.rpartition(": ")[2]
    short = finding.status in ("pass", "unknown")
    message = _sentences(finding.message)[0] if short else finding.message
    names = sorted({part for part in re.split(r": |/|, ", finding.where) if part}, key=len, reverse=True)
    text = re.sub("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names), "§", message)
    return _NUMBER.sub("#", text)


def _sentences(message: str) -> list[str]:
    """Return the sentences of a message, without their full stops; one at least, which may be empty."""
    return re.split(r"\.\s+", message.strip().removesuffix("."))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _said(words: Sequence[str]) -> str:
    return ("" if len(words) == 1 else f"{len(words)} checks passed: ") + "; ".join(words)


def _line(*cells: str) -> str:
    safe = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| **{safe[0]}** | " + " | ".join(safe[1:]) + " |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"
