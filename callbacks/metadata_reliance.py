"""Does it look at the sensors, or is it regressing over age, sex and BMI? And does it waver from week to week?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pytorch_lightning as lightning

from heartnet.ablation_weeks import ProbeOf, ablations
from heartnet.diagnostics.ablation import Ablation
from heartnet.diagnostics.reliance import reliance
from heartnet.diagnostics.reliance_verdicts import CHECK, ablation_finding, blind, reliance_findings, too_few
from heartnet.diagnostics.within_folds import on_one_level
from heartnet.errors import HeartnetError
from heartnet.figure_reliance import reliance_figure
from heartnet.findings import Finding
from heartnet.loggers import log_numbers, log_picture
from heartnet.metadata_scores import known_weeks, metadata_score
from heartnet.on_predictions import OnPredictions, PredictedSplit, Read
from heartnet.pooled_ablation import pooled_ablations
from heartnet.predictions import FOLD
from heartnet.what_applies import settings_of


class MetadataReliance(OnPredictions):
    """Compares what is predicted of each week with a model on age, sex and BMI, and takes inputs away, one by one.

    The scatter (M. Matelis and A. Singh, "Debuggable Deep Learning", 2019): the network's score of each week over that
    of a logistic regression (for synthetic targets a ridge regression) on the metadata, fitted on the training split,
    or cross-fitted by person on data that are not heartnet's. A straight line regresses over metadata and ignores the
    sensors; vertical lines are people whose weeks get different scores. With rank and partial correlations, and the
    spread within people against that between them (`heartnet.diagnostics.reliance`), all with intervals from resampling
    people.

    The ablation, at the test and after `trainer.validate`: each channel, all of them, each field of the metadata and
    all of those, permuted between weeks and removed, and how much AUROC (of synthetic targets: share of variance
    explained) is lost, without training again; `heartnet.diagnostics.ablation` says what permuting a channel means. It
    passes 1 + (channels + 1 + fields + 1) × (permutations + 1) times over the weeks that it looks at, 33 times over
    readings. Training again without them is `python train.py -m experiment=ablation`.

    In a cross-validation the tests of all folds are looked at together, after the last (`heartnet.pooled`): each fold
    has its own metadata model, and its own network is asked about inputs that are permuted within it
    (`heartnet.pooled_ablation`). Networks, and metadata models, of different folds need not score on one level, which
    alone would make them go together: the logits of each fold are moved to one mean
    (`heartnet.diagnostics.within_folds.on_one_level`).

    Findings: it leans on metadata; it wavers from week to week; there are too few people to tell. The network, its
    training and the random streams are left as they are.

    Works with any LightningModule as `callbacks.predictions.Predictions` does, with `read` for data that are not
    heartnet's; `probe` says how to call a network whose inputs cannot be guessed (see `callbacks.amnesia.Amnesia`).

    Logs, for each split, `val` or `test`, and target, all with `_low` and `_high` behind their name too:
        `metadata_reliance/{split}/rank/{target}`: rank correlation with the metadata model.
        `metadata_reliance/{split}/gain/{target}`: AUROC less the metadata model's.
        `metadata_reliance/{split}/given_metadata/{target}`, `…/given_score/{target}`: partial rank correlation of the
        score with the target given the metadata model's, and of that with the target given the score.
        `metadata_reliance/{split}/between/{target}`, `…/within/{target}`: spread between and within people, in logits
        (of synthetic targets in their unit).
        `metadata_reliance/{split}/share_within/{target}`: share of the variance that lies within people.
        `metadata_reliance/{split}/range/{target}`: highest less lowest score of a person, mean over people.
        `metadata_reliance/{split}/wear/{target}`: rank correlation of how far a week's score lies from its person's
        mean with the hours worn.
        `metadata_reliance/{split}/permuted/{input}/{target}`, `…/removed/{input}/{target}`: what is lost.
        `metadata_reliance/{split}/{target}`: the picture.
        `findings`: the table of verdicts (text).

    Args:
        every_n_epochs: look at the validation after each n-th epoch.
        draws: resamples of people for an interval, of weeks where these were split; fewer of more than 200,000 weeks.
        ablate: false leaves the ablation out.
        weeks: that it is done on, at most, shared equally by all people; of more people, of some chosen at random.
        permutations: how often each input is permuted.
        read: called with the module and a batch, returns what is predicted of it, as `heartnet.predicted.Predicted`.
        probe: called with the module and a batch, returns a `heartnet.diagnostics.probe.Probe`.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    check = CHECK

    SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {
        f"{title}, {words}": [rf"metadata_reliance/{split}/{number}(_low|_high)?/"]
        for number, title in (("rank", "rank correlation with metadata"), ("share_within", "share within people"))
        for split, words in (("val", "validation"), ("test", "test"))
    } | {"lost when permuted": [r"metadata_reliance/[^/]+/permuted/"]}

    def __init__(
        self,
        every_n_epochs: int = 5,
        draws: int = 1000,
        ablate: bool = True,
        weeks: int = 256,
        permutations: int = 3,
        read: Read | None = None,
        probe: ProbeOf | None = None,
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, read=read)
        for name, value, least in (("draws", draws, 100), ("weeks", weeks, 2), ("permutations", permutations, 1)):
            if type(value) is not int or value < least:
                raise HeartnetError(f"callbacks.{CHECK}.{name}={value}: must be a whole number of at least {least}")
        self.draws, self.ablate, self.weeks, self.permutations = draws, ablate, weeks, permutations
        self.probe = probe

    def look(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, predicted: PredictedSplit
    ) -> list[Finding]:
        lost, found = self._ablate(trainer, pl_module, predicted)
        settings = settings_of(pl_module, trainer)
        for target in predicted.targets:
            found += self._judge(trainer, predicted, target, lost.get(target), settings)
        return found

    def _ablate(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, predicted: PredictedSplit
    ) -> tuple[dict[str, Ablation], list[Finding]]:
        """Return what is lost by target, or a finding that says why it is not known."""
        if not self.ablate or trainer.state.fn == "fit":
            return {}, []
        loaders = trainer.test_dataloaders if predicted.split == "test" else trainer.val_dataloaders
        options: dict[str, Any] = {"weeks": self.weeks, "permutations": self.permutations, "draws": self.draws}
        try:
            if predicted.folds:
                return pooled_ablations(module, predicted, probe=self.probe, **options), []
            return ablations(module, predicted, loaders, probe=self.probe, **options), []
        except Exception as error:  # somebody else's module; the scatter is drawn all the same
            words = str(error) if isinstance(error, HeartnetError) else f"{type(error).__name__}: {error}"
            message, where = f"Nothing was ablated: {words}.", f"{predicted.split}: ablation"
            return {}, [Finding(CHECK, "warn", where, None, None, "", message, (), trainer.global_step)]

    def _judge(
        self, trainer: lightning.Trainer, predicted: PredictedSplit, target: str, lost: Ablation | None,
        settings: Mapping[str, object],
    ) -> list[Finding]:  # fmt: skip
        """Measure, log and draw one target."""
        table = known_weeks(predicted.file, target)
        about: dict[str, Any] = {"simulated": predicted.simulated, "step": predicted.step}
        if not len(table):
            where, message = f"{predicted.split}: {target}", f"It is known of none of the {predicted.weeks:,} weeks."
            return [Finding(CHECK, "unknown", where, None, None, "", message, (), predicted.step)]
        score, value = (table[name].cast(float).fill_null(np.nan).to_numpy() for name in ("score", "value"))
        users = table["user_id"].to_numpy().astype(str)
        wear = table["wear_hours"].cast(float).fill_null(np.nan).to_numpy()
        metadata = _metadata(predicted, table, target)
        if predicted.folds and predicted.kind == "conditions":
            fold = table[FOLD].to_numpy()
            score, metadata = on_one_level(score, fold), None if metadata is None else on_one_level(metadata, fold)
        it = reliance(
            target, score, value, users, metadata, kind=predicted.kind, by=predicted.by, wear_hours=wear,
            draws=self.draws,
        )  # fmt: skip
        numbers = it.numbers() | (lost.numbers() if lost is not None else {})
        log_numbers(trainer, {f"{CHECK}/{predicted.split}/{name}/{target}": each for name, each in numbers.items()})
        if not it.diverged:
            figure = reliance_figure(it, score, metadata, value, users, predicted.title, ablation=lost, **about)
            log_picture(trainer, f"{CHECK}/{predicted.split}/{target}", figure)
        sees = settings["model.metadata"] != "none" if "model.metadata" in settings else None
        found = reliance_findings(it, predicted.split, sees_metadata=sees, **about)
        if lost is not None and (blind(lost) or not too_few(it)):
            found.append(ablation_finding(lost, predicted.split, all_weeks=it.weeks, settings=settings, **about))
        said = " The logits of each fold were moved to one mean." if predicted.folds else ""
        return [each if each.value is None else replace(each, message=each.message + said) for each in found]


def _metadata(predicted: PredictedSplit, table: pl.DataFrame, target: str) -> npt.NDArray[np.float64] | None:
    """Return what the metadata model says of each week; in a cross-validation, that of the week's own fold."""
    if not predicted.folds:
        return metadata_score(table, target, predicted.kind, predicted.data)
    found = np.full(len(table), np.nan)
    for fold in predicted.folds:
        mine = (table[FOLD] == fold.name).to_numpy()
        if mine.any():
            score = metadata_score(table.filter(mine), target, predicted.kind, fold.predicted.data)
            if score is None:
                return None
            found[mine] = score
    return found
