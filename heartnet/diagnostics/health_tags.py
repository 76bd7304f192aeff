"""The numbers of a look, by TensorBoard tag."""

from __future__ import annotations

import math

from heartnet.diagnostics.health import Look
from heartnet.diagnostics.health_gradients import beside


def scalars(look: Look, first: Look, most: int) -> dict[str, float]:
    """Return what is logged of a look, by tag, for at most `most` layers, the first and last among them.

    Args:
        look: what was seen.
        first: the first look of the run.
        most: so many layers.
    """
    groups = {
        "gradient": look.gradients,
        "gradient_to_largest": {layer: beside(look, layer) for layer in look.gradients},
        "gradient_to_first": {
            layer: norm / first.gradients[layer]
            for layer, norm in look.gradients.items()
            if first.gradients.get(layer, 0.0) > 0
        },
        "update": look.updates,
        "activation": look.activations,
    }
    found = {
        f"training_health/{group}/{layer or 'module'}": values[layer]
        for group, values in groups.items()
        for layer in _spread(list(values), most)
    }
    found |= {f"training_health/share/{name}": look.shares[name] for name in list(look.shares)[:16]}
    found["training_health/gradient_norm"] = math.hypot(*look.gradients.values(), 0.0)
    if look.clipped is not None:
        found["training_health/clipped"] = look.clipped
    return found


def _spread(names: list[str], most: int) -> list[str]:
    if len(names) <= most:
        return names
    places = {round(i * (len(names) - 1) / max(most - 1, 1)) for i in range(most)}
    return [names[place] for place in sorted(places)]
