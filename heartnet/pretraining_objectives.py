"""What pretraining learns: synthetic targets, or the week itself, from the features before the last layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError
from heartnet.model.autoencoder import SequenceDecoder
from heartnet.pretraining_weeks import PretrainingRows, PretrainingWeeks
from heartnet.synthetic import TARGETS

Values = Callable[[Any], Float[Tensor, "batch target"]]
"""Gives the targets of a batch, NaN where missing."""


def make_objective(
    name: str,
    encode: Callable[[Any], tuple[Tensor, Probe]],
    weeks: PretrainingWeeks | PretrainingRows,
    targets: Sequence[str] | None = None,
    values: Values | None = None,
) -> TargetsHead | Rebuild:
    """Return what is trained besides the encoder, with first weights from torch's random stream.

    Args:
        name: `heuristic` or `autoencoder`.
        encode: gives features `[batch, feature]` and the probe of a batch.
        weeks: what pretraining is fed from; gone through once, if it is data from elsewhere.
        targets: names of synthetic targets; None for all that are known and differ in both parts of the weeks.
        values: of data from elsewhere.

    Raises:
        HeartnetError: the features are no vectors, or there is nothing to learn.
    """
    with torch.no_grad():
        features, probe = encode(next(weeks.val()))
    if features.dim() != 2:
        raise HeartnetError(f"the features before the last layer have shape {tuple(features.shape)}, not [batch, n]")
    size = features.shape[1]
    if name == "autoencoder":
        return Rebuild(size, probe.channels, _longest(encode, weeks))
    if isinstance(weeks, PretrainingWeeks):
        return _targets_of_weeks(size, weeks, tuple(targets or TARGETS))
    if values is None:
        raise HeartnetError(
            "the synthetic targets of this data are unknown: say them by values=lambda batch: …, or set "
            "objective=autoencoder"
        )
    seen = torch.cat([values(batch).float() for batch in weeks.train(0)])
    return TargetsHead(size, targets or [f"target_{i}" for i in range(seen.shape[1])], seen, values)


class TargetsHead(nn.Module):
    """Predicts targets from features, linearly; both are in the targets' standard deviations.

    Args:
        features: numbers that the encoder gives.
        names: of the targets.
        seen: `[week, target]`, NaN where missing, of the weeks that are trained on; mean and spread are theirs.
        values: the targets of a batch.
    """

    def __init__(self, features: int, names: Sequence[str], seen: Float[Tensor, "week target"], values: Values) -> None:
        super().__init__()
        self.names, self.values = tuple(names), values
        self.linear = nn.Linear(features, len(self.names))
        self.mean: Tensor
        self.std: Tensor
        mean, std = (np.asarray(of(seen.double().numpy(), axis=0)) for of in (np.nanmean, np.nanstd))
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("std", torch.from_numpy(np.where(std > 1e-6, std, 1.0)).float())

    def forward(self, features: Tensor, probe: Probe, batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what is predicted and what is true, `[row, column]`, NaN where that is not known."""
        truth = self.values(batch).to(features.device, torch.float32)
        return self.linear(features), (truth - self.mean) / self.std


class Rebuild(nn.Module):
    """Rebuilds the inputs from the features (`SequenceDecoder`); missing and padded readings do not count."""

    def __init__(self, features: int, names: Sequence[str], longest: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.by_means = False  # rebuild by each week's own means, to compare with
        self.decoder = SequenceDecoder(features, len(self.names), longest)

    def forward(self, features: Tensor, probe: Probe, batch: Any) -> tuple[Tensor, Tensor]:
        """Return what is rebuilt and what was there, `[row, column]`, NaN where that is not known."""
        inputs = probe.inputs.float()
        valid = torch.arange(inputs.shape[1], device=inputs.device) < probe.lengths.to(inputs.device)[:, None]
        known = valid[:, :, None].expand_as(inputs)
        if isinstance(batch, Mapping) and "known" in batch:
            known = known & batch["known"].to(inputs.device)
        truth = inputs.masked_fill(~known, torch.nan)
        if self.by_means:
            return truth.nanmean(dim=1, keepdim=True).expand_as(truth).flatten(0, 1), truth.flatten(0, 1)
        return self.decoder(features, inputs.shape[1]).flatten(0, 1), truth.flatten(0, 1)


Objective = TargetsHead | Rebuild


def _targets_of_weeks(size: int, weeks: PretrainingWeeks, names: tuple[str, ...]) -> TargetsHead:
    table = torch.from_numpy(weeks.targets(names))
    apart = torch.from_numpy(weeks.is_val)
    usable = [i for i in range(len(names)) if all(_varies(table[part, i]) for part in (apart, ~apart))]
    if not usable:
        count = int(apart.sum())
        raise HeartnetError(
            f"none of {', '.join(names)} is known and different both in the {len(apart) - count:,} weeks to "
            f"pretrain on and in the {count:,} kept to validate it; more weeks help, or a larger "
            "callbacks.synthetic_pretraining.val_share"
        )
    table = table[:, usable]
    return TargetsHead(size, [names[i] for i in usable], table[~apart], lambda batch: table[batch["place"].cpu()])


def _varies(values: Tensor) -> bool:
    known = values[~values.isnan()]
    return len(known) >= 2 and bool(known.min() < known.max())


def _longest(encode: Callable[[Any], tuple[Tensor, Probe]], weeks: PretrainingWeeks | PretrainingRows) -> int:
    if isinstance(weeks, PretrainingWeeks):
        return weeks.longest
    with torch.no_grad():
        return max(encode(batch)[1].inputs.shape[1] for part in (weeks.train(0), weeks.val()) for batch in part)
