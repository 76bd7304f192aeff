"""Cadence blindness: do units fall silent in stretches where readings come every 5 seconds instead of minutes?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from heartnet.diagnostics.heatmap import Rows, constant_rows
from heartnet.diagnostics.signals import KnownWeek, at_positions
from heartnet.findings import Finding

SILENT = 0.1
"""A unit is silent in dense stretches if its spread there is below this share of its spread at rest."""

BLIND = 0.5
"""Share of a layer's units that may be silent; the talk saw "most cells output zero values"."""

DEAD = 0.5
"""Share of a layer's units that do not change in time from which its silence has another cause."""

EXPLODED = 30.0
"""Growth of a layer's spread from which training has failed; 1 to 3 where it went well, 80 and more at 1,000 times the
learning rate."""

LEAST_INPUT = 0.2
"""Spread of the inputs in dense stretches, as a share of that at rest, below which silence is the inputs' own."""

LEAST_POSITIONS = 16
"""Positions of each kind that a layer needs for a number."""

_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_SETTLED = 12  # readings at the ends of a stretch that convolutions see from outside it
_MOSTLY = 0.75  # share of a position's readings that make it dense or sparse


@dataclass(frozen=True)
class Cadence:
    """How a layer fares in dense stretches.

    Attributes:
        layer: its name.
        ratio: spread in dense stretches over spread in sparse ones, of each unit; NaN for units that are constant
            in both.
        silent: share of the units that are not constant whose ratio is below `SILENT`; None if all are constant.
        inputs: the largest such ratio of a channel of the inputs, leaving out the time between readings.
        dense: positions that were dense.
    """

    layer: str
    ratio: Float64[np.ndarray, " unit"]
    silent: float | None
    inputs: float
    dense: int


def cadence_of(
    layers: Sequence[Rows], inputs: Rows, channels: Sequence[str], weeks: Sequence[KnownWeek]
) -> list[Cadence]:
    """Return how each layer fares, leaving out layers with too few positions of either kind, or of one timescale alone.

    A unit's spread is the root of the mean over weeks of its variance around each week's mean, in the dense
    (`heartnet.diagnostics.signals.DENSE_SECONDS`) or the sparse stretches, without the ends of the stretches, where
    a convolution sees both.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: "there are chunks of time here when most cells
    output zero values. These actually correspond with the times when the user turned their watch into workout mode".

    Args:
        layers: over the weeks.
        inputs: what the network sees over the same weeks, as a layer.
        channels: their names; one called `dt` does not count.
        weeks: with `dt`.
    """
    own = _spreads(inputs, weeks)
    if own is None:
        return []
    ratios = _ratio(*own[:2])[[i for i, name in enumerate(channels) if name not in ("dt", "missing")]]
    reference = float(np.nanmax(ratios)) if np.isfinite(ratios).any() else 0.0
    found = []
    for layer in layers:
        spreads = None if layer.apart else _spreads(layer, weeks)
        if spreads is None:
            continue
        dense, sparse, positions = spreads
        ratio = _ratio(dense, sparse)
        ratio[np.all([constant_rows(each) for each in layer.weeks], axis=0)] = np.nan
        alive = ratio[~np.isnan(ratio)]
        share = float((alive < SILENT).mean()) if len(alive) else None
        found.append(Cadence(layer.layer, ratio, share, reference, positions))
    return found


