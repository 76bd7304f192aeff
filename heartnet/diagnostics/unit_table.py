"""What units stand for, told: a ranked table, the verdict for each signal, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from heartnet.diagnostics.units import LEAST_MARGIN, Meaning, beyond
from heartnet.findings import Finding

_ARRAYS = ("numbers", "effects", "lags", "weekly", "p")


def unit_table(meanings: Sequence[Meaning], untrained: Sequence[Meaning]) -> pl.DataFrame:
    """Return a row for each unit and signal, the largest effects of each signal first.

    Columns: `signal`; `rank`; `layer` and `unit`; `measure` (auc or rank_correlation); `value` (AUC from 0.5, or
    |rank correlation|); `direction` (rises or falls with the signal); `lag` (readings after the signal); `p`
    (corrected for all that was tried); `chance`, `untrained`, `untrained_layer`, `inputs` (what the best reaches by
    chance, in the untrained network, in the same layer of it, of the inputs); `beyond` (above all of them).
    """
    before = {each.signal: each for each in untrained}
    frames = []
    for each in meanings:
        place = np.array([i for i in np.argsort(-np.abs(each.effects), kind="stable") if each.layers[i] != "inputs"])
        untold = before.get(each.signal)
        found, rivals = set(beyond(each, untold)), _rivals(each, untold)
        same_layer = {name: _best_of(untold, name) for name in dict.fromkeys(each.layers)}
        frames.append(
            pl.DataFrame({
                "signal": [each.signal] * len(place),
                "rank": np.arange(1, len(place) + 1),
                "layer": [each.layers[i] for i in place],
                "unit": each.numbers[place],
                "measure": ["auc" if each.binary else "rank_correlation"] * len(place),
                "value": [each.shown(each.effects[i]) for i in place],
                "direction": ["falls" if each.effects[i] < 0 else "rises" for i in place],
                "lag": each.lags[place],
                "p": each.p[place],
                "untrained_layer": [same_layer[each.layers[i]] for i in place],
                **{name: [value] * len(place) for name, value in rivals.items()},
                "beyond": [int(i) in found for i in place],
            }, schema_overrides=dict.fromkeys(("untrained_layer", "untrained", "inputs"), pl.Float64))
        )  # fmt: skip
    return pl.concat(frames) if frames else pl.DataFrame(schema={"signal": pl.String, "layer": pl.String})


def markdown(table: pl.DataFrame) -> str:
    """Return the best unit of each layer for each signal, best first, for TensorBoard's text tab."""
    lines = [
        "| signal | unit | value | with it | readings after it | p "
        "| untrained, this layer | untrained | inputs | chance | beyond |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in table.unique(["signal", "layer"], keep="first", maintain_order=True).iter_rows(named=True):
        rivals = ("untrained_layer", "untrained", "inputs", "chance")
        numbers = ["–" if row[name] is None else f"{row[name]:.3f}" for name in rivals]
        lines.append(
            f"| {row['signal']} | {row['layer']} {row['unit']} | {row['value']:.3f} {row['measure'].replace('_', ' ')} "
            f"| {row['direction']} | {row['lag']} | {row['p']:.3f} | {' | '.join(numbers)} "
            f"| {'**yes**' if row['beyond'] else 'no'} |"
        )
    return "\n".join(lines)


def verdict(meanings: Sequence[Meaning], untrained: Sequence[Meaning], step: int) -> list[Finding]:
    """Return which unit tells a signal, or for marks (asleep, in a workout …) why none counts; nothing is a fault.

    That no unit tells a heart rate, or the hour, better than the inputs is in the table alone.
    """
    before = {each.signal: each for each in untrained}
    told = [_finding(each, before.get(each.signal), step) for each in worth_telling(meanings, untrained)]
    return [each for each in told if each is not None]


def worth_telling(meanings: Sequence[Meaning], untrained: Sequence[Meaning]) -> list[Meaning]:
    """Return the marks, and the other signals that some unit tells beyond chance, the inputs and no training."""
    before = {each.signal: each for each in untrained}
    return [each for each in meanings if each.binary or beyond(each, before.get(each.signal))]


def _finding(meaning: Meaning, untrained: Meaning | None, step: int) -> Finding | None:
    best = meaning.best()
    if best is None:
        return None
    found, rivals = beyond(meaning, untrained), {k: v for k, v in _rivals(meaning, untrained).items() if v is not None}
    name, measure = meaning.signal.replace("_", " "), "AUC" if meaning.binary else "rank correlation"
    best = found[0] if found else best
    value, strongest = meaning.shown(meaning.effects[best]), max(rivals, key=lambda each: rivals[each])
    who = f"unit {meaning.numbers[best]} of {meaning.layers[best]}"
    told = ", ".join(f"{_RIVALS[key]} {rival:.3f}" for key, rival in rivals.items())
    way = "falls" if meaning.effects[best] < 0 else "rises"
    if found:
        lag = int(meaning.lags[best])
        when = f", {abs(lag)} readings {'after' if lag > 0 else 'before'} it" if lag else ""
        others = f"; {len(found) - 1} more units do so" if len(found) > 1 else ""
        message = f"{who} {way} with {name}{when}. {measure} {value:.3f} ({told}){others}"
    elif value <= rivals["chance"]:
        message = f"No unit tells {name} better than chance. {who[0].upper()}{who[1:]}: {measure} {value:.3f}; {told}"
    else:
        message = (
            f"No unit learned to tell {name}. The best, {who}, has {measure} {value:.3f}: above chance, not above what "
            f"is there without training ({told}){_gain(meaning, untrained)}"
        )
    # Nothing here is a fault, so there is no limit: the strongest rival stands beside the value.
    unit = f"{measure} of the best unit ({'learned' if found else 'not learned'}: {_RIVALS[strongest]} " + (
        f"{rivals[strongest]:.3f})"
    )
    return Finding("units", "pass", meaning.signal, round(value, 4), None, unit, message, step=step)


def _gain(meaning: Meaning, untrained: Meaning | None) -> str:
    """Say in which layer training brought most, if that is something."""
    layers = [each for each in dict.fromkeys(meaning.layers) if each != "inputs"]
    pairs = [(_best_of(meaning, each) or 0.0, _best_of(untrained, each), each) for each in layers]
    known = [(after, before, layer) for after, before, layer in pairs if before is not None]
    after, before, layer = max(known, key=lambda each: each[0] - each[1], default=(0.0, 0.0, ""))
    return f"; training brought most in {layer}: {after:.3f} from {before:.3f}" if after - before > LEAST_MARGIN else ""


_RIVALS = {
    "chance": "chance reaches",
    "untrained": "the network before training had",
    "inputs": "the inputs alone have",
}


def _rivals(meaning: Meaning, untrained: Meaning | None) -> dict[str, float | None]:
    place = meaning.best(inputs=True)
    before = None if untrained is None else untrained.best()
    return {
        "chance": meaning.shown(meaning.chance),
        "untrained": None if untrained is None or before is None else untrained.shown(untrained.effects[before]),
        "inputs": None if place is None else meaning.shown(meaning.effects[place]),
    }


def _best_of(meaning: Meaning | None, layer: str) -> float | None:
    effects = (
        []
        if meaning is None
        else [abs(e) for e, name in zip(meaning.effects, meaning.layers, strict=True) if name == layer]
    )
    return meaning.shown(max(effects)) if meaning is not None and effects else None


def to_plain(meanings: Sequence[Meaning]) -> list[dict[str, Any]]:
    """Return the measurement as a checkpoint can keep it, and load it without running code."""
    return [
        {
            "signal": each.signal,
            "binary": each.binary,
            "layers": list(each.layers),
            "weeks": list(each.weeks),
            "chance": each.chance,
            **{name: torch.from_numpy(np.array(getattr(each, name))) for name in _ARRAYS},
        }
        for each in meanings
    ]


def from_plain(plain: Sequence[Mapping[str, Any]]) -> list[Meaning]:
    """Return what `to_plain` took apart."""
    return [
        Meaning(
            signal=each["signal"],
            binary=each["binary"],
            layers=tuple(each["layers"]),
            weeks=tuple(each["weeks"]),
            chance=each["chance"],
            **{name: each[name].cpu().numpy() for name in _ARRAYS},
        )
        for each in plain
    ]
