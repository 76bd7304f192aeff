"""`heartnet predict … --by user`: one score a person, in the way that the run chose or in one that is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.few_people import too_few
from heartnet.folders import short
from heartnet.people import FALLBACK, LEARNED, WAYS, Way, person_table
from heartnet.prediction_file import put
from heartnet.resampling import auroc, interval

if TYPE_CHECKING:
    from heartnet.chosen_checkpoint import Chosen

PEOPLE_COLUMNS = {
    "user_id": pl.String,
    "target": pl.String,
    "split": pl.String,
    "value": pl.Float32,
    "score": pl.Float32,
    "way": pl.String,
    "weeks": pl.Int64,
    "wear_hours": pl.Float32,
}
"""What the file has, one row a person and condition.

`split`: of the run, where all of the person's weeks are of one. `value`: 1 has it, 0 has it not; null is unknown, or
changes between weeks. `score`: a probability. `way`: how it was made (`heartnet.people.WAYS`, `learned`). `weeks`: that
it is made of. `wear_hours`: of them together.
"""


def asked(by: str) -> str | None:
    """Return which way `--by` asks for: None scores weeks, and an empty word is the way that the run chose.

    Raises:
        HeartnetError: it is neither `week`, `user`, nor `user=WAY`.
    """
    what, equals, way = by.partition("=")
    if by == "week":
        return None
    if what != "user" or (equals and not way):
        raise HeartnetError(f"--by {by}: must be week, user or user=WAY.{did_you_mean(what, ('week', 'user'))}")
    if way == LEARNED:
        raise HeartnetError("--by user=learned: its coefficients are those that a run chose; --by user uses them")
    if way and way not in WAYS:
        raise HeartnetError(f"--by {by}: no such way; there are {', '.join(WAYS)}.{did_you_mean(way, WAYS)}")
    return way


def ways_of(chosen: Chosen, way: str) -> dict[str, Way]:
    """Return the way for each condition: that of this name, or, for an empty one, that which the run chose.

    Raises:
        HeartnetError: the network predicts synthetic targets, which are of a week.
    """
    if chosen.module.kind != "conditions":
        raise HeartnetError(
            f"--by user: {chosen.path} predicts {', '.join(chosen.module.targets)}, which are of a week and not of a "
            "person; leave out --by"
        )
    return {target: Way(way) if way else chosen.ways.get(target, Way()) for target in chosen.module.targets}


def write_people(weeks: Path, out: Path, ways: Mapping[str, Way]) -> pl.DataFrame:
    """Write one row a person and condition, with the columns `PEOPLE_COLUMNS`, and return them with `changes`.

    Args:
        weeks: predictions of weeks, with the columns `heartnet.predictions.COLUMNS`.
        out: the file, which appears once it is whole; Parquet or CSV, as its name ends.
        ways: by condition.

    Raises:
        HeartnetError: if the file cannot be written.
    """
    table = person_table(weeks, list(ways))
    score = np.empty(len(table))
    for target, way in ways.items():
        mine = (table["target"] == target).to_numpy()
        score[mine] = way.scores(table.filter(mine))
    kinds = {target: way.kind for target, way in ways.items()}
    table = table.with_columns(
        pl.Series("score", score), pl.col("target").replace_strict(kinds, return_dtype=pl.String).alias("way")
    )
    whole = weeks.with_name("people.parquet")
    try:
        table.select(pl.col(name).cast(dtype) for name, dtype in PEOPLE_COLUMNS.items()).write_parquet(whole)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise HeartnetError(f"cannot write {out}: {error}") from error
    put(whole, out)
    return table


def people_account(
    chosen: Chosen, table: pl.DataFrame, ways: Mapping[str, Way], simulated: bool, out: Path
) -> Iterator[str | Table]:
    """Yield what is printed of the scores of people.

    Args:
        chosen: the network.
        table: of `write_people`.
        ways: by condition.
        simulated: whether the people are.
        out: where the scores are.
    """
    yield f"{short(chosen.path)}, after {chosen.epochs} {'epoch' if chosen.epochs == 1 else 'epochs'} of training"
    people, weeks = table["user_id"].n_unique(), int(table.unique("user_id")["weeks"].sum())
    yield f"{people:,} {'SIMULATED ' if simulated else ''}{'person' if people == 1 else 'people'}, {weeks:,} weeks"
    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("condition", "by", "mean score", "with it", "AUROC (95 %)"):
        rows.add_column(head, no_wrap=True, justify="left" if len(rows.columns) < 2 else "right")
    for target, way in ways.items():
        rows.add_row(target, way.kind, *_cells(table, table.filter(~pl.col("seen")), target))
    yield rows
    lacking = [target for target in ways if target not in chosen.ways]
    if lacking and all(way == Way() for way in ways.values()):
        yield (
            f"The run chose no way from weeks to people ({_why_none(chosen)}), so the {WAYS[FALLBACK]} is taken; "
            "--by user=WAY takes another."
        )
    if known := table.filter("seen")["user_id"].n_unique():
        yield (
            f"{known:,} of them are of the training or validation split, so the network, or the choice of the way, "
            "knows them: they are scored in the file, and left out of the table."
        )
    for target in ways:
        if changing := int(table.filter(pl.col("target") == target)["changes"].sum()):
            have = "person has a label" if changing == 1 else "people have labels"
            yield f"{target}: {changing:,} {have} that change between weeks; they are scored, and count as unknown."
    if bad := table.filter(~pl.col("score").is_finite())["user_id"].n_unique():
        yield f"NaN or infinite for {bad:,} people: the network has diverged, or their readings are not finite."
    yield f"The scores are in {short(out)}, one row a person and condition."


def _why_none(chosen: Chosen) -> str:
    asked, data = (chosen.configuration.get(name) for name in ("callbacks", "data"))
    if not isinstance(asked, Mapping) or "people" not in asked:
        return "train it with +callbacks=people"
    of_fold = "" if chosen.fold is None else " of each fold"
    if isinstance(data, Mapping) and data.get("split_by") == "week":
        return "weeks were split and not people, and it chooses one on people of the validation"
    if isinstance(data, Mapping) and data.get("val_share") == 0:
        return f"it chooses one on the validation split{of_fold}, which data.val_share=0 leaves empty"
    return "it had +callbacks=people, and no choice stands in this checkpoint"


def _cells(table: pl.DataFrame, judged: pl.DataFrame, target: str) -> list[str]:
    average = table.filter(pl.col("target") == target)["score"].mean()
    shown = "–" if not isinstance(average, float) or not np.isfinite(average) else f"{average:.3f}"
    known = judged.filter(pl.col("target") == target, pl.col("value").is_not_null())
    value, score = (known[name].to_numpy().astype(np.float64) for name in ("value", "score"))
    having = int(value.sum())
    counted = f"{having:,} of {len(value):,}"
    if not 0 < having < len(value) or not np.isfinite(score).all():
        return [shown, counted, "–"]
    found = interval(auroc(score, value), np.arange(len(value)), value, draws=1000)
    few = too_few(having, len(value) - having)
    return [shown, counted, f"{found.value:.3f} (few people)" if few else str(found)]
