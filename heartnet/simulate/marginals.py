"""The simulated population beside the published one, number by number: `python -m heartnet.simulate.marginals`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from heartnet.simulate import simulate
from heartnet.simulate.literature import LATE_HOURS
from heartnet.weeks import Weeks


@dataclass(frozen=True)
class Marginal:
    """One published number of a population.

    Attributes:
        name, unit: what it is.
        published: the number.
        tolerance: how far the simulated one may lie from it: what the model leaves out, and chance among 1,500 people.
        source: who says so; where the paper is named only, `heartnet.simulate.literature` has the whole reference.
        measure: returns the simulated one.
    """

    name: str
    unit: str
    published: float
    tolerance: float
    source: str
    measure: Callable[[Weeks], float]


def marginals(weeks: Weeks) -> pl.DataFrame:
    """Return a row a published number: `name`, `unit`, `simulated`, `published`, `tolerance`, `holds`, `source`.

    Args:
        weeks: a simulated cohort with the base rates of the literature, of 1,000 people or more.
    """
    rows = [
        {
            "name": each.name,
            "unit": each.unit,
            "simulated": (found := float(each.measure(weeks))),
            "published": each.published,
            "tolerance": each.tolerance,
            "holds": abs(found - each.published) <= each.tolerance,
            "source": each.source,
        }
        for each in MARGINALS
    ]
    return pl.DataFrame(rows)


def _people(weeks: Weeks) -> pl.DataFrame:
    return weeks.table.unique("user_id", keep="first", maintain_order=True)


def _of(expression: pl.Expr, *among: pl.Expr) -> Callable[[Weeks], float]:
    """Return a measure: a number of the people for whom all of `among` holds."""
    return lambda weeks: _people(weeks).filter(*among).select(expression).item()


def _share_with(condition: str, *among: pl.Expr) -> Callable[[Weeks], float]:
    return _of((pl.col(f"true_{condition}") > 0).mean(), *among)


def _explained_by_metadata(weeks: Weeks) -> float:
    """Return the share of the resting rate's variance that a linear model of age, sex and BMI explains."""
    people = _people(weeks)
    known = people.select(pl.lit(1.0), "age", pl.col("sex") == "male", "bmi").cast(pl.Float64).to_numpy()
    rate = people["true_resting_rate"].to_numpy()
    left = rate - known @ np.linalg.lstsq(known, rate, rcond=None)[0]
    return float(1 - left.var() / rate.var())


def _daily_steps(percent: float) -> Callable[[Weeks], float]:
    """Return a measure: a percentile of the steps a day, over weeks, as the worn watch counted them."""

    def measure(weeks: Weeks) -> float:
        steps = np.nan_to_num(weeks.readings[:, 1]).astype(np.float64)
        return float(np.percentile(np.add.reduceat(steps, weeks.offsets[:-1]) / 7, percent))

    return measure


_WOMEN, _MEN = pl.col("sex") == "female", pl.col("sex") == "male"
_YOUNGER, _OLDER = pl.col("age").is_between(30, 50, closed="left"), pl.col("age").is_between(50, 70)
_RESTING = pl.col("true_resting_rate")
_DRINKS = pl.col("true_drinking_nights") > 0

_TISON = "Tison et al. 2018"
_QUER = "Quer et al. 2020"
_FENG = "Feng et al. 2024"
_PEPPARD = "Peppard et al. 2013"
_MASTER = "Master et al. 2022"
_NSDUH = "NSDUH report, 12 December 2003"
_FITBIT = "Fitbit, six billion nights (Pogue 2018)"

