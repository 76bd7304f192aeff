"""The amnesia callback in plain trainers: what it logs and writes, for whom, and that training goes on untouched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from callbacks.amnesia import Amnesia
from heartnet.diagnostics.adapt import adapt
from heartnet.diagnostics.archive import load_npz
from heartnet.diagnostics.fixed import fixed_weeks
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.errors import HeartnetError
from heartnet.findings import read_jsonl
from heartnet.model.deepheart import DeepHeart

pytestmark = [
    # Lightning's advice on workers for the loader and on logging intervals, and its use of an older pytree.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
]


class Weeks(Dataset[dict[str, Tensor]]):
    """Sequences of 10 to 40 readings, each with a target; as in heartnet, the data set itself makes the batches."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.lengths = torch.randint(10, 41, (12,), generator=generator)
        self.inputs = torch.randn(12, 40, 2, generator=generator)
        self.inputs *= (torch.arange(40) < self.lengths[:, None])[..., None]

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        time = int(self.lengths[rows].max())
        targets = self.inputs[rows].mean(dim=1)
        return {"inputs": self.inputs[rows, :time], "lengths": self.lengths[rows], "targets": targets}

    def __len__(self) -> int:
        return 12


class WithProbe(lightning.LightningModule):
    """A module of heartnet's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.network = DeepHeart(
            2, 2, conv_units=4, lstm_units=3, lstm_layers=2, kernel_sizes=(3,), longest=40, dropout=0.3
        )

    def probe(self, batch: dict[str, Tensor]) -> Probe:
        dt = torch.full(batch["inputs"].shape[:2], 300.0)
        names = ("apnea", "diabetes"), ("bpm", "steps")
        return Probe(self.network, batch["inputs"], (batch["lengths"],), batch["lengths"], *names, dt)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        del index
        return ((self.network(batch["inputs"], batch["lengths"]).score - batch["targets"]) ** 2).mean()

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.log("val/loss", self.training_step(batch, index), batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


class Foreign(lightning.LightningModule):
    """Knows nothing of heartnet: a tuple batch, an LSTM with dropout and its own hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(2, 4, 2, batch_first=True, dropout=0.4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(2, len(x), 4)
        out, _ = self.rnn(x, (start, start))
        answer: Tensor = self.head(out[:, -1])
        self.log("seen", answer.mean())
        return answer

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        x, y = batch
        return ((self(x) - y) ** 2).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.training_step(batch, index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def trainer_of(folder: Path, callbacks: list[Any], **options: Any) -> lightning.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 3, "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 1,
    }  # fmt: skip
    return lightning.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**defaults, **options},
    )


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    weeks = Weeks()
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    return DataLoader(weeks, batch_size=None, sampler=batches), DataLoader(weeks, batch_size=None, sampler=batches[:2])


def pairs(size: int = 8, *, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(size, 30, 2, generator=generator), torch.randn(size, 1, generator=generator))
    return DataLoader(data, batch_size=4, shuffle=shuffle)


def fit(folder: Path, callbacks: list[Any], **options: Any) -> lightning.Trainer:
    torch.manual_seed(0)
    trainer = trainer_of(folder, callbacks, **options)
    trainer.fit(WithProbe(), *loaders())
    return trainer


def weights(trainer: lightning.Trainer) -> list[Tensor]:
    return [each.detach().clone() for each in trainer.lightning_module.parameters()]


