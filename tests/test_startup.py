"""What `train.py` and `heartnet` answer without training, they answer without what training needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "pytorch_lightning", "torchmetrics", "sklearn", "scipy", "matplotlib", "tensorboard", "polars")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("train", ["--help"]), ("train", ["--cfg", "job"]),
        ("train", ["--cfg", "job", "model=compact", "+callbacks=all"]), ("heartnet.cli", ["--help"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)  # fmt: skip
def test_help_and_configuration_import_nothing_heavy(module: str, words: list[str]) -> None:
    program = (
        "import importlib, sys\n"
        f"sys.argv = ['it', *{words!r}]\n"
        f"try:\n    importlib.import_module({module!r}).main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_what_cannot_work_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """Polars takes a tenth of a second, TensorBoard's file format less; PyTorch with Lightning takes three."""
    heavy = [name for name in HEAVY if name not in ("polars", "tensorboard")]
    (tmp_path / "text.md").write_text("no checkpoint")
    run, empty = tmp_path / "run", tmp_path / "empty"
    (run / "checkpoints").mkdir(parents=True)
    empty.mkdir()
    with zipfile.ZipFile(run / "checkpoints/last.ckpt", "w"):
        pass  # would only be opened later
    (run / "config.yaml").write_text("# python train.py\nseed: 1\n")
    table = {"model": "network", "user_id": ["a", "b"], "start": datetime(2020, 1, 6), "week": [0, 1]}
    pl.DataFrame({**table, "target": "diabetes", "value": [0.0, 1.0], "score": [0.2, 0.7]}).write_parquet(
        run / "predictions.parquet"
    )
    refused = [
        ("predict nope store --out x.csv", "nope does not exist"),
        ("predict text.md store --out x.csv", "not a checkpoint"),
        ("predict empty store --out x.csv", "no run of heartnet"),
        ("predict run store --out x.csv", "store does not exist"),
        ("predict run store --out x.txt", "--out x.txt"),
        ("predict run store --out x.csv --by wek", "Did you mean 'week'?"),
        ("predict run store --out x.csv --batch-size 0", "--batch-size 0"),
        ("predict run store --out x.csv --device cuda:x", "--device cuda:x"),
        ("export nope --onnx x.onnx", "nope does not exist"),
        ("export run --onnx x.pt", "--onnx x.pt"),
        ("export run --onnx x.onnx --store store", "store does not exist"),
        ("card nope", "nope does not exist"),
        ("card empty", "no run is in this folder"),
        ("card text.md", "not a checkpoint"),
        ("card run --out run/config.yaml", "no page of heartnet"),
        ("compare nope", "nope does not exist"),
        ("compare empty", "no run is in this folder"),
        ("compare run --to nope", "--to nope: no such row"),
        ("compare run --draws 0", "--draws 0"),
        ("report nope", "nope does not exist"),
        ("describe nope", "nope does not exist"),
    ]
    program = (
        "import contextlib, io, os, sys\n"
        "from heartnet.cli import main\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"for words, told in {refused!r}:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        assert main(words.split()) == 2, words\n"
        "    assert told in said.getvalue(), (words, said.getvalue())\n"
        f"    found = [name for name in {heavy!r} if name in sys.modules]\n"
        "    assert not found, (words, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
