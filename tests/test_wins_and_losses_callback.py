"""The callback `wins_and_losses`: what it writes, draws and says, on any module; and that it leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import callbacks.wins_and_losses
from callbacks.predictions import Predictions
from callbacks.wins_and_losses import WinsAndLosses
from heartnet.diagnostics.adapt import adapt
from heartnet.errors import HeartnetError
from heartnet.findings import FILE, Finding, latest, read_jsonl
from heartnet.model import pieces
from heartnet.predicted import Predicted

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def findings(folder: Path) -> dict[str, Finding]:
    return {each.where: each for each in latest(read_jsonl(folder / FILE)) if each.check == "wins_and_losses"}


def images(folder: Path) -> list[str]:
    tags: list[str] = EventAccumulator(str(folder)).Reload().Tags()["images"]
    return sorted(tag for tag in tags if tag.startswith("wins_and_losses/"))


def trainer_of(folder: Path, *made: Any, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(made), accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        **{"max_epochs": 1, "logger": TensorBoardLogger(str(folder), name="", version=""), **options},
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be drawn, without the seconds that it takes."""
    seen: list[tuple[Any, ...]] = []
    whole = callbacks.wins_and_losses.week_figure

    def draw(*args: Any, **options: Any) -> Any:
        seen.append((*args, options))
        return whole(*args, **options) if len(seen) == 1 else _empty()

    monkeypatch.setattr(callbacks.wins_and_losses, "week_figure", draw)
    return seen


def _empty() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1), dpi=20)


@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_weeks_are_written_drawn_and_said(tmp_path: Path, kind: str, drawn: list[tuple[Any, ...]]) -> None:
    made = faults.training(kind, 0)
    trainer = trainer_of(tmp_path, WinsAndLosses(count=2), Predictions(draws=100))
    trainer.fit(made.module, datamodule=made.data)
    table = pl.read_csv(tmp_path / "val_wins_and_losses.csv")
    assert set(table["target"]) == set(made.data.targets)
    assert table.group_by("target", "kind").len()["len"].max() == 2
    shown = table.filter(pl.col("rank") == 1)
    assert table.height > shown.height, "of a validation the first of each kind is drawn"
    tags = [f"wins_and_losses/val/{row['target']}/{row['kind']}/1" for row in shown.iter_rows(named=True)]
    assert images(tmp_path) == sorted(tags)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "wins_and_losses/val/diabetes/text_summary" in events.Tags()["tensors"]
    assert len(drawn) == len(tags)
    for trace, attribution, words, options in drawn:
        assert trace is not None
        assert attribution is not None, "the score that was written is the one that is taken apart"
        assert options["hourly"] == (kind == "hourly")
        assert "val split" in words.about
    said = findings(tmp_path)
    assert set(said) == {"val: diabetes", "val: sleep_apnea"}
    assert {each.status for each in said.values()} == {"pass"}
    assert "The table is val_wins_and_losses.csv" in said["val: diabetes"].message


