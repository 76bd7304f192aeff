"""HourlyCNN: a small convolutional network for the hourly view of a week."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from heartnet.errors import HeartnetError
from heartnet.hourly import HOURLY
from heartnet.logits import Logits
from heartnet.model.deepheart import ACTIVATIONS, Activation, check_choice, check_counts, mean_pool, step_mask
from heartnet.model.dropout import Dropout

MetadataMode = Literal["none", "logit"]

CHANNELS = len(HOURLY) + 1
"""The features of an hour, and 1 where no heart rate was measured in it."""


class HourlyCNN(nn.Module):
    """Convolutions over the hours of a week, each pooled by two, then the mean over the week and one logit a condition.

    The talk's alternative to reading the raw stream: much simpler, for the grid is fixed and a step holds much (M.
    Matelis and A. Singh, "Debuggable Deep Learning", 2019: "you can use a lot simpler CNN architecture, something a
    little more off-the-shelf"). With the defaults, a unit of the last layer sees 29 hours.
    There are no logits at every step: a step that sees a day cannot remember a week.

    Nothing that it returns depends on padding, on the other sequences of the batch or on their order.

    Args:
        channels: input channels; those of `data.view=hourly`.
        outputs: logits.
        metadata_size: numbers known about the person; used only by `metadata="logit"`.
        conv_units: units of each convolution.
        kernel_sizes: length of each convolution.
        pool: steps averaged into one after each convolution.
        dropout: after each convolution.
        activation: after each convolution.
        metadata: `logit` adds a linear function of age, sex and BMI to the score; `none` leaves them out.

    Raises:
        HeartnetError: an argument that cannot work, or data that is not the hourly view.
    """

    def __init__(
        self,
        channels: int = CHANNELS,
        outputs: int = 4,
        metadata_size: int = 0,
        *,
        conv_units: int = 32,
        kernel_sizes: Sequence[int] = (5, 5, 5),
        pool: int = 2,
        dropout: float = 0.2,
        activation: Activation = "leaky_relu",
        metadata: MetadataMode = "none",
    ) -> None:
        super().__init__()
        if channels != CHANNELS:
            raise HeartnetError(
                f"model=hourly_cnn reads the {CHANNELS} channels of the hourly view, and this data has {channels}; "
                "add data.view=hourly, or choose another model"
            )
        check_choice("activation", activation, get_args(Activation))
        check_choice("metadata", metadata, get_args(MetadataMode))
        sizes = {f"kernel_sizes[{i}]": size for i, size in enumerate(kernel_sizes)}
        check_counts(conv_units=conv_units, pool=pool, **sizes)
        if len(kernel_sizes) == 0:
            raise HeartnetError("model.kernel_sizes=[]: must name at least one convolution's length")
        if not 0 <= dropout < 1:
            raise HeartnetError(f"model.dropout={dropout}: must be from 0 up to but not including 1")
        if metadata == "logit" and metadata_size == 0:
            raise HeartnetError("model.metadata=logit needs metadata, and this data has none; use model.metadata=none")
        self.arguments: dict[str, Any] = {
            "channels": channels, "outputs": outputs, "metadata_size": metadata_size, "conv_units": conv_units,
            "kernel_sizes": list(kernel_sizes), "pool": pool, "dropout": dropout, "activation": activation,
            "metadata": metadata,
        }  # fmt: skip
        """What this network was made with, as plain values: a checkpoint keeps them to build it again."""
        self.kernel_sizes, self.pool = tuple(kernel_sizes), pool
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels if i == 0 else conv_units, conv_units, size) for i, size in enumerate(kernel_sizes)
        )
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(conv_units, outputs)
        self.metadata_logit = nn.Linear(metadata_size, outputs, bias=False) if metadata == "logit" else None

    def forward(
        self,
        inputs: Float[Tensor, "batch time channel"],
        lengths: Int[Tensor, " batch"],
        metadata: Float[Tensor, "batch field"] | None = None,
    ) -> Logits:
        """Return the logits of the whole week as the score, and none at every step."""
        hidden = inputs.transpose(1, 2)
        for convolution, size in zip(self.convolutions, self.kernel_sizes, strict=True):
            hidden = convolution(F.pad(hidden, ((size - 1) // 2, size // 2)))
            hidden = self.dropout(self.activation(hidden))
            # Padding must look to the next convolution like the zeros beyond the end of a sequence.
            hidden = hidden * step_mask(lengths, hidden.shape[2], hidden.dtype)[:, None]
            hidden, lengths = mean_pool(hidden, lengths, self.pool)
        score = self.head(hidden.sum(dim=2) / lengths[:, None])
        if self.metadata_logit is not None:
            if metadata is None:
                raise HeartnetError("this network reads metadata, and was called without any")
            score = score + self.metadata_logit(metadata)
        return Logits(None, score)

    def set_output_bias(self, bias: Float[Tensor, " output"]) -> None:
        """Let the scores start at `bias`, for example the logits of the base rates."""
        with torch.no_grad():
            self.head.bias.copy_(bias)
