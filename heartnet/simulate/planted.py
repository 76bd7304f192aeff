"""What can be planted in a simulated cohort to be found again: weeks whose heart rate tells nothing of the person.

In a week that it touches, the traits that conditions move are those of a stranger, drawn anew for each week: the heart
rate looks like anybody's, and tells of nobody's condition, but for atrial fibrillation. Nothing but the planted
property tells which weeks those are. A network that has learned from the others what a heart rate means is wrong about
these, as one is about watches that measure badly, about people who exercise much, and about travellers, but all the
more so; it is there to be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.simulate.literature import EFFECTS
from heartnet.simulate.people import Person
from heartnet.simulate.travel import Clocks
from heartnet.simulate.watches import FIRST_GENERATION

WATCH, EXERCISE, TRAVEL = "first_generation_watch", "heavy_exercise", "travel"

PLANTED: Mapping[str, str] = {
    WATCH: "what first-generation watches measure tells nothing",
    EXERCISE: "some people work out nearly every day for an hour, and their heart rate tells of training alone",
    TRAVEL: "some people cross time zones every month, and heart rate tells nothing in weeks off the body's clock",
}
"""What can be planted, and what it means."""

SHARE = 0.2
"""Of people, whatever their age and health, whom each adds; some wear such a watch, or travel, anyway."""

WORKOUTS, WORKOUT_LENGTH, JOURNEYS = 6.5, 2.5, 13.0
"""Of those added: workouts a week, how much longer they are than those of others, journeys a year."""


_MOVED = tuple(dict.fromkeys(effect.trait for effect in EFFECTS if effect.condition != "atrial_fibrillation"))


def check_planted(planted: Sequence[str]) -> tuple[str, ...]:
    """Return what is to be planted, in the order of `PLANTED`.

    Raises:
        HeartnetError: no sequence of names, or one that is unknown.
    """
    if isinstance(planted, str) or not all(isinstance(name, str) for name in planted):
        raise HeartnetError(f"simulate: planted is {planted!r}; a list of names is expected, of {', '.join(PLANTED)}.")
    for name in planted:
        if name not in PLANTED:
            raise HeartnetError(
                f"simulate: planted names {name!r}, which cannot be planted; there are {', '.join(PLANTED)}."
                f"{did_you_mean(name, PLANTED)}"
            )
    return tuple(name for name in PLANTED if name in planted)


def planted_in(person: Person, planted: Sequence[str], rng: np.random.Generator) -> Person:
    """Return the person as planted; the same draws are made whatever is planted.

    Args:
        planted: of `check_planted`.
        rng: of the person, for nothing else.
    """
    wears, exercises, travels = rng.random(3) < SHARE
    if WATCH in planted and wears:
        person = replace(person, watch=FIRST_GENERATION)
    if EXERCISE in planted and exercises:
        person = replace(person, traits={**person.traits, "workouts": WORKOUTS}, workout_length=WORKOUT_LENGTH)
    if TRAVEL in planted and travels:
        person = replace(person, traits={**person.traits, "journeys": JOURNEYS})
    return person


def is_touched(person: Person, clocks: Clocks, planted: Sequence[str]) -> bool:
    """Return whether a week is one of those that tell nothing."""
    return (
        (WATCH in planted and person.watch is FIRST_GENERATION)
        or (EXERCISE in planted and person.workout_length > 1)
        or (TRAVEL in planted and clocks.farthest != 0)
    )


def as_a_stranger(person: Person, stranger: Person) -> Person:
    """Return the person with the stranger's traits where conditions move them, but for fibrillation."""
    return replace(person, traits={**person.traits, **{name: stranger.traits[name] for name in _MOVED}})
