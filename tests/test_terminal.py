"""What a run prints at its end: no number is cut off, no mean is of different units, and other runs stay out of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from sklearn.metrics import mean_absolute_error, r2_score

from heartnet import terminal
from heartnet.findings import Finding, append_jsonl
from heartnet.folders import newest_checkpoint
from heartnet.predictions import NETWORK, PREDICTED, prediction_files, read_predictions
from heartnet.report.scores import scores_of

MODELS = (NETWORK, "metadata", "hourly", "boosting")
TARGETS = ("day_std_minus_night_std", "total_steps")


@pytest.mark.parametrize(("width", "second"), [(80, False), (140, True)])
def test_the_second_score_goes_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, second: bool
) -> None:
    rng = np.random.default_rng(0)
    value = {TARGETS[0]: rng.normal(8, 2, 20), TARGETS[1]: rng.normal(60_000, 9_000, 20)}
    score = {(model, name): value[name] + rng.normal(0, value[name].std(), 20) for model in MODELS for name in TARGETS}
    frames = [
        pl.DataFrame(
            {
                "model": model, "user_id": [f"user-{i}" for i in range(20)], "start": None, "week": range(20),
                "target": name, "value": value[name], "score": each,
            }
        ).select(pl.col(key).cast(dtype) for key, dtype in PREDICTED.items())
        for (model, name), each in score.items()
    ]  # fmt: skip
    pl.concat(frames).write_parquet(tmp_path / "predictions.parquet")
    data: Any = SimpleNamespace(
        targets=TARGETS, task=SimpleNamespace(kind="synthetic"), weeks=SimpleNamespace(simulated=False)
    )
    monkeypatch.setattr(terminal, "_console", Console(width=width, highlight=False))
    terminal.print_scores(tmp_path, data)
    said = capsys.readouterr().out
    assert "…" not in said
    assert ("MAE (R²)" in said) == second
    for (model, name), each in score.items():
        del model
        truth, told = (array.astype(np.float32).astype(np.float64) for array in (value[name], each))
        error, explained = mean_absolute_error(truth, told), r2_score(truth, told)
        assert (f"{error:.3f} ({explained:.2f})" if second else f"{error:.3f}") in said
    assert "mean " not in said, "of beats and of steps"
    shown = scores_of(read_predictions(tmp_path), simulated=False)
    assert shown is not None
    assert [row[0] for row in shown.tables[0].rows] == list(TARGETS), "nor on the page"


def test_a_run_in_the_folder_of_a_run_is_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where `hydra.run.dir` names the folder that others lie in; folds are its own."""
    for place in (".", "fold-0", "fold-10", "fold-2", "2026-11-22/12-00-00"):
        (tmp_path / place / "checkpoints").mkdir(parents=True)
        found = Finding(f"check-{place[-2:]}", "warn", "here", 2.0, 1.0, "", "It forgets.")
        append_jsonl([found], tmp_path / place / "findings.jsonl")
        pl.DataFrame({"model": [place]}).write_parquet(tmp_path / place / f"predictions_{len(place)}.parquet")
    (tmp_path / "fold-2/checkpoints/last.ckpt").touch()
    (tmp_path / "2026-11-22/12-00-00/checkpoints/last.ckpt").touch()
    files = [file.parent.name for file in prediction_files(tmp_path)]
    assert sorted(files) == sorted([tmp_path.name, "fold-0", "fold-2", "fold-10"])
    assert newest_checkpoint(tmp_path) == tmp_path / "fold-2/checkpoints/last.ckpt"
    assert terminal.print_findings(tmp_path) == "warn"
    said = capsys.readouterr().out
    assert all(f"check-{name}" in said for name in (".", "-0", "-2", "10"))
    assert "check-00" not in said
