"""`heartnet compare`: finished runs in one table, with intervals over people, beside simple models and the ceiling."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.diagnostics.comparison import FEWEST
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.network_facts import decades, pace, silent, weights
from heartnet.predictions import CEILING, NETWORK, read_predictions
from heartnet.report.folder import Run, is_run, read_run, runs_below
from heartnet.report.scores import POOLED, within_words
from heartnet.resampling import Interval, Statistic, auroc, by_label, explained, interval

BASELINE = "baseline"
"""`--to baseline`: the best of the simple models."""

Floats = npt.NDArray[np.float64]
_NOT_OF_WEEKS = (
    "view", "mask_channel", "batch_size", "labelled_share", "labelled_seed", "unlabelled_users", "unlabelled_path",
    "fold",
)  # fmt: skip
"""Settings of data that leave the test weeks as they are."""


@dataclass(frozen=True)
class Scored:
    """A model's scores of the test weeks: `values` and `scores` by target, `[week]`, NaN where unknown."""

    users: npt.NDArray[np.str_]
    weeks: pl.DataFrame
    values: Mapping[str, Floats]
    scores: Mapping[str, Floats]
    settings: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table; what is not known is None, or not there.

    Attributes:
        name: of the run, by what sets it apart; or of a simple model.
        model: `network`, a baseline or the ceiling.
        folder: of the run; of a simple model, of the first run that has it.
        scored: its predictions.
        test: which of the sets of test weeks, from 1.
        mean: over conditions, the AUROC; over synthetic targets, the share of variance explained.
        each: the same, by target.
        difference: of `mean` from the reference, on the same resampled people; for the same test weeks only.
        to: the name of the reference.
        decades: how much it forgets, the most of all outputs and folds, by anchor (`heartnet.diagnostics.memory`).
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
    test: int = 0
    mean: Interval | None = None
    each: Mapping[str, Interval] = field(default_factory=dict)
    difference: Interval | None = None
    to: str = ""
    decades: Mapping[str, float] = field(default_factory=dict)
    silent: float | None = None
    weights: int | None = None
    pace: float | None = None
    simulated: bool = False
    notes: tuple[str, ...] = ()


def compare_command(arguments: argparse.Namespace) -> None:
    """Do what `heartnet compare` says: print the table."""
    from heartnet.compare_table import as_csv, print_table

    rows = compare_runs(arguments.run_folders, arguments.to, draws=arguments.draws)
    if arguments.csv:
        print(as_csv(rows), end="")
    else:
        print_table(rows)


def compare_runs(folders: Sequence[Path], to: str | None = None, *, draws: int = 2000) -> list[Row]:
    """Return a row for each run, and then one for each simple model and for the ceiling.

    Intervals are over people (`heartnet.resampling`), of the training as it was. Of a cross-validation the weeks of all
    folds are pooled. A simple model that several runs have on the same weeks stands there once.

    Args:
        folders: of runs, or folders that hold some, such as a sweep's.
        to: the reference of the differences: the name of a row, the folder of a run, or `baseline`; None for none.
        draws: resamples of people.

    Raises:
        HeartnetError: a folder without runs, runs of different kinds of targets, or a reference that is not there.
    """
    if draws < 1:
        raise HeartnetError(f"--draws {draws}: must be at least 1")
    runs = [read_run(folder) for folder in _runs(folders)]
    rows = [row for run, name in zip(runs, _names(runs), strict=True) for row in _rows(run, name)]
    rows = _once(_tests(rows))
    kinds = {_conditions(row.scored) for row in rows if row.scored is not None}
    if len(kinds) > 1:
        raise HeartnetError(
            "some of the runs predict conditions and some synthetic targets, whose scores do not compare; "
            "name runs of one kind"
        )
    rows = [_with_scores(row, draws) for row in rows]
    return rows if to is None else _with_differences(rows, to, draws)


