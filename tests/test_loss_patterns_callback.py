"""The callback `loss_patterns`: what it writes, logs and says, on heartnet's modules and others; it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.loss_patterns import LossPatterns
from heartnet.datamodule import SimulatedData
from heartnet.diagnostics.loss_patterns_table import predicted_weeks
from heartnet.errors import HeartnetError
from heartnet.figure_patterns import ForestRow, forest_figure
from heartnet.findings import FILE, Finding, latest, read_jsonl
from heartnet.predicted import Predicted
from heartnet.prediction_file import PredictionFile
from heartnet.predictions import known_of, prediction_rows
from heartnet.resampling import Interval
from heartnet.tasks import Conditions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def findings(folder: Path) -> list[Finding]:
    return [each for each in latest(read_jsonl(folder / FILE)) if each.check == "loss_patterns"]


def trainer_of(folder: Path, *callbacks: Any, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        **{"max_epochs": 1, "logger": False, **options},
    )  # fmt: skip


def foreign_weeks(seed: int, count: int) -> dict[str, Any]:
    """Return weeks whose score tells nothing where the device is old."""
    rng = np.random.default_rng(seed)
    old = rng.random(count) < 0.25
    signal = 1.5 * rng.normal(size=count)
    value = rng.random(count) < 1 / (1 + np.exp(-signal))
    seen = np.where(old, rng.permutation(signal), signal)
    return {
        "x": torch.tensor(seen, dtype=torch.float32), "y": torch.tensor(value, dtype=torch.float32),
        "user": torch.arange(count), "device": np.where(old, "old", "new").tolist(), "age": rng.normal(50, 9, count),
    }  # fmt: skip


class Foreign(lightning.LightningModule):
    """Knows nothing of heartnet; says what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, index: int) -> Tensor:  # noqa: ARG002
        return nn.functional.binary_cross_entropy_with_logits(self.gain * batch["x"], batch["y"])

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    def test_step(self, batch: Any, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def batches(weeks: dict[str, Any], size: int = 100) -> DataLoader[Any]:
    count = len(weeks["x"])
    parts = [{name: each[i : i + size] for name, each in weeks.items()} for i in range(0, count, size)]
    return DataLoader(parts, batch_size=None)  # type: ignore[arg-type]


def read(module: Any, batch: Any) -> Predicted:
    logits = module.gain * batch["x"]
    known = {"device": batch["device"], "age": batch["age"]}
    return Predicted(("risk",), batch["user"], logits.sigmoid(), batch["y"], logits, known=known)


def test_a_pattern_in_data_from_elsewhere_is_named(tmp_path: Path) -> None:
    callback = LossPatterns(strata=["device", "age_band"], draws=100, read=read)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    trainer = trainer_of(tmp_path, callback, logger=logger)
    trainer.test(Foreign(), batches(foreign_weeks(1, 1500)), verbose=False)
    (said,) = findings(tmp_path)
    assert (said.status, said.where, said.unit, said.try_) == ("warn", "test: device = old", "AUROC lost", ())
    assert said.value is not None
    assert said.value > 0.2
    for words in ("of 1,500 people", "kept aside risk has AUROC", "Train on more people with this device"):
        assert words in said.message
    found = json.loads((tmp_path / "loss_patterns.json").read_text())
    (pattern,) = found["patterns"]
    assert pattern["clauses"] == [{"column": "device", "kind": "is", "bound": "old"}]
    (risk,) = pattern["kept_aside"]
    assert risk["auroc_inside"] == pytest.approx(risk["auroc_outside"] - said.value, abs=1e-3)
    table = pl.read_csv(tmp_path / "strata.csv")
    assert table.filter(pl.col("stratum") == "device")["group"].to_list() == ["new", "old"]
    assert table.filter(pl.col("stratum") == "device")["people"].sum() == 1500
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"loss_patterns/test", "loss_patterns/test/strata"} <= set(events.Tags()["images"])
    assert events.Scalars("loss_patterns/test/patterns")[0].value == 1
    assert events.Scalars("loss_patterns/test/inside/risk")[0].value == pytest.approx(risk["auroc_inside"])


