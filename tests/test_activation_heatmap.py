"""The activation heatmap in plain trainers: what it logs and writes, for whom, and that training goes on untouched."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.activation_heatmap import ActivationHeatmap
from heartnet.datamodule import SimulatedData, WeeksDataModule
from heartnet.diagnostics.adapt import adapt
from heartnet.diagnostics.heatmap import collect
from heartnet.diagnostics.pixels import image_probe
from heartnet.errors import HeartnetError
from heartnet.findings import BAD, read_jsonl
from heartnet.known import known_week, telling_rows
from heartnet.model.deepheart import DeepHeart
from heartnet.model.hourly_cnn import HourlyCNN
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cohort() -> SimulatedData:
    return SimulatedData(Conditions(), users=14, weeks_per_user=1, batch_size=4, val_share=0.3, test_share=0.1)


def module_of(data: WeeksDataModule, network: nn.Module | None = None) -> HeartnetModule:
    torch.manual_seed(0)
    network = network or DeepHeart(
        3, len(data.targets), conv_units=6, kernel_sizes=(5,), pool=8, lstm_units=4, lstm_layers=1, dropout=0.3
    )
    count = len(data.targets)
    return HeartnetModule(
        network, kind="conditions", targets=data.targets, target_mean=[0.3] * count, target_std=[1.0] * count,
        scaling=data.scaling.as_dict(),
    )  # fmt: skip


def trainer_of(folder: Path, callbacks: list[Any], **options: Any) -> lightning.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 3, "enable_checkpointing": False, "num_sanity_val_steps": 1, "limit_train_batches": 2,
        "logger": TensorBoardLogger(folder, name="", version=""),
    }  # fmt: skip
    return lightning.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**defaults, **options},
    )


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


def fit(folder: Path, data: WeeksDataModule, callbacks: list[Any], **options: Any) -> HeartnetModule:
    module = module_of(data)
    torch.manual_seed(1)
    trainer_of(folder, callbacks, **options).fit(module, datamodule=data)
    return module


def test_everything_arrives_in_the_run_folder(tmp_path: Path, cohort: SimulatedData) -> None:
    fit(tmp_path, cohort, [ActivationHeatmap(every_n_epochs=1, weeks=3, drawn=2, shifts=100)])
    found = events(tmp_path)
    layers = ("convolutions.0", "lstm.0", "head")
    images = {tag for tag in found.Tags()["images"] if "/unit/" not in tag}
    assert images == {f"activation_heatmap/{layer}{week}" for layer in layers for week in ("", "/week_2")}
    # At the start, after the first two of three epochs, and at the end.
    assert [each.step for each in found.Images("activation_heatmap/lstm.0")] == [0, 2, 4, 6]
    assert {"activation_heatmap/unit/asleep"} <= set(found.Tags()["images"])
    scalars = set(found.Tags()["scalars"])
    assert {f"activation_heatmap/{name}/{layer}" for name in ("constant", "silent") for layer in layers} <= scalars
    assert [each.step for each in found.Scalars("activation_heatmap/best/asleep")] == [0, 6]
    assert all(0.5 <= each.value <= 1 for each in found.Scalars("activation_heatmap/best/asleep"))
    table = found.Tensors("activation_heatmap/units/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| asleep | convolutions.0" in table
    frame = pl.read_csv(tmp_path / "units.csv")
    assert set(frame["layer"]) == set(layers)
    assert frame.filter(pl.col("signal") == "asleep").height == 6 + 8 + 4
    assert {"heart_rate", "steps", "cadence", "asleep", "hour_noon", "hour_evening"} <= set(frame["signal"])
    findings = read_jsonl(tmp_path / "findings.jsonl")
    assert {each.where for each in findings if each.check == "units"} >= {"asleep"}
    assert {each.step for each in findings if each.check == "cadence"} == {0, 2, 4, 6}
    assert {each.status for each in findings} == {"pass"}


def test_training_is_the_same_bit_for_bit(tmp_path: Path, cohort: SimulatedData) -> None:
    ends = []
    for name, callbacks in (("with", [ActivationHeatmap(["lstm.*"], weeks=2, shifts=20)]), ("without", [])):
        module = fit(tmp_path / name, cohort, callbacks, max_epochs=2)
        ends.append([*(each.detach().clone() for each in module.parameters()), torch.rand(1)])
        assert not any(each._forward_hooks for each in module.network.modules())
        assert all(each.requires_grad for each in module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_resuming_keeps_orders_and_the_untrained_network(tmp_path: Path, cohort: SimulatedData) -> None:
    first = ActivationHeatmap(["lstm.*"], weeks=2, shifts=20)
    module = module_of(cohort)
    trainer = trainer_of(tmp_path / "a", [first], max_epochs=1)
    trainer.fit(module, datamodule=cohort)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ActivationHeatmap(["lstm.*"], weeks=2, shifts=20)
    trainer_of(tmp_path / "b", [again], max_epochs=2).fit(
        module_of(cohort), datamodule=cohort, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert again.orders.keys() == first.orders.keys() != set()
    for name, order in first.orders.items():
        np.testing.assert_array_equal(order.rows, again.orders[name].rows)
        np.testing.assert_array_equal(order.signs, again.orders[name].signs)
    for a, b in zip(first.untrained, again.untrained, strict=True):
        np.testing.assert_array_equal(a.effects, b.effects)
    assert [each.step for each in events(tmp_path / "b").Images("activation_heatmap/lstm.0")] == [4]


class Foreign(lightning.LightningModule):
    """Knows nothing of heartnet: a tuple batch, a GRU, a functional activation, an answer that is a tuple."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.rnn = nn.GRU(channels, 4, 2, batch_first=True, dropout=0.4)
        self.mix = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Any:
        out, state = self.rnn(x)
        return torch.relu(self.mix(out.transpose(1, 2))), state

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        x = batch["x"] if isinstance(batch, dict) else batch[0]
        loss: Tensor = self(x)[0].mean()
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.training_step(batch, index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class ByHand(Foreign):
    """Steps its two optimisers itself."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = super().training_step(batch, index)
        for optimiser in self.optimizers():  # type: ignore[union-attr]
            optimiser.zero_grad()
            self.manual_backward(loss, retain_graph=True)
            optimiser.step()
            loss = super().training_step(batch, index)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        super().training_step(batch, index)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.rnn.parameters(), 0.1), torch.optim.SGD(self.mix.parameters(), 0.1)]


class Images(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        self.network(torch.zeros(1, 1, 8, 8))

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        loss: Tensor = self.network(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def pairs(*shape: int, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(*shape, generator=generator), torch.zeros(shape[0]))
    return DataLoader(data, batch_size=4, shuffle=shuffle)


@pytest.mark.parametrize("kind", [Foreign, ByHand])
@pytest.mark.parametrize("validate", [True, False])
def test_foreign_modules(tmp_path: Path, kind: type[Foreign], validate: bool) -> None:
    ends = []
    for name, callbacks in (("with", [ActivationHeatmap(shifts=20)]), ("without", [])):
        torch.manual_seed(0)
        module = kind()
        trainer_of(tmp_path / name, callbacks, max_epochs=2).fit(
            module, pairs(12, 60, 2), pairs(6, 60, 2, shuffle=False) if validate else None
        )
        ends.append([each.detach().clone() for each in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert {tag for tag in events(tmp_path / "with").Tags()["images"] if "unit" not in tag} == {
        "activation_heatmap/rnn",
        "activation_heatmap/mix",
    }
    assert set(pl.read_csv(tmp_path / "with" / "units.csv")["signal"]) == {"channel_0", "channel_1"}
    assert not [each for each in read_jsonl(tmp_path / "with" / "findings.jsonl") if each.status in BAD]


def test_images_are_rows_of_pixels(tmp_path: Path) -> None:
    ends = []
    for name, callbacks in (("with", [ActivationHeatmap()]), ("without", [])):
        torch.manual_seed(0)
        module = Images()
        trainer_of(tmp_path / name, callbacks, max_epochs=2).fit(module, pairs(8, 1, 8, 8))
        ends.append([each.detach().clone() for each in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    found = events(tmp_path / "with")
    assert found.Tags()["images"] == ["activation_heatmap/network.0"]
    assert [each.step for each in found.Images("activation_heatmap/network.0")] == [0, 4]
    assert "activation_heatmap/constant/network.0" in found.Tags()["scalars"]
    assert not (tmp_path / "with" / "findings.jsonl").exists()  # neither units that mean something nor a cadence
    images = torch.randn(3, 2, 5, 4)
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
    (layer,) = collect(image_probe(network, {"x": images, "y": torch.zeros(3)}))  # type: ignore[arg-type]
    expected = network(images)[2].flatten(1).detach().numpy()
    np.testing.assert_allclose(layer.weeks[2], expected, atol=1e-6)
    assert image_probe(network, [images, torch.zeros(3, 5, 2)]) is None


def test_what_is_neither_a_sequence_nor_an_image_is_told_plainly_and_once(tmp_path: Path) -> None:
    class Table(Images):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Linear(5, 2))

    trainer_of(tmp_path, [ActivationHeatmap()], max_epochs=2).fit(Table(), pairs(8, 5))
    (finding,) = read_jsonl(tmp_path / "findings.jsonl")
    assert finding.status == "warn"
    assert "shows units over sequences" in finding.message
    assert "ActivationHeatmap(probe=" in finding.message


def test_a_network_without_convolutions_is_told_what_else_there_is(tmp_path: Path) -> None:
    class Linears(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.mix = None, None
            self.embed = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Any:
            return self.embed(x).mean(1), None

    trainer_of(tmp_path, [ActivationHeatmap()], max_epochs=1).fit(Linears(), pairs(8, 20, 2))
    (finding,) = read_jsonl(tmp_path / "findings.jsonl")
    assert "no convolution or recurrent layer; choose among others, layers=['embed']" in finding.message
    trainer_of(tmp_path / "named", [ActivationHeatmap(["embed"])], max_epochs=1).fit(Linears(), pairs(8, 20, 2))
    assert "activation_heatmap/embed" in events(tmp_path / "named").Tags()["images"]


def test_whatever_goes_wrong_training_goes_on(tmp_path: Path) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such thing")

    trainer_of(tmp_path, [ActivationHeatmap(probe=broken)], max_epochs=2).fit(Foreign(), pairs(8, 20, 2))
    (finding,) = read_jsonl(tmp_path / "findings.jsonl")
    assert "RuntimeError: no such thing" in finding.message


class Diverged(Foreign):
    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            self.mix.weight[0] = torch.nan
            self.rnn.get_parameter("weight_ih_l0")[0] = torch.inf


def test_a_network_that_diverges_is_drawn_too(tmp_path: Path) -> None:
    trainer_of(tmp_path, [ActivationHeatmap(every_n_epochs=1, shifts=9)]).fit(Diverged(), pairs(8, 40, 2))
    assert [each.step for each in events(tmp_path).Images("activation_heatmap/mix")] == [0, 2, 4, 6]
    assert not [each for each in read_jsonl(tmp_path / "findings.jsonl") if each.status in BAD]


@pytest.mark.parametrize("shape", [(8, 2, 2), (4, 3, 1), (4, 40, 12)])
def test_short_sequences_and_many_channels(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    trainer_of(tmp_path, [ActivationHeatmap(shifts=9)], max_epochs=1).fit(Foreign(shape[2]), pairs(*shape))
    assert not [each for each in read_jsonl(tmp_path / "findings.jsonl") if each.status in BAD]


def test_16_bits(tmp_path: Path) -> None:
    trainer_of(tmp_path, [ActivationHeatmap(shifts=9)], max_epochs=1, precision="bf16-mixed").fit(
        Foreign(), pairs(8, 40, 2)
    )
    assert "activation_heatmap/mix" in events(tmp_path).Tags()["images"]
    assert not [each for each in read_jsonl(tmp_path / "findings.jsonl") if each.status in BAD]


def test_an_adapter_of_one_line(tmp_path: Path) -> None:
    class ChannelsFirst(Foreign):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.transpose(1, 2))

    class Swapped(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Any:
            return self.network(x.transpose(1, 2))

    callback = ActivationHeatmap(
        shifts=20, probe=lambda module, batch: adapt(Swapped(module), batch[0].transpose(1, 2), outputs=("a",))
    )
    trainer_of(tmp_path, [callback], max_epochs=1).fit(ChannelsFirst(), pairs(8, 2, 30))
    assert "activation_heatmap/network.rnn" in events(tmp_path).Tags()["images"]


def test_options_that_cannot_work_are_told_before_training(tmp_path: Path, cohort: SimulatedData) -> None:
    for options in ({"weeks": 0}, {"every_n_epochs": 0}, {"drawn": 0}, {"shifts": 0}, {"lags": ()}, {"layers": ()}):
        with pytest.raises(HeartnetError, match=f"callbacks.activation_heatmap.{next(iter(options))}="):
            ActivationHeatmap(**options)  # type: ignore[arg-type]
    with pytest.raises(HeartnetError, match=r"layers=\['convolution.0'\].*Did you mean|layers=.*convolutions.0"):
        fit(tmp_path, cohort, [ActivationHeatmap(layers=["convolution.0"])])
    with pytest.raises(HeartnetError, match="'x' has shape"):
        fit(tmp_path, cohort, [ActivationHeatmap(signals=lambda week: {"x": np.zeros(len(week) - 1)}, shifts=5)])


def test_own_signals_and_chosen_layers(tmp_path: Path, cohort: SimulatedData) -> None:
    callback = ActivationHeatmap(
        layers=["lstm.*"], weeks=2, shifts=50, signals=lambda week: {"fast": week.traces["heart_rate"] > 90}
    )
    fit(tmp_path, cohort, [callback], max_epochs=1)
    frame = pl.read_csv(tmp_path / "units.csv")
    assert set(frame["layer"]) == {"lstm.0"}
    assert frame.filter(pl.col("signal") == "fast")["measure"].unique().to_list() == ["auc"]


def test_the_hourly_view(tmp_path: Path) -> None:
    data = SimulatedData(Conditions(), users=14, weeks_per_user=1, batch_size=4, val_share=0.3, view="hourly")
    module = module_of(data, HourlyCNN(outputs=len(data.targets), conv_units=4))
    trainer_of(tmp_path, [ActivationHeatmap(weeks=2, shifts=20)], max_epochs=1).fit(module, datamodule=data)
    assert not [each for each in read_jsonl(tmp_path / "findings.jsonl") if each.status in BAD]
    frame = pl.read_csv(tmp_path / "units.csv")
    assert {"heart_rate", "steps", "asleep", "hour_noon"} <= set(frame["signal"])
    assert "cadence" not in set(frame["signal"])
    # Hours are alike, so there is no verdict on 5 s against 5 min.
    assert "cadence" not in {each.check for each in read_jsonl(tmp_path / "findings.jsonl")}


def test_a_fast_dev_run_writes_nothing(tmp_path: Path, cohort: SimulatedData) -> None:
    fit(tmp_path, cohort, [ActivationHeatmap(weeks=1, shifts=5)], fast_dev_run=True, logger=False)
    assert list(tmp_path.iterdir()) == []


def test_what_the_data_knows(cohort: SimulatedData) -> None:
    rows = telling_rows(cohort, 2, 64)
    assert set(rows) <= set(cohort.rows["val"].tolist())
    probe = module_of(cohort).probe(cohort.batch(np.array(rows)))
    week = known_week(probe, 1, cohort, rows[1])
    span = slice(int(cohort.weeks.offsets[rows[1]]), int(cohort.weeks.offsets[rows[1] + 1]))
    np.testing.assert_array_equal(week.traces["heart_rate"], cohort.weeks.readings[span, 0])
    np.testing.assert_array_equal(week.marks["asleep"], cohort.weeks.annotations["asleep"][span])
    assert week.name == f"simulated week {rows[1]}"
    real = copy.copy(cohort)
    real.weeks = replace(cohort.weeks, provenance={"kind": "prepared"})
    assert known_week(probe, 1, real, rows[1]).name == f"week {rows[1]}"

    def evenly(row: int) -> float:
        part = slice(int(cohort.weeks.offsets[row]), int(cohort.weeks.offsets[row + 1]))
        marks = cohort.weeks.annotations
        asleep, workout = (float((marks[name][part] == 1).mean()) for name in ("asleep", "in_workout"))
        return asleep * (1 - asleep) + workout * (1 - workout)

    assert rows == sorted(cohort.rows["val"].tolist(), key=evenly, reverse=True)[:2]
    alone = known_week(probe, 1)
    assert list(alone.traces) == ["heart_rate", "steps", "dt"]
    assert len(alone) == len(week)
    assert alone.dt is not None
    np.testing.assert_allclose(alone.dt[1:], week.dt[1:], rtol=1e-3)  # type: ignore[index]


class Convolutions(Foreign):
    """Without recurrent layers, which float16 on a CPU does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.mix = None, nn.Conv1d(2, 3, 3)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.mix(x.transpose(1, 2))), None


