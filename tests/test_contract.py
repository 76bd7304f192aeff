"""The measurements of the input contract against naive loops, other libraries and chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from heartnet.account import Account
from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.contract import Contract
from heartnet.diagnostics.contract_batches import QUANTILES, LabelTally, Parts, Tally, parts_of
from heartnet.diagnostics.contract_checks import _auroc, _luck, check_between, check_labels, check_leak
from heartnet.diagnostics.contract_data import Held, check_data, duplicates
from heartnet.diagnostics.look_ahead import look_ahead
from heartnet.diagnostics.round_trip import RoundTrip
from heartnet.findings import Finding
from heartnet.scaling import Scaling
from heartnet.tasks import Conditions
from heartnet.weeks import Weeks

MakeWeeks = Callable[..., Weeks]


def held_by(data: WeeksDataModule, **changes: Any) -> Held:
    held = Held(data.weeks, data.rows, data.targets, "conditions", data.values, data.scaling,
                mask_channel=data.mask_channel, split_by=data.split_by)  # fmt: skip
    return replace(held, **changes)


def places(found: list[Finding]) -> set[str]:
    return {each.where for each in found}


# Batches taken apart.


def test_parts_of_batches_of_all_kinds() -> None:
    x, y = torch.randn(4, 30, 3), torch.tensor([0, 1, 1, 0])
    for batch in ({"x": x, "y": y}, (x, y), [x, y], ((x,), y), {"lengths": torch.full((4,), 30), "target": y, "z": x}):
        parts = parts_of(batch)
        assert parts.inputs is x or torch.equal(parts.inputs, x)  # type: ignore[arg-type]
        assert parts.targets is not None
        assert parts.targets.tolist() == [[0], [1], [1], [0]]
        assert parts.weeks == 4
    assert parts_of(x).targets is None
    assert parts_of({"a": "text"}).weeks == 0
    assert parts_of(None) == Parts(None, None, None, None, None, 0)
    shapes = {(5,): (4, 1, 5), (3, 30): (4, 30, 3), (3, 8, 9): (4, 72, 3), (30, 3): (4, 30, 3)}
    for shape, expected in shapes.items():
        inputs = parts_of((torch.zeros(4, *shape), y)).inputs
        assert inputs is not None
        assert tuple(inputs.shape) == expected
    assert parts_of((torch.zeros(4, 3, dtype=torch.long), y)).inputs is None
    short = parts_of({"inputs": torch.zeros(2, 2, 3), "lengths": torch.tensor([2, 1])})
    assert short.valid is not None
    assert short.valid.tolist() == [[True, True], [True, False]]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_running_sums_against_plain_loops(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    channels, targets = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    tally, every, labels = Tally(sketch=True), [], []
    for _ in range(data.draw(st.integers(1, 4))):
        count, time = int(rng.integers(1, 5)), int(rng.integers(1, 50))
        values = (rng.normal(3, 10, (count, time, channels)) * (rng.random((count, time, channels)) < 0.8)).astype("f4")
        values[rng.random(values.shape) < 0.05] = rng.choice([np.nan, np.inf, -np.inf])
        lengths = rng.integers(1, time + 1, count)
        label = np.where(rng.random((count, targets)) < 0.2, np.nan, rng.integers(0, 3, (count, targets)))
        tally.add(parts_of({"inputs": torch.from_numpy(values), "lengths": torch.from_numpy(lengths),
                            "targets": torch.from_numpy(label)}))  # fmt: skip
        every += [values[i, : lengths[i]].astype(np.float64) for i in range(count)]
        labels.append(label)
    read = tally.read()
    assert read is not None
    assert read.weeks == len(every)
    for c in range(channels):
        flat = np.concatenate([week[:, c] for week in every])
        finite = flat[np.isfinite(flat)]
        assert (read.bad[c], read.count[c]) == (len(flat) - len(finite), len(finite))
        assert read.zeros[c] == (finite == 0).sum()
        if len(finite):
            expected = [finite.mean(), finite.std(), finite.min(), finite.max()]
            found = [read.mean[c], read.std[c], read.lowest[c], read.highest[c]]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)
        for i, week in enumerate(every):
            own = week[np.isfinite(week[:, c]), c]
            if len(own):
                np.testing.assert_allclose(read.summaries[i, c, :3], [own.mean(), own.min(), own.max()], rtol=1e-9)
                at = (np.arange(QUANTILES) + 0.5) / QUANTILES * len(own)
                np.testing.assert_array_equal(read.sketches[i, c], np.sort(own)[at.astype(int)])
    together = np.concatenate(labels)
    np.testing.assert_array_equal(read.known, (~np.isnan(together)).sum(axis=0))
    np.testing.assert_array_equal(read.positive, (together == 1).sum(axis=0))
    np.testing.assert_array_equal(read.other, (together == 2).sum(axis=0))


def test_correlations_against_numpy() -> None:
    values = torch.randn(5, 100, 3) @ torch.randn(3, 3) + 5
    tally = Tally()
    for each in values:
        tally.add(parts_of(each[None]))
    read = tally.read()
    assert read is not None
    np.testing.assert_allclose(read.correlation, np.corrcoef(values.reshape(-1, 3).double().numpy().T), atol=1e-9)


def test_very_large_inputs_are_thinned_but_every_nan_is_found() -> None:
    images = torch.rand(8, 3, 400, 400)
    images[7, 2, 399, 399] = torch.nan
    tally = Tally()
    tally.add(parts_of(images))
    read = tally.read()
    assert read is not None
    assert read.bad.tolist() == [0, 0, 1]
    np.testing.assert_allclose(read.mean, 0.5, atol=0.01)


# Verdicts.


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_auroc_against_sklearn(seed: int, positive: int, negative: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=positive + negative)
    values = np.round(values) if ties else values
    labels = np.arange(positive + negative) < positive
    assert _auroc(values, labels) == pytest.approx(roc_auc_score(labels, values))


def test_luck_of_a_perfect_ranking() -> None:
    assert _luck(1.0, 3, 4) == pytest.approx(2 / math.comb(7, 3))
    # Drawn: with 6 and 8, an AUROC of 0.85 or more (or 0.15 or less).
    rng = np.random.default_rng(0)
    labels = np.arange(14) < 6
    areas = np.array([_auroc(rng.normal(size=14), labels) for _ in range(20_000)])
    assert _luck(0.85, 6, 8) == pytest.approx((np.abs(areas - 0.5) >= 0.35).mean(), rel=0.35)


def leaks(rng: np.random.Generator, weeks: int, strength: float, suspects: str = "") -> list[Finding]:
    labels = (rng.random((weeks, 4)) < 0.3).astype(float)
    summaries = rng.normal(size=(weeks, 4, 5))
    summaries[:, 3] += strength * labels[:, :1]
    return check_leak("abcd", "wxyz", summaries, labels, np.arange(weeks), suspects, "fail")


def test_a_leak_is_found_and_a_strong_marker_is_none() -> None:
    rng = np.random.default_rng(0)
    for weeks in (48, 64, 300):
        assert all(places(leaks(rng, weeks, 100.0, "d")) == {"w/d"} for _ in range(20))
    # AUROC 0.90 in the population: never called a leak; nor is chance, however few weeks there are.
    assert not any(leaks(rng, weeks, 1.8) for weeks in (24, 64, 300) for _ in range(40))
    assert not any(leaks(rng, weeks, 0.0) for weeks in (2, 5, 8, 12, 24) for _ in range(60))


def test_weeks_of_one_person_count_once() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(8), 30)
    labels = (people < 2).astype(float)[:, None]
    summaries = rng.normal(size=(240, 1, 5)) * 0.01 + np.where(people < 2, 20 + people, people)[:, None, None]
    assert places(check_leak("a", "w", summaries, labels, np.arange(240), (), "fail")) == {"w/a"}
    assert check_leak("a", "w", summaries, labels, people, (), "fail") == []


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.permutations(range(4)))
def test_permuted_labels_are_named(seed: int, weeks: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    names = ["atrial_fibrillation", "sleep_apnea", "diabetes", "hypertension"]
    columns = np.where(rng.random((weeks, 4)) < 0.1, np.nan, rng.random((weeks, 4)) < 0.4).astype(np.float32)
    tally = LabelTally(columns, np.zeros(weeks, np.int64), 0)
    rows = rng.permutation(weeks)
    for part in np.array_split(rows, 3):
        if len(part):
            tally.add(
                Parts(None, None, torch.from_numpy(columns[part][:, order]), torch.from_numpy(part), None, len(part))
            )
    read = tally.read()
    assert read is not None
    found = {each.where: each.message for each in check_labels("val", names, names, read, weeks)}
    for i, source in enumerate(order):
        differs = not np.array_equal(columns[:, i], columns[:, source], equal_nan=True)
        assert (f"val/{names[i]}" in found) == differs
        if differs:
            assert names[source] in found[f"val/{names[i]}"].partition(": the column holds ")[2]
    assert sum(each.endswith(f"of {weeks:,} weeks") for each in found.values()) == 0


def test_weeks_of_another_split_and_of_none() -> None:
    tally = LabelTally(np.zeros((6, 1), np.float32), np.array([0, 0, 0, 1, 1, -1]), 0)
    tally.add(Parts(None, None, torch.zeros(5, 1), torch.tensor([0, 3, 5, 77, -2]), None, 5))
    read = tally.read()
    assert read is not None
    assert read[2] == 4
    assert "val/index" in places(check_labels("val", ["a"], ["a"], read, 5))


@pytest.mark.parametrize("size", [1, 3, 10, 60, 300])
def test_splits_of_the_same_people_are_alike(size: int) -> None:
    """Weeks with levels and swings of their own: no alarm in 40 draws."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        weeks = rng.normal(size=(100 + size, 50, 2)) * np.exp(rng.normal(size=(100 + size, 1, 2)) * 0.5)
        weeks += rng.normal(size=(100 + size, 1, 2))
        tallies = [Tally(sketch=True), Tally(sketch=True)]
        for tally, part in zip(tallies, (weeks[:100], weeks[100:]), strict=True):
            tally.add(parts_of(torch.from_numpy(part)))
        train, val = (tally.read() for tally in tallies)
        assert train is not None
        assert val is not None
        assert check_between("val", "ab", train, val) == []


