"""Augmentation of training batches: what must not matter is made to vary."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.weeks import CHANNELS

AUGMENTATIONS: dict[str, float] = {"crop": 0, "level": 0.0, "gain": 0.0, "ectopy": 0.0}
"""The strengths that there are, and their defaults (off)."""


def check_augmentation(strengths: Mapping[str, float]) -> dict[str, float]:
    """Return all strengths, those not given at their defaults.

    Raises:
        HeartnetError: an unknown name, or a negative strength, or a share above 1.
    """
    for name, value in strengths.items():
        if name not in AUGMENTATIONS:
            raise HeartnetError(
                f"module.augmentation.{name}: there is {', '.join(AUGMENTATIONS)}.{did_you_mean(name, AUGMENTATIONS)}"
            )
        if not 0 <= value < math.inf or (name == "ectopy" and value > 1):
            raise HeartnetError(f"module.augmentation.{name}={value}: must be a number of 0 or more, ectopy at most 1")
        if name == "crop" and value != int(value):
            raise HeartnetError(f"module.augmentation.crop={value}: must be a whole number of readings")
    return AUGMENTATIONS | dict(strengths)


def random_crop(
    inputs: Float[Tensor, "batch time channel"], lengths: Int[Tensor, " batch"], readings: int
) -> tuple[Float[Tensor, "batch _ channel"], Int[Tensor, " batch"]]:
    """Return a stretch of `readings` readings from a random place of each week; shorter weeks stay whole.

    A few long weeks become many different short ones, for targets that any long stretch of a week shows.
    """
    size = min(readings, inputs.shape[1])
    start = (torch.rand(len(inputs), device=inputs.device) * (lengths - size + 1).clamp(min=1)).long()
    index = start[:, None] + torch.arange(size, device=inputs.device)
    return inputs.gather(1, index[..., None].expand(-1, -1, inputs.shape[2])), lengths.clamp(max=size)


def augment(
    inputs: Float[Tensor, "batch time channel"], *, level: float, gain: float, ectopy: float
) -> Float[Tensor, "batch time channel"]:
    """Return scaled inputs with other levels, other swings and premature beats; zeros (missing, padded) stay zeros.

    Args:
        inputs: what the network sees, in standard deviations; a mask channel is left as it is.
        level: each channel of each week is shifted by a normal number of this spread: how fast a heart beats on the
            whole stops to tell people apart.
        gain: each week's swing around its mean is multiplied by exp(a normal number of this spread).
        ectopy: for beat-by-beat data. In half of the weeks, up to this share of the beats comes early and the next one
            late: premature beats of a regular heart, which are what detectors of atrial fibrillation from beat
            intervals mistake for it.
    """
    inputs, rest = inputs[..., : len(CHANNELS)], inputs[..., len(CHANNELS) :]
    known = (inputs != 0).to(inputs.dtype)
    weeks, time, channels = inputs.shape
    if ectopy:
        share = torch.rand(weeks, 1, device=inputs.device) * ectopy * (torch.rand(weeks, 1, device=inputs.device) < 0.5)
        size = (2 + torch.randn(weeks, 1, device=inputs.device)).abs()
        early = (torch.rand(weeks, time, device=inputs.device) < share) * size
        faster = early - 0.5 * F.pad(early, (1, 0))[:, :-1]
        inputs = inputs + torch.stack([faster, torch.zeros_like(faster), -faster], dim=2)
    if gain:
        mean = (inputs * known).sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)
        inputs = mean + (inputs - mean) * torch.exp(gain * torch.randn(weeks, 1, 1, device=inputs.device))
    if level:
        inputs = inputs + level * torch.randn(weeks, 1, channels, device=inputs.device)
    return torch.cat([inputs * known, rest], dim=2)
