"""BLAS and PyTorch work on one thread each where ours share the work, and as before where a measurement ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from heartnet.diagnostics.amnesia import amnesia_profile
from heartnet.diagnostics.probe import Logits, Probe
from heartnet.model import DeepHeart

_SCRIPT = """
import json, sys
import numpy, torch
from threadpoolctl import threadpool_info
from heartnet.threads import one_thread_each
one_thread_each()
import scipy.linalg  # loads its own BLAS, late
print(json.dumps([torch.get_num_threads(), *(each["num_threads"] for each in threadpool_info())]))
"""


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_libraries_that_are_loaded_and_those_to_come_have_one_thread() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 1
    assert set(found) == {1}


@pytest.mark.parametrize("fails", [False, True])
def test_a_measurement_gives_back_the_threads_of_blas(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not blas_threads():
        pytest.skip("this NumPy has a BLAS whose threads nobody can count")
    torch.manual_seed(0)
    network = DeepHeart(outputs=1, conv_units=4, lstm_units=4, lstm_layers=1, longest=64)
    probe = Probe(
        network, torch.randn(1, 64, 3), (torch.tensor([64]), torch.zeros(1, 0)), torch.tensor([64]), ("a",),
        ("x", "y", "z"),
    )  # fmt: skip
    during: list[list[int]] = []
    forward = DeepHeart.forward

    def watched(self: DeepHeart, *arguments: torch.Tensor) -> Logits:
        during.append(blas_threads())
        if fails:
            raise KeyError("a fault")
        found: Logits = forward(self, *arguments)
        return found

    monkeypatch.setattr(DeepHeart, "forward", watched)
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        if fails:
            with pytest.raises(KeyError):
                amnesia_profile(probe, ("midpoint",))
        else:
            assert np.isfinite(amnesia_profile(probe, ("midpoint",)).at("midpoint").magnitude).all()
        assert blas_threads() == before
    assert during[0] == [1] * len(before)
