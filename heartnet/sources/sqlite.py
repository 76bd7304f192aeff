"""Opens an SQLite database of unknown origin to read it: nothing in it is run, nothing is written beside it.

A database on disk is opened read-only and as immutable. If a journal lies beside it (`-wal`, `-journal`), its writer
was interrupted or is at work: it and the journal are copied to a private temporary folder, where SQLite brings the copy
in order. To such a folder goes also the database of a zip, since SQLite reads only files. It is deleted afterwards.
"""

from __future__ import annotations

import errno
import io
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from heartnet.errors import HeartnetError
from heartnet.sources.archives import Member

DATABASE_BYTES = 64 << 30
"""The largest database that is copied to a temporary folder; of Health Connect, some thousand million samples."""

VALUE_BYTES = 1 << 20
"""The largest value that is read."""

_OPERATIONS = 100_000_000  # some seconds
_OPERATIONS_PER_BYTE = 100  # reading a sample of 30 bytes takes some 40
_MAGIC = b"SQLite format 3\0"


@contextmanager
def open_database(member: Member) -> Iterator[sqlite3.Connection]:
    """Open a database. Text that is not UTF-8 is read with replacement characters.

    Raises:
        HeartnetError: if it is no database, cannot be opened, or there is no room for its copy.
    """
    with _on_disk(member) as (path, is_copy), closing(_connect(path, member, is_copy)) as connection:
        yield connection


def size_of(connection: sqlite3.Connection) -> int:
    """Return the bytes that a database's pages take."""
    (pages,), (size,) = (connection.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
    return int(pages) * int(size)


@contextmanager
def _on_disk(member: Member) -> Iterator[tuple[Path, bool]]:
    """Give the path of the database, or of a private copy that is deleted afterwards: SQLite reads only files."""
    with member.open() as stream:
        begins = stream.read(16)
    if begins != _MAGIC:
        what = f"begins with {begins!r}" if begins else "is empty"
        raise HeartnetError(
            f"{member.full_name} {what}: it is no SQLite database, or an encrypted one. Export it again, "
            "or unpack it with its password"
        )
    plain = (member.source if member.source.is_file() else member.source / member.name).resolve()
    with plain.open("rb") if plain.is_file() else member.open() as file:
        is_plain = plain.is_file() and file.read(16) == _MAGIC
    journals = [plain.with_name(plain.name + end) for end in ("-wal", "-journal")] if is_plain else []
    journals = [journal for journal in journals if journal.is_file() and journal.stat().st_size]
    if is_plain and not journals:
        yield plain, False
        return
    with tempfile.TemporaryDirectory(prefix="heartnet-") as folder:
        copy = Path(folder).resolve() / "export.db"
        with member.open() as stream:
            _copy(stream, copy, member.length, member.full_name)
        for journal in journals:
            with journal.open("rb") as file:
                _copy(file, Path(f"{copy}{journal.name[len(plain.name) :]}"), journal.stat().st_size, journal.name)
        yield copy, True


def _copy(stream: IO[bytes] | io.BufferedIOBase, target: Path, length: int, name: str) -> None:
    room = shutil.disk_usage(target.parent).free
    no_room = HeartnetError(
        f"{name} needs {length:,} bytes of disk for as long as it is read, and {target.parent.parent} has not so much "
        f"room ({room:,} bytes free, at most {DATABASE_BYTES:,} used); free some, or name another folder with the "
        "environment variable TMPDIR"
    )
    if length > min(room, DATABASE_BYTES):
        raise no_room
    try:
        with target.open("xb") as file:
            while block := stream.read(1 << 20):
                file.write(block)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room from error
        raise HeartnetError(f"{name} cannot be copied to {target.parent}: {error.strerror or error}") from error


def _connect(path: Path, member: Member, is_copy: bool) -> sqlite3.Connection:
    """Open a database of unknown origin: nothing in it is run, nothing is written, no value over 1 MB is read."""
    mode = "mode=rw" if is_copy else "mode=ro&immutable=1"  # rw, to roll back what a journal says
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None)
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
    pragmas = ["trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY"]
    pragmas.append("writable_schema=ON")  # or SQLite reads nothing of a database that was cut off
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        _limit_work(connection)
    except sqlite3.Error as error:
        connection.close()
        raise HeartnetError(f"{member.full_name} cannot be read as an SQLite database: {error}") from error
    return connection


def _limit_work(connection: sqlite3.Connection) -> None:
    """Interrupt queries that go on for longer than a database of the size can be meant to keep them busy."""
    left = _OPERATIONS + _OPERATIONS_PER_BYTE * size_of(connection)

    def count_down() -> bool:
        nonlocal left
        left -= 1_000_000
        return left < 0

    connection.set_progress_handler(count_down, 1_000_000)
