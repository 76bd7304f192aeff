"""The folders of runs: a new one for each, none left behind by a run that could not start, and what lies in one."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path

from heartnet.errors import HeartnetError

_made: list[Path] = []


def new_run_folder(ckpt_path: str | None = None) -> str:
    """Return the folder of the run that a checkpoint belongs to, or make `runs/<date>/<time>`.

    The new folder is made at once, so that of two runs that start in the same second only one gets it; the other gets
    a number behind the time.
    """
    if ckpt_path and Path(ckpt_path).resolve().parent.name == "checkpoints":
        return str(Path(ckpt_path).resolve().parent.parent)
    day, time = datetime.now().strftime("%Y-%m-%d %H-%M-%S").split()
    for name in (time, *(f"{time}-{i}" for i in range(2, 1000))):
        folder = Path("runs", day, name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        _made.append(folder.resolve())
        return str(folder)
    raise HeartnetError(f"runs/{day}/{time}: a thousand runs in one second; give each its own hydra.run.dir=…")


def remove_empty_folders() -> None:
    """Remove the folders that `new_run_folder` made and nothing was written to."""
    while _made:
        remove_if_empty(_made.pop())


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing was written, and those above it that only held it, within this directory."""
    here = Path.cwd()
    if folder.is_dir() and [each.name for each in folder.iterdir()] == ["multirun.yaml"]:
        (folder / "multirun.yaml").unlink()  # Hydra's, of a sweep of which no run could start
    for each in (folder, *folder.parents):
        if here not in each.parents or not each.is_dir() or any(each.iterdir()):
            return
        each.rmdir()


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint to resume from, in the folder of a run or of its folds."""
    found = [file for part in parts_of(folder) for file in part.glob("checkpoints/last*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def parts_of(folder: Path) -> list[Path]:
    """Return the folder of a run and those of its folds; other runs may lie in it too, as in that of a sweep."""
    return [folder, *sorted(folder.glob("fold-*"), key=lambda path: (len(path.name), path))]


def checkpoints_of(run: Path) -> list[Path]:
    """Return the newest checkpoints of a run, the newest of them last; a checkpoint itself is the one.

    Raises:
        HeartnetError: there is none, not of one run alone, or the file is no checkpoint.
    """
    if run.is_file():
        if not zipfile.is_zipfile(run):
            raise HeartnetError(f"{run}: not a checkpoint that can be read; a run keeps its own in checkpoints/")
        return [run]
    check_exists(run)
    found = sorted(run.glob("checkpoints/last*.ckpt"), key=lambda path: path.stat().st_mtime)
    if found:
        return found
    if (run / "checkpoints").is_dir():
        raise HeartnetError(f"{run}: no checkpoint last.ckpt; did the run end before its first epoch?")
    if folds := sorted(run.glob("fold-*/checkpoints")):
        raise HeartnetError(f"{run} is a cross-validation, with a network a fold; name one: {folds[0].parent}")
    if runs := sorted(run.glob("*/checkpoints")):
        raise HeartnetError(f"{run} holds several runs, as a sweep does; name one: {runs[0].parent}")
    inside = f"; name the folder that it is in, {run.parent}" if any(run.glob("last*.ckpt")) else ""
    raise HeartnetError(f"{run} holds no checkpoints/, so it is no run of heartnet; a run is in runs/DATE/TIME{inside}")


def check_exists(run: Path) -> None:
    """Refuse a run that is not there.

    Raises:
        HeartnetError: saying what to name.
    """
    if not run.exists():
        raise HeartnetError(f"{run} does not exist; give a run's folder, such as runs/DATE/TIME, or a checkpoint")


def short(path: Path) -> str:
    """Return the path from the working directory, if it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
