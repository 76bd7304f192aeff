"""Choosing a few weeks, seeing scores and targets at the loss, learning by heart, and the simple models beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from heartnet.diagnostics.overfit import Setting, learn
from heartnet.diagnostics.overfit_answers import Answer, Answers, auroc, costs, fits
from heartnet.diagnostics.overfit_causes import cause_of
from heartnet.diagnostics.overfit_simple import features_of, same_inputs, simple_models, targets_of
from heartnet.diagnostics.overfit_verdicts import doubtful
from heartnet.diagnostics.overfit_weeks import choose, few_weeks, shortened, with_inputs
from heartnet.errors import HeartnetError

# What is chosen


def test_both_classes_of_each_condition_are_chosen() -> None:
    targets = np.zeros((200, 3))
    targets[[50, 150, 151], 0] = 1
    targets[::3, 1] = 1
    targets[:, 2] = np.nan
    targets[7, 2] = 1
    picks = choose(targets, 10)
    assert len(set(picks)) == len(picks) == 10
    assert targets[picks, 0].sum() >= 2
    assert 2 <= targets[picks, 1].sum() <= 8
    assert 7 in picks
    assert picks == choose(targets, 10)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5))
def test_as_many_as_asked_for_are_chosen(seed: int, weeks: int, conditions: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random((weeks, conditions)) < 0.3, np.nan, rng.integers(0, 2, (weeks, conditions)))
    count = int(rng.integers(1, weeks + 1))
    picks = choose(targets, count)
    assert len(picks) == len(set(picks)) == count
    assert all(0 <= each < weeks for each in picks)


def images(size: int = 60, **options: Any) -> DataLoader[Any]:
    x = torch.arange(size * 4.0).reshape(size, 1, 2, 2)
    return DataLoader(TensorDataset(x, torch.arange(size) % 3), batch_size=8, **options)


def test_weeks_are_only_those_that_the_sampler_knows_and_it_does_not_move() -> None:
    generator = torch.Generator().manual_seed(3)
    loader = images(sampler=SubsetRandomSampler(range(10, 30), generator=generator))
    before, stream = generator.get_state(), torch.get_rng_state()
    few = few_weeks(loader, 0.5, 2, 32, 256)
    assert torch.equal(before, generator.get_state())
    assert torch.equal(stream, torch.get_rng_state())
    rows = [int(name.removeprefix("row ")) for name in few.names]
    assert few.count == 10
    assert set(rows) <= set(range(10, 30))
    assert torch.cat([batch[0] for batch in few.batches])[:, 0, 0, 0].tolist() == [row * 4 for row in rows]
    assert [len(batch[1]) for batch in few.batches] == [8, 2]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        for i in range(40):
            yield torch.full((3, 2), float(i)), torch.tensor(i % 2)


def test_iterable_data_give_whole_batches() -> None:
    few = few_weeks(DataLoader(Stream(), batch_size=8), 0.1, 12, 32, 24)
    assert few.count == 12
    assert [len(batch[1]) for batch in few.batches] == [8, 4]
    assert len(few.seen) == 3


def test_long_weeks_are_shortened_where_there_are_lengths() -> None:
    batch = {"inputs": torch.rand(3, 9, 2), "lengths": torch.tensor([9, 4, 2]), "metadata": torch.rand(3, 9 - 4)}
    short = shortened(batch, 4)
    assert torch.equal(short["inputs"], batch["inputs"][:, :4])
    assert short["lengths"].tolist() == [4, 4, 2]
    assert torch.equal(short["metadata"], batch["metadata"])
    assert batch["lengths"].tolist() == [9, 4, 2]
    assert shortened(batch, 9) is batch
    of_fixed_length = {"inputs": batch["inputs"]}
    assert shortened(of_fixed_length, 4) is of_fixed_length


def test_no_weeks_is_an_error() -> None:
    with pytest.raises(HeartnetError, match="empty"):
        few_weeks(DataLoader(TensorDataset(torch.zeros(0, 2)), batch_size=4), 0.1, 2, 4, 8)


def test_inputs_are_changed_in_a_batch_and_nothing_else() -> None:
    batch = {"inputs": torch.rand(4, 9, 3), "lengths": torch.tensor([9, 8, 7, 6]), "targets": torch.rand(4, 2)}
    changed = with_inputs(batch, lambda inputs: inputs.roll(1, dims=0))
    assert torch.equal(changed["inputs"][1], batch["inputs"][0])
    assert changed["targets"] is batch["targets"]
    pair = (torch.rand(4, 1, 3, 3), torch.tensor([0, 1, 2, 0]))
    assert torch.equal(with_inputs(pair, lambda inputs: inputs * 0)[0], torch.zeros(4, 1, 3, 3))
    assert with_inputs((torch.tensor([1, 2]),), lambda inputs: inputs) is None


# What is seen


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_auroc_is_that_of_scikit_learn(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.integers(0, 2, size).astype(float)
    scores = rng.integers(0, 5, size).astype(float)
    if 0 < positive.sum() < size:
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    else:
        assert math.isnan(auroc(scores, positive))


def test_conditions_are_seen_with_unknown_targets_and_the_loss_stays() -> None:
    torch.manual_seed(0)
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [1.0, 0.0]])
    scores = torch.randn(3, 2, requires_grad=True)
    plain = F.binary_cross_entropy_with_logits(scores, targets.nan_to_num())
    with Answers({"targets": targets}) as seen:
        loss = F.binary_cross_entropy_with_logits(scores, targets.nan_to_num())
    loss.backward()
    answer = seen.answer()
    assert loss.item() == plain.item()
    assert answer is not None
    assert answer.kind == "binary"
    assert torch.equal(answer.targets.isnan(), targets.isnan())
    assert answer.gradient is not None
    assert torch.allclose(answer.gradient, scores.grad.norm(dim=0))


def test_a_loss_for_each_condition_is_one_answer_of_several_outputs() -> None:
    scores, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    with Answers() as seen:
        for i in range(3):
            F.binary_cross_entropy_with_logits(scores[:, i], targets[:, i])
        F.mse_loss(torch.rand(5, 7), torch.rand(5, 7))
    answer = seen.answer()
    assert answer is not None
    assert torch.equal(answer.scores, scores)
    assert torch.equal(answer.targets, targets)


def test_classes_are_each_against_the_others() -> None:
    scores, labels = torch.randn(20, 4), torch.arange(20) % 4
    with Answers() as seen:
        F.cross_entropy(scores, labels)
    answer = seen.answer()
    assert answer is not None
    one = scores.softmax(dim=1)
    naive = [
        -np.log([float(one[i, c] if labels[i] == c else 1 - one[i, c]) for i in range(20)]).mean() for c in range(4)
    ]
    assert costs(answer) == pytest.approx(naive, rel=1e-4)
    found = fits("classes", answer.scores.double().numpy(), answer.targets.double().numpy())
    assert found == pytest.approx([roc_auc_score(labels == c, scores[:, c]) for c in range(4)])


def test_values_are_by_the_share_of_variance_explained() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 2))
    score = truth + rng.normal(size=(50, 2))
    expected = [1 - ((truth[:, i] - score[:, i]) ** 2).mean() / truth[:, i].var() for i in range(2)]
    assert fits("values", score, truth) == pytest.approx(expected)
    assert np.isnan(fits("values", score[:1], truth[:1])).all()


def test_many_outputs_count_as_one() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(30, 40)), rng.integers(0, 2, (30, 40)).astype(float)
    (mean,) = fits("binary", scores, targets)
    assert mean == pytest.approx(np.mean([roc_auc_score(targets[:, i], scores[:, i]) for i in range(40)]))
    assert len(costs(Answer("binary", torch.tensor(scores), torch.tensor(targets), are_logits=True))) == 1


def test_dropout_is_left_out_in_every_form() -> None:
    x = torch.rand(6, 50)
    layer = nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(0.5))
    with Answers():
        assert torch.equal(layer(x), x)
        assert torch.equal(F.dropout(x, 0.9, training=True), x)
    assert not torch.equal(layer(x), x)


def test_shuffled_targets_change_places_only_among_known_ones() -> None:
    targets = torch.tensor([[1.0], [torch.nan], [0.0], [1.0]])
    with Answers({"y": targets}, order=[3, 2, 1, 0]) as seen:
        F.binary_cross_entropy_with_logits(torch.zeros(4, 1), targets.nan_to_num())
    answer = seen.answer()
    assert answer is not None
    assert answer.targets[:, 0].tolist()[0::2] == [1.0, 0.0]
    assert math.isnan(answer.targets[1, 0])


# What is learned


class Linear(nn.Module):
    """A logistic regression trained by plain gradient descent, to be compared with the same by hand."""

    def __init__(self, size: int = 3, rate: float = 0.5) -> None:
        super().__init__()
        self.layer, self.drop, self.rate = nn.Linear(size, 1), nn.Dropout(0.5), rate

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self.drop(self.layer(x)), y)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.rate, weight_decay=0.3)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.01 * (step + 1))]


def separable(size: int = 16) -> list[Any]:
    torch.manual_seed(1)
    x = torch.randn(size, 3)
    return [(x, (x[:, :1] > 0).float())]


def test_learning_is_gradient_descent_without_dropout_decay_and_schedule() -> None:
    module, ((x, y),) = Linear(), separable()
    weight, bias = (each.detach().double().numpy().copy() for each in (module.layer.weight, module.layer.bias))
    fit = learn(Setting(module, [(x, y)]), 5)
    losses = []
    for _ in range(5):
        logit = x.double().numpy() @ weight.T + bias
        chance = 1 / (1 + np.exp(-logit))
        truth = y.double().numpy()
        losses.append(float(-(truth * np.log(chance) + (1 - truth) * np.log(1 - chance)).mean()))
        gradient = (chance - truth) / len(x)
        weight, bias = weight - 0.5 * gradient.T @ x.double().numpy(), bias - 0.5 * gradient.sum(axis=0)
    assert fit.losses == pytest.approx(losses, rel=1e-5)
    assert fit.rate == 0.5
    assert (fit.left_out, fit.still, fit.frozen) == ([], [], 0.0)


def test_it_ends_when_all_is_learned_and_the_cost_has_fallen() -> None:
    fit = learn(Setting(Linear(), separable()), 500)
    assert fit.reached
    assert fit.steps < 500
    assert fit.fits[-1][0] >= 0.99
    assert fit.costs[-1][0] <= 0.7 * fit.costs[0][0]


def test_a_right_order_without_learning_is_not_learned() -> None:
    module = Linear(rate=0.0)
    with torch.no_grad():
        module.layer.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        module.layer.bias.zero_()
    fit = learn(Setting(module, separable()), 20)
    assert fit.fits[-1] == [1.0]
    assert fit.learned == [False]


def test_seconds_end_it() -> None:
    assert learn(Setting(Linear(rate=1e-9), separable(), deadline=0.0), 50).ended == "seconds"


@pytest.mark.parametrize(("rate", "said"), [(1e-7, "too low"), (1e6, "too high")])
def test_the_learning_rate_is_the_cause(rate: float, said: str) -> None:
    torch.manual_seed(0)
    network = Linear(rate=rate)
    network.layer = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    setting = Setting(network, separable())
    fit = learn(setting, 200)
    cause = cause_of(setting, fit, 200, ["risk"])
    assert cause.name == "learning_rate"
    assert said in cause.message
    assert cause.factor is not None
    assert (cause.factor > 1) == (rate < 1)


class Sum(Linear):
    """Sees only the sum of its inputs, on which the labels do not depend in order: few fit by chance, not many."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self.layer(x.sum(dim=1, keepdim=True)), y)


