"""The rows of `heartnet compare`: a run's models with their scores of the test weeks, and trainings put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.network_facts import decades, pace, silent
from heartnet.predictions import CEILING, FOLD, NETWORK, read_predictions
from heartnet.report.folder import Run
from heartnet.resampling import Interval

Floats = npt.NDArray[np.float64]

_NOT_OF_WEEKS = (
    "view", "mask_channel", "batch_size", "labelled_share", "labelled_seed", "unlabelled_users", "unlabelled_path",
    "fold",
)  # fmt: skip
"""Settings of data that leave the test weeks as they are."""


@dataclass(frozen=True)
class Scored:
    """What the trainings of a model say of the same test weeks.

    Attributes:
        users: whose week each is, `[week]`; of weeks that were split one by one, the week itself.
        weeks: what they are known by.
        values: by target, `[week]`, NaN where unknown.
        scores: by target, `[training, week]`.
        folds: the fold whose network scored each week, `[training, week]`; None where one network scored all.
        settings: of the data.
    """

    users: npt.NDArray[np.str_]
    weeks: pl.DataFrame
    values: Mapping[str, Floats]
    scores: Mapping[str, Floats]
    folds: npt.NDArray[np.str_] | None = None
    settings: str = ""

    @property
    def conditions(self) -> bool:
        """Whether the targets are conditions."""
        return all(np.isin(each[~np.isnan(each)], (0.0, 1.0)).all() for each in self.values.values())


@dataclass(frozen=True)
class Row:
    """One line of the table; what is not known is None, or not there.

    Attributes:
        name: of the run, by what sets it apart; or of a simple model.
        model: `network`, a baseline or the ceiling.
        folder: of the run, or the first of several; of a simple model, of the first run that has it.
        folders: of all its trainings.
        seeds: of the trainings that are in the scores, None where unknown.
        scored: its predictions.
        test: which of the sets of test weeks, from 1.
        mean: over conditions, the AUROC, of a cross-validation within folds; over synthetic targets, the share of
            variance explained. Of several trainings their mean.
        each: the same, by target.
        by_training: `mean` of each training.
        pooled: of a cross-validation, `mean` with the weeks of all folds ranked together.
        within: whether `mean` and `each` are within folds.
        difference: of `mean` from the reference, on the same resampled people; for the same test weeks only.
        difference_by_training: of each training; where the reference has several, from the one of the same seed, or,
            where the seeds are others, of each from each.
        pooled_difference: `difference` with the weeks of all folds ranked together.
        to: the name of the reference.
        decades: how much it forgets, the most of all outputs and folds, by anchor (`heartnet.diagnostics.memory`); of
            several trainings the median, as of `silent` and `pace`.
        silent: share of the units of a layer that fall silent in workouts, of the worst layer.
        weights: that the network learns.
        pace: weeks a second in training, median over steps, of the machine and of what else it did at the time.
        simulated: whether its weeks are known to be simulated.
        notes: what one has to know to read it.
    """

    name: str
    model: str
    folder: Path
    scored: Scored | None = None
    folders: tuple[Path, ...] = ()
    seeds: tuple[int | None, ...] = ()
    test: int = 0
    mean: Interval | None = None
    each: Mapping[str, Interval] = field(default_factory=dict)
    by_training: tuple[float, ...] = ()
    pooled: Interval | None = None
    within: bool = False
    difference: Interval | None = None
    difference_by_training: tuple[float, ...] = ()
    pooled_difference: Interval | None = None
    to: str = ""
    decades: Mapping[str, float] = field(default_factory=dict)
    silent: float | None = None
    weights: int | None = None
    pace: float | None = None
    simulated: bool = False
    notes: tuple[str, ...] = ()


def rows_of(run: Run) -> list[Row]:
    """Return the row of a run's network, still without name and weights, and of each other model it has predictions of.

    A training whose scores are not all finite has diverged: of it nothing but that is told. A cross-validation that
    has not come to its end is not told of either, for the folds so far are of other people than all of them.
    """
    seed = run.values.get("seed")
    row = Row("", NETWORK, run.folder, decades=decades(run), silent=silent(run), pace=pace(run))
    row = replace(row, simulated=bool(run.simulated), folders=(run.folder,))
    row = replace(row, seeds=(seed if isinstance(seed, int) else None,))
    state = "finished" if run.status is None else run.status.state
    notes = [] if state == "finished" else [state]
    folds = len(list(run.folder.glob("fold-*/predictions.parquet")))
    if folds and state != "finished" and not (run.folder / "predictions.parquet").is_file():
        counted = "1 fold is" if folds == 1 else f"{folds} folds are"
        return [replace(row, notes=(f"{state}, {counted} tested so far",))]
    try:
        predictions = read_predictions(run.folder)
        models = predictions.group_by("model", maintain_order=True)
        scored = {str(model): _scored(frame, run) for (model,), frame in models}
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        empty = not any(run.folder.rglob("predictions*.parquet"))
        why = "no test predictions" if empty else f"its predictions cannot be read ({str(error).splitlines()[0]})"
        return [replace(row, notes=(*notes, why))]
    others = [Row(model, model, run.folder, each) for model, each in scored.items() if model != NETWORK]
    own = scored.get(NETWORK)
    return [_finite(each) for each in (replace(row, scored=own, notes=tuple(notes)), *others)]


def together(rows: Sequence[Row], name: str) -> Row:
    """Return one row of the trainings of a network: scores of all, and of what was measured the median.

    Those without scores (that run, or have diverged) are named in its notes.

    Args:
        rows: of the same test weeks, or without scores.
        name: what they have in common.
    """
    scored = [row for row in rows if row.scored is not None]
    told = scored or list(rows)
    several = len(rows) > 1
    notes = []
    for row in rows:
        seed = f", seed {row.seeds[0]}" if several else ""
        left = "; its row is of the others" if scored and row.scored is None else ""
        notes += [f"{name}{seed}: {', '.join(row.notes)}{left}"] if row.notes else []
    first = told[0]
    anchors = dict.fromkeys(anchor for row in told for anchor in row.decades)
    medians = {anchor: _median(row.decades.get(anchor) for row in told) for anchor in anchors}
    return replace(
        first,
        name=name,
        folders=tuple(row.folder for row in rows),
        seeds=tuple(row.seeds[0] for row in scored),
        scored=_stacked([row.scored for row in scored if row.scored is not None]),
        decades={anchor: median for anchor, median in medians.items() if median is not None},
        silent=_median(row.silent for row in told),
        pace=_median(row.pace for row in told),
        notes=tuple(notes),
    )


def numbered(rows: Sequence[Row]) -> list[Row]:
    """Number the sets of test weeks, in the order in which they are met."""
    met: list[Scored] = []
    found = []
    for row in rows:
        if row.scored is None:
            found.append(row)
            continue
        place = next((i for i, each in enumerate(met) if _same_weeks(each, row.scored)), len(met))
        met += [row.scored] if place == len(met) else []
        found.append(replace(row, test=place + 1))
    return found


def once(rows: Sequence[Row]) -> list[Row]:
    """Return each simple model once a set of test weeks, the ceiling last."""
    simple: dict[tuple[str, int], Row] = {}
    for row in rows:
        simple.setdefault((row.model, row.test), row)
    several = len({test for _, test in simple}) > 1
    named = [replace(row, name=f"{row.name}, test {row.test}") if several else row for row in simple.values()]
    return sorted(named, key=lambda row: (row.model == CEILING, row.test))


def _scored(frame: pl.DataFrame, run: Run) -> Scored:
    data = run.values.get("data")
    settings = dict(data) if isinstance(data, Mapping) else {}
    by_week = settings.get("split_by") == "week"
    keys = ["user_id", "start", "week"]
    targets = frame["target"].unique(maintain_order=True).to_list()
    wide = frame.pivot("target", index=[*keys, FOLD], values=["value", "score"]).sort(keys)
    names = [f"{what}_{target}" for what in ("value", "score") for target in targets]
    arrays = [wide[name].fill_null(math.nan).to_numpy().astype(np.float64) for name in names]
    users = np.arange(len(wide)).astype(str) if by_week else wide["user_id"].to_numpy().astype(str)
    return Scored(
        users,
        wide.select(keys),
        dict(zip(targets, arrays[: len(targets)], strict=True)),
        {target: each[None] for target, each in zip(targets, arrays[len(targets) :], strict=True)},
        wide[FOLD].to_numpy().astype(str)[None] if wide[FOLD].n_unique() > 1 else None,
        repr(sorted((key, str(value)) for key, value in settings.items() if key not in _NOT_OF_WEEKS)),
    )


def _finite(row: Row) -> Row:
    """Return the row, without scores if some are not finite."""
    scores = {} if row.scored is None else row.scored.scores
    wrong = sum(int((~np.isfinite(each)).sum()) for each in scores.values())
    if not wrong:
        return row
    own = "" if row.model == NETWORK else f"{row.name}: "
    note = f"{own}{wrong:,} predictions are NaN or infinite, so it has diverged"
    return replace(row, scored=None, notes=(*row.notes, note))


def _stacked(scored: Sequence[Scored]) -> Scored | None:
    if len(scored) < 2:
        return next(iter(scored), None)
    scores = {name: np.concatenate([each.scores[name] for each in scored]) for name in scored[0].scores}
    folds = [each.folds for each in scored if each.folds is not None]
    return replace(scored[0], scores=scores, folds=np.concatenate(folds) if len(folds) == len(scored) else None)


def _same_weeks(one: Scored, other: Scored) -> bool:
    return (
        one.settings == other.settings
        and one.weeks.equals(other.weeks)
        and list(one.values) == list(other.values)
        and all(np.array_equal(one.values[name], other.values[name], equal_nan=True) for name in one.values)
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return float(np.median(known)) if known else None
