"""Wins and losses: which weeks are chosen against a plain loop, and attributions against what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from heartnet.diagnostics.adapt import adapt
from heartnet.diagnostics.attribution import Attribution, attribution
from heartnet.diagnostics.found_again import weeks_again
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.diagnostics.wins_and_losses import KINDS, wins_and_losses
from heartnet.errors import HeartnetError
from heartnet.figure_week import Words, week_figure
from heartnet.predictions import COLUMNS, FOLD, prediction_rows
from heartnet.simulate import simulate
from heartnet.week_trace import COLUMNS as TRACE_COLUMNS
from heartnet.week_trace import WeekTrace, week_trace
from heartnet.weeks import UNKNOWN, WEAR_GAP_SECONDS, Weeks
from heartnet.wins_and_losses_words import finding_of, markdown_of, words_of


def written(folder: Path, user: Any, value: Any, score: Any) -> Path:
    """Write predictions of one target, after those of another one."""
    known = pl.DataFrame({"week": np.arange(len(user)), "user_id": [f"u{each}" for each in user]})
    both = np.stack([1 - np.array(score, float), np.array(score, float)], axis=1)
    labels = np.stack([np.ones(len(user)), np.array(value, float)], axis=1)
    prediction_rows(known, ("other", "risk"), both, labels).write_parquet(folder / "predictions.parquet")
    return folder / "predictions.parquet"


def plainly(user: Any, value: Any, score: Any, count: int, each: int) -> dict[str, list[int]]:
    """Choose weeks by sorting tuples, one at a time."""
    known = [i for i in range(len(user)) if value[i] == value[i]]
    positive = sum(value[i] == 1 for i in known)
    threshold = sorted((score[i] for i in known), reverse=True)[positive - 1]
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for kind, chosen in found.items():
        high, has = kind.endswith("positive"), kind in ("false_negative", "true_positive")
        here = [i for i in known if value[i] == has and (score[i] >= threshold) == high]
        for i in sorted(here, key=lambda i: (-score[i] if high else score[i], i)):
            if len(chosen) < count and sum(user[j] == user[i] for j in chosen) < each:
                chosen.append(i)
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), each=st.integers(1, 3))
def test_the_weeks_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, each: int
) -> None:
    rng = np.random.default_rng(seed)
    weeks = int(rng.integers(4, 60))
    user, value = rng.integers(0, 8, weeks), rng.choice([0.0, 1.0, np.nan], weeks, p=(0.5, 0.35, 0.15))
    value[:2] = 0, 1
    score = np.round(rng.random(weeks), int(rng.integers(1, 5))).astype(np.float32)
    score[:2] = 0.25, 0.75
    it = wins_and_losses(written(tmp_path_factory.mktemp("x"), user, value, score), "risk", count=count, each=each)
    expected = plainly(user, value, score.tolist(), count, each)
    assert {kind: it.table.filter(kind=kind)["week"].to_list() for kind in KINDS} == expected
    assert it.table["kind"].unique(maintain_order=True).to_list() == [kind for kind in KINDS if expected[kind]]
    assert it.table["target"].unique().to_list() == ["risk"]
    assert sum(it.found.values()) == it.weeks == int((value == value).sum())
    np.testing.assert_allclose(it.table["error"], (it.table["value"] - it.table["score"]).abs())
    for kind, places in expected.items():
        assert it.table.filter(kind=kind)["rank"].to_list() == list(range(1, len(places) + 1))


def test_one_person_does_not_fill_the_table(tmp_path: Path) -> None:
    user = [0] * 5 + [1, 2, 3] + [4] * 8
    value = [0] * 8 + [1] * 8
    score = [0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.05, *[0.9] * 1, *[0.1] * 7]
    it = wins_and_losses(written(tmp_path, user, value, score), "risk", count=3, each=1)
    assert it.table.filter(kind="false_positive")["user_id"].to_list() == ["u0", "u1", "u2"]
    assert it.passed_over["false_positive"] == 4, "the four other weeks of u0"
    assert it.passed_over["false_negative"] == 6, "so it is where people run out"
    assert it.found["false_positive"] == 7
    assert it.people["false_positive"] == 3
    text = finding_of(it, "test", simulated=True, step=3)
    assert "16 simulated weeks of 5 people" in text.message
    assert "7 false positives of 3 people" in text.message
    assert "Passed over: 10 weeks" in text.message
    assert text.message.startswith("Worst of risk 0.99 without it, best 0.05 without, in report.html. ")
    assert text.value == pytest.approx(14 / 16)
    rows = markdown_of(it).splitlines()
    assert len(rows) == 2 + it.table.height
    assert rows[2].startswith("| false positive | 1 | u0 | – | 0.99 | 0 |")


def with_folds(file: Path, fold: Any) -> Path:
    """Write the fold of each week into a file of two targets."""
    frame = pl.read_parquet(file)
    names = pl.Series(FOLD, [f"fold-{fold[week]}" for week in frame["week"]])
    frame.with_columns(names).write_parquet(file)
    return file


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), one_class=st.booleans())
def test_levels_of_folds_choose_no_week(tmp_path_factory: pytest.TempPathFactory, seed: int, one_class: bool) -> None:
    """Whatever is added to the logits of a fold's network, and however steep it is, the same weeks are chosen."""
    rng = np.random.default_rng(seed)
    weeks, folds = 60, 4
    fold, value = np.arange(weeks) % folds, (rng.random(weeks) < 0.4).astype(float)
    value[:8] = [0] * 4 + [1] * 4
    if one_class:
        value[fold == 3] = 0
    logit = value + rng.normal(size=weeks)
    shift, steep = rng.uniform(-4, 4, folds)[fold], rng.uniform(0.5, 2, folds)[fold]
    if one_class:
        steep[fold == 3] = 1.0  # a fold with one class has the usual steepness
        steep[fold != 3] = 1.0

    def chosen(logit: Any) -> dict[str, list[int]]:
        file = written(tmp_path_factory.mktemp("x"), np.arange(weeks), value, 1 / (1 + np.exp(-logit)))
        it = wins_and_losses(with_folds(file, fold), "risk", count=3)
        assert set(it.thresholds) == {f"fold-{i}" for i in range(folds)}
        called = 1 / (1 + np.exp(-logit)) >= [it.thresholds[f"fold-{i}"] - 1e-6 for i in fold]
        assert called.sum() == value.sum()
        return {kind: it.table.filter(kind=kind)["week"].to_list() for kind in KINDS}

    assert chosen(logit) == chosen(steep * logit + shift)


