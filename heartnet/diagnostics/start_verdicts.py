"""Verdicts on what can be told of a training before its first step, and by its first batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_finding import finding, others
from heartnet.diagnostics.start import Mixing, Scale
from heartnet.diagnostics.trends import base_rate_loss
from heartnet.findings import Finding

LARGEST_WEIGHTS = 10.0
LARGEST_GAIN = 20.0
MIXED = 1e-5
"""Without mixing the two passes are equal bit for bit on a CPU, and within rounding elsewhere."""


def left_out(health: Health) -> list[Finding]:
    """Weights that ask for a gradient and that no optimiser has, by layer."""
    found = []
    for layer, places in health.weights.layers.items():
        missing = [w for w in (health.weights.all[i] for i in places) if w.tensor.requires_grad and not w.optimised]
        if missing:
            names = ", ".join(each.name.rpartition(".")[2] for each in missing)
            count = sum(each.tensor.numel() for each in missing)
            found.append(
                finding(
                    "fail", f"{layer or missing[0].name}/optimiser",
                    f"no optimiser has {names} of {layer or 'the module'}, so they never move; give "
                    "configure_optimizers these parameters too, or freeze them (requires_grad_(False)) if it is meant",
                    count, 0, "weights",
                )
            )  # fmt: skip
    return found


def mixed(found: Mixing | None) -> list[Finding]:
    """Samples of a batch that change one another's scores."""
    if found is None or found.value <= MIXED:
        return []
    message = (
        "the score of a sample depends on the other samples of its batch, in evaluation mode: when they became copies "
        f"of it, it moved; {found.layer or 'something after all layers'} is where it first shows. Look before it for a "
        "view or reshape where permute or transpose was meant, or a mean over the batch"
    )
    return [finding("fail", f"{found.layer or 'batch'}/mixing", message, found.value, MIXED, "of the largest logit")]


def odd_start(scales: Sequence[Scale]) -> list[Finding]:
    """Initial weights, or outputs, far larger than those of the same layer initialised anew."""
    heavy = [each for each in scales if each.weights > LARGEST_WEIGHTS]
    loud = [each for each in scales[:-1] if each.gain > LARGEST_GAIN]  # the last may start at the base rates
    if heavy:
        worst = heavy[0]
        message = (
            f"initial weights of {worst.layer} are {worst.weights:.3g} times as large as PyTorch would have them, and "
            f"its outputs {worst.output:.3g} times{others([each.layer for each in heavy])}"
        )
        return [finding("fail", f"{worst.layer}/start", message, worst.weights, LARGEST_WEIGHTS, "× fresh weights")]
    if loud:
        worst = loud[0]
        message = (
            f"outputs of {worst.layer} at the start are {worst.output:.3g} times as large as with PyTorch's initial "
            f"weights, and those of the layer before are not{others([each.layer for each in loud])}"
        )
        return [finding("warn", f"{worst.layer}/start", message, worst.gain, LARGEST_GAIN, "× fresh outputs")]
    return []


def same_units(health: Health) -> list[Finding]:
    """Layers of which all units are one and the same."""
    rows = [name.rpartition(".")[0] for name in health.same_rows()]
    layers = list(dict.fromkeys([*([health.equal] if health.equal else []), *rows]))
    if not layers:
        return []
    message = (
        f"all units of {layers[0]} are the same: equal weights, equal outputs, equal gradients, so they stay one unit"
        f"{others(layers)}. Initialise them at random"
    )
    return [finding("fail", f"{layers[0]}/units", message, 1.0, None, "distinct units")]


def start_loss(health: Health) -> list[Finding]:
    """The loss of the first batch against the base rates of the first three, and against knowing nothing."""
    if len(health.started) < 3:
        return []
    kind = health.started[0][4]
    value = health.started[0][0]
    limit = 1.5 * health.started[0][1]
    count = sum(each[3] for each in health.started)
    rates = base_rate_loss([sum(each[2] for each in health.started)], [count], kind) if kind == "binary" else math.nan
    known = f"; the base rates alone would cost {rates:.2g}" if math.isfinite(rates) else ""
    if not value > limit:
        return [finding("pass", "loss/start", "", value, limit, "nats")]
    message = (
        f"the loss starts at {value:.3g}, and one that knows nothing costs {health.started[0][1]:.2g}{known}: before "
        "the first step the network is sure of wrong answers. Look at the scale of its inputs and initial weights, and "
        "at targets that mean something else to the loss"
    )
    return [finding("warn", "loss/start", message, value, limit, "nats")]


def squashed(names: Sequence[tuple[str, str]]) -> list[Finding]:
    """Logits that went through an activation before a loss that expects them without.

    Args:
        names: activation and loss function of each call.
    """
    binary = {"sigmoid": "scores stay between 0.5 and 0.73", "ReLU": "scores cannot fall below 0.5"}
    cut = "the range of the scores is cut"
    return [
        finding(
            "fail", f"logits/{activation}",
            f"the logits go through a {activation} before {name}, which expects them without: "
            f"{binary.get(activation, cut) if name.startswith('binary') else cut}. Leave the {activation} out",
        )
        for activation, name in dict.fromkeys(names)
    ]  # fmt: skip


def left_on(layers: Sequence[str]) -> list[Finding]:
    """Dropout and batch normalisation that are still in training mode while the module is evaluated."""
    if not layers:
        return []
    message = (
        f"{layers[0]} is in training mode during validation{others(layers)}: scores are random, or depend on the "
        "batch. Look for a train() that is called by hand, or an eval() that does not reach it"
    )
    return [finding("warn", f"{layers[0]}/mode", message, len(layers), 0, "layers")]
