"""The amnesia profile against closed forms, finite differences and a plain loop; its numbers; no trace left."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from heartnet.diagnostics.adapt import adapt, guess_probe
from heartnet.diagnostics.amnesia import ANCHORS, AmnesiaProfile, AnchorProfile, amnesia_profile, anchor_reading
from heartnet.diagnostics.archive import from_tensors, load_npz, save_npz, to_tensors
from heartnet.diagnostics.isolate import isolated, rng_untouched
from heartnet.diagnostics.memory import Memory, memories, verdict
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.errors import HeartnetError
from heartnet.model.deepheart import DeepHeart


class Convolve(nn.Module):
    """steps[s, output] = Σ_t inputs[t] · kernel[s - t], so the gradient is the kernel; the score sums the steps."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel)  # [output, channel, time, time]

    def forward(self, inputs: Tensor) -> Logits:
        time = inputs.shape[1]
        steps = torch.einsum("btc,ocst->bso", inputs, self.kernel[:, :, :time, :time])
        return Logits(steps, steps.sum(dim=1))


class Recurrent(nn.Module):
    """A one-directional LSTM, with dropout, that reads its last valid step."""

    def __init__(self, channels: int = 2, outputs: int = 2) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, 5, num_layers=2, dropout=0.5, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, outputs)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Logits:
        hidden, _ = self.lstm(inputs)
        steps = self.head(self.dropout(hidden))
        return Logits(steps, steps[torch.arange(len(lengths)), lengths - 1])


def probe_of(network: nn.Module, lengths: tuple[int, ...], *, channels: int = 2, outputs: int = 2) -> Probe:
    generator = torch.Generator().manual_seed(5)
    batch, time = len(lengths), max(lengths)
    valid = (torch.arange(time) < torch.tensor(lengths)[:, None])[..., None]
    return Probe(
        network=network,
        inputs=torch.randn(batch, time, channels, generator=generator) * valid,
        rest=(torch.tensor(lengths),),
        lengths=torch.tensor(lengths),
        outputs=tuple(f"o{i}" for i in range(outputs)),
        channels=tuple(f"c{i}" for i in range(channels)),
    )


def small_deepheart(**options: Any) -> DeepHeart:
    torch.manual_seed(2)
    sizes = {"conv_units": 6, "lstm_units": 4, "lstm_layers": 2, "kernel_sizes": (4, 3), "longest": 64}
    return DeepHeart(2, 2, **{**sizes, **options})


def by_loop(probe: Probe, anchor: str, output: int, week: int) -> np.ndarray:
    """The gradient of one logit of one week, alone and unpadded, in float64: [channel, time]."""
    network = probe.network.double().eval()
    length = int(probe.lengths[week])
    inputs = probe.inputs[week : week + 1, :length].double().requires_grad_()
    logits = network(inputs, *(each[week : week + 1] for each in probe.rest))
    if anchor == "score":
        logit = logits.score[0, output]
    else:
        step = anchor_reading(anchor, length) // -(-length // logits.steps.shape[1])
        logit = logits.steps[0, step, output]
    (gradient,) = torch.autograd.grad(logit, inputs)
    return gradient[0].T.numpy()


# The profile


def test_linear_network_gives_back_its_kernel() -> None:
    time = 9
    torch.manual_seed(0)
    kernel = torch.randn(2, 3, time, time, dtype=torch.float64)
    probe = replace(probe_of(Convolve(kernel), (9, 9), channels=3), rest=())
    profile = amnesia_profile(probe)
    expected = kernel.numpy()
    np.testing.assert_allclose(profile.at("midpoint").signed, expected[:, :, 4], rtol=1e-12)
    np.testing.assert_allclose(profile.at("last").magnitude, abs(expected[:, :, 8]), rtol=1e-12)
    np.testing.assert_allclose(profile.at("score").signed, expected.sum(axis=2), rtol=1e-12)
    assert profile.at("midpoint").lag.tolist() == list(range(-4, 5))
    assert profile.at("last").lag.tolist() == profile.at("score").lag.tolist() == list(range(-8, 1))


