"""What goes to a trainer's loggers: numbers, pictures and texts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pytorch_lightning as lightning
    from matplotlib.figure import Figure

_LEVEL = 1
"""Of PNG's compression: 6, the usual, takes half as long again, for 3 % less of a heatmap and 1 % of a week."""


def log_numbers(trainer: lightning.Trainer, numbers: Mapping[str, float]) -> None:
    """Give the numbers that are not NaN to all loggers."""
    known = {tag: value for tag, value in numbers.items() if value == value}
    for logger in trainer.loggers if known else ():
        logger.log_metrics(known, step=trainer.global_step)


def takes_pictures(trainer: lightning.Trainer) -> bool:
    """Return whether there is a logger that `log_picture` gives something to."""
    return bool(_writers(trainer, "add_figure"))


def log_picture(trainer: lightning.Trainer, tag: str, figure: Figure) -> None:
    """Give a figure to each logger that takes one.

    TensorBoard's own writer gets it as PNG: its `add_figure`, which goes by way of arrays of numbers, takes a third
    longer for the same picture (93 ms in place of 69 for a heatmap).
    """
    summary: Any = None
    for writer in _writers(trainer, "add_figure"):
        if not _is_tensorboard(writer):
            writer.add_figure(tag, figure, global_step=trainer.global_step, close=False)
            continue
        summary = summary or _summary(tag, figure)
        writer.file_writer.add_summary(summary, trainer.global_step)


def log_text(trainer: lightning.Trainer, tag: str, text: str) -> None:
    """Give a text in Markdown to each logger that takes one."""
    for writer in _writers(trainer, "add_text"):
        writer.add_text(tag, text, global_step=trainer.global_step)


def _writers(trainer: lightning.Trainer, method: str) -> list[Any]:
    experiments = [getattr(logger, "experiment", None) for logger in trainer.loggers]
    return [each for each in experiments if hasattr(each, method)]


def _is_tensorboard(writer: object) -> bool:
    from torch.utils.tensorboard import SummaryWriter

    return type(writer) is SummaryWriter and writer.file_writer is not None


def _summary(tag: str, figure: Figure) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    png = io.BytesIO()
    picture.save(png, format="PNG", compress_level=_LEVEL)
    image = Summary.Image(height=picture.height, width=picture.width, colorspace=3, encoded_image_string=png.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])
