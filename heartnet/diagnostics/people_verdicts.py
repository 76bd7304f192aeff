"""What the scores of people mean: what several weeks gain, by which way, and from how many hours of wear on."""

from __future__ import annotations

import math

from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.people_scores import OWN, PeopleScores
from heartnet.diagnostics.wear_reliability import WearBand, WearReliability
from heartnet.findings import Finding, Status
from heartnet.people import FALLBACK, LEARNED, WAYS
from heartnet.resampling import Interval

CHECK = "people"

_OTHERS = {
    LEARNED: "a regression on mean, spread, maximum and number of weeks",
    OWN: "for each person what their fold chose on its validation",
}


def people_finding(it: PeopleScores, split: str, *, simulated: bool = False, step: int = 0) -> Finding:
    """Return the verdict on one score a person.

    Args:
        it: of `heartnet.diagnostics.people_scores.people_scores`.
        split: `val`, on which the way was chosen, or `test`.
        simulated: whether the people are.
        step: optimiser steps taken.
    """

    def finding(status: Status, message: str, value: float = math.nan) -> Finding:
        number = None if math.isnan(value) else round(value, 4)
        limit = None if number is None else 0.5
        return Finding(CHECK, status, f"{split}: {it.target}", number, limit, "AUROC", message + changing, (), step)

    more = "person has a label that changes" if it.changing == 1 else "people have labels that change"
    changing = f" {it.changing:,} more {more} between weeks, so no score is right of all of them: left out."
    changing = changing if it.changing else ""
    kind = f"{'simulated ' if simulated else ''}{'person' if it.people == 1 else 'people'}"
    if it.diverged:
        return finding("fail", f"The score is NaN or infinite for {it.diverged:,} of {it.people:,} {kind}: diverged.")
    if it.few:
        message = (
            f"{'Simulated people' if simulated else 'People'} with it: {it.having:,}, without it: {it.without:,}; "
            f"fewer than {FEWEST} of each are too few to compare ways of making one score of several weeks; the "
            f"{WAYS[FALLBACK]} is taken."
        )
        if it.ways:
            message += f" {_measure(it)} {it.ways[it.taken].auroc.value:.3f}; of so few no interval would hold."
        return finding("unknown", message)
    chosen = it.ways[it.taken]
    if it.one_class:
        numbers = f"{_measure(it)} {chosen.auroc} of {it.people:,} {kind}, {it.week} of single weeks."
        taken = f"For {it.target} {_taken(it)}."
        if chosen.auroc.low > 0.5:
            message = f"Scores of people tell better than chance. {numbers} But {it.one_class}. {taken}"
            return finding("pass", message, chosen.auroc.value)
        # The remedy is in the first sentence, which is always shown.
        message = f"It cannot be told whether scores of people tell better than chance: {it.one_class}."
        return finding("unknown", f"{message} {numbers} {taken}", chosen.auroc.value)
    if not it.several:
        message = f"One week a person, so there is nothing to combine. AUROC {chosen.auroc} of {it.people:,} {kind}."
        return finding("unknown", message, chosen.auroc.value)
    numbers = (
        f"For {it.target} {_taken(it)}. {_measure(it)} {chosen.auroc} of {it.people:,} {kind}, {it.week} of single "
        f"weeks ({it.weeks / it.people:.1f} a person): {_signed(it.gain)}. Brier score {chosen.brier}, calibration "
        f"slope {chosen.slope}."
    )
    if chosen.worse.low > 0:
        message = (
            f"The way that was chosen on people of the validation is worse here than the {WAYS[FALLBACK]}: its Brier "
            f"score is {_signed(chosen.worse)}. More people in the validation split make the choice surer "
            f"(data.val_share). {numbers}"
        )
        return finding("warn", message, chosen.auroc.value)
    if it.gain.high < 0:
        return finding("warn", f"Several weeks tell less than one by itself. {numbers}", chosen.auroc.value)
    if not chosen.auroc.low > 0.5:
        return finding("warn", f"It cannot be told from chance. {numbers}", chosen.auroc.value)
    return finding("pass", numbers, chosen.auroc.value)


