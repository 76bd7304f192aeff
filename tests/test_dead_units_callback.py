"""The callback dead_units in plain trainers, on modules in many styles: what it finds, and that it leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.lstm import LightningLSTM
from pytorch_lightning.demos.transformer import LightningTransformer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from callbacks.dead_units import DeadUnits
from heartnet.diagnostics.between_looks import BetweenLooks
from heartnet.diagnostics.dead_units import look
from heartnet.errors import HeartnetError
from heartnet.findings import BAD, Finding, read_jsonl
from heartnet.model import DeepHeart, HourlyCNN

pytestmark = [
    # Lightning's advice on workers for the loader and on logging intervals, and its use of an older pytree.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]


class Weeks(Dataset[dict[str, Tensor]]):
    """Random walks of 30 to 90 readings, each with a target that can be learned."""

    def __init__(self, weeks: int = 64, channels: int = 3, time: int = 90) -> None:
        generator = torch.Generator().manual_seed(3)
        self.lengths = torch.randint(time // 3, time + 1, (weeks,), generator=generator)
        self.inputs = torch.randn(weeks, time, channels, generator=generator).cumsum(dim=1) / 8
        self.inputs *= (torch.arange(time) < self.lengths[:, None])[..., None]

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        inputs = self.inputs[row]
        return {"inputs": inputs, "lengths": self.lengths[row], "targets": inputs.mean(dim=0)[:2]}

    def __len__(self) -> int:
        return len(self.lengths)


class OnWeeks(lightning.LightningModule):
    """A module of heartnet's kind; a learning rate, or a batch, goes wild at one step."""

    def __init__(self, network: nn.Module, *, rate: float = 1e-3, wild_rate: int = -1, wild_batch: int = -1) -> None:
        super().__init__()
        self.network, self.rate, self.wild_rate, self.wild_batch = network, rate, wild_rate, wild_batch

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        del index
        inputs, step = batch["inputs"], self.trainer.global_step
        if step == self.wild_batch:
            inputs = inputs * 100
        score = self.network(inputs, batch["lengths"]).score
        return F.mse_loss(score, batch["targets"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        del batch, batch_idx
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate * (3000 if self.trainer.global_step == self.wild_rate else 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.rate)


def compact(activation: str = "relu", **options: Any) -> DeepHeart:
    few: dict[str, Any] = {"conv_units": 16, "lstm_units": 8, "lstm_layers": 2, "longest": 90}
    return DeepHeart(3, 2, activation=activation, **{**few, **options})  # type: ignore[arg-type]


def trainer_of(folder: Path, callbacks: list[Any], **options: Any) -> lightning.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 4, "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 1,
    }  # fmt: skip
    return lightning.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**defaults, **options},
    )


def loader(channels: int = 3, batch: int = 8) -> DataLoader[Any]:
    return DataLoader(Weeks(channels=channels), batch_size=batch, shuffle=True)


def fit(
    folder: Path, module: lightning.LightningModule, data: Any = None, callback: DeadUnits | None = None, **options: Any
) -> tuple[list[Finding], DeadUnits]:
    callback = callback or DeadUnits(every_n_steps=4)
    trainer_of(folder, [callback], **options).fit(module, data or loader())
    return read_jsonl(folder / "findings.jsonl"), callback


def worst(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.status in BAD]


# What is found


