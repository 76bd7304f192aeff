"""Units that mean something: which unit tells sleep, workouts, heart rate …, beyond chance and an untrained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.fft import irfft, rfft
from scipy.stats import rankdata, t

from heartnet.diagnostics.heatmap import Rows
from heartnet.diagnostics.signals import at_positions

LAGS: tuple[int, ...] = (-32, -16, -8, -4, 0, 4, 8, 16, 32)
"""Readings by which a unit may come after a signal (before it, where negative)."""

CELLS = 1024
"""Equal groups of readings over which activations and signals are averaged at most: four readings of a long week."""

ALPHA = 0.05
LEAST_MARGIN = 0.02
"""By how much a unit has to be above the untrained network's best, as AUC; rank correlations are twice as wide."""

_LEAST_CELLS = 8  # of each kind that a week must have to say something of a mark
_FARTHEST = 0.05  # of the week: no shift is nearer to 0 than this

Signals = Mapping[str, Float64[np.ndarray, " _"]]  # weeks differ in length


@dataclass(frozen=True)
class Meaning:
    """How well each unit of a network tells one signal.

    Effects run from −1 to 1: the rank correlation (Spearman's), or for a signal of 0 and 1 twice the AUC minus 1. They
    are the mean over the weeks that know the signal, each week on its own, so that nothing between people counts, at
    the lag where it is strongest.

    Attributes:
        signal: its name.
        binary: whether it is 0 and 1.
        layers: the layer of each unit; `inputs` for what the network sees.
        numbers: the unit's number in its layer.
        effects: of each unit.
        lags: readings by which the unit comes after the signal, where the effect is strongest.
        weeks: the weeks that know the signal.
        weekly: the effect in each of them, at that lag.
        chance: what the largest effect of all units and lags stays below in 1 − `ALPHA` / signals of circular shifts.
        p: share of shifts in which the largest effect of all units and lags was at least the unit's own, times the
            number of signals, at most 1.
    """

    signal: str
    binary: bool
    layers: tuple[str, ...]
    numbers: Int64[np.ndarray, " unit"]
    effects: Float64[np.ndarray, " unit"]
    lags: Int64[np.ndarray, " unit"]
    weeks: tuple[int, ...]
    weekly: Float64[np.ndarray, "unit week"]
    chance: float
    p: Float64[np.ndarray, " unit"]

    def best(self, *, inputs: bool = False) -> int | None:
        """Return the place of the unit (or of the input) with the largest effect; None if there is none."""
        chosen = [i for i, layer in enumerate(self.layers) if (layer == "inputs") == inputs]
        return max(chosen, key=lambda i: abs(self.effects[i])) if chosen else None

    def shown(self, effect: float) -> float:
        """Return an effect as what is told: the AUC of a mark, never below 0.5, or |rank correlation|."""
        return (abs(effect) + 1) / 2 if self.binary else abs(effect)


def unit_meanings(
    layers: Sequence[Rows],
    signals: Sequence[Signals],
    *,
    lags: Sequence[int] = LAGS,
    shifts: int = 400,
    seed: int = 0,
) -> list[Meaning]:
    """Return for each signal how well each unit tells it.

    Chance is measured by shifting each week's signal in a circle, by an amount of its own between 5 % and 95 % of the
    week, which keeps all that makes neighbouring readings alike; what counts is the largest effect over all units and
    lags (Westfall & Young, "Resampling-based multiple testing", 1993), and the number of signals is paid by
    Bonferroni. A unit that merely knows the hour of day is near chance for sleep where only one week is given, since
    some shifts are whole days.

    All shifts of all units come from one Fourier transform of ranks; ties have their mean rank.

    Args:
        layers: over the same weeks; those of `heartnet.diagnostics.heatmap.collect`, the inputs first as a layer
            `inputs` if they are to be told from units.
        signals: of each week, by name.
        lags: in readings.
        shifts: random shifts; 0 leaves chance unknown (`chance` 1, `p` 1).
        seed: of the shifts; no global random stream is used.
    """
    weeks = range(len(signals))
    readings = [len(next(iter(each.values()))) for each in signals]
    grids = [min(CELLS, count) for count in readings]
    numbers = np.concatenate([np.arange(each.units) for each in layers])
    names = tuple(each.layer for each in layers for _ in range(each.units))
    ranks = [_centred_ranks(np.concatenate([to_cells(each.weeks[w], grids[w]) for each in layers])) for w in weeks]
    spectra = [rfft(each, axis=1) if shifts else None for each in ranks]
    steps = [_in_cells(lags, readings[w], grids[w]) for w in weeks]
    known = list(dict.fromkeys(name for each in signals for name in each))
    found = []
    for name in known:
        binary = all(is_mark(each[name]) for each in signals if name in each)
        used, circles = [], []
        for w in weeks:
            circle = _circle(ranks[w], spectra[w], signals[w].get(name), grids[w], binary, steps[w])
            if circle is not None:
                used.append(w)
                circles.append(circle)
        if used:
            at = [steps[w] if shifts else np.arange(len(lags)) for w in used]
            found.append(_meaning(name, binary, names, numbers, used, circles, at, lags, shifts, seed, len(known)))
    return found


