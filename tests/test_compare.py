"""The table of runs: against scikit-learn, with what is missing, and with input that cannot work."""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from sklearn.metrics import r2_score, roc_auc_score
from torch.utils.tensorboard import SummaryWriter

import train
from heartnet.cli import main as heartnet
from heartnet.compare import compare_runs, overrides
from heartnet.compare_rows import Row
from heartnet.compare_table import print_table
from heartnet.configuration import check, options_of
from heartnet.diagnostics.comparison import FEWEST
from heartnet.errors import HeartnetError
from heartnet.explained import compose
from heartnet.findings import Finding, append_jsonl
from heartnet.model import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.predictions import NETWORK, PREDICTED
from heartnet.resampling import Interval

DATA = {"_target_": "heartnet.datamodule.StoredData", "path": "weeks", "batch_size": 4, "view": "readings"}


def predictions(
    model: str,
    *,
    seed: int,
    strength: float,
    targets: tuple[str, ...],
    rows: range = range(60),
    kind: str = "condition",
) -> pl.DataFrame:
    """Return predictions of 30 people's two weeks each; values depend on the week alone, scores also on the seed."""
    frames = []
    for place, target in enumerate(targets):
        drawn = np.random.default_rng(place).random(60)
        value = (drawn < 0.4).astype(float) if kind == "condition" else drawn
        noise = np.random.default_rng([seed, place]).normal(size=60)
        score = strength * value + 0.3 * noise
        frames.append(
            pl.DataFrame(
                {
                    "model": [model] * len(rows),
                    "user_id": [f"user-{i // 2:02d}" for i in rows],
                    "start": [datetime(2024, 1, 1) + timedelta(weeks=i % 2) for i in rows],
                    "week": list(rows),
                    "target": [target] * len(rows),
                    "value": [None if i == 7 else value[i] for i in rows],
                    "score": score[list(rows)],
                }
            ).cast(PREDICTED)
        )
    return pl.concat(frames)


def make_run(
    folder: Path, *overrides: str, seed: int = 0, strength: float = 1.0, targets: tuple[str, ...] = ("diabetes",),
    kind: str = "condition", data: dict[str, Any] | None = None, baseline: float | None = None, state: str = "finished",
) -> Path:  # fmt: skip
    """Write the folder of a run as `train.py` leaves it, with what the table reads."""
    folder.mkdir(parents=True)
    values = {"data": DATA | (data or {}), "trainer": {"accumulate_grad_batches": 1}}
    command = " ".join(["python train.py experiment=x", *overrides])
    (folder / "config.yaml").write_text(f"# {command}\n{yaml.safe_dump(values)}")
    (folder / "status.json").write_text(json.dumps({"state": state, "at": "2024-01-01T00:00:00"}))
    network = predictions("network", seed=seed, strength=strength, targets=targets, kind=kind)
    network.write_parquet(folder / "predictions.parquet")
    if baseline is not None:
        simple = predictions("hourly", seed=99, strength=baseline, targets=targets, kind=kind)
        simple.write_parquet(folder / "predictions_baseline.parquet")
    return folder


def expected(**options: Any) -> float:
    frame = predictions("network", **options).drop_nulls()
    parts = frame.partition_by("target", as_dict=True).values()
    return float(np.mean([roc_auc_score(part["value"], part["score"]) for part in parts]))


def test_scores_differences_and_simple_models_once(tmp_path: Path) -> None:
    targets = ("sleep_apnea", "diabetes")
    make_run(tmp_path / "sweep/0", "model.readout=mean", strength=1.0, targets=targets, baseline=0.2)
    make_run(tmp_path / "sweep/1", "model.readout=last", seed=1, strength=0.3, targets=targets, baseline=0.2)
    rows = compare_runs([tmp_path / "sweep", tmp_path / "sweep/1"], "hourly", draws=200)
    assert [(row.name, row.model, row.test) for row in rows] == [
        ("mean", "network", 1), ("last", "network", 1), ("hourly", "hourly", 1),
    ]  # fmt: skip
    strong, weak, simple = rows
    assert strong.mean is not None
    assert weak.mean is not None
    assert simple.mean is not None
    assert strong.mean.value == pytest.approx(expected(seed=0, strength=1.0, targets=targets))
    assert weak.mean.value == pytest.approx(expected(seed=1, strength=0.3, targets=targets))
    assert list(strong.each) == list(targets)
    assert strong.each["diabetes"].low < strong.each["diabetes"].value < strong.each["diabetes"].high
    assert strong.difference is not None
    assert strong.difference.value == pytest.approx(strong.mean.value - simple.mean.value)
    assert strong.difference.low > 0
    assert simple.difference is None
    same = compare_runs([tmp_path / "sweep"], "baseline", draws=200)
    assert [row.difference for row in same] == [row.difference for row in rows]
    against_run = compare_runs([tmp_path / "sweep"], str(tmp_path / "sweep/1"), draws=50)
    assert against_run[0].difference is not None
    assert against_run[0].difference.value == pytest.approx(strong.mean.value - weak.mean.value)


