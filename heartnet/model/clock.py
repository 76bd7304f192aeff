"""How far the day has turned since a week's first reading, from dt alone."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

TURNS = (1, 2)
"""Turns a day of each angle: a day and half a day."""

CLOCK_CHANNELS = 2 * len(TURNS)

_DAY, _WEEK = 86_400.0, 7 * 86_400.0


@torch.no_grad()
def day_angles(
    dt: Float[Tensor, "batch time"], lengths: Int[Tensor, " batch"], scale: Float[Tensor, " 2"]
) -> Float[Tensor, "batch channel time"]:
    """Return sine, then cosine, of the seconds since the first reading, at `TURNS` a day; 0 where padded.

    Such an encoding by sines of several frequencies is the Transformer's (Vaswani et al., "Attention is all you need",
    2017), here of the time that has passed and not of the number of steps.

    No gradient flows through it: time is where a reading stands, not what it says. Otherwise each step would depend on
    every dt before it, and the gradients by which amnesia is measured would show what the clock remembers in place of
    what the network does.

    Args:
        dt: log(1 + seconds since the reading before), scaled; that of the first reading is not looked at. A missing dt
            (0) reads as the mean.
        lengths: valid readings.
        scale: mean and spread by which the logarithm was scaled.
    """
    logarithm = (dt * scale[1] + scale[0]).clamp(0.0, math.log1p(_WEEK))
    seconds = F.pad(torch.expm1(logarithm[:, 1:]), (1, 0)).cumsum(dim=1)
    angle = torch.stack([seconds * (2 * math.pi * turns / _DAY) for turns in TURNS], dim=1)
    valid = torch.arange(dt.shape[1], device=dt.device) < lengths[:, None]
    return torch.cat([angle.sin(), angle.cos()], dim=1) * valid[:, None].to(dt.dtype)
