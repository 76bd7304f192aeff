"""Draw the amnesia profiles of the runs of a sweep into one picture, and print their numbers as a table.

python train.py -m model.readout=mean,last model.forget_bias=default,chrono +callbacks=amnesia
python docs/draw_sweep.py runs/DATE/TIME docs/amnesia_sweep.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from heartnet.diagnostics.archive import load_npz
from heartnet.diagnostics.memory import Memory, memories
from heartnet.figures import screen_bins

ANCHORS = {"midpoint": "logit at the middle of the week", "score": "score after the readout"}


def draw(sweep: Path, picture: Path) -> None:
    """Write the picture and print the table; one curve a run, averaged over conditions, of the heart rate."""
    runs = sorted(file.parent for file in sweep.glob("*/amnesia.npz"))
    if not runs:
        raise SystemExit(f"{sweep}: no run with an amnesia.npz; give the folder of a sweep with +callbacks=amnesia")
    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(ANCHORS))
    print("| readout | forget bias | " + " | ".join(f"{name}: before → after" for name in ANCHORS) + " | memory |")
    print("|---|---|" + "---|" * (len(ANCHORS) + 1))
    for colour, run in enumerate(runs):
        profiles = load_npz(run / "amnesia.npz")
        model = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]
        label = f"{model['readout']}, {model['forget_bias']}"
        cells = []
        for ax, anchor in zip(axes, ANCHORS, strict=True):
            for name, style in (
                ("initial", {"lw": 1, "ls": "--", "alpha": 0.4}),
                ("now", {"lw": 5 - colour, "label": label}),
            ):
                at = profiles[name].at(anchor)
                x, y = screen_bins(at.lag, at.magnitude[:, 0].mean(axis=0))
                ax.plot(x, np.where(y > 0, y, np.nan), color=f"C{colour}", **style)
            before, after = (memories(profiles[name]) for name in ("initial", "now"))
            cells.append(f"{_decades(before, anchor)} → {_decades(after, anchor)}")
        middle = [each for each in memories(profiles["now"]) if each.anchor == "midpoint"]
        steps, hours = (np.mean([getattr(each, f"memory_{unit}") for each in middle]) for unit in ("steps", "hours"))
        print(f"| `{model['readout']}` | `{model['forget_bias']}` | " + " | ".join(cells), end="")
        print(f" | {steps:.0f} readings, {hours:.1f} h |")
    for ax, title in zip(axes, ANCHORS.values(), strict=True):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(FixedLocator([10.0**power for power in range(-300, 1, 50)]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylim(1e-308, 1e10)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("readings from there", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("|∂ output / ∂ heart rate|", fontsize=9)
    axes[0].legend(title="readout, forget bias", fontsize=8, title_fontsize=8)
    figure.suptitle("Amnesia on SIMULATED weeks; dashed: before training", fontsize=10)
    figure.savefig(picture)


def _decades(numbers: list[Memory], anchor: str) -> str:
    found = [each for each in numbers if each.anchor == anchor and each.decades is not None]
    bound = ">" if any(each.at_least for each in found) else ""
    return f"{bound}{np.mean([each.decades for each in found]):.3g}" if found else "–"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
