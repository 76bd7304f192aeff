"""A copy of a training to try things on: a few samples, and the scores and the loss that come of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heartnet.diagnostics.isolate import device_of, rng_untouched
from heartnet.diagnostics.layers import plain_name
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.replay import Replay, Streams, batch_size, loss_of, rows_of, tensors_in
from heartnet.diagnostics.wiring_calls import Call, Calls
from heartnet.errors import HeartnetError

ProbeOf = Callable[[Any, Any], Probe]

READINGS = 96
"""What sequences of known length are cut to: seconds for the full model, whose wiring stays the same."""

_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Subject:
    """What is to be tried.

    Attributes:
        module: has a training step.
        batch: of the training data, on the module's device.
        probe_of: gives a `Probe` of a module and a batch; None where nobody knows how, and then scores are what the
            training step gives to a loss function of torch, or the last layer's output.
        context: entered for a training step, for example autocast.
        trainer: what copies take for their trainer.
        rows: samples of the batch that are used.
    """

    module: nn.Module
    batch: Any
    probe_of: ProbeOf | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    trainer: Any = None
    rows: int = 4


@dataclass(frozen=True)
class Seen:
    """What one module did in a pass: the first values of what it took and put out, up to 65,536 of each sample."""

    name: str
    inputs: Sequence[Tensor]
    output: Tensor


class Bench:
    """A copy of a subject with a few samples, in float64 unless its dtype is to stay.

    Attributes:
        tree: what goes in: inputs and what follows them in the probe, or else the batch; samples first.
        size: samples.
        lengths: valid steps of each sample; None if nobody knows.
        outputs: names; empty if nobody knows.
        batch: the batch of these samples, for the training step.
    """

    def __init__(self, subject: Subject, *, double: bool = True) -> None:
        self.double = double
        context = nullcontext if double else subject.context
        self.replay = Replay(subject.module, context, subject.trainer)
        self.module: nn.Module = self.replay.twin
        if self.replay.manual:
            vars(self.module)["manual_backward"] = lambda *_, **__: None  # it would use the graph up
        if double:
            _make_double(self.module)
        self.training = {name: each.training for name, each in subject.module.named_modules()}
        self.batch = map_tensors(_few(subject.batch, subject.rows), self._typed)
        self.size = batch_size(self.batch) or 0
        if self.size == 0:
            raise HeartnetError("the batch holds no tensors")
        self.lengths: Int[Tensor, " batch"] | None = None
        self.outputs: tuple[str, ...] = ()
        self._call: Callable[[Any], Any] | None = None
        self._buffers = {name: each.detach().clone() for name, each in self.module.named_buffers()}
        if subject.probe_of is not None:
            self.batch = _cut(self.batch, self.size)
            with self._numbers():
                self._take(subject.probe_of(self.module, self.batch))
        else:
            self.tree = self.batch
            self.lengths = _lengths_in(self.batch, self.size)

    @property
    def tolerance(self) -> float:
        """Differences up to this share of the largest score are rounding."""
        return 1e-8 if self.double else 1e-3

    def _take(self, probe: Probe) -> None:
        network = probe.network
        self._call = lambda tree: network(*tree).score
        self.outputs = probe.outputs
        self.tree = (probe.inputs, *probe.rest)
        full = bool((probe.lengths == probe.inputs.shape[1]).all())
        given = any(_same_numbers(each, probe.lengths) for each in probe.rest)
        self.lengths = probe.lengths if given or not full else None

    def _typed(self, value: Tensor) -> Tensor:
        value = value.detach().clone()
        return value.double() if self.double and value.is_floating_point() else value

    def scores(
        self, tree: Any = None, *, training: bool = False, seed: int = 0, seen: list[Seen] | None = None
    ) -> Float[Tensor, "sample output"]:
        """Return the scores of `tree`, as part of the graph.

        Args:
            tree: as `self.tree`, which it is by default.
            training: in the modes that the module trains in, not in evaluation mode.
            seed: of all random numbers drawn.
            seen: takes what each module without parts did, in the order in which they ran.

        Raises:
            HeartnetError: there is nothing that could be the scores.
        """
        tree = self.tree if tree is None else tree
        size = next(len(each) for each in tensors_in(tree) if each.dim() > 0)
        last: list[Tensor] = []
        with self._running(training=training, seed=seed), _watching(self.module, size, last, seen):
            if self._call is not None:
                return _table(self._call(tree), size)
            with Calls() as calls:
                self.replay.step(tree, streams=Streams.now())
        given = [each.input for each in calls.seen if each.input.dim() > 0 and len(each.input) == size]
        found = [each for each in given if each.requires_grad] or given or last[-1:]
        if not found:
            raise HeartnetError(
                f"{type(self.module).__name__} calls no loss function of torch.nn.functional with a row a sample, "
                "and no layer puts out one"
            )
        return torch.cat([_table(each, size) for each in found], dim=1)

    def step(self, *, training: bool = False, seed: int = 0, batch: Any = None) -> tuple[Tensor | None, list[Call]]:
        """Do the training step and return its loss, and the loss functions that it called."""
        with self._running(training=training, seed=seed), Calls() as calls:
            result = self.replay.step(self.batch if batch is None else batch, streams=Streams.now())
        return loss_of(result), calls.seen

    @contextmanager
    def running(self, *, training: bool = False, seed: int = 0) -> Iterator[None]:
        """Enter a mode, with random numbers of `seed` and gradients on, to run modules oneself."""
        with self._running(training=training, seed=seed):
            yield

    @contextmanager
    def _running(self, *, training: bool, seed: int) -> Iterator[None]:
        self._set_modes(training=training)
        try:
            with rng_untouched(), self._numbers():
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                yield
        finally:
            if training:
                with torch.no_grad():
                    for name, each in self.module.named_buffers():
                        if name in self._buffers:
                            each.data.copy_(self._buffers[name])  # past autograd, which still needs them

    def _set_modes(self, *, training: bool) -> None:
        if not training:
            self.module.eval()
            for each in self.module.modules():  # cuDNN has no backward pass through a recurrent layer in evaluation
                if isinstance(each, nn.RNNBase) and not each.training and device_of(each).type == "cuda":
                    each.dropout = 0.0
                    each.training = True
            return
        for name, each in self.module.named_modules():
            each.training = self.training.get(name, True)

    @contextmanager
    def _numbers(self) -> Iterator[None]:
        before = torch.get_default_dtype()
        kind = device_of(self.module).type
        off = [torch.autocast("cpu", enabled=False), torch.autocast(kind, enabled=False)] if self.double else []
        with torch.inference_mode(False), torch.enable_grad():
            if self.double:
                torch.set_default_dtype(torch.float64)
            try:
                with off[0] if off else nullcontext(), off[1] if off else nullcontext():
                    yield
            finally:
                torch.set_default_dtype(before)


def bench_of(subject: Subject) -> Bench:
    """Return a bench in float64 if the module can compute in it, else in its own dtype.

    Raises:
        HeartnetError: the module cannot be run on a copy.
    """
    reason = ""
    for double in (True, False):
        try:
            bench = Bench(subject, double=double)
            bench.scores()
            bench.step()
        except Exception as error:  # whatever a foreign module does
            reason = said(error)
        else:
            return bench
    raise HeartnetError(f"{type(subject.module).__name__} cannot be run on a copy ({reason})")


def said(error: Exception) -> str:
    """Return an error's kind and first line; of one for people, what it says."""
    line = str(error).strip().partition("\n")[0]
    return line if isinstance(error, HeartnetError) else f"{type(error).__name__}: {line}"


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch of tensors, tuples, lists and dicts with each tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(each, change) for key, each in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [map_tensors(each, change) for each in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def tree_rows(bench: Bench, count: int) -> Any:
    """Return what goes in, of the first few samples."""
    return rows_of(bench.tree, list(range(min(count, bench.size))))


def norms_of(module: nn.Module) -> list[nn.Module]:
    """Return the layers that in training mode normalise by statistics of the batch."""
    return [each for each in module.modules() if isinstance(each, _NORMS) and each.training]


def differs(one: Tensor, other: Tensor) -> float | None:
    """Return the largest difference over the largest value; None if the shapes are not the same."""
    if one.shape != other.shape or not one.numel():
        return None
    size = float(torch.maximum(one.abs(), other.abs()).max())
    value = float((one - other).abs().max()) / size if size > 0 else 0.0
    return value if np.isfinite(value) else None


def first_difference(one: Sequence[Seen], other: Sequence[Seen], tolerance: float) -> tuple[str, bool]:
    """Return the first module that put out something else, and whether it was given something else already.

    The name is `""` if none did.
    """
    for a, b in zip(one, other, strict=False):
        if a.name != b.name:
            return a.name, True
        if any((differs(x, y) or 0.0) > tolerance for x, y in zip(a.inputs, b.inputs, strict=False)):
            return a.name, True
        if (differs(a.output, b.output) or 0.0) > tolerance:
            return a.name, False
    return "", False


def _few(batch: Any, rows: int) -> Any:
    size = batch_size(batch) or 0
    return batch if size <= rows else rows_of(batch, np.linspace(0, size - 1, rows).astype(int).tolist())


def _make_double(module: nn.Module) -> None:
    """Also what is kept as a plain attribute, such as weights of classes."""
    module.double()
    for each in module.modules():
        for name, value in vars(each).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(each)[name] = value.double()


def _cut(batch: Any, size: int) -> Any:
    """Cut sequences of a dict with lengths to few readings, and to different lengths, so that there is padding."""
    lengths = _lengths_in(batch, size)
    inputs = next((each for each in tensors_in(batch) if each.dim() > 2 and each.is_floating_point()), None)
    if lengths is None or inputs is None:
        return batch
    shorter = torch.tensor([min(READINGS, int(each)) - 7 * i for i, each in enumerate(lengths)], device=lengths.device)
    kept = shorter.clamp(min=1).to(lengths.dtype)
    time, longest = inputs.shape[1], int(kept.max())
    inside = torch.arange(longest, device=inputs.device) < kept.to(inputs.device)[:, None]

    def cut(value: Tensor) -> Tensor:
        if value.shape[:2] != (size, time):
            return kept if _same_numbers(value, lengths) else value
        value = value[:, :longest]
        return value * inside.reshape(*inside.shape, *(1 for _ in value.shape[2:])).to(value.dtype)

    return map_tensors(batch, cut)


def _same_numbers(value: Any, lengths: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == lengths.shape and bool((value == lengths).all())


def _lengths_in(batch: Any, size: int) -> Tensor | None:
    if not isinstance(batch, Mapping):
        return None
    found = next((batch[name] for name in ("lengths", "length") if name in batch), None)
    whole = isinstance(found, Tensor) and not found.is_floating_point() and found.shape == (size,)
    return found if whole else None


def _table(values: Tensor, size: int) -> Float[Tensor, "sample output"]:
    return values.reshape(size, -1)


@contextmanager
def _watching(module: nn.Module, size: int, last: list[Tensor], seen: list[Seen] | None) -> Iterator[None]:
    """Keep the last output that has a row a sample; and, if asked for, what each module without parts did."""

    def note(name: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tensors = [each for each in tensors_in(output) if each.is_floating_point()]
        if not tensors:
            return
        if tensors[0].dim() > 0 and len(tensors[0]) == size:
            last[:] = [tensors[0]]
        if seen is not None:
            seen.append(Seen(name, [_brief(each) for each in tensors_in(args)], _brief(tensors[0])))

    leaves = [(plain_name(name), each) for name, each in module.named_modules() if not any(each.children())]
    handles = [each.register_forward_hook(partial(note, name)) for name, each in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _brief(value: Tensor) -> Tensor:
    flat = value.detach().reshape(len(value), -1) if value.dim() > 0 else value.detach().reshape(1, 1)
    kept = flat[:, :: max(flat.shape[1] // 65_536, 1)].clone()
    return kept if kept.is_floating_point() else kept.float()
