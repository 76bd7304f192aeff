"""Augmentation: what is missing stays missing, and each strength does what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heartnet.augment import AUGMENTATIONS, augment, check_augmentation, random_crop
from heartnet.errors import HeartnetError

strength = st.floats(0, 1)


def weeks(count: int = 4, time: int = 50, channels: int = 3, missing: float = 0.2) -> Tensor:
    inputs = torch.randn(count, time, channels)
    return inputs * (torch.rand(inputs.shape) >= missing)


@settings(max_examples=30, deadline=None)
@given(level=strength, gain=strength, ectopy=strength, channels=st.sampled_from([3, 4]), seed=st.integers(0, 2**31))
def test_zeros_stay_zeros_and_a_mask_channel_stays_as_it_is(
    level: float, gain: float, ectopy: float, channels: int, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = weeks(channels=channels)
    before = inputs.clone()
    out = augment(inputs, level=level, gain=gain, ectopy=ectopy)
    assert torch.equal(inputs, before)
    assert (out[inputs == 0] == 0).all()
    assert torch.equal(out[..., 3:], inputs[..., 3:])
    assert out.isfinite().all()


def test_no_strength_changes_nothing_and_draws_nothing() -> None:
    inputs = weeks()
    state = torch.get_rng_state()
    off = {name: value for name, value in check_augmentation({}).items() if name != "crop"}
    assert torch.equal(augment(inputs, **off), inputs)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=30, deadline=None)
@given(readings=st.integers(1, 60), longest=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_a_crop_is_a_stretch_of_its_own_week(readings: int, longest: int, seed: int) -> None:
    torch.manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (5,))
    lengths[0] = longest
    inputs = torch.zeros(5, longest, 2)
    for week, length in enumerate(lengths.tolist()):
        inputs[week, :length] = torch.arange(1, length + 1)[:, None] + 1000.0 * week
    cropped, cropped_lengths = random_crop(inputs, lengths, readings)
    for week, length in enumerate(lengths.tolist()):
        kept = min(length, readings)
        assert cropped_lengths[week] == kept
        stretch = cropped[week, :kept, 0] - 1000.0 * week
        assert stretch.tolist() == list(range(int(stretch[0]), int(stretch[0]) + kept))
        assert stretch[0] >= 1
        assert stretch[-1] <= length
        assert (cropped[week, kept:] == 0).all()


def test_crops_reach_both_ends() -> None:
    torch.manual_seed(0)
    inputs = torch.arange(10.0)[None, :, None].expand(2000, -1, -1)
    cropped, _ = random_crop(inputs, torch.full((2000,), 10), 4)
    counts = torch.bincount(cropped[:, 0, 0].long(), minlength=7)
    assert counts.numel() == 7
    assert counts.min() > 200


def test_level_shifts_each_channel_of_each_week() -> None:
    torch.manual_seed(0)
    inputs = weeks(4000, 3, missing=0.0)
    shift = augment(inputs, level=0.5, gain=0.0, ectopy=0.0) - inputs
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-5)
    assert shift.mean().abs() < 0.05
    assert shift.std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.corrcoef(shift[:, 0].T).fill_diagonal_(0).abs().max() < 0.1


def test_gain_keeps_means_and_multiplies_swings() -> None:
    torch.manual_seed(0)
    inputs = weeks(4000, 20)
    out = augment(inputs, level=0.0, gain=0.3, ectopy=0.0)
    known = inputs != 0
    means, swings = [], []
    for each in (inputs, out):
        mean = (each * known).sum(1) / known.sum(1)
        means.append(mean)
        swings.append((((each - mean[:, None]) * known) ** 2).sum(1).sqrt())
    torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-5)
    logs = (swings[1] / swings[0]).log()
    torch.testing.assert_close(logs, logs[:, :1].expand_as(logs), rtol=0, atol=1e-4)  # one number a week
    assert logs[:, 0].std().item() == pytest.approx(0.3, rel=0.05)


def test_premature_beats_come_early_and_the_next_late() -> None:
    torch.manual_seed(0)
    inputs = torch.full((2000, 200, 3), 0.5)
    change = augment(inputs, level=0.0, gain=0.0, ectopy=0.02) - inputs
    torch.testing.assert_close(change[..., 2], -change[..., 0], rtol=0, atol=1e-6)
    assert (change[..., 1] == 0).all()
    beats = change[..., 0] > 0
    assert beats.any(1).float().mean().item() == pytest.approx(0.45, abs=0.06)  # half of the weeks, some without any
    assert beats.float().mean(1).max() < 0.06
    for week, time in beats[:, :-2].nonzero()[:200].tolist():
        early, late, after = change[week, time : time + 3, 0].tolist()
        if late < 0 and after == 0:
            assert late == pytest.approx(-early / 2, rel=1e-4)


def test_strengths_that_are_not_given_are_off() -> None:
    assert check_augmentation({"gain": 0.2}) == {**dict.fromkeys(AUGMENTATIONS, 0.0), "gain": 0.2}


@pytest.mark.parametrize(
    ("strengths", "words"),
    [
        (
            {"ectopie": 0.1},
            r"module\.augmentation\.ectopie: there is crop, level, gain, ectopy\. Did you mean 'ectopy'",
        ),
        ({"level": -0.1}, r"module\.augmentation\.level=-0\.1: must be a number of 0 or more"),
        ({"gain": math.nan}, r"module\.augmentation\.gain=nan"),
        ({"gain": math.inf}, r"module\.augmentation\.gain=inf"),
        ({"ectopy": 1.5}, r"module\.augmentation\.ectopy=1\.5: .*ectopy at most 1"),
    ],
)
def test_bad_strengths_are_said(strengths: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        check_augmentation(strengths)
