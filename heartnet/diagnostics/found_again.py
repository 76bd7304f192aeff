"""Weeks of which only their place in a pass over some loaders is known, found in them again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from heartnet.diagnostics.contract_batches import parts_of
from heartnet.diagnostics.fixed import generators_untouched, leaves
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.errors import HeartnetError


def weeks_again(loaders: Any, wanted: Collection[int]) -> Iterator[tuple[int, Any, int]]:
    """Yield place, batch and row in it of each wanted week, in the order of the loaders, which are passed over once.

    Places count all weeks of one loader after the other, from 0. No random stream moves, the loaders' own included; of
    a loader that shuffles, what comes is not what came before, so whoever asks has to compare.

    Raises:
        HeartnetError: a loader is a stream, which cannot be read again.
    """
    left = set(wanted)
    place = 0
    for loader in leaves(loaders):
        if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
            raise HeartnetError("the data are a stream, which cannot be read again")
        with ExitStack() as guards:
            guards.enter_context(rng_untouched())
            guards.enter_context(generators_untouched(loader))
            for batch in loader:
                count = parts_of(batch).weeks
                for week in sorted(left.intersection(range(place, place + count))):
                    left.discard(week)
                    yield week, batch, week - place
                place += count
                if not left:
                    return
