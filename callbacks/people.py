"""From weeks to people: one score a person, the best way to make it, and how many hours of wear a score needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from torch.nn.parameter import is_lazy

from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.people_scores import choice, people_scores
from heartnet.diagnostics.people_verdicts import CHECK, people_finding, people_markdown, wear_finding, wear_markdown
from heartnet.diagnostics.wear_reliability import wear_reliability
from heartnet.diagnostics.within_folds import on_one_level
from heartnet.errors import HeartnetError
from heartnet.figure_people import people_figure
from heartnet.findings import Finding
from heartnet.loggers import log_numbers, log_picture, log_text
from heartnet.on_predictions import OnPredictions, PredictedSplit, Read, collected
from heartnet.people import KEY, Way, chosen_ways, person_table
from heartnet.predictions import FOLD, NETWORK
from heartnet.what_applies import only_conditions

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class People(OnPredictions):
    """Makes one score of a person's weeks, in several ways, and chooses one on the people of the validation split.

    The ways are those of `heartnet.people.WAYS` (mean of logits, mean, maximum, noisy-or, weighted by wear) and one
    that is learned from mean, spread, maximum and number of a person's weeks; for comparing it, each person is scored
    by coefficients that other people gave (cross-fitting). The mean of the logits is kept unless another way has a
    lower Brier score beyond luck. After the test, the way that was chosen with the weights that are tested is judged on
    people who had no part in the choice.

    In a cross-validation the people of all folds are judged together, after the last (`heartnet.pooled`): each person's
    score is made in the way that their fold chose on its validation, or as the mean of the logits where it has none.
    Nothing is chosen on people of the test; the learned way stands beside it, cross-fitted over all of them. Networks
    need not score on one scale: AUROCs of people are within folds, and wear is judged on logits of one mean and spread.

    What was chosen goes into each checkpoint that is saved after its validation, as plain values, and
    `heartnet predict RUN STORE --out FILE --by user` uses it. People whose label changes between weeks are counted and
    left out.

    It also says from how many hours of wear on the score of a week can be trusted: AUROC, and how far the weeks of one
    person lie apart, by bands of wear.

    Works with any LightningModule on heartnet's data module, if its steps return scores; with other data by the
    argument `read`, as `callbacks.predictions.Predictions` does. Conditions only: a synthetic target is of a week.
    Nothing is changed in the network, its training or the random streams.

    Logs, for each split, `val` or `test`, and condition:
        `people/{split}/{way}_auroc/{condition}`, `…/{way}_brier/…`, `…/{way}_slope/…`: of people; with `_low` and
        `_high` behind their name the interval, of ten people with it and ten without, or more.
        `people/{split}/week_auroc/{condition}`, `…/gain/…`: likewise; of single weeks, and what people gain over them.
        `people/{split}/{condition}`: the picture.
        `people/{split}/{condition}/table`: ways and wear as tables (text).
        `findings`: the table of verdicts (text).

    Args:
        every_n_epochs: look at the validation after each n-th epoch; the choice is made after each.
        draws: resamples of people for an interval.
        read: called with the module and a batch, returns what is predicted of it, as `heartnet.predicted.Predicted`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        f"AUROC of people, {words}": [rf"people/{split}/mean_logit_auroc(_low|_high)?/"]
        for split, words in (("val", "validation"), ("test", "test"))
    }

    check = CHECK

    def __init__(self, every_n_epochs: int = 5, draws: int = 1000, read: Read | None = None) -> None:
        super().__init__(every_n_epochs=every_n_epochs, read=read)
        if draws < 100:
            raise HeartnetError(f"callbacks.people.draws={draws}: must be at least 100, for an interval of 95 %")
        self.draws = draws
        self.chosen: dict[str, Way] = {}
        self._chosen_with: dict[tuple[int, ...], dict[str, Way]] = {}

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self.chosen = self._chosen_with.get(_fingerprint(pl_module), {})

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # After each validation, and before Lightning saves: a choice belongs to the weights it was made with.
        super().on_validation_end(trainer, pl_module)
        with rng_untouched():
            self._choose(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        del trainer
        if chosen := self._chosen_with.get(_fingerprint(pl_module)):
            checkpoint[KEY] = {target: way.as_plain() for target, way in chosen.items()}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        del trainer
        self.chosen = self._chosen_with[_fingerprint(pl_module)] = chosen_ways(checkpoint)

    def look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        del pl_module
        if predicted.kind != "conditions":
            why = "a synthetic target is of a week, not of a person"
            return [only_conditions(CHECK, predicted.split, why, trainer.global_step)]
        if predicted.by == "week":
            message = "Weeks were split and not people (data.split_by=week), so nothing can be said of new people."
            return [Finding(CHECK, "warn", predicted.split, None, None, "", message, (), trainer.global_step)]
        table = person_table(predicted.file, predicted.targets)
        if predicted.folds:
            of_fold = pl.scan_parquet(predicted.file, glob=False).select("user_id", FOLD).unique().collect()
            table = table.join(of_fold, on="user_id", how="left", maintain_order="left")
        return [row for target in predicted.targets for row in self._judge(trainer, predicted, table, target)]

    def _choose(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        predicted = collected(trainer)
        self.chosen = {}
        if predicted is None or predicted.kind != "conditions" or predicted.by == "week":
            return
        with suppress(Exception):  # the next look says what is wrong; the run goes on
            self.chosen = self._chosen_on(predicted)
            self._chosen_with[_fingerprint(module)] = self.chosen

    def _chosen_on(self, predicted: PredictedSplit) -> dict[str, Way]:
        table = person_table(predicted.file, predicted.targets)
        parts = {target: table.filter(pl.col("target") == target) for target in predicted.targets}
        return {target: choice(part, draws=self.draws) for target, part in parts.items()}

    def _before(self, predicted: PredictedSplit, target: str) -> Way | dict[str, Way | None] | None:
        """Return what was chosen before a look at a split, of a cross-validation by fold; None on the validation."""
        if predicted.split == "val":
            return None
        if not predicted.folds:
            return self.chosen.get(target, Way())
        own = {fold.name: [each for each in fold.callbacks if isinstance(each, People)] for fold in predicted.folds}
        return {name: each[0].chosen.get(target) if each else None for name, each in own.items()}

    def _judge(
        self, trainer: lightning.Trainer, predicted: PredictedSplit, table: pl.DataFrame, target: str
    ) -> list[Finding]:
        """Measure, log and draw one condition."""
        split, step = predicted.split, trainer.global_step
        rows = pl.scan_parquet(predicted.file, glob=False).filter(
            pl.col("model") == NETWORK, pl.col("target") == target, pl.col("value").is_not_null()
        )
        fold = [FOLD] if predicted.folds else []
        weeks = rows.select("user_id", "value", "score", "wear_hours", *fold).collect()
        if weeks.is_empty():
            return []
        user = weeks["user_id"].to_numpy()
        value, score = (weeks[name].to_numpy().astype(np.float64) for name in ("value", "score"))
        wear = weeks["wear_hours"].fill_null(float("nan")).to_numpy().astype(np.float64)
        before = self._before(predicted, target)
        mine = table.filter(pl.col("target") == target)
        it = people_scores(target, mine, score, user, chosen=before, draws=self.draws)
        if predicted.folds:  # else the folds with steeper networks would look like those with less reliable weeks
            score = on_one_level(score, weeks[FOLD].to_numpy(), spread=True)
        worn = wear_reliability(target, score, value, user, wear, draws=self.draws)
        log_numbers(trainer, {f"people/{split}/{name}/{target}": number for name, number in it.numbers().items()})
        if it.ways:
            about: dict[str, Any] = {"simulated": predicted.simulated, "step": step}
            log_picture(trainer, f"people/{split}/{target}", people_figure(it, worn, predicted.title, **about))
            log_text(trainer, f"people/{split}/{target}/table", f"{people_markdown(it)}\n\n{wear_markdown(worn)}")
        found = people_finding(it, split, simulated=predicted.simulated, step=step)
        return [found, *filter(None, [wear_finding(worn, split, step=step)])]


def _fingerprint(module: lightning.LightningModule) -> tuple[int, ...]:
    """Return what weights are known by: sums of their bits, exact and the same on every device."""
    found = []
    for each in module.parameters():
        if is_lazy(each):  # has no value yet
            continue
        real = torch.view_as_real(each.detach()) if each.is_complex() else each.detach()
        bits = real.contiguous().view(_BITS[real.element_size()])
        found.append(bits.sum(dtype=torch.int64))
    return tuple(torch.stack([each.to(found[0].device) for each in found]).tolist()) if found else ()
