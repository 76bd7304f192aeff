"""The callback training_health in plain trainers: each fault is found and placed, clean runs are silent, no trace."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch
from faults import FAULTS, KINDS, faulty, training, trouble, wheres
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.training_health import TrainingHealth
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*no val split.*"),
    pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # of torch.compile
]


# Faults and clean runs


def check_fault(folder: Path, kind: str, number: int | str, seed: int) -> Finding:
    it, places = faulty(kind, number, seed)
    it.fit(folder, [TrainingHealth()], max_epochs=2)
    found = trouble(folder)
    here = [each for each in found if any(fnmatch.fnmatch(each.where, place) for place in places)]
    assert here, f"{number} in {kind}: expected one of {places}, found {[each.where for each in found]}"
    assert all(len(each.message) > 20 for each in found)
    return here[0]


@pytest.mark.parametrize(("number", "kind"), [(number, KINDS[i % 3]) for i, number in enumerate(FAULTS)])
def test_a_fault_is_found_and_its_place_named(tmp_path: Path, number: int | str, kind: str) -> None:
    assert check_fault(tmp_path, kind, number, 0).check == "training_health"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", FAULTS)
def test_faults_in_each_network(tmp_path: Path, number: int | str, kind: str, seed: int) -> None:
    check_fault(tmp_path, kind, number, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_clean_runs_are_silent(tmp_path: Path, kind: str, seed: int) -> None:
    training(kind, seed).fit(tmp_path, [TrainingHealth()])
    assert wheres(tmp_path) == []
    passed = {each.where for each in read_jsonl(tmp_path / "findings.jsonl")}
    assert {"finite", "gradient", "update", "optimiser", "units", "loss/start"} <= passed
    assert "trend" in passed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2, 9))
def test_more_clean_runs_are_silent(tmp_path: Path, kind: str, seed: int) -> None:
    training(kind, seed).fit(tmp_path, [TrainingHealth()], max_epochs=8)
    assert wheres(tmp_path) == []


def test_a_short_run_does_not_pass_for_what_it_cannot_show(tmp_path: Path) -> None:
    training("image").fit(tmp_path, [TrainingHealth()], max_epochs=1)
    assert "trend" not in {each.where for each in read_jsonl(tmp_path / "findings.jsonl")}


def test_what_is_not_finite_is_placed_to_the_sample(tmp_path: Path) -> None:
    found = check_fault(tmp_path, "deepheart", 4, 0)
    assert found.step == 5
    assert "in sample 2 of the batch (row " in found.message
    assert "batch['inputs']" in found.message
    assert "The last healthy step was 4: loss 0." in found.message
    assert found.message.startswith("NaN in the input of network, in step 5: 2 of 720 values")
    assert trouble(tmp_path) == [found]


def test_findings_propose_overrides_where_there_are_some(tmp_path: Path) -> None:
    slow = check_fault(tmp_path / "a", "deepheart", 23, 0)
    assert slow.try_ == ("module.learning_rate=1e-3",) or slow.try_[0].startswith("module.learning_rate=")
    assert check_fault(tmp_path / "b", "deepheart", 26, 0).try_ == ("trainer.gradient_clip_val=1.0",)
    assert check_fault(tmp_path / "c", "image", 23, 0).try_ == ()


# What it leaves: logs, and no trace


def test_tags(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, name="tb", version=""), CSVLogger(tmp_path, "csv")]
    training("deepheart").fit(tmp_path, [TrainingHealth(every_n_steps=10)], logger=loggers, log_every_n_steps=1)
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("training_health/")}
    by_layer = ("gradient", "gradient_to_largest", "gradient_to_first", "update", "activation")
    layers = [f"network.convolutions.{i}" for i in range(2)] + ["network.head"]
    layers += [f"network.lstm.{way}.{i}" for way in ("ahead", "back") for i in range(2)]
    expected = {f"training_health/{what}/{layer}" for what in by_layer for layer in layers}
    expected |= {f"training_health/activation/network.activations.{i}" for i in range(2)}
    expected |= {f"training_health/share/{name}" for name in ("sleep_apnea", "diabetes")}
    assert tags == expected | {"training_health/gradient_norm", "training_health/clipped"}
    steps = [event.step for event in events.Scalars("training_health/update/network.head")]
    assert steps == [0, 1, 2, 3, 4, 5, 10, 20, 30]
    shares = [events.Scalars(f"training_health/share/{name}")[0].value for name in ("sleep_apnea", "diabetes")]
    assert sum(share**2 for share in shares) == pytest.approx(1, abs=1e-5)
    for step in range(2):  # beside the largest, and beside the first look, by what was logged itself
        norms = {layer: events.Scalars(f"training_health/gradient/{layer}")[step].value for layer in layers}
        first = {layer: events.Scalars(f"training_health/gradient/{layer}")[0].value for layer in layers}
        for layer, norm in norms.items():
            largest = events.Scalars(f"training_health/gradient_to_largest/{layer}")[step].value
            assert largest == pytest.approx(norm / max(norms.values()), rel=1e-5)
            to_first = events.Scalars(f"training_health/gradient_to_first/{layer}")[step].value
            assert to_first == pytest.approx(norm / first[layer], rel=1e-5)


def test_few_layers_are_drawn(tmp_path: Path) -> None:
    training("deepheart").fit(
        tmp_path, [TrainingHealth(layers=2)], logger=TensorBoardLogger(tmp_path, "tb", ""), max_steps=1
    )
    tags = EventAccumulator(str(tmp_path / "tb")).Reload().Tags()["scalars"]
    gradients = {tag for tag in tags if tag.startswith("training_health/gradient/")}
    assert gradients == {f"training_health/gradient/network.{each}" for each in ("convolutions.0", "head")}


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([TrainingHealth(every_n_steps=2)], []):
        it = training(kind)
        it.fit(tmp_path, callbacks)
        ends.append([*(p.detach() for p in it.module.parameters()), *it.module.buffers(), torch.rand(1)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# Resuming, processes, arguments


def test_resuming_goes_on(tmp_path: Path) -> None:
    trainer = training("deepheart").fit(tmp_path / "a", [TrainingHealth()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = TrainingHealth()
    it = training("deepheart")
    trainer = lightning.Trainer(
        default_root_dir=tmp_path / "b", callbacks=[resumed], max_epochs=3, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(it.module, datamodule=it.data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.health is not None
    assert resumed.health.batches == len(resumed.health.losses) == trainer.global_step
    assert resumed.health.first is not None
    assert resumed.health.first.step == 0
    assert wheres(tmp_path / "b") == []


def test_what_was_said_is_not_said_again(tmp_path: Path) -> None:
    it, _ = faulty("deepheart", 24, 0)
    trainer = it.fit(tmp_path / "a", [TrainingHealth()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert len(wheres(tmp_path / "a")) == 1
    again, _ = faulty("deepheart", 24, 0)
    trainer = lightning.Trainer(
        default_root_dir=tmp_path / "b", callbacks=[TrainingHealth()], max_epochs=2, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(again.module, datamodule=again.data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert wheres(tmp_path / "b") == []


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    training("deepheart").fit(tmp_path, [TrainingHealth()], fast_dev_run=True)
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("name", ["every_n_steps", "check_every_n_batches", "layers"])
def test_wrong_arguments(name: str) -> None:
    with pytest.raises(HeartnetError, match=f"{name}=0: must be at least 1"):
        TrainingHealth(**{name: 0})


def test_validation_in_the_middle_of_epochs(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([TrainingHealth(every_n_steps=2)], []):
        it = training("hourly")
        it.fit(tmp_path, callbacks, val_check_interval=0.3, max_epochs=2)
        ends.append([p.detach() for p in it.module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert wheres(tmp_path) == []
