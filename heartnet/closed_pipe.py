"""The end of a command whose output nobody reads any more, such as `python train.py --help | head -3`."""

from __future__ import annotations

import os
import select
import sys

CLOSED = 141
"""Exit status then: what a shell reports of other programs, which the signal SIGPIPE (13) ends."""


def print_all() -> None:
    """Print what still waits; at the very end of Python it could not be told any more if nobody reads it."""
    if sys.stdout is not None:  # as it is where a command was started without one (>&-)
        sys.stdout.flush()


def nobody_reads(error: BaseException) -> bool:
    """Say whether an error is that of printing to a closed pipe; rich makes the end of the program of it.

    Other pipes, such as those to processes that load data, break with the same error.
    """
    if isinstance(error, SystemExit):
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError) and _printing_fails()


def end_quietly() -> int:
    """Let Python drop what it has still to print, instead of complaining when it ends; return `CLOSED`."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED


def _printing_fails() -> bool:
    """Say whether what stdout or stderr goes to is closed at its other end; where that is not known, it is."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    for stream in (1, 2):
        asked.register(stream, 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in asked.poll(0))
