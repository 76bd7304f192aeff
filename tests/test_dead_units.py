"""Dead, constant and saturated units, measured on networks in which the answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from heartnet.diagnostics.activations import ACTIVATIONS
from heartnet.diagnostics.dead_units import READINGS, LayerUnits, look, some_rows
from heartnet.diagnostics.recurrent import layers_of
from heartnet.diagnostics.saturation import gate_shares, gates, stuck
from heartnet.diagnostics.unit_counts import unit_counts
from heartnet.diagnostics.unit_gradients import GradientNorms, UnitGradients
from heartnet.model import DeepHeart, HourlyCNN


class Step(nn.Module):
    """A network with a training step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        out = self.network(*batch) if isinstance(batch, tuple) else self.network(batch)
        out = out[0] if isinstance(out, tuple) else out
        return out.square().mean()


class Weeks(Step):
    """A network of heartnet in its step."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        return self.network(batch["inputs"], batch["lengths"]).score.square().mean()


def looked(network: nn.Module, batch: Any, step: type[Step] = Step) -> dict[str, LayerUnits]:
    return {each.name: each for each in look(step(network), batch, prefix="network.")}


def weeks(channels: int = 3, lengths: tuple[int, ...] = (200, 150, 128, 64), seed: int = 0) -> dict[str, Tensor]:
    sizes = torch.tensor(lengths)
    inputs = torch.randn(len(sizes), max(lengths), channels, generator=torch.Generator().manual_seed(seed))
    return {"inputs": inputs * (torch.arange(max(lengths)) < sizes[:, None])[..., None], "lengths": sizes}


def deepheart(**options: Any) -> DeepHeart:
    torch.manual_seed(0)
    few: dict[str, Any] = {"conv_units": 8, "lstm_units": 4, "lstm_layers": 2, "longest": 200, "activation": "relu"}
    return DeepHeart(3, 2, **{**few, **options})


# Which activations are flat where

FUNCTIONS: dict[str, Any] = {
    **{name: getattr(F, name) for name in ("relu", "hardswish", "gelu", "silu", "mish", "elu", "selu", "celu")},
    **{name: getattr(F, name) for name in ("softplus", "sigmoid", "tanh", "softsign", "hardsigmoid", "hardtanh")},
    "log_sigmoid": F.logsigmoid, "leaky_relu": F.leaky_relu, "prelu": lambda x: F.prelu(x, torch.tensor(0.25).double()),
    "rrelu": F.rrelu,
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bounds_are_where_the_slope_falls_below_a_hundredth_of_the_largest(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(FUNCTIONS[name](x).sum(), x)
    small = slope.abs() < 0.0099 * slope.abs().max()
    inside = (x > activation.low + 0.06) & (x < activation.high - 0.06)
    outside = (x < activation.low - 0.06) | (x > activation.high + 0.06)
    # GELU, SiLU and Mish have one point inside where the curve turns; hardswish likewise.
    assert small[inside].double().mean() < 0.01
    assert small[outside].all()
    if activation.exact:
        assert (slope[outside] == 0).all()
    assert set(FUNCTIONS) == set(ACTIVATIONS)


# The case of the post


def test_the_case_of_the_post() -> None:
    """Biases of the first convolution far below 0: it is dead, and the later two put out constants."""
    network = deepheart()
    with torch.no_grad():
        network.convolutions[0].bias.fill_(-10)
    found = looked(network, weeks(), Weeks)
    first, second, third = (found[f"convolutions.{i}"] for i in range(3))
    assert first.silent.all()
    assert first.fed
    assert not first.constant.any()
    assert first.moves.all()
    for later in (second, third):
        assert later.constant.all()
        assert not later.silent.any()
        # Each row has its own value, the bias, as the talk saw: some are above 0 and "active" all the time.
        assert 0 < later.active.mean() < 1
    assert second.spread.max() < 1e-6
    assert found["lstm.ahead.0"].constant.all()


def test_a_healthy_network_has_none() -> None:
    for network in (deepheart(), deepheart(activation="gelu"), deepheart(activation="leaky_relu", pool=2)):
        for units in looked(network, weeks(), Weeks).values():
            assert not units.silent.any()
            assert not units.constant.any()
            assert not units.saturated.any()
            assert units.fed
            assert units.moves.all()


def test_shares_are_those_of_a_plain_loop_over_valid_steps() -> None:
    network, batch = deepheart(dropout=0.5), weeks()
    found = looked(network, batch, Weeks)["convolutions.1"]
    network.eval()
    seen: list[Tensor] = []
    handle = network.convolutions[1].register_forward_hook(lambda *each: seen.append(each[2]))
    network(batch["inputs"], batch["lengths"])
    handle.remove()
    valid = torch.cat([seen[0][i, :, :n] for i, n in enumerate(batch["lengths"].tolist())], dim=1)
    np.testing.assert_allclose(found.active, (valid > 0).double().mean(dim=1).numpy(), atol=1e-6)
    spread = torch.stack([seen[0][i, :, :n].std(dim=1, correction=0) for i, n in enumerate([200, 150, 128, 64])])
    np.testing.assert_allclose(found.spread, spread.mean(dim=0).detach().numpy(), rtol=1e-4)
    assert found.values == 200 + 150 + 128 + 64
    assert np.isin(found.sample, seen[0].detach().numpy()).all()


def test_padding_does_not_count_as_time() -> None:
    """A unit that is active in padding only, for its bias is positive and the data pushes it down."""
    convolution = nn.Conv1d(1, 2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([-10.0, 1.0])[:, None, None])
        convolution.bias.copy_(torch.tensor([1.0, 0.0]))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.head = convolution, nn.Linear(2, 1)

        def forward(self, inputs: Tensor, lengths: Tensor) -> Any:
            del lengths
            return self.head(F.relu(self.convolution(inputs.transpose(1, 2))).transpose(1, 2))

    sizes = torch.tensor([9, 5])
    inputs = (torch.arange(9) < sizes[:, None])[..., None] * (1 + torch.rand(2, 9, 1))
    assert looked(Network(), (inputs, sizes))["convolution"].active.tolist() == [0, 1]
    blind = looked(nn.Sequential(convolution, nn.ReLU()), inputs.transpose(1, 2))["0"]
    assert blind.active[0] == pytest.approx(4 / 18)


def test_dropout_is_neither_silence_nor_life() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.9), nn.Linear(6, 5), nn.ReLU())
    x = torch.rand(64, 4)
    alike = [looked(network, x) for _ in range(2)]
    for name in ("0", "3"):
        np.testing.assert_array_equal(alike[0][name].active, alike[1][name].active)
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(1.0)
    # Dropout's noise is all that reaches the second layer, and it is not the input.
    assert not looked(network, x)["3"].fed

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = network[0], network[3]

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.second(F.dropout(self.first(x).relu(), 0.5, self.training)))

    assert not looked(Functional(), x)["second"].fed


def test_residual_connections_are_not_misread() -> None:
    """A dead convolution beside a skip does not make the next one constant."""
    network = deepheart()
    with torch.no_grad():
        network.convolutions[1].bias.fill_(-50)
    found = looked(network, weeks(), Weeks)
    assert found["convolutions.1"].silent.all()
    assert found["convolutions.2"].fed
    assert found["convolutions.2"].moves.all()
    assert not found["convolutions.2"].silent.any()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            out = self.norm(self.a(x))
            out += x.abs()
            return F.relu(self.b(F.relu(out)))

    block = Block()
    with torch.no_grad():
        block.norm.weight.zero_()
        block.norm.bias.fill_(-0.01)
    units = looked(block, torch.randn(8, 3, 6, 6))["a"]
    assert units.through == "norm"
    assert not units.silent.any()  # the sum is positive, although the branch itself is not


def test_rarely_active_is_not_dead() -> None:
    network = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU())
    x = torch.full((2, 1, 5000), -1.0) - torch.rand(2, 1, 5000)
    x[1, 0, 3210] = 50.0
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[0].bias.zero_()
    units = looked(network, x)["0"]
    assert units.active.tolist() == [pytest.approx(1e-4)]
    assert not units.silent.any()


class Ways(nn.Module):
    """One dead unit of four, its activation called in one of many ways."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.call = nn.Linear(3, 4), nn.Linear(4, 2), call
        with torch.no_grad():
            self.first.bias[2] = -100.0

    def forward(self, x: Tensor) -> Any:
        return self.second(self.call(self.first(x)))


