"""Which weeks does it get most wrong and most right, what do they look like, and what did it look at in them?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch

from heartnet.diagnostics.adapt import first_line, guess_probe, own_probe
from heartnet.diagnostics.attribution import Attribution, attribution
from heartnet.diagnostics.found_again import weeks_again
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.wins_and_losses import FILES, ChosenWeeks, wins_and_losses
from heartnet.errors import HeartnetError
from heartnet.figure_week import week_figure
from heartnet.findings import Finding, run_folder
from heartnet.loggers import log_picture, log_text, takes_pictures
from heartnet.model.pieces import each
from heartnet.module import HeartnetModule
from heartnet.on_predictions import OnPredictions, PredictedSplit, Read
from heartnet.predictions import FOLD
from heartnet.week_trace import week_trace
from heartnet.what_applies import only_conditions
from heartnet.wins_and_losses_words import AGED, CHECK, finding_of, markdown_of, not_drawn, tag_of, words_of

ProbeOf = Callable[[lightning.LightningModule, Any], Probe]

_AGREE = 0.02  # of scores: bfloat16 and padding change less, another week mostly more


class WinsAndLosses(OnPredictions):
    """Shows the worst false positives and false negatives, and the best true positives and negatives, of a condition.

    After a test, and after the last validation of a training. Weeks are sorted by how far the score is from the label
    (`heartnet.diagnostics.wins_and_losses`). Each chosen week is drawn (`heartnet.figure_week`): heart rate, steps,
    wear, sleep and workouts, and under the trace where the score came from, that is the logit at each step and
    gradient × input of each channel (`heartnet.diagnostics.attribution`). Synthetic targets have neither wins nor
    losses. The network, its training and the random streams are left as they are.

    Works with any LightningModule of which `Predictions` can write predictions. A week of other data than heartnet's is
    drawn as the network sees it, if its loader gives the same batches again and the network can be called on them; if
    not, the table is all there is, and a finding says why. `probe=` says how to call it, as for `Amnesia`.

    In a cross-validation the weeks are chosen from the tests of all folds, after the last (`heartnet.pooled`), and each
    is drawn with the network of its fold, which scored it. Networks of folds need not score on one level: each week is
    held against the level of its own.

    Logs, for each split, `val` or `test`, and condition:
        `wins_and_losses/{split}/{condition}/{kind}/{rank}`: the picture of a week; `kind` is `false_positive`,
        `false_negative`, `true_positive` or `true_negative`, and 1 is the worst, or the best.
        `wins_and_losses/{split}/{condition}`: the table (text).
        `findings`: the table of verdicts (text).

    Writes `wins_and_losses.csv` of the test and `val_wins_and_losses.csv` of the validation in the run's folder: the
    chosen weeks with all that is known of them. `heartnet report` pages through the pictures.

    Args:
        count: weeks of each kind.
        each: weeks of one person among them, so that one person does not fill the table.
        drawn: how many of each kind are drawn of a validation, for a picture takes as long as training on two weeks;
            of a test all are.
        every_n_epochs: look at the validation after each n-th epoch, and always after the last.
        read: the adapter for predictions on data that are not heartnet's (`heartnet.on_predictions`).
        probe: `probe(module, batch)` for a module that has no method `probe(batch) -> Probe`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    check: ClassVar[str] = CHECK
    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {}  # it logs no numbers

    def __init__(
        self,
        count: int = 3,
        each: int = 1,
        drawn: int = 1,
        every_n_epochs: int = 1000,
        read: Read | None = None,
        probe: ProbeOf | None = None,
    ) -> None:
        for name, value in {"count": count, "each": each, "drawn": drawn}.items():
            if type(value) is not int or value < 1:
                raise HeartnetError(f"callbacks.{CHECK}.{name}={value}: must be a whole number of at least 1")
        super().__init__(every_n_epochs=every_n_epochs, read=read)
        self.count, self.each, self.drawn, self.probe = count, each, drawn, probe

    def look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        step = predicted.step
        if predicted.kind != "conditions":
            return [only_conditions(CHECK, predicted.split, "synthetic targets have neither wins nor losses", step)]
        chosen = [
            wins_and_losses(predicted.file, target, count=self.count, each=self.each) for target in predicted.targets
        ]
        pl.concat([it.table for it in chosen]).write_csv(run_folder(trainer) / FILES[predicted.split])
        for it in chosen:
            log_text(trainer, f"{CHECK}/{predicted.split}/{it.target}", markdown_of(it))
        missing = self._draw(trainer, pl_module, predicted, chosen, step)
        found = [finding_of(it, predicted.split, simulated=predicted.simulated, step=step) for it in chosen]
        return [*([not_drawn(missing, predicted.split, step)] if missing else []), *found]

    def _draw(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        predicted: PredictedSplit,
        chosen: Sequence[ChosenWeeks],
        step: int,
    ) -> str:
        """Draw the chosen weeks, of a validation the first of each kind; return in words what could not be drawn."""
        if not takes_pictures(trainer):
            return ""
        data, most = predicted.data, self.drawn if predicted.split == "val" else self.count
        trained_on = trainer.global_step != step
        problems = [AGED] if trained_on else []
        try:
            for network, part, fold in predicted.networks(module):
                # Of networks of our own on a CPU, threads measure several weeks at a time; what another's does in a
                # thread, nobody knows.
                own = isinstance(network, HeartnetModule) and network.device.type == "cpu" and self.probe is None
                asked: list[tuple[ChosenWeeks, dict[str, Any]]] = []
                tasks: list[Callable[[], Attribution | str | None]] = []
                try:
                    for week, batch, row in _batches(trainer, part, chosen, fold, most):
                        probe = None if trained_on else self._probe(network, part, batch, problems)
                        for it, one in _of(chosen, week, most):
                            task = partial(_attribution, probe, row, part, one)
                            asked.append((it, one))
                            tasks.append(task if own else _done(task()))
                except Exception as error:  # a loader from elsewhere; what it gave before is drawn
                    problems.append(_said(error))
                for (it, one), found in zip(asked, each(tasks), strict=True):
                    if isinstance(found, str):
                        problems.append(found)
                        found = None
                    trace = None if data is None else week_trace(data.weeks, one["week"])
                    if trace is None and found is None:
                        continue
                    words = words_of(one, it, part.split, simulated=part.simulated, step=step)
                    hourly = data is not None and data.view == "hourly"
                    figure = week_figure(trace, found, words, threshold=_logit(it.threshold_of(one)), hourly=hourly)
                    log_picture(trainer, tag_of(part.split, it.target, one["kind"], one["rank"]), figure)
        except Exception as error:  # a week from elsewhere
            problems.append(_said(error))
        return problems[0] if problems else ""

    def _probe(
        self, module: lightning.LightningModule, predicted: PredictedSplit, batch: Any, problems: list[str]
    ) -> Probe | None:
        try:
            batch = module.transfer_batch_to_device(batch, module.device, 0)
            if self.probe is not None:
                return self.probe(module, batch)
            own = own_probe(module)
            return guess_probe(module, batch, predicted.targets) if own is None else own(batch)
        except Exception as error:  # a module from elsewhere
            problems.append(_said(error))
            return None


