"""How the technique `training_health` words its findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heartnet.findings import Finding, Status

Settings = Mapping[str, object]
"""What the run was made with, by Hydra override; empty for a module from elsewhere, which then gets no overrides."""

CHECK = "training_health"


def finding(
    status: Status, where: str, message: str, value: float | None = None, limit: float | None = None, unit: str = "",
    try_: Sequence[str] = (),
) -> Finding:  # fmt: skip
    if value is not None and not math.isfinite(value):
        value = None
    return Finding(CHECK, status, where, value, limit, unit, message, tuple(try_))


def others(layers: Sequence[str], where: str = "too") -> str:
    """Return "; so with a, b too" for the layers beside the one already named."""
    rest = list(dict.fromkeys(layers))
    rest = rest[1:] if where == "too" else rest[:-1]
    if not rest:
        return ""
    shown = ", ".join(rest[:4]) + (f" and {len(rest) - 4} more" if len(rest) > 4 else "")
    return f" (and {shown} {where})"


def learning_rate(settings: Settings, factor: float) -> tuple[str, ...]:
    """Return the override for a learning rate `factor` times as high, to one digit; none where it cannot be set."""
    rate = settings.get("module.learning_rate")
    if not isinstance(rate, float | int) or rate <= 0 or not math.isfinite(factor):
        return ()
    return (f"module.learning_rate={min(rate * factor, 1.0):.0e}".replace("e-0", "e-").replace("e+00", ""),)
