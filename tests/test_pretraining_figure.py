"""What a sweep over labels comes to: means, spreads, and gains over no pretraining with the same seed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from heartnet.findings import FILE, Finding, append_jsonl

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHARES, OBJECTIVES, SEEDS = (0.1, 1.0), ("none", "heuristic", "autoencoder"), (0, 1, 2)


@pytest.fixture
def drawing() -> Any:
    spec = importlib.util.spec_from_file_location("draw_label_efficiency", DOCS / "draw_label_efficiency.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweep(folder: Path) -> dict[tuple[int, float, str], float]:
    """Write what the runs of a sweep leave behind, of two folds each; return their AUROC."""
    rng = np.random.default_rng(0)
    found: dict[tuple[int, float, str], float] = {}
    for seed in SEEDS:
        for share in SHARES:
            for objective in OBJECTIVES:
                run = folder / str(len(found))
                data = {"labelled_share": share}
                callbacks = {"synthetic_pretraining": {"objective": objective}}
                run.mkdir(parents=True)
                config = {"seed": seed, "data": data, "callbacks": callbacks}
                (run / "config.yaml").write_text(yaml.safe_dump(config))
                values, scores = rng.integers(0, 2, 40), rng.random(40)
                for fold in range(2):
                    people = Finding("synthetic_pretraining", "pass", "weeks", 20 * share + fold, None, "people", "")
                    append_jsonl([people], run / f"fold-{fold}" / FILE)
                    part = slice(20 * fold, 20 * fold + 20)
                    pl.DataFrame(
                        {
                            "model": "network", "user_id": [str(i) for i in range(20)], "start": 0,
                            "week": range(20), "target": "diabetes",
                            "value": values[part].astype(np.float32), "score": scores[part].astype(np.float32),
                        }
                    ).write_parquet(run / f"fold-{fold}" / "predictions.parquet")  # fmt: skip
                found[seed, share, objective] = float(roc_auc_score(values, scores.astype(np.float32)))
    (folder / "99").mkdir()
    (folder / "99" / "config.yaml").write_text("{}")
    return found


def test_means_spreads_and_gains(drawing: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = sweep(tmp_path / "sweep")
    table = drawing.summary(drawing.runs_of(tmp_path / "sweep"))
    assert "99: did not end" in capsys.readouterr().err
    assert len(table) == len(SHARES) * len(OBJECTIVES)
    for row in table.iter_rows(named=True):
        share, objective = row["share"], row["objective"]
        scores = [expected[seed, share, objective] for seed in SEEDS]
        gains = [expected[seed, share, objective] - expected[seed, share, "none"] for seed in SEEDS]
        assert row["people"] == pytest.approx(20 * share + 0.5)
        assert row["auroc"] == pytest.approx(np.mean(scores))
        assert row["auroc_sd"] == pytest.approx(np.std(scores, ddof=1))
        assert row["gain"] == pytest.approx(np.mean(gains))
        assert row["gain_sd"] == pytest.approx(np.std(gains, ddof=1))


def test_the_picture_is_small_and_says_what_it_shows(
    drawing: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = sweep(tmp_path / "sweep")
    drawing.draw(tmp_path / "sweep", tmp_path / "picture.png")
    assert 1_000 < (tmp_path / "picture.png").stat().st_size < 60_000
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| labelled people | no pretraining | synthetic targets | autoencoder |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 2 (10%)", "| 20 (100%)"]
    mean = np.mean([expected[seed, 0.1, "none"] for seed in SEEDS])
    assert f"| {mean:.3f} ± " in lines[2]
    with pytest.raises(SystemExit, match="no run to draw"):
        drawing.draw(tmp_path, tmp_path / "picture.png")