MARGINALS: tuple[Marginal, ...] = (
    Marginal("age, mean", "years", 42.0, 1.2, _TISON, _of(pl.col("age").mean())),
    Marginal("age, standard deviation", "years", 12.0, 1.0, _TISON, _of(pl.col("age").std())),
    Marginal("men", "share", 0.63, 0.045, _TISON, _of(_MEN.mean())),
    Marginal("BMI, mean", "kg/m²", 28.4, 0.6, _QUER, _of(pl.col("bmi").mean())),
    Marginal("BMI, standard deviation", "kg/m²", 5.8, 0.5, _QUER, _of(pl.col("bmi").std())),
    Marginal("resting rate, mean", "bpm", 65.0, 1.5, _QUER, _of(_RESTING.mean())),
    Marginal("resting rate of women, mean", "bpm", 66.6, 1.6, _FENG, _of(_RESTING.mean(), _WOMEN)),
    Marginal("resting rate of women, standard deviation", "bpm", 11.2, 1.2, _FENG, _of(_RESTING.std(), _WOMEN)),
    Marginal("resting rate of men, mean", "bpm", 64.4, 1.4, _FENG, _of(_RESTING.mean(), _MEN)),
    Marginal("resting rate of men, standard deviation", "bpm", 12.3, 1.6, _FENG, _of(_RESTING.std(), _MEN)),
    Marginal("resting rate explained by metadata (below 0.1)", "share", 0.05, 0.05, _QUER, _explained_by_metadata),
    Marginal("steps a day, lower quartile", "count", 5867, 450, _MASTER, _daily_steps(25)),
    Marginal("steps a day, median", "count", 7731, 450, _MASTER, _daily_steps(50)),
    Marginal("steps a day, upper quartile", "count", 9827, 700, _MASTER, _daily_steps(75)),
    Marginal("atrial fibrillation", "share", 0.036, 0.015, _TISON, _share_with("atrial_fibrillation")),
    Marginal("sleep apnea, men 30-49", "share", 0.10, 0.05, _PEPPARD, _share_with("sleep_apnea", _MEN, _YOUNGER)),
    Marginal("sleep apnea, men 50-70", "share", 0.17, 0.07, _PEPPARD, _share_with("sleep_apnea", _MEN, _OLDER)),
    Marginal("sleep apnea, women 30-49", "share", 0.03, 0.04, _PEPPARD, _share_with("sleep_apnea", _WOMEN, _YOUNGER)),
    Marginal("sleep apnea, women 50-70", "share", 0.09, 0.07, _PEPPARD, _share_with("sleep_apnea", _WOMEN, _OLDER)),
    Marginal("diabetes", "share", 0.11, 0.025, "CDC, National Diabetes Statistics Report", _share_with("diabetes")),
    Marginal("hypertension", "share", 0.324, 0.04, "Samanic et al. 2020", _share_with("hypertension")),
    Marginal(
        "beta blocker with hypertension", "share", 0.218, 0.06, "NAMCS 2013-2018",
        _of((pl.col("beta_blocker") == 1).mean(), pl.col("true_hypertension") > 0),
    ),
    Marginal("people who drink alcohol", "share", 0.54, 0.05, _NSDUH, _of(_DRINKS.mean())),
    Marginal(
        "their nights after alcohol", "per week", 2.1, 0.25, _NSDUH, _of(pl.col("true_drinking_nights").mean(), _DRINKS)
    ),
    Marginal("sleep of women, mean", "h", 6.83, 0.15, _FITBIT, _of(pl.col("true_sleep_hours").mean(), _WOMEN)),
    Marginal("sleep of men, mean", "h", 6.42, 0.15, _FITBIT, _of(pl.col("true_sleep_hours").mean(), _MEN)),
    Marginal(
        "bedtime, mean of all days", "h after midnight", -0.65, 0.15, _FITBIT,
        _of((pl.col("true_bedtime") + LATE_HOURS * 2 / 7).mean()),
    ),
)  # fmt: skip


if __name__ == "__main__":
    found = marginals(simulate(users=1500, weeks_per_user=1, seed=0)).drop("holds")
    with pl.Config(
        tbl_rows=-1, fmt_str_lengths=60, tbl_width_chars=160, float_precision=3, tbl_hide_dataframe_shape=True
    ):
        print(found)
