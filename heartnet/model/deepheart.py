"""DeepHeart: temporal convolutions, bidirectional LSTMs and one logit a condition at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.logits import Logits
from heartnet.model.clock import CLOCK_CHANNELS, day_angles
from heartnet.model.compiled import Compilable
from heartnet.model.dropout import Dropout
from heartnet.model.lstm import ForgetBias, LengthFlipLSTM, set_forget_bias
from heartnet.weeks import CHANNELS

Readout = Literal["mean", "last", "midpoint", "both_ends"]
Clock = Literal["none", "elapsed"]
Activation = Literal["relu", "leaky_relu", "gelu"]
MetadataMode = Literal["none", "lstm_state"]
Alone = Literal["only", "late_fusion"]
_DT = CHANNELS.index("dt")
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}


class DeepHeart(nn.Module):
    """Three temporal convolutions, four bidirectional LSTM layers, logits at every step, and a readout.

    The layout is DeepHeart's (Ballinger et al., "DeepHeart: Semi-Supervised Sequence Learning for Cardiovascular Risk
    Prediction", AAAI 2018): convolutions of 128 units and lengths 12, 5 and 5, the later two residual; LSTM layers of
    64 units a direction; dropout 0.2; a convolution of width 1 to the logits. With three channels, four outputs and no
    metadata it has 566,660 weights.

    Nothing that it returns depends on padding, on the other sequences of the batch or on their order.

    Args:
        channels: input channels.
        outputs: logits a step.
        metadata_size: numbers known about the person; not used by `metadata="none"`.
        conv_units: units of each convolution.
        kernel_sizes: length of each convolution; the second and later are residual.
        pool: steps averaged into one after each convolution; 1 keeps every step, as published.
        lstm_units: units of each LSTM layer, a direction.
        lstm_layers: stacked LSTM layers.
        dropout: after each convolution and each LSTM layer.
        activation: after each convolution. The ReLU of the post died; its cure, leaky ReLU, is the default.
        readout: how step-wise logits become one score: `mean` over valid steps (the first architecture of the talk),
            the `last` valid step, the `midpoint`, or `both_ends`: the logit from each direction's own last step, which
            is what Keras returns from a bidirectional LSTM without sequences.
        clock: `elapsed` shows the convolutions, beside each reading, how far the day has turned since the week's first
            reading (`heartnet.model.clock`), which they could otherwise only know by adding up a week of dt. It is not
            the local time: at which hour a week begins, and who travels, stays hidden. Augmentation of dt (`level`,
            `gain`) moves it too. `none` as published.
        forget_bias: see `heartnet.model.lstm.set_forget_bias`.
        metadata: `lstm_state` sets the LSTMs' first states from the metadata (as in the post); `none` leaves it out.
            To compare with: `only` is `lstm_state` that sees nothing of the week, not even how long it is, and
            `late_fusion` is `none`, to whose logits those of a logistic regression on the metadata are added after
            training (`heartnet.late_fusion`).
        longest: readings that `forget_bias="chrono"` should bridge.

    Raises:
        HeartnetError: an argument that cannot work.
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 4,
        metadata_size: int = 0,
        *,
        conv_units: int = 128,
        kernel_sizes: Sequence[int] = (12, 5, 5),
        pool: int = 1,
        lstm_units: int = 64,
        lstm_layers: int = 4,
        dropout: float = 0.2,
        activation: Activation = "leaky_relu",
        readout: Readout = "mean",
        clock: Clock = "none",
        forget_bias: ForgetBias = "default",
        metadata: MetadataMode | Alone = "none",
        longest: int = 4096,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, get_args(Activation))
        check_choice("readout", readout, get_args(Readout))
        check_choice("clock", clock, get_args(Clock))
        check_choice("metadata", metadata, (*get_args(MetadataMode), *get_args(Alone)))
        check_counts(
            conv_units=conv_units, pool=pool, lstm_units=lstm_units, lstm_layers=lstm_layers, longest=longest,
            **{f"kernel_sizes[{i}]": size for i, size in enumerate(kernel_sizes)},
        )  # fmt: skip
        if len(kernel_sizes) == 0:
            raise HeartnetError("model.kernel_sizes=[]: must name at least one convolution's length")
        if not 0 <= dropout < 1:
            raise HeartnetError(f"model.dropout={dropout}: must be from 0 up to but not including 1")
        _check_forget_bias(forget_bias)
        if metadata != "none" and metadata_size == 0:
            raise HeartnetError(
                f"model.metadata={metadata} needs metadata, and this data has none; use model.metadata=none"
            )
        if clock == "elapsed" and not len(CHANNELS) <= channels <= len(CHANNELS) + 1:
            raise HeartnetError("model.clock=elapsed needs dt, which data.view=hourly has not; use model.clock=none")
        self.arguments: dict[str, Any] = {
            "channels": channels, "outputs": outputs, "metadata_size": metadata_size, "conv_units": conv_units,
            "kernel_sizes": list(kernel_sizes), "pool": pool, "lstm_units": lstm_units, "lstm_layers": lstm_layers,
            "dropout": dropout, "activation": activation, "readout": readout, "clock": clock,
            "forget_bias": forget_bias, "metadata": metadata, "longest": longest,
        }  # fmt: skip
        """What this network was made with, as plain values: a checkpoint keeps them to build it again."""
        self.kernel_sizes = tuple(kernel_sizes)
        self.readout, self.clock, self.metadata = readout, clock, metadata
        self.dt_scale: Tensor
        if clock == "elapsed":
            self.register_buffer("dt_scale", torch.tensor([0.0, 1.0]))
            channels += CLOCK_CHANNELS
        self.pool = pool
        self.stride = pool ** len(kernel_sizes)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels if i == 0 else conv_units, conv_units, size) for i, size in enumerate(kernel_sizes)
        )
        self.activations = nn.ModuleList(ACTIVATIONS[activation]() for _ in kernel_sizes)
        self.dropout = Dropout(dropout)
        self.finish = Compilable(_finish)
        self.lstm = LengthFlipLSTM(conv_units, lstm_units, lstm_layers, dropout)
        for lstm in (*self.lstm.ahead, *self.lstm.back):
            assert isinstance(lstm, nn.LSTM)
            set_forget_bias(lstm, forget_bias, longest // self.stride)
        self.metadata_state = (
            nn.Linear(metadata_size, lstm_layers * 2 * 2 * lstm_units) if metadata in ("lstm_state", "only") else None
        )
        self.fusion = LateFusion(metadata_size, outputs) if metadata == "late_fusion" else None
        self.head = nn.Conv1d(2 * lstm_units, outputs, 1)

    def forward(
        self,
        inputs: Float[Tensor, "batch time channel"],
        lengths: Int[Tensor, " batch"],
        metadata: Float[Tensor, "batch field"] | None = None,
    ) -> Logits:
        """Return logits at every step (one for `stride` readings; 0 where padded) and after the readout."""
        if self.metadata == "only":
            return self._of_metadata(inputs, lengths, metadata)
        hidden = inputs.transpose(1, 2)
        if self.clock == "elapsed":
            hidden = torch.cat([hidden, day_angles(inputs[:, :, _DT], lengths, self.dt_scale)], dim=1)
        hidden, lengths = self._convolve(hidden, lengths)
        features = self.lstm(hidden.permute(2, 0, 1), lengths, self._first_state(metadata))
        features = self.dropout(features).permute(1, 2, 0)
        mask = step_mask(lengths, features.shape[2], features.dtype)
        steps = self.head(features) * mask[:, None]
        answer = Logits(steps.transpose(1, 2), self._read(steps, features, lengths))
        return answer if self.fusion is None else self.fusion(answer, mask, metadata)

    def _of_metadata(
        self,
        inputs: Float[Tensor, "batch time channel"],
        lengths: Int[Tensor, " batch"],
        metadata: Float[Tensor, "batch field"] | None,
    ) -> Logits:
        """Return what the network says after one reading of zeros, at every step."""
        channels = self.get_parameter("convolutions.0.weight").shape[1]
        hidden, one = self._convolve(inputs.new_zeros(inputs.shape[0], channels, 1), torch.ones_like(lengths))
        features = self.dropout(self.lstm(hidden.permute(2, 0, 1), one, self._first_state(metadata)))
        score = self.head(features.permute(1, 2, 0))
        mask = step_mask(-(-lengths // self.stride), -(-inputs.shape[1] // self.stride), score.dtype)
        return Logits((score * mask[:, None]).transpose(1, 2), score[:, :, 0])

    def _convolve(
        self, hidden: Float[Tensor, "batch channel time"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch unit step"], Int[Tensor, " batch"]]:
        for i, (convolution, activation) in enumerate(zip(self.convolutions, self.activations, strict=True)):
            # "same" padding as Keras has it: the odd one of an even kernel goes to the right.
            size = self.kernel_sizes[i]
            out = convolution(F.pad(hidden, ((size - 1) // 2, size // 2)))
            before = hidden if i > 0 else None
            hidden, lengths = self.finish(out, before, lengths, activation, self.dropout, self.pool)
        return hidden, lengths

    def _first_state(
        self, metadata: Float[Tensor, "batch field"] | None
    ) -> Float[Tensor, "layer direction kind batch unit"] | None:
        if self.metadata_state is None:
            return None
        if metadata is None:
            raise HeartnetError("this network sets its first state from metadata, and was called without any")
        units = self.lstm.hidden_size
        state: Tensor = self.metadata_state(metadata)
        return state.view(state.shape[0], -1, 2, 2, units).permute(1, 2, 3, 0, 4).contiguous()

    def _read(
        self,
        steps: Float[Tensor, "batch output step"],
        features: Float[Tensor, "batch feature step"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch output"]:
        if self.readout == "mean":
            return steps.sum(dim=2) / lengths[:, None]
        if self.readout == "both_ends":
            units = self.lstm.hidden_size
            ahead = _at(features[:, :units], lengths - 1)
            ends = torch.cat([ahead, features[:, units:, 0]], dim=1)
            score: Tensor = self.head(ends[:, :, None])
            return score[:, :, 0]
        return _at(steps, lengths - 1 if self.readout == "last" else lengths // 2)

    def set_clock(self, mean: float, std: float) -> None:
        """Say how dt was scaled, to `(log(1 + seconds) - mean) / std`; does nothing without a clock."""
        if self.clock == "elapsed":
            self.dt_scale.copy_(torch.tensor([mean, std]))

    def set_output_bias(self, bias: Float[Tensor, " output"]) -> None:
        """Let the scores start at `bias`, for example the logits of the base rates."""
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias.copy_(bias)


class LateFusion(nn.Module):
    """Adds the logits of a model of the metadata to those of a network: `scale · logits + metadata · weight + bias`.

    All three are set, not trained: at first they change nothing. Logits at every step change alike.

    Args:
        metadata_size: numbers known about the person.
        outputs: logits.
    """

    def __init__(self, metadata_size: int, outputs: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("weight", torch.zeros(metadata_size, outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def set(
        self,
        scale: Float[Tensor, " output"],
        weight: Float[Tensor, "field output"],
        bias: Float[Tensor, " output"],
    ) -> None:
        for mine, new in ((self.scale, scale), (self.weight, weight), (self.bias, bias)):
            mine.copy_(new)

    def reset(self) -> None:
        """Change nothing any more."""
        self.scale.fill_(1)
        self.weight.zero_()
        self.bias.zero_()

    def forward(
        self, logits: Logits, mask: Float[Tensor, "batch step"], metadata: Float[Tensor, "batch field"] | None
    ) -> Logits:
        if metadata is None:
            raise HeartnetError("this network adds a model of the metadata, and was called without any")
        added = metadata @ self.weight + self.bias
        steps = None if logits.steps is None else (logits.steps * self.scale + added[:, None]) * mask[:, :, None]
        return Logits(steps, logits.score * self.scale + added)


def _finish(
    out: Float[Tensor, "batch unit time"],
    before: Float[Tensor, "batch unit time"] | None,
    lengths: Int[Tensor, " batch"],
    activation: nn.Module,
    dropout: nn.Module,
    pool: int,
) -> tuple[Float[Tensor, "batch unit step"], Int[Tensor, " batch"]]:
    """Return what a convolution's output becomes for the next one, and its lengths; `before` is what it read."""
    out = dropout(activation(out))
    hidden = out if before is None else before + out
    # Padding must look to the next convolution like the zeros beyond the end of a sequence.
    hidden = hidden * step_mask(lengths, hidden.shape[2], hidden.dtype)[:, None]
    return mean_pool(hidden, lengths, pool) if pool > 1 else (hidden, lengths)


def step_mask(lengths: Int[Tensor, " batch"], steps: int, dtype: torch.dtype) -> Float[Tensor, "batch step"]:
    """Return 1 for valid steps and 0 for padding, as `dtype`."""
    return (torch.arange(steps, device=lengths.device) < lengths[:, None]).to(dtype)


def _at(values: Float[Tensor, "batch unit step"], step: Int[Tensor, " batch"]) -> Float[Tensor, "batch unit"]:
    return values.gather(2, step[:, None, None].expand(-1, values.shape[1], 1))[:, :, 0]


def mean_pool(
    hidden: Float[Tensor, "batch unit time"], lengths: Int[Tensor, " batch"], pool: int
) -> tuple[Float[Tensor, "batch unit step"], Int[Tensor, " batch"]]:
    """Average `pool` steps into one; the last group of a sequence averages only what is valid."""
    missing = -hidden.shape[2] % pool
    sums = F.pad(hidden, (0, missing)).reshape(*hidden.shape[:2], -1, pool).sum(dim=3)
    starts = torch.arange(sums.shape[2], device=lengths.device) * pool
    counts = (lengths[:, None] - starts).clamp(1, pool).to(hidden.dtype)
    return sums / counts[:, None], (lengths + pool - 1) // pool


def check_choice(name: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise HeartnetError(
            f"model.{name}={value}: not one of {', '.join(options)}.{did_you_mean(str(value), options)}"
        )


def check_counts(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise HeartnetError(f"model.{name}={value}: must be at least 1")


def _check_forget_bias(forget_bias: ForgetBias) -> None:
    if isinstance(forget_bias, str):
        check_choice("forget_bias", forget_bias, ("default", "chrono", "a number"))
    elif not math.isfinite(forget_bias):
        raise HeartnetError(f"model.forget_bias={forget_bias}: must be a finite number, default or chrono")
