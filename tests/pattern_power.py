"""How many people it takes to find a loss pattern, by how many it touches and how much it harms, in drawn labels.

PYTHONPATH=tests python tests/pattern_power.py 10           # cohorts of each kind; the table of docs/techniques.md
PYTHONPATH=tests python tests/pattern_power.py 10 device    # where the pattern is a device, of which ranks are asked
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
from test_loss_patterns import labels, people, search

PEOPLE = (500, 1000, 2000, 4000, 8000)
"""One week each, with scores of AUROC 0.80 where nothing harms them, and half of them with the condition."""

TOUCHED = (0.1, 0.3)
"""Share of people, who are of the old one of two kinds."""

LEFT = {"nothing": 0.0, "half": 0.5}
"""How steep the log odds of the label are in those of the score, for whom the pattern holds; 1 for the others."""


def found(column: str, count: int, touched: float, left: float, cohorts: int) -> int:
    """Return in how many cohorts the old kind is named, which is told by a column."""
    named = 0
    for seed in range(cohorts):
        table, signal, rng = people(9000 + seed, count)
        old = rng.random(count) < touched
        table = table.with_columns(pl.Series(column, np.where(old, "old", "new")))
        it = search(table, signal, labels(rng, table, np.where(old, left * signal, signal)))
        named += any(f"{column} = old" in pattern.words for pattern in it.patterns)
    return named


if __name__ == "__main__":
    cohorts, column = int(sys.argv[1]), (sys.argv[2:] or ["kind"])[0]
    print("| people in the test |", " | ".join(f"{share:.0%}, {name} left" for share in TOUCHED for name in LEFT), "|")
    print("|---|" + "---|" * len(TOUCHED) * len(LEFT))
    for count in PEOPLE:
        row = [found(column, count, touched, left, cohorts) for touched in TOUCHED for left in LEFT.values()]
        print(f"| {count:,} |", " | ".join(f"{each} of {cohorts}" for each in row), "|", flush=True)
