"""The two watches of the simulated cohort: how often each measures a heart rate, and how well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Watch:
    """One kind of watch.

    Attributes:
        name: in the table's column `device`.
        shortest_gap, longest_gap: seconds between two heart rates in the background, drawn evenly from these.
        skipped: share of the background's measurements that fail because the wrist moves.
        lost: share of the measurements every few seconds (workouts, some walks) that fail.
        spread: bpm, standard deviation of the watch's own error.
        loose: share of readings that are off by up to some tens of bpm because the strap is loose.
        source: who says so.
    """

    name: str
    shortest_gap: int
    longest_gap: int
    skipped: float
    lost: float
    spread: float
    loose: float
    source: str


CURRENT = Watch(
    "simulated watch", 180, 420, skipped=0.15, lost=0.0, spread=0.0, loose=0.001,
    source="gaps as in recording P355472 (docs/results.md); the rest is assumed",
)  # fmt: skip

FIRST_GENERATION = Watch(
    "simulated watch, first generation", 480, 720, skipped=0.30, lost=0.20, spread=2.5, loose=0.006,
    source="gaps: Apple's support page of May 2015, 'attempts to measure your heart rate every 10 minutes, but won't "
    "record it when you're in motion or your arm is moving'; the rest is assumed: worse in each respect",
)  # fmt: skip

FIRST_GENERATION_SHARE = 0.15
"""Share of people who wear one, whatever their age and health; assumed."""
