"""Scores of a split, one number a target, skipping missing targets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.functional.regression import mean_absolute_error, r2_score

SCORES: dict[str, tuple[str, str]] = {"conditions": ("auroc", "average_precision"), "synthetic": ("mae", "r2")}
"""Names of the scores by kind of task."""


class TargetScores(Metric):
    """Collect scores, targets and losses of a split, then compute its loss, and AUROC and average precision of each
    condition, or MAE and R² of each synthetic target.

    A number that is not defined (a condition with one class in the split; R² of fewer than two weeks, or of a target
    that is the same in all) is left out, never 0.

    Args:
        kind: `"conditions"` or `"synthetic"`.
        targets: names, in the order of the columns.
    """

    full_state_update = False
    scores: list[Tensor]
    values: list[Tensor]
    losses: Tensor
    weeks: Tensor

    def __init__(self, kind: str, targets: tuple[str, ...]) -> None:
        super().__init__()
        self.kind, self.targets = kind, targets
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("losses", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weeks", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, scores: Float[Tensor, "batch target"], values: Float[Tensor, "batch target"], loss: Float[Tensor, ""]
    ) -> None:
        """Add a batch and its mean loss; NaN in `values` is missing."""
        self.scores.append(scores.detach().float())
        self.values.append(values.detach().float())
        self.losses = self.losses + loss.detach() * len(values)
        self.weeks = self.weeks + len(values)

    def compute(self) -> dict[str, Tensor]:
        """Return `loss`, and `auroc/…` and `average_precision/…` by condition, or `mae/…` and `r2/…` by target.

        The loss is the mean of the batches' losses, each counted by its weeks.
        """
        if not self.scores:
            return {}
        scores = torch.cat(self.scores) if isinstance(self.scores, list) else self.scores
        values = torch.cat(self.values) if isinstance(self.values, list) else self.values
        results = {"loss": self.losses / self.weeks}
        for i, name in enumerate(self.targets):
            known = ~values[:, i].isnan()
            score, value = scores[known, i], values[known, i]
            if self.kind == "conditions" and 0 < value.sum() < len(value):
                results[f"auroc/{name}"] = binary_auroc(score, value.long())
                results[f"average_precision/{name}"] = binary_average_precision(score, value.long())
            elif self.kind == "synthetic" and len(value):
                results[f"mae/{name}"] = mean_absolute_error(score, value)
                if len(value) >= 2 and value.min() < value.max():
                    results[f"r2/{name}"] = r2_score(score, value)
        return results
