"""What the callback names where a network is trained by train.py on cohorts with all that can be planted, or nothing.

PYTHONPATH=tests:. python tests/planted_networks.py 2000 10 10    # first seed; cohorts planted, clean
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import polars as pl
from planted_cohorts import all_nights_worn, are_found, touched_by

import train
from heartnet import terminal
from heartnet.built import build
from heartnet.configuration import CONF
from heartnet.diagnostics.loss_patterns_proposals import Clause
from heartnet.diagnostics.loss_patterns_table import predicted_weeks
from heartnet.predictions import NETWORK, read_predictions, score_table
from heartnet.simulate.planted import PLANTED


def trained(seed: int, folder: Path, *overrides: str, clean: bool = False) -> dict[str, Any]:
    """Train and test as experiment=planted says; return what `loss_patterns.json` holds, and what was found.

    Args:
        seed: of people, split and network.
        folder: of the run.
        overrides: of the experiment.
        clean: nothing is planted, and everybody wears the watch every night (`planted_cohorts.planted_cohort`).
    """
    words = ["experiment=planted", f"seed={seed}", *overrides, *(["data.planted=[]"] if clean else [])]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", overrides=words)
    terminal.quiet_lightning()
    with all_nights_worn() if clean else nullcontext():
        data, module, trainer = build(config, folder)
    train.fit_and_test(config, folder, data, module, trainer)
    found: dict[str, Any] = json.loads((folder / "loss_patterns.json").read_text(encoding="utf-8"))
    patterns = [tuple(Clause(**clause) for clause in each["clauses"]) for each in found["patterns"]]
    known = predicted_weeks(folder / "predictions.parquet", data.targets).known
    scores = score_table(read_predictions(folder), "conditions").filter(pl.col("model") == NETWORK)
    touched = touched_by(data.weeks.table[known["week"].to_numpy()], config.data.planted)
    return {**found, "planted": are_found(touched, known, patterns), "auroc": scores["auroc"].to_list()}


def report(first: int, planted: int, clean: int) -> None:
    """Print the rows of the table of docs/techniques.md, a run each, and how many found and named what."""
    print("| seed | AUROC, mean of four conditions |", " | ".join(PLANTED), "| named besides |")
    print("|---|---|" + "---|" * len(PLANTED) + "---|")
    for seed, is_clean in [(first + i, False) for i in range(planted)] + [(first + i, True) for i in range(clean)]:
        with tempfile.TemporaryDirectory() as folder:
            it = trained(seed, Path(folder), clean=is_clean)
        chances = {each["pattern"]: each["chance"] for each in it["tried"]}
        cells = [
            "; ".join(f"{name} ({chances[name]:.4f})" for name in it["planted"][each]) or "no" if not is_clean else "–"
            for each in PLANTED
        ]
        of_planted = {name for names in it["planted"].values() for name in names}
        others = [name for name in (each["pattern"] for each in it["patterns"]) if name not in of_planted]
        tried = "; ".join(f"{name} ({chance:.4f})" for name, chance in chances.items())
        print(f"| {seed} | {np.mean(it['auroc']):.3f} |", " | ".join(cells), f"| {'; '.join(others) or 'nothing'} |")
        print(f"  tried: {tried}", file=sys.stderr, flush=True)
        sys.stdout.flush()


if __name__ == "__main__":
    report(*map(int, sys.argv[1:]))
