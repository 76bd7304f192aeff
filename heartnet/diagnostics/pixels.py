"""Views of a module that is called in another way: images as sequences of pixels, and a module without `forward`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heartnet.diagnostics.probe import Probe


class Pixels(nn.Module):
    """A network of images that is called with `[batch, pixel, channel]`, pixels row by row.

    Args:
        network: called as `network(images)`, `[batch, channel, height, width]`.
        height, width: of the images.
    """

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.network, self.height, self.width = network, height, width

    def forward(self, inputs: Float[Tensor, "batch pixel channel"]) -> Any:
        return self.network(inputs.transpose(1, 2).reshape(len(inputs), -1, self.height, self.width))


class Part(nn.Module):
    """A module of which one part is called; its layers keep the names that they have in the whole."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name
        self.whole = type(network).__name__

    def forward(self, *inputs: Tensor) -> Any:
        return self.network.get_submodule(self.name)(*inputs)


def part_that_is_called(module: nn.Module) -> nn.Module:
    """Return the module, or, if it has no `forward` and one part alone has weights, a view that calls that part."""
    if getattr(type(module).forward, "__module__", "").startswith(("torch.", "pytorch_lightning.", "lightning.")):
        parts = [name for name, each in module.named_children() if any(True for _ in each.parameters())]
        return Part(module, parts[0]) if len(parts) == 1 else module
    return module


def image_probe(network: nn.Module, batch: Any) -> Probe | None:
    """Return a probe of `network(images)`, where `images` is the batch's first float tensor of four dimensions.

    None if there is no such tensor, or one of three dimensions, which is a sequence, stands beside it.
    """
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    values = list(values) if isinstance(values, tuple | list) else [values]
    floats = [each for each in values if isinstance(each, Tensor) and each.is_floating_point()]
    images = next((each for each in floats if each.dim() == 4), None)
    if images is None or any(each.dim() == 3 for each in floats):
        return None
    count, channels, height, width = images.shape
    return Probe(
        network=Pixels(network, height, width),
        inputs=images.flatten(2).transpose(1, 2),
        rest=(),
        lengths=torch.full((count,), height * width),
        outputs=("any",),
        channels=tuple(f"channel_{i}" for i in range(channels)),
    )
