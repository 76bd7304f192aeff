"""Views of other people's networks: how a foreign module and its batches become a `Probe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from heartnet.diagnostics.isolate import device_of, isolated
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.errors import HeartnetError

_NAMED = 6
_HELP = (
    "say how to call it, for example Amnesia(probe=lambda module, batch: "
    "adapt(module, batch[0], outputs=('risk',), logits=lambda out: Logits(None, out)))"
)


class Adapted(nn.Module):
    """A network whose answer is turned into `Logits`."""

    def __init__(self, network: nn.Module, logits: Callable[[Any], Logits]) -> None:
        super().__init__()
        self.network = network
        self.logits = logits

    def forward(self, *inputs: Tensor) -> Logits:
        return self.logits(self.network(*inputs))


def adapt(
    network: nn.Module,
    inputs: Tensor,
    *,
    rest: Sequence[Tensor] = (),
    logits: Callable[[Any], Logits] | None = None,
    lengths: Tensor | None = None,
    outputs: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    dt: Tensor | None = None,
) -> Probe:
    """Return a probe of a network that knows nothing of heartnet.

    Args:
        network: called as `network(inputs, *rest)`.
        inputs: float, `[batch, time, channel]`.
        rest: further arguments, each with the batch first.
        logits: turns what the network returns into `Logits`. None takes `Logits` as they are, `[batch, output]` or
            `[batch]` as the score, and `[batch, step, output]` as logits at every step whose mean is the score.
        lengths: valid readings of each sequence; None if all are.
        outputs: names of the outputs; None runs the network once, on one sequence, to count them.
        channels: names of the channels; None numbers them.
        dt: seconds since the reading before, `[batch, time]`.

    Raises:
        HeartnetError: the shapes do not fit, or the answer cannot be understood.
    """
    if inputs.dim() != 3:
        raise HeartnetError(f"the inputs have shape {tuple(inputs.shape)}, expected [batch, time, channel]; {_HELP}")
    batch, time, size = inputs.shape
    adapted = Adapted(network, logits or _read)
    if outputs is None:
        outputs = tuple(f"output_{i}" for i in range(_count_outputs(adapted, inputs, rest)))
    return Probe(
        network=adapted,
        inputs=inputs,
        rest=tuple(rest),
        lengths=torch.full((batch,), time) if lengths is None else lengths,
        outputs=tuple(outputs),
        channels=tuple(channels or (f"channel_{i}" for i in range(size))),
        dt=dt,
    )


def guess_probe(network: nn.Module, batch: Any, outputs: Sequence[str] | None = None) -> Probe:
    """Return a probe of `network(inputs)`, where `inputs` is the first float tensor of three dimensions in the batch.

    The batch is a tensor, or a tuple, list or dict of tensors. A dict's `lengths` (or `length`) are used; otherwise all
    readings count as valid. The answer is understood as by `adapt`.

    Args:
        outputs: names of the outputs; with None the network is run, and its answer has to be understood.

    Raises:
        HeartnetError: there is nothing to guess from; the message says how to say it.
    """
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    values = list(values) if isinstance(values, tuple | list) else [values]
    floats = [each for each in values if isinstance(each, Tensor) and each.is_floating_point() and each.dim() == 3]
    name = str(getattr(network, "whole", type(network).__name__))
    if not floats:
        more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
        found = ", ".join(_describe(each) for each in values[:_NAMED]) + more
        raise HeartnetError(f"no float tensor [batch, time, channel] in the batch of {name} (found: {found}); {_HELP}")
    inputs = floats[0]
    if inputs.shape[1] < inputs.shape[2]:
        raise HeartnetError(
            f"the inputs of {name} have shape {tuple(inputs.shape)}, which may be [batch, channel, time]; {_HELP}"
        )
    lengths = batch.get("lengths", batch.get("length")) if isinstance(batch, Mapping) else None
    return adapt(network, inputs, lengths=lengths, outputs=outputs)


def own_probe(module: nn.Module) -> Callable[[Any], Probe] | None:
    """Return a module's method `probe(batch) -> Probe`, if it is so annotated.

    Others have a `probe` too: a linear one, say, that is trained on frozen features.
    """
    own = getattr(module, "probe", None)
    if isinstance(own, nn.Module) or not callable(own):
        return None
    promised = getattr(own, "__annotations__", {}).get("return")
    return own if str(getattr(promised, "__name__", promised)).endswith("Probe") else None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def _count_outputs(network: Adapted, inputs: Tensor, rest: Sequence[Tensor]) -> int:
    name = type(network.network).__name__
    with isolated(network, torch.float32) as twin, torch.no_grad():
        device = device_of(twin)
        one = [each[:1].detach().to(device).clone() for each in (inputs, *rest)]
        try:
            answer = twin(*(each.float() if each.is_floating_point() else each for each in one))
        except HeartnetError:
            raise
        except Exception as error:  # calling it this way was a guess
            call = "inputs" if not rest else f"inputs, and {len(rest)} more"
            raise HeartnetError(f"{name} cannot be called with {call} ({error}); {_HELP}") from error
    score: Tensor = answer.score
    return score.shape[1]


def _read(answer: Any) -> Logits:
    if isinstance(answer, Logits):
        return answer
    if isinstance(answer, Tensor) and answer.dim() == 3:
        return Logits(answer, answer.mean(dim=1))
    if isinstance(answer, Tensor) and answer.dim() in (1, 2):
        return Logits(None, answer if answer.dim() == 2 else answer[:, None])
    raise HeartnetError(f"the network returned {_describe(answer)}, from which no logits can be told; {_HELP}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
