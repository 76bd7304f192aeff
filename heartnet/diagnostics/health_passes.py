"""What training_health looked for and did not find: what was measured, and how far it may go."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence

from heartnet.diagnostics.health import Health, Look
from heartnet.diagnostics.health_finding import finding
from heartnet.diagnostics.health_gradients import CONFIRM, LARGEST_GROWTH, SMALLEST_GRADIENT, beside
from heartnet.diagnostics.health_verdicts import LARGEST_UPDATE, SMALLEST_CLIPPED
from heartnet.diagnostics.trends import trend
from heartnet.findings import Finding


def passes(health: Health, said: Collection[str]) -> list[Finding]:
    """Return a row for each thing that was looked for and not found, and for what could not be looked for.

    Args:
        said: places of findings that are no passes.
    """
    looks, aspects = list(health.looks), {where.rpartition("/")[2] for where in said}
    rows = [
        *_finite(health), *_weights(health), *_gradients(health, looks), *_updates(looks), *_clipped(looks),
        *_activations(health, looks), *_outputs(health), *_course(health),
    ]  # fmt: skip
    found = [each for each in rows if each.where.rpartition("/")[2] not in aspects]
    return found + _not_seen(health)


def _pass(where: str, message: str, value: float | None, limit: float | None, unit: str) -> Finding:
    return finding("pass", where, message, value, limit, unit)


def _finite(health: Health) -> list[Finding]:
    message = f"loss and gradients were finite in all {health.batches} batches"
    return [_pass("finite", message, 0, 0, f"of {health.batches} batches with NaN or infinity; at most")]


def _weights(health: Health) -> list[Finding]:
    trained = sum(each.tensor.requires_grad for each in health.weights.all)
    message = f"an optimiser has each of the {trained} parameters that ask for a gradient"
    units = "the units of each layer start with weights of their own"
    return [
        _pass("optimiser", message, 0, 0, f"of {trained} parameters without an optimiser; at most"),
        _pass("units", units, 0, 0, "layers whose units are all the same; at most"),
    ]


def _gradients(health: Health, looks: Sequence[Look]) -> list[Finding]:
    layers = [layer for layer in health.weights.layers if any(look.gradients.get(layer, 0) > 0 for look in looks)]
    least = {layer: statistics.median(beside(look, layer) for look in looks[-CONFIRM:]) for layer in layers}
    if not least:
        return []
    weakest = min(least, key=lambda layer: least[layer])
    message = (
        f"A gradient reaches all {len(least)} layers that are trained. {weakest} gets least, {least[weakest]:.2g} of "
        "what the layer with most gets"
    )
    return [_pass("gradient", message, least[weakest], SMALLEST_GRADIENT, "of the largest of a layer; at least")]


def _updates(looks: Sequence[Look]) -> list[Finding]:
    largest = {
        layer: statistics.median(look.updates[layer] for look in looks if layer in look.updates)
        for layer in dict.fromkeys(layer for look in looks for layer in look.updates)
    }
    if not largest:
        return []
    fastest = max(largest, key=lambda layer: largest[layer])
    message = (
        f"Steps change weights at a healthy pace. A usual one changes those of {fastest} most, by "
        f"{largest[fastest]:.2g} of their size; about 0.001 is usual"
    )
    return [_pass("update", message, largest[fastest], LARGEST_UPDATE, "of a layer's weights a step; at most")]


def _clipped(looks: Sequence[Look]) -> list[Finding]:
    left = [look.clipped for look in looks if look.clipped is not None]
    if not left:
        return []
    middle = statistics.median(left)
    kept = (
        "clipping leaves gradients as they are" if middle > 0.999 else f"clipping usually leaves {middle:.2g} of them"
    )
    return [_pass("clipped", kept, middle, SMALLEST_CLIPPED, "of the gradient's norm left; at least")]


def _activations(health: Health, looks: Sequence[Look]) -> list[Finding]:
    first = {} if health.first is None else health.first.activations
    last = looks[-1].activations if looks else {}
    grown = {layer: last[layer] / first[layer] for layer in last if first.get(layer, 0) > 0 and last[layer] > 0}
    if not grown:
        return []
    most = max(grown, key=lambda layer: abs(math.log(grown[layer])))
    message = (
        f"Outputs keep their size. Of {len(grown)} layers, {most} changed most, to {grown[most]:.2g} times as large"
    )
    return [_pass("activation", message, grown[most], LARGEST_GROWTH, "× the outputs at the first look; at most")]


def _outputs(health: Health) -> list[Finding]:
    shares = {
        name: statistics.fmean(look.shares[name] for look in health.looks if name in look.shares)
        for name in health.outputs
        if any(name in look.shares for look in health.looks)
    }
    if len(shares) < 2:
        return []
    least = min(shares, key=lambda name: shares[name])
    message = (
        f"Each of {len(shares)} outputs gets a part of the gradient. {least} gets least, {shares[least]:.2g} of it"
    )
    return [_pass("share", message, shares[least], 0, "of the gradient to the output with least; above")]


def _course(health: Health) -> list[Finding]:
    found = trend(health.losses.values)
    if found.course == "too short":
        return []
    words = "The loss falls" if found.course == "falls" else "The loss neither falls nor rises clearly"
    message = f"{words}. It is {found.first:.3g} in the first tenth of the run, {found.last:.3g} in the last"
    return [_pass("trend", message, found.last, found.first, "loss in the last tenth; in the first")]


def _not_seen(health: Health) -> list[Finding]:
    if health.compiled:
        message = "outputs of layers inside compiled modules, and the loss functions, cannot be seen; not looked at"
        return [finding("unknown", "compiled", message)]
    if not health.outputs:
        message = "the loss is no cross-entropy of torch.nn.functional, so what base rates would cost is not known"
        return [finding("unknown", "loss/start", message)]
    return []
