"""Findings: one JSON object a line, the newest worst first, and where a run keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heartnet.errors import HeartnetError
from heartnet.findings import (
    Finding,
    append_jsonl,
    in_part,
    latest,
    publish,
    read_jsonl,
)


def finding(status: Any = "fail", where: str = "diabetes/midpoint", **changes: Any) -> Finding:
    values: dict[str, Any] = {"value": 9.25, "limit": 1.0, "unit": "decades", "message": "It forgets."}
    return Finding("amnesia", status, where, **{**values, **changes})


def test_one_object_a_line_and_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "findings.jsonl"
    kept = [finding(try_=("model.readout=last",), step=3), finding("pass", value=None, limit=None)]
    append_jsonl(kept[:1], path)
    append_jsonl(kept[1:], path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {
        "check": "amnesia", "status": "fail", "where": "diabetes/midpoint", "value": 9.25, "limit": 1.0,
        "unit": "decades", "message": "It forgets.", "try": ["model.readout=last"], "step": 3,
    }  # fmt: skip
    assert read_jsonl(path) == kept
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_nan_never_reaches_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_jsonl([finding(), finding(value=float("nan"))], tmp_path / "findings.jsonl")
    assert not (tmp_path / "findings.jsonl").exists()


@pytest.mark.parametrize("line", ["{", "[]", '{"status": "fail"}', '{"status": "bad"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "findings.jsonl"
    append_jsonl([finding()], path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(HeartnetError, match=r"findings.jsonl, line 2: not a finding"):
        read_jsonl(path)


def test_newest_of_each_worst_first() -> None:
    rows = [finding("pass", "a", step=1), finding("fail", "b"), finding("warn", "a", step=2), finding("pass", "c")]
    assert [(each.where, each.status) for each in latest(rows)] == [("b", "fail"), ("a", "warn"), ("c", "pass")]


def test_a_fold_stands_before_where() -> None:
    rows = [finding(), finding("pass", "a")]
    assert [each.where for each in in_part(rows, "fold-1")] == ["fold-1: diabetes/midpoint", "fold-1: a"]
    assert in_part(rows, "") == rows


def trainer_of(folder: Path | None, texts: list[Any], **changes: Any) -> Any:
    experiment = SimpleNamespace(add_text=lambda tag, text, global_step: texts.append((tag, text, global_step)))
    values = {
        "log_dir": None if folder is None else str(folder), "default_root_dir": "/nowhere", "is_global_zero": True,
        "fast_dev_run": False, "global_step": 7,
        "loggers": [SimpleNamespace(experiment=experiment), SimpleNamespace(), SimpleNamespace(experiment=None)],
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_publish_appends_and_shows_the_newest_of_all_checks(tmp_path: Path) -> None:
    texts: list[Any] = []
    publish([finding("warn", "a")], trainer_of(tmp_path, texts))
    publish([finding("pass", "a"), finding("fail", "b")], trainer_of(tmp_path, texts))
    assert len(read_jsonl(tmp_path / "findings.jsonl")) == 3
    tag, text, step = texts[-1]
    assert (tag, step) == ("findings", 7)
    assert [line.split("|")[3].strip() for line in text.splitlines()[2:]] == ["b", ""]


def test_publish_falls_back_to_the_root_and_leaves_other_ranks_and_dev_runs_alone(tmp_path: Path) -> None:
    texts: list[Any] = []
    for changes in ({"is_global_zero": False}, {"fast_dev_run": True}):
        publish([finding()], trainer_of(tmp_path, texts, **changes))
    publish([], trainer_of(tmp_path, texts))
    assert (list(tmp_path.iterdir()), texts) == ([], [])
    publish([finding()], trainer_of(None, texts, default_root_dir=str(tmp_path / "root")))
    assert (tmp_path / "root" / "findings.jsonl").exists()
