"""Verdicts on what can be told of a training before its first step, and by its first batches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_finding import finding, others
from heartnet.diagnostics.loss_calls import LossCall
from heartnet.diagnostics.start import Mixing, Scale
from heartnet.diagnostics.trends import base_rate_loss
from heartnet.findings import Finding

LARGEST_WEIGHTS = 10.0
LARGEST_GAIN = 20.0
LARGEST_DEPTH = 1000.0
"""How far outputs may grow or shrink through all layers, beside a fresh network's."""
MIXED = 1e-5
"""Without mixing the two passes are equal bit for bit on a CPU, and within rounding elsewhere."""


def left_out(health: Health) -> list[Finding]:
    """Weights that ask for a gradient and that no optimiser has, by layer; where there is an optimiser at all."""
    found = []
    if not any(each.optimised for each in health.weights.all):
        return []
    for layer, places in health.weights.layers.items():
        missing = [w for w in (health.weights.all[i] for i in places) if w.tensor.requires_grad and not w.optimised]
        if missing:
            names = ", ".join(each.name.rpartition(".")[2] for each in missing)
            own = missing[0].name == layer  # the module holds it itself
            count = sum(each.tensor.numel() for each in missing)
            found.append(
                finding(
                    "fail", f"{layer}/optimiser",
                    f"no optimiser has {names} of {'the module' if own else layer}: they never move. Give "
                    "configure_optimizers these parameters too, or freeze them (requires_grad_(False)) if it is meant",
                    count, 0, "weights without an optimiser",
                )
            )  # fmt: skip
    return found


def mixed(found: Mixing | None) -> list[Finding]:
    """Samples of a batch that change one another's scores."""
    if found is None or found.value <= MIXED:
        return []
    where = f"what {found.layer} puts out" if found.layer else "the scores themselves"
    message = (
        f"the score of a sample depends on the other samples of its batch, first seen in {where}: in "
        "evaluation mode, when the others became copies of it, it moved. Look there, and between it and the layer "
        "before, for a view or reshape where permute or transpose was meant, or a mean over the batch"
    )
    return [finding("fail", f"{found.layer or 'batch'}/mixing", message, found.value, MIXED, "of the largest logit")]


def odd_start(scales: Sequence[Scale]) -> list[Finding]:
    """Initial weights or outputs far larger than those of the same layers initialised anew, or outputs that fade."""
    heavy = [each for each in scales if each.weights > LARGEST_WEIGHTS]
    hidden = scales[:-1]  # the last may start at the base rates
    loud = [each for each in hidden if min(each.gain, each.output) > LARGEST_GAIN]
    deep = [each for each in hidden if not 1 / LARGEST_DEPTH < each.output < LARGEST_DEPTH]
    if heavy:
        worst = heavy[0]
        message = (
            f"initial weights of {worst.layer} are {worst.weights:.3g} times as large as PyTorch would have them"
            f"{others([each.layer for each in heavy])}: its outputs are {worst.output:.3g} times as large. Leave the "
            "initialisation to PyTorch, or scale it by 1/√inputs"
        )
        return [finding("fail", f"{worst.layer}/start", message, worst.weights, LARGEST_WEIGHTS, "× fresh weights")]
    if loud:
        worst = loud[0]
        too = others([each.layer for each in loud])
        ratio = f"{worst.output:.3g} times as large as with PyTorch's initial weights"
        message = f"outputs of {worst.layer} at the start are {ratio}{too}: those of the layer before are not"
        if worst.bias:
            after = ". After a ReLU, nothing of it would be left" if worst.bias < 0 else ""
            message = (
                f"initial biases of {worst.layer} are {worst.bias:.3g} on average{too}: they make up most of what it "
                f"puts out, which is {ratio}{after}. Let biases start at 0"
            )
        return [finding("warn", f"{worst.layer}/start", message, worst.gain, LARGEST_GAIN, "× fresh outputs")]
    if deep:
        worst = deep[-1]
        word, limit = ("shrink", 1 / LARGEST_DEPTH) if worst.output < 1 else ("grow", LARGEST_DEPTH)
        message = (
            f"outputs {word} from layer to layer, to {worst.output:.2g} times those of a fresh network at "
            f"{worst.layer}: each layer's initial weights are a little too {'small' if worst.output < 1 else 'large'}, "
            "and that adds up. Initialise them by their number of inputs, or normalise between layers"
        )
        return [finding("warn", f"{worst.layer}/start", message, worst.output, limit, "× fresh outputs")]
    return []


