"""What is said of a cross-validation by compare, card, page, people and predictions: within folds, or, where each
person is a fold, of all folds with what that is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_within_folds import naive_pairs

from heartnet.card_scores import read_test, score_lines
from heartnet.compare import compare_runs
from heartnet.diagnostics.within_folds import ONE_CLASS
from heartnet.people import sigmoid
from heartnet.predictions import COLUMNS, FOLD, PREDICTED, aurocs_within, read_predictions
from heartnet.report.scores import pooled_lines

PEOPLE, MODELS = 30, {"network": 1.5, "hourly": 0.5}


def arrays(model: str, fold: Any) -> tuple[Any, Any]:
    """Return label and logit of two weeks of each person; the networks of folds lie two apart."""
    has = np.repeat(np.arange(PEOPLE) % 2, 2)
    noise = np.random.default_rng(list(model.encode())).normal(size=2 * PEOPLE)
    return has, MODELS[model] * has + noise + 2.0 * (fold % 3)


def cross_validation(folder: Path, fold: Any) -> Path:
    """Write the folder of a cross-validation as `train.py` leaves it; `fold` by week."""
    folder.mkdir()
    for model in MODELS:
        has, logit = arrays(model, fold)
        frame = pl.DataFrame(
            {
                "model": model, "user_id": [f"user-{i // 2:02d}" for i in range(2 * PEOPLE)], "start": None,
                "week": range(2 * PEOPLE), "target": "diabetes", "value": has, "score": sigmoid(logit),
                FOLD: [f"fold-{i}" for i in fold], "split": "test", "logit": logit, "wear_hours": 100.0,
            }
        )  # fmt: skip
        for (name,), part in frame.group_by(FOLD):
            place = folder / str(name)
            place.mkdir(exist_ok=True)
            file = "predictions.parquet" if model == "network" else "predictions_baseline.parquet"
            part.select(pl.col(key).cast(dtype) for key, dtype in PREDICTED.items()).write_parquet(place / file)
        if model == "network":
            lacking = [pl.lit(None).alias(name) for name in COLUMNS if name not in frame.columns]
            whole = frame.with_columns(*lacking).select(
                *(pl.col(key).cast(dtype) for key, dtype in COLUMNS.items()), FOLD
            )
            whole.write_parquet(folder / "predictions.parquet")
    return folder


def test_every_place_has_the_same_auroc_within_folds_of_all_models(tmp_path: Path) -> None:
    fold = np.arange(2 * PEOPLE) // 2 % 5
    run = cross_validation(tmp_path / "run", fold)
    expected = {}
    for model in MODELS:
        has, logit = arrays(model, fold)
        right, pairs = naive_pairs(logit.astype(np.float32), has, fold)
        expected[model] = right / pairs
    assert aurocs_within(read_predictions(run))["diabetes"] == pytest.approx(expected)
    told = f"network {expected['network']:.3f}, hourly {expected['hourly']:.3f}"
    assert f"diabetes: {told}." in pooled_lines(run)
    card = score_lines(read_test(run), [], simulated=False)
    place = card.index("| AUROC within folds | network | hourly |")
    assert card[place + 2] == f"| diabetes | {expected['network']:.3f} | {expected['hourly']:.3f} |"
    rows = {row.model: row for row in compare_runs([run], draws=50)}
    for model, row in rows.items():
        assert row.mean is not None
        assert row.mean.value == pytest.approx(expected[model])


def test_where_each_person_is_a_fold_every_place_says_what_that_is_worth(tmp_path: Path) -> None:
    run = cross_validation(tmp_path / "run", np.arange(2 * PEOPLE) // 2)
    assert f"diabetes: {ONE_CLASS}." in pooled_lines(run)
    card = "\n".join(score_lines(read_test(run), [], simulated=False))
    assert f"diabetes: {ONE_CLASS}." in card
    assert "AUROC within folds" not in card
    assert "AUROC of all folds together 0." in card, "of people"
    row = compare_runs([run], draws=50)[0]
    assert f"diabetes: {ONE_CLASS}" in row.notes
    assert row.mean is not None
    assert 0.4 < row.mean.value < 1
