"""The layout of TensorBoard's custom scalars: written once, read by TensorBoard itself, each number in its chart."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as lightning
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout as LayoutMessage

import callbacks
from callbacks.amnesia import Amnesia
from callbacks.input_contract import InputContract
from heartnet.report.charts import groups
from heartnet.report.events import event_files, read_events
from heartnet.tensorboard_layout import TensorBoardLayout, layout_of


class DeadThings(lightning.Callback):
    """A callback of one's own that says which of its numbers belong together, and logs them."""

    SCALARS: ClassVar[dict[str, list[str]]] = {"share": ["dead_things/[^/]+/share$"]}

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({f"dead_things/{layer}/share": 0.5 for layer in "ab"}, trainer.global_step)


def fit(folder: Path, epochs: int, **arguments: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=epochs, limit_train_batches=3, limit_val_batches=1, enable_progress_bar=False, log_every_n_steps=1,
        default_root_dir=str(folder), enable_model_summary=False, callbacks=[TensorBoardLayout(), DeadThings()],
        logger=[TensorBoardLogger(str(folder), name="", version=""), CSVLogger(str(folder / "csv"))],
    )  # fmt: skip
    with pytest.warns():
        trainer.fit(BoringModel(), **arguments)
    return trainer


def test_tensorboard_reads_the_layout_of_a_plain_trainer(tmp_path: Path) -> None:
    trainer = fit(tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path, 2, ckpt_path=str(tmp_path / "one.ckpt"))  # a resumed run writes it again, and it stays one
    run = EventMultiplexer().AddRun(str(tmp_path), "run").Reload()
    message = LayoutMessage.FromString(run.Tensors("run", "custom_scalars__config__")[-1].tensor_proto.string_val[0])
    assert [each.title for each in message.category] == ["training", "dead things"]
    for file in event_files(tmp_path):
        tags = [value.tag for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
        assert tags[0] == "custom_scalars__config__", "TensorBoard shows it from the start"
    assert [(each.title, list(each.multiline.tag)) for each in message.category[1].chart] == [
        ("share", ["dead_things/[^/]+/share$"])
    ]
    logged = read_events(event_files(tmp_path))
    (group,) = [each for each in groups(logged.scalars, logged.layout) if each.title == "dead things"]
    assert [[line.tag for line in each.lines] for each in group.charts] == [
        ["dead_things/a/share", "dead_things/b/share"]
    ]


def test_a_trainer_without_tensorboard_is_left_alone(tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        fast_dev_run=True, callbacks=[TensorBoardLayout()], default_root_dir=str(tmp_path), enable_progress_bar=False,
        enable_model_summary=False, logger=False,
    )  # fmt: skip
    with pytest.warns():
        trainer.fit(BoringModel())
    assert list(tmp_path.rglob("*tfevents*")) == []


def test_scores_are_those_of_the_task() -> None:
    for kind, score in (("conditions", "val/auroc/diabetes"), ("synthetic", "val/r2/day_night")):
        titles = matching(layout_of([], kind)["training"], score)
        assert len(titles) == 1, titles
        assert "validation" in titles[0]
    assert list(layout_of([], None)["training"]) == ["loss"]
    assert matching(layout_of([])["training"], "train/loss") == ["loss"]
    assert matching(layout_of([])["training"], "val_loss") == ["loss"]
    assert matching(layout_of([], "conditions")["training"], "baseline/metadata/auroc/diabetes") == ["AUROC, test"]


def matching(charts: dict[str, list[Any]], tag: str) -> list[str]:
    """Return the titles of the charts that TensorBoard shows a tag in."""
    return [title for title, (_, tags) in charts.items() if any(re.match(pattern, tag) for pattern in tags)]


def test_numbers_of_callbacks_have_one_chart_each() -> None:
    layout: Any = layout_of([Amnesia(), InputContract(), ModelCheckpoint()])
    assert list(layout) == ["training", "amnesia", "input contract"]
    for tag, title in (
        ("amnesia/diabetes/decades", "decades"),
        ("amnesia/diabetes/last/decades", "last: decades"),
        ("amnesia/diabetes/score/memory_hours", "score: memory in hours of wear"),
        ("amnesia/diabetes/midpoint/memory_steps", "midpoint: memory in readings"),
    ):
        assert matching(layout["amnesia"], tag) == [title]
    assert matching(layout["input contract"], "input_contract/train/mean/heart_rate") == ["mean by channel"]
    assert matching(layout["input contract"], "input_contract/val/base_rate/diabetes") == ["base rate"]


def test_what_callbacks_say_is_well_formed() -> None:
    for module in pkgutil.iter_modules(callbacks.__path__):
        for name, value in vars(import_module(f"callbacks.{module.name}")).items():
            if isinstance(value, type) and issubclass(value, lightning.Callback) and value is not lightning.Callback:
                for title, patterns in getattr(value, "SCALARS", {}).items():
                    assert title, name
                    assert not isinstance(patterns, str), name
                    assert all(re.compile(pattern).pattern.startswith(f"{module.name}/") for pattern in patterns), name


def test_a_callback_that_says_nothing_gets_a_chart_of_its_tags() -> None:
    silent = type("DeadUnits", (lightning.Callback,), {"__module__": "callbacks.dead_units"})
    layout: Any = layout_of([silent()])
    assert matching(layout["dead units"], "dead_units/conv1/share") == ["dead units"]
