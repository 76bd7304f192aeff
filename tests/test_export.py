"""`heartnet export`: the file agrees with PyTorch on any batch and length, says what it takes, or is not left there."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
import yaml

import heartnet.export
from heartnet.chosen_checkpoint import choose_checkpoint
from heartnet.cli import main
from heartnet.datamodule import WeeksDataModule
from heartnet.export import TOLERANCE, export
from heartnet.exported import Exported
from heartnet.model import DeepHeart, HourlyCNN
from heartnet.model.two_timescale import TwoTimescale
from heartnet.module import HeartnetModule
from heartnet.network_inputs import seen_of
from heartnet.scaling import metadata_values
from heartnet.store import write_store
from heartnet.tasks import Conditions, Synthetic, Task

onnx = pytest.importorskip("onnx", reason="heartnet export needs onnx and onnxruntime: pip install '.[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="heartnet export needs onnxruntime: pip install '.[export]'")

SMALL: dict[str, Any] = {"conv_units": 4, "lstm_units": 3, "lstm_layers": 2, "longest": 60}
WEEKS = faults.weeks(0, 20)


def checkpoint(
    folder: Path,
    task: Task | None = None,
    *,
    view: Any = "readings",
    mask: bool = False,
    two: bool = False,
    **model: Any,
) -> Path:
    """Write the checkpoint of a network that was not trained, its weights made large enough to say something."""
    data = WeeksDataModule(WEEKS, task or Conditions(), view=view, mask_channel=mask, val_share=0.2, test_share=0.2)
    torch.manual_seed(0)
    sizes = (data.channels, len(data.targets), data.metadata_size)
    network: torch.nn.Module
    if view == "hourly":
        network = HourlyCNN(*sizes, conv_units=4, **model)
    else:
        network = (TwoTimescale if two else DeepHeart)(*sizes, **{**SMALL, **model})
    mean, std = data.target_statistics()
    module = HeartnetModule(
        network, kind=data.task.kind, targets=data.targets, target_mean=mean.tolist(), target_std=std.tolist(),
        scaling=data.scaling.as_dict(),
    )  # fmt: skip
    with torch.no_grad():
        for each in network.parameters():
            each.mul_(3)
    written: dict[str, Any] = {"state_dict": module.state_dict(), "epoch": 0, "callbacks": {}}
    module.on_save_checkpoint(written)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(written, folder / "it.ckpt")
    return folder / "it.ckpt"


def session(file: Path) -> Any:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "last": {"readout": "last", "pool": 2},
    "midpoint": {"readout": "midpoint", "pool": 3, "kernel_sizes": (5, 4)},
    "both_ends": {"readout": "both_ends", "clock": "elapsed"},
    "metadata": {"metadata": "lstm_state", "pool": 2, "clock": "elapsed"},
    "masked": {"mask": True, "activation": "gelu"},
    "late_fusion": {"metadata": "late_fusion"},
    "only_metadata": {"metadata": "only", "pool": 2},
    "two_timescale": {"two": True, "pool": 1},
    "two_timescale_pooled": {"two": True, "pool": 2, "readout": "both_ends", "clock": "elapsed", "mask": True},
    "two_timescale_metadata": {"two": True, "pool": 3, "readout": "last", "metadata": "lstm_state"},
    "hourly": {"view": "hourly"},
    "hourly_metadata": {"view": "hourly", "metadata": "logit", "pool": 3},
    "synthetic": {"task": Synthetic(("total_steps", "mean_difference_30_min"))},
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_pytorch(tmp_path: Path, case: str) -> None:
    chosen = choose_checkpoint(checkpoint(tmp_path, **CASES[case]))
    found = export(chosen, tmp_path / "it.onnx", WEEKS)
    assert found.difference <= TOLERANCE
    assert found.longest == (168 if "hourly" in case else int(np.diff(WEEKS.offsets).max()))
    assert found.shortest == 1
    # Against the data module's own batch, which knows nothing of the export.
    data = WeeksDataModule(
        WEEKS, CASES[case].get("task") or Conditions(), view=chosen.view, mask_channel=chosen.mask_channel,
        val_share=0.2, test_share=0.2,
    )  # fmt: skip
    rows = np.array([3, 17, 8])
    with torch.inference_mode():
        expected = chosen.module.predict_step(data.batch(rows), 0)
    network = Exported(chosen).eval()
    arrays = network.examples(
        [seen_of(WEEKS, int(row), chosen.view) for row in rows], metadata_values(WEEKS.table[rows])
    )
    assert network.takes_metadata == ("metadata" in case or case == "late_fusion")
    loaded = session(tmp_path / "it.onnx")
    names = [each.name for each in loaded.get_inputs()]
    assert names == ["readings", "lengths", "metadata"][: len(arrays)]
    scores, logits = loaded.run(["scores", "logits"], dict(zip(names, arrays, strict=True)))
    spread = chosen.module.target_std.numpy() if case == "synthetic" else 1.0
    np.testing.assert_allclose(scores / spread, expected["scores"].numpy() / spread, atol=1e-5)
    np.testing.assert_allclose(logits, expected["logits"].numpy(), atol=1e-4)
    # What lies beyond a week is not looked at, whatever it is.
    readings = arrays[0].copy()
    for i, length in enumerate(arrays[1]):
        readings[i, length:] = 1e6
    again = loaded.run(["scores"], dict(zip(names, (readings, *arrays[1:]), strict=True)))[0]
    np.testing.assert_allclose(again / spread, scores / spread, atol=1e-6)


@pytest.mark.parametrize("two", [False, True])
def test_a_week_of_4096_readings(tmp_path: Path, two: bool) -> None:
    chosen = choose_checkpoint(checkpoint(tmp_path, pool=2, two=two))
    export(chosen, tmp_path / "it.onnx", WEEKS)
    rng = np.random.default_rng(0)
    week = np.stack([rng.normal(70, 10, 4096), rng.poisson(3, 4096), rng.choice([5.0, 60.0, 300.0], 4096)], axis=1)
    network = Exported(chosen).eval()
    weeks = [week[:length].astype(np.float32) for length in (4096, 3001, 512, 64, 7, 2, 1)]
    arrays = network.examples(weeks, np.zeros((len(weeks), 3)))
    [scores] = session(tmp_path / "it.onnx").run(["scores"], {"readings": arrays[0], "lengths": arrays[1]})
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, arrays))[0]
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)


def test_the_command_and_what_stands_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkpoint(tmp_path / "run" / "checkpoints", metadata="lstm_state")
    write_store(WEEKS, tmp_path / "weeks")
    out = tmp_path / "it.onnx"
    words = ["export", str(file), "--onnx", str(out)]
    assert main([*words, "--store", str(tmp_path / "weeks")]) == 0
    printed = capsys.readouterr().out
    for text in ("Agrees with PyTorch to", "8 weeks of", "of 1 to", "natural units", "Not a medical device"):
        assert text in printed
    about = json.loads({each.key: each.value for each in onnx.load(out).metadata_props}["heartnet"])
    assert [each["name"] for each in about["inputs"]["readings"]["channel"]] == ["heart_rate", "steps", "dt"]
    assert [each["unit"] for each in about["inputs"]["metadata"]["field"]] == ["years", "0 female, 1 male", "kg/m²"]
    assert about["outputs"]["scores"]["target"] == ["sleep_apnea", "diabetes"]
    assert about["checkpoint"]["sha256"] == heartnet.tested.file_hash(file)
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    (file.parent.parent / "config.yaml").write_text(yaml.safe_dump({"data": {"path": str(tmp_path / "weeks")}}))
    assert main([*words, "--overwrite"]) == 0
    assert "8 weeks of" in capsys.readouterr().out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.onnx", "run", "weeks"]


def test_weeks_to_compare_on_are_simulated_where_there_are_no_others(tmp_path: Path) -> None:
    chosen = choose_checkpoint(checkpoint(tmp_path))
    weeks, words = heartnet.export.weeks_to_compare(chosen, None)
    assert weeks.simulated
    assert words == "simulated weeks"


def test_a_file_that_does_not_agree_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint(tmp_path)
    write_store(WEEKS, tmp_path / "weeks")
    forward = Exported.forward
    out = tmp_path / "it.onnx"
    out.write_bytes(b"old")
    words = ["export", str(file), "--onnx", str(out), "--store", str(tmp_path / "weeks"), "--overwrite"]
    monkeypatch.setattr(Exported, "forward", lambda *args: (lambda a, b: (a + 2e-4, b))(*forward(*args)))
    assert main(words) == 2
    assert "differ by 0.0002" in capsys.readouterr().err
    assert out.read_bytes() == b"old"
    monkeypatch.setattr(Exported, "forward", forward)
    checkpointed = torch.load(file, weights_only=True)
    checkpointed["state_dict"]["network.head.bias"][:] = torch.nan
    torch.save(checkpointed, file)
    assert main(words) == 2
    assert "differ by nan" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.ckpt", "it.onnx", "weeks"]


def test_a_file_that_does_not_run_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("LSTM node\nmore")

    monkeypatch.setattr(heartnet.export, "_agreement", fails)
    out = tmp_path / "it.onnx"
    assert main(["export", str(checkpoint(tmp_path)), "--onnx", str(out)]) == 2
    assert "does not run, so no file is left: LSTM node. Report it" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--onnx", "it.pt"], "ends in .onnx"),
        (["--onnx", "no/it.onnx"], "does not exist"),
        (["--onnx", "folder.onnx"], "is a folder"),
        (["--onnx", "it.onnx", "--store", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.onnx").mkdir()
    assert main(["export", str(checkpoint(tmp_path)), *words]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("it.onnx").exists()


def test_without_the_libraries_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert main(["export", str(checkpoint(tmp_path)), "--onnx", str(tmp_path / "it.onnx")]) == 2
    assert "pip install" in capsys.readouterr().err


class Touch:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("command", ["export", "predict", "card"])
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    good = checkpoint(tmp_path)
    trace = tmp_path / "trace"
    bad = tmp_path / "bad.ckpt"
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(bad, "w") as other:
        for name in archive.namelist():
            data = pickle.dumps(Touch(trace)) if name.endswith("data.pkl") else archive.read(name)
            other.writestr(name, data)
    write_store(WEEKS, tmp_path / "weeks")
    words = {
        "export": ["--onnx", str(tmp_path / "it.onnx")],
        "predict": [str(tmp_path / "weeks"), "--out", str(tmp_path / "it.parquet")],
        "card": ["--out", str(tmp_path / "card.md")],
    }[command]
    assert main([command, str(bad), *words]) == 2
    assert "not a checkpoint that can be read" in capsys.readouterr().err
    assert not trace.exists()
    torch.load(bad, weights_only=False)  # this is what must not happen
    assert trace.exists()
