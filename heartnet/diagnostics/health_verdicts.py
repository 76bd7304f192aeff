"""From what was seen of a training to verdicts: which layer, which output, which weight, and what may help."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_finding import Settings, finding, learning_rate, others
from heartnet.diagnostics.health_gradients import BATCHES, CONFIRM, LARGEST_GROWTH, SMALLEST_GRADIENT
from heartnet.diagnostics.trends import Trend
from heartnet.findings import Finding, Status

LARGEST_UPDATE = 0.3
"""Clean runs stay below 0.1 (of the weights' norm, a step); a learning rate 1,000 times too high lies above 1."""
SMALLEST_CHANGE = 1e-3
"""Change of a layer's weights over a whole run, of at least `SHORTEST` steps, below which it counts as frozen."""
SHORTEST = 1000
SMALLEST_CLIPPED = 1e-3
SKIPPED = 20
"""Steps that a gradient scaler leaves out running before it is more than a search for its scale."""


def updates(health: Health, planned: float, settings: Settings, *, end: bool = False) -> list[Finding]:
    """Layers that a step moves too far, or that stay where they are."""
    looks = [look for look in health.looks if look.updates]
    found: list[Finding] = []
    fast = {
        layer: [look.updates[layer] for look in looks[-64:] if look.updates.get(layer, 0) > LARGEST_UPDATE]
        for layer in health.weights.layers
    }
    wild = {layer: max(values) for layer, values in fast.items() if len(values) >= 3}
    if wild:
        worst = max(wild, key=lambda layer: wild[layer])
        message = (
            f"a step changes the weights of {worst} by {wild[worst]:.2g} of their size{others([worst, *wild])}: the "
            "learning rate is too high; healthy steps change about a thousandth"
        )
        found.append(
            finding(
                "fail", f"{worst}/update", message, wild[worst], LARGEST_UPDATE, "of the weights a step",
                learning_rate(settings, 3e-3 / wild[worst]),
            )
        )  # fmt: skip
    if len(looks) < CONFIRM or not (end or health.batches >= max(BATCHES, 0.05 * min(planned, 1e5))):
        return found
    steps = max(planned if math.isfinite(planned) else 0, SHORTEST)
    largest = {layer: value for layer, value in health.largest.items() if _reached(health, layer)}
    frozen = [layer for layer in health.weights.layers if layer in largest and largest[layer] * steps < SMALLEST_CHANGE]
    if frozen and len(frozen) == len(largest):
        value = max(largest.values())
        message = (
            f"no layer's weights change by more than {value:.2g} of their size in a step, which makes "
            f"{value * steps:.2g} in {steps:,.0f} steps: they hardly move. The learning rate is too low, or gradients "
            "are cut"
        )
        cure = learning_rate(settings, 1e-3 / value if value else math.inf)
        found.append(finding("fail", "optimiser/update", message, value, SMALLEST_CHANGE / steps, "a step", cure))
    elif frozen:
        value = max(largest[layer] for layer in frozen)
        message = (
            f"gradients reach {frozen[0]}, and its weights stay where they are{others(frozen)}: its learning rate is 0 "
            "or far too low, or steps are lost in rounding"
        )
        found.append(finding("warn", f"{frozen[0]}/update", message, value, SMALLEST_CHANGE / steps, "a step"))
    else:
        found += _never_moved(health)
    return found


def _never_moved(health: Health) -> list[Finding]:
    """Single weights that no step moves, though gradients reach them and their layer learns."""
    still = [
        each.name
        for each in health.weights.all
        if each.tensor.requires_grad and each.optimised and each.steps >= CONFIRM and not each.moved
        and each.part > SMALLEST_GRADIENT  # a bias before a normalisation has one of rounding errors
    ]  # fmt: skip
    if not still:
        return []
    message = (
        f"gradients reach {still[0]}, and none of the steps that were looked at moved it{others(still)}: its learning "
        "rate is 0, it is set anew after each step, or steps are lost in rounding"
    )
    return [finding("warn", f"{still[0]}/update", message, 0.0, 0.0, "a step")]


def _reached(health: Health, layer: str) -> bool:
    """Say whether gradients reach the weights that a layer's update is measured by; behind a dead layer none do."""
    weights = (health.weights.all[place] for place in health.weights.matrices(health.weights.layers[layer]))
    return any(each.tensor.requires_grad and each.optimised and each.nonzero > 0 for each in weights)


def clipped(health: Health, settings: Settings) -> list[Finding]:
    """Gradients of which clipping leaves next to nothing."""
    factors = [look.clipped for look in health.looks if look.clipped is not None][-CONFIRM:]
    if len(factors) < CONFIRM or statistics.median(factors) >= SMALLEST_CLIPPED:
        return []
    left = statistics.median(factors)
    message = (
        f"clipping leaves {left:.2g} of the gradient's norm at {CONFIRM} looks running: training stalls on it. Clip "
        "higher; 1 is usual"
    )
    cure = ("trainer.gradient_clip_val=1.0",) if "trainer.gradient_clip_val" in settings else ()
    return [finding("fail", "gradient/clipped", message, left, SMALLEST_CLIPPED, "of the norm left", cure)]


def activations(health: Health) -> list[Finding]:
    """Layers whose outputs grew or shrank far beyond what they were at the first look."""
    looks = list(health.looks)[-3:]
    if len(looks) < 3 or health.first is None:
        return []
    for layer, before in list(health.first.activations.items())[:-1]:  # the last may start as small as it likes
        now = [look.activations.get(layer, before) / before for look in looks if before > 0]
        if len(now) == 3 and (min(now) > LARGEST_GROWTH or 0 < max(now) < 0.1 / LARGEST_GROWTH):
            word = "grew" if now[-1] > 1 else "shrank"
            message = (
                f"outputs of {layer} {word} to {now[-1]:.2g} times what they were at the first look: it is the first "
                "layer of which that is so, and what follows works on other numbers than it was made for"
            )
            limit = LARGEST_GROWTH if now[-1] > 1 else 0.1 / LARGEST_GROWTH
            return [finding("warn", f"{layer}/activation", message, now[-1], limit, "× first look")]
    return []


def course(found: Trend, batches: int, health: Health, settings: Settings) -> list[Finding]:
    """A loss that rises, or that had fallen and came back."""
    numbers = f"{found.first:.3g} at first, {found.lowest:.3g} at best, {found.last:.3g} at last"
    lower = learning_rate(settings, 0.3)
    if found.course == "rises":
        status: Status = "fail" if found.last > 1.5 * found.first else "warn"
        message = f"the loss rises, {numbers}: steps are too large, or go the wrong way"
        return [finding(status, "loss/trend", message, found.last, found.first, "loss at last; at first", lower)]
    if found.course == "returns":
        message = f"the loss fell and came back, {numbers}: a smaller learning rate, or clipping, may hold it"
        return [finding("fail", "loss/trend", message, found.last, found.lowest, "loss at last; at best", lower)]
    knowing_nothing = health.started[0][1] if health.started else math.nan
    would_be_seen = 8 * found.noise < 0.2 * abs(found.first)
    if found.course == "flat" and would_be_seen and batches >= 200 and not found.first < 0.5 * knowing_nothing:
        message = (
            f"the loss does not fall in {batches} batches, {numbers}, give or take {found.noise:.2g}: nothing is "
            "learned. Look at the other findings first; if there are none, at whether inputs and labels belong together"
        )
        return [finding("warn", "loss/trend", message, found.last, found.first, "loss at last; at first")]
    return []


def chance(name: str, values: Sequence[float], positives: float, negatives: float, band: float) -> list[Finding]:
    """An AUROC that stays where one that says nothing would be, in a validation set that could tell."""
    if band > 0.1 or not values or any(abs(each - 0.5) > band for each in values[-3:]):
        return []
    message = (
        f"the AUROC of {name} stays at 0.5, over {len(values)} validations: {values[-1]:.3f} with {positives:.0f} "
        f"positives and {negatives:.0f} "
        f"negatives, where scores that say nothing give 0.5 ± {band:.3f}. Look at whether inputs and labels of the "
        "validation split belong together, and at the baseline: it tells whether there is something to learn"
    )
    return [finding("warn", f"{name}/auroc", message, values[-1], 0.5 + band, "AUROC")]


def unrewarded(name: str, values: Sequence[float], found: Trend, noise: float) -> list[Finding]:
    """A loss that falls while the score of the validation split does not rise."""
    fell = found.course == "falls" and found.last < 0.7 * found.first and found.first > 0
    if not fell or len(values) < 5 or max(values[1:]) > values[0] + noise or values[0] > 0.75:
        return []
    message = (
        f"the loss falls from {found.first:.3g} to {found.last:.3g} while {name} does not rise from {values[0]:.3f} "
        f"in {len(values)} validations: what is learned does not carry over (learned by heart, or another kind of "
        "data in validation), or the score is of something else"
    )
    return [finding("warn", f"{name}/reward", message, max(values[1:]), values[0] + noise, "at best; enough would be")]
