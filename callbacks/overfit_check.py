"""Before a long run: can the network learn a few weeks by heart? If not, why?"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as lightning
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn

from heartnet.diagnostics import overfit_verdicts as verdicts
from heartnet.diagnostics.contract_batches import parts_of
from heartnet.diagnostics.fixed import first_loader
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.label_changes import histories
from heartnet.diagnostics.overfit import Fit, Normalisation, Scores, Setting, learn
from heartnet.diagnostics.overfit_causes import cause_of
from heartnet.diagnostics.overfit_simple import Simple, features_of, simple_models, targets_of
from heartnet.diagnostics.overfit_weeks import FewWeeks, few_weeks, shortened
from heartnet.errors import HeartnetError, StoppedError, did_you_mean
from heartnet.findings import Finding, publish

_SHUFFLES = 3


class OverfitCheck(lightning.Callback):
    """Before the first step, trains a copy of the model to learn a few weeks by heart, which any network should.

    The copy starts from the model's weights, with its own training step and optimiser. Off are dropout, weight decay,
    the schedule (the rate stays at its peak) and augmentation; random numbers are the same at each step. It has to come
    to an AUROC of 0.99 for each condition or class, or 90 % of the variance of a value, in `steps` steps.

    If it does not, short experiments from the same start find out why: learning rate (other ones work), capacity (fewer
    weeks work), input (weeks are all the same, or do not reach the scores), labels (the same week with other labels),
    architecture (an activation before the loss, layers without a gradient or an optimiser, not even few weeks work),
    loss (an output without a gradient). The finding is `cause/…`. What is still being learned when steps or seconds end
    is a warning, not a failure.

    Passing means little where the task is easy: a logistic regression on simple features of more weeks, scored on weeks
    left out, says where. Where it sees nothing on weeks enough to see something, and the network learns shuffled labels
    as fast as the real ones, labels may be unrelated to the inputs: a warning, since effects may only be weak.

    Flipped labels are learned by heart too. What shows them are people with several weeks: `labels/changes` warns where
    a label changes from week to week as if at random (`heartnet.diagnostics.label_changes`; some 100 people with two
    weeks or 40 with four are needed to see 30 % of flips). Where people have one week, or all weeks of a person are
    flipped, nothing shows them. The messages name the weeks learned last: in a simulated task with 30 % of labels
    flipped, of 32 weeks the three learned last were flipped ones in 8 of 8 seeds, and as many as were flipped held 73 %
    (53 % by chance); of 12 weeks, 62 % (54 %).

    The model, its optimiser, all random streams and the loaders' samplers stay untouched. A run that is resumed is not
    checked, nor is a `fast_dev_run`. What it cannot see: regularisation written out by hand in a training step.

    Logs, over the steps of the copy:
        `overfit_check/loss`: of the training step, mean over the few weeks.
        `overfit_check/auroc/{condition}`: on the few weeks; `overfit_check/r2/{target}` for values.
        `findings`: the table of verdicts (text).

    Args:
        share: of the training weeks to learn by heart.
        least, most: bounds of how many they are; whole batches, where a data set gives no single weeks.
        readings: of each week, at most, the first ones, where batches are mappings with `lengths`. On whole weeks the
            full DeepHeart, whose scores are a mean over up to 4,096 steps, stayed at the base rates for 72 steps in
            four minutes, at a rate of 5e-3. What goes wrong on long weeks only, the check does not see.
        steps: of the copy's optimiser, at most; experiments take half as many each.
        seconds: for all trainings together, after which the check says that it could not tell. The full DeepHeart on
            simulated weeks learned 12 of them in 134 steps, which took half a minute on one core of a busy machine.
        normalisation: `batch`: layers normalise by the batch, as in training; `off`: by the statistics they start with.
        among: weeks that are read to choose from, and for the logistic regression.
        stop_on_fail: end the run before it trains if a finding is a failure.
        scores: `(module, batch)` → scores and targets `[sample, output]`, NaN for unknown targets; needed only where a
            training step calls no loss function of `torch.nn.functional`, heartnet's own modules apart.

    Raises:
        HeartnetError: an argument that cannot work.
        StoppedError: before training, with `stop_on_fail`, for a failure.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "AUROC on a few weeks, learned by heart": [r"overfit_check/auroc/"],
        "share of variance on a few weeks, learned by heart": [r"overfit_check/r2/"],
        "loss on a few weeks": [r"overfit_check/loss$"],
    }

    def __init__(
        self,
        share: float = 0.05,
        least: int = 12,
        most: int = 32,
        readings: int = 128,
        steps: int = 400,
        seconds: float = 300.0,
        normalisation: Normalisation = "batch",
        among: int = 256,
        stop_on_fail: bool = False,
        scores: Scores | None = None,
    ) -> None:
        for name, value, low in (
            ("least", least, 2),
            ("most", most, least),
            ("readings", readings, 2),
            ("steps", steps, 4),
            ("among", among, 2),
        ):
            if value < low:
                raise HeartnetError(f"callbacks.overfit_check.{name}={value}: must be at least {low}")
        if not 0 <= share <= 1:
            raise HeartnetError(f"callbacks.overfit_check.share={share}: must be from 0 to 1")
        if not seconds > 0:
            raise HeartnetError(f"callbacks.overfit_check.seconds={seconds}: must be above 0")
        if normalisation not in ("batch", "off"):
            raise HeartnetError(
                f"callbacks.overfit_check.normalisation={normalisation}: must be batch or off."
                f"{did_you_mean(str(normalisation), ('batch', 'off'))}"
            )
        self.share, self.least, self.most, self.readings = share, least, most, readings
        self.steps, self.seconds = steps, seconds
        self.normalisation, self.among, self.stop_on_fail, self.scores = normalisation, among, stop_on_fail, scores

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.global_step > 0 or getattr(trainer, "fast_dev_run", False):
            return
        found = self._check(trainer, pl_module) if trainer.is_global_zero else []
        publish(found, trainer)
        failed = [f"{each.where}: {each.message}" for each in found if each.status == "fail"]
        causes = [line for line in failed if line.startswith("cause/")]
        message = trainer.strategy.broadcast("; ".join(causes or failed))
        if self.stop_on_fail and message:
            raise StoppedError(f"overfit_check ended the run before training (stop_on_fail=true). {message}")

    def _check(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> list[Finding]:
        try:
            with rng_untouched(), _progress(self.steps) as told:
                return self._look(trainer, module, told)
        except Exception as error:  # a copy runs whatever a foreign module does, and its own training shall go on
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return [
                Finding(verdicts.CHECK, "warn", "copy", None, None, "", f"could not train a copy of the model: {what}")
            ]

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule, told: Any) -> list[Finding]:
        weeks = few_weeks(
            first_loader(trainer.train_dataloader), self.share, self.least, self.most, self.among,
            lambda batch: trainer.strategy.batch_to_device(shortened(batch, self.readings), module.device),
        )  # fmt: skip
        setting = self._setting(trainer, module, weeks, told)
        fit = learn(setting, self.steps)
        names = verdicts.names_of(_outputs_of(module), fit)
        _log(trainer, fit, names, len(weeks.batches))
        found, certain = list[Finding](), True
        if not fit.reached and fit.ended != "seconds" and fit.fits:
            cause = cause_of(setting, fit, self.steps, names)
            certain = cause.certain
            found.append(verdicts.why(cause, fit, weeks.names, _settings(module)))
        elif fit.reached:
            found += verdicts.in_spite(fit)
        long = any(shortened(batch, self.readings) is not batch for batch in weeks.seen)
        found += verdicts.learned(
            fit, names, weeks.names, self.seconds, self.normalisation, certain=certain,
            readings=self.readings if long else None,
        )  # fmt: skip
        return found + self._judge_task(trainer, setting, fit, weeks, names)

    def _judge_task(
        self, trainer: lightning.Trainer, setting: Setting, fit: Fit, weeks: FewWeeks, names: Sequence[str]
    ) -> list[Finding]:
        """Say what learning these weeks by heart means, by simple models on more of them."""
        simple = _simple(trainer, weeks)
        found = verdicts.easy(simple, names)
        if fit.reached and fit.last is not None and verdicts.doubtful(simple) and self.scores is None:
            shuffled = [learn(setting, fit.steps, shuffle=seed) for seed in range(_SHUFFLES)]
            found += verdicts.unrelated(fit, shuffled, simple)
        seen = sum(parts_of(batch).weeks for batch in weeks.seen)
        whole = weeks.total is not None and weeks.total <= seen
        return found + verdicts.flipped(histories(getattr(trainer, "datamodule", None), weeks.seen, whole=whole), names)

    def _setting(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, weeks: FewWeeks, told: Any
    ) -> Setting:
        quiet = copy.copy(trainer)
        quiet.loggers = [DummyLogger() for _ in trainer.loggers]
        plugin = trainer.precision_plugin
        # With a scaler for 16-bit numbers, the copy trains in the type of its weights.
        context = nullcontext if getattr(plugin, "scaler", None) is not None else plugin.train_step_context
        by_hand = not hasattr(type(module), "natural") or getattr(module, "kind", None) != "synthetic"
        return Setting(
            module, weeks.batches, self.normalisation,
            self.scores if self.scores is not None or by_hand else _natural_scores,
            context, quiet, _clip(trainer), time.monotonic() + self.seconds, told,
        )  # fmt: skip


