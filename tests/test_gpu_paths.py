"""What a GPU needs of the code and a CPU can show: no waiting inside a step, pinned batches, bfloat16.

On the meta device tensors have no values, so whatever would bring one to the host, or needs one to know a shape,
raises: `.item()`, `bool(tensor)`, `.cpu()`, boolean indices.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from heartnet.augment import AUGMENTATIONS
from heartnet.datamodule import SimulatedData
from heartnet.model import DeepHeart, HourlyCNN, TwoTimescale
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions


@pytest.fixture(scope="module")
def data() -> SimulatedData:
    return SimulatedData(Conditions(), users=24, weeks_per_user=1)


def module_of(
    data: SimulatedData, network: Any = None, kind: type[HeartnetModule] = HeartnetModule, **options: Any
) -> HeartnetModule:
    if network is None:
        network = DeepHeart(outputs=len(data.targets), conv_units=8, lstm_units=8, lstm_layers=1, pool=8)
    count = len(data.targets)
    return kind(
        network, kind="conditions", targets=data.targets, target_mean=[0.2] * count, target_std=[1.0] * count,
        scaling=data.scaling.as_dict(), **options,
    )  # fmt: skip


def short(batch: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    return batch | {"inputs": batch["inputs"][:, :steps], "lengths": batch["lengths"].clamp(max=steps)}


def step_on_meta(module: HeartnetModule, batch: dict[str, Tensor]) -> None:
    """Do a whole training step and one of validation where no tensor has values."""
    module.to("meta")
    batch = {name: value.to("meta") for name, value in batch.items()}
    module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    optimizer = torch.optim.AdamW(module.parameters())
    module.training_step(batch, 0).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    module.validation_step(batch, 0)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"pool": 2}, {"readout": "last"}, {"readout": "midpoint"}, {"readout": "both_ends"}, {"clock": "elapsed"},
        {"metadata": "lstm_state"}, {"metadata": "only"}, {"metadata": "late_fusion"},
        {"crop": 4}, {"level": 0.1, "gain": 0.1, "ectopy": 0.1},
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "default",
)  # fmt: skip
def test_no_step_of_deepheart_brings_a_value_to_the_host(data: SimulatedData, options: dict[str, Any]) -> None:
    augmentation = {name: value for name, value in options.items() if name in AUGMENTATIONS}
    network = DeepHeart(
        outputs=len(data.targets), metadata_size=data.metadata_size, conv_units=4, lstm_units=4, lstm_layers=2,
        **{name: value for name, value in options.items() if name not in AUGMENTATIONS},
    )  # fmt: skip
    step_on_meta(module_of(data, network, augmentation=augmentation), short(next(iter(data.train_dataloader())), 8))


def test_nor_of_two_timescales(data: SimulatedData) -> None:
    network = TwoTimescale(outputs=len(data.targets), conv_units=4, lstm_units=4, lstm_layers=1, pool=2)
    step_on_meta(module_of(data, network), short(next(iter(data.train_dataloader())), 64))


def test_which_there_reads_padding_in_place_of_a_length_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = TwoTimescale(conv_units=4, lstm_units=4, lstm_layers=1, pool=2).eval()
    inputs, lengths = torch.randn(3, 50, 3), torch.tensor([50, 31, 7])
    inputs = inputs * (torch.arange(50)[:, None] < lengths[:, None, None])
    expected = network(inputs, lengths)
    shapes = [part.inputs.shape[1] for part in network.stretches(inputs, lengths).values()]
    monkeypatch.setattr(Tensor, "is_cpu", property(lambda _: False))
    found = network(inputs, lengths)
    assert [part.inputs.shape[1] for part in network.stretches(inputs, lengths).values()] == [50, 50] > shapes
    torch.testing.assert_close(found.score, expected.score)
    torch.testing.assert_close(found.steps, expected.steps)


def test_nor_of_the_hourly_network() -> None:
    data = SimulatedData(Conditions(), users=24, weeks_per_user=1, view="hourly")
    step_on_meta(
        module_of(data, HourlyCNN(outputs=len(data.targets), conv_units=4)), next(iter(data.train_dataloader()))
    )


@pytest.mark.parametrize("fault", ["item", "bool", "cpu", "index"])
def test_a_network_that_waits_is_seen(data: SimulatedData, fault: str) -> None:
    class Waiting(DeepHeart):
        def forward(self, inputs: Tensor, lengths: Tensor, metadata: Tensor | None = None) -> Any:
            if fault == "item":
                inputs = inputs[:, : int(lengths.max())]
            elif fault == "bool" and (lengths == inputs.shape[1]).all():
                inputs = inputs + 0
            elif fault == "cpu":
                lengths = lengths.cpu()
            elif fault == "index":
                lengths[lengths > 8].sum()
            return super().forward(inputs, lengths, metadata)

    network = Waiting(outputs=len(data.targets), conv_units=4, lstm_units=4, lstm_layers=1)
    with pytest.raises((RuntimeError, NotImplementedError)):
        step_on_meta(module_of(data, network), short(next(iter(data.train_dataloader())), 8))


class Reads(TorchDispatchMode):
    """Counts by place the values that are read from tensors; not the optimiser's counters, which lie on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            files = [frame.filename for frame in traceback.extract_stack()]
            if not any("torch/optim" in file for file in files):
                self.places[next(file for file in reversed(files) if "/torch/" not in file and __file__ != file)] += 1
        return function(*args, **(kwargs or {}))


