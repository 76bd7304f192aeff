"""The callback `metadata_reliance`: what it logs, draws and says of any module; no trace is left."""

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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.metadata_reliance import MetadataReliance
from heartnet.ablation_weeks import some_weeks
from heartnet.cli import main
from heartnet.datamodule import StoredData, WeeksDataModule
from heartnet.diagnostics.adapt import adapt
from heartnet.diagnostics.probe import Logits
from heartnet.errors import HeartnetError
from heartnet.findings import Finding
from heartnet.model import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.predicted import Predicted
from heartnet.tasks import Conditions, Synthetic

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Your `test_dataloader`"),
]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DRAWS = 100


def findings(folder: Path) -> dict[str, Finding]:
    return findings_of(folder, "metadata_reliance")


def module_of(data: WeeksDataModule, rate: float = 1e-2, **options: Any) -> HeartnetModule:
    torch.manual_seed(0)
    network = DeepHeart(
        data.channels, len(data.targets), data.metadata_size, conv_units=4, kernel_sizes=(3,), lstm_units=4,
        lstm_layers=1, longest=60, **options,
    )  # fmt: skip
    mean, std = data.target_statistics()
    return HeartnetModule(
        network, kind=data.task.kind, targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=data.scaling.as_dict(), learning_rate=rate,
    )  # fmt: skip


