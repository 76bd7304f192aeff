"""Of how few people with a condition, or without it, no interval is given, wherever scores are shown."""

from __future__ import annotations

from heartnet.diagnostics.comparison import FEWEST


def too_few(having: int, without: int) -> bool:
    """Say whether intervals of the scores of a condition would not keep what they promise.

    Args:
        having: people with it.
        without: people without it; one whose label changes is among both.
    """
    return min(having, without) < FEWEST
