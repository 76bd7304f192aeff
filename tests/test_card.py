"""`heartnet card`: says what a run knows of itself, and "unknown" of the rest; on runs of all kinds."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import faults
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch import nn

from heartnet.account import Account
from heartnet.card import MARK
from heartnet.card_scores import read_test, score_lines
from heartnet.cli import main
from heartnet.datamodule import StoredData
from heartnet.diagnostics.comparison import FEWEST
from heartnet.findings import FILE, Finding, append_jsonl
from heartnet.model.deepheart import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.people import KEY, Way
from heartnet.prediction_file import PredictionFile
from heartnet.predictions import FOLD, NETWORK, known_of, prediction_rows, predictions_frame
from heartnet.status import write_status
from heartnet.store import write_store
from heartnet.tasks import Conditions, Synthetic
from heartnet.tested import ScoredCheckpoint, file_hash

OPTIONS = {"batch_size": 8, "val_share": 0.2, "test_share": 0.5}


def run_of(folder: Path, store: Path, *, synthetic: bool = False, whole: bool = True, **options: object) -> StoredData:
    """Leave what train.py leaves, of a network that was not trained; without callbacks, if not `whole`."""
    task = Synthetic(("total_steps",)) if synthetic else Conditions()
    data = StoredData(task, path=store, **{**OPTIONS, **options})  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = DeepHeart(data.channels, len(data.targets), conv_units=2, kernel_sizes=(3,), lstm_units=2, lstm_layers=1)
    mean, std = data.target_statistics()
    module = HeartnetModule(
        network, kind=data.task.kind, targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=data.scaling.as_dict(),
    )  # fmt: skip
    written: dict[str, object] = {"state_dict": module.state_dict(), "epoch": 4, "callbacks": {}}
    module.on_save_checkpoint(written)
    if whole and not synthetic:
        written[KEY] = {name: Way("maximum").as_plain() for name in data.targets}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(written | {"epoch": 1}, folder / "checkpoints" / "epoch-1.ckpt")
    torch.save(written, folder / "checkpoints" / "last.ckpt")
    last = folder / "checkpoints" / "last.ckpt"
    if whole:
        ScoredCheckpoint(last.name, file_hash(last), 5, 5, 9, 9).write(folder)
    rows, rng = data.rows["test"], np.random.default_rng(0)
    values = data.values[rows]
    noise = rng.normal(size=values.shape)
    scores = (values + values.std() * noise if synthetic else 1 / (1 + np.exp(-(values - 0.5 + noise)))).astype(
        np.float32
    )
    if whole:
        with PredictionFile(folder / "predictions.parquet") as file:
            file.add(prediction_rows(known_of(data.weeks, rows), data.targets, scores, values, None, "test"))
            file.finish()
        predictions_frame(data, rows, scores, "metadata").write_parquet(folder / "predictions_baseline.parquet")
    else:
        predictions_frame(data, rows, scores, NETWORK).write_parquet(folder / "predictions.parquet")
    return data


def configured(folder: Path, store: Path, **data: object) -> None:
    values = {"data": {"_target_": "heartnet.datamodule.StoredData", "path": str(store), **OPTIONS, **data}}
    (folder / "config.yaml").write_text(f"# python train.py data=weeks\n{yaml.safe_dump(values)}", encoding="utf-8")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weeks = faults.weeks(0, 160)
    person = np.arange(160) // 2
    table = weeks.table.with_columns(
        pl.Series("user_id", [f"u{each:03d}" for each in person]),
        *(pl.col(name).gather(person * 2).alias(name) for name in weeks.conditions),
    )
    account = Account()
    account.add("weeks", "in", 170)
    account.add("weeks", "dropped: worn less than 24 h", 10)
    place = tmp_path_factory.mktemp("place") / "weeks"
    write_store(replace(weeks, table=table), place, account=account)
    return place


def card_of(folder: Path, *words: str) -> str:
    assert main(["card", str(folder), *words]) == 0
    return (folder / "model_card.md").read_text(encoding="utf-8")


def test_a_whole_run(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_of(tmp_path, store)
    configured(tmp_path, store)
    write_status(tmp_path, "finished")
    pattern = Finding("loss_patterns", "warn", "test: diabetes", 0.3, 0.1, "AUROC", "Watch A loses | 0.3.", (), 9)
    other = Finding("amnesia", "fail", "diabetes", 9.0, 1.0, "decades", "It forgets.", ("model.readout=last",), 9)
    append_jsonl([pattern, other], tmp_path / FILE)
    text = card_of(tmp_path)
    assert "model_card.md" in capsys.readouterr().out
    assert text.splitlines()[1] == MARK
    assert f"SHA-256 `{file_hash(tmp_path / 'checkpoints' / 'last.ckpt')}`" in text
    assert "after 5 epochs" in text
    assert "; the scores below are of it; the newest\n" in text
    for words in (
        "Not a medical device", "DeepHeart, ", "heart_rate (bpm)", "sleep_apnea, diabetes", "- the run: finished",
        "dropped: worn less than 24 h | 10", "- test: 80 weeks of 40 people", "seed unknown", "beside it: epoch-1.ckpt",
        "test: diabetes: Watch A loses \\| 0.3.", "It forgets.", "python train.py data=weeks",
        "| AUROC | network | metadata |",
        "maximum: highest of the weeks' scores, **taken**", "batch_size: 8",
    ):  # fmt: skip
        assert words in text, words
    # The numbers are those of another library.
    mine = pl.read_parquet(tmp_path / "predictions.parquet").filter(pl.col("target") == "diabetes")
    auroc = roc_auc_score(mine["value"], mine["score"])
    [row] = [line for line in text.splitlines() if line.startswith("| diabetes | 80 |")]
    assert f"| {auroc:.3f} (" in row
    people = mine.group_by("user_id").agg(pl.col("value").first(), pl.col("score").max())
    assert f"**taken** | {roc_auc_score(people['value'], people['score']):.3f} (" in text
    assert data.targets == ("sleep_apnea", "diabetes")
    assert "It forgets." not in text.split("## Findings")[0]


def test_a_run_without_callbacks_and_without_its_data(tmp_path: Path, store: Path) -> None:
    run_of(tmp_path / "run", store, whole=False)
    text = card_of(tmp_path / "run")
    for words in (
        "- the run: unknown", "- from: unknown, unknown", "Whether the weeks are simulated or real: unknown",
        "dropped, and why: unknown", "Unknown: the run did not look for them", "Beside simple models: unknown",
        "No way was chosen on the validation", "- command: unknown", "- configuration: unknown", "| diabetes | 80 |",
    ):  # fmt: skip
        assert words in text, words
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "- network: unknown, for the run kept no checkpoint" in card_of(tmp_path / "run")
    (tmp_path / "run" / "predictions.parquet").write_bytes(b"damaged")
    text = card_of(tmp_path / "run")
    assert "Unknown: nothing of the test was kept" in text
    assert "predictions.parquet cannot be read" in text


def test_a_run_that_was_interrupted_before_its_test(tmp_path: Path, store: Path) -> None:
    run_of(tmp_path, store)
    (tmp_path / "predictions.parquet").unlink()
    write_status(tmp_path, "interrupted")
    values = {"data": {"_target_": "heartnet.datamodule.SimulatedData", "users": 7}, "test": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    text = card_of(tmp_path)
    assert "**Trained on SIMULATED weeks" in text
    assert "- checkpoint: last.ckpt, after 5 epochs, " in text
    assert "; not tested" in text
    assert "scores below" not in text


def test_a_run_that_went_on_after_its_test(tmp_path: Path, store: Path) -> None:
    run_of(tmp_path, store)
    place = tmp_path / "checkpoints"
    ScoredCheckpoint("epoch-1.ckpt", file_hash(place / "epoch-1.ckpt"), 2, 5, 4, 9, "val/loss").write(tmp_path)
    assert (
        "; **the scores below are not of it**, but of epoch-1.ckpt, after epoch 2 of 5 (step 4 of 9), the best by "
        f"val/loss, SHA-256 `{file_hash(place / 'epoch-1.ckpt')}`"
    ) in card_of(tmp_path)
    assert main(["card", str(place / "epoch-1.ckpt"), "--out", str(tmp_path / "of-one.md")]) == 0
    assert "; the scores below are of it; the best by val/loss\n" in (tmp_path / "of-one.md").read_text()
    (tmp_path / "tested.json").write_text("damaged")
    assert "; whether the scores below are of it is unknown" in card_of(tmp_path)


def test_what_a_network_sees_of_a_week(tmp_path: Path, store: Path) -> None:
    run_of(tmp_path, store)
    file = tmp_path / "checkpoints" / "last.ckpt"
    written = torch.load(file, weights_only=True)
    scaling = written["heartnet"]["scaling"]
    scaling["mean"][1], scaling["std"][1] = 0.0, 1.0
    torch.save(written, file)
    assert "- of these no week that it was trained on had: steps\n" in card_of(tmp_path)
    written["heartnet"]["arguments"] |= {"metadata": "only", "metadata_size": 6}
    layer = nn.Linear(6, 1 * 2 * 2 * 2)
    written["state_dict"] |= {
        f"network.metadata_state.{name}": each.detach() for name, each in layer.named_parameters()
    }
    torch.save(written, file)
    text = card_of(tmp_path)
    assert "- sees: nothing of a week, not even how long it is" in text
    assert "no week that it was trained on had" not in text


def test_synthetic_targets(tmp_path: Path, store: Path) -> None:
    run_of(tmp_path, store, synthetic=True)
    configured(tmp_path, store)
    text = card_of(tmp_path)
    assert "| total_steps | 80 | 0." in text
    assert "One score a person" not in text
    assert "; the scores below are of it; the newest" in text
    assert "the synthetic targets total_steps" in text


def test_a_cross_validation(tmp_path: Path, store: Path) -> None:
    for fold in range(2):
        run_of(tmp_path / f"fold-{fold}", store, folds=2, fold=fold)
    configured(tmp_path, store, folds=2)
    text = card_of(tmp_path)
    assert text.count("SHA-256") == 4
    assert "- checkpoint of fold 1: last.ckpt" in text
    assert "in 2 folds; each week is in the test of one of them" in text
    assert "| diabetes | 160 |" in text
    assert "each fold has its own way" in text


def test_of_a_cross_validation_scores_are_judged_within_folds(tmp_path: Path, store: Path) -> None:
    for fold in range(2):
        run_of(tmp_path / f"fold-{fold}", store, folds=2, fold=fold)
        file = tmp_path / f"fold-{fold}" / "predictions.parquet"
        # In one fold scores are lower, so that pooled ones rank by fold.
        pl.read_parquet(file).with_columns(pl.col("score") / (1 + 9 * fold)).write_parquet(file)
    configured(tmp_path, store, folds=2)
    text = card_of(tmp_path)
    test = read_test(tmp_path).filter(pl.col("model") == NETWORK, pl.col("target") == "diabetes")
    right = wrong = 0.0
    for _, mine in test.drop_nulls("value").group_by("fold"):
        high, low = (mine.filter(pl.col("value") == label)["score"].to_numpy() for label in (1, 0))
        right += float((high[:, None] > low).sum() + 0.5 * (high[:, None] == low).sum())
        wrong += len(high) * len(low)
    found = re.search(r"\| diabetes \| 160 \| .*? \| .*? \| (0\.\d+) .*? \| (0\.\d+) ", text)
    assert found is not None
    assert found[1] == f"{right / wrong:.3f}", "within folds comes first"
    assert float(found[2]) < right / wrong - 0.02
    assert "| maximum: highest of the weeks' scores, **taken** |" in text


@pytest.mark.parametrize("having", [FEWEST - 1, FEWEST])
def test_of_too_few_people_there_are_no_intervals(having: int) -> None:
    """As `predict`, `predictions` and `baseline` have it: fewer than ten with or without it are too few."""
    rng = np.random.default_rng(0)
    value = (np.arange(60) < having).astype(float)
    known = pl.DataFrame({"week": np.arange(60), "user_id": [f"u{i}" for i in range(60)]})
    score = 1 / (1 + np.exp(-rng.normal(1.5 * value)))
    test = prediction_rows(known, ("diabetes",), score[:, None], value[:, None]).with_columns(
        pl.lit(None, pl.String).alias(FOLD)
    )
    text = "\n".join(score_lines(test, [], simulated=False))
    [row] = [line for line in text.splitlines() if line.startswith("| diabetes | 60 |")]
    auroc = f"| {roc_auc_score(value, score):.3f} ("
    assert auroc in row
    if having < FEWEST:
        assert row.count("(no interval)") == 5
        assert " to " not in row
        assert "Fewer than 10 people with or without diabetes: too few to tell how good the scores are" in text
    else:
        assert row.count(" to ") == 5
        assert "no interval" not in row
        assert "too few to tell how good" not in text


def test_simulated_weeks_are_called_so(tmp_path: Path, store: Path) -> None:
    run_of(tmp_path, store)
    values = {"data": {"_target_": "heartnet.datamodule.SimulatedData", "users": 7}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    text = card_of(tmp_path)
    assert "**Trained and tested on SIMULATED weeks" in text
    assert "users 7" in text


def test_what_is_refused(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "run", store)
    mine = tmp_path / "mine.md"
    mine.write_text("my notes")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep/0").mkdir(parents=True)
    (tmp_path / "sweep/0/findings.jsonl").touch()
    for words, expected in (
        ([tmp_path / "nowhere"], "does not exist"),
        ([tmp_path / "empty"], "no run is in this folder"),
        ([tmp_path / "sweep"], "holds several runs, as a sweep does; name one: "),
        ([tmp_path / "run", "--out", mine], "is no page of heartnet"),
        ([tmp_path / "run", "--out", tmp_path / "no" / "card.md"], "does not exist"),
        ([mine], "not a checkpoint that can be read"),
    ):
        assert main(["card", *map(str, words)]) == 2
        assert expected in capsys.readouterr().err
    assert mine.read_text() == "my notes"
