"""Memory that is kept from step to step does not pile up."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

MOST = 1.5
"""How many times the memory of a step may lie there before it is given back."""

_STATUS = Path("/proc/self/status")


class KeptMemory(pl.Callback):
    """Gives free memory back to the system when a training holds more than `MOST` times what a step needs.

    What `heartnet.allocator.keep_memory` keeps falls apart slowly: blocks of one batch seldom fit those of the next,
    whose weeks have other lengths. Of the full model with 16 weeks a batch it was twice what a step needs after 24
    steps, and 10 GB after some hundred. Giving it back costs the next step a quarter of its time, once in some tens of
    steps. What a step needs is taken to be there at the end of the first one, and of each that follows such a return;
    the most of these counts. What diagnostics needed between steps goes back in the same way.

    Args:
        resident: returns the bytes of memory that this process has to itself, not counting files that are mapped.
        trim: gives back what is free.
    """

    def __init__(self, resident: Callable[[], int] | None = None, trim: Callable[[], None] | None = None) -> None:
        self._resident = resident or resident_bytes
        self._trim = trim or give_back
        self._needed = 0
        self._fresh = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self._trim()
        self._fresh = True

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ARG002
        now = self._resident()
        if self._fresh:
            self._needed, self._fresh = max(self._needed, now), False
        elif now > MOST * self._needed:
            self._trim()
            self._fresh = True


def resident_bytes() -> int:
    """Return the bytes of memory that this process has to itself; 0 where the system does not say so as Linux does."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def give_back() -> None:
    """Give free memory back to the system, where glibc is there to do so. Source: malloc_trim(3)."""
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # others have no malloc_trim, or another
        library.malloc_trim(0)
