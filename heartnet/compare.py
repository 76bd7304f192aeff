"""`heartnet compare`: finished runs in one table, with intervals over people, beside simple models and the ceiling."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from heartnet.compare_rows import Row, numbered, once, rows_of, together
from heartnet.compare_scores import plainly_scored, with_intervals
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.network_facts import weights
from heartnet.predictions import CEILING, NETWORK
from heartnet.report.folder import Run, is_run, read_run, runs_below

BASELINE = "baseline"
"""`--to baseline`: the best of the simple models."""


def compare_command(arguments: argparse.Namespace) -> None:
    """Do what `heartnet compare` says: print the table."""
    rows = compare_runs(arguments.run_folders, arguments.to, each=arguments.each, draws=arguments.draws)
    from heartnet.compare_table import as_csv, print_table  # PyTorch: only once nothing is left to refuse

    if arguments.csv:
        print(as_csv(rows), end="")
    else:
        print_table(rows)


def compare_runs(folders: Sequence[Path], to: str | None = None, *, each: bool = False, draws: int = 2000) -> list[Row]:
    """Return a row for each network, and then one for each simple model and for the ceiling.

    Runs that differ in nothing but their seed, on the same test weeks, are trainings of one network: their row has the
    mean of their scores. Intervals are over people (`heartnet.resampling`), of the trainings as they were. Of a
    cross-validation AUROCs are within folds (`heartnet.diagnostics.within_folds`), with the one of all weeks beside
    them. A simple model that several runs have on the same weeks stands there once.

    Args:
        folders: of runs, or folders that hold some, such as a sweep's.
        to: the reference of the differences: the name of a row, the folder of a run, or `baseline`; None for none.
        each: whether each training has its own row.
        draws: resamples of people.

    Raises:
        HeartnetError: a folder without runs, runs of different kinds of targets, or a reference that is not there.
    """
    if draws < 1:
        raise HeartnetError(f"--draws {draws}: must be at least 1")
    runs = [read_run(folder) for folder in _runs(folders)]
    by_run = [rows_of(run) for run in runs]
    rows = numbered([row for each_run in by_run for row in each_run])
    networks = [row for row in rows if row.model == NETWORK]
    groups = _trainings(runs, networks, each=each)
    rows = [
        *(
            together([networks[i] for i in group], name)
            for group, name in zip(groups, _names(runs, groups), strict=True)
        ),
        *once([row for row in rows if row.model != NETWORK]),
    ]
    kinds = {row.scored.conditions for row in rows if row.scored is not None}
    if len(kinds) > 1:
        raise HeartnetError(
            "some of the runs predict conditions and some synthetic targets, whose scores do not compare; "
            "name runs of one kind"
        )
    rows = plainly_scored(rows)
    rows = with_intervals(rows, {} if to is None else _references(rows, to), draws)
    return [replace(row, weights=_weights(row)) if row.model == NETWORK else row for row in rows]


def overrides(command: str) -> list[str]:
    """Return what a run's command line sets, without what has no part in what it learns."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    silent = ("hydra.", "trainer.enable_", "data.path=", "threads=")
    return [each for each in words if each.partition("=")[2] and not each.startswith(silent)]


def _weights(row: Row) -> int | None:
    """Return how many weights its network learns, by the first training that kept a checkpoint."""
    found = (weights(folder) for folder in row.folders)
    return next((count for count in found if count is not None), None)


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


def _trainings(runs: Sequence[Run], networks: Sequence[Row], *, each: bool) -> list[list[int]]:
    """Return which runs are trainings of one network: alike but for the seed, and of the same test weeks.

    A seed counts once: a sweep that was run again, perhaps with other code, has a row of its own, with those that lie
    nearest. Runs without scores go with the others of their kind.
    """
    groups: list[list[int]] = []
    kinds = [_but_for_the_seed(run) for run in runs]
    for i in sorted(range(len(runs)), key=lambda i: networks[i].scored is None):
        like = [
            group for group in groups
            if not each and kinds[i] and kinds[group[0]] == kinds[i]
            and (networks[i].scored is None or networks[group[0]].test == networks[i].test)
            and all(networks[j].seeds != networks[i].seeds for j in group)
        ]  # fmt: skip
        if like:
            max(like, key=lambda group: _shared_path(runs[i], [runs[j] for j in group])).append(i)
        else:
            groups.append([i])
    return sorted((sorted(group) for group in groups), key=min)


