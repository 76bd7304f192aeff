"""What `train.py` and `heartnet` answer without training, they answer without what training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
