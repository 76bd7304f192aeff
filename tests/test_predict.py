"""`heartnet predict`: the scores of a run's own test, on any store; what it refuses; it runs nothing of a file."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
import yaml
from polars.testing import assert_frame_equal
from pytorch_lightning.callbacks import ModelCheckpoint

import heartnet.predict
from heartnet.chosen_checkpoint import choose_checkpoint
from heartnet.cli import main
from heartnet.datamodule import StoredData
from heartnet.errors import HeartnetError
from heartnet.model import DeepHeart, HourlyCNN
from heartnet.module import HeartnetModule
from heartnet.network_inputs import padded, seen_of
from heartnet.predictions import COLUMNS, NETWORK, predictions_frame
from heartnet.store import write_store
from heartnet.tasks import Conditions, Synthetic, Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

KINDS = ("readings", "masked", "hourly", "synthetic", "metadata")


def train(folder: Path, kind: str, store: Path) -> None:
    """Train for two epochs as train.py does, and leave what it leaves: checkpoints, config.yaml, predictions."""
    task: Task = Synthetic(("total_steps", "mean_difference_30_min")) if kind == "synthetic" else Conditions()
    options: dict[str, Any] = {
        "batch_size": 5, "val_share": 0.2, "test_share": 0.3, "split_seed": 3,
        "view": "hourly" if kind == "hourly" else "readings", "mask_channel": kind == "masked",
    }  # fmt: skip
    data = StoredData(task, path=store, **options)
    torch.manual_seed(0)
    network: torch.nn.Module
    if kind == "hourly":
        network = HourlyCNN(data.channels, 2, conv_units=4)
    else:
        network = DeepHeart(
            data.channels, 2, conv_units=4, kernel_sizes=(3,), lstm_units=4, lstm_layers=1, longest=60,
            metadata="lstm_state" if kind == "metadata" else "none", metadata_size=data.metadata_size,
        )  # fmt: skip
    mean, std = data.target_statistics()
    module = HeartnetModule(
        network, kind=data.task.kind, targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=data.scaling.as_dict(), learning_rate=0.02,
    )  # fmt: skip
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", "epoch-{epoch}", monitor="val/loss", auto_insert_metric_name=False),
            ModelCheckpoint(folder / "checkpoints", "last", mode="max", enable_version_counter=False),
        ],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    predictions_frame(data, module.test_rows, module.test_scores, NETWORK).write_parquet(folder / "predictions.parquet")
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"path": str(store), **options}}))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def store(place: Path) -> Path:
    write_store(faults.weeks(0, 40), place / "weeks")
    return place / "weeks"


@pytest.fixture(scope="module")
def made(place: Path, store: Path) -> Callable[[str], Path]:
    """Return a function that trains a run of a kind, once."""

    def make(kind: str = "readings") -> Path:
        if not (place / kind).exists():
            train(place / kind, kind, store)
        return place / kind

    return make


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_are_those_of_the_runs_own_test(
    made: Callable[[str], Path], store: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartnet.predict, "WEEKS_AT_ONCE", 7)
    out = tmp_path / "scores.parquet"
    assert predict(made(kind), store, "--out", out, "--checkpoint", "last", "--batch-size", 3) == 0
    found = pl.read_parquet(out)
    assert dict(found.schema) == COLUMNS
    assert found["week"].to_list() == np.repeat(np.arange(40), 2).tolist()
    tested = pl.read_parquet(made(kind) / "predictions.parquet")
    both = tested.join(found, on=["week", "target"], how="left", suffix="_now")
    assert len(both) == 2 * 12
    scale = tested["score"].abs().max() if kind == "synthetic" else 1.0
    assert (both["score"] - both["score_now"]).abs().max() <= 1e-6 * scale  # type: ignore[operator]
    assert both.select(pl.col("value").eq_missing(pl.col("value_now")).all()).item()
    assert both["split"].to_list() == ["test"] * 24
    assert found["split"].value_counts().height == 3
    if kind == "synthetic":
        assert found["logit"].null_count() == len(found)
    else:
        np.testing.assert_allclose(torch.sigmoid(torch.tensor(found["logit"].to_numpy())), found["score"], atol=1e-6)


@pytest.mark.parametrize("kind", ["readings", "masked", "hourly"])
def test_inputs_are_those_of_the_data_module(store: Path, kind: str) -> None:
    data = StoredData(
        Conditions(), path=store, view="hourly" if kind == "hourly" else "readings", mask_channel=kind == "masked"
    )
    rows = np.array([3, 30, 11])
    seen = [seen_of(data.weeks, int(row), data.view) for row in rows]
    found = padded(seen, data.scaling, data.view, mask_channel=data.mask_channel)
    batch = data.batch(rows)
    for name in ("inputs", "lengths"):
        assert torch.equal(found[name], batch[name])


@pytest.mark.parametrize("by", ["week", "user"])
def test_scores_as_csv_are_those_of_the_parquet(
    made: Callable[[str], Path], store: Path, tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("it.parquet", "it.csv"):
        assert predict(made("readings"), store, "--out", tmp_path / name, "--by", by) == 0
        assert f"{name}, one row a" in capsys.readouterr().out
    expected = pl.read_parquet(tmp_path / "it.parquet")
    found = pl.read_csv(tmp_path / "it.csv", schema=dict(expected.schema))
    assert_frame_equal(found, expected, rel_tol=1e-6)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.csv", "it.parquet"]
    assert predict(made("readings"), store, "--out", tmp_path / "it.csv", "--by", by) == 2
    assert "exists already" in capsys.readouterr().err


def test_best_and_last_and_a_file(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made("readings")
    best = choose_checkpoint(run, "best")
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    [named] = [Path(each["best_model_path"]).name for key, each in state.items() if "val/loss" in key]
    assert best.path == run / "checkpoints" / named
    assert choose_checkpoint(run, "last").path == run / "checkpoints" / "last.ckpt"
    scores = {}
    for name, words in {"best": (run,), "file": (run / "checkpoints" / named,)}.items():
        assert predict(*words, store, "--out", tmp_path / f"{name}.parquet") == 0
        scores[name] = pl.read_parquet(tmp_path / f"{name}.parquet")
    assert scores["best"].equals(scores["file"])
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    assert choose_checkpoint(moved).path == moved / "checkpoints" / named
    (moved / "checkpoints" / named).unlink()
    capsys.readouterr()
    assert predict(moved, store, "--out", tmp_path / "x.parquet") == 0
    assert "kept no best checkpoint (it had no monitor, or one that was NaN" in capsys.readouterr().out
    assert choose_checkpoint(moved).path == moved / "checkpoints" / "last.ckpt"


def test_another_store_without_labels_or_with_others(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weeks = faults.weeks(5, 20)
    bare = replace(weeks, table=weeks.table.drop("sleep_apnea", "diabetes"), conditions=())
    write_store(bare, tmp_path / "bare")
    assert predict(made("readings"), tmp_path / "bare", "--out", tmp_path / "bare.parquet") == 0
    found = pl.read_parquet(tmp_path / "bare.parquet")
    assert found["value"].null_count() == found["split"].null_count() == 40
    assert found["score"].null_count() == 0
    printed = capsys.readouterr().out
    assert "20 weeks of 20 people" in printed
    assert "0 of 0" in printed

    table = weeks.table.drop("sleep_apnea").with_columns(hypertension=pl.lit(1, pl.Int8))
    other = replace(weeks, table=table, conditions=("diabetes", "hypertension"), provenance={"kind": "simulated"})
    write_store(other, tmp_path / "other")
    assert predict(made("readings"), tmp_path / "other", "--out", tmp_path / "other.parquet") == 0
    labels = pl.read_parquet(tmp_path / "other.parquet").partition_by("target", as_dict=True)
    assert labels[("diabetes",)]["value"].to_list() == weeks.table["diabetes"].to_list()
    assert labels[("sleep_apnea",)]["value"].null_count() == 20
    assert labels[("diabetes",)]["score"].equals(found.filter(pl.col("target") == "diabetes")["score"])
    printed = capsys.readouterr().out
    for text in ("20 SIMULATED weeks", "Of sleep_apnea the weeks hold no labels", "does not predict hypertension"):
        assert text in printed


def test_the_account_leaves_out_weeks_that_were_trained_on(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(made("readings"), store, "--out", tmp_path / "it.parquet") == 0
    printed = capsys.readouterr().out
    assert "40 weeks of 40 people" in printed
    assert "28 of these weeks are of the training or validation split" in printed
    labels = pl.read_parquet(tmp_path / "it.parquet").filter(pl.col("split") == "test", pl.col("target") == "diabetes")
    assert f"{labels['value'].sum():.0f} of 12" in printed
    assert "too few people" in printed

    run = tmp_path / "run"
    shutil.copytree(made("readings"), run)
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["data"]["split_seed"] = 4  # then those to train on are others, as their age, sex and BMI show
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    assert predict(run, store, "--out", tmp_path / "other.parquet") == 0
    assert pl.read_parquet(tmp_path / "other.parquet")["split"].null_count() == 80


def changed(run: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Return a copy of a run's last checkpoint that was changed."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    change(checkpoint["heartnet"])
    torch.save(checkpoint, folder / "changed.ckpt")
    return folder / "changed.ckpt"


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("readings", lambda it: it["targets"].reverse(), "its conditions are in the order diabetes, sleep_apnea"),
        ("readings", lambda it: it["scaling"]["channels"].reverse(), "sees the channels dt, steps, heart_rate"),
        ("synthetic", lambda it: it["targets"].__setitem__(0, "total_stairs"), "no synthetic target 'total_stairs'"),
        ("readings", lambda it: it.update(architecture="Other"), "architecture 'Other' is not known"),
        ("readings", lambda it: it.update(kind="other"), "targets of kind 'other'"),
        ("readings", lambda it: it["targets"].pop(), "2 outputs for 1 targets"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str,
    change: Any, expected: str,
) -> None:  # fmt: skip
    out = tmp_path / "x.parquet"
    assert predict(changed(made(kind), tmp_path, change), store, "--out", out) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_stores_of_another_order_or_other_channels_are_refused(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from heartnet.store import _sum_of

    for key, value, expected in (
        ("channels", ["steps", "heart_rate", "dt"], "has the channels ['steps', 'heart_rate', 'dt']"),
        ("conditions", ["diabetes", "sleep_apnea"], "conditions are not in canonical order"),
    ):
        other = tmp_path / key
        shutil.copytree(store, other)
        manifest = json.loads((other / "manifest.json").read_text())
        del manifest["checksum"]
        manifest[key] = value
        manifest["checksum"] = _sum_of(manifest)
        (other / "manifest.json").write_text(json.dumps(manifest))
        assert predict(made("readings"), other, "--out", tmp_path / "x.parquet") == 2
        assert expected in capsys.readouterr().err


def test_weeks_that_measure_something_else_are_refused_by_name(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weeks = faults.weeks(5, 20)
    bare = weeks.readings.copy()
    bare[:, 1] = np.nan
    asleep = {"asleep": (np.arange(len(bare)) % 2).astype(np.uint8)}
    write_store(replace(weeks, readings=bare), tmp_path / "bare")
    write_store(replace(weeks, annotations=asleep), tmp_path / "asleep")
    out = tmp_path / "x.parquet"
    for kind, store, expected in (
        ("readings", "bare", "the weeks have no steps"),
        ("hourly", "bare", "the weeks have no steps"),
        ("hourly", "asleep", "the weeks have marks of sleep, and the network"),
    ):
        assert predict(made(kind), tmp_path / store, "--out", out) == 2
        assert expected in capsys.readouterr().err
        assert not out.exists()
    assert predict(made("readings"), tmp_path / "asleep", "--out", out) == 0
    assert predict(made("hourly"), tmp_path / "asleep", "--out", out, "--overwrite", "--anyway") == 0


def test_weeks_that_are_partly_unlike_those_trained_on_are_counted(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weeks = faults.weeks(5, 20)
    bare = weeks.readings.copy()
    bare[int(weeks.offsets[1]) :, 1] = np.nan
    table = weeks.table.with_columns(age=pl.when(pl.int_range(20) < 3).then(None).otherwise("age"))
    write_store(replace(weeks, readings=bare, table=table), tmp_path / "one")
    run = tmp_path / "run"
    shutil.copytree(made("metadata"), run)
    (run / "config.yaml").write_text("data: {_target_: heartnet.datamodule.SimulatedData}")
    assert predict(run, tmp_path / "one", "--out", tmp_path / "x.parquet") == 0
    printed = capsys.readouterr().out
    assert "WARNING: the network was trained on SIMULATED weeks" in printed
    assert "19 of 20 people have no steps, which the network learned from." in printed
    assert "3 of 20 weeks lack age or BMI, which the network reads." in printed  # all are women: nothing to learn
    assert predict(made("metadata"), store, "--out", tmp_path / "y.parquet") == 0
    printed = capsys.readouterr().out
    assert not [text for text in ("SIMULATED", "have no", "lack") if text in printed]

    def forget(it: dict[str, Any]) -> None:
        it["arguments"]["metadata"] = "only"
        for name, value in (("mean", 0.0), ("std", 1.0)):
            it["scaling"][name][1] = value  # as if no week of the training had steps

    file = changed(made("metadata"), tmp_path, forget)
    most = weeks.readings.copy()
    most[: int(weeks.offsets[5]), 1] = np.nan
    write_store(replace(weeks, readings=most), tmp_path / "most")
    assert predict(file, tmp_path / "most", "--out", tmp_path / "z.parquet") == 2
    assert "the weeks have steps (15 of 20 people), and the network" in capsys.readouterr().err
    assert predict(file, tmp_path / "one", "--out", tmp_path / "z.parquet") == 0
    assert "1 of 20 people has steps, which the network never saw." in capsys.readouterr().out
    bare[:, 1] = np.nan
    unknown = weeks.table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("age", "bmi"))
    write_store(replace(weeks, readings=bare, table=unknown), tmp_path / "unknown")
    assert predict(file, tmp_path / "unknown", "--out", tmp_path / "no.parquet") == 2
    assert "of no week age and BMI are known" in capsys.readouterr().err
    assert predict(file, tmp_path / "unknown", "--out", tmp_path / "no.parquet", "--anyway") == 0
    assert "20 of 20 weeks lack age or BMI" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("{run}", "{store}", "--out", "x.xlsx"), "ends in .parquet or .csv"),
        (("{run}", "{store}", "--out", "no/x.parquet"), "does not exist; create it"),
        (("{run}", "{store}", "--out", "there.parquet"), "exists already"),
        (("{run}", "{store}", "--out", "folder.parquet"), "is a folder"),
        (("{run}", "{store}", "--out", "x.parquet", "--batch-size", "0"), "must be at least 1"),
        (("{run}", "{store}", "--out", "x.parquet", "--device", "tpuu"), "--device tpuu: must be cpu, cuda, mps"),
        (("{run}/checkpoints", "{store}", "--out", "x.parquet"), "name the folder that it is in, "),
        (("nowhere", "{store}", "--out", "x.parquet"), "nowhere does not exist"),
        (("{store}", "{store}", "--out", "x.parquet"), "holds no checkpoints/"),
        (("folds", "{store}", "--out", "x.parquet"), "folds/fold-0"),
        (("sweep", "{store}", "--out", "x.parquet"), "holds several runs, as a sweep does; name one: sweep/0"),
        (("there.parquet", "{store}", "--out", "x.parquet"), "not a checkpoint that can be read"),
        (("{run}", "nowhere", "--out", "x.parquet"), "make one with `heartnet prepare"),
        (("{run}", "{run}", "--out", "x.parquet"), "is not a folder of prepared weeks"),
        (("mixed", "{store}", "--out", "x.parquet"), "they are not of one run"),
        (("broken", "{store}", "--out", "x.parquet"), "config.yaml cannot be read"),
    ],
)
def test_bad_input(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = made("readings")
    Path("there.parquet").write_bytes(b"kept")
    Path("folder.parquet").mkdir()
    Path("folds/fold-0/checkpoints").mkdir(parents=True)
    Path("sweep/0/checkpoints").mkdir(parents=True)
    for name, text in (("mixed", "data: {view: hourly}"), ("broken", "data: [")):
        shutil.copytree(run, name)
        (Path(name) / "config.yaml").write_text(text)
    before = sorted(Path.cwd().iterdir())
    assert predict(*(word.format(run=run, store=store) for word in words)) == 2
    assert expected in capsys.readouterr().err
    assert sorted(Path.cwd().iterdir()) == before
    assert Path("there.parquet").read_bytes() == b"kept"


def test_a_device_that_is_not_there_is_said_in_a_line() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(HeartnetError, match=r"^--device mps: not there .*; cpu always is$") as said:
        heartnet.predict._device("mps")
    assert len(str(said.value)) < 200


def test_no_number_of_the_account_is_cut_off(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("readings", "synthetic"):
        assert predict(made(kind), store, "--out", tmp_path / f"{kind}.parquet") == 0
        assert "…" not in capsys.readouterr().out


def test_replacing_needs_a_word(made: Callable[[str], Path], store: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    out.write_bytes(b"old")
    assert predict(made("readings"), store, "--out", out, "--overwrite") == 0
    assert len(pl.read_parquet(out)) == 80


def test_interrupted_nothing_is_left(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(heartnet.predict, "WEEKS_AT_ONCE", 8)
    scored, calls = heartnet.predict._scored, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return scored(*args)

    monkeypatch.setattr(heartnet.predict, "_scored", interrupted)
    assert predict(made("readings"), store, "--out", tmp_path / "x.parquet") == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_nothing(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    whole = torch.load(made("readings") / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**whole, "more": _Runs(ran)}, tmp_path / "bad.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(_Runs(ran)))
    with zipfile.ZipFile(tmp_path / "bad.ckpt") as archive:
        assert any(b"touch" in archive.read(name) or b"pathlib" in archive.read(name) for name in archive.namelist())
    for name in ("bad.ckpt", "plain.ckpt"):
        assert predict(tmp_path / name, store, "--out", tmp_path / "x.parquet") == 2
        assert "not a checkpoint that can be read" in capsys.readouterr().err
    assert not ran.exists()


def test_a_network_that_diverged_is_said(
    made: Callable[[str], Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(made("readings") / "checkpoints" / "last.ckpt", weights_only=True)
    next(each for name, each in checkpoint["state_dict"].items() if name.startswith("network.")).fill_(torch.nan)
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    assert predict(tmp_path / "nan.ckpt", store, "--out", tmp_path / "x.parquet") == 0
    assert "NaN or infinite for 40 weeks" in capsys.readouterr().out
