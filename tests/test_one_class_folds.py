"""What is said of a cross-validation by terminal, page, card, compare, people and predictions: within folds first, or,
where each person is a fold, of all folds with what that is worth."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from test_within_folds import naive_pairs

from heartnet.card_scores import read_test, score_lines
from heartnet.compare import compare_runs
from heartnet.diagnostics.within_folds import EACH_WEEK, ONE_CLASS, TOGETHER, WITHIN, WITHIN_FIRST, one_class
from heartnet.people import sigmoid
from heartnet.predictions import COLUMNS, FOLD, PREDICTED, aurocs_within, fold_notes, read_predictions
from heartnet.report.folder import read_run
from heartnet.report.scores import scores_of
from heartnet.splits import split_weeks
from heartnet.terminal import print_scores

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


def about(target: str) -> Any:
    """Return what the terminal asks of a data module."""
    return SimpleNamespace(
        targets=(target,), task=SimpleNamespace(kind="conditions"), weeks=SimpleNamespace(simulated=False)
    )


def test_within_folds_leads_in_every_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fold = np.arange(2 * PEOPLE) // 2 % 5
    run = cross_validation(tmp_path / "run", fold)
    expected = {}
    for model in MODELS:
        has, logit = arrays(model, fold)
        right, pairs = naive_pairs(logit.astype(np.float32), has, fold)
        expected[model] = right / pairs
    assert aurocs_within(read_predictions(run))["diabetes"] == pytest.approx(expected)
    cells = [f"{expected['network']:.3f}", f"{expected['hourly']:.3f}"]
    predictions = read_predictions(run)
    parts = [predictions.filter(pl.col("model") == name) for name in MODELS]
    together = [f"{roc_auc_score(part['value'], part['score']):.3f}" for part in parts]
    assert all(one > other for one, other in zip(cells, together, strict=True)), "two apart, networks lose by it"
    card = score_lines(read_test(run), [], simulated=False)
    place = card.index("| AUROC within folds | network | hourly |")
    assert card[place + 2] == f"| diabetes | {' | '.join(cells)} |"
    below = card.index("| AUROC, all folds together | network | hourly |")
    assert below > place
    assert card[below + 2] == f"| diabetes | {' | '.join(together)} |"
    assert f"| AUROC within folds | AUROC, {TOGETHER} | average precision |" in card[2]
    assert f"| {cells[0]} (" in card[4]
    assert any(WITHIN_FIRST in line for line in card)
    shown = scores_of(read_run(run).predictions, simulated=False)
    assert shown is not None
    assert shown.leading == "AUROC within folds"
    assert [table.over for table in shown.tables] == [WITHIN, TOGETHER]
    for table, aurocs in zip(shown.tables, (cells, together), strict=True):
        assert [one for one, _, _ in table.rows[0][2]] == aurocs
    assert shown.tables[0].rows[0][2][0] == (cells[0], "", True)
    assert shown.notes == (f"{EACH_WEEK} {WITHIN_FIRST}",)
    print_scores(run, about("diabetes"))
    printed = capsys.readouterr().out
    assert re.search(
        rf"Test scores, within folds\s+AUROC .*?diabetes +30 of 60 +{cells[0]} +{cells[1]}.*"
        rf"Test scores, all folds together\s+AUROC \(AP\) .*?diabetes +30 of 60 +{together[0]} \(.*{together[1]} \(.*"
        "Each week is scored by the network of the fold",
        printed, re.DOTALL,
    ), printed  # fmt: skip
    rows = {row.model: row for row in compare_runs([run], draws=50)}
    for model, row in rows.items():
        assert row.mean is not None
        assert row.mean.value == pytest.approx(expected[model])


def test_where_each_person_is_a_fold_every_place_says_what_that_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cross_validation(tmp_path / "run", np.arange(2 * PEOPLE) // 2)
    shown = scores_of(read_run(run).predictions, simulated=False)
    assert shown is not None
    assert shown.leading == "AUROC of all folds together"
    assert len(shown.tables) == 1
    said = f"diabetes: {one_class(PEOPLE, PEOPLE)}"
    assert said.endswith("as data.folds=5")
    assert shown.notes == (EACH_WEEK, f"{said}.")
    print_scores(run, about("diabetes"))
    printed = capsys.readouterr().out
    assert printed.startswith("Test scores, all folds together")
    assert f"{said}." in printed
    card = "\n".join(score_lines(read_test(run), [], simulated=False))
    assert f"{said}." in card
    assert "AUROC within folds" not in card
    assert "AUROC of all folds together 0." in card, "of people"
    row = compare_runs([run], draws=50)[0]
    assert said in row.notes
    assert row.mean is not None
    assert 0.4 < row.mean.value < 1


def test_of_a_condition_that_nobody_has_no_ranking_is_spoken_of(tmp_path: Path) -> None:
    run = cross_validation(tmp_path / "run", np.arange(2 * PEOPLE) // 2 % 5)
    for file in run.rglob("predictions*.parquet"):
        pl.read_parquet(file).with_columns(pl.lit(0.0, pl.Float32).alias("value")).write_parquet(file)
    assert fold_notes(read_predictions(run)) == [EACH_WEEK]
    assert not any(ONE_CLASS in note for row in compare_runs([run], draws=50) for note in row.notes)


@pytest.mark.parametrize(
    ("folds", "people", "fewer"), [(30, 30, 5), (12, 12, 4), (5, 12, 4), (8, 8, 2), (5, 5, 0), (2, 30, 0)]
)
def test_the_remedy_fits_the_folds_and_the_people(folds: int, people: int, fewer: int) -> None:
    """Fewer folds than there are, of three people or more each; where there are none, more people."""
    said = one_class(folds, people)
    assert said.startswith(ONE_CLASS)
    if fewer:
        assert said.endswith(f"fewer, larger folds tell more, as data.folds={fewer}")
    else:
        assert "data.folds" not in said
        assert said.endswith(f"{people} people in {folds} folds are too few: add some with it and some without")


@pytest.mark.parametrize("people", range(6, 24))
def test_with_as_many_folds_as_are_proposed_one_has_both_classes(people: int) -> None:
    """People are dealt out to folds as `data.folds` deals them out, however many of them have the condition."""
    folds = int(one_class(people, people).rpartition("=")[2])
    users = np.arange(people).astype(str)
    for having in range(1, people):
        label = (np.arange(people) < having).astype(np.float32)
        tested = [
            label[split_weeks(users, label[:, None], val_share=0, test_share=0, folds=folds, fold=i, seed=0)["test"]]
            for i in range(folds)
        ]
        assert any(len(np.unique(each)) == 2 for each in tested)
