"""Names and order of the conditions, in this one place; everything else matches them by name."""

from collections.abc import Iterable

CONDITIONS: tuple[str, ...] = ("atrial_fibrillation", "sleep_apnea", "diabetes", "hypertension")
"""The four risks that the DeepHeart of the talk predicts, in the order in which Heartnet keeps them."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct `names` in canonical order: those of `CONDITIONS` first, then others by alphabet."""
    distinct = set(names)
    return tuple(name for name in CONDITIONS if name in distinct) + tuple(sorted(distinct - set(CONDITIONS)))