def same_units(health: Health) -> list[Finding]:
    """Layers of which all units are one and the same."""
    rows = [name.rpartition(".")[0] for name in health.same_rows()]
    layers = list(dict.fromkeys([*([health.equal] if health.equal else []), *rows]))
    if not layers:
        return []
    message = (
        f"all units of {layers[0]} start the same{others(layers)}: with equal weights they put out the same, and as "
        "long as nothing after them tells them apart they also learn the same, as one unit. Initialise them at random"
    )
    return [finding("fail", f"{layers[0]}/units", message, len(layers), 0, "layers whose units are all the same")]


def start_loss(health: Health) -> list[Finding]:
    """The loss of the first batch against the base rates of the first three, and against knowing nothing."""
    if len(health.started) < 3:
        return []
    kind = health.started[0][4]
    value = health.started[0][0]
    limit = 1.5 * health.started[0][1]
    positives, known = (
        [sum(column) for column in zip(*(each[place] for each in health.started), strict=True)] for place in (2, 3)
    )
    rates = base_rate_loss(positives, known, kind)
    nothing = f"knowing nothing costs {health.started[0][1]:.2g}; the base rates alone would cost {rates:.2g}"
    if not value > limit:
        message = f"The loss starts at {value:.2g}. {nothing[0].upper()}{nothing[1:]}"
        if value > 2 * rates:
            message += ". A last bias of log(p / (1 − p)), with p the base rate, would start there and save first steps"
        return [finding("pass", "loss/start", message, value, limit, "nats at the start; at most")]
    message = (
        f"the loss starts at {value:.3g}, where {nothing}: before the first step the network is sure of wrong answers. "
        "Look at the scale of its inputs and initial weights, and at targets that mean something else to the loss"
    )
    return [finding("warn", "loss/start", message, value, limit, "nats at the start")]


_BINARY = {"sigmoid": "scores stay between 0.5 and 0.73", "ReLU": "scores cannot fall below 0.5"}


def squashed(health: Health, calls: Sequence[LossCall]) -> list[Finding]:
    """Logits, or those of some outputs, that went through an activation before a loss that expects them without.

    Args:
        health: knows the names of the outputs.
        calls: of the loss functions, in two steps.
    """
    found = {
        f"logits/{call.squashed_by}": (
            f"the logits go through a {call.squashed_by} before {call.name}, which expects them without: "
            f"{_range(call.squashed_by, call.name)}. Leave the {call.squashed_by} out"
        )
        for call in calls
        if call.cut
    }
    for number, call in enumerate(calls[: len(calls) // 2] if not found else ()):
        for place, activation in call.partly.items() if call.kind != "other" else ():
            name = health.names_of(call, number)[place]
            found[f"{name}/range"] = (
                f"the logits of {name} go through a {activation} before {call.name}, and those of other outputs do "
                f"not: {_range(activation, call.name)}. Leave the {activation} out"
            )
    return [finding("fail", where, message) for where, message in found.items()]


def _range(activation: str, name: str) -> str:
    cut = "the range of the scores is cut"
    return _BINARY.get(activation, cut) if name.startswith("binary") else cut


def left_on(module: nn.Module) -> list[Finding]:
    """Dropout and batch normalisation that are still in training mode while the module is evaluated."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    layers = [name for name, each in module.named_modules() if each.training and isinstance(each, kinds)]
    if module.training or not layers:
        return []
    message = (
        f"{layers[0]} is in training mode during validation{others(layers)}: scores are random, or depend on the "
        "batch. Look for a train() that is called by hand, or an eval() that does not reach it"
    )
    return [finding("warn", f"{layers[0]}/mode", message, len(layers), 0, "layers")]