def _but_for_the_seed(run: Run) -> str:
    """Return what was set and what came of it; nothing of a run that is not known to have a seed."""
    if not run.command or not isinstance(run.values.get("seed"), int):
        return ""
    words = sorted(word for word in overrides(run.command) if not _is_seed(word))
    return repr((words, sorted((key, repr(value)) for key, value in run.values.items() if key != "seed")))


def _is_seed(word: str) -> bool:
    return word.lstrip("+").startswith("seed=")


def _seed(run: Run) -> list[str]:
    told = [word.partition("=")[2] for word in overrides(run.command) if _is_seed(word)]
    return told or [str(seed) for seed in [run.values.get("seed")] if seed is not None]


def _shared_path(run: Run, others: Sequence[Run]) -> int:
    return max(len(os.path.commonpath([run.folder.resolve(), other.folder.resolve()])) for other in others)


def _names(runs: Sequence[Run], groups: Sequence[Sequence[int]]) -> list[str]:
    """Return the overrides that set each row apart, the seed only if need be; where they are of one key, its value; and
    with the folder, if nothing else does."""
    given = [[word for word in overrides(runs[group[0]].command) if not _is_seed(word)] for group in groups]
    names = _apart(given)
    if not all(names) or len(set(names)) < len(names):
        seeds = [[seed for i in group for seed in _seed(runs[i])] for group in groups]
        told = [[f"seed={','.join(seed)}"] if seed else [] for seed in seeds]
        names = _apart([[*words, *seed] for words, seed in zip(given, told, strict=True)])
    return [
        name if name and names.count(name) == 1 else f"{name} {runs[group[0]].name}".strip()
        for name, group in zip(names, groups, strict=True)
    ]


def _apart(given: Sequence[Sequence[str]]) -> list[str]:
    shared = set.intersection(*map(set, given))
    own = [[each for each in words if each not in shared] for words in given]
    keys = {words[0].partition("=")[0] if len(words) == 1 else None for words in own}
    names = [" ".join(words) for words in own]
    return [name.partition("=")[2] for name in names] if len(keys) == 1 and None not in keys else names


def _references(rows: Sequence[Row], to: str) -> dict[int, Row]:
    """Return the reference of each set of test weeks that has one."""
    scored = [row for row in rows if row.mean is not None]
    beside = any(row.model not in (NETWORK, CEILING) for row in scored)
    if to == BASELINE:
        simple = [row for row in scored if row.model not in (NETWORK, CEILING)]
        chosen = [row for row in simple if row.mean is not None and not math.isnan(row.mean.value)]
        chosen = sorted(chosen, key=lambda row: row.mean.value if row.mean else 0.0)
    else:
        same = [row for row in scored if to == row.name or (to == row.model and to != NETWORK)]
        place = Path(to).resolve()
        chosen = same or [row for row in scored if row.model == NETWORK and place in map(Path.resolve, row.folders)]
    if not chosen and to == BASELINE and not beside:
        raise HeartnetError(
            f"--to {BASELINE}: no simple model stands beside these runs; train them with +callbacks=baseline, or name "
            f"another row: {', '.join(row.name for row in scored) or 'there is none with scores'}"
        )
    if not chosen:
        names = [*([BASELINE] if beside else []), *(row.name for row in scored)]
        raise HeartnetError(f"--to {to}: no such row; there are {', '.join(names)}.{did_you_mean(to, names)}")
    return {row.test: row for row in chosen}
