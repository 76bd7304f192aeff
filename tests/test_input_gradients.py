"""Rows of a Jacobian, side by side: against PyTorch's own LSTM, one row at a time, in float64."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heartnet.diagnostics import input_gradients as measured
from heartnet.diagnostics import input_lstm
from heartnet.diagnostics.input_gradients import SCORE, NoStepsError, input_gradients, jacobian
from heartnet.diagnostics.input_lstm import input_lstms
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError
from heartnet.hourly import HOURLY
from heartnet.logits import Logits
from heartnet.model import pieces
from heartnet.model.deepheart import DeepHeart
from heartnet.model.hourly_cnn import HourlyCNN

LENGTHS = torch.tensor([30, 17, 24])


def probe_of(network: nn.Module, channels: int = 3, outputs: int = 2) -> Probe:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 30, channels, generator=draw) * (torch.arange(30) < LENGTHS[:, None])[..., None]
    names = tuple(f"output {i}" for i in range(outputs))
    return Probe(network, inputs, (LENGTHS,), LENGTHS, names, tuple(map(str, range(channels))))


def naive(probe: Probe, readings: Any, outputs: Any) -> list[np.ndarray]:
    """One week, one row, one backward pass at a time, by PyTorch alone."""
    network = probe.network.double().eval()
    found = []
    for week, length in enumerate(LENGTHS.tolist()):
        rows = []
        for row, output in enumerate(outputs):
            inputs = probe.inputs[week : week + 1].double().requires_grad_()
            logits = network(inputs, LENGTHS[week : week + 1])
            if readings[row, week] == SCORE:
                logit = logits.score[0, output]
            else:
                stride = -(-30 // logits.steps.shape[1])
                logit = logits.steps[0, readings[row, week] // stride, output]
            rows.append(torch.autograd.grad(logit, inputs)[0][0, :length].T.numpy())
        found.append(np.stack(rows))
    return found


READINGS = np.array([[0, 0, 0], [15, 8, 12], [29, 16, 23], [SCORE] * 3, [3, 5, 7]])
OUTPUTS = np.array([0, 1, 1, 0, 1])


class Gru(nn.Module):
    """A recurrent layer that is no LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Logits:  # noqa: ARG002
        steps = self.head(self.gru(inputs)[0])
        return Logits(steps, steps.mean(dim=1))


