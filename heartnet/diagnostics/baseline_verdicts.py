"""What a comparison with simple models means: broken, no value beyond their features, better, or not to be told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heartnet.diagnostics.comparison import FEWEST, LINEAR, Comparison
from heartnet.findings import Finding, Status
from heartnet.resampling import Interval

CHECK = "baseline"

CONSTANT = 0.1
"""Scores of which 90 % lie within this share of what a linear baseline's span hardly differ between weeks."""

SAME_ORDER = 0.99
"""Rank correlation, or share of variance, from which a network is a linear model for all that it says."""

_READINGS = ("statistics", "hourly")
_NOTHING = 0.65
"""AUROC that the intervals of models that tell nothing have to stay below: wider ones might hide something."""


@dataclass(frozen=True)
class About:
    """What is known of the network and its run beside its predictions.

    Attributes:
        sees_metadata: whether age, sex and BMI reach it; None if that is not known.
        linear: by target, the share of variance of its logits that is linear in the means of a week's inputs.
        settings: how it was made, by Hydra override; empty for a module from elsewhere, which gets no overrides.
        step: optimiser steps taken.
    """

    sees_metadata: bool | None = None
    linear: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    step: int = 0


def condition_findings(comparisons: Sequence[Comparison], about: About, margin: float = 0.02) -> list[Finding]:
    """Return a verdict for each condition, in terms of the difference of AUROC between network and baselines.

    Worse than a logistic regression that sees no more than the network: broken. No more than `margin` better: no value
    beyond the features. Better, if the whole interval of the difference is above 0; else it cannot be told. Beside it
    what may be behind it: scores that hardly differ between weeks, a network that orders weeks as a linear model does,
    inputs that tell nothing of the label, a lean on age, sex and BMI.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019.

    Args:
        comparisons: of `heartnet.diagnostics.comparison.compare`.
        about: the network.
        margin: AUROC below which a difference is of no use.
    """
    lost = [each for each in comparisons if _nothing_tells(each)]
    all_lost = len(lost) == len(comparisons)
    return [_verdict(each, about, margin, lost=each in lost, all_lost=all_lost) for each in comparisons]


def relation(difference: Interval, margin: float) -> str:
    """Return `better`, `worse`, `equal` (at most `margin` better, and not much worse) or `unsure`."""
    if difference.low > 0:
        return "better"
    if difference.high < 0 and difference.value <= -margin:
        return "worse"
    return "equal" if difference.high < margin else "unsure"


def remedies(settings: Mapping[str, object], *, longer: bool = True) -> tuple[str, ...]:
    """Return overrides by which a network of ours may learn more; none for one from elsewhere."""
    found = []
    if settings.get("model.readout") == "mean":
        found.append("model.readout=both_ends")
    if settings.get("model.forget_bias") == "default":
        found.append("model.forget_bias=chrono")
    rate, epochs = settings.get("module.learning_rate"), settings.get("trainer.max_epochs")
    if isinstance(rate, float) and 0 < rate < 3e-3:
        found.append("module.learning_rate=3e-3")
    if longer and isinstance(epochs, int) and epochs > 0:
        found.append(f"trainer.max_epochs={2 * epochs}")
    return tuple(found)


def _verdict(it: Comparison, about: About, margin: float, *, lost: bool, all_lost: bool) -> Finding:
    if it.diverged:
        message = f"The network's score is NaN or infinite for {it.diverged} of {it.weeks} test weeks: it has diverged."
        return _finding(it, about, "fail", message)
    if not it.baselines:
        return _finding(it, about, "warn", "There is no baseline to compare with.")
    few = min(it.having, it.without) < FEWEST
    constant = it.spread is not None and it.spread < CONSTANT
    if few:
        message = (
            f"{it.having} people with it and {it.without} without are in the test: fewer than {FEWEST} of each are too "
            f"few to tell whether the network{_scores(it)} is any better than {_list(it, it.baselines)}. Raise "
            "data.test_share, cross-validate, or add people."
        )
        if constant:
            message += f" {_hardly(it)}"
        return _finding(it, about, "warn", message)
    if it.network.high < 0.5:
        message = (
            f"AUROC {it.network} is below chance: it ranks the wrong way round. Are labels inverted, or columns of "
            f"conditions exchanged, in one of the splits? Baselines: {_list(it, it.baselines)}."
        )
        return _finding(it, about, "fail", message, it.network.value, 0.5, "AUROC")
    if lost:
        return _lost(it, about, all_lost=all_lost)
    if constant and any(each.low > 0.5 for each in it.baselines.values()) and not _all_better(it, margin):
        return _constant(it, about)
    return _compared(it, about, margin)


