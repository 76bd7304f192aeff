"""glibc keeps what training frees, and nothing happens where there is no glibc or the user has settings."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

from heartnet import allocator

FAULTS = """
import ctypes, resource, sys
from heartnet.allocator import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    blocks = [b"x" * 2**26, b"y" * 2**26]

class Old:  # as glibc 2.34
    def __init__(self, library):
        self.gnu_get_libc_version, self.known = library.gnu_get_libc_version, library.mallopt

    def mallopt(self, name, value):
        return 0 if name == -3 and value > 2**25 else self.known(name, value)

if sys.argv[1] == "old":
    ctypes.CDLL = lambda name, real=ctypes.CDLL: Old(real(name))
print(None if sys.argv[1] == "leave" else keep_memory())
for _ in range(3):
    step()
before = faults()
step()
print(faults() - before)
"""


def faults(*words: str, **environment: str) -> tuple[str, int]:
    """Return what `keep_memory` said in a new process, and how many pages the fourth step asked for."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    said, pages = done.stdout.split()
    return said, int(pages)


def is_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not is_glibc(), reason="there is no glibc")
def test_what_a_step_frees_serves_the_next() -> None:
    for glibc in ("keep", "old"):
        said, pages = faults(glibc)
        assert said == "True"
        assert pages < 1000
    assert faults("leave")[1] > 10_000  # 128 MB in pages of 4 kB are 32,768; else this shows nothing


PLACES = """
import ctypes, sys, threading
from heartnet.allocator import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
together = threading.Barrier(3)

def take():
    together.wait()
    for _ in range(1000):
        library.malloc(1000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(3)]
[each.start() for each in threads]
[each.join() for each in threads]
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""


@pytest.mark.skipif(not is_glibc(), reason="there is no glibc")
def test_all_threads_take_from_one_place() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    places = {
        way: subprocess.run(
            [sys.executable, "-c", PLACES, way], env=environment, capture_output=True, text=True, check=True
        ).stdout.count("<heap nr=")
        for way in ("keep", "leave")
    }
    assert places["keep"] == 1
    assert places["leave"] > 1  # else this shows nothing


@pytest.mark.parametrize("refused", [-1, -3, -8])
def test_it_says_whether_all_was_done(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """What glibc refuses; of the size of blocks it takes another way."""
    asked: list[int] = []

    class Library:
        gnu_get_libc_version = "2.36"

        def mallopt(self, name: int, _: int) -> int:
            asked.append(name)
            return int(name != refused)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(os, "environ", {})
    assert allocator.keep_memory() is (refused == -3)
    assert (-4 in asked) is (refused == -3)


@pytest.mark.skipif(not is_glibc(), reason="there is no glibc")
@pytest.mark.parametrize("own", [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}])
def test_a_users_own_settings_stay(own: dict[str, str]) -> None:
    said, pages = faults("keep", **own)
    assert said == "False"
    assert pages > 10_000


@pytest.mark.parametrize("error", [OSError("no library"), TypeError("NoneType")])
def test_nothing_happens_where_the_library_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert allocator.keep_memory() is False


@pytest.mark.parametrize("names", [(), ("mallopt",), ("gnu_get_libc_version",)])
def test_nothing_happens_in_other_libraries(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    class Library:
        def __getattr__(self, name: str) -> Any:
            if name not in names:
                raise AttributeError(name)
            return lambda *_: pytest.fail("was called")

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(os, "environ", {})
    assert allocator.keep_memory() is False
