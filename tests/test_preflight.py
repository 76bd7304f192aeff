"""The callback preflight: a verdict before the first step, that stops if asked to, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from faults import KINDS, Training, training
from torch.utils.data import DataLoader, IterableDataset
from wiring_faults import faulty

from callbacks.input_contract import InputContract
from callbacks.preflight import Preflight
from callbacks.training_health import TrainingHealth
from callbacks.wiring import Wiring
from heartnet.errors import HeartnetError
from heartnet.findings import Finding, read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*no val split.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


def preflight(**options: Any) -> Preflight:
    """Without the input contract, to which a mean that tells a label is a leak: that is how these weeks are drawn."""
    return Preflight([TrainingHealth(), Wiring()], **options)


def verdict(folder: Path) -> Finding:
    (found,) = [each for each in read_jsonl(folder / "findings.jsonl") if each.check == "preflight"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ready(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = training(kind).fit(tmp_path, [preflight()], max_epochs=1)
    assert trainer.global_step > 1
    assert verdict(tmp_path).status == "pass"
    assert verdict(tmp_path).step == 0
    assert "Preflight: ready to train. TrainingHealth, Wiring found nothing" in capsys.readouterr().out


def test_what_to_mend_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it, places = faulty("hourly", 29, 0)
    it.fit(tmp_path, [preflight()], max_epochs=1)
    found = verdict(tmp_path)
    assert found.status == "fail"
    assert found.message.startswith(
        f"do not start: first mend wiring, {places[0]}: scores change when a batch is padded"
    )
    assert "Preflight: do not start: first mend wiring, network/padding" in capsys.readouterr().out


def test_stop_on_fail(tmp_path: Path) -> None:
    it, _ = faulty("deepheart", 16, 0)
    before = [each.detach().clone() for each in it.module.parameters()]
    with pytest.raises(HeartnetError, match=r"do not start: .*mixing.*stop_on_fail=false trains all the same"):
        it.fit(tmp_path, [preflight(stop_on_fail=True)])
    assert all(torch.equal(a, b) for a, b in zip(before, it.module.parameters(), strict=True))
    assert training("deepheart").fit(tmp_path, [preflight(stop_on_fail=True)], max_epochs=1).global_step > 1


def test_only(tmp_path: Path) -> None:
    assert training("image").fit(tmp_path, [preflight(only=True)]).global_step == 0
    assert verdict(tmp_path).status == "pass"


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([preflight()], []):
        it = training(kind)
        it.fit(tmp_path, callbacks, max_epochs=2)
        ends.append([*(p.detach() for p in it.module.parameters()), *it.module.buffers(), torch.rand(1)])
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in it.module.modules())
        assert torch.overrides._get_current_function_mode() is None
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_beside_the_checks_themselves(tmp_path: Path) -> None:
    checks = [InputContract(), TrainingHealth(), Wiring()]
    training("image").fit(tmp_path, [Preflight(checks), InputContract(), TrainingHealth(), Wiring()], max_epochs=1)
    assert verdict(tmp_path).status == "pass"


class Broken(lightning.Callback):
    def on_train_start(self, *_: Any) -> None:
        raise ZeroDivisionError("nothing to divide")


def test_a_check_that_ends_is_said_and_ends_no_other(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="preflight: Broken ended with ZeroDivisionError: nothing to divide"):
        training("image").fit(tmp_path, [Preflight([Broken(), Wiring()])], max_epochs=1)
    found = verdict(tmp_path)
    assert found.status == "warn"
    assert "Not done: Broken ended with ZeroDivisionError" in found.message


class Stream(IterableDataset[Any]):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Any:
        return iter(self.inner)


def test_data_that_can_be_read_once(tmp_path: Path) -> None:
    it = training("image")
    stream = DataLoader(Stream(it.data[0].dataset), batch_size=8)
    Training("image", it.module, (stream,)).fit(tmp_path, [preflight()], max_epochs=1)
    assert verdict(tmp_path).status == "pass"
    assert verdict(tmp_path).step == 0


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    training("image").fit(tmp_path, [preflight()], fast_dev_run=True)
    assert list(tmp_path.rglob("*.*")) == []


def test_what_is_no_callback() -> None:
    with pytest.raises(HeartnetError, match=r"callbacks\.preflight\.checks: 3 is no callback"):
        Preflight([3])  # type: ignore[list-item]
