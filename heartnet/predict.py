"""`heartnet predict RUN STORE --out FILE`: what a trained network says of each week of a store."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from heartnet.chosen_checkpoint import Chosen, choose_checkpoint
from heartnet.errors import HeartnetError
from heartnet.few_people import too_few
from heartnet.folders import short
from heartnet.measured import check_measured, unlike_training
from heartnet.network_inputs import padded, seen_of
from heartnet.predict_people import asked, people_account, ways_of, write_people
from heartnet.prediction_file import PredictionFile, put
from heartnet.predictions import known_of, prediction_rows, scored_weeks
from heartnet.progress import predicting
from heartnet.resampling import Interval, auroc, by_label, explained, fewer, interval, mean
from heartnet.scaling import fit_scaling
from heartnet.splits import SPLITS, split_weeks
from heartnet.store import open_store
from heartnet.synthetic import synthetic_targets
from heartnet.tasks import Conditions
from heartnet.threads import one_thread_each
from heartnet.weeks import Weeks

WEEKS_AT_ONCE = 512
"""Weeks that are sorted by length, so that batches have little padding, and then written in their own order."""

_BATCH = 8
_DRAWS = 1000


def predict_command(arguments: argparse.Namespace) -> None:
    """Predict, write, and print an account, as the options of `heartnet.cli` say.

    Raises:
        HeartnetError: for whatever is wrong with run or store; nothing is written then. What can be told without
            opening them `heartnet.refusals.check_predict` has refused.
    """
    by_user = asked(arguments.by)
    one_thread_each()
    chosen = choose_checkpoint(arguments.run_folder, arguments.checkpoint)
    weeks = open_store(arguments.store)
    if not arguments.anyway:
        check_measured(chosen, weeks)
    for line in (*chosen.notes, *unlike_training(chosen, weeks)):
        Console(highlight=False).print(line, soft_wrap=True, markup=False)
    ways = None if by_user is None else ways_of(chosen, by_user)
    split = splits_of(chosen, arguments.store, weeks)
    with tempfile.TemporaryDirectory(
        prefix=f".{arguments.out.name}.weeks-", dir=arguments.out.absolute().parent
    ) as own:
        scores = Path(own) / "weeks.parquet"
        predict(chosen, weeks, scores, split=split, batch_size=arguments.batch_size, device=_device(arguments.device))
        if ways is None:
            put(scores, arguments.out)
            # A Parquet file has been moved there.
            _print_account(chosen, weeks, scores if scores.exists() else arguments.out, arguments.out)
        else:
            table = write_people(scores, arguments.out, ways)
            for renderable in people_account(chosen, table, ways, weeks.simulated, arguments.out):
                Console(highlight=False).print(renderable, soft_wrap=isinstance(renderable, str), markup=False)


def predict(
    chosen: Chosen,
    weeks: Weeks,
    out: Path,
    *,
    split: npt.NDArray[np.object_] | None = None,
    batch_size: int | None = None,
    device: torch.device | None = None,
) -> None:
    """Write what a network says of each week, in the order of the weeks, as `heartnet.predictions.COLUMNS`.

    Args:
        chosen: the network.
        weeks: any; labels are written if they are there, matched by name.
        out: the file, which appears once it is whole.
        split: `[week]`, to which split of the run each week belongs; None where it is none of it.
        batch_size: None is that of the run.
        device: where to compute; None is the CPU.

    Raises:
        HeartnetError: if the file cannot be written.
    """
    options = _section(chosen, "data")
    size = batch_size or int(options.get("batch_size") or _BATCH)
    module = chosen.module.to(device or torch.device("cpu"))
    module.eval()
    with PredictionFile(out) as file, predicting(len(weeks)) as told:
        for rows in _stretches(len(weeks)):
            scores, logits = _scored(module, chosen, weeks, rows, size)
            known = known_of(weeks, rows)
            values = _values(chosen, weeks, rows)
            places = None if split is None else split[rows].tolist()
            said = logits if module.kind == "conditions" else None
            file.add(prediction_rows(known, module.targets, scores, values, said, places))
            if told is not None:
                told("", len(rows))
        file.finish()


def splits_of(chosen: Chosen, store: Path, weeks: Weeks) -> npt.NDArray[np.object_] | None:
    """Return to which split of the run each week belongs, `[week]`; None if the store is not the one it was trained on.

    The store is the one if its path is that of the run's configuration and the metadata of those to train on have the
    very mean and spread that the checkpoint holds.
    """
    data = _section(chosen, "data")
    path, targets = data.get("path"), chosen.module.targets
    if not isinstance(path, str) or not Path(path).exists() or not Path(path).samefile(store):
        return None
    conditions = chosen.module.kind == "conditions"
    if conditions and not set(targets) <= set(weeks.conditions):
        return None
    values = Conditions(targets).values(weeks) if conditions else synthetic_targets(weeks, targets)
    known = np.flatnonzero(~np.isnan(values).all(axis=1))
    people = weeks.table["user_id"].to_numpy().astype(str)[known]
    by_user = data.get("split_by", "user") == "user"
    try:
        rows = split_weeks(
            people if by_user else np.arange(len(known)).astype(str),
            values[known],
            val_share=float(data.get("val_share", 0.15)),
            test_share=float(data.get("test_share", 0.15)),
            folds=data.get("folds"),
            fold=chosen.fold if chosen.fold is not None else int(data.get("fold", 0)),
            seed=int(data.get("split_seed", 0)),
        )
    except (HeartnetError, TypeError, ValueError):
        return None
    scaling = chosen.module.scaling
    found = fit_scaling((), weeks.table[known[rows["train"]]], scaling.channels)
    if (found.metadata_mean, found.metadata_std) != (scaling.metadata_mean, scaling.metadata_std):
        return None
    split = np.full(len(weeks), None, dtype=object)
    for name in SPLITS:
        split[known[rows[name]]] = name
    return split


def _stretches(count: int) -> Iterator[npt.NDArray[np.int64]]:
    for first in range(0, count, WEEKS_AT_ONCE):
        yield np.arange(first, min(first + WEEKS_AT_ONCE, count))


def _scored(
    module: Any, chosen: Chosen, weeks: Weeks, rows: npt.NDArray[np.int64], size: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return scores and logits, `[week, target]`."""
    lengths = np.diff(weeks.offsets)[rows]
    order = np.argsort(-lengths, kind="stable")
    metadata = module.scaling.apply_metadata(weeks.table[rows])
    scores, logits = np.empty((2, len(rows), len(module.targets)), np.float32)
    for first in range(0, len(rows), size):
        part = order[first : first + size]
        seen = [seen_of(weeks, int(row), chosen.view) for row in rows[part]]
        batch = padded(seen, module.scaling, chosen.view, mask_channel=chosen.mask_channel)
        batch |= {"metadata": torch.from_numpy(metadata[part]), "index": torch.from_numpy(rows[part])}
        with torch.inference_mode():
            found = module.predict_step({name: each.to(module.device) for name, each in batch.items()}, 0)
        scores[part], logits[part] = (found[name].cpu().numpy() for name in ("scores", "logits"))
    return scores, logits


