"""Batches of a loader before training, read without a trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from heartnet.diagnostics.isolate import rng_untouched

_FAR = 10_000
"""Batches of a loader among which to choose: it may have no end."""


def look_ahead(loader: Any, count: int) -> list[tuple[Any, Any]]:
    """Return up to `count` batches, spread evenly over those of a loader, each with its indices.

    They are read in this process, past the loader's workers, with a copy of its sampler, whose random order may be
    another than the loader will serve. Random streams are put back, those of torch, NumPy and Python as well as
    generators that the data set holds. Nothing is returned where that cannot be done: for iterable data sets, which
    reading may use up, for loaders of another kind, for samplers that cannot be copied, and for data sets that cannot
    be read in this process.
    """
    if count < 1 or not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return []
    with rng_untouched(), _own_generators_untouched(loader.dataset):
        try:
            sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
            served = copy.deepcopy(sampler, {id(loader.dataset): loader.dataset})
            indices = list(islice(iter(served), _FAR))
            chosen = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))
            return [(indices[i], _batch(loader, indices[i])) for i in chosen]
        except Exception:  # whatever stops a foreign data set here stops its own workers too, or is no matter
            return []


def _batch(loader: DataLoader[Any], index: Any) -> Any:
    if loader.batch_sampler is None:
        return loader.collate_fn(loader.dataset[index])
    at_once = getattr(loader.dataset, "__getitems__", None)
    return loader.collate_fn(at_once(index) if callable(at_once) else [loader.dataset[each] for each in index])


@contextmanager
def _own_generators_untouched(dataset: Any) -> Iterator[None]:
    """Put back the random generators that a data set, or one that it wraps, holds as an attribute."""
    restore: list[Callable[[], object]] = []
    while dataset is not None:
        for value in vars(dataset).values() if hasattr(dataset, "__dict__") else ():
            restore += _restorer(value)
        dataset = getattr(dataset, "dataset", None)
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


def _restorer(value: Any) -> list[Callable[[], object]]:
    if isinstance(value, torch.Generator):
        return [partial(value.set_state, value.get_state())]
    if isinstance(value, np.random.Generator):
        return [partial(setattr, value.bit_generator, "state", copy.deepcopy(value.bit_generator.state))]
    if isinstance(value, np.random.RandomState):
        return [partial(value.set_state, value.get_state())]
    if isinstance(value, random.Random):
        return [partial(value.setstate, value.getstate())]
    return []
