"""How active units are, and how much they vary, in batches between two looks: sums of a few of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heartnet.diagnostics.dead_units import LayerUnits
from heartnet.diagnostics.layers import Layer, kind_of, plain_name, unit_axis, units_last
from heartnet.diagnostics.saturation import sequences
from heartnet.diagnostics.unit_counts import activity
from heartnet.diagnostics.valid_steps import ValidSteps
from heartnet.model.pieces import only_looks

_POSITIONS = 128  # of each sequence that are counted at most
_VALUES = 1024  # of each unit and call


@dataclass(frozen=True)
class Between:
    """What the units of a layer did in batches since the last look; arrays are `[unit]`.

    Attributes:
        values: how many values were looked at.
        active: how many of them were where the activation is not flat.
        spread: sum over calls of the standard deviation over time.
        calls: how many those were.
        last: the last step in which the unit was active; -1 if it was not.
    """

    values: npt.NDArray[np.float32]
    active: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    calls: npt.NDArray[np.float32]
    last: npt.NDArray[np.int64]


class BetweenLooks:
    """Watches the training itself, with hooks that are there for one batch alone and change nothing.

    Each call of a layer gives about 1,024 values of each unit at most (128 positions of each sequence), at places that
    move on from batch to batch. It knows from the last look where the layer's activation is flat. Layers to whose
    output something is added before the activation, or that are functions, are left to the looks. What `torch.compile`
    has compiled is left alone, for hooks would have it compiled anew.

    Args:
        module: that is trained.
        prefix: taken off the names of layers.
    """

    def __init__(self, module: nn.Module, prefix: str = "") -> None:
        self.failed = ""
        self._module = module
        self._compiled = any(
            hasattr(each, "_orig_mod") or vars(each).get("_compiled_call_impl") or vars(each).get("_compiler_ctx")
            for each in module.modules()
        )
        self._layers = {
            plain_name(name).removeprefix(prefix): Layer(name, each, kind)
            for name, each in module.named_modules()
            if (kind := kind_of(each)) is not None and kind not in ("attention", "activation")
        }
        self._followed: list[tuple[str, Layer, tuple[float, float]]] = []
        self._sums: dict[str, Tensor] = {}  # [values, active, spread, calls, last; unit]
        self._batches = 0
        self._stack = ExitStack()

    def follow(self, layers: Sequence[LayerUnits]) -> None:
        """Take note of where units are flat, as a look found."""
        self._followed = [
            (each.name, self._layers[each.through], each.bounds)
            for each in layers
            if each.bounds is not None and each.through in self._layers
        ]

    def start(self, step: int, batch: Any) -> None:
        """Watch until `stop`; call it before the training step of a batch."""
        self.stop()
        if self.failed or self._compiled or not self._followed:
            return
        steps = ValidSteps(batch)
        for module in self._module.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # which take no hooks
                self._keep(module.register_forward_pre_hook(only_looks(steps.find), with_kwargs=True))
        for name, layer, bounds in self._followed:
            hook = only_looks(self._hook(name, layer, bounds, steps, step))
            self._keep(layer.module.register_forward_hook(hook))
        self._batches += 1

    def stop(self) -> None:
        """Take the hooks away."""
        self._stack.close()

    def read(self) -> dict[str, Between]:
        """Return what was seen since the last reading, by layer."""
        found = {}
        for name, sums in self._sums.items():
            values, active, spread, calls, last = sums.cpu().numpy()
            found[name] = Between(values, active, spread, calls, last.astype(np.int64))
        self._sums = {}
        return found

    def _keep(self, handle: RemovableHandle) -> None:
        self._stack.callback(handle.remove)

    def _hook(
        self, name: str, layer: Layer, bounds: tuple[float, float], steps: ValidSteps, step: int
    ) -> Callable[[nn.Module, Any, Any], None]:
        @torch.no_grad()
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            try:
                self._add(name, layer, bounds, steps, step, inputs, output)
            except Exception as error:  # what goes wrong here is no reason to end a training that runs
                self.failed = f"{type(error).__name__}: {' '.join(str(error).split())}"

        return hook

    def _add(
        self, name: str, layer: Layer, bounds: tuple[float, float], steps: ValidSteps, step: int, inputs: Any, out: Any
    ) -> None:
        if self.failed:
            return
        if isinstance(layer.module, nn.RNNBase):
            given = sequences(layer.module, inputs, out)
            if given is None:
                return
            _, values, valid = given
            valid = steps.of(values)[1] if valid is None else valid
        else:
            values, valid = steps.of(units_last(out.detach(), unit_axis(layer.kind, layer.module, out, {})))
        every = max(1, values.shape[1] // _POSITIONS)
        start = self._batches % every
        rows = max(1, len(values) * min(values.shape[1], _POSITIONS) // _VALUES)
        values = values[::rows, start::every]
        if valid is not None:
            valid = torch.div(valid[::rows] - start + every - 1, every, rounding_mode="floor").clamp(min=1)
        active, spread = activity(values, valid, *bounds)
        count = valid.sum() if valid is not None else active.new_tensor(len(values) * values.shape[1])
        old = self._sums.get(name)
        if old is None or old.shape[1] != len(active):
            old = self._sums[name] = active.new_zeros(5, len(active))
            old[4] = -1
        known = torch.isfinite(spread)  # of what is not a number nothing is known
        new = torch.stack([count.expand_as(active).to(active), active, spread, torch.ones_like(active)])
        old[:4] += torch.where(known, new, 0.0)
        old[4] = torch.where(known & (active > 0), float(step), old[4])
