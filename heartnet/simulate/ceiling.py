"""The ceiling of a simulated cohort: how well conditions can be told by one who sees the true traits.

The cohort follows known laws (`heartnet.simulate.people`), so Bayes' rule gives the probability of each condition, and
no classifier that sees the same can have a higher AUROC, but for the luck of few weeks. Seen are:

- age, sex, BMI and the beta blocker, from the table;
- each trait of the person as it truly is, except `af_episodes`, which is not 0 with atrial fibrillation only and would
  give the label away;
- in its place, whether fibrillation met a measured heart rate in this very week, and at which moments one was measured.

A network sees none of the traits, only a week of readings that scatter around them, nor the beta blocker; it stays
below. Journeys, alcohol, the watch and the traits that no condition moves say nothing about conditions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from heartnet.conditions import CONDITIONS
from heartnet.errors import HeartnetError
from heartnet.simulate.literature import BETA_BLOCKER_RATE, BETA_BLOCKER_RESTING, EFFECTS, RISKS, TRAITS, Trait
from heartnet.simulate.people import liability_threshold, standardized
from heartnet.simulate.travel import WEEK
from heartnet.simulate.week import AF_HOURS, AF_HOURS_LIMITS, AF_HOURS_LOG_SD
from heartnet.weeks import Weeks

EPISODES, FIBRILLATION = "af_episodes", "atrial_fibrillation"
"""The trait that is not looked at, and the condition that moves it and no other trait."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_CELLS = 4_000_000
"""Weeks times states held at once: some tens of megabytes."""


