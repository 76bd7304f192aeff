"""What commands refuse at once, for places and options that cannot work: importing PyTorch would take seconds."""

from __future__ import annotations

import argparse
from pathlib import Path

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.folders import checkpoints_of
from heartnet.predict_people import asked
from heartnet.prediction_file import ENDINGS
from heartnet.store import read_manifest

DEVICES = ("cpu", "cuda", "mps")
"""Kinds that `--device` names; a number may follow, as in `cuda:1`."""


def check_predict(arguments: argparse.Namespace) -> None:
    """Refuse what `heartnet predict` cannot do.

    Raises:
        HeartnetError: naming the option or the folder.
    """
    check_out("--out", arguments.out, ENDINGS, overwrite=arguments.overwrite)
    asked(arguments.by)
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise HeartnetError(f"--batch-size {arguments.batch_size}: must be at least 1")
    kind, colon, number = arguments.device.partition(":")
    if kind not in DEVICES or (colon and not number.isdigit()):
        raise HeartnetError(
            f"--device {arguments.device}: must be {', '.join(DEVICES)}, or one of several, as cuda:1."
            f"{did_you_mean(kind, DEVICES)}"
        )
    checkpoints_of(arguments.run_folder)
    read_manifest(arguments.store)


def check_export(arguments: argparse.Namespace) -> None:
    """Refuse what `heartnet export` cannot do.

    Raises:
        HeartnetError: naming the option or the folder.
    """
    check_out("--onnx", arguments.onnx, (".onnx",), overwrite=arguments.overwrite)
    checkpoints_of(arguments.run_folder)
    if arguments.store is not None:
        read_manifest(arguments.store)


def check_out(option: str, out: Path, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse a place that a file cannot be written to.

    Raises:
        HeartnetError: its name ends otherwise, its folder is not there, or something else is.
    """
    if out.suffix not in endings:
        raise HeartnetError(f"{option} {out}: give the name of a file that ends in {' or '.join(endings)}")
    if not out.absolute().parent.is_dir():
        raise HeartnetError(f"{option} {out}: the folder {out.absolute().parent} does not exist; create it")
    if out.is_dir():
        raise HeartnetError(f"{option} {out}: is a folder; give the name of a file")
    if out.exists() and not overwrite:
        raise HeartnetError(f"{option} {out}: exists already; choose another name, or replace it with --overwrite")