def test_the_highest_network_does_not_give_all_false_positives(tmp_path: Path) -> None:
    """By hand: in each of two folds one week without it ranks above one with it; the second network says far more."""
    value = [0, 0, 0, 1, 1, 1] * 2
    logit = np.array([-4.6, -3.9, -2.9, -3.2, -2.7, -2.6])
    score = 1 / (1 + np.exp(-np.concatenate([logit, logit + 6])))
    file = with_folds(written(tmp_path, range(12), value, score), [0] * 6 + [1] * 6)
    it = wins_and_losses(file, "risk", count=2)
    weeks = {kind: sorted(it.table.filter(kind=kind)["week"].to_list()) for kind in KINDS}
    assert weeks["false_positive"] == [2, 8]
    assert weeks["false_negative"] == [3, 9]
    assert set(it.table.filter(kind="true_positive")["week"]) == {5, 11}
    assert set(it.table.filter(kind="true_negative")["week"]) == {0, 6}
    assert it.thresholds == pytest.approx({"fold-0": score[2], "fold-1": score[8]}, rel=1e-5)
    rows = {row["week"]: row for row in it.table.iter_rows(named=True)}
    assert [it.threshold_of(rows[week]) for week in (2, 8)] == list(it.thresholds.values())
    message = finding_of(it, "test", simulated=False, step=0).message
    assert "called positive from the level of their fold's network on (scores of 0.0522 to 0.957)" in message


def test_a_network_that_says_the_same_of_everybody_has_no_worst_week(tmp_path: Path) -> None:
    """Two such networks: nothing is right or wrong; one beside one that ranks: the other's weeks alone are chosen."""
    value, fold = [0, 1, 0, 1] * 2, [0] * 4 + [1] * 4
    flat = np.nextafter(np.float32(0.02), np.float32(1))  # off by rounding
    score = [0.02, 0.02, flat, 0.02] + [0.9] * 4
    it = wins_and_losses(with_folds(written(tmp_path, range(8), value, score), fold), "risk")
    assert (it.threshold, it.weeks, it.same) == (None, 0, 8)
    assert it.table.is_empty()
    finding = finding_of(it, "test", simulated=False, step=0)
    assert finding.status == "unknown"
    assert "of 8 weeks, each fold's network gives all of its own one score" in finding.message
    score[4:] = [0.1, 0.4, 0.3, 0.2]
    it = wins_and_losses(with_folds(written(tmp_path, range(8), value, score), fold), "risk")
    assert (it.weeks, it.same, it.positive) == (4, 4, 2)
    assert {kind: it.table.filter(kind=kind)["week"].to_list() for kind in KINDS} == {
        "false_positive": [6], "false_negative": [7], "true_positive": [5], "true_negative": [4],
    }  # fmt: skip
    message = finding_of(it, "test", simulated=False, step=0).message
    assert " 4 more are of folds whose network gives all weeks one score, so that none stands out." in message


