"""All checks of the wiring of a training, one after the other; what cannot be done is said, and stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from heartnet.diagnostics import wiring_verdicts as verdicts
from heartnet.diagnostics.wiring import Bench, Subject, bench_of, said
from heartnet.diagnostics.wiring_flow import flow
from heartnet.diagnostics.wiring_linear import linearity
from heartnet.diagnostics.wiring_loss import known_loss, loss_value, start_loss
from heartnet.diagnostics.wiring_neighbours import limit, neighbours
from heartnet.diagnostics.wiring_padding import padding
from heartnet.diagnostics.wiring_range import ranges
from heartnet.diagnostics.wiring_repeat import modes, repeated
from heartnet.diagnostics.wiring_saved import saved, saved_to_file
from heartnet.diagnostics.wiring_start import zero_input
from heartnet.errors import HeartnetError
from heartnet.findings import Finding

MORE_ROWS = 32
"""Samples where a few have not the labels of each output."""


@dataclass(frozen=True)
class Facts:
    """What is known of a training beside its module and batch.

    Attributes:
        kind: of task, `"conditions"` or `"synthetic"`, of a module of heartnet; `""` for another.
        names: of the outputs; empty if nobody knows.
        mean, std: of each target on the training split (of conditions, the mean is the base rate).
        initial: no step was taken yet.
        settings: what the network was made with.
    """

    kind: str = ""
    names: Sequence[str] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    initial: bool = True
    settings: Mapping[str, object] = field(default_factory=dict)


def check_wiring(subject: Subject, facts: Facts) -> list[Finding]:
    """Return the findings on the wiring of a training: a problem each, a pass for each check without one.

    What could not be checked is said in one finding more.
    """
    try:
        bench = bench_of(subject)
    except HeartnetError as error:
        return [_not_checked([f"anything: {error}"])]
    found: list[Finding] = []
    skipped: list[str] = []
    for name, check in _checks(bench, subject, facts, skipped):
        try:
            found += check()
        except Exception as error:  # a check may ask of a foreign module what it cannot do
            skipped.append(f"{name} ({said(error)})")
    return [*found, *([_not_checked(skipped)] if skipped else [])]


def _not_checked(reasons: Sequence[str]) -> Finding:
    return verdicts.finding("unknown", "not checked", f"could not be checked: {'; '.join(reasons)}")


def _checks(
    bench: Bench, subject: Subject, facts: Facts, skipped: list[str]
) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
    names = facts.names or bench.outputs
    broken: set[str] = set()  # what explains what would be found after it

    def mixing(mode: str) -> list[Finding]:
        if "mixing" in broken:
            return []
        met = neighbours(bench, training=mode == "training")
        if met.value is None:
            skipped.append(f"samples that meet in {mode} ({met.reason})")
            broken.update(["mixing"] if "on purpose" in met.reason else [])
        if met.value is not None and met.value > limit(bench):
            broken.add("mixing")
        return verdicts.mixed(met, limit(bench), mode)

    def repeatable() -> list[Finding]:
        again = repeated(bench)
        if again.given:
            skipped.append("repeatable evaluation (the step changes its inputs at random before any layer)")
        if again.value is None or again.value > bench.tolerance:
            broken.add("random")
        parts = dict(bench.module.named_modules())
        dropout = isinstance(parts.get(again.module), nn.modules.dropout._DropoutNd)
        return verdicts.not_repeatable(again, bench.tolerance, dropout)

    def company() -> list[Finding]:
        if broken:
            return []
        changed = padding(bench)
        if changed.longer is None:
            skipped.append("padding (nothing says how long sequences are; name it lengths in a dict, or give a probe)")
        return verdicts.padded(changed, bench.tolerance)

    def loss() -> list[Finding]:
        if "random" in broken:
            return []
        if facts.kind:
            return verdicts.loss_off([known_loss(bench, facts.kind, np.array(facts.mean), np.array(facts.std))])
        values = loss_value(bench)
        skipped.extend(f"{each.what} against NumPy ({each.reason})" for each in values if each.reason)
        return verdicts.loss_off(values)

    def start() -> list[Finding]:
        rates = list(facts.mean) if facts.kind == "conditions" else None
        return verdicts.far_start(None if facts.kind == "synthetic" else start_loss(bench, rates))

    def zeros() -> list[Finding]:
        if "range" in broken:
            return []
        rate = np.clip(np.array(facts.mean), 1e-3, 1 - 1e-3)
        base = np.log(rate / (1 - rate)) if facts.kind == "conditions" else np.zeros(len(rate))
        return verdicts.far_from_base(zero_input(bench, base.tolist()), names)

    def same_modes() -> list[Finding]:
        return [] if "random" in broken else verdicts.modes_differ(modes(bench), bench.tolerance)

    def gradients() -> list[Finding]:
        if "range" in broken:
            return []
        way = flow(bench, heartnet=bool(facts.kind))
        if not facts.kind and not all(way.weighed):  # labels that these few samples lack
            way = flow(bench_of(replace(subject, rows=MORE_ROWS)))
        if way.reason:
            skipped.append(f"gradients by output ({way.reason})")
        return verdicts.cut_off(way, names, classes=_of_classes(bench))

    def range_of_scores() -> list[Finding]:
        found = ranges(bench, binary=True if facts.kind == "conditions" else None)
        broken.update(["range"] if any(each.cut_by for each in found) else [])
        return verdicts.cut_ranges(found, names)

    def linear() -> list[Finding]:
        return verdicts.collapsed(linearity(bench), facts.settings)

    def saving() -> list[Finding]:
        if "random" in broken:
            return []
        kept = saved(bench)
        module: Any = subject.module
        if facts.kind and hasattr(module, "from_checkpoint"):
            by_file = saved_to_file(bench, module)
            if by_file.value is not None:
                kept = by_file
            else:
                skipped.append(f"saving to a file ({by_file.reason})")
        if kept.value is None:
            skipped.append(f"saving and loading ({kept.reason})")
        return verdicts.not_saved(kept, max(bench.tolerance, 1e-6))

    yield "samples that meet in evaluation", lambda: mixing("evaluation")
    yield "samples that meet in training", lambda: mixing("training")
    yield "repeatable evaluation", repeatable
    yield "padding and order", company
    yield "training against evaluation mode", same_modes
    yield "the loss", loss
    yield "the range of scores", range_of_scores
    yield "gradients by output", gradients
    yield "activation functions", linear
    yield "saving and loading", saving
    if facts.initial:
        yield "the first loss", start
        if facts.kind:
            yield "an input of zeros", zeros


def _of_classes(bench: Bench) -> bool:
    _, calls = bench.step()
    return any(each.name in ("cross_entropy", "nll_loss") for each in calls)
