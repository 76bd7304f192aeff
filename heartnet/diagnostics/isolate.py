"""A copy of a network to measure on, and the guards that keep a measurement from leaving a trace."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heartnet.errors import HeartnetError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TRAINERS = ("_trainer", "_fabric")


@contextmanager
def isolated(network: nn.Module, dtype: torch.dtype = torch.float64) -> Iterator[nn.Module]:
    """Yield a copy of `network` in evaluation mode and `dtype`, on the same device, for gradients of its inputs.

    Inside, gradients are on (also under `torch.no_grad` and `torch.inference_mode`), autocast is off, `dtype` is the
    default type of new tensors, and random numbers are borrowed: every stream is put back, also after an error.

    The copy differs from `network` so that it can be measured:

    - Its weights ask for no gradient.
    - It has none of the hooks that others registered, since those record or log; hooks of `torch` itself stay
      (spectral normalisation and pruning are hooks).
    - `torch.compile`d modules are replaced by what was compiled.
    - It knows no trainer, so that `self.log` in a `forward` reaches nobody.
    - Recurrent layers stay in training mode, without dropout, which is the same function; cuDNN has no backward pass
      through a recurrent layer in evaluation mode.

    Raises:
        HeartnetError: the network cannot be copied.
    """
    if not isinstance(network, nn.Module):
        raise HeartnetError(f"a measurement needs a torch.nn.Module, not {type(network).__name__}")
    kind = device_of(network).type
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        rng_untouched(),
        torch.autocast("cpu", enabled=False),
        torch.autocast(kind, enabled=False),
        _default_dtype(dtype),
    ):
        yield _measurable_copy(network, dtype)


def bare_copy(network: nn.Module) -> nn.Module:
    """Return a copy of `network` in its mode and type, without others' hooks, compilation or trainer (see `isolated`).

    Raises:
        HeartnetError: the network cannot be copied.
    """
    memo = _memo(network)
    try:
        twin = copy.deepcopy(network, memo)
    except Exception as error:  # whatever a foreign module holds decides what is raised
        raise HeartnetError(
            f"{type(network).__name__} cannot be copied to be measured ({type(error).__name__}: {error}); "
            "give the callback a `probe` whose network is the part that computes the logits"
        ) from error
    assert isinstance(twin, nn.Module)
    for module in twin.modules():
        # What was compiled in place, or by Lightning, is bound to the original: a copy would call that.
        for name in ("_compiled_call_impl", *(vars(module).get("_compiler_ctx") or {})):
            vars(module).pop(name.removeprefix("original_"), None)
        for name in _TRAINERS:
            if name in vars(module):
                vars(module).update({name: None, "log": _say_nothing, "log_dict": _say_nothing})
    return twin


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Put the random streams of torch (all devices), NumPy and Python back at the end, also after an error."""
    python, numpy = random.getstate(), np.random.get_state()
    # Forking the streams of a GPU that nobody used would start CUDA on it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU if there is none."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let `torch.zeros(…)` in a forward, as for the first state of an LSTM, fit weights of `dtype`."""
    before = torch.get_default_dtype()
    if before == dtype:  # all threads share it: who need not change it does not put it back while another needs it
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _measurable_copy(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    twin = bare_copy(network)
    twin = twin.to(dtype).eval().requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.train()
    return twin


def _say_nothing(*_: object, **__: object) -> None:
    """Stand in for `self.log`, which complains where there is no trainer."""


def _memo(network: nn.Module) -> dict[int, Any]:
    """Return what `copy.deepcopy` shall take instead of copying it, by identity."""
    memo: dict[int, Any] = {}
    # `modules` gives parents first; a compiled module within a compiled module has to be replaced before it.
    for module in reversed(list(network.modules())):
        for name in _HOOKS:
            hooks = vars(module).get(name, {})
            memo[id(hooks)] = OrderedDict((key, hook) for key, hook in hooks.items() if _is_torchs_own(hook))
        for name, value in vars(module).items():
            if name in _TRAINERS and value is not None:
                memo[id(value)] = value
            # Results of computing, such as a state carried on, which torch refuses to copy.
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, Tensor) and not each.is_leaf:
                    memo[id(each)] = each.detach().clone()
        original = getattr(module, "_orig_mod", None)
        if isinstance(original, nn.Module):
            memo[id(module)] = copy.deepcopy(original, memo)
    return memo


def _is_torchs_own(hook: Any) -> bool:
    owner = getattr(hook, "__module__", None) or type(hook).__module__
    return owner == "torch" or owner.startswith("torch.")
