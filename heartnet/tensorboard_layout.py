"""What TensorBoard's tab Custom Scalars puts together: the loss, the scores by condition, the numbers of callbacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytorch_lightning as lightning

from heartnet.metrics import SCORES

Layout = dict[str, dict[str, list[object]]]
"""Category → chart → `["Multiline", patterns]`, as `SummaryWriter.add_custom_scalars` takes it."""

_NAMES = {"auroc": "AUROC", "average_precision": "average precision", "mae": "mean absolute error", "r2": "R²"}


class TensorBoardLayout(lightning.Callback):
    """Writes the layout of the custom scalars at the start of training, once, to each TensorBoard logger.

    A callback says which of its numbers belong together by a class attribute

        SCALARS: ClassVar[Mapping[str, Sequence[str]]] = {"decades": [r"amnesia/[^/]+/decades$"]}

    which maps the title of a chart to patterns, regular expressions that fit a tag from its beginning; its charts stand
    in a category with the name of the callback. A callback of `callbacks/` without one gets a chart of all its tags.

    Works in any trainer: `Trainer(callbacks=[TensorBoardLayout(), DeadUnits()])`. It logs no numbers.
    """

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        layout = layout_of(trainer.callbacks, getattr(pl_module, "kind", None))  # type: ignore[attr-defined]
        for logger in trainer.loggers if trainer.is_global_zero else ():
            add_custom_scalars = getattr(getattr(logger, "experiment", None), "add_custom_scalars", None)
            if add_custom_scalars is not None:
                add_custom_scalars(layout)


def layout_of(callbacks: Sequence[lightning.Callback], kind: object = None) -> Layout:
    """Return the layout for a run with some callbacks.

    Args:
        callbacks: the trainer's.
        kind: of task, which says what scores there are; any, or None, for a module from elsewhere.
    """
    layout = {"training": _lines(_training(kind))}
    for each in callbacks:
        name = _snake(type(each).__name__)
        charts = getattr(each, "SCALARS", None)
        if charts is None and type(each).__module__.partition(".")[0] == "callbacks":
            charts = {name.replace("_", " "): [f"{name}/"]}
        if charts:
            layout[name.replace("_", " ")] = _lines(charts)
    return layout


def _training(kind: object) -> dict[str, Sequence[str]]:
    charts: dict[str, Sequence[str]] = {"loss": [r"(train|val|valid|test)(/|_)loss"]}
    for score in SCORES.get(kind, ()) if isinstance(kind, str) else ():
        charts[f"{_NAMES[score]}, validation"] = [f"val/{score}/"]
        charts[f"{_NAMES[score]}, test"] = [f"test/{score}/", f"baseline/[^/]+/{score}/"]
    return charts


def _lines(charts: Mapping[str, Sequence[str]]) -> dict[str, list[object]]:
    return {title: ["Multiline", list(patterns)] for title, patterns in charts.items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
