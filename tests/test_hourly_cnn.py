"""The network of the hourly view: by hand, blind to padding and neighbours, and through `train.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import train
from heartnet.errors import HeartnetError
from heartnet.findings import read_jsonl
from heartnet.hourly import HOURLY
from heartnet.model import HourlyCNN
from heartnet.module import HeartnetModule, load_checkpoint
from heartnet.predictions import read_predictions

CHANNELS = len(HOURLY) + 1


def test_against_plain_loops() -> None:
    torch.manual_seed(0)
    network = HourlyCNN(outputs=2, conv_units=3, kernel_sizes=(4, 3), metadata_size=2, metadata="logit").double().eval()
    inputs, metadata = torch.randn(1, 11, CHANNELS).double(), torch.randn(1, 2).double()
    hidden = inputs[0].numpy()
    for convolution in network.convolutions:
        weight, bias = (part.detach().numpy() for part in (convolution.weight, convolution.bias))
        size = weight.shape[2]
        padded = np.pad(hidden, [((size - 1) // 2, size // 2), (0, 0)])
        out = np.array([[(padded[t : t + size] * unit.T).sum() for unit in weight] + bias for t in range(len(hidden))])
        out = np.where(out > 0, out, 0.01 * out)
        hidden = np.array([out[t : t + 2].mean(axis=0) for t in range(0, len(out), 2)])
    weight, bias = (part.detach().numpy() for part in (network.head.weight, network.head.bias))
    assert network.metadata_logit is not None
    about = network.metadata_logit.weight.detach().numpy() @ metadata[0].numpy()
    found = network(inputs, torch.tensor([11]), metadata)
    assert found.steps is None
    np.testing.assert_allclose(found.score[0].detach(), weight @ hidden.mean(axis=0) + bias + about, rtol=1e-10)


def test_padding_and_neighbours_change_nothing() -> None:
    torch.manual_seed(0)
    network = HourlyCNN().double().eval()
    inputs = torch.randn(3, 168, CHANNELS).double()
    lengths = torch.tensor([168, 90, 7])
    for row, length in enumerate(lengths):
        inputs[row, length:] = 0
    together = network(inputs, lengths).score
    for row, length in enumerate(lengths):
        alone = network(inputs[row : row + 1, :length], lengths[row : row + 1]).score
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(together[0], together[1])


def test_first_scores_are_near_the_output_bias() -> None:
    network = HourlyCNN(outputs=2).eval()
    network.set_output_bias(torch.tensor([-3.0, 2.0]))
    zero = network(torch.zeros(1, 168, CHANNELS), torch.tensor([168])).score
    torch.testing.assert_close(zero, torch.tensor([[-3.0, 2.0]]), atol=0.5, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 3}, r"reads the 12 channels of the hourly view, and this data has 3; add data\.view=hourly"),
        ({"activation": "rule"}, r"model\.activation=rule: .*'relu'"),
        ({"metadata": "lstm_state"}, r"model\.metadata=lstm_state: not one of none, logit"),
        ({"metadata": "logit"}, r"needs metadata"),
        ({"kernel_sizes": []}, r"model\.kernel_sizes=\[\]"),
        ({"pool": 0}, r"model\.pool=0"),
        ({"dropout": 1.0}, r"model\.dropout"),
    ],
)
def test_arguments_that_cannot_work(values: dict[str, object], message: str) -> None:
    with pytest.raises(HeartnetError, match=message):
        HourlyCNN(**values)  # type: ignore[arg-type]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    GlobalHydra.instance().clear()
    quiet = (f"hydra.run.dir={folder}", "trainer.enable_progress_bar=false", "data.weeks_per_user=1")
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(sys, "argv", ["train.py", *words, *quiet])
    return train.main()


def test_trains_and_resumes_with_its_own_scaling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model=hourly_cnn", "data.view=hourly", "data.users=24"]
    watched = [*words, "+callbacks=[amnesia,baseline]", "callbacks.baseline.features=[metadata,hourly]"]
    assert run(monkeypatch, tmp_path / "run", *watched) == 0
    assert set(read_predictions(tmp_path / "run")["model"]) >= {"network", "metadata", "hourly"}
    found = [each for each in read_jsonl(tmp_path / "run/findings.jsonl") if each.check == "amnesia"]
    assert {finding.where.partition("/")[2] for finding in found} == {"score"}
    last = tmp_path / "run/checkpoints/last.ckpt"
    module = HeartnetModule.from_checkpoint(last)
    assert isinstance(module.network, HourlyCNN)
    assert module.scaling.channels == HOURLY
    assert len(module.scaling.mean) == len(HOURLY)
    assert load_checkpoint(last)["epoch"] == 1
    resumed = [*watched, f"ckpt_path={last}", "trainer.max_epochs=3"]
    monkeypatch.setattr(sys, "argv", ["train.py", *resumed, "trainer.enable_progress_bar=false"])
    GlobalHydra.instance().clear()
    assert train.main() == 0
    assert load_checkpoint(last)["epoch"] == 2
    capsys.readouterr()


def test_the_view_of_another_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "run", "model=hourly_cnn", "data.users=12") == 2
    assert "model=hourly_cnn reads the 12 channels of the hourly view, and this data has 3" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path / "other", "model=compact", "data.view=hourly", "data.users=12") == 0
