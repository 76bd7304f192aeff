"""What a run's folder says of its network beside its scores: how it forgets, falls silent, how large and fast it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from heartnet.errors import HeartnetError
from heartnet.folders import newest_checkpoint
from heartnet.report.events import steps_a_second
from heartnet.report.folder import Run


def decades(run: Run) -> dict[str, float]:
    """Return how much the network forgets, by anchor, the most of all its outputs and folds."""
    newest: dict[str, tuple[str, float | None]] = {}
    for each in run.findings:
        if each.check == "amnesia" and "/" in each.where:
            newest[each.where] = each.where.rpartition("/")[2], each.value
    found: dict[str, float] = {}
    for anchor, value in newest.values():
        if value is not None:
            found[anchor] = max(value, found.get(anchor, -math.inf))
    return found


def silent(run: Run) -> float | None:
    """Return the share of a layer's units that fall silent in workouts, of the worst layer at the last look."""
    told = [each for each in run.findings if each.check == "cadence" and each.value is not None]
    last = max((each.step for each in told), default=0)
    return max((each.value for each in told if each.step == last and each.value is not None), default=None)


def pace(run: Run) -> float | None:
    """Return weeks a second in training, the median over steps; of a cross-validation, over folds."""
    data, trainer = (run.values.get(name) for name in ("data", "trainer"))
    size = data.get("batch_size") if isinstance(data, Mapping) else None
    times = trainer.get("accumulate_grad_batches", 1) if isinstance(trainer, Mapping) else 1
    if not isinstance(size, int) or not isinstance(times, int):
        return None
    found = [steps_a_second(run.folder / part, "train/loss") for part in run.parts]
    known = [each for each in found if each is not None]
    return float(np.median(known)) * size * times if known else None


def weights(folder: Path) -> int | None:
    """Return how many weights the network learns, by its newest checkpoint."""
    from heartnet.module import HeartnetModule

    path = newest_checkpoint(folder)
    if path is None:
        return None
    try:
        network = HeartnetModule.from_checkpoint(path).network
    except HeartnetError:
        return None
    return sum(each.numel() for each in network.parameters())
