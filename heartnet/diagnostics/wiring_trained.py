"""The scores that a network gives during validation, caught where they come out, and the labels of the same samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heartnet.diagnostics.contract_batches import parts_of
from heartnet.diagnostics.replay import tensors_in

Taken = tuple[
    Float[np.ndarray, "sample head"], Float[np.ndarray, "sample head"], Int64[np.ndarray, " sample"] | None, bool
]
_MOST_CLASSES = 16


class TrainedScores:
    """Catches the output of the module's outermost networks while validation goes on, and keeps it with the labels.

    The scores are the last output with a row a sample and as many columns as the batch has labels, or as labels have
    classes. A hook stands only between `open` and `close`; modules that are compiled are left alone.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._last: list[Tensor] = []
        self._kept: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._classes = False

    def open(self, module: nn.Module) -> None:
        """Begin to look at a module in validation."""
        self.close()
        compiled = any(
            hasattr(each, "_orig_mod") or isinstance(each, torch.jit.ScriptModule) for each in module.modules()
        )
        if compiled or getattr(module, "_compiler_ctx", None) is not None:
            return
        self._handles = [each.register_forward_hook(self._note()) for each in module.modules() if each is not module]

    def _note(self) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, args: Any, output: Any) -> None:
            del args
            found = [each for each in tensors_in(output) if each.is_floating_point() and each.dim() in (1, 2)]
            if found:
                self._last = [*self._last[-7:], found[-1].detach()]

        return note

    def add(self, batch: Any, loader: int = 0) -> None:
        """Take the scores of a batch that was just validated; only of the first loader."""
        last, self._last = self._last, []
        if not self._handles or loader > 0:
            return
        parts = parts_of(batch)
        if parts.targets is None or parts.targets.shape[1] > _MOST_CLASSES:
            return
        labels = parts.targets
        for scores in reversed(last):
            table = scores[:, None] if scores.dim() == 1 else scores
            if len(table) != parts.weeks:
                continue
            if table.shape[1] == labels.shape[1]:
                self._keep(table, labels, parts.index, classes=False)
                return
            if labels.shape[1] == 1 and 2 <= table.shape[1] <= _MOST_CLASSES and _numbered(labels, table.shape[1]):
                hot = torch.nn.functional.one_hot(labels[:, 0].long(), table.shape[1])
                self._keep(table, hot, parts.index, classes=True)
                return

    def _keep(self, scores: Tensor, labels: Tensor, index: Tensor | None, *, classes: bool) -> None:
        self._classes = classes
        self._kept.append((scores.float().cpu(), labels.float().cpu(), None if index is None else index.cpu()))

    def close(self) -> Taken | None:
        """Take the hooks off; return scores, labels, indices and whether heads are classes; None if nothing came."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._last = [], []
        kept, self._kept = self._kept, []
        if not kept or len({each[0].shape[1] for each in kept}) > 1:
            return None
        scores = torch.cat([each[0] for each in kept]).numpy()
        labels = torch.cat([each[1] for each in kept]).numpy()
        indices = [each[2] for each in kept if each[2] is not None]
        if len(indices) != len(kept):
            return scores, labels, None, self._classes
        index = torch.cat(indices).numpy().astype(np.int64)
        order = np.argsort(index, kind="stable")
        return scores[order], labels[order], index[order], self._classes


def _numbered(labels: Tensor, classes: int) -> bool:
    whole = bool((labels == labels.round()).all())
    return whole and bool((labels >= 0).all()) and bool((labels < classes).all())
