"""A few weeks of a training split, chosen so that each condition has both classes, without disturbing its loader."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from heartnet.diagnostics.contract_batches import parts_of
from heartnet.diagnostics.fixed import generators_untouched
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.replay import batch_size, rows_of, tensors_in
from heartnet.errors import HeartnetError

_EACH_CLASS = 2
"""Weeks of each class of each condition that are wanted."""


@dataclass(frozen=True)
class FewWeeks:
    """What a network shall learn by heart, and more weeks to judge the task by.

    Attributes:
        batches: the few, in batches of the loader's size; on the device that `place` put them.
        total: weeks that a pass over the loader has, as far as can be told; None if it cannot.
        names: what each of the few is called in the data (`row 17`), in the order of the batches.
        seen: the few and more, in batches on the CPU.
    """

    batches: Sequence[Any]
    total: int | None
    names: Sequence[str]
    seen: Sequence[Any]

    @property
    def count(self) -> int:
        return len(self.names)


def few_weeks(
    loader: Any, share: float, least: int, most: int, among: int, place: Callable[[Any], Any] = lambda batch: batch
) -> FewWeeks:
    """Choose a few weeks of a loader: a share of all, at least two of each class of each condition where there are.

    They are read in this process, past the loader's workers. Which ones is a function of the data alone: a permutation
    with a fixed seed. A data set that makes its own batches of unknown weeks, and an iterable one, gives whole batches.

    Args:
        share: of the weeks of the split.
        least, most: bounds of how many.
        among: weeks that are looked at to choose from.
        place: brings a batch to the device.

    Raises:
        HeartnetError: the loader has no weeks.
    """
    with rng_untouched(), generators_untouched(loader):
        keys, make, size = _keys(loader)
        if keys is None:
            return _whole_batches(loader, share, least, most, among, place)
        if not keys:
            raise HeartnetError("the training data is empty, so there are no weeks to learn by heart")
        order = np.random.default_rng(0).permutation(len(keys))[:among]
        asked = [keys[i] for i in order]
        seen = [make(asked[i : i + size]) for i in range(0, len(asked), size)]
        count = min(max(least, round(share * len(keys))), most, len(asked))
        picks = choose(_targets(seen, len(asked)), count)
        chosen = [asked[i] for i in picks]
        batches = [place(make(chosen[i : i + size])) for i in range(0, count, size)]
    return FewWeeks(batches, len(keys), [f"row {key}" for key in chosen], seen)


def choose(targets: Float[np.ndarray, "week target"] | None, count: int) -> list[int]:
    """Return the places of `count` weeks: first two of each class of each target, the rarest class first, then others.

    Targets with more than twenty values have no classes.
    """
    picks: list[int] = []
    if targets is None:
        return list(range(count))
    groups = []
    for column in targets.T:
        values = np.unique(column[~np.isnan(column)])
        groups += [np.flatnonzero(column == value) for value in values if len(values) <= 20]
    for group in sorted(groups, key=len):
        held = len(set(group) & set(picks))
        free = [int(i) for i in group if i not in picks]
        picks += free[: max(0, min(_EACH_CLASS - held, count - len(picks)))]
    picks += [i for i in range(len(targets)) if i not in picks][: count - len(picks)]
    # The classes are spread over the batches, as they are in training.
    return [picks[i] for i in np.random.default_rng(1).permutation(len(picks))]


def shortened(batch: Any, readings: int) -> Any:
    """Return a batch with at most so many readings of each week, the first ones; as it is if it gives no lengths."""
    lengths = batch.get("lengths") if isinstance(batch, dict) else None
    inputs = parts_of(batch).inputs
    if not isinstance(lengths, Tensor) or inputs is None or inputs.shape[1] <= readings:
        return batch
    steps = inputs.shape[1]

    def cut(value: Any) -> Any:
        if value is lengths:
            return value.clamp(max=readings)
        long = isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == steps
        return value[:, :readings] if long else value

    return {key: cut(value) for key, value in batch.items()}


def with_inputs(batch: Any, change: Callable[[Tensor], Tensor]) -> Any | None:
    """Return a batch whose inputs are changed by a function of `[week, …]`; None if it has none that can be told."""
    inputs = parts_of(batch).inputs
    if inputs is None:
        return None
    held = inputs.untyped_storage().data_ptr()
    here = [each for each in tensors_in(batch) if each.is_floating_point() and each.dim() >= 2]
    mine = [each for each in here if each.untyped_storage().data_ptr() == held and each.numel() == inputs.numel()]
    return _swapped(batch, mine[0], change(mine[0])) if mine else None


def _swapped(value: Any, old: Tensor, new: Tensor) -> Any:
    if value is old:
        return new
    if isinstance(value, dict):
        return {key: _swapped(each, old, new) for key, each in value.items()}
    if isinstance(value, list | tuple):
        parts = [_swapped(each, old, new) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _keys(loader: Any) -> tuple[list[int] | None, Callable[[list[int]], Any], int]:
    """Return what single weeks are called, how to make a batch of some, and how many a batch has; None if unknown."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None, list, 0
    data, own = loader.dataset, loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    # Samplers may count epochs or draw numbers; the data they hold need not be copied.
    memo = {id(data): data} | {id(each): each for each in (getattr(loader.sampler, "data_source", None),) if each}
    drawn = [np.asarray(each).reshape(-1) for each in islice(iter(copy.deepcopy(own, memo)), 100_000)]
    whole = loader.batch_sampler is None and all(each.size == 1 for each in drawn)
    if whole or not all(np.issubdtype(each.dtype, np.integer) for each in drawn):
        return None, list, 0
    keys = sorted({int(key) for each in drawn for key in each})
    size = max((each.size for each in drawn), default=1)
    if loader.batch_sampler is None:
        return keys, lambda some: loader.collate_fn(data[np.array(some)]), size
    return keys, lambda some: loader.collate_fn([data[key] for key in some]), size


def _whole_batches(
    loader: Any, share: float, least: int, most: int, among: int, place: Callable[[Any], Any]
) -> FewWeeks:
    seen, weeks = list[Any](), 0
    for batch in _batches(loader):
        seen.append(batch)
        weeks += batch_size(batch) or 0
        if weeks >= among:
            break
    if not weeks:
        raise HeartnetError("the training data is empty, so there are no weeks to learn by heart")
    try:
        total: int | None = len(loader) * max(batch_size(each) or 0 for each in seen)
    except TypeError:  # an iterable data set need not know how long it is
        total = None
    wanted = min(max(least, round(share * (total or weeks))), most)
    batches, names = [], list[str]()
    for i, batch in enumerate(seen):
        rows = range(min(batch_size(batch) or 0, wanted - len(names)))
        if len(rows):
            batches.append(place(rows_of(batch, rows)))
            names += [f"week {row} of batch {i}" for row in rows]
    return FewWeeks(batches, total, names, seen)


def _batches(loader: Any) -> Iterator[Any]:
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        for key in copy.deepcopy(loader.sampler, {id(loader.dataset): loader.dataset}):
            yield loader.collate_fn(loader.dataset[key])
    else:
        yield from iter(loader)


def _targets(batches: Sequence[Any], count: int) -> Float[np.ndarray, "week target"] | None:
    found = [parts_of(batch).targets for batch in batches]
    widths = {None if each is None else each.shape[1] for each in found}
    if len(widths) != 1 or None in widths or sum(len(each) for each in found if each is not None) != count:
        return None
    return np.asarray(torch.cat([each for each in found if each is not None]).double().cpu().numpy())