def to_cells(rows: Float32[np.ndarray, "unit position"], cells: int) -> Float32[np.ndarray, "unit cell"]:
    """Return the mean of each cell; where there are fewer positions than cells, positions are repeated."""
    positions = rows.shape[1]
    edge = (np.arange(cells + 1) * positions) // cells
    rows = np.nan_to_num(rows, posinf=0.0, neginf=0.0)  # a broken unit tells nothing
    if positions < cells:
        return rows[:, edge[:-1]]
    sums: np.ndarray = np.add.reduceat(rows, edge[:-1], axis=1, dtype=np.float64) / np.diff(edge)
    return sums.astype(np.float32)


def is_mark(values: Float64[np.ndarray, " reading"]) -> bool:
    """Tell whether a signal is 0 and 1 wherever it is known."""
    return bool(np.isin(values[~np.isnan(values)], (0.0, 1.0)).all())


def beyond(trained: Meaning, untrained: Meaning | None) -> list[int]:
    """Return the units beyond chance, the best input and the best unit of the untrained network, best first.

    From three weeks on, the difference to the untrained network's best unit, week by week, must have a 95 % confidence
    interval (Student's) above 0; in any case it must be at least `LEAST_MARGIN`.
    """
    floor = trained.chance
    rivals = [(trained, trained.best(inputs=True)), (untrained, None if untrained is None else untrained.best())]
    margin = LEAST_MARGIN * (2 if trained.binary else 1)
    units = [i for i, layer in enumerate(trained.layers) if layer != "inputs" and abs(trained.effects[i]) > floor]
    for rival, place in rivals:
        if rival is None or place is None:
            continue
        other = np.abs(rival.effects[place]), rival.weekly[place] * np.sign(rival.effects[place])
        units = [i for i, above in zip(units, _above(trained, units, *other, margin), strict=True) if above]
    return sorted(units, key=lambda i: -abs(trained.effects[i]))


def _above(
    meaning: Meaning, units: Sequence[int], effect: float, weekly: np.ndarray, margin: float
) -> Bool[np.ndarray, " unit"]:
    effects = meaning.effects[units]
    difference = np.abs(effects) - effect
    own = meaning.weekly[units] * np.sign(effects)[:, None]
    weeks = own.shape[1]
    found: np.ndarray = difference >= margin
    if weeks >= 3 and weekly.shape == (weeks,):
        error = np.std(own - weekly, axis=1, ddof=1) / np.sqrt(weeks)
        found &= difference > t.ppf(0.95, weeks - 1) * error
    return found


def _centred_ranks(rows: np.ndarray) -> Float32[np.ndarray, "unit cell"]:
    """Return ranks around 0, exact in float32: halves below 2¹¹."""
    # Sorted as whole numbers that hold the place in their last bits, which takes a third of the time of `rankdata`.
    count = rows.shape[1]
    bits = (rows.astype(np.float32) + np.float32(0)).view(np.int32)  # the two zeros are one
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32 | np.arange(count)
    keys.sort(axis=1)
    place, values = keys & 0xFFFFFFFF, keys >> 32
    new = np.ones((len(rows), count + 1), dtype=bool)
    new[:, 1:-1] = values[:, 1:] != values[:, :-1]
    # Of a run of equal values, the first and the one after the last; all in one row, since every row begins anew.
    starts = np.flatnonzero(new[:, :-1])
    lengths = np.diff(np.append(starts, values.size))
    middle = (starts % count + (lengths - count) / 2).astype(np.float32)
    ranks = np.empty(rows.shape, dtype=np.float32)
    np.put_along_axis(ranks, place, np.repeat(middle, lengths).reshape(rows.shape), axis=1)
    return ranks


