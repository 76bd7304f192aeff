"""How many weeks a second one thread simulates, and how many readings."""

from __future__ import annotations

import statistics
import time

from benchmarks.table import Row
from heartnet.simulate import simulate


def rows(*, quick: bool = False) -> list[Row]:
    users, weeks = 20 if quick else 200, 5
    seconds, readings = [], []
    for seed in range(1 if quick else 3):
        start = time.process_time()  # of the process: other programs on the machine do not count
        readings.append(len(simulate(users, weeks, seed).readings))
        seconds.append(time.process_time() - start)
    took = statistics.median(seconds)
    return [
        Row("simulated weeks", users * weeks / took, "weeks/s"),
        Row("simulated readings", statistics.median(readings) / took, "readings/s"),
    ]
