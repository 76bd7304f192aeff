"""Callbacks that look at the training itself leave every bit of it, also where a batch is worked on in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faults
import pytest
import torch

from callbacks.dead_units import DeadUnits
from callbacks.input_contract import InputContract
from callbacks.training_health import TrainingHealth
from heartnet.model import pieces


@pytest.mark.parametrize(
    "make", [InputContract, TrainingHealth, lambda: DeadUnits(every_n_steps=3)], ids=["contract", "health", "units"]
)
def test_training_in_pieces_is_the_same_bit_for_bit(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, score = [], pieces._called

    def called(some: Any) -> Any:
        cut.append(len(some))
        return score(some)

    monkeypatch.setattr(pieces, "READINGS", 200)
    monkeypatch.setattr(pieces, "_called", called)
    ends, numbers = [], []
    for callbacks in ([], [make()]):
        it = faults.training("deepheart")
        it.fit(tmp_path, callbacks, max_epochs=1)
        ends.append([*(each.detach().clone() for each in it.module.parameters()), torch.rand(1)])
        numbers.append(len(cut))
        cut.clear()
    assert all(map(torch.equal, *ends))
    assert numbers[0] > 5
    assert numbers[1] >= numbers[0]
