"""Predictions as a table, and its scores against scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score

from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.features import HOURLY_SUMMARY, hourly_summary
from heartnet.prediction_file import PredictionFile
from heartnet.predictions import (
    COLUMNS,
    FOLD,
    NETWORK,
    PREDICTED,
    known_of,
    prediction_rows,
    predictions_frame,
    read_predictions,
    score_table,
    scored_weeks,
)
from heartnet.tasks import Conditions
from heartnet.weeks import Weeks

MakeWeeks = Callable[..., Weeks]


def table(rng: np.random.Generator, kind: str) -> pl.DataFrame:
    parts = []
    for target in ("one", "two"):
        for model in ("network", "statistics"):
            value = rng.integers(0, 2, 60) if kind == "conditions" else rng.normal(size=60)
            missing = rng.random(60) < 0.2
            parts.append(
                pl.DataFrame(
                    {
                        "model": model,
                        "user_id": [f"u{i % 17}" for i in range(60)],
                        "target": target,
                        "value": [None if m else float(v) for v, m in zip(value, missing, strict=True)],
                        "score": rng.random(60).round(1),
                    }
                )
            )
    return pl.concat(parts).sample(fraction=1, shuffle=True, seed=1)


@pytest.mark.parametrize("kind", ["conditions", "synthetic"])
def test_scores_against_scikit_learn(kind: str) -> None:
    predictions = table(np.random.default_rng(0), kind)
    scores = score_table(predictions, kind)
    assert len(scores) == 4
    for row in scores.iter_rows(named=True):
        part = predictions.filter(
            (pl.col("target") == row["target"]) & (pl.col("model") == row["model"]) & pl.col("value").is_not_null()
        )
        value, score = part["value"].to_numpy(), part["score"].to_numpy()
        expected: dict[str, object] = {
            "target": row["target"], "model": row["model"], "weeks": len(part), "users": len(set(part["user_id"])),
        }  # fmt: skip
        if kind == "conditions":
            expected |= {
                "positive_weeks": int(value.sum()),
                "auroc": pytest.approx(roc_auc_score(value, score)),
                "average_precision": pytest.approx(average_precision_score(value, score)),
            }
        else:
            expected |= {
                "mae": pytest.approx(mean_absolute_error(value, score)),
                "r2": pytest.approx(r2_score(value, score)),
            }
        assert row == expected


@pytest.mark.parametrize(("kind", "scores"), [("conditions", ("auroc", "average_precision")), ("synthetic", ("r2",))])
def test_what_is_not_defined_is_null(kind: str, scores: tuple[str, ...]) -> None:
    same = pl.DataFrame({
        "model": NETWORK, "user_id": ["a", "b"], "target": "one", "value": [1.0, 1.0], "score": [0.2, 0.3]
    })  # fmt: skip
    found = score_table(same, kind).row(0, named=True)
    assert [found[name] for name in scores] == [None] * len(scores)
    assert found["weeks"] == 2


@pytest.mark.parametrize("kind", ["conditions", "synthetic"])
def test_a_network_that_diverged_has_no_scores(kind: str) -> None:
    diverged = pl.DataFrame({
        "model": NETWORK, "user_id": ["a", "b"], "target": "one", "value": [0.0, 1.0], "score": [0.2, float("nan")]
    })  # fmt: skip
    trusted = diverged.with_columns(model=pl.lit("metadata"), score=pl.lit(0.5))
    found = score_table(pl.concat([diverged, trusted]), kind)
    for name in ("auroc", "average_precision") if kind == "conditions" else ("mae", "r2"):
        assert found[name].is_null().to_list() == [True, False]


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "run [a]"
    folder.mkdir()
    frame = pl.DataFrame({"model": [NETWORK]})
    frame.write_parquet(folder / "predictions.parquet")
    assert read_predictions(folder).drop(FOLD).equals(frame)


def test_one_row_a_week_target_and_model(make_weeks: MakeWeeks, tmp_path: Path) -> None:
    weeks = make_weeks(users=6, missing=0.3)
    data = WeeksDataModule(weeks, Conditions())
    rows = np.array([4, 1, 7])
    scores = np.arange(6, dtype=np.float32).reshape(3, 2) / 10
    frame = predictions_frame(data, rows, scores, NETWORK)
    expected = [
        {
            "model": "network",
            "user_id": weeks.table["user_id"][int(row)],
            "start": weeks.table["start"][int(row)],
            "week": int(row),
            "target": name,
            "value": weeks.table[name][int(row)],
            "score": pytest.approx(float(scores[i, t])),
        }
        for t, name in enumerate(weeks.conditions)
        for i, row in enumerate(rows)
    ]
    assert frame.to_dicts() == expected

    other = predictions_frame(data, rows, scores, "metadata")
    for folder in ("fold-0", "fold-1"):
        (tmp_path / folder).mkdir()
        other.write_parquet(tmp_path / folder / "predictions_baseline.parquet")
        frame.write_parquet(tmp_path / folder / "predictions.parquet")
    everything = read_predictions(tmp_path)
    assert everything["model"].to_list() == [NETWORK] * 12 + ["metadata"] * 12
    assert everything[FOLD].to_list() == (["fold-0"] * 6 + ["fold-1"] * 6) * 2


def test_rows_hold_what_is_known_of_each_week(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=5, missing=0.4)
    rows = np.array([7, 2, 11])
    rng = np.random.default_rng(0)
    values = np.array([[1, np.nan], [0, 1], [np.nan, np.nan]], dtype=np.float32)
    scores, logits = rng.random((3, 2)).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)
    found = prediction_rows(known_of(weeks, rows), ("one", "two"), scores, values, logits, ["val", None, "test"])
    assert dict(found.schema) == COLUMNS
    assert list(found.columns)[: len(PREDICTED)] == list(PREDICTED)
    summary = hourly_summary(weeks, rows)
    assert found["week"].to_list() == [7, 7, 2, 2, 11, 11]
    for i, row in enumerate(found.iter_rows(named=True)):
        week, target = divmod(i, 2)
        said = weeks.table.row(int(rows[week]), named=True)
        assert row["target"] == ("one", "two")[target]
        assert row["model"] == NETWORK
        assert row["split"] == ("val", None, "test")[week]
        value = values[week, target]
        assert row["value"] == (None if np.isnan(value) else value)
        assert (row["score"], row["logit"]) == (scores[week, target], logits[week, target])
        for name in ("user_id", "start", "sex", "device", "readings"):
            assert row[name] == said[name]
        for name in ("age", "bmi", "wear_hours"):
            assert row[name] == (None if said[name] is None else pytest.approx(said[name]))
        for name, expected in zip(HOURLY_SUMMARY, summary[week], strict=True):
            assert row[name] == (None if np.isnan(expected) else pytest.approx(expected))


def test_what_is_not_known_is_null() -> None:
    known = pl.DataFrame({"user_id": ["a"], "other": [3], "age": [float("nan")], "ill": [True]})
    found = prediction_rows(known, ("one",), np.array([[0.5]]))
    assert dict(found.schema) == COLUMNS | {"other": pl.Float64, "ill": pl.String}
    row = found.row(0, named=True)
    assert {name for name, each in row.items() if each is not None} == {
        "model", "user_id", "target", "score", "other", "ill"
    }  # fmt: skip
    with pytest.raises(HeartnetError, match="called 'row'"):
        prediction_rows(pl.DataFrame({"user_id": ["a"], "row": [3]}), ("one",), np.array([[0.5]]))
    with pytest.raises(HeartnetError, match="another type"):
        prediction_rows(pl.DataFrame({"user_id": ["a"], "age": ["old"]}), ("one",), np.array([[0.5]]))


def some(rng: np.random.Generator, weeks: int, first: int = 0) -> pl.DataFrame:
    known = pl.DataFrame(
        {
            "user_id": [f"user-{first + i}" for i in range(weeks)],
            "week": np.arange(first, first + weeks),
            **{name: rng.normal(size=weeks) for name in ("age", "bmi", *HOURLY_SUMMARY)},
        }
    )
    each = rng.random((3, weeks, 2))
    each[1] = each[1] < 0.3
    return prediction_rows(known, ("one", "two"), *each, "test")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "deeper" / "it [1].parquet"
    parts = [some(rng, count, first) for count, first in ((5, 0), (3, 5), (40, 8), (1, 48))]
    with PredictionFile(path, rows_in_memory=20) as file:
        for part in parts:
            file.add(part)
            assert not path.exists()
        file.finish()
    assert pl.read_parquet(path, glob=False).equals(pl.concat(parts))
    assert list(path.parent.iterdir()) == [path]

    before = path.read_bytes()

    def interrupted() -> None:
        with PredictionFile(path, rows_in_memory=20) as file:
            file.add(parts[2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with PredictionFile(tmp_path / "empty.parquet") as file:
        file.finish()
    assert dict(pl.read_parquet(tmp_path / "empty.parquet").schema) == COLUMNS
    (tmp_path / "file").touch()
    with PredictionFile(tmp_path / "file" / "x.parquet") as file:
        file.add(parts[0])
        with pytest.raises(HeartnetError, match=r"cannot write .*x\.parquet"):
            file.finish()


@pytest.mark.usefixtures("interrupted_at_mkdir")
def test_an_interrupt_as_its_folder_appears_leaves_nothing(tmp_path: Path) -> None:
    rows = some(np.random.default_rng(0), 3, 0)
    with pytest.raises(KeyboardInterrupt), PredictionFile(tmp_path / "it.parquet", rows_in_memory=1) as file:
        file.add(rows)
    assert list(tmp_path.iterdir()) == []


def test_many_weeks_never_sit_in_memory(tmp_path: Path) -> None:
    """Of 400,000 rows, mostly random numbers, a fifth or so is in memory at a time; all of them would be 100 MB."""

    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def write(name: str, batches: int) -> tuple[int, int]:
        rng, peak, size, before = np.random.default_rng(0), 0, 0, resident()
        with PredictionFile(tmp_path / name, rows_in_memory=4096) as file:
            for batch in range(batches):
                rows = some(rng, 500, 500 * batch)
                size += int(rows.estimated_size())
                file.add(rows)
                peak = max(peak, resident() - before)
            file.finish()
        return max(peak, resident() - before), size

    write("first.parquet", 60)  # what the libraries themselves take, once
    peak, size = write("many.parquet", 400)
    assert peak < size / 2
    assert pl.scan_parquet(tmp_path / "many.parquet").select(pl.len()).collect().item() == 400_000


def test_one_target_is_read_at_a_time(tmp_path: Path) -> None:
    rows = some(np.random.default_rng(0), 20).with_columns(
        user_id=pl.Series([f"u{i // 8}" for i in range(40)]),
        split=pl.Series(["train"] * 4 + [None] * 6 + ["test"] * 30),
        value=pl.when(pl.col("week") == 3).then(None).otherwise(pl.col("value")),
    )
    rows.write_parquet(tmp_path / "it.parquet")
    found = scored_weeks(tmp_path / "it.parquet", "two", without=("train", "val"))
    expected = rows.filter((pl.col("target") == "two") & (pl.col("week") > 1) & (pl.col("week") != 3))
    assert found["value"].tolist() == expected["value"].to_list()
    assert found["score"].tolist() == expected["score"].to_list()
    users = expected["user_id"].to_list()
    assert [[a == b for b in found["user"]] for a in found["user"]] == [[a == b for b in users] for a in users]


def test_files_with_more_columns_are_read_beside_those_with_fewer(make_weeks: MakeWeeks, tmp_path: Path) -> None:
    data = WeeksDataModule(make_weeks(users=6), Conditions())
    rows, scores = np.array([1, 4]), np.full((2, 2), 0.25, np.float32)
    predictions_frame(data, rows, scores, "metadata").write_parquet(tmp_path / "predictions_baseline.parquet")
    prediction_rows(known_of(data.weeks, rows), data.targets, scores, data.values[rows]).write_parquet(
        tmp_path / "predictions.parquet"
    )
    prediction_rows(known_of(data.weeks, rows), data.targets, scores).write_parquet(
        tmp_path / "val_predictions.parquet"
    )
    found = read_predictions(tmp_path)
    assert dict(found.schema) == PREDICTED | {FOLD: pl.String}
    assert found["model"].to_list() == [NETWORK] * 4 + ["metadata"] * 4
