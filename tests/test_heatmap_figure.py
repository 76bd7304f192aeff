"""Units × positions of anybody's layers in forward time, their order, and the pictures of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from heartnet import figure_heatmap
from heartnet.diagnostics.adapt import guess_probe
from heartnet.diagnostics.heatmap import Order, Rows, collect, constant_rows, order_of
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.signals import KnownWeek
from heartnet.diagnostics.units import unit_meanings
from heartnet.errors import HeartnetError
from heartnet.figure_heatmap import COLUMNS, MOST_NOTES, ROWS, furthest, heatmap_figure, panels
from heartnet.figure_units import best_unit_figure, notes_of, unit_figure
from heartnet.model.deepheart import DeepHeart


def probe_of(network: nn.Module, batch: int = 2, time: int = 70, lengths: tuple[int, ...] | None = None) -> Probe:
    inputs = torch.randn(batch, time, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor(lengths or (time,) * batch)
    rest = (valid,) if isinstance(network, DeepHeart) else ()
    return Probe(network, inputs, rest, valid, ("a",), ("x", "y", "z"))


class Net(nn.Module):
    """A convolution and what follows it, as `style` says."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.convolution, self.norm = nn.Conv1d(3, 5, 3, padding=1), nn.BatchNorm1d(5)
        self.activation = nn.ReLU(inplace=True) if style == "in place" else nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        out = self.convolution(x.transpose(1, 2))
        if self.style == "functional":
            out = F.leaky_relu(out, 0.1)
        elif self.style == "method":
            out = out.sigmoid()
        elif self.style == "norm":
            out = F.gelu(F.dropout(self.norm(out), 0.5, self.training))
        elif self.style == "reshape":
            out = torch.relu(out.transpose(1, 2))
        elif self.style != "none":
            out = self.activation(out)
        return out.mean(dim=(1, 2))[:, None]


AFTER: dict[str, Any] = {
    "functional": (lambda out, _: F.leaky_relu(out, 0.1), "leaky_relu"),
    "method": (lambda out, _: out.sigmoid(), "sigmoid"),
    "norm": (lambda out, net: F.gelu(net.norm(out)), "gelu"),
    "in place": (lambda out, _: out.relu(), "relu"),
    "module": (lambda out, _: out.tanh(), "tanh"),
    "reshape": (lambda out, _: out, "output"),
    "none": (lambda out, _: out, "output"),
}


