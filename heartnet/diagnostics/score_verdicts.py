"""What the quality of scores means: do they tell, do they mean what they say, or are there too few people to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.score_quality import Agreement, Quality
from heartnet.diagnostics.within_folds import TOGETHER, WITHIN, one_class
from heartnet.findings import Finding, Status
from heartnet.resampling import Interval

CHECK = "predictions"

STEEP, FLAT = 1.25, 0.8
"""Slopes beyond which scores are called underconfident and overconfident, if the interval excludes 1 as well."""

OFF = 0.2
"""Offset, as a share of the base rate, beyond which scores are called too high or too low, likewise."""

NOTABLE = 0.05
"""Calibration error, less luck, above which it is notable where there is no slope."""

APART = 0.02
"""AUROC by which all weeks of a cross-validation may rank worse than those within folds, before that is said."""

_WIDE = 2.0  # intervals of the slope that reach from below 1 / 2 to above 2 tell nothing


def quality_findings(
    it: Quality,
    split: str,
    *,
    simulated: bool = False,
    settings: Mapping[str, object] | None = None,
    step: int = 0,
    more: str = "",
) -> list[Finding]:
    """Return the verdicts on the scores of a condition: on what they tell, and on what they mean.

    Args:
        it: of `heartnet.diagnostics.score_quality.quality`.
        split: `val` or `test`; stands before the condition.
        simulated: whether the people are.
        settings: of a network of ours, by Hydra override; one from elsewhere gets the remedy in words only.
        step: optimiser steps taken.
        more: what to do where people are too few, as a sentence.
    """
    where = f"{split}: {it.target}"

    def finding(
        part: str, status: Status, message: str, value: float = math.nan, limit: float | None = None, unit: str = "",
        try_: Sequence[str] = (),
    ) -> Finding:  # fmt: skip
        number = None if math.isnan(value) else round(value, 4)
        limit = None if number is None else limit
        return Finding(CHECK, status, f"{where}{part}", number, limit, unit, message, tuple(try_), step)

    who = _who(it, simulated=simulated)
    if it.diverged:
        message = f"The score is NaN or infinite for {it.diverged} of {it.weeks} weeks: the network has diverged."
        return [finding("", "fail", message)]
    if min(it.having, it.without) < FEWEST:
        message = (
            f"{it.people.capitalize()} with it: {it.having:,}, without it: {it.without:,}; fewer than {FEWEST} of each "
            f"are too few to tell how good the scores are and whether they are calibrated. {more}"
        )
        return [finding("", "unknown", message.rstrip())]
    if it.folds > 1:
        inside = not math.isnan(it.within.value)
        value, unit = (it.within.value, f"AUROC {WITHIN}") if inside else (it.auroc.value, f"AUROC of {TOGETHER}")
        found = [finding("", *_of_folds(it, who), value, 0.5, unit)]
    else:
        found = [finding("", *_discrimination(it, who), it.auroc.value, 0.5, "AUROC")]
    if it.calibration is not None:
        status, message, try_ = _calibration(it, settings or {})
        found.append(finding(", calibration", status, message, it.calibration.slope.value, 1.0, "slope", try_))
    return found


def agreement_finding(it: Agreement, split: str, *, unit: str, simulated: bool = False, step: int = 0) -> Finding:
    """Return the verdict on predictions of a synthetic target: does it do better than always saying the mean?

    Args:
        it: of `heartnet.diagnostics.score_quality.agreement`.
        split: `val` or `test`; stands before the target.
        unit: of the target.
        simulated: whether the weeks are.
        step: optimiser steps taken.
    """
    where, limit, name = f"{split}: {it.target}", 0.0, "of the variance"
    if it.diverged:
        message = f"The prediction is NaN or infinite for {it.diverged} of {it.weeks} weeks: the network has diverged."
        return Finding(CHECK, "fail", where, None, None, "", message, (), step)
    numbers = f"{it.r2} of the variance explained, mean absolute error {it.mae} {unit}; {_who(it, simulated=simulated)}"
    if math.isnan(it.r2.value):
        message = f"The target is the same in all {it.weeks} weeks, so nothing is there to explain."
        return Finding(CHECK, "unknown", where, None, None, "", message, (), step)
    if not it.r2.low > 0:
        message = (
            f"{numbers}. It cannot be told from always saying the mean; train longer, or see the callback baseline."
        )
        return Finding(CHECK, "warn", where, round(it.r2.value, 4), limit, name, message, (), step)
    message = f"It does better than always saying the mean. {numbers}."
    return Finding(CHECK, "pass", where, round(it.r2.value, 4), limit, name, message, (), step)


def _who(it: Quality | Agreement, *, simulated: bool) -> str:
    weeks = f"{it.weeks:,}{' simulated' if simulated else ''} weeks"
    if it.by == "week":
        return f"{weeks}, resampled one by one: nothing is said of new people"
    return f"{weeks} of {it.users:,} {'person' if it.users == 1 else 'people'}"


def _discrimination(it: Quality, who: str) -> tuple[Status, str]:
    numbers = f"AUROC {it.auroc}, average precision {it.average_precision} where chance has {it.base_rate:.3f}; {who}."
    if it.auroc.high < 0.5:
        return "fail", f"{numbers} It ranks the wrong way round: are labels inverted, or conditions exchanged?"
    if not it.auroc.low > 0.5:
        half = (it.auroc.high - it.auroc.low) / 2
        times = math.ceil((half / max(it.auroc.value - 0.5, 0.02)) ** 2)
        more = f" With about {times} times as many {it.people} it could be told." if 1 < times <= 100 else ""
        return "warn", f"{numbers} It cannot be told from chance.{more}"
    return "pass", f"Scores tell better than chance. {numbers}"


def _of_folds(it: Quality, who: str) -> tuple[Status, str]:
    """Return the verdict on several networks: held against chance is what each ranks by itself.

    What the networks' different levels do to the AUROC of all weeks is no merit and no fault of the ranking. Of 150
    simulated cohorts of 17 people in 5 folds, without anything to tell, the interval of all weeks lay below 0.5 in 15 %
    and that within folds in 5 %; with something to tell, and networks 1.5 logits apart, above 0.5 in 41 % and 79 %.
    """
    alone = math.isnan(it.within.value)  # as where each person is a fold
    within = it.auroc if alone else it.within
    who = f"{who}, scored by {it.folds} networks"
    first = "" if alone else f" {WITHIN} {_limits(it.within)};"
    more = f"average precision {it.average_precision}, by chance {it.base_rate:.3f}"
    numbers = f"AUROC{first} {TOGETHER} {_limits(it.auroc)}, {more}; {who}."
    apart = ""
    if it.above.low > 0 and it.above.value > APART:
        apart = (
            f" Over all weeks it is lower by {it.above} than within folds: the networks do not score on one scale, so "
            "compare their scores within folds only, or calibrate each."
        )
    if not alone and within.high < 0.5 and it.auroc.high < 0.5:
        words = "It ranks the wrong way round: are labels inverted, or conditions exchanged?"
        return "fail", f"{numbers} {words}"
    if alone and within.low > 0.5:
        return "pass", f"Scores tell better than chance. {numbers} But {one_class(it.folds, it.users)}."
    if alone:  # the remedy is in the first sentence, which is always shown
        said = one_class(it.folds, it.users)
        return "unknown", f"It cannot be told whether scores tell better than chance: {said}. {numbers}"
    if not within.low > 0.5:
        words = "Within folds, where each network ranks by itself, it cannot be told from chance."
        return "warn", f"{numbers} {words}{apart}"
    words = "" if apart else "Scores tell better than chance. "
    return ("warn" if apart else "pass"), f"{words}{numbers}{apart}"


def _limits(it: Interval) -> str:
    return f"{it.value:.3f} (95 %: {it.low:.3f} to {it.high:.3f})"


def _calibration(it: Quality, settings: Mapping[str, object]) -> tuple[Status, str, tuple[str, ...]]:
    assert it.calibration is not None
    found = it.calibration
    tilt, off = found.strict_slope, found.strict_offset
    numbers = (
        f"Slope {found.slope}, mean score {off.value:+.3f} ({off.low:+.3f} to {off.high:+.3f}) off the share that has "
        f"it; calibration error less luck {found.error}; expected calibration error {found.parts.ece:.3f}, where luck "
        f"alone shows {found.parts.ece_of_luck:.3f}; Brier score {found.brier}, of the base rate "
        f"{found.parts.uncertainty:.3f}."
    )
    said, try_ = [], []
    if tilt.high < 1 and tilt.value < FLAT:
        said.append(
            "Overconfident: scores lie further from the base rate than is warranted. Stop earlier, regularise more, "
            f"or multiply the logits by {max(tilt.value, 0):.2f} (temperature, fitted on other people): ranks stay."
        )
        try_ += _calmer(settings)
    if tilt.low > 1 and tilt.value > STEEP:
        said.append(
            "Underconfident: scores lie nearer the base rate than they could. Train longer, or multiply the logits by "
            f"{tilt.value:.2f} (temperature, fitted on other people): ranks stay."
        )
        try_ += _longer(settings)
    if (off.low > 0 or off.high < 0) and abs(off.value) > OFF * it.base_rate:
        word = "high" if off.value > 0 else "low"
        said.append(
            f"Too {word} as a whole: do as many have it here as in the training, and is the loss weighted? A constant "
            "added to the logits mends it: ranks stay."
        )
    if said:
        return "warn", f"{' '.join(said)} {numbers}", tuple(dict.fromkeys(try_))
    if math.isnan(tilt.value) and it.auroc.value == 1 and found.error.low > NOTABLE:
        message = (
            "Underconfident: the scores tell the classes apart without any overlap, and still lie close to the base "
            f"rate. Train longer. {numbers}"
        )
        return "warn", message, tuple(_longer(settings))
    if math.isnan(tilt.value):
        return "unknown", f"The slope has no solution: equal scores, or classes that do not overlap. {numbers}", ()
    if not (tilt.low > 1 / _WIDE or tilt.high < _WIDE):
        return "unknown", f"Too few {it.people} to tell how calibrated it is. {numbers}", ()
    return "pass", f"No miscalibration found. {numbers}", ()


def _calmer(settings: Mapping[str, object]) -> list[str]:
    found = []
    decay, dropout, epochs = (
        settings.get(name) for name in ("module.weight_decay", "model.dropout", "trainer.max_epochs")
    )
    if isinstance(decay, float | int) and decay < 0.1:
        found.append("module.weight_decay=0.1")
    if isinstance(dropout, float | int) and dropout < 0.4:
        found.append("model.dropout=0.4")
    if isinstance(epochs, int) and epochs > 1:
        found.append(f"trainer.max_epochs={epochs // 2}")
    return found


def _longer(settings: Mapping[str, object]) -> list[str]:
    epochs = settings.get("trainer.max_epochs")
    return [f"trainer.max_epochs={2 * epochs}"] if isinstance(epochs, int) and epochs > 0 else []