def test_where_no_fold_has_both_all_are_taken_as_one(tmp_path: Path) -> None:
    value, score = [0, 1, 0, 1], [0.2, 0.6, 0.7, 0.3]
    file = written(tmp_path, range(4), value, score)
    one = wins_and_losses(file, "risk").table
    assert wins_and_losses(with_folds(file, range(4)), "risk").table["week"].to_list() == one["week"].to_list()
    alike = written(tmp_path, range(6), [0, 0, 1, 1, 0, 0], [0.2, 0.2, 0.6, 0.6, 0.7, 0.7])  # a person a fold
    it = wins_and_losses(with_folds(alike, [0, 0, 1, 1, 2, 2]), "risk")
    assert (it.weeks, it.same) == (6, 0)
    assert it.table.filter(kind="false_positive")["week"].to_list() == [4, 5]


@pytest.mark.parametrize(
    ("value", "score", "expected"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], "all lack it"),
        ([1, 1, 1], [0.1, 0.2, 0.3], "all have it"),
        ([0, 1, 1], [0.5, 0.5, 0.5], "all scores are the same"),
        ([np.nan] * 3, [0.1, 0.2, 0.3], "of no week both label and score are known"),
        ([0, 1, 1], [np.nan] * 3, "3 more have a score that is NaN"),
    ],
)
def test_where_nothing_is_right_or_wrong(tmp_path: Path, value: Any, score: Any, expected: str) -> None:
    it = wins_and_losses(written(tmp_path, [0, 1, 2], value, score), "risk")
    assert it.table.is_empty()
    assert it.table.columns[3:] == list(COLUMNS)
    assert expected in finding_of(it, "test", simulated=False, step=0).message


