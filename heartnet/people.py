"""From the weeks of a person to one score: the ways to do it, and the one that a run chose.

A person has a condition or has it not, and each of their weeks is one look at them. Labels that change between weeks
(recordings of attacks, for example) make no such person: they are counted, and no way is judged on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Float

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.predictions import NETWORK

WAYS: dict[str, str] = {
    "mean_logit": "mean of the weeks' logits",
    "mean": "mean of the weeks' scores",
    "maximum": "highest of the weeks' scores",
    "noisy_or": "1 − the product of (1 − score): some week shows it, if each were another chance to",
    "wear": "mean of the weeks' scores, weighted by the hours worn",
}
"""The ways without coefficients, by name; each is a column of `person_table`."""

LEARNED = "learned"
"""A logistic regression on `FEATURES`, whose coefficients come from people who were not trained on."""

FALLBACK = "mean_logit"
"""What is taken where nothing was chosen: as a sum of what independent weeks say, it ranks best, and it has no
coefficients that could be wrong."""

FEATURES = ("mean_logit", "spread", "maximum", "log_weeks")
"""What `LEARNED` sees of a person: mean, standard deviation (divided by n) and maximum of the logits, and the logarithm
of how many there are."""

KEY = "heartnet_people"
"""Under which a checkpoint keeps the chosen ways, as plain values: by target `{"kind": …, "coefficients": […]}`."""

_FURTHEST = 30.0  # logits beyond it, or infinite ones, are taken as it: float32 knows no score nearer to 0 or 1


@dataclass(frozen=True)
class Way:
    """How one score a person is made.

    Attributes:
        kind: of `WAYS`, or `LEARNED`.
        coefficients: of `LEARNED`: the constant, then one for each of `FEATURES`.
    """

    kind: str = FALLBACK
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in (*WAYS, LEARNED):
            raise HeartnetError(
                f"no way {self.kind!r} from weeks to people; there are {', '.join((*WAYS, LEARNED))}."
                f"{did_you_mean(self.kind, WAYS)}"
            )
        expected = 1 + len(FEATURES) if self.kind == LEARNED else 0
        if len(self.coefficients) != expected or not all(map(math.isfinite, self.coefficients)):
            raise HeartnetError(
                f"the way {self.kind} has {expected} finite coefficients, and {list(self.coefficients)} were found"
            )

    def as_plain(self) -> dict[str, Any]:
        """Return it as plain values, as a checkpoint keeps it."""
        return {"kind": self.kind, "coefficients": list(self.coefficients)}

    @classmethod
    def from_plain(cls, values: Any) -> Way:
        """Return the way that `as_plain` wrote.

        Raises:
            HeartnetError: it is none.
        """
        try:
            kind, coefficients = values["kind"], [float(each) for each in values["coefficients"]]
        except (KeyError, TypeError, ValueError) as error:
            raise HeartnetError(f"a way from weeks to people cannot be read: {values!r}") from error
        return cls(str(kind), tuple(coefficients))

    def scores(self, table: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the score of each person, `[person]`.

        Args:
            table: of `person_table`.
        """
        if self.kind != LEARNED:
            return table[self.kind].to_numpy().astype(np.float64)
        return sigmoid(self.coefficients[0] + features(table) @ np.array(self.coefficients[1:]))


def features(table: pl.DataFrame) -> Float[np.ndarray, "person feature"]:
    """Return `FEATURES` of each row of `person_table`; nothing else of a person is seen by `LEARNED`."""
    columns = ("mean_of_logits", "spread", "highest_logit", "log_weeks")
    found: npt.NDArray[np.float64] = table.select(columns).to_numpy().astype(np.float64)
    return found


def sigmoid(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logit, -500, 500)))
    return found


