"""Pieces: the same scores and gradients as in one go, to the bit the same on any number of threads, and no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heartnet.diagnostics.loss_calls import LossCalls
from heartnet.hourly import HOURLY
from heartnet.model import ARCHITECTURES, pieces
from heartnet.model.deepheart import DeepHeart
from heartnet.model.dropout import Dropout, stream
from heartnet.model.hourly_cnn import HourlyCNN
from heartnet.model.pieces import only_looks

LENGTHS = torch.tensor([40, 64, 7, 1, 33, 64, 20, 50, 12])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pieces, "READINGS", 2 * 64)
    pieces.use_threads(2)
    yield
    pieces.use_threads(1)


def network(**options: Any) -> DeepHeart:
    torch.manual_seed(0)
    return DeepHeart(
        3, 2, 6, conv_units=5, kernel_sizes=(4, 3), lstm_units=4, lstm_layers=2, **{"dropout": 0.0} | options
    )


def batch(channels: int = 3, time: int = 64, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    lengths = LENGTHS.clamp(max=time)
    inputs = torch.randn(len(lengths), time, channels, generator=draw, dtype=dtype)
    inputs *= (torch.arange(time) < lengths[:, None])[..., None]
    return inputs, lengths, torch.randn(len(lengths), 6, generator=draw, dtype=dtype)


def gradients(model: nn.Module, score: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    found = score(model, *inputs)
    weighted: Tensor = (found * torch.linspace(-1, 2, found.numel(), dtype=found.dtype).reshape(found.shape)).sum()
    return found.detach(), list(torch.autograd.grad(weighted, list(model.parameters())))


def whole(model: nn.Module, *inputs: Tensor) -> Tensor:
    found: Tensor = model(*inputs).score
    return found


@pytest.mark.parametrize(
    "model",
    [
        network(),
        network(readout="both_ends", forget_bias="chrono", clock="elapsed"),
        network(pool=2, readout="last", metadata="lstm_state"),
    ],
    ids=["mean", "both ends", "metadata"],
)
def test_scores_and_gradients_are_those_of_the_whole_batch(model: nn.Module) -> None:
    model.double()
    score, grads = gradients(model, pieces.score, *batch())
    expected, expected_grads = gradients(model, whole, *batch())
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-13)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(pieces.score(model, *batch()), expected, rtol=1e-12, atol=1e-13)


def test_it_is_in_pieces_that_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    forward = DeepHeart.forward

    def spy(self: DeepHeart, inputs: Tensor, *rest: Any) -> Any:
        seen.append((*inputs.shape[:2], threading.current_thread().name))
        return forward(self, inputs, *rest)

    monkeypatch.setattr(DeepHeart, "forward", spy)
    pieces.score(network().double(), *batch())
    assert sorted(each[:2] for each in seen) == [(1, 1), (2, 12), (2, 34), (2, 50), (2, 64)]  # longest with longest
    assert all(name.startswith("pieces") for *_, name in seen)


def test_the_hours_of_a_week_too() -> None:
    torch.manual_seed(0)
    model = HourlyCNN(len(HOURLY) + 1, 2, 6, conv_units=4, dropout=0.0).double()
    inputs = batch(len(HOURLY) + 1, 60)
    (score, grads), (expected, others) = gradients(model, pieces.score, *inputs), gradients(model, whole, *inputs)
    torch.testing.assert_close(score, expected)
    assert all(torch.allclose(*each) for each in zip(grads, others, strict=True))


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(precision: torch.dtype | None) -> None:
    def trained(threads: int) -> list[Tensor]:
        pieces.use_threads(threads)
        model = network(dropout=0.3).train()
        optimizer = torch.optim.AdamW(model.parameters())
        torch.manual_seed(7)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
                score = pieces.score(model, *batch(dtype=torch.float32))
            score.float().square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return [each.detach().clone() for each in model.parameters()] + [torch.rand(3)]

    first = trained(1)
    for threads in (2, 3):
        assert all(map(torch.equal, first, trained(threads)))


def test_autocast_reaches_the_threads() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert pieces.score(network(), *batch(dtype=torch.float32)).dtype == torch.bfloat16


def test_evaluation_leaves_the_random_stream() -> None:
    model, state = network(dropout=0.5).eval(), torch.get_rng_state()
    pieces.score(model, *batch(dtype=torch.float32))
    assert torch.equal(state, torch.get_rng_state())


def test_several_gradients_of_one_loss() -> None:
    model = network(dropout=0.3).double().train()
    torch.manual_seed(0)
    score = pieces.score(model, *batch())
    weight = model.head.weight
    parts = [torch.autograd.grad(each, weight, retain_graph=True)[0] for each in score.sum(dim=0)]
    torch.testing.assert_close(parts[0] + parts[1], torch.autograd.grad(score.sum(), weight)[0])


def test_who_looks_gets_the_whole_batch() -> None:
    model, (inputs, lengths, metadata) = network().double(), batch()
    seen: list[torch.Size] = []
    handle = model.lstm.register_forward_hook(lambda *parts: seen.append(parts[2].shape))
    pieces.score(model, inputs, lengths, metadata)
    handle.remove()
    assert seen == [torch.Size([64, 9, 8])]
    inputs.requires_grad_()
    pieces.score(model, inputs, lengths, metadata).sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    assert inputs.grad.any()


def test_who_only_looks_leaves_every_bit() -> None:
    """Callbacks that look at the training itself: at the whole batch, at each piece, at calls of loss functions."""
    model, (inputs, lengths, metadata) = network(dropout=0.3).double().train(), batch()

    def step() -> list[Tensor]:
        torch.manual_seed(3)
        score = pieces.score(model, inputs, lengths, metadata)
        loss = nn.functional.binary_cross_entropy_with_logits(score, torch.ones_like(score))
        return [score.detach(), *torch.autograd.grad(loss, list(model.parameters())), torch.rand(2)]

    expected, seen = step(), []

    def once(_: nn.Module, args: Any, kwargs: Any) -> None:
        handles[0].remove()
        seen.append(("batch", len(args[0]), len(kwargs)))

    def each(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.append(("piece", output.shape[1], int(threading.current_thread() is threading.main_thread())))

    handles = [
        model.register_forward_pre_hook(only_looks(once, "batch"), with_kwargs=True),
        model.lstm.register_forward_hook(only_looks(each)),
    ]
    with LossCalls() as calls:
        found = step()
    handles[1].remove()
    assert all(map(torch.equal, found, expected))
    assert seen == [("batch", 9, 0), *[("piece", 2, 1)] * 4, ("piece", 1, 1)]
    assert len(calls.calls) == 1
    stranger = model.lstm.register_forward_hook(lambda *_: None)
    assert not torch.equal(step()[0], expected[0])  # other draws of dropout: the plain way
    stranger.remove()


def test_a_hook_of_a_weight_sees_its_gradient_once() -> None:
    model = network().double()
    pieces.score(model, *batch()).sum().backward()  # type: ignore[no-untyped-call]
    weight = model.head.weight
    expected, weight.grad, seen = weight.grad, None, []

    def half(gradient: Tensor) -> Tensor:
        seen.append(gradient)
        return gradient / 2

    handle = weight.register_hook(half)  # type: ignore[no-untyped-call]
    pieces.score(model, *batch()).sum().backward()  # type: ignore[no-untyped-call]
    handle.remove()
    assert expected is not None
    torch.testing.assert_close(weight.grad, expected / 2)
    assert len(seen) == 1


def test_frozen_weights() -> None:
    model = network().double()
    model.convolutions.requires_grad_(requires_grad=False)
    pieces.score(model, *batch()).sum().backward()  # type: ignore[no-untyped-call]
    assert model.convolutions[0].weight.grad is None
    assert model.head.weight.grad is not None
    assert not pieces.score(model.requires_grad_(requires_grad=False), *batch()).requires_grad


def test_an_error_in_a_piece_is_an_error() -> None:
    model, (inputs, lengths, _) = network(metadata="lstm_state").double(), batch()
    with pytest.raises(Exception, match="metadata"):
        pieces.score(model, inputs, lengths, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_is_done_by_a_thread_if_there_are_several(threads: int) -> None:
    pieces.use_threads(threads)

    def task(number: int) -> tuple[int, str, int]:
        return number, threading.current_thread().name, torch.get_num_threads()

    waits = [pieces.later(partial(task, i)) for i in range(5)]
    found = [wait() for wait in waits]
    assert [each[0] for each in found] == list(range(5))
    assert all(each[1].startswith("pieces") == (threads > 1) for each in found)
    assert threads == 1 or all(each[2] == 1 for each in found)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_architectures_can_be_cut_up(name: str) -> None:
    """Weeks must not mix, and what is random must come from the stream of a piece."""
    channels = len(HOURLY) + 1 if name == "HourlyCNN" else 3
    model = ARCHITECTURES[name](channels, 2, 6)
    layers = [type(each) for each in model.modules()]
    assert Dropout in layers
    assert nn.Dropout not in layers
    assert not any(issubclass(each, nn.modules.batchnorm._BatchNorm) for each in layers)
    assert all(each.dropout == 0 for each in model.modules() if isinstance(each, nn.RNNBase))


def test_dropout_in_a_stream_is_dropout() -> None:
    layer, values = Dropout(0.2), torch.ones(1000, 101)
    with stream(3):
        dropped = layer(values)
    with stream(3):
        assert torch.equal(dropped, layer(values))
    kept = dropped > 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=4 * 0.4 / values.numel() ** 0.5)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1.25), rtol=2e-5, atol=0)
    per_column = kept.float().mean(dim=0)  # no column drops more or less than chance
    assert (per_column - 0.8).abs().max() < 5 * (0.16 / 1000) ** 0.5
    assert torch.corrcoef(kept[:, :16].T.float()).fill_diagonal_(0).abs().max() < 0.15
    with stream(3):
        assert torch.equal(layer.eval()(values), values)
        assert torch.equal(Dropout(0.0)(values), values)
        assert not Dropout(1.0)(values).any()


def test_a_full_training_step_of_a_stream_leaves_the_global_one() -> None:
    layer, state = Dropout(0.5), torch.get_rng_state()
    with stream(0):
        layer(torch.ones(10))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(0)
    first = layer(torch.ones(50))
    torch.manual_seed(0)
    assert torch.equal(first, nn.Dropout(0.5)(torch.ones(50)))


def test_pieces_have_few_lengths() -> None:
    lengths = [pieces.round_length(longest) for longest in range(1, 4097)]
    assert all(1 <= long / given <= 17 / 16 for given, long in enumerate(lengths, 1))
    assert len({long for long in lengths if 2048 < long <= 4096}) == 16
    assert [pieces.round_length(each) for each in (1, 31, 168, 512, 3001, 4096)] == [1, 31, 168, 512, 3072, 4096]


def test_a_piece_is_padded_to_such_a_length() -> None:
    model, seen = network().double(), []
    hook = model.register_forward_pre_hook(only_looks(lambda _, given: seen.append(given[0].shape[1])))
    pieces.score(model, *batch()[:2], None)
    hook.remove()
    assert seen == [64, 50, 34, 12, 1]
