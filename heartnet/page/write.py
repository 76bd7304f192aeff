"""Writes a page, whole or not at all, and never over a file that is none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from heartnet.errors import HeartnetError


def write_page(path: str | Path, text: str, mark: str, option: str, otherwise: str = "") -> None:
    """Write a page to `path`, whole or not at all.

    Args:
        path: where it goes.
        text: the page.
        mark: what each such page has in its second line, so that no other file is ever replaced by one.
        option: the option that names another place, for the message.
        otherwise: what else one can do, for the message.

    Raises:
        HeartnetError: the place cannot be written to, or at it lies something that is no such page.
    """
    path = Path(path)
    check_place(path, mark, option)
    partial: Path | None = None
    try:
        handle, file = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.absolute().parent)
        partial = Path(file)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    except OSError as error:
        raise HeartnetError(
            f"cannot write the page {path}: {error.strerror or error}; {option} FILE puts it elsewhere{otherwise}"
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def check_place(path: Path, mark: str, option: str) -> None:
    """Refuse a place that `write_page` would not write to.

    Raises:
        HeartnetError: its folder is not there, or at it lies something that is no such page.
    """
    if not path.absolute().parent.is_dir():
        raise HeartnetError(f"{option} {path}: the folder {path.absolute().parent} does not exist; create it")
    if path.is_dir():
        raise HeartnetError(f"the page {path} is a folder; {option} FILE names a file, such as {path / 'page.html'}")
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            ours = mark in file.read(len(mark) + 200)
    except OSError as error:
        raise HeartnetError(f"the page {path} cannot be replaced: {error.strerror or error}") from error
    if not ours:
        raise HeartnetError(f"{path} exists and is no page of heartnet; choose another name with {option} FILE")
