"""The callback wiring in plain trainers: each fault is found and placed, clean runs are silent, no trace."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import KINDS, training
from pytorch_lightning.loggers import CSVLogger
from wiring_faults import FAULTS, faulty

from callbacks.wiring import Wiring
from heartnet.errors import HeartnetError
from heartnet.findings import BAD, Finding, read_jsonl

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*no val split.*"),
]


def trouble(folder: Path) -> list[Finding]:
    return [each for each in read_jsonl(folder / "findings.jsonl") if each.status in BAD]


def check_fault(folder: Path, kind: str, number: int | str, seed: int) -> None:
    it, places = faulty(kind, number, seed)
    if not places:
        pytest.skip(f"{kind} cannot have fault {number}")
    it.fit(folder, [Wiring()], max_epochs=2)
    found = trouble(folder)
    here = [each for each in found if any(fnmatch.fnmatch(each.where, place) for place in places)]
    assert here, f"{number} in {kind}: expected one of {places}, found {[each.where for each in found]}"
    assert all(len(each.message) > 40 for each in found)


@pytest.mark.parametrize(("number", "kind"), [(number, KINDS[i % 2]) for i, number in enumerate(FAULTS)])
def test_a_fault_is_found_and_its_place_named(tmp_path: Path, number: int | str, kind: str) -> None:
    check_fault(tmp_path, "deepheart" if number == "29b" else kind, number, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", FAULTS)
def test_faults_in_each_network(tmp_path: Path, number: int | str, kind: str, seed: int) -> None:
    check_fault(tmp_path, kind, number, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_run_is_silent_and_what_was_checked_passes(tmp_path: Path, kind: str) -> None:
    training(kind).fit(tmp_path, [Wiring()])
    assert trouble(tmp_path) == []
    passed = {each.where for each in read_jsonl(tmp_path / "findings.jsonl")}
    expected = {
        "evaluation/mixing", "training/mixing", "evaluation/repeatable", "training/same", "loss/value", "loss/initial",
        "network/gradient", "logits/range", "network/linear", "network/saved", "val/heads",
    }  # fmt: skip
    assert expected <= passed
    assert ({"network/padding", "network/zero"} <= passed) is (kind != "image")
    assert ("not checked" in passed) is (kind == "image")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(1, 8))
def test_more_clean_runs_are_silent(tmp_path: Path, kind: str, seed: int) -> None:
    training(kind, seed).fit(tmp_path, [Wiring()], max_epochs=6)
    assert trouble(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([Wiring()], []):
        it = training(kind)
        it.fit(tmp_path, callbacks, max_epochs=2)
        ends.append([*(p.detach() for p in it.module.parameters()), *it.module.buffers(), torch.rand(1)])
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in it.module.modules())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_trained_scores_tell_what_labels_before_training_do_not(tmp_path: Path) -> None:
    """Without a look beforehand, labels that are exchanged in validation show in the network's own scores."""
    it, places = faulty("image", 10, 0)
    it.fit(tmp_path, [Wiring(label_batches=0)], logger=CSVLogger(tmp_path, "csv", ""), max_epochs=4)
    (found,) = trouble(tmp_path / "csv")
    assert found.where in places
    assert "the trained scores" in found.message
    assert found.step > 0
    assert "class output_1 (AUROC 1.00; its own 0." in found.message
    header = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"wiring/auroc/output_{i}" for i in range(4)} <= set(header)


def test_overrides_only_where_there_are_some(tmp_path: Path) -> None:
    for kind in ("deepheart", "image"):
        it, _ = faulty(kind, 12, 0)
        it.fit(tmp_path / kind, [Wiring()], max_epochs=1)
        assert next(each for each in trouble(tmp_path / kind) if each.where.endswith("/linear")).try_ == ()


def test_what_was_said_is_not_said_again(tmp_path: Path) -> None:
    callback = Wiring()
    it, _ = faulty("hourly", 16, 0)
    it.fit(tmp_path, [callback], max_epochs=1)
    again = Wiring()
    again.load_state_dict(callback.state_dict())
    it, _ = faulty("hourly", 16, 0)
    it.fit(tmp_path / "again", [again], max_epochs=1)
    assert trouble(tmp_path / "again") == []


def test_people_are_counted_once(tmp_path: Path) -> None:
    """All weeks of validation are one person's: their columns may be exchanged, and nothing is certain."""
    it, _ = faulty("deepheart", 10, 0)
    rows = it.data.rows["val"]
    people = it.data.weeks.table["user_id"].to_numpy().copy()
    people[rows] = "one"
    object.__setattr__(it.data.weeks, "table", it.data.weeks.table.with_columns(user_id=np.asarray(people)))
    it.fit(tmp_path, [Wiring()], max_epochs=1)
    assert trouble(tmp_path) == []


def test_wrong_arguments() -> None:
    with pytest.raises(HeartnetError, match="rows=1: must be at least 2"):
        Wiring(rows=1)
    with pytest.raises(HeartnetError, match="label_batches=-1"):
        Wiring(label_batches=-1)