def _batches(
    trainer: lightning.Trainer, predicted: PredictedSplit, chosen: Sequence[ChosenWeeks], fold: str, most: int
) -> Iterator[tuple[int, Any, int]]:
    """Yield each week to be drawn once, of a fold if it has a name, a batch that holds it, and its row in it."""
    table = pl.concat([it.table for it in chosen]).filter(pl.col("rank") <= most)
    weeks = (table.filter(pl.col(FOLD) == fold) if fold else table)["week"].unique().sort().to_list()
    if predicted.data is not None:
        yield from ((week, predicted.data.batch(np.array([week])), 0) for week in weeks)
    else:
        loaders = trainer.val_dataloaders if predicted.split == "val" else trainer.test_dataloaders
        yield from weeks_again(loaders, weeks)


def _of(chosen: Sequence[ChosenWeeks], week: int, most: int) -> Iterator[tuple[ChosenWeeks, dict[str, Any]]]:
    """Yield what a week is to be drawn for."""
    for it in chosen:
        rows = it.table.filter((pl.col("week") == week) & (pl.col("rank") <= most))
        yield from ((it, row) for row in rows.iter_rows(named=True))


def _done(found: Attribution | str | None) -> Callable[[], Attribution | str | None]:
    return lambda: found


def _attribution(
    probe: Probe | None, row: int, predicted: PredictedSplit, one: dict[str, Any]
) -> Attribution | str | None:
    """Return where the score came from; or why it cannot be told, for example that another score was written."""
    if probe is None:
        return None
    try:
        names = probe.outputs if one["target"] in probe.outputs else predicted.targets
        found = attribution(probe, row, names.index(one["target"]), dtype=torch.float32)
    except Exception as error:  # a module from elsewhere
        return _said(error)
    probability = 1 / (1 + math.exp(-min(max(found.score, -50), 50)))
    if min(abs(probability - one["score"]), abs(found.score - one["score"])) <= _AGREE:
        return found
    return (
        f"the network says {probability:.3g} of week {one['week']} where {one['score']:.3g} was written: the loader "
        "gives its batches in another order each time, or the network is called in another way"
    )


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {first_line(error)}"


def _logit(share: float | None) -> float | None:
    return None if share is None or not 0 < share < 1 else math.log(share / (1 - share))
