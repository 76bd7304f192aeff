"""What pretraining sees and learns: weeks of nobody who is held out, features, the decoder, going on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from faults import training, weeks
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from heartnet.datamodule import SimulatedData, StoredData, WeeksDataModule
from heartnet.diagnostics.adapt import guess_probe
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.errors import HeartnetError
from heartnet.hourly import HOURS
from heartnet.model.autoencoder import SequenceDecoder
from heartnet.pretraining import Encoder, Look, evaluate, hand_over, means_explain, pretrain, read_state
from heartnet.pretraining_objectives import Rebuild, TargetsHead, make_objective
from heartnet.pretraining_verdict import account, verdict
from heartnet.pretraining_weeks import PretrainingRows, PretrainingWeeks, Used
from heartnet.store import write_store
from heartnet.tasks import Conditions
from heartnet.weeks import Weeks

MakeWeeks = Callable[..., Weeks]


def pretraining_weeks(data: WeeksDataModule, **options: Any) -> PretrainingWeeks:
    return PretrainingWeeks(data, **{"val_share": 0.2, "batch_size": 4, "seed": 0, **options})


def own_encoder(module: Any) -> Encoder:
    return Encoder(module, None, lambda module, batch: module.probe(batch))  # type: ignore[operator]


def seen_by(found: PretrainingWeeks) -> list[tuple[int, int]]:
    return sorted(zip(found.source.tolist(), found.row.tolist(), strict=True))


def people_of(data: WeeksDataModule, *splits: str) -> set[str]:
    return {name for split in splits for name in data.weeks.table["user_id"][data.rows[split]]}


# Which weeks


def test_nobody_of_validation_and_test_is_seen_and_who_is_left_out_is_counted(make_weeks: MakeWeeks) -> None:
    labelled = make_weeks(users=20, missing=0.5)
    # The second store has five people more, and all of the first under their names.
    second = make_weeks(users=25, seed=1)
    data = WeeksDataModule(labelled, Conditions(), unlabelled=second, labelled_share=0.3)
    found = pretraining_weeks(data)
    held = people_of(data, "val", "test")
    assert held
    names = [found.sources[source].table["user_id"][row] for source, row in seen_by(found)]
    assert not held & set(names)
    expected = {(0, i) for i, name in enumerate(labelled.table["user_id"]) if name not in held}
    expected |= {(1, i) for i, name in enumerate(second.table["user_id"]) if name not in held}
    assert seen_by(found) == sorted(expected)
    without_target = labelled.table.select(pl.all_horizontal(pl.col(labelled.conditions).is_null())).to_series()
    left_out = [name for name, none in zip(labelled.table["user_id"], without_target, strict=True) if none]
    left_out += second.table["user_id"].to_list()
    left_out = [name for name in left_out if name in held]
    assert without_target.sum() > 0
    assert (found.used.left_out_weeks, found.used.left_out_people) == (len(left_out), len(set(left_out)))
    assert found.used.weeks == len(expected)
    assert found.used.people == len(set(names))
    assert found.used.labelled_people == len(people_of(data, "train"))
    assert found.used.labelled_weeks == len(data.rows["train"])
    assert f"{len(left_out)} unlabelled weeks, of {len(set(left_out))} people, belong to" in str(found.used)


def test_split_by_week_leaves_out_the_very_weeks(make_weeks: MakeWeeks) -> None:
    only = make_weeks(users=1, weeks_each=12, missing=0.0)
    data = WeeksDataModule(only, Conditions(), split_by="week", unlabelled=only)
    found = pretraining_weeks(data)
    assert found.used.people == 1
    assert {row for source, row in seen_by(found) if source == 1} == set(data.rows["train"].tolist())
    assert 0 < found.is_val.sum() < len(found.is_val)


def test_the_weeks_do_not_depend_on_whose_labels_are_used(make_weeks: MakeWeeks) -> None:
    prints = [
        pretraining_weeks(WeeksDataModule(make_weeks(users=20), Conditions(), labelled_share=share)).fingerprint()
        for share in (0.1, 0.5, 1.0)
    ]
    assert len(set(prints)) == 1
    other = make_weeks(users=20)
    readings = other.readings.copy()
    readings[other.offsets[WeeksDataModule(other, Conditions()).rows["train"][0]]] += 0.5
    changed = WeeksDataModule(replace(other, readings=readings), Conditions())
    changed.scaling = WeeksDataModule(other, Conditions()).scaling
    assert pretraining_weeks(changed).fingerprint() not in prints
    assert pretraining_weeks(WeeksDataModule(other, Conditions()), seed=1).fingerprint() not in prints


def test_people_are_kept_apart_whole_and_an_epoch_has_each_week_once(make_weeks: MakeWeeks) -> None:
    data = WeeksDataModule(make_weeks(users=20), Conditions(), unlabelled=make_weeks(users=30, seed=1))
    found = pretraining_weeks(data)
    who = np.array([found.sources[s].table["user_id"][int(r)] for s, r in zip(found.source, found.row, strict=True)])
    assert not set(who[found.is_val]) & set(who[~found.is_val])
    for batches, part in ((found.train(0), ~found.is_val), (found.val(), found.is_val)):
        places = torch.cat([batch["place"] for batch in batches])
        assert sorted(places.tolist()) == np.flatnonzero(part).tolist()
    one, other = ([batch["place"].tolist() for batch in found.train(epoch)] for epoch in (0, 1))
    assert one != other
    assert len(one) == found.batches


@pytest.mark.parametrize("view", ["readings", "hourly"])
def test_a_batch_is_what_the_data_module_serves(make_weeks: MakeWeeks, view: Any) -> None:
    data = WeeksDataModule(make_weeks(missing=0.2), Conditions(), view=view, mask_channel=True, batch_size=4)
    found = pretraining_weeks(data)
    for batch in found.val():
        rows = found.row[batch["place"]]
        served = data.batch(rows)
        for name in ("inputs", "lengths", "metadata"):
            np.testing.assert_array_equal(batch[name], served[name])
        for i, row in enumerate(rows):
            week = data.seen(int(row))
            assert len(week) == batch["lengths"][i] == (HOURS if view == "hourly" else len(data.weeks.week(row)))
            np.testing.assert_array_equal(batch["known"][i, : len(week), :-1], ~np.isnan(week))
            assert batch["known"][i, : len(week), -1].all()
            assert not batch["known"][i, len(week) :].any()


def test_more_weeks_from_a_store_and_more_people_simulated(tmp_path: Path, make_weeks: MakeWeeks) -> None:
    write_store(make_weeks(users=12), tmp_path / "labelled")
    write_store(make_weeks(users=15, seed=1), tmp_path / "more")
    data = StoredData(Conditions(), path=tmp_path / "labelled", unlabelled_path=tmp_path / "more")
    assert {source for source, _ in seen_by(pretraining_weeks(data))} == {0, 1}
    drawn = SimulatedData(Conditions(), users=5, weeks_per_user=2, unlabelled_users=3)
    alone = SimulatedData(Conditions(), users=5, weeks_per_user=2)
    assert drawn.unlabelled is not None
    assert len(drawn.unlabelled) == 6
    np.testing.assert_array_equal(drawn.weeks.readings, alone.weeks.readings)
    assert drawn.weeks.table.equals(alone.weeks.table)
    assert not set(drawn.unlabelled.table["user_id"]) & set(drawn.weeks.table["user_id"])
    np.testing.assert_array_equal(drawn.unlabelled.week(5), drawn.unlabelled.readings[drawn.unlabelled.offsets[5] :])
    with pytest.raises(HeartnetError, match="unlabelled_users=-1"):
        SimulatedData(Conditions(), users=5, weeks_per_user=1, unlabelled_users=-1)


# The network without its last layer


@pytest.mark.parametrize("readout", ["mean", "last", "midpoint", "both_ends"])
def test_features_are_what_the_last_layer_makes_scores_of(readout: str) -> None:
    it = training("deepheart")
    it.module.network.readout = readout
    batch = next(iter(it.data.val_dataloader()))
    encoder = own_encoder(it.module).eval()
    it.module.eval()
    with torch.no_grad():
        features, _ = encoder(batch)
        score = it.module(batch).score
    head = it.network.head
    torch.testing.assert_close(features @ head.weight[:, :, 0].T + head.bias, score)


def test_a_head_that_adds_metadata_has_no_features() -> None:
    it = training("hourly")
    network = it.network
    network.metadata_logit = torch.nn.Linear(it.data.metadata_size, 2, bias=False)
    encoder = own_encoder(it.module).eval()
    it.module.eval()
    batch = next(iter(it.data.val_dataloader()))
    with torch.no_grad():
        features, _ = encoder(batch)
        score = it.module(batch).score - network.metadata_logit(batch["metadata"])
    torch.testing.assert_close(network.head(features), score)
    assert not {name for name in encoder.weights() if "head" in name or "metadata_logit" in name}


def test_weights_go_over_and_the_last_layer_stays() -> None:
    it, other = training("deepheart", seed=0), training("deepheart", seed=1)
    before = {name: value.clone() for name, value in it.module.state_dict().items()}
    encoder = own_encoder(it.module)
    assert encoder.weights() == {}
    state = {name: value for name, value in other.module.state_dict().items() if name in encoder.first}
    encoder.module.load_state_dict(state)
    weights = encoder.weights()
    parameters = dict(it.module.named_parameters())
    hand_over(weights, it.module)
    assert all(parameters[name] is each for name, each in it.module.named_parameters())
    for name, value in it.module.state_dict().items():
        assert torch.equal(value, before[name] if ".head." in name else other.module.state_dict()[name]), name
    assert any(not torch.equal(before[name], value) for name, value in weights.items())


def test_a_last_layer_that_is_not_known_is_asked_for() -> None:
    it = training("image")
    with pytest.raises(HeartnetError, match=r"last layer of ImageNetwork.*last_layer='network\.8'"):
        Encoder(it.module, None, guess_probe)
    with pytest.raises(HeartnetError, match=r"has no such layer.*network\.8"):
        Encoder(it.module, "network.9", guess_probe)


# What is learned


def test_the_decoder_does_not_look_at_how_far_it_has_to_go() -> None:
    torch.manual_seed(0)
    decoder = SequenceDecoder(5, 3, longest=100, steps=16)
    features = torch.randn(4, 5)
    assert decoder.block == 7
    whole = decoder(features, 100)
    assert whole.shape == (4, 100, 3)
    torch.testing.assert_close(decoder(features, 37), whole[:, :37])


class Sines:
    """Sequences that are sines of an amplitude and a phase each, of different lengths, in part missing."""

    batches = 6

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        amplitude, phase = torch.rand(60, 1, generator=generator) + 0.5, 6.28 * torch.rand(60, 1, generator=generator)
        self.inputs = (amplitude * (torch.arange(40) / 6 + phase).sin())[:, :, None]
        self.lengths = torch.randint(20, 41, (60,), generator=generator)
        self.known = torch.rand(self.inputs.shape, generator=generator) > 0.1

    def _rows(self, first: int, end: int) -> Iterator[dict[str, torch.Tensor]]:
        for i in range(first, end, 8):
            rows = slice(i, min(i + 8, end))
            yield {"inputs": self.inputs[rows], "lengths": self.lengths[rows], "known": self.known[rows]}

    def train(self, epoch: int) -> Iterator[Any]:
        del epoch
        return self._rows(0, 48)

    def val(self) -> Iterator[Any]:
        return self._rows(48, 60)


class Reader(torch.nn.Module):
    """Stands for an encoder: two numbers, amplitude times cosine and sine of the phase, found by least squares."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(40, 8)

    def forward(self, batch: Any) -> tuple[torch.Tensor, Any]:
        probe = SimpleNamespace(inputs=batch["inputs"], lengths=batch["lengths"])
        return self.linear(batch["inputs"][:, :, 0]), probe

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}


