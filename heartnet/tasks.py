"""What a network is trained to predict: conditions, or synthetic targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from heartnet.conditions import in_order
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.synthetic import check_targets, synthetic_targets
from heartnet.weeks import Weeks

Kind = Literal["conditions", "synthetic"]


class Task(Protocol):
    """Names and values of the targets; `kind` decides loss and metrics."""

    kind: Kind

    def names(self, weeks: Weeks) -> tuple[str, ...]: ...

    def values(self, weeks: Weeks) -> npt.NDArray[np.float32]:
        """Return `[week, target]`, NaN where missing."""
        ...


class Conditions:
    """Predict conditions: 1, 0 or missing, matched by name.

    Args:
        conditions: which of the data's conditions; None takes all of them. Their order is always the canonical one.

    Raises:
        HeartnetError: an empty list.
    """

    kind: Kind = "conditions"

    def __init__(self, conditions: Sequence[str] | None = None) -> None:
        _check_some("task.conditions", conditions)
        self.conditions = None if conditions is None else in_order(conditions)

    def names(self, weeks: Weeks) -> tuple[str, ...]:
        """Return the conditions in canonical order.

        Raises:
            HeartnetError: the data has no labels, or lacks a condition that was asked for.
        """
        if not weeks.conditions:
            raise HeartnetError(
                "the data has no labels, so there are no conditions to predict; "
                "prepare it with --labels, or train on a synthetic target: task=synthetic"
            )
        if self.conditions is None:
            return weeks.conditions
        for name in self.conditions:
            if name not in weeks.conditions:
                raise HeartnetError(
                    f"task.conditions: the data has no condition {name!r}; it has {', '.join(weeks.conditions)}."
                    f"{did_you_mean(name, weeks.conditions)}"
                )
        return self.conditions

    def values(self, weeks: Weeks) -> npt.NDArray[np.float32]:
        """Return `[week, condition]`: 1, 0 or NaN."""
        columns = weeks.table.select(self.names(weeks)).to_numpy()
        return np.asarray(columns, dtype=np.float32)


class Synthetic:
    """Predict deterministic functions of the week (`heartnet.synthetic`).

    Args:
        targets: their names, of `heartnet.synthetic.TARGETS`.

    Raises:
        HeartnetError: an empty list, an unknown name, or one that stands twice.
    """

    kind: Kind = "synthetic"

    def __init__(self, targets: Sequence[str] = ("day_std_minus_night_std",)) -> None:
        _check_some("task.targets", targets)
        self.targets = tuple(targets)
        check_targets(self.targets)

    def names(self, weeks: Weeks) -> tuple[str, ...]:  # noqa: ARG002 -- every week has them
        return self.targets

    def values(self, weeks: Weeks) -> npt.NDArray[np.float32]:
        """Return `[week, target]` in natural units, NaN where a week has not enough data."""
        return synthetic_targets(weeks, self.targets)


def _check_some(option: str, names: Sequence[str] | None) -> None:
    if names is not None and len(names) == 0:
        raise HeartnetError(f"{option}=[]: names nothing to predict; name at least one, or leave it at its default")