def test_a_paired_interval_is_narrower_than_one_of_independent_scores(tmp_path: Path) -> None:
    """A network that says the same as its rival but for a hair differs from it surely by next to nothing."""
    one = make_run(tmp_path / "one", "a=1", strength=0.3)
    other = make_run(tmp_path / "other", "a=2", strength=0.31)
    rows = compare_runs([one, other], "2", draws=300)
    assert rows[0].mean is not None
    assert rows[0].difference is not None
    width = rows[0].mean.high - rows[0].mean.low
    assert rows[0].difference.high - rows[0].difference.low < width / 5


def test_folds_are_pooled_and_other_weeks_are_another_test(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "whole", "seed=0")
    folds = make_run(tmp_path / "folds", "seed=1", data={"batch_size": 8, "view": "hourly"})
    frame = pl.read_parquet(folds / "predictions.parquet")
    (folds / "predictions.parquet").unlink()
    for fold in range(3):
        (folds / f"fold-{fold}").mkdir()
        frame.filter(pl.col("week") % 3 == fold).write_parquet(folds / f"fold-{fold}/predictions.parquet")
    other = make_run(tmp_path / "other", "seed=2", data={"path": "others"}, baseline=0.1)
    rows = compare_runs([whole, folds, other], "0", draws=100)
    assert [row.test for row in rows] == [1, 1, 2, 2]
    assert rows[0].mean == rows[1].mean
    assert rows[1].difference is not None
    assert rows[1].difference.value == 0
    assert rows[2].difference is None  # other weeks: nothing to pair


def test_synthetic_targets_are_scored_by_the_variance_explained(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind="synthetic", targets=("resting_rate",))
    frame = pl.read_parquet(run / "predictions.parquet").drop_nulls()
    [row] = compare_runs([run], draws=50)
    assert row.mean is not None
    assert row.mean.value == pytest.approx(r2_score(frame["value"], frame["score"]))
    with pytest.raises(HeartnetError, match="some of the runs predict conditions and some synthetic targets"):
        compare_runs([run, make_run(tmp_path / "conditions")], draws=50)


