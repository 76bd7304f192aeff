"""The callback wiring on modules that know nothing of heartnet: silence, no trace, and what is found all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import Training
from pytorch_lightning.demos.boring_classes import BoringModel, RandomDataset
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from callbacks.wiring import Wiring
from heartnet.diagnostics.adapt import adapt
from heartnet.findings import BAD, Finding, read_jsonl
from heartnet.logits import Logits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*no val split.*"),
    pytest.mark.filterwarnings("ignore:.*enable_nested_tensor is True"),
]


class Base(lightning.LightningModule):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Recurrent(Base):
    """A dict batch with lengths, and a GRU that returns a tuple, on packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 8, batch_first=True, dropout=0.3, num_layers=2), nn.Linear(8, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            batch["signal"], batch["lengths"].cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.rnn(packed)
        score: Tensor = self.head(last[-1])
        return score[:, 0]

    def training_step(self, batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        del index
        return {"loss": F.binary_cross_entropy_with_logits(self(batch), batch["label"])}

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        del index
        self.log("val_loss", F.binary_cross_entropy_with_logits(self(batch), batch["label"]))


class LastStep(Recurrent):
    """The same, read out at the last step of the batch."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden, _ = self.rnn(batch["signal"])
        score: Tensor = self.head(hidden[:, -1])
        return score[:, 0]


class Encoder(Base):
    """A transformer of torch over whole numbers, with dropout and a class a step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 12)

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        hidden = self.encoder(self.embed(batch[0]))
        return F.cross_entropy(self.head(hidden).transpose(1, 2), batch[1])


class Pictures(Base):
    """As torchvision builds them: convolutions without bias, batch normalisation, residuals, adaptive pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.one, self.bn1 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.two, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        self.three, self.bn3 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.point = nn.Conv2d(16, 24, 1)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.bn2(self.two(F.relu(self.bn1(self.one(x))))))
        x = F.relu(self.down(x) + self.bn3(self.three(x)))
        x = F.relu(self.point(self.depth(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        answer: Tensor = self.fc(F.dropout(x, 0.2, self.training))
        return answer

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1)


class Attention(Base):
    """Queries, keys and values of one embedding that is linear: linear layers in a row, as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3, 16), nn.Linear(16, 16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 2))

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        x = self.embed(batch[0])
        mixed = F.scaled_dot_product_attention(
            self.query(x), self.key(x), self.value(x), dropout_p=0.1 if self.training else 0.0
        )
        return F.mse_loss(self.head((x + self.out(mixed)).mean(dim=1)), batch[1])


class Manual(Base):
    """Two optimisers by hand, and another training step after the first loss."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(4, 1)

    def training_step(self, batch: Any, index: int) -> None:
        del index
        one, two = self.optimizers()
        ones = torch.ones_like(batch[:, 0])
        loss = F.binary_cross_entropy_with_logits(self.judge(self.maker(batch))[:, 0], ones)
        one.zero_grad()
        self.manual_backward(loss)
        one.step()
        made = self.maker(batch).detach()
        loss = F.binary_cross_entropy_with_logits(self.judge(made)[:, 0], 0 * ones)
        loss += F.binary_cross_entropy_with_logits(self.judge(batch)[:, 0], ones)
        two.zero_grad()
        self.manual_backward(loss)
        two.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.maker.parameters()), torch.optim.Adam(self.judge.parameters())]


class Augmented(Pictures):
    """Noise is added in the training step, and a part is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step((batch[0] + torch.randn_like(batch[0]), batch[1]), index)


class Contrastive(Base):
    """Samples are compared with one another, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        one, two = F.normalize(self.net(batch)), F.normalize(self.net(batch + 0.1))
        return F.cross_entropy(one @ two.T / 0.1, torch.arange(len(batch), device=batch.device))


class Odd(Base):
    """A loss written out, a batch that is no tensor, nothing to take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        return (self.weight - batch.number) ** 2


class Number:
    number = 3.0


class Dicts(Dataset[dict[str, Tensor]]):
    def __init__(self, size: int = 48) -> None:
        generator = torch.Generator().manual_seed(0)
        self.lengths = torch.randint(5, 21, (size,), generator=generator)
        self.signal = torch.randn(size, 20, 3, generator=generator)
        self.signal *= (torch.arange(20) < self.lengths[:, None])[..., None]
        self.label = (torch.rand(size, generator=generator) < 0.5).float()

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"signal": self.signal[i], "lengths": self.lengths[i], "label": self.label[i]}


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        return iter(torch.randn(16, 4, generator=generator))


def tensors(*made: Callable[[torch.Generator], Tensor]) -> Callable[[], DataLoader[Any]]:
    def make() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(*(each(generator) for each in made)), batch_size=8)

    return make


def pictures(size: int = 32) -> Callable[[], DataLoader[Any]]:
    return tensors(
        lambda g: torch.randn(size, 3, 16, 16, generator=g), lambda g: torch.randint(0, 5, (size,), generator=g)
    )


def dicts() -> DataLoader[Any]:
    return DataLoader(Dicts(), batch_size=8)


def rows() -> DataLoader[Any]:
    return DataLoader(RandomDataset(4, 32), batch_size=8)