def wear_finding(it: WearReliability, split: str, *, step: int = 0) -> Finding | None:
    """Return the verdict on scores of weeks with little wear; None if nothing is known of wear.

    Args:
        it: of `heartnet.diagnostics.wear_reliability.wear_reliability`.
        split: `val` or `test`.
        step: optimiser steps taken.
    """
    if not it.weeks:
        return None

    def finding(status: Status, message: str, value: float | None = None) -> Finding:
        return Finding(CHECK, status, f"{split}: {it.target}, wear", value, None, "hours", message, (), step)

    if not it.bands:
        return finding("unknown", f"Wear hardly differs between {it.weeks:,} weeks, so nothing is said of its worth.")
    if it.few:
        return finding("unknown", f"Too few people to tell how reliability depends on wear. {_bands(it)}")
    hours = it.trusted_from
    if hours is None:
        return finding("pass", f"No loss with little wear found, from {_hours(it.bands[0].low)} hours on. {_bands(it)}")
    words = ", ".join(_why(band) for band in it.bands if band.worse)
    message = (
        f"Weeks worn less than {_hours(hours)} hours have less reliable scores than those worn longer: {words}. "
        "Do not show them by themselves; combine weeks weighted by wear, or leave such weeks out (heartnet prepare "
        f"--min-wear-hours {_hours(hours)}). {_bands(it)}"
    )
    return finding("warn", message, round(hours, 2))


def wear_markdown(it: WearReliability) -> str:
    """Return the bands as a table in Markdown."""
    lines = [
        "| hours worn | weeks | people | with it | without | AUROC | spread within a person (logits) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for band in it.bands:
        cells = (f"{band.weeks:,}", f"{band.people:,}", f"{band.having:,}", f"{band.without:,}")
        lines.append(f"| {ends(band)} | {' | '.join(cells)} | {_shown(band.auroc)} | {_shown(band.spread)} |")
    return "\n".join(lines)


def people_markdown(it: PeopleScores) -> str:
    """Return the ways as a table in Markdown."""
    lines = [
        f"| one score a person | {_measure(it)} | Brier score | calibration slope |",
        "|---|---:|---:|---:|",
        f"| single weeks, each by itself | {_shown(it.week)} | | |",
    ]
    for name, way in it.ways.items():
        words = WAYS.get(name, _OTHERS.get(name, ""))
        mark = ", **taken**" if name == it.taken else ""
        lines.append(f"| {name}: {words}{mark} | {_shown(way.auroc)} | {_shown(way.brier)} | {_shown(way.slope)} |")
    return "\n".join(lines)


def _measure(it: PeopleScores) -> str:
    if it.one_class:
        return "AUROC of all folds together"
    return "AUROC within folds" if it.folds else "AUROC"


def _taken(it: PeopleScores) -> str:
    if not it.validated:
        return f"{it.taken} is taken, for without a validation none could be chosen"
    return "each fold chose for itself" if it.taken == OWN else f"{it.taken} was chosen"


def _why(band: WearBand) -> str:
    said = []
    if band.loss.low > 0:
        said.append(f"AUROC {_signed(band.loss)} above it")
    if band.ratio.low > 1:
        times = f"{band.ratio.value:.2f} times ({band.ratio.low:.2f} to {band.ratio.high:.2f})"
        said.append(f"{times} the spread within a person")
    return f"{ends(band)} hours, {' and '.join(said)}"


def _bands(it: WearReliability) -> str:
    return "AUROC by hours worn: " + "; ".join(f"{ends(band)}: {_shown(band.auroc)}" for band in it.bands) + "."


def ends(band: WearBand) -> str:
    """Return the hours of a band in words, with as many digits as small ones need."""
    return f"{_hours(band.low)} to {_hours(band.high)}"


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"


def _signed(it: Interval) -> str:
    return f"{it.value:+.3f} ({it.low:+.3f} to {it.high:+.3f})"


def _shown(it: Interval) -> str:
    return "–" if math.isnan(it.value) else str(it)