def test_few_weeks_but_not_many_is_capacity() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 16)[:, None]
    y = (torch.arange(16) // 4 % 2).float()[:, None]  # on a line, off, on, off, on: no straight line tells that
    setting = Setting(Sum(1, rate=5.0), [(x, y)])
    cause = cause_of(setting, learn(setting, 120), 120, ["risk"])
    assert cause.name == "capacity", cause


# What simple models say


def sequences(size: int, shift: float, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(size, 1, generator=generator) < 0.4).float()
    x = torch.randn(size, 30, 2, generator=generator) + shift * y[:, :, None]
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, size, 8)]


def simple(batches: list[Any]) -> list[Any]:
    features, told = features_of(batches), targets_of(batches)
    assert features is not None
    assert told is not None
    return simple_models(features, told[0])


def test_easy_tasks_are_told_from_tasks_with_nothing_in_them() -> None:
    (strong,), (weak,), (none,) = (simple(sequences(200, shift)) for shift in (3.0, 0.15, 0.0))
    assert strong.auroc > 0.99
    assert 0.6 < weak.auroc < 0.95
    assert abs(none.auroc - 0.5) < 2 * none.half_width
    assert [doubtful([each]) for each in (strong, weak)] == [False, False]


def test_nothing_in_it_is_seen_with_enough_weeks_only() -> None:
    assert sum(doubtful(simple(sequences(256, 0.0, seed))) for seed in range(10)) >= 7
    assert not any(doubtful(simple(sequences(40, 0.0, seed))) for seed in range(10))


def test_padding_does_not_count_as_input() -> None:
    x = torch.rand(4, 9, 2)
    batch = {"inputs": x, "lengths": torch.tensor([9, 5, 5, 5])}
    other = x.clone()
    other[1:, 5:] = 7.0
    other[2] = other[1]
    first, second = features_of([batch]), features_of([batch | {"inputs": other}])
    assert first is not None
    assert second is not None
    assert np.array_equal(first[[0, 1, 3]], second[[0, 1, 3]])
    found = same_inputs([batch | {"inputs": other}])
    assert found is not None
    assert found.tolist() == [0, 1, 1, 2]
