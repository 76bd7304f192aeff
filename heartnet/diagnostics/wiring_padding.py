"""Do padding, the company of other samples, and the order of a batch change scores?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from heartnet.diagnostics.replay import rows_of, tensors_in
from heartnet.diagnostics.wiring import Bench, differs, map_tensors

LONGER = 17
"""Steps of padding that are added."""


@dataclass(frozen=True)
class Padding:
    """Largest differences of scores, over the largest score; None where it cannot be told.

    Attributes:
        longer: when the batch is padded further.
        alone: when a sample comes alone, without padding where its length is known.
        order: when the batch comes in reverse order.
    """

    longer: float | None
    alone: float | None
    order: float | None


def padding(bench: Bench) -> Padding:
    """Return how much scores depend on padding and on the batch, in evaluation mode."""
    before = bench.scores().detach()
    size = bench.size
    backwards = list(reversed(range(size)))
    order = None
    if size > 1:
        turned = bench.scores(rows_of(bench.tree, backwards)).detach()
        order = differs(before, turned[backwards]) if turned.shape == before.shape else None
    time = _time(bench)
    longer = None
    if time is not None:
        more = bench.scores(map_tensors(bench.tree, lambda value: _padded(value, time, size))).detach()
        longer = differs(before, more)
    return Padding(longer, _alone(bench, before, time), order)


def _time(bench: Bench) -> int | None:
    """Return the steps of a batch with known lengths; None where something else says which steps are valid."""
    if bench.lengths is None:
        return None
    tensors = [each for each in tensors_in(bench.tree) if each.dim() > 1 and len(each) == bench.size]
    steps = next((each.shape[1] for each in tensors if each.is_floating_point()), None)
    masks = [each for each in tensors if not each.is_floating_point() and each.shape[1] == steps]
    return None if steps is None or masks or int(bench.lengths.max()) > steps else steps


def _padded(value: Tensor, time: int, size: int) -> Tensor:
    if value.dim() < 2 or value.shape[:2] != (size, time):
        return value
    return F.pad(value, (*(0 for _ in range(2 * (value.dim() - 2))), 0, LONGER))


def _unpadded(value: Tensor, *, time: int, own: int) -> Tensor:
    return value[:, :own] if value.shape[1:2] == (time,) else value


def _alone(bench: Bench, before: Tensor, time: int | None) -> float | None:
    found = []
    for i in range(bench.size if bench.size > 1 else 0):
        one: Any = rows_of(bench.tree, [i])
        if time is not None and bench.lengths is not None:
            one = map_tensors(one, partial(_unpadded, time=time, own=int(bench.lengths[i])))
        try:
            score = bench.scores(one).detach()
        except Exception:  # a batch of one is more than some modules can take
            return None
        found.append(differs(before[i : i + 1], score) if score.shape == before[i : i + 1].shape else None)
    known = [each for each in found if each is not None]
    return max(known) if known and len(known) == len(found) else None
