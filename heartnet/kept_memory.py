"""Memory that is kept from step to step does not pile up."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytorch_lightning as pl

from heartnet.allocator import give_back

FIRST = 8
"""Steps whose memory is taken for what steps need: some of them are long."""

MOST = 1.6
"""How many times that may lie there."""

SOON = 8
"""Steps within which memory that piles up again costs more time to give back than not to keep at all."""


class KeptMemory(pl.Callback):
    """Gives memory back when a training holds more than `MOST` times what its first steps needed.

    What `heartnet.allocator.keep_memory` keeps falls apart where blocks of one batch seldom fit those of the next,
    whose weeks have other lengths; it came to 10 GB, five times what a step needs. Batches in pieces have blocks of few
    sizes (`heartnet.model.pieces.round_length`), and it does not; so this is for those that cannot be cut, and for what
    diagnostics leave. Where memory piles up again soon, it is not kept any more, up to the end of the training; steps
    then take about a third longer.

    Args:
        resident: returns the bytes of memory that this process has to itself, not counting files that are mapped.
        back: `heartnet.allocator.give_back`.
    """

    def __init__(self, resident: Callable[[], int] | None = None, back: Callable[..., None] = give_back) -> None:
        self._resident = resident or resident_bytes
        self._back = back
        self._step = self._needed = 0
        self._given: int | None = None
        self._keeps = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._step, self._needed, self._given = 0, 0, None

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
        if not self._keeps:
            return
        self._step += 1
        now = self._resident()
        if self._step <= FIRST:
            self._needed = max(self._needed, now)
        elif now > MOST * self._needed:
            self._keeps = self._given is None or self._step - self._given > SOON
            self._back(keep=self._keeps)
            self._needed = max(self._needed, self._resident())  # what did not go back is in use
            self._given = self._step

    def on_exception(self, *args: Any) -> None:  # noqa: ARG002
        self.teardown()

    def teardown(self, *args: Any, **named: Any) -> None:  # noqa: ARG002
        if not self._keeps:  # the next fold, or run of a sweep, may be another
            self._keeps = True
            self._back(keep=True)


def resident_bytes() -> int:
    """Return the bytes of memory that this process has to itself; 0 where the system does not say so as Linux does."""
    try:
        _, resident, mapped, *_ = os.pread(_sizes(os.getpid()), 128, 0).split()
    except (OSError, AttributeError):  # there is no such file, or, on Windows, no such call
        return 0
    return (int(resident) - int(mapped)) * os.sysconf("SC_PAGE_SIZE")


@lru_cache(maxsize=1)
def _sizes(process: int) -> int:  # noqa: ARG001
    """Return the descriptor of a file with the sizes of this process in pages; to open it takes longer than to read it.

    `process` tells it from that of a process it was forked from; its number in `/proc` may be another, in a container.
    """
    return os.open("/proc/self/statm", os.O_RDONLY)