def test_float16_with_a_gradient_scaler(tmp_path: Path) -> None:
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))  # type: ignore[arg-type]
    trainer_of(tmp_path, [ActivationHeatmap(shifts=9)], max_epochs=1, plugins=[plugin]).fit(
        Convolutions(), pairs(8, 40, 2)
    )
    assert "activation_heatmap/mix" in events(tmp_path).Tags()["images"]
    assert not [each for each in read_jsonl(tmp_path / "findings.jsonl") if each.status in BAD]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Rank zero alone draws and writes; nobody waits for anybody."""
    script = f"""
from test_activation_heatmap import ActivationHeatmap, Foreign, Path, pairs, trainer_of
if __name__ == "__main__":
    options = dict(devices=2, strategy="ddp_spawn", max_epochs=3, limit_train_batches=None)
    module = Foreign()
    trainer_of(Path({str(tmp_path)!r}), [ActivationHeatmap(shifts=9, every_n_epochs=1)], **options).fit(
        module, pairs(16, 40, 2), pairs(8, 40, 2, shuffle=False)
    )
"""
    (tmp_path / "script.py").write_text(script)
    tests = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=paths, check=True, timeout=300, capture_output=True)
    assert [each.step for each in events(tmp_path).Images("activation_heatmap/mix")] == [0, 2, 4, 6]
    assert set(pl.read_csv(tmp_path / "units.csv")["layer"]) == {"rnn", "mix"}
    findings = read_jsonl(tmp_path / "findings.jsonl")
    assert len(findings) == len({(each.check, each.where, each.step) for each in findings})