def test_weeks_of_different_lengths_are_aligned_at_their_anchor() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    probe = replace(probe_of(Convolve(kernel), (6, 3), channels=1, outputs=1), rest=())
    profile, k = amnesia_profile(probe), kernel.numpy()[0, 0]
    middle = profile.at("midpoint")  # readings 3 and 1
    assert middle.lag.tolist() == [-3, -2, -1, 0, 1, 2]
    assert middle.lag_weeks.tolist() == [1, 1, 2, 2, 2, 1]
    long, short = k[3], k[1]
    expected = [long[0], long[1], (long[2] + short[0]) / 2, (long[3] + short[1]) / 2, (long[4] + short[2]) / 2, long[5]]
    np.testing.assert_allclose(middle.signed[0, 0], expected)
    last = profile.at("last")
    np.testing.assert_allclose(last.signed[0, 0, -3:], (k[5, 3:] + k[2, :3]) / 2)
    np.testing.assert_allclose(last.position_signed[0, 0], np.r_[(k[5, :3] + k[2, :3]) / 2, k[5, 3:]])


def test_signs_of_weeks_cancel_in_the_signed_profile_only() -> None:
    class Square(nn.Module):
        def forward(self, inputs: Tensor) -> Logits:
            return Logits(None, (inputs**2).sum(dim=(1, 2))[:, None])

    inputs = torch.tensor([[[1.0], [2.0]], [[-1.0], [-2.0]]])
    probe = replace(probe_of(Square(), (2, 2), channels=1, outputs=1), rest=(), inputs=inputs)
    at = amnesia_profile(probe).at("score")
    assert at.signed.tolist() == [[[0.0, 0.0]]]
    assert at.magnitude.tolist() == [[[2.0, 4.0]]]


def test_a_causal_lstm_is_exactly_zero_after_the_anchor() -> None:
    at = amnesia_profile(probe_of(Recurrent(), (40, 31))).at("midpoint")
    assert (at.magnitude[..., at.lag > 0] == 0).all()
    assert (at.magnitude[..., at.lag <= 0] > 0).all()


@pytest.mark.parametrize("readout", ["mean", "last", "both_ends"])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_against_a_plain_loop(readout: str, rows: int) -> None:
    probe = probe_of(small_deepheart(readout=readout), (23, 17, 23))
    profile = amnesia_profile(probe, readings_at_once=23 * rows)
    for anchor in ANCHORS:
        at = profile.at(anchor)
        for output in range(2):
            weeks = [by_loop(probe, anchor, output, week) for week in range(3)]
            total = np.zeros((2, len(at.lag)))
            for week in weeks:
                start = -at.lag[0] - anchor_reading(anchor, week.shape[1])
                total[:, start : start + week.shape[1]] += abs(week)
            np.testing.assert_allclose(at.magnitude[output], total / at.lag_weeks, rtol=1e-9, atol=1e-18)


def test_pooled_steps_are_found() -> None:
    probe = probe_of(small_deepheart(pool=2), (24, 24))
    at = amnesia_profile(probe, ["midpoint"]).at("midpoint")
    weeks = [by_loop(probe, "midpoint", 0, week) for week in range(2)]
    np.testing.assert_allclose(at.magnitude[0], abs(np.array(weeks)).mean(axis=0), rtol=1e-9)


def test_against_finite_differences() -> None:
    probe = probe_of(small_deepheart(activation="gelu"), (15,))
    at = amnesia_profile(probe, ["midpoint"]).at("midpoint")
    network, inputs = probe.network.double().eval(), probe.inputs.double()
    for reading, channel in ((0, 0), (7, 1), (14, 0)):
        moved = torch.zeros_like(inputs)
        moved[0, reading, channel] = 1e-6
        with torch.no_grad():
            ends = [network(inputs + sign * moved, *probe.rest).steps[0, 7] for sign in (1, -1)]
        slope = ((ends[0] - ends[1]) / 2e-6).numpy()
        np.testing.assert_allclose(at.signed[:, channel, reading], slope, rtol=1e-5, atol=1e-12)


