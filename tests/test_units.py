"""Units that mean something, and cadence blindness, against naive computations and planted units."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from heartnet.diagnostics.cadence import BLIND, cadence_of, failure, typical_spread
from heartnet.diagnostics.cadence import verdict as cadence_verdict
from heartnet.diagnostics.heatmap import Rows, collect
from heartnet.diagnostics.probe import Probe
from heartnet.diagnostics.signals import KnownWeek, at_positions, carried, signals_of
from heartnet.diagnostics.unit_table import from_plain, markdown, to_plain, unit_table, verdict, worth_telling
from heartnet.diagnostics.units import ALPHA, beyond, to_cells, unit_meanings
from heartnet.model.deepheart import DeepHeart

DAY = 288


def rows(*weeks: np.ndarray, layer: str = "layer") -> Rows:
    values = tuple(np.asarray(each, dtype=np.float32) for each in weeks)
    return Rows(layer, "recurrent", values, "output", len(values[0]))


def smooth(rng: np.random.Generator, units: int, length: int) -> np.ndarray:
    """Return noise that remembers, as activations do."""
    found = rng.normal(size=(units, length))
    for i in range(1, length):
        found[:, i] += 0.95 * found[:, i - 1]
    return found


def nights(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return 1 in nights whose beginnings and ends vary."""
    asleep = np.zeros(length)
    for day in range(0, length, DAY):
        start = day + int(rng.integers(0, 40))
        asleep[start : start + int(rng.integers(60, 110))] = 1
    return asleep


def test_effects_are_those_of_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    lengths, lags = (500, 400), (-8, 0, 3)
    acts = [np.round(smooth(rng, 4, n), 1) for n in lengths]  # with ties
    marks = [(rng.random(n) < 0.3).astype(float) for n in lengths]
    numbers = [np.round(rng.normal(size=n), 1) for n in lengths]
    found = unit_meanings(
        [rows(*acts)], [{"mark": m, "number": x} for m, x in zip(marks, numbers, strict=True)], lags=lags, shifts=5
    )
    for meaning, signals in zip(found, (marks, numbers), strict=True):
        assert meaning.binary == (meaning.signal == "mark")
        for unit in range(4):
            naive = []
            for lag in lags:
                each = []
                for act, signal in zip(acts, signals, strict=True):
                    earlier = np.roll(signal, lag)  # the unit comes `lag` readings after
                    if meaning.binary:
                        each.append(2 * roc_auc_score(earlier, act[unit]) - 1)
                    else:
                        each.append(spearmanr(act[unit], earlier).statistic)
                naive.append(np.mean(each))
            best = int(np.abs(naive).argmax())
            assert meaning.effects[unit] == pytest.approx(naive[best], abs=1e-5)
            assert meaning.lags[unit] == lags[best]
            assert meaning.weekly[unit].mean() == pytest.approx(naive[best], abs=1e-5)


def test_unknown_readings_are_left_out() -> None:
    rng = np.random.default_rng(1)
    act, mark = smooth(rng, 3, 600), (rng.random(600) < 0.4).astype(float)
    mark[::7] = np.nan
    known = ~np.isnan(mark)
    (meaning,) = unit_meanings([rows(act)], [{"mark": mark}], lags=[0], shifts=5)
    for unit in range(3):
        auc = roc_auc_score(mark[known], act[unit][known].astype(np.float32))
        assert meaning.effects[unit] == pytest.approx(2 * auc - 1, abs=1e-5)
    assert unit_meanings([rows(act)], [{"mark": np.full(600, np.nan)}], shifts=5) == []


def test_a_planted_sleep_cell_is_found_with_its_lag_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    length = 7 * DAY
    weeks = [nights(rng, length) for _ in range(4)]
    acts = [smooth(rng, 20, length) for _ in weeks]
    for act, asleep in zip(acts, weeks, strict=True):
        act[13] = -np.roll(asleep, 16) + 0.3 * rng.normal(size=length)
    untrained = unit_meanings([rows(*[smooth(rng, 20, length) for _ in weeks])], [{"asleep": w} for w in weeks])
    trained = unit_meanings([rows(*acts)], [{"asleep": w} for w in weeks])
    (meaning,) = trained
    assert beyond(meaning, untrained[0]) == [13]
    assert meaning.lags[13] == 16
    assert meaning.effects[13] < -0.8
    assert meaning.p[13] < 0.01
    assert np.delete(meaning.p, 13).min() > 0.01
    (finding,) = verdict(trained, untrained, 7)
    assert finding.status == "pass"
    assert "unit 13 of layer falls with asleep, 16 readings after it" in finding.message
    table = unit_table(trained, untrained)
    assert table.row(0, named=True)["unit"] == 13
    assert table["beyond"].to_list() == [True] + [False] * 19
    assert table["value"].to_list() == sorted(table["value"].to_list(), reverse=True)
    assert "**yes**" in markdown(table)


