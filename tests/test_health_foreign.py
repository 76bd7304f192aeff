"""The callback training_health on modules that know nothing of heartnet, however they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import Training, trouble, wheres
from pytorch_lightning.demos import Transformer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks.training_health import TrainingHealth

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


class Closures(Foreign):
    """An optimiser that does the step of a batch several times."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), 0.005, max_iter=3)


FOREIGN: dict[str, Any] = {
    "plain": (Foreign, sequences, {}),
    "accumulate": (Foreign, sequences, {"accumulate_grad_batches": 3}),
    "clip": (Foreign, sequences, {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}),
    "bf16": (Foreign, sequences, {"precision": "bf16-mixed"}),
    "rivals": (Rivals, sequences, {}),
    "transformer": (FromALibrary, integers, {"gradient_clip_val": 5.0}),
    "bf16 weights": (Foreign, sequences, {"precision": "bf16-true"}),
    "compiled": (Compiled, sequences, {}),
    "closures": (Closures, sequences, {}),
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


class Functional(lightning.LightningModule):
    """Weights of its own, and no layer that can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(8, 2) / 2), nn.Parameter(torch.randn(1, 8) / 8)
        self.spare = nn.Parameter(torch.zeros(3))

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        hidden = F.relu(F.linear(batch["x"].mean(dim=1).to(self.first.dtype), self.first))
        return F.binary_cross_entropy_with_logits(F.linear(hidden, self.second)[:, 0], batch["y"].to(hidden.dtype))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([self.first, self.second], 0.01)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_weights_that_the_module_itself_holds(tmp_path: Path, precision: str) -> None:
    Training("foreign", Functional(), (sequences(),), {"precision": precision}).fit(tmp_path, [TrainingHealth()])
    (found,) = trouble(tmp_path)
    assert (found.where, found.value) == ("spare/optimiser", 3)
    assert "no optimiser has spare of the module" in found.message


def test_steps_taken_by_hand_without_an_optimiser(tmp_path: Path) -> None:
    class ByHand(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> Any:
            self.zero_grad()
            super().training_step(batch, index).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for each in self.parameters():
                    each -= 0 if each.grad is None else 0.1 * each.grad

        def configure_optimizers(self) -> Any:
            return None

    with pytest.warns(UserWarning, match="no optimizer"):
        Training("foreign", ByHand(), (sequences(),)).fit(tmp_path, [TrainingHealth()])
    assert wheres(tmp_path) == []


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