def test_padding_does_not_count() -> None:
    probe = probe_of(small_deepheart(), (23, 17))
    padded = replace(probe, inputs=nn.functional.pad(probe.inputs, (0, 0, 0, 9)))
    for one, other in zip(amnesia_profile(probe).anchors, amnesia_profile(padded).anchors, strict=True):
        np.testing.assert_allclose(one.magnitude, other.magnitude, rtol=1e-9, atol=1e-20)


def test_float32_agrees_and_knows_its_floor() -> None:
    probe = probe_of(small_deepheart(), (50,))
    double, single = amnesia_profile(probe), amnesia_profile(probe, dtype=torch.float32)
    assert 1e-68 < single.floor < 1e-66
    assert double.floor == np.finfo(np.float64).tiny
    for one, other in zip(double.anchors, single.anchors, strict=True):
        np.testing.assert_allclose(one.magnitude, other.magnitude, rtol=1e-3, atol=1e-12)


def test_hours_of_wear_leave_pauses_out() -> None:
    dt = torch.tensor([[math.nan, 900.0, 7200.0, 1800.0, math.nan]])
    probe = replace(probe_of(Recurrent(), (5,)), dt=dt)
    at = amnesia_profile(probe, ["last", "score"]).at("last")
    np.testing.assert_allclose(at.hours, [-0.75, -0.5, -0.5, 0.0, 0.0])
    assert np.isnan(amnesia_profile(replace(probe, dt=None)).at("last").hours).all()


def test_networks_without_steps_are_measured_at_the_score() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    profile = amnesia_profile(adapt(network, torch.randn(3, 6, 2)))
    assert [at.anchor for at in profile.anchors] == ["score"]
    assert profile.main == "score"
    weight = network[1].weight.detach().double().numpy().reshape(2, 6, 2)
    np.testing.assert_allclose(profile.at("score").signed, weight.transpose(0, 2, 1), rtol=1e-12)
    with pytest.raises(HeartnetError, match="no logits at every step"):
        amnesia_profile(adapt(network, torch.randn(3, 6, 2)), ["last"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anchors": ["mid"]}, "Did you mean 'midpoint'"),
        ({"anchors": "last"}, "give a list"),
        ({"lengths": torch.tensor([7, 3])}, "between 1 and 6"),
        ({"channels": ("a",)}, "names 1 channels"),
        ({"outputs": ("a",)}, r"score has shape \(12, 2\)|score has shape"),
        ({"network": nn.Linear(2, 2), "rest": ()}, "not Logits"),
    ],
)
def test_what_cannot_be_measured_is_said(change: dict[str, Any], words: str) -> None:
    anchors = change.pop("anchors", ANCHORS)
    with pytest.raises(HeartnetError, match=words):
        amnesia_profile(replace(probe_of(Recurrent(), (6, 3)), **change), anchors)


# No trace


def state_of(network: nn.Module) -> list[Any]:
    found: list[Any] = [(name, value.clone()) for name, value in network.state_dict().items()]
    for module in network.modules():
        found.append((module.training, dict(module._forward_hooks), dict(module._backward_hooks)))
    for parameter in network.parameters():
        found.append((parameter.requires_grad, parameter.grad is None, parameter.dtype))
    found += [torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_default_dtype()]
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Noisy(Recurrent):
    """Draws from every random stream, logs what it saw, and can fail."""

    fails = False

    def forward(self, inputs: Tensor, lengths: Tensor) -> Logits:
        noise = random.random() + np.random.rand() + float(torch.rand(1))
        if self.fails:
            raise RuntimeError("broken")
        steps, score = super().forward(inputs, lengths)
        return Logits(steps + noise, score + noise)