class Linear(nn.Module):
    """Logits at every step that are linear in the inputs; the score is their mean over valid steps, plus metadata."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.person = nn.Linear(channels, 2), nn.Linear(3, 2, bias=False)

    def forward(self, inputs: Tensor, lengths: Tensor, metadata: Tensor) -> Logits:
        mask = (torch.arange(inputs.shape[1]) < lengths[:, None])[..., None]
        steps = self.head(inputs) * mask + self.person(metadata)[:, None] * mask
        return Logits(steps, steps.sum(dim=1) / lengths[:, None])


def linear_probe() -> Probe:
    generator = torch.Generator().manual_seed(1)
    inputs, lengths = torch.randn(3, 20, 4, generator=generator), torch.tensor([20, 13, 7])
    metadata = torch.randn(3, 3, generator=generator)
    return Probe(Linear(4), inputs, (lengths, metadata), lengths, ("a", "b"), ("p", "q", "r", "s"))


def test_of_a_linear_network_gradient_times_input_is_the_whole_score() -> None:
    probe = linear_probe()
    network: Any = probe.network
    for row in range(3):
        for output in range(2):
            it = attribution(probe, row, output)
            bias = network.head.bias[output].item()
            assert it.contribution.sum() + it.beside + bias == pytest.approx(it.score, abs=1e-12)
            score = network(probe.inputs, *probe.rest).score[row, output]
            assert it.score == pytest.approx(score.item(), abs=1e-6)
            assert len(it.inputs) == int(probe.lengths[row]), "no padding"
            assert it.steps is not None
            assert it.steps.mean() == pytest.approx(it.score, abs=1e-12), "the mean of the steps is the score"
            weight = network.head.weight[output].double().detach().numpy()
            np.testing.assert_allclose(it.gradient, np.tile(weight / int(probe.lengths[row]), (len(it.gradient), 1)))


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_gradients_are_finite_differences_and_nothing_changes(kind: str) -> None:
    made = faults.training(kind, 3)
    module = made.module.train()
    batch = made.data.batch(made.data.rows["val"][:3])
    probe = module.probe(batch)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    with torch.inference_mode():  # as in a test
        it = attribution(probe, 1, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module.training
    assert all(each.requires_grad and each.grad is None for each in module.parameters())
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    twin = module.network.double().eval()
    inputs, rest = batch["inputs"].double(), (batch["lengths"], batch["metadata"].double())

    def score(time: int, channel: int, change: float) -> float:
        moved = inputs.clone()
        moved[1, time, channel] += change
        with torch.no_grad():
            return float(twin(moved, *rest).score[1, 1])

    for time in (0, len(it.inputs) // 2, len(it.inputs) - 1):
        for channel in range(inputs.shape[2]):
            slope = (score(time, channel, 1e-5) - score(time, channel, -1e-5)) / 2e-5
            assert it.gradient[time, channel] == pytest.approx(slope, rel=1e-4, abs=1e-9)
    if kind == "deepheart":
        assert it.steps is not None
        assert it.stride == module.network.stride
        assert it.steps.mean() == pytest.approx(it.score, abs=1e-9), "readout=mean"
    else:
        assert it.steps is None


def test_a_network_from_elsewhere() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    probe = adapt(network, torch.randn(2, 6, 2), outputs=("risk",))
    it = attribution(probe, 1, 0, dtype=torch.float32)
    assert it.steps is None
    assert it.contribution.sum() + network[1].bias.item() == pytest.approx(it.score, abs=1e-5)
    with pytest.raises(HeartnetError, match=r"answered \[1, 1\]; expected Logits whose score is \[1, 2\]"):
        attribution(adapt(network, torch.randn(2, 6, 2), outputs=("a", "b")), 0, 0)
    cut = adapt(network, torch.randn(2, 6, 2), outputs=("a",), logits=lambda out: Logits(None, out.detach()))
    assert not attribution(cut, 0, 0).gradient.any()


def test_weeks_are_found_again() -> None:
    batches = DataLoader([torch.full((5, 2), float(i)) for i in range(23)], batch_size=4)  # type: ignore[arg-type]
    for week, batch, row in weeks_again([batches, batches], [3, 0, 22, 23, 30]):
        assert float(batch[row, 0, 0]) == week % 23
    shuffled = DataLoader(range(9), shuffle=True, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    before = shuffled.generator.get_state()
    assert [week for week, _, _ in weeks_again(shuffled, [2, 5])] == [2, 5]
    assert torch.equal(shuffled.generator.get_state(), before)

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(HeartnetError, match="a stream"):
        list(weeks_again(DataLoader(Stream()), [1]))


@pytest.fixture(scope="module")
def cohort() -> Weeks:
    return simulate(3, 1, 0)


def test_a_trace_holds_what_a_plain_loop_finds(cohort: Weeks) -> None:
    for row in range(len(cohort)):
        trace, readings = week_trace(cohort, row), cohort.week(row)
        local = cohort.local_time[cohort.offsets[row] : cohort.offsets[row + 1]]
        seconds = (local / 1e6 - 4 * 86_400) % 604_800  # from Monday 00:00
        assert trace.calendar
        assert trace.length == 7 * 86_400
        rates: dict[int, list[float]] = {}
        for time, rate in zip(seconds, readings[:, 0], strict=True):
            if rate == rate:
                rates.setdefault(int(time * TRACE_COLUMNS / 604_800), []).append(float(rate))
        np.testing.assert_allclose(trace.centre, (np.array(sorted(rates)) + 0.5) * 604_800 / TRACE_COLUMNS)
        for name, pick in (("low", min), ("middle", np.median), ("high", max)):
            np.testing.assert_allclose(getattr(trace, name), [pick(rates[i]) for i in sorted(rates)])
        assert trace.steps.sum() == np.nansum(readings[:, 1])
        worn = sum(dt for dt in readings[:, 2].astype(float) if dt <= WEAR_GAP_SECONDS)
        lanes = trace.lanes["worn"]
        assert lanes is not None
        # Pauses of less than a column close up.
        assert worn <= (lanes[:, 1] - lanes[:, 0]).sum() + 1e-3
        for name in ("asleep", "in_workout"):
            bands = trace.lanes[name]
            assert bands is not None
            true = cohort.annotations[name][cohort.offsets[row] : cohort.offsets[row + 1]] == 1
            inside = [any(a <= time <= b for a, b in bands) for time in seconds]
            assert all(np.array(inside)[true])
            assert all(b < c for (_, b), (c, _) in pairwise(bands))


def test_odd_weeks_can_be_drawn(cohort: Weeks) -> None:
    nothing = np.full_like(cohort.readings, np.nan)
    unknown = {name: np.full(len(nothing), UNKNOWN, np.uint8) for name in ("asleep", "in_workout")}
    empty = replace(cohort, readings=nothing, annotations=unknown)
    trace = week_trace(empty, 0)
    assert trace.lanes["asleep"] is None
    assert not len(trace.steps)
    texts = [text.get_text() for ax in week_figure(trace, None, WORDS).axes for text in ax.texts]
    assert texts.count("not recorded") == 2
    later = replace(cohort, table=cohort.table.with_columns(pl.col("start").dt.offset_by("1h")))
    run = week_trace(later, 0)
    assert not run.calendar
    assert run.time[0] == 0
    assert run.length == pytest.approx(run.time[-1])
    week_figure(run, None, WORDS)
    for count in (1, 2):  # readings
        one = replace(
            cohort, offsets=np.array([0, count]), table=later.table[:1], readings=cohort.readings[:count],
            local_time=cohort.local_time[:count], annotations={},
        )  # fmt: skip
        week_figure(week_trace(one, 0), None, WORDS)


WORDS = Words("Title", "about", simulated=True)


def drawn(trace: WeekTrace | None, channels: int = 3, time: int = 50, **changes: Any) -> Any:
    rng = np.random.default_rng(0)
    time = time if trace is None or "inputs" in changes else len(trace.inside)
    values: dict[str, Any] = {
        "output": "risk", "channels": tuple(f"channel_{i}" for i in range(channels)), "score": 1.0,
        "inputs": rng.normal(size=(time, channels)), "gradient": rng.normal(size=(time, channels)),
        "steps": rng.normal(size=-(-time // 2)), "stride": 2, "beside": 0.5,
    }  # fmt: skip
    it = Attribution(**{**values, **changes})
    return it, week_figure(trace, it, WORDS, threshold=0.2)


def test_strips_hold_every_bit_of_the_attribution(cohort: Weeks) -> None:
    trace = week_trace(cohort, 1)
    it, figure = drawn(trace)
    strips = figure.axes[-1]
    image = strips.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(np.nansum(image, axis=1), it.contribution[trace.inside].sum(axis=0))
    at = np.random.default_rng(1).choice(len(trace.time))
    column = int(trace.time[at] / trace.length * image.shape[1])
    near = (trace.time / trace.length * image.shape[1]).astype(int) == column
    np.testing.assert_allclose(image[:, column], it.contribution[trace.inside][near].sum(axis=0))
    assert [each.get_text() for each in strips.get_yticklabels()] == [
        "channel 0",
        "channel 1",
        "channel 2",
        "|gradient|",
    ]
    numbers = {each.get_text() for each in strips.texts}
    assert {f"{total:+.2g}" for total in it.contribution.sum(axis=0)} == numbers
    assert "simulated" in [each.get_text() for each in figure.texts]
    assert any("+0.5" in each.get_text() for each in figure.texts)


def test_many_channels_share_a_strip_and_foreign_weeks_are_drawn_as_seen(cohort: Weeks) -> None:
    it, figure = drawn(None, channels=9)
    image = figure.axes[-1].images[0].get_array()
    assert image.shape[0] == 6
    assert image.sum() == pytest.approx(it.contribution.sum())
    assert "4 others" in [each.get_text() for each in figure.axes[-1].get_yticklabels()]
    trace = week_trace(cohort, 0)
    it, figure = drawn(trace, inputs=np.ones((168, 3)), gradient=np.ones((168, 3)), steps=None)
    assert len(figure.axes) == 3, "hours cannot stand along readings"
    figure = week_figure(trace, it, WORDS, hourly=True)
    assert figure.axes[-1].images[0].get_array().shape == (3, 168)
    drawn(None, time=1)
    drawn(None, gradient=np.zeros((50, 3)))


def test_words_over_a_picture(tmp_path: Path) -> None:
    it = wins_and_losses(written(tmp_path, [0, 1, 2, 3], [0, 0, 1, 1], [0.9, 0.1, 0.8, 0.2]), "risk")
    row = it.table.row(0, named=True) | {"age": 61.0, "sex": "male", "bmi": 27.25, "wear_hours": 101.0}
    formula = words_of(row | {"user_id": "$\\frac{$\nx"}, it, "val", simulated=True, step=0)
    ones = np.ones((3, 1))
    figure = week_figure(None, Attribution("$b", ("$\\frac{$",), 0.0, ones, ones, None, 1, 0.0), formula)
    figure.canvas.draw()
    assert "$\\frac{$ x  ·" in [each.get_text() for each in figure.texts][1]
    words = words_of(row, it, "val", simulated=True, step=1200)
    assert words.title == "Risk, worst false positive, 1 of 1: scored 0.9, has it not"
    assert words.about == "u0  ·  male  ·  61 years  ·  BMI 27.2  ·  worn 101 h  ·  val split  ·  step 1,200"
