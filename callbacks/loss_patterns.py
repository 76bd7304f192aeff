"""What have its losses in common that its wins have not?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as lightning

from heartnet.diagnostics.loss_patterns import find_patterns
from heartnet.diagnostics.loss_patterns_groups import check_strata, stratified
from heartnet.diagnostics.loss_patterns_table import predicted_weeks
from heartnet.diagnostics.loss_patterns_verdicts import CHECK, pattern_findings
from heartnet.diagnostics.within_folds import on_one_level
from heartnet.errors import HeartnetError
from heartnet.figure_patterns import forest_figure, pattern_rows, strata_rows
from heartnet.findings import Finding
from heartnet.loggers import log_numbers, log_picture
from heartnet.on_predictions import OnPredictions, PredictedSplit, Read
from heartnet.predictions import FOLD
from heartnet.what_applies import more_people, only_conditions

FILES = {"val": "val_loss_patterns.json", "test": "loss_patterns.json"}
STRATA_FILES = {"val": "val_strata.csv", "test": "strata.csv"}


class LossPatterns(OnPredictions):
    """Looks for groups of weeks in which scores tell less of the label than elsewhere, and names them.

    Proposed are single conditions on what is known of weeks (device, age, sex, BMI, wear, how they were measured,
    exercise, travel, hourly features: `heartnet.predictions.KNOWN`), and pairs of those that look best. The people are
    split in halves: what looks best on the one half, each with the weeks of the others left out, is tested so on the
    other, corrected for how many were tried. There scores have to tell less by more than a fifth, so that differences
    too small to matter are not named, however many people there are, and to rank worse (AUROC) than outside
    (`heartnet.diagnostics.loss_patterns`). Losses are held against wins with the same scores: more people with the
    condition inside, metadata that tell rightly, or scores of a narrow range make no pattern. Of devices AUROCs are
    compared, whatever the range: a network that recognises a bad watch says little of its weeks
    (`heartnet.diagnostics.loss_patterns_telling`). Patterns that say the same are named with the one that explains
    best. Conditions are searched one by one and all together.

    Findings: each pattern that holds, with people and weeks it touches, AUROC, Brier score and calibration offset
    inside and outside on the half kept aside, and what may help; or that there is none, or too few people to look.
    The files `loss_patterns.json` of the test and `val_loss_patterns.json` have all numbers.

    `strata` asks for the stratified table of groups one has in mind: `strata.csv` and `val_strata.csv`, one row a group
    and condition, with people, weeks, positives, AUROC, logarithmic loss, Brier score and calibration offset, with
    intervals of 95 % from resampling people. Groups too small to tell are there, and say so.

    In a cross-validation the tests of all folds are looked at together, after the last (`heartnet.pooled`), the logits
    of each fold moved to one mean, for networks need not score on one level.

    With data of one person (`data.split_by=week`) weeks stand in for people. Of more than 50,000 weeks, those of people
    drawn at random are looked at. The network, its training and the random streams are left as they are.

    Works with any LightningModule as `callbacks.predictions.Predictions` does, with `read` for data that are not
    heartnet's; `Predicted.known` brings the columns to look for patterns in, whatever they are called. Conditions only:
    of synthetic targets a finding says so.

    Logs, for each split, `val` or `test`:
        `loss_patterns/{split}/patterns`: how many held.
        `loss_patterns/{split}/inside/{target}`, `loss_patterns/{split}/outside/{target}`: AUROC of the first pattern
        found in the condition, on the half kept aside.
        `loss_patterns/{split}`: the picture of the patterns. `loss_patterns/{split}/strata`: that of the strata.
        `findings`: the table of verdicts (text).

    Args:
        strata: groups for the stratified table: `age_band`, `bmi_band`, `wear_band`, or a column of
            `heartnet.predictions.KNOWN`, or one that `read` brings; a column of numbers by its quarters.
        every_n_epochs: look at the validation after each n-th epoch, and after the last.
        draws: resamples of people for an interval.
        read: called with the module and a batch, returns what is predicted of it, as
            `heartnet.predicted.Predicted`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        "patterns": [r"loss_patterns/(val|test)/patterns$"],
        "AUROC inside and outside, test": [r"loss_patterns/test/(inside|outside)/"],
    }

    check = CHECK

    def __init__(
        self, strata: Sequence[str] = (), every_n_epochs: int = 5, draws: int = 1000, read: Read | None = None
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, read=read)
        self.strata = check_strata(strata, None if read is not None else ())  # the adapter may bring columns of its own
        if type(draws) is not int or draws < 100:
            raise HeartnetError(
                f"callbacks.loss_patterns.draws={draws}: must be a whole number of at least 100, for intervals of 95 %"
            )
        self.draws = draws

    def look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        if predicted.kind != "conditions":
            why = "a loss is a label that scores miss, and a synthetic target has none"
            return [only_conditions(CHECK, predicted.split, why, trainer.global_step)]
        weeks = predicted_weeks(predicted.file, predicted.targets)
        # Which network it was is no trait of a week: in a cross-validation it stands for who was drawn into a fold.
        known, scores = weeks.known, weeks.scores
        if predicted.folds:
            fold, known = known[FOLD].to_numpy(), known.drop(FOLD)
            scores = np.column_stack([on_one_level(each, fold) for each in scores.T])
        arrays = (known, predicted.targets, scores, weeks.values)
        about: dict[str, Any] = {"simulated": predicted.simulated, "step": trainer.global_step}
        split, tag = predicted.split, f"loss_patterns/{predicted.split}"
        if self.strata:
            table = stratified(*arrays, self.strata, by=predicted.by, draws=self.draws)
            table.write_csv(predicted.file.parent / STRATA_FILES[split])
            title = f"Strata, {predicted.title} split"
            log_picture(trainer, f"{tag}/strata", forest_figure(strata_rows(table), title, **about))
        found = find_patterns(*arrays, by=predicted.by, draws=self.draws)
        _write(found.as_json(), predicted.file.parent / FILES[split])
        numbers = {f"{tag}/patterns": float(len(found.patterns))} if found.enough else {}
        for each in reversed([it for pattern in found.patterns for it in pattern.groups if it.target in pattern.scope]):
            numbers |= {f"{tag}/inside/{each.target}": each.inside.auroc.value}
            numbers |= {f"{tag}/outside/{each.target}": each.outside.auroc.value}
        log_numbers(trainer, numbers)
        if found.patterns:
            title = f"Where scores tell less, {predicted.title} split: the people kept aside"
            log_picture(trainer, tag, forest_figure(pattern_rows(found.patterns), title, **about))
        about |= {"augmentation": _augmentation(pl_module), "more": more_people(split, predicted.by, predicted.data)}
        words = f"{FILES[split]} has all numbers"
        words += f", {STRATA_FILES[split]} those of {', '.join(self.strata)}" if self.strata else ""
        judged = pattern_findings(found, split, sampled=weeks.sampled, **about)
        return [replace(each, message=f"{each.message} The file {words}.") for each in judged]


def _write(found: Mapping[str, Any], file: Path) -> None:
    file.write_text(json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _augmentation(module: lightning.LightningModule) -> Mapping[str, float]:
    """Return how a module of ours varies readings; nothing of another one, or on another view."""
    strengths = getattr(module, "augmentation", None)
    channels = getattr(getattr(module, "scaling", None), "channels", ())
    return strengths if isinstance(strengths, Mapping) and "dt" in channels else {}
