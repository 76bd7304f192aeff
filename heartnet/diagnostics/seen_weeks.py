"""What a test showed of each week: which it was, the means of its inputs, and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heartnet.diagnostics.contract_batches import Parts, parts_of
from heartnet.errors import HeartnetError

_MOST_MEANS = 64
_EDGE = 1 / 16


class SeenWeeks:
    """Gathers batches of a test, on the CPU.

    Attributes:
        rows: `[batch][week]`, the rows of the weeks in the data.
        means: `[batch][week, feature]`, of each channel over the valid steps, over the first sixteenth of them and over
            the last, where padded convolutions see less; then the metadata; all as the network sees them.
        scores: `[batch][week, target]`, of modules that return them.
    """

    def __init__(self) -> None:
        self.rows: list[npt.NDArray[np.int64]] = []
        self.means: list[npt.NDArray[np.float64]] = []
        self.scores: list[npt.NDArray[np.float32]] = []

    def add(self, batch: Any, outputs: Any) -> None:
        """Take a batch and what the module's test step, or who stands in for it, returned for it.

        Raises:
            HeartnetError: the batch does not say which weeks it holds.
        """
        parts = parts_of(batch)
        if parts.index is None:
            raise HeartnetError("its batches have no `index` [batch], the rows of the weeks in the data")
        self.rows.append(parts.index.cpu().numpy().astype(np.int64))
        self.means.append(_means(parts))
        found = _scores(outputs, parts.weeks)
        if found is not None:
            self.scores.append(found)

    def table(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32] | None]:
        """Return rows, means and scores of all weeks; no scores if some batch had none."""
        rows = np.concatenate(self.rows) if self.rows else np.empty(0, dtype=np.int64)
        same = len({each.shape[1] for each in self.means}) == 1
        means = np.concatenate(self.means) if same else np.empty((len(rows), 0))
        complete = len(self.scores) == len(self.rows) > 0 and len({each.shape[1] for each in self.scores}) == 1
        return rows, means, np.concatenate(self.scores) if complete else None


def _means(parts: Parts) -> npt.NDArray[np.float64]:
    if parts.inputs is None:
        return np.empty((parts.weeks, 0))
    inputs = parts.inputs[..., :_MOST_MEANS].double().nan_to_num(0, 0, 0)
    steps = torch.arange(inputs.shape[1], device=inputs.device).expand(inputs.shape[:2])
    valid = torch.ones_like(steps) if parts.valid is None else parts.valid.long()
    lengths = valid.sum(dim=1, keepdim=True)
    edge = (lengths * _EDGE).ceil()
    found = []
    for part in (valid, valid * (steps < edge), valid * (steps >= lengths - edge)):
        share = part.double() / part.sum(dim=1, keepdim=True).clamp(min=1)
        found.append(torch.einsum("btc,bt->bc", inputs, share))
    if parts.metadata is not None:
        found.append(parts.metadata.double()[:, :_MOST_MEANS].nan_to_num(0, 0, 0))
    return torch.cat(found, dim=1).cpu().numpy()


def _scores(outputs: Any, weeks: int) -> npt.NDArray[np.float32] | None:
    """Return `[week, target]` from `[week]`, `[week, target]`, or a mapping that has one of these as `scores`."""
    found = outputs.get("scores") if isinstance(outputs, Mapping) else outputs
    if not isinstance(found, Tensor) or found.dim() not in (1, 2) or len(found) != weeks:
        return None
    return found.detach().reshape(weeks, -1).float().cpu().numpy()