def tokens() -> DataLoader[Any]:
    return tensors(*[lambda g: torch.randint(0, 12, (32, 10), generator=g)] * 2)()


def sequences() -> DataLoader[Any]:
    return tensors(lambda g: torch.randn(32, 10, 3, generator=g), lambda g: torch.randn(32, 2, generator=g))()


def boring() -> lightning.LightningModule:
    module: lightning.LightningModule = BoringModel()
    return module


FOREIGN: dict[str, tuple[Callable[[], lightning.LightningModule], Callable[[], Any], dict[str, Any]]] = {
    "dict and a recurrent tuple": (Recurrent, dicts, {}),
    "transformer": (Encoder, tokens, {}),
    "pictures": (Pictures, pictures(), {}),
    "attention": (Attention, sequences, {}),
    "manual": (Manual, rows, {}),
    "augmented and frozen": (Augmented, pictures(), {"accumulate_grad_batches": 2}),
    "contrastive": (Contrastive, rows, {}),
    "from Lightning": (boring, lambda: DataLoader(RandomDataset(32, 32), batch_size=8), {}),
    "16-bit": (Recurrent, dicts, {"precision": "bf16-mixed"}),
    "iterable": (Contrastive, lambda: DataLoader(Stream(), batch_size=8), {}),
    "nothing to see": (Odd, lambda: DataLoader([Number()] * 4, batch_size=None), {}),
}


def fit(folder: Path, name: str, callbacks: list[Any]) -> lightning.LightningModule:
    make, loader, options = FOREIGN[name]
    torch.manual_seed(0)
    module = make()
    Training("foreign", module, (loader(),), {"max_epochs": 2, **options}).fit(folder, callbacks)
    return module


def state(module: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in (*module.parameters(), *module.buffers())]


def trouble(folder: Path) -> list[Finding]:
    return [each for each in read_jsonl(folder / "findings.jsonl") if each.status in BAD]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_modules_train_the_same_and_in_silence(tmp_path: Path, name: str) -> None:
    with_it = fit(tmp_path / "a", name, [Wiring()])
    after = torch.rand(1)
    plain = fit(tmp_path / "b", name, [])
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(a, b) for a, b in zip(state(with_it), state(plain), strict=True))
    assert [p.requires_grad for p in with_it.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in with_it.modules())
    assert [(each.where, each.message) for each in trouble(tmp_path / "a")] == []


def found(folder: Path, module: lightning.LightningModule, loader: Any, **arguments: Any) -> list[str]:
    Training("foreign", module, (loader,), {"max_epochs": 1}).fit(folder, [Wiring(**arguments)])
    return [each.where for each in trouble(folder)]


def test_a_last_step_that_is_padded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert found(tmp_path, LastStep(), dicts()) == ["network/padding"]


class Faulty(Base):
    """Regression of one number, with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.one, self.two, self.act = nn.Linear(4, 8), nn.Linear(8, 8), nn.Tanh()
        self.head = nn.Linear(8, 2)
        self.list = [nn.Linear(8, 8)] if fault == "list" else []

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.one(x))
        if self.fault == "list":
            hidden = self.list[0](hidden).tanh()
        if self.fault == "functional dropout":
            hidden = F.dropout(hidden, 0.5)
        if self.fault == "modes" and self.training:
            hidden = hidden * 2
        if self.fault == "mean":
            hidden = hidden - hidden.mean(dim=0)
        hidden = self.two(hidden)
        if self.fault == "detach":
            hidden = hidden.detach()
        answer: Tensor = self.head(self.act(hidden) if self.fault != "no activation" else hidden)
        return answer

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        scores = self(batch[0])
        if self.fault == "shapes":
            with pytest.warns(UserWarning, match="target size"):
                return F.mse_loss(scores[:, :1], batch[1][:, 0])
        if self.fault == "weight":
            return F.binary_cross_entropy_with_logits(scores, batch[1], weight=torch.tensor([1.0, 0.0]))
        return F.binary_cross_entropy_with_logits(scores, batch[1])


FAULTS = {
    "none": [],
    "list": ["list[0]/saved"],
    "functional dropout": ["two/repeatable"],
    "modes": ["two/modes"],
    "mean": ["two/mixing"],
    "detach": ["two/gradient"],
    "no activation": ["head/linear"],
    "shapes": ["loss/shapes"],
    "weight": ["output_1/gradient"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_foreign_modules(tmp_path: Path, fault: str) -> None:
    torch.manual_seed(0)
    loader = tensors(lambda g: torch.randn(32, 4, generator=g), lambda g: torch.rand(32, 2, generator=g).round())()
    assert found(tmp_path, Faulty(fault), loader) == FAULTS[fault]


def test_a_probe_says_what_the_scores_are(tmp_path: Path) -> None:
    """A loss written out and two answers: the scores are named in three lines."""

    class Two(Base):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(x.mean(dim=1)).relu(), x

        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            return (self(batch[0])[0] - batch[1]).square().mean()

    def probe(module: Any, batch: Any) -> Any:
        return adapt(module, batch[0], logits=lambda out: Logits(None, out[0] - out[0].mean(dim=0)), outputs=("a", "b"))

    torch.manual_seed(0)
    assert found(tmp_path, Two(), sequences(), probe=probe) == ["evaluation/mixing"]
