"""What did it say of each week, how well does that tell who has the condition, and does it mean what it says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as lightning

from heartnet.diagnostics.score_quality import Agreement, Quality, agreement, quality
from heartnet.diagnostics.score_verdicts import CHECK, agreement_finding, quality_findings
from heartnet.errors import HeartnetError
from heartnet.figure_curves import agreement_figure, quality_figure
from heartnet.findings import Finding
from heartnet.loggers import log_numbers, log_picture
from heartnet.on_predictions import OnPredictions, PredictedSplit, Read
from heartnet.predictions import scored_weeks
from heartnet.synthetic import TARGETS
from heartnet.what_applies import more_people, settings_of


class Predictions(OnPredictions):
    """Writes what is predicted of each week of the validation and test splits, and says how good that is.

    One row a week and target: whose week, its label, score and logit, age, sex, BMI, device, wear, and a summary of its
    hours (`heartnet.predictions.COLUMNS` has them all, with units). Rows go to disk as batches come, so a million weeks
    do not sit in memory, and the file is in its place once it is whole: `predictions.parquet` of the test,
    `val_predictions.parquet` of the newest validation, in the run's folder.

    Then, for each condition: ROC and precision over recall, reliability, Brier score and its parts, calibration error,
    slope and offset, and histograms of the scores, all with intervals of 95 % from resampling people
    (`heartnet.diagnostics.score_quality`); for synthetic targets the share of variance explained and the error. The
    findings say what the scores tell (AUROC), and whether they are over- or underconfident, or that there are too few
    people to tell. In a cross-validation the tests of all folds are judged together, after the last, by the AUROC
    within folds, with that of all weeks beside it (`heartnet.pooled`). During training the validation is looked at
    after each `every_n_epochs`-th epoch and after the last. The network, its training and the random streams are left
    as they are.

    Works with any LightningModule on heartnet's data module, if `validation_step` and `test_step` return scores
    (heartnet's own do); with other data, an adapter makes what is written:

        def read(module, batch):
            x, y, people = batch
            logits = module(x)
            return Predicted(("risk",), people, logits.sigmoid(), y, logits)
        Predictions(read=read)

    Logs, for each split, `val` or `test`, and condition:
        `predictions/{split}/auroc/{condition}`, `…/average_precision/{condition}`, `…/brier/{condition}`: the scores,
        and with `_low` and `_high` behind their name the interval.
        `predictions/test/within_folds_auroc/{condition}`: likewise; of a cross-validation.
        `predictions/{split}/slope/{condition}` and `…/offset/{condition}`: likewise; of the calibration. A slope below
        1 is overconfident; the offset is the mean score less the share that has it.
        `predictions/{split}/calibration_error/{condition}`: likewise; root mean square over bins of equally many
        weeks, less what luck adds.
        `predictions/{split}/expected_calibration_error/{condition}`: over the same bins, luck included.
        `predictions/{split}/r2/{target}`, `…/mae/{target}`: of synthetic targets, with `_low` and `_high`.
        `predictions/{split}/{target}`: the picture.
        `findings`: the table of verdicts (text).

    Args:
        every_n_epochs: look at the validation after each n-th epoch; it is written after each.
        draws: resamples for an interval; fewer of more than 200,000 weeks.
        read: called with the module and a batch, returns what is predicted of it, as
            `heartnet.predicted.Predicted`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        f"{title}, {words}": [rf"predictions/{split}/{number}(_low|_high)?/"]
        for number, title in (("auroc", "AUROC"), ("slope", "calibration slope"), ("brier", "Brier score"))
        for split, words in (("val", "validation"), ("test", "test"))
    }

    check = CHECK

    def __init__(self, every_n_epochs: int = 5, draws: int = 1000, read: Read | None = None) -> None:
        super().__init__(every_n_epochs=every_n_epochs, read=read)
        if draws < 100:
            raise HeartnetError(f"callbacks.predictions.draws={draws}: must be at least 100, for an interval of 95 %")
        self.draws = draws

    def look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        return [row for target in predicted.targets for row in self._judge(trainer, pl_module, predicted, target)]

    def _judge(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, predicted: PredictedSplit, target: str
    ) -> list[Finding]:
        """Measure, log and draw one target."""
        split, step = predicted.split, trainer.global_step
        weeks = scored_weeks(predicted.file, target)
        if not len(weeks["value"]):
            return []
        arrays = (weeks["score"], weeks["value"], weeks["user"])
        about: dict[str, Any] = {"simulated": predicted.simulated, "step": step}
        tag = f"predictions/{split}/{target}"
        if predicted.kind == "conditions":
            folds = weeks["fold"] if predicted.folds else None
            it = quality(target, *arrays, folds=folds, by=predicted.by, draws=self.draws)
            self._log(trainer, split, it, target)
            if it.roc is not None:
                log_picture(trainer, tag, quality_figure(it, predicted.title, **about))
            more = more_people(split, predicted.by, predicted.data)
            return quality_findings(it, split, settings=settings_of(module, trainer), more=more, **about)
        other = agreement(target, *arrays, by=predicted.by, draws=self.draws)
        self._log(trainer, split, other, target)
        unit = TARGETS[target].unit if target in TARGETS else ""
        if not other.diverged:
            log_picture(trainer, tag, agreement_figure(other, *arrays[:2], predicted.title, unit=unit, **about))
        return [agreement_finding(other, split, unit=unit, **about)]

    def _log(self, trainer: lightning.Trainer, split: str, it: Quality | Agreement, target: str) -> None:
        log_numbers(trainer, {f"predictions/{split}/{name}/{target}": value for name, value in it.numbers().items()})
