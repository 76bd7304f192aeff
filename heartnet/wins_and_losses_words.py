"""Wins and losses in words: the table, what stands over each picture, and the finding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from heartnet.diagnostics.wins_and_losses import FILES, KINDS, LOSSES, ChosenWeeks
from heartnet.figure_week import Words
from heartnet.findings import Finding
from heartnet.predictions import FOLD

CHECK = "wins_and_losses"

AGED = "since this validation the network was trained on, so that where these scores came from can no longer be told"
"""Why weeks are drawn without it, where the last epoch has no validation."""

_SINGULAR = {kind: kind.replace("_", " ") for kind in KINDS}
_SUPERLATIVE = {kind: "worst" if kind in LOSSES else "best" for kind in KINDS}
_COLUMNS = {
    "kind": "kind", "rank": "", "user_id": "user", "start": "week", "score": "score", "value": "label", "age": "age",
    "sex": "sex", "bmi": "BMI", "device": "device", "wear_hours": "worn (h)", "readings": "readings",
}  # fmt: skip


def tag_of(split: str, target: str, kind: str, rank: int) -> str:
    """Return the tag under which the picture of a week is logged."""
    return f"{CHECK}/{split}/{target}/{kind}/{rank}"


def words_of(row: Mapping[str, Any], it: ChosenWeeks, split: str, *, simulated: bool, step: int) -> Words:
    """Return what stands over the picture of a week, a row of `it.table`."""
    kind, count = row["kind"], it.table.filter(pl.col("kind") == row["kind"]).height
    which = f"{_SUPERLATIVE[kind]} {_SINGULAR[kind]}, {row['rank']} of {count}"
    label = "has it" if row["value"] == 1 else "has it not"
    about = [str(row["user_id"])]
    if row["start"] is not None:
        calendar = row["start"].weekday() == 0 and row["start"].time() == type(row["start"].time())()
        about.append(f"week of {row['start']:%-d %b %Y}" if calendar else f"from {row['start']:%-d %b %Y, %H:%M:%S}")
    person = [row["sex"], _number(row["age"], "{:.0f} years"), _number(row["bmi"], "BMI {:.1f}"), row["device"]]
    about += [str(each) for each in person if each]
    about += [each for each in (_worn(row["wear_hours"]), _number(row["readings"], "{:,} readings")) if each]
    about += [f"{split} split", *([row[FOLD]] if row.get(FOLD) else []), f"step {step:,}"]
    return Words(
        f"{it.target.replace('_', ' ').capitalize()}, {which}: scored {row['score']:.3g}, {label}",
        "  ·  ".join(about),
        simulated,
    )


def markdown_of(it: ChosenWeeks) -> str:
    """Return the table of the chosen weeks for TensorBoard's text tab."""
    table = it.table.select(*_COLUMNS)
    lines = ["| " + " | ".join(_COLUMNS.values()) + " |", "|" + " --- |" * len(_COLUMNS)]
    lines += ["| " + " | ".join(_cell(name, value) for name, value in row.items()) + " |" for row in table.to_dicts()]
    return "\n".join(lines)


