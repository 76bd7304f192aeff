"""Calls of torch's own loss functions, with all they were given, so that they can be computed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LOSSES = {
    getattr(F, name): name
    for name in (
        "binary_cross_entropy_with_logits", "cross_entropy", "binary_cross_entropy", "nll_loss", "mse_loss", "l1_loss",
        "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss", "gaussian_nll_loss", "soft_margin_loss",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a loss function of torch.

    Attributes:
        name: of the function.
        input, target: what it was given.
        options: further arguments, by name.
        result: what came out, as part of the graph.
        value: the same as it was then: some go on computing in its place.
    """

    name: str
    input: Tensor
    target: Tensor
    options: Mapping[str, Any]
    result: Any
    value: Tensor | None


class Calls(TorchFunctionMode):
    """Keeps, while it is entered, the calls of torch's loss functions; results stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        name = _LOSSES.get(func)
        if name is not None:
            given = dict(zip(("input", "target", "weight"), args, strict=False)) | dict(kwargs or {})
            one, other = given.pop("input", None), given.pop("target", None)
            if isinstance(one, Tensor) and isinstance(other, Tensor):
                options = given if len(args) <= 3 else {"unknown": True}
                value = result.detach().clone() if isinstance(result, Tensor) else None
                self.seen.append(Call(name, one, other, options, result, value))
        return result
