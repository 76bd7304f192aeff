"""`compile=convolutions`: what a network does between its convolutions, in one kernel where nobody looks into it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack

from heartnet.errors import HeartnetError
from heartnet.model.dropout import draws_from_stream

BACKEND = "inductor"
"""Of `torch.compile`; needs a C++ compiler on a CPU, Triton and a C compiler on a GPU."""

_FORMS = 64
"""In which the same function may be compiled in a process."""


class Compilable:
    """A function of tensors and modules that a network calls, compiled once `backend` is set.

    It is called as it is where compiling would hide something, or change who sees what: if one of the modules has
    hooks or another `forward`, under modes of PyTorch's (as for counting operations), while a network is traced or
    transformed (ONNX export, `torch.func`), and in threads (`heartnet.model.pieces`).

    It has no weights and no state, so a checkpoint does not know of it; and a copy of the network, as diagnostics make
    them, is not compiled.

    Args:
        function: of tensors, modules and numbers, of any batch and length.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.backend: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self.backend is None or _watched(arguments):
            return self.function(*arguments)
        return _compiled(self.function, self.backend)(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compilable:
        return Compilable(self.function)

    def __reduce__(self) -> tuple[type[Compilable], tuple[Callable[..., Any]]]:
        return Compilable, (self.function,)


def compile_convolutions(network: nn.Module, device: torch.device, backend: str = BACKEND) -> None:
    """Let a network compute compiled between its convolutions, after trying on a device whether that works there.

    Outputs and gradients stay, to rounding; dropout draws other numbers. Nothing is compiled anew for another length.

    Raises:
        HeartnetError: the network has no such part, or it cannot be compiled on this machine.
    """
    found: list[Any] = [each for each in network.modules() if isinstance(getattr(each, "finish", None), Compilable)]
    if not found:
        raise HeartnetError(
            f"compile=convolutions: {type(network).__name__} has nothing to compile; DeepHeart and TwoTimescale have. "
            "Set compile=null"
        )
    for part in found:
        part.finish.backend = backend
    # Training or not, first convolution or not, one week or several, each dropout of a sweep: each is one. Above the
    # limit nothing would be compiled, with a warning.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _FORMS)
    # What compiles says this of what it does itself.
    warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed")
    tried = found[0]
    out = torch.zeros(2, tried.convolutions[0].out_channels, 64, device=device)
    try:
        with torch.no_grad():
            tried.finish(out, None, torch.full((2,), 64, device=device), tried.activations[0], nn.Identity(), 1)
    except Exception as error:  # compilers raise many kinds
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise HeartnetError(
            f"compile=convolutions: cannot be compiled for {device} on this machine ({said}); it needs a C++ compiler "
            "(g++), and Triton on a GPU. Set compile=null"
        ) from error


@cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True, backend=backend)
    return compiled


def _watched(arguments: tuple[Any, ...]) -> bool:
    """Whether somebody might see the difference."""
    return bool(
        threading.current_thread() is not threading.main_thread()
        or draws_from_stream()
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        or torch._C._len_torch_dispatch_stack()
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
        or any(_looked_at(each) for each in arguments if isinstance(each, nn.Module))
        or any(each.is_meta for each in arguments if isinstance(each, Tensor))
    )


def _looked_at(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
    )  # fmt: skip
    return any(hooks) or "forward" in vars(module)
