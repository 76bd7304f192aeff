"""The bidirectional LSTM against `nn.LSTM` on packed sequences, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from heartnet.model.lstm import LengthFlipLSTM, flip_index, set_forget_bias

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

lengths_of_a_batch = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def pair(layers: int, channels: int = 3, units: int = 4) -> tuple[LengthFlipLSTM, nn.LSTM]:
    """Return ours and PyTorch's, with the same random weights, in float64."""
    ours = LengthFlipLSTM(channels, units, layers).double()
    theirs = nn.LSTM(channels, units, layers, bidirectional=True).double()
    with torch.no_grad():
        for own, other in zip(weights_of(ours), weights_of(theirs), strict=True):
            other.copy_(own)
    return ours, theirs


def weights_of(lstm: LengthFlipLSTM | nn.LSTM) -> list[Tensor]:
    """Return weights in one order: by layer, direction and kind."""
    if isinstance(lstm, nn.LSTM):
        places = [(i, way) for i in range(lstm.num_layers) for way in ("", "_reverse")]
        return [getattr(lstm, f"{kind}_l{i}{way}") for i, way in places for kind in KINDS]
    layers = [layer for both in zip(lstm.ahead, lstm.back, strict=True) for layer in both]
    return [getattr(layer, f"{kind}_l0") for layer in layers for kind in KINDS]


def packed(theirs: nn.LSTM, inputs: Tensor, lengths: Tensor, state: Tensor | None = None) -> Tensor:
    first = None
    if state is not None:
        h, c = state.flatten(0, 1).unbind(1)  # by layer, then direction, as nn.LSTM has it
        first = (h.contiguous(), c.contiguous())
    out, _ = theirs(pack_padded_sequence(inputs, lengths, enforce_sorted=False), first)
    return pad_packed_sequence(out, total_length=len(inputs))[0]