def _circle(
    ranks: np.ndarray,
    spectrum: np.ndarray | None,
    signal: np.ndarray | None,
    cells: int,
    binary: bool,
    steps: np.ndarray,
) -> Float32[np.ndarray, "unit cell"] | None:
    """Return the effect of each unit on a signal that comes each number of cells earlier; None if it says nothing.

    Without a spectrum, only the effects at `steps` are worked out, in their order.

    Where the signal is unknown, those cells are left out, and ranks are taken anew among the others.
    """
    if signal is None:
        return None
    values = at_positions(signal, cells)
    known = ~np.isnan(values)
    if not known.all():
        if known.sum() < 4 * _LEAST_CELLS:
            return None
        ranks, values = _centred_ranks(ranks[:, known]), values[known]
        spectrum = None if spectrum is None else rfft(ranks, axis=1)
    count = len(values)
    if binary:
        values = values >= 0.5
        ones = int(values.sum())
        if min(ones, count - ones) < _LEAST_CELLS:
            return None
        weight = 2 / count * np.where(values, 1 / ones, -1 / (count - ones))
        scale = np.ones(len(ranks))
    else:
        own = rankdata(values) - (count + 1) / 2
        if not own.any():
            return None
        weight = own / np.linalg.norm(own)
        norms = np.linalg.norm(ranks, axis=1)
        scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    found: np.ndarray
    if spectrum is None:
        found = ranks @ np.stack([np.roll(weight, step) for step in steps], axis=1).astype(np.float32)
    else:
        found = irfft(spectrum * np.conj(rfft(weight)).astype(np.complex64), n=count, axis=1)
    found *= scale[:, None].astype(np.float32)
    return found


def _in_cells(lags: Sequence[int], readings: int, cells: int) -> Int64[np.ndarray, " lag"]:
    steps: np.ndarray = np.round(np.array(lags) * cells / readings)
    return steps.astype(np.int64)


def _meaning(
    name: str,
    binary: bool,
    names: tuple[str, ...],
    numbers: np.ndarray,
    used: Sequence[int],
    circles: Sequence[np.ndarray],
    steps: Sequence[np.ndarray],
    lags: Sequence[int],
    shifts: int,
    seed: int,
    tried: int,
) -> Meaning:
    at_lags = np.stack([circle[:, step % circle.shape[1]] for circle, step in zip(circles, steps, strict=True)], axis=2)
    mean = at_lags.mean(axis=2)
    best = np.abs(mean).argmax(axis=1)
    unit = np.arange(len(mean))
    # The inputs are what units are compared with, and no units themselves.
    units = np.flatnonzero([layer != "inputs" for layer in names])
    null = _largest_by_chance(circles, units, steps, shifts, seed)
    effects = mean[unit, best].astype(np.float64)
    above = (null[None] >= np.abs(effects)[:, None]).sum(axis=1)
    return Meaning(
        signal=name,
        binary=binary,
        layers=names,
        numbers=numbers,
        effects=effects,
        lags=np.array(lags, dtype=np.int64)[best],
        weeks=tuple(used),
        weekly=at_lags[unit, best].astype(np.float64),
        chance=float(np.quantile(null, 1 - ALPHA / tried, method="higher")) if len(null) else 1.0,
        p=np.minimum((above + 1) / (len(null) + 1) * tried, 1.0),
    )


def _largest_by_chance(
    circles: Sequence[np.ndarray], units: np.ndarray, steps: Sequence[np.ndarray], shifts: int, seed: int
) -> Float64[np.ndarray, " shift"]:
    rng = np.random.default_rng(seed)
    if not len(units) or not shifts:
        return np.zeros(shifts)
    apart = np.unique(np.stack([*steps], axis=1), axis=0)
    part = slice(units[0], units[-1] + 1) if len(units) == units[-1] - units[0] + 1 else units  # a view, if it can be
    by_shift = [np.ascontiguousarray(circle[part].T) for circle in circles]  # whole rows are read in one go
    found = np.empty(shifts)
    for i in range(shifts):
        total = np.zeros((len(apart), by_shift[0].shape[1]), dtype=np.float32)
        for w, circle in enumerate(by_shift):
            cells = len(circle)
            shift = int(rng.uniform(_FARTHEST, 1 - _FARTHEST) * cells)
            total += circle.take(shift + apart[:, w], axis=0, mode="wrap")
        found[i] = np.abs(total).max() / len(circles)
    return found