WAYS: dict[str, Any] = {
    "module": nn.ReLU(), "in place": nn.ReLU(inplace=True), "function": F.relu, "torch": torch.relu,
    "method": lambda x: x.relu(), "method in place": lambda x: x.relu_(), "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0), "relu6": nn.ReLU6(), "threshold": nn.Threshold(0.0, 0.0),
    "norm": nn.Sequential(nn.LayerNorm(4), nn.ReLU()), "hardswish": nn.Hardswish(),
    "view": lambda x: F.relu(x.view(-1, 1, 4)).flatten(1), "transposed": lambda x: F.relu(x.T).T,
    "where": lambda x: torch.where(x > 0, x, torch.zeros(())), "mask": lambda x: x * (x > 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())), "gelu": F.gelu,
    "dropout": lambda x: F.dropout(x, 0.5).relu(),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_unit_is_seen_however_its_activation_is_called(way: str) -> None:
    units = looked(Ways(WAYS[way]), torch.rand(50, 3))["first"]
    assert units.silent.tolist() == [False, False, True, False]
    assert units.activation is not None
    assert (units.activation == "unknown") == (way in ("where", "mask", "maximum"))


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "softplus", "prelu"])
def test_what_has_a_slope_everywhere_or_a_bounded_floor(name: str) -> None:
    call = {"prelu": nn.PReLU()}.get(name) or getattr(F, name)
    found = looked(Ways(call), torch.rand(50, 3))["first"]
    dead = name in ("elu", "softplus")  # whose slope at -100 is 1e-44
    assert found.silent.tolist() == [False, False, dead, False]


