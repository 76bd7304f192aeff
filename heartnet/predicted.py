"""What a step of a module predicted of a batch, as rows of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.contract_batches import parts_of
from heartnet.errors import HeartnetError
from heartnet.predictions import known_of, prediction_rows
from heartnet.tasks import Kind
from heartnet.weeks import Weeks

Array = Tensor | npt.NDArray[Any] | Sequence[Any]


@dataclass(frozen=True)
class Predicted:
    """What a module from elsewhere, on data from elsewhere, predicts of a batch; what an adapter returns.

    Attributes:
        targets: names.
        users: `[week]`, whose week each is: names or numbers.
        scores: `[week, target]` or `[week]`, probabilities, or predictions in the target's unit.
        values: likewise, 1 or 0, or targets in their unit; NaN is unknown.
        logits: likewise, before the sigmoid; None if there are none.
        kind: `conditions` or `synthetic`, which is any target that is a quantity.
        known: by column what else is known of each week, `[week]`: those of `heartnet.predictions.COLUMNS`, and
            any others of numbers or names, the same in every batch.
    """

    targets: Sequence[str]
    users: Array
    scores: Array
    values: Array
    logits: Array | None = None
    kind: Kind = "conditions"
    known: Mapping[str, Array] = field(default_factory=dict)


def rows_of(it: Predicted, first: int, split: str) -> pl.DataFrame:
    """Return the rows of a batch, its weeks numbered from `first`.

    Raises:
        HeartnetError: what came does not fit together.
    """
    users = _listed(it.users)
    weeks = len(users)
    if isinstance(it.targets, str) or not it.targets:
        raise HeartnetError(f"Predicted.targets is {it.targets!r}: a sequence of names was expected")
    columns = {name: _listed(each) for name, each in it.known.items()}
    columns |= {"user_id": [str(each) for each in users]}
    for name, column in columns.items():
        if len(column) != weeks:
            raise HeartnetError(f"Predicted.known: {name} has {len(column)} values for {weeks} users")
    known = pl.DataFrame({"week": np.arange(first, first + weeks), **columns})
    scores, values = (_matrix(name, getattr(it, name), weeks, len(it.targets)) for name in ("scores", "values"))
    logits = None if it.logits is None else _matrix("logits", it.logits, weeks, len(it.targets))
    return prediction_rows(known, it.targets, scores, values, logits, split)


@dataclass(frozen=True)
class StepScores:
    """What a step returned for a batch of heartnet's data.

    Attributes:
        rows: of the weeks, in the data.
        scores: probabilities, or targets in their unit.
        logits: None if it returned none.
    """

    rows: Int64[np.ndarray, " week"]
    scores: Float32[np.ndarray, "week target"]
    logits: Float32[np.ndarray, "week target"] | None


def step_scores(data: WeeksDataModule, batch: Any, outputs: Any) -> StepScores:
    """Return what a module's step returned for a batch.

    Args:
        data: whose `index` the batch has.
        batch: of the loader.
        outputs: `scores`, `[week, target]` or `[week]`, or a mapping that has it, perhaps with `logits`.

    Raises:
        HeartnetError: the batch does not say which weeks it holds, or the step returned no scores.
    """
    index = parts_of(batch).index
    if index is None:
        raise HeartnetError("the batches have no `index` [batch], the rows of the weeks in the data")
    rows, count = index.cpu().numpy().astype(np.int64), len(data.targets)
    named = outputs if isinstance(outputs, Mapping) else {"scores": outputs}
    if named.get("scores") is None:
        raise HeartnetError("the step returned no scores")
    scores = _matrix("scores", named["scores"], len(rows), count)
    logits = None
    if data.task.kind == "conditions" and named.get("logits") is not None:
        logits = _matrix("logits", named["logits"], len(rows), count)
    return StepScores(rows, scores, logits)


class KnownWeeks:
    """What is known of weeks (`heartnet.predictions.known_of`), which stays the same from one pass to the next."""

    def __init__(self) -> None:
        self._weeks: Weeks | None = None
        self._found: dict[bytes, pl.DataFrame] = {}
        self._before: dict[bytes, pl.DataFrame] = {}

    def begin(self) -> None:
        """Begin a pass; what was asked for in the last one is kept, what was not is forgotten."""
        self._before, self._found = self._found, {}

    def of(self, weeks: Weeks, rows: Int64[np.ndarray, " week"]) -> pl.DataFrame:
        if weeks is not self._weeks:
            self._weeks, self._before, self._found = weeks, {}, {}
        key = rows.tobytes()
        if key not in self._found:
            self._found[key] = self._before[key] if key in self._before else known_of(weeks, rows)
        return self._found[key]


def rows_of_weeks(data: WeeksDataModule, given: Sequence[StepScores], split: str, known: KnownWeeks) -> pl.DataFrame:
    """Return the rows of some batches of heartnet's data, of which all have logits or none."""
    rows = np.concatenate([each.rows for each in given])
    scores = np.concatenate([each.scores for each in given])
    logits = [each.logits for each in given if each.logits is not None]
    return prediction_rows(
        known.of(data.weeks, rows), data.targets, scores, data.values[rows],
        np.concatenate(logits) if logits else None, split,
    )  # fmt: skip


def _listed(values: Array) -> list[Any]:
    return list(values.tolist() if isinstance(values, Tensor | np.ndarray) else values)


def _matrix(name: str, values: Any, weeks: int, targets: int) -> npt.NDArray[np.float32]:
    if not isinstance(values, Tensor):
        values = torch.as_tensor(np.asarray(values))
    if values.dim() not in (1, 2) or values.numel() != weeks * targets or len(values) != weeks:
        raise HeartnetError(f"{name} are {list(values.shape)}, and [{weeks}, {targets}] was expected: week, target")
    found: npt.NDArray[np.float32] = values.detach().float().reshape(weeks, targets).cpu().numpy()
    return found.copy()  # what a step returned may be written over by the next