class Stubborn(torch.autograd.Function):
    """Without a rule for `vmap`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # noqa: ARG004
        return inputs * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient * (2 if float(gradient.abs().sum()) >= 0 else 3)


class Foreign(nn.Module):
    """Stacked, bidirectional, batch first, with a function of its own."""

    def __init__(self, stubborn: bool = False) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, bias=False), nn.Linear(8, 2)
        self.stubborn = stubborn

    def forward(self, inputs: Tensor, lengths: Tensor) -> Logits:  # noqa: ARG002
        hidden = Stubborn.apply(inputs) if self.stubborn else inputs  # type: ignore[no-untyped-call]
        out, (h, c) = self.lstm(hidden)
        return Logits(self.head(out), self.head(out[:, 0]) + h[-1].tanh().sum() * 0 + c[:2].sum(dim=(0, 2))[:, None])


def deepheart(**options: Any) -> DeepHeart:
    small: dict[str, Any] = {"conv_units": 5, "kernel_sizes": (4, 3), "lstm_units": 4, "lstm_layers": 2}
    return DeepHeart(3, 2, **small | options)


@pytest.mark.parametrize(
    "make",
    [deepheart, lambda: deepheart(pool=2, readout="both_ends", forget_bias="chrono"), Gru, Foreign,
     lambda: Foreign(stubborn=True)],
    ids=["deepheart", "pooled", "gru", "foreign", "no vmap"],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [65_536, 50], ids=["at once", "in chunks"])
def test_each_row_is_what_a_loop_gives(make: Any, at_once: int) -> None:
    torch.manual_seed(0)
    probe = probe_of(make())
    before = torch.get_rng_state()
    found = input_gradients(probe, READINGS, OUTPUTS, readings_at_once=at_once)
    assert torch.equal(before, torch.get_rng_state())
    for week, expected in zip(found, naive(probe, READINGS, OUTPUTS), strict=True):
        np.testing.assert_allclose(week, expected, rtol=1e-9, atol=1e-15)
        assert np.abs(week).max() > 0


def test_rows_of_lstms_go_side_by_side_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[bool] = []
    real = measured._side_by_side

    def spy(*parts: Any) -> Any:
        found = real(*parts)
        ways.append(found is not None)
        return found

    monkeypatch.setattr(measured, "_side_by_side", spy)
    for network in (deepheart(), Foreign(), Gru(), Foreign(stubborn=True)):
        input_gradients(probe_of(network), READINGS, OUTPUTS)
    assert ways == [True, True, False, False]


def test_hours_have_no_steps() -> None:
    channels = len(HOURLY) + 1
    probe = probe_of(HourlyCNN(channels, 2, conv_units=4), channels)
    scores, outputs = np.full((2, 3), SCORE), np.arange(2)
    for week, expected in zip(input_gradients(probe, scores, outputs), naive(probe, scores, outputs), strict=True):
        np.testing.assert_allclose(week, expected, rtol=1e-9, atol=1e-15)
    with pytest.raises(NoStepsError):
        input_gradients(probe, READINGS, OUTPUTS)


def test_a_full_jacobian() -> None:
    torch.manual_seed(0)
    probe = probe_of(deepheart())
    found = jacobian(probe, anchors=7, output=1)
    readings = np.array([np.linspace(0, length - 1, 7).round() for length in LENGTHS.tolist()]).T.astype(int)
    for week, expected in zip(found, naive(probe, readings, np.ones(7, dtype=int)), strict=True):
        assert week.shape == expected.shape
        np.testing.assert_allclose(week, expected, rtol=1e-9, atol=1e-15)


def test_float32_holds_what_underflows() -> None:
    """A forgetful cell: what is 15 readings away is below 1e-38, the smallest that float32 holds in full."""
    network = deepheart(forget_bias=-20.0, kernel_sizes=(1,), lstm_layers=1)
    for lstm in (*network.lstm.ahead, *network.lstm.back):
        lstm.get_parameter("weight_hh_l0").data *= 1e-3
    probe, readings, outputs = probe_of(network), np.full((1, 3), 16), np.zeros(1, dtype=int)
    single = input_gradients(probe, readings, outputs, dtype=torch.float32)
    double = input_gradients(probe, readings, outputs)
    np.testing.assert_allclose(single[1][..., 0], double[1][..., 0], rtol=1e-3)
    assert 0 < np.abs(double[1][..., 0]).max() < 1e-38


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2, "batch_first": True}],
)
def test_the_lstm_is_pytorchs(options: dict[str, Any], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, **options).to(dtype).requires_grad_(requires_grad=False)
    inputs = torch.randn(6, 5, 3, dtype=dtype, requires_grad=True)
    layers = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    batch = 6 if options.get("batch_first") else 5
    state = tuple(torch.randn(layers, batch, 4, dtype=dtype, requires_grad=True) for _ in range(2))

    def answer() -> tuple[list[Tensor], tuple[Tensor, ...]]:
        out, (h, c) = lstm(inputs, state)
        total = out.sin().sum() + (h * 2).cos().sum() + (c * 3).sin().sum()
        return [out, h, c], torch.autograd.grad(total, (inputs, *state))

    expected, gradients = answer()
    with input_lstms(lstm) as able:
        assert able
        found, ours = answer()
    assert "forward" not in vars(lstm)
    rtol, atol = (1e-10, 1e-12) if dtype == torch.float64 else (1e-4, 1e-6)
    for one, other in zip([*found, *ours], [*expected, *gradients], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.fixture
def _four_threads() -> Iterator[None]:
    pieces.use_threads(4)
    yield
    pieces.use_threads(1)


@pytest.mark.usefixtures("_four_threads")
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_lstm, "_STEPS", 7)
    probe = probe_of(DeepHeart(3, 2, 6, conv_units=5, kernel_sizes=(4, 3), lstm_units=4, lstm_layers=2))
    many = input_gradients(probe, READINGS, OUTPUTS)
    names = {each.name for each in threading.enumerate()}
    assert any(name.startswith("pieces") for name in names)
    pieces.use_threads(1)
    for one, other in zip(input_gradients(probe, READINGS, OUTPUTS), many, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(naive(probe, READINGS, OUTPUTS), many, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-15)


def test_packed_sequences_go_the_layers_own_way() -> None:
    lstm = nn.LSTM(3, 4).requires_grad_(requires_grad=False)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(6, 2, 3), torch.tensor([6, 4]))
    expected = lstm(packed)[0].data
    with input_lstms(lstm):
        torch.testing.assert_close(lstm(packed)[0].data, expected)


def test_projections_are_left_alone() -> None:
    with input_lstms(nn.LSTM(3, 4, proj_size=2)) as able:
        assert not able


def test_a_large_gate_does_not_warn() -> None:
    lstm = nn.LSTM(1, 2).double().requires_grad_(requires_grad=False)
    inputs = torch.full((3, 1, 1), 1e5, dtype=torch.float64)
    expected = lstm(inputs)[0]
    with input_lstms(lstm):
        torch.testing.assert_close(lstm(inputs)[0], expected)


def test_a_network_that_answers_otherwise_is_told() -> None:
    class Wrong(nn.Module):
        def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002
            return inputs

    with pytest.raises(HeartnetError, match="not Logits"):
        input_gradients(probe_of(Wrong()), READINGS, OUTPUTS)
