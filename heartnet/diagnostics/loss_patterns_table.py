"""The weeks of a predictions file, as a search for patterns takes them: columns of as many people as it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.predictions import NETWORK

MOST_WEEKS = 50_000
"""Of more, so many of some people, drawn at random, are looked at: more would tell no more, and take longer."""


@dataclass(frozen=True)
class PredictedWeeks:
    """What was predicted of weeks.

    Attributes:
        known: one row a week: `user_id` and what is known besides, as in `heartnet.predictions.KNOWN`.
        scores: `[week, target]`, probabilities; NaN where there is none.
        values: `[week, target]`, 1 or 0; NaN is unknown.
        sampled: whether they are those of some people only.
    """

    known: pl.DataFrame
    scores: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    sampled: bool = False


def predicted_weeks(file: Path, targets: Sequence[str], most: int = MOST_WEEKS, seed: int = 0) -> PredictedWeeks:
    """Return the network's weeks, each once, of a file with all of `heartnet.predictions.COLUMNS`.

    Args:
        file: Parquet.
        targets: conditions.
        most: weeks; of more, those of people drawn at random.
        seed: of the draw.
    """
    rows = pl.scan_parquet(file, glob=False).filter(pl.col("model") == NETWORK)
    first = rows.filter(pl.col("target") == targets[0])
    users = first.select("user_id").collect()["user_id"]
    sampled = len(users) > most
    if sampled:
        names = users.unique().sort().to_numpy()
        kept = np.random.default_rng(seed).permutation(names)[: max(len(names) * most // len(users), 1)]
        rows = rows.filter(pl.col("user_id").is_in(kept.tolist()))
    first = rows.filter(pl.col("target") == targets[0])
    known = _once(first.drop("target", "model", "value", "score", "logit").collect())
    parts = [_of(rows, target, known) for target in targets]
    scores, values = (np.column_stack([part[name].to_numpy() for part in parts]) for name in ("score", "value"))
    return PredictedWeeks(known, scores.astype(np.float64), values.astype(np.float64), sampled)


def _of(rows: pl.LazyFrame, target: str, known: pl.DataFrame) -> pl.DataFrame:
    """Return score and value of a target, in the order of the weeks; NaN where there is none."""
    part = _once(rows.filter(pl.col("target") == target).select("week", "score", "value").collect())
    joined = known.select("week").join(part, on="week", how="left", maintain_order="left")
    return joined.select(pl.col("score", "value").cast(pl.Float64).fill_null(float("nan")))


def _once(weeks: pl.DataFrame) -> pl.DataFrame:
    """Return the weeks, each once: a loader may repeat some."""
    return weeks.unique("week", keep="first", maintain_order=True)
