"""The prepared data set on disk: a folder that is written whole or not at all, and opened memory-mapped.

    weeks/manifest.json     format, version, channels, conditions, counts, provenance, account, checksums
    weeks/readings.npy      float32 [reading, channel]
    weeks/local_time.npy    int64 [reading]
    weeks/offsets.npy       int64 [week + 1]
    weeks/annotation_<name>.npy  uint8 [reading], for example asleep, in_workout
    weeks/table.parquet     one row a week

Nothing in it is pickled. The manifest carries its own checksum and that of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from heartnet.account import Account
from heartnet.conditions import in_order
from heartnet.errors import HeartnetError
from heartnet.weeks import CHANNELS, Weeks

FORMAT = "heartnet weeks"
VERSION = 2
ALWAYS_VERIFIED_BYTES = 64 << 20
"""Stores up to this size are verified whole whenever they are opened."""

_MANIFEST = "manifest.json"
_TABLE = "table.parquet"
_TABLE_COLUMNS = ("user_id", "start", "readings", "wear_hours", "device", "age", "sex", "bmi")


def write_store(weeks: Weeks, path: str | Path, *, account: Account | None = None, overwrite: bool = False) -> None:
    """Write `weeks` to the folder `path`, which appears only once it is whole.

    Args:
        account: kept in the manifest and shown by `heartnet describe`.
        overwrite: replace a store that is already there, after the new one is whole.

    Raises:
        HeartnetError: if there are no weeks, if `path` exists (and is no store, or `overwrite` is not set), if its
            parent does not exist, or if writing fails, for example on a full disk; nothing is left behind then.
    """
    with StoreWriter(path, overwrite=overwrite) as writer:
        writer.append(weeks)
        writer.finish(weeks, account or Account())


class StoreWriter:
    """Writes a store in pieces, as a context: `append` weeks, then `finish`; without `finish` nothing is left behind.

    Raises:
        HeartnetError: as `write_store`, wherever it happens.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        check_target(self.path, overwrite=overwrite)
        self._folder: Path | None = None
        self._arrays: dict[str, _GrowingArray] = {}
        self._tables: list[pl.DataFrame] = []
        self._readings = 0

    @property
    def folder(self) -> Path:
        """The hidden folder beside the store in which it grows, on the same disk."""
        assert self._folder is not None, "a StoreWriter is used in a with statement"
        return self._folder

    def __enter__(self) -> StoreWriter:
        try:
            with self._told():
                # Known before it is there, so that an interruption between the two leaves nothing.
                self._folder = self.path.absolute().with_name(f".{self.path.name}.partial-{secrets.token_hex(8)}")
                self._folder.mkdir()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for array in self._arrays.values():
            array.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, weeks: Weeks) -> None:
        """Add the readings of more weeks, and their rows of the table."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "readings": weeks.readings,
            "local_time": weeks.local_time,
            "offsets": weeks.offsets[1:] + self._readings if self._arrays else weeks.offsets,
            **{f"annotation_{name}": array for name, array in weeks.annotations.items()},
        }
        with self._told():
            for name, array in arrays.items():
                if name not in self._arrays:
                    self._arrays[name] = _GrowingArray(self.folder / f"{name}.npy", array)
                self._arrays[name].append(array)
        self._readings += len(weeks.readings)
        self._tables.append(weeks.table)

    def weeks(self) -> Weeks:
        """Return all weeks so far; their arrays are memory-mapped, and there are no conditions."""
        with self._told():
            arrays = {name: array.mapped() for name, array in self._arrays.items()}
        return Weeks(
            arrays["readings"],
            arrays["local_time"],
            arrays["offsets"],
            pl.concat(self._tables),
            (),
            _annotations(arrays),
        )

    def finish(self, weeks: Weeks, account: Account) -> None:
        """Write the table, conditions and provenance of `weeks`, whose readings were appended, and put all in place."""
        if not self._tables or len(weeks) == 0:
            raise HeartnetError("there are no weeks to write")
        _check_consistent(weeks)
        with self._told():
            files = {f"{name}.npy": array.finish() for name, array in self._arrays.items()}
            _write_table(weeks, self.folder, files, account)
            _put_in_place(self.folder, self.path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HeartnetError(
                f"cannot write {self.path}: {error.strerror or error}. Nothing was left behind"
            ) from error
        except pl.exceptions.PolarsError as error:
            raise HeartnetError(f"cannot write {self.path}: {error}. Nothing was left behind") from error


class _GrowingArray:
    """A .npy file whose first axis grows; NumPy's header leaves room for its length."""

    def __init__(self, path: Path, like: npt.NDArray[Any]) -> None:
        self.path, self.dtype, self.tail = path, like.dtype, like.shape[1:]
        self.length = 0
        self._file = path.open("wb")

    def append(self, array: npt.NDArray[Any]) -> None:
        if self.length == 0:
            self._header()
        if (array.dtype, array.shape[1:]) != (self.dtype, self.tail):
            raise HeartnetError(f"{self.path.stem}: {array.dtype} {array.shape} was added to {self.dtype} {self.tail}")
        if len(array):
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self.length += len(array)

    def mapped(self) -> npt.NDArray[Any]:
        self._header()
        mapped: npt.NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped

    def finish(self) -> dict[str, Any]:
        """Bring the file to the disk and return its entry in the manifest."""
        self._header()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"dtype": self.dtype.str, "shape": [self.length, *self.tail]}

    def close(self) -> None:
        with suppress(OSError):  # nothing of it is kept
            self._file.close()

    def _header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.tail)}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(cast(IO[bytes], SimpleNamespace(write=self._file.write)), header)
        self._file.seek(0, os.SEEK_END)
        self._file.flush()


