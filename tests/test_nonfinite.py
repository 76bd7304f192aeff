"""The first non-finite value of a step, put in by hand at each kind of place, is found there and in its samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from heartnet.diagnostics.nonfinite import Place, all_finite, locate
from heartnet.diagnostics.replay import Replay, Streams, rows_of


class Double(nn.Module):
    """Twice the input; other things on request."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(2 * x)


class Step(nn.Module):
    """A module with a training step: layer, middle, time-first LSTM, head."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4)
        self.middle = middle or Double()
        self.rnn = nn.LSTM(4, 5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, 1)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return (out - target).square().mean()

    def training_step(self, batch: Any) -> Tensor:
        hidden = self.between(self.middle(self.layer(batch["x"])))
        out, _ = self.rnn(hidden.transpose(0, 1))
        return self.loss(self.head(self.dropout(out[-1]))[:, 0], batch["y"])


def batch(rows: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(rows, 7, 3, generator=generator), "y": torch.randn(rows, generator=generator)}


def find(module: nn.Module, given: Any) -> Place | None:
    return locate(Replay(module), given)


def spoil(x: Tensor, row: int, value: float = torch.nan) -> Tensor:
    mask = torch.zeros(len(x), *[1] * (x.dim() - 1), dtype=torch.bool)
    mask[row] = True
    return torch.where(mask, value, x)


def test_a_healthy_step() -> None:
    assert find(Step(), batch()) is None


@settings(max_examples=25, deadline=None)
@given(rows=st.sets(st.integers(0, 5), min_size=1), value=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_values_that_come_with_the_batch(rows: set[int], value: float) -> None:
    given = batch()
    for row in rows:
        given["x"][row, 3, 1] = value
    place = find(Step(), given)
    kinds = "NaN" if value != value else "infinite values"
    assert place == Place("layer", "input", "argument 0", len(rows), 126, tuple(sorted(rows)), "", "batch['x']", kinds)


@pytest.mark.parametrize("row", [0, 4])
def test_a_module_that_makes_them(row: int) -> None:
    place = find(Step(Double(lambda x: spoil(x, row))), batch())
    assert place == Place("middle", "output", "output", 28, 168, (row,), "layer")


def test_an_operation_between_modules() -> None:
    class Between(Step):
        def between(self, hidden: Tensor) -> Tensor:
            return spoil(hidden, 2, torch.inf)

    place = find(Between(), batch())
    # The LSTM reads time first: the samples are its second dimension.
    assert place == Place("rnn", "input", "argument 0", 28, 168, (2,), "middle", kinds="infinite values")


def test_a_weight() -> None:
    module = Step()
    with torch.no_grad():
        module.rnn.get_parameter("weight_hh_l0")[3, 2] = torch.inf
    assert find(module, batch()) == Place(
        "rnn", "parameter", "weight_hh_l0", 1, 100, None, "middle", kinds="infinite values"
    )


def test_a_buffer_that_is_read() -> None:
    norm = nn.BatchNorm1d(7)
    assert norm.running_var is not None
    norm.running_var[2] = torch.nan
    assert find(Step(norm), batch()) is None  # not read in training
    norm.eval()
    place = find(Step(norm), batch())
    assert place is not None
    assert (place.module, place.what, place.tensor) == ("middle", "buffer", "running_var")


def test_the_loss() -> None:
    class Log(Step):
        def loss(self, out: Tensor, target: Tensor) -> Tensor:
            return (out - target).sub(1e3).log().mean()

    place = find(Log(), batch())
    assert place == Place("", "loss", "loss", 1, 1, None, "head")


class Own(nn.Module):
    """Holds its weights itself, and takes nested batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def training_step(self, given: Any) -> Tensor:
        (x, _), y = given
        loss: Tensor = ((x * self.weight).sum(dim=1) - y).square().mean()
        return loss


def test_a_loss_that_no_module_was_before() -> None:
    def given() -> Any:
        return (torch.ones(4, 2), torch.arange(4)), torch.ones(4)

    assert locate(Replay(Own()), given()) is None
    (x, lengths), y = given()
    x[2, 1] = torch.nan
    place = locate(Replay(Own()), ((x, lengths), y))
    assert place == Place("", "loss", "loss", 1, 8, (2,), "", "batch[0][0]")
    y[3] = torch.inf
    place = locate(Replay(Own()), (given()[0], y))
    assert place == Place("", "loss", "loss", 1, 4, (3,), "", "batch[1]", "infinite values")
    broken = Own()
    broken.weight.data[0] = torch.nan
    place = locate(Replay(broken), given())
    assert place is not None
    assert (place.module, place.what, place.tensor) == ("the module", "parameter", "weight")


class Explode(torch.autograd.Function):
    """The identity, whose gradient is infinite for one sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return spoil(gradients[0], 3, torch.inf)


def test_a_gradient_that_a_module_makes() -> None:
    place = find(Step(Double(lambda x: Explode.apply(x))), batch())  # type: ignore[no-untyped-call]
    assert place is not None
    # The gradient of what comes out of it is finite, that of what goes in is not; so it arises in it.
    assert (place.module, place.what, place.tensor, place.samples) == ("middle", "gradient", "argument 0", (3,))


def test_a_gradient_that_arises_before_the_loss() -> None:
    class Root(Step):
        def loss(self, out: Tensor, target: Tensor) -> Tensor:
            del target
            return torch.cat([out[:5], (out[5:] * 0).sqrt()]).mean()

    place = find(Root(), batch())
    assert place is not None
    assert (place.module, place.tensor, place.samples) == ("head", "output", (5,))


def test_random_numbers_are_those_of_the_step() -> None:
    """A NaN that only one dropout mask lets through is found again, and the streams stay where they were."""

    class Once(Step):
        def training_step(self, batch: Any) -> Tensor:
            chance = torch.rand(())
            x = batch["x"] * (torch.nan if chance < 0.01 else 1.0)
            return super().training_step(batch | {"x": x})

    seed = next(s for s in range(10_000) if torch.rand((), generator=torch.Generator().manual_seed(s)) < 0.01)
    module = Once()
    torch.manual_seed(seed)
    streams = Streams.now()
    torch.manual_seed(seed + 1)
    before = torch.get_rng_state()
    assert locate(Replay(module), batch(), streams=streams) is not None
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_is_left_behind() -> None:
    module = Step(Double(lambda x: spoil(x, 1)))
    weights = [each.detach().clone() for each in module.parameters()]
    assert find(module, batch()) is not None
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    assert all(each.grad is None for each in module.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())


def test_all_finite_looks_into_sparse_gradients() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    assert table.weight.grad is not None
    assert all_finite([table.weight.grad])
    (table(torch.tensor([1])) * torch.inf).sum().backward()
    assert not all_finite([table.weight.grad])


def test_rows_of_nested_batches() -> None:
    nested = {"x": torch.arange(6).reshape(3, 2), "more": [torch.arange(3), (torch.tensor(5.0), "words")]}
    few = rows_of(nested, [2, 2])
    assert few["x"].tolist() == [[4, 5], [4, 5]]
    assert few["more"][0].tolist() == [2, 2]
    assert few["more"][1] == (torch.tensor(5.0), "words")