def test_random_streams_are_put_back_after_an_error() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(1))

    @rng_untouched()
    def fail() -> None:
        draw()
        raise KeyError

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(KeyError):
        fail()
    assert draw() == expected


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace(fails: bool) -> None:
    network = Noisy()
    network.fails = fails
    network.head.weight.requires_grad_(False)
    network.lstm.eval()
    network.head.bias.grad = torch.ones(2)
    seen: list[str] = []
    network.head.register_forward_hook(lambda *_: seen.append("forward"))
    network.head.register_full_backward_hook(lambda *_: seen.append("backward"))
    before = state_of(network)
    probe = probe_of(network, (9, 5))
    if fails:
        with pytest.raises(RuntimeError, match="broken") as caught:
            amnesia_profile(probe)
        assert "gradients were measured in torch.float64" in caught.value.__notes__[0]
    else:
        amnesia_profile(probe)
    assert same(before, state_of(network))
    assert seen == []
    assert torch.equal(network.head.bias.grad, torch.ones(2))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_inference_mode(guard: Any) -> None:
    expected = amnesia_profile(probe_of(small_deepheart(), (20,)))
    with guard():
        found = amnesia_profile(probe_of(small_deepheart(), (20,)))  # weights and inputs made in there
        assert not torch.is_grad_enabled()
    np.testing.assert_allclose(found.at("midpoint").signed, expected.at("midpoint").signed, rtol=1e-12)


def test_half_precision_weights_and_autocast() -> None:
    network = Recurrent().to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = amnesia_profile(probe_of(network, (20,)))
    expected = amnesia_profile(probe_of(network.double(), (20,)))
    np.testing.assert_allclose(found.at("last").signed, expected.at("last").signed, rtol=1e-12)


def test_the_copy_has_only_torchs_own_hooks_and_no_compiled_modules() -> None:
    normed = nn.utils.spectral_norm(nn.Linear(3, 3))
    normed.register_forward_pre_hook(lambda *_: pytest.fail("a foreign hook ran"))
    network = nn.Sequential(normed, torch.compile(nn.Linear(3, 3), backend="eager"), nn.LSTM(3, 3, 2, dropout=0.3))
    with isolated(torch.compile(network, backend="eager")) as twin:
        assert not any(hasattr(module, "_orig_mod") for module in twin.modules())
        assert len(twin[0]._forward_pre_hooks) == 1
        assert (twin[2].training, twin[2].dropout, twin[1].training) == (True, 0.0, False)
        assert all(each.dtype == torch.float64 and not each.requires_grad for each in twin.parameters())
        assert torch.zeros(1).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32
    assert network[2].dropout == 0.3


def test_shared_weights_stay_shared_and_trainers_stay_outside() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    network._trainer = lambda: pytest.fail("called")
    with isolated(network) as twin:
        assert twin[0].weight is twin[1].weight
        assert twin._trainer is None
    assert network._trainer is not None


def test_what_cannot_be_copied_is_said() -> None:
    network = nn.Linear(2, 2)
    network.stream = (each for each in ())  # type: ignore[assignment]
    with pytest.raises(HeartnetError, match=r"Linear cannot be copied.*generator"), isolated(network):
        pass


# The numbers