def open_store(path: str | Path, *, verify: bool = False) -> Weeks:
    """Open a store; its arrays are memory-mapped, read-only.

    The manifest, the sizes and types of all files, and the checksums of the small ones are always checked; those of
    the large arrays if they hold up to `ALWAYS_VERIFIED_BYTES`, or with `verify`.

    Raises:
        HeartnetError: if there is no store, or it is damaged, truncated, of another version or channel order.
    """
    path = Path(path)
    manifest = read_manifest(path)
    _check_sizes(path, manifest)
    large = sum(entry["bytes"] for entry in manifest["files"].values())
    verify = verify or large <= ALWAYS_VERIFIED_BYTES
    _check_sums(path, manifest, [name for name in manifest["files"] if verify or name in ("offsets.npy", _TABLE)])
    arrays = {
        name.removesuffix(".npy"): _open_array(path / name, entry)
        for name, entry in manifest["files"].items()
        if name.endswith(".npy")
    }
    try:
        table = pl.read_parquet(path / _TABLE, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _damaged(path, f"{_TABLE} cannot be read") from error
    weeks = Weeks(
        readings=arrays["readings"],
        local_time=arrays["local_time"],
        offsets=arrays["offsets"],
        table=table,
        conditions=tuple(manifest["conditions"]),
        annotations={
            name.removeprefix("annotation_"): array for name, array in arrays.items() if name.startswith("annotation_")
        },
        provenance=manifest["provenance"],
    )
    try:
        _check_consistent(weeks)
    except HeartnetError as error:
        raise _damaged(path, str(error)) from error
    return weeks


def verify_store(path: str | Path) -> None:
    """Compare every file of a store with its checksum.

    Raises:
        HeartnetError: as `open_store`.
    """
    open_store(path, verify=True)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the checked manifest of a store; `manifest["account"]` is what `Account.from_json` takes.

    Raises:
        HeartnetError: if there is no store at `path`, or its manifest is damaged or of another version.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not a folder of prepared weeks" if path.exists() else "does not exist"
        raise HeartnetError(f"{path} {what}: make one with `heartnet prepare … --out {path}`") from error
    except OSError as error:
        raise HeartnetError(f"{path / _MANIFEST} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _damaged(path, f"{_MANIFEST} is not readable as JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise HeartnetError(f"{path} was not written by heartnet: its {_MANIFEST} does not say {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise HeartnetError(
            f"{path} has version {manifest.get('version')!r} of the format, and this heartnet reads version {VERSION}: "
            "prepare it again, or use the heartnet that wrote it"
        )
    if manifest.pop("checksum", None) != _sum_of(manifest):
        raise _damaged(path, f"{_MANIFEST} was changed after it was written")
    if tuple(manifest["channels"]) != CHANNELS:
        raise HeartnetError(
            f"{path} has the channels {manifest['channels']}, and this heartnet reads {list(CHANNELS)}: "
            "prepare it again"
        )
    return manifest


def check_target(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise unless a store may be written to `path`; worth asking before hours of reading."""
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise HeartnetError(
            f"the folder {path.absolute().parent}, in which {path} would lie, does not exist; create it"
        )
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink():
        raise HeartnetError(
            f"{path} is a link to {path.resolve()}: a store is written beside its place and then put there, which "
            "would replace the link and leave what it leads to; name that itself"
        )
    if not path.is_dir():
        raise HeartnetError(f"{path} exists and is not a folder; choose another name for the weeks")
    found = sorted(entry.name for entry in path.iterdir())
    if not found:
        return
    if not overwrite:
        raise HeartnetError(f"{path} exists already; choose another name, or replace it with --overwrite")
    try:
        ours = {*read_manifest(path)["files"], _MANIFEST}
    except HeartnetError as error:
        raise HeartnetError(
            "--overwrite replaces only what heartnet wrote and this version can read; "
            f"choose another name for the weeks, or remove the folder yourself. {error}"
        ) from error
    foreign = [name for name in found if name not in ours]
    if foreign:
        raise HeartnetError(f"{path} holds {foreign[0]!r}, which is no part of a store: nothing was overwritten")


def _write_table(weeks: Weeks, folder: Path, files: dict[str, dict[str, Any]], account: Account) -> None:
    """Write the table, and the manifest with the checksums of all files."""
    with _synced(folder / _TABLE) as file:
        weeks.table.write_parquet(file)
    files[_TABLE] = {}
    for name, entry in files.items():
        entry["bytes"] = (folder / name).stat().st_size
        entry["blake2b"] = _file_sum(folder / name)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "channels": list(CHANNELS),
        "conditions": list(weeks.conditions),
        "counts": {
            "people": weeks.table["user_id"].n_unique(),
            "weeks": len(weeks),
            "readings": len(weeks.readings),
        },
        "provenance": dict(weeks.provenance),
        "account": account.as_json(),
        "files": files,
    }
    manifest = json.loads(json.dumps(manifest, allow_nan=False))
    manifest["checksum"] = _sum_of(manifest)
    with _synced(folder / _MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    _sync_folder(folder)


def _annotations(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.uint8]]:
    prefix = "annotation_"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _put_in_place(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`; what was there is removed afterwards, or put back if the renaming fails."""
    old: Path | None = None
    if path.exists() and any(path.iterdir()):
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        if old is not None:
            old.rename(path)
        raise
    try:
        with suppress(OSError):  # the store is whole and in place; some file systems cannot sync a folder
            _sync_folder(path.absolute().parent)
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def _check_consistent(weeks: Weeks) -> None:
    """Raise unless arrays, table and conditions fit together."""
    offsets = weeks.offsets
    problems = {
        "readings and local_time differ in length": len(weeks.readings) != len(weeks.local_time),
        "the offsets do not span the readings": offsets[0] != 0 or offsets[-1] != len(weeks.readings),
        "the offsets do not rise": bool((np.diff(offsets) <= 0).any()),
        "the table does not have one row a week": weeks.table.height != len(weeks),
        "the channels are not " + ", ".join(CHANNELS): weeks.readings.shape[1:] != (len(CHANNELS),),
        "the conditions are not in canonical order": weeks.conditions != in_order(weeks.conditions),
        "an annotation differs in length": any(len(a) != len(weeks.readings) for a in weeks.annotations.values()),
    }
    for problem, there in problems.items():
        if there:
            raise HeartnetError(problem)
    for column in (*_TABLE_COLUMNS, *weeks.conditions):
        if column not in weeks.table.columns:
            raise HeartnetError(f"the table has no column {column!r}")
    for condition in weeks.conditions:
        values = weeks.table[condition]
        if values.dtype != pl.Int8 or not values.is_in([0, 1]).fill_null(True).all():
            raise HeartnetError(f"the labels of {condition!r} are not 1, 0 or missing (Int8)")


def _check_sizes(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        if os.path.basename(name) != name:
            raise _damaged(path, f"{name!r} is not a file name")
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise _damaged(path, f"{name} is not there") from error
        if size != entry["bytes"]:
            raise _damaged(path, f"{name} has {size:,} bytes and should have {entry['bytes']:,}")
    for name in ("readings.npy", "local_time.npy", "offsets.npy", _TABLE):
        if name not in manifest["files"]:
            raise _damaged(path, f"{name} is not listed in {_MANIFEST}")


def _check_sums(path: Path, manifest: Mapping[str, Any], names: list[str]) -> None:
    for name in names:
        try:
            found = _file_sum(path / name)
        except OSError as error:
            raise HeartnetError(f"{path / name} cannot be read: {error.strerror or error}") from error
        if found != manifest["files"][name]["blake2b"]:
            raise _damaged(path, f"{name} does not match its checksum")


def _open_array(path: Path, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _damaged(path.parent, f"{path.name} is not a NumPy array: {error}") from error
    if array.dtype.str != entry["dtype"] or list(array.shape) != entry["shape"]:
        raise _damaged(path.parent, f"{path.name} is {array.dtype} {array.shape}, not what {_MANIFEST} says")
    return array


def _damaged(path: Path, what: str) -> HeartnetError:
    return HeartnetError(f"{path} is damaged: {what}. Prepare it again, or restore it from a copy")


def _sum_of(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _file_sum(path: Path) -> str:
    digest: Callable[[], Any] = lambda: hashlib.blake2b(digest_size=32)  # noqa: E731
    with path.open("rb") as file:
        return str(hashlib.file_digest(file, digest).hexdigest())


@contextmanager
def _synced(path: Path) -> Iterator[Any]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
