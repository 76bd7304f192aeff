"""What the overfit check found, as findings: what was learned by heart, why not, and what learning it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from heartnet.diagnostics.label_changes import LEAST_PEOPLE, LIMIT, Histories, label_changes
from heartnet.diagnostics.overfit import Fit, Normalisation
from heartnet.diagnostics.overfit_answers import UNITS
from heartnet.diagnostics.overfit_causes import Cause
from heartnet.diagnostics.overfit_simple import Simple
from heartnet.findings import Finding, Status

CHECK = "overfit_check"
EASY = 0.99
"""AUROC of a simple model on weeks that it did not see, from which a task is too easy to tell much."""
ROSE = 2.0
"""Loss on the way, over the first, from which the learning rate is doubted though all was learned."""
UNRELATED = 0.65
"""AUROC that the simple models, all targets together, must certainly stay below before labels are doubted."""


def names_of(outputs: Sequence[str], fit: Fit) -> tuple[str, ...]:
    """Return a name for each number in `fit.fits`: the module's names where as many, else `output_0` and so on."""
    count = len(fit.fits[0]) if fit.fits else 0
    wide = fit.first is not None and fit.first.scores.shape[1] != count
    if wide:
        return ("mean",)
    return tuple(outputs) if len(outputs) == count else tuple(f"output_{i}" for i in range(count))


def learned(
    fit: Fit,
    names: Sequence[str],
    weeks: Sequence[str],
    seconds: float,
    normalisation: Normalisation,
    *,
    certain: bool,
    readings: int | None = None,
) -> list[Finding]:
    """Return a finding for each output: learned by heart or not.

    Args:
        certain: whether what was not learned is a fault; otherwise the budget may have been too small.
        readings: to which weeks were shortened; None if they were not.
    """
    how = f"{fit.optimiser}, {_normalised(normalisation)}"
    how += "" if readings is None else f", the first {readings} readings of each week"
    if not fit.fits or fit.last is None or fit.kind is None:
        return [_unscored(fit, how)]
    found = []
    for i, (name, value) in enumerate(zip(names, fit.fits[-1], strict=True)):
        few = _weeks(fit, i)
        if math.isnan(value):
            message = f"{few}, so there is nothing to tell apart"
            found.append(Finding(CHECK, "unknown", name, None, fit.limit, UNITS[fit.kind], message))
            continue
        status: Status = "pass" if fit.learned[i] else "fail"
        if status == "pass":
            message = f"Learned by heart in {fit.steps} steps. {few} ({how}){_last(fit, weeks)}"
        elif fit.ended == "seconds":
            status, message = "warn", f"could not tell within {seconds:g} s: {fit.steps} steps on {few} ({how})"
        else:
            status = status if certain else "warn"
            message = f"not learned by heart in {fit.steps} steps: {few} ({how}){_cost(fit, i)}"
        found.append(Finding(CHECK, status, name, float(value), fit.limit, UNITS[fit.kind], message))
    return found


def why(cause: Cause, fit: Fit, weeks: Sequence[str], settings: Mapping[str, object]) -> Finding:
    """Return the finding that says what the evidence points to."""
    message = f"{_NAMES[cause.name]}: {cause.message}"
    message += _last(fit, weeks)
    status: Status = "fail" if cause.certain else "warn"
    return Finding(CHECK, status, f"cause/{cause.name}", None, None, "", message, _overrides(cause, fit, settings))


