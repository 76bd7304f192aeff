"""When units died, in which layer it started, what follows from it, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from heartnet.diagnostics.dead_units import Flags, LayerUnits
from heartnet.diagnostics.dead_verdict import CHECK, WHOLE, Allowed, Before, of_dead, of_saturated, of_unexplained
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
    constant_looks: int = 0
    usual: float = 0.0  # largest share of silent units in the first looks


@dataclass(frozen=True)
class LayerState:
    """The shares of one layer's units in a look.

    Attributes:
        dead: never active in `confirm` looks, without gradient since.
        constant: not depending on the input, because what the layer is given does not.
        saturated: at the ends of a sigmoid, a tanh or a gate, in `confirm` looks.
        active: mean share of time at which the activation is not flat; NaN if not known.
        spread: mean standard deviation over time.
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
    _published: dict[str, tuple[Status, float, tuple[str, ...]]] = field(default_factory=dict)
    _first: int = -1  # step of the first look, which is not 0 in a resumed run
    _constant_at_first: set[str] | None = None
    _wild: str = ""  # the first layer that put out something else than numbers in the last look

    def see(
        self,
        step: int,
        layers: Sequence[LayerUnits],
        gradients: Mapping[str, UnitGradient],
        before: Before = lambda _: None,
    ) -> list[Finding]:
        """Take a look into account and return findings that are new, worse, or over.

        Args:
            step: optimiser steps taken before the look.
            layers: in the order in which they run.
            gradients: by the layer's name, up to the step before.
            before: what stood out before a step.
        """
        self._first = step if self._first < 0 else self._first
        self._wild = next((layer.name for layer in layers if not layer.finite), "")
        dead: dict[str, Flags] = {}
        saturated: dict[str, Flags] = {}
        for layer in layers:
            gradient = gradients.get(layer.through, gradients.get(layer.name))
            if gradient is not None and len(gradient.last) != len(layer.moves):
                gradient = None
            history = self._update(step, layer, gradient)
            dead[layer.name] = self._dead(step, layer, history, gradient)
            saturated[layer.name] = history.saturated_looks >= self.confirm
            self.states[layer.name] = _state(layer, dead[layer.name], saturated[layer.name], gradient)
            if layer.hidden:
                self.hidden[layer.name] = layer.hidden
        if self._constant_at_first is None:
            self._constant_at_first = {layer.name for layer in layers if not layer.fed}
        return self._findings(step, layers, dead, saturated, before)

    def end(self, step: int) -> list[Finding]:
        """Return the verdict on the whole network, if no layer has a bad one."""
        if not self.states or any(status != "pass" for status, _, _ in self._published.values()):
            return []
        if self._wild:
            message = f"nothing can be said at the end: values of {self._wild} are not finite"
            return [Finding(CHECK, "warn", "network", None, None, "", message, (), step)]
        quiet = next((name for name, each in self._histories.items() if (each.silent_looks > 0).all()), "")
        if quiet:
            message = f"all units of {quiet} were silent at the last look, and too few looks followed to call them dead"
            return [Finding(CHECK, "warn", "network", None, None, "", message, (), step)]
        worst = max(state.dead for state in self.states.values())
        message = f"no layer of {len(self.states)} has more dead or saturated units than allowed"
        if self.hidden:
            message += "; not seen: " + "; ".join(f"{name}: {why}" for name, why in self.hidden.items())
        return [Finding(CHECK, "pass", "network", worst, self.limit, "of units", message, (), step)]

    def _update(self, step: int, layer: LayerUnits, gradient: UnitGradient | None) -> _History:
        count = len(layer.moves)
        history = self._histories.get(layer.name)
        if history is None or len(history.alive) != count:
            zeros, never = np.zeros(count, np.int64), np.full(count, -1, np.int64)
            history = _History(zeros.copy(), never.copy(), zeros.copy(), zeros.copy(), never.copy(), never.copy())
            self._histories[layer.name] = history
        silent = layer.silent
        if step - self._first <= _EARLY:
            history.usual = max(history.usual, float(silent.mean()))
        history.silent_since = np.where(silent & (history.silent_looks == 0), step, history.silent_since)
        history.silent_looks = np.where(silent, history.silent_looks + 1, 0)
        history.silent_values = np.where(silent, history.silent_values + layer.values, 0)
        start = layer.saturated & (history.saturated_looks == 0)
        history.saturated_since = np.where(start, step, history.saturated_since)
        history.saturated_looks = np.where(layer.saturated, history.saturated_looks + 1, 0)
        history.alive = np.where(layer.active > 0, step, history.alive)
        if gradient is not None:
            history.alive = np.maximum(history.alive, gradient.last)
        history.constant_looks = 0 if layer.fed else history.constant_looks + 1
        return history

    def _dead(self, step: int, layer: LayerUnits, history: _History, gradient: UnitGradient | None) -> Flags:
        silent: Flags = (history.silent_looks >= self.confirm) & (step > history.silent_since)
        if gradient is not None:
            return silent & (gradient.last < history.silent_since)
        # That all units are silent at once is no matter of chance.
        values = history.silent_values.sum() if silent.all() else history.silent_values
        return silent & layer.exact & (values >= _ENOUGH)

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
        new: list[Finding] = []
        origin: str | None = None
        follows: dict[str, list[str]] = {}
        unexplained: list[str] = []
        for layer in layers:
            name = layer.name
            if max(dead[name].mean(), saturated[name].mean()) >= WHOLE:
                origin = name
            elif self._histories[name].constant_looks >= self.confirm:
                if origin is not None:
                    follows.setdefault(origin, []).append(name)
                elif name not in (self._constant_at_first or ()):
                    unexplained.append(name)
        for layer in layers:
            name = layer.name
            after, history = tuple(follows.get(name, ())), self._histories[name]
            found = of_dead(layer, dead[name], history.alive, self._allowed(history, step), after, before, step)
            if found is None and layer is not layers[-1]:  # the last layer's sigmoid may be sure of its answer
                found = of_saturated(layer, saturated[name], history.saturated_since, after, before, step)
            if found is None and name in unexplained[:1]:
                found, after = of_unexplained(unexplained, step), tuple(unexplained)
            new += self._news(name, found, after, step)
        return new

    def _news(self, name: str, finding: Finding | None, follows: tuple[str, ...], step: int) -> list[Finding]:
        """Return a finding that says more than the one published before for the same place."""
        old = self._published.get(name)
        if finding is None:
            if old is None or old[0] == "pass" or self.states[name].dead > old[1] / 2:
                return []
            self._published[name] = ("pass", 0.0, ())
            return [Finding(CHECK, "pass", name, 0.0, self.limit, "of units", "its units live again", (), step)]
        assert finding.value is not None
        if (
            old is not None
            and old[0] == finding.status
            and finding.value < old[1] + 0.1
            and set(follows) <= set(old[2])
        ):
            return []
        self._published[name] = (finding.status, finding.value, follows)
        return [finding]


def _state(layer: LayerUnits, dead: Flags, saturated: Flags, gradient: UnitGradient | None) -> LayerState:
    known = layer.active[~np.isnan(layer.active)]
    return LayerState(
        dead=float(dead.mean()),
        constant=float((layer.constant & ~dead).mean()),
        saturated=float((saturated & ~dead).mean()),
        active=float(known.mean()) if len(known) else float("nan"),
        spread=float(layer.spread.mean()),
        gradient=float("nan") if gradient is None else float(gradient.largest.mean()),
    )
