"""What is said of dead and saturated units: how many are too many, since when, what came before, what may help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heartnet.diagnostics.dead_units import Flags, LayerUnits
from heartnet.diagnostics.unit_gradients import SPIKE, Spike
from heartnet.findings import Finding, Status

CHECK = "dead_units"
WHOLE = 0.99
"""Share of a layer's units from which the layers after it get nothing."""

_MOST = 0.75  # dead, however it came
_HALF = 0.5
_CURABLE = ("relu", "gelu")  # values of model.activation that can die

Before = Callable[[int], Spike | None]
"""What stood out before a step."""


@dataclass(frozen=True)
class Allowed:
    """How many dead units a layer may have.

    Units that nothing reaches are usual: in a linear layer after a ReLU, a third may be silent from the first step. So
    a layer is judged by the units that died beyond those that were silent in its first looks; by half the limit for
    units that died together at a spike; by the units that never lived, once there is evidence; and, if three quarters
    are dead, at once.

    Attributes:
        limit: share of the units.
        usual: largest share of silent units in the first looks.
        evidence: there were enough steps for a unit that lives to have shown it.
        settings: overrides that the network was made with.
    """

    limit: float
    usual: float
    evidence: bool
    settings: Mapping[str, object]

    def exceeded(self, dead: Flags, never: float, together: float) -> float | None:
        """Return the share of dead units that would have been allowed; None if there are no more than that.

        Args:
            never: share of the layer's units that never lived.
            together: share that died in the step of a spike.
        """
        if self.evidence and never >= self.limit:
            return self.limit
        if together >= self.limit / 2:
            return self.limit / 2
        limit = min(_MOST, self.usual + self.limit)
        return limit if dead.mean() >= limit else None


def of_dead(
    layer: LayerUnits,
    dead: Flags,
    alive: npt.NDArray[np.int64],
    allowed: Allowed,
    follows: Sequence[str],
    before: Before,
    step: int,
) -> Finding | None:
    """Return the verdict on a layer's dead units; None if there are no more than usual.

    Args:
        alive: last step at which each unit showed life; -1 never.
        follows: layers that are constant because of it.
    """
    if not dead.any():
        return None
    died, never, at = alive[dead & (alive >= 0)], float((dead & (alive < 0)).mean()), most_died(dead, alive)
    spike = before(at) if at >= 0 else None
    together = float((died == at).sum() / len(dead)) if spike is not None and spike.just_before(at) else 0.0
    limit = allowed.exceeded(dead, never, together)
    if limit is None:
        return None
    after = "" if layer.activation in (None, "unknown") else f" after {layer.activation}"
    words = [
        f"{_count(dead)} of {layer.name} are dead: silent{after} whatever the input, and no gradient reaches them",
        _when(died, at, spike),
    ]
    if follows:
        words.append(
            f"Because of it, what {_and(follows)} {'is' if len(follows) == 1 else 'are'} given does not vary, so "
            "their units are constant"
        )
    curable = allowed.settings.get("model.activation") in _CURABLE and layer.activation in _CURABLE
    cure = ("model.activation=leaky_relu",) if curable else ()
    helps = [] if curable or layer.activation in (None, "unknown") else [f"a leaky ReLU in place of {layer.activation}"]
    helps.append("a lower learning rate" + (" or clipped gradients" if together else ""))
    helps += ["biases that start at 0"] if never else []
    words.append(f"What may help: {_and(helps)}")
    share = float(dead.mean())
    status: Status = "fail" if share >= _HALF else "warn"
    return Finding(CHECK, status, layer.name, share, limit, "of its units are dead", ". ".join(words), cure, step)


def of_saturated(
    layer: LayerUnits,
    saturated: Flags,
    since: npt.NDArray[np.int64],
    follows: Sequence[str],
    before: Before,
    step: int,
) -> Finding | None:
    """Return the verdict on a layer's saturated units; None if they are less than half."""
    share = float(saturated.mean())
    if share < _HALF:
        return None
    seen = int(np.median(since[saturated]))
    gates = [gate for gate, of_units in layer.stuck.items() if of_units > 0]
    what = f"gates ({_and(gates)}) are" if gates else f"{layer.activation} is"
    words = [
        f"{_count(saturated)} of {layer.name} are saturated: for 95 % of the time or more their {what} at the limits, "
        "where hardly any gradient passes",
        f"Seen since step {seen}{_stood_out(before(seen))}",
    ]
    if follows:
        words.append(f"Because of it, what {_and(follows)} {'is' if len(follows) == 1 else 'are'} given does not vary")
    words.append("What may help: a lower learning rate, smaller weights at the start or a normalisation before it")
    return Finding(CHECK, "warn", layer.name, share, _HALF, "of its units are saturated", ". ".join(words), (), step)


def of_still(layer: LayerUnits, still: Mapping[str, Flags], follows: Sequence[str], step: int) -> Finding:
    """Return the verdict on a layer that passes nothing on although few of its units are surely dead.

    Args:
        still: which units do not pass on anything that varies, by what they do.
    """
    parts = [f"{units.sum()} {name}" for name, units in still.items() if units.any()]
    message = (
        f"no unit of {layer.name} passes on anything that depends on the input ({_and(parts)}). Because of it, what "
        f"{_and(follows)} {'is' if len(follows) == 1 else 'are'} given does not vary. What may help: a lower learning "
        "rate, and biases that start at 0"
    )
    return Finding(CHECK, "fail", layer.name, 1.0, WHOLE, "of its units pass on nothing", message, (), step)


def of_unexplained(names: Sequence[str], step: int) -> Finding:
    """Return the verdict on layers whose input has stopped to vary for no reason that can be seen."""
    message = (
        f"what {_and(names)} {'is' if len(names) == 1 else 'are'} given does not vary any more, and no layer before is "
        "wholly dead or saturated; it starts in something that cannot be seen, such as a function of one's own"
    )
    return Finding(CHECK, "warn", names[0], 1.0, 0.0, "of what it is given does not vary", message, (), step)


def most_died(dead: Flags, alive: npt.NDArray[np.int64]) -> int:
    """Return the last step at which most of the dead units lived; -1 if most never did."""
    died = alive[dead & (alive >= 0)]
    # Units that die together died of something: the step at which most did.
    return int(np.bincount(died).argmax()) if len(died) > (dead & (alive < 0)).sum() else -1


def _when(died: npt.NDArray[np.int64], at: int, spike: Spike | None) -> str:
    """Say after which step units died, and what stood out before it."""
    if at < 0:
        return "They have been since the first step that was looked at"
    together = int((died == at).sum())
    words = f"They died in step {at}" if together == len(died) else f"Most died in step {at}"
    if together <= len(died) / 2:
        words = f"They died between step {died.min()} and step {died.max()}, {together} in step {at}"
    return words + _stood_out(spike)


def _stood_out(spike: Spike | None) -> str:
    if spike is None:
        return ""
    if not np.isfinite(spike.gradient):
        words = f"; the gradient was not finite at step {spike.gradient_step}"
    elif spike.gradient >= SPIKE:
        words = f"; before it, the gradient was {spike.gradient:.3g} times its median (step {spike.gradient_step})"
    else:
        words = f"; no gradient spike came before it: the largest was {spike.gradient:.2g} times the median"
    if spike.rate >= SPIKE:
        words += f"; the learning rate was {spike.rate:.3g} times its median (step {spike.rate_step})"
    return words


def _count(units: Flags) -> str:
    return f"all {len(units)} units" if units.all() else f"{units.sum()} of {len(units)} units"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
