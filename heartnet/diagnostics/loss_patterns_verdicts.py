"""What the patterns of losses mean, in words, and what may help."""

from __future__ import annotations

from collections.abc import Mapping

from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.loss_patterns import LESS
from heartnet.diagnostics.loss_patterns_found import LossPattern, Search
from heartnet.diagnostics.loss_patterns_groups import InAndOut
from heartnet.findings import Finding

CHECK = "loss_patterns"

_MOST_SAID = 2
"""Conditions told of a pattern, those that lose most; the file has all."""

_REMEDIES: Mapping[str, str] = {
    "device": (
        "Train on more people with this device, vary the training weeks as it does (noise, gaps), tell the network "
        "which device it is, or leave its weeks out and say so"
    ),
    "travel": (
        "Train on more such weeks, vary the clock of the training weeks, give the network the time of the body rather "
        "than of the clock, or leave weeks of travel out and say so"
    ),
    "exercise": (
        "Train on more such people, mask workouts or give the network a channel that marks them, vary the training "
        "weeks as exercise does, or score such weeks apart"
    ),
    "wear": (
        "Ask for more hours worn (heartnet prepare --min-wear-hours), thin the training weeks as these are, or average "
        "more weeks of such people"
    ),
    "people": "Train on more such people, or weigh them more",
    "": "Train on more such weeks, vary the training weeks as these differ, or leave them out and say so",
}

_KINDS: Mapping[str, str] = {
    "device": "device",
    "seconds_between": "device",
    "readings": "wear",
    "wear_hours": "wear",
    "clock_changes": "travel",
    "clock_range_hours": "travel",
    "bedtime_spread_hours": "travel",
    "age": "people",
    "sex": "people",
    "bmi": "people",
}


def pattern_findings(
    it: Search,
    split: str,
    *,
    simulated: bool = False,
    sampled: bool = False,
    augmentation: Mapping[str, float] | None = None,
    more: str = "",
    step: int = 0,
) -> list[Finding]:
    """Return a finding for each pattern that held; one that none did, or that there are too few people to look.

    Args:
        it: of `heartnet.diagnostics.loss_patterns.find_patterns`.
        split: `val` or `test`.
        simulated: whether the weeks are.
        sampled: whether they are those of some people only.
        augmentation: of a module of ours on readings, by name; one from elsewhere gets the remedy in words only.
        more: what to do where people are too few, as a sentence.
        step: optimiser steps taken.
    """
    people = "people" if it.by == "user" else "weeks"
    who = f"{it.weeks:,}{' simulated' if simulated else ''} weeks"
    if it.by == "user":
        who += f" of {it.people:,} {'person' if it.people == 1 else 'people'}"
    else:
        who += ", each by itself: nothing is said of new people"
    who += ", drawn at random," if sampled else ""
    if not it.enough:
        message = (
            f"{who} are too few to look for what losses have in common: of no condition are there, in each of two "
            f"halves, {FEWEST} {people} with it and {FEWEST} without. {more}"
        )
        return [Finding(CHECK, "unknown", split, None, None, "", message.rstrip(), (), step)]
    if not it.patterns:
        count = "" if len(it.tried) == 1 else f"{len(it.tried)} "
        end = f"the {count}most promising did not hold on the other half" if it.tried else "none was promising"
        message = (
            f"Of {it.looked_at:,} pattern{'' if it.looked_at == 1 else 's'} {end}. They were looked at on one half of "
            f"{who.rstrip(',')}. Patterns that touch few {people}, or harm little, may be missed."
        )
        return [Finding(CHECK, "pass", split, 0.0, 0.0, "patterns", message, (), step)]
    return [_finding(each, it, split, people, augmentation or {}, step) for each in it.patterns]


def _finding(
    it: LossPattern, search: Search, split: str, people: str, augmentation: Mapping[str, float], step: int
) -> Finding:
    known = [each for each in it.groups if not (each.inside.too_few or each.outside.too_few)]
    told = sorted((each for each in known if each.target in it.scope), key=lambda each: -each.difference.value)
    besides = [*told[_MOST_SAID:], *(each for each in known if each.target not in it.scope)]
    worst = told[0] if told else None
    kinds = [_kind(clause.column) for clause in it.clauses]
    try_ = []
    if "device" in kinds and augmentation.get("level") == 0:
        try_.append("module.augmentation.level=0.5")
    told_of = {each.target for each in told}
    few = [target for target in it.scope if target not in told_of]
    touched = f"{it.people:,} of {search.people:,} {people}"
    if it.people != it.weeks:
        touched += f", {it.weeks:,} of {search.weeks:,} weeks"
    words = [
        f"Scores tell less of the label where {it.words}: {touched}",
        f"On the half of the {people} kept aside {'; '.join(map(_compared, told[:_MOST_SAID]))}"
        if told
        else f"On the half of the {people} kept aside too few inside have a condition, or have it not, for an AUROC",
        *([f"Too few inside to tell each by itself: {', '.join(few)}"] if told and few else []),
        *([f"AUROC inside and outside of the others: {', '.join(map(_in_short, besides))}"] if besides else []),
        f"If scores told only {LESS:.0%} less there, so much would be seen in at most {it.chance:.2g} of cases, "
        f"corrected for {len(search.tried)} tried of {search.looked_at:,} looked at",
        *(["In what is compared, weeks of the other patterns tried are left out"] if len(search.tried) > 1 else []),
        *([f"Much the same: {'; '.join(it.alike)}"] if it.alike else []),
        _REMEDIES[kinds[0]],
    ]
    return Finding(
        CHECK, "warn", f"{split}: {it.words}", None if worst is None else round(worst.difference.value, 4), None,
        "" if worst is None else "AUROC lost", ". ".join(words) + ".", tuple(try_), step,
    )  # fmt: skip


def _in_short(it: InAndOut) -> str:
    return f"{it.target} {it.inside.auroc.value:.3f} and {it.outside.auroc.value:.3f}"


def _compared(it: InAndOut) -> str:
    one, other = it.inside, it.outside
    return (
        f"{it.target} has AUROC {one.auroc} inside and {other.auroc} outside, Brier score {one.brier.value:.3f} and "
        f"{other.brier.value:.3f}, mean score {one.offset.value:+.3f} and {other.offset.value:+.3f} off"
    )


def _kind(column: str) -> str:
    if column in _KINDS:
        return _KINDS[column]
    if column.startswith("workout") or column.endswith(("workout", "steps")):
        return "exercise"
    if column.endswith("of_readings"):
        return "device"
    return ""