def in_spite(fit: Fit) -> list[Finding]:
    """What stood in the way of learning by heart, and did not hinder it."""
    found = []
    if fit.last is not None and fit.last.squashed_by:
        found.append(
            f"the network's scores go through a {fit.last.squashed_by} before a loss that wants logits. These few "
            "weeks are put in order all the same; the loss cannot fall as far as it should"
        )
    for names, what in ((fit.left_out, "in no optimiser"), (fit.still, "without a gradient")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"these few weeks are learned, but with {', '.join(names[:3])}{more} {what}")
    if found:
        return [Finding(CHECK, "warn", "cause/architecture", None, None, "", f"architecture: {found[0]}")]
    if not max(fit.losses) > ROSE * fit.losses[0] > 0:
        return []
    message = (
        f"learning rate: too high? These few weeks are learned, but the loss rose from {fit.losses[0]:.3g} to "
        f"{max(fit.losses):.3g} on the way; a step changes the weights by {fit.update:.0%} of their size"
    )
    return [Finding(CHECK, "warn", "cause/learning_rate", max(fit.losses) / fit.losses[0], ROSE, "× first", message)]


def easy(simple: Sequence[Simple | None], names: Sequence[str]) -> list[Finding]:
    """Return a warning if there are targets that a simple model tells on weeks it did not see."""
    told = {name: each for name, each in zip(names, simple, strict=False) if each is not None and each.auroc >= EASY}
    if not told:
        return []
    message = (
        f"{', '.join(told)}: so easy that learning it by heart means little. A logistic regression on simple features "
        f"tells {min(each.weeks for each in told.values())} weeks apart that it was not fitted on; a synthetic target "
        "would ask more of the network"
    )
    value = min(each.auroc for each in told.values())
    return [Finding(CHECK, "warn", "easy", value, EASY, "AUROC of logistic regression", message)]


def doubtful(simple: Sequence[Simple | None]) -> bool:
    """Whether simple models see no relation between labels and inputs, in weeks enough to see one."""
    told = [each for each in simple if each is not None]
    if not told:
        return False
    mean = float(np.mean([each.auroc for each in told]))
    wide = float(np.sqrt(np.mean([each.half_width**2 for each in told]) / len(told)))
    return max(mean, 0.5) + wide < UNRELATED and mean - 1.5 * wide <= 0.5


def unrelated(fit: Fit, shuffled: Sequence[Fit], simple: Sequence[Simple | None]) -> list[Finding]:
    """Return a warning if the real labels are learned no faster than shuffled ones."""
    passes = min(len(each.losses) for each in (fit, *shuffled))
    own = float(np.mean(fit.losses[:passes]))
    others = [float(np.mean(each.losses[:passes])) for each in shuffled]
    if own < min(others):
        return []
    told = [each for each in simple if each is not None]
    return [
        Finding(
            CHECK,
            "warn",
            "labels",
            float(np.mean([each.auroc for each in told])),
            0.5,
            "AUROC of logistic regression",
            f"labels: nothing here ties them to the inputs. On {told[0].weeks} weeks a logistic regression is at "
            f"chance, and the network learns shuffled labels as fast (mean loss {np.mean(others):.3g}) "
            f"as these ({own:.3g}). "
            "Effects may be weak; or labels may stand beside the wrong weeks: follow one by hand from its source",
        )
    ]


