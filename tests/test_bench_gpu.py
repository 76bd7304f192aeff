"""What `python -m benchmarks --only gpu` would measure, at a tiny size on a CPU; and that it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import bench_gpu
from benchmarks.table import Row, as_text

CPU = torch.device("cpu")
TINY = ["model.conv_units=4", "model.lstm_units=4", "model.lstm_layers=2", "model.pool=8", "data.users=24"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*many workers.*", "ignore:.*treespec, LeafSpec.*", "ignore:.*exists and is not empty.*"
)


def test_it_says_that_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_gpu.rows() == []
    assert "no GPU here" in capsys.readouterr().out
    assert "gpu" in command.NAMES
    as_text([])


@pytest.fixture(scope="module")
def found() -> list[Row]:
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)  # shapes are checked in Python that cannot be compiled
    try:
        return bench_gpu.rows(quick=True, device=CPU, overrides=TINY, sizes=(2, 8, 512), backend="eager")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_its_rows(found: list[Row]) -> None:
    named = {row.what: row for row in found}
    assert list(named) == [
        "GPU: training, bfloat16, batches of 8", "GPU: the same, bfloat16",
        "GPU: an epoch of 33,628 weeks, bfloat16", "GPU: training, float32, batches of 8", "GPU: the same, float32",
        "GPU: an epoch of 33,628 weeks, float32", "GPU: training in bfloat16", "GPU: compile=convolutions",
        "GPU: training, batches of 2", "GPU: training, batches of 8",
    ]  # fmt: skip
    for precision in ("bfloat16", "float32"):
        row = named[f"GPU: training, {precision}, batches of 8"]
        assert (row.unit, row.beside, row.limit, row.sense) == ("weeks/s", "LSTM kernels alone", 0.8, "least")
        assert row.peer is not None
        assert row.peer > row.ours > 0  # the kernels are a part of the step
        assert named[f"GPU: an epoch of 33,628 weeks, {precision}"].ours == pytest.approx(33_628 / row.ours / 60)
    assert named["GPU: training in bfloat16"].peer == named["GPU: training, float32, batches of 8"].ours
    assert named["GPU: compile=convolutions"].peer == named["GPU: training, bfloat16, batches of 8"].ours
    assert all(row.ours > 0 for row in found)


def test_the_kernels_get_the_shapes_that_the_training_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_gpu.Bench(CPU, tmp_path, TINY, warm=2, timed=3)
    run = bench.run(4)
    assert len(run.shapes) == 3
    assert all(weeks == 4 and 1 < steps <= 4096 for steps, weeks in run.shapes)
    assert bench.run(4).shapes == run.shapes
    calls: list[tuple[int, ...]] = []
    forward = torch.nn.LSTM.forward
    monkeypatch.setattr(torch.nn.LSTM, "forward", lambda self, x: calls.append(tuple(x.shape)) or forward(self, x))
    bench.kernels([(5000, 4), (513, 4)], "32-true")
    once = [(steps, 4, size) for steps in (10, 2) for size in (4, 4, 8, 8)]  # 512 readings are one step, behind pools
    assert calls == once * 2  # once to warm up
    calls.clear()
    bench.stock([(512, 4)], "bf16-mixed")
    assert calls == [(1, 4, 4)] * 2


def test_the_clock_leaves_out_the_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 14.0])
    monkeypatch.setattr(bench_gpu, "now", lambda _: next(times))
    clock = bench_gpu.Clock(CPU, warm=1)
    for i in range(3):
        clock.on_train_batch_start(None, None, {"inputs": torch.zeros(2 + i, 50, 3)}, i)
    clock.on_train_epoch_end()
    assert clock.shapes == [(50, 3), (50, 4)]
    assert clock.seconds == 4.0


def test_medians_of_turns() -> None:
    said = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])
    assert bench_gpu.in_turns({"a": lambda: next(said), "b": lambda: next(said)}, 3) == {"a": 2.0, "b": 20.0}
