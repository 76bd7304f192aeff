"""Runs the benchmarks, each in a process of its own, prints one table and adds it to `benchmarks/RESULTS.md`.

python -m benchmarks                      # all of them, in less than 25 minutes on two cores
python -m benchmarks --only training      # one; may be named several times
python -m benchmarks --quick              # small sizes, to see that all of it works; nothing is written
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from importlib import import_module
from pathlib import Path

from benchmarks.measure import Machine
from benchmarks.table import Row, as_markdown, as_text
from heartnet.allocator import keep_memory

NAMES = (
    "startup", "training", "overhead", "amnesia", "heatmap", "callbacks", "loader", "prepare", "apple_health",
    "simulate", "growth", "gpu",
)  # fmt: skip
"""In the order in which they run; `bench_thinning` needs recordings and is run by itself."""

RESULTS = Path(__file__).parent / "RESULTS.md"
AS_USERS_RUN = ("callbacks", "startup")
"""Those that time what `train.py` does, with the threads that libraries have there."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    parser.add_argument("--write", action="store_true", help="add to RESULTS.md even what --only measured")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows:
        keep_memory()  # as train.py does, before any library starts threads
        rows = import_module(f"benchmarks.bench_{options.only[0]}").rows(quick=options.quick)
        options.rows.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
        return 0
    machine, rows, failed = Machine(), [], []
    for name in options.only or NAMES:
        found = measured(name, quick=options.quick)
        rows += found or []
        failed += [name] if found is None else []
    facts = [*machine.facts(), *(f"{name} FAILED; what it said stands above" for name in failed)]
    print("", *facts, "", as_text(rows), sep="\n")
    if not options.quick and (options.write or not options.only):
        write(facts, rows)
    return int(bool(failed))


def measured(name: str, *, quick: bool) -> list[Row] | None:
    """Run one benchmark in a new process, and return its lines; None if it failed."""
    print(f"{name} …", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", "--only", name, "--rows", str(file), *["--quick"] * quick]
        # One thread, unless a benchmark asks for more: then processor seconds are what the work costs.
        environment = {**os.environ, **({} if name in AS_USERS_RUN else {"OMP_NUM_THREADS": "1"})}
        done = subprocess.run(command, cwd=RESULTS.parent.parent, env=environment, check=False)
        if done.returncode != 0:
            return None
        rows = [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    print(as_text(rows), f"({time.perf_counter() - start:.0f} s)\n", sep="\n", flush=True)
    return rows


def write(facts: list[str], rows: list[Row]) -> None:
    """Put a section of today on top of the results."""
    head, _, rest = RESULTS.read_text(encoding="utf-8").partition("\n## ")
    section = "\n".join([f"## {date.today()}", "", *(f"{fact}  " for fact in facts), "", as_markdown(rows)])
    RESULTS.write_text(f"{head}\n{section}" + (f"\n## {rest}" if rest else ""), encoding="utf-8")
    print(f"written to {RESULTS.parent.name}/{RESULTS.name}")


if __name__ == "__main__":
    sys.exit(main())
