"""When units died, in which layer it started, what follows from it, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from heartnet.diagnostics.between_looks import Between
from heartnet.diagnostics.dead_units import Flags, LayerUnits
from heartnet.diagnostics.dead_verdict import (
    CHECK,
    WHOLE,
    Allowed,
    Before,
    most_died,
    of_dead,
    of_saturated,
    of_still,
    of_unexplained,
)
from heartnet.diagnostics.unit_gradients import UnitGradient
from heartnet.findings import Finding, Status

_ENOUGH = 1000  # values without a sign of life, where no gradient can be seen
_EARLY = 8  # steps in which a network's first silence settles
_EVIDENCE = 16  # steps without a sign of life


@dataclass
class _History:
    """What is known of one layer's units over the looks; arrays are `[unit]`."""

    silent_looks: npt.NDArray[np.int64]
    silent_since: npt.NDArray[np.int64]  # first look of the present silence; -1 without one
    silent_values: npt.NDArray[np.int64]
    saturated_looks: npt.NDArray[np.int64]
    saturated_since: npt.NDArray[np.int64]
    alive: npt.NDArray[np.int64]  # last step at which the unit was active or had a gradient; -1 never
    dead: Flags  # in the last look
    constant_looks: int = 0
    usual: float = 0.0  # largest share of silent units in the first looks


@dataclass(frozen=True)
class LayerState:
    """The shares of one layer's units in a look.

    Attributes:
        dead: never active in `confirm` looks, without gradient since.
        constant: not depending on the input, because what the layer is given does not.
        saturated: at the ends of a sigmoid, a tanh or a gate, in `confirm` looks.
        active: mean share of time at which the activation is not flat, in the look's batch and those watched since the
            look before; NaN if not known.
        spread: mean standard deviation over time, in the same batches.
        gradient: mean over units of the largest gradient since the last look; NaN if not known.
    """

    dead: float
    constant: float
    saturated: float
    active: float
    spread: float
    gradient: float


