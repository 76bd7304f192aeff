"""The table of test scores on the terminal: no number is cut off, and no mean is of numbers with different units."""

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
from heartnet.predictions import NETWORK, PREDICTED

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
