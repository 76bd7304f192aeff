"""What is lost with an input: what a permuted or removed one looks like, known truths, and verdicts over seeds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor, nn

from heartnet.diagnostics.ablation import LITTLE, METADATA, SENSORS, Ablation, ablated_scores, losses
from heartnet.diagnostics.ablation_changes import (
    donors_of,
    near_donors_of,
    other_channels,
    other_weeks,
    places_of,
    without_channels,
)
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.diagnostics.reliance_verdicts import ablation_finding

DRAWS = 200
CHANNELS = ("heart_rate", "steps", "dt")
FIELDS = ("age", "sex", "bmi")
Floats = npt.NDArray[np.float64]


class Linear(nn.Module):
    """Says a linear function of the channels' means over the week and of the metadata."""

    def __init__(self, channels: tuple[float, ...], fields: tuple[float, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([channels]).T)
        self.other = nn.Parameter(torch.tensor([[*fields, 0.0, 0.0, 0.0]]).T)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs: Tensor, lengths: Tensor, metadata: Tensor) -> Logits:
        valid = (torch.arange(inputs.shape[1]) < lengths[:, None]).to(inputs)[:, :, None]
        means = (inputs * valid).sum(dim=1) / lengths[:, None]
        return Logits(None, self.drop(means @ self.weight + metadata @ self.other))


