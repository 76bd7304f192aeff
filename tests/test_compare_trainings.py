"""Trainings that differ in their seed in one row, and cross-validations within folds: against loops over people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from heartnet.cli import main as heartnet
from heartnet.compare import compare_runs
from heartnet.compare_rows import Row
from heartnet.findings import Finding, append_jsonl
from heartnet.predictions import FOLD, PREDICTED

PEOPLE = 40
TARGETS = ("sleep_apnea", "diabetes")


def scores_of(seed: int, strength: float, place: int, level: float = 0.0) -> tuple[Any, Any, Any]:
    """Return the values and scores of two weeks of each person, and their folds, whose levels may differ."""
    value = np.repeat(np.random.default_rng(place).random(PEOPLE) < 0.4, 2).astype(np.float32)
    fold = np.arange(2 * PEOPLE) // 2 % 4
    noise = np.random.default_rng([seed, place, round(100 * strength)]).normal(size=2 * PEOPLE)
    return value, (strength * value + 0.5 * noise + level * fold).astype(np.float32), fold


def frame_of(model: str, seed: int, strength: float, targets: Sequence[str], level: float = 0.0) -> pl.DataFrame:
    frames = []
    for place, target in enumerate(targets):
        value, score, fold = scores_of(seed, strength, place, level)
        frame = pl.DataFrame(
            {
                "model": model, "user_id": [f"user-{i // 2:02d}" for i in range(2 * PEOPLE)],
                "start": [datetime(2024, 1, 1) + timedelta(weeks=i % 2) for i in range(2 * PEOPLE)],
                "week": range(2 * PEOPLE), "target": target, "value": value, "score": score,
            },
            schema=PREDICTED,
        )  # fmt: skip
        frames.append(frame.with_columns(pl.Series(FOLD, [f"fold-{i}" for i in fold])))
    return pl.concat(frames)


def make_run(
    folder: Path, *words: str, seed: int = 0, strength: float = 0.6, targets: Sequence[str] = TARGETS,
    folds: bool = False, level: float = 0.0, simple: bool = False, state: str = "finished", **values: Any,
) -> Path:  # fmt: skip
    folder.mkdir(parents=True)
    config = {"seed": seed, "data": {"path": "weeks"}, "model": {"units": 4}, **values}
    command = " ".join(["python train.py experiment=x", *words, f"seed={seed}"])
    (folder / "config.yaml").write_text(f"# {command}\n{yaml.safe_dump(config)}")
    (folder / "status.json").write_text(json.dumps({"state": state, "at": "2024-01-01T00:00:00"}))
    frame = frame_of("network", seed, strength, targets, level)
    simpler = frame_of("hourly", 99, 0.3, targets)
    if folds:
        frame.write_parquet(folder / "predictions.parquet")
        for (name,), part in simpler.group_by(FOLD):
            (folder / str(name)).mkdir()
            part.drop(FOLD).write_parquet(folder / str(name) / "predictions_baseline.parquet")
            part.drop(FOLD).with_columns(pl.lit("network").alias("model")).write_parquet(
                folder / str(name) / "predictions.parquet"
            )
    elif state == "finished":
        frame.drop(FOLD).write_parquet(folder / "predictions.parquet")
    if simple and not folds:
        simpler.drop(FOLD).write_parquet(folder / "predictions_baseline.parquet")
    return folder


def naive(value: Any, score: Any, fold: Any, often: Any) -> float:
    """Return the AUROC of pairs within folds, each week as often as it is drawn, in a loop over pairs."""
    right = pairs = 0.0
    for i in np.flatnonzero(value == 1):
        for j in np.flatnonzero((value == 0) & (fold == fold[i])):
            count = often[i] * often[j]
            right, pairs = right + count * ((score[i] > score[j]) + 0.5 * (score[i] == score[j])), pairs + count
    return right / pairs


def pairs_won(value: Any, score: Any, fold: Any) -> tuple[Any, Any]:
    """Return which pairs of weeks are ranked rightly, a half for ties, and which are pairs, `[week, week]` each."""
    pairs = (value[:, None] == 1) & (value == 0) & (fold[:, None] == fold)
    return pairs * ((score[:, None] > score) + 0.5 * (score[:, None] == score)), pairs.astype(float)


def point(seeds: Sequence[int], strength: float, targets: Sequence[str] = TARGETS, **options: Any) -> float:
    """Return the mean over seeds and targets of the AUROC within folds."""
    found = []
    for seed in seeds:
        for place in range(len(targets)):
            value, score, fold = scores_of(seed, strength, place, options.get("level", 0.0))
            folds = fold if options.get("within") else np.zeros(len(fold))
            found.append(naive(value, score, folds, np.ones(len(value))))
    return float(np.mean(found))


def sweep(folder: Path, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Path:
    for i, seed in enumerate(seeds):
        make_run(folder / f"{seed}/0", "architecture=compact", seed=seed, strength=0.6, simple=i == 0, **options)
        make_run(folder / f"{seed}/1", "architecture=last", seed=seed, strength=0.9, **options)
    return folder


def by_name(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


@pytest.mark.parametrize("folds", [False, True])
def test_a_row_is_the_mean_over_seeds_and_its_differences_are_paired(tmp_path: Path, folds: bool) -> None:
    level = 1.0 if folds else 0.0
    rows = by_name(compare_runs([sweep(tmp_path, folds=folds, level=level)], "compact", draws=200))
    assert list(rows) == ["compact", "last", "hourly"], "one row of three trainings each, and the simple model once"
    compact, last = rows["compact"], rows["last"]
    assert compact.seeds == last.seeds == (0, 1, 2)
    for row, strength in ((compact, 0.6), (last, 0.9)):
        each = [point([seed], strength, level=level, within=folds) for seed in range(3)]
        assert row.by_training == pytest.approx(each)
        assert row.mean is not None
        assert row.mean.value == pytest.approx(np.mean(each))
        assert row.mean.low < row.mean.value < row.mean.high
        assert row.within is folds
    assert last.difference is not None
    assert last.difference.value == pytest.approx(last.mean.value - compact.mean.value)  # type: ignore[union-attr]
    paired = np.subtract(last.by_training, compact.by_training)
    assert last.difference_by_training == pytest.approx(paired), "each training from that of the same seed"
    assert rows["hourly"].difference_by_training == pytest.approx(
        np.subtract(rows["hourly"].by_training, compact.by_training)
    )
    if folds:
        assert last.pooled is not None
        assert last.pooled.value == pytest.approx(point(range(3), 0.9, level=level))
        assert last.pooled.value < last.mean.value - 0.05, "levels of folds cost the one, not the other"  # type: ignore[union-attr]
        assert last.pooled_difference is not None
        assert last.pooled_difference.value == pytest.approx(last.pooled.value - compact.pooled.value)  # type: ignore[union-attr]
    else:
        assert last.pooled is None


@pytest.mark.parametrize("folds", [False, True])
def test_people_are_drawn_once_for_all_seeds(tmp_path: Path, folds: bool) -> None:
    """The standard deviation over draws, seen through the interval, is that of a naive bootstrap of the mean."""
    one = TARGETS[:1]
    rows = by_name(compare_runs([sweep(tmp_path, targets=one, folds=folds)], "compact", draws=1000))
    value, _, fold = scores_of(0, 0.6, 0)
    fold = fold if folds else np.zeros(len(fold))
    each = [[scores_of(seed, strength, 0)[1] for seed in range(3)] for strength in (0.6, 0.9)]
    wins = [[pairs_won(value, score, fold) for score in scores] for scores in each]
    person, rng, drawn = np.arange(2 * PEOPLE) // 2, np.random.default_rng(5), []
    for _ in range(300):
        often = np.zeros(PEOPLE)
        for label in (0, 1):
            those = np.flatnonzero(value[::2] == label)
            often += np.bincount(rng.choice(those, len(those)), minlength=PEOPLE)
        week = often[person]
        means = [np.mean([week @ won @ week / (week @ pairs @ week) for won, pairs in seeds]) for seeds in wins]
        drawn.append([*means, means[1] - means[0]])
    for found, sd in zip(
        (rows["compact"].mean, rows["last"].mean, rows["last"].difference), np.std(drawn, axis=0), strict=True
    ):
        assert found is not None
        assert (found.high - found.low) / (2 * 1.96) == pytest.approx(sd, rel=0.25)


def test_each_lists_the_trainings(tmp_path: Path) -> None:
    rows = compare_runs([sweep(tmp_path)], each=True, draws=20)
    assert [row.name for row in rows] == [
        *(f"architecture={each} seed={seed}" for seed in range(3) for each in ("compact", "last")), "hourly",
    ]  # fmt: skip
    assert all(len(row.by_training) == 1 for row in rows)


def test_what_differs_in_more_than_the_seed_is_not_put_together(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "x=1", seed=0),
        make_run(tmp_path / "b", "x=1", seed=1, model={"units": 8}),  # a default that was another one then
        make_run(tmp_path / "c", "x=1", seed=2, data={"path": "others"}),
        make_run(tmp_path / "again/0", "x=1", seed=0),
        make_run(tmp_path / "again/1", "x=1", seed=3),
        make_run(tmp_path / "d", "x=2", seed=4),
    ]
    rows = compare_runs(runs, draws=20)
    assert [row.seeds for row in rows] == [(0,), (1,), (2,), (0, 3), (4,)]
    assert len({row.name for row in rows}) == 5
    to = compare_runs(runs, str(runs[4]), draws=20)
    assert to[0].to == to[3].name, "the folder of any training names its row"


def test_a_reference_of_other_seeds_is_taken_each_from_each(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", "x=1", seed=seed)
    for seed in (2, 3, 4):
        make_run(tmp_path / f"b{seed}", "x=2", seed=seed, strength=0.9)
    one, other = compare_runs([tmp_path], "1", draws=20)
    expected = [b - a for b in other.by_training for a in one.by_training]
    assert other.difference_by_training == pytest.approx(expected)


def test_trainings_that_have_no_scores_are_named_and_left_out(tmp_path: Path, capsys: Any) -> None:
    sweep(tmp_path / "s", seeds=(0, 1))
    make_run(tmp_path / "s/2/0", "architecture=compact", seed=2, state="running")
    lost = make_run(tmp_path / "s/2/1", "architecture=last", seed=2, strength=0.9)
    frame = pl.read_parquet(lost / "predictions.parquet")
    frame.with_columns(pl.lit(float("nan"), pl.Float32).alias("score")).write_parquet(lost / "predictions.parquet")
    for seed, value in ((0, 3.0), (1, 5.0)):
        finding = Finding("amnesia", "warn", "diabetes/midpoint", value, 1.0, "decades", "")
        append_jsonl([finding], tmp_path / f"s/{seed}/0/findings.jsonl")
    assert heartnet(["compare", str(tmp_path / "s"), "--to", "hourly", "--draws", "50"]) == 0
    said = capsys.readouterr().out
    assert "compact, seed 2: running, no test predictions; its row is of the others" in said
    assert "last, seed 2: 160 predictions are NaN or infinite, so it has diverged; its row is of the others" in said
    assert "of the mean of 2 trainings that differ in their seed" in said
    assert " to ".join(f"{each:.3f}" for each in sorted(point([seed], 0.6) for seed in (0, 1))) in said
    assert "4.00" in said, "the median over the trainings"
    assert max(map(len, said.split("Test:")[0].splitlines())) <= 80
    assert heartnet(["compare", str(tmp_path / "s"), "--csv", "--draws", "50"]) == 0
    table = pl.read_csv(capsys.readouterr().out.encode())
    row = table.row(0, named=True)
    each = [point([seed], 0.6) for seed in (0, 1)]
    assert (row["name"], row["trainings"], row["seeds"]) == ("compact", 2, "0 1")
    assert row["mean_lowest"] == pytest.approx(min(each))
    assert row["mean_sd"] == pytest.approx(np.std(each, ddof=1))


@pytest.mark.parametrize("state", ["running", "failed"])
def test_the_printed_table_of_a_cross_validation(state: str, tmp_path: Path, capsys: Any) -> None:
    one = TARGETS[:1]
    sweep(tmp_path / "s", folds=True, targets=one, level=1.0)
    running = make_run(tmp_path / "r", "architecture=other", folds=True, targets=one, state=state)
    (running / "predictions.parquet").unlink()
    assert heartnet(["compare", str(tmp_path), "--to", "hourly", "--draws", "50"]) == 0
    said = capsys.readouterr().out
    assert "sleep apnea within folds" in said
    assert "sleep apnea, all folds together" in said
    assert "of the mean of 3 trainings a fold that differ in their seed" in said
    assert f"other: {state}, 4 folds are tested so far" in said
    assert said.count("Test:") == 1
    assert max(map(len, said.split("Test:")[0].splitlines())) <= 80
    assert heartnet(["compare", str(tmp_path / "s/0"), "--draws", "50"]) == 0
    assert "of one training a fold, so its luck is not in them" in capsys.readouterr().out


def test_folds_that_each_have_one_class_are_ranked_together_and_that_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "x=1", targets=TARGETS[:1], folds=True)
    frame = pl.read_parquet(run / "predictions.parquet")
    frame = frame.with_columns(("fold-" + pl.col("user_id")).alias(FOLD))  # each person a fold
    frame.write_parquet(run / "predictions.parquet")
    row = compare_runs([run], draws=50)[0]
    assert row.mean is not None
    assert row.mean.value == pytest.approx(point([0], 0.6, TARGETS[:1]))
    assert not row.within
    assert any("no fold tests both people with it and people without" in note for note in row.notes)