def test_everything_arrives_in_the_run_folder(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, name="tb", version=""), CSVLogger(tmp_path, "csv")]
    fit(tmp_path, [Amnesia(every_n_epochs=2, weeks=2)], logger=loggers, log_every_n_steps=1)
    folder = tmp_path / "tb"
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()
    scalars = {tag for tag in events.Tags()["scalars"] if tag.startswith("amnesia/")}
    numbers = ("decades", "memory_steps", "memory_hours")
    expected = {f"amnesia/{c}/decades" for c in ("apnea", "diabetes")}
    expected |= {
        f"amnesia/{c}/{a}/{n}" for c in ("apnea", "diabetes") for a in ("midpoint", "last", "score") for n in numbers
    }
    assert scalars == expected
    # At the start, after the second of three epochs, and after the last.
    assert [event.step for event in events.Scalars("amnesia/apnea/decades")] == [0, 6, 9]
    main = [event.value for event in events.Scalars("amnesia/apnea/midpoint/decades")]
    assert main == [event.value for event in events.Scalars("amnesia/apnea/decades")]
    images = {"amnesia/profile", "amnesia/profile/last", "amnesia/profile/score"}
    assert set(events.Tags()["images"]) == images
    assert [event.step for event in events.Images("amnesia/profile")] == [0, 6, 9]
    table = events.Tensors("findings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "apnea/midpoint" in table
    found = read_jsonl(folder / "findings.jsonl")
    assert len(found) == 3 * 6
    assert {each.step for each in found} == {0, 6, 9}
    assert "amnesia/apnea/decades" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    kept = load_npz(folder / "amnesia.npz")
    halves = [sorted(Weeks().lengths[part].tolist(), reverse=True)[:2] for part in (slice(0, 4), slice(4, 8))]
    assert set(kept) == {"initial", "now"}
    assert kept["now"].lengths.tolist() == max(halves, key=sum)
    assert not np.array_equal(kept["initial"].at("midpoint").signed, kept["now"].at("midpoint").signed)
    with np.load(folder / "amnesia.npz", allow_pickle=False) as file:
        assert "now/midpoint/magnitude" in file.files


@pytest.mark.parametrize("make", [lambda: Amnesia(), lambda: Amnesia(dtype="float32", anchors=["last"])])
def test_training_is_the_same_bit_for_bit(tmp_path: Path, make: Any) -> None:
    trainer = fit(tmp_path / "with", [make()])
    plain = fit(tmp_path / "without", [])
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), weights(plain), strict=True))
    assert not torch.equal(weights(trainer)[0], WithProbe().network.convolutions[0].weight)


