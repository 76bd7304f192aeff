"""Cadence blindness: do units fall silent in stretches where readings come every 5 seconds instead of minutes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from heartnet.diagnostics.heatmap import Rows, constant_rows
from heartnet.diagnostics.signals import KnownWeek, at_positions
from heartnet.findings import Finding

SILENT = 0.1
"""A unit is silent in dense stretches if its spread there is below this share of its spread at rest."""

BLIND = 0.5
"""Share of a layer's units that may be silent; the seeds' talk saw "most cells output zero values"."""

LEAST_INPUT = 0.2
"""Spread of the inputs in dense stretches, as a share of that at rest, below which silence is the inputs' own."""

LEAST_POSITIONS = 16
"""Positions of each kind that a layer needs for a number."""

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
    """Return how each layer fares, leaving out layers with too few positions of either kind.

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
        spreads = _spreads(layer, weeks)
        if spreads is None:
            continue
        dense, sparse, positions = spreads
        ratio = _ratio(dense, sparse)
        ratio[np.all([constant_rows(each) for each in layer.weeks], axis=0)] = np.nan
        alive = ratio[~np.isnan(ratio)]
        share = float((alive < SILENT).mean()) if len(alive) else None
        found.append(Cadence(layer.layer, ratio, share, reference, positions))
    return found


def verdict(found: Sequence[Cadence], settings: dict[str, object], step: int) -> list[Finding]:
    """Return a warning for each layer where more than `BLIND` of the units fall silent, or one finding that none does.

    Args:
        settings: what the network was made with, by Hydra override; empty for a network from elsewhere.
    """
    measured = [each for each in found if each.silent is not None]
    if not measured:
        return []
    unit = f"share of units silent at {SILENT:.0%} of their spread"
    worst = max(measured, key=lambda each: each.silent or 0.0)
    if measured[0].inputs < LEAST_INPUT:
        message = (
            f"nothing can be told of cadence blindness: heart rate itself has {measured[0].inputs:.0%} of its spread "
            "in the dense stretches of these weeks"
        )
        return [Finding("cadence", "pass", "all layers", None, BLIND, unit, message, step=step)]
    blind = [each for each in measured if (each.silent or 0.0) > BLIND]
    if not blind:
        message = f"units go on working where readings come every 5 s (most silent: {worst.layer})"
        return [Finding("cadence", "pass", "all layers", worst.silent, BLIND, unit, message, step=step)]
    first = blind[0].layer
    found_here = []
    for each in blind:
        message = (
            f"{each.silent:.0%} of its units fall silent where readings come every 5 s (a workout) instead of every "
            f"5 min, while the inputs keep {each.inputs:.0%} of their spread"
            + ("" if each.layer == first else f"; it starts in {first}")
        )
        found_here.append(
            Finding("cadence", "warn", each.layer, each.silent, BLIND, unit, message, _try(settings), step)
        )
    return found_here


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
