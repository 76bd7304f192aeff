"""The error that a user can act on, and the suggestion of the nearest right word."""

import difflib
from collections.abc import Iterable


class HeartnetError(Exception):
    """Bad input: the message says what was found, where, what was expected and what to do. Exit status 2."""


class StoppedError(HeartnetError):
    """A check ended the run before it trained, as `stop_on_fail` asked for. Exit status 1."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the option nearest to `word`, or an empty string if none is near."""
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
