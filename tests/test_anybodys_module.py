"""All callbacks that look inside, together on modules whose authors never thought of them: nothing crashes a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.demos.boring_classes import ManualOptimBoringModel, RandomDataset
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from callbacks.activation_heatmap import ActivationHeatmap
from callbacks.amnesia import Amnesia
from callbacks.dead_units import DeadUnits
from callbacks.training_health import TrainingHealth
from heartnet.findings import BAD, FILE, Finding, latest, read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is"),
    pytest.mark.filterwarnings("ignore:training_health. Raises could not be looked into"),
]


class Weeks(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.y = (torch.rand(64, generator=generator) < 0.5).float()
        self.x = torch.randn(64, 16, 3, generator=generator) + self.y[:, None, None]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


class Stream(IterableDataset[dict[str, Tensor]]):
    """Goes on where it was left, and never ends: to read from it is to change the training."""

    def __init__(self) -> None:
        self.weeks, self.place = Weeks(), 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        self.place += 1
        return self.weeks[self.place % 64]


class Probed(lightning.LightningModule):
    """What it calls `probe` is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.probe = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Any:
        return self.probe(self.encoder(x)[0][:, -1])

    def training_step(self, batch: Any, index: int) -> Any:
        del index
        return F.binary_cross_entropy_with_logits(self(batch["x"])[:, 0], batch["y"].to(self.dtype))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 5e-3)


class OfFloat32(Probed):
    def forward(self, x: Tensor) -> Any:
        return self.probe(self.encoder(torch.cat([x.float(), torch.zeros(len(x), 1, 3)], dim=1))[0][:, -1])


class Lazy(Probed):
    def __init__(self) -> None:
        super().__init__()
        self.probe = nn.LazyLinear(1)


class Scripted(Probed):
    def __init__(self) -> None:
        super().__init__()
        self.inside = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.inside(x))


class Raises(Probed):
    """Can be called in a training step alone."""

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            raise KeyError("training")
        return super().forward(x)


def weeks() -> DataLoader[Any]:
    return DataLoader(Weeks(), 8)


MODULES: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "probe is a layer": (Probed, weeks, {}),
    "float64": (Probed, weeks, {"precision": "64-true"}),
    "float32 inside": (OfFloat32, weeks, {}),
    "lazy": (Lazy, weeks, {}),
    "scripted": (Scripted, weeks, {}),
    "raises": (Raises, weeks, {}),
    "stream": (Probed, lambda: DataLoader(Stream(), 8), {}),
    "library": (ManualOptimBoringModel, lambda: DataLoader(RandomDataset(32, 64), 8), {"limit_val_batches": 0}),
}


def fit(name: str, folder: Path, *callbacks: lightning.Callback) -> tuple[dict[str, Tensor], list[Finding]]:
    make, loader, options = MODULES[name]
    lightning.seed_everything(0, verbose=False)
    module = make()
    trainer = lightning.Trainer(
        max_steps=20, max_epochs=-1, accelerator="cpu", logger=False, default_root_dir=folder, callbacks=[*callbacks],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(module, loader())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    return copy.deepcopy(module.state_dict()), latest(read_jsonl(folder / FILE))


@pytest.mark.parametrize("name", MODULES)
def test_nothing_crashes_and_nothing_changes(tmp_path: Path, name: str) -> None:
    without, _ = fit(name, tmp_path / "without")
    callbacks = [DeadUnits(), TrainingHealth(), ActivationHeatmap(), Amnesia()]
    weights, found = fit(name, tmp_path / "with", *callbacks)
    assert all(torch.equal(weights[key], without[key]) for key in without)
    failed = [each.where for each in found if each.status == "fail"]
    assert failed == (["layer/update"] if name == "library" else [])  # whose rate is too high indeed
    assert not [each for each in found if each.check == "dead_units" and each.status in BAD]
    if name == "float32 inside":
        assert [each.value for each in found if each.check == "amnesia"]