def ceiling(
    weeks: Weeks, rows: npt.NDArray[np.int64], conditions: Sequence[str] = CONDITIONS, nodes: int | None = None
) -> npt.NDArray[np.float64]:
    """Return the posterior probability of each condition, `[row, condition]`, for one who sees the true traits.

    The 16 combinations of conditions are enumerated; their severities (even from 0.5 to 1.5) are integrated by
    Gauss-Legendre quadrature, the liability factor that they share by Gauss-Hermite. A trait clipped at a limit counts
    with the probability of lying beyond it. That tables round severities and traits to 0.001 is neglected.

    Args:
        weeks: simulated ones, drawn or from a store.
        rows: which weeks.
        conditions: which columns, in which order.
        nodes: of the quadrature over each severity; `None` takes enough for the cohort's effect scale.

    Raises:
        HeartnetError: the weeks are not simulated, or lack what the simulation knows of them.
    """
    if not weeks.simulated:
        raise HeartnetError("the ceiling is known of simulated weeks only, and these are not simulated")
    if missing := lacking(weeks, conditions):
        raise HeartnetError(f"the simulated weeks lack {', '.join(missing)}, so their ceiling is unknown")
    scale = float(weeks.provenance["effect_scale"])  # type: ignore[arg-type]
    rates: dict[str, float] = dict(weeks.provenance["base_rates"])  # type: ignore[call-overload]
    states = _States(scale, nodes or int(min(8 + scale, 24)))
    found = np.empty((len(rows), len(CONDITIONS)))
    step = max(_CELLS // len(states.weight), 1)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        log = states.log_prior(weeks, part, rates) + states.log_traits(weeks, part) + states.log_week(weeks, part)
        mass = np.exp(log - log.max(axis=1, keepdims=True))
        found[first : first + step] = mass @ (states.severity > 0) / mass.sum(axis=1, keepdims=True)
    return found[:, [CONDITIONS.index(name) for name in conditions]]


def expected_auroc(probability: npt.NDArray[np.float64]) -> float:
    """Return the AUROC to expect of a calibrated posterior, `[week]`, over weeks like these; NaN if all are certain.

    Each pair of weeks counts as much as it is likely that the one has the condition and the other has not, so that, in
    contrast to an AUROC of labels, chance in who has it plays no part.
    """
    group = np.unique(probability, return_inverse=True)[1]
    positive, negative = np.bincount(group, probability), np.bincount(group, 1 - probability)
    ahead = np.cumsum(negative) - negative / 2
    pairs = positive.sum() * negative.sum()
    # A week does not make a pair with itself, of which half would count as ahead.
    own = (probability * (1 - probability)).sum()
    return float(((positive * ahead).sum() - own / 2) / (pairs - own)) if pairs > own else math.nan


class _States:
    """What a person may have: each condition absent, or at one of the quadrature's severities; all combinations.

    Attributes:
        severity: `[state, condition]`, 0 where absent; of fibrillation 1 where present, since no trait shows how bad.
        weight: `[state]`, of the quadrature; those of all states with the same conditions add up to 1.
        combination: `[state]`, bit k is set where condition k is present.
    """

    def __init__(self, effect_scale: float, nodes: int) -> None:
        points, weights = np.polynomial.legendre.leggauss(nodes)
        self.nodes, self.shares = 1 + points / 2, weights / 2
        whole = (np.array([0.0, 1.0]), np.array([1.0, 1.0]))
        graded = (np.concatenate([[0.0], self.nodes]), np.concatenate([[1.0], self.shares]))
        levels = [whole if name == FIBRILLATION else graded for name in CONDITIONS]
        index = np.indices([len(level) for level, _ in levels]).reshape(len(CONDITIONS), -1)
        self.severity: Floats = np.stack([level[i] for (level, _), i in zip(levels, index, strict=True)], axis=1)
        self.weight: Floats = np.prod([share[i] for (_, share), i in zip(levels, index, strict=True)], axis=0)
        self.combination = (index > 0).T @ (1 << np.arange(len(CONDITIONS)))
        self.effect_scale = effect_scale

    def shift(self, trait: str) -> Floats:
        """Return `[state]`: what the conditions add to a trait."""
        added = np.zeros(len(self.weight))
        for effect in EFFECTS:
            if effect.trait == trait:
                added += self.effect_scale * effect.shift * self.severity[:, CONDITIONS.index(effect.condition)]
        return added

    def log_prior(self, weeks: Weeks, rows: npt.NDArray[np.int64], rates: dict[str, float]) -> Floats:
        """Return `[row, state]`: from age, sex, BMI and the beta blocker."""
        return _log_combinations(weeks, rows, rates)[:, self.combination] + np.log(self.weight)

    def log_traits(self, weeks: Weeks, rows: npt.NDArray[np.int64]) -> Floats:
        """Return `[row, state]`: from the true traits that conditions move; normal, with a tail's mass at a limit."""
        moved = [t for t in TRAITS if t.name != EPISODES and any(e.trait == t.name for e in EFFECTS)]
        log = np.zeros((len(rows), len(self.weight)))
        for trait in moved:
            apart, low, high = _deviation(weeks, rows, trait)
            shift = self.shift(trait.name) / trait.spread
            inside = ~(low | high)
            # (z − a)² / 2 without z², which is the same for all states
            log += np.where(inside, apart, 0.0)[:, None] * shift - inside[:, None] * (shift**2 / 2)
            log[low] += _log_ndtr(apart[low][:, None] - shift)
            log[high] += _log_ndtr(shift - apart[high][:, None])
        return log

    def log_week(self, weeks: Weeks, rows: npt.NDArray[np.int64]) -> Floats:
        """Return `[row, state]`: from whether fibrillation met a measured heart rate in the week."""
        trait = next(t for t in TRAITS if t.name == EPISODES)
        shift = self.effect_scale * sum(effect.shift for effect in EFFECTS if effect.trait == EPISODES)
        episodes = np.clip(trait.centre + shift * self.nodes, trait.low, trait.high)
        share = np.array([_share_seen(_measured_at(weeks, row)) for row in rows])
        none = np.exp(-share[:, None] * episodes) @ self.shares
        seen = np.array([_fibrillates(weeks, row) for row in rows])
        with np.errstate(divide="ignore"):
            without, having = np.log(np.where(seen, 0.0, 1.0)), np.log(np.where(seen, 1 - none, none))
        present = self.severity[:, CONDITIONS.index(FIBRILLATION)] > 0
        return np.where(present, having[:, None], without[:, None])


def lacking(weeks: Weeks, conditions: Sequence[str] = CONDITIONS) -> list[str]:
    """Return what simulated weeks lack for a ceiling; of another version, or changed since, they may lack something."""
    columns = ("start", "age", "sex", "bmi", "beta_blocker", *(f"true_{trait.name}" for trait in TRAITS))
    return [
        *(f"the simulated condition {name}" for name in conditions if name not in CONDITIONS),
        *(f"the column {name}" for name in columns if name not in weeks.table.columns),
        *(["the annotation in_af"] if "in_af" not in weeks.annotations else []),
        *(f"the option {name}" for name in ("effect_scale", "base_rates") if name not in weeks.provenance),
    ]


def _log_combinations(weeks: Weeks, rows: npt.NDArray[np.int64], rates: dict[str, float]) -> Floats:
    """Return `[row, combination]`: the log probability of the combination (bit k: condition k) and the beta blocker."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    has = np.array([[c >> k & 1 for k in range(len(RISKS))] for c in range(1 << len(RISKS))], dtype=bool)
    likelihood = np.ones((len(rows), len(has), len(points)))
    for k, risk in enumerate(RISKS):
        above = _metadata(weeks, rows) @ (risk.age, risk.bmi, risk.male) - liability_threshold(
            risk, rates[risk.condition]
        )
        lean = (above[:, None] + risk.shared * points) / math.sqrt(1 - risk.shared**2)
        likelihood *= np.where(has[:, k, None], _ndtr(lean)[:, None], _ndtr(-lean)[:, None])
    no_blocker = (1 - BETA_BLOCKER_RATE) * np.where(has, 1 - np.array([risk.beta_blocker for risk in RISKS]), 1).prod(1)
    blocker = (weeks.table[rows]["beta_blocker"] == 1).to_numpy()[:, None]
    probability = likelihood @ (weights / weights.sum()) * np.where(blocker, 1 - no_blocker, no_blocker)
    with np.errstate(divide="ignore"):
        log: Floats = np.log(probability)
    return log


def _metadata(weeks: Weeks, rows: npt.NDArray[np.int64]) -> Floats:
    """Return `[row, 3]`: age, log BMI and sex as risks and traits depend on them."""
    table = weeks.table[rows].select("age", "bmi", pl.col("sex") == "male")
    return np.array([standardized(*row) for row in table.iter_rows()], dtype=np.float64).reshape(-1, 3)


def _deviation(weeks: Weeks, rows: npt.NDArray[np.int64], trait: Trait) -> tuple[Floats, Flags, Flags]:
    """Return how far a trait lies from what metadata and medication say, in spreads; and where it is clipped."""
    table = weeks.table[rows]
    value = table[f"true_{trait.name}"].to_numpy()
    expected = _metadata(weeks, rows) @ (trait.age, trait.bmi, trait.male)
    if trait.name == "resting_rate":
        expected += BETA_BLOCKER_RESTING * table["beta_blocker"].to_numpy()
    own = np.log(value / trait.centre) if trait.log else value - trait.centre
    return (own - expected) / trait.spread, value <= trait.low, value >= trait.high


def _measured_at(weeks: Weeks, row: int) -> Floats:
    """Return the true seconds since the week began of each measured heart rate."""
    week = weeks.week(row)
    begin = weeks.table["start"].dt.timestamp("us")[int(row)]
    first = (int(weeks.local_time[weeks.offsets[row]]) - begin) / 1e6
    seconds = first + np.concatenate([[0.0], np.cumsum(week[1:, 2], dtype=np.float64)])
    measured: Floats = seconds[~np.isnan(week[:, 0])]
    return measured


def _fibrillates(weeks: Weeks, row: int) -> bool:
    in_af = weeks.annotations["in_af"][weeks.offsets[row] : weeks.offsets[row + 1]] == 1
    return bool((in_af & ~np.isnan(weeks.week(row)[:, 0])).any())


def _share_seen(seconds: Floats) -> float:
    """Return the probability that an episode, begun at any moment of the week, meets one of these measurements."""
    if not len(seconds):
        return 0.0
    # An episode of L hours is missed if it begins in a pause and ends before the pause does.
    before = np.concatenate([[0.0], seconds[:-1]])
    end = np.minimum(seconds, WEEK)
    longest, least = (seconds - np.minimum(before, end)) / 3600, (seconds - end) / 3600
    missed = 3600 * (_mean_excess(longest) - _mean_excess(least)).sum() + max(WEEK - seconds[-1], 0.0)
    return 1 - float(missed) / WEEK


def _mean_excess(hours: Floats) -> Floats:
    """Return E[max(hours − L, 0)] for the length L of an episode: the integral of its distribution function."""
    shortest, longest = AF_HOURS_LIMITS

    def integral(length: Floats) -> Floats:
        z = np.log(length / AF_HOURS) / AF_HOURS_LOG_SD
        whole: Floats = length * _ndtr(z) - AF_HOURS * math.exp(AF_HOURS_LOG_SD**2 / 2) * _ndtr(z - AF_HOURS_LOG_SD)
        return whole

    inside = integral(np.clip(hours, shortest, longest)) - integral(np.array([shortest]))
    excess: Floats = inside + np.maximum(hours - longest, 0.0)
    return excess


def _ndtr(z: Floats) -> Floats:
    found: Floats = torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(z))).numpy()
    return found


def _log_ndtr(z: Floats) -> Floats:
    found: Floats = torch.special.log_ndtr(torch.from_numpy(np.ascontiguousarray(z))).numpy()
    return found