def profile_of(
    magnitude: np.ndarray, anchor: str = "last", *, weeks: int = 1, hours: bool = True, floor: float = 1e-300
) -> AmnesiaProfile:
    """A profile of one output and one channel with the given magnitudes by lag; a reading is five minutes."""
    size = len(magnitude)
    lag = np.arange(size) - (size // 2 if anchor == "midpoint" else size - 1)
    both = magnitude[None, None].astype(float)
    parts = np.array([each.mean() for each in np.array_split(both[0, 0], min(64, size))])[None, None]
    at = AnchorProfile(
        anchor, lag, np.full(size, weeks), lag / 12 if hours else np.full(size, np.nan), both, both, both, both, parts,
        np.full(parts.shape[-1], size / parts.shape[-1] / 12),
    )  # fmt: skip
    return AmnesiaProfile(("risk",), ("bpm",), np.full(weeks, size), floor, (at,))


@given(decay=st.floats(0.001, 0.3), anchor=st.sampled_from(["midpoint", "last"]))
@settings(deadline=None, max_examples=30)
def test_decades_of_an_exponential_decay(decay: float, anchor: str) -> None:
    size = 1025
    lag = abs(np.arange(size) - (size // 2 if anchor == "midpoint" else size - 1))
    (memory,) = memories(profile_of(np.exp(-decay * lag), anchor))
    reach = size // 2 if anchor == "midpoint" else size - 1
    # Half of the readings are beyond three quarters of the reach; half of the near ones within 16.
    expected = decay * (0.75 * reach - 15.5) / math.log(10)
    assert memory.decades == pytest.approx(expected, abs=decay * 8 + 0.01)
    share = 1 - np.exp(-decay * np.arange(1, reach + 2))
    assert memory.memory_steps == pytest.approx(np.searchsorted(share, 0.9 * share[-1]), abs=2)
    assert memory.memory_hours == pytest.approx(memory.memory_steps / 12)
    assert memory.reach_steps == reach


def test_an_even_profile_forgets_nothing() -> None:
    for anchor in ANCHORS:
        (memory,) = memories(profile_of(np.ones(1000), anchor))
        assert memory.decades == pytest.approx(0, abs=1e-12)
        assert memory.memory_steps == pytest.approx(0.9 * (500 if anchor == "midpoint" else 1000), abs=16)


def test_a_network_that_sees_every_fourth_reading_is_not_forgetful() -> None:
    for anchor in ("midpoint", "last"):
        (memory,) = memories(profile_of((np.arange(1000) % 4 == 0).astype(float), anchor))
        assert memory.decades == pytest.approx(0, abs=0.01)


def test_underflow_is_a_lower_bound() -> None:
    curve = np.r_[np.zeros(900), np.full(100, 1e-3)]
    (memory,) = memories(profile_of(curve))
    assert memory.at_least
    assert memory.decades == pytest.approx(297)
    (finding,) = verdict([memory])
    assert finding.status == "fail"
    assert "more than 10^297 times less (below what the floating-point type can hold)" in finding.message


def test_float64_underflow_of_a_real_network() -> None:
    torch.manual_seed(0)
    network = small_deepheart(forget_bias=-8.0, lstm_layers=1)
    found = memories(amnesia_profile(probe_of(network, (1500,)), ["midpoint"]))
    assert found[0].at_least
    assert found[0].decades is not None
    assert 200 < found[0].decades < 310
    assert json.dumps([each.as_json() for each in verdict(found)], allow_nan=False)


@pytest.mark.parametrize(("value", "gradient"), [(0.0, "zero"), (math.nan, "not finite"), (math.inf, "not finite")])
def test_no_gradient_is_another_verdict(value: float, gradient: str) -> None:
    (memory,) = memories(profile_of(np.full(500, value)))
    assert (memory.gradient, memory.decades, memory.memory_steps) == (gradient, None, None)
    (finding,) = verdict([memory], {"model.forget_bias": "default", "model.activation": "relu"})
    assert finding.status == "fail"
    assert finding.value is None
    assert finding.try_ == (("model.activation=leaky_relu",) if gradient == "zero" else ())
    json.dumps(finding.as_json(), allow_nan=False)


def test_a_detached_network_has_a_zero_gradient() -> None:
    class Detached(Recurrent):
        def forward(self, inputs: Tensor, lengths: Tensor) -> Logits:
            return super().forward(inputs.detach(), lengths)

    found = memories(amnesia_profile(probe_of(Detached(), (20,))))
    assert {each.gradient for each in found} == {"zero"}


def test_short_weeks_and_weeks_of_one_reading() -> None:
    for size in (1, 2, 5):
        found = memories(amnesia_profile(probe_of(Recurrent(), (size,))))
        assert all(each.decades is None for each in found)
        found_verdicts = verdict(found, {"model.forget_bias": "default", "model.readout": "mean"})
        assert {each.status for each in found_verdicts} == {"unknown"}
        assert {each.try_ for each in found_verdicts} == {()}  # no override makes a week longer


def test_lags_that_few_weeks_reach_do_not_count() -> None:
    profile = profile_of(np.ones(100), weeks=3)
    weeks = np.where(np.arange(100) < 60, 1, 3)
    (memory,) = memories(replace(profile, anchors=(replace(profile.anchors[0], lag_weeks=weeks),)))
    assert memory.reach_steps == 39


def test_by_channel() -> None:
    found = memories(amnesia_profile(probe_of(Recurrent(), (40,))), by_channel=True)
    assert [(each.anchor, each.output, each.channel) for each in found[:3]] == [
        ("midpoint", "o0", "c0"), ("midpoint", "o0", "c1"), ("midpoint", "o1", "c0"),
    ]  # fmt: skip


# The verdict


def memory_with(decades: float, anchor: str = "midpoint") -> Memory:
    return Memory(anchor, "risk", None, "present", decades, False, 24, 2.0, 2048, 170.7)


@pytest.mark.parametrize(
    ("decades", "status"), [(-2.0, "pass"), (0.0, "pass"), (1.0, "pass"), (1.1, "warn"), (5.9, "warn"), (6.0, "fail")]
)
def test_scale(decades: float, status: str) -> None:
    (finding,) = verdict([memory_with(decades)], {"model.forget_bias": "default"}, step=7)
    assert (finding.status, finding.where, finding.value, finding.step) == (status, "risk/midpoint", decades, 7)
    assert finding.try_ == (() if status == "pass" else ("model.forget_bias=chrono",))


def test_proposes_only_what_exists_and_differs() -> None:
    def cures(anchor: str = "midpoint", **model: object) -> tuple[str, ...]:
        settings = {f"model.{key}": value for key, value in model.items()}
        return tuple(verdict([memory_with(9.0, anchor)], settings)[0].try_)

    assert cures() == ()
    assert cures(forget_bias="default", readout="mean", pool=1) == ("model.forget_bias=chrono",)
    assert cures(forget_bias=1.0, readout="last", pool=1) == ("model.forget_bias=chrono",)
    assert cures(forget_bias="chrono", readout="last", pool=1) == ("model.pool=4",)
    assert cures(forget_bias="chrono", readout="mean", pool=4) == ()
    assert cures("score", forget_bias="chrono", readout="last", pool=4) == ("model.readout=both_ends",)
    assert cures("score", forget_bias="chrono", readout="both_ends", pool=4) == ()
    assert cures(kernel_sizes=[5], pool=2) == ()  # a network that has nothing to forget with


def test_says_why_what_it_proposes_may_help() -> None:
    def said(**model: object) -> str:
        settings = {f"model.{key}": value for key, value in model.items()}
        return verdict([memory_with(9.0)], settings)[0].message

    assert "(chrono) closed such a gap" in said(forget_bias="default", pool=1)
    assert "Pooling leaves the LSTMs fewer steps" in said(forget_bias="chrono", pool=1)
    assert "chrono" not in said(forget_bias="chrono", pool=4)
    assert "two things help" in said()
    assert "help" not in verdict([memory_with(0.1)])[0].message


def test_what_is_proposed_helps() -> None:
    """At initialisation, in float64: each proposal, made alone, brings down what it is proposed for."""

    def decades(anchor: str, **options: Any) -> float:
        network = small_deepheart(lstm_units=8, longest=1024, **options)
        (found, _) = memories(amnesia_profile(probe_of(network, (1024,)), [anchor]))
        assert found.decades is not None
        return found.decades

    forgetful = decades("midpoint")
    assert forgetful > 50
    assert decades("midpoint", forget_bias="chrono") < 1
    assert decades("midpoint", pool=4) < forgetful / 5
    assert decades("score", readout="both_ends") < decades("score", readout="last") / 1.5


def test_says_in_plain_words_what_is_wrong() -> None:
    (finding,) = verdict([memory_with(6.0)], {"model.readout": "mean"})
    assert finding.message == (
        "A reading more than 1,024 readings from the middle of the week moves this output 1 million times less than "
        "one beside it. 90 % of the effect lies within 24 readings (2.0 h of wear), of 2,048 readings (170.7 h of "
        "wear)."
    )


@pytest.mark.parametrize(
    ("decades", "words"),
    [(0.5, "3.2 times less"), (2.5, "320 times less"), (5.24, "170,000 times less"), (6.1, "1.26 million times less"),
     (12.3, "10^12 times less"), (-0.5, "3.2 times more")],
)  # fmt: skip
def test_factors_are_given_in_two_digits(decades: float, words: str) -> None:
    assert f"moves this output {words} than one beside it" in verdict([memory_with(decades)])[0].message


def test_the_mean_readout_is_said_to_hide_amnesia() -> None:
    step, score = memory_with(60.0), memory_with(0.1, "score")
    assert "hides amnesia" in verdict([step, score], {"model.readout": "mean"})[1].message
    assert "shows 60.0 decades" in verdict([step, score])[1].message
    assert "hides" not in verdict([step, score], {"model.readout": "last"})[1].message
    assert "hides" not in verdict([memory_with(0.1), score])[1].message


# Other people's networks


def test_guess_from_tuples_dicts_and_tensors() -> None:
    network = nn.Sequential(nn.Linear(3, 4))
    inputs, label = torch.randn(2, 7, 3), torch.tensor([0, 1])
    for batch in ((inputs, label), [label, inputs], {"x": inputs, "lengths": torch.tensor([7, 4])}, inputs):
        probe = guess_probe(network, batch)
        assert probe.outputs == ("output_0", "output_1", "output_2", "output_3")
        assert probe.lengths.tolist() == ([7, 4] if isinstance(batch, dict) else [7, 7])
        assert amnesia_profile(probe).main == "midpoint"


@pytest.mark.parametrize(
    ("network", "batch", "words"),
    [
        (nn.Linear(3, 2), (torch.zeros(2, 3), torch.zeros(2)), r"found: float32 \[2, 3\], float32 \[2\]"),
        (nn.Linear(900, 2), (torch.zeros(2, 3, 900),), r"may be \[batch, channel, time\]"),
        (nn.Linear(5, 2), (torch.zeros(2, 9, 3),), "cannot be called with inputs"),
        (nn.LSTM(3, 2, batch_first=True), (torch.zeros(2, 9, 3),), "returned tuple"),
    ],
)
def test_what_cannot_be_guessed_says_how_to_say_it(network: nn.Module, batch: Any, words: str) -> None:
    with pytest.raises(HeartnetError, match=rf"{words}.*probe="):
        guess_probe(network, batch)


def test_an_rnn_that_returns_tuples_through_an_adapter() -> None:
    network = nn.GRU(3, 2, batch_first=True)
    probe = adapt(network, torch.randn(2, 30, 3), outputs=("a", "b"), logits=lambda out: Logits(out[0], out[1][-1]))
    profile = amnesia_profile(probe)
    np.testing.assert_allclose(profile.at("last").signed, profile.at("score").signed, rtol=1e-12)


# Keeping it


def test_profiles_survive_files_and_checkpoints(tmp_path: Any) -> None:
    profile = amnesia_profile(probe_of(Recurrent(), (12, 9)))
    save_npz(tmp_path / "amnesia.npz", initial=profile, now=profile)
    torch.save(to_tensors(profile), tmp_path / "state.pt")
    found = [*load_npz(tmp_path / "amnesia.npz").values(), from_tensors(torch.load(tmp_path / "state.pt"))]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["amnesia.npz", "state.pt"]
    for other in found:
        assert (other.outputs, other.channels, other.floor) == (profile.outputs, profile.channels, profile.floor)
        for one, two in zip(profile.anchors, other.anchors, strict=True):
            for name, value in vars(one).items():
                np.testing.assert_array_equal(value, getattr(two, name))
    (tmp_path / "amnesia.npz").write_bytes(b"PK")
    with pytest.raises(HeartnetError, match="no amnesia profiles"):
        load_npz(tmp_path / "amnesia.npz")