def test_the_case_of_the_post_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = compact()
    with torch.no_grad():
        network.convolutions[0].bias.fill_(-10)
    found, _ = fit(tmp_path, OnWeeks(network))
    assert [(each.where, each.status) for each in found] == [("convolutions.0", "fail")]
    message = found[0].message
    assert message.startswith("all 16 units of convolutions.0 are dead: silent after relu")
    assert "Because of it, what convolutions.1, convolutions.2, lstm.ahead.0 and lstm.back.0 are given" in message
    assert "since the first step" in message
    assert found[0].try_ == ("model.activation=leaky_relu",)
    assert (found[0].value, found[0].limit) == (1.0, 0.75)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_death_in_the_middle_is_dated(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    found, callback = fit(tmp_path, OnWeeks(compact(conv_units=32, lstm_layers=1), wild_rate=13))
    dead = [each for each in worst(found) if "dead" in each.message]
    assert dead
    for each in dead:
        assert each.where.startswith("convolutions.")
        assert "died in step 13" in each.message
        assert "the learning rate was 3e+03 times its median (step 13)" in each.message
        assert each.try_ == ("model.activation=leaky_relu",)
        assert callback.deaths.states[each.where].dead >= 0.1


class DiesLate(lightning.Callback):
    """Drives the biases of the first units of `first` down before or after one step."""

    def __init__(self, units: int, step: int, *, after: bool = False) -> None:
        self.units, self.step, self.after = units, step, after

    def _push(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if trainer.global_step == step:
            module.first.bias.data[: self.units] -= 50

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        self._push(trainer, pl_module, -1 if self.after else self.step)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        self._push(trainer, pl_module, self.step + 1 if self.after else -1)


@pytest.mark.parametrize("units", [6, 12])
@pytest.mark.parametrize(("step", "after"), [(18, False), (19, False), (19, True)])
def test_a_death_in_the_last_steps_of_a_short_run_is_found(tmp_path: Path, units: int, step: int, after: bool) -> None:
    """20 steps; regular looks at 0, 1, 2, 4, 8 and 16."""
    trainer_of(tmp_path, [DiesLate(units, step, after=after), DeadUnits()], max_epochs=5).fit(Pairs(), pairs())
    (found,) = read_jsonl(tmp_path / "findings.jsonl")
    assert (found.where, found.value, found.status, found.step) == ("first", units / 12, "fail", 20)
    assert f"died in step {step if after else step - 1}" in found.message


def test_what_died_with_too_few_batches_to_be_sure_does_not_pass(tmp_path: Path) -> None:
    callbacks = [DiesLate(6, 1, after=True), DeadUnits()]
    trainer_of(tmp_path, callbacks, max_epochs=1, limit_train_batches=2).fit(Pairs(), pairs())
    (found,) = read_jsonl(tmp_path / "findings.jsonl")
    assert (found.where, found.status) == ("network", "warn")
    assert "50% of the units of first were silent at the last look, and too few looks followed" in found.message


def test_the_gradient_spike_before_a_death_is_named(tmp_path: Path) -> None:
    """One wild batch, and plain gradient descent."""

    class Plain(OnWeeks):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), self.rate)

    torch.manual_seed(0)
    network = HourlyCNN(activation="relu", outputs=2)
    found, _ = fit(tmp_path, Plain(network, rate=1e-2, wild_batch=11), loader(network.arguments["channels"]))
    dead = worst(found)
    assert [each.where for each in dead] == ["convolutions.2"]
    assert "They died in step 11; before it, the gradient was" in dead[0].message
    assert "times its median (step 11)" in dead[0].message
    assert "the learning rate was" not in dead[0].message
    assert "What may help" in dead[0].message


def test_a_network_that_is_no_number_any_more_does_not_pass(tmp_path: Path) -> None:
    class Explodes(Pairs):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            del batch, batch_idx
            if self.trainer.global_step == 5:
                self.first.weight.data[0] = float("nan")

    found, _ = fit(tmp_path, Explodes(), pairs())
    assert [(each.where, each.status, each.value) for each in found] == [("network", "warn", None)]
    assert "values of first are not finite" in found[0].message


