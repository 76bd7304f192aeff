"""Verdicts on gradients: the layer and the output that they do not reach, since when, and which way they push."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from heartnet.diagnostics.health import Health, Look, Output
from heartnet.diagnostics.health_causes import NO_GRAPH
from heartnet.diagnostics.health_finding import finding, others
from heartnet.diagnostics.weights import Weight
from heartnet.findings import Finding, Status

CONFIRM = 5
"""Looks after which a verdict that could pass is given."""
BATCHES = 10
"""Batches in which a gradient is missing before it is said."""
PAUSE = 5
"""A gradient that came and went before has to be away so many times as long as it ever was."""
SMALLEST_GRADIENT = 1e-5
"""Of the largest of a layer."""
SMALLEST_SHARE = 1e-4
"""Of what a layer's gradient was at the first look, both beside the largest."""
SMALLEST_OUTPUT = 1e-3
"""Of the largest of an output, by known label, in the first looks; rare labels stay above a hundredth."""
LARGEST_GROWTH = 1000.0


def heads(health: Health) -> list[Finding]:
    """Outputs that are cut at 0, and outputs that get no gradient, or next to none."""
    found = []
    for name, each in health.outputs.items():
        counted = each.count * (each.looks - 1) / max(each.looks, 1)
        zeros = each.zeros / counted if counted else 0.0
        if each.looks > CONFIRM and zeros > 0.05 and min(abs(each.low), abs(each.high)) == 0:
            side = "below" if each.low == 0 else "above"
            message = (
                f"the logits of {name} are exactly 0 in {zeros:.0%} of samples and never {side} 0: a ReLU, or another "
                "cut, stands between the last layer and the loss, and where it is closed nothing is learned. Leave it "
                "out"
            )
            found.append(finding("fail", f"{name}/range", message, zeros, 0.05, "of logits at 0"))
        elif each.looks >= CONFIRM and each.unmoved == each.looks:
            found.append(_untrained(name, "though its labels are known and other outputs get one"))
    still = [name for name, (looks, none) in health.rows.items() if looks >= CONFIRM and looks == none]
    return found + [_untrained(name, "while other outputs get one") for name in still] + _faint(health.outputs)


def _faint(outputs: dict[str, Output]) -> list[Finding]:
    """Outputs whose loss weighs next to nothing, by the first looks: later, an output may be learned, and need none."""
    sizes = {
        name: each.gradient / math.sqrt(each.known)
        for name, each in outputs.items()
        if each.looks == CONFIRM and each.known > 0 and each.independent
    }
    largest = max(sizes.values(), default=0.0)
    found = []
    for name, size in sizes.items():
        if 0 < size < SMALLEST_OUTPUT * largest:
            message = (
                f"hardly any gradient goes to {name}, {size / largest:.2g} of what the output with most gets for each "
                "known label: its loss has a weight close to 0, so its head stays nearly untrained"
            )
            found.append(
                finding("warn", f"{name}/gradient", message, size / largest, SMALLEST_OUTPUT, "of the largest")
            )
    return found


def _untrained(name: str, beside: str) -> Finding:
    message = (
        f"no gradient comes back to {name}, {beside}: the weight of its loss is 0, or it is masked or detached, so its "
        "head stays untrained"
    )
    return finding("fail", f"{name}/gradient", message, 0.0, 0.0, "of the gradient")


def climbing(health: Health) -> list[Finding]:
    """A loss whose sign is flipped."""
    signs = [look.loss_sign for look in list(health.looks)[-3:]]
    known = [sign for sign in signs if sign is not None]
    if len(known) < 3 or max(known) >= 0:
        return []
    message = (
        "training climbs the loss instead of descending: the result of the loss function has a minus before it. Take "
        "the minus out of training_step"
    )
    return [finding("fail", "loss/sign", message, max(known), 0.0, "is the factor before the loss; it must be above")]


def gradients(health: Health, *, enough: int = BATCHES) -> list[Finding]:
    """Layers that no gradient reaches, or only zeros, from the start or since a step; the place where it starts."""
    weights = [each for each in health.weights.all if each.tensor.requires_grad and each.optimised]
    absent = [each for each in weights if each.asked >= enough and each.reached == 0]
    zero = [each for each in weights if each.asked >= enough and each.reached > 0 and each.nonzero == 0]
    found = []
    layers, lone = _whole(health, absent)
    if layers:
        origin, ran = layers[-1], not health.called or layers[-1] in health.called
        why = "what it puts out is cut off from the loss (detach, no_grad, .data, argmax, or not used)"
        message = f"no gradient reaches {origin}{others(layers, 'before it')}: {why if ran else 'it is never run'}"
        status: Status = "fail" if ran else "warn"
        found.append(finding(status, f"{origin}/gradient", message, 0.0, 0.0, NO_GRAPH))
    for name in lone:
        found.append(finding("warn", f"{name}/gradient", f"no gradient reaches {name}", 0.0, 0.0, NO_GRAPH))
    layers, _ = _whole(health, zero)
    if layers:
        message = (
            f"the gradient of {layers[-1]} is exactly 0 in every batch{others(layers, 'before it')}: what lies between "
            "it and the loss is dead (a ReLU that is never above 0), saturated, or multiplied by 0"
        )
        return [*found, finding("fail", f"{layers[-1]}/gradient", message, 0.0, 0.0, "gradient norm")]
    return found + _stopped(health, weights)