def _values(chosen: Chosen, weeks: Weeks, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return labels, NaN where there are none, or the synthetic targets, `[week, target]`."""
    targets = chosen.module.targets
    if chosen.module.kind == "synthetic":
        ends = weeks.offsets[rows[0]], weeks.offsets[rows[-1] + 1]
        span = slice(int(ends[0]), int(ends[1]))
        part = replace(
            weeks,
            readings=weeks.readings[span],
            local_time=weeks.local_time[span],
            offsets=weeks.offsets[rows[0] : rows[-1] + 2] - ends[0],
            annotations={name: each[span] for name, each in weeks.annotations.items()},
        )
        return synthetic_targets(part, targets)
    values = np.full((len(rows), len(targets)), np.nan, np.float32)
    for i, name in enumerate(targets):
        if name in weeks.conditions:
            values[:, i] = weeks.table[name][rows].cast(pl.Float32).fill_null(float("nan")).to_numpy()
    return values


def _section(chosen: Chosen, name: str) -> Mapping[str, Any]:
    found = chosen.configuration.get(name)
    return found if isinstance(found, Mapping) else {}


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].partition(". ")[0]  # PyTorch goes on with all that there is
        raise HeartnetError(f"--device {name}: not there ({why}); cpu always is") from error


def _print_account(chosen: Chosen, weeks: Weeks, scores: Path, out: Path) -> None:
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    module = chosen.module
    users = weeks.table["user_id"].n_unique()
    say(f"{short(chosen.path)}, after {chosen.epochs} {'epoch' if chosen.epochs == 1 else 'epochs'} of training")
    what = "SIMULATED weeks" if weeks.simulated else "weeks"
    say(f"{len(weeks):,} {what} of {users:,} {'person' if users == 1 else 'people'}")
    conditions = module.kind == "conditions"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    heads = ("positive of known", "AUROC (95 %)") if conditions else ("weeks known", "variance explained", "error")
    for head in (module.kind if not conditions else "condition", "mean score", *heads):
        table.add_column(head, overflow="fold", justify="left" if not table.columns else "right")
    for target in module.targets:
        table.add_row(target, *_cells(scores, target, conditions=conditions))
    console.print(table)
    rows = pl.scan_parquet(scores, glob=False)
    split = rows.group_by("split").agg(pl.col("week").n_unique()).collect()
    trained = int(split.filter(pl.col("split").is_in(["train", "val"]))["week"].sum())
    if trained:
        say(
            f"{trained:,} of these weeks are of the training or validation split, so the network knows them: they are "
            "scored in the file, and left out of the table."
        )
    if bad := rows.filter(~pl.col("score").is_finite()).select(pl.col("week").n_unique()).collect().item():
        say(f"NaN or infinite for {bad:,} weeks: the network has diverged, or their readings are not finite.")
    if conditions:
        lacking = [name for name in module.targets if name not in weeks.conditions]
        others = [name for name in weeks.conditions if name not in module.targets]
        if lacking and weeks.conditions:
            say(f"Of {', '.join(lacking)} the weeks hold no labels.")
        if others:
            say(f"The network does not predict {', '.join(others)}.")
    say(f"The scores are in {short(out)}, one row a week and {'condition' if conditions else 'target'}.")


def _cells(out: Path, target: str, *, conditions: bool) -> list[str]:
    """Return mean score and scores of a target, of weeks the network has not seen in training."""
    weeks = scored_weeks(out, target, without=("train", "val"))
    average = pl.scan_parquet(out, glob=False).filter(pl.col("target") == target).select(pl.col("score").mean())
    value = weeks["value"]
    score, user = weeks["score"], weeks["user"]
    cells = [_number(average.collect().item())]
    draws = fewer(_DRAWS, len(value))
    fine = bool(np.isfinite(score).all()) and len(value) > 0
    if conditions:
        both = fine and 0 < value.sum() < len(value)
        found = interval(auroc(score, value), user, by_label(user, value), draws=draws) if both else None
        few = both and too_few(*(len(np.unique(user[value == label])) for label in (1, 0)))
        shown = f"{found.value:.3f} (too few people)" if few and found is not None else _shown(found)
        return [*cells, f"{int(value.sum()):,} of {len(value):,}", shown]
    r2 = interval(explained(score, value), user, draws=draws) if fine else None
    mae = interval(mean(abs(score - value)), user, draws=draws) if fine else None
    return [*cells, f"{len(value):,}", _shown(r2), _shown(mae)]


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _shown(it: Interval | None) -> str:
    if it is None or not np.isfinite(it.value):
        return "–"
    return str(it) if np.isfinite(it.low) else f"{it.value:.3f}"