@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", "relu"])
def test_a_clean_run_passes(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(1)
    found, _ = fit(tmp_path, OnWeeks(compact(activation, dropout=0.5)))
    assert [(each.status, each.where) for each in found] == [("pass", "network")]
    assert "No layer of 8" in found[0].message


def test_leaky_relu_is_proposed_only_where_it_helps(tmp_path: Path) -> None:
    class Elsewhere(Pairs):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.first.bias.fill_(-100)

    found, _ = fit(tmp_path, Elsewhere(), pairs())
    assert [each.where for each in worst(found)] == ["first"]
    assert worst(found)[0].try_ == ()
    assert "What may help: a leaky ReLU in place of relu, a lower learning rate and biases that start at 0" in (
        worst(found)[0].message
    )


def test_what_lives_again_is_said(tmp_path: Path) -> None:
    class Revived(Pairs):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            del batch, batch_idx
            with torch.no_grad():
                self.first.bias.fill_(-100 if self.trainer.global_step < 12 else 0)

    found, _ = fit(tmp_path, Revived(), pairs(), max_epochs=10)
    assert [(each.where, each.status) for each in found] == [
        ("first", "fail"), ("first", "pass"), ("network", "pass"),
    ]  # fmt: skip


# What is logged


def test_everything_arrives_in_tensorboard(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = compact()
    with torch.no_grad():
        network.convolutions[0].bias.fill_(-10)
    logger = TensorBoardLogger(tmp_path, name="tb", version="")
    fit(tmp_path, OnWeeks(network), None, DeadUnits(every_n_steps=8, histograms=2), logger=logger)
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    tags = events.Tags()
    for name in ("dead", "constant", "saturated", "active", "spread", "gradient"):
        assert f"dead_units/convolutions.0/{name}" in tags["scalars"]
    for gate in ("input", "forget", "cell", "output"):
        assert f"dead_units/lstm.back.1/saturated/{gate}" in tags["scalars"]
    steps = [each.step for each in events.Scalars("dead_units/convolutions.0/dead")]
    assert steps == [0, 1, 2, 4, 8, 16, 24, 32]
    assert [each.value for each in events.Scalars("dead_units/convolutions.0/dead")] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert {each.value for each in events.Scalars("dead_units/convolutions.2/constant")} == {1}
    histograms = events.Histograms("dead_units/convolutions.0/before_activation")
    assert [each.step for each in histograms] == [0, 2, 8, 24]
    assert histograms[0].histogram_value.max < 0  # as the post says: very negative, all of it
    assert "findings/text_summary" in tags["tensors"]
    written = read_jsonl(tmp_path / "tb" / "findings.jsonl")
    assert written[0].where == "convolutions.0"


# Nothing is disturbed


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}])
def test_training_is_the_same_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    ends = []
    for callbacks in ([DeadUnits(every_n_steps=2)], []):
        torch.manual_seed(0)
        module = OnWeeks(compact(dropout=0.4))
        trainer_of(tmp_path, callbacks, gradient_clip_val=1.0, **options).fit(module, loader())
        ends.append([*(each.detach().clone() for each in module.parameters()), torch.rand(1)])
        assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_run_that_breaks_leaves_no_hooks(tmp_path: Path) -> None:
    class Breaks(OnWeeks):
        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            if self.trainer.global_step == 3:
                raise ZeroDivisionError
            return super().training_step(batch, index)

    module = Breaks(compact())
    with pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="dead_units: dead units cannot be seen"):
        fit(tmp_path, module, None, DeadUnits(every_n_steps=1))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


# Other people's modules


class Pairs(lightning.LightningModule):
    """A tuple batch, functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Any:
        return self.second(F.relu(self.first(x)))

    def training_step(self, batch: Any, index: int) -> Any:
        del index
        x, y = batch
        return F.mse_loss(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


def pairs(*shape: int, batch: int = 16, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, *(shape or (5,)), generator=generator)
    return DataLoader(TensorDataset(x, torch.randn(64, 1, generator=generator)), batch_size=batch, shuffle=shuffle)


class Images(Pairs):
    """A list of layers with normalisation, called from the training step; logs in `forward`; validates."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(8, 1)
        with torch.no_grad():
            self.body[1].bias.fill_(bias)

    def training_step(self, batch: Any, index: int) -> Any:
        del index
        loss = F.mse_loss(self.head(self.body(batch[0])), batch[1])
        self.log("train_loss", loss)
        return {"loss": loss, "more": 1}

    def validation_step(self, batch: Any, index: int) -> None:
        self.training_step(batch, index)


def test_images_with_normalisation_and_validation_within_the_epoch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"val_check_interval": 2}
    for bias, expected in ((0.0, []), (-100.0, ["body.0"])):
        folder = tmp_path / str(bias)
        callback = DeadUnits(every_n_steps=4)
        trainer_of(folder, [callback], **options).fit(Images(bias), pairs(1, 10, 10), pairs(1, 10, 10, shuffle=False))
        found = worst(read_jsonl(folder / "findings.jsonl"))
        assert [each.where for each in found] == expected
        if expected:
            assert "what body.4 and head are given" in found[0].message


