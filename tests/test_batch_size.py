"""`data.batch_size=auto`: what a step needs is known from two small ones, and nothing of the training is touched."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from heartnet import batch_size
from heartnet.batch_size import Memory, batch_size_of, cuda_memory, fitting_batch_size, largest, train_once
from heartnet.built import build
from heartnet.command_line import PRETRAINING, write_config
from heartnet.datamodule import BATCH_SIZE, SimulatedData
from heartnet.errors import HeartnetError
from heartnet.explained import compose
from heartnet.model import DeepHeart, pieces
from heartnet.module import HeartnetModule
from heartnet.tasks import Conditions


@pytest.fixture(scope="module")
def data() -> SimulatedData:
    return SimulatedData(Conditions(), users=30, weeks_per_user=1, batch_size="auto")


def module_of(data: SimulatedData, **options: Any) -> HeartnetModule:
    torch.manual_seed(0)
    count = len(data.targets)
    return HeartnetModule(
        DeepHeart(outputs=count, conv_units=4, lstm_units=4, lstm_layers=1, pool=8), kind="conditions",
        targets=data.targets, target_mean=[0.2] * count, target_std=[1.0] * count, scaling=data.scaling.as_dict(),
        **options,
    )  # fmt: skip


def trainer_of(**options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1, **options
    )


def kept_for_backward(function: Callable[[], object]) -> float:
    """Return the bytes that a step on a CPU keeps until it goes backward: what fills a GPU."""
    kept: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        function()
    return float(sum(kept.values()))


@given(
    fixed=st.floats(0, 1e9), each=st.floats(1e3, 1e9), room=st.floats(1e3, 1e11), most=st.integers(1, 5_000)
)  # fmt: skip
def test_the_largest_batch_that_fits_is_found_and_no_larger_one(
    fixed: float, each: float, room: float, most: int
) -> None:
    weeks, took = largest(lambda count: fixed + each * count, room, most)
    fits = [count for count in (*range(1, 8), *range(8, most + 1, 8)) if fixed + each * count <= room * (1 - 1e-9)]
    assert weeks >= max((count for count in fits if count <= most), default=0)
    assert weeks == 0 or (took <= room and weeks <= most)


def test_a_step_that_needs_more_than_a_straight_line_says_is_tried_again_smaller() -> None:
    tried: list[int] = []

    def needed(weeks: int) -> float:
        tried.append(weeks)
        return math.inf if weeks > 60 else 10.0 * weeks

    weeks, took = largest(needed, 1000.0, 5000)
    assert tried == [4, 8, 96, 80, 72, 64, 56]  # a tenth less, in eights
    assert (weeks, took) == (56, 560.0)


def test_memory_that_holds_less_than_eight_weeks_gets_what_it_holds() -> None:
    assert largest(lambda weeks: math.inf if weeks > 3 else weeks, 100.0, 64)[0] == 3
    assert largest(lambda weeks: math.inf if weeks > 6 else weeks, 100.0, 64) == (6, 6)
    tried: list[int] = []
    assert largest(lambda weeks: tried.append(weeks) or math.inf, 100.0, 64) == (0, math.inf)
    assert tried == [4, 8, 7, 6, 5, 4, 3, 2, 1]
    assert largest(lambda _: math.inf, 100.0, 1) == (0, math.inf)


@pytest.mark.parametrize(
    ("room", "most", "weeks"),
    [
        (100.0, 3, 3), (100.0, 6, 6), (100.0, 1, 1),  # fewer weeks than are measured
        (15.0, 64, 15 // 8 * 8), (7.9, 64, 7), (8.0, 64, 8), (64.0, 64, 64), (1e9, 64, 64),
    ],
)  # fmt: skip
def test_batches_are_of_eights_from_eight_on(room: float, most: int, weeks: int) -> None:
    assert largest(lambda count: float(count), room, most) == (weeks, float(weeks))
    assert largest(lambda count: 5.0 + count, room + 5, most)[0] == weeks  # whatever a step takes besides


def test_what_needs_nothing_more_a_week_takes_all() -> None:
    assert largest(lambda _: 1.0, 2.0, 64) == (64, 1.0)


@pytest.mark.parametrize(("spare", "weeks", "room"), [(8.0, 80, "0.081"), (-8.0, 72, "0.08")])
def test_four_fifths_of_what_is_free_are_taken_less_what_adamw_will_keep(
    data: SimulatedData, monkeypatch: pytest.MonkeyPatch, spare: float, weeks: int, room: str
) -> None:
    done: list[object] = []
    monkeypatch.setattr(batch_size, "train_once", lambda _data, _module, _trainer, count: done.append(count))
    many, module = copy.copy(data), module_of(data)
    many.rows = {**data.rows, "train": np.tile(data.rows["train"], 100)}

    def peak(step: Callable[[], object]) -> float:
        step()
        count: Any = done[-1]
        return 5e5 + 1e6 * count

    def free() -> float:
        done.append("asked")
        states = 2 * 4 * sum(each.numel() for each in module.parameters())  # two numbers of four bytes a weight
        return (80.5e6 + states + spare) / 0.8

    found = fitting_batch_size(many, module, trainer_of(), Memory(free, peak))
    assert found.weeks == weeks
    assert done == [1, "asked", 4, 8, weeks]  # asked once the libraries have what they need; the one found is tried too
    said = f"{weeks} weeks a batch; a step of the longest weeks takes {weeks / 1000 + 0.0005:.2g} GB, and {room} GB are"
    assert f"data.batch_size=auto: {said} to be had. module" in found.why


def test_few_weeks_are_one_batch(data: SimulatedData) -> None:
    few = copy.copy(data)
    few.rows = {**data.rows, "train": data.rows["train"][:5]}
    assert fitting_batch_size(few, module_of(data), trainer_of(), Memory(lambda: 1e12, lambda _: 1e6)).weeks == 5


def test_two_small_batches_tell_what_a_large_one_keeps(data: SimulatedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_unseen", lambda *_: False)  # as on a GPU: the batch as a whole
    module, trainer = module_of(data), trainer_of()
    four, eight, twenty = (kept_for_backward(lambda n=n: train_once(data, module, trainer, n)) for n in (4, 8, 20))
    assert twenty == pytest.approx(four + (eight - four) / 4 * 16, rel=0.02)
    assert eight > 1.5 * four
    memory = Memory(lambda: twenty / batch_size.SHARE + 1e5, kept_for_backward)
    monkeypatch.setattr(batch_size, "STEPS", 1)
    found = fitting_batch_size(data, module, trainer, memory)
    assert found.weeks == 16
    assert "16 weeks a batch" in found.why
    assert "module.learning_rate stays 0.001" in found.why


def test_the_longest_weeks_are_measured(data: SimulatedData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(
        HeartnetModule,
        "training_step",
        lambda self, batch, _: seen.append(batch["lengths"]) or self.network.head.weight.sum(),
    )
    train_once(data, module_of(data), trainer_of(), 5)
    train_once(data, module_of(data), trainer_of(), 50)
    lengths = np.sort(data.lengths()[data.rows["train"]])[::-1]
    assert seen[0].tolist() == lengths[:5].tolist()
    assert len(seen[1]) == 50  # more than there are: again from the longest on


def test_an_epoch_keeps_its_steps_and_that_is_said(data: SimulatedData) -> None:
    plenty = Memory(lambda: 1e12, lambda _: 1e6)
    found = fitting_batch_size(data, module_of(data), trainer_of(), plenty)
    assert found.weeks == 8
    assert "fewer than 20 steps an epoch" in found.why
    many = SimulatedData(Conditions(), users=30, weeks_per_user=1)
    many.rows = {**many.rows, "train": np.tile(many.rows["train"], 100)}
    count = len(many.rows["train"])
    assert fitting_batch_size(many, module_of(data), trainer_of(), plenty).weeks == count // 20 // 8 * 8
    halved = fitting_batch_size(many, module_of(data), trainer_of(accumulate_grad_batches=2), plenty)
    assert halved.weeks == count // 40 // 8 * 8


def test_nothing_of_the_training_is_touched(data: SimulatedData) -> None:
    module, trainer = module_of(data), trainer_of()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    streams = torch.get_rng_state(), np.random.get_state()[1]
    fitting_batch_size(data, module, trainer, Memory(lambda: 1e9, kept_for_backward))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(each.grad is None for each in module.parameters())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert np.array_equal(np.random.get_state()[1], streams[1])
    assert trainer.global_step == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in module.modules())


def test_precision_and_cropping_are_those_of_the_training(data: SimulatedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_unseen", lambda *_: False)
    plain, half, cropped = (
        kept_for_backward(lambda m=module, t=trainer: train_once(data, m, t, 8))
        for module, trainer in (
            (module_of(data), trainer_of()),
            (module_of(data), trainer_of(precision="bf16-mixed")),
            (module_of(data, augmentation={"crop": 512}), trainer_of()),
        )
    )
    assert half < 0.8 * plain
    assert cropped < 0.4 * plain


def test_on_a_cpu_it_is_the_default_and_says_so(data: SimulatedData) -> None:
    found = fitting_batch_size(data, module_of(data), trainer_of())
    assert (found.weeks, data.batch_size) == (BATCH_SIZE, BATCH_SIZE)
    assert found.why == "data.batch_size=auto: 8 weeks a batch on cpu; larger ones are no faster there."


def test_where_nothing_fits_that_is_refused(data: SimulatedData) -> None:
    with pytest.raises(HeartnetError, match=r"not even one of the longest weeks fits .*bf16-mixed"):
        fitting_batch_size(data, module_of(data), trainer_of(), Memory(lambda: 1e6, lambda _: math.inf))


def test_cudas_memory_is_asked_about_what_a_function_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"now": 100, "most": 100}

    def work() -> None:
        taken["most"] = 450

    def fail() -> None:
        raise torch.OutOfMemoryError("no room")

    for name, value in {
        "empty_cache": lambda: None, "synchronize": lambda _: None, "mem_get_info": lambda _: (1000, 2000),
        "memory_allocated": lambda _: taken["now"], "max_memory_allocated": lambda _: taken["most"],
        "reset_peak_memory_stats": lambda _: taken.update(most=taken["now"]),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    memory = cuda_memory(torch.device("cuda"))
    assert memory.free() == 1000
    assert memory.peak(work) == 350
    assert memory.peak(lambda: None) == 0
    assert memory.peak(fail) == math.inf


def test_a_run_that_goes_on_takes_the_size_that_it_had(tmp_path: Path) -> None:
    with pytest.raises(HeartnetError, match="does not say how many weeks a batch"):
        batch_size_of(tmp_path)
    (tmp_path / "config.yaml").write_text("data:\n  batch_size: 136\n", encoding="utf-8")
    assert batch_size_of(tmp_path).weeks == 136


def test_train_keeps_the_size_in_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["model=compact"])
    OmegaConf.set_struct(config, value=False)
    config.data.batch_size, config.data.users, config.trainer.accelerator = "auto", 24, "cpu"
    monkeypatch.setattr(batch_size, "fitting_batch_size", lambda *_: batch_size.BatchSize(5, "five"))
    data, _, _ = build(config, tmp_path)
    assert (data.batch_size, config.data.batch_size) == (5, 5)
    assert len(next(iter(data.train_dataloader()))["lengths"]) == 5
    write_config(config, tmp_path)
    assert batch_size_of(tmp_path).weeks == 5
    monkeypatch.setattr(batch_size, "fitting_batch_size", lambda *_: batch_size.BatchSize(7, "seven"))
    assert build(config, tmp_path / "fold-1")[0].batch_size == 5  # all folds take the first one's
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / PRETRAINING).touch()  # begun before, if only before training
    config.data.batch_size = "auto"
    assert build(config, tmp_path)[0].batch_size == 5


def test_other_words_are_refused() -> None:
    with pytest.raises(HeartnetError, match=r"data\.batch_size=most: must be at least 1, or auto"):
        SimulatedData(Conditions(), users=24, weeks_per_user=1, batch_size="most")  # type: ignore[arg-type]
