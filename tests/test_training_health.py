"""The callback training_health in plain trainers: each fault is found and placed, clean runs are silent, no trace."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import FAULTS, KINDS, Training, faulty, training
from pytorch_lightning.demos import Transformer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks.training_health import TrainingHealth
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, latest, read_jsonl

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


def trouble(folder: Path) -> list[Finding]:
    """Return the newest findings that are not passes."""
    return [each for each in latest(read_jsonl(folder / "findings.jsonl")) if each.status != "pass"]


def wheres(folder: Path) -> list[str]:
    return [each.where for each in trouble(folder)]


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


class Dead(lightning.LightningModule):
    """Three classes behind a dead layer: gradients reach the bias of what follows it, and never its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.dead, self.head = nn.Linear(2, 8), nn.Linear(8, 3)
        nn.init.constant_(self.dead.bias, -30.0)

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        out = F.relu(self.head(F.relu(self.dead(batch["x"].mean(dim=1)))))
        return F.cross_entropy(out, batch["y"].long())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def test_what_follows_a_dead_layer_is_not_blamed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Training("foreign", Dead(), (sequences(),), {"max_epochs": 4}).fit(tmp_path, [TrainingHealth()])
    assert wheres(tmp_path) == ["logits/ReLU", "dead/start"]
    (cut,) = [each for each in trouble(tmp_path) if each.where == "logits/ReLU"]
    assert "below 0.5" not in cut.message  # which only scores of two classes are


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


class Foreign(lightning.LightningModule):
    """Dict batches, an LSTM that returns a tuple, a layer used twice, a frozen part, and functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 4).requires_grad_(False)
        self.rnn = nn.LSTM(4, 6, batch_first=True, bidirectional=True, dropout=0.0)
        self.twice = nn.Linear(12, 12)
        self.head = nn.Linear(12, 1)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(self.frozen(x))
        out = self.drop(torch.tanh(self.twice(torch.relu(self.twice(out)))))
        answer: Tensor = self.head(out.mean(dim=1))
        return answer[:, 0]

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        loss = F.binary_cross_entropy_with_logits(self(batch["x"]), batch["y"])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class Dicts(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        return dict(zip(("x", "y"), super().__getitem__(index), strict=True))


def sequences(size: int = 64, batch_size: int = 8, *, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(size, generator=generator) < 0.5).float()
    x = torch.randn(size, 12, 2, generator=generator) + y[:, None, None]
    return DataLoader(Dicts(x, y), batch_size=batch_size, shuffle=shuffle, generator=generator)


class Rivals(lightning.LightningModule):
    """Two optimisers by hand, one against the other, and gradients clipped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 24))
        self.judge = nn.Sequential(nn.Linear(24, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Any, index: int) -> None:
        del index
        first, second = self.optimizers()
        real = batch["x"].flatten(1)
        fake = self.maker(torch.randn(len(real), 3))
        self.toggle_optimizer(second)
        told = self.judge(torch.cat([real, fake.detach()]))
        truth = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
        self.manual_backward(F.binary_cross_entropy_with_logits(told, truth))
        self.clip_gradients(second, 1.0, "norm")
        second.step()
        second.zero_grad()
        self.untoggle_optimizer(second)
        self.toggle_optimizer(first)
        self.manual_backward(-F.binary_cross_entropy_with_logits(self.judge(fake), torch.zeros(len(real), 1)))
        first.step()
        first.zero_grad()
        self.untoggle_optimizer(first)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.maker.parameters(), 2e-3), torch.optim.Adam(self.judge.parameters(), 2e-3)


