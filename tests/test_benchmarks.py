"""The table of benchmarks: ratios, limits, turns, and the section that a run adds to the results."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import bench_training
from benchmarks.measure import alternate
from benchmarks.table import Row, as_markdown, as_text


def test_a_limit_is_one_of_the_ratio_or_of_ours() -> None:
    assert Row("speed", 3.0, "weeks/s", "peer", 2.0, limit=1.5).met is True
    assert Row("speed", 2.9, "weeks/s", "peer", 2.0, limit=1.5).met is False
    assert Row("cost", 1.05, "s", "peer", 1.0, limit=1.03, sense="most").met is False
    assert Row("start", 7.9, "s", limit=8.0, sense="most", of="ours").met is True
    assert Row("alone", 1.0).met is None
    assert Row("no peer", 1.0, limit=1.5).met is None


def test_the_table_shows_what_was_missed_and_why() -> None:
    rows = [Row("speed", 2.0, "weeks/s", "JAX", 4.0, limit=1.5, note="tried: threads"), Row("start", 0.5, "s")]
    assert [json.loads(json.dumps(asdict(row))) for row in rows] == [asdict(row) for row in rows]
    for text in (as_text(rows), as_markdown(rows)):
        for part in ("2 weeks/s", "4 weeks/s (JAX)", "0.5 ×", "≥ 1.5 ×", "missed", "speed: tried: threads", "0.5 s"):
            assert part in text


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    took = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert set(took) == {"a", "b"}


def test_every_benchmark_that_is_named_is_there() -> None:
    for name in command.NAMES:
        assert find_spec(f"benchmarks.bench_{name}") is not None


def test_a_run_adds_a_section_above_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Measured\n\nSome words.\n", encoding="utf-8")
    monkeypatch.setattr(command, "RESULTS", results)
    command.write(["first machine"], [Row("speed", 1.0)])
    command.write(["second machine"], [Row("speed", 2.0)])
    text = results.read_text(encoding="utf-8")
    assert text.startswith("# Measured\n\nSome words.\n")
    assert text.count("\n## ") == 2
    assert text.index("second machine") < text.index("first machine")


def test_contenders_that_do_other_work_are_not_timed(tmp_path: Path) -> None:
    file, right = tmp_path / "batches.npz", np.linspace(-1.0, 1.0, 8)

    def said(name: str, **off: float) -> None:
        arrays = {f"{what}, {which}": right for what in ("scores", "gradient") for which in ("even", "uneven")}
        np.savez(
            f"{file}.{name}.npz", **{key: value + off.get(key.replace(", ", "_"), 0.0) for key, value in arrays.items()}
        )

    said(bench_training.REFERENCE)
    said("ours", scores_even=5e-6, gradient_uneven=-5e-6)
    said("ours bfloat16", scores_even=1e-2)
    said("padded", gradient_uneven=1.0)  # reads padding first, so that its gradient is another
    bench_training.compare(file, ["ours", "ours bfloat16", "padded"])
    wrong = [
        ("ours", "gradient_uneven", 2e-5), ("ours", "gradient_even", 2e-5), ("jax", "scores_uneven", 2e-5),
        ("ours bfloat16", "gradient_even", 0.1), ("padded", "scores_uneven", 2e-5), ("padded", "gradient_even", 2e-5),
    ]  # fmt: skip
    for name, what, off in wrong:
        said(name, **{what: off})
        with pytest.raises(RuntimeError, match=f"{name}: {what.replace('_', ', ')}, are off by"):
            bench_training.compare(file, [name])


def test_weeks_at_random_are_the_same_weeks() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 50, (3, 8))
    batches = [
        bench_training.cut(
            {"inputs": torch.randn(8, 50, 3), "targets": torch.arange(8.0)[:, None] + 8 * i}, lengths=lengths[i]
        )
        for i in range(3)
    ]
    dealt = bench_training.shuffled(batches)
    assert all(batch["inputs"].shape[1] == int(batch["lengths"].max()) for batch in dealt)

    def known(served: list[dict[str, torch.Tensor]]) -> dict[float, tuple[int, float]]:
        return {
            float(batch["targets"][i]): (int(batch["lengths"][i]), round(float(batch["inputs"][i].sum()), 4))
            for batch in served
            for i in range(8)
        }

    assert known(dealt) == known(batches)
    assert [list(batch["targets"]) for batch in dealt] != [list(batch["targets"]) for batch in batches]
