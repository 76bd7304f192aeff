"""The callback: what it changes (all weights but the last layer's), what not; going on; modules from elsewhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from faults import training
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from callbacks.synthetic_pretraining import FILE, SyntheticPretraining
from heartnet.diagnostics.adapt import adapt
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, read_jsonl
from heartnet.pretraining_weeks import PretrainingWeeks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


@pytest.fixture(autouse=True)
def targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short weeks have no days and nights, so their targets are the mean heart rate and the steps."""

    def values(self: PretrainingWeeks, names: Any) -> np.ndarray[Any, Any]:
        del names
        rows = [self.sources[s].week(int(r)) for s, r in zip(self.source, self.row, strict=True)]
        return np.array([np.nanmean(week, axis=0)[:2] for week in rows], dtype=np.float32)

    monkeypatch.setattr(PretrainingWeeks, "targets", values)


def pretraining(objective: Any = "heuristic", **options: Any) -> SyntheticPretraining:
    names = ["day_std_minus_night_std"] * 2 if objective == "heuristic" else None
    return SyntheticPretraining(objective, **{"targets": names, "max_epochs": 2, **options})


class Recorder(lightning.Callback):
    """Keeps what training saw: random numbers, the order of weeks, weights at the start, and states of optimisers."""

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self.random = [random.random(), np.random.rand(), torch.rand(()).item()]
        self.states = [len(each.state) for each in trainer.optimizers]
        self.parameters = [id(each) for group in trainer.optimizers[0].param_groups for each in group["params"]]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del trainer
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.modes = [each.training for each in pl_module.modules()]
        self.gradients = [each.grad is None for each in pl_module.parameters()]
        self.orders: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        del trainer, pl_module, batch_idx
        self.orders.append(batch["index"].tolist() if isinstance(batch, dict) else batch[1].tolist())


def findings(folder: Path) -> list[Finding]:
    return [each for file in folder.rglob("findings.jsonl") for each in read_jsonl(file)]


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
@pytest.mark.parametrize("objective", ["none", "heuristic", "autoencoder"])
def test_only_weights_below_the_last_layer_change(tmp_path: Path, kind: str, objective: str) -> None:
    records = []
    for i, callbacks in enumerate(([], [pretraining(objective)])):
        it, record = training(kind), Recorder()
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        it.fit(tmp_path / str(i), [*callbacks, record], max_epochs=2)
        named = [name for name, _ in it.module.named_parameters()]
        assert record.parameters == [id(each) for each in it.module.parameters()]
        records.append(record)
    without, with_it = records
    assert with_it.random == without.random
    assert with_it.states == without.states == [0]
    assert with_it.orders == without.orders
    assert (with_it.modes, with_it.gradients) == (without.modes, without.gradients)
    changed = {name for name, value in with_it.start.items() if not torch.equal(value, without.start[name])}
    below = {name for name in named if ".head." not in name}
    assert changed == (set() if objective == "none" else below)
    found = findings(tmp_path / "1")
    assert [each.where for each in found] == ["weeks", *([] if objective == "none" else [objective])]


def test_the_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    it, record = training("deepheart"), Recorder()
    it.fit(tmp_path, [pretraining(max_epochs=3), record], max_epochs=1)
    kept = torch.load(tmp_path / "checkpoints" / FILE, weights_only=True)
    assert kept["done"]
    assert kept["best"]["epoch"] + 1 <= kept["epoch"] == 3
    for name, value in kept["weights"].items():
        assert torch.equal(record.start[name], value), name
    parameters = {name for name, _ in it.module.named_parameters()}
    assert parameters - set(kept["weights"]) == {"network.head.weight", "network.head.bias"}
    assert set(kept["weights"]) <= parameters


def test_the_same_twice_and_in_the_same_folder_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starts = []
    for folder in ("one", "other", "one"):
        record = Recorder()
        training("deepheart").fit(tmp_path / folder, [pretraining(), record], max_epochs=1)
        starts.append(record.start)
    assert "before this run" in capsys.readouterr().out.splitlines()[-1]
    for other in starts[1:]:
        assert all(torch.equal(value, other[name]) for name, value in starts[0].items())
    record = Recorder()
    training("deepheart").fit(tmp_path / "one", [pretraining(learning_rate=1e-3), record], max_epochs=1)
    assert "before this run" not in capsys.readouterr().out
    assert any(not torch.equal(value, starts[0][name]) for name, value in record.start.items())


