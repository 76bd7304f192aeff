"""Do the scores survive saving and loading? Through bytes into scrambled copies, or a file and the module's loader."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heartnet.diagnostics.wiring import Bench, differs


@dataclass(frozen=True)
class Saved:
    """What saving and loading changed.

    Attributes:
        value: largest difference of scores, over the largest score; None if it cannot be told.
        lost: weights that no checkpoint holds: of modules and parameters in plain lists and dicts.
        way: `"file"` (the module's own `from_checkpoint`) or `"state"` (its `state_dict`, read weights-only).
        reason: why it cannot be told.
    """

    value: float | None
    lost: tuple[str, ...] = ()
    way: str = "state"
    reason: str = ""


def saved(bench: Bench) -> Saved:
    """Return how scores in evaluation mode change by saving and loading; the weights of the bench stay as they are."""
    before = bench.scores().detach()
    lost = tuple(_unregistered(bench.module))
    state = {name: each.clone() for name, each in bench.module.state_dict().items() if isinstance(each, Tensor)}
    buffer = io.BytesIO()
    torch.save(bench.module.state_dict(), buffer)
    buffer.seek(0)
    try:
        _scramble(state)
        bench.module.load_state_dict(state, strict=False)
        bench.module.load_state_dict(torch.load(buffer, weights_only=True))
        after = bench.scores().detach()
    except Exception as error:  # a state of its own making
        line = str(error).strip().partition("\n")[0]
        return Saved(None, lost, reason=f"its state cannot be read weights-only ({type(error).__name__}: {line})")
    return Saved(differs(before, after), lost)


def saved_to_file(bench: Bench, module: Any) -> Saved:
    """Return how scores change by a checkpoint file in a temporary folder, and `from_checkpoint` of the module's class.

    Args:
        bench: of `module`, with a probe.
        module: has `on_save_checkpoint` and `from_checkpoint`, as heartnet's has; its dtype is float32.
    """
    lost = tuple(_unregistered(bench.module))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.ckpt"
        torch.save(checkpoint, path)
        try:
            loaded = type(module).from_checkpoint(path)
        except Exception as error:  # a network that it does not know
            line = str(error).strip().partition("\n")[0].removeprefix(f"{path}: ")
            return Saved(None, lost, "file", f"its checkpoint cannot be loaded ({line})")
    before = bench.scores().detach()
    with bench.running(), torch.no_grad():
        network = loaded.network.to(before.device).to(before.dtype).eval()
        after = network(*bench.tree).score.detach()
    return Saved(differs(before, after.reshape(len(before), -1)), lost, "file")


def _scramble(state: dict[str, Tensor]) -> None:
    for each in state.values():
        if each.is_floating_point() and each.numel():
            each.copy_(torch.rand(each.shape, generator=torch.Generator().manual_seed(0)).to(each) + 0.5)


def _unregistered(module: nn.Module) -> Iterator[str]:
    """Yield the places of weights in plain lists, tuples and dicts, which no optimiser and no checkpoint sees."""
    known = {id(each) for each in module.parameters()}
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute.startswith("_") or not isinstance(value, list | tuple | Mapping):
                continue
            each: Any
            for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
                held = [*each.parameters()] if isinstance(each, nn.Module) else [each]
                if any(isinstance(one, nn.Parameter) and id(one) not in known for one in held):
                    yield ".".join(part for part in (name, f"{attribute}[{key!r}]") if part)