def test_what_was_measured_of_the_network(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for step, value, blind in ((0, 9.0, 0.9), (5, 2.5, 0.25)):
        append_jsonl(
            [
                Finding("amnesia", "warn", "diabetes/midpoint", value, 1.0, "decades", "", step=step),
                Finding("amnesia", "warn", "sleep_apnea/midpoint", value / 2, 1.0, "decades", "", step=step),
                Finding("amnesia", "pass", "diabetes/score", None, 1.0, "decades", "", step=step),
                Finding("cadence", "warn", "convolutions.0", blind, 0.5, "", "", step=step),
            ],
            run / "findings.jsonl",
        )
    network = DeepHeart(3, 1, conv_units=2, kernel_sizes=(3,), lstm_units=2, lstm_layers=1, clock="elapsed")
    scaling = {name: [0.0] * 3 for name in ("mean", "std", "metadata_mean", "metadata_std")}
    scaling["channels"] = ["heart_rate", "steps", "dt"]
    module = HeartnetModule(
        network, kind="conditions", targets=["diabetes"], target_mean=[0.5], target_std=[1.0], scaling=scaling
    )
    (run / "checkpoints").mkdir()
    torch.save({"heartnet": module._description(), "state_dict": module.state_dict()}, run / "checkpoints/last.ckpt")
    with SummaryWriter(str(run)) as writer:
        for step in range(11):  # half a second a step, and once a long validation
            writer.add_scalar("train/loss", 1.0, step, walltime=1000 + step / 2 + 60 * (step > 5))
    [row] = compare_runs([run], draws=20)
    assert row.decades == {"midpoint": 2.5}
    assert row.silent == 0.25
    assert row.weights == sum(weight.numel() for weight in network.parameters())
    assert row.pace == pytest.approx(2 * 4)


def test_the_printed_table_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs/0", "model=a", targets=("sleep_apnea", "diabetes"), baseline=0.2)
    running = make_run(tmp_path / "runs/1", "model=b", state="running")
    (running / "predictions.parquet").unlink()
    lost = make_run(tmp_path / "runs/2", "model=c", targets=("sleep_apnea", "diabetes"))
    frame = pl.read_parquet(lost / "predictions.parquet")
    frame.with_columns(pl.lit(float("nan")).cast(pl.Float32).alias("score")).write_parquet(lost / "predictions.parquet")
    assert heartnet(["compare", str(tmp_path / "runs"), "--to", "baseline", "--draws", "50"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["b", "–", "–"] in lines
    assert ["c", "–", "–"] in lines
    assert "less hourly" in said
    assert "b: running, no test predictions" in said
    assert "c: 120 predictions are NaN or infinite, so it has diverged" in said
    assert "60 weeks of 30 people" in said
    assert max(map(len, said.splitlines()[:20])) <= 80
    assert heartnet(["compare", str(tmp_path / "runs"), "--csv", "--draws", "50"]) == 0
    table = pl.read_csv(capsys.readouterr().out.encode())
    assert table["name"].to_list() == ["a", "b", "c", "hourly"]
    assert table["mean"].is_null().to_list() == [False, True, True, False]
    assert table.row(0, named=True)["people"] == 30


def test_each_of_several_tests_has_tables_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = [f"condition_{each}" for each in "abcdefgh"]
    make_run(tmp_path / "runs/0", "model=long", targets=tuple(conditions[:2]), baseline=0.2)
    make_run(tmp_path / "runs/1", "model=short", targets=tuple(conditions[2:]), baseline=0.2)
    running = make_run(tmp_path / "runs/2", "model=other", state="running")
    (running / "predictions.parquet").unlink()
    assert heartnet(["compare", str(tmp_path / "runs"), "--to", "baseline", "--draws", "50"]) == 0
    first, second = capsys.readouterr().out.partition("Test 2: 60 weeks of 30 people\n")[::2]
    second, _, last = second.partition("decades: ")
    assert first.startswith("Test 1: 60 weeks of 30 people\n")
    assert [name in first for name in ("long ", "hourly ", "condition a", "short", "condition c", ", test")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert [name in second for name in ("short ", "hourly ", "condition h", "long", "condition b", ", test")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert "less hourly" in second
    assert "…" not in first + second, "no interval is cut"
    assert all(name in last for name in ("long ", "short ", "other "))
    assert "other: running, no test predictions" in last


def test_a_long_name_leaves_room_for_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    name = "architecture=compact data.users=60 data.batch_size=16 +callbacks=[people,predictions] trainer.max_epochs=10"
    scores = {"day_std": Interval(-5.0, -10.05, 0.25), "resting_rate": Interval(0.5, 0.05, 1.0)}
    mean = Interval(0.123, 0.045, 0.678)
    print_table([Row(name, NETWORK, Path(), mean=mean, each=scores, weights=209_860, pace=1092.4)])
    printed = capsys.readouterr().out
    for expected in ("0.123 (0.045 to 0.678)", "-5.00 (-10.05–.25)", "0.50 (.05–1.00)", "209,860", "1,092"):
        assert expected in printed
    assert "people,predictions" in printed


@pytest.mark.parametrize("having", [0, FEWEST - 1, FEWEST])
def test_of_too_few_people_there_are_no_intervals(
    tmp_path: Path, having: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the model card has it (tests/test_card.py); nor of the mean over conditions, of which it is one."""
    run = make_run(tmp_path / "run", targets=("sleep_apnea", "diabetes"), strength=0.3, baseline=0.2)
    for file in run.glob("predictions*.parquet"):
        known, rest = (pl.col("target") == "diabetes") & pl.col("value").is_not_null(), pl.read_parquet(file)
        people = rest.filter(known)["user_id"].unique().sort()
        value = pl.when(known).then(pl.col("user_id").is_in(people[:having].implode()).cast(pl.Float32))
        rest.with_columns(value.otherwise("value").alias("value")).write_parquet(file)
    rows = compare_runs([run], "baseline", draws=50)
    without = len(people) - having
    said = rf"too few for an interval .*: diabetes \({having}, {without}\).$"
    assert any(re.search(said, note) for note in rows[0].notes) == (0 < having < FEWEST)
    assert any(f"nothing to rank: diabetes (0, {without})" in note for note in rows[0].notes) == (having == 0)
    for row in rows:
        assert not math.isnan(row.each["sleep_apnea"].low)
        assert math.isnan(row.each["diabetes"].value) == (having == 0)
        assert math.isnan(row.each["diabetes"].low) == (having < FEWEST)
        some = [each for each in (row.mean, row.difference) if each is not None]
        assert len(some) == 1 + (row.model == "network")
        for each in some:
            assert math.isnan(each.low) == (0 < having < FEWEST), "of the conditions that have a score"
    assert heartnet(["compare", str(run), "--draws", "20"]) == 0
    assert ("Where there are none, people are too few" in capsys.readouterr().out) == (0 < having < FEWEST)


def test_the_notes_speak_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of simulated runs beside a simple model all are simulated; without an interval there are no brackets."""
    drawn = {"_target_": "heartnet.datamodule.SimulatedData"}
    run = make_run(tmp_path / "run", strength=0.3, data=drawn, baseline=0.2)
    assert heartnet(["compare", str(run), "--draws", "20"]) == 0
    said = capsys.readouterr().out
    assert "Simulated weeks: these scores say nothing about real people." in said
    assert "In brackets" in said
    for file in run.glob("predictions*.parquet"):
        pl.read_parquet(file).filter(pl.col("week") < 16).write_parquet(file)
    assert heartnet(["compare", str(run), "--draws", "20"]) == 0
    said = capsys.readouterr().out
    assert "In brackets" not in said
    assert "No intervals: people are too few" in said
    for file in run.glob("predictions*.parquet"):
        file.unlink()
    assert heartnet(["compare", str(run)]) == 0
    assert "ntervals" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist: name folders of runs"),
        (["file"], "file is no folder"),
        (["empty"], "empty: no run is in this folder"),
        (["run", "--to", "hourlyy"], r"--to hourlyy: no such row; there are baseline, .*Did you mean 'hourly'"),
        (["bare", "--to", "baseline"], "no simple model stands beside these runs; train them with .callbacks=baseline"),
        (["bare", "--to", "baselin"], r"no such row; there are \S+/bare\.$"),
        (["run", "--draws", "0"], "--draws 0: must be at least 1"),
    ],
)
def test_input_that_cannot_work(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    make_run(tmp_path / "run", baseline=0.3)
    make_run(tmp_path / "bare", "+callbacks=")
    with pytest.raises(HeartnetError, match=message):
        compare_runs(
            [Path(words[0])],
            words[2] if "--to" in words else None,
            draws=0 if "--draws" in words else 20,
        )
    assert heartnet(["compare", *words]) == 2
    assert capsys.readouterr().err.startswith("heartnet: ")


@pytest.mark.parametrize("experiment", ["architectures", "architectures_afdb", "ablation"])
def test_each_architecture_of_the_sweeps_composes(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["train.py"])
    text = (Path(train.__file__).parent / f"conf/experiment/{experiment}.yaml").read_text()
    swept = yaml.safe_load(text)["hydra"]["sweeper"]["params"]["architecture"].split(",")
    assert set(swept) <= set(options_of("architecture"))
    if experiment == "ablation":
        assert swept == ["sensor", "metadata", "late_fusion", "lstm_state"]
    for name in swept:
        config = compose([f"experiment={experiment}", f"architecture={name}"])
        OmegaConf.update(config, "data.path", "weeks") if experiment.endswith("afdb") else None
        values: Any = OmegaConf.to_container(config, resolve=True)
        check({key: value for key, value in values.items() if key != "hydra"})
        assert values["model"]["_target_"].endswith(
            {"two_timescale": "TwoTimescale", "hourly_cnn": "HourlyCNN"}.get(name, "DeepHeart")
        )


def test_what_has_no_part_in_learning_names_no_run() -> None:
    command = "train.py -m architecture=last threads=1 data.path=/a/b trainer.enable_progress_bar=false hydra.run.dir=x"
    assert overrides(command) == ["architecture=last"]
