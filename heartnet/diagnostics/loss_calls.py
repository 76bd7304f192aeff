"""Calls of torch's own loss functions, seen from outside: what they are given, and what gradient comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from heartnet.diagnostics.replay import tensors_in

Kind = Literal["binary", "classes", "other"]

_KINDS: dict[Callable[..., Any], Kind] = {
    F.binary_cross_entropy_with_logits: "binary",
    torch.binary_cross_entropy_with_logits: "binary",
    F.cross_entropy: "classes",
    F.binary_cross_entropy: "other",
    F.nll_loss: "other",
    F.mse_loss: "other",
    F.l1_loss: "other",
    F.smooth_l1_loss: "other",
    F.huber_loss: "other",
    F.kl_div: "other",
}


@dataclass
class LossCall:
    """One call of a loss function. Tensors stay on their device; gradients come with the backward pass.

    Attributes:
        name: of the function.
        kind: `"binary"`: logits of independent yes and no; `"classes"`: logits of one of several classes; `"other"`.
        logits: first argument, `[sample, output]` (positions are counted as samples).
        samples: first dimension of that argument as it was given.
        value: what it costs by this function, mean over known values; NaN for `"other"`.
        uninformed: the same for logits of 0; NaN for `"other"`.
        squashed_by: an activation through which the logits went just before, for example `"sigmoid"`; `""` if none.
        partly: activations that made some of the outputs, by their place, where outputs were put together from parts.
        gradient: sum over samples of the squared gradient of each logit, `[output]`; None before the backward pass.
        sign: sum of the gradient of the loss with respect to what the function returned; negative if training
            climbs. None before the backward pass.
    """

    name: str
    kind: Kind
    logits: Float[Tensor, "sample output"]
    samples: int
    positives: Float[Tensor, " output"]
    known: Float[Tensor, " output"]
    value: Float[Tensor, ""]
    uninformed: float
    squashed_by: str
    partly: Mapping[int, str] = field(default_factory=dict)
    gradient: Float[Tensor, " output"] | None = field(default=None)
    sign: Float[Tensor, ""] | None = field(default=None)

    @property
    def cut(self) -> bool:
        """Whether an activation stands between the network and a loss that expects logits."""
        return self.kind != "other" and self.squashed_by != ""


class LossCalls(TorchFunctionMode):
    """Notes, while it is entered, each call of a loss function of `torch.nn.functional`; results stay bit for bit.

    Args:
        batch: of the training step. Targets that are NaN in it are not counted, where the loss got them as zeros.
    """

    looks_at = "calls"
    """Changes nothing, so training goes on in pieces (`heartnet.model.pieces.score`)."""

    def __init__(self, batch: Any = None) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._unknown = [each for each in tensors_in(batch) if each.is_floating_point()]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        kind = _KINDS.get(func)
        if kind is not None and not torch.compiler.is_compiling():
            self._note(func.__name__, kind, args, kwargs or {}, result)
        return result

    def _note(self, name: str, kind: Kind, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        given = dict(zip(("input", "target"), args, strict=False)) | dict(kwargs)
        logits, target = given.get("input"), given.get("target")
        if not (isinstance(logits, Tensor) and isinstance(target, Tensor) and logits.dim() > 0 and len(logits)):
            return
        table = _table(logits.detach(), kind)
        call = LossCall(
            name, kind, table, len(logits), *_facts(table, target, kind, self._known(target)), activation_of(logits),
            activations_of_parts(logits),
        )  # fmt: skip
        if logits.requires_grad:
            logits.register_hook(_note_gradient(call, kind))  # type: ignore[no-untyped-call]
        if isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(_note_sign(call))  # type: ignore[no-untyped-call]
        self.calls.append(call)

    def _known(self, target: Tensor) -> Bool[Tensor, ...]:
        for each in self._unknown:
            if each.shape == target.shape:
                return ~each.isnan()
        return torch.ones_like(target, dtype=torch.bool)


def _note_gradient(call: LossCall, kind: Kind) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        found = _table(gradient.detach(), kind).float().square().sum(dim=0)
        call.gradient = found if call.gradient is None else call.gradient + found

    return note


def _note_sign(call: LossCall) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        call.sign = gradient.detach().float().sum()

    return note


def _table(values: Tensor, kind: Kind) -> Shaped[Tensor, "sample output"]:
    """Return values as [sample, output]; the outputs are the second dimension."""
    if values.dim() == 1:
        return values[None] if kind == "classes" else values[:, None]
    return values.movedim(1, -1).reshape(-1, values.shape[1])


def _facts(
    logits: Float[Tensor, "sample output"], target: Tensor, kind: Kind, known: Bool[Tensor, ...]
) -> tuple[Float[Tensor, " output"], Float[Tensor, " output"], Float[Tensor, ""], float]:
    """Return positives and known targets of each output, the mean loss, and what logits of 0 would cost."""
    nothing = logits.new_full((logits.shape[1],), math.nan)
    if kind == "binary" and target.numel() == logits.numel():
        yes, mask = _table(target.detach().float().nan_to_num(), kind), _table(known, kind).float()
        each = F.binary_cross_entropy_with_logits(logits.float(), yes, reduction="none")
        value = (each * mask).sum() / mask.sum().clamp(min=1)
        return (yes * mask).sum(dim=0), mask.sum(dim=0), value, math.log(2)
    if kind == "classes" and not target.is_floating_point():
        classes = logits.shape[1]
        flat = target.detach().reshape(-1)
        valid = (flat >= 0) & (flat < classes)
        one_hot = F.one_hot(flat.clamp(0, classes - 1), classes).float() * valid[:, None]
        value = -(logits.float().log_softmax(dim=1) * one_hot).sum() / valid.sum().clamp(min=1)
        count = valid.sum().float().expand(classes)
        return one_hot.sum(dim=0), count, value, math.log(max(classes, 2))
    return nothing, nothing, nothing.new_tensor(math.nan), math.nan


_ACTIVATIONS = {
    "ReluBackward0": "ReLU",
    "SigmoidBackward0": "sigmoid",
    "SoftmaxBackward0": "softmax",
    "SoftplusBackward0": "softplus",
    "HardtanhBackward0": "ReLU6 or hardtanh",
    "HardsigmoidBackward0": "hard sigmoid",
    "ThresholdBackward0": "ReLU",
}
_THROUGH = (
    "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute", "Select", "Slice", "Gather",
    "ToCopy", "Alias", "Clone", "Mean", "Sum", "Div", "Mul", "Index", "Expand", "Narrow", "Nan",
)  # fmt: skip
"""Operations that hand on what they are given, also those that average or mask it."""
_SAME_PLACES = ("ToCopy", "Alias", "Clone", "Div", "Mul", "Nan")
"""Those that leave each output where it was."""


def activation_of(logits: Tensor) -> str:
    """Return the activation that made `logits`, but for views, masks and means; `""` if it was none.

    It is read from the graph, so an activation is found however its values happen to lie.
    """
    return _ACTIVATIONS.get(type(_made_by(logits.grad_fn, _THROUGH)).__name__, "")


def activations_of_parts(logits: Tensor) -> dict[int, str]:
    """Return the activations that made some of the outputs, where `torch.cat` or `torch.stack` joined them.

    Args:
        logits: `[sample, output]`; others give nothing.

    Returns:
        by the output's place; empty if outputs were not joined, or none went through an activation.
    """
    joint = _made_by(logits.grad_fn, _SAME_PLACES) if logits.dim() == 2 else None
    kind = type(joint).__name__
    if kind not in ("CatBackward0", "StackBackward0") or getattr(joint, "_saved_dim", None) not in (1, 2**64 - 1):
        return {}
    found: dict[int, str] = {}
    place = 0
    for node, number in joint.next_functions if joint is not None else ():
        if node is None:  # a part without a gradient, whose width is not known
            return {}
        name = _ACTIVATIONS.get(type(_made_by(node, _THROUGH)).__name__, "")
        width = 1 if kind == "StackBackward0" else node._input_metadata[number].shape[1]
        found |= dict.fromkeys(range(place, place + width), name) if name else {}
        place += width
    return found


def _made_by(node: Any, through: Sequence[str]) -> Any:
    """Return the first node of a graph that is none of the operations in `through`; None if the way forks."""
    for _ in range(32):
        name = type(node).__name__
        if node is None or name.partition("Backward")[0] not in through:
            return node
        before = [each for each, _ in node.next_functions if each is not None]
        if len(before) != 1:
            return None
        node = before[0]
    return None
