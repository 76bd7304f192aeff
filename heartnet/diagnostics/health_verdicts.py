"""From what was seen of a training to verdicts: which layer, which output, which weight, and what may help."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Sequence

from heartnet.diagnostics.health import Health, Look
from heartnet.diagnostics.health_finding import Settings, finding, learning_rate, others
from heartnet.diagnostics.trends import Trend, trend
from heartnet.findings import Finding, Status

CONFIRM = 5
"""Looks after which a verdict that could pass is given."""
BATCHES = 10
"""Batches in which a gradient is missing before it is said."""
LARGEST_UPDATE = 0.3
"""Clean runs stay below 0.1 (of the weights' norm, a step); a learning rate 1,000 times too high lies above 1."""
SMALLEST_CHANGE = 1e-3
"""Change of a layer's weights over a whole run, of at least `SHORTEST` steps, below which it counts as frozen."""
SHORTEST = 1000
SMALLEST_CLIPPED = 1e-3
SMALLEST_GRADIENT = 1e-5
"""Of the largest of a layer."""
SMALLEST_SHARE = 1e-4
"""Of what a layer's gradient was at the first look, both beside the largest."""
LARGEST_GROWTH = 1000.0
SKIPPED = 20
"""Steps that a gradient scaler leaves out running before it is more than a search for its scale."""


def heads(health: Health) -> list[Finding]:
    """Outputs that are cut at 0, and outputs that get no gradient."""
    found = []
    for name, each in health.outputs.items():
        counted = each.count * (each.looks - 1) / max(each.looks, 1)
        zeros = each.zeros / counted if counted else 0.0
        if each.looks > CONFIRM and zeros > 0.05 and min(abs(each.low), abs(each.high)) == 0:
            side = "below" if each.low == 0 else "above"
            message = (
                f"the logits of {name} are exactly 0 in {zeros:.0%} of samples and never {side} 0: a ReLU, or another "
                "cut, stands between the last layer and the loss, and where it is closed nothing is learned"
            )
            found.append(finding("fail", f"{name}/range", message, zeros, 0.05, "of logits at 0"))
        elif each.looks >= CONFIRM and each.unmoved == each.looks:
            found.append(_untrained(name, "though its labels are known and other outputs get one"))
    still = [name for name, (looks, none) in health.rows.items() if looks >= CONFIRM and looks == none]
    return found + [_untrained(name, "while other outputs get one") for name in still]


def _untrained(name: str, beside: str) -> Finding:
    message = (
        f"no gradient comes back to {name}, {beside}: the weight of its loss is 0, or it is masked or detached; its "
        "head stays untrained"
    )
    return finding("fail", f"{name}/gradient", message, 0.0, 0.0, "of the gradient")


def climbing(health: Health) -> list[Finding]:
    """A loss whose sign is flipped."""
    signs = [look.loss_sign for look in list(health.looks)[-3:]]
    known = [sign for sign in signs if sign is not None]
    if len(known) < 3 or max(known) >= 0:
        return []
    message = "training climbs the loss instead of descending: the result of the loss function has a minus before it"
    return [finding("fail", "loss/sign", message, max(known), 0.0, "d loss / d loss function")]


def gradients(health: Health, *, enough: int = BATCHES) -> list[Finding]:
    """Layers that no gradient reaches, or only zeros; the layer where it starts is named."""
    weights = [each for each in health.weights.all if each.tensor.requires_grad and each.optimised]
    absent = [each for each in weights if each.asked >= enough and each.reached == 0]
    zero = [each for each in weights if each.asked >= enough and each.reached > 0 and each.nonzero == 0]
    found = []
    for layers, lone in (_whole(health, absent),):
        if layers:
            origin, ran = layers[-1], not health.called or layers[-1] in health.called
            why = "what it puts out is cut off from the loss (detach, no_grad, .data, argmax, or not used)"
            message = f"no gradient reaches {origin}: {why if ran else 'it is never run'}{others(layers, 'below it')}"
            status: Status = "fail" if ran else "warn"
            found.append(finding(status, f"{origin}/gradient", message, 0.0, 0.0, "gradients"))
        for name in lone:
            found.append(finding("warn", f"{name}/gradient", f"no gradient reaches {name}", 0.0, 0.0, "gradients"))
    layers, _ = _whole(health, zero)
    if layers:
        message = (
            f"the gradient of {layers[-1]} is exactly 0 in every batch: what lies between it and the loss is dead, "
            f"saturated or multiplied by 0{others(layers, 'below it')}"
        )
        found.append(finding("fail", f"{layers[-1]}/gradient", message, 0.0, 0.0, "gradient norm"))
    return found


def small_gradients(health: Health) -> list[Finding]:
    """Layers whose gradient is vanishingly small beside the others', or beside what it was; one that grew and grew."""
    looks, first = list(health.looks)[-CONFIRM:], health.first
    if len(looks) < CONFIRM or first is None:
        return []
    for layer in reversed(_in_order(health, health.weights.layers)):
        shares = [_beside(look, layer) for look in looks]
        before = _beside(first, layer)
        low = all(0 < share < SMALLEST_GRADIENT for share in shares)
        lost = all(0 < share < SMALLEST_SHARE * before for share in shares)
        if low or lost:
            than = "" if low else f", of which it had {before:.2g} at the first look"
            message = (
                f"the gradient of {layer} vanishes: {shares[-1]:.2g} of the largest{than}, at {CONFIRM} "
                "looks running; what lies between it and the loss lets next to nothing through"
            )
            limit = SMALLEST_GRADIENT if low else SMALLEST_SHARE * before
            return [finding("warn", f"{layer}/gradient", message, shares[-1], limit, "of the largest")]
    norms = [math.hypot(*look.gradients.values(), 0.0) for look in (first, *looks)]
    if norms[0] > 0 and min(norms[1:]) > LARGEST_GROWTH * norms[0]:
        largest = max(looks[-1].gradients, key=lambda layer: looks[-1].gradients[layer])
        message = f"gradients explode: their norm is {norms[-1] / norms[0]:.2g} times the first, most in {largest}"
        return [finding("warn", f"{largest}/explosion", message, norms[-1] / norms[0], LARGEST_GROWTH, "× first look")]
    return []


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
            f"the weights hardly move: no layer changes by more than {value:.2g} of its size in a step, which makes "
            f"{value * steps:.2g} in {steps:,.0f} steps. The learning rate is too low, or gradients are cut"
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
    return found


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
    message = f"clipping leaves {left:.2g} of the gradient's norm at {CONFIRM} looks running: training stalls on it"
    cure = ("trainer.gradient_clip_val=1.0",) if "trainer.gradient_clip_val" in settings else ()
    return [finding("fail", "gradient/clipped", message, left, SMALLEST_CLIPPED, "of the norm left", cure)]


def activations(health: Health) -> list[Finding]:
    """Layers whose outputs grew or shrank far beyond what they were at the first look."""
    looks = list(health.looks)[-3:]
    if len(looks) < 3 or health.first is None:
        return []
    for layer, before in health.first.activations.items():
        now = [look.activations.get(layer, before) / before for look in looks if before > 0]
        if len(now) == 3 and (min(now) > LARGEST_GROWTH or 0 < max(now) < 0.1 / LARGEST_GROWTH):
            word = "grew" if now[-1] > 1 else "shrank"
            message = f"outputs of {layer}, the first layer of which that is so, {word} to {now[-1]:.2g} of their size"
            return [finding("warn", f"{layer}/activation", message, now[-1], LARGEST_GROWTH, "× first look")]
    return []


def course(found: Trend, batches: int, health: Health, settings: Settings) -> list[Finding]:
    """A loss that rises, or that had fallen and came back."""
    numbers = f"{found.first:.3g} at first, {found.lowest:.3g} at best, {found.last:.3g} at last"
    lower = learning_rate(settings, 0.3)
    if found.course == "rises":
        status: Status = "fail" if found.last > 1.5 * found.first else "warn"
        return [finding(status, "loss/trend", f"the loss rises: {numbers}", found.last, found.first, "", lower)]
    if found.course == "returns":
        message = f"the loss fell and came back: {numbers}. A smaller learning rate, or clipping, may hold it"
        return [finding("fail", "loss/trend", message, found.last, found.lowest, "", lower)]
    knowing_nothing = health.started[0][1] if health.started else math.nan
    would_be_seen = 8 * found.noise < 0.2 * abs(found.first)
    if found.course == "flat" and would_be_seen and batches >= 200 and not found.first < 0.5 * knowing_nothing:
        message = f"the loss does not fall in {batches} batches: {numbers}, where noise is {found.noise:.2g}"
        return [finding("warn", "loss/trend", message, found.last, found.first, "")]
    return []


def chance(name: str, values: Sequence[float], positives: float, negatives: float, band: float) -> list[Finding]:
    """An AUROC that stays where one that says nothing would be, in a validation set that could tell."""
    if band > 0.1 or not values or any(abs(each - 0.5) > band for each in values[-3:]):
        return []
    message = (
        f"the AUROC of {name} stays at 0.5: {values[-1]:.3f} with {positives:.0f} positives and {negatives:.0f} "
        f"negatives, among which one that says nothing lies within 0.5 ± {band:.3f}"
    )
    return [finding("warn", f"{name}/auroc", message, values[-1], 0.5 + band, "AUROC")]


def unrewarded(name: str, values: Sequence[float], found: Trend, noise: float) -> list[Finding]:
    """A loss that falls while the score of the validation split does not rise."""
    fell = found.course == "falls" and found.last < 0.7 * found.first and found.first > 0
    if not fell or len(values) < 5 or max(values[1:]) > values[0] + noise or values[0] > 0.75:
        return []
    message = (
        f"the loss falls from {found.first:.3g} to {found.last:.3g} while {name} does not rise from {values[0]:.3f} "
        f"in {len(values)} validations: what is learned does not carry over, or the score is not of this output"
    )
    return [finding("warn", f"{name}/reward", message, max(values[1:]), values[0] + noise, "")]


def passes(health: Health, said: Collection[str]) -> list[Finding]:
    """What was looked for and not found, and what could not be looked for."""
    aspects = {
        "finite": (health.batches, "batches"), "optimiser": (len(health.weights.all), "weights"),
        "gradient": (len(health.weights.layers), "layers"), "update": (len(health.looks), "looks"),
        "units": (None, ""), "trend": (None, ""),
    }  # fmt: skip
    if trend(health.losses.values).course == "too short":
        del aspects["trend"]
    clean = [each for each in aspects if not any(where.endswith(f"/{each}") for where in said)]
    found = [finding("pass", each, "", aspects[each][0], None, aspects[each][1]) for each in clean]
    if health.compiled:
        found.append(finding("pass", "compiled", "outputs of layers inside compiled modules were not looked at"))
    elif not health.outputs:
        found.append(finding("pass", "loss/start", "not checked: the loss is none of torch.nn.functional's"))
    return found


def _whole(health: Health, weights: Sequence[object]) -> tuple[list[str], list[str]]:
    """Return layers all of whose trained weights are among `weights`, in the order in which they run; and the rest."""
    chosen = {id(each) for each in weights}
    layers, lone = [], []
    for layer, places in health.weights.layers.items():
        here = [health.weights.all[place] for place in places]
        trained = [each for each in here if each.tensor.requires_grad and each.optimised]
        inside = [each for each in trained if id(each) in chosen]
        if inside and len(inside) == len(trained):
            layers.append(layer)
        else:
            lone += [each.name for each in inside]
    return _in_order(health, layers), lone


def _in_order(health: Health, layers: Iterable[str]) -> list[str]:
    """Return layers in the order in which they ran at the last look; those that were not seen first."""
    order = list(health.looks[-1].activations) if health.looks else []
    return sorted(layers, key=lambda layer: order.index(layer) if layer in order else -1)


def _beside(look: Look, layer: str) -> float:
    """Return a layer's gradient norm, over the largest of a layer."""
    largest = max(look.gradients.values(), default=0.0)
    return look.gradients.get(layer, 0.0) / largest if largest > 0 else 0.0
