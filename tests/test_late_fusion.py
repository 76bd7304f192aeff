"""What `experiment=ablation` compares: the metadata alone, and late fusion of two models that were trained apart."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import faults
import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import train
from heartnet.cli import main as heartnet
from heartnet.datamodule import WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.late_fusion import fitted, fusion_of
from heartnet.model import DeepHeart
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions, Synthetic

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Total length of"),
]


def network(metadata: Any, **options: Any) -> DeepHeart:
    torch.manual_seed(0)
    small: dict[str, Any] = {"conv_units": 6, "kernel_sizes": (5, 3), "lstm_units": 4, "lstm_layers": 2, "longest": 60}
    return DeepHeart(3, 2, 6, **small | {"pool": 2, "metadata": metadata} | options)


def module_of(data: WeeksDataModule, metadata: Any) -> HeartnetModule:
    mean, std = data.target_statistics()
    return HeartnetModule(
        network(metadata), kind=data.task.kind, targets=data.targets, target_mean=mean.tolist(),
        target_std=std.tolist(), scaling=data.scaling.as_dict(), learning_rate=5e-3,
    )  # fmt: skip


def data_of(val_share: float = 0.3, task: Any = None) -> WeeksDataModule:
    return WeeksDataModule(faults.weeks(0, 120), task or Conditions(), val_share=val_share, test_share=0.2)


def trained(folder: Path, data: WeeksDataModule, module: HeartnetModule, **options: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **{"max_epochs": 2, "enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


def batch_of(lengths: tuple[int, ...] = (30, 17, 2)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(len(lengths), max(lengths), 3, generator=generator)
    return inputs, torch.tensor(lengths), torch.randn(len(lengths), 6, generator=generator)


@pytest.mark.parametrize("readout", ["mean", "last", "midpoint", "both_ends"])
@pytest.mark.parametrize("clock", ["none", "elapsed"])
def test_only_sees_the_metadata_and_nothing_of_the_week(readout: str, clock: str) -> None:
    made = network("only", readout=readout, clock=clock).eval()
    inputs, lengths, metadata = batch_of()
    steps, score = made(inputs, lengths, metadata)
    other = made(inputs * 3 + 1, torch.tensor([3, 30, 5]), metadata)
    torch.testing.assert_close(other.score, score, rtol=0, atol=0)
    assert not torch.allclose(made(inputs, lengths, -metadata).score, score)
    assert steps.shape == (3, 8, 2), "one for four readings, as for the network that sees them"
    for row, count in enumerate([8, 5, 1]):
        torch.testing.assert_close(steps[row, :count], score[row].expand(count, 2))
        assert (steps[row, count:] == 0).all()
    # It is what `lstm_state` says of a week with one reading of zeros.
    same = network("lstm_state", readout=readout).eval()
    if clock == "none":
        same.load_state_dict(made.state_dict())
        of_one = same(torch.zeros(3, 1, 3), torch.ones(3, dtype=torch.long), metadata)
        torch.testing.assert_close(of_one.score, score)


def test_only_trains_all_that_it_has() -> None:
    made = network("only")
    inputs, lengths, metadata = batch_of()
    made(inputs, lengths, metadata).score.square().sum().backward()
    still = [name for name, each in made.named_parameters() if each.grad is None]
    assert not still


def test_a_fusion_that_is_not_set_changes_nothing_and_one_that_is_adds() -> None:
    made, alone = network("late_fusion").eval(), network("none").eval()
    made.load_state_dict(alone.state_dict(), strict=False)
    inputs, lengths, metadata = batch_of()
    before = alone(inputs, lengths, metadata)
    torch.testing.assert_close(made(inputs, lengths, metadata), before, rtol=0, atol=0)
    scale, weight, bias = torch.tensor([2.0, 0.5]), torch.randn(6, 2), torch.tensor([1.0, -1.0])
    assert made.fusion is not None
    made.fusion.set(scale, weight, bias)
    steps, score = made(inputs, lengths, metadata)
    torch.testing.assert_close(score, scale * before.score + metadata @ weight + bias)
    for row, count in enumerate([8, 5, 1]):
        torch.testing.assert_close(steps[row, :count].mean(dim=0), score[row])
        assert (steps[row, count:] == 0).all()
    with pytest.raises(HeartnetError, match="called without any"):
        made(inputs, lengths)


def test_the_fit_is_two_logistic_regressions() -> None:
    rng = np.random.default_rng(0)
    metadata, logits = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    value = (rng.random((400, 3)) < 1 / (1 + np.exp(-(2 * logits + metadata[:, :1] - 0.5)))).astype(float)
    value[:, 2] = 0  # one class
    value[rng.random((400, 3)) < 0.1] = np.nan
    value[300:, 2] = np.nan
    scale, weight, bias = fitted(metadata[:200], value[:200], metadata[200:], logits[200:], value[200:])
    assert (scale[2], bias[2]) == (1, 0)
    assert (weight[:, 2] == 0).all()
    for i in range(2):
        known = ~np.isnan(value[:200, i])
        alone = LogisticRegression(max_iter=2000).fit(metadata[:200][known], value[:200, i][known])
        also = alone.decision_function(metadata[200:])
        kept = ~np.isnan(value[200:, i])
        both, y = np.stack([logits[200:, i], also], axis=1)[kept], value[200:, i][kept]

        def loss(at: Any, both: Any = both, y: Any = y) -> float:
            z = both @ at[:2] + at[2]
            return float(np.logaddexp(0, -(2 * y - 1) * z).sum() + (at[:2] @ at[:2]) / 2)

        best = minimize(loss, np.zeros(3), tol=1e-10).x
        np.testing.assert_allclose(
            logits[200:, i] * scale[i] + metadata[200:] @ weight[:, i] + bias[i],
            logits[200:, i] * best[0] + also * best[1] + best[2], atol=2e-3,
        )  # fmt: skip


def test_the_sensors_are_trained_without_regard_to_the_metadata(tmp_path: Path) -> None:
    data = data_of()
    alone, fused = module_of(data, "none"), module_of(data, "late_fusion")
    trained(tmp_path, data, alone)
    trainer = trained(tmp_path, data, fused, enable_checkpointing=True)
    fusion = fusion_of(fused)
    assert fusion is not None
    mine = fused.network.state_dict()
    for name, weight in alone.network.state_dict().items():
        assert torch.equal(weight, mine[name]), name
    assert (fusion.weight != 0).any()

    trainer.test(fused, datamodule=data, verbose=False)
    before = fused.test_scores
    lightning.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu").test(alone, data, verbose=False)
    batch = data.batch(fused.test_rows)
    logits = torch.logit(torch.from_numpy(alone.test_scores))
    want = torch.sigmoid(logits * fusion.scale + batch["metadata"] @ fusion.weight + fusion.bias)
    np.testing.assert_allclose(before, want, atol=1e-5)

    # The weights that are kept are those of the fused network.
    loaded = HeartnetModule.from_checkpoint(Path(trainer.checkpoint_callback.best_model_path))  # type: ignore[union-attr]
    with torch.no_grad():
        again = loaded.predict_step(data.batch(fused.test_rows), 0)["scores"]
    np.testing.assert_allclose(again, before, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: data_of(val_share=0.0), "set data.val_share above 0"),
        (lambda: data_of(task=Synthetic(("total_steps", "mean_difference_30_min"))), "task=conditions"),
    ],
)
def test_what_a_fusion_needs(tmp_path: Path, data: Any, message: str) -> None:
    made = data()
    with pytest.raises(HeartnetError, match=message):
        trained(tmp_path, made, module_of(made, "late_fusion"))


@pytest.mark.parametrize("metadata", ["only", "late_fusion"])
def test_data_without_metadata(metadata: Any) -> None:
    with pytest.raises(HeartnetError, match=f"model.metadata={metadata} needs metadata"):
        DeepHeart(3, 2, 0, metadata=metadata)


def test_the_sweep_is_four_ordinary_runs_on_the_same_weeks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()
    small = ["data.users=60", "model.conv_units=4", "model.lstm_units=4", "model.pool=8", "trainer.max_epochs=1"]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "experiment=ablation", f"hydra.sweep.dir={tmp_path}", *small])
    assert train.main() == 0
    folders = [tmp_path / str(i) for i in range(4)]
    modes = [OmegaConf.load(folder / "config.yaml").model.metadata for folder in folders]
    assert modes == ["none", "only", "late_fusion", "lstm_state"]
    weeks = [pl.read_parquet(folder / "predictions.parquet").select("week", "target", "value") for folder in folders]
    assert all(each.equals(weeks[0]) for each in weeks)
    capsys.readouterr()
    assert heartnet(["compare", str(tmp_path), "--to", "metadata", "--draws", "50", "--csv"]) == 0
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert list(rows) == ["sensor", "metadata", "late_fusion", "lstm_state", "ceiling"]
    for name in ("sensor", "late_fusion", "lstm_state"):
        assert abs(float(rows[name]["difference"])) < 1
        assert rows[name]["difference_low"] == rows[name]["difference_high"] == "", "nine people are too few for one"
