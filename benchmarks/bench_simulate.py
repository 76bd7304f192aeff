"""How many weeks a second one thread simulates, and how many readings: `python benchmarks/bench_simulate.py`."""

from __future__ import annotations

import argparse
import time

from heartnet.simulate import simulate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--weeks", type=int, default=5, help="weeks a user")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    seconds, readings = [], 0
    for seed in range(options.repeats):
        start = time.process_time()  # of the process: other programs on the machine do not count
        readings = len(simulate(options.users, options.weeks, seed).readings)
        seconds.append(time.process_time() - start)
    weeks, best = options.users * options.weeks, min(seconds)
    print(f"{weeks / best:,.0f} weeks/s, {readings / best:,.0f} readings/s (best of {len(seconds)}, one thread)")


if __name__ == "__main__":
    main()
