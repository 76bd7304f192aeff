"""The callback `predictions`: what it writes, logs and says, on heartnet's modules and others; it changes nothing."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from faults import findings_of, trainer_of
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.predictions import Predictions
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.findings import FILE, Finding, read_jsonl
from heartnet.model import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.predicted import Predicted
from heartnet.predictions import COLUMNS, known_of
from heartnet.tasks import Synthetic
from heartnet.weeks import Weeks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

DRAWS = 100


def findings(folder: Path) -> dict[str, Finding]:
    return findings_of(folder, "predictions")


def state(module: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in (*module.parameters(), *module.buffers())]


def test_what_is_written_logged_and_said(tmp_path: Path) -> None:
    made = faults.training("deepheart", 0)
    weeks = faults.weeks(0, 160)
    flipped = np.random.default_rng(0).random((160, 2)) < 0.2  # so that the classes overlap
    labels = [((pl.col(name) + pl.Series(flipped[:, i])) % 2).cast(pl.Int8) for i, name in enumerate(weeks.conditions)]
    weeks = replace(weeks, table=weeks.table.with_columns(labels))
    data = made.data = WeeksDataModule(weeks, made.data.task, val_share=0.3, test_share=0.3)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    trainer = trainer_of(tmp_path, Predictions(draws=DRAWS, every_n_epochs=2), logger=logger, max_epochs=3)
    trainer.fit(made.module, datamodule=data)
    logits = made.module.eval()(data.batch(data.rows["test"])).score.detach()
    trainer.test(made.module, datamodule=data, verbose=False)

    found = pl.read_parquet(tmp_path / "predictions.parquet")
    assert dict(found.schema) == COLUMNS
    assert sorted(found["week"].unique()) == data.rows["test"].tolist()
    assert found["split"].unique().to_list() == ["test"]
    by_target = found.sort("week").partition_by("target", as_dict=True)
    for i, name in enumerate(data.targets):
        part = by_target[(name,)]
        np.testing.assert_allclose(part["logit"], logits[:, i], atol=1e-5)
        np.testing.assert_allclose(part["score"], torch.sigmoid(logits[:, i]), atol=1e-6)
        assert part["value"].to_list() == data.values[data.rows["test"], i].tolist()
    val = pl.read_parquet(tmp_path / "val_predictions.parquet")
    assert sorted(val["week"].unique()) == data.rows["val"].tolist()
    assert not [each for each in tmp_path.iterdir() if "partial" in each.name]

    events = EventAccumulator(str(tmp_path)).Reload()
    scalars, images = events.Tags()["scalars"], events.Tags()["images"]
    for split in ("val", "test"):
        for name in data.targets:
            assert f"predictions/{split}/{name}" in images
            for number in ("auroc", "average_precision", "brier", "slope", "offset", "calibration_error"):
                tags = {f"predictions/{split}/{number}{end}/{name}" for end in ("", "_low", "_high")}
                assert tags <= set(scalars)
            assert f"predictions/{split}/expected_calibration_error/{name}" in scalars
    assert len(events.Scalars("predictions/val/auroc/diabetes")) == 2, "after the second epoch, and the last"
    value, score = by_target[("diabetes",)]["value"], by_target[("diabetes",)]["score"]
    logged = events.Scalars("predictions/test/auroc/diabetes")[0].value
    assert logged == pytest.approx(roc_auc_score(value, score))
    patterns = [pattern for each in Predictions.SCALARS.values() for pattern in each]
    assert all(any(re.match(p, f"predictions/test/{n}/x") for p in patterns) for n in ("auroc_low", "slope"))

    said = findings(tmp_path)
    assert {f"{split}: {name}{part}" for split in ("val", "test") for name in data.targets
            for part in ("", ", calibration")} == set(said)  # fmt: skip
    assert said["test: diabetes"].value == pytest.approx(logged, abs=1e-4)
    assert "48 weeks of 48 people" in said["test: diabetes"].message


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_it_leaves_no_trace(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([], [Predictions(draws=DRAWS, every_n_epochs=1)]):
        made = faults.training(kind, 1)
        lightning.seed_everything(3, verbose=False)
        trainer = made.fit(tmp_path / str(len(callbacks)), callbacks, max_epochs=2)
        streams = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
        ends.append((state(made.module), streams, made.module.training, trainer.global_step))
    for one, other in zip(*(each[0] for each in ends), strict=True):
        assert torch.equal(one, other)
    assert ends[0][1:] == ends[1][1:]


class Foreign(lightning.LightningModule):
    """Knows nothing of heartnet; its adapter draws from the random streams."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def training_step(self, batch: Any, index: int) -> Tensor:  # noqa: ARG002
        x, y, _ = batch
        return nn.functional.binary_cross_entropy_with_logits(self.net(x)[:, 0], y)

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    def test_step(self, batch: Any, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def read(module: Any, batch: Any) -> Predicted:
    x, y, people = batch
    torch.rand(5)
    logits = module.net(x)
    return Predicted(("risk",), people, logits.sigmoid(), y, logits)


def foreign_data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 4, generator=generator)
    y = (x[:, 0] + torch.randn(80, generator=generator) > 0).float()
    return DataLoader([(x[i], y[i], i // 2) for i in range(80)], batch_size=16)  # type: ignore[arg-type]


def test_an_adapter_of_five_lines_reads_anything(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [Predictions(draws=DRAWS, read=read)]):
        torch.manual_seed(0)
        module = Foreign()
        trainer = trainer_of(tmp_path, *callbacks)
        trainer.fit(module, foreign_data(), foreign_data())
        trainer.test(module, foreign_data(), verbose=False)
        ends.append((state(module), torch.rand(3).tolist()))
    assert all(torch.equal(one, other) for one, other in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[0][1] == ends[1][1]
    found = pl.read_parquet(tmp_path / "predictions.parquet")
    assert found["week"].to_list() == list(range(80))
    assert found["user_id"].to_list() == [str(i // 2) for i in range(80)]
    assert found["age"].null_count() == 80
    np.testing.assert_allclose(torch.sigmoid(torch.tensor(found["logit"].to_numpy())), found["score"], atol=1e-6)
    assert "80 weeks of 40 people" in findings(tmp_path)["test: risk"].message
    assert not any(each.try_ for each in findings(tmp_path).values()), "no overrides for another's module"


def test_what_it_needs_is_said_once(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Predictions(draws=DRAWS, every_n_epochs=1), max_epochs=3)
    trainer.fit(Foreign(), foreign_data(), foreign_data())
    said = [each for each in read_jsonl(tmp_path / FILE) if each.check == "predictions"]
    assert [each.status for each in said] == ["warn"]
    assert "knows nothing of these data" in said[0].message
    assert "Predictions(read=" in said[0].message
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda m, b: Predicted(("a", "b"), b[2], m.net(b[0]), b[1]), "scores are [16, 1], and [16, 2] was expected"),
        (lambda m, b: Predicted(("a",), b[2][:3], m.net(b[0]), b[1]), "[3, 1] was expected"),
        (lambda m, b: Predicted("a", b[2], m.net(b[0]), b[1]), "a sequence of names"),
        (lambda m, b: Predicted(("a",), b[2], m.net(b[0]), b[1], known={"age": [1]}), "age has 1 values for 16"),
        (lambda m, b: 1 / 0, "ZeroDivisionError"),  # noqa: ARG005
    ],
)
def test_a_wrong_adapter_ends_no_run(tmp_path: Path, wrong: Any, expected: str) -> None:
    trainer = trainer_of(tmp_path, Predictions(draws=DRAWS, read=wrong))
    trainer.test(Foreign(), foreign_data(), verbose=False)
    [said] = findings(tmp_path).values()
    assert expected in said.message
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_error_in_the_test_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    made = faults.training("deepheart", 0)
    trainer = trainer_of(tmp_path, Predictions(draws=DRAWS))
    trainer.validate(made.module, datamodule=made.data, verbose=False)
    before = (tmp_path / "val_predictions.parquet").read_bytes()

    class Breaks(HeartnetModule):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                raise RuntimeError("broken")
            return super().validation_step(batch, batch_idx)

    made.module.__class__ = Breaks
    with pytest.raises(RuntimeError, match="broken"):
        trainer.validate(made.module, datamodule=made.data, verbose=False)
    assert (tmp_path / "val_predictions.parquet").read_bytes() == before
    assert not [each for each in tmp_path.iterdir() if "partial" in each.name]


def test_synthetic_targets_are_in_their_unit(tmp_path: Path) -> None:
    data = WeeksDataModule(
        faults.weeks(2, 60), Synthetic(("mean_difference_30_min", "total_steps")), val_share=0.3, test_share=0.3
    )
    mean, std = data.target_statistics()
    network = DeepHeart(data.channels, 2, conv_units=4, kernel_sizes=(3,), lstm_units=4, lstm_layers=1, longest=60)
    module = HeartnetModule(
        network, kind="synthetic", targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=data.scaling.as_dict(),
    )  # fmt: skip
    trainer_of(tmp_path, Predictions(draws=DRAWS)).test(module, datamodule=data, verbose=False)
    found = pl.read_parquet(tmp_path / "predictions.parquet")
    assert found["logit"].null_count() == len(found)
    scores = dict(zip(module.test_rows.tolist(), module.test_scores.tolist(), strict=True))
    for row in found.iter_rows(named=True):
        place = data.targets.index(row["target"])
        assert row["score"] == pytest.approx(scores[row["week"]][place])
        value = data.values[row["week"], place]
        assert row["value"] == (None if np.isnan(value) else pytest.approx(value))
    assert {each.check for each in findings(tmp_path).values()} == {"predictions"}


def test_of_few_people_it_says_so_and_of_a_diverged_network(tmp_path: Path) -> None:
    made = faults.training("deepheart", 0)
    trainer_of(tmp_path / "few", Predictions(draws=DRAWS)).validate(made.module, datamodule=made.data, verbose=False)
    for each in findings(tmp_path / "few").values():
        assert each.status == "unknown"
        assert "too few to tell" in each.message
    with torch.no_grad():
        next(iter(made.module.parameters())).fill_(torch.nan)
    trainer_of(tmp_path / "nan", Predictions(draws=DRAWS)).validate(made.module, datamodule=made.data, verbose=False)
    for each in findings(tmp_path / "nan").values():
        assert each.status == "fail"
        assert "diverged" in each.message


@pytest.mark.parametrize("options", [{"every_n_epochs": 0}, {"draws": 10}])
def test_arguments_that_cannot_work(options: dict[str, int]) -> None:
    with pytest.raises(HeartnetError, match=next(iter(options))):
        Predictions(**options)


def test_a_fast_run_writes_nothing(tmp_path: Path) -> None:
    made = faults.training("deepheart", 0)
    made.fit(tmp_path, [Predictions(draws=DRAWS)], fast_dev_run=2)
    assert not list(tmp_path.rglob("*.parquet"))
    assert not (tmp_path / FILE).exists()


class OneBuffer(lightning.LightningModule):
    """Returns every batch's scores in the same memory, and logits of every second batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.memory = torch.zeros(64, 2)

    def forward(self, batch: Any) -> Tensor:
        return torch.sigmoid(self.scale * batch["inputs"].sum(dim=1)[:, :2])

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        return self(batch).mean()

    def validation_step(self, batch: Any, index: int) -> Any:
        scores = self.memory[: len(batch["inputs"])].copy_(self(batch))
        return {"scores": scores, "logits": torch.logit(scores)} if index % 2 else {"scores": scores}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def test_scores_wait_for_others_unharmed_and_what_is_known_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = faults.training("deepheart", 0)
    data = WeeksDataModule(faults.weeks(0, 60), made.data.task, val_share=0.5, test_share=0.2, batch_size=4)
    module = OneBuffer()
    asked: list[int] = []

    def counted(weeks: Weeks, rows: Any) -> pl.DataFrame:
        asked.extend(rows)
        return known_of(weeks, rows)

    monkeypatch.setattr("heartnet.predicted.known_of", counted)
    trainer = trainer_of(tmp_path, Predictions(draws=DRAWS, every_n_epochs=10), max_epochs=3)
    trainer.fit(module, datamodule=data)
    assert sorted(asked) == sorted(data.rows["val"])  # not once for each epoch
    found = pl.read_parquet(tmp_path / "val_predictions.parquet").filter(pl.col("target") == data.targets[0])
    assert sorted(found["week"]) == sorted(data.rows["val"])
    scores = module(data.batch(np.array(found["week"])))[:, 0].detach()
    np.testing.assert_allclose(found["score"], scores, atol=1e-5)
    assert 0 < found["logit"].null_count() < found.height
