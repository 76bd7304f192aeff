"""Memory that steps leave behind is given back before it piles up, and what a step needs is left alone."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from unittest.mock import Mock

import pytest
import pytorch_lightning as lightning
from pytorch_lightning.demos.boring_classes import BoringModel

from heartnet.kept_memory import KeptMemory, resident_bytes

PILES = """
import ctypes, sys
from heartnet.allocator import keep_memory
from heartnet.allocator import give_back
from heartnet.kept_memory import resident_bytes
assert keep_memory()
before = resident_bytes()
for i in range(40):
    blocks = [bytearray(10**6 * (50 + (7 * i + 13 * j) % 90)) for j in range(4)]
kept = resident_bytes()
del blocks
give_back(keep=sys.argv[1] == "keep")
left = resident_bytes()
for i in range(40):
    blocks = [bytearray(10**6 * (50 + (7 * i + 13 * j) % 90)) for j in range(4)]
del blocks
print(kept - before, left - before, resident_bytes() - before)
"""


def is_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not is_glibc(), reason="there is no glibc")
@pytest.mark.parametrize("word", ["keep", "leave"])
def test_what_is_free_goes_back(word: str) -> None:
    done = subprocess.run([sys.executable, "-c", PILES, word], capture_output=True, text=True, check=True)
    kept, left, later = map(int, done.stdout.split())
    assert kept > 200e6
    assert left < 20e6
    assert later > 200e6 if word == "keep" else later < 80e6


def told(sizes: list[int], in_use: int = 0) -> list[tuple[int, bool]]:
    """Return after which steps memory was given back, all but what is in use, and whether it is kept from then on."""
    left = iter(sizes)
    log: list[tuple[int, bool]] = []
    after: list[int] = []

    def back(*, keep: bool) -> None:
        log.append((step, keep))
        after.append(in_use)

    kept = KeptMemory(lambda: after.pop() if after else next(left), back)
    step = 0
    kept.on_train_start(None, None)  # type: ignore[arg-type]
    for step in range(1, len(sizes) + 1):  # noqa: B007
        kept.on_train_batch_end()
    return log


def test_what_the_first_steps_need_is_left_alone() -> None:
    assert told([100, 20, 30] + [10] * 5 + [160] * 100) == []


def test_what_diagnostics_leave_goes_back() -> None:
    looks = [161 if step % 10 == 0 else 120 for step in range(1, 40)]
    assert told([100] * 8 + looks) == [(18, True), (28, True), (38, True)]


def test_what_piles_up_again_soon_is_kept_no_more() -> None:
    assert told([100] * 8 + [150, 161, 120, 150, 170, 500, 500]) == [(10, True), (13, False)]


def test_what_stays_in_use_is_no_pile() -> None:
    assert told([100] * 8 + [200] * 50, in_use=200) == [(9, True)]
    assert told([100] * 8 + [200] * 5 + [321] * 50, in_use=200) == [(9, True), (14, False)]


@pytest.mark.parametrize("end", ["teardown", "on_exception"])
def test_the_next_training_keeps_memory_again(end: str) -> None:
    back = Mock()
    sizes = iter([100] * 8 + [161, 100, 100, 161, 100])  # after each time that it is given back, it is asked for again
    kept = KeptMemory(lambda: next(sizes), back)
    kept.on_train_start(None, None)  # type: ignore[arg-type]
    getattr(kept, end)()
    assert not back.called  # it was kept all the time
    for _ in range(11):
        kept.on_train_batch_end()
    assert [each.kwargs["keep"] for each in back.call_args_list] == [True, False]
    getattr(kept, end)()
    getattr(kept, end)()
    assert [each.kwargs["keep"] for each in back.call_args_list] == [True, False, True]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*treespec, LeafSpec.*")
def test_a_training_calls_it_at_each_step() -> None:
    seen: list[int] = []

    def resident() -> int:
        seen.append(1)
        return 1

    trainer = lightning.Trainer(
        max_steps=3, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", callbacks=[KeptMemory(resident, Mock())],
    )  # fmt: skip
    trainer.fit(BoringModel())
    assert len(seen) == 3


def test_the_memory_of_this_process_is_known() -> None:
    before = resident_bytes()
    if before == 0:
        pytest.skip("this system does not say")
    with mmap.mmap(-1, 10**8, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for _ in range(100):
            block.write(b"x" * 10**6)
        assert 0.5e8 < resident_bytes() - before < 2e8  # other threads may free or take some meanwhile
