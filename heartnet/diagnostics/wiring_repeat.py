"""Is evaluation repeatable, and does training mode compute the same up to dropout?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from heartnet.diagnostics.wiring import Bench, Seen, differs, first_difference, norms_of

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


@dataclass(frozen=True)
class Repeated:
    """Two passes that should be equal.

    Attributes:
        value: largest difference of scores, over the largest score; None if it cannot be told.
        module: the first module that put out something else; `""` if none did.
        before: it was given something else already, by what is not a module.
        given: the passes differ before any module runs, as with augmentation in the training step.
        random: the passes of training mode differ from each other too (other randomness than dropout).
        norms: names of batch normalisations, held at their running statistics.
    """

    value: float | None
    module: str = ""
    before: bool = False
    given: bool = False
    random: bool = False
    norms: Sequence[str] = ()


def repeated(bench: Bench) -> Repeated:
    """Compare two passes in evaluation mode, with different random numbers."""
    return _compare(bench, (False, 0), (False, 1))


def modes(bench: Bench) -> Repeated:
    """Compare training mode, without dropout and with fixed batch normalisation, with evaluation mode."""
    before = dict(bench.training)
    names = {id(each): name for name, each in bench.module.named_modules()}
    bench.module.train()
    norms = [names[id(each)] for each in norms_of(bench.module) if before.get(names[id(each)], True)]
    bench.training = before | dict.fromkeys(norms, False)
    try:
        with _without_dropout(bench.module):
            again = _compare(bench, (True, 0), (True, 1))
            random = again.value is not None and again.value > bench.tolerance
            found = again if random else _compare(bench, (False, 0), (True, 0))
    finally:
        bench.training = before
    return replace(found, random=random, norms=norms)


def _compare(bench: Bench, one: tuple[bool, int], other: tuple[bool, int]) -> Repeated:
    first, second = list[Seen](), list[Seen]()
    a = bench.scores(training=one[0], seed=one[1], seen=first).detach()
    b = bench.scores(training=other[0], seed=other[1], seen=second).detach()
    value = differs(a, b)
    if value is None or value <= bench.tolerance:
        return Repeated(value)
    name, before = first_difference(first, second, bench.tolerance)
    return Repeated(value, name, before, given=before and name == first[0].name)


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    """Let no dropout of torch drop anything: neither modules, nor functions, nor that within recurrent layers."""
    held: list[tuple[Any, str, float]] = []
    for each in module.modules():
        for name in ("p", "dropout"):
            number = vars(each).get(name)
            if type(each).__module__.startswith("torch.nn") and isinstance(number, float | int) and number > 0:
                held.append((each, name, number))
                setattr(each, name, 0.0)
    try:
        with _NoDropout():
            yield
    finally:
        for each, name, number in held:
            setattr(each, name, number)


class _NoDropout(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        given = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else given["input"]
        if func is F.scaled_dot_product_attention and len(args) < 5:
            given["dropout_p"] = 0.0
        return func(*args, **given)
