"""Simple models on the same split: is the network better than what one would trust without it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor

from heartnet.baselines import BASELINES, baseline_scores
from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.baseline_verdicts import CHECK, About, condition_findings
from heartnet.diagnostics.comparison import Unit, compare, logits_of
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.learnability import target_findings
from heartnet.diagnostics.linear_share import linear_share
from heartnet.diagnostics.seen_weeks import SeenWeeks
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.findings import Finding, publish, run_folder
from heartnet.metrics import SCORES
from heartnet.module import HeartnetModule
from heartnet.on_predictions import data_of
from heartnet.predictions import NETWORK, ceiling_predictions, predictions_frame, score_table
from heartnet.synthetic import TARGETS

Scores = Callable[[Any, Any], Tensor]

_HOW = (
    "let test_step return {'scores': [batch, target]}, or say how: "
    "Baseline(scores=lambda module, batch: module(batch['inputs']).sigmoid())"
)


class Baseline(lightning.Callback):
    """After the test, fits simple models on the training split, scores the test with them, and says what it means.

    For conditions, by the difference of AUROC with its 95 % interval from resampling people (the same people for both
    models): worse than a logistic regression, the network is broken; no better, it has no value beyond the features;
    better, by how much; or the interval is too wide to tell. It also names scores that hardly differ between weeks, a
    network that is no more than a linear model, a lean on age, sex and BMI, and inputs that tell nothing of the label.
    On simulated weeks the ceiling stands beside it. For synthetic targets it is a gate: whether the architecture can
    learn what is known to be in the week, by the share of variance explained.

    In a cross-validation, after the last fold, the tests of all folds are compared again (`heartnet.pooled`), within
    folds: of one fold's few people little can be told.

    With data of one person (`data.split_by=week`) weeks are resampled, in place of people.

    Writes `predictions_baseline.parquet` into the run's folder, from which the table at the end is made. Nothing is
    changed in the network or in the random streams.

    A module that is not heartnet's needs heartnet's data module, on whose weeks the simple models are fitted, and
    scores: its `test_step` returns them, `[batch]` or `[batch, target]`, or a dict with `scores`; or the argument
    `scores` makes them. For conditions any monotone score serves; for synthetic targets they are in the target's unit.

    Logs:
        `baseline/{features}/{score}/{target}`: `score` is `auroc` and `average_precision` (conditions), or `mae` (in
        the target's unit) and `r2` (synthetic targets).
        `findings`: the table of verdicts (text).

    Args:
        features: the simple models, by what they see: `metadata` (age, sex, BMI), `statistics` (eleven of the
            readings), `hourly` (mean and spread over the week of the hourly features), in a logistic or ridge
            regression; `boosting` is gradient boosting on `metadata` and `hourly`.
        margin: AUROC below which a difference is of no use.
        explained: share of a synthetic target's variance that is to be explained.
        draws: resamples.
        scores: called with the module and a batch, returns the scores of its weeks, `[batch, target]`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    check: ClassVar[str] = CHECK  # by which the look at a whole cross-validation finds what was asked for
    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {}  # single numbers, which stand beside the network's test scores

    def __init__(
        self,
        features: Sequence[str] = ("metadata", "hourly", "boosting"),
        margin: float = 0.02,
        explained: float = 0.8,
        draws: int = 2000,
        scores: Scores | None = None,
    ) -> None:
        for name in features:
            if name not in BASELINES:
                raise HeartnetError(
                    f"callbacks.baseline.features: no features {name!r}; there are {', '.join(BASELINES)}."
                    f"{did_you_mean(name, BASELINES)}"
                )
        for option, value, low, high in (("margin", margin, 0, 0.5), ("explained", explained, 0, 1)):
            if not low <= value <= high:
                raise HeartnetError(f"callbacks.baseline.{option}={value}: must be from {low} to {high}")
        if draws < 100:
            raise HeartnetError(f"callbacks.baseline.draws={draws}: must be at least 100, for an interval of 95 %")
        self.features = tuple(dict.fromkeys(features))
        self.margin, self.explained, self.draws, self.scores = margin, explained, draws, scores
        self._seen = SeenWeeks()
        self._failed = ""
        self._simple: pl.DataFrame | None = None
        self._without: list[str] = []

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        self._seen, self._failed, self._simple, self._without = SeenWeeks(), "", None, []

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if data_of(trainer) is not None and not self._failed:
            self._look(pl_module, outputs, batch)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        data = data_of(trainer)
        if data is not None and self._seen.rows and not self._failed:
            self._fit(data)
            pl_module.log_dict(_logged(self._simple, data.task.kind), rank_zero_only=True)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        folder = run_folder(trainer)
        if self._simple is not None and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            folder.mkdir(parents=True, exist_ok=True)
            self._simple.write_parquet(folder / "predictions_baseline.parquet")
        with rng_untouched():
            found = self._findings(trainer, pl_module)
        publish(found, trainer)

    def _look(self, module: lightning.LightningModule, outputs: Any, batch: Any) -> None:
        try:
            if self.scores is not None:
                with rng_untouched(), torch.no_grad():
                    outputs = self.scores(module, batch)
            self._seen.add(batch, outputs)
        except Exception as error:  # somebody else's module; the run goes on
            self._failed = str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {error}"

    def _fit(self, data: WeeksDataModule) -> None:
        rows = self._seen.table()[0]
        with rng_untouched():
            scored = {name: baseline_scores(data, name, rows) for name in self.features}
        frames = [predictions_frame(data, rows, found, name) for name, found in scored.items() if found is not None]
        self._without = [name for name, found in scored.items() if found is None]
        self._simple = pl.concat(frames) if frames else None

    def _findings(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> list[Finding]:
        data, step = data_of(trainer), trainer.global_step
        if data is None:
            return [_cannot("needs heartnet's data module, on whose weeks it fits; this trainer has none", step)]
        if self._failed:
            return [_cannot(f"cannot read the test's batches: {self._failed}; {_HOW}", step)]
        rows, means, scores = self._seen.table()
        if len(rows) == 0:
            return [_cannot("no week was tested", step)]
        if self.scores is None and isinstance(module, HeartnetModule):
            scores = module.test_scores
        if scores is None or scores.shape[1] != len(data.targets):
            found = "none" if scores is None else f"{scores.shape[1]} a week for {len(data.targets)} targets"
            return [_cannot(f"needs the scores of {type(module).__name__}, and found {found}; {_HOW}", step)]
        frames = [self._simple, predictions_frame(data, rows, scores, NETWORK), ceiling_predictions(data, rows)]
        predictions = pl.concat([each for each in frames if each is not None])
        by: Unit = "week" if data.split_by == "week" else "user"
        compared = compare(predictions, data.task.kind, by=by, draws=self.draws)
        linear = {name: linear_share(logits_of(scores[:, i]), means) for i, name in enumerate(data.targets)}
        about = replace(_about(trainer, module), linear=linear, folds=data.folds is not None)
        skipped = [_skipped(name, step) for name in self._without]
        if data.task.kind == "conditions":
            return [*skipped, *condition_findings(compared, about, self.margin)]
        units = {name: TARGETS[name].unit for name in data.targets}
        guesses = _guesses(data, rows)
        return [*skipped, *target_findings(compared, about, units=units, guesses=guesses, limit=self.explained)]


def _logged(predictions: pl.DataFrame | None, kind: str) -> dict[str, float]:
    """Return the simple models' scores by tag."""
    table = [] if predictions is None else score_table(predictions, kind).to_dicts()
    return {
        f"baseline/{row['model']}/{name}/{row['target']}": row[name]
        for row in table
        for name in SCORES[kind]
        if row[name] is not None
    }


def _about(trainer: lightning.Trainer, module: lightning.LightningModule) -> About:
    """Return what is known of a network of ours; of another one, nothing."""
    arguments = getattr(getattr(module, "network", None), "arguments", None)
    if not isinstance(arguments, Mapping):
        return About(step=trainer.global_step)
    settings = {f"model.{name}": value for name, value in arguments.items()}
    settings |= {"module.learning_rate": getattr(module, "learning_rate", None)}
    settings |= {"trainer.max_epochs": trainer.max_epochs}
    return About(arguments.get("metadata", "none") != "none", {}, settings, trainer.global_step)


def _guesses(data: WeeksDataModule, rows: npt.NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Return mean absolute and root mean square error of predicting each target's mean over the training split."""
    error = data.values[rows] - np.nanmean(data.values[data.rows["train"]], axis=0)
    both = zip(np.nanmean(np.abs(error), axis=0), np.sqrt(np.nanmean(error**2, axis=0)), strict=True)
    return {name: (float(mean), float(square)) for name, (mean, square) in zip(data.targets, both, strict=True)}


def _cannot(message: str, step: int) -> Finding:
    return Finding(CHECK, "warn", "network", None, None, "", f"The baseline {message}.", (), step)


def _skipped(name: str, step: int) -> Finding:
    message = f"no baseline on {name}, of which the training split knows nothing"
    return Finding(CHECK, "unknown", name, None, None, "", message, (), step)
