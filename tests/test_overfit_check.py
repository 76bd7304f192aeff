"""The callback overfit_check in plain trainers: faults are named, clean runs pass, no trace is left."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import KINDS, Training, training
from overfit_faults import OWN, checked, injected, trouble
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks.overfit_check import OverfitCheck
from heartnet.errors import HeartnetError
from heartnet.findings import read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]


def check_fault(folder: Path, kind: str, name: str, seed: int, steps: int = 400) -> None:
    it, places = injected(kind, name, seed)
    found = trouble(checked(it, folder, steps=steps))
    assert any(fnmatch.fnmatch(where, place) for where in found for place in places), (places, found)


@pytest.mark.parametrize("name", ["15", "22", "23", "same inputs", "contradictions", "inputs cut off", "27"])
def test_a_fault_is_named(tmp_path: Path, name: str) -> None:
    check_fault(tmp_path, "image", name, 0, steps=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [each for each in OWN if each != "30"])
def test_faults_in_each_network(tmp_path: Path, name: str, kind: str, seed: int) -> None:
    check_fault(tmp_path, kind, name, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_run_passes(tmp_path: Path, kind: str) -> None:
    found = checked(training(kind), tmp_path)
    assert trouble(found) == []
    assert [each.where for each in found if each.status == "warn"] == ["easy"]  # and so these weeks are
    assert "weeks, " in found[0].message


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(1, 8))
def test_more_clean_runs_pass(tmp_path: Path, kind: str, seed: int) -> None:
    assert trouble(checked(training(kind, seed), tmp_path)) == []


# What it leaves: logs, and no trace


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    weights = []
    for callbacks in ([], [OverfitCheck(steps=6, normalisation="off")]):
        it = training(kind)
        torch.manual_seed(7)
        it.fit(tmp_path / str(len(callbacks)), list(callbacks), max_epochs=2)
        weights.append({name: each.clone() for name, each in it.module.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert all(each.requires_grad for each in it.module.parameters())


def test_tags(tmp_path: Path) -> None:
    it = training("deepheart")
    it.fit(tmp_path, [OverfitCheck(steps=20)], logger=TensorBoardLogger(tmp_path, "tb", ""), max_steps=1)
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("overfit_check/")}
    assert tags == {"overfit_check/loss", *(f"overfit_check/auroc/{name}" for name in ("sleep_apnea", "diabetes"))}
    assert [event.step for event in events.Scalars("overfit_check/loss")] == list(range(0, 20, 2))


def test_a_resumed_run_is_not_checked(tmp_path: Path) -> None:
    it = training("image")
    trainer = it.fit(tmp_path / "a", [], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = training("image")
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, callbacks=[OverfitCheck()], max_epochs=2, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(again.module, *again.data, ckpt_path=tmp_path / "a.ckpt")
    assert read_jsonl(tmp_path / "findings.jsonl") == []


# Stopping


def test_a_failure_ends_the_run_if_asked_to(tmp_path: Path) -> None:
    it, _ = injected("image", "same inputs", 0)
    before = {name: each.clone() for name, each in it.module.state_dict().items()}
    with pytest.raises(HeartnetError, match=r"ended the run before training .*cause/input"):
        it.fit(tmp_path, [OverfitCheck(steps=8, stop_on_fail=True)])
    assert all(torch.equal(before[name], each) for name, each in it.module.state_dict().items())
    assert "cause/input" in trouble(read_jsonl(tmp_path / "findings.jsonl"))


def test_a_pass_and_a_warning_do_not(tmp_path: Path) -> None:
    it = training("image").fit(tmp_path, [OverfitCheck(seconds=1e-9, stop_on_fail=True)], max_steps=2)
    assert it.global_step == 2
    found = read_jsonl(tmp_path / "findings.jsonl")
    assert {each.status for each in found} == {"warn"}
    assert "could not tell within" in found[0].message


# Anybody's module


class Manual(lightning.LightningModule):
    """Two optimisers by hand, a dict batch, a head for each of two conditions, functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.rnn, self.heads = nn.GRU(2, 16, batch_first=True), nn.ModuleList(nn.Linear(16, 1) for _ in range(2))

    def training_step(self, batch: Any, index: int) -> None:
        del index
        first, second = self.optimizers()
        out = F.dropout(self.rnn(batch["x"])[0].mean(dim=1), 0.3, training=self.training)
        loss = sum(F.binary_cross_entropy_with_logits(h(out)[:, 0], batch["y"][:, i]) for i, h in enumerate(self.heads))
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.rnn.parameters(), 1e-2), torch.optim.Adam(self.heads.parameters(), 1e-2)


class Written(lightning.LightningModule):
    """A loss written by hand, so that nothing is seen of scores and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: Any) -> Tensor:
        out: Tensor = self.layer(batch["x"].mean(dim=1))
        return out

    def training_step(self, batch: Any) -> Tensor:
        return (self(batch) - batch["y"][:, :1]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.05)


class Dicts(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        return dict(zip(("x", "y"), super().__getitem__(index), strict=True))


def sequences() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(64, 2, generator=generator) < 0.5).float()
    return DataLoader(Dicts(torch.randn(64, 12, 2, generator=generator) + y[:, None], y), batch_size=8, shuffle=True)


def test_manual_optimisation_and_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = checked(Training("foreign", Manual(), (sequences(),)), tmp_path)
    assert [(each.where, each.status) for each in found[:2]] == [("output_0", "pass"), ("output_1", "pass")]


def test_an_adapter_of_one_line_shows_the_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (blind, *_) = checked(Training("foreign", Written(), (sequences(),)), tmp_path / "a", steps=8)
    assert (blind.where, blind.status) == ("scores", "warn")
    assert "OverfitCheck(scores=" in blind.message
    found = checked(
        Training("foreign", Written(), (sequences(),)),
        tmp_path / "b",
        scores=lambda module, batch: (module(batch), batch["y"][:, :1]),
    )
    assert (found[0].where, found[0].status) == ("output_0", "pass")


def test_a_step_that_fails_on_a_copy_does_not_end_the_run(tmp_path: Path) -> None:
    class Once(Written):
        def training_step(self, batch: Any) -> Tensor:
            if self.trainer.training and not getattr(self, "original", False):
                raise RuntimeError("only the original")
            return super().training_step(batch)

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            del batch, index
            self.original = True

        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("cannot be copied")

    it = Training("foreign", Once(), (sequences(),))
    (found,) = checked(it, tmp_path, steps=8)
    assert (found.where, found.status) == ("copy", "warn")
    assert "cannot be copied" in found.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("readings", 1),
        ("least", 1),
        ("most", 3),
        ("share", 2.0),
        ("seconds", 0.0),
        ("normalisation", "bath"),
        ("among", 0),
    ],
)
def test_wrong_options_are_named(name: str, value: Any) -> None:
    with pytest.raises(HeartnetError, match=rf"callbacks\.overfit_check\.{name}={value}"):
        OverfitCheck(**{name: value})