def test_columns_of_another_name_are_looked_at(tmp_path: Path) -> None:
    """What elsewhere is called a clinic is no column of heartnet's; pages of names and odd numbers do no harm."""
    weeks = foreign_weeks(1, 1500)
    rng = np.random.default_rng(0)
    weeks["serial"] = [f"<b>{i}</b>" for i in range(1500)]
    weeks["odd"] = np.where(rng.random(1500) < 0.3, np.inf, np.where(rng.random(1500) < 0.5, np.nan, 1.0))
    weeks["device"] = np.where(np.array(weeks["device"]) == "old", "no|rth *<i>*", "south").tolist()

    def read_clinics(module: Any, batch: Any) -> Predicted:
        known = {"clinic": batch["device"], "serial": batch["serial"], "odd": batch["odd"], "none": [None] * 100}
        return Predicted(("risk",), batch["user"], (module.gain * batch["x"]).sigmoid(), batch["y"], known=known)

    callback = LossPatterns(strata=["clinic", "odd", "none"], draws=100, read=read_clinics)
    trainer_of(tmp_path, callback).test(Foreign(), batches(weeks), verbose=False)
    (said,) = findings(tmp_path)
    assert (said.status, said.where) == ("warn", "test: clinic = no|rth *<i>*"), said.message
    table = pl.read_csv(tmp_path / "strata.csv")
    assert table.filter(pl.col("stratum") == "clinic")["people"].sum() == 1500
    assert table.filter(pl.col("stratum") == "none")["group"].to_list() == ["unknown"]

    callback = LossPatterns(strata=["clinik"], draws=100, read=read_clinics)
    trainer_of(tmp_path / "wrong", callback).test(Foreign(), batches(weeks), verbose=False)
    (said,) = findings(tmp_path / "wrong")
    assert "no 'clinik'" in said.message
    assert "Did you mean 'clinic'" in said.message


