"""The gradient that reaches each unit, over every step, and the norm of all gradients, at hardly any cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from heartnet.diagnostics.layers import plain_name

SPIKE = 5.0
"""Times the median from which a gradient or a learning rate stands out."""

_KEPT = 1000  # steps whose norm is remembered


@dataclass(frozen=True)
class UnitGradient:
    """What gradient reached the units of one layer; arrays are `[unit]`.

    Attributes:
        last: the last step with a gradient that is not exactly 0; -1 if there was none yet.
        largest: the largest absolute gradient since `UnitGradients.read` was called last.
    """

    last: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float32]


class UnitGradients:
    """Remembers, on the device, when a gradient reached each unit last.

    A unit's bias gets the sum of what reaches the unit at all positions of all sequences, so its gradient is exactly 0
    when the unit is dead, and hardly ever otherwise. Layers without a bias are not seen.

    Args:
        module: whose biases are looked at; names as in `named_modules`, without `prefix` and what `torch.compile` adds.
    """

    def __init__(self, module: nn.Module, prefix: str = "") -> None:
        biases: dict[int, tuple[str, nn.Parameter]] = {}
        for name, each in module.named_modules():
            bias = dict(each.named_parameters(recurse=False)).get("bias")
            if isinstance(bias, nn.Parameter) and not is_lazy(bias) and bias.dim() == 1:
                biases.setdefault(id(bias), (plain_name(name).removeprefix(prefix), bias))
        self._biases = list(biases.values())
        self._ever = [False] * len(self._biases)
        sizes = [bias.numel() for _, bias in self._biases]
        self._ends = np.cumsum(sizes).tolist() if sizes else []
        self._state: Tensor | None = None  # [last, largest; unit of all layers]

    @torch.no_grad()
    def see(self, step: int) -> None:
        """Take note of the gradients as they are now, before optimiser step `step`."""
        got = [bias.grad is not None and not bias.grad.is_sparse for _, bias in self._biases]
        if not any(got):
            return
        device = self._biases[0][1].device
        now = torch.cat(
            [
                (bias.grad if has and bias.grad is not None else torch.zeros_like(bias)).detach().to(device).float()
                for (_, bias), has in zip(self._biases, got, strict=True)
            ]
        ).abs()
        self._ever = [before or has for before, has in zip(self._ever, got, strict=True)]
        if self._state is None or self._state.device != device:
            self._state = torch.stack([torch.full_like(now, -1), torch.zeros_like(now)])
        self._state[0].masked_fill_(now != 0, step)
        torch.fmax(self._state[1], now, out=self._state[1])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is remembered, `[last, largest; unit]` by layer, as a checkpoint keeps it."""
        parts = [] if self._state is None else self._state.cpu().tensor_split(self._ends[:-1], dim=1)
        named = zip(self._biases, self._ever, parts, strict=False)
        return {name: part.clone() for (name, _), ever, part in named if ever}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned; layers that are new, or of another size, begin anew."""
        parts = []
        for i, (name, bias) in enumerate(self._biases):
            known = state.get(name)
            self._ever[i] = known is not None and known.shape == (2, bias.numel())
            start = torch.tensor([[-1.0], [0.0]]).expand(2, bias.numel())
            parts.append(known.cpu().float() if self._ever[i] and known is not None else start)
        self._state = torch.cat(parts, dim=1).to(self._biases[0][1].device) if parts else None

    def read(self) -> dict[str, UnitGradient]:
        """Return what is known of each layer's units by now; layers that never had a gradient are left out."""
        if self._state is None:
            return {}
        last, largest = self._state.cpu().numpy().copy()
        self._state[1].zero_()
        starts = [0, *self._ends[:-1]]
        return {
            name: UnitGradient(last[a:b].astype(np.int64), largest[a:b])
            for (name, _), ever, a, b in zip(self._biases, self._ever, starts, self._ends, strict=True)
            if ever
        }


@dataclass(frozen=True)
class Spike:
    """What stood out before a step.

    Attributes:
        gradient: the largest gradient norm in the window, as a multiple of the median before and in it.
        gradient_step: when that was.
        rate: the largest learning rate in the window, as a multiple of its median.
        rate_step: when that was.
    """

    gradient: float
    gradient_step: int
    rate: float
    rate_step: int

    def just_before(self, step: int) -> bool:
        """Return whether the gradient or the learning rate stood out in a step or one of the two before it."""
        gradient = not self.gradient < SPIKE and self.gradient_step >= step - 2
        return gradient or (self.rate >= SPIKE and self.rate_step >= step - 2)


class GradientNorms:
    """The norm of all gradients and the learning rate at each of the last 1,000 steps, kept on the device."""

    def __init__(self) -> None:
        self._steps: dict[int, deque[tuple[int, Tensor, float]]] = {}

    @torch.no_grad()
    def see(self, step: int, optimizer: torch.optim.Optimizer, which: int = 0) -> None:
        """Take note of an optimiser's gradients before its step, which is the `step`-th of the run.

        Args:
            which: of several optimisers, whose norms are not compared with each other.
        """
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        grads = [grad for grad in grads if not grad.is_sparse]
        if grads:
            norm = torch.nn.utils.get_total_norm([grad.detach() for grad in grads])
            rate = max(float(group["lr"]) for group in optimizer.param_groups)
            self._steps.setdefault(which, deque(maxlen=_KEPT)).append((step, norm, rate))

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """Return what is remembered, as a checkpoint keeps it."""
        return {
            which: {
                "steps": [step for step, _, _ in each],
                "norms": torch.stack([norm.float() for _, norm, _ in each]).cpu(),
                "rates": [rate for _, _, rate in each],
            }
            for which, each in self._steps.items()
        }

    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Go on from what `state_dict` returned."""
        for which, each in state.items():
            norms = each["norms"].cpu().unbind()
            self._steps[which] = deque(zip(each["steps"], norms, each["rates"], strict=True), maxlen=_KEPT)

    def before(self, step: int, window: int = 20, least: int = 5) -> Spike | None:
        """Return the largest norm in the `window` steps up to `step`; None with fewer than `least` steps known."""
        found = [
            spike for steps in self._steps.values() if (spike := _spike(list(steps), step, window, least)) is not None
        ]
        return max(found, key=lambda each: each.gradient, default=None)


def _spike(steps: list[tuple[int, Tensor, float]], step: int, window: int, least: int) -> Spike | None:
    steps = [each for each in steps if each[0] <= step]
    if len(steps) < least:
        return None
    norms = np.array(_to_host([norm for _, norm, _ in steps]))
    norms = np.where(np.isfinite(norms), norms, np.inf)
    rates = np.array([rate for _, _, rate in steps])
    recent = [i for i, each in enumerate(steps) if each[0] > step - window]
    if not recent:
        return None
    high, fast = max(recent, key=lambda i: norms[i]), max(recent, key=lambda i: rates[i])
    return Spike(_ratio(norms, high), steps[high][0], _ratio(rates, fast), steps[fast][0])


def _to_host(norms: Sequence[Tensor]) -> list[float]:
    """Return numbers with one wait for the device; some may lie on the host, from a checkpoint."""
    there = [i for i, norm in enumerate(norms) if norm.device.type != "cpu"]
    brought = torch.stack([norms[i].float() for i in there]).tolist() if there else []
    found = dict(zip(there, brought, strict=True))
    return [found[i] if i in found else float(norm) for i, norm in enumerate(norms)]


def _ratio(values: npt.NDArray[np.float64], at: int) -> float:
    middle = float(np.median(values))
    return float(values[at] / middle) if middle > 0 and np.isfinite(middle) else float("nan")