# The data.


def test_clean_weeks_pass(make_weeks: MakeWeeks) -> None:
    for seed in range(20):
        data = WeeksDataModule(make_weeks(seed=seed), Conditions(), split_seed=seed)
        assert check_data(held_by(data)) == []


def test_readings_at_even_steps_are_no_fault(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks()
    readings = weeks.readings.copy()
    readings[~np.isnan(readings[:, 2]), 2] = 60
    local = np.arange(len(readings)) * 60_000_000
    data = WeeksDataModule(replace(weeks, readings=readings, local_time=local), Conditions())
    contract = Contract(held_by(data))
    assert contract.begin() == contract.ahead("train", look_ahead(data.train_dataloader(), 9)) == []


def test_the_account_of_the_preparation(make_weeks: MakeWeeks) -> None:
    data = WeeksDataModule(make_weeks(), Conditions())
    for dropped, status in ((30, None), (60, "warn"), (1000, "fail")):
        account = Account()
        account.add("weeks", "in", 36 + dropped)
        account.add("weeks", "dropped: worn less than 24 h", dropped)
        account.add("weeks", "left", 36)
        found = check_data(held_by(data, account=account))
        assert [each.status for each in found] == ([] if status is None else [status])
    account = Account()
    account.add("weeks", "left", 400)
    found = check_data(held_by(data, account=account))
    assert [(each.where, each.status) for each in found] == [("rows/store", "fail")]


def test_rows_in_no_split_twice_and_in_two(make_weeks: MakeWeeks) -> None:
    data = WeeksDataModule(make_weeks(), Conditions())
    rows = dict(data.rows)
    fewer = held_by(data, rows={**rows, "train": rows["train"][1:]})
    assert places(check_data(fewer)) == {"rows/filtered"}
    twice = held_by(data, rows={**rows, "val": np.append(rows["val"], rows["val"][0])})
    assert places(check_data(twice)) == {"val/rows"}
    both = held_by(data, rows={**rows, "val": np.append(rows["val"], rows["train"][0])})
    assert places(check_data(both)) == {"people/train+val"}
    assert "1 of them with the very same weeks" not in check_data(fewer)[0].message
    assert "with the very same weeks" in check_data(both)[0].message


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 5))
def test_duplicates_against_every_pair(make_weeks: MakeWeeks, seed: int, copies: int) -> None:
    weeks = make_weeks(seed=seed, shortest=16, longest=20)
    rng = np.random.default_rng(seed)
    source = np.concatenate([np.arange(len(weeks)), rng.integers(0, len(weeks), copies)])
    rng.shuffle(source)
    parts = [weeks.week(int(i)) for i in source]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    again = replace(weeks, readings=np.concatenate(parts), offsets=offsets)
    expected = {(int(np.flatnonzero(source == source[j])[0]), j) for j in range(len(source)) if source[j] in source[:j]}
    assert set(duplicates(again, np.arange(len(source)))) == expected


