"""The same few weeks at every look, chosen from a loader without disturbing it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError


def fixed_weeks(loader: Any, probe_of: Callable[[Any], Probe], weeks: int, among: int) -> Probe:
    """Return a probe of the `weeks` longest among about the first `among` weeks that a loader has.

    The weeks are read in the order of the data set, in this process, past the loader's workers, so that neither its
    sampler nor any random stream moves. Where the data set itself makes the batches (`batch_size=None`), and for
    iterable data sets, they are the longest of one batch among those that hold the first `among` weeks.

    Raises:
        HeartnetError: the loader is empty.
    """
    best: tuple[int, Probe, list[int]] | None = None
    seen = 0
    with rng_untouched(), generators_untouched(loader):
        for batch in _batches(loader, among):
            probe = probe_of(batch)
            lengths = [int(length) for length in probe.lengths]
            rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])[:weeks]
            total = sum(lengths[row] for row in rows)
            if best is None or total > best[0]:
                best = total, probe, rows
            seen += len(lengths)
            if seen >= among:
                break
    if best is None:
        raise HeartnetError("there are no weeks to measure on: the loader is empty")
    return _select(best[1], best[2])


def leaves(loaders: Any) -> list[Any]:
    """Return the loaders in whatever a trainer was given: one, none, or lists and dicts of them."""
    if loaders is None:
        return []
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return [leaf for each in loaders for leaf in leaves(each)] if isinstance(loaders, list | tuple) else [loaders]


def first_loader(*loaders: Any) -> Any:
    """Return the first loader that has batches, as far as it knows.

    Raises:
        HeartnetError: there is none.
    """
    for leaf in leaves(loaders):
        try:
            empty = len(leaf) == 0
        except TypeError:  # of an iterable data set the length is not known
            empty = False
        if not empty:
            return leaf
    raise HeartnetError("the trainer has no validation or training data, so there are no weeks to measure on")


def _select(probe: Probe, rows: Sequence[int]) -> Probe:
    index = torch.tensor(rows, device=probe.inputs.device)
    return Probe(
        network=probe.network,
        inputs=probe.inputs[index],
        rest=tuple(each[index.to(each.device)] for each in probe.rest),
        lengths=probe.lengths[index.to(probe.lengths.device)],
        outputs=probe.outputs,
        channels=probe.channels,
        dt=None if probe.dt is None else probe.dt[index.to(probe.dt.device)],
    )


def _batches(loader: Any, among: int) -> Iterator[Any]:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        yield from islice(iter(_beside(loader)), among)
        return
    if loader.batch_sampler is None:
        for index in islice(iter(loader.sampler), among):
            yield loader.collate_fn(loader.dataset[index])
        return
    size = min(among, len(loader.dataset))  # type: ignore[arg-type]  # a map-style data set has a length
    if size:
        yield loader.collate_fn([loader.dataset[index] for index in range(size)])


def _beside(loader: Any) -> Any:
    """Return a loader of a copy of an iterable data set, which may be a stream that goes on where it was left."""
    if not isinstance(loader, DataLoader):
        return loader
    try:
        dataset = copy.deepcopy(loader.dataset)
    except Exception:  # what a data set holds, an open file, say, decides what is raised
        return loader
    return DataLoader(dataset, loader.batch_size, collate_fn=loader.collate_fn)


@contextmanager
def generators_untouched(loader: Any) -> Iterator[None]:
    """Put the loader's own random generators back, which a pass over it draws from."""
    sampler = getattr(loader, "sampler", None)
    held = [getattr(each, "generator", None) for each in (loader, sampler, getattr(loader, "batch_sampler", None))]
    before = [(each, each.get_state()) for each in held if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)
