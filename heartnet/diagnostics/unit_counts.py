"""Sums over the values of a layer's units that tell whether they are active, vary, and depend on the input."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_EDGE = 32  # positions at either end of a sequence that know of its end
_ROWS = 64  # positions whose values are kept for a histogram
_LOOKED_AT = 256  # positions at which units are compared; more would tell no more


def unit_counts(
    values: Float[Tensor, "batch position unit"], steps: Int[Tensor, " batch"] | None, low: float, high: float
) -> Float[Tensor, "4 unit"]:
    """Return, of each unit: how many values are between `low` and `high`, spread over time, range and scale.

    The spread is the standard deviation over the valid positions of a sequence, averaged over sequences; over the
    batch, if there is one position. Range is the largest difference between two sequences at the same position, and
    scale the largest absolute value; not a number if a value is not.

    Args:
        steps: valid positions of each sequence; None if all are.
    """
    return torch.cat([activity(values, steps, low, high), varies(values, steps)])


def activity(
    values: Float[Tensor, "batch position unit"], steps: Int[Tensor, " batch"] | None, low: float, high: float
) -> Float[Tensor, "2 unit"]:
    """Return the first two of `unit_counts`: values between `low` and `high`, and the spread over time."""
    positions = values.shape[1]
    valid = None if steps is None else _before(steps, positions)[..., None]
    # Counted as whole numbers: none is none, however many values there are; what is not a number is not flat.
    active = torch.full_like(values[0, 0], positions * len(values) if valid is None else 0, dtype=torch.long)
    active = active if valid is None else active + valid.sum()
    if low > -np.inf:
        active = active - _count(values <= low, valid)
    if high < np.inf:
        active = active - _count(values >= high, valid)
    some, valid = _some(values), None if valid is None else valid[:, :: _every(positions)]
    if valid is None:
        spread = some.std(dim=0 if positions == 1 else 1, correction=0).mean(dim=0)
    else:
        count = valid.sum(dim=1, keepdim=True)
        centred = (some - (some * valid).sum(dim=1, keepdim=True) / count) * valid
        spread = (centred.square().sum(dim=1) / count[:, 0]).sqrt().mean(dim=0)
    return torch.stack([active.to(spread), spread])


def varies(values: Tensor, steps: Tensor | None) -> Float[Tensor, "2 unit"]:
    """Return the largest difference between sequences at the same position, and the largest absolute value.

    What lies near the end of a sequence that is shorter than others is left out, for what a layer sees there is the
    end. With a single sequence, positions are compared with each other, away from both ends.
    """
    batch, positions, _ = values.shape
    some = _some(values)
    scale = some.abs().amax(dim=(0, 1))
    if batch == 1 and positions > 1:
        edge = min(_EDGE, positions // 4)
        inner = values[0, edge : positions - edge : _every(positions)].float()
        return torch.stack([inner.amax(dim=0) - inner.amin(dim=0), scale.float()])
    if steps is None:
        top, bottom = some.amax(dim=0), some.amin(dim=0)
    else:
        inside = steps - (steps // 4).clamp(max=_EDGE)
        kept = _before(inside, positions)[:, :: _every(positions), None]
        top = torch.where(kept, some, -torch.inf).amax(dim=0)
        bottom = torch.where(kept, some, torch.inf).amin(dim=0)
    return torch.stack([(top - bottom).clamp(min=0).amax(dim=0), scale])


def spread_sample(values: Tensor, steps: Tensor | None) -> Tensor:
    """Return the units' values at some valid positions, spread over the batch."""
    batch, positions, _ = values.shape
    who = torch.arange(min(batch, _ROWS), device=values.device) * max(1, batch // _ROWS)
    each = max(1, _ROWS // len(who))
    count = steps[who, None] if steps is not None else torch.full((len(who), 1), positions, device=values.device)
    at = ((torch.arange(each, device=values.device) + 0.5) / each * count).long().clamp(max=positions - 1)
    return values[who[:, None], at].flatten()[:16384]


def _before(steps: Int[Tensor, " batch"], positions: int) -> Bool[Tensor, "batch position"]:
    return torch.arange(positions, device=steps.device) < steps[:, None]


def _count(which: Tensor, valid: Tensor | None) -> Tensor:
    return (which if valid is None else which & valid).sum(dim=(0, 1))


def _every(positions: int) -> int:
    return max(1, positions // _LOOKED_AT)


def _some(values: Tensor) -> Tensor:
    """Return the values at evenly spaced positions, the first among them, at least as float32."""
    some = values[:, :: _every(values.shape[1])]
    return some.float() if some.dtype in (torch.float16, torch.bfloat16) else some
