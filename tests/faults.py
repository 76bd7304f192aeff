"""Faults that real projects have, put into three trainings: DeepHeart, HourlyCNN, and a foreign image network."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from heartnet.datamodule import WeeksDataModule
from heartnet.findings import BAD, FILE, Finding, latest, read_jsonl
from heartnet.logits import Logits
from heartnet.model import DeepHeart, HourlyCNN
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions
from heartnet.weeks import Weeks

KINDS = ("deepheart", "hourly", "image")


def trainer_of(folder: Path, *callbacks: Any, **options: Any) -> lightning.Trainer:
    """Return a trainer that runs two epochs on the CPU, and writes only what the callbacks write."""
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        **{"max_epochs": 2, "logger": False, **options},
    )  # fmt: skip


def findings_of(folder: Path, check: str) -> dict[str, Finding]:
    """Return the newest findings of one check, by what they are about."""
    return {each.where: each for each in latest(read_jsonl(folder / FILE)) if each.check == check}


@dataclass
class Training:
    """A module, its data, and options of its trainer."""

    kind: str
    module: Any
    data: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Any:
        return self.module.network

    def fit(self, folder: Path, callbacks: list[Any], **options: Any) -> lightning.Trainer:
        trainer = trainer_of(folder, *callbacks, **{"max_epochs": 4, **self.options, **options})
        if isinstance(self.data, lightning.LightningDataModule):
            trainer.fit(self.module, datamodule=self.data)
        else:
            trainer.fit(self.module, *self.data)
        return trainer


class ImageNetwork(lightning.LightningModule):
    """Knows nothing of heartnet: a tuple batch, cross-entropy, batch normalisation, plain SGD with momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 16, 32),
            nn.ReLU(),
            nn.Linear(32, 4),
        )
        self.rate = 0.05
        self.sign = 1.0
        self.class_weights = torch.ones(4)

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        images, labels = batch
        return self.sign * F.cross_entropy(self.network(images), labels, weight=self.class_weights)

    def validation_step(self, batch: Any, index: int) -> None:
        del index
        images, labels = batch
        self.log("val_acc", (self.network(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate, momentum=0.9)


def trouble(folder: Path) -> list[Finding]:
    """Return the newest findings of a run that are not passes."""
    return [each for each in latest(read_jsonl(folder / FILE)) if each.status in BAD]


def wheres(folder: Path) -> list[str]:
    return [each.where for each in trouble(folder)]


def weeks(seed: int, users: int = 100) -> Weeks:
    """Short weeks in which sleep apnea raises heart rate and diabetes steps, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 61, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = rng.random((users, 2)) < (0.4, 0.3)
    each = np.repeat(labels, lengths, axis=0)
    total = int(offsets[-1])
    dt = rng.choice([5.0, 300.0, 4000.0], total)
    readings = np.stack([rng.normal(70, 10, total) + 9 * each[:, 0], rng.poisson(3 + 4 * each[:, 1]), dt], axis=1)
    readings[rng.random(readings.shape) < 0.05] = np.nan
    start = np.datetime64("2024-01-01T00:00:00", "us")
    parts = [np.cumsum(each * 1e6).astype(np.int64) for each in np.split(dt, offsets[1:-1])]
    local = start.astype(np.int64) + np.concatenate(parts)
    table = pl.DataFrame(
        {
            "user_id": [f"user-{i:03d}" for i in range(users)],
            "start": pl.Series([start.item()] * users),
            "readings": lengths,
            "wear_hours": [100.0] * users,
            "device": pl.Series([None] * users, dtype=pl.String),
            "age": rng.uniform(20, 80, users),
            "sex": ["female"] * users,
            "bmi": rng.normal(25, 3, users),
            "sleep_apnea": pl.Series(labels[:, 0].astype(int), dtype=pl.Int8),
            "diabetes": pl.Series(labels[:, 1].astype(int), dtype=pl.Int8),
        }
    )
    return Weeks(readings.astype(np.float32), local, offsets, table, ("sleep_apnea", "diabetes"))


def training(kind: str, seed: int = 0, *, activation: str = "leaky_relu", **module: Any) -> Training:
    """Return a healthy training, small enough for seconds."""
    torch.manual_seed(seed)
    if kind == "image":
        return Training(kind, ImageNetwork(), _images(seed), {"gradient_clip_val": 5.0})
    data = WeeksDataModule(
        weeks(seed), Conditions(), batch_size=8, val_share=0.2, test_share=0.0, seed=seed,
        view="hourly" if kind == "hourly" else "readings",
    )  # fmt: skip
    network: nn.Module
    if kind == "hourly":
        network = HourlyCNN(data.channels, 2, conv_units=8, activation=activation)  # type: ignore[arg-type]
    else:
        network = DeepHeart(
            data.channels, 2, conv_units=8, kernel_sizes=(5, 3), pool=2, lstm_units=8, lstm_layers=2, longest=60,
            activation=activation,  # type: ignore[arg-type]
        )  # fmt: skip
    mean, std = data.target_statistics()
    options: dict[str, Any] = {"learning_rate": 3e-3, "seed": seed, **module}
    made = HeartnetModule(
        network, kind="conditions", targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=data.scaling.as_dict(), **options,
    )  # fmt: skip
    return Training(kind, made, data, {"gradient_clip_val": 1.0})


def _images(seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (160,), generator=generator)
    patterns = torch.randn(4, 1, 8, 8, generator=generator)
    images = patterns[labels] + torch.randn(160, 1, 8, 8, generator=generator)
    train = TensorDataset(images[:128], labels[:128])
    return (
        DataLoader(train, batch_size=8, shuffle=True, generator=generator),
        DataLoader(TensorDataset(images[128:], labels[128:]), batch_size=8),
    )


# Layers of each training


def convolutions(it: Training) -> dict[str, nn.Module]:
    return {name: each for name, each in it.module.named_modules() if isinstance(each, nn.modules.conv._ConvNd)}


def middle(it: Training) -> str:
    """Return the name of the second convolution."""
    return list(convolutions(it))[1]


# Faults: each changes a training, and returns the places of which one should be named, as prefixes of `where`.


def nan_in_gaps(it: Training) -> list[str]:
    """Sample 2 of each batch from the sixth on has NaN."""
    if it.kind == "image":
        images = it.data[0].dataset
        it.data = (DataLoader(_Spoilt(images), batch_size=8), it.data[1])
    else:
        batch, seen = it.data.batch, []

        def spoil(rows: Any) -> dict[str, Tensor]:
            made: dict[str, Tensor] = batch(rows)
            seen.append(rows)
            if len(seen) > 5:
                made["inputs"][2, 1:3, 0] = torch.nan
            return made

        it.data.batch = spoil
    return ["network/finite"]


class _Spoilt(Dataset[Any]):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        image, label = self.inner[index]
        return (torch.full_like(image, torch.nan) if index >= 40 and index % 8 == 2 else image), label


def relu_with_low_biases(it: Training) -> list[str]:
    name = middle(it)
    with torch.no_grad():
        it.module.get_submodule(name).bias.fill_(-10.0)
    return [f"{name}/start"]


def relu_dies_midway(it: Training) -> list[str]:
    """From the seventh batch on, a ReLU gets nothing above 0."""
    name = middle(it)

    class Dying(type(it.module)):  # type: ignore[misc]
        def training_step(self, *args: Any) -> Any:
            if self.trainer.global_step == 6:
                with torch.no_grad():
                    self.get_submodule(name).bias.fill_(-20.0)
            return super().training_step(*args)

    it.module.__class__ = Dying
    return [f"{name}/gradient"]


class After(nn.Module):
    """A network whose scores go through one more function."""

    def __init__(self, network: Any, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.change = network, change
        self.arguments = getattr(network, "arguments", {})

    def forward(self, *args: Any) -> Any:
        out = self.inner(*args)
        return Logits(out.steps, self.change(out.score)) if isinstance(out, Logits) else self.change(out)


def relu_after_logits(it: Training) -> list[str]:
    it.module.network = After(it.network, torch.relu)
    return ["logits/ReLU"]


def relu_after_one_logit(it: Training) -> list[str]:
    def cut(score: Tensor) -> Tensor:
        return torch.cat([score[:, :1], score[:, 1:2].relu(), score[:, 2:]], dim=1)

    it.module.network = After(it.network, cut)
    return ["diabetes/range", "output_1/range"]


def sigmoid_before_logits_loss(it: Training) -> list[str]:
    it.module.network = After(it.network, torch.sigmoid)
    return ["logits/sigmoid"]


def view_for_permute(it: Training) -> list[str]:
    """Between the first and the second layer, `[batch, unit, …]` is read as `[unit, batch, …]`, and back."""
    layer = next(iter(convolutions(it).values()))

    class Mixing(type(layer)):  # type: ignore[misc]
        def forward(self, *args: Any) -> Tensor:
            output: Tensor = super().forward(*args)
            batch, unit, *rest = output.shape
            return output.transpose(0, 1).contiguous().view(batch, unit, *rest)

    layer.__class__ = Mixing
    return [f"{next(iter(convolutions(it)))}/mixing"]


def detached(it: Training) -> list[str]:
    name = middle(it)

    class Detached(type(it.module.get_submodule(name))):  # type: ignore[misc]
        def forward(self, *args: Any) -> Any:
            return super().forward(*args).detach()

    it.module.get_submodule(name).__class__ = Detached
    if it.kind == "deepheart":  # what went around it, too
        first = it.module.get_submodule(next(iter(convolutions(it))))
        first.__class__ = Detached
    return [f"{name}/gradient"]


def constant_weights(it: Training) -> list[str]:
    with torch.no_grad():
        for each in it.module.parameters():
            if each.dim() > 1:
                each.fill_(0.1)
    return [f"{next(iter(convolutions(it)))}/units"]


def weights_times_50(it: Training) -> list[str]:
    with torch.no_grad():
        for each in it.module.parameters():
            if each.dim() > 1:
                each.mul_(50)
    return [f"{next(iter(convolutions(it)))}/start"]


def rate_times_1000(it: Training) -> list[str]:
    _set_rate(it, 1e3)
    return ["*/update", "*/finite"]


def rate_times_a_millionth(it: Training) -> list[str]:
    _set_rate(it, 1e-6)
    return ["optimiser/update"]


def _set_rate(it: Training, factor: float) -> None:
    name = "rate" if it.kind == "image" else "learning_rate"
    setattr(it.module, name, getattr(it.module, name) * factor)


def left_out_of_the_optimiser(it: Training) -> list[str]:
    name = middle(it)
    missing = {id(each) for each in it.module.get_submodule(name).parameters()}

    def configure(self: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW([each for each in self.parameters() if id(each) not in missing], 1e-3)

    it.module.configure_optimizers = types.MethodType(configure, it.module)
    return [f"{name}/optimiser"]


def flipped_loss(it: Training) -> list[str]:
    if it.kind == "image":
        it.module.sign = -1.0
    else:
        it.module.loss = lambda score, targets: -HeartnetModule.loss(it.module, score, targets)
    return ["loss/sign"]


def clipped_to_a_millionth(it: Training) -> list[str]:
    it.options["gradient_clip_val"] = 1e-6
    return ["gradient/clipped"]


def loss_weight_0(it: Training) -> list[str]:
    if it.kind == "image":
        it.module.network = After(it.network, lambda out: torch.cat([out[:, :1].detach(), out[:, 1:]], dim=1))
        return ["output_0/gradient"]

    def loss(score: Tensor, targets: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(score, targets.nan_to_num(), reduction="none")
        return (each * ~targets.isnan() * torch.tensor([1.0, 0.0])).mean()

    it.module.loss = loss
    return ["diabetes/gradient"]


FAULTS: dict[int | str, Callable[[Training], list[str]]] = {
    4: nan_in_gaps,
    13: relu_with_low_biases,
    "13b": relu_dies_midway,
    14: relu_after_logits,
    "14b": relu_after_one_logit,
    15: sigmoid_before_logits_loss,
    16: view_for_permute,
    19: detached,
    20: constant_weights,
    21: weights_times_50,
    22: rate_times_1000,
    23: rate_times_a_millionth,
    24: left_out_of_the_optimiser,
    25: flipped_loss,
    26: clipped_to_a_millionth,
    27: loss_weight_0,
}
"""By number in the list of faults that the project keeps; `13b` comes later in a run, `14b` is one head of several."""


def faulty(kind: str, number: int | str, seed: int) -> tuple[Training, list[str]]:
    """Return a training with a fault, and where it should be found."""
    it = training(kind, seed, activation="relu" if number in (13, "13b") else "leaky_relu")
    return it, FAULTS[number](it)
