"""Draw AUROC against the number of labelled people, by what was pretrained, and print the numbers as a table.

python train.py -m experiment=label_efficiency
python docs/draw_label_efficiency.py runs/DATE/TIME docs/label_efficiency.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from heartnet.findings import FILE, read_jsonl
from heartnet.predictions import NETWORK, read_predictions, score_table

OBJECTIVES = {"none": "no pretraining", "heuristic": "synthetic targets", "autoencoder": "autoencoder"}


def runs_of(sweep: Path) -> pl.DataFrame:
    """Return one row a run: `seed`, `share`, `objective`, `people` (labelled, mean over folds), `auroc`, `simulated`.

    AUROC is of all folds together and the mean over conditions, leaving out those of which the test has one class.
    """
    rows = []
    for file in sorted(sweep.glob("*/config.yaml")):
        config, folder = yaml.safe_load(file.read_text(encoding="utf-8")), file.parent
        findings = [each for found in folder.rglob(FILE) for each in read_jsonl(found)]
        people = [each.value for each in findings if (each.check, each.where) == ("synthetic_pretraining", "weeks")]
        if not people or not list(folder.rglob("predictions.parquet")):
            print(f"{folder}: did not end, or had no callback synthetic_pretraining; left out", file=sys.stderr)
            continue
        scores = score_table(read_predictions(folder), "conditions").filter(pl.col("model") == NETWORK)
        rows.append(
            {
                "seed": config["seed"],
                "share": config["data"]["labelled_share"],
                "objective": config["callbacks"]["synthetic_pretraining"]["objective"],
                "people": float(np.mean([each for each in people if each is not None])),
                "auroc": scores["auroc"].mean(),
                "simulated": "path" not in config["data"],
            }
        )
    if not rows:
        raise SystemExit(f"{sweep}: no run to draw; give the folder of a sweep over experiment=label_efficiency")
    return pl.DataFrame(rows)


def summary(runs: pl.DataFrame) -> pl.DataFrame:
    """Return by share and objective the mean over seeds, its standard deviation, and the same of what it gains.

    `gain` is the difference to no pretraining with the same seed, so with the same split, labels and first weights.
    """
    without = runs.filter(pl.col("objective") == "none").select("seed", "share", base="auroc")
    paired = runs.join(without, on=["seed", "share"], how="left").with_columns(gain=pl.col("auroc") - pl.col("base"))
    about = [pl.col("people").mean(), pl.len().alias("seeds")]
    about += [pl.col(name).mean() for name in ("auroc", "gain")]
    about += [pl.col(name).std().alias(f"{name}_sd") for name in ("auroc", "gain")]
    return paired.group_by("share", "objective").agg(about).sort("share", "objective")


def draw(sweep: Path, picture: Path) -> None:
    """Write the picture and print the table."""
    runs = runs_of(sweep)
    found = summary(runs)
    print("| labelled people | " + " | ".join(OBJECTIVES.values()) + " |")
    print("|---:|" + "---|" * len(OBJECTIVES))
    for share in found["share"].unique(maintain_order=True).to_list():
        part = found.filter(pl.col("share") == share)
        people = float(np.mean(part["people"].to_numpy()))
        rows = {row["objective"]: row for row in part.iter_rows(named=True)}
        cells = [_cell(rows.get(name), name) for name in OBJECTIVES]
        print(f"| {people:.0f} ({share:.0%}) | " + " | ".join(cells) + " |")
    figure = Figure(figsize=(6, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (name, label) in enumerate(OBJECTIVES.items()):
        part = found.filter(pl.col("objective") == name).sort("share")
        people = part["people"].to_numpy() * 1.04 ** (i - 1)  # side by side
        spread = part["auroc_sd"].fill_null(0.0).to_numpy()
        axes.errorbar(people, part["auroc"].to_numpy(), yerr=spread, label=label, marker="o", ms=4, capsize=3, lw=1.5)
    axes.set_xscale("log")
    ticks = found.group_by("share").agg(pl.col("people").mean()).sort("share")["people"].to_list()
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{each:.0f}" for each in ticks])
    axes.set_xlabel("people with labels, of those to train on")
    axes.set_ylabel("AUROC of people not trained on")
    axes.grid(alpha=0.3)
    axes.legend(title="pretrained on", fontsize=8, title_fontsize=8)
    kind = "SIMULATED weeks" if runs["simulated"].all() else "Recordings"
    axes.set_title(f"{kind}; mean and standard deviation of {runs['seed'].n_unique()} seeds", fontsize=10)
    figure.savefig(picture)


def _cell(row: dict[str, float] | None, objective: str) -> str:
    if row is None:
        return "–"
    cell = f"{row['auroc']:.3f} ± {row['auroc_sd'] or 0:.3f}"
    gain = "" if objective == "none" or row["gain"] is None else f" ({row['gain']:+.3f} ± {row['gain_sd'] or 0:.3f})"
    return cell + gain


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