def two_weeks_each(seed: int = 0, users: int = 160, *, age_tells: bool = False) -> Any:
    """Return weeks of which every two alike are of one person, and labels of which one in five is wrong.

    The labels show in both weeks of a person; or, with `age_tells`, diabetes in the age.
    """
    weeks = faults.weeks(seed, users)
    rng = np.random.default_rng(seed)
    labels = weeks.table.select(weeks.conditions).to_numpy()
    alike = np.lexsort([rng.random(users), *labels.T])
    person = np.empty(users, dtype=np.int64)
    person[alike] = np.arange(users) // 2
    told = labels[alike[::2]] ^ (rng.random((users // 2, 2)) < 0.2)
    age = 40.0 + 20 * told[:, 1] + 12 * rng.normal(size=users // 2) if age_tells else rng.uniform(20, 80, users // 2)
    table = weeks.table.with_columns(
        pl.Series("user_id", [f"user-{i:03d}" for i in person]), pl.Series("age", age[person]),
        pl.Series("bmi", rng.normal(25, 3, users // 2)[person]),
        *(pl.Series(name, told[person, i].astype(np.int8)) for i, name in enumerate(weeks.conditions)),
    )  # fmt: skip
    return replace(weeks, table=table)


def test_what_is_logged_drawn_and_said(tmp_path: Path) -> None:
    data = WeeksDataModule(two_weeks_each(), Conditions(), val_share=0.3, test_share=0.4, mask_channel=True)
    module = module_of(data, metadata="lstm_state")
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    callback = MetadataReliance(draws=DRAWS, weeks=40, permutations=2, every_n_epochs=2)
    trainer = trainer_of(tmp_path, callback, logger=logger)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)

    events = EventAccumulator(str(tmp_path)).Reload()
    scalars, images = events.Tags()["scalars"], events.Tags()["images"]
    for name in data.targets:
        for split in ("val", "test"):
            assert f"metadata_reliance/{split}/{name}" in images
            for number in ("rank", "given_metadata", "given_score", "share_within", "within", "range", "wear"):
                if number != "wear":
                    assert f"metadata_reliance/{split}/{number}_low/{name}" in scalars
        for what in ("sensors", "heart_rate", "steps", "dt", "missing", "metadata", "age", "sex", "bmi"):
            for how in ("permuted", "removed_high"):
                assert f"metadata_reliance/test/{how}/{what}/{name}" in scalars
    assert not [tag for tag in scalars if "/val/permuted" in tag], "while training nothing is ablated"
    patterns = [pattern for each in MetadataReliance.SCALARS.values() for pattern in each]
    documented = MetadataReliance.__doc__ or ""
    for tag in (tag for tag in scalars if tag.startswith("metadata_reliance/")):
        number = tag.split("/")[2].removesuffix("_low").removesuffix("_high")
        assert f"/{number}/" in documented, tag
    assert any(re.match(p, "metadata_reliance/test/permuted/sensors/x") for p in patterns)

    said = findings(tmp_path)
    few = {f"val: {name}{kind}" for name in data.targets for kind in ("", ", week to week")}
    kinds = ("metadata", "week to week", "ablation")
    assert set(said) == few | {f"test: {name}, {kind}" for name in data.targets for kind in kinds}
    assert "40 of 64 weeks" in said["test: diabetes, ablation"].message
    table = pl.read_parquet(tmp_path / "predictions.parquet")
    part = table.filter(pl.col("target") == "diabetes")
    ranges = part.group_by("user_id").agg(pl.col("score").max() - pl.col("score").min())["score"]
    logged = events.Scalars("metadata_reliance/test/range/diabetes")[0].value
    assert logged == pytest.approx(ranges.mean(), abs=1e-5)


def test_a_network_of_the_metadata_leans_on_them_and_one_of_sensors_does_not(tmp_path: Path) -> None:
    data = WeeksDataModule(two_weeks_each(0, 240, age_tells=True), Conditions(["diabetes"]), test_share=0.5)
    status = {}
    for metadata in ("only", "none"):
        module = module_of(data, rate=4e-2, metadata=metadata)
        folder = tmp_path / metadata
        trainer = trainer_of(folder, MetadataReliance(draws=DRAWS, permutations=2), max_epochs=5)
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
        status[metadata] = findings(folder)["test: diabetes, ablation"]
    assert status["only"].status == "warn", status
    assert status["only"].value == 0, "without the sensors it loses nothing"
    assert status["only"].message.startswith("It does not look at the sensors")
    assert status["none"].status == "pass", status
    assert "does not look at them" in status["none"].message


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_it_leaves_no_trace(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([], [MetadataReliance(draws=DRAWS, every_n_epochs=1, permutations=1)]):
        made = faults.training(kind, 1)
        lightning.seed_everything(3, verbose=False)
        trainer = made.fit(tmp_path / str(len(callbacks)), callbacks, max_epochs=2)
        trainer.validate(made.module, datamodule=made.data, verbose=False)
        streams = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
        state = [each.detach().clone() for each in (*made.module.parameters(), *made.module.buffers())]
        flags = [(each.requires_grad, each.grad is None) for each in made.module.parameters()]
        hooks = sum(len(each._forward_hooks) + len(each._backward_hooks) for each in made.module.modules())
        ends.append((state, streams, made.module.training, trainer.global_step, flags, hooks))
    for one, other in zip(*(each[0] for each in ends), strict=True):
        assert torch.equal(one, other)
    assert ends[0][1:] == ends[1][1:]


class Foreign(lightning.LightningModule):
    """Knows nothing of heartnet: sequences in a tuple, a recurrent layer, no lengths and no metadata."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(2, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.head(self.net(x)[0].mean(dim=1))
        return score

    def training_step(self, batch: Any, index: int) -> Tensor:  # noqa: ARG002
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    def test_step(self, batch: Any, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.02)


def read(module: Any, batch: Any) -> Predicted:
    x, y, people, age = batch
    return Predicted(("risk",), people, module(x).sigmoid(), y, known={"age": age})


def foreign_data(*, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 12, 2, generator=generator)
    y = (torch.randn(60, generator=generator).repeat_interleave(2) > 0).float()
    x[:, :, 0] += y[:, None]
    age = 50 + 10 * torch.randn(60, generator=generator).repeat_interleave(2)
    return DataLoader(
        [(x[i], y[i], i // 2, age[i]) for i in range(120)], batch_size=16, shuffle=shuffle,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip


def test_another_module_on_other_data(tmp_path: Path) -> None:
    module = Foreign()
    trainer = trainer_of(tmp_path, MetadataReliance(draws=DRAWS, read=read), max_epochs=4)
    trainer.fit(module, foreign_data(), foreign_data())
    trainer.test(module, foreign_data(), verbose=False)
    said = findings(tmp_path)
    assert "120 weeks of 60 people" in said["test: risk, metadata"].message
    lost = said["test: risk, ablation"].message
    assert "channel_0" in lost
    assert "channel_1" in lost
    assert said["test: risk, ablation"].value > 0.1  # type: ignore[operator]
    assert not any(each.try_ for each in said.values()), "no overrides for another's module"


@pytest.mark.parametrize(
    ("options", "loader", "message"),
    [
        ({}, lambda: foreign_data(shuffle=True), "says something else of the weeks"),
        ({"probe": lambda m, b: 1 / 0}, foreign_data, "ZeroDivisionError"),  # noqa: ARG005
        (
            {"probe": lambda m, b: adapt(m, b[0], outputs=("a", "b"), logits=lambda out: Logits(None, out))},
            foreign_data, "2 outputs for 1 targets",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_ablated_is_said_and_the_rest_is_done(
    tmp_path: Path, options: dict[str, Any], loader: Any, message: str
) -> None:
    trainer_of(tmp_path, MetadataReliance(draws=DRAWS, read=read, **options)).test(Foreign(), loader(), verbose=False)
    said = findings(tmp_path)
    assert message in said["test: ablation"].message
    assert "test: risk, metadata" in said


def test_synthetic_targets_and_one_target_alone(tmp_path: Path) -> None:
    data = WeeksDataModule(faults.weeks(2, 80), Synthetic(("total_steps",)), val_share=0.2, test_share=0.4)
    module = module_of(data, metadata="lstm_state")
    trainer = trainer_of(tmp_path, MetadataReliance(draws=DRAWS, permutations=1))
    trainer.test(module, datamodule=data, verbose=False)
    said = findings(tmp_path)
    assert set(said) == {"test: total_steps, metadata", "test: total_steps, ablation"}
    assert "Share of variance explained" in said["test: total_steps, ablation"].message
    with torch.no_grad():
        for each in module.network.head.parameters():  # type: ignore[union-attr]
            each.zero_()
    constant = trainer_of(tmp_path / "constant", MetadataReliance(draws=DRAWS, permutations=1))
    constant.test(module, datamodule=data, verbose=False)
    alike = findings(tmp_path / "constant")["test: total_steps, ablation"]
    assert alike.message.startswith("It does not look at the sensors")


def test_a_diverged_network_and_labels_of_one_class(tmp_path: Path) -> None:
    data = WeeksDataModule(faults.weeks(0, 60), Conditions(), val_share=0.2, test_share=0.3)
    module = module_of(data)
    with torch.no_grad():
        module.network.head.bias.fill_(torch.nan)  # type: ignore[union-attr]
    trainer_of(tmp_path / "nan", MetadataReliance(draws=DRAWS)).test(module, datamodule=data, verbose=False)
    said = findings(tmp_path / "nan")
    assert {each.status for each in said.values()} == {"fail"}
    data.values[data.rows["test"], 0] = 0
    trainer_of(tmp_path / "one", MetadataReliance(draws=DRAWS)).test(module_of(data), datamodule=data, verbose=False)
    said = findings(tmp_path / "one")
    assert "too few to tell" in said["test: sleep_apnea"].message
    assert "test: sleep_apnea, ablation" not in said
    data.values[data.rows["test"]] = np.nan
    trainer_of(tmp_path / "no", MetadataReliance(draws=DRAWS)).test(module_of(data), datamodule=data, verbose=False)
    said = findings(tmp_path / "no")
    assert {where: each.status for where, each in said.items()} == {f"test: {name}": "unknown" for name in data.targets}
    assert "known of none of the 18 weeks" in said["test: sleep_apnea"].message


def test_some_weeks_are_of_everybody_in_equal_shares() -> None:
    counts = {"a": 3, "b": 100, "c": 2, "d": 295}
    users = [name for name, count in counts.items() for _ in range(count)]
    frame = pl.DataFrame({"week": np.arange(400), "user_id": users})
    kept = some_weeks(pl.concat([frame, frame]), 105).tolist()
    assert kept == sorted(set(kept))
    assert {name: sum(users[week] == name for week in kept) for name in counts} == {"a": 3, "b": 50, "c": 2, "d": 50}
    assert some_weeks(frame, 1000).tolist() == list(range(400))
    assert len({users[week] for week in some_weeks(frame, 3)}) == 3
    assert some_weeks(frame, 105).tolist() == kept, "always the same"


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_epochs": 0}, {"draws": 10}, {"weeks": 1}, {"permutations": 0}, {"draws": "many"}, {"weeks": None},
        {"permutations": 1.5},
    ],
)  # fmt: skip
def test_arguments_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(HeartnetError, match=next(iter(options))):
        MetadataReliance(**options)


def test_thirty_people_are_too_few_and_it_says_so(tmp_path: Path) -> None:
    """CGMacros: a diabetes label, age, sex and BMI of thirty people with a Fitbit."""
    if not (DATA / "cgmacros").is_dir():
        pytest.skip(f"the recordings of cgmacros are not at {DATA}")
    files, bio = sorted(map(str, (DATA / "cgmacros").glob("CGMacros-*.csv.gz"))), str(DATA / "cgmacros" / "bio.csv")
    words = ["prepare", "table", *files, "--user-from-filename", r"CGMacros-(\d+)", "--labels", bio, "--people", bio]
    assert main([*words, "--condition", "diabetes=A1c PDL (Lab)>=6.5", "--out", str(tmp_path / "weeks")]) == 0
    data = StoredData(Conditions(), path=tmp_path / "weeks", val_share=0.1, test_share=0.6)
    module = module_of(data, metadata="lstm_state", pool=8)
    trainer = trainer_of(tmp_path, MetadataReliance(draws=DRAWS, permutations=1, weeks=40), max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    said = findings(tmp_path)["test: diabetes"]
    assert (said.status, said.value) == ("unknown", None)
    assert "too few to tell" in said.message
