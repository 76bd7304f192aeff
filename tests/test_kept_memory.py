"""Memory that steps leave behind is given back before it piles up, and what a step needs is left alone."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import pytorch_lightning as lightning
from pytorch_lightning.demos.boring_classes import BoringModel

from heartnet.kept_memory import KeptMemory, resident_bytes

PILES = """
import ctypes, sys
from heartnet.allocator import keep_memory
from heartnet.kept_memory import give_back, resident_bytes
assert keep_memory()
before = resident_bytes()
for i in range(40):
    blocks = [bytearray(10**6 * (50 + (7 * i + 13 * j) % 90)) for j in range(4)]
kept = resident_bytes()
del blocks
give_back()
print(kept - before, resident_bytes() - before)
"""


def is_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not is_glibc(), reason="there is no glibc")
def test_what_is_free_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PILES], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 200e6
    assert left < 20e6


def test_only_what_piles_up_is_given_back() -> None:
    log: list[int | str] = []
    sizes = iter([100, 120, 149, 151, 160, 200, 239, 241, 90])

    def resident() -> int:
        log.append(next(sizes))
        return int(log[-1])

    kept = KeptMemory(resident, lambda: log.append("back"))
    kept.on_train_start(None, None)  # type: ignore[arg-type]
    for _ in range(9):
        kept.on_train_batch_end()
    # 160, after the first return, is what a step needs from then on.
    assert log == ["back", 100, 120, 149, 151, "back", 160, 200, 239, 241, "back", 90]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*treespec, LeafSpec.*")
def test_a_training_calls_it_at_each_step() -> None:
    seen: list[int] = []

    def resident() -> int:
        seen.append(1)
        return 1

    trainer = lightning.Trainer(
        max_steps=3, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", callbacks=[KeptMemory(resident, lambda: None)],
    )  # fmt: skip
    trainer.fit(BoringModel())
    assert len(seen) == 3


def test_the_memory_of_this_process_is_known() -> None:
    before = resident_bytes()
    if before == 0:
        pytest.skip("this system does not say")
    block = bytearray(b"x") * 10**8
    assert resident_bytes() - before == pytest.approx(len(block), rel=0.1)