@dataclass
class Deaths:
    """Puts looks together: what is dead, since when, and where it starts.

    Args:
        confirm: looks in a row that have to agree.
        limit: share of a layer's units that may die; see `heartnet.diagnostics.dead_verdict.Allowed`.
        settings: overrides that the network was made with, such as `{"model.activation": "relu"}`.
    """

    confirm: int = 3
    limit: float = 0.2
    settings: Mapping[str, object] = field(default_factory=dict)
    states: dict[str, LayerState] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    _histories: dict[str, _History] = field(default_factory=dict)
    _published: dict[str, tuple[Status, float, tuple[str, ...], str]] = field(default_factory=dict)
    _first: int = -1  # step of the first look, which is not 0 in a resumed run
    _constant_at_first: set[str] | None = None
    _wild: str = ""  # the first layer that put out something else than numbers in the last look

    def see(
        self,
        step: int,
        layers: Sequence[LayerUnits],
        gradients: Mapping[str, UnitGradient],
        before: Before = lambda _: None,
        between: Mapping[str, Between] | None = None,
        *,
        last: bool = False,
    ) -> list[Finding]:
        """Take a look into account and return findings that are new, worse, or over.

        Args:
            step: optimiser steps taken before the look.
            layers: in the order in which they run.
            gradients: by the layer's name, up to the step before.
            before: what stood out before a step.
            between: what was seen since the look before, by the layer's name.
            last: training is over: several looks at one step, each of another batch, agree as others do.
        """
        between = between or {}
        self._first = step if self._first < 0 else self._first
        self._wild = next((layer.name for layer in layers if not layer.finite), "")
        dead: dict[str, Flags] = {}
        saturated: dict[str, Flags] = {}
        for layer in layers:
            gradient = gradients.get(layer.through, gradients.get(layer.name))
            if gradient is not None and len(gradient.last) != len(layer.moves):
                gradient = None
            since = between.get(layer.name)
            if since is not None and len(since.last) != len(layer.moves):
                since = None
            history = self._update(step, layer, gradient, since, last=last)
            dead[layer.name] = self._dead(step, layer, history, gradient, last=last)
            saturated[layer.name] = history.saturated_looks >= self.confirm
            self.states[layer.name] = _state(layer, dead[layer.name], saturated[layer.name], gradient, since)
            if layer.hidden:
                self.hidden[layer.name] = layer.hidden
        if self._constant_at_first is None:
            self._constant_at_first = {layer.name for layer in layers if not layer.fed}
        return self._findings(step, layers, dead, saturated, before)

    def end(self, step: int) -> list[Finding]:
        """Return the verdict on the whole network, if no layer has a bad one."""
        if not self.states or any(status != "pass" for status, *_ in self._published.values()):
            return []
        if self._wild:
            message = f"nothing can be said at the end: values of {self._wild} are not finite"
            return [Finding(CHECK, "warn", "network", None, None, "", message, (), step)]
        new = {
            n: float(((h.silent_looks > 0) & (h.silent_looks < self.confirm)).mean())
            for n, h in self._histories.items()
        }
        most = max(new, key=lambda name: new[name] - self._histories[name].usual)
        if new[most] >= min(1.0, self._histories[most].usual + self.limit):
            message = (
                f"{new[most]:.0%} of the units of {most} were silent at the last look, and too few looks followed to "
                "call them dead"
            )
            return [Finding(CHECK, "warn", "network", None, None, "", message, (), step)]
        worst = max(state.dead for state in self.states.values())
        message = f"No layer of {len(self.states)} has more dead or saturated units than allowed."
        if self.hidden:
            message += " Not seen: " + "; ".join(f"{name}: {why}" for name, why in self.hidden.items())
        return [
            Finding(
                CHECK, "pass", "network", worst, self.limit, "of the worst layer's units are dead", message, (), step
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the history of all layers as a checkpoint keeps it: numbers, texts and tensors."""
        return {
            "histories": {
                name: {
                    key: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for key, v in vars(h).items()
                }
                for name, h in self._histories.items()
            },
            "published": {name: [s, value, list(names), o] for name, (s, value, names, o) in self._published.items()},
            "states": {name: dict(vars(each)) for name, each in self.states.items()},
            "hidden": dict(self.hidden),
            "first": self._first,
            "constant_at_first": None if self._constant_at_first is None else sorted(self._constant_at_first),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._histories = {
            name: _History(
                **{  # type: ignore[arg-type]
                    k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in each.items()
                }
            )
            for name, each in state["histories"].items()
        }
        self._published = {
            name: (s, value, tuple(names), o) for name, (s, value, names, o) in state["published"].items()
        }
        self.states = {name: LayerState(**each) for name, each in state["states"].items()}
        self.hidden |= state["hidden"]
        self._first = state["first"]
        known = state["constant_at_first"]
        self._constant_at_first = None if known is None else set(known)

    def _update(
        self, step: int, layer: LayerUnits, gradient: UnitGradient | None, between: Between | None, *, last: bool
    ) -> _History:
        count = len(layer.moves)
        history = self._histories.get(layer.name)
        if history is None or len(history.alive) != count:
            zeros, never = np.zeros(count, np.int64), np.full(count, -1, np.int64)
            history = _History(
                zeros.copy(), never.copy(), zeros.copy(), zeros.copy(), never.copy(), never.copy(), zeros > 0
            )
            self._histories[layer.name] = history
        silent = layer.silent
        if step - self._first <= _EARLY and not last:
            history.usual = max(history.usual, float(silent.mean()))
        # A silence that was broken between the looks begins anew.
        lived = np.full(count, -1) if gradient is None else gradient.last
        lived = lived if between is None else np.maximum(lived, between.last)
        begins = silent & ((history.silent_looks == 0) | (lived >= history.silent_since))
        values = layer.values + (0 if between is None or last else between.values.astype(np.int64))
        history.silent_since = np.where(begins, step, history.silent_since)
        history.silent_looks = np.where(begins, 1, np.where(silent, history.silent_looks + 1, 0))
        history.silent_values = np.where(begins, layer.values, np.where(silent, history.silent_values + values, 0))
        start = layer.saturated & (history.saturated_looks == 0)
        history.saturated_since = np.where(start, step, history.saturated_since)
        history.saturated_looks = np.where(layer.saturated, history.saturated_looks + 1, 0)
        history.alive = np.maximum(np.where(layer.active > 0, step, history.alive), lived)
        history.constant_looks = 0 if layer.fed else history.constant_looks + 1
        return history

    def _dead(
        self, step: int, layer: LayerUnits, history: _History, gradient: UnitGradient | None, *, last: bool
    ) -> Flags:
        sure = history.dead | last | (step > history.silent_since)  # looks at one step may be of the same weights
        dead: Flags = (history.silent_looks >= self.confirm) & sure
        if gradient is not None:
            dead = dead & (gradient.last < history.silent_since)
        else:  # that all units are silent at once is no matter of chance
            values = history.silent_values.sum() if dead.all() else history.silent_values
            dead = dead & layer.exact & (values >= _ENOUGH)
        history.dead = dead
        return dead

    def _allowed(self, history: _History, step: int) -> Allowed:
        return Allowed(self.limit, history.usual, step - self._first >= _EVIDENCE, self.settings)

    def _findings(
        self,
        step: int,
        layers: Sequence[LayerUnits],
        dead: Mapping[str, Flags],
        saturated: Mapping[str, Flags],
        before: Before,
    ) -> list[Finding]:
        follows, unexplained = self._follows(layers, saturated)
        found: dict[str, Finding] = {}
        started: dict[str, int] = {}  # when
        for layer in layers:
            name, after = layer.name, follows.get(layer.name, ())
            history = self._histories[name]
            finding = of_dead(layer, dead[name], history.alive, self._allowed(history, step), after, before, step)
            at = most_died(dead[name], history.alive)
            if finding is None and layer is not layers[-1]:  # the last layer's sigmoid may be sure of its answer
                finding = of_saturated(layer, saturated[name], history.saturated_since, after, before, step)
                at = int(np.median(history.saturated_since[saturated[name]])) if finding is not None else at
            if finding is None and after:
                finding, at = of_still(layer, _still(layer, saturated[name]), after, step), step
            if finding is None and name in unexplained[:1]:
                finding, at = of_unexplained(unexplained, step), step
            if finding is not None:
                found[name], started[name] = finding, at
        first = min(started.values(), default=-1)
        origin = next((name for name, at in started.items() if at == first), "")
        told = _with_origin(found, origin, first)
        names = {name: (*follows.get(name, ()), *(unexplained if name in unexplained[:1] else ())) for name in started}
        return [each for layer in layers for each in self._news(layer.name, told.get(layer.name), names, origin, step)]

    def _follows(
        self, layers: Sequence[LayerUnits], saturated: Mapping[str, Flags]
    ) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Return which layers are constant because of which, and those for which there is no reason that can be seen.

        A layer passes on nothing if each of its units is silent, saturated, or does not depend on the input.
        """
        follows: dict[str, tuple[str, ...]] = {}
        unexplained: list[str] = []
        origin: str | None = None
        for layer in layers:
            name = layer.name
            if self._histories[name].constant_looks >= self.confirm:
                if origin is not None:
                    follows[origin] = (*follows.get(origin, ()), name)
                elif name not in (self._constant_at_first or ()):
                    unexplained.append(name)
            elif layer.fed and np.mean(np.any(list(_still(layer, saturated[name]).values()), axis=0)) >= WHOLE:
                origin = name
        return follows, tuple(unexplained)

    def _news(
        self, name: str, finding: Finding | None, names: Mapping[str, Sequence[str]], origin: str, step: int
    ) -> list[Finding]:
        """Return a finding that says more than the one published before for the same place."""
        old = self._published.get(name)
        if finding is None:
            if old is None or old[0] == "pass" or self.states[name].dead > old[1] / 2:
                return []
            self._published[name] = ("pass", 0.0, (), "")
            return [
                Finding(CHECK, "pass", name, 0.0, self.limit, "of its units are dead", "its units live again", (), step)
            ]
        assert finding.value is not None
        known, follows = old or ("", 0.0, (), ""), tuple(names.get(name, ()))
        more = finding.value >= known[1] + 0.1 or not set(follows) <= set(known[2]) or origin != known[3]
        if known[0] == finding.status and not more:
            return []
        self._published[name] = (finding.status, finding.value, follows, origin)
        return [finding]


def _still(layer: LayerUnits, saturated: Flags) -> dict[str, Flags]:
    """Return which units pass on nothing that depends on the input, by what they do; each unit once."""
    silent = layer.silent
    stuck: Flags = saturated & ~silent
    return {"silent": silent, "saturated": stuck, "constant": ~layer.moves & ~silent & ~stuck}


def _with_origin(found: Mapping[str, Finding], origin: str, at: int) -> dict[str, Finding]:
    """Say in the verdicts on the layers that run after it in which layer it started."""
    after, told = False, {}
    when = f"step {at}" if at >= 0 else "the first step"
    for name, finding in found.items():
        words = finding.message + (f". The first to die or saturate were units of {origin}, in {when}" if after else "")
        told[name] = replace(finding, message=words)
        after = after or name == origin
    return told


def _state(
    layer: LayerUnits, dead: Flags, saturated: Flags, gradient: UnitGradient | None, between: Between | None
) -> LayerState:
    active, spread = layer.active, layer.spread
    if between is not None:
        active = (active * layer.values + between.active) / (layer.values + between.values)
        spread = (spread + between.spread) / (1 + between.calls)
    known = active[~np.isnan(active)]
    return LayerState(
        dead=float(dead.mean()),
        constant=float((layer.constant & ~dead).mean()),
        saturated=float((saturated & ~dead).mean()),
        active=float(known.mean()) if len(known) else float("nan"),
        spread=float(spread.mean()),
        gradient=float("nan") if gradient is None else float(gradient.largest.mean()),
    )
