"""Stratified analysis: how good scores are inside a group of weeks and outside, and group by group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Bool, Float, Shaped

from heartnet.diagnostics.calibration import offset
from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.loss_patterns_proposals import NOT_PROPERTIES
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.predictions import KNOWN
from heartnet.resampling import Interval, Statistic, auroc, by_label, intervals, mean

Floats = npt.NDArray[np.float64]

_NONE = Interval(math.nan, math.nan, math.nan)
_MOST_CELLS = 100_000_000
_CLIP = 1e-7  # of scores in the logarithmic loss


@dataclass(frozen=True)
class Group:
    """How good the scores of a condition are in a group of weeks; intervals of 95 % from resampling people.

    Attributes:
        weeks, people: with a known label.
        positive: weeks that have it.
        having, without: people who have it in some week, and have it not in some week.
        auroc: NaN with one class.
        log_loss: mean of −log of the probability given to the label, natural logarithm.
        brier: mean of (score − label)².
        offset: mean score less the share that has it.
    """

    weeks: int
    people: int
    positive: int
    having: int
    without: int
    auroc: Interval = _NONE
    log_loss: Interval = _NONE
    brier: Interval = _NONE
    offset: Interval = _NONE

    @property
    def too_few(self) -> bool:
        """Whether too few people have it, or have it not, for intervals to keep what they promise."""
        return min(self.having, self.without) < FEWEST


@dataclass(frozen=True)
class InAndOut:
    """A condition's scores inside a pattern and outside; `difference` is the AUROC outside less that inside."""

    target: str
    inside: Group
    outside: Group
    difference: Interval = _NONE


