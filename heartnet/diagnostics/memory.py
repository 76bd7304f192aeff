"""How long a network remembers: the numbers in an amnesia profile, and the verdict on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from heartnet.diagnostics.amnesia import AmnesiaProfile, AnchorProfile
from heartnet.findings import Finding, Status

NEAR = 32
"""Readings on each side of the anchor that count as near."""

PASS_DECADES = 1.0
FAIL_DECADES = 6.0

_POOL = 4  # after each convolution, as in the compact network
_SHARE = 0.9
_SHORTEST = 8


@dataclass(frozen=True)
class Memory:
    """How long one logit remembers.

    At `midpoint` and `last`, magnitudes are folded over both sides of the anchor and counted by distance, as far as at
    least half of the weeks reach (`reach_steps`):

    - `decades` is log10 of the near over the far median. Near are the 32 nearest readings on each side; far are those
      beyond half of the reach. Both medians are over averages of 8 readings, so that a network that looks at every
      second reading only is not all zeros. Weeks shorter than 128 readings a side use a quarter and a sixteenth.
    - `memory_steps` is the shortest distance that holds 90 % of the sum of magnitudes, `memory_hours` the hours of wear
      to there.

    At `score` there is no step to count from, and each readout looks elsewhere (the mean everywhere, `both_ends` at the
    ends). Each week is cut into 64 equal parts: `decades` is log10 of the strongest part over the median of the weaker
    half of the parts; `memory_steps` and `memory_hours` are the readings and the hours in the fewest parts that hold
    90 %. An even profile has `decades` 0 and remembers 90 % of the week at either kind of anchor.

    Attributes:
        anchor: see `heartnet.diagnostics.amnesia`.
        output: name of the logit.
        channel: name of the input channel; None for the sum over all.
        gradient: `"present"`; `"zero"` if no reading at all changes the logit; `"not finite"` if it is NaN or infinite.
        decades: see above; None without a gradient, or for weeks of less than 8 readings.
        at_least: `decades` is only a lower bound, because the far median is below what the type could hold.
        memory_steps: readings; None without a gradient.
        memory_hours: hours of wear; None without a gradient or without dt.
        reach_steps: readings to the farthest reading counted (of the week, at `score`).
        reach_hours: hours of wear to there; None without dt.
    """

    anchor: str
    output: str
    channel: str | None
    gradient: Literal["present", "zero", "not finite"]
    decades: float | None
    at_least: bool
    memory_steps: int | None
    memory_hours: float | None
    reach_steps: int
    reach_hours: float | None


def memories(profile: AmnesiaProfile, *, by_channel: bool = False) -> list[Memory]:
    """Return one `Memory` for each anchor and output; with `by_channel`, for each channel instead of their sum."""
    found = []
    for at in profile.anchors:
        for i, output in enumerate(profile.outputs):
            for channel, magnitude, parts in _channels(profile, at, i, by_channel):
                curve = _score_curve(at, parts) if at.anchor == "score" else _lag_curve(profile, at, magnitude)
                found.append(_memory(at.anchor, output, channel, curve, profile.floor))
    return found


def verdict(numbers: Sequence[Memory], settings: Mapping[str, object] | None = None, step: int = 0) -> list[Finding]:
    """Return one finding for each memory.

    The scale, in decades:

    - up to 1 passes: the talk calls a factor of ten "fine but not ideal";
    - above 1 warns: the far half of the week still speaks, with a small voice;
    - 6 and above fails: the post shows a drop by a million and concludes that the architecture cannot capture long
      dependencies (the talk's "clear problem" is a billion). It is also where float32 ends: its rounding is 7 decades
      below a value, so what comes from far away is lost in the rounding of what comes from near.

    Args:
        numbers: as `memories` returns them.
        settings: current values by Hydra override, such as `{"model.readout": "mean"}`. Only overrides that stand here
            with another value are proposed; without any, as for a network from elsewhere, nothing is.
        step: optimiser steps taken.
    """
    settings = settings or {}
    worst_stepwise = {each.output: each for each in numbers if each.anchor == "midpoint"}
    return [_judge(each, worst_stepwise.get(each.output), settings, step) for each in numbers]


def _channels(
    profile: AmnesiaProfile, at: AnchorProfile, output: int, by_channel: bool
) -> Iterator[tuple[str | None, Float64[np.ndarray, " lag"], Float64[np.ndarray, " part"]]]:
    if by_channel:
        yield from zip(profile.channels, at.magnitude[output], at.parts[output], strict=True)
    else:
        yield None, at.magnitude[output].sum(axis=0), at.parts[output].sum(axis=0)


@dataclass(frozen=True)
class _Curve:
    """Magnitudes from near to far, and the readings and hours that one has seen after each."""

    magnitude: Float64[np.ndarray, " place"]
    steps: Float64[np.ndarray, " place"]
    hours: Float64[np.ndarray, " place"]
    near: float
    far: float | None


def _lag_curve(profile: AmnesiaProfile, at: AnchorProfile, magnitude: Float64[np.ndarray, " lag"]) -> _Curve:
    kept = at.lag_weeks * 2 >= len(profile.lengths)
    lag = np.abs(at.lag[kept])
    reach = int(lag.max())
    sides = np.bincount(lag, minlength=reach + 1)
    folded = np.bincount(lag, weights=magnitude[kept], minlength=reach + 1)
    hours = np.bincount(lag, weights=np.abs(at.hours[kept]), minlength=reach + 1) / sides
    near = min(NEAR, max(reach // 4, 1))
    block = max(near // 4, 1)
    far = None if reach < _SHORTEST else _median(folded[reach // 2 + 1 :], block)
    return _Curve(folded, np.arange(reach + 1.0), hours, _median(folded[:near], block), far)


def _score_curve(at: AnchorProfile, parts: Float64[np.ndarray, " part"]) -> _Curve:
    order = np.argsort(-parts, kind="stable")
    # The score is counted from the last reading, so the lags are as many as the longest week has readings.
    steps = np.arange(1.0, len(parts) + 1) * (len(at.lag) / len(parts))
    far = None if len(parts) < _SHORTEST else float(np.median(parts[order][len(parts) // 2 :]))
    return _Curve(parts[order], steps, np.cumsum(at.parts_hours[order]), float(parts[order][0]), far)


def _median(values: Float64[np.ndarray, " lag"], block: int) -> float:
    starts = np.arange(0, len(values), block)
    sizes = np.diff(np.r_[starts, len(values)])
    return float(np.median(np.add.reduceat(values, starts) / sizes))


def _memory(anchor: str, output: str, channel: str | None, curve: _Curve, floor: float) -> Memory:
    reach = round(curve.steps[-1])
    reach_hours = _number(curve.hours[-1])
    total = curve.magnitude.sum()
    if not np.isfinite(total) or total == 0:
        gradient: Literal["zero", "not finite"] = "zero" if total == 0 else "not finite"
        return Memory(anchor, output, channel, gradient, None, False, None, None, reach, reach_hours)
    place = int(np.searchsorted(np.cumsum(curve.magnitude), _SHARE * total))
    decades = None
    if curve.far is not None:
        decades = math.log10(max(curve.near, floor)) - math.log10(max(curve.far, floor))
    return Memory(
        anchor,
        output,
        channel,
        "present",
        decades,
        curve.far is not None and bool(curve.far < floor),
        round(curve.steps[place]),
        _number(curve.hours[place]),
        reach,
        reach_hours,
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _judge(each: Memory, stepwise: Memory | None, settings: Mapping[str, object], step: int) -> Finding:
    status, message = _say(each, stepwise, settings)
    return Finding(
        check="amnesia",
        status=status,
        where=f"{each.output}/{each.anchor}" + (f"/{each.channel}" if each.channel else ""),
        value=None if each.decades is None else round(each.decades, 3),
        limit=PASS_DECADES,
        unit="decades",
        message=message,
        try_=() if status == "pass" else _cures(each, settings),
        step=step,
    )


def _say(each: Memory, stepwise: Memory | None, settings: Mapping[str, object]) -> tuple[Status, str]:
    if each.gradient == "zero":
        return "fail", (
            "No reading of any week changes this output: it is detached, a layer on the way is dead, or its weights "
            "are zero. This is not amnesia; there is nothing to remember with."
        )
    if each.gradient == "not finite":
        return "fail", "The gradient of this output is NaN or infinite, so the network has diverged or overflows."
    if each.decades is None:
        return "unknown", f"Weeks of {each.reach_steps} readings are too short to tell near from far."
    status: Status = "pass" if each.decades <= PASS_DECADES else "warn"
    status = "fail" if each.decades >= FAIL_DECADES else status
    if each.anchor == "score":
        return status, _say_score(each, each.decades, stepwise, settings) + _reason(each, status, settings)
    place = "the middle of the week" if each.anchor == "midpoint" else "the end of the week"
    text = "" if status != "pass" else f"Far readings reach the output at {place}. "
    text += (
        f"A reading more than {each.reach_steps // 2:,} readings from {place} moves this output "
        f"{_times(each.decades, each.at_least)} one beside it. 90 % of the effect lies within "
        f"{_span(each.memory_steps, each.memory_hours)}, of {_span(each.reach_steps, each.reach_hours)}."
    )
    if each.anchor == "last" and status != "pass":
        text += " A bidirectional network has only its forward direction here: the backward one has just begun."
    return status, text + _reason(each, status, settings)


def _say_score(each: Memory, decades: float, stepwise: Memory | None, settings: Mapping[str, object]) -> str:
    text = "" if decades > PASS_DECADES else "The score depends on the whole week. "
    text += (
        f"The half of the week that matters less to the score moves it {_times(decades, each.at_least)} the part that "
        f"matters most. {_span(each.memory_steps, each.memory_hours)} of "
        f"{_span(each.reach_steps, each.reach_hours)} hold 90 % of the effect."
    )
    hidden = stepwise is not None and (stepwise.decades or 0) > max(PASS_DECADES, decades)
    if hidden and settings.get("model.readout", "mean") == "mean":
        text += (
            " A readout that averages over steps hides amnesia, because each reading reaches its own step; "
            f"the output at the midpoint shows {_bound(stepwise)} decades."
        )
    return text


def _bound(memory: Memory | None) -> str:
    assert memory is not None
    assert memory.decades is not None
    return f"{'more than ' if memory.at_least else ''}{memory.decades:.1f}"


def _times(decades: float, at_least: bool) -> str:
    if decades < 0:
        return f"{_factor(-decades)} times more than"
    limit = " (below what the floating-point type can hold)" if at_least else ""
    return f"{'more than ' if at_least else ''}{_factor(decades)} times less{limit} than"


def _factor(decades: float) -> str:
    if decades >= 9:
        return f"10^{decades:.0f}"
    factor = 10**decades
    if factor < 10:
        return f"{factor:.1f}"
    digits = 2 - math.ceil(decades)
    return f"{round(factor, digits):,.0f}" if factor < 1e6 else f"{factor / 1e6:.3g} million"


def _span(steps: int | None, hours: float | None) -> str:
    return f"{steps or 0:,} readings" + ("" if hours is None else f" ({hours:.1f} h of wear)")


_REASONS = {
    "model.forget_bias": (
        " Forget gates that start out open for about a week (chrono) closed such a gap, from 63 decades to 0.1, in the "
        "full network on simulated weeks."
    ),
    "model.pool": " Pooling leaves the LSTMs fewer steps over which to forget.",
    "model.readout": " With both ends of the week read, no reading is farther than half a week from one of them.",
}
_ELSEWHERE = (
    " In heartnet's own LSTMs two things help: forget-gate biases drawn for long times (chrono; Tallec and Ollivier, "
    "2018), and pooling before them, which leaves fewer steps."
)


def _cures(each: Memory, settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return one change, the first that is not made yet: of several at once one learns nothing.

    The order is that of what they did alone (docs/results.md): `chrono` cures, pooling helps, and of the readouts none
    helps but `both_ends`, and that only the score: a network that forgets does so with any.
    """
    if each.gradient == "not finite":
        return ()
    if each.gradient == "zero":
        return ("model.activation=leaky_relu",) if settings.get("model.activation") == "relu" else ()
    if each.decades is None:
        return ()
    if settings.get("model.forget_bias", "chrono") != "chrono":
        return ("model.forget_bias=chrono",)
    pool = settings.get("model.pool", _POOL)
    if "model.forget_bias" in settings and isinstance(pool, int) and pool < _POOL:
        return (f"model.pool={_POOL}",)
    if each.anchor == "score" and settings.get("model.readout") == "last":
        return ("model.readout=both_ends",)
    return ()


def _reason(each: Memory, status: Status, settings: Mapping[str, object]) -> str:
    """Return why what is proposed may help; for a network from elsewhere, what is known to."""
    if status == "pass":
        return ""
    if not settings:
        return _ELSEWHERE
    return "".join(_REASONS[cure.partition("=")[0]] for cure in _cures(each, settings))
