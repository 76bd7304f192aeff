"""Batches in pieces of a few weeks, which threads work on: the way a network trains on a CPU.

A piece of about 16,000 readings stays in a core's cache, is padded to little more than its own longest week, and goes
through the network forward and backward without waiting for another one. Threads within an operation, PyTorch's own,
wait for one another at every step of an LSTM, which is too small to be shared. Pieces depend on the batch alone, not on
the number of threads, and what they bring is summed in their order: results are the same to the bit, on however many
cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack

from heartnet.model.dropout import stream

READINGS = 4 * 4096
"""Readings of a piece, with padding."""

_Result = TypeVar("_Result")


class _Workers:
    """The threads that work on pieces, as many as `use_threads` says; one is the thread that asks."""

    def __init__(self) -> None:
        self.threads = 1
        self.pool: ThreadPoolExecutor | None = None

    def each(self, tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
        """Return the results of all tasks, in order."""
        if self.threads == 1:
            return [task() for task in tasks]
        return [wait() for wait in [self.later(task) for task in tasks]]

    def later(self, task: Callable[[], _Result]) -> Callable[[], _Result]:
        """Have a task done, and return what waits for its result."""
        if self.threads == 1:
            found = task()
            return lambda: found
        if self.pool is None:
            self.pool = ThreadPoolExecutor(self.threads, "pieces", torch.set_num_threads, (1,))
        return self.pool.submit(task).result

    def forget(self) -> None:
        """Start anew, in a process that was forked and has none of the threads."""
        self.pool = None


_workers = _Workers()
if hasattr(os, "register_at_fork"):  # not everywhere
    os.register_at_fork(after_in_child=_workers.forget)


def use_threads(threads: int | None) -> None:
    """Say how many threads work on pieces; None is one a core."""
    if _workers.pool is not None:
        _workers.pool.shutdown()
        _workers.pool = None
    _workers.threads = threads or (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def each(tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Have tasks done by the threads that work on pieces, and return their results, in order; see `later`."""
    return _workers.each(tasks)


def later(task: Callable[[], _Result]) -> Callable[[], _Result]:
    """Have a task done by a thread that works on pieces, at once if there is one thread; return what waits for it.

    The task must not ask for others itself, nor wait for them; gradient and inference modes, autocast and dispatch
    modes of the thread that asks do not hold for it.
    """
    return _workers.later(task)