def cohort(
    seed: int, *, people: int = 80, weeks: int = 2, sensors: float = 1.0, metadata: float = 1.0, size: int = 7
) -> tuple[list[Probe], npt.NDArray[np.int64], Floats]:
    """Return batches, users and labels that depend on heart rate and age alike, and a network that sees that much."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    rate, age = rng.normal(size=(2, people))
    users = np.repeat(np.arange(people), weeks)
    value = (rng.random(people) < 1 / (1 + np.exp(-1.5 * rate - 1.5 * age)))[users].astype(float)
    lengths = torch.from_numpy(rng.integers(5, 40, len(users)))
    network = Linear((sensors, 0.0, 0.0), (metadata, 0.0, 0.0)).eval()
    probes = []
    for first in range(0, len(users), size):
        rows = np.arange(first, min(first + size, len(users)))
        time = int(lengths[rows].max())
        inputs = torch.randn(len(rows), time, 3, generator=generator) * 0.3
        inputs[:, :, 0] += torch.from_numpy(rate[users[rows]])[:, None]
        inputs *= (torch.arange(time) < lengths[rows][:, None])[:, :, None]
        fields = torch.randn(len(rows), 3, generator=generator)
        fields[:, 0] = torch.from_numpy(age[users[rows]])
        known = torch.cat([fields, torch.ones(len(rows), 3)], dim=1)
        probes.append(Probe(network, inputs, (lengths[rows], known), lengths[rows], ("diabetes",), CHANNELS))
    return probes, users, value


def ablation_of(made: tuple[list[Probe], npt.NDArray[np.int64], Floats], **options: Any) -> Ablation:
    probes, users, value = made
    before, after = ablated_scores(probes, users, metadata=1, fields=FIELDS)
    scores = {key: each[:, :, 0] for key, each in after.items()}
    found = losses("diabetes", before[:, 0], scores, value, users, draws=DRAWS, **options)
    assert found is not None
    return found


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 30))
@settings(max_examples=50, deadline=None)
def test_each_week_gives_once_and_to_another_person(seed: int, most: int, people: int) -> None:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(people), rng.integers(1, most + 1, people))
    rng.shuffle(users)
    donors = donors_of(users, rng)
    assert sorted(donors) == list(range(len(users)))
    if 2 * np.bincount(users).max() <= len(users):
        assert (users[donors] != users).all()
    lengths = rng.integers(100, 4000, len(users))
    near = near_donors_of(lengths, users, rng)
    assert sorted(near) == list(range(len(users)))
    ranks = np.argsort(np.argsort(lengths, kind="stable"))
    assert np.abs(ranks[near] - ranks).max() <= 32


def test_a_donor_of_another_length_gives_its_whole_week() -> None:
    probes, _, _ = cohort(0, people=4, weeks=1)
    [probe] = probes
    weeks = [week[:n] for week, n in zip(probe.inputs, probe.lengths.tolist(), strict=True)]
    donors = np.array([2, 0, 3, 1])
    rows = np.arange(4)
    now = other_channels(weeks, donors, [1])(probe, rows)
    for row in range(4):
        n, given_ = len(weeks[row]), weeks[donors[row]]
        want = torch.stack([given_[i * len(given_) // n, 1] for i in range(n)])
        torch.testing.assert_close(now.inputs[row, :n, 1], want, rtol=0, atol=0)
        assert (now.inputs[row, n:] == 0).all()
    assert torch.equal(now.inputs[:, :, [0, 2]], probe.inputs[:, :, [0, 2]])
    whole = other_weeks(weeks, donors)(probe, rows)
    assert whole.rest[0].tolist() == [len(weeks[donor]) for donor in donors]
    assert whole.rest[1] is probe.rest[1]
    for row in range(4):
        assert torch.equal(whole.inputs[row, : whole.lengths[row]], weeks[donors[row]])
    same = other_channels(weeks, rows, [0, 1, 2])(probe, rows)
    assert torch.equal(same.inputs, probe.inputs)


def test_removed_is_what_the_network_sees_of_a_missing_value() -> None:
    channels = (*CHANNELS, "missing")
    assert places_of("heart_rate", channels) == ([0, 3], 3)
    assert places_of("steps", channels) == ([1], None)
    assert places_of("missing", channels) == ([3], None)
    assert places_of("heart_rate", CHANNELS) == ([0], None)
    probe = Probe(nn.Identity(), torch.ones(2, 4, 4), (), torch.tensor([4, 2]), ("a",), channels)
    now = without_channels([0, 3], mask=3)(probe, np.arange(2)).inputs
    assert (now[:, :, 0] == 0).all()
    assert now[:, :, 3].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert (now[:, :, [1, 2]] == 1).all()
    assert (probe.inputs == 1).all()


def test_losses_are_those_of_a_linear_network_computed_by_hand() -> None:
    made = probes, users, value = cohort(1)
    rng = np.random.default_rng(0)
    donors = [donors_of(users, rng) for _ in range(3)]  # the draws that come first
    rate = np.concatenate([
        [float(week[:n, 0].double().mean()) for week, n in zip(p.inputs, p.lengths.tolist(), strict=True)]
        for p in probes
    ])  # fmt: skip
    age = np.concatenate([p.rest[1][:, 0].double().numpy() for p in probes])
    whole = roc_auc_score(value, rate + age)
    it = ablation_of(made)
    assert it.whole.value == pytest.approx(whole)
    want = {
        (SENSORS, "permuted"): np.mean([roc_auc_score(value, rate[d] + age) for d in donors]),
        (METADATA, "permuted"): np.mean([roc_auc_score(value, rate + age[d]) for d in donors]),
        (SENSORS, "removed"): roc_auc_score(value, age),
        ("heart_rate", "removed"): roc_auc_score(value, age),
        ("age", "removed"): roc_auc_score(value, rate),
        ("steps", "removed"): whole,
        ("steps", "permuted"): whole,
        ("bmi", "permuted"): whole,
    }
    for each in it.parts:
        if (each.what, each.how) in want:
            assert each.left.value == pytest.approx(want[each.what, each.how], abs=1e-6), each
        assert each.loss.value == pytest.approx(whole - each.left.value, abs=1e-9)
    assert it.lean is not None
    metadata, sensors = it.loss(METADATA), it.loss(SENSORS)
    assert metadata is not None
    assert sensors is not None
    assert it.lean.value == pytest.approx(LITTLE * metadata.value - sensors.value)
    assert len({(each.what, each.how) for each in it.parts}) == 2 * (1 + 3 + 1 + 3)
    assert it.numbers()["permuted_low/sensors"] == sensors.low


def test_the_interval_of_a_loss_is_paired() -> None:
    it = ablation_of(cohort(2))
    loss = it.loss("heart_rate")
    assert loss is not None
    left = next(each.left for each in it.parts if (each.what, each.how) == ("heart_rate", "permuted"))
    assert loss.high - loss.low < (left.high - left.low) + (it.whole.high - it.whole.low)
    steps = it.loss("steps")
    assert steps is not None
    assert (steps.low, steps.high) == (0, 0), "what the network does not look at costs nothing, exactly"


def test_a_network_that_does_not_look_at_metadata() -> None:
    it = ablation_of(cohort(0, metadata=0.0))
    assert it.lean is None
    assert {each.what for each in it.parts if each.what in FIELDS} == set()
    said = ablation_finding(it, "test", all_weeks=it.weeks)
    assert said.status == "pass"
    assert "does not look at them" in said.message


def test_synthetic_targets_lose_explained_variance() -> None:
    probes, users, _ = cohort(3)
    before, after = ablated_scores(probes, users, metadata=1, fields=FIELDS, permutations=1)
    value = before[:, 0] + 0.1
    found = losses(
        "x",
        before[:, 0],
        {key: each[:, :, 0] for key, each in after.items()},
        value,
        users,
        kind="synthetic",
        draws=100,
    )
    assert found is not None
    assert found.whole.value == pytest.approx(r2_score(value, before[:, 0]))
    left = next(each.left for each in found.parts if (each.what, each.how) == ("age", "permuted"))
    assert left.value == pytest.approx(r2_score(value, after["age", "permuted"][0, :, 0]))
    assert losses("x", before[:, 0], {}, np.ones(len(before)), users) is None, "one value only"


def test_it_leaves_no_trace() -> None:
    probes, users, _ = cohort(0)
    network: Any = probes[0].network
    network.train()
    network.weight.grad = torch.ones_like(network.weight)
    before = [each.detach().clone() for each in (*network.parameters(), *(p.inputs for p in probes),
                                                 *(r for p in probes for r in p.rest))]  # fmt: skip
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    streams = (torch.random.get_rng_state(), np.random.get_state()[1], random.getstate())
    with torch.inference_mode():
        ablated_scores(probes, users, metadata=1, fields=FIELDS)
    after = (*network.parameters(), *(p.inputs for p in probes), *(r for p in probes for r in p.rest))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert network.training
    assert network.drop.training
    assert network.weight.requires_grad
    assert (network.weight.grad == 1).all()
    assert torch.equal(streams[0], torch.random.get_rng_state())
    assert (streams[1] == np.random.get_state()[1]).all()
    assert streams[2] == random.getstate()


def test_detection_and_false_alarms() -> None:
    """Of 20 cohorts each: networks that hardly look at the sensors, or not at all, and clean ones.

    A network that looks at the sensors a tenth as much as at the metadata is found in 9 of these 20 cohorts only.
    """
    found = {
        name: [ablation_finding(ablation_of(cohort(seed, **how)), "test", all_weeks=600).status for seed in range(20)]
        for name, how in {
            "only metadata": {"sensors": 0.0},
            "hardly sensors": {"sensors": 0.05, "people": 160, "weeks": 1},
            "clean": {},
            "sensors alone": {"metadata": 0.0},
        }.items()
    }
    assert found["only metadata"].count("warn") >= 19, found
    assert found["hardly sensors"].count("warn") >= 14, [found["hardly sensors"].count("warn")]
    for clean in ("clean", "sensors alone"):
        assert found[clean].count("pass") == 20, found


def test_the_verdicts_words() -> None:
    it = ablation_of(cohort(0, sensors=0.0))
    said = ablation_finding(it, "test", all_weeks=500, settings={"model.metadata": "lstm_state"})
    assert said.message.startswith("It does not look at the sensors")
    assert it.blind
    leaning = ablation_of(cohort(0, sensors=0.02, people=160))
    assert not leaning.blind
    assert ablation_finding(leaning, "test", all_weeks=320).message.startswith("It leans on age, sex and BMI")
    assert "160 of 500 weeks of 80 people" in said.message
    assert said.try_ == ("model.metadata=none",)
    assert ablation_finding(it, "test", all_weeks=500).try_ == (), "no overrides for another's module"
    few = ablation_finding(ablation_of(cohort(0, people=14)), "test", all_weeks=28)
    assert few.status == "unknown"
    assert "too few to tell" in few.message
    assert "(argument `weeks`)" not in few.message, "all were looked at"
    assert "(argument `weeks`)" in ablation_finding(ablation_of(cohort(0, people=14)), "test", all_weeks=99).message
    one = ablation_finding(replace(ablation_of(cohort(0, people=14)), having=1, without=1), "test", all_weeks=28)
    assert one.message.startswith("People with it: 1, without it: 1; fewer than 10 of each are too few")
    assert (one.value, one.limit) == (None, None)
    # That scores stay the same does not depend on how many people there are.
    tiny = ablation_finding(ablation_of(cohort(0, people=14, sensors=0.0)), "test", all_weeks=28)
    assert tiny.message.startswith("It does not look at the sensors")
    assert "AUROC" not in tiny.message
    assert "too few to tell" in ablation_finding(replace(it, weeks=9, having=4, without=5), "test", all_weeks=9).message


def test_where_weeks_were_split_weeks_are_resampled() -> None:
    probes, _, value = cohort(0)
    one = np.zeros(len(value))
    before, after = ablated_scores(probes, one, metadata=1, fields=FIELDS)
    of_target = {key: each[:, :, 0] for key, each in after.items()}
    by_user, by_week, same = (
        losses("x", before[:, 0], of_target, value, users, by=by, draws=100)
        for users, by in ((one, "user"), (one, "week"), (np.arange(len(value)), "user"))
    )
    assert by_user is not None
    assert by_week is not None
    assert same is not None
    assert np.isnan(by_user.whole.low)
    assert by_week.whole == same.whole
    assert [each.loss for each in by_week.parts] == [each.loss for each in same.parts]
    assert (by_week.users, by_week.having + by_week.without) == (1, len(value))
    said = ablation_finding(by_week, "test", all_weeks=len(value))
    assert "weeks of 1 person, resampled week by week: nothing is said of new people" in said.message