def test_noise_is_rarely_found() -> None:
    """Thirty networks of units that remember but know nothing; sleep is nearly periodic."""
    false = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        weeks = [nights(rng, 3 * DAY) for _ in range(2)]
        (meaning,) = unit_meanings(
            [rows(*[smooth(rng, 10, 3 * DAY) for _ in weeks])], [{"asleep": w} for w in weeks], shifts=100
        )
        false += bool((np.abs(meaning.effects) > meaning.chance).any())
    assert false <= 30 * ALPHA * 3


def test_a_unit_that_knows_the_hour_does_not_pass_for_sleep_in_one_week() -> None:
    """Some shifts are whole days; what fits them as well is a clock."""
    rng = np.random.default_rng(4)
    asleep = nights(rng, 7 * DAY)
    clock = (np.arange(7 * DAY) % DAY < 100)[None] + 0.1 * rng.normal(size=(1, 7 * DAY))
    (meaning,) = unit_meanings([rows(clock)], [{"asleep": asleep}])
    assert abs(meaning.effects[0]) > 0.6
    assert abs(meaning.effects[0]) < meaning.chance + 0.1


def test_what_is_there_without_training_or_in_the_inputs_does_not_count() -> None:
    rng = np.random.default_rng(5)
    weeks = [nights(rng, 4 * DAY) for _ in range(4)]
    acts = [smooth(rng, 6, 4 * DAY) + 3 * w for w in weeks]
    signals = [{"asleep": w} for w in weeks]
    plain = unit_meanings([rows(*acts)], signals)
    assert beyond(plain[0], None)
    assert beyond(plain[0], plain[0]) == []
    heart = rows(*[w[None] + 0.1 * rng.normal(size=(1, len(w))) for w in weeks], layer="inputs")
    with_inputs = unit_meanings([heart, rows(*acts)], signals)
    assert beyond(with_inputs[0], None) == []
    (finding,) = verdict(with_inputs, plain, 0)
    assert "not above what is there without training" in finding.message
    assert "inputs" not in unit_table(with_inputs, plain)["layer"].to_list()
    np.testing.assert_allclose(plain[0].effects, with_inputs[0].effects[1:], atol=1e-6)
    assert plain[0].chance == pytest.approx(with_inputs[0].chance)  # inputs are no units


def test_the_verdict_says_where_training_brought_most() -> None:
    rng = np.random.default_rng(9)
    weeks = [nights(rng, 4 * DAY) for _ in range(4)]
    signals = [{"asleep": w} for w in weeks]
    first = rows(*[smooth(rng, 3, len(w)) + 9 * w for w in weeks], layer="first")
    before = rows(*[smooth(rng, 3, len(w)) for w in weeks], layer="second")
    after = rows(*[smooth(rng, 3, len(w)) + 4 * w for w in weeks], layer="second")
    (finding,) = verdict(unit_meanings([first, after], signals), unit_meanings([first, before], signals, shifts=0), 0)
    assert "No unit learned to tell asleep. The best, unit" in finding.message
    assert "training brought most in second" in finding.message


def test_broken_units_tell_nothing() -> None:
    rng = np.random.default_rng(10)
    act, mark = smooth(rng, 3, 600), (rng.random(600) < 0.4).astype(float)
    act[0], act[1, ::2] = np.nan, np.inf
    (meaning,) = unit_meanings([rows(act)], [{"mark": mark}], shifts=9)
    assert meaning.effects[0] == 0
    assert np.isfinite(meaning.effects).all()
    assert verdict([meaning], [meaning], 0)[0].value is not None


def test_marks_are_told_and_other_signals_only_where_learned() -> None:
    rng = np.random.default_rng(8)
    act = [smooth(rng, 3, 600) for _ in range(3)]
    signals = [{"mark": (rng.random(600) < 0.5).astype(float), "number": rng.normal(size=600)} for _ in act]
    found = unit_meanings([rows(*act)], signals)
    assert [each.signal for each in worth_telling(found, [])] == ["mark"]


