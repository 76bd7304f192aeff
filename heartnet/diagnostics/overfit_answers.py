"""What a training step answers and what it was asked, seen at its loss functions; and how well one fits the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from heartnet.diagnostics.loss_calls import activation_of
from heartnet.diagnostics.replay import tensors_in

Kind = Literal["binary", "classes", "values"]

LIMITS: dict[Kind, float] = {"binary": 0.99, "classes": 0.99, "values": 0.9}
"""What counts as learned by heart: AUROC of each condition, of each class against the others, or the share of a value's
variance that is explained. Squared error goes on falling long after the order of two classes is right, so that 0.9
comes about as late as an AUROC of 0.99."""

UNITS: dict[Kind, str] = {"binary": "AUROC", "classes": "AUROC", "values": "share of variance"}

_LOSSES: dict[Callable[..., Any], Kind] = {
    F.binary_cross_entropy_with_logits: "binary",
    torch.binary_cross_entropy_with_logits: "binary",
    F.binary_cross_entropy: "binary",
    F.cross_entropy: "classes",
    F.nll_loss: "classes",
    F.mse_loss: "values",
    F.l1_loss: "values",
    F.smooth_l1_loss: "values",
    F.huber_loss: "values",
}
_WANT_LOGITS = (F.binary_cross_entropy_with_logits, torch.binary_cross_entropy_with_logits, F.cross_entropy)
_DROPOUTS = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
)  # fmt: skip
_MOST_OUTPUTS = 16


@dataclass
class Answer:
    """Scores and targets of one step.

    Attributes:
        scores: what the loss function was given, `[sample, output]`.
        targets: `[sample, output]`; 1 and 0 for conditions and classes, NaN where unknown.
        squashed_by: an activation between the network and a loss that wants logits; `""` if there is none.
        are_logits: whether scores are logits, so that their cross-entropy can be told.
        gradient: of the loss, `[output]`, root of the sum of squares over samples; None before the backward pass.
    """

    kind: Kind
    scores: Float[Tensor, "sample output"]
    targets: Float[Tensor, "sample output"]
    squashed_by: str = ""
    are_logits: bool = False
    gradient: Float[Tensor, " output"] | None = None


class Answers(TorchFunctionMode):
    """While it is entered, notes what torch's loss functions are given, and leaves dropout out.

    Args:
        batch: of the step. Targets that are NaN in it are unknown, also where the loss got zeros in their place.
        order: `[sample]`, what stands in the place of each sample's targets; None leaves them. The order is within
            the step, and known targets change places only with known ones.
    """

    def __init__(self, batch: Any = None, order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.found: list[Answer] = []
        self.live: list[Tensor] = []
        self._order = order
        self._unknown = [each for each in tensors_in(batch) if each.is_floating_point()]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else given["input"]
        kind = _LOSSES.get(func)
        named = dict(zip(("input", "target"), args, strict=False)) | given
        scores, target = named.get("input"), named.get("target")
        if kind is None or not isinstance(scores, Tensor) or not isinstance(target, Tensor) or not scores.dim():
            return func(*args, **given)
        if self._order is not None and len(target) == len(self._order):
            target = self._shuffled(target)
            args, given = (scores, target, *args[2:]), {k: v for k, v in given.items() if k not in ("input", "target")}
        self._note(func, kind, scores, target)
        return func(*args, **given)

    def answer(self) -> Answer | None:
        """Return what the step was asked: calls with as many samples as the first stand side by side as outputs.

        Conditions and classes go before values, which often are a second, helping task.
        """
        for kind in ("binary", "classes", "values"):
            here = [each for each in self.found if each.kind == kind]
            here = [each for each in here if len(each.scores) == len(here[0].scores)]
            if here:
                gradients = [torch.zeros(each.scores.shape[1]) if (g := each.gradient) is None else g for each in here]
                return replace(
                    here[0],
                    scores=torch.cat([each.scores for each in here], dim=1),
                    targets=torch.cat([each.targets for each in here], dim=1),
                    squashed_by=next((each.squashed_by for each in here if each.squashed_by), ""),
                    gradient=torch.cat([each.to(gradients[0].device) for each in gradients]),
                )
        return None

    def _shuffled(self, target: Tensor) -> Tensor:
        unknown = next((each.isnan() for each in self._unknown if each.shape == target.shape), None)
        order = torch.as_tensor(self._order, device=target.device)
        if unknown is None or target.dim() == 1:
            return target[order]
        mixed = target.clone()
        for column in range(target.shape[1]):
            known = (~unknown[:, column]).nonzero()[:, 0]
            mixed[known, column] = target[order[torch.isin(order, known)], column]
        return mixed

    def _note(self, func: Any, kind: Kind, scores: Tensor, target: Tensor) -> None:
        squashes = func in _WANT_LOGITS
        if kind == "classes" and target.is_floating_point():
            kind = "values"  # shares of classes
        if kind == "classes":
            if scores.dim() < 2:
                return
            table = scores.detach().movedim(1, -1).reshape(-1, scores.shape[1]).float()
            flat = target.detach().reshape(-1)
            if len(flat) != len(table):
                return
            valid = (flat >= 0) & (flat < table.shape[1])
            wanted = F.one_hot(flat.clamp(0, table.shape[1] - 1), table.shape[1]).float()
            wanted[~valid] = torch.nan
        else:
            if target.numel() != scores.numel():
                return
            wide = scores.dim() > 1
            table = (scores.movedim(1, -1).reshape(-1, scores.shape[1]) if wide else scores[:, None]).detach().float()
            known = target.detach().float()
            for each in self._unknown:
                if each.shape == target.shape:
                    known = torch.where(each.isnan(), torch.nan, known)
            known = known.reshape(scores.shape)
            wanted = known.movedim(1, -1).reshape(-1, scores.shape[1]) if wide else known[:, None]
        found = Answer(kind, table, wanted, activation_of(scores) if squashes else "", squashes or func is F.nll_loss)
        self.live.append(scores)
        if scores.requires_grad:
            scores.register_hook(_note_gradient(found))  # type: ignore[no-untyped-call]
        self.found.append(found)


def fits(
    kind: Kind, scores: Float[np.ndarray, "sample output"], targets: Float[np.ndarray, "sample output"]
) -> list[float]:
    """Return how well each output is learned (see `LIMITS`); NaN where both classes, or two values, are not there.

    More than sixteen outputs count as one, by the mean of those that can be told.
    """
    each = [_fit(kind, scores[:, i], targets[:, i]) for i in range(scores.shape[1])]
    if len(each) <= _MOST_OUTPUTS:
        return each
    told = [value for value in each if not np.isnan(value)]
    return [float(np.mean(told)) if told else np.nan]


def costs(answer: Answer) -> list[float]:
    """Return the cross-entropy of each output with its known targets, in nats; NaN where scores are no logits.

    More than sixteen outputs count as one, by their mean.
    """
    if not answer.are_logits or answer.kind == "values":
        return [np.nan] * (answer.scores.shape[1] if answer.scores.shape[1] <= _MOST_OUTPUTS else 1)
    scores, known = answer.scores, ~answer.targets.isnan()
    if answer.kind == "classes":  # of each class, over its samples and those of others
        scores = scores.log_softmax(dim=1).clamp(max=-1e-7)
        scores = scores - torch.log1p(-scores.exp())
    each = F.binary_cross_entropy_with_logits(scores, answer.targets.nan_to_num(), reduction="none")
    found = torch.where(known, each, 0).sum(dim=0) / known.sum(dim=0)
    return [float(value) for value in found] if len(found) <= _MOST_OUTPUTS else [float(found.nanmean())]


def auroc(scores: Float[np.ndarray, " sample"], positive: Float[np.ndarray, " sample"]) -> float:
    """Return P(score of a positive > score of a negative), ties counting half; NaN without both, or without a number.

    Source: Mann and Whitney 1947.
    """
    yes = positive > 0.5
    count, others = int(yes.sum()), int((~yes).sum())
    if not count or not others or not np.isfinite(scores).all():
        return np.nan
    return float((rankdata(scores)[yes].sum() - count * (count + 1) / 2) / (count * others))


def _fit(kind: Kind, scores: Float[np.ndarray, " sample"], targets: Float[np.ndarray, " sample"]) -> float:
    known = ~np.isnan(targets)
    score, target = scores[known], targets[known]
    if len(target) < 2 or target.min() == target.max():
        return np.nan
    if not np.isfinite(score).all():
        return 0.0
    if kind != "values":
        return auroc(score, target)
    return float(1 - np.mean((score - target) ** 2) / np.var(target))


def _note_gradient(found: Answer) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        table = gradient.detach().float()
        table = table[:, None] if table.dim() == 1 else table.movedim(1, -1).reshape(-1, table.shape[1])
        found.gradient = table.square().sum(dim=0).sqrt()

    return note
