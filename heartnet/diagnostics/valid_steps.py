"""Which positions of a layer's values are no padding: found in the batch, or in what a module is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from heartnet.diagnostics.replay import tensors_in


class ValidSteps:
    """How long the sequences of a batch are.

    Args:
        batch: whose `lengths` (or `length`) are taken if no module is called with any.
    """

    def __init__(self, batch: Any) -> None:
        self._lengths = _lengths_in(batch)
        self._where: nn.Module | None = None

    def find(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Take the lengths that a module is called with, as a pre-hook: the batch may have been cut or augmented.

        The first module that is called with any counts, whenever it is called: a batch may come in pieces.
        """
        if self._where is None or self._where is module:
            named = {**dict(zip(_arguments(type(module).forward), args, strict=False)), **kwargs}
            for each in (named, *(value for value in named.values() if isinstance(value, Mapping))):
                if (lengths := _lengths_in(each)) is not None:
                    self._lengths, self._where = lengths, module
                    return

    def of(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return values with the batch first, and how many positions of each sequence are no padding; None for all."""
        if self._lengths is None:
            return values, None
        lengths, time = self._lengths
        batch, positions = values.shape[:2]
        if batch != len(lengths) and positions == len(lengths):
            values = values.transpose(0, 1)
            batch, positions = positions, batch
        if batch != len(lengths) or positions == 1:
            return values, None
        return values, (lengths * positions // max(time, 1)).clamp(1, positions)


@lru_cache(maxsize=1024)
def _arguments(forward: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(forward).parameters)[1:]
    except (TypeError, ValueError):  # compiled code has none
        return ()


def _lengths_in(value: Any) -> tuple[Tensor, int] | None:
    """Return the lengths that stand in a mapping, and the positions of the sequences beside them."""
    if not isinstance(value, Mapping):
        return None
    lengths = next((value[name] for name in ("lengths", "length") if isinstance(value.get(name), Tensor)), None)
    if lengths is None or lengths.dim() != 1 or lengths.is_floating_point():
        return None
    sizes = _sizes(list(value.values()), len(lengths))
    return (lengths, min(sizes)) if sizes else None


def _sizes(values: Sequence[Any], batch: int) -> list[int]:
    floats = [t for t in tensors_in(values) if t.is_floating_point() and t.dim() == 3 and len(t) == batch]
    return [max(t.shape[1:]) for t in floats]
