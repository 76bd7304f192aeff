"""What goes wrong in the course of a run, put in by hand, is found; the same run without it is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import Training
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import binary_accuracy

from callbacks.training_health import TrainingHealth
from heartnet.findings import BAD, Finding, latest, read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


class Plain(lightning.LightningModule):
    """Three layers; tests put a fault into one of its methods."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.scores: list[tuple[Tensor, Tensor]] = []

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x))))

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y)

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        x, y = batch
        return self.loss(self.head(self.hidden(x)), y)

    def validation_step(self, batch: Any, index: int) -> None:
        del index
        self.scores.append((self.head(self.hidden(batch[0])).sigmoid(), batch[1]))

    def on_validation_epoch_end(self) -> None:
        scores, labels = (torch.cat(each) for each in zip(*self.scores, strict=True))
        self.scores = []
        self.log("val/acc", binary_accuracy(scores, labels.long()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def data(
    size: int = 320, seed: int = 0, *, tells: bool = True, rate: float = 0.5, shuffle: bool = True
) -> DataLoader[Any]:
    """Two labels, of which the inputs tell or not."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(size, 2, generator=generator) < rate).float()
    x = torch.randn(size, 4, generator=generator)
    x[:, :2] += 2 * y if tells else 0
    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle, generator=generator)


def fit(folder: Path, module: lightning.LightningModule, *loaders: Any, **options: Any) -> list[Finding]:
    """Return the newest findings that are no passes."""
    Training("plain", module, loaders or (data(),), {"max_epochs": 2, **options}).fit(folder, [TrainingHealth()])
    return [each for each in latest(read_jsonl(folder / "findings.jsonl")) if each.status in BAD]


def test_a_clean_run(tmp_path: Path) -> None:
    assert fit(tmp_path, Plain(), data(), data(160, 1, shuffle=False), max_epochs=6) == []


# Losses and scores


def test_a_loss_that_does_not_fall(tmp_path: Path) -> None:
    class Slow(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.01)

    (found,) = fit(tmp_path, Slow(), data(tells=False), max_epochs=8)
    assert (found.where, found.status) == ("loss/trend", "warn")
    assert "does not fall in 320 batches" in found.message


def test_a_loss_that_falls_and_returns(tmp_path: Path) -> None:
    class Shuffled(Plain):
        """From the 120th step on, labels belong to other inputs."""

        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return super().loss(logits, y.roll(1, 0) if self.trainer.global_step > 120 else y)

    found = {each.where: each for each in fit(tmp_path, Shuffled(), max_epochs=5)}
    assert found["loss/trend"].status == "fail"
    assert "fell and came back" in found["loss/trend"].message
    assert set(found) == {"loss/trend"}


def test_a_loss_that_falls_for_nothing(tmp_path: Path) -> None:
    (found,) = fit(tmp_path, Plain(), data(), data(400, 1, tells=False, shuffle=False), max_epochs=6)
    assert (found.where, found.status) == ("val/acc/reward", "warn")


def test_the_loss_at_the_start_against_the_base_rates(tmp_path: Path) -> None:
    sure = Plain()
    nn.init.constant_(sure.head.bias, 8.0)
    loader = data(rate=0.08)
    (found,) = fit(tmp_path / "sure", sure, loader, max_epochs=1)
    assert (found.where, found.status) == ("loss/start", "warn")
    fit(tmp_path / "plain", Plain(), DataLoader(loader.dataset, batch_size=8), max_epochs=1)
    (start,) = [each for each in read_jsonl(tmp_path / "plain" / "findings.jsonl") if each.where == "loss/start"]
    y = loader.dataset.tensors[1][:24].numpy()  # type: ignore[attr-defined]
    expected = sum(log_loss(column, [column.mean()] * 24, labels=[0, 1]) for column in y.T) / 2
    assert start.status == "pass"
    assert f"the base rates alone would cost {expected:.2g}" in start.message
    assert "log(p / (1 − p))" in start.message


# Gradients


def test_a_gradient_that_stops_midway(tmp_path: Path) -> None:
    class Cut(Plain):
        def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.change = change

        def hidden(self, x: Tensor) -> Tensor:
            return self.change(super().hidden(x)) if self.trainer.global_step >= 12 else super().hidden(x)

    for name, change, status in (("zero", lambda x: x * 0, "fail"), ("cut", lambda x: x.detach(), "warn")):
        (found,) = fit(tmp_path / name, Cut(change), max_epochs=1)
        assert (found.where, found.status) == ("second/gradient", status)
        assert "since step 12" in found.message
        assert "and first before it" in found.message


def test_gradients_that_come_and_go_are_no_finding(tmp_path: Path) -> None:
    class Rare(Plain):
        def hidden(self, x: Tensor) -> Tensor:
            rare = self.trainer.global_step % 9 == 4
            return torch.tanh(self.second(torch.tanh(self.first(x)))) if rare else torch.tanh(self.first(x))

    assert fit(tmp_path, Rare(), max_epochs=5) == []


def test_a_margin_that_is_learned_needs_no_gradient(tmp_path: Path) -> None:
    class Margin(Plain):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.relu(0.3 - logits * (2 * y - 1)).square().mean()

    module, loader = Margin(), data()
    x, y = loader.dataset.tensors  # type: ignore[attr-defined]
    x[:, :2] = 6 * y - 3
    assert fit(tmp_path, module, loader, max_epochs=5) == []
    assert float(module.loss(module.head(module.hidden(x)), y).detach()) == 0


def test_gradients_that_explode_and_outputs_that_grow(tmp_path: Path) -> None:
    class Louder(Plain):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return super().loss(logits, y) * (1e4 if self.trainer.global_step > 3 else 1)

    (found,) = fit(tmp_path / "a", Louder(), max_epochs=4)
    assert found.where.endswith("/explosion")

    class Grown(Plain):
        def hidden(self, x: Tensor) -> Tensor:
            return torch.tanh(self.second(self.first(x)) / 1e5)

        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == 5:
                with torch.no_grad():
                    self.second.weight.mul_(1e5)

    (found,) = fit(tmp_path / "b", Grown(), max_epochs=3)
    assert found.where == "second/activation"


def test_an_output_that_hardly_counts(tmp_path: Path) -> None:
    class Weighted(Plain):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
            return (each * torch.tensor([1.0, 1e-4])).mean()

    (found,) = fit(tmp_path / "weighted", Weighted())
    assert (found.where, found.status) == ("output_1/gradient", "warn")
    assert found.value == pytest.approx(1e-4, rel=0.3)
    rare = data(tells=False)
    rare.dataset.tensors[1][:, 1] = 0  # type: ignore[attr-defined]
    rare.dataset.tensors[1][7, 1] = 1  # type: ignore[attr-defined]
    calm = Plain()
    with torch.no_grad():
        calm.head.bias[1] = -5.0  # the base rate
    assert fit(tmp_path / "rare", calm, rare) == []


# Updates and weights


def test_weights_that_never_move(tmp_path: Path) -> None:
    class Groups(Plain):
        still: tuple[str, ...] = ()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            named: dict[str, Any] = dict(self.named_parameters())
            rest = [each for name, each in named.items() if name not in self.still]
            return torch.optim.Adam(
                [{"params": rest}, {"params": [named[name] for name in self.still], "lr": 0.0}], 0.01
            )

    for still, where in (
        (("second.bias",), "second.bias/update"),
        (("second.bias", "second.weight"), "second/update"),
        ((), None),
    ):
        module = Groups()
        module.still = still
        found = fit(tmp_path / str(len(still)), module)
        assert [(each.where, each.status) for each in found] == ([(where, "warn")] if where else [])


@pytest.mark.parametrize(("factor", "word"), [(4.0, "grow"), (0.2, "shrink"), (1.0, None)])
def test_outputs_that_grow_or_shrink_through_depth(tmp_path: Path, factor: float, word: str | None) -> None:
    class Deep(Plain):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(8, 8, bias=False) for _ in range(8)]
            self.second = nn.Sequential(*layers)  # type: ignore[assignment]
            for layer in layers:
                nn.init.orthogonal_(layer.weight, gain=factor / 3**0.5)

        def hidden(self, x: Tensor) -> Tensor:
            return F.leaky_relu(self.second(F.leaky_relu(self.first(x))), 0.9)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-3)

    found = [each for each in fit(tmp_path, Deep()) if each.where.endswith("/start")]
    found = [each for each in found if each.where != "loss/start"]
    assert [each.where for each in found] == ([] if word is None else ["second.7/start"])
    assert word is None or f"outputs {word} from layer to layer" in found[0].message


def test_a_small_embedding_before_a_normalisation_is_no_finding(tmp_path: Path) -> None:
    class Embedded(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm = nn.Embedding(11, 4), nn.LayerNorm(4)
            nn.init.normal_(self.table.weight, std=0.01)

        def hidden(self, x: Tensor) -> Tensor:
            return super().hidden(self.norm(self.table((x[:, 0] * 2).round().long().clamp(-5, 5) + 5)))

    assert fit(tmp_path, Embedded()) == []
