"""Walks the files of an export, a zip archive, a folder or one file, and opens each as a stream; writes nothing.

Files of an archive are inflated as they are read, never unpacked to disk, so a name that climbs out of the archive has
nowhere to go. It is refused all the same, as are links, encrypted files, and files that inflate more than can be meant:
such a member is listed like the others, and its `open` raises, so that a caller can count it and go on with the rest.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from heartnet.errors import HeartnetError

RATIO = 200
"""Inflated bytes per byte in the archive that a member may have. Deflate reaches 1,032; exports have 10 to 40."""

FREE_BYTES = 100 << 20
"""Bytes that the members of an archive that exceed `RATIO` may inflate to, all of them together."""

WHOLE_BYTES = 512 << 20
"""Bytes that `read()` without a size gives at most; larger members are read in pieces."""

_CONTENTS_BYTES = 64 << 20  # of a zip's table of contents, about 600,000 names; it is held in memory
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard"}
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)
"""What zipfile raises for one damaged byte or another, as a fuzz test found."""


@dataclass(frozen=True)
class Member:
    """A file of an export.

    Attributes:
        name: where it lies, `/` between folders, relative to the folder or archive; control characters replaced.
        size: bytes that it takes in the archive or on disk, for progress.
        length: bytes that it holds.
        source: the archive, folder or file that was given.
    """

    name: str
    size: int
    length: int
    source: Path
    _refused: str | None
    _open: Callable[[], IO[bytes]]

    @property
    def full_name(self) -> str:
        """The name in messages: `export.zip/apple_health_export/export.xml`, or just the file's."""
        folder = self.source.name or self.source.resolve().name  # that of "." is empty
        return self.source.name if self.name == self.source.name else f"{folder}/{self.name}"

    def open(self) -> io.BufferedIOBase:
        """Return a stream of what the file holds; its `read` and `readline` raise `HeartnetError` too.

        Raises:
            HeartnetError: if the file must not or cannot be read, or is broken, with its name and the reason.
        """
        if self._refused is not None:
            raise HeartnetError(f"{self.full_name} {self._refused}")
        try:
            return _Stream(self._open(), self)
        except _BROKEN as error:
            raise _unreadable(self, error) from error


