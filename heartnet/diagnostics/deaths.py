"""When units died, in which layer it started, what follows from it, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from heartnet.diagnostics.dead_units import Flags, LayerUnits
from heartnet.diagnostics.unit_gradients import Spike, UnitGradient
from heartnet.findings import Finding, Status

CHECK = "dead_units"
_ENOUGH = 1000  # values without a sign of life, where no gradient can be seen
_WHOLE = 0.99  # of a layer
_HALF = 0.5
_SPIKE = 5.0  # times the median
_CURABLE = ("relu", "gelu")  # values of model.activation that can die


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
        limit: share of a layer's units that may be dead.
        settings: overrides that the network was made with, such as `{"model.activation": "relu"}`.
    """

    confirm: int = 3
    limit: float = 0.1
    settings: Mapping[str, object] = field(default_factory=dict)
    states: dict[str, LayerState] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    _histories: dict[str, _History] = field(default_factory=dict)
    _published: dict[str, tuple[Status, float, tuple[str, ...]]] = field(default_factory=dict)
    _constant_at_first: set[str] | None = None
    _wild: str = ""  # the first layer that put out something else than numbers in the last look

    def see(
        self,
        step: int,
        layers: Sequence[LayerUnits],
        gradients: Mapping[str, UnitGradient],
        before: Callable[[int], Spike | None] = lambda _: None,
    ) -> list[Finding]:
        """Take a look into account and return findings that are new, worse, or over.

        Args:
            step: optimiser steps taken before the look.
            layers: in the order in which they run.
            gradients: by the layer's name, up to the step before.
            before: what stood out before a step.
        """
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
        return silent & layer.exact & (history.silent_values >= _ENOUGH)

    def _findings(
        self,
        step: int,
        layers: Sequence[LayerUnits],
        dead: Mapping[str, Flags],
        saturated: Mapping[str, Flags],
        before: Callable[[int], Spike | None],
    ) -> list[Finding]:
        new: list[Finding] = []
        origin: str | None = None
        follows: dict[str, list[str]] = {}
        unexplained: list[str] = []
        for layer in layers:
            name = layer.name
            if max(dead[name].mean(), saturated[name].mean()) >= _WHOLE:
                origin = name
            elif self._histories[name].constant_looks >= self.confirm:
                if origin is not None:
                    follows.setdefault(origin, []).append(name)
                elif name not in (self._constant_at_first or ()):
                    unexplained.append(name)
        for layer in layers:
            name = layer.name
            after = tuple(follows.get(name, ()))
            found = self._of_dead(layer, dead[name], after, before, step)
            if found is None and layer is not layers[-1]:  # the last layer's sigmoid may be sure of its answer
                found = self._of_saturated(layer, saturated[name], after, before, step)
            new += self._news(name, found, after, step)
        if unexplained:
            new += self._news(unexplained[0], _unexplained(unexplained, step), tuple(unexplained), step)
        return new

    def _news(self, name: str, finding: Finding | None, follows: tuple[str, ...], step: int) -> list[Finding]:
        """Return a finding that says more than the one published before for the same place."""
        old = self._published.get(name)
        if finding is None:
            if old is None or old[0] == "pass":
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

    def _of_dead(
        self,
        layer: LayerUnits,
        dead: Flags,
        follows: tuple[str, ...],
        before: Callable[[int], Spike | None],
        step: int,
    ) -> Finding | None:
        share = float(dead.mean())
        if share <= self.limit:
            return None
        alive = self._histories[layer.name].alive[dead]
        after = "" if layer.activation in (None, "unknown") else f" after {layer.activation}"
        words = [
            f"{_count(dead)} of {layer.name} are dead: silent{after} whatever the input, and no gradient reaches them"
        ]
        words.append(_when(alive, before))
        if follows:
            words.append(
                f"Because of it, what {_and(follows)} {'is' if len(follows) == 1 else 'are'} given does not vary, so "
                "their units are constant"
            )
        relu = self.settings.get("model.activation") in _CURABLE
        cure = ("model.activation=leaky_relu",) if relu and layer.activation in _CURABLE else ()
        status: Status = "fail" if share >= _HALF else "warn"
        return Finding(CHECK, status, layer.name, share, self.limit, "of units", ". ".join(words), cure, step)

    def _of_saturated(
        self,
        layer: LayerUnits,
        saturated: Flags,
        follows: tuple[str, ...],
        before: Callable[[int], Spike | None],
        step: int,
    ) -> Finding | None:
        share = float(saturated.mean())
        if share < _HALF:
            return None
        since = int(np.median(self._histories[layer.name].saturated_since[saturated]))
        gates = [gate for gate, of_units in layer.stuck.items() if of_units > 0]
        what = f"gates ({_and(gates)})" if gates else f"{layer.activation}"
        words = [
            f"{_count(saturated)} of {layer.name} are saturated: for 95 % of the time or more their {what} "
            "cannot go further, and lets hardly any gradient through",
            f"Seen since step {since}{_stood_out(before(since))}",
        ]
        if follows:
            words.append(f"Because of it, what {_and(follows)} are given does not vary")
        return Finding(CHECK, "warn", layer.name, share, _HALF, "of units", ". ".join(words), (), step)


def _unexplained(names: Sequence[str], step: int) -> Finding:
    message = (
        f"what {_and(names)} {'is' if len(names) == 1 else 'are'} given does not vary any more, and no layer before is "
        "wholly dead or saturated; it starts in something that cannot be seen, such as a function of one's own"
    )
    return Finding(CHECK, "warn", names[0], 1.0, 0.0, "of units", message, (), step)


def _when(alive: npt.NDArray[np.int64], before: Callable[[int], Spike | None]) -> str:
    """Say after which step units died, and what stood out before it."""
    at = int(np.median(alive))
    if at < 0:
        return "They have been since the first step that was looked at"
    first, last = int(alive.min()), int(alive.max())
    words = f"They died in step {at}" if first == last else f"Most died by step {at} (from {first} to {last})"
    return words + _stood_out(before(at))


def _stood_out(spike: Spike | None) -> str:
    if spike is None:
        return ""
    if not np.isfinite(spike.gradient):
        words = f"; the gradient was not finite at step {spike.gradient_step}"
    elif spike.gradient >= _SPIKE:
        words = f"; before it, the gradient was {spike.gradient:.3g} times its median (step {spike.gradient_step})"
    else:
        words = f"; no gradient spike came before it: the largest was {spike.gradient:.2g} times the median"
    if spike.rate >= _SPIKE:
        words += f"; the learning rate was {spike.rate:.3g} times its median (step {spike.rate_step})"
    return words


def _count(units: Flags) -> str:
    return f"all {len(units)} units" if units.all() else f"{units.sum()} of {len(units)} units"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


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
