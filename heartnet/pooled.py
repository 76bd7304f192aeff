"""The look at a whole cross-validation: the test weeks of all folds, of which one alone has too few people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
from pytorch_lightning.loggers import TensorBoardLogger

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.baseline_verdicts import CHECK as BASELINE
from heartnet.diagnostics.baseline_verdicts import About, condition_findings
from heartnet.diagnostics.comparison import Unit, compare
from heartnet.diagnostics.learnability import target_findings
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, publish
from heartnet.on_predictions import Fold, PredictedSplit, collected, those_on_predictions
from heartnet.prediction_file import ROWS_IN_MEMORY
from heartnet.predictions import CEILING, FILES, FOLD, NETWORK, read_predictions
from heartnet.synthetic import TARGETS
from heartnet.tested import FILE as TESTED
from heartnet.what_applies import settings_of


class CrossValidation:
    """Collects the tests of folds, and has them looked at together once all are there.

    One fold tests a few people, of whom little can be told. So nobody looks at the test of a fold alone: call `begin`
    with its trainer before it trains, `add` after its test, and `finish` after the last one. Then stand in the folder
    of the run: `predictions.parquet` of all folds, with the column `heartnet.predictions.FOLD`; findings; and event
    files with what the callbacks log and draw, under their usual tags. What was validated within a fold stays there.

    Each week is scored by the network of its fold, which had not seen its person. So intervals, which come from
    resampling people, hold for these networks on other people; what another training would give is not in them. Scores
    of different networks need not share a scale: what ranks weeks of all folds together pays for that, and where a fold
    has more positives its network has seen fewer, so that at chance such an AUROC lies below 0.5 (A. Airola and others,
    "An experimental comparison of cross-validation techniques for estimating the area under the ROC curve",
    Computational Statistics & Data Analysis 55, 2011). `heartnet.diagnostics.score_quality` gives the one within folds.

    Args:
        folder: of the run, which holds a folder for each fold.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._folds: list[Fold] = []

    def begin(self, trainer: lightning.Trainer) -> None:
        """Say to a fold's callbacks that its test is looked at with the others'."""
        if not self._files:  # of a run in this folder before, which perhaps had more folds
            for name in ("predictions*.parquet", "fold-*/predictions*.parquet", f"fold-*/{TESTED}"):
                for old in self.folder.glob(name):
                    old.unlink(missing_ok=True)
        for each in those_on_predictions(trainer):
            each.awaits_folds = True

    def add(
        self, place: Path, trainer: lightning.Trainer, module: lightning.LightningModule, data: WeeksDataModule
    ) -> None:
        """Keep what a fold has tested, in its folder `place`, and with what."""
        self._files[place.name] = place / FILES["test"]
        predicted = collected(trainer)
        if predicted is not None and predicted.split == "test":
            self._folds.append(Fold(place.name, module, predicted, tuple(those_on_predictions(trainer))))
        module.trainer = None  # else the states of all optimisers would stay in memory
        data.trainer = None

    def finish(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, data: WeeksDataModule
    ) -> list[Finding]:
        """Put the predictions together, let the callbacks look at them, and compare with simple models.

        What goes wrong is said in a finding, for the folds are there and worth keeping.

        Args:
            trainer: of the last fold; from now on it logs to the folder of the run.
            module: of the last fold.
            data: of the last fold.

        Returns:
            What came of the comparison, already published.
        """
        logger = TensorBoardLogger(str(self.folder), name="", version="", default_hp_metric=False)
        trainer.loggers = [logger]
        found: list[Finding] = []
        try:
            file = self._written()
            if len(self._folds) == len(self._files) and self._folds:
                self._look(trainer, module, file)
            predictions = read_predictions(self.folder)
            settings = settings_of(module, trainer)
            found = pooled_findings(predictions, data, trainer.global_step, settings, **_asked(trainer))
        except HeartnetError as error:
            message = f"The folds could not be looked at together: {error}."
            found = [Finding("cross_validation", "warn", "test", None, None, "", message, (), trainer.global_step)]
        publish(found, trainer)
        logger.finalize("finished")
        return found

    def _written(self) -> Path:
        """Write the network's predictions of all folds, of however many weeks, and return where they are."""
        file = self.folder / FILES["test"]
        partial = self.folder / f".{file.name}.partial"
        parts = [
            pl.scan_parquet(each, glob=False).with_columns(pl.lit(name).alias(FOLD))
            for name, each in self._files.items()
        ]
        try:
            pl.concat(parts).sink_parquet(partial, row_group_size=ROWS_IN_MEMORY, maintain_order=True)
            partial.replace(file)
        except (OSError, pl.exceptions.PolarsError) as error:
            partial.unlink(missing_ok=True)
            raise HeartnetError(f"cannot write {file}: {str(error).splitlines()[0]}") from error
        return file

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule, file: Path) -> None:
        last = self._folds[-1].predicted
        predicted = PredictedSplit(
            file, last.split, last.targets, last.kind, sum(each.predicted.weeks for each in self._folds), last.data,
            last.simulated, last.by, last.step, tuple(self._folds),
        )  # fmt: skip
        for fold in self._folds:
            fold.module.to(trainer.strategy.root_device)
        for each in those_on_predictions(trainer):
            each.look_at(trainer, module, predicted)
        for fold in self._folds:
            fold.module.cpu()


def pooled_findings(
    predictions: pl.DataFrame,
    data: WeeksDataModule,
    step: int = 0,
    settings: Mapping[str, object] | None = None,
    *,
    margin: float = 0.02,
    explained: float = 0.8,
    draws: int = 2000,
) -> list[Finding]:
    """Compare the network with the simple models over the test weeks of all folds; none without simple models.

    Conditions are compared within folds, as `heartnet compare` does, for the models of folds need not score on one
    scale (`heartnet.diagnostics.within_folds`). The intervals hold for these networks, one a fold, on other people;
    what another training would give is not in them.

    Args:
        predictions: of all folds, as `heartnet.predictions.read_predictions` gives them, with the column
            `heartnet.predictions.FOLD`.
        data: of any of the folds.
        step: optimiser steps that a network took.
        settings: how a network of ours was made, by Hydra override.
        margin: AUROC below which a difference is of no use.
        explained: share of a synthetic target's variance that is to be explained.
        draws: resamples of people.
    """
    if not set(predictions["model"].unique()) - {NETWORK, CEILING}:
        return []
    by: Unit = "week" if data.split_by == "week" else "user"
    settings = settings or {}
    sees = settings["model.metadata"] != "none" if "model.metadata" in settings else None
    about = About(sees, {}, settings, step, folds=True)
    compared = compare(predictions, data.task.kind, by=by, draws=draws)
    if data.task.kind == "conditions":
        return condition_findings(compared, about, margin)
    units = {name: TARGETS[name].unit for name in data.targets}
    return target_findings(compared, about, units=units, guesses={}, limit=explained)


def _asked(trainer: lightning.Trainer) -> dict[str, Any]:
    """Return what the callback `baseline` was asked for: that of the folds is asked for of all of them."""
    options = ("margin", "explained", "draws")
    for each in getattr(trainer, "callbacks", ()):
        if getattr(each, "check", None) == BASELINE:
            return {name: getattr(each, name) for name in options}
    return {}