class FromALibrary(lightning.LightningModule):
    """The Transformer of Lightning's demos, on integers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Transformer(vocab_size=11, ninp=8, nhead=2, nhid=8, nlayers=2)

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        return F.nll_loss(self.model(*batch), batch[1].reshape(-1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def integers() -> DataLoader[Any]:
    numbers = (torch.arange(40)[:, None] + torch.arange(10)) % 11
    return DataLoader(TensorDataset(numbers, (numbers + 1) % 11), batch_size=4)


class Compiled(Foreign):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.compile(self.head, backend="eager")  # type: ignore[assignment]


FOREIGN: dict[str, Any] = {
    "plain": (Foreign, sequences, {}),
    "accumulate": (Foreign, sequences, {"accumulate_grad_batches": 3}),
    "clip": (Foreign, sequences, {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}),
    "bf16": (Foreign, sequences, {"precision": "bf16-mixed"}),
    "rivals": (Rivals, sequences, {}),
    "transformer": (FromALibrary, integers, {"gradient_clip_val": 5.0}),
    "compiled": (Compiled, sequences, {}),
}


def fit_foreign(folder: Path, name: str, callbacks: list[Any], **options: Any) -> lightning.LightningModule:
    make, loader, given = FOREIGN[name]
    torch.manual_seed(0)
    module: lightning.LightningModule = make()
    Training("foreign", module, (loader(),), {"max_epochs": 5, **given}).fit(folder, callbacks, **options)
    return module


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_modules_train_the_same_and_in_silence(tmp_path: Path, name: str) -> None:
    with_it = fit_foreign(tmp_path / "a", name, [TrainingHealth(every_n_steps=3)])
    after = torch.rand(1)
    plain = fit_foreign(tmp_path / "b", name, [])
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(a, b) for a, b in zip(with_it.parameters(), plain.parameters(), strict=True))
    assert wheres(tmp_path / "a") == []
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in with_it.modules())
    assert [p.requires_grad for p in with_it.parameters()] == [p.requires_grad for p in plain.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([TrainingHealth(every_n_steps=2)], []):
        it = training(kind)
        it.fit(tmp_path, callbacks)
        ends.append([*(p.detach() for p in it.module.parameters()), *it.module.buffers(), torch.rand(1)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_hooks_are_gone_after_an_error(tmp_path: Path) -> None:
    class Breaks(Foreign):
        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = super().training_step(batch, index)
            if self.trainer.global_step == 2:
                raise ZeroDivisionError
            return loss

    module = Breaks()
    with pytest.raises(ZeroDivisionError):
        Training("foreign", module, (sequences(),)).fit(tmp_path, [TrainingHealth()])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    assert torch.overrides._get_current_function_mode() is None


# Places that are hard to name


def test_sixteen_bit_with_a_scaler(tmp_path: Path) -> None:
    """Gradients that overflow while the scaler looks for its scale are no finding; a NaN in the loss is."""

    class Late(Foreign):
        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = super().training_step(batch, index)
            return loss * torch.nan if self.trainer.global_step == 30 else loss

    def plugin() -> Any:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**24))

    callback = TrainingHealth()
    loader = sequences()
    Training("foreign", Foreign(), (loader,), {"plugins": [plugin()]}).fit(tmp_path / "a", [callback])
    assert wheres(tmp_path / "a") == []
    assert callback.health is not None
    assert all(0 < each < 3 for each in callback.health.losses.values)
    assert max(look.gradients["head"] for look in list(callback.health.looks)[-1:]) < 10
    Training("foreign", Late(), (loader,), {"plugins": [plugin()], "max_epochs": 9}).fit(
        tmp_path / "b", [TrainingHealth()]
    )
    assert wheres(tmp_path / "b") == ["loss/finite"]


def test_a_gradient_that_overflows_while_the_loss_is_finite(tmp_path: Path) -> None:
    class Root(Foreign):
        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            value = self(batch["x"]).square()
            if self.trainer.global_step == 3:
                value = torch.cat([value[:3], (value[3:4] * 0).sqrt(), value[4:]])
            return value.mean()

    Training("foreign", Root(), (sequences(),)).fit(tmp_path, [TrainingHealth()])
    (found,) = trouble(tmp_path)
    assert found.where == "head/finite"
    assert found.step == 3
    assert "gradient" in found.message
    assert "sample 3 of the batch" in found.message


def test_manual_optimisation_is_placed_too(tmp_path: Path) -> None:
    class Spoilt(Rivals):
        def training_step(self, batch: Any, index: int) -> None:
            if index == 4:
                batch["x"][1, 0, 0] = torch.inf
            super().training_step(batch, index)

    Training("foreign", Spoilt(), (sequences(),), {"max_epochs": 1}).fit(tmp_path, [TrainingHealth()])
    (found,) = trouble(tmp_path)
    assert found.where == "judge/finite"
    assert "sample" in found.message or "values" in found.message


def test_weights_that_are_not_there_to_be_moved(tmp_path: Path) -> None:
    class Unused(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)

    Training("foreign", Unused(), (sequences(),)).fit(tmp_path, [TrainingHealth()])
    (found,) = trouble(tmp_path)
    assert (found.where, found.status) == ("spare/gradient", "warn")
    assert "never run" in found.message


def test_dropout_left_on_in_validation(tmp_path: Path) -> None:
    class On(Foreign):
        def on_validation_model_eval(self) -> None:
            self.eval()
            self.drop.train()

        def validation_step(self, batch: Any, index: int) -> None:
            del index
            self(batch["x"])

    Training("foreign", On(), (sequences(), sequences(shuffle=False))).fit(tmp_path, [TrainingHealth()])
    assert wheres(tmp_path) == ["drop/mode"]


def test_an_auroc_that_stays_at_a_half(tmp_path: Path) -> None:
    """Labels that have nothing to do with the inputs, in a validation split that could tell."""

    class Scored(Foreign):
        def validation_step(self, batch: Any, index: int) -> None:
            del index
            self.shown = [*getattr(self, "shown", []), (self(batch["x"]), batch["y"])]

        def on_validation_epoch_end(self) -> None:
            from torchmetrics.functional.classification import binary_auroc

            scores, labels = (torch.cat(each) for each in zip(*self.shown, strict=True))
            self.shown = []
            self.log("val/auroc/risk", binary_auroc(scores, labels.long()))

    def noise(size: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(1)
        y = (torch.rand(size, generator=generator) < 0.5).float()
        return DataLoader(Dicts(torch.randn(size, 12, 2, generator=generator), y), batch_size=16)

    for size, places in ((400, ["risk/auroc"]), (40, [])):
        torch.manual_seed(0)
        Training("foreign", Scored(), (noise(160), noise(size)), {"max_epochs": 5}).fit(
            tmp_path / str(size), [TrainingHealth()]
        )
        assert [where for where in wheres(tmp_path / str(size)) if where.endswith("/auroc")] == places


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


def test_a_step_done_again_logs_nothing(tmp_path: Path) -> None:
    class Loud(Foreign):
        def training_step(self, batch: Any, index: int) -> Tensor:
            assert self.logger is not None
            self.logger.log_metrics({"mine": float(index)}, step=index)
            return super().training_step(batch, index)

    logger = CSVLogger(tmp_path, "csv")
    Training("foreign", Loud(), (sequences(),), {"max_epochs": 1, "logger": logger}).fit(tmp_path, [TrainingHealth()])
    metrics = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    mine = [line.split(",")[metrics[0].split(",").index("mine")] for line in metrics[1:]]
    assert [float(each) for each in mine if each] == list(range(8))
    assert wheres(tmp_path) == []


def test_validation_in_the_middle_of_epochs(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([TrainingHealth(every_n_steps=2)], []):
        it = training("hourly")
        it.fit(tmp_path, callbacks, val_check_interval=0.3, max_epochs=2)
        ends.append([p.detach() for p in it.module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert wheres(tmp_path) == []


def test_weights_that_start_at_zero_do_not_leap(tmp_path: Path) -> None:
    class Zeros(Foreign):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    Training("foreign", Zeros(), (sequences(),)).fit(tmp_path, [TrainingHealth()])
    assert wheres(tmp_path) == []


def test_gradients_that_vanish_through_depth(tmp_path: Path) -> None:
    class Deep(Foreign):
        def __init__(self) -> None:
            super().__init__()
            layers = [each for _ in range(14) for each in (nn.Linear(12, 12), nn.Sigmoid())]
            self.deep = nn.Sequential(nn.Flatten(), nn.Linear(24, 12), *layers)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.head(self.deep(x))
            return answer[:, 0]

    deep = Deep()
    deep.rnn.requires_grad_(False)
    deep.twice.requires_grad_(False)
    Training("foreign", deep, (sequences(),), {"max_epochs": 3}).fit(tmp_path, [TrainingHealth()])
    found = [each for each in trouble(tmp_path) if "vanishes" in each.message]
    assert found
    assert all(each.where.startswith("deep.") for each in found)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    script = f"""
import torch
from test_training_health import DataLoader, Foreign, TrainingHealth, sequences
import pytorch_lightning as lightning
if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = lightning.Trainer(default_root_dir={str(tmp_path)!r}, callbacks=[TrainingHealth()], devices=2,
        strategy="ddp_spawn", max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Foreign(), DataLoader(sequences().dataset, batch_size=8))
"""
    (tmp_path / "script.py").write_text(script)
    tests = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=paths, check=True, timeout=120, capture_output=True)
    found = read_jsonl(tmp_path / "findings.jsonl")
    assert found
    assert wheres(tmp_path) == []
