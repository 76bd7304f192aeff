"""What a comparison with simple models means: broken, no value beyond their features, better, or not to be told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heartnet.diagnostics.comparison import FEWEST, LINEAR, Comparison
from heartnet.diagnostics.reliance_verdicts import FOLLOWS
from heartnet.findings import Finding, Status
from heartnet.resampling import Interval

CHECK = "baseline"

CONSTANT = 0.1
"""Scores of which 90 % lie within this share of what a linear baseline's span hardly differ between weeks."""

SAME_ORDER = 0.99
"""Rank correlation with a linear baseline from which a network is one for all that it says."""

LINEAR_SHARE = 0.999
"""Share of variance of the logits, linear in mean inputs, from which a network is linear: the hourly network without an
activation function has 0.9995 or more, and with one 0.997 at most, when it has hardly begun to learn."""

_READINGS = ("statistics", "hourly")
_NOTHING = 0.7
"""AUROC that the intervals of models that tell nothing have to stay below: wider ones might hide something."""
_WIDER = 1.31  # an interval of 99 % to one of 95 %: of several models that tell nothing, each has its luck


@dataclass(frozen=True)
class About:
    """What is known of the network and its run beside its predictions.

    Attributes:
        sees_metadata: whether age, sex and BMI reach it; None if that is not known.
        linear: by target, the share of variance of its logits that is linear in the means of a week's inputs.
        settings: how it was made, by Hydra override; empty for a module from elsewhere, which gets no overrides.
        step: optimiser steps taken.
        folds: the predictions are of a cross-validation, which tests everybody already.
    """

    sees_metadata: bool | None = None
    linear: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    step: int = 0
    folds: bool = False


def condition_findings(comparisons: Sequence[Comparison], about: About, margin: float = 0.02) -> list[Finding]:
    """Return a verdict for each condition, in terms of the difference of AUROC between network and baselines.

    Worse than a logistic regression that sees no more than the network: broken. No more than `margin` better: no value
    beyond the features. Better, if the whole interval of the difference is above 0; else it cannot be told. Beside it
    what may be behind it: scores that hardly differ between weeks, a network that orders weeks as a linear model does,
    inputs that tell nothing of the label, a lean on age, sex and BMI. Of a cross-validation AUROCs are within folds, as
    in `heartnet compare`; where no fold has both classes nothing is told.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019.

    Args:
        comparisons: of `heartnet.diagnostics.comparison.compare`.
        about: the network.
        margin: AUROC below which a difference is of no use.
    """
    lost = [each for each in comparisons if _nothing_tells(each)]
    all_lost = len(lost) == len([each for each in comparisons if not _too_few(each)])
    return [_verdict(each, about, margin, lost=each in lost, all_lost=all_lost) for each in comparisons]


def relation(difference: Interval, margin: float) -> str:
    """Return `better`, `worse`, `equal` (at most `margin` better, and not much worse) or `unsure`."""
    if difference.low > 0:
        return "better"
    if difference.high < 0 and difference.value <= -margin:
        return "worse"
    return "equal" if difference.high < margin else "unsure"