@settings(max_examples=25, deadline=None)
@given(lengths_of_a_batch, st.integers(1, 3), st.integers(0, 3), st.booleans(), st.integers(0, 2**31))
def test_values_and_gradients_are_those_of_a_packed_lstm(
    lengths: list[int], layers: int, padding: int, with_state: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    ours, theirs = pair(layers)
    time = max(lengths) + padding
    valid = torch.tensor(lengths)
    state = torch.randn(layers, 2, 2, len(lengths), 4, dtype=torch.float64, requires_grad=True) if with_state else None
    inputs = torch.randn(time, len(lengths), 3, dtype=torch.float64, requires_grad=True)
    outside = torch.arange(time)[:, None] >= valid
    upstream = torch.randn(time, len(lengths), 8, dtype=torch.float64).masked_fill(outside[..., None], 0.0)

    given_ = [inputs] if state is None else [inputs, state]
    answers = []
    for lstm, out in ((ours, ours(inputs, valid, state)), (theirs, packed(theirs, inputs, valid, state))):
        gradients = torch.autograd.grad((out * upstream).sum(), [*given_, *weights_of(lstm)])
        answers.append([out.masked_fill(outside[..., None], 0.0), *gradients])
    for own, other in zip(*answers, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(lengths_of_a_batch, st.integers(0, 2**31))
def test_padding_and_the_order_of_the_batch_change_nothing(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    ours, _ = pair(2)
    valid = torch.tensor(lengths)
    inputs = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64)
    outside = (torch.arange(len(inputs))[:, None] >= valid)[..., None]
    before = ours(inputs, valid)
    order = torch.randperm(len(lengths))
    garbage = torch.cat([inputs.masked_fill(outside, 1e6), torch.full((3, len(lengths), 3), -1e6)])
    after = ours(garbage[:, order].double(), valid[order])
    torch.testing.assert_close(
        after[: len(inputs)].masked_fill(outside[:, order], 0.0),
        before[:, order].masked_fill(outside[:, order], 0.0),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_sequence_of_one_step() -> None:
    ours, theirs = pair(2)
    inputs = torch.randn(1, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(inputs, torch.tensor([1])), theirs(inputs)[0], rtol=1e-12, atol=1e-12)


def test_dropout_lies_between_layers_only() -> None:
    torch.manual_seed(0)
    inputs, lengths = torch.randn(6, 2, 3), torch.tensor([6, 4])
    one = LengthFlipLSTM(3, 4, 1, dropout=0.9).train()
    torch.testing.assert_close(one(inputs, lengths), one(inputs, lengths), rtol=0, atol=0)
    two = LengthFlipLSTM(3, 4, 2, dropout=0.9).train()
    assert not torch.equal(two(inputs, lengths), two(inputs, lengths))


@given(lengths_of_a_batch, st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_flipping_twice_gives_the_sequence_back(lengths: list[int], padding: int) -> None:
    time = max(lengths) + padding
    index = flip_index(torch.tensor(lengths), time, len(lengths)).view(time, -1) // len(lengths)
    for column, length in zip(index.T.tolist(), lengths, strict=True):
        assert column == [*reversed(range(length)), *range(length, time)]
    assert torch.equal(index.gather(0, index), torch.arange(time)[:, None].expand(-1, len(lengths)))


def gates(lstm: nn.LSTM) -> tuple[Tensor, Tensor]:
    """Return the whole bias of the input gates and of the forget gates."""
    both = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach()
    return both[: lstm.hidden_size], both[lstm.hidden_size : 2 * lstm.hidden_size]


@pytest.mark.parametrize("longest", [20, 4096])
def test_chrono_biases(longest: int) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(2, 4000)
    set_forget_bias(lstm, "chrono", longest)
    entry, forget = gates(lstm)
    assert torch.equal(entry, -forget)
    upper = math.log(longest - 1)
    assert forget.min() >= 0
    assert forget.max() <= upper + 1e-6
    # exp(bias) is uniform from 1 to T − 1; of log(U) the mean is (b ln b) / (b − 1) − 1 for U uniform from 1 to b.
    b = longest - 1
    expected = b * math.log(b) / (b - 1) - 1
    assert forget.mean().item() == pytest.approx(expected, abs=5 * forget.std().item() / math.sqrt(4000))
    assert forget.exp().mean().item() == pytest.approx((1 + b) / 2, rel=0.05)


def test_chrono_with_hardly_any_time_is_still_finite() -> None:
    for longest in (0, 1, 2):
        lstm = nn.LSTM(2, 50)
        set_forget_bias(lstm, "chrono", longest)
        assert ((gates(lstm)[1] >= 0) & (gates(lstm)[1] <= 1)).all()


@pytest.mark.parametrize("value", [1.0, 3, 0.0, -2.5])
def test_a_number_is_the_whole_forget_bias(value: float) -> None:
    lstm = nn.LSTM(2, 8)
    before = [bias.detach().clone() for bias in (lstm.bias_ih_l0, lstm.bias_hh_l0)]
    set_forget_bias(lstm, value, 100)
    assert torch.equal(gates(lstm)[1], torch.full((8,), float(value)))
    others = np.r_[0:8, 16:32]
    for now, then in zip((lstm.bias_ih_l0, lstm.bias_hh_l0), before, strict=True):
        assert torch.equal(now[others], then[others])


def test_default_is_pytorchs_own() -> None:
    torch.manual_seed(1)
    expected = nn.LSTM(2, 8)
    torch.manual_seed(1)
    lstm = nn.LSTM(2, 8)
    set_forget_bias(lstm, "default", 100)
    assert all(torch.equal(a, b) for a, b in zip(lstm.parameters(), expected.parameters(), strict=True))


def test_the_gradient_comes_in_the_order_in_which_convolutions_keep_theirs() -> None:
    ours, _ = pair(2)
    seen: list[bool] = []
    below = torch.randn(3, 3, 7, dtype=torch.float64, requires_grad=True).permute(2, 0, 1)
    below.register_hook(lambda gradient: seen.append(gradient.permute(1, 2, 0).is_contiguous()))
    ours(below, torch.tensor([7, 5, 2])).sum().backward()
    assert seen == [True]