@pytest.mark.parametrize("validate", [True, False])
def test_a_foreign_module_trains_the_same_too(tmp_path: Path, validate: bool) -> None:
    ends = []
    for callbacks in ([Amnesia()], []):
        torch.manual_seed(0)
        trainer = trainer_of(tmp_path, callbacks)
        module = Foreign()
        trainer.fit(module, pairs(), pairs(shuffle=False) if validate else None)
        ends.append([*weights(trainer), torch.rand(1)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    found = read_jsonl(tmp_path / "findings.jsonl")
    assert {each.where for each in found} == {"output_0/score"}
    assert all(each.try_ == () for each in found)


def test_an_adapter_of_a_few_lines(tmp_path: Path) -> None:
    class TwoNumbers(Foreign):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            out, state = self.rnn(x)
            return out, state

        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            return (self(batch[0])[0] ** 2).mean()

    trainer_of(tmp_path / "guessed", [Amnesia()]).fit(TwoNumbers(), pairs())
    (found,) = read_jsonl(tmp_path / "guessed" / "findings.jsonl")
    assert (found.status, found.where) == ("warn", "network")
    assert re.search(r"not measured: .*returned tuple.*probe=", found.message)
    callback = Amnesia(
        probe=lambda module, batch: adapt(
            module, batch[0], outputs=("a", "b", "c", "d"), logits=lambda out: Logits(out[0], out[1][0][-1])
        )
    )
    trainer_of(tmp_path, [callback], max_epochs=1).fit(TwoNumbers(), pairs())
    assert {each.where for each in read_jsonl(tmp_path / "findings.jsonl")} == {
        f"{output}/{anchor}" for output in "abcd" for anchor in ("midpoint", "last", "score")
    }


def test_dict_batches_are_guessed(tmp_path: Path) -> None:
    class Dicts(Foreign):
        def training_step(self, batch: Any, index: int) -> Tensor:
            del index
            return (self(batch["inputs"]) ** 2).mean()

    trainer_of(tmp_path, [Amnesia()], max_epochs=1).fit(Dicts(), loaders()[0])
    assert len(load_npz(tmp_path / "amnesia.npz")["now"].lengths) == 1


def test_resuming_keeps_the_initial_curve(tmp_path: Path) -> None:
    trainer = fit(tmp_path / "a", [Amnesia()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    first = load_npz(tmp_path / "a" / "amnesia.npz")["initial"].at("midpoint").signed
    torch.manual_seed(7)
    resumed = Amnesia()
    trainer = trainer_of(tmp_path / "b", [resumed], max_epochs=2)
    trainer.fit(WithProbe(), *loaders(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    np.testing.assert_array_equal(load_npz(tmp_path / "b" / "amnesia.npz")["initial"].at("midpoint").signed, first)
    assert resumed.initial_step == 0
    assert {each.step for each in read_jsonl(tmp_path / "b" / "findings.jsonl")} == {6}


def test_a_second_fit_starts_anew(tmp_path: Path) -> None:
    callback = Amnesia()
    for seed in (0, 1):
        torch.manual_seed(seed)
        trainer_of(tmp_path / str(seed), [callback], max_epochs=1).fit(WithProbe(), *loaders())
    first, second = (load_npz(tmp_path / str(seed) / "amnesia.npz")["initial"].at("last").signed for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, [Amnesia()], fast_dev_run=True)
    assert list(tmp_path.rglob("*.*")) == []


def test_with_the_sixteen_bit_trainer_and_stopping_in_the_middle(tmp_path: Path) -> None:
    fit(tmp_path, [Amnesia()], precision="bf16-mixed", max_steps=2, max_epochs=-1)
    steps = [json.loads(line)["step"] for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [0, 2]


def test_a_second_process_waits_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", property(lambda _: False))
    fit(tmp_path, [Amnesia()], max_epochs=1)
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    script = f"""
import torch
from test_amnesia_callback import Amnesia, Foreign, pairs, trainer_of
if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = trainer_of({str(tmp_path)!r}, [Amnesia()], devices=2, strategy="ddp_spawn", max_epochs=1)
    trainer.fit(Foreign(), pairs(16), pairs(16, shuffle=False))
"""
    (tmp_path / "script.py").write_text(script)
    tests = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=paths, check=True, timeout=120, capture_output=True)
    assert [each.step for each in read_jsonl(tmp_path / "findings.jsonl")] == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs=0: must be at least 1"),
        ({"weeks": 0}, "weeks=0"),
        ({"anchors": ["mid_point"]}, "Did you mean 'midpoint'"),
        ({"dtype": "float46"}, "Did you mean 'float64'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(HeartnetError, match=words):
        Amnesia(**arguments)


# The weeks


def probe_of_batch(batch: Any) -> Probe:
    lengths = batch["lengths"]
    return Probe(nn.Identity(), batch["inputs"], (lengths,), lengths, ("a",), ("x", "y"))


def test_the_longest_weeks_are_chosen_without_moving_the_loader() -> None:
    class Items(Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            torch.rand(1)
            length = torch.tensor((index * 7) % 20 + 1)
            return {"inputs": torch.full((20, 2), float(index)), "lengths": length}

    loader = DataLoader(Items(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state(), loader.generator.get_state()
    probe = fixed_weeks(loader, probe_of_batch, 3, 64)
    assert probe.lengths.tolist() == [20, 19, 18]
    assert probe.inputs[:, 0, 0].tolist() == [17.0, 14.0, 11.0]
    assert fixed_weeks(loader, probe_of_batch, 3, 10).lengths.max() < 20
    after = torch.get_rng_state(), loader.generator.get_state()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_iterable_loaders_and_empty_ones() -> None:
    batch = Weeks()[[0, 1, 2]]
    probe = fixed_weeks([batch, batch], probe_of_batch, 2, 64)
    assert probe.lengths.tolist() == sorted(batch["lengths"].tolist(), reverse=True)[:2]
    with pytest.raises(HeartnetError, match="the loader is empty"):
        fixed_weeks([], probe_of_batch, 2, 64)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_picture_says_whether_weeks_are_simulated(
    tmp_path: Path, simulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = faults.training("deepheart", 0)
    kind = "simulated" if simulated else "prepared"
    made.data.weeks = replace(made.data.weeks, provenance={"kind": kind})
    seen: list[bool] = []

    def drawn(*_: Any, **about: Any) -> Figure:
        seen.append(about["simulated"])
        return Figure(figsize=(1, 1), dpi=20)

    monkeypatch.setattr("callbacks.amnesia.amnesia_figure", drawn)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    made.fit(tmp_path, [Amnesia(every_n_epochs=1)], max_epochs=1, logger=logger)
    assert seen == [simulated] * 4  # at the start the main anchor, at the end all three
