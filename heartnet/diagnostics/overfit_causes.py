"""Why a copy could not learn a few weeks by heart: evidence from short experiments that start where it started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.overfit import Fit, Setting, learn
from heartnet.diagnostics.overfit_answers import Answers
from heartnet.diagnostics.overfit_simple import same_inputs
from heartnet.diagnostics.overfit_weeks import with_inputs
from heartnet.diagnostics.replay import Replay, Streams, batch_size, rows_of, tensors_in

Name = Literal["learning_rate", "capacity", "input", "labels", "architecture", "loss", "budget", "unknown"]

_USUAL = 1e-3
"""Change of the weights in a step, over their size, that training usually has."""
_SAME = 1e-6
_FALLS = 0.05


@dataclass(frozen=True)
class Cause:
    """What the evidence points to.

    Attributes:
        message: the evidence, in plain words.
        factor: of the learning rate that worked, if that is the cause.
        certain: whether this is a fault; otherwise the budget may only have been too small.
    """

    name: Name
    message: str
    factor: float | None = None
    certain: bool = True


def cause_of(setting: Setting, fit: Fit, steps: int, outputs: Sequence[str]) -> Cause:
    """Return what kept a copy from learning: first what can be seen, then what experiments say.

    The experiments are learning rates around the run's own, and fewer weeks, for half the steps each.

    Args:
        fit: that failed, by `learn(setting, steps)`.
        outputs: names of the outputs.
    """
    for look in (_nothing_learns, _squashed, _inputs, _contradictions, _unused_inputs, _no_loss, _no_gradient):
        found = look(setting, fit, outputs)
        if found is not None:
            return found
    rates = {factor: learn(setting, steps // 2, factor=factor) for factor in _factors(fit)}
    return _learning_rate(fit, rates) or _fewer_weeks(setting, fit, rates, steps)


def _nothing_learns(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    del setting, outputs
    if fit.frozen < 1 and len(fit.still) < fit.asked:
        return None
    what = "all weights are frozen" if fit.frozen == 1 else "no gradient reaches any weight"
    return Cause("architecture", f"nothing can be learned: {what}")


def _squashed(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    del setting, outputs
    if fit.last is None or not fit.last.squashed_by:
        return None
    return Cause(
        "architecture",
        f"the network's scores go through a {fit.last.squashed_by} before a loss that wants logits, so that they "
        "cannot be what the loss asks for; take the activation away",
    )


def _inputs(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    del fit, outputs
    tensors = [each for batch in setting.batches for each in tensors_in(batch) if each.is_floating_point()]
    wide = [each for each in tensors if each.dim() >= 2]
    if any(bool(each.isinf().any()) for each in wide):
        return Cause("input", "the inputs hold infinite values")
    same = same_inputs(setting.batches)
    if same is not None and len(same) > 1 and len(set(same.tolist())) == 1:
        return Cause("input", f"all {len(same)} weeks have exactly the same inputs; look at how batches are made")
    return None


def _contradictions(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    """Weeks with the same inputs and different targets, which no network can tell apart."""
    same = same_inputs(setting.batches)
    if same is None or fit.last is None or len(same) != len(fit.last.targets):
        return None
    targets = fit.last.targets.cpu().numpy()
    count = 0
    for number in np.unique(same):
        rows = targets[same == number]
        spread = np.nanmax(rows, axis=0, initial=-np.inf) - np.nanmin(rows, axis=0, initial=np.inf)
        count += len(rows) if len(rows) > 1 and (spread > 0).any() else 0
    if not count:
        return None
    which = [outputs[i] for i in range(len(outputs)) if i < targets.shape[1]]
    return Cause(
        "labels",
        f"{count} of {len(same)} weeks have exactly the inputs of another one, and other labels ({', '.join(which)}), "
        "so that no network can tell them apart; look at how labels are joined to weeks",
    )


def _unused_inputs(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    """Whether scores stay when each week gets the inputs of another one."""
    del outputs
    if setting.scores is not None or fit.kind is None:
        return None
    moved = [
        (batch, with_inputs(batch, lambda inputs: inputs.roll(1, dims=0)))
        for batch in setting.batches
        if (batch_size(batch) or 0) > 1
    ]
    for batch, other in moved:
        if other is None:
            return None
        before, after = _scores(setting, batch), _scores(setting, other)
        if before is None or after is None or before.shape != after.shape:
            return None
        if float((before - after).abs().max()) > _SAME * max(float(before.abs().max()), 1e-12):
            return None
    if not moved:
        return None
    return Cause(
        "input",
        "the scores stay the same when each week is given the inputs of another one, so the inputs do not reach them; "
        f"look for a slice, a mask or a dead layer between the two{_below(fit)}",
    )


def _below(fit: Fit) -> str:
    return f" ({_some(fit.still)} without a gradient)" if fit.still else ""


def _scores(setting: Setting, batch: Any) -> Tensor | None:
    with rng_untouched(), torch.inference_mode(False):
        replay = Replay(setting.module, setting.context, setting.trainer)
        torch.manual_seed(0)
        with Answers(batch) as seen:
            replay.step(batch, 0, Streams.now())
    answer = seen.answer()
    return None if answer is None else answer.scores


def _no_loss(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    """Outputs to whose scores the loss sends no gradient, or whose scores send none to any weight."""
    if fit.first is None or fit.first.scores.shape[1] != len(outputs):
        return None
    sent = fit.first.gradient
    without = set() if sent is None or not sent.any() else {i for i, each in enumerate(sent.tolist()) if not each}
    without |= _cut_off(setting, setting.batches[0])
    fine = fit.learned
    named = [name for i, name in enumerate(outputs) if fine[i] is False and i in without]
    if not named or len(named) == len(outputs):
        return None
    return Cause(
        "loss",
        f"no gradient goes through {', '.join(named)}; look at its weight, and at what is detached or masked",
    )


def _cut_off(setting: Setting, batch: Any) -> set[int]:
    """Return the outputs whose scores no weight has a gradient of."""
    with rng_untouched(), torch.inference_mode(False), torch.enable_grad():
        replay = Replay(setting.module, setting.context, setting.trainer)
        with Answers(batch) as seen:
            replay.step(batch)
        if len(seen.live) != 1 or not seen.live[0].requires_grad:
            return set()
        weights = [each for each in replay.twin.parameters() if each.requires_grad]
        scores = seen.live[0] if seen.live[0].dim() > 1 else seen.live[0][:, None]
        found = set()
        for i in range(scores.shape[1]):
            given = torch.autograd.grad(scores[:, i].sum(), weights, retain_graph=True, allow_unused=True)
            if not any(each is not None and bool(each.any()) for each in given):
                found.add(i)
        return found


def _no_gradient(setting: Setting, fit: Fit, outputs: Sequence[str]) -> Cause | None:
    del setting, outputs
    if fit.left_out:
        return Cause(
            "architecture",
            f"{_some(fit.left_out)} in no optimiser, so they never change; look at configure_optimizers",
        )
    if fit.still:
        return Cause(
            "architecture",
            f"{_some(fit.still)} without a gradient; look for a detach, a dead layer or a part that is not used",
        )
    if fit.frozen > 0.5:
        return Cause("architecture", f"{fit.frozen:.0%} of the weights are frozen (requires_grad=False)")
    return None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'are' if len(names) > 1 else 'is'}"


def _factors(fit: Fit) -> list[float]:
    """Return factors of the learning rate to try: what makes steps of a usual size, or if they are, around it."""
    usual = _USUAL / fit.update if fit.update > 0 and math.isfinite(fit.update) else 1.0
    usual = 10.0 ** round(math.log10(usual))
    return sorted({0.1, 10.0} if 0.05 < usual < 20 else {usual, 10 * usual} if usual > 1 else {0.1, usual, 10 * usual})


def _learning_rate(fit: Fit, rates: dict[float, Fit]) -> Cause | None:
    better = {factor: each for factor, each in rates.items() if each.reached}
    if not better:
        better = {factor: each for factor, each in rates.items() if _much_lower(each, fit)}
    if not better:
        return None
    factor, other = min(better.items(), key=lambda pair: (not pair[1].reached, pair[1].best))
    did = f"all is learned in {other.steps} steps" if other.reached else f"the loss falls to {other.best:.3g}"
    now = f"{_number(fit.rate)}, where it {_course(fit)} (a step changes the weights by {fit.update:.1e} of their size)"
    end = f"with {_number(fit.rate * factor)} {did}, from the same start"
    if factor < 1:
        return Cause("learning_rate", f"too high: {now}; {end}", factor)
    return Cause("learning_rate", f"too low: {now}; {end}", factor, certain=not _falls(fit))


def _much_lower(other: Fit, fit: Fit) -> bool:
    """Whether another rate brings the loss down by a fifth, and three times as far as this one, or this fails."""
    if math.isnan(other.best) or not other.losses[0] > 0:
        return False
    fallen = [
        0.0 if not math.isfinite(each.losses[-1]) else 1 - each.losses[-1] / each.losses[0] for each in (other, fit)
    ]
    return fallen[0] > max(0.2, 3 * fallen[1]) or (fallen[0] > 0.2 and other.losses[-1] < 0.5 * fit.losses[-1])


def _course(fit: Fit) -> str:
    if not math.isfinite(fit.losses[-1]):
        return f"is not finite after {fit.steps} steps"
    return f"went from {fit.losses[0]:.3g} to {fit.losses[-1]:.3g} in {fit.steps} steps"


def _falls(fit: Fit) -> bool:
    """Whether the loss of the last quarter is clearly below that of the quarter before it."""
    quarter = len(fit.losses) // 4
    if quarter < 2 or not np.isfinite(fit.losses).all():
        return False
    last, before = np.mean(fit.losses[-quarter:]), np.mean(fit.losses[-2 * quarter : -quarter])
    return bool(last < (1 - _FALLS) * before and last < fit.losses[0])


def _fewer_weeks(setting: Setting, fit: Fit, rates: dict[float, Fit], steps: int) -> Cause:
    """Say whether a quarter of the weeks can be learned: few but not many is capacity, none is architecture."""
    tried = ", ".join(_number(fit.rate * each) for each in (*rates, 1.0))
    course = f"The loss {_course(fit)}; learning rates of {tried} do no better."
    if _falls(fit):
        return Cause("budget", f"it is still being learned when the budget ends. {course} Raise steps", certain=False)
    few = _quarter(setting, fit)
    if few is None:
        return Cause("unknown", course)
    other = learn(few, steps // 2)
    count = sum(batch_size(batch) or 0 for batch in few.batches)
    if other.reached and other.losses[-1] < 0.5 * other.losses[0]:
        return Cause(
            "capacity", f"{count} of the weeks are learned in {other.steps} steps, and not all. {course} Widen it"
        )
    return Cause(
        "architecture",
        f"not even {count} weeks are learned. {course} Gradients reach all layers, so look at what the layers are",
    )


def _quarter(setting: Setting, fit: Fit) -> Setting | None:
    """Return the same with a quarter of the weeks of the first batches, of both classes of an output that failed."""
    batch = setting.batches[0]
    size = batch_size(batch) or 0
    if fit.last is None or size < 2 or sum(batch_size(each) or 0 for each in setting.batches) != len(fit.last.targets):
        return None
    failed = [i for i, fine in enumerate(fit.learned) if fine is False and i < fit.last.targets.shape[1]]
    targets = fit.last.targets[:size].cpu().numpy()
    for column in (targets[:, i] for i in failed):
        ranked = [int(i) for i in np.argsort(column, kind="stable") if not np.isnan(column[i])]
        if len(ranked) > 1 and column[ranked[0]] != column[ranked[-1]]:
            half = max(1, min(2, len(fit.last.targets) // 8))
            return replace(setting, batches=[rows_of(batch, sorted({*ranked[:half], *ranked[-half:]}))])
    return None


def _number(value: float) -> str:
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+").replace(".0e", "e")
