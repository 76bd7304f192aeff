"""A training step done again on a copy, with the random numbers that it had, so that it can be looked into."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heartnet.diagnostics.isolate import bare_copy, rng_untouched


@dataclass(frozen=True)
class Streams:
    """The state of every random stream at one moment."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: Sequence[Tensor]

    @classmethod
    def now(cls) -> Streams:
        """Read the streams of Python, NumPy and torch, and of GPUs if any is in use."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def put(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


@dataclass
class Replay:
    """Training steps of a module, done on a copy of it that the module never hears of.

    The copy is made at once, with weights as they are. It knows a trainer, logs nowhere, and takes no optimiser
    step: under manual optimisation, gradients are computed and the rest of the step goes on.

    Args:
        module: has a `training_step(batch)` or `training_step(batch, batch_idx)`, as a LightningModule has.
        context: entered for each step, for example autocast.
        trainer: what the copy takes for its trainer; None for the module's own.

    Raises:
        HeartnetError: the module cannot be copied.
    """

    module: nn.Module
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    trainer: Any = None

    def __post_init__(self) -> None:
        with torch.inference_mode(False):
            self.twin: Any = bare_copy(self.module)
        self.manual = getattr(self.module, "automatic_optimization", True) is False
        held = vars(self.twin)
        for part, own in zip(self.twin.modules(), self.module.modules(), strict=False):
            if vars(own).get("_trainer") is not None and "_trainer" in vars(part):
                vars(part)["_trainer"] = self.trainer or vars(own)["_trainer"]
        for name in ("toggle_optimizer", "untoggle_optimizer", "clip_gradients", "print"):
            if hasattr(self.twin, name):
                held[name] = _nothing
        if self.manual:
            self._take_no_steps()

    def step(self, batch: Any, index: int = 0, streams: Streams | None = None, *, backward: bool = False) -> Any:
        """Do the training step of `batch`, with the random streams set to `streams`; put them back at the end.

        Args:
            backward: compute gradients of the copy's weights, which are `None` before.

        Returns:
            what `training_step` returned.
        """
        with rng_untouched(), torch.inference_mode(False), torch.enable_grad():
            if streams is not None:
                streams.put()
            for parameter in self.twin.parameters():
                parameter.grad = None
            _call(getattr(self.twin, "on_train_batch_start", None), batch, index)
            with self.context():
                result = _call(self.twin.training_step, batch, index)
            loss = loss_of(result)
            if backward and not self.manual and loss is not None and loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        return result

    def _take_no_steps(self) -> None:
        held, module = vars(self.twin), self.module
        try:
            given: Any = module.optimizers()  # type: ignore[operator]
        except Exception:  # no trainer stands behind it
            given = None
        idle = [_Idle(each) for each in given] if isinstance(given, list) else _Idle(given)
        held["optimizers"] = lambda *_, **__: idle
        held["lr_schedulers"] = lambda *_, **__: _Nothing()
        held["manual_backward"] = lambda loss, *args, **kwargs: loss.backward(*args, **kwargs)


def loss_of(result: Any) -> Tensor | None:
    """Return the loss in what a training step returned."""
    loss = result.get("loss") if isinstance(result, Mapping) else result
    return loss if isinstance(loss, Tensor) else None


def batch_size(batch: Any) -> int | None:
    """Return the size of the first dimension of the first tensor in a batch; None if there is none."""
    return next((len(each) for each in tensors_in(batch) if each.dim() > 0), None)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch of tensors, tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """Return some samples of a batch: those rows of every tensor whose first dimension is that of the batch.

    What is not a tensor, tuple, list or dict stays as it is.
    """
    size = batch_size(batch)

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            same = value.dim() > 0 and len(value) == size
            return value.index_select(0, torch.tensor(rows, device=value.device)) if same else value
        if isinstance(value, Mapping):
            return {key: take(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            parts = [take(each) for each in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    return take(batch)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own at the end."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


class _Nothing:
    """Stands in for a schedule: whatever is called does nothing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _nothing


class _Idle(_Nothing, torch.optim.Optimizer):
    """Stands in for an optimiser: it has a copy of its settings, and takes no step, but a closure is run."""

    def __init__(self, given: Any) -> None:
        self.param_groups = [dict(group) for group in getattr(given, "param_groups", ())]

    def step(self, closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        return None if closure is None else closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        del set_to_none


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _call(function: Any, batch: Any, index: int) -> Any:
    """Call a hook with as many of (batch, index) as it takes."""
    if function is None:
        return None
    parameters = inspect.signature(function).parameters.values()
    places = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters) or len(places) > 1
    return function(batch, index) if many else function(batch)
