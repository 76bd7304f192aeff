"""What a step of a module predicted of a batch, as rows of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.contract_batches import parts_of
from heartnet.errors import HeartnetError
from heartnet.predictions import known_of, prediction_rows
from heartnet.tasks import Kind

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


def rows_of_weeks(data: WeeksDataModule, batch: Any, outputs: Any, split: str) -> pl.DataFrame:
    """Return the rows of a batch of heartnet's data, from what the module's step returned.

    Args:
        data: whose `index` the batch has.
        batch: of the loader.
        outputs: `scores`, `[week, target]` or `[week]`, or a mapping that has it, perhaps with `logits`.
        split: of the weeks.

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
    return prediction_rows(known_of(data.weeks, rows), data.targets, scores, data.values[rows], logits, split)


def _listed(values: Array) -> list[Any]:
    return list(values.tolist() if isinstance(values, Tensor | np.ndarray) else values)


def _matrix(name: str, values: Any, weeks: int, targets: int) -> npt.NDArray[np.float32]:
    if not isinstance(values, Tensor):
        values = torch.as_tensor(np.asarray(values))
    if values.dim() not in (1, 2) or values.numel() != weeks * targets or len(values) != weeks:
        raise HeartnetError(f"{name} are {list(values.shape)}, and [{weeks}, {targets}] was expected: week, target")
    found: npt.NDArray[np.float32] = values.detach().float().reshape(weeks, targets).cpu().numpy()
    return found
