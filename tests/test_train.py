"""The command `python train.py`: what it writes and where, resuming, seeds, sweeps, interruption, exit statuses."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from callbacks import synthetic_pretraining
from heartnet import folders, pretraining
from heartnet.command_line import PRETRAINING
from heartnet.findings import Finding, append_jsonl, read_jsonl
from heartnet.module import HeartnetModule
from heartnet.status import read_status

REPOSITORY = Path(__file__).resolve().parents[1]

TINY = (
    "data.users=6", "data.weeks_per_user=1", "data.base_rates={diabetes:0.5}", "data.missing_labels=0",
    "task.conditions=[diabetes]", "model=compact", "model.conv_units=4", "model.lstm_units=4", "model.lstm_layers=1",
    "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
)  # fmt: skip

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Run `train.py` in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run_train(*overrides: str, tiny: bool = True) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *(TINY if tiny else ()), *overrides])
        return train.main()

    before = signal.getsignal(signal.SIGINT)
    yield run_train
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from the first Ctrl-C on


def run_folders() -> list[Path]:
    return sorted(path.parent for path in Path("runs").rglob("config.yaml"))


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return found


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged_steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [each.step for each in events.Scalars(tag)]


def status_of(folder: Path) -> tuple[str, str]:
    status = read_status(folder)
    assert status is not None
    return status.state, status.message


def test_a_run_keeps_everything_in_its_folder(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("+callbacks=amnesia", "callbacks.amnesia.every_n_epochs=2", "callbacks.amnesia.dtype=float32") == 0
    (folder,) = run_folders()
    assert [path.name for path in Path().iterdir()] == ["runs"]
    names = {path.name.partition(".out.")[0] for path in folder.iterdir()}
    always = {"config.yaml", "status.json", "events", "checkpoints", "findings.jsonl", "predictions.parquet"}
    always |= {"report.html", "tested.json"}
    assert always <= names
    assert names <= always | {
        "amnesia.npz", "hparams.yaml", "predictions_ceiling.parquet"
    }  # fmt: skip
    config = OmegaConf.load(folder / "config.yaml")
    assert config.callbacks.amnesia.every_n_epochs == 2
    assert config.model.conv_units == 4
    assert config.model.readout == "mean"
    assert config.seed == 0
    assert "${" not in (folder / "config.yaml").read_text()
    assert (folder / "config.yaml").read_text().startswith("# python train.py data.users=6")
    output = capsys.readouterr()
    assert "Everything is in runs/" in output.out
    assert "SIMULATED" in output.out
    assert "amnesia, diabetes" in output.out
    assert "deprecated" not in output.out + output.err
    assert max(map(len, output.out.splitlines())) <= 120
    assert "network" in pl.read_parquet(folder / "predictions.parquet")["model"].to_list()
    head = next(line for line in output.out.splitlines() if "AUROC (AP)" in line)
    assert head.split()[-2:] == ["network", "ceiling"]
    assert "such weeks one expects 0." in output.out


def test_seeds(run: Run) -> None:
    for seed in ("0", "0", "1"):
        assert run(f"seed={seed}", "test=false", f"hydra.run.dir=run-{len(list(Path().iterdir()))}") == 0
    assert same_weights(Path("run-0"), Path("run-1"))
    assert not same_weights(Path("run-0"), Path("run-2"))


def test_no_seed_draws_one_and_resuming_keeps_it(run: Run) -> None:
    assert run("seed=null", "test=false", "hydra.run.dir=one") == 0
    seed = OmegaConf.load("one/config.yaml").seed
    assert isinstance(seed, int)
    assert run(f"seed={seed}", "test=false", "hydra.run.dir=two") == 0
    assert same_weights(Path("one"), Path("two"))
    assert run("seed=null", "test=false", "ckpt_path=one/checkpoints/last.ckpt") == 0
    assert OmegaConf.load("one/config.yaml").seed == seed


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (
        "trainer.max_epochs=2", "+callbacks=amnesia", "callbacks.amnesia.dtype=float32",
        "callbacks.amnesia.anchors=[score]", "model.dropout=0.5", "test=false",
    )  # fmt: skip
    assert run(*overrides, "hydra.run.dir=whole") == 0

    step = HeartnetModule.training_step

    def interrupted(self: HeartnetModule, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(HeartnetModule, "training_step", interrupted)
        capsys.readouterr()
        assert run(*overrides) == 130
    (folder,) = (path for path in run_folders() if path != Path("whole"))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert f"ckpt_path={folder}/checkpoints/last.ckpt" in said
    assert "model.dropout=0.5" in said
    assert status_of(folder) == ("interrupted", said.strip().partition(". ")[2])
    assert f"{folder}/checkpoints/last.ckpt" in (folder / "report.html").read_text(encoding="utf-8")
    findings = len(read_jsonl(folder / "findings.jsonl"))
    steps = logged_steps(folder, "train/loss")
    assert len(steps) == len(logged_steps(Path("whole"), "train/loss")) // 2 + 1  # up to the interruption

    command = shlex.split(said.strip().partition("To go on: ")[2])
    assert command[:2] == ["python", "train.py"]
    assert run(*command[2:], tiny=False) == 0
    assert run_folders() == [folder]
    assert status_of(folder) == ("finished", "")
    assert same_weights(folder, Path("whole"))
    assert len(read_jsonl(folder / "findings.jsonl")) > findings
    assert len(logged_steps(folder, "train/loss")) > len(steps)
    assert read_jsonl(folder / "findings.jsonl")[-1] == read_jsonl(Path("whole/findings.jsonl"))[-1]


def test_an_interrupted_pretraining_goes_on_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PRETRAINING == synthetic_pretraining.FILE
    overrides = (
        "+callbacks=synthetic_pretraining", "callbacks.synthetic_pretraining.objective=autoencoder",
        "callbacks.synthetic_pretraining.max_epochs=3", "test=false", "seed=null",
    )  # fmt: skip
    looks, evaluate = iter(range(100)), pretraining.evaluate

    def interrupted(*args: Any) -> Any:
        if next(looks) == 1:
            raise KeyboardInterrupt
        return evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "evaluate", interrupted)
        assert run(*overrides) == 130
    (folder,) = run_folders()
    said = capsys.readouterr().err
    assert f"ckpt_path={folder}/checkpoints/pretraining.ckpt" in said
    assert run(f"ckpt_path={folder}/checkpoints/pretraining.ckpt") == 2
    assert "needs +callbacks=synthetic_pretraining" in capsys.readouterr().err
    assert run(*shlex.split(said.strip().partition("To go on: ")[2])[2:], tiny=False) == 0
    assert run_folders() == [folder]
    assert "going on after epoch 1" in capsys.readouterr().out
    seed = OmegaConf.load(folder / "config.yaml").seed
    assert run(*overrides, f"seed={seed}", "hydra.run.dir=whole") == 0
    assert same_weights(folder, Path("whole"))
    # What has been trained since is not pretrained again.
    capsys.readouterr()
    assert run(*overrides, f"ckpt_path={folder}/checkpoints/last.ckpt", "trainer.max_epochs=2") == 0
    assert "Pretrained" not in capsys.readouterr().out


def test_a_run_that_fails_says_why_on_its_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no <such> thing")

    monkeypatch.setattr(HeartnetModule, "on_validation_epoch_end", fail)
    with pytest.raises(RuntimeError, match="no <such> thing"):
        run()
    (folder,) = run_folders()
    assert status_of(folder) == ("failed", "RuntimeError: no <such> thing")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "no &lt;such&gt; thing" in page
    assert "train/loss" in page


def test_the_last_checkpoint_is_the_newest_whatever_the_validation_says(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = iter(range(100))

    def validate(self: HeartnetModule, batch: Any, batch_idx: int) -> None:
        del batch, batch_idx
        self.log("val/loss", float(next(worse)), batch_size=1)

    monkeypatch.setattr(HeartnetModule, "validation_step", validate)
    monkeypatch.setattr(HeartnetModule, "on_validation_epoch_end", lambda _: None)
    assert run("trainer.max_epochs=3", "test=false", "hydra.run.dir=one") == 0
    epochs = {path.name: torch.load(path, weights_only=True)["epoch"] for path in Path("one/checkpoints").iterdir()}
    assert epochs == {"epoch-0.ckpt": 0, "last.ckpt": 2}


def test_scores_of_a_run_in_the_folder_before_are_not_mixed_in(run: Run) -> None:
    assert run("+callbacks=baseline", "hydra.run.dir=one") == 0
    assert len(list(Path("one").glob("predictions*"))) == 3
    others = [override for override in TINY if not override.startswith("task.")]
    assert run(*others, "task=synthetic", "hydra.run.dir=one", tiny=False) == 0
    assert [path.name for path in Path("one").glob("predictions*")] == ["predictions.parquet"]


def test_a_profiler_reports_if_one_is_asked_for(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert run("+trainer.profiler=simple") == 0
    assert "FIT Profiler Report" in caplog.text
    assert "run_training_epoch" in caplog.text


def test_another_model_does_not_resume(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test=false", "hydra.run.dir=one") == 0
    before = {path: path.read_bytes() for path in Path("one").rglob("*") if path.is_file()}
    assert run("model.conv_units=5", "ckpt_path=one/checkpoints/last.ckpt") == 2
    assert "the checkpoint's arguments" in capsys.readouterr().err
    Path("one/checkpoints/broken.ckpt").write_bytes(b"no")
    assert run("ckpt_path=one/checkpoints/broken.ckpt") == 2
    assert "broken.ckpt" in capsys.readouterr().err
    Path("one/checkpoints/broken.ckpt").unlink()
    assert {path: path.read_bytes() for path in Path("one").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("fail_on", "worst", "status"),
    [("null", "fail", 0), ("warn", "warn", 1), ("warn", "pass", 0), ("fail", "warn", 0), ("fail", "fail", 1)],
)
def test_findings_count_where_they_are_asked_to(
    run: Run, monkeypatch: pytest.MonkeyPatch, fail_on: str, worst: Any, status: int
) -> None:
    def only_a_finding(config: Any, folder: Path, *_: Any) -> None:
        del config
        append_jsonl([Finding("check", worst, "here", 2.0, 1.0, "", "It is bad.")], folder / "findings.jsonl")

    monkeypatch.setattr(train, "fit_and_test", only_a_finding)
    assert run(f"fail_on={fail_on}", "test=false") == status


def test_a_sweep_has_a_folder_for_each_run_below_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", "model.readout=mean,lsat,last", "test=false") == 2
    found = run_folders()
    assert [path.name for path in found] == ["0", "2"]
    assert found[0].parent == found[1].parent
    assert [OmegaConf.load(path / "config.yaml").model.readout for path in found] == ["mean", "last"]
    assert sorted(path.name for path in found[0].parent.iterdir()) == ["0", "2", "multirun.yaml"]
    output = capsys.readouterr()
    assert "model.readout=lsat: must be mean, last" in output.err
    assert "Run 2: " in output.out


@pytest.mark.parametrize("override", ["trainer.devices=2", "trainer.devices=auto", "ckpt_path=last.ckpt"])
def test_what_cannot_be_swept(run: Run, capsys: pytest.CaptureFixture[str], override: str) -> None:
    assert run("-m", "model.readout=mean,last", override) == 2
    assert "sweep (-m)" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_cross_validation_scores_all_folds_together(run: Run) -> None:
    assert run("cross_validate=true", "data.folds=2", "data.val_share=0", "checkpoint.monitor=null") == 0
    (folder,) = run_folders()
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "status.json", "report.html", "predictions.parquet", "fold-0", "fold-1"
    }  # fmt: skip
    people = pl.read_parquet(folder / "predictions.parquet")["user_id"]
    assert people.n_unique() == len(people) == 6


def test_an_interrupt_before_the_first_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "build", interrupt)
    assert run() == 130
    assert "no checkpoint yet" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_a_full_disk_is_a_message(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "runs/checkpoints/last.ckpt")

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", full)
    assert run("test=false") == 2
    assert "runs/checkpoints/last.ckpt: No space left on device" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_message(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert run("hydra.run.dir=file/run") == 2
    assert "file/run: Not a directory" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "build", wrong)
    with pytest.raises(ZeroDivisionError):
        run()


def test_two_runs_in_one_second_get_two_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = {folders.new_run_folder() for _ in range(20)}
    assert len(names) == 20
    assert folders.new_run_folder("a/checkpoints/last.ckpt") == str(tmp_path / "a")
    Path(sorted(names)[0], "config.yaml").write_text("")
    folders.remove_empty_folders()
    assert [str(path) for path in Path().rglob("*") if path.is_dir() and path.parent.parent.name == "runs"] == [
        sorted(names)[0]
    ]


def shell(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_help_and_configuration_need_no_torch(tmp_path: Path) -> None:
    said = shell(tmp_path, "--help")
    assert said.returncode == 0
    assert said.stderr == ""
    for expected in ("+callbacks=amnesia", "model: compact, deepheart", "readout: mean", "hydra.run.dir=FOLDER"):
        assert expected in said.stdout
    groups = ("architecture: ", "callbacks: ", "experiment: ")  # their lists are longer than a line
    assert max(len(line) for line in said.stdout.splitlines() if not line.startswith(groups)) <= 80
    told = shell(tmp_path, "--cfg", "job", "model=compact", "+callbacks=all")
    assert told.returncode == 0
    assert set(OmegaConf.create(told.stdout).callbacks) >= {"amnesia", "baseline"}
    code = "import sys, train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_from_another_directory_with_readable_output(tmp_path: Path) -> None:
    arguments = [argument for argument in TINY if "progress" not in argument]
    said = shell(tmp_path, *arguments, "+callbacks=all", "callbacks.amnesia.anchors=[score]")
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    assert "\x1b" not in said.stdout
    assert "val/loss" in said.stdout
    lines = [line for line in said.stdout.splitlines() if "tensorboard" not in line]
    assert max(map(len, lines)) <= 80
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert np.isfinite(logged_steps(next((tmp_path / "runs").glob("*/*")), "train/loss")).all()


@pytest.mark.slow
def test_control_c_in_a_terminal(tmp_path: Path) -> None:
    arguments = [*TINY, "trainer.max_epochs=10000", "hydra.run.dir=run", "test=false"]
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "run/checkpoints/last.ckpt").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ckpt_path=run/checkpoints/last.ckpt" in said
    assert "Traceback" not in said


def test_going_on_with_fewer_epochs_than_are_done_leaves_the_run_as_it_was(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(f"hydra.run.dir={folder}", "trainer.max_epochs=2") == 0
    before = {name: (folder / name).read_bytes() for name in ("config.yaml", "status.json")}
    capsys.readouterr()
    assert run(f"ckpt_path={folder}/checkpoints/last.ckpt", "trainer.max_epochs=1") == 2
    assert "2 epochs are done, and trainer.max_epochs=1; to train on" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in before} == before
