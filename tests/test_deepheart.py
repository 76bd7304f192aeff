"""The network against one sequence at a time without padding, and against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from heartnet.errors import HeartnetError
from heartnet.model.clock import day_angles
from heartnet.model.deepheart import DeepHeart

READOUTS = ("mean", "last", "midpoint", "both_ends")
CLOCKS = ("none", "elapsed")
ACTIVATIONS = {"relu": torch.relu, "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x), "gelu": nn.GELU()}


def small(channels: int = 3, outputs: int = 2, **options: Any) -> DeepHeart:
    """Return a tiny network in float64, in evaluation mode."""
    defaults: dict[str, Any] = {
        "conv_units": 5, "kernel_sizes": (4, 3, 5), "lstm_units": 3, "lstm_layers": 2, "longest": 30,
    }  # fmt: skip
    return DeepHeart(channels, outputs, **defaults | options).double().eval()


def convolved(network: DeepHeart, sequence: Tensor, activation: str) -> Tensor:
    """Return `[step, unit]` of one unpadded `[time, channel]` sequence, by loops over steps and taps."""
    hidden = sequence if network.clock == "none" else torch.cat([sequence, angles_by_loop(network, sequence)], dim=1)
    for i, convolution in enumerate(network.convolutions):
        assert isinstance(convolution, nn.Conv1d)
        size = convolution.weight.shape[2]
        rows = []
        for t in range(len(hidden)):
            row = convolution.bias
            for k in range(size):
                at = t + k - (size - 1) // 2  # Keras' "same": one step fewer on the left of an even kernel
                if 0 <= at < len(hidden):
                    row = row + convolution.weight[:, :, k] @ hidden[at]
            rows.append(ACTIVATIONS[activation](row))
        out = torch.stack(rows)
        hidden = out if i == 0 else hidden + out
        hidden = torch.stack([part.mean(dim=0) for part in hidden.split(network.pool)])
    return hidden


def angles_by_loop(network: DeepHeart, sequence: Tensor) -> Tensor:
    mean, std = network.dt_scale.tolist()
    now, rows = 0.0, []
    for t, dt in enumerate(sequence[:, 2].tolist()):
        now += math.expm1(min(max(dt * std + mean, 0.0), math.log1p(604800))) if t else 0.0
        turns = [2 * math.pi * now / period for period in (86400, 43200)]
        rows.append([math.sin(turn) for turn in turns] + [math.cos(turn) for turn in turns])
    return torch.tensor(rows, dtype=torch.float64)


def naive(network: DeepHeart, sequence: Tensor, activation: str = "leaky_relu", state: Tensor | None = None) -> Any:
    """Return logits `[step, output]` and scores by readout of one unpadded sequence."""
    hidden = convolved(network, sequence, activation)
    for i, (ahead, back) in enumerate(zip(network.lstm.ahead, network.lstm.back, strict=True)):
        first = [None if state is None else (state[i, d, 0][None], state[i, d, 1][None]) for d in range(2)]
        forwards = ahead(hidden, first[0])[0]
        backwards = back(hidden.flip(0), first[1])[0].flip(0)
        hidden = torch.cat([forwards, backwards], dim=1)
    weight, bias = network.head.weight[:, :, 0], network.head.bias
    steps = hidden @ weight.T + bias
    units = network.lstm.hidden_size
    ends = weight[:, :units] @ hidden[-1, :units] + weight[:, units:] @ hidden[0, units:] + bias
    return steps, {"mean": steps.mean(0), "last": steps[-1], "midpoint": steps[len(steps) // 2], "both_ends": ends}


def padded(sequences: list[Tensor], extra: int = 0, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    inputs = torch.full((len(sequences), int(lengths.max()) + extra, sequences[0].shape[1]), fill, dtype=torch.float64)
    for i, sequence in enumerate(sequences):
        inputs[i, : len(sequence)] = sequence
    return inputs, lengths


def test_the_number_of_weights() -> None:
    def count(**options: Any) -> int:
        return sum(weight.numel() for weight in DeepHeart(3, 4, **options).parameters())

    assert count() == 566_660
    convolutions = 3 * 12 * 128 + 128 + 2 * (128 * 5 * 128 + 128)
    lstms = 4 * 2 * (4 * 64 * (128 + 64) + 2 * 4 * 64)  # each layer reads 128: the convolutions', or both directions
    assert convolutions + lstms + 4 * 128 + 4 == 566_660
    assert count(metadata="none", metadata_size=6) == 566_660
    assert count(metadata="lstm_state", metadata_size=6) == 566_660 + (6 + 1) * 4 * 2 * 2 * 64


@pytest.mark.parametrize("pool", [1, 2, 4])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_against_one_sequence_at_a_time(readout: str, pool: int, clock: str) -> None:
    torch.manual_seed(pool)
    network = small(readout=readout, pool=pool, clock=clock)
    network.set_clock(5.0, 2.0)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in (23, 1, 64, 7, 65)]
    answer = network(*padded(sequences))
    for i, sequence in enumerate(sequences):
        steps, scores = naive(network, sequence)
        torch.testing.assert_close(answer.score[i], scores[readout], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(answer.steps[i, : len(steps)], steps, rtol=1e-10, atol=1e-10)
        assert (answer.steps[i, len(steps) :] == 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutions_against_loops(activation: str) -> None:
    torch.manual_seed(0)
    network = small(activation=activation, kernel_sizes=(12, 5))
    sequence = torch.randn(15, 3, dtype=torch.float64)
    found, lengths = network._convolve(sequence.T[None], torch.tensor([15]))
    torch.testing.assert_close(found[0].T, convolved(network, sequence, activation), rtol=1e-12, atol=1e-12)
    assert lengths.tolist() == [15]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    pool=st.sampled_from([1, 2, 3]),
    readout=st.sampled_from(READOUTS),
    clock=st.sampled_from(CLOCKS),
    extra=st.integers(0, 9),
    seed=st.integers(0, 2**31),
)
def test_nothing_depends_on_padding_neighbours_or_order(
    lengths: list[int], pool: int, readout: str, clock: str, extra: int, seed: int
) -> None:
    torch.manual_seed(seed)
    network = small(readout=readout, pool=pool, clock=clock)
    network.set_clock(5.0, 2.0)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in lengths]
    together = network(*padded(sequences, extra))
    order = torch.randperm(len(lengths)).tolist()
    shuffled = network(*padded([sequences[i] for i in order]))
    for place, i in enumerate(order):
        alone = network(*padded([sequences[i]]))
        count = -(-lengths[i] // network.stride)
        for other, row in ((together, i), (shuffled, place)):
            torch.testing.assert_close(other.score[row], alone.score[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(other.steps[row, :count], alone.steps[0, :count], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("options", [{}, {"clock": "elapsed"}])
def test_no_gradient_comes_from_or_goes_to_the_padding_of_later_layers(pool: int, options: dict[str, str]) -> None:
    """What stands in the padding of the input is 0 in batches; what layers write there must stay without effect."""
    torch.manual_seed(0)
    network = small(pool=pool, **options)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in (9, 40)]
    inputs, lengths = padded(sequences)
    inputs.requires_grad_()
    together = torch.autograd.grad(network(inputs, lengths).score[0].sum(), inputs)[0]
    alone_inputs = sequences[0][None].clone().requires_grad_()
    alone = torch.autograd.grad(network(alone_inputs, lengths[:1]).score.sum(), alone_inputs)[0]
    torch.testing.assert_close(together[0, :9], alone[0], rtol=1e-10, atol=1e-12)
    assert (together[1] == 0).all()


def test_metadata_set_the_first_state() -> None:
    torch.manual_seed(0)
    network = small(metadata="lstm_state", metadata_size=4)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in (6, 11)]
    metadata = torch.randn(2, 4, dtype=torch.float64)
    answer = network(*padded(sequences), metadata)
    for i, sequence in enumerate(sequences):
        assert network.metadata_state is not None
        state = (network.metadata_state.weight @ metadata[i] + network.metadata_state.bias).view(2, 2, 2, 3)
        _, scores = naive(network, sequence, state=state)
        torch.testing.assert_close(answer.score[i], scores["mean"], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(network(*padded(sequences), metadata + 1).score, answer.score)
    with pytest.raises(HeartnetError, match="sets its first state from metadata"):
        network(*padded(sequences))


def test_metadata_left_out_change_nothing() -> None:
    network = small(metadata="none", metadata_size=4)
    inputs = padded([torch.randn(6, 3, dtype=torch.float64)])
    one, other = (network(*inputs, torch.full((1, 4), value, dtype=torch.float64)).score for value in (0.0, 9.0))
    assert torch.equal(one, other)
    assert torch.equal(one, network(*inputs).score)


def test_the_clock_turns_once_a_day_from_the_first_reading_on() -> None:
    """Readings every six hours: a quarter of a day and half of half a day each; scaled by any constants."""
    dt = (torch.log1p(torch.full((1, 9), 21600.0, dtype=torch.float64)) - 5.0) / 2.0
    dt[:, 0] = 123.0  # not known, and not looked at
    angles = day_angles(dt, torch.tensor([6]), torch.tensor([5.0, 2.0]))
    sine, double_sine, cosine, double_cosine = angles[0]
    assert sine.tolist() == pytest.approx([0, 1, 0, -1, 0, 1, 0, 0, 0], abs=1e-6)
    assert cosine.tolist() == pytest.approx([1, 0, -1, 0, 1, 0, 0, 0, 0], abs=1e-6)
    assert double_sine.tolist() == pytest.approx([0] * 9, abs=1e-6)
    assert double_cosine.tolist() == pytest.approx([1, -1, 1, -1, 1, -1, 0, 0, 0], abs=1e-6)


def test_the_clock_hears_of_nothing_but_dt_and_passes_no_gradient() -> None:
    torch.manual_seed(0)
    network = small(clock="elapsed", kernel_sizes=(1,), readout="last", lstm_layers=1)
    for lstm in network.lstm.ahead:
        lstm.weight_hh_l0.data.zero_()
        lstm.bias_ih_l0.data[3:6] = -1e9  # forgets all: the last logit sees the last reading, and the time
    inputs, lengths = padded([torch.randn(7, 3, dtype=torch.float64).abs()])
    later = inputs.clone()
    later[0, 2, 2] += 5  # a longer pause long ago
    faster = inputs.clone()
    faster[0, 2, :2] += 5
    score = network(inputs, lengths).score
    assert not torch.allclose(network(later, lengths).score, score)
    assert torch.equal(network(faster, lengths).score, score)
    slope = torch.autograd.grad(network(inputs.requires_grad_(), lengths).score.sum(), inputs)[0]
    assert (slope[0, :6] == 0).all()
    assert (slope[0, 6] != 0).all()


def test_a_clock_of_inputs_that_were_never_scaled_stays_finite() -> None:
    network = small(clock="elapsed")
    assert network(torch.full((1, 9, 3), 1e6, dtype=torch.float64), torch.tensor([9])).score.isfinite().all()


def forget_biases(network: DeepHeart) -> Tensor:
    lstms = [lstm for lstm in (*network.lstm.ahead, *network.lstm.back) if isinstance(lstm, nn.LSTM)]
    units = network.lstm.hidden_size
    return torch.stack([(lstm.bias_ih_l0 + lstm.bias_hh_l0)[units : 2 * units] for lstm in lstms]).detach()


def test_forget_biases_reach_every_lstm() -> None:
    assert (forget_biases(small(forget_bias=2.5)) == 2.5).all()
    assert forget_biases(small(forget_bias=3)).shape == (4, 3)
    pooled = forget_biases(small(forget_bias="chrono", longest=4096, pool=4, lstm_units=200, lstm_layers=1))
    assert pooled.min() >= 0
    assert math.log(4096 / 64 - 1) - 0.2 < pooled.max() <= math.log(4096 / 64 - 1) + 1e-6  # a step is 64 readings


def test_the_output_bias() -> None:
    network = small()
    with torch.no_grad():
        network.head.weight.zero_()
    network.set_output_bias(torch.tensor([-1.0, 2.0]))
    inputs = padded([torch.randn(length, 3, dtype=torch.float64) for length in (6, 3)])
    assert network(*inputs).score.tolist() == [[-1.0, 2.0], [-1.0, 2.0]]


def test_dropout_works_in_training_only() -> None:
    network = small(dropout=0.5)
    inputs = padded([torch.randn(6, 3, dtype=torch.float64)])
    assert torch.equal(network(*inputs).score, network(*inputs).score)
    network.train()
    assert not torch.equal(network(*inputs).score, network(*inputs).score)


def test_a_network_can_be_made_again_from_its_arguments() -> None:
    for options in ({"readout": "last"}, {"clock": "elapsed"}):
        network = small(forget_bias=1.5, pool=2, metadata="lstm_state", metadata_size=3, **options)
        network.set_clock(5.0, 2.0)
        again = DeepHeart(**network.arguments).double().eval()
        again.load_state_dict(network.state_dict())
        assert again.arguments == network.arguments
        batch = (*padded([torch.randn(9, 3, dtype=torch.float64)]), torch.ones(1, 3, dtype=torch.float64))
        assert torch.equal(again(*batch).score, network(*batch).score)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "rellu"}, r"model\.activation=rellu: not one of relu, .*Did you mean 'relu'"),
        ({"readout": "lats"}, r"model\.readout=lats: .*Did you mean 'last'"),
        ({"clock": "elapse"}, r"model\.clock=elapse: .*Did you mean 'elapsed'"),
        ({"clock": "elapsed", "channels": 12}, r"model\.clock=elapsed needs dt, which data\.view=hourly has not"),
        ({"metadata": "lstm-state"}, r"model\.metadata=lstm-state: .*Did you mean 'lstm_state'"),
        ({"metadata": "lstm_state"}, "this data has none; use model.metadata=none"),
        ({"forget_bias": "crono"}, r"model\.forget_bias=crono: .*a number.*Did you mean 'chrono'"),
        ({"forget_bias": math.inf}, r"model\.forget_bias=inf: must be a finite number"),
        ({"pool": 0}, r"model\.pool=0: must be at least 1"),
        ({"conv_units": -1}, r"model\.conv_units=-1"),
        ({"lstm_units": 0}, r"model\.lstm_units=0"),
        ({"lstm_layers": -2}, r"model\.lstm_layers=-2"),
        ({"longest": 0}, r"model\.longest=0"),
        ({"kernel_sizes": (12, 0)}, r"model\.kernel_sizes\[1\]=0"),
        ({"kernel_sizes": ()}, r"model\.kernel_sizes=\[\]: must name at least one"),
        ({"dropout": 1.2}, r"model\.dropout=1\.2: must be from 0"),
        ({"dropout": math.nan}, r"model\.dropout=nan"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        small(**options)
