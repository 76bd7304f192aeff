"""The amnesia profile: what each reading of a week does to a logit, by how far away it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from heartnet.diagnostics.input_gradients import SCORE, SEEDS, NoStepsError, input_gradients
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.weeks import WEAR_GAP_SECONDS

ANCHORS = ("midpoint", "last", "score")
STEPWISE = ("midpoint", "last")
"""Anchors that need a logit at every step."""

PARTS = 64
"""Equal parts that each week is cut into for the score, which has no step to count from."""


@dataclass(frozen=True)
class AnchorProfile:
    """d logit / d input, averaged over weeks, for the logits read at one anchor.

    Attributes:
        anchor: `"midpoint"` (the step at half of each week's own length), `"last"` (its last valid step) or `"score"`
            (after the readout, counted from the last reading).
        lag: readings from the anchor; negative is before it.
        lag_weeks: how many weeks reach that lag.
        hours: hours of wear from the anchor, signed, averaged over those weeks; NaN where unknown.
        signed: the gradient as the post draws it, averaged over the weeks that reach the lag.
        magnitude: the average of its absolute value: signs of different weeks do not cancel.
        position_signed: the post's plain axis: averaged over the weeks that have a reading at that position.
        position_magnitude: likewise, of the absolute value.
        parts: the average magnitude in each of up to 64 equal parts of each week, averaged over weeks.
        parts_hours: hours of wear in each part, averaged over weeks; NaN where unknown.
    """

    anchor: str
    lag: Int64[np.ndarray, " lag"]
    lag_weeks: Int64[np.ndarray, " lag"]
    hours: Float64[np.ndarray, " lag"]
    signed: Float64[np.ndarray, "output channel lag"]
    magnitude: Float64[np.ndarray, "output channel lag"]
    position_signed: Float64[np.ndarray, "output channel time"]
    position_magnitude: Float64[np.ndarray, "output channel time"]
    parts: Float64[np.ndarray, "output channel part"]
    parts_hours: Float64[np.ndarray, " part"]


@dataclass(frozen=True)
class AmnesiaProfile:
    """The profiles of one network on some weeks.

    Attributes:
        outputs: names of the logits.
        channels: names of the input channels.
        lengths: valid readings of each week.
        floor: the smallest gradient that the measurement could hold with full precision.
        anchors: one profile for each anchor.
    """

    outputs: tuple[str, ...]
    channels: tuple[str, ...]
    lengths: Int64[np.ndarray, " week"]
    floor: float
    anchors: tuple[AnchorProfile, ...]

    def at(self, anchor: str) -> AnchorProfile:
        return next(profile for profile in self.anchors if profile.anchor == anchor)

    @property
    def main(self) -> str:
        """The anchor that shows amnesia best: the midpoint where there are logits at every step, else the first."""
        names = [profile.anchor for profile in self.anchors]
        return "midpoint" if "midpoint" in names else names[0]


def amnesia_profile(
    probe: Probe,
    anchors: Sequence[str] = ANCHORS,
    *,
    dtype: torch.dtype = torch.float64,
    readings_at_once: int = 65_536,
) -> AmnesiaProfile:
    """Return d logit(anchor, output) / d input(t, channel), averaged over the weeks of `probe`.

    One forward and one backward pass yield all pairs of anchor and output (`heartnet.diagnostics.input_gradients`). The
    network is copied and measured in `dtype` and in evaluation mode; nothing of it changes.

    Args:
        probe: the network and the weeks.
        anchors: of `"midpoint"`, `"last"` and `"score"`. The first two are left out if the network has no logits at
            every step.
        dtype: float32 is faster on a CPU, and holds magnitudes down to 1e-67 where float64 holds 1e-308.
        readings_at_once: rows times readings in one pass; bounds the memory.

    Raises:
        HeartnetError: unknown anchors, or a network that does not answer as `Probe` says.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: the gradient of the output at the midpoint with
    respect to the input at each step.
    """
    check_anchors(anchors)
    _check(probe)
    gradients, measured = _gradients(probe, tuple(anchors), dtype, readings_at_once)
    hours = _wear_hours(probe)
    lengths = probe.lengths.detach().cpu().numpy().astype(np.int64)
    return AmnesiaProfile(
        outputs=probe.outputs,
        channels=probe.channels,
        lengths=lengths,
        floor=float(torch.finfo(dtype).tiny) / SEEDS.get(dtype, 1.0),
        anchors=tuple(_average(anchor, [week[i] for week in gradients], hours) for i, anchor in enumerate(measured)),
    )


def anchor_reading(anchor: str, length: int) -> int:
    """Return the reading that lags are counted from in a week of `length` readings."""
    return length // 2 if anchor == "midpoint" else length - 1


def check_anchors(anchors: Sequence[str]) -> None:
    """Raise HeartnetError if `anchors` is not a list of known anchors."""
    if isinstance(anchors, str) or not anchors:
        raise HeartnetError(f"anchors={anchors!r}: give a list of {', '.join(ANCHORS)}")
    for anchor in anchors:
        if anchor not in ANCHORS:
            raise HeartnetError(
                f"anchor {anchor!r} is not one of {', '.join(ANCHORS)}.{did_you_mean(str(anchor), ANCHORS)}"
            )


def _check(probe: Probe) -> None:
    batch, time, channels = probe.inputs.shape
    if channels != len(probe.channels):
        raise HeartnetError(f"the probe names {len(probe.channels)} channels, its inputs have {channels}")
    if batch == 0 or len(probe.lengths) != batch:
        raise HeartnetError(f"the probe has {batch} weeks and {len(probe.lengths)} lengths; it needs one for each week")
    if int(probe.lengths.min()) < 1 or int(probe.lengths.max()) > time:
        raise HeartnetError(f"the probe's lengths must lie between 1 and {time}, the length of its inputs")


def _gradients(
    probe: Probe, anchors: tuple[str, ...], dtype: torch.dtype, readings_at_once: int
) -> tuple[list[Float64[np.ndarray, "anchor output channel _time"]], tuple[str, ...]]:
    """Return for each week the gradients at its valid readings, and the anchors that the network has."""
    outputs = len(probe.outputs)
    lengths = [int(length) for length in probe.lengths]
    at = [[SCORE if anchor == "score" else anchor_reading(anchor, each) for each in lengths] for anchor in anchors]
    readings, chosen = np.repeat(np.array(at), outputs, axis=0), np.tile(np.arange(outputs), len(anchors))
    try:
        found = input_gradients(probe, readings, chosen, dtype=dtype, readings_at_once=readings_at_once)
    except NoStepsError as error:
        left = tuple(anchor for anchor in anchors if anchor not in STEPWISE)
        if not left:
            names = ", ".join(anchors)
            raise HeartnetError(f"the network has no logits at every step, which {names} need(s)") from error
        return _gradients(probe, left, dtype, readings_at_once)
    return [each.reshape(len(anchors), outputs, *each.shape[1:]) for each in found], anchors


def _wear_hours(probe: Probe) -> list[Float64[np.ndarray, " _time"]]:
    """Return for each week the hours of wear up to each reading; NaN without dt. A pause is no wear."""
    lengths = [int(length) for length in probe.lengths]
    if probe.dt is None:
        return [np.full(length, np.nan) for length in lengths]
    seconds = probe.dt.detach().cpu().double().numpy()
    worn = np.where((seconds > 0) & (seconds <= WEAR_GAP_SECONDS), seconds, 0.0)
    return [np.cumsum(np.r_[0.0, week[1:length]]) / 3600 for week, length in zip(worn, lengths, strict=True)]


def _average(
    anchor: str,
    gradients: list[Float64[np.ndarray, "output channel _time"]],
    hours: list[Float64[np.ndarray, " _time"]],
) -> AnchorProfile:
    lengths = [len(week) for week in hours]
    zero = [anchor_reading(anchor, length) for length in lengths]
    before, after = max(zero), max(length - 1 - at for length, at in zip(lengths, zero, strict=True))
    by_lag = [(before - at, week) for at, week in zip(zero, gradients, strict=True)]
    worn = [(before - at, (each - each[at])[None]) for at, each in zip(zero, hours, strict=True)]
    plain = [(0, week) for week in gradients]
    size, longest = before + after + 1, max(lengths)
    parts = min([PARTS, *lengths])
    lag_hours, lag_weeks = _mean(worn, size)
    return AnchorProfile(
        anchor=anchor,
        lag=np.arange(-before, after + 1),
        lag_weeks=lag_weeks,
        hours=lag_hours[0],
        signed=_mean(by_lag, size)[0],
        magnitude=_mean([(offset, np.abs(week)) for offset, week in by_lag], size)[0],
        position_signed=_mean(plain, longest)[0],
        position_magnitude=_mean([(0, np.abs(week)) for week in gradients], longest)[0],
        parts=np.mean([_in_parts(np.abs(week), parts) for week in gradients], axis=0),
        parts_hours=np.mean([np.diff(each[_edges(len(each), parts)]) for each in hours], axis=0),
    )


def _mean(
    weeks: list[tuple[int, Float64[np.ndarray, "*rows _time"]]], size: int
) -> tuple[Float64[np.ndarray, "*rows lag"], Int64[np.ndarray, " lag"]]:
    """Average weeks that start at an offset each, over those that are there; and say how many are."""
    total = np.zeros((*weeks[0][1].shape[:-1], size))
    count = np.zeros(size, dtype=np.int64)
    for offset, week in weeks:
        total[..., offset : offset + week.shape[-1]] += week
        count[offset : offset + week.shape[-1]] += 1
    return total / np.maximum(count, 1), count


def _in_parts(
    week: Float64[np.ndarray, "output channel time"], parts: int
) -> Float64[np.ndarray, "output channel part"]:
    starts = np.arange(parts) * week.shape[-1] // parts
    sizes = np.diff(np.r_[starts, week.shape[-1]])
    means: np.ndarray = np.add.reduceat(week, starts, axis=-1) / sizes
    return means


def _edges(length: int, parts: int) -> Int64[np.ndarray, " edge"]:
    """Readings between which the hours of each part lie."""
    return np.minimum(np.arange(parts + 1) * length // parts, length - 1)
