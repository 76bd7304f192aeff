"""The callback training_health in 16 bits, compiled as a whole, and over several processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import Training, trouble, wheres
from pytorch_lightning.plugins.precision import MixedPrecision
from test_health_foreign import Foreign, sequences
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.training_health import TrainingHealth
from heartnet.findings import read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*no val split.*"),
    pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # of torch.compile
]


# Places that are hard to name


def test_sixteen_bit_with_a_scaler(tmp_path: Path) -> None:
    """Gradients that overflow while the scaler looks for its scale are no finding; a NaN in the loss is."""

    class Late(Foreign):
        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = super().training_step(batch, index)
            return loss * torch.nan if self.trainer.global_step == 30 else loss

    def plugin() -> Any:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**24))

    callback = TrainingHealth()
    loader = sequences()
    Training("foreign", Foreign(), (loader,), {"plugins": [plugin()]}).fit(tmp_path / "a", [callback])
    assert wheres(tmp_path / "a") == []
    assert callback.health is not None
    assert all(0 < each < 3 for each in callback.health.losses.values)
    assert max(look.gradients["head"] for look in list(callback.health.looks)[-1:]) < 10
    Training("foreign", Late(), (loader,), {"plugins": [plugin()], "max_epochs": 9}).fit(
        tmp_path / "b", [TrainingHealth()]
    )
    assert wheres(tmp_path / "b") == ["loss/finite"]


SCRIPT = """
import torch
from test_health_ways import Foreign, TrainingHealth, sequences
from torch.utils.data import DataLoader
import pytorch_lightning as lightning

class Spoilt(Foreign):
    def training_step(self, batch, index):
        if {spoilt} and self.global_rank == 1 and self.trainer.global_step == 5:
            batch["x"][2, 3] = torch.nan
        return super().training_step(batch, index)

if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = lightning.Trainer(default_root_dir={folder!r}, callbacks=[TrainingHealth()], devices=2,
        strategy="ddp_spawn", max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Spoilt(), DataLoader(sequences().dataset, batch_size=8))
"""


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", [False, True])
def test_two_processes(tmp_path: Path, spoilt: bool) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(tmp_path), spoilt=spoilt))
    tests = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=paths, check=True, timeout=120, capture_output=True)
    assert read_jsonl(tmp_path / "findings.jsonl")
    assert wheres(tmp_path) == (["frozen/finite"] if spoilt else [])
    if spoilt:  # the process that had the batch says where it is
        assert "in sample 2 of the batch" in trouble(tmp_path)[0].message
        assert "process 1" in trouble(tmp_path)[0].message


class Mean(lightning.LightningModule):
    """A network that is compiled as a whole."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 1))
        self.network = torch.compile(network, backend=backend)

    def training_step(self, batch: Any, index: int) -> Tensor:
        del index
        x = batch["x"] * (torch.nan if self.trainer.global_step == 20 else 1)
        return F.binary_cross_entropy_with_logits(self.network(x)[:, 0], batch["y"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_network_compiled_as_a_whole(tmp_path: Path, backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    ends = []
    for callbacks in ([TrainingHealth(every_n_steps=3)], []):
        module = Mean(backend)
        Training("foreign", module, (sequences(),), {"max_epochs": 2}).fit(tmp_path / "a", callbacks)
        ends.append([each.detach().clone() for each in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert wheres(tmp_path / "a") == []
    Training("foreign", Mean(backend), (sequences(),), {"max_epochs": 3}).fit(tmp_path / "b", [TrainingHealth()])
    (found,) = trouble(tmp_path / "b")
    assert found.where == "network/finite"  # the copy that the step is done again on is not compiled
    assert found.step == 20