def _runs(folders: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            there = "is no folder" if folder.exists() else "does not exist"
            raise HeartnetError(f"{folder} {there}: name folders of runs, such as runs/DATE/TIME, or of a sweep")
        below = [folder] if is_run(folder) else runs_below(folder)
        if not below:
            raise HeartnetError(f"{folder}: no run is in this folder; runs of train.py are in runs/DATE/TIME")
        found |= {each.resolve(): each for each in below}
    return list(found.values())


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the overrides that set each run apart; where they are one of a key, its value; else the folder."""
    given = [overrides(run.command) for run in runs]
    shared = set.intersection(*map(set, given))
    own = [[each for each in words if each not in shared] for words in given]
    keys = {words[0].partition("=")[0] if len(words) == 1 else None for words in own}
    names = [" ".join(words) for words in own]
    if len(keys) == 1 and None not in keys:
        names = [name.partition("=")[2] for name in names]
    return [
        name if name and names.count(name) == 1 else f"{name} {run.name}".strip()
        for name, run in zip(names, runs, strict=True)
    ]


def overrides(command: str) -> list[str]:
    """Return what a run's command line sets, without what has no part in what it learns."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    silent = ("hydra.", "trainer.enable_", "data.path=")
    return [each for each in words if each.partition("=")[2] and not each.startswith(silent)]


def _rows(run: Run, name: str) -> list[Row]:
    """Return the row of the network, and of each other model that the run has predictions of."""
    row = Row(name, NETWORK, run.folder, decades=decades(run), silent=silent(run), pace=pace(run))
    row = replace(row, weights=weights(run.folder), simulated=bool(run.simulated))
    if any(run.folder.glob("fold-*")):
        within = within_words(run.folder)
        row = replace(row, notes=(POOLED, *([f"{name}: AUROC within folds: {within}"] if within else [])))
    if run.status is not None and run.status.state != "finished":
        row = replace(row, notes=(*row.notes, f"{name}: {run.status.state}"))
    try:
        predictions = read_predictions(run.folder)
        models = predictions.group_by("model", maintain_order=True)
        scored = {str(model): _scored(frame, run) for (model,), frame in models}
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        empty = not any(run.folder.rglob("predictions*.parquet"))
        why = "no test predictions" if empty else f"its predictions cannot be read ({str(error).splitlines()[0]})"
        return [replace(row, notes=(*row.notes, f"{name}: {why}"))]
    others = [Row(model, model, run.folder, each) for model, each in scored.items() if model != NETWORK]
    return [replace(row, scored=scored.get(NETWORK)), *others]


def _scored(frame: pl.DataFrame, run: Run) -> Scored:
    data = run.values.get("data")
    settings = dict(data) if isinstance(data, Mapping) else {}
    by_week = settings.get("split_by") == "week"
    keys = ["user_id", "start", "week"]
    targets = frame["target"].unique(maintain_order=True).to_list()
    wide = frame.pivot("target", index=keys, values=["value", "score"]).sort(keys)
    names = [f"{what}_{target}" for what in ("value", "score") for target in targets]
    arrays = [wide[name].fill_null(math.nan).to_numpy().astype(np.float64) for name in names]
    users = np.arange(len(wide)).astype(str) if by_week else wide["user_id"].to_numpy().astype(str)
    return Scored(
        users,
        wide.select(keys),
        dict(zip(targets, arrays[: len(targets)], strict=True)),
        dict(zip(targets, arrays[len(targets) :], strict=True)),
        repr(sorted((key, str(value)) for key, value in settings.items() if key not in _NOT_OF_WEEKS)),
    )


def _same_weeks(one: Scored, other: Scored) -> bool:
    return (
        one.settings == other.settings
        and one.weeks.equals(other.weeks)
        and list(one.values) == list(other.values)
        and all(np.array_equal(one.values[name], other.values[name], equal_nan=True) for name in one.values)
    )


def _tests(rows: Sequence[Row]) -> list[Row]:
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


def _once(rows: Sequence[Row]) -> list[Row]:
    """Return the networks first, then each simple model once a set of test weeks, the ceiling last."""
    simple: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row.model != NETWORK:
            simple.setdefault((row.model, row.test), row)
    several = len({test for _, test in simple}) > 1
    named = [replace(row, name=f"{row.name}, test {row.test}") if several else row for row in simple.values()]
    return [
        *(row for row in rows if row.model == NETWORK),
        *sorted(named, key=lambda row: (row.model == CEILING, row.test)),
    ]


def _conditions(scored: Scored) -> bool:
    return all(np.isin(each[~np.isnan(each)], (0.0, 1.0)).all() for each in scored.values.values())


def _with_scores(row: Row, draws: int) -> Row:
    if row.scored is None:
        return row
    notes = list(row.notes)
    wrong = sum(int((~np.isfinite(each)).sum()) for each in row.scored.scores.values())
    if wrong:
        return replace(
            row, notes=(*notes, f"{row.name}: {wrong:,} predictions are NaN or infinite, so it has diverged")
        )
    each = {}
    for name in row.scored.values:
        known, statistic = _known(row.scored, name)
        users, value = row.scored.users[known], row.scored.values[name][known]
        if len(users) == 0:
            continue
        conditions = _conditions(row.scored)
        each[name] = interval(statistic, users, by_label(users, value) if conditions else None, draws=draws)
        people = [len(np.unique(users[value == which])) for which in (1, 0)]
        if conditions and row.model == NETWORK and min(people) < FEWEST:
            notes.append(f"{name}: people with it: {people[0]}, without it: {people[1]}: its intervals are too narrow")
    mean = next(iter(each.values()), None)
    if len(each) > 1:
        mean = interval(_mean(row.scored, list(each)), row.scored.users, draws=draws)
    return replace(row, each=each, mean=mean, notes=tuple(notes))


def _known(scored: Scored, name: str) -> tuple[npt.NDArray[np.bool_], Statistic]:
    known = ~np.isnan(scored.values[name])
    make = auroc if _conditions(scored) else explained
    return known, make(scored.scores[name][known], scored.values[name][known])


def _mean(scored: Scored, names: Sequence[str]) -> Statistic:
    """Return the mean of the scores of targets; of those that are defined for all weeks."""
    parts = [_known(scored, name) for name in names]
    whole = np.ones((len(scored.users), 1))
    parts = [(known, each) for known, each in parts if not np.isnan(each(whole[known])).any()]

    def statistic(weights: Floats) -> Floats:
        if not parts:
            return np.full(weights.shape[1], np.nan)
        found: Floats = np.mean([each(weights[known]) for known, each in parts], axis=0)
        return found

    return statistic


def _with_differences(rows: Sequence[Row], to: str, draws: int) -> list[Row]:
    chosen = _references(rows, to)
    found = []
    for row in rows:
        reference = chosen.get(row.test)
        if row.scored is None or row.mean is None or reference is None or row is reference or row.model == CEILING:
            found.append(row)
            continue
        assert reference.scored is not None
        names = [name for name in row.each if name in reference.each]
        own, other = _mean(row.scored, names), _mean(reference.scored, names)
        users = row.scored.users
        strata = None
        if len(names) == 1 and _conditions(row.scored):
            known = _known(row.scored, names[0])[0]
            strata = by_label(users, np.where(known, row.scored.values[names[0]], 0.0))

        def less(weights: Floats, own: Statistic = own, other: Statistic = other) -> Floats:
            return own(weights) - other(weights)

        found.append(replace(row, difference=interval(less, users, strata, draws=draws), to=reference.name))
    return found


def _references(rows: Sequence[Row], to: str) -> dict[int, Row]:
    """Return the reference of each set of test weeks that has one."""
    scored = [row for row in rows if row.mean is not None]
    if to == BASELINE:
        simple = [row for row in scored if row.model not in (NETWORK, CEILING)]
        chosen = [row for row in simple if row.mean is not None and not math.isnan(row.mean.value)]
        chosen = sorted(chosen, key=lambda row: row.mean.value if row.mean else 0.0)
    else:
        same = [row for row in scored if to == row.name or (to == row.model and to != NETWORK)]
        chosen = same or [row for row in scored if row.model == NETWORK and row.folder.resolve() == Path(to).resolve()]
    beside = any(row.model not in (NETWORK, CEILING) for row in scored)
    if not chosen and to == BASELINE and not beside:
        raise HeartnetError(
            f"--to {BASELINE}: no simple model stands beside these runs; train them with +callbacks=baseline, or name "
            f"another row: {', '.join(row.name for row in scored) or 'there is none with scores'}"
        )
    if not chosen:
        names = [*([BASELINE] if beside else []), *(row.name for row in scored)]
        raise HeartnetError(f"--to {to}: no such row; there are {', '.join(names)}.{did_you_mean(to, names)}")
    return {row.test: row for row in chosen}
