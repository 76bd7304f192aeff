"""Is the loss what plain NumPy computes from the same logits and labels, and does it start where the base rates are?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from heartnet.diagnostics.wiring import Bench
from heartnet.diagnostics.wiring_calls import Call

Array = Float[np.ndarray, "..."]

_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "binary_cross_entropy_with_logits": {"weight": None, "pos_weight": None, "reduction": "mean"},
    "binary_cross_entropy": {"weight": None, "reduction": "mean"},
    "cross_entropy": {"weight": None, "ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"},
    "nll_loss": {"weight": None, "ignore_index": -100, "reduction": "mean"},
    "mse_loss": {"weight": None, "reduction": "mean"},
    "l1_loss": {"weight": None, "reduction": "mean"},
}
"""Loss functions that are computed again, with the options that are."""


@dataclass(frozen=True)
class LossValue:
    """A loss beside the same one in NumPy, float64.

    Attributes:
        found: what the training step, or the loss function, gave; None if it was not a number.
        expected: what NumPy gives; None if the loss is unknown.
        what: name of what was computed.
        shapes: of logits and targets where they are not the same, so that each logit meets other samples' targets.
        reason: why it could not be computed again.
    """

    found: float | None
    expected: float | None
    what: str
    shapes: str = ""
    reason: str = ""


@dataclass(frozen=True)
class StartLoss:
    """The loss before the first step, beside that of knowing nothing but the base rates of the same labels, in nats.

    `known` is whether these are the base rates of the training split, not of the few labels at hand.
    """

    found: float
    base: float
    known: bool


def loss_value(bench: Bench) -> list[LossValue]:
    """Compare what the training step gives, and each loss function of torch that it calls, with NumPy."""
    loss, calls = bench.step()
    found = [_called(each) for each in calls]
    if not calls:
        found = [LossValue(None, None, "the loss", reason="it calls no loss function of torch.nn.functional")]
    elif len(calls) == 1 and loss is not None and calls[0].value is not None:
        one, whole = calls[0].value, float(loss.detach())
        if one.dim() == 0 and abs(float(one) - whole) > 1e-4 * max(abs(whole), 1e-9):
            reason = f"the training step makes more of it than {calls[0].name}, whose own value was computed again"
            found.append(LossValue(whole, None, "the loss of the training step", reason=reason))
    return found


def known_loss(bench: Bench, kind: str, mean: Array, std: Array) -> LossValue:
    """Compare the training step's loss with that of a heartnet module: the mean over targets that are known.

    Args:
        kind: `"conditions"`: cross-entropy of independent logits; else the squared error of standardised targets.
        mean: of each target.
        std: of each target.
    """
    scores = _array(bench.scores())
    loss, _ = bench.step()
    targets = _array(bench.batch["targets"])
    known = ~np.isnan(targets)
    if kind == "conditions":
        each = _binary(scores, np.nan_to_num(targets))
    else:
        each = (scores - np.nan_to_num((targets - mean) / std)) ** 2
    expected = float(each[known].mean()) if known.any() else 0.0
    return LossValue(None if loss is None else float(loss.detach()), expected, f"the loss of {kind}")


def start_loss(bench: Bench, rates: Sequence[float] | None = None, kind: str = "conditions") -> StartLoss | None:
    """Return the loss of the first scores and that of the base rates, in evaluation mode; None if it is unknown.

    Args:
        rates: base rates of the training split, for a module of heartnet; None takes those of the labels at hand.
        kind: of task, of a module of heartnet.
    """
    if rates is not None:
        scores, targets = _array(bench.scores()), _array(bench.batch["targets"])
        known = ~np.isnan(targets)
        if not known.any() or kind != "conditions":
            return None
        rate = np.clip(np.asarray(rates, float), 1e-3, 1 - 1e-3)
        base = _binary(np.broadcast_to(np.log(rate / (1 - rate)), targets.shape), np.nan_to_num(targets))
        return StartLoss(float(_binary(scores, np.nan_to_num(targets))[known].mean()), float(base[known].mean()), True)
    _, calls = bench.step()
    for call in calls:
        logits, targets = _array(call.input), _array(call.target)
        if (
            call.name == "binary_cross_entropy_with_logits"
            and logits.shape == targets.shape
            and call.options.get("pos_weight") is None
        ):
            known = ~np.isnan(targets)
            found = float(_binary(logits, np.nan_to_num(targets))[known].mean())
            return StartLoss(found, math.log(2), False) if math.isfinite(found) else None
        if call.name == "cross_entropy" and not call.target.is_floating_point() and logits.ndim == 2:
            found = _cross_entropy(logits, targets, _KNOWN["cross_entropy"])
            return StartLoss(found, math.log(logits.shape[1]), False) if math.isfinite(found) else None
    return None


def _called(call: Call) -> LossValue:
    options = {name: value for name, value in call.options.items() if name not in ("size_average", "reduce")}
    defaults = _KNOWN.get(call.name)
    if defaults is None or set(options) - set(defaults):
        return LossValue(None, None, call.name, reason=f"{call.name} with these options is not computed again")
    options = {**defaults, **options}
    shapes = ""
    if call.name in ("mse_loss", "l1_loss") and call.input.shape != call.target.shape:
        shapes = f"{list(call.input.shape)} and {list(call.target.shape)}"
    if call.value is None:
        return LossValue(None, None, call.name, reason=f"{call.name} returned no tensor")
    found = float(call.value.double().mean())
    if options["reduction"] == "none":
        options["reduction"] = "mean of all"
    logits, target = _array(call.input), _array(call.target)
    plain = {name: _array(value) if isinstance(value, Tensor) else value for name, value in options.items()}
    if call.name == "cross_entropy":
        expected = _cross_entropy(logits, target, plain)
    elif call.name == "nll_loss":
        expected = _picked(-logits, target, plain)
    else:
        each = _each(call.name, logits, target, plain.get("pos_weight"))
        each = each if plain["weight"] is None else each * plain["weight"]
        expected = float(each.sum() if plain["reduction"] == "sum" else each.mean())
    return LossValue(found, expected, call.name, shapes)


def _each(name: str, logits: Array, target: Array, pos_weight: Array | None) -> Array:
    if name == "binary_cross_entropy_with_logits":
        return _binary(logits, target, pos_weight)
    if name == "binary_cross_entropy":
        yes, no = (np.maximum(np.log(np.maximum(each, 1e-300)), -100) for each in (logits, 1 - logits))
        return np.asarray(-(target * yes + (1 - target) * no))
    distance = np.abs(logits - target)
    return np.asarray(distance**2 if name == "mse_loss" else distance)


def _cross_entropy(logits: Array, target: Array, options: Mapping[str, Any]) -> float:
    shifted = logits - logits.max(axis=1 if logits.ndim > 1 else 0, keepdims=True)
    costs = np.log(np.exp(shifted).sum(axis=1 if logits.ndim > 1 else 0, keepdims=True)) - shifted
    if target.shape == logits.shape or options.get("label_smoothing"):
        if options["weight"] is not None or target.shape != logits.shape:
            return math.nan
        classes = costs.shape[1 if costs.ndim > 1 else 0]
        smooth = options.get("label_smoothing") or 0.0
        every = (costs * (target * (1 - smooth) + smooth / classes)).sum(axis=1 if costs.ndim > 1 else 0)
        return float(every.sum() if options["reduction"] == "sum" else every.mean())
    return _picked(costs, target, options)


def _picked(costs: Array, target: Array, options: Mapping[str, Any]) -> float:
    """Return the weighted mean (or sum) of the costs of the classes that are true."""
    table = np.moveaxis(np.atleast_2d(costs), 1, -1).reshape(-1, np.atleast_2d(costs).shape[1])
    flat = np.atleast_1d(target).reshape(-1).astype(np.int64)
    valid = flat != options["ignore_index"]
    flat = np.where(valid, flat, 0)
    weight = np.ones(table.shape[1]) if options["weight"] is None else options["weight"]
    each = table[np.arange(len(flat)), flat] * weight[flat] * valid
    if options["reduction"] == "sum":
        return float(each.sum())
    below = valid.sum() if options["reduction"] == "mean of all" else (weight[flat] * valid).sum()
    below = len(flat) if options["reduction"] == "mean of all" else below
    return float(each.sum() / below) if below > 0 else math.nan


def _binary(logits: Array, targets: Array, pos_weight: Array | None = None) -> Array:
    """Return max(x, 0) − x y + log(1 + exp(−|x|)), with positives weighted if asked for."""
    soft = np.log1p(np.exp(-np.abs(logits)))
    positive = 1.0 if pos_weight is None else pos_weight
    plus, minus = np.maximum(-logits, 0) + soft, np.maximum(logits, 0) + soft  # costs of a label of 1 and of 0
    found: Array = positive * targets * plus + (1 - targets) * minus
    return found


def _array(value: Tensor) -> Array:
    return np.asarray(value.detach().to("cpu", torch.float64).numpy())
