"""Predictions as a table, and its scores against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score, roc_auc_score

from heartnet.datamodule import WeeksDataModule
from heartnet.predictions import NETWORK, predictions_frame, read_predictions, score_table
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
    assert read_predictions(folder).equals(frame)


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
    assert everything["model"].to_list() == ([NETWORK] * 6 + ["metadata"] * 6) * 2
