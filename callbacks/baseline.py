"""Simple models on the same split: is the network better than what one would trust without it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl
import pytorch_lightning as lightning

from heartnet.baselines import FEATURES, baseline_scores
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.metrics import SCORES
from heartnet.predictions import predictions_frame, score_table


class Baseline(lightning.Callback):
    """After the test, fits logistic (synthetic targets: ridge) regressions on the training split and scores the test.

    Writes `predictions_baseline.parquet` into the run's folder, from which the table at the end is made.

    Logs:
        `baseline/{features}/{score}/{target}`: `score` is `auroc` and `average_precision` (conditions), or `mae` (in
        the target's unit) and `r2` (synthetic targets).

    Args:
        features: what the simple models see: `metadata` (age, sex, BMI), `statistics` (eleven of the readings),
            `hourly` (mean and spread over the week of the hourly features).
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {}  # single numbers, which stand beside the network's test scores

    def __init__(self, features: Sequence[str] = ("metadata", "statistics")) -> None:
        for name in features:
            if name not in FEATURES:
                raise HeartnetError(
                    f"callbacks.baseline.features: no features {name!r}; there are {', '.join(FEATURES)}."
                    f"{did_you_mean(name, FEATURES)}"
                )
        self.features = tuple(features)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        data = _data_of(trainer)
        rows = data.rows["test"]
        scored = {name: baseline_scores(data, name, rows) for name in self.features}
        frames = [predictions_frame(data, rows, found, name) for name, found in scored.items() if found is not None]
        if not frames or not trainer.is_global_zero:
            return
        predictions = pl.concat(frames)
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        predictions.write_parquet(folder / "predictions_baseline.parquet")
        names = SCORES[data.task.kind]
        for row in score_table(predictions, data.task.kind).iter_rows(named=True):
            found_scores = {f"baseline/{row['model']}/{n}/{row['target']}": row[n] for n in names if row[n] is not None}
            pl_module.log_dict(found_scores, rank_zero_only=True)


def _data_of(trainer: lightning.Trainer) -> WeeksDataModule:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, WeeksDataModule):
        raise HeartnetError("baseline needs a heartnet data module (it fits on weeks); this trainer has none")
    return data