class Logging(HeartnetModule):
    """Logs as Lightning would have it, which reads the loss at each step."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, prog_bar=True, batch_size=1)
        return loss


def reads_of(module: HeartnetModule, data: SimulatedData, folder: Path, epochs: int) -> int:
    """Return how many values a training reads."""
    trainer = lightning.Trainer(
        max_epochs=epochs, log_every_n_steps=1, limit_val_batches=0, default_root_dir=folder,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu",
        logger=lightning.loggers.CSVLogger(folder), gradient_clip_val=1.0,
    )  # fmt: skip
    with Reads() as reads:
        trainer.fit(module, datamodule=data)
    return reads.places.total()


@pytest.mark.filterwarnings("ignore:.*many workers.*", "ignore:.*Experiment logs directory.*")
def test_training_reads_nothing_between_the_seconds_at_which_losses_are_written(
    data: SimulatedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heartnet.step_losses.SECONDS", 1000.0)

    def each(kind: type[HeartnetModule]) -> float:
        modules = [module_of(data, schedule="constant", kind=kind) for _ in range(2)]
        counts = [reads_of(module, data, tmp_path, epochs) for module, epochs in zip(modules, (1, 4), strict=True)]
        steps = 3 * len(data.train_dataloader())
        return (counts[1] - counts[0] - 3) / steps  # a loader reads one number an epoch, for its workers

    assert each(HeartnetModule) == 0
    assert each(Logging) >= 1


def test_batches_are_pinned_for_a_gpu_and_moved_without_waiting(
    data: SimulatedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not data.train_dataloader().pin_memory or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.train_dataloader().pin_memory
    assert data.val_dataloader().pin_memory
    moved: list[dict[str, Any]] = []
    monkeypatch.setattr(Tensor, "to", lambda self, *_, **named: moved.append(named) or self)
    module_of(data).transfer_batch_to_device(data.batch(data.rows["train"][:2]), torch.device("cuda"), 0)
    assert len(moved) == 5
    assert all(named["non_blocking"] for named in moved)


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("cuda", True), ("mps", None)])
def test_adamw_is_fused_where_it_can_be(
    data: SimulatedData, monkeypatch: pytest.MonkeyPatch, device: str, fused: bool | None
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(HeartnetModule, "device", torch.device(device))
    monkeypatch.setattr(torch.optim, "AdamW", lambda _, **named: asked.update(named) or SimpleNamespace())
    module_of(data, schedule="constant").configure_optimizers()
    assert asked["fused"] is fused


@pytest.mark.parametrize(
    "precision",
    [
        Precision(),
        MixedPrecision("bf16-mixed", "cpu"),
        MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0)),
    ],
)
def test_the_fused_adamw_clips_gradients_in_every_precision(
    data: SimulatedData, tmp_path: Path, precision: Precision
) -> None:
    norms: list[float] = []

    class Looks(HeartnetModule):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
            gradients = [each.grad for each in self.parameters() if each.grad is not None]
            norms.extend([float(torch.nn.utils.get_total_norm(gradients))] if gradients else [])
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    module = module_of(data, kind=Looks, schedule="constant")
    before = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    trainer = lightning.Trainer(
        plugins=[precision], gradient_clip_val=1e-3, max_steps=3, limit_val_batches=0, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert trainer.optimizers[0].defaults["fused"]
    assert norms == pytest.approx([1e-3] * 2, rel=1e-3)
    after = torch.nn.utils.parameters_to_vector(module.parameters())
    assert after.isfinite().all()
    assert not after.equal(before)


def test_the_training_curve_in_bfloat16_is_nearer_than_another_seed(data: SimulatedData) -> None:
    batches = [short(batch, 256) for batch in data.train_dataloader()]

    def curve(seed: int, *, bfloat16: bool) -> Tensor:
        torch.manual_seed(seed)
        module = module_of(data)
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
        losses = []
        for batch in batches * 10:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = module.loss(module.score(batch), batch["targets"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return torch.tensor(losses)

    plain = torch.stack([curve(seed, bfloat16=False) for seed in range(5)])
    half = torch.stack([curve(seed, bfloat16=True) for seed in range(5)])
    assert 0 < (plain - half).abs().mean() < 0.5 * (plain[:, None] - plain).abs().sum() / (20 * plain.shape[1])
    assert half[:, -len(batches) :].mean() < half[:, : len(batches)].mean()
