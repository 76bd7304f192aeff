"""The gate: the compact network learns std(day) − std(night) on the simulated cohort, as the README says."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest
from hydra.core.global_hydra import GlobalHydra

import train
from heartnet.findings import read_jsonl
from heartnet.module import HeartnetModule
from heartnet.predictions import read_predictions, score_table


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> tuple[Path, dict[str, float]]:
    """Return the run's folder, and the share of variance that each model explains in the test split."""
    GlobalHydra.instance().clear()
    words = ["train.py", "experiment=synthetic_gate", f"hydra.run.dir={folder}", "trainer.enable_progress_bar=false"]
    monkeypatch.setattr(sys, "argv", [*words, *overrides])
    assert train.main() == 0
    scores = score_table(read_predictions(folder), "synthetic")
    return folder, dict(scores.select("model", pl.col("r2")).iter_rows())


def test_a_few_weeks_compose_and_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = ("data.users=40", "data.test_share=0.3", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    folder, explained = run(monkeypatch, tmp_path / "run", *small, "+callbacks=amnesia")
    assert set(explained) == {"network", "hourly"}
    found = {finding.check: finding for finding in read_jsonl(folder / "findings.jsonl")}
    assert found["baseline"].limit == 0.8
    assert found["baseline"].where == "day_std_minus_night_std"
    assert "amnesia" in found
    module = HeartnetModule.from_checkpoint(folder / "checkpoints" / "last.ckpt")
    arguments = module.network.arguments
    assert (arguments["clock"], arguments["channels"]) == ("elapsed", 3)
    place = module.scaling.channels.index("dt")
    scale = [module.scaling.mean[place], module.scaling.std[place]]
    assert module.network.dt_scale.tolist() == pytest.approx(scale)


@pytest.mark.slow
def test_the_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, explained = run(monkeypatch, tmp_path / "run")
    assert explained["network"] >= 0.80
    assert explained["network"] > explained["hourly"] + 0.2
    assert [(each.check, each.status) for each in read_jsonl(folder / "findings.jsonl")] == [("baseline", "pass")]