def members(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[Member]:
    """Yield the files of a zip archive, of a folder and its folders, or the one file; in a fixed order.

    Args:
        path: what a file is, is told from its first bytes, not from its name. Archives in a folder are not looked into,
            links to folders not followed.
        wanted: told a file's name, whether it is wanted.

    Raises:
        HeartnetError: if there is no such file, or an archive has no table of contents (cut off) or a broken one.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _in_folder(path, wanted)
        if not stat.S_ISREG(mode):
            raise HeartnetError(f"{path} is neither a file nor a folder: expected an export on disk")
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise HeartnetError(f"{path} cannot be read: {error.strerror or error}") from error
    if begins in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return _in_zip(path, wanted)
    if path.suffix.lower() == ".zip":
        found = "empty" if not begins else f"not a zip archive (it begins with {begins!r})"
        raise HeartnetError(f"{path} is {found}; copy or download the export again")
    return (member for member in [_file(path, path.name, path)] if wanted(member.name))


def _in_folder(folder: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    def fail(error: OSError) -> None:
        raise HeartnetError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            member = _file(path, path.relative_to(folder).as_posix(), folder)
            if wanted(member.name):
                yield member


def _file(path: Path, name: str, source: Path) -> Member:
    refused = None
    size = 0
    try:
        if path != source and path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
            refused = "is a link to a file outside the folder, and is not followed; put a copy in its place"
        else:
            status = path.stat()
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
                refused = "is not a file but a pipe, socket or device"
    except OSError as error:
        refused = f"cannot be read: {error.strerror or error}"
    return Member(_printable(name), size, size, source, refused, lambda: path.open("rb"))


def _in_zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    archive = _open_zip(path)  # stays open as long as a member refers to it
    overlapping = _overlapping(archive)
    free = FREE_BYTES
    for info in archive.infolist():
        name = _printable(info.filename.replace("\\", "/"))
        if name.endswith("/") or not wanted(name):
            continue
        refused = _refused(info, name)
        if info.header_offset in overlapping:
            refused = "shares its bytes in the archive with another file (a zip bomb?), and is not read"
        elif refused is None and info.file_size > RATIO * info.compress_size:
            free -= info.file_size
            if free < 0:
                refused = (
                    f"would inflate from {info.compress_size:,} to {info.file_size:,} bytes (a zip bomb?), and is not "
                    f"read: expected at most {RATIO} times as many"
                )
        yield Member(name, info.compress_size, info.file_size, path, refused, _opener(archive, info))


def _opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        _check_contents(path)
        return zipfile.ZipFile(path)
    except _BROKEN as error:
        raise HeartnetError(
            f"{path} is broken or cut off: a zip archive's table of contents, at its end, cannot be read ({error}); "
            "copy or download it again"
        ) from error


def _check_contents(path: Path) -> None:
    """Raise if the table of contents is larger than should be held in memory."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - (1 << 16) - 22 - 20 - 56))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        return  # zipfile says so
    contents = int.from_bytes(tail[at + 12 : at + 16], "little")
    if contents == 0xFFFFFFFF and (at64 := tail.rfind(b"PK\x06\x06", 0, at)) >= 0:
        contents = int.from_bytes(tail[at64 + 40 : at64 + 48], "little")
    if contents > _CONTENTS_BYTES:
        raise HeartnetError(
            f"{path} has a table of contents of {contents:,} bytes; expected at most {_CONTENTS_BYTES:,} (some 600,000 "
            "files). Unpack it, and give the folder"
        )


def _overlapping(archive: zipfile.ZipFile) -> set[int]:
    """Return the offsets of members whose bytes are also another member's, or the table of contents'."""
    found: set[int] = set()
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    end, last = 0, -1
    for info in infos:
        if info.header_offset < end:
            found |= {last, info.header_offset}
        if info.header_offset + 30 + info.compress_size > end:
            end, last = info.header_offset + 30 + info.compress_size, info.header_offset
        if end > archive.start_dir:
            found.add(last)
    return found


def _refused(info: zipfile.ZipInfo, name: str) -> str | None:
    if not name:
        return "holds a file without a name, which is not read"
    if name.startswith("/") or ".." in PurePosixPath(name).parts or re.match(r"[A-Za-z]:", name):
        return "has a name that climbs out of the archive, and is not read"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link, and is not followed"
    if info.flag_bits & 0x1:
        return "is encrypted; unpack the archive with its password, and give the folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a bound on memory
        kind = _METHODS.get(info.compress_type, "unknown")
        return f"is compressed by method {info.compress_type} ({kind}); unpack the archive, and give the folder"
    return None


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


def _unreadable(member: Member, error: Exception) -> HeartnetError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return HeartnetError(f"{member.full_name} is broken or cannot be read: {reason}")


class _Stream(io.BufferedIOBase):
    """Reads a member, and says which it was if that fails."""

    def __init__(self, file: IO[bytes], member: Member) -> None:
        self._file = file
        self._member = member
        self._given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        if whole and self._member.length > WHOLE_BYTES:
            raise HeartnetError(
                f"{self._member.full_name} holds {self._member.length:,} bytes; expected at most {WHOLE_BYTES:,} of a "
                "file that is read as a whole"
            )
        size = WHOLE_BYTES if size is None or size < 0 else size
        size = min(size, max(self._member.length - self._given, 4096))  # or a bomb inflates all that was asked for
        try:
            data = self._file.read(size)
        except _BROKEN as error:
            raise _unreadable(self._member, error) from error
        self._given += len(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(1 << 16 if size < 0 else size)

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
