"""The verdict on a whole cross-validation: the test weeks of all folds, of which one alone has too few people."""

from __future__ import annotations

import polars as pl

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.baseline_verdicts import About, condition_findings
from heartnet.diagnostics.comparison import Unit, compare
from heartnet.diagnostics.learnability import target_findings
from heartnet.findings import Finding
from heartnet.predictions import CEILING, NETWORK
from heartnet.synthetic import TARGETS


def pooled_findings(predictions: pl.DataFrame, data: WeeksDataModule, step: int = 0) -> list[Finding]:
    """Compare the network with the simple models over the test weeks of all folds; none without simple models.

    The intervals hold for these networks, one a fold, on other people; what another training would give is not in them.

    Args:
        predictions: of all folds, as `heartnet.predictions.read_predictions` gives them.
        data: of any of the folds.
        step: optimiser steps that a network took.
    """
    if not set(predictions["model"].unique()) - {NETWORK, CEILING}:
        return []
    by: Unit = "week" if data.split_by == "week" else "user"
    compared = compare(predictions, data.task.kind, by=by)
    if data.task.kind == "conditions":
        return condition_findings(compared, About(step=step, folds=True))
    return target_findings(
        compared, About(step=step), units={name: TARGETS[name].unit for name in data.targets}, guesses={}
    )
