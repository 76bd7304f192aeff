"""What becomes of the memory that a training step is done with, where glibc says so."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8  # of malloc.h
_MB = 2**20


def keep_memory() -> bool:
    """Let this process keep memory that it frees for its next step, on Linux with glibc; elsewhere, do nothing.

    A step of the full model asks for a gigabyte in blocks of up to 85 MB. glibc gives such blocks back to the system
    when they are freed, and the system clears each page when it is asked for again: a quarter of the time of a step.
    Blocks of up to 256 MB are kept here, in one place for all threads, so memory stays at its peak.

    To be called before the first thread starts: the memory of one that came before is in another place, where blocks of
    more than 64 MB are given back as ever, and later threads would share it.

    Who has set glibc's allocator in the environment (`MALLOC_…`, `GLIBC_TUNABLES`) keeps that.

    Returns:
        whether it was done.

    Source: mallopt(3).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # others have a mallopt too, with other numbers
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # glibc before 2.35 refuses a threshold above 32 MB: there, blocks of any size are kept.
    kept = mallopt(_MMAP_THRESHOLD, 256 * _MB) == 1 or mallopt(_MMAP_MAX, 0) == 1
    return bool(kept and mallopt(_TRIM_THRESHOLD, 2048 * _MB - 1) == 1 and mallopt(_ARENA_MAX, 1) == 1)


def give_back(*, keep: bool) -> None:
    """Give free memory back to the system, where `keep_memory` keeps it; elsewhere, do nothing.

    Args:
        keep: whether what is freed from now on is kept. Otherwise blocks of more than 32 MB go back as soon as they are
            freed, and the end of what is free from 64 MB on: where glibc itself ends in a training.

    Source: mallopt(3), malloc_trim(3).
    """
    if not keep_memory():
        return
    library = ctypes.CDLL(None)
    if not keep:
        library.mallopt(_MMAP_THRESHOLD, 32 * _MB)
        library.mallopt(_TRIM_THRESHOLD, 64 * _MB)
    library.malloc_trim(0)