def test_two_optimisers_by_hand(tmp_path: Path) -> None:
    class Rivals(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.maker = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 5))
            self.judge = nn.Sequential(nn.Linear(5, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
            with torch.no_grad():
                self.maker[0].bias[:8] = -100

        def training_step(self, batch: Any, index: int) -> None:
            del index
            real, noise = batch[0], torch.randn(len(batch[0]), 3)
            first, second = self.optimizers()
            fake = self.maker(noise)
            self.toggle_optimizer(second)
            loss = self.judge(fake.detach()).mean() - self.judge(real).mean()
            second.zero_grad()
            self.manual_backward(loss)
            second.step()
            self.untoggle_optimizer(second)
            first.zero_grad()
            self.manual_backward(-self.judge(fake).mean())
            first.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(each.parameters(), 1e-3) for each in (self.maker, self.judge)]

    ends = []
    for callbacks in ([DeadUnits(every_n_steps=2)], []):
        torch.manual_seed(0)
        module = Rivals()
        trainer_of(tmp_path, callbacks).fit(module, pairs())
        ends.append([each.detach().clone() for each in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    found = worst(read_jsonl(tmp_path / "findings.jsonl"))
    assert [(each.where, each.value) for each in found] == [("maker.0", 0.5)]


def test_frozen_shared_and_accumulated(tmp_path: Path) -> None:
    class Tied(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.again, self.act = nn.Linear(5, 10), self.first, nn.ReLU()
            self.back = nn.Linear(12, 5)
            self.frozen.requires_grad_(False)
            with torch.no_grad():
                self.frozen.bias[:5] = -100

        def forward(self, x: Tensor) -> Any:
            x = x + self.frozen(x).relu().mean(dim=1, keepdim=True)
            return self.second(self.act(self.again(self.back(self.act(self.first(x))))))

    torch.manual_seed(0)
    found, callback = fit(
        tmp_path, Tied(), pairs(), DeadUnits(every_n_steps=2), accumulate_grad_batches=2, max_epochs=40
    )
    # The frozen layer has no gradient: it takes 1,000 values to be sure.
    assert [(each.where, each.value) for each in worst(found)] == [("frozen", 0.5)]
    assert set(callback.deaths.states) == {"frozen", "first", "back", "second"}


@pytest.mark.parametrize("how", ["part", "in place", "whole"])
def test_compiled(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    module: Any = Pairs()
    with torch.no_grad():
        module.first.bias[:6] = -100
    if how == "part":
        module.first = torch.compile(module.first, backend="eager")
    elif how == "in place":
        module.compile(backend="eager")
    else:
        module = torch.compile(module, backend="eager")
    found, _ = fit(tmp_path, module, pairs(), max_epochs=6)
    assert [(each.where, each.value) for each in worst(found)] == [("first", 0.5)]


def test_sixteen_bit(tmp_path: Path) -> None:
    for precision in ("bf16-mixed", "bf16-true"):
        torch.manual_seed(0)
        module = Pairs()
        with torch.no_grad():
            module.first.bias[:6] = -100
        found, _ = fit(tmp_path / precision, module, pairs(), precision=precision, max_epochs=6)
        assert [(each.where, each.value) for each in worst(found)] == [("first", 0.5)]


def test_float16_with_a_gradient_scaler(tmp_path: Path) -> None:
    ends = []
    for callbacks in ([DeadUnits(every_n_steps=2)], []):
        torch.manual_seed(0)
        module = Pairs()
        with torch.no_grad():
            module.first.bias[:6] = -100
        plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))  # type: ignore[arg-type]
        trainer_of(tmp_path, callbacks, max_epochs=6, plugins=[plugin]).fit(module, pairs(shuffle=False))
        ends.append([each.detach().clone() for each in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert [(each.where, each.value) for each in worst(read_jsonl(tmp_path / "findings.jsonl"))] == [("first", 0.5)]


def test_an_lstm_from_an_installed_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = LightningLSTM(vocab_size=33)
    module.prepare_data = lambda: None  # which would download
    data = WikiText2Like()
    found, callback = fit(tmp_path, module, DataLoader(data, batch_size=4, drop_last=True), max_epochs=1)
    assert worst(found) == []
    assert {"model.rnn.l0", "model.rnn.l1"} <= set(callback.deaths.states)
    assert callback.deaths.hidden == {}
    assert module.hidden is None  # its own state was not touched by the copy's


class WikiText2Like(Dataset[Any]):
    """Words as the library's own data set makes them, without a download."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        words = torch.randint(33, (36,), generator=torch.Generator().manual_seed(index))
        return words[:-1], words[1:]


def test_a_transformer_from_an_installed_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = LightningTransformer(vocab_size=33)
    module.prepare_data = lambda: None  # which would download
    with torch.no_grad():
        module.model.transformer.encoder.layers[0].linear1.bias[:100] = -100
    found, _ = fit(tmp_path, module, DataLoader(WikiText2Like(), batch_size=4))
    assert [(each.where, each.value) for each in worst(found)] == [("model.transformer.encoder.layers.0.linear1", 0.5)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_what_is_not_looked_into_is_said(tmp_path: Path) -> None:
    class Cells(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(12, 12)
            self.scripted = torch.jit.script(nn.Sequential(nn.Linear(12, 12), nn.ReLU()))  # type: ignore[no-untyped-call]
            with torch.no_grad():
                self.first.bias[:6] = -100

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.first(x))
            return self.second(self.scripted(self.cell(x, self.cell(x))[0]))

    torch.manual_seed(0)
    found, callback = fit(tmp_path, Cells(), pairs(), max_epochs=6)
    assert callback.deaths.hidden == {
        "cell": "a cell that is called step by step is not looked into", "scripted": "it is scripted",
    }  # fmt: skip
    assert [(each.where, each.value) for each in found] == [("first", 0.5)]


def test_a_training_step_that_asks_for_gradients(tmp_path: Path) -> None:
    class Penalty(Pairs):
        def training_step(self, batch: Any, index: int) -> Any:
            loss = super().training_step(batch, index)
            (gradient,) = torch.autograd.grad(loss, self.first.weight, create_graph=True)
            return loss + gradient.square().sum()

    found, _ = fit(tmp_path, Penalty(), pairs())
    assert [(each.where, each.status) for each in found] == [("network", "pass")]


def test_parametrised_and_without_bias(tmp_path: Path) -> None:
    class Normed(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.utils.parametrizations.weight_norm(self.first)
            self.between = nn.Linear(12, 12, bias=False)
            with torch.no_grad():
                self.first.bias[:6] = -100
                self.between.weight.fill_(-1)

        def forward(self, x: Tensor) -> Any:
            return self.second(self.between(self.first(x).relu()).relu())

    torch.manual_seed(0)
    found, _ = fit(tmp_path, Normed(), pairs(), max_epochs=8)
    assert {each.where: each.value for each in found} == {"first": 0.5, "between": 1.0}


def test_where_it_starts_in_what_cannot_be_followed(tmp_path: Path) -> None:
    class Fades(Pairs):
        def forward(self, x: Tensor) -> Any:
            mixed = F.relu(self.first(x)) @ torch.eye(12)  # units of a product are no layer's
            return self.second(mixed * (0.0 if self.trainer.global_step >= 8 else 1.0))

    found, _ = fit(tmp_path, Fades(), pairs(), max_epochs=6)
    assert [(each.where, each.status) for each in worst(found)] == [("second", "warn")]
    assert "cannot be seen" in worst(found)[0].message


def test_a_saturated_layer_makes_the_next_constant(tmp_path: Path) -> None:
    class Tanh(Pairs):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.first.bias.fill_(50)

        def forward(self, x: Tensor) -> Any:
            return self.second(torch.tanh(self.first(x)))

    found, _ = fit(tmp_path, Tanh(), pairs())
    assert [(each.where, each.status) for each in found] == [("first", "warn")]
    assert (
        "all 12 units of first are saturated: for 95 % of the time or more their tanh is at the limits"
        in found[0].message
    )
    assert "what second is given does not vary" in found[0].message
    assert found[0].try_ == ()


def test_a_resumed_run_gets_used_to_its_network_again(tmp_path: Path) -> None:
    """A third of the units is silent from the start, as is usual, and stays so; then training goes on."""

    class Usual(Pairs):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.first.bias[:2] = -100

    trainer = trainer_of(tmp_path / "a", [DeadUnits(every_n_steps=4)], max_epochs=4)
    trainer.fit(Usual(), pairs())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = DeadUnits(every_n_steps=4)
    trainer = trainer_of(tmp_path / "b", [callback], max_epochs=8)
    trainer.fit(Usual(), pairs(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert callback.deaths.states["first"].dead >= 2 / 12
    assert worst(read_jsonl(tmp_path / "b" / "findings.jsonl")) == []


@pytest.mark.filterwarnings("ignore:.*The dirpath has changed")
def test_a_resumed_run_goes_on_with_the_history(tmp_path: Path) -> None:
    """Cut at any epoch and gone on with, a run says what the uncut run says; the checkpoint is weights-only."""

    def run(name: str, path: Path | None = None) -> tuple[DeadUnits, list[Finding]]:
        torch.manual_seed(0)
        callback, keep = DeadUnits(every_n_steps=4), ModelCheckpoint(tmp_path / f"{name}-kept", save_top_k=-1)
        callbacks: list[Any] = [DiesLate(8, 10), callback, keep]
        trainer = trainer_of(tmp_path / name, callbacks, max_epochs=6, enable_checkpointing=True)
        trainer.fit(Pairs(), pairs(shuffle=False), ckpt_path=path, weights_only=None if path is None else True)
        return callback, read_jsonl(tmp_path / name / "findings.jsonl")

    whole, expected = run("whole")
    assert [each.step for each in expected] == [20]  # the looks at 12, 16 and 20 agree
    assert "died in step 9" in expected[0].message
    cut = tmp_path / "whole-kept" / "epoch=3-step=16.ckpt"
    resumed, found = run("resumed", cut)
    assert found == expected
    assert repr(resumed.deaths.states) == repr(whole.deaths.states)  # some are NaN
    assert resumed._batches == whole._batches


def test_the_share_of_active_time_is_that_of_the_batches_since_the_last_look(tmp_path: Path) -> None:
    """A unit that is active in every batch but those that are looked at, and one that is active in half of them."""

    class Odd(Pairs):
        def training_step(self, batch: Any, index: int) -> Any:
            step = self.trainer.global_step
            with torch.no_grad():
                self.first.weight.zero_()
                self.first.bias.fill_(1.0)
                self.first.bias[0] = -1.0 if step % 16 == 0 or step in (1, 2, 4, 8) else 1.0
                self.first.bias[1] = -1.0 if step % 4 < 2 else 1.0
            return super().training_step(batch, index)

    seen = []

    class Watched(DeadUnits):
        def _judge(self, trainer: Any, layers: Any, step: int, *, last: bool) -> None:
            super()._judge(trainer, layers, step, last=last)
            if step == 32 and self._since is not None:
                seen.append((self._since[1]["first"], layers[0]))

    _, callback = fit(tmp_path, Odd(), pairs(), Watched(every_n_steps=16), max_epochs=10, max_steps=39)
    between, layer = seen[0]
    # Watched: 18, 20, 22, 24, 26, 28, 30; each batch is of 16 pairs.
    assert between.values.tolist() == [7 * 16] * 12
    assert (between.active / 16)[:3].tolist() == [7, 4, 7]
    assert between.last[:2].tolist() == [30, 30]
    assert layer.active[0] == 0
    assert callback.deaths.states["first"].dead == 0  # although three looks in a row found it silent


def test_what_is_watched_between_looks_is_what_a_loop_counts() -> None:
    torch.manual_seed(0)
    network = compact("relu", conv_units=8, lstm_layers=1)
    sums: dict[str, Any] = {}
    module = OnWeeks(network)
    between = BetweenLooks(module, "network.")
    batch = next(iter(loader()))
    between.follow(look(_Bare(network), batch, prefix="network."))
    outputs: list[Tensor] = []
    handle = network.convolutions[1].register_forward_hook(lambda *each: outputs.append(each[2].detach()))
    between.start(5, batch)
    network(batch["inputs"], batch["lengths"])
    between.stop()
    handle.remove()
    sums = between.read()
    valid = [outputs[0][i, :, :n] for i, n in enumerate(batch["lengths"].tolist())]
    active = sum((each > 0).sum(dim=1) for each in valid)
    spread = torch.stack([each.std(dim=1, correction=0) for each in valid]).mean(dim=0)
    found = sums["convolutions.1"]
    assert found.active.tolist() == active.tolist()  # type: ignore[union-attr]
    assert found.values.tolist() == [int(batch["lengths"].sum())] * 8
    torch.testing.assert_close(torch.from_numpy(found.spread), spread)
    assert (found.last == torch.where(active > 0, 5, -1).numpy()).all()  # type: ignore[arg-type]
    assert "lstm.ahead.0" in sums
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


class _Bare(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        del index
        score: Tensor = self.network(batch["inputs"], batch["lengths"]).score
        return score.sum()


def test_sums_before_the_activation_are_left_to_the_looks() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)

        def training_step(self, x: Tensor, index: int) -> Tensor:
            del index
            x = F.relu(self.a(x) + x)
            x = F.relu(self.norm(self.b(x)))
            y = self.c(x)
            y += x
            return F.relu(y).sum()

    bounds = {each.name: each.bounds for each in look(Skip(), torch.randn(8, 4))}
    assert bounds == {"a": None, "b": (0.0, float("inf")), "c": None}


def test_the_layer_that_died_first_is_named(tmp_path: Path) -> None:
    """15 of 16 units of the first layer die, one step later all of the second."""

    class Three(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.second = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Any:
            return self.second(F.relu(self.middle(F.relu(self.first(x)))))

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            del batch, batch_idx
            if self.trainer.global_step == 9:
                self.first.bias.data[:15] -= 50
            if self.trainer.global_step == 10:
                self.middle.bias.data -= 50

    torch.manual_seed(0)
    found, _ = fit(tmp_path, Three(), pairs(), max_epochs=8)
    told = {each.where: each for each in found}
    assert told["first"].value == 15 / 16
    assert "died in step 8" in told["first"].message
    assert "The first to die" not in told["first"].message
    assert "what second is given does not vary" in told["middle"].message
    assert told["middle"].message.endswith("The first to die or saturate were units of first, in step 8")


def test_a_layer_whose_units_are_silent_but_not_surely_dead_is_no_riddle(tmp_path: Path) -> None:
    """A unit that lives in one of many batches keeps its layer from being dead, and the next constant in most."""

    class Flickers(Pairs):
        def training_step(self, batch: Any, index: int) -> Any:
            with torch.no_grad():
                self.first.bias[:] = -100.0 if self.trainer.global_step % 4 != 3 else 100.0
            return super().training_step(batch, index)

    found, _ = fit(tmp_path, Flickers(), pairs(), max_epochs=8)
    assert "second" not in {each.where for each in worst(found)}
    assert any("first" in each.where or "first" in each.message for each in worst(found))


def test_a_module_that_cannot_be_done_again_trains_on(tmp_path: Path) -> None:
    class Once(Pairs):
        def training_step(self, batch: Any, index: int) -> Any:
            if self._trainer is None or not hasattr(self, "log_dict") or "log" in vars(self):
                raise RuntimeError("only once")
            return super().training_step(batch, index)

    with pytest.warns(UserWarning, match="only once") as caught:
        found, _ = fit(tmp_path, Once(), pairs())
    assert len([each for each in caught if "dead_units" in str(each.message)]) == 1
    assert [(each.where, each.status, each.value) for each in found] == [("network", "warn", None)]


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`")
def test_a_batch_that_is_left_out_does_not_end_the_looking(tmp_path: Path) -> None:
    class LeavesOut(Pairs):
        def training_step(self, batch: Any, index: int) -> Any:
            return None if index == 1 else super().training_step(batch, index)

    found, callback = fit(tmp_path, LeavesOut(), pairs())
    assert [each.status for each in found] == ["pass"]
    assert callback._looks > 1


def test_a_module_without_layers(tmp_path: Path) -> None:
    class Own(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()
            self.weight = nn.Parameter(torch.zeros(5, 1))

        def forward(self, x: Tensor) -> Any:
            return x @ self.weight

    with pytest.warns(UserWarning, match="no convolution, linear or recurrent layer"):
        found, _ = fit(tmp_path, Own(), pairs())
    assert [each.status for each in found] == ["warn"]  # what was not seen does not pass


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, OnWeeks(compact()), fast_dev_run=True)
    assert list(tmp_path.rglob("*.*")) == []


class Digits(lightning.LightningModule):
    """A small network on images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        return F.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def digits(seed: int) -> DataLoader[Any]:
    """Ten patterns, each anywhere on a dark ground."""
    generator = torch.Generator().manual_seed(seed)
    patterns = (torch.rand(10, 1, 12, 12, generator=generator) > 0.6).float()
    classes = torch.randint(10, (640,), generator=generator)
    x = torch.rand(640, 1, 28, 28, generator=generator) * 0.05
    for each, kind, (row, column) in zip(x, classes, torch.randint(16, (640, 2), generator=generator), strict=True):
        each[:, row : row + 12, column : column + 12] += patterns[kind]
    return DataLoader(TensorDataset(x, classes), batch_size=32, shuffle=True)


def case(kind: str, seed: int) -> tuple[lightning.LightningModule, DataLoader[Any], dict[str, Any]]:
    """Return a module, its data and its layers before activations."""
    torch.manual_seed(seed)
    if kind == "digits":
        module: Any = Digits()
        return module, digits(seed), {f"body.{i}": module.body[i] for i in (0, 3, 7)}
    network: Any = HourlyCNN(activation="relu", outputs=2) if kind == "hourly" else None
    network = network or DeepHeart(3, 2, conv_units=64, pool=4, lstm_layers=2, longest=120, activation=kind)  # type: ignore[arg-type]
    weeks = Weeks(160, network.arguments["channels"], 120)
    layers = {f"convolutions.{i}": each for i, each in enumerate(network.convolutions)}
    return OnWeeks(network), DataLoader(weeks, batch_size=8, shuffle=True), layers


class Push(lightning.Callback):
    """Drives the biases of the first units of a layer down, at one step."""

    def __init__(self, layer: nn.Module, share: float, step: int) -> None:
        self.layer, self.share, self.step = layer, share, step

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        del pl_module, batch, batch_idx
        if trainer.global_step == self.step:
            with torch.no_grad():
                self.layer.bias[: int(self.share * len(self.layer.bias))] = -30  # type: ignore[index, arg-type, operator]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "hourly", "digits"])
@pytest.mark.parametrize("seed", range(5))
def test_twenty_clean_runs_stay_silent(tmp_path: Path, kind: str, seed: int) -> None:
    module, data, _ = case(kind, seed)
    found, _ = fit(tmp_path, module, data, DeadUnits(every_n_steps=10), max_epochs=10)
    assert worst(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relu", "hourly", "digits"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("which", "share", "step"), [(0, 1.0, 0), (1, 1.0, 0), (0, 0.5, 0), (0, 1.0, 101), (1, 0.5, 101)]
)
def test_injected_deaths_are_found(tmp_path: Path, kind: str, seed: int, which: int, share: float, step: int) -> None:
    module, data, layers = case(kind, seed)
    name = list(layers)[which]
    callbacks = [Push(layers[name], share, step), DeadUnits(every_n_steps=10)]
    trainer_of(tmp_path, callbacks, max_epochs=8).fit(module, data)
    found = worst(read_jsonl(tmp_path / "findings.jsonl"))
    assert {each.where for each in found} == {name}
    assert ("in step 100" if step else "since the first step") in found[0].message


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    script = f"""
import torch
from test_dead_units_callback import DeadUnits, Pairs, pairs, trainer_of
if __name__ == "__main__":
    torch.manual_seed(0)
    module = Pairs()
    with torch.no_grad():
        module.first.bias.fill_(-100)
    options = dict(devices=2, strategy="ddp_spawn", max_epochs=3)
    trainer_of({str(tmp_path)!r}, [DeadUnits(every_n_steps=1)], **options).fit(module, pairs())
"""
    (tmp_path / "script.py").write_text(script)
    tests = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=paths, check=True, timeout=300, capture_output=True)
    assert [(each.where, each.status) for each in read_jsonl(tmp_path / "findings.jsonl")] == [("first", "fail")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every_n_steps": 0}, "callbacks.dead_units.every_n_steps=0: must be at least 1"),
        ({"confirm": 0}, "confirm=0"),
        ({"histograms": -1}, "histograms=-1: must be at least 0"),
        ({"limit": 1.0}, "limit=1.0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        DeadUnits(**arguments)