@pytest.mark.parametrize("style", AFTER)
@pytest.mark.parametrize("after", [True, False])
def test_convolutions_are_shown_after_their_activation_or_before(style: str, after: bool) -> None:
    net = Net(style)
    probe = probe_of(net)
    (found,) = collect(probe, after_activation=after)
    function, stage = AFTER[style] if after else AFTER["none"]
    net.eval()
    with torch.no_grad():
        expected = function(net.convolution(probe.inputs.transpose(1, 2)), net)
    assert (found.layer, found.kind, found.stage, found.ahead) == ("convolution", "convolution", stage, 5)
    np.testing.assert_allclose(np.stack(found.weeks), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("pool", [1, 3])
def test_both_directions_are_in_forward_time(pool: int) -> None:
    """Against PyTorch's own bidirectional LSTM on a packed sequence, with the same weights."""
    network = DeepHeart(3, 1, conv_units=4, kernel_sizes=(3,), pool=pool, lstm_units=6, lstm_layers=2).eval()
    lengths = (41, 70)
    probe = probe_of(network, lengths=lengths)
    found = {each.layer: each for each in collect(probe)}
    assert list(found) == ["convolutions.0", "lstm.0", "lstm.1", "head"]
    reference = nn.LSTM(4, 6, bidirectional=True, batch_first=True)
    for suffix, part in (("", network.lstm.ahead[0]), ("_reverse", network.lstm.back[0])):
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            reference.get_parameter(name + suffix).data.copy_(part.get_parameter(name).data)
    steps = torch.tensor([-(-length // pool) for length in lengths])
    with torch.no_grad():
        hidden, _ = network._convolve(probe.inputs.transpose(1, 2), probe.lengths)
        packed = pack_padded_sequence(hidden.transpose(1, 2), steps, batch_first=True, enforce_sorted=False)
        expected, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    layer = found["lstm.0"]
    assert (layer.units, layer.ahead) == (12, 6)
    for rows, out, n in zip(layer.weeks, expected, steps, strict=True):
        assert rows.shape == (12, n)
        np.testing.assert_allclose(rows, out[:n].T.numpy(), atol=1e-5)
    (back,) = collect(probe, ["lstm.back.0"])
    np.testing.assert_array_equal(back.weeks[0], layer.weeks[0][6:])
    assert back.ahead == 0
    (ahead,) = collect(probe, ["lstm.ahead.0"])
    np.testing.assert_array_equal(ahead.weeks[0], layer.weeks[0][:6])


def test_other_peoples_recurrent_layers() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, bidirectional=True, batch_first=True)
            self.rnn = nn.RNN(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, torch.tensor([50, 70]), batch_first=True, enforce_sorted=False)
            out, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
            answer: Tensor = self.rnn(out.transpose(0, 1))[0][-1]
            return answer

    network = Packed()
    probe = guess_probe(network, (torch.randn(2, 70, 3), torch.zeros(2)), outputs=("any",))
    found = collect(probe)
    assert [(each.layer, each.units, each.ahead) for each in found] == [("gru", 8, 4), ("rnn", 2, 2)]
    with torch.no_grad():
        alone, _ = network.gru(probe.inputs[1:])
    np.testing.assert_allclose(found[0].weeks[1], alone[0].T.numpy(), atol=1e-6)


def test_nothing_is_left_behind() -> None:
    network = DeepHeart(3, 1, conv_units=4, lstm_units=3, lstm_layers=1)
    network.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [each.training for each in network.modules()]
    random = torch.random.get_rng_state()
    for _ in range(2):
        collect(probe_of(network))
    broken = probe_of(network)
    with pytest.raises(HeartnetError, match="cannot be run on the fixed weeks"):
        collect(Probe(network, broken.inputs[..., :2], broken.rest, broken.lengths, ("a",), ("x", "y")))
    with pytest.raises(HeartnetError, match="convolution"):
        collect(probe_of(network), ["convolution"])
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in network.modules())
    assert [each.training for each in network.modules()] == modes
    assert all(each.grad is None for each in network.parameters())
    assert not network.head.weight.requires_grad
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def mixed(rng: np.random.Generator, length: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return units of four groups, mixed and some upside down, and what group each is of; two are constant."""
    sources = rng.normal(size=(4, length))
    groups = rng.permutation(np.repeat(np.arange(4), 6))
    acts = sources[groups] * rng.choice([-1, 1], 24)[:, None] + 0.3 * rng.normal(size=(24, length))
    acts = np.concatenate([acts, np.full((2, length), [[0.5], [0.0]])])
    return acts.astype(np.float32), np.append(groups, [9, 9])


def test_alike_units_stand_together_and_go_the_same_way() -> None:
    acts, groups = mixed(np.random.default_rng(0))
    rate = acts[0] * 20 + 70
    order = order_of(acts, rate)
    assert sorted(order.rows) == list(range(26))
    assert np.sum(np.diff(groups[order.rows]) != 0) == 4
    assert set(order.rows[-2:]) == {24, 25}
    assert constant_rows(acts).tolist() == [False] * 24 + [True] * 2
    turned = acts * order.signs[:, None]
    for group in range(4):
        correlation = np.corrcoef(turned[groups == group])
        assert correlation.min() > 0.5
    assert np.corrcoef(turned[0], rate)[0, 1] > 0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 99))
def test_any_order_is_an_order(units: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    acts = rng.normal(size=(units, length)).astype(np.float32)
    acts[rng.random(units) < 0.3] = 1.0
    if seed % 5 == 0:
        acts[0, 0] = np.nan
    rate = rng.normal(size=length) if seed % 2 else None
    order = order_of(acts, rate)
    assert sorted(order.rows.tolist()) == list(range(units))
    assert set(order.signs.tolist()) <= {-1, 1}
    again = order_of(acts, rate)
    assert order.rows.tolist() == again.rows.tolist()


def test_padding_at_the_ends_does_not_hide_a_constant_unit() -> None:
    """A convolution above a dead layer puts out its bias, but sees zeros beside a constant at the ends."""
    acts = np.full((2, 200), 0.25, dtype=np.float32)
    acts[0, :3] = acts[0, -3:] = 0.1
    acts[1, 100] = 1.0
    assert constant_rows(acts).tolist() == [True, False]


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 99))
def test_columns_keep_the_furthest_value(length: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(3, length))
    found = furthest(values, columns)
    if length <= columns:
        assert found is values
        return
    for i in range(columns):
        part = values[:, i * length // columns : (i + 1) * length // columns]
        for row in range(3):
            assert found[row, i] == part[row, np.abs(part[row]).argmax()]


def week(length: int = 4096, *, clock: bool = True, dt: bool = True, marks: bool = True) -> KnownWeek:
    rng = np.random.default_rng(0)
    seconds = np.where(np.arange(length) % 500 < 150, 5.0, 200.0)
    local = 1_704_067_200_000_000 + np.cumsum(seconds * 1e6).astype(np.int64)  # a Monday
    asleep = (np.arange(length) % 900 < 200).astype(float)
    asleep[:10] = np.nan
    return KnownWeek(
        {"heart_rate": np.where(rng.random(length) < 0.1, np.nan, 70 + rng.normal(size=length)),
         "steps": rng.integers(0, 50, length).astype(float)},
        seconds if dt else None,
        local if clock else None,
        {"asleep": asleep, "in_workout": (seconds == 5).astype(float)} if marks else {},
        "week 3",
    )  # fmt: skip


def layer_of(values: np.ndarray, ahead: int | None = None) -> Rows:
    ahead = len(values) if ahead is None else ahead
    return Rows("convolutions.2", "convolution", (values.astype(np.float32),), "relu", ahead)


def drawn(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]


def texts(figure: Figure) -> str:
    found = [each.get_text() for each in figure.texts]
    for axes in figure.axes:
        found += [each.get_text() for each in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())]
    return " | ".join(found)


def test_a_heatmap_of_128_units_and_4096_readings() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(128, 4096))
    values[5] = 0.7
    values[6, 2000:2100] = np.inf
    values[7, 1000] = 50.0
    layer = layer_of(values, ahead=64)
    order = order_of(layer.weeks[0])
    figure = heatmap_figure(layer, 0, week(), order, step=1234, notes={i: f"note {i}" for i in range(12)})
    words = texts(figure)
    for expected in (
        "step 1,234",
        "week 3",
        "128 units × 4,096 positions, 1 constant (hatched)",
        "after relu",
        "reads back",
    ):
        assert expected in words
    assert words.count("note") == MOST_NOTES
    pixels = drawn(figure)
    height, width = pixels.shape[:2]
    assert width == figure_heatmap.WIDTH
    assert height < 1000
    # The picture itself, at its place: grey for the constant unit, black for what is not finite.
    left, bottom = figure_heatmap._LEFT, figure_heatmap._BOTTOM
    picture = pixels[height - bottom - ROWS : height - bottom, left : left + COLUMNS]
    row = {int(unit): place for place, unit in enumerate(order.rows)}

    def line(unit: int) -> np.ndarray:
        return picture[row[unit] * 4 + 2, :, :3]

    # Lines at midnight cross it, so most of a row is asked for.
    hatched = np.arange(COLUMNS) // 2 % 8 == 0
    assert (np.abs(line(5)[hatched].astype(int) - 184) <= 1).all(axis=1).mean() > 0.95
    assert len(np.unique(line(5)[~hatched], axis=0)) < 12  # the colour of its value, and the lines
    assert (line(5)[~hatched][:, 0] > line(5)[~hatched][:, 2]).mean() > 0.95  # 0.7 is red
    assert (line(6)[532:556] < 10).all()
    assert line(7)[1000 * COLUMNS // 4096].tolist() in ([103, 0, 31], [5, 48, 97])  # one reading is not lost
    # The colours of another row, computed anew.
    unit = int(order.rows[20])
    deviation = (values[unit] - np.median(values[unit])) * order.signs[unit]
    finite = np.abs(np.delete(values, 5, axis=0) - np.median(np.delete(values, 5, axis=0), axis=1, keepdims=True))
    _, _, limit, beyond = figure_heatmap._colours(layer.weeks[0], order)
    reduced = np.array(
        [max(p.min(), p.max(), key=abs) for p in np.split(deviation, np.arange(1, COLUMNS) * 4096 // COLUMNS)]
    )
    assert beyond
    assert (
        0.5 * np.quantile(finite[np.isfinite(finite)], 0.99)
        < limit
        < 2 * np.quantile(finite[np.isfinite(finite)], 0.999)
    )
    expected = figure_heatmap.colormaps["RdBu_r"](np.clip(reduced / limit, -1, 1).astype(np.float32) / 2 + 0.5)
    off = np.abs(line(unit) / 255 - expected[:, :3]).max(axis=1)
    assert (off < 0.02).mean() > 0.98


def kinds() -> Iterator[tuple[str, KnownWeek, np.ndarray]]:
    rng = np.random.default_rng(2)
    yield "pooled", week(), rng.normal(size=(8, 64))
    yield "one unit", week(100), rng.normal(size=(1, 100))
    yield "many units", week(300), rng.normal(size=(700, 300))
    yield "two readings", week(2), rng.normal(size=(3, 2))
    yield "one reading", week(1), rng.normal(size=(3, 1))
    yield "no clock", week(500, clock=False), rng.normal(size=(3, 500))
    yield "nothing known", week(500, clock=False, dt=False, marks=False), rng.normal(size=(3, 500))
    yield "all constant", week(500), np.ones((3, 500))
    yield "all broken", week(500), np.full((3, 500), np.nan)
    yield "a month", KnownWeek({"x": rng.normal(size=400)}, np.full(400, 7000.0)), rng.normal(size=(3, 400))
    yield "no rates", KnownWeek({"x": np.full(50, np.nan)}, np.full(50, np.nan)), rng.normal(size=(3, 50))


@pytest.mark.parametrize(("known", "values"), [each[1:] for each in kinds()], ids=[each[0] for each in kinds()])
def test_any_week_can_be_drawn(known: KnownWeek, values: np.ndarray) -> None:
    layer = layer_of(values)
    figure = heatmap_figure(layer, 0, known, order_of(layer.weeks[0]))
    assert drawn(figure).shape[1] == figure_heatmap.WIDTH
    drawn(unit_figure(layer.weeks[0][0], known, title="unit 0", signal="asleep"))


def test_days_stand_where_midnight_is() -> None:
    known = week()
    assert known.local_time is not None
    ticks = figure_heatmap._day_ticks(known)
    assert [name for _, name in ticks] == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][: len(ticks)]
    assert ticks[0][0] == 0  # the day in which the week begins
    for place, _ in ticks[1:]:
        before, after = known.local_time[int(place) - 1 : int(place) + 1] // 86_400_000_000
        assert after == before + 1
    short = week(300)
    assert {name for _, name in figure_heatmap._day_ticks(short)} <= {f"{hour:02d}:00" for hour in range(24)}


def test_a_day_that_was_not_worn_has_no_name_on_top_of_the_next() -> None:
    hours = np.array([hour for hour in range(7 * 24) if hour // 24 not in (3, 4)])  # neither Thursday nor Friday
    monday = 4 * 86_400_000_000
    known = KnownWeek(
        traces={"heart_rate": np.full(len(hours), 60.0)}, local_time=monday + hours.astype(np.int64) * 3_600_000_000
    )
    ticks = figure_heatmap._day_ticks(known)
    assert [name for _, name in ticks] == ["Mon", "Tue", "Wed", "Sat", "Sun"]
    assert ticks[3][0] == 72
    assert np.diff([place for place, _ in ticks]).min() > 0


def test_panels_are_drawn_once_for_all_layers() -> None:
    known, layer = week(), layer_of(np.random.default_rng(3).normal(size=(8, 4096)))
    order = order_of(layer.weeks[0])
    above = panels(known)
    assert above.shape[1:] == (figure_heatmap.WIDTH, 4)
    same = [drawn(heatmap_figure(layer, 0, known, order, above=each)) for each in (None, above)]
    np.testing.assert_array_equal(*same)
    # Sleep stands in its band, blue, where it is.
    blue = (np.abs(above[..., :3].astype(int) - [0x3B, 0x5B, 0x92]) < 12).all(axis=2).any(axis=0)
    columns = blue[figure_heatmap._LEFT : figure_heatmap._LEFT + COLUMNS]
    asleep = np.repeat(known.marks["asleep"] == 1, 1)[np.arange(COLUMNS) * 4096 // COLUMNS]
    assert (columns == asleep).mean() > 0.98


def test_the_best_unit_over_the_week() -> None:
    rng = np.random.default_rng(4)
    known = week()
    values = rng.normal(size=(6, 4096)).astype(np.float32)
    values[2] += 4 * (known.marks["asleep"] == 1)
    layer = layer_of(values)
    meanings = unit_meanings([layer], [{"asleep": known.marks["asleep"], "none": rng.normal(size=4096)}])
    assert notes_of("convolutions.2", meanings) == {2: "asleep 1.00"}
    figure = best_unit_figure(meanings[0], [layer], [known], step=9)
    assert figure is not None
    assert "convolutions.2, unit 2: rises with asleep: AUC 1.00 (week 3)   (step 9)" in texts(figure)
    bars = [each for each in figure.axes[0].collections if len(each.get_facecolor()) == 1]
    assert bars
    assert best_unit_figure(meanings[1], [layer], [known]) is None
    assert Order(np.arange(2), np.ones(2, dtype=np.int64)).rows.tolist() == [0, 1]
