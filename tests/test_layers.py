"""Layers of networks in many styles, and what each puts out as [batch, position, unit], against what it returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from heartnet.diagnostics.isolate import isolated
from heartnet.diagnostics.layers import Layer, find_layers, kind_of, plain_name, units_last, watch
from heartnet.errors import HeartnetError
from heartnet.model import DeepHeart


def seen_in(network: nn.Module, call: Callable[[], Any], **choice: Any) -> list[tuple[str, Tensor]]:
    """Return name and output of each layer, in the order in which they ran."""
    seen: list[tuple[str, Tensor]] = []
    with watch(find_layers(network, **choice), lambda layer, output: seen.append((layer.name, output))):
        call()
    assert not any(each._forward_hooks for each in network.modules())
    return seen


def images() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.LeakyReLU(), nn.Flatten(),
        nn.Linear(96, 5), nn.GELU(), nn.Dropout(0.5), nn.Linear(5, 2), nn.Softmax(dim=1),
    )  # fmt: skip


# Which layers there are


def test_layers_by_kind_and_name() -> None:
    found = [(each.name, each.kind) for each in find_layers(images())]
    assert found == [
        ("0", "convolution"), ("1", "normalisation"), ("2", "activation"), ("4", "activation"), ("6", "linear"),
        ("7", "activation"), ("9", "linear"),
    ]  # fmt: skip
    network = DeepHeart(3, 2, lstm_layers=2)
    names = [each.name for each in find_layers(network, ["convolutions.*", "*.back.?"])]
    assert names == ["convolutions.0", "convolutions.1", "convolutions.2", "lstm.back.0", "lstm.back.1"]
    assert [each.name for each in find_layers(network, kinds=("convolution",))] == [
        "convolutions.0", "convolutions.1", "convolutions.2", "head",
    ]  # fmt: skip
    assert [each.name for each in find_layers(network, ["convolutions.*", "lstm*"], ("recurrent",))] == [
        "lstm.ahead.0", "lstm.ahead.1", "lstm.back.0", "lstm.back.1",
    ]  # fmt: skip
    assert [(each.name, each.kind) for each in find_layers(nn.Linear(1, 1))] == [("", "linear")]


def test_a_pattern_that_fits_nothing_is_explained() -> None:
    with pytest.raises(HeartnetError, match=r"no layer of DeepHeart is called 'convolution\.0'.*'convolutions\.0'"):
        find_layers(DeepHeart(), ["convolution.0"])
    with pytest.raises(HeartnetError, match="none that can be seen from outside"):
        find_layers(nn.Flatten(), ["x"])
    assert find_layers(nn.Flatten(), []) == []


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.ConvTranspose3d(1, 1, 1), "convolution"), (nn.GRU(1, 1), "recurrent"), (nn.RNN(1, 1), "recurrent"),
        (nn.Embedding(2, 2), "linear"), (nn.Bilinear(1, 1, 1), "linear"), (nn.MultiheadAttention(2, 1), "attention"),
        (nn.InstanceNorm1d(2), "normalisation"), (nn.GroupNorm(1, 2), "normalisation"),
        (nn.RMSNorm(2), "normalisation"),
        (nn.PReLU(), "activation"), (nn.Tanh(), "activation"), (nn.Softmax(0), None), (nn.Dropout(), None),
        (nn.MaxPool1d(2), None), (nn.Sequential(), None), (nn.LSTMCell(1, 1), None),
    ],
)  # fmt: skip
def test_kinds(module: nn.Module, kind: str | None) -> None:
    assert kind_of(module) == kind


def test_subclasses_are_layers_too() -> None:
    class Own(nn.Linear):
        pass

    assert kind_of(Own(1, 1)) == "linear"


def test_names_without_what_compiling_adds() -> None:
    assert plain_name("_orig_mod.body._orig_mod.0") == "body.0"
    assert plain_name("body.0._orig_mod") == "body.0"
    assert plain_name("my_orig_mod.x") == "my_orig_mod.x"
    assert plain_name("") == ""


def test_a_shared_module_is_one_layer_with_several_names() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.two, self.act = self.one, nn.ReLU()

        def forward(self, x: Tensor) -> Any:
            return self.act(self.two(self.act(self.one(x))))

    network = Shared()
    layers = find_layers(network, ["two"])
    assert [(each.name, each.also) for each in layers] == [("one", ("two",))]
    seen = seen_in(network, lambda: network(torch.rand(2, 3)))
    assert [name for name, _ in seen] == ["one", "act", "one", "act"]


# What they put out


def test_a_network_on_images() -> None:
    network, x = images(), torch.rand(4, 1, 10, 10)
    seen = dict(seen_in(network, lambda: network(x)))
    network.eval()
    conv = network[0](x)
    assert torch.equal(seen["0"], conv.flatten(2).transpose(1, 2))
    assert seen["2"].shape == (4, 64, 6)  # the activation's units are the convolution's
    assert torch.equal(seen["2"], seen["1"].relu())
    assert seen["4"].shape == (4, 16, 6)  # also after pooling
    assert seen["6"].shape == seen["7"].shape == (4, 1, 5)
    assert seen["9"].requires_grad


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_recurrent_layers(kind: str, batch_first: bool, bidirectional: bool, layers: int) -> None:
    module = getattr(nn, kind)(3, 4, layers, batch_first=batch_first, bidirectional=bidirectional)
    x = torch.randn(5, 7, 3)  # [batch, time, channel]
    ((_, output),) = seen_in(module, lambda: module(x if batch_first else x.transpose(0, 1)))
    expected = module(x if batch_first else x.transpose(0, 1))[0]
    assert torch.equal(output, expected if batch_first else expected.transpose(0, 1))
    ((_, alone),) = seen_in(module, lambda: module(x[0]))
    assert alone.shape == (1, 7, 8 if bidirectional else 4)
    torch.testing.assert_close(alone[0], output[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences_in_any_order(batch_first: bool) -> None:
    module, sizes = nn.LSTM(3, 4, batch_first=batch_first, bidirectional=True), torch.tensor([3, 7, 5])
    x = torch.randn(3, 7, 3)
    packed = pack_padded_sequence(x, sizes, batch_first=True, enforce_sorted=False)
    ((_, output),) = seen_in(module, lambda: module(packed))
    assert torch.equal(output, pad_packed_sequence(module(packed)[0], batch_first=True)[0])
    assert (output[0, 3:] == 0).all()


@pytest.mark.parametrize("training", [False, True])
def test_a_transformer(training: bool) -> None:
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation=nn.GELU()).train(training)
    x = torch.randn(3, 9, 8)
    with torch.no_grad():
        seen = seen_in(network, lambda: network(x))
    found = dict(seen)
    names = [name for name, _ in seen]
    assert names == ["self_attn", "norm1", "linear1", "activation", "linear2", "norm2"]
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "self_attn": (3, 9, 8), "norm1": (3, 9, 8), "linear1": (3, 9, 16), "activation": (3, 9, 16),
        "linear2": (3, 9, 8), "norm2": (3, 9, 8),
    }  # fmt: skip
    torch.testing.assert_close(found["activation"], F.gelu(found["linear1"]))
    torch.testing.assert_close(found["norm2"], network(x))


def test_time_first_attention_and_convolutions_without_a_batch() -> None:
    attention = nn.MultiheadAttention(4, 2)
    x = torch.randn(6, 3, 4)  # [time, batch, channel]
    ((_, output),) = [each for each in seen_in(attention, lambda: attention(x, x, x)) if each[0] == ""]
    assert output.shape == (3, 6, 4)
    for convolution, shape, positions in (
        (nn.Conv1d(2, 5, 3), (2, 9), 7), (nn.Conv2d(2, 5, 3), (2, 9, 8), 42), (nn.ConvTranspose1d(2, 5, 2), (2, 9), 10),
    ):  # fmt: skip
        ((_, output),) = seen_in(convolution, lambda c=convolution, s=shape: c(torch.randn(s)))
        assert output.shape == (1, positions, 5)


def test_normalisation_and_what_follows_has_the_units_where_they_are() -> None:
    network = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU())
    seen = dict(seen_in(network, lambda: network(torch.randn(4, 5, 11))))
    assert seen["0"].shape == seen["1"].shape == (4, 11, 5)
    last = nn.Sequential(nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 11), nn.ReLU())
    seen = dict(seen_in(last, lambda: last(torch.randn(4, 11, 5))))
    assert [seen[str(i)].shape for i in range(4)] == [(4, 11, 5), (4, 11, 5), (4, 11, 11), (4, 11, 11)]


def test_square_outputs_are_not_turned() -> None:
    """As many units as steps: the shape does not tell which is which, the layer before does."""
    network = nn.Sequential(nn.Conv1d(6, 6, 1), nn.ReLU())
    x = torch.randn(2, 6, 6)
    seen = dict(seen_in(network, lambda: network(x)))
    assert torch.equal(seen["1"], network(x).transpose(1, 2))
    linear = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Tanh(), nn.Linear(6, 6), nn.ReLU())
    seen = dict(seen_in(linear, lambda: linear(x)))
    assert torch.equal(seen["3"], linear(x))


def test_functional_activations_have_no_layer() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Any:
            return self.second(F.relu(self.first(x)))

    network = Functional()
    seen = seen_in(network, lambda: network(torch.randn(5, 3)))
    assert [name for name, _ in seen] == ["first", "second"]
    assert (seen[0][1] < 0).any()  # before the activation, also where the activation works in place


def test_in_place_activations_do_not_reach_back() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    minima: list[float] = []
    with watch(find_layers(network), lambda _, output: minima.append(output.detach().min().item())):
        network(torch.randn(50, 3))
    assert minima[0] < 0
    assert minima[1] == 0


def test_what_is_no_tensor_of_numbers_is_passed_over() -> None:
    class Tuple(nn.Linear):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            return {"x": super().forward(x)}

    assert seen_in(Tuple(2, 2), lambda: Tuple(2, 2)(torch.rand(1, 2))) == []
    network = Tuple(2, 2)
    assert seen_in(network, lambda: network(torch.rand(1, 2))) == []


def test_gradients_pass_and_results_stay_the_same() -> None:
    network, x = images().eval(), torch.rand(2, 1, 10, 10)
    plain = network(x)
    outputs: list[Tensor] = []
    with watch(find_layers(network), lambda _, output: outputs.append(output)):
        watched = network(x)
    assert torch.equal(plain, watched)
    gradients = torch.autograd.grad(watched[:, 0].sum(), outputs, allow_unused=True)
    assert outputs[0].grad_fn is not None
    assert len(gradients) == 7


def test_hooks_are_gone_after_an_error() -> None:
    network = images()
    with pytest.raises(ZeroDivisionError), watch(find_layers(network), lambda *_: 1 / 0):
        network(torch.rand(1, 1, 10, 10))
    assert not any(each._forward_hooks for each in network.modules())


def test_sixteen_bit() -> None:
    network = images()
    with torch.autocast("cpu", torch.bfloat16):
        seen = dict(seen_in(network, lambda: network(torch.rand(2, 1, 10, 10))))
    assert seen["0"].dtype == torch.bfloat16
    assert seen["0"].shape == (2, 64, 6)


@pytest.mark.filterwarnings("ignore:.*attribute of a Tensor that is not a leaf")  # the compiler's own look at it
@pytest.mark.parametrize("how", ["whole", "part", "in place"])
def test_compiled_networks_are_named_and_seen_in_a_copy(how: str) -> None:
    """Hooks do not reach into code that is compiled already; `isolated` gives a copy that is not."""
    torch.manual_seed(0)
    network: Any = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU()))
    if how == "whole":
        network = torch.compile(network, backend="eager")
    elif how == "part":
        network[1] = torch.compile(network[1], backend="eager")
    else:
        network[1].compile(backend="eager")
    x = torch.rand(2, 3)
    network(x)
    assert [each.name for each in find_layers(network)] == ["0", "1.0", "1.1"]
    with isolated(network, torch.float32) as twin:
        seen = seen_in(twin, lambda: twin(x))
        assert [name for name, _ in seen] == ["0", "1.0", "1.1"]
        torch.testing.assert_close(seen[2][1][:, 0], network(x))
    assert isinstance(find_layers(network)[0], Layer)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_units_last_keeps_every_value(shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    values = torch.arange(float(torch.tensor(shape).prod())).reshape(shape)
    found = units_last(values, axis)
    assert sorted(found.flatten().tolist()) == values.flatten().tolist()
    if len(shape) > 1 and axis > 0:
        assert found.shape[0] == shape[0]
        assert found.shape[2] == shape[axis]
        for unit in range(shape[axis]):
            assert torch.equal(found[:, :, unit].flatten(), values.select(axis, unit).flatten())