def test_a_checkpoint_keeps_it_without_code() -> None:
    rng = np.random.default_rng(7)
    found = unit_meanings([rows(smooth(rng, 3, 200))], [{"x": rng.normal(size=200)}], shifts=9)
    file = io.BytesIO()
    torch.save(to_plain(found), file)
    file.seek(0)
    back = from_plain(torch.load(file, weights_only=True))
    assert unit_table(back, back).equals(unit_table(found, found))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 99))
def test_cells_and_positions_are_means_of_groups(cells: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, length)).astype(np.float32)
    found = to_cells(values, cells)
    edges = [i * length // cells for i in range(cells + 1)]
    for i in range(cells):
        part = values[:, edges[i] : max(edges[i + 1], edges[i] + 1)]
        np.testing.assert_allclose(found[:, i], part.mean(axis=1), atol=1e-5)
    signal = rng.normal(size=length)
    signal[rng.random(length) < 0.3] = np.nan
    if cells <= length:
        reduced = at_positions(signal, cells)
        edges = [int(np.floor(i * length / cells)) for i in range(cells)] + [length]
        for i in range(cells):
            part = signal[edges[i] : edges[i + 1]]
            part = part[~np.isnan(part)]
            assert (np.isnan(reduced[i]) and not len(part)) or reduced[i] == pytest.approx(part.mean())


def test_signals_of_a_week() -> None:
    hours = np.arange(0, 48, 6)
    week = KnownWeek(
        {"heart_rate": np.array([np.nan, 60.0, np.nan, 70, 80, np.nan, 90, 90]), "steps": np.full(8, np.nan)},
        np.array([np.nan, 5.0, 300, 300, 5, 5, 1e5, 300]),
        hours.astype(np.int64) * 3_600_000_000,
        {"asleep": np.zeros(8)},
    )
    found = signals_of(week)
    assert list(found) == ["heart_rate", "steps", "cadence", "asleep", "hour_noon", "hour_evening"]
    assert found["heart_rate"].tolist() == [60, 60, 60, 70, 80, 80, 90, 90]
    assert found["hour_noon"][:4] == pytest.approx([-1, 0, 1, 0], abs=1e-9)
    assert found["hour_evening"][:4] == pytest.approx([0, -1, 0, 1], abs=1e-9)
    assert week.dense.tolist() == [False, True, False, False, True, True, False, False]
    assert week.sparse.tolist() == [False, False, True, True, False, False, False, True]
    assert week.days is not None
    assert week.days[-1] == pytest.approx(1.75)
    assert np.isnan(carried(np.full(3, np.nan))).all()


def cadence_week(rng: np.random.Generator, length: int = 1200) -> tuple[KnownWeek, np.ndarray]:
    """Return a week with two workouts at 5 s, and what a network sees of it: heart rate and log dt, scaled."""
    dt = np.full(length, 300.0)
    dt[200:500] = dt[700:1000] = 5.0
    rate = smooth(rng, 1, length)[0]
    seen = np.stack([rate / rate.std(), (np.log(dt) - np.log(dt).mean()) / np.log(dt).std()]).astype(np.float32)
    return KnownWeek({"heart_rate": 70 + rate}, dt), seen


class Gated(torch.nn.Module):
    """A convolution whose units close, by a large weight, when dt is small."""

    def __init__(self, gate: float) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv1d(2, 16, 5, padding=2)
        self.second = torch.nn.Conv1d(16, 8, 5, padding=2)
        with torch.no_grad():
            self.convolution.weight[:, 1] = gate / 5

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.convolution(inputs.transpose(1, 2)))
        return torch.relu(self.second(hidden)).mean(dim=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gate", [0.0, 10.0])
def test_a_network_that_goes_silent_when_dt_is_small_is_named_and_one_that_does_not_is_not(
    gate: float, seed: int
) -> None:
    torch.manual_seed(seed)
    weeks = [cadence_week(np.random.default_rng(10 * seed + i)) for i in range(2)]
    inputs = torch.stack([torch.from_numpy(seen.T.copy()) for _, seen in weeks])
    probe = Probe(Gated(gate), inputs, (), torch.full((2,), 1200), ("a",) * 8, ("heart_rate", "dt"))
    seen = Rows("inputs", "linear", tuple(each for _, each in weeks), "output", 2)
    known = [week for week, _ in weeks]
    found = cadence_of(collect(probe), seen, probe.channels, known)
    assert [each.layer for each in found] == ["convolution", "second"]
    findings = cadence_verdict(found, {"model.activation": "relu"}, 3)
    if gate:
        assert [each.status for each in findings] == ["warn", "warn"]
        assert findings[0].where == "convolution"
        assert found[0].silent == 1.0
        assert "it starts in convolution" in findings[1].message
        assert findings[0].try_[0] == "model.activation=leaky_relu"
        assert findings[1].try_ == ()  # what helps is said once
        alike = [replace(found[0], layer=f"convolutions.{i}") for i in range(3)]
        (finding,) = cadence_verdict(alike, {}, 3)
        assert finding.where == "convolutions.0"
        assert "likewise 100% of convolutions.1; likewise 100% of convolutions.2" in finding.message
        assert "what may help" in finding.message
    else:
        assert [each.status for each in findings] == ["pass"]
        assert found[0].silent is not None
        assert found[0].silent < BLIND
    # A naive count for the first layer.
    (layer, _) = collect(probe)
    spread = {kind: np.zeros((16, 0)) for kind in ("dense", "sparse")}
    for kind, spans in {"dense": ((212, 488), (712, 988)), "sparse": ((12, 188), (512, 688), (1012, 1188))}.items():
        parts = [np.concatenate([w[:, a:b] for a, b in spans], axis=1) for w in layer.weeks]
        spread[kind] = np.sqrt(np.mean([part.var(axis=1) for part in parts], axis=0))
    alive = spread["sparse"] > 0
    np.testing.assert_allclose(found[0].ratio[alive], (spread["dense"] / spread["sparse"])[alive], rtol=0.05, atol=0.01)


def test_cadence_says_so_where_nothing_can_be_told() -> None:
    week, seen = cadence_week(np.random.default_rng(0))
    layer = rows(seen)
    still = seen.copy()
    still[0, week.dense] = 0.0
    found = cadence_of([layer], rows(still), ("heart_rate", "dt"), [week])
    (finding,) = cadence_verdict(found, {}, 0)
    assert finding.status == "unknown"
    assert "nothing can be told" in finding.message
    assert cadence_of([layer], layer, ("heart_rate", "dt"), [replace(week, dt=None)]) == []
    assert cadence_verdict([], {}, 0) == []


def test_cadence_is_not_judged_where_training_has_failed() -> None:
    rng = np.random.default_rng(0)
    week, seen = cadence_week(rng)
    lively = rows(smooth(rng, 8, 1200))
    blind = rows(np.where(week.dense, 0.0, smooth(rng, 8, 1200)).astype(np.float32))
    before = {blind.layer: typical_spread(blind)}
    found = cadence_of([blind], rows(seen), ("heart_rate", "dt"), [week])
    assert [each.status for each in cadence_verdict(found, {}, 0, failure([blind], before))] == ["warn"]
    wild = replace(lively, weeks=(lively.weeks[0] * 1000,))
    still = replace(lively, weeks=(np.concatenate([lively.weeks[0][:4], np.ones((4, 1200), np.float32)]),))
    spoilt = replace(lively, weeks=(np.where(np.arange(1200) == 7, np.nan, lively.weeks[0]),))
    for layer, words in ((wild, "as much as before training"), (still, "50% of the units"), (spoilt, "not finite")):
        (finding,) = cadence_verdict(found, {}, 0, failure([blind, layer], {lively.layer: typical_spread(lively)}))
        assert (finding.status, finding.value, finding.try_) == ("unknown", None, ())
        assert words in finding.message
    assert failure([lively], {lively.layer: typical_spread(lively) / 3}) == ""


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu"])
def test_networks_at_their_start_are_not_blind(activation: str) -> None:
    known, seen = zip(*[cadence_week(np.random.default_rng(i)) for i in range(2)], strict=True)
    inputs = torch.stack([torch.from_numpy(each.T.copy()) for each in seen])
    lengths = torch.full((2,), 1200)
    for seed in range(5):
        torch.manual_seed(seed)
        network = DeepHeart(2, 2, conv_units=24, lstm_units=8, lstm_layers=2, activation=activation)  # type: ignore[arg-type]
        probe = Probe(network, inputs, (lengths,), lengths, ("a", "b"), ("heart_rate", "dt"))
        found = cadence_of(
            collect(probe), Rows("inputs", "linear", tuple(seen), "output", 2), probe.channels, list(known)
        )
        assert {each.status for each in cadence_verdict(found, {}, 0)} == {"pass"}