def group(
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Group:
    """Return how good scores are; weeks whose label or score is unknown are left out."""
    known = np.isfinite(value) & np.isfinite(score)
    score, value, users = score[known], value[known], users[known]
    bare = _bare(value, users)
    if not len(value):
        return bare
    return Group(*_counts(bare), *_resampled(_four(score, value), (0,), users, value, draws, seed))


def in_and_out(
    target: str,
    score: Float[np.ndarray, " week"],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    inside: Bool[np.ndarray, " week"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> InAndOut:
    """Return how good scores are inside and outside, on the same resampled people, so that both can be compared."""
    known = np.isfinite(value) & np.isfinite(score)
    score, value, users, inside = score[known], value[known], users[known], inside[known]
    parts = [_four(score[each], value[each]) if each.any() else None for each in (inside, ~inside)]

    def both(weights: Floats) -> Floats:
        one, other = (
            np.full((4, weights.shape[1]), np.nan) if part is None else part(weights[each])
            for part, each in zip(parts, (inside, ~inside), strict=True)
        )
        return np.concatenate([one, other, other[:1] - one[:1]])

    found = _resampled(both, (0, 4, 8), users, value, draws, seed)
    groups = [_bare(value[each], users[each]) for each in (inside, ~inside)]
    return InAndOut(
        target, Group(*_counts(groups[0]), *found[:4]), Group(*_counts(groups[1]), *found[4:8]), difference=found[8]
    )


BANDS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "age_band": ("age", "years", (30, 45, 60)),
    "bmi_band": ("bmi", "kg/m²", (18.5, 25, 30)),
    "wear_band": ("wear_hours", "h", (48, 84, 120)),
}
"""Strata with bounds of their own: the column, its unit, and where a band ends and the next begins."""

STRATA: tuple[str, ...] = (*BANDS, *(name for name in KNOWN if name not in ("split", "logit")))
"""What weeks can be stratified by: bands, or a column; a column of numbers by its quarters."""


def check_strata(strata: Sequence[str], further: Sequence[str] | None = ()) -> tuple[str, ...]:
    """Return the names.

    Args:
        strata: names.
        further: columns there are besides `STRATA`; None if that is not yet known.

    Raises:
        HeartnetError: no sequence of names, or an unknown one.
    """
    there = tuple(dict.fromkeys((*STRATA, *(further or ()))))
    listed = isinstance(strata, Sequence) and not isinstance(strata, str)
    if not listed or not all(isinstance(name, str) for name in strata):
        raise HeartnetError(f"callbacks.loss_patterns.strata={strata!r}: a list of names is expected, as [device,sex]")
    for name in strata:
        if further is not None and name not in there:
            raise HeartnetError(
                f"callbacks.loss_patterns.strata: no {name!r}; there are {', '.join(there)}.{did_you_mean(name, there)}"
            )
    return tuple(dict.fromkeys(strata))


def stratified(
    weeks: pl.DataFrame,
    targets: Sequence[str],
    scores: Float[np.ndarray, "week target"],
    values: Float[np.ndarray, "week target"],
    strata: Sequence[str],
    *,
    by: str = "user",
    draws: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Return one row a stratum, group and condition, with people, weeks, positives and scores with their intervals.

    Groups of a stratum hold all weeks: those of which it is unknown are a group too. `too_few` says where fewer than
    `FEWEST` people have the condition, or have it not: those rows are there, but tell little.

    Args:
        weeks: `user_id` and columns of `heartnet.predictions.KNOWN`, or others.
        targets: conditions.
        scores: probabilities.
        values: 1 or 0; NaN is unknown.
        strata: names of `STRATA`, or of other columns.
        by: what is resampled, `user` or `week`.
        draws: resamples.
        seed: of the draws.
    """
    users = weeks["user_id"].to_numpy() if by == "user" else np.arange(len(weeks))
    rows = []
    for stratum in check_strata(strata, [name for name in weeks.columns if name not in NOT_PROPERTIES]):
        for name, inside in _groups(weeks, stratum):
            for i, target in enumerate(targets):
                it = group(scores[inside, i], values[inside, i], users[inside], draws=draws, seed=seed)
                rows.append({"stratum": stratum, "group": name, "target": target, **as_row(it)})
    return pl.DataFrame(rows, infer_schema_length=None)


def as_row(it: Group, suffix: str = "") -> dict[str, float | int | bool | None]:
    """Return the numbers of a group by name, those of intervals with `_low` and `_high`; None where there is none."""
    row: dict[str, float | int | bool | None] = {
        f"people{suffix}": it.people,
        f"weeks{suffix}": it.weeks,
        f"positive_weeks{suffix}": it.positive,
        f"too_few{suffix}": it.too_few,
    }
    for name in ("auroc", "log_loss", "brier", "offset"):
        found: Interval = getattr(it, name)
        for end, value in (("", found.value), ("_low", found.low), ("_high", found.high)):
            row[f"{name}{suffix}{end}"] = value if math.isfinite(value) else None
    return row


def _groups(weeks: pl.DataFrame, stratum: str) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    column, unit, bounds = BANDS.get(stratum, (stratum, "", ()))
    each = weeks[column] if column in weeks.columns else pl.Series(column, [None] * len(weeks), dtype=pl.Float64)
    unknown = each.is_null().to_numpy()
    found: list[tuple[str, npt.NDArray[np.bool_]]] = []
    if each.dtype.is_numeric():
        values = each.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        unknown = ~np.isfinite(values)
        if not bounds and not unknown.all():
            bounds = tuple(np.unique(np.quantile(values[~unknown], [0.25, 0.5, 0.75])).tolist())
        edges = [-math.inf, *bounds, math.inf]
        for low, high in pairwise(edges):
            inside = (values >= low) & (values < high)
            if inside.any():
                found.append((f"{_between(low, high)}{f' {unit}' if unit else ''}", inside))
    else:
        names = each.cast(pl.String)
        found = [
            (str(name), (names == name).fill_null(False).to_numpy()) for name in names.drop_nulls().unique().sort()
        ]
    return [*found, *([("unknown", unknown)] if unknown.any() else [])]


def _between(low: float, high: float) -> str:
    if math.isinf(low):
        return "all" if math.isinf(high) else f"under {high:.4g}"
    return f"{low:.4g} or more" if math.isinf(high) else f"{low:.4g} to under {high:.4g}"


def _bare(value: Floats, users: npt.NDArray[np.generic]) -> Group:
    return Group(
        weeks=len(value),
        people=len(np.unique(users)),
        positive=int((value == 1).sum()),
        having=len(np.unique(users[value == 1])),
        without=len(np.unique(users[value == 0])),
    )


def _counts(it: Group) -> tuple[int, int, int, int, int]:
    return it.weeks, it.people, it.positive, it.having, it.without


def _four(score: Floats, value: Floats) -> Statistic:
    """Return the statistics AUROC, log loss, Brier score and offset, `[4, draw]`; NaN for a draw without weeks."""
    said = np.clip(np.where(value == 1, score, 1 - score), _CLIP, 1)
    each: list[Callable[[Floats], Floats]] = [
        auroc(score, value), mean(-np.log(said)), mean((score - value) ** 2), offset(score, value),
    ]  # fmt: skip
    one_class = bool(np.all(value == value[0]))

    def four(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = [
                np.full(weights.shape[1], np.nan) if one_class and i == 0 else it(weights) for i, it in enumerate(each)
            ]
        return np.stack(found)

    return four


def _resampled(
    statistic: Statistic, rankings: Sequence[int], users: npt.NDArray[np.generic], value: Floats, draws: int, seed: int
) -> list[Interval]:
    """Return the intervals of several statistics; those in `rankings` of as many people with it as there are."""
    fewer = min(draws, max(_MOST_CELLS // max(len(value), 1), 200))
    ranked = intervals(statistic, users, by_label(users, value), draws=fewer, seed=seed)
    others = intervals(statistic, users, draws=fewer, seed=seed)
    return [ranked[i] if i in rankings else each for i, each in enumerate(others)]