def _compared(it: Comparison, about: About, margin: float) -> Finding:
    """Return the verdict of the talk."""
    fair = [name for name in it.baselines if about.sees_metadata is not False or name in _READINGS] or [*it.baselines]
    relations = {name: relation(each, margin) for name, each in it.differences.items()}
    best = max(fair, key=lambda name: it.baselines[name].value)
    worse = [name for name in it.baselines if relations[name] == "worse"]
    broken = [name for name in worse if name in fair and name in LINEAR]
    try_: tuple[str, ...] = ()
    status: Status = "warn"
    if broken:
        best = max(broken, key=lambda name: it.baselines[name].value)
        message = (
            f"{_than(it, best, 'worse')}, a {_words(best)}: the network is broken, or hardly trained, or its inputs "
            f"are not what they should be."
        )
        status, try_ = "fail", remedies(about.settings)
    elif worse:
        best = max(worse, key=lambda name: it.baselines[name].value)
        message = f"{_than(it, best, 'worse')}, a {_words(best)}: it is better to use that."
        if about.sees_metadata is False and about.settings.get("model.metadata") == "none":
            message += " The network sees none of age, sex and BMI."
            try_ = ("model.metadata=lstm_state",) if "model.readout" in about.settings else ("model.metadata=logit",)
    elif all(relations[name] == "better" for name in fair):
        message, status = f"{_than(it, best, 'better')}, a {_words(best)}.", "pass"
    elif "equal" in (equal := {relations[name]: name for name in fair}):
        best = equal["equal"]
        message = (
            f"{_than(it, best, 'no better')}, a {_words(best)}: no value beyond those simple features. Step back and "
            "think of the problem anew."
        )
        try_ = remedies(about.settings)
    else:
        unsure = [name for name in fair if relations[name] == "unsure"]
        best = max(unsure, key=lambda name: it.baselines[name].value)
        message = f"{_cannot_tell(it, best, margin)}"
    remarks = _remarks(it, about, relations)
    if remarks and status == "pass" and about.linear.get(it.target, 0) >= SAME_ORDER:
        status = "warn"
    message = " ".join([message, *remarks, _about(it)])
    difference = it.differences[best]
    unit = f"AUROC over {best}, {difference.low:.3f} to {difference.high:.3f}"
    return _finding(it, about, status, message, difference.value, None, unit, try_)


def _remarks(it: Comparison, about: About, relations: Mapping[str, str]) -> list[str]:
    """Return sentences on what the network may be doing."""
    found = []
    share = about.linear.get(it.target, 0.0)
    same = max(it.rank, key=lambda name: it.rank[name], default=None)
    if share >= SAME_ORDER:
        found.append(
            f"Its logits are a linear function of the means of a week's inputs ({share:.1%} of their variance), so it "
            "is no more than a linear model: is there an activation function between its layers?"
        )
    elif same is not None and it.rank[same] >= SAME_ORDER:
        found.append(
            f"It orders weeks as the {_words(same)} does (rank correlation {it.rank[same]:.3f}), so it is no more than "
            "a linear model: is there an activation function between its layers?"
        )
    if about.sees_metadata is not False and relations.get("metadata", "better") != "better":
        rank = it.rank.get("metadata")
        found.append(
            f"It is not clearly better than age, sex and BMI alone ({it.differences['metadata']}"
            + (f", rank correlation {rank:.2f}" if rank is not None else "")
            + "): it may be leaning on them."
        )
    readings = [name for name in it.baselines if name in _READINGS]
    if readings and all(_at_chance(it.baselines[name]) for name in readings) and relations[readings[0]] != "better":
        found.append("What simple models make of the readings is no better than chance: do they belong to the labels?")
    return found


