"""Finds the columns that options name, `COL` or `FILE:COL`, or that have a usual name, in the files of an import."""

from __future__ import annotations

import re
from collections.abc import Sequence

from heartnet.errors import HeartnetError, did_you_mean
from heartnet.sources.files import TableFile

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "time": ("time", "timestamp", "datetime", "date_time", "start", "start_time", "activityminute"),
    "heart_rate": ("heart_rate", "heartrate", "hr", "bpm", "pulse"),
    "steps": ("steps", "step_count", "stepcount"),
    "user_id": ("user_id", "userid", "user", "id", "subject", "subject_id", "participant", "participant_id"),
    "age": ("age", "age_years"),
    "sex": ("sex", "gender"),
    "bmi": ("bmi", "body_mass_index"),
    "device": ("device", "device_model"),
    "interval_start": ("interval_start", "start", "start_time", "start_seconds", "begin", "onset"),
    "interval_end": ("interval_end", "end", "end_time", "end_seconds", "stop"),
}
"""Names by which a column is found when no option names it; case, blanks, `_` and `-` do not matter."""


def find_column(role: str, wanted: Sequence[str], file: TableFile, files: Sequence[TableFile]) -> str | None:
    """Return the column of `file` for a role, None if the options or the usual names give it none."""
    found: list[str] = []
    for item in wanted:
        only, column = split_file(item, files)
        if only is file:
            return file.find(column, option(role))
        if only is None and file.columns_like(column):
            found.append(file.find(column, option(role)))
    if len(set(found)) > 1:
        raise HeartnetError(f"{file.name} has several columns for {option(role)}: {', '.join(found)}; name one of them")
    if found or wanted:
        return found[0] if found else None
    plain = {re.sub(r"[ _-]", "", column.lower()): column for column in reversed(file.columns)}
    usual = (re.sub(r"[ _-]", "", name) for name in USUAL_NAMES.get(role, ()))
    name = next((plain[name] for name in usual if name in plain), None)
    return None if name is None else file.find(name, option(role))


def find_time(file: TableFile, files: Sequence[TableFile], wanted: Sequence[str], name: str = "--time") -> list[str]:
    """Return the columns that make up the time: one, or those of `COL1+COL2`; `name` is the option that says which.

    Raises:
        HeartnetError: if neither the options nor the usual names give any.
    """
    for item in wanted:
        only, text = split_file(item, files)
        parts = [text] if file.columns_like(text) else text.split("+")
        if only is file or (only is None and all(file.columns_like(part) for part in parts)):
            return [file.find(part, name) for part in parts]
    column = None if wanted else find_column("time", (), file, files)
    if column is None:
        raise HeartnetError(
            f"{file.name} has no column of times{f' as named by {name}' if wanted else ' under a known name'}; name it "
            f"with {name} COL, or two of them with {name} DATE+CLOCK; repeat {name} where files differ. {listing(file)}"
        )
    return [column]


def require_somewhere(wanted: Sequence[str], files: Sequence[TableFile], name: str) -> None:
    """Raise if a column that an option names is in none of the files."""
    for item in wanted:
        only, column = split_file(item, files)
        if only is not None or any(file.columns_like(column) for file in files):
            continue
        parts = column.split("+") if name in ("--time", "--steps-end") else [column]
        for part in parts:
            if not any(file.columns_like(part) for file in files):
                if len(files) == 1:
                    files[0].find(part, name)
                names = {column: None for file in files for column in file.columns}
                raise HeartnetError(
                    f"no file has a column {part!r} ({name}).{did_you_mean(part, names)} "
                    + " ".join(listing(file) for file in files[:5])
                )


def split_file(item: str, files: Sequence[TableFile]) -> tuple[TableFile | None, str]:
    """Split `FILE:COL` if it begins with one of the files; else return None and the whole."""
    for file in files:
        for name in (str(file.path), file.name):
            if item.startswith(f"{name}:"):
                return file, item[len(name) + 1 :]
    return None, item


def listing(file: TableFile) -> str:
    """Return the sentence that lists a file's columns."""
    return f"The columns of {file.name} are {', '.join(repr(column) for column in file.columns)}."


def option(role: str) -> str:
    """Return the option that names the column of a role."""
    return "--" + role.replace("_", "-")