def _stopped(health: Health, weights: Sequence[Weight]) -> list[Finding]:
    """Layers that had a gradient and have none any more, unless there is nothing left to learn."""
    gone = [each for each in weights if each.nonzero > 0 and each.idle >= max(BATCHES, PAUSE * each.longest)]
    layers, _ = _whole(health, [*gone, *(each for each in weights if each.asked > 0 and each.nonzero == 0)])
    layers = [layer for layer in layers if any(each.layer == layer for each in gone)]
    learned = health.losses.values[:1] and abs(health.healthy[-1].loss) <= 1e-6 * abs(health.losses.values[0])
    if not layers or learned:
        return []
    origin = layers[-1]
    since = max(each.last for each in gone if each.layer == origin) + 1
    cut = all(each.missing >= each.idle for each in gone if each.layer == origin)
    below = others(layers, "before it")
    if cut:
        message = (
            f"no gradient reaches {origin} since step {since}, and one did before{below}: from then on it is not run, "
            "or what it puts out is cut off from the loss. Mend it unless a schedule of yours means it"
        )
        return [finding("warn", f"{origin}/gradient", message, 0.0, 0.0, NO_GRAPH)]
    message = (
        f"the gradient of {origin} is exactly 0 since step {since}, and was not before{below}: what lies between it "
        "and the loss has died (a ReLU that is never above 0 any more), is saturated, or is multiplied by 0 from then "
        "on. A lower learning rate keeps ReLUs from dying; a leaky one cannot die"
    )
    return [finding("fail", f"{origin}/gradient", message, 0.0, 0.0, "gradient norm")]


def small_gradients(health: Health) -> list[Finding]:
    """Layers whose gradient is vanishingly small beside the others', or beside what it was; one that grew and grew."""
    looks, first = list(health.looks)[-CONFIRM:], health.first
    if len(looks) < CONFIRM or first is None:
        return []
    for layer in reversed(in_order(health, health.weights.layers)):
        shares = [beside(look, layer) for look in looks]
        before = beside(first, layer)
        low = all(0 < share < SMALLEST_GRADIENT for share in shares)
        lost = all(0 < share < SMALLEST_SHARE * before for share in shares)
        if low or lost:
            than = "" if low else f", where it had {before:.2g} at the first look"
            message = (
                f"the gradient of {layer} vanishes to {shares[-1]:.2g} of the largest of a layer{than}, at {CONFIRM} "
                "looks running: what lies between it and the loss lets next to nothing through. Shorter ways to it "
                "(skip connections), normalisation, or an activation that does not saturate may help"
            )
            limit = SMALLEST_GRADIENT if low else SMALLEST_SHARE * before
            return [finding("warn", f"{layer}/gradient", message, shares[-1], limit, "of the largest")]
    norms = [math.hypot(*look.gradients.values(), 0.0) for look in (first, *looks)]
    if norms[0] > 0 and min(norms[1:]) > LARGEST_GROWTH * norms[0]:
        largest = max(looks[-1].gradients, key=lambda layer: looks[-1].gradients[layer])
        message = (
            f"the gradient's norm is {norms[-1] / norms[0]:.2g} times what it was at the first look, most of it in "
            f"{largest}: gradients explode. A lower learning rate, or clipping, may hold them"
        )
        return [finding("warn", f"{largest}/explosion", message, norms[-1] / norms[0], LARGEST_GROWTH, "× first look")]
    return []


def _whole(health: Health, weights: Sequence[Weight]) -> tuple[list[str], list[str]]:
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
    return in_order(health, layers), lone


def in_order(health: Health, layers: Iterable[str]) -> list[str]:
    """Return layers in the order in which they ran at the last look; those that were not seen first."""
    order = list(health.looks[-1].activations) if health.looks else []
    return sorted(layers, key=lambda layer: order.index(layer) if layer in order else -1)


def beside(look: Look, layer: str) -> float:
    """Return a layer's gradient norm, over the largest of a layer."""
    largest = max(look.gradients.values(), default=0.0)
    return look.gradients.get(layer, 0.0) / largest if largest > 0 else 0.0