def _lost(it: Comparison, about: About, *, all_lost: bool) -> Finding:
    message = (
        f"AUROC {it.network}, and of the baselines {_list(it, it.baselines)}: nothing in the inputs tells the label. "
        "Do labels and weeks belong together? Check how they are joined (the same user, the same week, the same order "
        "of rows), and whether weeks were shifted or sorted after the labels were attached; if they do, the inputs do "
        "not hold it."
    )
    if all_lost:
        message += " No condition can be told, which speaks for the joining."
    return _finding(
        it, about, "fail" if all_lost else "warn", f"{message} {_about(it)}", it.network.value, 0.5, "AUROC"
    )


def _constant(it: Comparison, about: About) -> Finding:
    able = max((name for name in it.baselines), key=lambda name: it.baselines[name].value)
    message = (
        f"{_hardly(it)} And it can be told: {able} reaches AUROC {it.baselines[able]}, the network {it.network}. The "
        "network gives the base rate to everybody, which for a rare condition is cheap; train longer or faster, weigh "
        f"its positives more in the loss, and see whether gradients reach its head. {_about(it)}"
    )
    settings = dict(about.settings)
    status: Status = "warn" if it.network.low > 0.5 else "fail"
    spread = 0.0 if it.spread is None else it.spread
    return _finding(it, about, status, message, spread, CONSTANT, "of the baseline's spread", remedies(settings))


def _hardly(it: Comparison) -> str:
    return (
        f"The network's scores hardly differ between weeks: 90 % of its logits lie within {it.spread:.1%} of the span "
        "that those of a logistic regression have."
    )


def _nothing_tells(it: Comparison) -> bool:
    """Tell whether network and all baselines are at chance, and closely so."""
    if it.diverged or not it.baselines or min(it.having, it.without) < FEWEST:
        return False
    return all(_at_chance(each) and each.high < _NOTHING for each in (it.network, *it.baselines.values()))


def _at_chance(score: Interval) -> bool:
    return score.low <= 0.5


def _all_better(it: Comparison, margin: float) -> bool:
    return all(relation(each, margin) == "better" for each in it.differences.values())


def _than(it: Comparison, name: str, how: str) -> str:
    return f"AUROC {it.network.value:.3f}, {_gap(it.differences[name])} against {name}: {how} than {name}"


def _gap(difference: Interval) -> str:
    return f"{difference.value:+.3f} (95 %: {difference.low:+.3f} to {difference.high:+.3f})"


def _cannot_tell(it: Comparison, name: str, margin: float) -> str:
    difference = it.differences[name]
    half = (difference.high - difference.low) / 2
    times = math.ceil((half / max(abs(difference.value), margin)) ** 2)
    more = f" About {times} times as many people would tell." if 1 < times < 1000 else ""
    return (
        f"AUROC {it.network.value:.3f}, {_gap(difference)} against {name}, a {_words(name)}: the interval is too wide "
        f"to tell whether the network is better.{more}"
    )


def _about(it: Comparison) -> str:
    others = f"Baselines: {_list(it, it.baselines)}. {it.having} people with it, {it.without} without."
    if it.ceiling is not None:
        others += f" One who sees the true traits of these simulated people reaches {it.ceiling:.3f}."
    return others


def _scores(it: Comparison) -> str:
    return "" if math.isnan(it.network.value) else f" (AUROC {it.network.value:.3f})"


def _list(it: Comparison, names: Mapping[str, Interval] | Sequence[str]) -> str:
    return ", ".join(
        name if math.isnan(it.baselines[name].value) else f"{name} {it.baselines[name].value:.3f}" for name in names
    )


def _words(name: str) -> str:
    seen = {
        "metadata": "logistic regression on age, sex and BMI",
        "statistics": "logistic regression on eleven statistics of the readings",
        "hourly": "logistic regression on mean and spread of hourly features",
        "boosting": "gradient boosting on hourly features, age, sex and BMI",
    }
    return seen.get(name, "simple model")


def _finding(
    it: Comparison, about: About, status: Status, message: str, value: float | None = None,
    limit: float | None = None, unit: str = "", try_: Sequence[str] = (),
) -> Finding:  # fmt: skip
    if value is not None:
        value = None if math.isnan(value) else round(value, 4)
    return Finding(CHECK, status, it.target, value, limit, unit, message, tuple(try_), about.step)
