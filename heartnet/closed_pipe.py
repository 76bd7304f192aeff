"""The end of a command whose output nobody reads any more, such as `python train.py --help | head -3`."""

from __future__ import annotations

import os
import sys

CLOSED = 141
"""Exit status then: what a shell reports of other programs, which the signal SIGPIPE (13) ends."""


def nobody_reads(error: BaseException) -> bool:
    """Say whether an error is that of writing to a closed pipe; rich makes the end of the program of it."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def end_quietly() -> int:
    """Let Python drop what it has still to print, instead of complaining when it ends; return `CLOSED`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED
