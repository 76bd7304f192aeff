"""Where the first value that is not finite comes from: module, tensor and samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from heartnet.diagnostics.replay import Replay, Streams, batch_size, loss_of, tensors_in

What = Literal["input", "parameter", "buffer", "output", "loss", "gradient"]


@dataclass(frozen=True)
class Place:
    """The first tensor of a training step that holds NaN or infinity.

    Attributes:
        module: dotted name; `""` for the whole module.
        what: which of the module's tensors; a gradient is that of the loss with respect to its output, input or
            parameter, as `tensor` says.
        tensor: which, in words, for example `"weight"`, `"output"` or `"argument 0"`.
        count: values that are not finite.
        size: values there are.
        samples: rows of the batch that hold them; None if the tensor has no dimension of the batch.
        after: the module that ran last before and put out finite values; `""` if there is none.
        source: the part of the batch that holds as many of them, for an input; `""` if there is none.
        kinds: what they are: `"NaN"`, `"infinite values"`, or both.
    """

    module: str
    what: What
    tensor: str
    count: int
    size: int
    samples: tuple[int, ...] | None
    after: str
    source: str = ""
    kinds: str = "NaN"


def locate(replay: Replay, batch: Any, index: int = 0, streams: Streams | None = None) -> Place | None:
    """Return the first non-finite tensor of a training step, done once more on a copy; None if all are finite.

    In the order in which things happen: of each module its arguments, parameters, buffers and output; then the loss;
    then, going backward, gradients of outputs, arguments and parameters. The copy's buffers are those after the step,
    so running statistics are only looked at where they are read.

    Raises:
        Exception: whatever the training step raises.
    """
    trace = _Trace(batch_size(batch))
    with _watched(replay.twin, trace):
        loss = loss_of(replay.step(batch, index, streams, backward=True))
    if trace.forward is not None:
        return replace(trace.forward, source=_source(trace.forward, batch))
    if loss is not None and not _finite(loss):
        return _of_loss(trace, replay.twin, trace.place("", "loss", "loss", loss), batch)
    return trace.backward


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether every value is finite."""
    return all(_finite(each) for each in tensors)


def _source(place: Place, batch: Any) -> str:
    """Return the tensor of the batch that has as many values that are not finite as an input."""
    if place.what != "input":
        return ""
    return next((name for name, values in _spoilt(batch) if int((~values.isfinite()).sum()) == place.count), "")


def _of_loss(trace: _Trace, network: nn.Module, loss: Place, batch: Any) -> Place:
    """Return where a loss that is not finite comes from that all modules were finite before, if it can be told."""
    for name, weight in network.named_parameters(recurse=False):
        if not _finite(weight):
            return trace.place("the module", "parameter", name, weight)
    for name, values in _spoilt(batch):
        return replace(trace.place("", "loss", "loss", values), source=name)
    return loss


def _spoilt(batch: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch that hold NaN or infinity, and how to reach them."""
    if isinstance(batch, Tensor):
        if batch.is_floating_point() and not _finite(batch):
            yield name, batch
        return
    parts = batch.items() if isinstance(batch, Mapping) else enumerate(batch if isinstance(batch, tuple | list) else ())
    for key, each in parts:
        yield from _spoilt(each, f"{name}[{key!r}]")


class _Trace:
    """What has been seen, in order; only the first place forward and the first backward are kept."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.last = ""  # the last leaf whose output was finite
        self.forward: Place | None = None
        self.backward: Place | None = None
        self._first: Tensor | None = None

    def see(self, module: str, what: What, tensor: str, values: Tensor, axis: int = 0) -> None:
        if self.forward is None and not _finite(values):
            self.forward = self.place(module, what, tensor, values, axis)

    def see_gradient(self, module: str, tensor: str, values: Tensor, axis: int = 0) -> None:
        # What one module puts out and another takes is one tensor: if its gradient is the first, the other made it.
        first = self._first
        taken = first is not None and tensor.startswith("argument") and values.data_ptr() == first.data_ptr()
        if taken or (first is None and not _finite(values)):
            self.backward, self._first = self.place(module, "gradient", tensor, values, axis), values

    def place(self, module: str, what: What, tensor: str, values: Tensor, axis: int = 0) -> Place:
        wrong = ~values.detach().isfinite()
        owned = (
            what in ("parameter", "buffer") or (what == "loss" and wrong.dim() == 0) or tensor.startswith("parameter")
        )
        rows = None if owned else self._rows(wrong, axis)
        count, missing = int(wrong.sum()), int(values.detach().isnan().sum())
        kinds = "NaN" if missing == count else "infinite values" if missing == 0 else "NaN and infinite values"
        return Place(module, what, tensor, count, wrong.numel(), rows, self.last, kinds=kinds)

    def _rows(self, wrong: Tensor, axis: int) -> tuple[int, ...] | None:
        """Return samples by the dimension of the batch: `axis` if it fits, else the first that does."""
        axes = [axis, *range(wrong.dim())]
        fits = [each for each in axes if each < wrong.dim() and wrong.shape[each] == self.size]
        if not fits:
            return None
        flat = wrong.movedim(fits[0], 0).flatten(1) if wrong.dim() > 1 else wrong[:, None]
        return tuple(flat.any(dim=1).nonzero()[:, 0].tolist())


@contextmanager
def _watched(network: nn.Module, trace: _Trace) -> Iterator[None]:
    handles: list[Any] = []
    for name, module in network.named_modules():
        if module is network:
            continue
        handles.append(module.register_forward_pre_hook(_before(name, trace), with_kwargs=True))
        handles.append(module.register_forward_hook(_after(name, trace)))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            owner, _, short = name.rpartition(".")
            hook = _gradient(owner, f"parameter {short}", trace)
            handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(name: str, trace: _Trace) -> Any:
    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        axis = _batch_axis(module)
        for number, tensor in enumerate(tensors_in([args, kwargs])):
            if tensor.is_floating_point():
                trace.see(name, "input", f"argument {number}", tensor, axis)
                if tensor.requires_grad:
                    tensor.register_hook(_gradient(name, f"argument {number}", trace, axis))  # type: ignore[no-untyped-call]
        for what, parameter in module.named_parameters(recurse=False):
            trace.see(name, "parameter", what, parameter)
        if not module.training:
            for what, values in module.named_buffers(recurse=False):
                if values.is_floating_point():
                    trace.see(name, "buffer", what, values)

    return look


def _after(name: str, trace: _Trace) -> Any:
    def look(module: nn.Module, args: Any, output: Any) -> None:
        del args
        axis = _batch_axis(module)
        for tensor in tensors_in(output if not hasattr(output, "_fields") else list(output)):
            if tensor.is_floating_point():
                trace.see(name, "output", "output", tensor, axis)
                if tensor.requires_grad:
                    tensor.register_hook(_gradient(name, "output", trace, axis))  # type: ignore[no-untyped-call]
        if trace.forward is None and not list(module.children()):
            trace.last = name

    return look


def _gradient(name: str, tensor: str, trace: _Trace, axis: int = 0) -> Any:
    def look(gradient: Tensor) -> None:
        trace.see_gradient(name, tensor, gradient, axis)

    return look


def _batch_axis(module: nn.Module) -> int:
    recurrent = isinstance(module, nn.RNNBase | nn.MultiheadAttention)
    return 1 if recurrent and not module.batch_first else 0


def _finite(values: Tensor) -> bool:
    values = values.detach()
    values = values.coalesce().values() if values.is_sparse else values
    return bool(torch.isfinite(values).all())
