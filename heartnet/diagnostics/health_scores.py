"""Scores of the validation split over a run, and how many labels stand behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from heartnet.diagnostics.health_verdicts import chance, unrewarded
from heartnet.diagnostics.replay import batch_size, tensors_in
from heartnet.diagnostics.trends import Trend, chance_band
from heartnet.findings import Finding

_TARGETS = ("targets", "target", "labels", "label", "y")
_HIGHER_IS_BETTER = re.compile(r"auroc|auc|acc|f1|precision|recall|r2", re.IGNORECASE)
_AUROC = re.compile(r"auroc|(^|[/_])auc", re.IGNORECASE)
_OF_ALL = re.compile(
    r"(val\w*?_)?(mean_|macro_|micro_)?(auroc|auc|acc|accuracy|f1|f1_score|precision|recall|average_precision)", re.I
)
_VALIDATION = re.compile(r"val", re.IGNORECASE)


class Scores:
    """What the validation split gave, validation by validation; positives and negatives are counted from its batches.

    Args:
        outputs: names of the columns of the targets, where they are known.
    """

    def __init__(self, outputs: Sequence[str] = ()) -> None:
        self.columns = {name: column for column, name in enumerate(outputs)}
        self.history: dict[str, list[float]] = {}
        self._counts: Tensor | None = None
        self.positives: list[float] = []
        self.negatives: list[float] = []

    def see(self, batch: Any) -> None:
        """Count the labels of a batch; the counts stay on its device."""
        targets = binary_targets(batch)
        if targets is None:
            return
        known = ~targets.isnan()
        counts = torch.stack([(targets.nan_to_num() * known).sum(0), known.sum(0).float()])
        same = self._counts is not None and self._counts.shape == counts.shape
        self._counts = self._counts + counts if self._counts is not None and same else counts

    def end(self, metrics: Mapping[str, float]) -> None:
        """Keep the scores of a validation that is over."""
        for name, value in metrics.items():
            if _VALIDATION.search(name) and _HIGHER_IS_BETTER.search(name) and math.isfinite(value):
                self.history.setdefault(name, []).append(value)
        if self._counts is not None:
            positives, known = self._counts.tolist()
            self.positives, self.negatives = positives, [k - p for p, k in zip(positives, known, strict=True)]
        self._counts = None

    def judge(self, losses: Trend, *, end: bool) -> list[Finding]:
        """Return what is wrong with the scores: AUROCs at 0.5 after ten validations or at the end, no reward."""
        found = []
        for name, values in self.history.items():
            counts = self._counts_of(name)
            band = chance_band(*counts)
            stays = chance(_short(name), values, *counts, band) if _AUROC.search(name) else []
            if stays and (len(values) >= 10 or (end and len(values) >= 2 and losses.course != "too short")):
                found += stays
            elif not stays and math.isfinite(band):
                found += unrewarded(name, values, losses, max(band / 2, 0.02))
        return found

    def state(self) -> dict[str, dict[str, list[float]]]:
        return {"history": {name: list(values) for name, values in self.history.items()}}

    def load(self, state: dict[str, dict[str, list[float]]]) -> None:
        self.history = {name: list(values) for name, values in state["history"].items()}

    def _counts_of(self, name: str) -> tuple[float, float]:
        """Return positives and negatives behind a score, of all outputs if it is a mean; zeros if not known."""
        if _OF_ALL.fullmatch(_short(name)):
            return sum(self.positives), sum(self.negatives)
        column = 0 if len(self.positives) == 1 else self.columns.get(_short(name), -1)
        known = 0 <= column < len(self.positives)
        return (self.positives[column], self.negatives[column]) if known else (0.0, 0.0)


def binary_targets(batch: Any) -> Tensor | None:
    """Return the labels of a batch as floats `[sample, output]`, NaN where missing; None if there are none of 0 and 1.

    They are what a dict calls targets or labels, or the last tensor of a tuple.
    """
    named: list[Tensor]
    if isinstance(batch, Mapping):
        named = [batch[key] for key in _TARGETS if isinstance(batch.get(key), Tensor)]
    else:
        named = list(tensors_in(batch))[-1:] if isinstance(batch, tuple | list) and len(batch) > 1 else []
    for each in named:
        if each.dim() in (1, 2) and len(each) == batch_size(batch) and each.dtype != torch.bool:
            values = each.detach().float().reshape(len(each), -1)
            if bool(((values == 0) | (values == 1) | values.isnan()).all()):
                return values
    return None


def _short(name: str) -> str:
    return name.rpartition("/")[2]
