"""Faults that the overfit check shall name, put into the three trainings of `faults`, and a cohort that is not easy."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import torch
from faults import KINDS, Training
from torch.utils.data import DataLoader, TensorDataset

from callbacks.overfit_check import OverfitCheck
from heartnet.findings import BAD, Finding, read_jsonl


def checked(it: Training, folder: Path, **options: Any) -> list[Finding]:
    """Return the findings of a run that ends at once."""
    it.fit(folder, [OverfitCheck(**options)], max_steps=1, limit_val_batches=0)
    return read_jsonl(folder / "findings.jsonl")


def trouble(found: list[Finding]) -> list[str]:
    """Return where something is wrong, but for tasks that are easy and truly are."""
    return [each.where for each in found if each.status in BAD and not each.where.endswith("easy")]


def flipped_labels(it: Training) -> None:
    """30 % of all labels become another one."""
    rng = np.random.default_rng(1)
    if it.kind == "image":
        images, labels = it.data[0].dataset.tensors
        wrong = torch.from_numpy(rng.random(len(labels)) < 0.3)
        it.data = (_loader(images, torch.where(wrong, (labels + 1) % 4, labels)), it.data[1])
    else:
        wrong = rng.random(it.data.values.shape) < 0.3
        it.data.values = np.where(wrong, 1 - it.data.values, it.data.values).astype(np.float32)


def unaligned_labels(it: Training) -> None:
    """Labels stand beside the week before theirs, of other people."""
    if it.kind == "image":
        images, labels = it.data[0].dataset.tensors
        it.data = (_loader(images, labels.roll(1)), it.data[1])
    else:
        it.data.values = np.roll(it.data.values, 1, axis=0)


def same_inputs(it: Training) -> None:
    """Each week has the inputs of the first."""
    if it.kind == "image":
        images, labels = it.data[0].dataset.tensors
        it.data = (_loader(images[:1].expand_as(images).clone(), labels), it.data[1])
    else:
        batch = it.data.batch

        def made(rows: Any) -> Any:
            one = batch(np.zeros_like(rows))
            return batch(rows) | {name: one[name] for name in ("inputs", "lengths", "metadata")}

        it.data.batch = made


def contradictions(it: Training) -> None:
    """Weeks come in pairs of the same inputs, with other labels."""
    if it.kind == "image":
        images, labels = it.data[0].dataset.tensors
        it.data = (_loader(images[:4].repeat(len(images) // 4, 1, 1, 1), labels), it.data[1])
    else:
        batch = it.data.batch

        def made(rows: Any) -> Any:
            one = batch(np.asarray(rows) % 4)
            return batch(rows) | {name: one[name] for name in ("inputs", "lengths", "metadata")}

        it.data.batch = made


def inputs_cut_off(it: Training) -> None:
    """What the network sees is multiplied by 0."""
    it.module.network.register_forward_pre_hook(lambda _, args: (args[0] * 0, *args[1:]))
    network = it.module.network

    class Blind(type(network)):  # type: ignore[misc]
        def forward(self, inputs: Any, *rest: Any) -> Any:
            return super().forward(inputs * 0, *rest)

    network.__class__ = Blind


def frozen_weights(it: Training) -> None:
    """All but the biases of the last layer."""
    last = list(it.module.parameters())[-1]
    for each in it.module.parameters():
        each.requires_grad_(each is last)


def left_out(it: Training) -> None:
    """The second convolution is in no optimiser, by its name, so also in that of a copy."""
    name = faults.middle(it)

    def configure(self: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW([each for key, each in self.named_parameters() if not key.startswith(name)], 3e-3)

    it.module.configure_optimizers = types.MethodType(configure, it.module)


def _loader(images: Any, labels: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)


OWN: dict[str, tuple[Callable[[Training], Any], tuple[str, ...]]] = {
    "30": (unaligned_labels, ("labels",)),
    "same inputs": (same_inputs, ("cause/input",)),
    "contradictions": (contradictions, ("cause/labels",)),
    "inputs cut off": (inputs_cut_off, ("cause/input",)),
    "frozen": (frozen_weights, ("cause/architecture",)),
    "14": (faults.relu_after_logits, ("cause/architecture",)),
    "15": (faults.sigmoid_before_logits_loss, ("cause/architecture",)),
    "19": (faults.detached, ("cause/architecture",)),
    "22": (faults.rate_times_1000, ("cause/learning_rate",)),
    "23": (faults.rate_times_a_millionth, ("cause/learning_rate",)),
    "24": (left_out, ("cause/architecture",)),
    "27": (faults.loss_weight_0, ("cause/loss",)),
    "13": (faults.relu_with_low_biases, ("cause/*",)),
}
"""By number in the list of faults that the project keeps, or by name: how it is put in, and where it shall be found."""


def injected(kind: str, name: str, seed: int) -> tuple[Training, tuple[str, ...]]:
    """Return a training with a fault, and patterns of which one finding should be at."""
    it = faults.training(kind, seed, activation="relu" if name == "13" else "leaky_relu")
    fault, places = OWN[name]
    fault(it)
    return it, places


__all__ = ["KINDS", "OWN", "checked", "injected", "trouble"]