def test_runs_of_a_sweep_share_a_pretraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "multirun.yaml").write_text("")
    for i in range(2):
        training("deepheart").fit(tmp_path / str(i), [pretraining()], max_epochs=1)
    training("deepheart").fit(tmp_path / "2", [pretraining("autoencoder")], max_epochs=1)
    training("deepheart").fit(tmp_path / "3", [pretraining(share=False)], max_epochs=1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Pretrained")]
    assert ["before this run" in line for line in said] == [False, True, False, False]
    names = sorted(path.name.partition("-")[0] for path in (tmp_path / "pretraining").iterdir())
    assert names == ["autoencoder", "heuristic"]
    assert [path.parent.parent.name for path in tmp_path.rglob(FILE)] == ["3"]


def test_a_shared_pretraining_carries_no_ones_base_rates(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("")
    buffers = []
    for i in range(2):
        it = training("deepheart")
        it.module.target_mean += 0.1 * i  # of others whose labels are used
        it.fit(tmp_path / str(i), [pretraining()], max_epochs=1)
        buffers.append(it.module.target_mean)
    assert len(list((tmp_path / "pretraining").iterdir())) == 1
    torch.testing.assert_close(buffers[1], buffers[0] + 0.1)


def test_a_run_that_goes_on_does_not_pretrain_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = training("deepheart")
    trainer = it.fit(tmp_path, [pretraining()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    monkeypatch.setattr(SyntheticPretraining, "_pretrain", lambda *_: pytest.fail("pretrains again"))
    again, callback = training("deepheart"), pretraining()
    lightning.Trainer(
        default_root_dir=tmp_path, callbacks=[callback], accelerator="cpu", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    ).fit(again.module, datamodule=again.data, ckpt_path=tmp_path / "one.ckpt", weights_only=True)  # fmt: skip
    assert callback.done


def test_it_logs_and_its_charts_fit_its_tags(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    it = training("deepheart")
    it.fit(tmp_path, [pretraining()], max_epochs=1, logger=logger, log_every_n_steps=1)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("synthetic_pretraining/")}
    name = "synthetic_pretraining/explained/day_std_minus_night_std"
    assert tags == {"synthetic_pretraining/loss", "synthetic_pretraining/val_loss", name}
    kept = torch.load(tmp_path / "checkpoints" / FILE, weights_only=True)
    steps = [each.step for each in events.Scalars("synthetic_pretraining/val_loss")]
    assert steps == [kept["step"] // 2, kept["step"]]


def test_a_target_that_can_be_learned_is_learned_from_unlabelled_weeks(tmp_path: Path) -> None:
    it = training("hourly")
    it.fit(tmp_path, [pretraining(max_epochs=15, learning_rate=2e-2, patience=15)], max_epochs=1)
    found = findings(tmp_path)[-1]
    assert found.value is not None
    assert found.value > 0.5
    assert found.status == "pass"


# Modules from elsewhere


def sequences() -> Any:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 20, 2, generator=generator) + torch.randn(64, 1, 2, generator=generator)
    return DataLoader(
        TensorDataset(inputs, (inputs.mean(dim=(1, 2)) > 0).float()), batch_size=8, shuffle=True, generator=generator
    )


class Foreign(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.GRU(2, 8, batch_first=True)
        self.out = torch.nn.Linear(8, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.body(inputs)[0][:, -1])
        return out

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        del index
        return torch.nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def fit(folder: Path, module: Any, loader: Any, callbacks: list[Any], **options: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        default_root_dir=folder, callbacks=callbacks, accelerator="cpu", max_epochs=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        **options,
    )  # fmt: skip
    trainer.fit(module, loader)
    return trainer


@pytest.mark.parametrize("how", ["autoencoder", "heuristic", "probe"])
def test_a_module_from_elsewhere_that_says_its_last_layer(tmp_path: Path, how: str) -> None:
    options: dict[str, Any] = {"last_layer": "out", "max_epochs": 20 if how == "heuristic" else 2}
    if how == "heuristic":
        options |= {"values": lambda batch: batch[0].mean(dim=1), "targets": ["one", "other"], "learning_rate": 1e-2}
    elif how == "probe":
        options |= {"probe": lambda module, batch: adapt(module, batch[0], outputs=("risk",))}
    callback = SyntheticPretraining("heuristic" if how == "heuristic" else "autoencoder", **options)
    records = []
    for i, callbacks in enumerate(([], [callback])):
        record = Recorder()
        random.seed(1)
        np.random.seed(1)
        fit(tmp_path / str(i), Foreign(), sequences(), [*callbacks, record])
        records.append(record)
    without, with_it = records
    assert with_it.orders == without.orders
    assert with_it.random == without.random
    changed = {name for name, value in with_it.start.items() if not torch.equal(value, without.start[name])}
    assert changed == {name for name in without.start if name.startswith("body.")}
    (found,) = findings(tmp_path)
    assert found.try_ == ()
    if how == "heuristic":
        assert found.value is not None
        assert found.value > 0.5


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (SyntheticPretraining("autoencoder"), "say it by name, for example"),
        (SyntheticPretraining(last_layer="out"), "values=lambda batch"),
        (SyntheticPretraining("autoencoder", last_layer="outt"), "Did you mean 'out'?"),
    ],
)
def test_what_it_needs_to_know_is_said_and_the_run_goes_on(
    tmp_path: Path, callback: SyntheticPretraining, words: str
) -> None:
    module = Foreign()
    fit(tmp_path, module, sequences(), [callback])
    (found,) = findings(tmp_path)
    assert found.status == "warn"
    assert words in found.message


def test_images_are_said_to_be_no_sequences(tmp_path: Path) -> None:
    it = training("image")
    it.fit(tmp_path, [SyntheticPretraining("autoencoder", last_layer="network.8")], max_epochs=1)
    (found,) = findings(tmp_path)
    assert found.message.startswith("not pretrained: no float tensor [batch, time, channel]")


def test_a_quick_look_writes_nothing(tmp_path: Path) -> None:
    it = training("deepheart")
    it.fit(tmp_path, [pretraining()], fast_dev_run=True)
    assert list(tmp_path.rglob("*.ckpt")) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "heuristics"}, "objective=heuristics.*Did you mean 'heuristic'"),
        ({"targets": ["nope"]}, "no synthetic target 'nope'"),
        ({"targets": []}, r"targets=\[\]"),
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"patience": 0}, "patience=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"val_share": 1.0}, "val_share=1"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        SyntheticPretraining(**options)