def test_it_draws_after_a_test(tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    made = faults.training("deepheart", 1)
    made.data.rows = {**made.data.rows, "test": made.data.rows["val"]}
    trainer = trainer_of(tmp_path, WinsAndLosses(count=2))
    trainer.test(made.module, datamodule=made.data, verbose=False)
    table = pl.read_csv(tmp_path / "wins_and_losses.csv")
    assert len(drawn) == len(images(tmp_path)) == len(table)
    assert table["rank"].max() == 2
    assert all(attribution is not None for _, attribution, _, _ in drawn)


@pytest.mark.usefixtures("two_threads")
def test_any_number_of_threads_tells_the_same(tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    by_threads = []
    for threads in (1, 2):
        pieces.use_threads(threads)
        made = faults.training("deepheart", 1)
        made.data.rows = {**made.data.rows, "test": made.data.rows["val"]}
        trainer_of(tmp_path / str(threads), WinsAndLosses(count=2)).test(
            made.module, datamodule=made.data, verbose=False
        )
        by_threads.append(list(drawn))
        drawn.clear()
    assert len(by_threads[0]) == len(by_threads[1]) > 4
    for (_, one, words, _), (_, other, too, _) in zip(*by_threads, strict=True):
        assert words == too
        assert one.score == other.score
        np.testing.assert_array_equal(one.gradient, other.gradient)
        np.testing.assert_array_equal(one.steps, other.steps)


@pytest.fixture
def two_threads() -> Iterator[None]:
    pieces.use_threads(2)
    yield
    pieces.use_threads(1)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kind", ["deepheart", "hourly"])
def test_it_leaves_no_trace(tmp_path: Path, kind: str) -> None:
    ends = []
    for made_of in ([], [WinsAndLosses(count=1)]):
        made = faults.training(kind, 1)
        lightning.seed_everything(3, verbose=False)
        logger = TensorBoardLogger(str(tmp_path / str(len(made_of))), name="", version="")
        trainer = made.fit(tmp_path, made_of, max_epochs=2, logger=logger)
        streams = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
        state = [each.detach().clone() for each in (*made.module.parameters(), *made.module.buffers())]
        flags = [(each.requires_grad, each.grad is None) for each in made.module.parameters()]
        hooks = sum(len(each._forward_hooks) + len(each._backward_hooks) for each in made.module.modules())
        ends.append((state, streams, flags, hooks, made.module.training, trainer.global_step))
    assert images(tmp_path / "1")
    assert all(torch.equal(one, other) for one, other in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[0][1:] == ends[1][1:]


class Foreign(lightning.LightningModule):
    """Knows nothing of heartnet: a tuple batch, one logit from a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(24, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]  # type: ignore[no-any-return]

    def training_step(self, batch: Any, index: int) -> Tensor:  # noqa: ARG002
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def read(module: Any, batch: Any) -> Predicted:
    logits = module(batch[0])
    return Predicted(("risk",), batch[2], logits.sigmoid(), batch[1], logits)


def foreign_data(*, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 12, 2, generator=generator)
    y = (x[:, 0, 0] + torch.randn(80, generator=generator) > 0).float()
    return DataLoader(
        [(x[i], y[i], i // 2) for i in range(80)],  # type: ignore[arg-type]
        batch_size=16, shuffle=shuffle, generator=generator,
    )  # fmt: skip


def test_weeks_of_others_are_drawn_as_their_network_sees_them(tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    loader = foreign_data()
    trainer_of(tmp_path, WinsAndLosses(read=read)).test(Foreign(), loader, verbose=False)
    table = pl.read_csv(tmp_path / "wins_and_losses.csv")
    assert len(images(tmp_path)) == len(drawn) == table.height == 12
    weeks = {row["week"] for row in table.iter_rows(named=True)}
    inputs = np.concatenate([batch[0].numpy() for batch in loader])
    for trace, attribution, _, _ in drawn:
        assert trace is None
        assert any(np.allclose(attribution.inputs, inputs[week]) for week in weeks)
    assert set(findings(tmp_path)) == {"test: risk"}


def test_another_order_of_the_weeks_is_noticed(tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    torch.manual_seed(0)
    module, loader = Foreign(), foreign_data(shuffle=True)
    with pytest.warns(match="shuffl"):
        trainer_of(tmp_path, WinsAndLosses(read=read)).test(module, loader, verbose=False)
    assert len(drawn) < 6, "by chance some scores agree"
    assert "in another order each time" in findings(tmp_path)["test: pictures"].message
    assert pl.read_csv(tmp_path / "wins_and_losses.csv").height == 12


def test_what_cannot_be_called_is_said_once(tmp_path: Path) -> None:
    class Odd(Foreign):
        def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
            if more is None and len(x) == 1:
                raise ValueError("needs more")
            return super().forward(x)

    trainer_of(tmp_path / "a", WinsAndLosses(read=read)).test(Odd(), foreign_data(), verbose=False)
    said = findings(tmp_path / "a")
    assert "ValueError: needs more" in said["test: pictures"].message
    assert "probe=" in said["test: pictures"].message
    assert said["test: risk"].status == "pass"
    assert not images(tmp_path / "a")
    mine = WinsAndLosses(read=read, count=1, probe=lambda module, batch: adapt(module.net, batch[0], outputs=("risk",)))
    trainer_of(tmp_path / "b", mine).test(Odd(), foreign_data(), verbose=False)
    assert len(images(tmp_path / "b")) == 4
    assert "test: pictures" not in findings(tmp_path / "b")


def test_what_a_loader_gave_before_it_failed_is_drawn(tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    class Gone(list[Any]):
        """Rows that cannot be read again after the 64th of the second time."""

        left = 80 + 64

        def __getitem__(self, index: Any) -> Any:
            Gone.left -= 1
            if Gone.left < 0:
                raise OSError("the file is gone")
            return super().__getitem__(index)

    loader = DataLoader(Gone(foreign_data().dataset), batch_size=16)
    trainer_of(tmp_path, WinsAndLosses(read=read)).test(Foreign(), loader, verbose=False)
    assert 0 < len(drawn) < 12
    assert "the file is gone" in findings(tmp_path)["test: pictures"].message


def test_images_have_a_table_and_no_pictures(tmp_path: Path) -> None:
    made = faults.training("image", 0)

    def four(module: Any, batch: Any) -> Predicted:
        return Predicted(("zero",), np.arange(len(batch[1])), module.network(batch[0])[:, 0].sigmoid(), batch[1] == 0)

    made.fit(
        tmp_path, [WinsAndLosses(read=four)], max_epochs=1, logger=TensorBoardLogger(str(tmp_path), name="", version="")
    )
    assert "no float tensor" in findings(tmp_path)["val: pictures"].message
    assert (tmp_path / "val_wins_and_losses.csv").exists()


def test_without_a_logger_there_is_the_table(tmp_path: Path) -> None:
    made = faults.training("deepheart", 0)
    made.fit(tmp_path, [WinsAndLosses()], max_epochs=1)
    assert (tmp_path / "val_wins_and_losses.csv").exists()
    assert "val: pictures" not in findings(tmp_path)


def test_a_network_trained_on_since_the_validation_is_not_asked(tmp_path: Path, drawn: list[tuple[Any, ...]]) -> None:
    made = faults.training("deepheart", 0)
    trainer = trainer_of(tmp_path, WinsAndLosses(count=1), max_epochs=3, check_val_every_n_epoch=2)
    trainer.fit(made.module, datamodule=made.data)
    assert drawn
    assert all(trace is not None and attribution is None for trace, attribution, *_ in drawn)
    said = findings(tmp_path)["val: pictures"]
    assert said.status == "unknown"
    assert "the network was trained on" in said.message
    assert "shuffle" not in said.message
    assert said.step == trainer.global_step * 2 // 3, "of the validation"


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"count": 1.5}, {"count": "x"}, {"each": 0}, {"each": None}, {"drawn": 0}, {"every_n_epochs": 0}],
)
def test_arguments_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(HeartnetError, match=next(iter(options))):
        WinsAndLosses(**options)