def test_saturated_is_not_dead() -> None:
    for call, name in ((torch.tanh, "tanh"), (torch.sigmoid, "sigmoid"), (nn.Hardtanh(), "hardtanh")):
        found = looked(Ways(call), torch.rand(50, 3))["first"]
        assert found.activation == name
        assert found.saturated.tolist() == [False, False, True, False]
        assert not found.silent.any()


def test_a_module_used_several_times_is_dead_only_if_it_never_lives() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.act = nn.Linear(2, 2), nn.ReLU()
            with torch.no_grad():
                self.shared.weight.copy_(torch.eye(2))
                self.shared.bias.copy_(torch.tensor([0.0, -9.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.shared(x)) + self.act(self.shared(-x))

    found = looked(Twice(), torch.rand(30, 2) + 0.1)["shared"]
    assert found.values == 60
    assert found.active.tolist() == [0.5, 0.0]
    torch.manual_seed(0)
    hourly = HourlyCNN(activation="relu")  # one activation for three convolutions
    with torch.no_grad():
        hourly.convolutions[1].bias.fill_(-100)
    units = looked(hourly, weeks(hourly.arguments["channels"], (168, 168, 120)), Weeks)
    assert units["convolutions.1"].silent.all()
    assert not units["convolutions.0"].silent.any()
    assert units["convolutions.2"].constant.all()


def test_layers_called_as_functions() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.eye(3)), nn.Parameter(torch.tensor([0.0, -9.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.linear(x, self.weight, self.bias))

    assert looked(nn.Sequential(Own(), nn.Linear(3, 1)), torch.rand(20, 3))["0"].silent.tolist() == [False, True, False]


def test_attention_is_followed() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with torch.no_grad():
        layer.linear1.bias[:4] = -100
    found = looked(nn.Sequential(nn.Linear(3, 8), layer), torch.randn(4, 10, 3))
    assert found["1.linear1"].silent.tolist() == [True] * 4 + [False] * 12
    assert found["1.linear2"].fed


def test_images() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 3),
    )  # fmt: skip
    with torch.no_grad():
        network[1].bias[:2] = -100
    found = looked(network, torch.rand(8, 1, 12, 12))
    assert found["0"].silent.tolist() == [True, True, False, False, False, False]
    assert found["0"].through == "1"
    assert found["0"].values == 8 * 100
    assert not found["4"].silent.any()

    class PoolFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(100, 2)
            with torch.no_grad():
                self.conv.bias.copy_(torch.tensor([1.0, -100.0, 1.0, 1.0]))

        def forward(self, x: Tensor) -> Any:
            return self.fc(F.relu(F.max_pool2d(self.conv(x), 2)).flatten(1))

    assert looked(PoolFirst(), torch.rand(8, 1, 12, 12))["conv"].silent.tolist() == [False, True, False, False]


def test_values_that_are_not_finite_are_not_silence() -> None:
    network = Ways(F.relu)
    with torch.no_grad():
        network.first.bias[0] = math.nan
    units = looked(network, torch.rand(20, 3))["first"]
    assert not units.silent[0]
    assert math.isnan(units.active[0])


def test_of_long_weeks_a_look_takes_two() -> None:
    long = {"inputs": torch.rand(8, READINGS // 2, 3), "lengths": torch.arange(8), "scale": torch.ones(3)}
    some = some_rows(long)
    assert torch.equal(some["inputs"], long["inputs"][[0, 7]])
    assert some["lengths"].tolist() == [0, 7]
    assert some["scale"] is long["scale"]
    assert len(some_rows({"inputs": torch.rand(8, READINGS * 3, 1)})["inputs"]) == 2
    assert len(some_rows({"inputs": torch.rand(8, READINGS // 5, 1)})["inputs"]) == 5
    short, empty = {"inputs": torch.rand(8, READINGS // 8, 3)}, {"inputs": torch.rand(8, 0, 3)}
    for batch in (short, empty, {"x": long["inputs"]}, (long["inputs"],)):
        assert some_rows(batch) is batch


def test_a_look_leaves_no_trace() -> None:
    network = deepheart(dropout=0.5)
    step = Weeks(network).train()
    torch.manual_seed(3)
    before = {name: value.clone() for name, value in step.state_dict().items()}, torch.get_rng_state()
    look(step, weeks())
    assert all(torch.equal(value, step.state_dict()[name]) for name, value in before[0].items())
    assert torch.equal(before[1], torch.get_rng_state())
    assert all(each.training for each in step.modules())
    assert all(each.requires_grad and each.grad is None for each in step.parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in step.modules())

    class Broken(Step):
        def training_step(self, batch: Any, index: int) -> Tensor:
            super().training_step(batch, index)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look(Broken(nn.Linear(3, 3)), torch.rand(2, 3))
    assert not hasattr(torch.relu(torch.rand(2)), "_heartnet_place")
    assert torch.equal(F.dropout(torch.ones(4), 1.0), torch.zeros(4))  # dropout is itself again


@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**31),
    st.sampled_from([(0.0, math.inf), (-1.0, 1.0), (-math.inf, 0.5), (-math.inf, math.inf)]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_counts_against_a_loop(
    batch: int, positions: int, units: int, seed: int, bounds: tuple[float, float], whole: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, positions, units, generator=generator, dtype=torch.float64)
    steps = torch.randint(1, positions + 1, (batch,), generator=generator)
    counts = unit_counts(values, None if whole else steps, *bounds)
    active, spread = np.zeros(units), np.zeros(units)
    for b in range(batch):
        inside = values[b, : positions if whole else int(steps[b])].numpy()
        active += ((inside > bounds[0]) & (inside < bounds[1])).sum(axis=0)
        spread += inside.std(axis=0) / batch
    if whole and positions == 1:
        spread = values[:, 0].numpy().std(axis=0)
    np.testing.assert_allclose(counts[:2].numpy(), [active, spread], atol=1e-12)


# Gates


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gates_are_those_of_cells_run_step_by_step(kind: str, bidirectional: bool, bias: bool) -> None:
    torch.manual_seed(0)
    module = getattr(nn, kind)(3, 4, batch_first=True, bidirectional=bidirectional, bias=bias).double()
    x, sizes = torch.randn(2, 7, 3, dtype=torch.float64), torch.tensor([7, 5])
    packed, _ = module(pack_padded_sequence(x, sizes, batch_first=True))
    outputs, _ = pad_packed_sequence(packed, batch_first=True)
    found = gates(module, x, outputs.detach(), sizes, rows=400)
    for suffix in ("", "_reverse") if bidirectional else ("",):
        expected = by_hand(module, x, sizes, suffix)
        for name, values in expected.items():
            got = {tuple(np.round(row, 9)) for row in found[name + suffix].numpy()}
            assert got == {tuple(np.round(row, 9)) for row in values}


def by_hand(module: Any, x: Tensor, sizes: Tensor, suffix: str) -> dict[str, list[Any]]:
    """Return each gate before its activation at each step but the first, from a loop over the equations."""
    weights = {name: getattr(module, f"weight_{name}_l0{suffix}").detach().numpy() for name in ("ih", "hh")}
    size = module.hidden_size
    rows = len(weights["ih"])
    biases = {
        name: getattr(module, f"bias_{name}_l0{suffix}").detach().numpy() if module.bias else np.zeros(rows)
        for name in ("ih", "hh")
    }
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    found: dict[str, list[Any]] = {}
    for b, length in enumerate(sizes.tolist()):
        h, c = np.zeros(size), np.zeros(size)
        order = range(length) if not suffix else reversed(range(length))
        for number, t in enumerate(order):
            a = weights["ih"] @ x[b, t].numpy() + biases["ih"]
            r = weights["hh"] @ h + biases["hh"]
            if rows == 4 * size:
                now = dict(zip(("input", "forget", "cell", "output"), np.split(a + r, 4), strict=True))
                c = sigmoid(now["forget"]) * c + sigmoid(now["input"]) * np.tanh(now["cell"])
                h = sigmoid(now["output"]) * np.tanh(c)
            else:
                (ar, az, an), (rr, rz, rn) = np.split(a, 3), np.split(r, 3)
                now = {"reset": ar + rr, "update": az + rz, "new": an + sigmoid(ar + rr) * rn}
                z = sigmoid(now["update"])
                h = (1 - z) * np.tanh(now["new"]) + z * h
            if number > 0:
                for name, value in now.items():
                    found.setdefault(name, []).append(value)
    return found


def test_short_sequences_have_no_gates() -> None:
    module = nn.LSTM(2, 3, batch_first=True)
    assert gates(module, torch.zeros(2, 1, 2), torch.zeros(2, 1, 3), torch.tensor([1, 1])) == {}
    found = gate_shares(gates(module, torch.zeros(2, 4, 2), torch.zeros(2, 4, 3), torch.tensor([1, 1])))
    assert all((each == 0).all() for each in found.values())
    with pytest.raises(ValueError, match="cannot be computed"):
        gates(nn.LSTM(2, 3, 2), torch.zeros(2, 4, 2), torch.zeros(2, 4, 3), torch.tensor([4, 4]))


def test_what_a_stuck_gate_is() -> None:
    always, never, half = np.array([1.0]), np.array([0.0]), np.array([0.5])
    assert stuck("cell", always, never)
    assert stuck("new_reverse", half, half)
    assert stuck("forget", half, half)  # at both ends, never in between
    assert not stuck("forget", never, always)  # remembers
    assert not stuck("input", always, never)  # as chrono sets it
    assert stuck("output", always, never)  # nothing comes out
    assert not stuck("output_reverse", never, always)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_saturated_recurrent_layers(bidirectional: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, bidirectional=bidirectional, batch_first=batch_first)
    x = torch.randn(5, 30, 3) if batch_first else torch.randn(30, 5, 3)
    assert not looked(lstm, x)["network"].saturated.any()
    suffix = "_reverse" if bidirectional else ""
    with torch.no_grad():
        lstm.get_parameter(f"bias_ih_l0{suffix}")[8:10] = 40  # the candidate of two units of the last direction
    units = looked(lstm, x)["network"]
    assert units.saturated.tolist() == [False] * 4 * bidirectional + [True, True, False, False]
    assert units.stuck[f"cell{suffix}"] == 0.5
    assert units.hidden == ""


def test_chrono_biases_are_not_saturation() -> None:
    network = deepheart(forget_bias="chrono", longest=100_000)
    for name, units in looked(network, weeks(), Weeks).items():
        assert not units.saturated.any(), name


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_layers_within_a_recurrent_module_are_those_of_modules_in_a_row(
    kind: str, bidirectional: bool, packed: bool
) -> None:
    torch.manual_seed(0)
    module = getattr(nn, kind)(3, 4, 3, bidirectional=bidirectional)
    x, sizes = torch.randn(2, 7, 3), torch.tensor([5, 7])
    directions = 2 if bidirectional else 1
    first = torch.randn(3 * directions, 2, 4)
    first = (first, first / 2) if kind == "LSTM" else first
    if packed:
        out, _ = module(pack_padded_sequence(x, sizes, batch_first=True, enforce_sorted=False), first)
        expected, _ = pad_packed_sequence(out, batch_first=True)
    else:
        expected = module(x.transpose(0, 1), first)[0].transpose(0, 1)
    state = torch.get_rng_state()
    found = list(layers_of(module, x, sizes if packed else None, (x, first)))
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(found[-1][2], expected.detach())
    assert [each[1].shape[2] for each in found] == [3, 4 * directions, 4 * directions]
    if kind == "LSTM" and not packed and not bidirectional:
        cell, (h, c) = nn.LSTMCell(3, 4), (each[0] for each in first)
        for name, value in cell.named_parameters():
            value.data.copy_(module.get_parameter(f"{name}_l0"))
        for t in range(7):
            h, c = cell(x[:, t], (h, c))
            torch.testing.assert_close(found[0][2][:, t], h.detach())
    for name, value in found[1][0].named_parameters():
        assert torch.equal(value, module.get_parameter(name.replace("_l0", "_l1")))


def test_saturated_gates_of_inner_layers() -> None:
    torch.manual_seed(0)
    for bidirectional in (False, True):
        lstm = nn.LSTM(3, 4, 3, dropout=0.5, batch_first=True, bidirectional=bidirectional)
        suffix = "_reverse" if bidirectional else ""
        with torch.no_grad():
            lstm.get_parameter(f"bias_ih_l1{suffix}")[8:10] = 40  # the candidate of two units of the middle layer
        found = looked(lstm, torch.randn(5, 30, 3))
        assert list(found) == ["network.l0", "network.l1", "network.l2"]
        assert found["network.l1"].saturated.tolist() == [False] * 4 * bidirectional + [True, True, False, False]
        assert found["network.l1"].stuck[f"cell{suffix}"] == 0.5
        assert not found["network.l0"].saturated.any()
        assert not found["network.l2"].saturated.any()
    projected = looked(nn.LSTM(3, 6, 2, proj_size=2, batch_first=True), torch.randn(5, 30, 3))
    assert set(projected["network.l0"].stuck) == {"input", "forget", "cell", "output"}


def test_plain_recurrent_layers() -> None:
    plain = nn.RNN(3, 4, batch_first=True)
    with torch.no_grad():
        plain.bias_ih_l0[0] = 50
    assert looked(plain, torch.randn(4, 9, 3))["network"].saturated.tolist() == [True, False, False, False]
    relu = nn.RNN(3, 4, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        relu.bias_ih_l0[0] = -50
    assert looked(relu, torch.randn(4, 9, 3))["network"].silent.tolist() == [True, False, False, False]


# Gradients


def test_when_a_gradient_reached_a_unit_last() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    gradients = UnitGradients(network)
    assert gradients.read() == {}
    for step in range(4):
        network.zero_grad()
        network[0].bias.data[[0, 2]] = 5.0
        network[0].bias.data[1] = -100.0 if step >= 2 else 5.0
        network(torch.rand(5, 2)).sum().backward()
        gradients.see(step)
    found = gradients.read()
    assert found["0"].last.tolist() == [3, 1, 3]
    assert (found["0"].largest > 0).all()
    assert found["2"].last.tolist() == [3]
    assert (gradients.read()["0"].largest == 0).all()  # since it was read


def test_frozen_layers_and_missing_gradients() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False), nn.Linear(1, 2))
    network[0].requires_grad_(False)
    gradients = UnitGradients(network)
    gradients.see(0)
    network(torch.rand(4, 2)).sum().backward()
    gradients.see(1)
    assert set(gradients.read()) == {"2"}
    UnitGradients(nn.Flatten()).see(0)


def test_spikes_against_the_median() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    norms = GradientNorms()
    assert norms.before(3) is None
    for step in range(50):
        parameter.grad = torch.tensor([3.0, 4.0]) * (100 if step == 37 else 1)
        optimizer.param_groups[0]["lr"] = 2.0 if step == 40 else 0.1
        norms.see(step, optimizer)
    spike = norms.before(41)
    assert spike is not None
    assert (spike.gradient, spike.gradient_step) == (pytest.approx(100), 37)
    assert (spike.rate, spike.rate_step) == (pytest.approx(20), 40)
    early = norms.before(36)
    assert early is not None
    assert early.gradient == pytest.approx(1)
    assert norms.before(3) is None
    again = GradientNorms()
    again.load_state_dict(norms.state_dict())
    assert again.before(41) == spike
    parameter.grad = torch.tensor([math.nan, 0.0])
    norms.see(50, optimizer)
    wild = norms.before(50)
    assert wild is not None
    assert wild.gradient == math.inf
