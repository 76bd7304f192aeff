"""The verdict of a cross-validation is that of all folds together, and stands in place of those of its folds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from faults import weeks
from pytorch_lightning.callbacks import Timer

from callbacks.baseline import Baseline
from heartnet.datamodule import WeeksDataModule
from heartnet.findings import Finding, of_all_parts
from heartnet.pooled import _asked, pooled_findings
from heartnet.predictions import FOLD, NETWORK
from heartnet.tasks import Conditions


def predictions(seed: int = 0, people: int = 120) -> pl.DataFrame:
    """Two conditions in three folds of 40 people: too few with it in a fold, enough in all."""
    rng = np.random.default_rng(seed)
    frames = []
    for target in ("sleep_apnea", "diabetes"):
        label = rng.random(people) < 0.2
        label[:24] = np.tile([True, False], 12)
        for model, weight in ((NETWORK, 3.0), ("hourly", 0.5)):
            score = 1 / (1 + np.exp(-(weight * label + rng.normal(size=people))))
            frames.append(
                pl.DataFrame(
                    {
                        "model": model,
                        "user_id": [f"user-{i}" for i in range(people)],
                        "week": np.arange(people),
                        "target": target,
                        "value": label.astype(np.float32),
                        "score": score.astype(np.float32),
                    }
                )
            )
    return pl.concat(frames)


def data() -> WeeksDataModule:
    return WeeksDataModule(weeks(0), Conditions(), val_share=0.2, test_share=0.2)


def test_all_folds_together_tell_what_one_cannot() -> None:
    every = predictions()
    whole = pooled_findings(every, data(), step=7)
    assert {(each.check, each.where, each.status, each.step) for each in whole} == {
        ("baseline", "sleep_apnea", "pass", 7),
        ("baseline", "diabetes", "pass", 7),
    }
    fold = every.filter(pl.col("week") % 6 == 0)
    assert all("too few" in each.message for each in pooled_findings(fold, data()))


def test_what_the_callback_was_asked_for_holds_for_all_folds() -> None:
    asked = _asked(SimpleNamespace(callbacks=[Timer(), Baseline(margin=0.4, explained=0.5, draws=150)]))  # type: ignore[arg-type]
    assert asked == {"margin": 0.4, "explained": 0.5, "draws": 150}
    assert _asked(SimpleNamespace(callbacks=[Timer()])) == {}  # type: ignore[arg-type]
    every = predictions().with_columns(pl.format("fold-{}", pl.col("week") % 3).alias(FOLD))

    def told(**options: Any) -> set[str]:
        return {each.message for each in pooled_findings(every, data(), **options)}

    noise = np.random.default_rng(1).uniform(-0.4, 0.4, 240)
    own, hourly = (every.filter(pl.col("model") == model) for model in (NETWORK, "hourly"))
    near = (hourly["score"].to_numpy() + noise).clip(0, 1).astype(np.float32)
    close = pl.concat([own.with_columns(pl.Series("score", near)), hourly])
    assert told(draws=100) != told(draws=2000)
    assert any("No better than" in each.message for each in pooled_findings(close, data(), margin=0.49))
    assert not any("No better than" in each.message for each in pooled_findings(close, data(), margin=0.0))


def test_without_simple_models_there_is_no_verdict() -> None:
    assert pooled_findings(predictions().filter(pl.col("model") == NETWORK), data()) == []


def test_folds_do_not_repeat_what_was_judged_over_all() -> None:
    def finding(check: str, where: str) -> Finding:
        return Finding(check, "warn", where, 1.0, 0.5, "", "")

    folds = {f"fold-{i}": [finding("baseline", "diabetes"), finding("amnesia", "diabetes")] for i in range(2)}
    found = of_all_parts({"": [finding("baseline", "diabetes")], **folds})
    assert [(each.check, each.where) for each in found] == [
        ("baseline", "diabetes"),
        ("amnesia", "fold-0: diabetes"),
        ("amnesia", "fold-1: diabetes"),
    ]
    assert len(of_all_parts(folds)) == 4