def finding_of(it: ChosenWeeks, split: str, *, simulated: bool, step: int) -> Finding:
    """Return what is to be said of a condition's wins and losses."""
    what = "simulated weeks" if simulated else "weeks"
    lost = f" {it.not_finite:,} more have a score that is NaN or infinite." if it.not_finite else ""
    if it.same and it.weeks:
        lost = f" {it.same:,} more are of folds whose network gives all weeks one score, so that none stands out.{lost}"
    where = f"{split}: {it.target}"
    if it.threshold is None:
        alike = (
            "all scores are the same" if 0 < it.positive < it.weeks else f"all {'have' if it.positive else 'lack'} it"
        )
        why = f"of {it.weeks:,} {what}, {alike}" if it.weeks else "of no week both label and score are known"
        if it.same and not it.weeks:
            why = f"of {it.same:,} {what}, each fold's network gives all of its own one score"
        message = f"Nothing can be called right or wrong: {why}.{lost}"
        return Finding(CHECK, "unknown", where, None, None, "", message, (), step)
    wrong = sum(it.found[kind] for kind in LOSSES)
    parts = [
        f"{_count(it.found[kind], _SINGULAR[kind])} of {_count(it.people[kind], 'person')}"
        for kind in LOSSES if it.found[kind]
    ]  # fmt: skip
    worst = [_worst(it, kind) for kind in LOSSES if it.found[kind]]
    passed_over = sum(it.passed_over.values())
    message = (
        f"{_furthest(it)}, in report.html. "
        f"{it.weeks:,} {what} of {_count(it.users, 'person')}, called positive{_from(it)}: "
        f"{' and '.join(parts) if parts else 'none is wrong'}."
        + (f" Furthest off: {' and '.join(worst)}." if worst else "")
        + (f" Passed over: {_count(passed_over, 'week')} of people in the table already." if passed_over else "")
        + f"{lost} The table is {FILES[split]}."
    )
    return Finding(CHECK, "pass", where, round(wrong / it.weeks, 4), None, "of weeks wrong", message, (), step)


def not_drawn(why: str, split: str, step: int) -> Finding:
    """Return what is to be said where weeks, or where their scores came from, could not be drawn."""
    if why == AGED:
        return Finding(CHECK, "unknown", f"{split}: pictures", None, None, "", f"Not all is drawn: {why}.", (), step)
    message = (
        f"Not all is drawn: {why}. Say how to call the network: WinsAndLosses(probe=lambda module, batch: "
        "adapt(module.net, batch['x'], outputs=('risk',))); the loader must not shuffle."
    )
    return Finding(CHECK, "warn", f"{split}: pictures", None, None, "", message, (), step)


def _from(it: ChosenWeeks) -> str:
    if not it.thresholds:
        return f" from a score of {it.threshold:.3g} on, so that as many are as have it"
    levels = f"{min(it.thresholds.values()):.3g} to {max(it.thresholds.values()):.3g}"
    return f" from the level of their fold's network on (scores of {levels}), so that as many are as have it"


def _furthest(it: ChosenWeeks) -> str:
    """Return the worst loss and the best win in a few words, for these are all that is shown of what passes."""
    losses, wins = it.table.filter(pl.col("kind").is_in(LOSSES)), it.table.filter(~pl.col("kind").is_in(LOSSES))
    worst = f"Worst of {it.target} {_scored(losses)}" if losses.height else f"No loss of {it.target}"
    return f"{worst}, {f'best {_scored(wins)}'.removesuffix(' it') if wins.height else 'no win'}"


def _scored(rows: pl.DataFrame) -> str:
    row = rows.filter(pl.col("rank") == 1).sort("error", descending=rows["kind"][0] in LOSSES).row(0, named=True)
    return f"{row['score']:.2f} {'with' if row['value'] == 1 else 'without'} it"


def _worst(it: ChosenWeeks, kind: str) -> str:
    row = it.table.filter(pl.col("kind") == kind).row(0, named=True)
    label = "without" if kind == "false_positive" else "with"
    start = "" if row["start"] is None else f", {row['start']:%-d %b %Y}"
    return f"{row['user_id']}{start}, scored {row['score']:.3g} {label} it"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        text = f"{value:.0f}" if name in ("value", "age", "wear_hours") else f"{value:.3g}"
    elif name == "start":
        text = f"{value:%Y-%m-%d %H:%M}"
    else:
        text = str(value).replace("_", " ") if name == "kind" else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _worn(hours: float | None) -> str:
    return _number(hours, "worn {:.0f} h") if (hours or 0) >= 10 else _number((hours or 0) * 60, "worn {:.3g} min")


def _number(value: float | None, form: str) -> str:
    return "" if value is None or not math.isfinite(value) else form.format(value)


def _count(number: int, noun: str) -> str:
    plural = {"person": "people"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"
