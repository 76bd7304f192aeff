"""The scores of a model card: of weeks and of people, with intervals, and beside simple models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from heartnet.chosen_checkpoint import Chosen
from heartnet.diagnostics.comparison import FEWEST
from heartnet.diagnostics.people_scores import people_scores
from heartnet.diagnostics.people_verdicts import people_finding, people_markdown, wear_markdown
from heartnet.diagnostics.score_quality import Quality, agreement, quality
from heartnet.diagnostics.wear_reliability import wear_reliability
from heartnet.diagnostics.within_folds import EACH_WEEK, TOGETHER, WITHIN_FIRST, on_one_level, one_class
from heartnet.few_people import too_few
from heartnet.people import Way, person_table
from heartnet.predictions import COLUMNS, FOLD, NETWORK, prediction_files, score_tables, with_fold
from heartnet.resampling import Interval
from heartnet.synthetic import TARGETS

_DRAWS = 1000
_NOTHING = Interval(math.nan, math.nan, math.nan)


def read_test(folder: Path) -> pl.DataFrame:
    """Return what all models of a run, and of its folds, predicted of the test, with all of `COLUMNS` and `FOLD`.

    What a file lacks is null; a file that cannot be read is left out (`heartnet.report.folder.read_run` notes it).
    """
    schema = {**COLUMNS, FOLD: pl.String}
    frames = [pl.DataFrame(schema=schema)]
    for file in prediction_files(folder):
        try:
            found = with_fold(pl.read_parquet(file, glob=False), file, folder)
            frames.append(
                found.select(
                    (pl.col(name) if name in found.columns else pl.lit(None).alias(name)).cast(dtype)
                    for name, dtype in schema.items()
                )
            )
        except (pl.exceptions.PolarsError, OSError):
            continue
    return pl.concat(frames)


def score_lines(test: pl.DataFrame, networks: Sequence[Chosen], simulated: bool | None) -> list[str]:
    """Return the lines of the card, as Markdown.

    Args:
        test: of `read_test`.
        networks: the run's; empty if none was kept.
        simulated: whether the weeks are; None if unknown.
    """
    known = test.filter(pl.col("value").is_not_null())
    if known.is_empty():
        return ["Unknown: nothing of the test was kept, or no label in it is known."]
    kind = networks[0].module.kind if networks else _kind(known)
    found = known["target"].unique(maintain_order=True).to_list()
    targets = [name for name in networks[0].module.targets if name in found] if networks else found
    mine = known.filter(pl.col("model") == NETWORK)
    who = f"{mine['user_id'].n_unique():,} {'simulated ' if simulated else ''}people"
    lines = [f"Of the test split: {who}. Intervals of 95 % are from resampling people.", ""]
    if mine.is_empty():
        lines.append("Unknown: the network's own predictions were not kept.")
    elif kind == "conditions":
        lines += _conditions(mine, targets)
    else:
        lines += _synthetic(mine, targets)
    lines += _others(known, targets, kind)
    if kind == "conditions" and not mine.is_empty():
        lines += _people(test, targets, networks, simulated=bool(simulated))
    return lines


def _kind(known: pl.DataFrame) -> str:
    return "conditions" if known["value"].is_in([0.0, 1.0]).all() else "synthetic"


def _conditions(mine: pl.DataFrame, targets: Sequence[str]) -> list[str]:
    qualities = []
    for target in targets:
        part = mine.filter(pl.col("target") == target)
        score, value = (part[name].to_numpy().astype(np.float64) for name in ("score", "value"))
        folds = part[FOLD].to_numpy() if part[FOLD].n_unique() > 1 else None
        it = quality(target, score, value, part["user_id"].to_numpy(), folds=folds, draws=_DRAWS)
        qualities.append(it)
    several = any(it.folds > 1 for it in qualities)
    within = any(not math.isnan(it.within.value) for it in qualities)
    heads = ["condition", "weeks", "people with it", "without", *(["AUROC within folds"] if within else [])]
    heads += [f"AUROC{f', {TOGETHER}' if several else ''}", "average precision", "Brier score", "calibration slope"]
    heads += ["calibration error, less luck"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for it in qualities:
        lines.append(f"| {it.target} | {' | '.join(_cells(it, within=within))} |")
        if it.diverged:
            told = f"NaN or infinite for {it.diverged:,} weeks: it has diverged"
            lines.append(f"| {it.target} | {told} |{' |' * (len(heads) - 2)}")
    if several:
        why = f"{WITHIN_FIRST} All other scores here are of" if within else "All scores here are of"
        lines += ["", f"{EACH_WEEK} {why} {TOGETHER}."]
    for it in qualities:
        if it.folds > 1 and it.calibration and math.isnan(it.within.value):
            lines += ["", f"{it.target}: {one_class(it.folds, it.users)}."]
    if few := [it.target for it in qualities if too_few(it.having, it.without) and not it.diverged]:
        lines += [
            "",
            f"Fewer than {FEWEST} people with or without {', '.join(few)}: too few to tell how good the scores are and "
            "whether they are calibrated, so there are no intervals.",
        ]
    return lines


def _cells(it: Quality, *, within: bool) -> list[str]:
    """Return what stands beside the name of a condition; of too few people the numbers without intervals."""
    scores = [*([it.within] if within else []), it.auroc, it.average_precision]
    found = it.calibration
    scores += [_NOTHING] * 3 if found is None else [found.brier, found.slope, found.error]
    if too_few(it.having, it.without):
        scores = [replace(each, low=math.nan, high=math.nan) for each in scores]
    return [f"{it.weeks:,}", f"{it.having:,}", f"{it.without:,}", *map(_shown, scores)]


def _synthetic(mine: pl.DataFrame, targets: Sequence[str]) -> list[str]:
    lines = ["| target | weeks | variance explained | mean absolute error |", "|---|---:|---:|---:|"]
    for target in targets:
        part = mine.filter(pl.col("target") == target)
        score, value = (part[name].to_numpy().astype(np.float64) for name in ("score", "value"))
        it = agreement(target, score, value, part["user_id"].to_numpy(), draws=_DRAWS)
        unit = TARGETS[target].unit if target in TARGETS else ""
        lines.append(f"| {target} | {it.weeks:,} | {_shown(it.r2)} | {_shown(it.mae)} {unit} |")
    return lines


def _others(known: pl.DataFrame, targets: Sequence[str], kind: str) -> list[str]:
    """Return the scores of the models that it was compared with, beside its own."""
    if set(known["model"].unique()) <= {NETWORK}:
        return ["", "Beside simple models: unknown, the run did not fit any (`+callbacks=baseline`)."]
    score = "auroc" if kind == "conditions" else "r2"
    title = "AUROC" if kind == "conditions" else "variance explained"
    lines = []
    for over, table in score_tables(known, kind).items():
        scores = {
            target: dict(table.filter(pl.col("target") == target).select("model", score).iter_rows())
            for target in targets
        }
        models = table["model"].unique(maintain_order=True).to_list()
        head = f"{title}{',' if over == TOGETHER else ''} {over}".strip()
        lines += _compared(head, models, scores)
    return lines


def _compared(title: str, models: Sequence[str], scores: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    lines = ["", f"| {title} | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
    for target, by_model in scores.items():
        values = [by_model.get(model) for model in models]
        cells = ["–" if value is None or math.isnan(value) else f"{value:.3f}" for value in values]
        lines.append(f"| {target} | {' | '.join(cells)} |")
    return lines


def _people(test: pl.DataFrame, targets: Sequence[str], networks: Sequence[Chosen], *, simulated: bool) -> list[str]:
    table = person_table(test.lazy(), targets)
    if not (table["weeks"] > 1).any():
        return ["", "### One score a person", "", "Each person has one week, so that there is nothing to combine."]
    of_fold = test.filter(pl.col("model") == NETWORK).select("user_id", FOLD).unique()
    # Where weeks were split, a person is in several folds.
    folds = of_fold[FOLD].drop_nulls().unique().to_list() if of_fold["user_id"].is_unique().all() else []
    ways = networks[0].ways if len(networks) == 1 else {}
    own = {f"fold-{each.fold}": each.ways for each in networks}
    lines = ["", "### One score a person", ""]
    if folds:
        table = table.join(of_fold, on="user_id", how="left", maintain_order="left")
        own_way = "each fold has its own way: the one that it chose, or the mean of the logits"
        lines += [f"People are compared within folds, and {own_way}.", ""]
    elif not ways:
        reason = "train with `+callbacks=people`"
        lines += [f"No way was chosen on the validation ({reason}); the mean of the logits is the fallback.", ""]
    for target in targets:
        rows = test.filter(
            pl.col("model") == NETWORK, pl.col("target") == target, pl.col("value").is_not_null()
        )  # fmt: skip
        score, value = (rows[name].to_numpy().astype(np.float64) for name in ("score", "value"))
        user = rows["user_id"].to_numpy()
        part = table.filter(pl.col("target") == target)
        chosen = {fold: own.get(fold, {}).get(target) for fold in folds} or ways.get(target, Way())
        it = people_scores(target, part, score, user, chosen=chosen, draws=_DRAWS)
        if folds:
            score = on_one_level(score, rows[FOLD].to_numpy(), spread=True)
        finding = people_finding(it, "test", simulated=simulated)
        lines += [f"**{target}**: {finding.message}", ""]
        if it.ways:
            lines += [people_markdown(it), ""]
        wear = rows["wear_hours"].fill_null(float("nan")).to_numpy().astype(np.float64)
        worn = wear_reliability(target, score, value, user, wear, draws=_DRAWS)
        if worn.bands:
            lines += [wear_markdown(worn), ""]
    return lines


def _shown(it: Interval) -> str:
    return "–" if math.isnan(it.value) else str(it)