# The round trip.


def test_scaling_back(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(missing=0.2)
    data = WeeksDataModule(weeks, Conditions())
    back = data.scaling.invert(data.scaling.apply(weeks.readings))
    known = ~np.isnan(weeks.readings)
    np.testing.assert_allclose(back[known], weeks.readings[known], rtol=1e-5, atol=1e-4)
    center = np.array(data.scaling.mean)
    center[1:] = np.expm1(center[1:])
    np.testing.assert_allclose(back[~known], np.broadcast_to(center, back.shape)[~known])
    assert np.isinf(Scaling((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, (1.0,) * 3).invert(np.array([[70.0, 2000, 5]]))[0, 1])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_week_comes_back_and_any_change_is_found(make_weeks: MakeWeeks, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10**6))
    module = WeeksDataModule(
        make_weeks(seed=seed, missing=data.draw(st.sampled_from([0.0, 0.1, 0.5]))),
        Conditions(),
        mask_channel=data.draw(st.booleans()),
    )
    rows = np.random.default_rng(seed).permutation(module.rows["train"])[: data.draw(st.integers(1, 9))]
    batch = module.batch(rows)
    trip = RoundTrip(held_by(module))
    assert trip.compare("train", [parts_of(batch)]) == []
    assert trip.weeks == len(rows)
    assert trip.readings == int(batch["lengths"].sum())
    assert max(trip.worst.values()) < 0.01
    week = data.draw(st.integers(0, len(rows) - 1))
    time = data.draw(st.integers(0, batch["inputs"].shape[1] - 1))
    channel = data.draw(st.integers(0, batch["inputs"].shape[2] - 1))
    batch["inputs"][week, time, channel] += data.draw(st.sampled_from([0.05, -0.5, 3.0, float("nan")]))
    assert len(trip.compare("train", [parts_of(batch)])) >= 1
    assert not trip.ok


def test_each_order_of_channels_is_named(make_weeks: MakeWeeks) -> None:
    data = WeeksDataModule(make_weeks(missing=0.0), Conditions())
    batch = data.batch(data.rows["train"][:8])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        order = [0, 1, 2]
        order[one], order[other] = other, one
        swapped = {**batch, "inputs": batch["inputs"][..., order]}
        found = RoundTrip(held_by(data)).compare("val", [parts_of(swapped)])
        names = data.scaling.channels
        assert places(found) == {f"val/{names[one]}+{names[other]}"}
    turned = {**batch, "inputs": batch["inputs"][..., [1, 2, 0]]}
    found = RoundTrip(held_by(data)).compare("val", [parts_of(turned)])
    assert [each.message for each in found] == [
        "in val, heart_rate holds steps", "in val, steps holds dt", "in val, dt holds heart_rate",
    ]  # fmt: skip


def test_a_contract_without_a_trainer(make_weeks: MakeWeeks) -> None:
    """From a notebook: batches in, findings out, each said once."""
    data = WeeksDataModule(make_weeks(), Conditions())
    contract = Contract(held_by(data))
    assert contract.begin() == []
    for epoch in range(2):
        found = []
        for i, batch in enumerate(data.train_dataloader()):
            if epoch:
                batch["inputs"][0, 0, 0] = torch.nan
            found += contract.see("train", batch, first=i == 0)
        last, numbers = contract.end("train", len(data.train_dataloader()))
        assert places(found + last) == ({"train/heart_rate/nan"} if epoch else set())
        assert len(found) == epoch
        assert numbers["train/weeks"] == len(data.rows["train"])
    assert places(contract.passes()) == {"rows", "people", "labels"}


# Looking ahead.


def test_looking_ahead_shows_what_will_be_served() -> None:
    data = TensorDataset(torch.arange(40.0)[:, None])
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))
    ahead = look_ahead(loader, 100)
    again = look_ahead(loader, 100)
    assert [index for index, _ in ahead] == [index for index, _ in again]
    assert sorted(place for index, _ in ahead for place in index) == list(range(40))
    assert all(batch[0].flatten().tolist() == index for index, batch in ahead)
    assert torch.equal(loader.generator.get_state(), torch.Generator().manual_seed(1).get_state())
    plain = DataLoader(data, batch_size=7)
    assert [batch[0].tolist() for _, batch in look_ahead(plain, 9)] == [batch[0].tolist() for batch in plain]
    assert len(look_ahead(loader, 3)) == 3
    few = DataLoader(data, batch_size=4, sampler=SubsetRandomSampler([1, 2, 3]))
    assert sorted(look_ahead(few, 8)[0][0]) == [1, 2, 3]
    assert look_ahead(loader, 0) == look_ahead([1, 2], 3) == look_ahead(DataLoader(data, batch_sampler=[]), 3) == []


def test_a_sampler_without_end_and_a_data_set_that_cannot_be_read_here() -> None:
    class Endless:
        def __iter__(self) -> Any:
            while True:
                yield [0, 1]

    class Closed(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            raise OSError("opened in the workers only")

    assert len(look_ahead(DataLoader(TensorDataset(torch.zeros(2, 1)), batch_sampler=Endless()), 4)) == 4
    assert look_ahead(DataLoader(Closed(torch.zeros(2, 1))), 4) == []
