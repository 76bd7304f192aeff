"""The experiments print what the README says, on real recordings and on the demonstration cohort."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest
from hydra.core.global_hydra import GlobalHydra

import train
from heartnet.cli import main as heartnet
from heartnet.findings import read_jsonl
from heartnet.predictions import read_predictions, score_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_recordings = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recordings are not at {DATA}")


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> Path:
    GlobalHydra.instance().clear()
    words = ["train.py", *overrides, f"hydra.run.dir={folder}", "trainer.enable_progress_bar=false"]
    monkeypatch.setattr(sys, "argv", words)
    train.main()
    return folder


def auroc(folder: Path) -> dict[str, float]:
    """Return each model's AUROC, averaged over conditions, of all folds together."""
    scores = score_table(read_predictions(folder), "conditions").group_by("model").agg(pl.col("auroc").mean())
    return dict(scores.iter_rows())


def prepare_afdb(out: Path, beats: int) -> None:
    status = heartnet(
        [
            *("prepare", "table", str(DATA / "afdb/heart_rate.csv.gz"), "--time", "seconds", "--time-unit", "s"),
            *("--by", str(beats), "--out", str(out), "--label-intervals", str(DATA / "afdb/rhythms.csv")),
            *("--interval-start", "start_seconds", "--interval-end", "end_seconds"),
            *("--condition", "atrial_fibrillation=rhythm:AFIB"),
        ]
    )
    assert status == 0


@pytest.mark.slow
@needs_recordings
def test_afdb_in_windows_of_512_beats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare_afdb(tmp_path / "weeks", 512)
    found = auroc(run(monkeypatch, tmp_path / "run", "experiment=afdb_512", f"data.path={tmp_path / 'weeks'}"))
    assert found["network"] >= 0.985
    assert found["network"] > found["statistics"]


@pytest.mark.slow
@needs_recordings
def test_afdb_in_windows_of_4096_beats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare_afdb(tmp_path / "weeks", 4096)
    found = auroc(run(monkeypatch, tmp_path / "run", "experiment=afdb_4096", f"data.path={tmp_path / 'weeks'}"))
    assert found["network"] > found["statistics"] > 0.9


@pytest.mark.slow
def test_the_demonstration_learns_more_than_metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = auroc(run(monkeypatch, tmp_path / "run", "experiment=demonstration"))
    assert found["network"] > found["metadata"]


@needs_recordings
def test_an_apple_watch_to_the_amnesia_curve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [str(DATA / "applewatch" / name) for name in ("hr.csv", "steps.csv")]
    columns = ["--time", "Start_Date+Start_Time", "--heart-rate", "Value", "--steps", "Steps"]
    assert heartnet(["prepare", "table", *files, *columns, "--out", str(tmp_path / "weeks")]) == 0
    folder = run(
        monkeypatch,
        tmp_path / "run",
        *("experiment=applewatch", f"data.path={tmp_path / 'weeks'}", "trainer.max_epochs=2", "+callbacks=amnesia"),
    )
    found = read_jsonl(folder / "findings.jsonl")
    assert {finding.where for finding in found if finding.check == "amnesia"} == {
        f"day_std_minus_night_std/{anchor}" for anchor in ("midpoint", "last", "score")
    }
    scores = score_table(read_predictions(folder), "synthetic")
    assert set(scores["model"]) == {"network", "statistics"}
    assert (scores["weeks"] == 3).all()
    assert (folder / "amnesia.npz").is_file()
