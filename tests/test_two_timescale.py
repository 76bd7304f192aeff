"""Two timescales: against one unpadded sequence at a time cut by a plain loop, and blind to padding and neighbours."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import train
from heartnet.diagnostics.heatmap import collect
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError
from heartnet.findings import BAD, read_jsonl
from heartnet.model import DeepHeart, TwoTimescale
from heartnet.module import HeartnetModule

MEAN, STD = 4.0, 1.5


def small(channels: int = 3, outputs: int = 2, **options: Any) -> TwoTimescale:
    """Return a tiny network in float64, in evaluation mode."""
    defaults: dict[str, Any] = {
        "conv_units": 4, "kernel_sizes": (4, 3), "lstm_units": 3, "lstm_layers": 1, "pool": 2, "longest": 30,
    }  # fmt: skip
    network = TwoTimescale(channels, outputs, **defaults | options).double().eval()
    network.set_clock(MEAN, STD)
    return network


def week(length: int, channels: int = 3, dense: float = 0.5) -> Tensor:
    """Return one sequence as a network sees it, with runs of readings 5 s and 300 s apart."""
    sequence = torch.randn(length, channels, dtype=torch.float64)
    near = torch.rand(-(-length // 4)).repeat_interleave(4)[:length] < dense
    seconds = torch.where(near, 5 + 20 * torch.rand(length), 100 + 900 * torch.rand(length)).double()
    sequence[:, 2] = (torch.log1p(seconds) - MEAN) / STD
    sequence[0, 2] = 0.0
    return sequence


def cut_by_loop(sequence: Tensor, boundary: float = 60.0) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return the readings of each kind with their dt, and for each reading the newest of each kind, −1 for none."""
    now, kinds = 0.0, {"dense": [], "sparse": []}
    last: dict[str, tuple[int, float]] = {"dense": (-1, 0.0), "sparse": (-1, 0.0)}
    newest: dict[str, list[int]] = {"dense": [], "sparse": []}
    for t, reading in enumerate(sequence):
        seconds = math.expm1(float(reading[2]) * STD + MEAN)
        now += seconds if t else 0.0
        kind = "dense" if t and seconds < boundary else "sparse"
        own = reading.clone()
        if last[kind][0] != t - 1:
            own[2] = (math.log1p(now - last[kind][1]) - MEAN) / STD
        kinds[kind].append(own)
        last[kind] = t, now
        for name, rows in kinds.items():
            newest[name].append(len(rows) - 1)
    return {name: torch.stack(rows) if rows else sequence[:0] for name, rows in kinds.items()}, newest