def _natural_scores(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Scores of heartnet's synthetic targets, whose squared error is written out."""
    return module.natural(module(batch).score.float()), batch["targets"]


def _simple(trainer: lightning.Trainer, weeks: FewWeeks) -> list[Simple | None]:
    features, told = features_of(weeks.seen), targets_of(weeks.seen)
    if features is None or told is None or len(features) != len(told[0]):
        return []
    return simple_models(features, told[0], _people(trainer, weeks))


def _people(trainer: lightning.Trainer, weeks: FewWeeks) -> list[str] | None:
    """Return whose each week is, for heartnet's own data; None for other data."""
    held = getattr(getattr(getattr(trainer, "datamodule", None), "weeks", None), "table", None)
    index = [parts_of(batch).index for batch in weeks.seen]
    if held is None or any(each is None for each in index):
        return None
    rows = np.concatenate([each.cpu().numpy() for each in index if each is not None])
    people: list[str] = held["user_id"].to_numpy()[rows].astype(str).tolist()
    return people


def _clip(trainer: lightning.Trainer) -> Any:
    value, algorithm = trainer.gradient_clip_val, str(trainer.gradient_clip_algorithm or "norm")
    if not value:
        return None
    if algorithm.endswith("value"):
        return lambda parameters: nn.utils.clip_grad_value_(parameters, float(value))
    return lambda parameters: nn.utils.clip_grad_norm_(parameters, float(value))


def _log(trainer: lightning.Trainer, fit: Fit, names: Sequence[str], batches: int) -> None:
    score = "r2" if fit.kind == "values" else "auroc"
    for number, loss in enumerate(fit.losses):
        numbers = {"overfit_check/loss": loss}
        if number < len(fit.fits):
            pairs = zip(names, fit.fits[number], strict=True)
            numbers |= {f"overfit_check/{score}/{name}": value for name, value in pairs if not np.isnan(value)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=number * batches)


def _outputs_of(module: nn.Module) -> tuple[str, ...]:
    names = getattr(module, "targets", ())
    return tuple(names) if isinstance(names, tuple | list) and all(isinstance(each, str) for each in names) else ()


def _settings(module: nn.Module) -> dict[str, object]:
    """Return what the run was made with, by Hydra override; empty for a module from elsewhere."""
    arguments = getattr(getattr(module, "network", None), "arguments", None)
    if not isinstance(arguments, Mapping) or not arguments:
        return {}
    rate = {"module.learning_rate": getattr(module, "learning_rate", None)}
    return {f"model.{name}": value for name, value in arguments.items()} | rate


@contextmanager
def _progress(steps: int) -> Iterator[Any]:
    """Show the steps of the copy, if somebody watches."""
    import sys

    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("overfit_check: learning a few weeks by heart", total=steps)
        yield lambda: bar.update(task, advance=1)
