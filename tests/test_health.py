"""The measurements behind training_health, beside naive loops in float64, another library, and analytic cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_gradients import gradients
from heartnet.diagnostics.health_scores import Scores, binary_targets
from heartnet.diagnostics.health_verdicts import activations, course, updates
from heartnet.diagnostics.loss_calls import LossCalls, activation_of
from heartnet.diagnostics.replay import Replay
from heartnet.diagnostics.start import Mixing, equal_rows, equal_units, mixing, scales
from heartnet.diagnostics.start_verdicts import left_out, mixed
from heartnet.diagnostics.trends import Series, Trend, base_rate_loss, chance_band, trend
from heartnet.diagnostics.weights import Weights

# Weights


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_gradient_norms_and_updates_beside_a_loop() -> None:
    network = small()
    weights = Weights(network, network.parameters())
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(8, 3)).square().sum().backward()
    places, norms = weights.norms()
    weights.note(places, norms.tolist())
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    weights.before_step()
    optimizer.step()
    after = weights.after_step()
    assert after is not None
    found = weights.by_layer(weights.end_batch())
    for layer in ("0", "2"):
        parts = [each for name, each in network.named_parameters() if name.startswith(f"{layer}.")]
        assert all(each.grad is not None for each in parts)
        total = sum(float(v) ** 2 for each in parts for v in each.grad.double().flatten())  # type: ignore[union-attr]
        assert found[layer] == pytest.approx(math.sqrt(total), rel=1e-5)
        weight, old = network.get_parameter(f"{layer}.weight").detach().double(), before[f"{layer}.weight"].double()
        column = after[0].index(layer)
        change, size = after[1][:, column].tolist()
        assert change == pytest.approx(float((weight - old).norm()), rel=1e-4)
        assert size == pytest.approx(float(old.norm()), rel=1e-5)
    assert all((each.asked, each.reached, each.nonzero, each.steps, each.moved) == (1,) * 5 for each in weights.all)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_norms_of_any_type(dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 2, dtype=dtype)
    weights = Weights(layer, layer.parameters())
    layer(torch.ones(4, 3, dtype=dtype)).abs().sum().backward()
    norms = [float(each.grad.abs().square().sum().sqrt()) for each in layer.parameters() if each.grad is not None]
    assert weights.norms()[1].tolist() == pytest.approx(norms, rel=1e-2)


def test_shared_and_frozen_weights_are_counted_as_what_they_are() -> None:
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    network["b"].weight = network["a"].weight
    network["frozen"].requires_grad_(False)
    health = Health(network, [network["a"].weight])
    assert [each.name for each in health.weights.all][:3] == ["a.weight", "a.bias", "b.bias"]
    assert [each.where for each in left_out(health)] == ["a/optimiser", "b/optimiser"]
    assert all("bias" in each.message and "weight of" not in each.message for each in left_out(health))


def train(network: nn.Module, loss: Any, batches: int = 12, rate: float = 0.1) -> Health:
    """Train by hand as the callback sees it, with a look at each step."""
    health = Health(network, network.parameters())
    optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], rate)
    for step in range(batches):
        x = torch.randn(16, 3)
        health.open(x, step)
        optimizer.zero_grad()
        value = loss(network, x)
        value.backward()
        assert health.backward(value, step)
        health.weights.before_step()
        optimizer.step()
        health.end_batch()
        health.close()
    return health


def test_the_layer_where_a_graph_is_cut_is_named() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    health = train(network, lambda net, x: net[2](net[1](net[0](x)).detach()).square().mean())
    (found,) = gradients(health)
    assert found.where == "1/gradient"
    assert "0 before it" in found.message


def test_a_dead_layer_leaves_exact_zeros_below() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        network[1].bias.fill_(-50.0)  # type: ignore[union-attr]
    (found,) = gradients(train(network, lambda net, x: (net(x) - 1).square().mean()))
    assert found.where == "1/gradient"
    assert "exactly 0" in found.message


def test_a_group_with_a_rate_of_0_is_not_called_a_low_rate_of_all() -> None:
    network = small()
    network[0].weight.register_hook(lambda gradient: gradient * 1e-12)
    found = updates(train(network, lambda net, x: (net(x) - 1).square().mean()), 100.0, {}, end=True)
    assert [each.where for each in found] == ["0/update"]


def test_outputs_that_grow() -> None:
    network = small()
    health = train(network, lambda net, x: (net(x) - 1).square().mean(), batches=4)
    assert activations(health) == []
    for look in list(health.looks)[-3:]:
        look.activations = {name: value * 1e5 for name, value in look.activations.items()}
    assert [each.where for each in activations(health)] == ["0/activation"]


def test_a_state_goes_on() -> None:
    network = small()
    health = train(network, lambda net, x: (net(x) - 1).square().mean(), batches=4)
    other = Health(network, network.parameters())
    other.load(health.state())
    assert other.state() == health.state()
    assert other.batches == 4


# Loss functions


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), outputs=st.integers(1, 4))
def test_what_a_binary_loss_is_given(seed: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, outputs, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(9, outputs, generator=generator) < 0.4).double()
    targets[torch.rand(9, outputs, generator=generator) < 0.2] = torch.nan
    known = ~targets.isnan()
    assume(bool(known.any()))
    with LossCalls({"targets": targets}) as seen:
        each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
        ((each * known).sum() / known.sum()).backward()
    (call,) = seen.calls
    chance = torch.sigmoid(logits.detach())
    reference = log_loss(targets[known].numpy(), chance[known].numpy(), labels=[0, 1])
    assert float(call.value) == pytest.approx(reference, rel=1e-4)
    assert call.known.tolist() == known.sum(0).tolist()
    assert call.positives.tolist() == targets.nan_to_num().sum(0).tolist()
    assert call.gradient is not None
    slope = (chance - targets).nan_to_num() / known.sum()
    torch.testing.assert_close(call.gradient.double(), slope.square().sum(0), rtol=1e-4, atol=1e-9)
    assert call.sign is not None
    assert float(call.sign) == pytest.approx(1.0, rel=1e-5)


def test_what_a_loss_over_classes_is_given() -> None:
    logits = torch.randn(6, 3, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (6, 4, 4))
    target[0] = -100
    with LossCalls() as seen:
        loss = nn.CrossEntropyLoss()(logits, target)
        (-loss).backward()
    (call,) = seen.calls
    assert float(call.value) == pytest.approx(loss.item(), rel=1e-5)
    assert call.uninformed == pytest.approx(math.log(3))
    assert call.positives.tolist() == [int((target == i).sum()) for i in range(3)]
    assert call.sign is not None
    assert float(call.sign) == -1.0


def test_results_are_the_same_and_the_mode_is_left() -> None:
    logits, target = torch.randn(5, 3), torch.rand(5, 3)
    plain = F.binary_cross_entropy_with_logits(logits, target)
    with LossCalls():
        assert torch.equal(F.binary_cross_entropy_with_logits(logits, target), plain)
    assert torch.overrides._get_current_function_mode() is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: x, ""),
        (torch.sigmoid, "sigmoid"),
        (lambda x: torch.sigmoid(x).mean(dim=1), "sigmoid"),
        (lambda x: (x.relu() * torch.ones(4, 3, 2)).sum(dim=1) / 3, "ReLU"),
        (lambda x: x.softmax(dim=-1).transpose(0, 1)[1], "softmax"),
        (lambda x: x.relu() @ torch.ones(2, 2), ""),
        (lambda x: x.relu() + x, ""),
        (lambda x: F.leaky_relu(x), ""),
        (lambda x: x.relu().double().reshape(-1), "ReLU"),
        (lambda x: F.relu6(x)[:, 0], "ReLU6 or hardtanh"),
    ],
)
def test_the_activation_before_a_loss(change: Any, name: str) -> None:
    x = torch.randn(4, 3, 2, requires_grad=True)
    assert activation_of(change(x * 1.5 + x)) == name
    assert activation_of(torch.randn(3)) == ""


# The start


class Step(nn.Module):
    """Two layers, and something between them; a loss that no function of torch computes."""

    def __init__(self, between: Any = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.between = nn.Linear(4, 6), nn.Linear(6, 2), between
        self.dropout = nn.Dropout(0.5)

    def training_step(self, batch: Tensor) -> Tensor:
        out: Tensor = self.second(self.between(self.dropout(self.first(batch)).tanh()))
        return out.square().mean()


@pytest.mark.parametrize(
    ("between", "layer"),
    [
        (lambda x: x, None),
        (lambda x: x - x.mean(dim=0), "second"),
        (lambda x: x.transpose(0, 1).contiguous().view(x.shape), "second"),
        (lambda x: x + 1e-3 * x.flip(0), "second"),
        (lambda x: x + torch.randn_like(x), None),
    ],
)
def test_samples_that_meet(between: Any, layer: str | None) -> None:
    found = mixing(Replay(Step(between)), torch.randn(5, 4))
    assert found is not None
    assert [each.where for each in mixed(found)] == ([] if layer is None else [f"{layer}/mixing"])
    assert (found.value == 0) == (layer is None)


@pytest.mark.parametrize(("change", "told"), [("sorted", True), ("mixup", False), ("noise", True), ("shuffled", True)])
def test_samples_that_a_step_sorts_or_mixes_up_on_purpose(change: str, told: bool) -> None:
    class Own(Step):
        def training_step(self, batch: Tensor) -> Tensor:
            share = np.random.beta(2, 2)
            noise = batch + torch.randn_like(batch)
            changed = {"sorted": batch.flip(0), "mixup": share * batch + (1 - share) * batch.flip(0), "noise": noise}
            return super().training_step(changed.get(change, batch))

    found = mixing(Replay(Own(lambda x: x.flip(0) if change == "shuffled" else x)), torch.randn(2, 4))
    assert (found is not None) == told
    assert [each.where for each in mixed(found)] == (["second/mixing"] if change == "shuffled" else [])


def test_a_wrong_shape_that_leaves_the_first_sample_its_own_first_step() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def training_step(self, batch: Tensor) -> Tensor:
            out = self.first(batch)
            out = out.transpose(0, 1).reshape(out.shape)
            answer: Tensor = self.second(out[:, 0])
            return answer.square().mean()

    found = mixing(Replay(Wrong()), torch.randn(2, 10, 4))
    assert [each.where for each in mixed(found)] == ["second/mixing"]


def test_what_cannot_be_told_of_mixing() -> None:
    assert mixing(Replay(Step()), torch.randn(1, 4)) is None

    class Contrast(Step):
        def training_step(self, batch: Tensor) -> Tensor:
            out = self.second(self.first(batch))
            return F.cross_entropy(out @ out.T, torch.arange(len(out)))

    assert mixing(Replay(Contrast()), torch.randn(5, 4)) is None
    assert mixed(None) == []
    assert mixed(Mixing(0.0, "")) == []


def test_scales_beside_fresh_weights() -> None:
    module = Step()
    plain = scales(Replay(module), torch.randn(8, 4))
    assert [each.layer for each in plain] == ["first", "second"]
    assert all(0.3 < each.weights < 3 and 0.2 < each.output < 5 for each in plain)
    with torch.no_grad():
        module.second.weight.mul_(50)
    heavy = scales(Replay(module), torch.randn(8, 4))
    assert heavy[0].weights == pytest.approx(plain[0].weights)
    assert heavy[1].weights == pytest.approx(50 * plain[1].weights, rel=1e-5)


def test_equal_units_and_rows() -> None:
    column = torch.randn(3, 7, 1)
    assert equal_units(column.expand(-1, -1, 4))
    assert not equal_units(torch.zeros(3, 7, 4))
    assert not equal_units(column)
    assert not equal_units(torch.randn(3, 7, 4))
    row = torch.randn(1, 5)
    assert equal_rows(row.expand(4, -1)) == 4
    assert equal_rows(torch.cat([row, row + 1, row * (1 + 1e-7)])) == 2
    assert equal_rows(torch.zeros(4, 5)) == 0


# Trends


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), length=st.integers(40, 400), level=st.floats(0.1, 10), noise=st.floats(0, 0.3))
def test_noise_has_no_course(seed: int, length: int, level: float, noise: float) -> None:
    values = level * (1 + noise * np.random.default_rng(seed).normal(size=length))
    assert trend(values).course in ("flat", "unclear")
    assert trend(np.full(length, level)).course == "flat"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), length=st.integers(60, 400), noise=st.floats(0, 0.1))
def test_courses(seed: int, length: int, noise: float) -> None:
    time = np.linspace(0, 1, length)
    noises = noise * np.random.default_rng(seed).normal(size=length)
    assert trend(1 - 0.6 * time + noises).course == "falls"
    assert trend(1 + 0.6 * time + noises).course == "rises"
    assert trend(1 - 0.8 * np.sin(np.pi * time) + noises).course not in ("falls", "too short")
    back = np.where(time < 0.6, 1 - time, 1.0)
    assert trend(back + noises).course == "returns"


def test_short_series_have_no_course() -> None:
    assert trend([1.0] * 39).course == "too short"
    assert trend([]).course == "too short"
    found = Trend("flat", 0.7, 0.69, 0.7, 0.01)
    health = Health(small(), [])
    assert course(found, 100, health, {}) == []
    assert course(Trend("flat", 0.7, 0.69, 0.7, 0.05), 300, health, {}) == []
    assert [each.where for each in course(found, 300, health, {})] == ["loss/trend"]


@given(values=st.lists(st.floats(-10, 10), max_size=700), size=st.sampled_from([8, 64]))
@settings(max_examples=50, deadline=None)
def test_a_series_keeps_means_in_bounded_memory(values: list[float], size: int) -> None:
    series = Series(size)
    for value in [*values, math.nan]:
        series.add(value)
    assert len(series) == len(values)
    assert len(series.values) < size
    kept = np.array(values[: len(series.values) * series.each]).reshape(-1, series.each)
    np.testing.assert_allclose(series.values, kept.mean(axis=1), atol=1e-9)
    again = Series(size)
    again.load(series.state())
    assert again.state() == series.state()


@pytest.mark.parametrize(("positives", "negatives"), [(5, 40), (30, 30), (100, 400)])
def test_the_band_of_chance_beside_drawn_scores(positives: int, negatives: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [positives, negatives])
    drawn = [roc_auc_score(labels, rng.random(len(labels))) for _ in range(800)]
    outside = np.mean(np.abs(np.array(drawn) - 0.5) > chance_band(positives, negatives))
    assert 0.025 < outside < 0.08
    assert chance_band(0, 10) == math.inf


@given(rates=st.lists(st.floats(0.02, 0.98), min_size=1, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_loss_of_base_rates_beside_another_library(rates: list[float], seed: int) -> None:
    labels = np.random.default_rng(seed).random((50, len(rates))) < rates
    found = base_rate_loss(labels.sum(0).tolist(), [50.0] * len(rates), "binary")
    constant = np.broadcast_to(labels.mean(0), labels.shape)
    assert found == pytest.approx(log_loss(labels.ravel(), constant.ravel(), labels=[0, 1]), abs=1e-6)


def test_the_loss_of_base_rates_of_classes() -> None:
    assert base_rate_loss([5, 5, 10], [20, 20, 20], "classes") == pytest.approx(1.5 * math.log(2))
    assert math.isnan(base_rate_loss([0.0], [0.0], "binary"))


# Scores


def test_labels_are_counted_and_scores_kept() -> None:
    scores = Scores(("a", "b"))
    nan = math.nan
    for _ in range(2):
        scores.see({"inputs": torch.randn(3, 4), "targets": torch.tensor([[1.0, 0.0], [nan, 1.0], [0.0, 1.0]])})
        scores.end({"val/auroc/a": 0.5, "val/loss": 1.0, "train_acc": 0.3})
    assert (scores.positives, scores.negatives) == ([1.0, 2.0], [1.0, 1.0])
    assert scores.history == {"val/auroc/a": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        ((torch.randn(3, 2), torch.tensor([0, 1, 1])), (3, 1)),
        ({"x": torch.randn(3, 2), "y": torch.tensor([[0.0], [1.0], [1.0]])}, (3, 1)),
        ((torch.randn(3, 2), torch.tensor([0, 1, 2])), None),
        (torch.randn(3, 2), None),
        ([torch.randn(3, 2), torch.randn(3)], None),
    ],
)
def test_binary_labels_of_batches(batch: Any, shape: tuple[int, int] | None) -> None:
    found = binary_targets(batch)
    assert (None if found is None else tuple(found.shape)) == shape


def test_a_loss_that_falls_for_nothing() -> None:
    falls = Trend("falls", 1.0, 0.2, 0.2, 0.01)
    for values, places in (
        ([0.6, 0.6, 0.59, 0.6, 0.6], ["val/acc/reward"]),
        ([0.6, 0.62, 0.7, 0.71, 0.7], []),
        ([0.9] * 6, []),
    ):
        scores = Scores()
        for value in values:
            scores.see((torch.randn(200, 2), torch.arange(200) % 2))
            scores.end({"val/acc": value})
        assert [each.where for each in scores.judge(falls, end=True)] == places