def remedies(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return overrides by which a network of ours may learn more; none for one from elsewhere."""
    found = []
    if settings.get("model.readout") == "mean":
        found.append("model.readout=both_ends")
    if settings.get("model.forget_bias") == "default":
        found.append("model.forget_bias=chrono")
    rate, epochs = settings.get("module.learning_rate"), settings.get("trainer.max_epochs")
    if isinstance(rate, float) and 0 < rate < 3e-3:
        found.append("module.learning_rate=3e-3")
    if isinstance(epochs, int) and epochs > 0:
        found.append(f"trainer.max_epochs={2 * epochs}")
    return tuple(found)


def _verdict(it: Comparison, about: About, margin: float, *, lost: bool, all_lost: bool) -> Finding:
    if it.diverged:
        message = f"The network's score is NaN or infinite for {it.diverged} of {it.weeks} test weeks: it has diverged."
        return _finding(it, about, "fail", message)
    if not it.baselines:
        return _finding(it, about, "unknown", "There is no baseline to compare with.")
    constant = it.spread is not None and it.spread < CONSTANT
    if _too_few(it):
        known = "" if math.isnan(it.network.value) else f" {it.measure}: network {it.network.value:.3f}, {_listed(it)}."
        by_person = " cross-validate by person," if it.people == "people" else ""
        more = "Add" if about.folds else f"Raise data.test_share,{by_person} or add"
        message = (
            f"In the test {it.people} with it: {it.having}, without it: {it.without}; fewer than {FEWEST} of each are "
            f"too few to tell whether the network is any better than a simple model. {more} {it.people}."
            f"{' ' + _hardly(it) if constant else ''}{known}"
        )
        return _finding(it, about, "unknown", message)
    if it.one_class:
        # The remedy is in the first sentence, which is always shown.
        message = f"It cannot be told which is better: {it.one_class}. {it.measure}: {it.network}. {_beside(it)}"
        return _finding(it, about, "unknown", message, it.network.value, 0.5, "AUROC")
    if lost:
        return _lost(it, about, all_lost=all_lost)
    able = any(each.low > 0.5 for each in it.baselines.values())
    if constant and able and not all(relation(each, margin) == "better" for each in it.differences.values()):
        return _constant(it, about)
    if it.network.high < 0.5:
        message = (
            f"{it.measure} {it.network} is below chance, so it ranks the wrong way round. Are labels inverted, or "
            f"columns of conditions exchanged, in one of the splits? {_beside(it)}"
        )
        return _finding(it, about, "fail", message, it.network.value, 0.5, "AUROC")
    return _compared(it, about, margin)


def _compared(it: Comparison, about: About, margin: float) -> Finding:
    """Return the verdict of the talk."""
    relations = {name: relation(each, margin) for name, each in it.differences.items()}
    # Without age, sex and BMI a network may well know less than they tell; that is said, but it is not broken.
    fair = [name for name in relations if about.sees_metadata is not False or name in _READINGS] or [*relations]
    worse = [name for name in relations if relations[name] == "worse"]
    broken = [name for name in worse if name in fair and name in LINEAR]
    equal = [name for name in fair if relations[name] == "equal"]
    unsure = [name for name in fair if relations[name] == "unsure"]
    best = max(broken or worse or equal or unsure or fair, key=lambda name: it.baselines[name].value)
    gap = it.differences[best]
    gap_text = f"{gap.value:+.3f} (95 %: {gap.low:+.3f} to {gap.high:+.3f})"
    status: Status = "warn"
    try_ = remedies(about.settings)
    if broken:
        status = "fail"
        verdict = (
            f"Worse than {_words(best)}: the network is broken, or hardly trained, or its inputs are not what they "
            "should be."
        )
    elif worse:
        verdict = f"Worse than {_words(best)}: better use that."
        if about.settings.get("model.metadata") == "none":
            verdict += " The network does not see age, sex and BMI."
            # The network on readings and the one on hours take them in at different places.
            place = "lstm_state" if "model.readout" in about.settings else "logit"
            try_ = (f"model.metadata={place}", *try_)
    elif equal:
        verdict = f"No better than {_words(best)}: no value beyond such simple features. Think of the problem anew."
    elif unsure:
        half = (gap.high - gap.low) / 2
        times = math.ceil((half / max(abs(gap.value), margin)) ** 2)
        verdict = f"The interval is too wide to tell whether it is better than {_words(best)}."
        verdict += f" With {times} times as many {it.people} it could be told." if 1 < times <= 100 else ""
        try_ = ()
    else:
        status, verdict, try_ = "pass", "", ()
    linear, rest = _linear_remark(it, about), _remarks(it, about, relations)
    if linear:
        status = "fail" if broken else "warn"
    numbers = f"{it.measure} {it.network.value:.3f}, {gap_text} against {best}."
    if status == "pass":  # of what passes, the first sentence is shown
        where = it.measure.removeprefix("AUROC")
        numbers = f"{it.target} {gap.value:.3f} better than {best}{where}. 95 %: {gap.low:.3f} to {gap.high:.3f}."
    message = " ".join(filter(None, [numbers, verdict, linear, *rest, _beside(it)]))
    return _finding(it, about, status, message, gap.value, 0.0, f"AUROC over {best}", try_)


def _linear_remark(it: Comparison, about: About) -> str:
    """Return a sentence if the network is no more than a linear model; otherwise nothing."""
    same = max(it.rank, key=lambda name: it.rank[name], default="")
    if about.linear.get(it.target, 0.0) >= LINEAR_SHARE:
        how = f"{about.linear[it.target]:.1%} of the variance of its logits is linear in the means of a week's inputs"
    elif same and it.rank[same] >= SAME_ORDER:
        how = f"it orders weeks as {_words(same)} does, with a rank correlation of {it.rank[same]:.3f}"
    else:
        return ""
    return (
        f"The network is no more than a linear model ({how}): has it no activation function between its layers, or has "
        "it only begun to learn?"
    )


def _remarks(it: Comparison, about: About, relations: Mapping[str, str]) -> list[str]:
    """Return sentences on what the network may be doing."""
    found = []
    if about.sees_metadata is not False and relations.get("metadata", "better") != "better":
        gap, follows = it.differences["metadata"], it.follows
        rank = "" if follows is None else f", rank correlation {follows}"
        leans = follows is not None and follows.low > FOLLOWS  # as the callback metadata_reliance has it
        words = (
            "it may be leaning on them" if leans else "not shown to be better, though it ranks otherwise than they do"
        )
        found.append(
            f"Against age, sex and BMI alone it is {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}{rank}): {words}."
        )
    readings = [name for name in it.baselines if name in _READINGS]
    if readings and all(_at_chance(it.baselines[name]) and relations[name] != "better" for name in readings):
        found.append("What a simple model makes of the readings is at chance: do they belong to these labels?")
    return found


def _lost(it: Comparison, about: About, *, all_lost: bool) -> Finding:
    message = (
        f"{it.measure} {it.network}, baselines {_listed(it)}: nothing that these see tells the label from chance. "
        "Do labels and weeks belong together? Check how they were joined (the same user, the same week, the same order "
        "of rows), and whether anything was sorted, shifted or shuffled after that. "
    )
    message += "It is so for all conditions, which speaks for it. " if all_lost else ""
    linear = _linear_remark(it, about)
    message = " ".join(filter(None, [message.strip(), linear, _people(it)]))
    return _finding(it, about, "fail" if all_lost else "warn", message, it.network.value, 0.5, "AUROC")


def _constant(it: Comparison, about: About) -> Finding:
    able = max(it.baselines, key=lambda name: it.baselines[name].value)
    message = (
        f"{_hardly(it)} Yet it can be told: {able} reaches {it.measure} {it.baselines[able]}, the network "
        f"{it.network}. Giving everybody the base rate is a cheap answer for a rare condition: train longer or faster, "
        f"weigh its positives more in the loss, and see whether gradients reach its head. {_beside(it)}"
    )
    status: Status = "warn" if it.network.low > 0.5 else "fail"
    return _finding(it, about, status, message, it.spread, CONSTANT, "of a baseline's spread", remedies(about.settings))


def _hardly(it: Comparison) -> str:
    return (
        f"The network's scores hardly differ between weeks: 90 % of its logits lie within {it.spread:.1%} of the span "
        "that those of a logistic regression have."
    )


def _too_few(it: Comparison) -> bool:
    return min(it.having, it.without) < FEWEST


def _nothing_tells(it: Comparison) -> bool:
    """Tell whether network and all baselines are at chance, and closely so."""
    if it.diverged or not it.baselines or _too_few(it):
        return False
    return all(_at_chance(each) and each.high < _NOTHING for each in (it.network, *it.baselines.values()))


def _at_chance(score: Interval) -> bool:
    return score.value - _WIDER * (score.value - score.low) <= 0.5


def _beside(it: Comparison) -> str:
    ceiling = "" if it.ceiling is None else f" One who sees the true traits of simulated people: {it.ceiling:.3f}."
    folds = ""
    if it.all_folds is not None and not it.one_class:
        folds = f" With all folds ranked together the network has {it.all_folds:.3f}."
    return f"Baselines: {_listed(it)}.{ceiling}{folds} {_people(it)}"


def _people(it: Comparison) -> str:
    people = {"people": "person", "weeks": "week"}[it.people] if it.having == 1 else it.people
    return f"{it.having} {people} with it, {it.without} without."


def _listed(it: Comparison) -> str:
    each = it.baselines.items()
    return ", ".join(name if math.isnan(score.value) else f"{name} {score.value:.3f}" for name, score in each)


def _words(name: str) -> str:
    seen = {
        "metadata": "a logistic regression on age, sex and BMI",
        "statistics": "a logistic regression on eleven statistics of the readings",
        "hourly": "a logistic regression on mean and spread of hourly features",
        "boosting": "gradient boosting on hourly features, age, sex and BMI",
    }
    return seen.get(name, "a simple model")


def _finding(
    it: Comparison, about: About, status: Status, message: str, value: float | None = None,
    limit: float | None = None, unit: str = "", try_: Sequence[str] = (),
) -> Finding:  # fmt: skip
    if value is not None:
        value = None if math.isnan(value) else round(value, 4)
    return Finding(CHECK, status, it.target, value, limit, unit, message, tuple(try_), about.step)