def test_nothing_is_named_where_nothing_is(tmp_path: Path) -> None:
    weeks = foreign_weeks(2, 1500)
    weeks["device"] = np.random.default_rng(0).permutation(weeks["device"]).tolist()
    trainer_of(tmp_path, LossPatterns(draws=100, read=read)).test(Foreign(), batches(weeks), verbose=False)
    (said,) = findings(tmp_path)
    assert (said.status, said.where, said.value) == ("pass", "test", 0.0)
    assert "none was promising" in said.message or "did not hold on the other half" in said.message
    assert json.loads((tmp_path / "loss_patterns.json").read_text())["patterns"] == []


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_it_leaves_no_trace_and_says_when_people_are_few(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([], [LossPatterns(draws=100, every_n_epochs=1, strata=["sex"])]):
        made = faults.training(kind, 1)
        lightning.seed_everything(3, verbose=False)
        folder = tmp_path / str(len(callbacks))
        trainer = made.fit(folder, callbacks, max_epochs=2)
        ends.append(([each.detach().clone() for each in made.module.parameters()], torch.rand(3).tolist(),
                     np.random.rand(3).tolist(), made.module.training, trainer.global_step))  # fmt: skip
    for one, other in zip(ends[0][0], ends[1][0], strict=True):
        assert torch.equal(one, other)
    assert ends[0][1:] == ends[1][1:]
    (said,) = findings(folder)
    assert (said.status, said.where) == ("unknown", "val")
    assert said.message.endswith(" The file val_loss_patterns.json has all numbers, val_strata.csv those of sex.")
    assert "are too few to look" in said.message
    assert pl.read_csv(folder / "val_strata.csv")["too_few"].all()


def test_options_that_cannot_work() -> None:
    with pytest.raises(HeartnetError, match=r"no 'gender'; there are age_band"):
        LossPatterns(strata=["gender"])
    for draws in (5, None, "many", 150.5):
        with pytest.raises(HeartnetError, match=rf"loss_patterns\.draws={draws}"):
            LossPatterns(draws=draws)  # type: ignore[arg-type]
    for strata in (None, 5, "device", [["sex"]]):
        with pytest.raises(HeartnetError, match="a list of names is expected"):
            LossPatterns(strata=strata)  # type: ignore[arg-type]
    with pytest.raises(HeartnetError, match=r"loss_patterns\.every_n_epochs=0"):
        LossPatterns(every_n_epochs=0)


def test_weeks_of_a_file_are_those_that_were_written(tmp_path: Path) -> None:
    data = SimulatedData(Conditions(), users=30, weeks_per_user=2, missing_labels=0.3)
    rng, rows = np.random.default_rng(0), np.arange(len(data.weeks))
    scores = rng.random((60, 4)).astype(np.float32)
    with PredictionFile(tmp_path / "it.parquet", rows_in_memory=50) as file:
        for part in np.array_split(rng.permutation(rows), 5):
            known = known_of(data.weeks, part)
            file.add(prediction_rows(known, data.targets, scores[part], data.values[part], split="test"))
        file.finish()
    targets = data.targets[::-1]
    found = predicted_weeks(tmp_path / "it.parquet", targets)
    week = found.known["week"].to_numpy()
    assert sorted(week) == rows.tolist()
    np.testing.assert_array_equal(found.scores, scores[week][:, ::-1].astype(np.float64))
    np.testing.assert_array_equal(found.values, data.values[week][:, ::-1].astype(np.float64))
    assert not found.sampled
    few = predicted_weeks(tmp_path / "it.parquet", targets, most=20)
    assert few.sampled
    assert few.known["user_id"].n_unique() == 10
    assert len(few.known) == 20


def test_weeks_that_a_loader_repeats_count_once(tmp_path: Path) -> None:
    known = pl.DataFrame({"user_id": ["a", "a", "b"], "week": [0, 0, 1]})
    scores = np.array([[0.1, 0.2], [0.1, 0.2], [0.3, 0.4]])
    prediction_rows(known, ("x", "y"), scores, np.ones((3, 2)), None, "test").write_parquet(tmp_path / "it.parquet")
    found = predicted_weeks(tmp_path / "it.parquet", ("x", "y"))
    assert found.known["user_id"].to_list() == ["a", "b"]
    np.testing.assert_allclose(found.scores, [[0.1, 0.2], [0.3, 0.4]], atol=1e-6)


@pytest.fixture
def forest() -> Figure:
    rows = [
        ForestRow("device = first generation"),
        ForestRow("diabetes, inside", Interval(0.55, 0.45, 0.66), 60, "#d55e00"),
        ForestRow("outside", Interval(0.78, 0.74, 0.81), 400),
        ForestRow("few", Interval(0.9, 0.5, 1.0), 7, too_few=True),
        ForestRow("nobody", Interval(*[float("nan")] * 3), 3, too_few=True),
    ]
    return forest_figure(rows, "title", simulated=True, step=12)


def test_the_forest_shows_each_interval(forest: Figure) -> None:
    (ax,) = forest.axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]]
    assert [tuple(line.get_xdata()) for line in lines] == [(0.45, 0.66), (0.74, 0.81), (0.5, 1.0)]
    assert lines[2].get_color() == "#777777"
    texts = [text.get_text() for text in (*ax.texts, *forest.texts)]
    assert "0.55 (0.45–0.66)   60" in texts
    assert "0.90 (0.50–1.00)   7, too few" in texts
    assert "one class   3, too few" in texts
    assert "simulated weeks, step 12" in texts


def test_the_forest_draws_any_name() -> None:
    rows = [ForestRow(r"device = $\frac{x$"), ForestRow("$a$ " * 50, Interval(0.5, 0.4, 0.6), 60)]
    figure = forest_figure(rows, "title", simulated=False, step=1)
    figure.canvas.draw()
    assert any(text.get_text() == r"device = $\frac{x$" for text in figure.axes[0].texts)