def flipped(weeks: Histories | None, names: Sequence[str]) -> list[Finding]:
    """Warn of labels that change within a person as flipped ones do; where nothing is found, say what cannot show.

    Args:
        weeks: to train on; None, if it is not known whose they are, gives nothing.
        names: of the targets.
    """
    if weeks is None:
        return []
    names = names if len(names) == weeks.targets.shape[1] else [f"output_{i}" for i in range(weeks.targets.shape[1])]
    each = dict(zip(names, label_changes(weeks.people, weeks.times, weeks.targets), strict=True))
    told = {name: one for name, one in each.items() if one.people >= LEAST_PEOPLE}
    wrong = {name: one for name, one in told.items() if one.at_random}
    unit = "changes over chance"
    hidden = "Labels flipped in all weeks of a person would not show, nor those of people with one week"
    if not told:
        most = max((one.people for one in each.values()), default=0)
        message = (
            f"Whether labels are flipped is not known: {most} people have a label in several weeks, of {LEAST_PEOPLE} "
            f"needed. {hidden}"
        )
        return [Finding(CHECK, "unknown", "labels/changes", None, LIMIT, unit, message)]
    worst = max((wrong or told).values(), key=lambda one: one.over_chance)
    if not wrong:
        message = f"No label changes within a person as flipped ones do. {worst.people} have several weeks. {hidden}"
        return [Finding(CHECK, "pass", "labels/changes", worst.over_chance, LIMIT, unit, message)]
    counts = "; ".join(
        f"{name} in {one.minority:.0%} of {one.weeks} weeks of {one.people} people, {one.changing} of whom change "
        f"({one.over_chance:.2f} of the changes that chance makes, as if {one.flips:.0%} of labels were flipped)"
        for name, one in wrong.items()
    )
    first = next((one.rows[:3] for one in wrong.values() if len(one.rows)), ())
    look = f": {', '.join(weeks.rows[i] for i in first)}" if len(first) else ""
    message = (
        f"labels: they disagree with the majority of their own person, {counts}. A condition hardly changes, a rhythm "
        "does in stretches; this comes and goes at random, or labels are flipped or joined to the wrong weeks: follow "
        f"some by hand from their source{look}. {hidden}"
    )
    return [Finding(CHECK, "warn", "labels/changes", worst.over_chance, LIMIT, unit, message)]


def _last(fit: Fit, weeks: Sequence[str]) -> str:
    """The weeks learned last, by the area under their margin (Pleiss 2020), among which wrong labels are likeliest."""
    if fit.margins is None or len(fit.margins) != len(weeks):
        return ""
    return f". Learned last: {', '.join(weeks[i] for i in np.argsort(fit.margins)[:3])}"


_NAMES = {
    "learning_rate": "learning rate",
    "capacity": "capacity",
    "input": "input",
    "labels": "labels",
    "architecture": "architecture",
    "loss": "loss",
    "budget": "budget",
    "unknown": "no cause was found",
}


def _normalised(normalisation: Normalisation) -> str:
    by = "by the batch" if normalisation == "batch" else "by the statistics at the start"
    return f"no dropout, weight decay, schedule; normalisation {by}"


def _weeks(fit: Fit, output: int) -> str:
    assert fit.last is not None
    if fit.last.targets.shape[1] != len(fit.fits[-1]):
        return f"{len(fit.last.targets)} weeks"
    targets = fit.last.targets[:, output]
    known = targets[~targets.isnan()]
    if fit.kind == "values":
        return f"{len(known)} weeks"
    return f"{len(known)} weeks, {int((known > 0.5).sum())} positive"


def _cost(fit: Fit, output: int) -> str:
    """What an output is short of that is in order, and whose cross-entropy has not fallen."""
    if not fit.fits[-1][output] >= fit.limit:
        return ""
    first, last = fit.costs[0][output], fit.costs[-1][output]
    return f". Scores are in order, but their cross-entropy went only from {first:.3g} to {last:.3g}"


def _unscored(fit: Fit, how: str) -> Finding:
    course = f"the loss went from {fit.losses[0]:.3g} to {fit.losses[-1]:.3g}" if fit.losses else "no step was taken"
    return Finding(
        CHECK, "warn", "scores", None, None, "",
        "could not tell: the training step gives no loss function of torch.nn.functional its scores and targets "
        f"({course} in {fit.steps} steps, {how}); give OverfitCheck(scores=lambda module, batch: (scores, targets))",
    )  # fmt: skip


def _overrides(cause: Cause, fit: Fit, settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return overrides that exist, for a module of heartnet; nothing for others."""
    if cause.factor is not None and "module.learning_rate" in settings:
        return (f"module.learning_rate={_plain(fit.rate * cause.factor)}",)
    if cause.name == "capacity" and isinstance(width := settings.get("model.conv_units"), int):
        return (f"model.conv_units={2 * width}",)
    if cause.name == "budget" and settings:
        return (f"callbacks.overfit_check.steps={4 * fit.steps}",)
    return ()


def _plain(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")
