"""What `… | head` reads no more ends quietly, with the status that shells report of other programs."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from heartnet import cli
from heartnet.status import read_status

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = (
    "data.users=6", "data.weeks_per_user=1", "data.base_rates={diabetes:0.5}", "data.missing_labels=0", "threads=1",
    "task.conditions=[diabetes]", "model=compact", "model.conv_units=4", "model.lstm_units=4", "model.lstm_layers=1",
    "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.run.dir=run",
)  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.parametrize(
    "words",
    [["train.py", "--help"], ["train.py", "--cfg", "job"], ["-m", "heartnet.cli", "report", "it"]],
    ids=" ".join,
)
def test_nobody_reads(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it/findings.jsonl").touch()
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        command(*words), cwd=tmp_path, env=ENVIRONMENT, stdout=writes, stderr=subprocess.PIPE, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr.decode()) == (141, "")


def test_a_run_that_nobody_reads_any_more_is_interrupted(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("train.py", *TINY), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as printed, process.stderr as errors:
        while not printed.readline().startswith(b" people"):  # of the table of the data, before training
            pass
        printed.close()
        assert (errors.read().decode(), process.wait()) == ("", 141)
    status = read_status(tmp_path / "run")
    assert status is not None
    assert status.state == "interrupted"
    assert status.message.startswith("Nobody read what it printed.")


def test_without_anything_to_print_to_a_command_works(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it/findings.jsonl").touch()
    line = shlex.join(command("-m", "heartnet.cli", "report", "it"))
    done = subprocess.run(
        ["sh", "-c", f"{line} >&-"], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert (tmp_path / "it/report.html").exists()


def test_another_pipe_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "a process that loads data is gone")

    monkeypatch.setattr("heartnet.cli._report", broken)
    assert cli.main(["report", "it"]) == 2
    assert "a process that loads data is gone" in capfd.readouterr().err


def command(*words: str) -> list[str]:
    return [sys.executable, *(str(REPOSITORY / word) if word == "train.py" else word for word in words)]


def test_who_reads_gets_all(tmp_path: Path) -> None:
    done = subprocess.run(command("train.py", "--help"), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=True)
    assert b"callbacks: " in done.stdout
    assert not done.stderr
