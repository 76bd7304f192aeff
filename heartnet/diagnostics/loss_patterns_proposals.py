"""Which patterns there may be: conditions on what is known of weeks, and which weeks each holds in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.features import HABITS_UNITS
from heartnet.hourly import HOURLY_UNITS
from heartnet.predictions import PREDICTED

Flags = npt.NDArray[np.bool_]

FEWEST_INSIDE = 10
"""People in each half in whom a pattern holds, and in whom it does not, below which it is not looked at."""

MOST = 0.5
"""Share of weeks above which a pattern is the rule, not the exception."""

CUTS = (0.1, 0.2, 0.8, 0.9)
"""Quantiles of a column beyond which weeks are looked at."""

NOT_PROPERTIES = frozenset({*PREDICTED, "split", "logit"})
"""Columns that say nothing of a week itself."""

RECORDED = frozenset({"device"})
"""Columns that say with what a week was recorded, and nothing of the person, as age, habits or heart rate do."""

_UNITS = {"age": "years", "bmi": "kg/m²", "wear_hours": "h", **HABITS_UNITS}
_UNITS |= {f"{of}_of_{name}": unit for of in ("mean", "spread") for name, unit in HOURLY_UNITS.items()}


@dataclass(frozen=True)
class Clause:
    """One condition on a column: `is` a name, `at most` or `at least` a number, or `is unknown`."""

    column: str
    kind: Literal["is", "at most", "at least", "unknown"]
    bound: str | float | None = None

    def __str__(self) -> str:
        name = self.column.replace("_", " ")
        if self.kind == "unknown":
            return f"{name} unknown"
        if self.kind == "is":
            return f"{name} = {self.bound}"
        unit = _UNITS.get(self.column, "")
        unit = f" {unit}" if unit not in ("", "count", "share") else ""
        return f"{name} {'≤' if self.kind == 'at most' else '≥'} {self.bound:.4g}{unit}"

    def holds(self, weeks: pl.DataFrame) -> Flags:
        """Return `[week]`; a column that is not known holds for `unknown` only."""
        each = pl.col(self.column)
        asked = {
            "is": lambda: each.cast(pl.String) == pl.lit(self.bound),
            "at most": lambda: each <= pl.lit(self.bound),
            "at least": lambda: (each >= pl.lit(self.bound)) & each.is_not_nan(),
            "unknown": each.is_null,
        }[self.kind]()
        found: Flags = weeks.select(asked.fill_null(value=False)).to_series().to_numpy().astype(np.bool_)
        return found


def words(clauses: Sequence[Clause]) -> str:
    """Return a pattern in words."""
    return " and ".join(map(str, clauses))


def of_recording(clauses: Sequence[Clause]) -> bool:
    """Return whether a pattern says with what weeks were recorded, and nothing of the people."""
    return all(clause.column in RECORDED for clause in clauses)


def holds(clauses: Sequence[Clause], weeks: pl.DataFrame) -> Flags:
    """Return `[week]`: where all conditions of a pattern hold."""
    found: Flags = np.logical_and.reduce([clause.holds(weeks) for clause in clauses])
    return found


def proposals(weeks: pl.DataFrame) -> list[tuple[Clause, ...]]:
    """Return the patterns of one condition each: every name of a column of names, the ends of every column of numbers.

    Numbers of which many weeks have the smallest, as counts that are mostly 0, are cut there. No label is looked at.

    Args:
        weeks: one row a week, columns of `heartnet.predictions.KNOWN` or others.
    """
    found: dict[tuple[Clause, ...], None] = {}
    for name in weeks.columns:
        if name not in NOT_PROPERTIES:
            found |= dict.fromkeys((clause,) for clause in _clauses(weeks[name]))
    return list(found)


def large_enough(inside: Flags, users: npt.NDArray[np.int64]) -> bool:
    """Return whether a pattern holds in enough people and not in too many weeks.

    Args:
        inside: `[week]`.
        users: `[week]`, from 0.
    """
    within, beyond = (int(np.count_nonzero(np.bincount(users[each]))) for each in (inside, ~inside))
    return min(within, beyond) >= FEWEST_INSIDE and float(inside.mean()) <= MOST


def _clauses(column: pl.Series) -> Iterator[Clause]:
    name = column.name
    if column.null_count():
        yield Clause(name, "unknown")
    known = column.drop_nulls()
    if not len(known):
        return
    if column.dtype.is_numeric():
        values = known.cast(pl.Float64).to_numpy()
        values = values[np.isfinite(values)]
        if not len(values) or not values.max() > values.min():
            return
        above = values[values > values.min()]
        if len(above) < MOST * len(values):
            yield Clause(name, "at least", float(above.min()))
        for cut in CUTS:
            # One of the values themselves, so that it is the same number in whatever precision.
            bound = float(np.quantile(values, cut, method="lower" if cut < 0.5 else "higher"))
            if not (bound in (values.min(), values.max()) and _share(values == bound) > MOST) and math.isfinite(bound):
                yield Clause(name, "at most" if cut < 0.5 else "at least", bound)
    elif column.dtype in (pl.String, pl.Categorical, pl.Boolean):
        # A name in fewer weeks cannot be in people enough; and there may be as many names as weeks.
        counts = known.cast(pl.String).alias("name").value_counts().filter(pl.col("count") >= FEWEST_INSIDE)
        for value in counts["name"].sort():
            yield Clause(name, "is", value)


def _share(flags: Flags) -> float:
    return float(flags.mean())
