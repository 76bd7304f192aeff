"""How often labels change within a person: flipped ones at random, true ones seldom or in stretches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from heartnet.diagnostics.overfit_simple import targets_of

LIMIT = 0.5
"""Changes, over those of chance, above which labels count as random in time: that of stretches of four weeks where half
of all labels are positive. Labels of which 30 % are flipped are expected at 0.84 or above, whatever is true of them."""
LEAST_SHARE = 0.1
"""Of the weeks, that must disagree with their person's majority; a few wrong labels are no fault of the pipeline."""
LEAST_PEOPLE = 10
"""With two known weeks or more."""

_PEOPLE = ("user_id", "user", "subject", "patient", "person")
_TIMES = ("start", "time", "date", "week", "day")
_ONE_SIDED = 1.645


@dataclass(frozen=True)
class Changes:
    """How a target changes in the weeks of people who have two known ones or more.

    Attributes:
        people, weeks: how many those are.
        changing: of the people, those whose label changes at all.
        changes: from one known week to the next of the same person.
        over_chance: changes over those expected if each week had the label of any week of anybody; 0 where all labels
            are the same.
        low: lower end of its interval, above which it is with 95 %, for other people from the same source.
        minority: share of the weeks that disagree with their person's majority; of a tie, half of the weeks.
        flips: share of labels that would have to be flipped to make as many changes of labels that never change.
        rows: places of weeks that disagree with their person's majority, those against the largest majority first.
    """

    people: int
    weeks: int
    changing: int
    changes: int
    over_chance: float
    low: float
    minority: float
    flips: float
    rows: Int[np.ndarray, " week"]

    @property
    def at_random(self) -> bool:
        """Whether labels change as flipped ones do."""
        return self.people >= LEAST_PEOPLE and self.low > LIMIT and self.minority >= LEAST_SHARE


def label_changes(
    people: Shaped[np.ndarray, " week"],
    times: Shaped[np.ndarray, " week"],
    targets: Float[np.ndarray, "week target"],
) -> list[Changes]:
    """Count, for each target, how often it changes from a week to the next known one of the same person.

    A condition hardly ever changes, and a rhythm comes in stretches: both change far less than chance. A flipped label
    differs from the weeks before and after it. A condition that truly comes and goes from week to week looks the same.
    Flips leave no trace where each person has one known week, nor where all weeks of a person are flipped together.

    Args:
        people: whose each week is.
        times: when it begins, in anything that can be sorted.
        targets: 0, 1 or NaN.
    """
    number = np.unique(people, return_inverse=True)[1]
    order = np.lexsort((times, number))
    return [_changes(number[order], column[order], order) for column in targets.T]


def _changes(person: Any, label: Any, rows: Any) -> Changes:
    known = ~np.isnan(label)
    several = known & (np.bincount(person, known)[person] > 1)
    person, label, rows = np.unique(person[several], return_inverse=True)[1], label[several] > 0.5, rows[several]
    if not len(label):
        return Changes(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, rows)
    weeks, positive = np.bincount(person), np.bincount(person, label)
    changed = (label[1:] != label[:-1]) & (person[1:] == person[:-1])
    changes, pairs = np.bincount(person[1:], changed, len(weeks)), weeks - 1
    over_chance, error = _over_chance(changes, pairs, weeks, positive)
    more = (weeks - 2 * positive)[person]  # negative weeks than positive ones
    margin = np.where(label, more, -more)
    first = np.argsort(-margin, kind="stable")
    share = min(changes.sum() / pairs.sum(), 0.5)
    return Changes(
        people=len(weeks),
        weeks=len(label),
        changing=int((changes > 0).sum()),
        changes=int(changes.sum()),
        over_chance=over_chance,
        low=over_chance - _ONE_SIDED * error,
        minority=float(np.minimum(positive, weeks - positive).sum() / len(label)),
        flips=(1 - math.sqrt(1 - 2 * share)) / 2,
        rows=rows[first[margin[first] > 0]],
    )


def _over_chance(changes: Any, pairs: Any, weeks: Any, positive: Any) -> tuple[float, float]:
    """Return changes over chance, and its standard error, people being drawn: by how far each moves it (delta method).

    Two weeks drawn of all differ with 2 p (1 - p).
    """
    p = positive.sum() / weeks.sum()
    if not 0 < p < 1:
        return 0.0, 0.0
    value = changes.sum() / (pairs.sum() * 2 * p * (1 - p))
    slope = (1 - 2 * p) / (p * (1 - p))
    moves = changes / (pairs.sum() * 2 * p * (1 - p)) - value * (
        pairs / pairs.sum() + slope * (positive - p * weeks) / weeks.sum()
    )
    return float(value), float(np.sqrt(np.square(moves).sum()))


@dataclass(frozen=True)
class Histories:
    """Weeks to train on.

    Attributes:
        people, times, targets: as `label_changes` takes them.
        rows: what each week is called in the data (`row 17`).
    """

    people: Shaped[np.ndarray, " week"]
    times: Shaped[np.ndarray, " week"]
    targets: Float[np.ndarray, "week target"]
    rows: Sequence[str]


def histories(data: Any, batches: Sequence[Any], *, whole: bool) -> Histories | None:
    """Return whose and when the weeks to train on are; None where that is not known, or targets have no classes.

    Of heartnet's own data all training weeks, by `user_id` and `start`. Of other data those in the batches, if they are
    mappings that hold `user_id`, `user`, `subject`, `patient` or `person`, and `start`, `time`, `date`, `week` or
    `day`.

    Args:
        data: the trainer's data module, if there is one.
        batches: that were seen.
        whole: whether those are all. Of some weeks, neighbours may be far apart, and stretches be torn.
    """
    table = getattr(getattr(data, "weeks", None), "table", None)
    rows, values = getattr(data, "rows", None), getattr(data, "values", None)
    if table is not None and isinstance(rows, Mapping) and "train" in rows and isinstance(values, np.ndarray):
        chosen = rows["train"]
        told = values[chosen].astype(np.float64)
        if not np.isin(told[~np.isnan(told)], (0, 1)).all():
            return None
        people, times = (table[name].to_numpy()[chosen] for name in ("user_id", "start"))
        return Histories(people.astype(str), times, told, [f"row {row}" for row in chosen])
    targets = targets_of(batches)
    if not whole or targets is None or not all(isinstance(each, Mapping) for each in batches):
        return None
    columns = [_column(batches, names) for names in (_PEOPLE, _TIMES)]
    if any(each is None or len(each) != len(targets[0]) for each in columns):
        return None
    people, times = columns
    return Histories(people, times, targets[0], [f"week {i}" for i in range(len(targets[0]))])


def _column(batches: Sequence[Mapping[Any, Any]], names: Sequence[str]) -> Any:
    name = next((each for each in names if all(each in batch for batch in batches)), None)
    if name is None:
        return None
    parts = [batch[name] for batch in batches]
    flat = [each.cpu().numpy() if isinstance(each, Tensor) else np.asarray(each) for each in parts]
    return np.concatenate(flat) if all(each.ndim == 1 for each in flat) else None
