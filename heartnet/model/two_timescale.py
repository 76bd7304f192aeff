"""TwoTimescale: readings seconds apart and minutes apart go through networks of their own, merged at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from heartnet.errors import HeartnetError
from heartnet.logits import Logits
from heartnet.model.deepheart import Activation, Clock, DeepHeart, MetadataMode, Readout, check_choice, step_mask
from heartnet.model.lstm import ForgetBias
from heartnet.weeks import CHANNELS

_DT = CHANNELS.index("dt")
_KINDS = ("dense", "sparse")
_WEEK = 7 * 86_400.0
_ROUNDING = 1e-4  # of a logarithm of seconds, so that a dt of just `boundary` is sparse however dt was rounded


class Stretch(NamedTuple):
    """The readings of one timescale.

    Attributes:
        inputs: them alone, moved together, 0 behind.
        lengths: how many there are; 0 if a week has none.
        rank: for each reading of the week, which of these it is, or else the last one before it; −1 before the first.
    """

    inputs: Float[Tensor, "batch own channel"]
    lengths: Int[Tensor, " batch"]
    rank: Int[Tensor, "batch time"]


class TwoTimescale(nn.Module):
    """Two networks like DeepHeart, for workouts and for rest; a last layer sees what both make of a week.

    A watch measures every few seconds in a workout and every few minutes otherwise, and the talk's convolutions fell
    silent in workouts (M. Matelis and A. Singh, "Debuggable Deep Learning", 2019): "we could process inputs of
    different time scales separately, and then merge the results prior to the final layer. We actually haven't tried
    this yet".

    Readings less than `boundary` seconds after the one before are `dense`, all others `sparse`, the first among them.
    Each kind, moved together, goes through its own convolutions and LSTMs. At every reading the last layer sees the
    newest step of both (zeros before the first); for the score it sees the readouts of both (zeros where a week has no
    such reading). dt becomes the time since the reading before of the same kind; where a reading of the other kind lay
    between, no gradient flows through it, for time is where a reading stands, not what it says.

    Nothing that it returns depends on padding, on the other sequences of the batch or on their order.

    Args:
        channels: input channels; heart rate, steps and dt come first.
        outputs: logits a step.
        metadata_size: numbers known about the person; used only by `metadata="lstm_state"`.
        boundary: seconds.
        conv_units, kernel_sizes, pool, lstm_units, lstm_layers, dropout, activation, readout, clock, forget_bias,
            metadata, longest: of both networks, see `heartnet.model.DeepHeart`.

    Raises:
        HeartnetError: an argument that cannot work, or data without dt.
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 4,
        metadata_size: int = 0,
        *,
        boundary: float = 60.0,
        conv_units: int = 48,
        kernel_sizes: Sequence[int] = (12, 5, 5),
        pool: int = 4,
        lstm_units: int = 48,
        lstm_layers: int = 2,
        dropout: float = 0.2,
        activation: Activation = "leaky_relu",
        readout: Readout = "mean",
        clock: Clock = "none",
        forget_bias: ForgetBias = "default",
        metadata: MetadataMode = "none",
        longest: int = 4096,
    ) -> None:
        super().__init__()
        if not 0 < boundary < math.inf:
            raise HeartnetError(f"model.boundary={boundary}: must be a number of seconds above 0")
        if not len(CHANNELS) <= channels <= len(CHANNELS) + 1:
            raise HeartnetError(
                "model=two_timescale needs dt, which data.view=hourly has not; use data.view=readings, or another model"
            )
        check_choice("metadata", metadata, get_args(MetadataMode))
        shared: dict[str, Any] = {
            "conv_units": conv_units, "kernel_sizes": list(kernel_sizes), "pool": pool, "lstm_units": lstm_units,
            "lstm_layers": lstm_layers, "dropout": dropout, "activation": activation, "readout": readout,
            "clock": clock, "forget_bias": forget_bias, "metadata": metadata, "longest": longest,
        }  # fmt: skip
        self.arguments: dict[str, Any] = {
            "channels": channels, "outputs": outputs, "metadata_size": metadata_size, "boundary": float(boundary),
            **shared,
        }  # fmt: skip
        """What this network was made with, as plain values: a checkpoint keeps them to build it again."""
        self.boundary = float(boundary)
        self.dt_scale: Tensor
        self.register_buffer("dt_scale", torch.tensor([0.0, 1.0]))
        self.branches = nn.ModuleDict({name: DeepHeart(channels, 1, metadata_size, **shared) for name in _KINDS})
        for branch in self.branches.values():
            branch.add_module("head", nn.Identity())  # it answers with its features; the last layer is here
        self.head = nn.Conv1d(len(_KINDS) * 2 * lstm_units, outputs, 1)

    def forward(
        self,
        inputs: Float[Tensor, "batch time channel"],
        lengths: Int[Tensor, " batch"],
        metadata: Float[Tensor, "batch field"] | None = None,
    ) -> Logits:
        """Return logits at every reading (0 where padded) and after the readout."""
        steps, scores = [], []
        for name, part in self.stretches(inputs, lengths).items():
            branch = self.branches[name]
            assert isinstance(branch, DeepHeart)
            # One reading of zeros goes through where there is none, and out again in the next lines.
            answer = branch(part.inputs, part.lengths.clamp(min=1), metadata)
            scores.append(answer.score.where((part.lengths > 0)[:, None], 0.0))
            place = (part.rank.clamp(min=0) // branch.stride)[:, :, None].expand(-1, -1, answer.steps.shape[2])
            steps.append(answer.steps.gather(1, place).where((part.rank >= 0)[:, :, None], 0.0))
        logits = self.head(torch.cat(steps, dim=2).transpose(1, 2))
        logits = logits * step_mask(lengths, logits.shape[2], logits.dtype)[:, None]
        return Logits(logits.transpose(1, 2), self.head(torch.cat(scores, dim=1)[:, :, None])[:, :, 0])

    def stretches(
        self, inputs: Float[Tensor, "batch time channel"], lengths: Int[Tensor, " batch"]
    ) -> dict[str, Stretch]:
        """Return the readings of each timescale, by name."""
        with torch.no_grad():
            exact = inputs[:, :, _DT].to(torch.promote_types(inputs.dtype, torch.float32))
            mean, std = self.dt_scale.to(exact.dtype)
            logarithm = (exact * std + mean).clamp(0.0, math.log1p(_WEEK))
            # The first reading is sparse.
            dense = F.pad(logarithm[:, 1:] < math.log1p(self.boundary) - _ROUNDING, (1, 0))
            # Seconds of a whole week in float32 would be a sixteenth of a second apart.
            time = F.pad(torch.expm1(logarithm[:, 1:]), (1, 0)).double().cumsum(dim=1)
            valid = torch.arange(inputs.shape[1], device=lengths.device) < lengths[:, None]
        found = {}
        for name, mine in zip(_KINDS, (dense & valid, ~dense & valid), strict=True):
            found[name] = self._together(inputs, mine, time)
        return found

    def _together(
        self,
        inputs: Float[Tensor, "batch time channel"],
        mine: Bool[Tensor, "batch time"],
        time: Float[Tensor, "batch time"],
    ) -> Stretch:
        """Move the readings of one timescale together, with the time since the one before as their dt."""
        counted = mine.long()  # ONNX counts no booleans
        rank, lengths = counted.cumsum(dim=1) - 1, counted.sum(dim=1)
        # Where the members stand, in their order: as many as the longest week has, and never none. A GPU would wait to
        # know how many these are, and gets as many as there are readings.
        steps = torch.arange(mine.shape[1], device=mine.device).expand_as(rank)
        behind = torch.full_like(rank, mine.shape[1])
        place = F.pad(torch.zeros_like(rank), (0, 1)).scatter(1, torch.where(mine, rank, behind), steps)
        place = place[:, : lengths.max().clamp(min=1)] if place.is_cpu else place[:, :-1]
        own = inputs.gather(1, place[:, :, None].expand(-1, -1, inputs.shape[2]))
        seconds = time.gather(1, place)
        since = (seconds - F.pad(seconds[:, :-1], (1, 0))).clamp(min=0)
        since = since.to(torch.promote_types(inputs.dtype, torch.float32))
        mean, std = self.dt_scale.to(since.dtype)
        neighbours = place - F.pad(place[:, :-1], (1, 0), value=-1) == 1
        dt = own[:, :, _DT].where(neighbours, ((torch.log1p(since) - mean) / std).to(own.dtype))
        own = torch.cat([own[:, :, :_DT], dt[:, :, None], own[:, :, _DT + 1 :]], dim=2)
        own = own * step_mask(lengths, own.shape[1], own.dtype)[:, :, None]
        return Stretch(own, lengths, rank)

    def set_clock(self, mean: float, std: float) -> None:
        """Say how dt was scaled, to `(log(1 + seconds) - mean) / std`."""
        self.dt_scale.copy_(torch.tensor([mean, std]))
        for branch in self.branches.values():
            assert isinstance(branch, DeepHeart)
            branch.set_clock(mean, std)

    def set_output_bias(self, bias: Float[Tensor, " output"]) -> None:
        """Let the scores start at `bias`, for example the logits of the base rates."""
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias.copy_(bias)