def verdict(found: Sequence[Cadence], settings: dict[str, object], step: int, failed: str = "") -> list[Finding]:
    """Return a warning for each group of layers where more than `BLIND` of the units fall silent, or that none does.

    Layers that differ in their numbers alone (`convolutions.0`, `convolutions.1`) are a group, named by the first of
    them that falls silent.

    Args:
        settings: what the network was made with, by Hydra override; empty for a network from elsewhere.
        failed: why nothing can be told (`failure`).
    """
    measured = [each for each in found if each.silent is not None]
    if not measured:
        return []
    if not failed and measured[0].inputs < LEAST_INPUT:
        failed = f"heart rate itself has {measured[0].inputs:.0%} of its spread in the dense stretches of these weeks"
    if failed:
        message = f"nothing can be told of cadence blindness: {failed}"
        return [Finding("cadence", "unknown", "all layers", None, None, "", message, step=step)]
    groups: dict[str, list[Cadence]] = {}
    for each in measured:
        if (each.silent or 0.0) > BLIND:
            groups.setdefault(_NUMBER.sub(".*", each.layer), []).append(each)
    if not groups:
        worst = max(measured, key=lambda each: each.silent or 0.0)
        message = f"Units go on working where readings come every 5 s. Those of {worst.layer} fall silent most."
        unit = "of the worst layer's units fall silent in workouts"
        return [Finding("cadence", "pass", "all layers", worst.silent, BLIND, unit, message, step=step)]
    first = next(iter(groups.values()))[0].layer
    told = []
    for blind in groups.values():
        here = blind[0].layer
        words = [
            f"{blind[0].silent:.0%} of its units fall silent (less than {SILENT:.0%} of their spread) where readings "
            "come every 5 s (a workout) instead of every 5 min, while the inputs keep "
            f"{blind[0].inputs:.0%} of their spread",
            *(f"likewise {each.silent:.0%} of {each.layer}" for each in blind[1:]),
        ]
        if here != first:
            words.append(f"it starts in {first}")
        elif not settings:
            words.append(
                "what may help: readings at even intervals, or the logarithm of the time between them as input"
            )
        cures = _try(settings) if here == first else ()
        unit = "of its units fall silent in workouts"
        told.append(Finding("cadence", "warn", here, blind[0].silent, BLIND, unit, "; ".join(words), cures, step))
    return told


def failure(layers: Sequence[Rows], untrained: Mapping[str, float]) -> str:
    """Return why the silence of units tells nothing of cadence, in words: the training itself has failed.

    Args:
        layers: over the weeks.
        untrained: `typical_spread` of each layer before training.
    """
    for layer in layers:
        if not all(np.isfinite(week).all() for week in layer.weeks):
            return f"{layer.layer} puts out values that are not finite"
    for layer in layers:
        if layer.constant >= DEAD:
            return f"{layer.constant:.0%} of the units of {layer.layer} do not change in time, at whatever cadence"
        grown = typical_spread(layer) / before if (before := untrained.get(layer.layer, 0.0)) > 0 else 0.0
        if grown >= EXPLODED:
            return f"the units of {layer.layer} vary {grown:,.0f} times as much as before training, which has failed"
    return ""


def typical_spread(layer: Rows) -> float:
    """Return the standard deviation over time, mean over units and weeks; NaN if a value is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.mean([week.std(axis=1, dtype=np.float64).mean() for week in layer.weeks]))


def _try(settings: dict[str, object]) -> tuple[str, ...]:
    if not settings:
        return ()
    cures = ["model=hourly_cnn data.view=hourly"]  # hours are alike, whatever the cadence
    if settings.get("model.activation") == "relu":
        cures.insert(0, "model.activation=leaky_relu")
    return tuple(cures)


def _ratio(dense: np.ndarray, sparse: np.ndarray) -> Float64[np.ndarray, " unit"]:
    ratio: np.ndarray = np.divide(dense, sparse, out=np.full(len(dense), np.nan), where=sparse > 0)
    return ratio


def _spreads(layer: Rows, weeks: Sequence[KnownWeek]) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return each unit's spread in dense and in sparse positions, and how many were dense; None if too few are."""
    sums, counts = np.zeros((2, layer.units)), np.zeros(2, dtype=int)
    for rows, week in zip(layer.weeks, weeks, strict=True):
        for kind, mask in enumerate((week.dense, week.sparse)):
            chosen = rows[:, _positions(mask, rows.shape[1])].astype(np.float64)
            chosen = np.nan_to_num(chosen, posinf=0.0, neginf=0.0)
            if chosen.shape[1] > 1:
                sums[kind] += chosen.var(axis=1) * chosen.shape[1]
                counts[kind] += chosen.shape[1]
    if counts.min() < LEAST_POSITIONS:
        return None
    dense, sparse = np.sqrt(sums / counts[:, None])
    return dense, sparse, int(counts[0])


def _positions(mask: Bool[np.ndarray, " reading"], positions: int) -> Bool[np.ndarray, " position"]:
    pooled = len(mask) / positions
    inner = mask if pooled >= _SETTLED else _within(mask, _SETTLED)
    chosen: np.ndarray = at_positions(inner.astype(np.float64), positions) >= _MOSTLY
    return chosen


def _within(mask: Bool[np.ndarray, " reading"], reach: int) -> Bool[np.ndarray, " reading"]:
    """Tell which readings have nothing else within `reach` readings on either side."""
    outside = np.concatenate([[0], np.cumsum(~mask)])
    place = np.arange(len(mask))
    low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(mask))
    within: np.ndarray = outside[high] == outside[low]
    return within