def sines_pretrained(max_epochs: int = 60, **options: Any) -> Any:
    torch.manual_seed(0)
    encoder, objective = Reader(), Rebuild(8, ["level"], 40)
    encoder_: Any = encoder
    return pretrain(
        encoder_, objective, Sines(), max_epochs=max_epochs, patience=max_epochs, learning_rate=1e-2, **options
    ), (encoder, objective)


def test_an_easy_signal_is_rebuilt() -> None:
    outcome, _ = sines_pretrained()
    assert outcome.best.explained["level"] > 0.9
    assert verdict(outcome, "autoencoder", 60, own=True, means=0.2).status == "pass"


def test_missing_and_padded_readings_do_not_count() -> None:
    _, (encoder, objective) = sines_pretrained(1)
    easy: Any = Sines()
    expected = evaluate(encoder, objective, easy.val())
    for i, length in enumerate(easy.lengths):
        spoilt = ~easy.known[i]
        spoilt[length:] = True
        easy.inputs[i][spoilt] = 1e4
    kept = encoder.forward
    clean: Any = iter(Sines().val())
    encoder.forward = lambda batch: (kept(next(clean))[0], kept(batch)[1])
    assert evaluate(encoder, objective, easy.val()) == expected


def test_the_share_explained_against_a_naive_count() -> None:
    class Fixed(torch.nn.Module):
        names = ("a", "b")

        def forward(self, features: Any, probe: Any, batch: Any) -> Any:
            del features, probe
            return batch

    rng = np.random.default_rng(0)
    truth, guess = rng.normal(3, 2, (30, 2)), rng.normal(3, 2, (30, 2))
    truth[rng.random(truth.shape) < 0.3] = np.nan
    parts: Any = [(torch.from_numpy(guess[i : i + 7]), torch.from_numpy(truth[i : i + 7])) for i in range(0, 30, 7)]

    class Nothing(torch.nn.Module):
        def forward(self, batch: Any) -> Any:
            del batch
            return None, None

    loss, explained = evaluate(Nothing(), Fixed(), iter(parts))  # type: ignore[arg-type]
    assert loss == pytest.approx(np.nanmean((guess - truth) ** 2))
    for i, name in enumerate("ab"):
        known = ~np.isnan(truth[:, i])
        y, p = truth[known, i], guess[known, i]
        assert explained[name] == pytest.approx(1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_targets_stand_in_their_own_deviations_and_those_that_are_the_same_everywhere_go(
    make_weeks: MakeWeeks, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pretraining_weeks(WeeksDataModule(make_weeks(), Conditions()))
    table = np.random.default_rng(0).normal(7, 3, (len(found.row), 3)).astype(np.float32)
    table[:, 1] = 5.0
    table[::4, 2] = np.nan
    monkeypatch.setattr(PretrainingWeeks, "targets", lambda *_: table)

    def encode(batch: Any) -> tuple[torch.Tensor, Any]:
        return batch["inputs"].mean(dim=1), None

    made = make_objective("heuristic", encode, found, ["a", "b", "c"])
    assert isinstance(made, TargetsHead)
    assert made.names == ("a", "c")
    batches = list(found.train(0))
    truth = torch.cat([made(*encode(batch), batch)[1] for batch in batches])
    np.testing.assert_allclose(np.nanmean(truth, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(truth, axis=0), 1, rtol=1e-5)
    batch = batches[0]
    expected = (table[batch["place"]][:, [0, 2]] - made.mean.numpy()) / made.std.numpy()
    np.testing.assert_allclose(made(*encode(batch), batch)[1], expected, rtol=1e-5)


# Going on


def test_going_on_after_an_interruption_is_exact_also_within_an_epoch(tmp_path: Path) -> None:
    whole, _ = sines_pretrained(6, file=tmp_path / "whole.ckpt")

    class Stopped(BaseException):
        pass

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (3, 4):
            raise Stopped

    file = tmp_path / "part.ckpt"
    with pytest.raises(Stopped):
        sines_pretrained(6, file=file, progress=stop)
    with rng_untouched():
        torch.manual_seed(99)
        torch.rand(7)
        went_on, _ = sines_pretrained(6, file=file)
    assert went_on.begun_at == 3
    assert went_on.best == whole.best
    assert all(torch.equal(went_on.weights[name], value) for name, value in whole.weights.items())
    again, _ = sines_pretrained(6, file=file)
    assert (again.begun_at, again.epochs, again.best) == (6, 6, whole.best)
    assert all(torch.equal(again.weights[name], value) for name, value in whole.weights.items())
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_of_another_pretraining_or_a_damaged_one_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "one.ckpt"
    sines_pretrained(2, file=file, fingerprint="one")
    assert read_state(file, "one") is not None
    assert read_state(file, "other") is None
    other, _ = sines_pretrained(2, file=file, fingerprint="other")
    assert other.begun_at == 0
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    file.write_bytes(damaged)
    assert read_state(file, "other") is None
    assert read_state(tmp_path / "none.ckpt", "") is None


def test_it_stops_early_and_keeps_the_best_epoch() -> None:
    seen: list[Look] = []
    torch.manual_seed(0)
    encoder: Any = Reader()
    outcome = pretrain(
        encoder, Rebuild(8, ["level"], 40), Sines(), max_epochs=60, patience=2, learning_rate=0.5, told=seen.append
    )
    best = min(seen, key=lambda look: look.val_loss)
    assert outcome.best == best
    assert outcome.epochs == best.epoch + 3 < 60


# What is said


def outcome_of(*explained: float, epoch: int = 4) -> Any:
    look = SimpleNamespace(epoch=epoch, explained={f"t{i}": share for i, share in enumerate(explained)})
    return SimpleNamespace(best=look if explained else None, epochs=5)


@pytest.mark.parametrize(
    ("explained", "means", "status", "cures"),
    [
        ((0.9, 0.7), None, "pass", []),
        ((0.4, 0.2), None, "warn", ["max_epochs=10"]),
        ((0.02, 0.6, 0.3), None, "warn", ["max_epochs=10", "targets=[t1,t2]"]),
        ((0.01, -0.1), None, "fail", ["max_epochs=10"]),
        ((0.2, 0.1), 0.1, "pass", []),
        ((0.2, 0.1), 0.2, "warn", ["max_epochs=10"]),
        ((), None, "fail", ["learning_rate=5e-4"]),
    ],
)
def test_whether_it_learned(explained: tuple[float, ...], means: float | None, status: str, cures: list[str]) -> None:
    objective = "heuristic" if means is None else "autoencoder"
    found = verdict(outcome_of(*explained), objective, 5, own=True, means=means or 0.0)
    assert found.status == status
    assert list(found.try_) == [f"callbacks.synthetic_pretraining.{cure}" for cure in cures]
    assert ("mean nothing" in found.message) == (status == "fail" and bool(explained))
    assert verdict(outcome_of(*explained), objective, 5, own=False).try_ == ()


def test_what_each_weeks_own_means_explain() -> None:
    encoder, objective, data = Reader(), Rebuild(8, ["level"], 40), Sines()
    found = means_explain(encoder, objective, data)  # type: ignore[arg-type]
    kept = [
        [float(data.inputs[i, t, 0]) for t in range(int(data.lengths[i])) if data.known[i, t, 0]] for i in range(48, 60)
    ]
    everything = np.concatenate(kept)
    errors = sum(((np.array(week) - np.mean(week)) ** 2).sum() for week in kept)
    assert found == pytest.approx(1 - errors / ((everything - everything.mean()) ** 2).sum(), rel=1e-5)
    assert means_explain(encoder, TargetsHead(8, ["a"], torch.rand(5, 1), len), data) == 0.0  # type: ignore[arg-type]
    assert not objective.by_means


def test_the_account_in_words() -> None:
    used = Used(1200, 700, 50, 30, 0, 0)
    assert account(used, pretrains=True).message == (
        "pretrains on 1,200 weeks of 700 people; training uses the labels of 50 weeks of 30 of them"
    )
    assert account(used, pretrains=False).message.startswith("could pretrain on 1,200")
    assert account(used, pretrains=True).value == 30


def test_rows_of_a_foreign_loader() -> None:
    loader: Any = DataLoader(TensorDataset(torch.arange(20.0)[:, None, None]), batch_size=6, shuffle=True)
    found = PretrainingRows(loader, val_share=0.2, batch_size=None, seed=0)
    train, val = (sorted(v for (b,) in part for v in b.flatten().tolist()) for part in (found.train(0), found.val()))
    assert len(val) == 4
    assert sorted(train + val) == list(range(20))
    assert found.batches == len(list(found.train(1))) == 3

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    for refused in (DataLoader(Stream()), [1, 2], DataLoader(TensorDataset(torch.zeros(3)), batch_size=None)):
        with pytest.raises(HeartnetError, match="needs a DataLoader that makes batches"):
            PretrainingRows(refused, val_share=0.2, batch_size=None, seed=0)
    with pytest.raises(HeartnetError, match="two rows or more"):
        PretrainingRows(DataLoader(TensorDataset(torch.zeros(1))), val_share=0.2, batch_size=None, seed=0)


def test_too_few_weeks() -> None:
    data = WeeksDataModule(weeks(0, 3), Conditions(), val_share=0.34, test_share=0.34)
    assert len(data.rows["train"]) == 1
    with pytest.raises(HeartnetError, match="two weeks or more"):
        pretraining_weeks(data)
