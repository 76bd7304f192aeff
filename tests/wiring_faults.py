"""Faults of the wiring, put into the three trainings of `faults.py`, and where each should be named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from faults import (
    Training,
    loss_weight_0,
    relu_after_logits,
    relu_after_one_logit,
    sigmoid_before_logits_loss,
    training,
    view_for_permute,
)  # fmt: skip
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from heartnet.logits import Logits


def columns_permuted_in_validation(it: Training) -> list[str]:
    """The labels of two heads (of classes: each of the next) are exchanged in the validation split."""
    if it.kind == "image":
        images, labels = it.data[1].dataset.tensors
        it.data = (it.data[0], DataLoader(TensorDataset(images, (labels + 1) % 4), batch_size=8))
        return ["val/output_0+output_1+output_2+output_3"]
    batch, rows = it.data.batch, set(it.data.rows["val"].tolist())

    def permuted(wanted: Any) -> dict[str, Tensor]:
        made: dict[str, Tensor] = batch(wanted)
        if set(np.asarray(wanted).tolist()) <= rows:
            made["targets"] = made["targets"].flip(1)
        return made

    it.data.batch = permuted
    return ["val/sleep_apnea+diabetes", "val/diabetes+sleep_apnea"]


def identity_for_activations(it: Training) -> list[str]:
    for module in list(it.module.modules()):
        for name, each in module.named_children():
            if type(each).__module__ == "torch.nn.modules.activation":
                setattr(module, name, nn.Identity())
    return {
        "deepheart": ["network.convolutions.1/linear"],
        "hourly": ["network.convolutions.1/linear"],
        "image": ["network.3/linear"],
    }[it.kind]


def reach(it: Training) -> tuple[Any, str]:
    """Return a layer in the middle, and what runs after it."""
    name = {"deepheart": "network.dropout", "hourly": "network.dropout", "image": "network.4"}[it.kind]
    return it.module.get_submodule(name), name


def dropout_left_on(it: Training) -> list[str]:
    """A dropout that evaluation mode does not turn off."""
    layer, name = reach(it)

    class Always(type(layer)):  # type: ignore[misc]
        def forward(self, *args: Any) -> Any:
            return F.dropout(super().forward(*args), 0.2, True)

    layer.__class__ = Always
    return [f"{name}/repeatable"]


class ReadsPadding(nn.Module):
    """The network, told that all steps of a batch are valid."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.inner, self.arguments = network, network.arguments

    def forward(self, inputs: Tensor, lengths: Tensor, metadata: Tensor) -> Logits:
        logits: Logits = self.inner(inputs, torch.full_like(lengths, inputs.shape[1]), metadata)
        return logits


class LastStep(ReadsPadding):
    """The network, whose score is read out at the last step of the batch, padded or not."""

    def forward(self, inputs: Tensor, lengths: Tensor, metadata: Tensor) -> Logits:
        logits: Logits = self.inner(inputs, lengths, metadata)
        assert logits.steps is not None
        return Logits(logits.steps, logits.steps[:, -1])


def padding_read(it: Training) -> list[str]:
    if it.kind == "image":  # pictures have no padding
        return []
    it.module.network = ReadsPadding(it.network)
    return ["network/padding"]


def last_padded_step(it: Training) -> list[str]:
    if it.kind != "deepheart":  # the others have no steps to read out
        return []
    it.module.network = LastStep(it.network)
    return ["network/padding"]


def labels_shifted_in_validation(it: Training) -> list[str]:
    """The labels of validation are those of the sample before."""
    if it.kind == "image":
        images, labels = it.data[1].dataset.tensors
        it.data = (it.data[0], DataLoader(TensorDataset(images, labels.roll(1)), batch_size=8))
    else:
        rows = np.sort(it.data.rows["val"])
        it.data.values = it.data.values.copy()
        it.data.values[rows] = np.roll(it.data.values[rows], 1, axis=0)
    return ["val/aligned"]


def placed(fault: Callable[[Training], list[str]], *places: str) -> Callable[[Training], list[str]]:
    def inject(it: Training) -> list[str]:
        fault(it)
        return list(places)

    return inject


def mixed(it: Training) -> list[str]:
    return view_for_permute(it)


FAULTS: dict[int | str, Callable[[Training], list[str]]] = {
    10: columns_permuted_in_validation,
    12: identity_for_activations,
    14: placed(relu_after_logits, "logits/range"),
    "14b": placed(relu_after_one_logit, "diabetes/range", "output_1/range"),
    15: placed(sigmoid_before_logits_loss, "logits/range"),
    16: mixed,
    27: loss_weight_0,
    28: dropout_left_on,
    29: padding_read,
    "29b": last_padded_step,
    30: labels_shifted_in_validation,
}
"""By number in the list of faults that the project keeps."""


def faulty(kind: str, number: int | str, seed: int) -> tuple[Training, list[str]]:
    """Return a training with a fault, and where it should be found; nowhere if this training cannot have it."""
    it = training(kind, seed)
    return it, FAULTS[number](it)