def score(
    network: nn.Module,
    inputs: Float[Tensor, "batch time channel"],
    lengths: Int[Tensor, " batch"],
    metadata: Float[Tensor, "batch field"] | None,
) -> Float[Tensor, "batch output"]:
    """Return `network(inputs, lengths, metadata).score`, worked out in pieces where that can be done unseen.

    It can be done on a CPU, for a network that gives each week the same score whatever stands beside it and however it
    is padded, as those of `heartnet.model` do. The gradient reaches the weights; who asks for that of the inputs, or
    watches layers or weights by hooks or operations by modes, gets the plain way. Hooks and modes with an attribute
    `looks_at` (`only_looks`) are trusted to change nothing.
    """
    rows = max(READINGS // max(inputs.shape[1], 1), 1)
    if len(inputs) <= rows or not _unseen(network, inputs, metadata):
        whole: Tensor = network(inputs, lengths, metadata).score
        return whole
    for hook in list(network._forward_pre_hooks.values()):
        if getattr(hook, "looks_at", None) == "batch":
            hook(network, (inputs, lengths, metadata), {})
    order = torch.argsort(lengths, descending=True, stable=True)
    seed = int(torch.randint(2**62, ())) if network.training else None
    precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    graph = torch.is_grad_enabled()
    pieces = [
        _Piece(network, inputs, lengths, metadata, chosen, None if seed is None else seed + i, precision, graph)
        for i, chosen in enumerate(torch.split(order, rows))
    ]
    back = torch.argsort(order)
    weights = [each for each in network.parameters() if each.requires_grad]
    if graph and weights:
        found: Tensor = _Scores.apply(pieces, *weights)  # type: ignore[no-untyped-call]
        return found[back]
    return torch.cat(_called(pieces))[back]


def only_looks(hook: Callable[..., Any], at: Literal["pieces", "batch"] = "pieces") -> Callable[..., Any]:
    """Return a forward hook that `score` trusts to change nothing: with it, training goes on to the same bits.

    Args:
        hook: of a module, pre or not. It is called with one piece after the other, by the thread that asks.
        at: `batch`: a pre-hook of the network itself, with keywords, that is called with the whole batch, and has to
            remove itself then.
    """
    found: Any = partial(hook)
    found.looks_at = at
    marked: Callable[..., Any] = found
    return marked


def round_length(longest: int) -> int:
    """Return the length to which a piece is padded, one of 16 between a power of two and the next.

    Blocks of few sizes serve one batch after the other, whereas memory of ever new sizes falls apart and piles up
    (`heartnet.allocator` keeps it). It is 2 % more to compute, on average.
    """
    grain = 1 << max(longest.bit_length() - 5, 0)
    return -(-longest // grain) * grain


@dataclass(frozen=True)
class _Piece:
    """A few weeks of a batch; called, in whatever thread, returns their scores.

    `seed` is of the random stream of a training step, `precision` that of autocast, if it is on, `graph` whether
    gradients are asked for: what a thread does not take over from the one that started it.
    """

    network: nn.Module
    inputs: Tensor
    lengths: Tensor
    metadata: Tensor | None
    rows: Tensor
    seed: int | None
    precision: torch.dtype | None
    graph: bool

    def __call__(self) -> Tensor:
        lengths = self.lengths[self.rows]
        longest = int(lengths.max())
        inputs = F.pad(self.inputs[self.rows, :longest], (0, 0, 0, round_length(longest) - longest))
        metadata = None if self.metadata is None else self.metadata[self.rows]
        mixed = nullcontext() if self.precision is None else torch.autocast("cpu", self.precision)
        random = nullcontext() if self.seed is None else stream(self.seed)
        with torch.set_grad_enabled(self.graph), mixed, random:
            found: Tensor = self.network(inputs, lengths, metadata).score
        return found


class _Scores(torch.autograd.Function):
    """Scores of pieces, longest weeks first; the gradient goes back through each piece on its own."""

    @staticmethod
    def forward(ctx: Any, pieces: Sequence[_Piece], *weights: Tensor) -> Tensor:
        ctx.pieces, ctx.weights = pieces, weights
        ctx.scores = _called(pieces)
        return torch.cat([each.detach() for each in ctx.scores])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        def task(scores: Tensor, part: Tensor) -> Callable[[], tuple[Tensor | None, ...]]:
            return lambda: torch.autograd.grad(scores, ctx.weights, part, allow_unused=True)

        # Who asks for several gradients of one loss gets them, from going forward again: few do, and memory is freed.
        scores, ctx.scores = ctx.scores or _called(ctx.pieces), None
        parts = torch.split(gradient, [len(each) for each in scores])
        found = _workers.each([task(*each) for each in zip(scores, parts, strict=True)])
        return None, *map(_sum, zip(*found, strict=True))


def _called(pieces: Sequence[_Piece]) -> list[Tensor]:
    if any(map(_hooks, pieces[0].network.modules())):  # those who look see one piece at a time
        return [piece() for piece in pieces]
    return _workers.each(pieces)


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [each for each in gradients if each is not None]
    return None if not known else sum(known[1:], start=known[0])


def _unseen(network: nn.Module, inputs: Tensor, metadata: Tensor | None) -> bool:
    """Whether nobody watches what the network does, and nobody can tell the difference."""
    from heartnet.model import ARCHITECTURES

    asked = inputs.requires_grad or (metadata is not None and metadata.requires_grad)
    if asked or inputs.device.type != "cpu" or type(network) is not ARCHITECTURES.get(type(network).__name__):
        return False
    stack = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    modes = any(not hasattr(each, "looks_at") for each in stack)
    watched = modes or torch._C._len_torch_dispatch_stack() or _has_any_global_hook()  # type: ignore[no-untyped-call]
    return not watched and not any(map(_watched, network.modules()))


def _watched(module: nn.Module) -> bool:
    # A weight's own hook would be called for each piece, and again for their sum.
    weights = any(each._backward_hooks for each in module.parameters(recurse=False))
    strangers = any(not hasattr(hook, "looks_at") for hook in _hooks(module))
    backward = bool(module._backward_hooks or module._backward_pre_hooks)
    return weights or strangers or backward or "forward" in module.__dict__


def _hooks(module: nn.Module) -> list[Callable[..., Any]]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