def person_table(weeks: pl.LazyFrame | Path, targets: Sequence[str], without: Sequence[str] = ()) -> pl.DataFrame:
    """Return one row a person and target, the targets in their order, people in that of their first week.

    Columns: `user_id`, `target`, `value` (1, 0; null where no week's label is known, or where it changes), `changes`
    (whether it changes), `weeks`, `wear_hours` (of all weeks together; null where unknown), `split` (null where their
    weeks are of several, or of none), `seen` (whether a week is of the training or validation split), one for each of
    `WAYS`, and what `features` reads. A week whose score is NaN or infinite makes all of a person's scores NaN.

    Noisy-or after J. Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988.

    Args:
        weeks: predictions with the columns `heartnet.predictions.COLUMNS`, or a file of them; they are read without
            holding all of them at once. The network's rows count.
        targets: names; those without a row are left out.
        without: splits whose weeks are left out.
    """
    lazy = pl.scan_parquet(weeks, glob=False) if isinstance(weeks, Path) else weeks
    lazy = lazy.filter(pl.col("model") == NETWORK, pl.col("target").is_in(list(targets)))
    lazy = lazy.filter(pl.col("split").is_in(list(without)).fill_null(False).not_())
    score = pl.col("score").cast(pl.Float64)
    logit = pl.col("logit").cast(pl.Float64).fill_null((score / (1 - score)).log())
    inside = pl.when(score.is_finite()).then(logit.clip(-_FURTHEST, _FURTHEST)).otherwise(float("nan"))
    lazy = lazy.with_columns(logit=inside, wear=pl.col("wear_hours").cast(pl.Float64))
    # From the logit again: as float32, scores near 1 are equal that are not.
    lazy = lazy.with_columns(score=1 / (1 + (-pl.col("logit")).exp()))
    # log(1 − score), from the logit: 1 − score itself is 0 for scores near 1.
    beside = -(pl.max_horizontal(pl.col("logit"), 0.0) + (-pl.col("logit").abs()).exp().log1p())
    bad = pl.col("logit").is_nan().any()
    whole = pl.col("wear").is_not_null().all() & (pl.col("wear").sum() > 0)
    weighted = (pl.col("score") * pl.col("wear")).sum() / pl.col("wear").sum()
    known = pl.col("value").drop_nulls()
    grouped = lazy.group_by("user_id", "target").agg(
        pl.when(known.n_unique() == 1).then(known.first()).alias("value"),
        (known.n_unique() > 1).alias("changes"),
        pl.len().cast(pl.Int64).alias("weeks"),
        pl.when(pl.col("wear").is_not_null().any()).then(pl.col("wear").sum()).alias("wear_hours"),
        pl.when(pl.col("split").n_unique() == 1).then(pl.col("split").first()).alias("split"),
        pl.col("split").is_in(["train", "val"]).fill_null(False).any().alias("seen"),
        pl.col("logit").mean().alias("mean_of_logits"),
        pl.col("logit").std(ddof=0).alias("spread"),
        pl.col("logit").max().alias("highest_logit"),
        pl.len().log().alias("log_weeks"),
        pl.col("score").mean().alias("mean"),
        pl.col("score").max().alias("maximum"),
        (1 - beside.sum().exp()).alias("noisy_or"),
        # Without the wear of each week there is nothing to weight by.
        pl.when(whole).then(weighted).otherwise(pl.col("score").mean()).alias("wear"),
        bad.alias("bad"),
        pl.col("week").min().alias("first"),
    )
    table = grouped.collect().with_columns(mean_logit=1 / (1 + (-pl.col("mean_of_logits")).exp()))
    numbers = [*WAYS, "mean_of_logits", "spread", "highest_logit"]
    table = table.with_columns(pl.when("bad").then(float("nan")).otherwise(name).alias(name) for name in numbers)
    place = pl.col("target").replace_strict({name: i for i, name in enumerate(targets)}, return_dtype=pl.Int64)
    return table.sort(pl.col("first"), "user_id", place).drop("bad", "first")


def chosen_ways(checkpoint: Mapping[str, Any]) -> dict[str, Way]:
    """Return the ways that a checkpoint keeps, by target; none if it keeps none.

    Raises:
        HeartnetError: what it keeps is none.
    """
    kept = checkpoint.get(KEY)
    if kept is None:
        return {}
    if not isinstance(kept, Mapping):
        raise HeartnetError(f"the checkpoint's ways from weeks to people cannot be read: {kept!r}")
    return {str(target): Way.from_plain(values) for target, values in kept.items()}
