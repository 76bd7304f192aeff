"""What loggers get: the same picture as TensorBoard's own way gives, and only what they take."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from heartnet.loggers import log_numbers, log_picture, log_text, takes_pictures


def trainer_with(*loggers: Any, step: int = 7) -> Any:
    return SimpleNamespace(loggers=list(loggers), global_step=step)


def figure() -> Figure:
    made = Figure(figsize=(3, 2), dpi=100)
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    axes.plot([0, 1, 2], [1, 4, 2], color="#b3261e")
    axes.fill_between([0, 1, 2], [1, 4, 2], alpha=0.3)
    axes.set_title("a title")
    return made


def pixels(event: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGBA"))


def test_the_picture_is_the_one_that_add_figure_gives(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        log_picture(trainer_with(SimpleNamespace(experiment=writer)), "ours", figure())
        writer.add_figure("theirs", figure(), global_step=7)
    events = EventAccumulator(str(tmp_path)).Reload()
    (ours,), (theirs,) = events.Images("ours"), events.Images("theirs")
    assert ours.step == theirs.step == 7
    assert (ours.width, ours.height) == (theirs.width, theirs.height) == (300, 200)
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))
    assert len(np.unique(pixels(ours).reshape(-1, 4), axis=0)) > 10


def test_a_figure_without_a_canvas_for_pixels_is_drawn_too(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        log_picture(trainer_with(SimpleNamespace(experiment=writer)), "plain", Figure(figsize=(1, 1), dpi=50))
    (event,) = EventAccumulator(str(tmp_path)).Reload().Images("plain")
    assert pixels(event).shape == (50, 50, 4)


def test_each_logger_gets_what_it_takes() -> None:
    class Kept:
        """Another's writer, or a descendant of TensorBoard's, may do as it likes with a figure."""

        def __init__(self) -> None:
            self.given: list[Any] = []

        def add_figure(self, tag: str, figure: Figure, global_step: int, close: bool) -> None:
            self.given.append((tag, figure, global_step, close))

        def add_text(self, tag: str, text: str, global_step: int) -> None:
            self.given.append((tag, text, global_step))

    kept, drawn = Kept(), figure()
    trainer = trainer_with(SimpleNamespace(experiment=kept), SimpleNamespace(experiment=object()), SimpleNamespace())
    log_picture(trainer, "a", drawn)
    log_text(trainer, "b", "words")
    assert kept.given == [("a", drawn, 7, False), ("b", "words", 7)]
    assert takes_pictures(trainer)
    assert not takes_pictures(trainer_with(SimpleNamespace(experiment=object())))
    assert not takes_pictures(trainer_with())


def test_numbers_that_are_not_numbers_are_left_out() -> None:
    given: list[Any] = []
    logger = SimpleNamespace(log_metrics=lambda numbers, step: given.append((numbers, step)))
    log_numbers(trainer_with(logger), {"a": 1.0, "b": float("nan")})
    log_numbers(trainer_with(logger), {"b": float("nan")})
    assert given == [({"a": 1.0}, 7)]
