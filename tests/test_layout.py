"""Which part may import which, and that the shapes in signatures are checked."""

from __future__ import annotations

import argparse
import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from heartnet.cli import SOURCES
from heartnet.model.lstm import LengthFlipLSTM

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "heartnet").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py"), ROOT / "train.py"])
HYDRA = [ROOT / name for name in ("train.py", "heartnet/command_line.py", "heartnet/explained.py", "heartnet/built.py")]
"""`train.py` and its rooms: nobody else needs Hydra."""


def imports(file: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports anywhere in it."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported(file: Path, package: str) -> list[str]:
    return [name for name in imports(file) if name == package or name.startswith(f"{package}.")]


def test_the_files_are_found() -> None:
    assert len(FILES) > 30
    assert "heartnet.errors.HeartnetError" in imports(ROOT / "heartnet" / "module.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_who_imports_whom(file: Path) -> None:
    place = file.relative_to(ROOT).parts[0]
    if file not in HYDRA:
        assert not imported(file, "hydra") + imported(file, "omegaconf") + imported(file, "train")
        assert not [room for room in HYDRA[1:] if imported(file, f"heartnet.{room.stem}")]
    if place == "heartnet":
        assert not imported(file, "callbacks")
    if place == "callbacks":
        assert not imported(file, "callbacks"), "callbacks never import one another"


def test_networks_and_measurements_know_nothing_of_training() -> None:
    training = ("pytorch_lightning", "lightning", "heartnet.module", "heartnet.datamodule", "heartnet.store")
    for file in FILES:
        if {"model", "diagnostics"} & set(file.relative_to(ROOT).parts):
            assert not [name for package in training for name in imported(file, package)], file


def test_shapes_are_checked_while_testing() -> None:
    lstm = LengthFlipLSTM(3, 4, 1)
    with pytest.raises(jaxtyping.TypeCheckError, match="lengths"):
        lstm(torch.zeros(5, 2, 3), torch.tensor([5, 4, 3]))


def test_every_source_is_one_file_and_one_line() -> None:
    """A module with `read` is listed in the command, and what is listed can be read."""
    folder = ROOT / "heartnet" / "sources"
    modules = {f.stem.replace("_", "-") for f in folder.glob("*.py") if "\ndef read(arguments" in f.read_text("utf-8")}
    assert modules == set(SOURCES)
    for name in SOURCES:
        parser = argparse.ArgumentParser(add_help=False)
        module = importlib.import_module(f"heartnet.sources.{name.replace('-', '_')}")
        module.add_arguments(parser)
        assert "files" in {action.dest for action in parser._actions}
        assert len((module.__doc__ or "").split()) > 50, f"{name} does not say what its format is"
