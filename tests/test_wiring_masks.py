"""Labels that are missing in the few samples at hand are no output that the loss forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks.wiring import Wiring
from tests.faults import Training, trouble

OUTPUTS = 4


class Masked(lightning.LightningModule):
    """Four yes-or-no outputs, whose labels are known of 30 % of the samples, by NaN or by a mask of their own."""

    def __init__(self, weights: Tensor, positive: Tensor | None = None) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, OUTPUTS))
        self.weights, self.positive = weights, positive

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        inputs, labels, *mask = batch
        known = mask[0] if mask else (~labels.isnan()).to(inputs.dtype)
        each = F.binary_cross_entropy_with_logits(
            self.network(inputs), labels.nan_to_num(), reduction="none", pos_weight=self.positive
        )
        return (each * known * self.weights).sum() / known.sum().clamp(min=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def loader(seed: int, way: str, *, known: float = 0.3) -> Any:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, 8, generator=draw)
    labels = (inputs[:, :OUTPUTS] > 0).float()
    mask = torch.rand(32, OUTPUTS, generator=draw) < known
    if way == "nan":
        return DataLoader(TensorDataset(inputs, labels.where(mask, torch.nan)), batch_size=16)
    return DataLoader(TensorDataset(inputs, labels * mask, mask.float()), batch_size=16)


def found(folder: Path, module: Masked, data: Any) -> list[str]:
    Training("masked", module, (data,), {"max_epochs": 1}).fit(folder, [Wiring()])
    return [each.where for each in trouble(folder)]


@pytest.mark.parametrize("way", ["nan", "mask"])
@pytest.mark.parametrize("known", [0.3, 0.05])
def test_missing_labels_are_no_fault(tmp_path: Path, way: str, known: float) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        module = Masked(torch.ones(OUTPUTS), torch.full((OUTPUTS,), 2.0))
        assert found(tmp_path / f"{seed}", module, loader(seed, way, known=known)) == []


@pytest.mark.parametrize("way", ["nan", "mask"])
def test_a_weight_of_zero_is_found_among_missing_labels(tmp_path: Path, way: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        module = Masked(torch.tensor([1.0, 1.0, 0.0, 1.0]))
        assert found(tmp_path / f"{seed}", module, loader(seed, way)) == ["output_2/gradient"]
