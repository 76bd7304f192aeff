"""From weeks to people: one score a person, the best way to make it, and how many hours of wear a score needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytorch_lightning as lightning

from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.people_scores import choice, people_scores
from heartnet.diagnostics.people_verdicts import CHECK, people_finding, people_markdown, wear_finding, wear_markdown
from heartnet.diagnostics.wear_reliability import wear_reliability
from heartnet.errors import HeartnetError
from heartnet.figure_people import people_figure
from heartnet.findings import Finding
from heartnet.on_predictions import OnPredictions, PredictedSplit, Read, draw, log
from heartnet.people import KEY, Way, chosen_ways, person_table
from heartnet.predictions import NETWORK
from heartnet.what_applies import only_conditions


class People(OnPredictions):
    """Makes one score of a person's weeks, in several ways, and chooses one on the people of the validation split.

    The ways are those of `heartnet.people.WAYS` (mean of logits, mean, maximum, noisy-or, weighted by wear) and one
    that is learned from mean, spread, maximum and number of a person's weeks; for comparing it, each person is scored
    by coefficients that other people gave (cross-fitting). The mean of the logits is kept unless another way has a
    lower Brier score beyond luck. After the test, the same way is judged on people who had no part in the choice.

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
        `_high` behind their name the interval.
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
        self._chosen_at = -1

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # After each validation, and before Lightning saves: a choice belongs to the weights it was made with.
        super().on_validation_end(trainer, pl_module)
        with rng_untouched():
            self._choose(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        del pl_module
        if self.chosen and self._chosen_at == trainer.global_step:
            checkpoint[KEY] = {target: way.as_plain() for target, way in self.chosen.items()}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        del trainer, pl_module
        self.chosen, self._chosen_at = chosen_ways(checkpoint), int(checkpoint.get("global_step", -1))

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
        return [row for target in predicted.targets for row in self._judge(trainer, predicted, table, target)]

    def _choose(self, trainer: lightning.Trainer) -> None:
        predicted = self._leader(trainer)._collected.predicted
        self.chosen, self._chosen_at = {}, trainer.global_step
        if predicted is None or predicted.kind != "conditions" or predicted.by == "week":
            return
        with suppress(Exception):  # the next look says what is wrong; the run goes on
            table = person_table(predicted.file, predicted.targets)
            parts = {target: table.filter(pl.col("target") == target) for target in predicted.targets}
            self.chosen = {target: choice(part, draws=self.draws) for target, part in parts.items()}

    def _judge(
        self, trainer: lightning.Trainer, predicted: PredictedSplit, table: pl.DataFrame, target: str
    ) -> list[Finding]:
        """Measure, log and draw one condition."""
        split, step = predicted.split, trainer.global_step
        rows = pl.scan_parquet(predicted.file, glob=False).filter(
            pl.col("model") == NETWORK, pl.col("target") == target, pl.col("value").is_not_null()
        )
        weeks = rows.select("user_id", "value", "score", "wear_hours").collect()
        if weeks.is_empty():
            return []
        user = weeks["user_id"].to_numpy()
        value, score = (weeks[name].to_numpy().astype(np.float64) for name in ("value", "score"))
        wear = weeks["wear_hours"].fill_null(float("nan")).to_numpy().astype(np.float64)
        before = None if split == "val" else self.chosen.get(target, Way())
        mine = table.filter(pl.col("target") == target)
        it = people_scores(target, mine, score, user, chosen=before, draws=self.draws)
        worn = wear_reliability(target, score, value, user, wear, draws=self.draws)
        log(trainer, {f"people/{split}/{name}/{target}": number for name, number in it.numbers().items()})
        if it.ways:
            about: dict[str, Any] = {"simulated": predicted.simulated, "step": step}
            draw(trainer, f"people/{split}/{target}", people_figure(it, worn, split, **about))
            _write(trainer, f"people/{split}/{target}/table", f"{people_markdown(it)}\n\n{wear_markdown(worn)}")
        found = people_finding(it, split, simulated=predicted.simulated, step=step)
        return [found, *filter(None, [wear_finding(worn, split, step=step)])]


def _write(trainer: lightning.Trainer, tag: str, text: str) -> None:
    for logger in trainer.loggers:
        add_text = getattr(getattr(logger, "experiment", None), "add_text", None)
        if add_text is not None:
            add_text(tag, text, global_step=trainer.global_step)
