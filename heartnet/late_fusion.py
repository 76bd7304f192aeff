"""Late fusion: a network of the sensors and a logistic regression on the metadata, trained apart, added at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.isolate import isolated
from heartnet.errors import HeartnetError
from heartnet.model.deepheart import LateFusion

if TYPE_CHECKING:
    from heartnet.module import HeartnetModule

Floats = npt.NDArray[np.float64]


def fuse(module: HeartnetModule) -> None:
    """Fit the fusion of a network with `model.metadata=late_fusion` to the weights it has now; else do nothing.

    The metadata model is fitted on the training split. How much each of the two counts is fitted on the validation
    split, which the network was not trained on. The scores of the validation stay those of the sensors alone.
    """
    fusion = fusion_of(module)
    if fusion is None or module.trainer.state.fn != "fit" or module.trainer.sanity_checking:
        return
    data = _data_of(module)
    fusion.reset()
    train, rows = data.rows["train"], data.rows["val"]
    rows = rows[np.argsort(np.diff(data.weeks.offsets)[rows], kind="stable")]  # little padding
    found = fitted(
        data.metadata[train], data.values[train], data.metadata[rows], _logits(module, data, rows), data.values[rows]
    )
    fusion.set(*(torch.from_numpy(each).float().to(fusion.scale) for each in found))


def undo(module: HeartnetModule) -> None:
    """Leave the sensors' network alone again, so that it trains without regard to the metadata."""
    fusion = fusion_of(module)
    if fusion is not None:
        fusion.reset()


def check(module: HeartnetModule) -> None:
    """Say what a fusion needs, before it trains.

    Raises:
        HeartnetError: the data cannot serve.
    """
    if fusion_of(module) is not None:
        _data_of(module)


def fusion_of(module: HeartnetModule) -> LateFusion | None:
    """Return the fusion of a module's network, if it has one."""
    fusion = getattr(module.network, "fusion", None)
    return fusion if isinstance(fusion, LateFusion) else None


def fitted(
    train_metadata: Float[np.ndarray, "trained field"],
    train_value: Float[np.ndarray, "trained output"],
    metadata: Float[np.ndarray, "week field"],
    logits: Float[np.ndarray, "week output"],
    value: Float[np.ndarray, "week output"],
) -> tuple[Floats, Floats, Floats]:
    """Return `scale` [output], `weight` [field, output] and `bias` [output] of a `LateFusion`.

    Two logistic regressions for each output: of the label on the metadata, on some weeks; and of the label on its
    logits and the network's, on others. An output of which either split knows only one class stays with the network.

    Args:
        train_metadata, train_value: what the metadata model is fitted on; labels 1, 0, or NaN where unknown.
        metadata, logits, value: what the combination is fitted on; logits are the network's.
    """
    outputs = logits.shape[1]
    scale, weight, bias = np.ones(outputs), np.zeros((train_metadata.shape[1], outputs)), np.zeros(outputs)
    for i in range(outputs):
        alone = _logistic(train_metadata, train_value[:, i])
        if alone is None:
            continue
        slopes, intercept = alone
        both = np.stack([logits[:, i], metadata @ slopes + intercept], axis=1)
        joined = _logistic(both, value[:, i])
        if joined is not None:
            (scale[i], share), last = joined
            weight[:, i], bias[i] = share * slopes, share * intercept + last
    return scale, weight, bias


def _logistic(
    features: Float[np.ndarray, "week feature"], value: Float[np.ndarray, " week"]
) -> tuple[Floats, float] | None:
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(value)
    if len(np.unique(value[known])) < 2:
        return None
    model: Any = LogisticRegression(max_iter=2000).fit(features[known].astype(np.float64), value[known])
    return model.coef_[0], float(model.intercept_[0])


def _data_of(module: HeartnetModule) -> WeeksDataModule:
    data = getattr(module.trainer, "datamodule", None)
    if not isinstance(data, WeeksDataModule) or module.kind != "conditions":
        raise HeartnetError("model.metadata=late_fusion needs heartnet's data module and task=conditions")
    if len(data.rows["val"]) == 0:
        raise HeartnetError("model.metadata=late_fusion is fitted on the validation split: set data.val_share above 0")
    return data


def _logits(module: HeartnetModule, data: WeeksDataModule, rows: npt.NDArray[np.int64]) -> Floats:
    """Return what the network says of weeks, `[week, output]`, leaving no trace."""
    found, size = [], data.batch_size
    with isolated(module.network, torch.float32) as network, torch.no_grad():
        for first in range(0, len(rows), size):
            batch = module.transfer_batch_to_device(data.batch(rows[first : first + size]), module.device, 0)
            found.append(network(batch["inputs"], batch["lengths"], batch["metadata"]).score.double().cpu().numpy())
    return np.concatenate(found)