def naive(network: TwoTimescale, sequence: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return logits `[reading, output]` and the score of one unpadded sequence."""
    kinds, newest = cut_by_loop(sequence, network.boundary)
    at, scores = [], []
    for name, rows in kinds.items():
        branch = network.branches[name]
        assert isinstance(branch, DeepHeart)
        units = 2 * branch.lstm.hidden_size
        steps, score = torch.zeros(0, units).double(), torch.zeros(units).double()
        if len(rows):
            answer = branch(rows[None], torch.tensor([len(rows)]), metadata)
            steps, score = answer.steps[0], answer.score[0]
        nothing = torch.zeros(units, dtype=torch.float64)
        at.append(torch.stack([steps[i // branch.stride] if i >= 0 else nothing for i in newest[name]]))
        scores.append(score)
    weight, bias = network.head.weight[:, :, 0], network.head.bias
    return torch.cat(at, 1) @ weight.T + bias, weight @ torch.cat(scores) + bias


def padded(sequences: list[Tensor], extra: int = 0) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(each) for each in sequences])
    inputs = torch.zeros(len(sequences), int(lengths.max()) + extra, sequences[0].shape[1], dtype=torch.float64)
    for i, each in enumerate(sequences):
        inputs[i, : len(each)] = each
    return inputs, lengths


@pytest.mark.parametrize("readout", ["mean", "last", "midpoint", "both_ends"])
@pytest.mark.parametrize("clock", ["none", "elapsed"])
def test_against_one_sequence_at_a_time(readout: str, clock: str) -> None:
    torch.manual_seed(0)
    network = small(readout=readout, clock=clock)
    sequences = [week(23), week(1), week(64), week(40, dense=0.0), week(41, dense=1.0)]
    answer = network(*padded(sequences, extra=3))
    for i, sequence in enumerate(sequences):
        steps, score = naive(network, sequence)
        torch.testing.assert_close(answer.score[i], score, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(answer.steps[i, : len(steps)], steps, rtol=1e-9, atol=1e-9)
        assert (answer.steps[i, len(steps) :] == 0).all()


def test_stretches_by_hand() -> None:
    """Rest, two readings of a workout, rest, one of a second workout."""
    seconds = torch.tensor([1e9, 300.0, 5.0, 10.0, 300.0, 59.0, 61.0])
    inputs = torch.arange(21, dtype=torch.float64).view(1, 7, 3)
    inputs[0, :, 2] = (torch.log1p(seconds) - MEAN) / STD
    parts = small().stretches(inputs, torch.tensor([7]))

    def back(part: Tensor) -> list[float]:
        return torch.expm1(part[0, :, 2] * STD + MEAN).tolist()

    assert parts["dense"].inputs[0, :, 0].tolist() == [6.0, 9.0, 15.0]
    assert back(parts["dense"].inputs) == pytest.approx([305.0, 10.0, 359.0])
    assert parts["dense"].rank.tolist() == [[-1, -1, 0, 1, 1, 2, 2]]
    assert parts["sparse"].inputs[0, :, 0].tolist() == [0.0, 3.0, 12.0, 18.0]
    assert back(parts["sparse"].inputs)[1:] == pytest.approx([300.0, 315.0, 120.0])
    assert parts["sparse"].rank.tolist() == [[0, 1, 1, 1, 2, 2, 3]]
    assert [part.lengths.tolist() for part in parts.values()] == [[3], [4]]


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    dense=st.sampled_from([0.0, 0.3, 1.0]),
    readout=st.sampled_from(["mean", "last", "both_ends"]),
    extra=st.integers(0, 9),
    seed=st.integers(0, 2**31),
)
def test_nothing_depends_on_padding_neighbours_or_order(
    lengths: list[int], dense: float, readout: str, extra: int, seed: int
) -> None:
    torch.manual_seed(seed)
    network = small(readout=readout)
    sequences = [week(length, dense=dense) for length in lengths]
    together = network(*padded(sequences, extra))
    order = torch.randperm(len(lengths)).tolist()
    shuffled = network(*padded([sequences[i] for i in order]))
    for place, i in enumerate(order):
        alone = network(*padded([sequences[i]]))
        for other, row in ((together, i), (shuffled, place)):
            torch.testing.assert_close(other.score[row], alone.score[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(other.steps[row, : lengths[i]], alone.steps[0], rtol=1e-10, atol=1e-10)


def test_each_kind_has_weights_of_its_own_and_gradients_come_from_no_padding() -> None:
    torch.manual_seed(0)
    network = small(pool=1, dropout=0.0)
    sequences = [week(9), week(40)]
    inputs, lengths = padded(sequences)
    inputs.requires_grad_()
    together = torch.autograd.grad(network(inputs, lengths).score[0].sum(), inputs)[0]
    alone_inputs = sequences[0][None].clone().requires_grad_()
    alone = torch.autograd.grad(network(alone_inputs, lengths[:1]).score.sum(), alone_inputs)[0]
    torch.testing.assert_close(together[0, :9], alone[0], rtol=1e-10, atol=1e-12)
    assert (together[1] == 0).all()
    rest = week(30, dense=0.0)
    network(*padded([rest])).score.sum().backward()
    moved = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert any(name.startswith("branches.sparse.") for name in moved)
    assert not any(name.startswith("branches.dense.") for name in moved)


def test_a_missing_dt_and_half_precision() -> None:
    """A dt of 0 after scaling reads as the mean; in bfloat16 readings keep their timescale."""
    network = small()
    sequence = week(64)
    kinds = network.stretches(*padded([sequence]))
    halves = small().bfloat16().stretches(sequence[None].bfloat16(), torch.tensor([64]))
    assert torch.equal(halves["dense"].rank, kinds["dense"].rank)
    sequence[:, 2] = 0.0
    assert network.stretches(*padded([sequence]))["dense"].lengths.tolist() == [63]  # exp(4) - 1 is 54 s


@pytest.mark.parametrize("mean", [3.3, 4.0, 5.123])
def test_a_dt_of_the_boundary_is_sparse_however_it_was_scaled(mean: float) -> None:
    for std in np.linspace(0.5, 2.5, 50).tolist():
        network = small().float()
        network.set_clock(mean, std)
        sequence = torch.zeros(1, 3, 3)
        sequence[0, :, 2] = ((torch.tensor([9.0, 60.0, 59.9]).log1p() - mean) / std).float()
        assert network.stretches(sequence, torch.tensor([3]))["dense"].rank.tolist() == [[-1, -1, 0]]


def test_time_between_readings_of_one_kind_stays_exact_to_the_end_of_a_week() -> None:
    """A workout of 5-second readings with one rest of 61 s in each ten, over the seconds of a whole week."""
    seconds = torch.where(torch.arange(40_000) % 10 == 9, 61.0, 5.0)
    inputs = torch.zeros(1, len(seconds), 3)
    inputs[0, :, 2] = (torch.log1p(seconds) - MEAN) / STD
    network = small().float()
    dense = network.stretches(inputs, torch.tensor([len(seconds)]))["dense"].inputs[0, :, 2]
    after_rest = torch.expm1(dense[8::9][-10:] * STD + MEAN)
    torch.testing.assert_close(after_rest, torch.full((10,), 66.0), rtol=1e-4, atol=0.0)


def test_metadata_dropout_output_bias_and_a_mask_channel() -> None:
    torch.manual_seed(0)
    network = small(metadata="lstm_state", metadata_size=3, channels=4, dropout=0.5)
    batch, metadata = padded([week(12, 4), week(30, 4)]), torch.randn(2, 3).double()
    for i, sequence in enumerate((batch[0][0, :12], batch[0][1])):
        torch.testing.assert_close(network(*batch, metadata).score[i], naive(network, sequence, metadata[i][None])[1])
    with pytest.raises(HeartnetError, match="sets its first state from metadata"):
        network(*batch)
    network.train()
    assert not torch.equal(network(*batch, metadata).score, network(*batch, metadata).score)
    nn.init.zeros_(network.head.weight)
    network.set_output_bias(torch.tensor([-1.0, 2.0]))
    assert network(*batch, metadata).score.tolist() == [[-1.0, 2.0], [-1.0, 2.0]]


def test_a_network_can_be_made_again_from_its_arguments() -> None:
    network = small(forget_bias=1.5, readout="last", clock="elapsed", boundary=30)
    again = TwoTimescale(**network.arguments).double().eval()
    again.load_state_dict(network.state_dict())
    assert again.arguments == network.arguments
    batch = padded([week(9), week(33)])
    assert torch.equal(again(*batch).score, network(*batch).score)


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_pictures_show_each_timescale_where_its_readings_stand(pool: int) -> None:
    """What the last layer of a branch puts out over the week is what the last layer of the network is given."""
    torch.manual_seed(0)
    network = small(pool=pool, kernel_sizes=(4, 3)).float()
    inputs, lengths = (each.float() if each.is_floating_point() else each for each in padded([week(70), week(31)]))
    given: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    network(inputs, lengths)
    probe = Probe(network, inputs, (lengths,), lengths, ("a", "b"), ("heart_rate", "steps", "dt"))
    rows = {each.layer: each for each in collect(probe)}
    units = 2 * network.arguments["lstm_units"]
    for i, length in enumerate(lengths.tolist()):
        for kind, name in enumerate(("dense", "sparse")):
            seen = given[0][i, kind * units : (kind + 1) * units, :length]
            np.testing.assert_allclose(rows[f"branches.{name}.lstm.0"].weeks[i], seen.detach(), rtol=1e-5, atol=1e-6)
        assert rows["head"].weeks[i].shape == (2, length)
        assert rows["branches.dense.convolutions.0"].weeks[i].shape == (4, length)
    assert {name for name, each in rows.items() if not each.apart} == {"head"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boundary": 0}, r"model\.boundary=0: must be a number of seconds above 0"),
        ({"boundary": math.inf}, r"model\.boundary=inf"),
        ({"channels": 12}, r"model=two_timescale needs dt, which data\.view=hourly has not"),
        ({"readout": "lats"}, r"model\.readout=lats: .*Did you mean 'last'"),
        ({"metadata": "late_fusion"}, r"model\.metadata=late_fusion: not one of none, lstm_state"),
        ({"metadata": "lstm_state"}, "this data has none; use model.metadata=none"),
        ({"pool": 0}, r"model\.pool=0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        small(**options)


def test_trains_with_callbacks_and_loads_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    words = [
        *("model=two_timescale", "model.conv_units=4", "model.lstm_units=3", "model.lstm_layers=1", "model.pool=8"),
        *("data.users=16", "data.batch_size=8", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"),
        *("+callbacks=[amnesia,activation_heatmap]", "callbacks.activation_heatmap.shifts=5"),
        "callbacks.activation_heatmap.weeks=2",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert train.main() == 0
    found = read_jsonl(tmp_path / "run/findings.jsonl")
    assert {each.where.partition("/")[2] for each in found if each.check == "amnesia"} >= {"midpoint", "last", "score"}
    assert not [each for each in found if each.check in ("cadence", "activation_heatmap") and each.status in BAD]
    module = HeartnetModule.from_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert isinstance(module.network, TwoTimescale)
    assert module.network.dt_scale.tolist() == pytest.approx([module.scaling.mean[2], module.scaling.std[2]])
