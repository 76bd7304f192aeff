"""The measurements of the wiring, against what is known by hand, scikit-learn and torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from faults import training
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from heartnet.diagnostics.replay import tensors_in
from heartnet.diagnostics.wiring import Bench, Subject, bench_of
from heartnet.diagnostics.wiring_calls import Calls
from heartnet.diagnostics.wiring_flow import flow
from heartnet.diagnostics.wiring_heads import auroc, heads, rank_sum
from heartnet.diagnostics.wiring_linear import linearity
from heartnet.diagnostics.wiring_loss import _called
from heartnet.diagnostics.wiring_neighbours import neighbours
from heartnet.diagnostics.wiring_padding import padding
from heartnet.diagnostics.wiring_range import ranges
from heartnet.diagnostics.wiring_repeat import modes, repeated
from heartnet.diagnostics.wiring_saved import saved, saved_to_file
from heartnet.diagnostics.wiring_start import zero_input


class Plain(nn.Module):
    """A module with a training step, and nothing else."""

    def __init__(self, network: nn.Module, loss: Any = F.binary_cross_entropy_with_logits) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        loss: Tensor = self.loss(self.network(batch[0]), batch[1])
        return loss


def bench(network: nn.Module, *, inputs: int = 4, outputs: int = 2, loss: Any = None) -> Bench:
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(6, inputs, generator=generator), (torch.rand(6, outputs, generator=generator) < 0.5).float())
    return bench_of(Subject(Plain(network, *([loss] if loss else [])), batch))


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.function(x)
        return answer


# Losses in NumPy


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("binary_cross_entropy_with_logits", {}),
        ("binary_cross_entropy_with_logits", {"pos_weight": torch.tensor([1.0, 2.0, 0.5])}),
        ("binary_cross_entropy_with_logits", {"weight": torch.tensor([1.0, 0.0, 0.5])}),
        ("binary_cross_entropy", {}),
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("cross_entropy", {}),
        ("cross_entropy", {"weight": torch.tensor([1.0, 2.0, 0.5])}),
        ("cross_entropy", {"ignore_index": 1}),
        ("cross_entropy", {"label_smoothing": 0.1}),
        ("nll_loss", {"weight": torch.tensor([1.0, 2.0, 0.5])}),
    ],
)
def test_numpy_gives_the_loss_of_torch(name: str, options: dict[str, Any], reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(7, 3, generator=generator)
    labels: Tensor = (torch.rand(7, 3, generator=generator) < 0.5).float()
    if name in ("cross_entropy", "nll_loss"):
        labels = torch.tensor([0, 1, 2, 2, 1, 0, 2])
    if name == "binary_cross_entropy":
        logits = logits.sigmoid()
    if name == "nll_loss":
        logits = logits.log_softmax(1)
    with Calls() as calls:
        result = getattr(F, name)(logits, labels, reduction=reduction, **options)
    found = _called(calls.seen[0])
    assert found.expected is not None
    expected = float(result.double().mean())
    if math.isfinite(found.expected):
        assert found.found == pytest.approx(expected, rel=1e-5)
        assert found.expected == pytest.approx(expected, rel=2e-5)
    else:
        assert options == {"label_smoothing": 0.1}  # which is left out


# Samples, padding, modes


def test_gradients_between_samples() -> None:
    """f(x)ᵢ = w·xᵢ + c·w·mean(x) has a gradient c/n with respect to another sample, 1 + c/n to its own."""
    layer = nn.Linear(4, 2, bias=False)
    c = 0.5
    mixing = bench(nn.Sequential(layer, Function(lambda h: h + c * h.mean(dim=0))))
    found = neighbours(mixing, training=False)
    assert found.value == pytest.approx((c / 4) / (1 + c / 4), rel=1e-6)
    assert found.layer == "network.1"
    assert neighbours(bench(layer), training=False).value == 0


def test_batch_normalisation_is_no_alarm_and_what_is_beside_it_is() -> None:
    clean = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    found = neighbours(bench(clean), training=True)
    assert found.normalised
    assert found.value == 0
    mixing = nn.Sequential(*clean, Function(lambda h: h - h.mean(dim=0)))
    assert (neighbours(bench(mixing), training=True).value or 0) > 0.1


def test_whole_numbers_are_exchanged() -> None:
    class Tokens(Plain):
        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            return F.cross_entropy(self.network(batch[0]), batch[1])

    batch = (torch.arange(20).reshape(5, 4), torch.tensor([0, 1, 2, 1, 0]))
    for network, mixes in (
        (nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(32, 3)), False),
        (nn.Sequential(nn.Embedding(20, 8), Function(lambda h: h + h.sum(0)), nn.Flatten(), nn.Linear(32, 3)), True),
    ):
        found = neighbours(bench_of(Subject(Tokens(network), batch)), training=False)
        assert ((found.value or 0) > 0) is mixes


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_nothing_depends_on_padding(kind: str) -> None:
    it = training(kind)
    tried = bench_of(
        Subject(it.module, next(iter(it.data.train_dataloader())), lambda module, batch: module.probe(batch))
    )
    assert tried.lengths is not None
    assert len(set(tried.lengths.tolist())) > 1
    found = padding(tried)
    for each in (found.longer, found.alone, found.order):
        assert each == pytest.approx(0, abs=1e-12)
    assert repeated(tried).value == modes(tried).value == 0


def test_a_mean_over_padded_steps() -> None:
    """The mean over T steps becomes that over T + 17: scores shrink by T / (T + 17)."""

    class Mean(nn.Module):
        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            return F.mse_loss(batch["x"].mean(dim=1), batch["y"])

    module = Mean()
    module.scale = nn.Parameter(torch.ones(1))
    batch = {"x": torch.ones(3, 10, 2), "lengths": torch.tensor([10, 8, 5]), "y": torch.zeros(3, 2)}
    found = padding(bench_of(Subject(module, batch)))
    assert found.longer == pytest.approx(1 - 10 / 27)
    assert found.order == 0


def test_random_evaluation_and_other_functions_in_training() -> None:
    always = bench(nn.Sequential(nn.Linear(4, 8), Function(lambda h: F.dropout(h, 0.5)), nn.Linear(8, 2)))
    found = repeated(always)
    assert (found.value or 0) > 0.01
    assert found.module == "network.1"
    clean = bench(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), Function(torch.tanh), nn.Linear(8, 2)))
    assert repeated(clean).value == modes(clean).value == 0


# Gradients, ranges, activations, saving


def test_where_gradients_go() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x)
            return torch.cat([self.one(hidden), self.two(hidden).detach()], dim=1)

    found = flow(bench(Heads()))
    assert list(found.reaches) == [True, False]
    assert list(found.silent) == ["network.two"]
    weights = torch.tensor([0.0, 1.0])
    half = flow(
        bench(nn.Linear(4, 2), loss=lambda x, y: F.binary_cross_entropy_with_logits(x, y, weight=weights.to(x)))
    )
    assert list(half.weighed) == [False, True]


@pytest.mark.parametrize(
    ("function", "cut"),
    [
        (torch.relu, "ReLU"), (torch.sigmoid, "sigmoid"), (torch.tanh, "tanh"), (lambda x: x.softmax(1), "softmax"),
        (lambda x: x, ""), (F.leaky_relu, ""), (F.gelu, ""), (lambda x: x.log_softmax(1), ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_ranges(function: Any, cut: str, seed: int) -> None:
    torch.manual_seed(seed)
    found = ranges(bench(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), Function(function)), outputs=3))
    assert {each.cut_by for each in found} == {cut}


ACTIVATIONS = [torch.relu, F.leaky_relu, F.gelu, torch.tanh, F.elu, torch.sigmoid, F.silu, torch.abs]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_seen_though_they_are_functions(activation: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 8), Function(activation), nn.Linear(8, 8), Function(activation), nn.Linear(8, 2)
    )
    found = linearity(bench(network))
    assert (list(found.collapsed), found.looked) == ([], 3)


def test_layers_without_an_activation_collapse() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    found = linearity(bench(network))
    assert [(each.first, each.last) for each in found.collapsed] == [
        ("network.2", "network.5"), ("network.5", "network.6"),
    ]  # fmt: skip
    assert not found.whole
    assert linearity(bench(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))).whole


def test_factors_and_branches_are_meant() -> None:
    torch.manual_seed(0)
    factors = nn.Sequential(nn.Linear(16, 3), nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    assert list(linearity(bench(factors, inputs=16)).collapsed) == []


def test_saving() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.more = {"a": nn.Linear(4, 2)}

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.layer(x) + self.more["a"](x)
            return answer

    clean = bench(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)))
    assert (saved(clean).value, saved(clean).lost) == (0, ())
    batch = (torch.randn(4, 4), torch.ones(4, 2))
    lost = saved(bench_of(Subject(Plain(Keeps()), batch)))
    assert lost.lost == ("network.more['a']",)


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_heartnet_saves_to_a_file_and_answers_base_rates_to_nothing(kind: str) -> None:
    it = training(kind)
    tried = bench_of(
        Subject(it.module, next(iter(it.data.train_dataloader())), lambda module, batch: module.probe(batch))
    )
    found = saved_to_file(tried, it.module)
    assert (found.value, found.way) == (0, "file")
    base = torch.logit(it.module.target_mean.double())
    zero = zero_input(tried, base.tolist())
    assert float(zero.distance.max()) < 0.5
    assert torch.equal(zero.base, base)


def test_a_copy_is_tried_and_not_the_module() -> None:
    it = training("image")
    before = [each.clone() for each in (*it.module.parameters(), *it.module.buffers())]
    tried = bench_of(Subject(it.module, next(iter(it.data[0]))))
    stream = torch.get_rng_state()
    ranges(tried)
    linearity(tried)
    neighbours(tried, training=True)
    modes(tried)
    saved(tried)
    assert torch.equal(stream, torch.get_rng_state())
    after = [*it.module.parameters(), *it.module.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(each.grad is None for each in it.module.parameters())
    assert torch.get_default_dtype() is torch.float32
    assert {each.dtype for each in tensors_in(tried.tree) if each.is_floating_point()} == {torch.float64}


# Labels


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(4, 40), st.integers(2, 9))
def test_rank_sums(seed: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, levels, size).astype(float), (rng.random(size) < 0.5).astype(float)
    labels[:2] = (0, 1)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    scores = scores + rng.random(size) * 1e-3  # SciPy corrects the spread for ties
    u = mannwhitneyu(scores[labels == 1], scores[labels == 0], method="asymptotic", use_continuity=False)
    have, lack = labels.sum(), size - labels.sum()
    expected = (u.statistic - have * lack / 2) / math.sqrt(have * lack * (size + 1) / 12)
    assert rank_sum(scores, labels) == pytest.approx(expected)


def drawn(seed: int, size: int, signal: float, *, heads_: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(size, 1))
    labels = (rng.normal(size=(size, heads_)) + common > 0.3).astype(float)  # conditions go together
    return signal * labels + rng.normal(size=(size, heads_)) + 0.3 * common, labels


def test_permuted_columns_are_put_back_in_order() -> None:
    for seed in range(5):
        scores, labels = drawn(seed, 120, 2.0)
        told = heads(scores, labels[:, [1, 2, 0]])
        assert told is not None
        assert list(told.order) == [2, 0, 1]
        other = heads(scores, labels)
        assert other is not None
        assert (list(other.order), other.opposite, other.shift) == ([0, 1, 2], [], 0)


def test_opposite_and_shifted_labels() -> None:
    scores, labels = drawn(0, 120, 2.0)
    flipped = heads(scores, np.stack([labels[:, 0], 1 - labels[:, 1], labels[:, 2]], axis=1))
    assert flipped is not None
    assert flipped.opposite == [1]
    moved = heads(scores, np.roll(labels, 2, axis=0))
    assert moved is not None
    assert moved.shift == -2


def test_people_count_once() -> None:
    """Fifty weeks of each of six people are six observations, of which nothing is certain."""
    scores, labels = drawn(1, 6, 3.0, heads_=2)
    people = np.repeat(np.arange(6), 50)
    many = heads(scores[people], labels[people][:, ::-1], people)
    assert many is None or list(many.order) == [0, 1]


def false_alarms(signal: float, seeds: range) -> int:
    """Count clean looks that are not silent: noise, and scores of which one feature tells several labels."""
    wrong = 0
    for seed in seeds:
        scores, labels = drawn(seed, 20 + seed % 60, signal, heads_=2 + seed % 3)
        if seed % 2:
            scores = scores[:, :1] + 0.1 * scores
        told = heads(scores, labels)
        wrong += told is not None and (list(told.order) != list(range(labels.shape[1])) or bool(told.opposite))
        wrong += told is not None and told.shift != 0
    return wrong


@pytest.mark.parametrize("signal", [0.0, 0.5, 2.0])
def test_chance_permutes_nothing(signal: float) -> None:
    assert false_alarms(signal, range(300)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("signal", [0.0, 0.5, 2.0])
def test_chance_permutes_nothing_in_thousands_of_looks(signal: float) -> None:
    assert false_alarms(signal, range(3000)) <= 4
