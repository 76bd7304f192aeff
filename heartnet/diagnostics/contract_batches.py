"""What arrives in batches: their parts, and running sums over them that stay on the batches' device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

SUMMARIES: tuple[str, ...] = ("mean", "lowest", "highest", "first", "last")
"""What is kept of each week and channel, of the values that are valid and finite."""

QUANTILES = 32
"""Values kept of each week and channel to compare splits by, at even steps through the sorted values."""

_INPUTS = ("inputs", "input", "x", "features", "data", "signal")
_TARGETS = ("targets", "target", "labels", "label", "y")
_LENGTHS = ("lengths", "length")
_MOST_VALUES = 1 << 21
_MOST_KEPT = 1 << 23
_MOST_TARGETS = 64
_MOST_CHANNELS = 1024
_MOST_SKETCHES = 256


@dataclass(frozen=True)
class Parts:
    """A batch, taken apart; what is not in it is None.

    Attributes:
        inputs: float, `[week, time, channel]`.
        valid: bool, `[week, time]`; None if all of it is.
        targets: `[week, target]`; NaN is missing.
        index: `[week]`, the week's place in the data.
        metadata: float, `[week, field]`.
        weeks: how many.
    """

    inputs: Float[Tensor, "week time channel"] | None
    valid: Bool[Tensor, "week time"] | None
    targets: Float[Tensor, "week target"] | None
    index: Int[Tensor, " week"] | None
    metadata: Float[Tensor, "week field"] | None
    weeks: int


def parts_of(batch: Any) -> Parts:
    """Take a batch apart: a tensor, or a tuple, list or mapping of tensors, of heartnet or from elsewhere.

    Inputs are the first float tensor of two or more dimensions, those with a usual name first. `[week, feature]`
    counts as one step, `[week, channel, …]` of four or more dimensions as that many channels, and of three dimensions
    the shorter of the last two is the channels, unless the batch has lengths.
    """
    named = dict(batch) if isinstance(batch, Mapping) else dict(enumerate(_listed(batch)))
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor) and _plain(value)}
    floats = {name: value for name, value in tensors.items() if value.is_floating_point() and value.dim() >= 2}
    which = next((name for name in (*_INPUTS, *floats) if name in floats), None)
    lengths = next((tensors[name] for name in _LENGTHS if name in tensors), None)
    if lengths is not None and (which is None or lengths.shape != tensors[which].shape[:1]):
        lengths = None
    inputs = None if which is None else _sequence(tensors[which].detach(), has_lengths=lengths is not None)
    weeks = len(next(iter(tensors.values()))) if inputs is None and tensors else 0 if inputs is None else len(inputs)
    rest = {name: value for name, value in tensors.items() if name != which and len(value) == weeks and value.dim() < 3}
    last = [name for name in reversed(list(rest)) if isinstance(name, int)]
    target = next((name for name in (*_TARGETS, *last) if name in rest), None)
    valid = None
    if inputs is not None and lengths is not None:
        valid = torch.arange(inputs.shape[1], device=inputs.device) < lengths.to(inputs.device)[:, None]
    metadata, index = rest.get("metadata"), rest.get("index")
    return Parts(
        inputs=inputs,
        valid=valid,
        targets=None if target is None else rest[target].detach().reshape(weeks, -1).float(),
        index=index if index is not None and index.dim() == 1 and not index.is_floating_point() else None,
        metadata=metadata.detach() if metadata is not None and metadata.dim() == 2 else None,
        weeks=weeks,
    )


def _plain(value: Tensor) -> bool:
    """Tell whether a tensor holds real numbers one after the other: not sparse, nested, empty, or without memory."""
    odd = value.layout != torch.strided or value.is_nested or value.is_meta or value.is_complex()
    return not odd and value.numel() > 0 and value.dim() > 0


def _listed(batch: Any) -> list[Any]:
    if not isinstance(batch, tuple | list):
        return [batch]
    return [each for part in batch for each in (part if isinstance(part, tuple | list) else [part])]


def _sequence(values: Tensor, *, has_lengths: bool) -> Tensor:
    if values.dim() == 2:
        return values[:, None]
    if values.dim() > 3:
        return values.flatten(2).transpose(1, 2)
    return values if has_lengths or values.shape[1] >= values.shape[2] else values.transpose(1, 2)


@dataclass(frozen=True)
class Numbers:
    """What a `Tally` has seen, in NumPy; of valid values, and where not said otherwise of finite ones.

    Attributes:
        weeks: how many came.
        bad: `[channel]`, how many values were NaN or infinite.
        count: `[channel]`, how many were finite.
        zeros: `[channel]`, how many were exactly 0.
        mean, std, lowest, highest: `[channel]`; NaN, and lowest above highest, without values.
        correlation: `[channel, channel]`; NaN where one is constant; empty for more than a thousand channels.
        summaries: `[week, channel, summary]` of the first weeks; summaries as in `SUMMARIES`.
        targets, metadata: `[week, …]` of the same weeks; None if batches had none.
        index: `[week]` of all weeks; None if batches had none.
        known, positive, other: `[target]`, how many were known, were 1, were neither 0 nor 1.
        bad_metadata: how many values of metadata were NaN or infinite.
        sketches: `[week, channel, quantile]` of the first weeks; empty if not asked for.
    """

    weeks: int
    bad: Int64[np.ndarray, " channel"]
    count: Int64[np.ndarray, " channel"]
    zeros: Int64[np.ndarray, " channel"]
    mean: Float64[np.ndarray, " channel"]
    std: Float64[np.ndarray, " channel"]
    lowest: Float64[np.ndarray, " channel"]
    highest: Float64[np.ndarray, " channel"]
    correlation: Float64[np.ndarray, "some some"]
    summaries: Float64[np.ndarray, "week channel summary"]
    targets: Float64[np.ndarray, "week target"] | None
    metadata: Float64[np.ndarray, "week field"] | None
    index: Int64[np.ndarray, " all_weeks"] | None
    known: Int64[np.ndarray, " target"]
    positive: Int64[np.ndarray, " target"]
    other: Int64[np.ndarray, " target"]
    bad_metadata: int
    sketches: Float64[np.ndarray, "sketched channel quantile"]


class Tally:
    """Running sums over the batches of one split; adding one never waits for the device.

    Args:
        sketch: also keep quantiles of the first weeks, to compare splits by.
    """

    def __init__(self, *, sketch: bool = False) -> None:
        self.sketch = sketch
        self.batches = self.weeks = 0
        self._kept_values = 0
        self.odd = 0  # batches with another number of channels than the first
        self.bad: Tensor | None = None
        self._sums: Tensor | None = None
        self._cross: Tensor | None = None
        self._range: Tensor | None = None
        self._labels: Tensor | None = None
        self._bad_metadata: Tensor | None = None
        self._kept: dict[str, list[Tensor]] = {
            name: [] for name in ("summaries", "targets", "metadata", "index", "sketches")
        }

    def add(self, parts: Parts) -> None:
        """Add a batch."""
        keep = self._kept_values < _MOST_KEPT
        if parts.inputs is not None:
            self._kept_values += parts.weeks * parts.inputs.shape[2] * len(SUMMARIES)
        self.batches += 1
        self.weeks += parts.weeks
        if parts.index is not None:
            self._kept["index"].append(parts.index.detach().clone())
        if parts.metadata is not None:
            self._bad_metadata = _plus(self._bad_metadata, (~parts.metadata.isfinite()).sum())
            if keep:
                self._kept["metadata"].append(parts.metadata.clone())
        if parts.targets is not None and parts.targets.shape[1] <= _MOST_TARGETS:
            self._add_targets(parts.targets, keep=keep)
        if parts.inputs is None or not parts.inputs.numel():
            return
        if self.bad is not None and len(self.bad) != parts.inputs.shape[2]:
            self.odd += 1
            return
        self._add_inputs(parts.inputs, parts.valid, keep=keep)

    def _add_targets(self, targets: Float[Tensor, "week target"], *, keep: bool) -> None:
        known = ~targets.isnan()
        binary = (targets == 0) | (targets == 1)
        counts = torch.stack([known.sum(0), (targets == 1).sum(0), (known & ~binary).sum(0)])
        if self._labels is None or self._labels.shape == counts.shape:
            self._labels = _plus(self._labels, counts)
            if keep:
                self._kept["targets"].append(targets.clone())

    def _add_inputs(
        self, inputs: Float[Tensor, "week time channel"], valid: Bool[Tensor, "week time"] | None, *, keep: bool
    ) -> None:
        values = inputs.transpose(1, 2).contiguous()  # time last: reductions over it are several times faster
        finite = values.isfinite()
        inside = finite if valid is None else finite & valid[:, None]
        wrong = (values.shape[0] * values.shape[2] if valid is None else valid.sum()) - inside.sum(dim=(0, 2))
        self.bad = _plus(self.bad, wrong)
        every = -(-inputs.numel() // _MOST_VALUES)  # of very large inputs, such as pictures, every n-th value
        values, inside = values[..., ::every], inside[..., ::every]
        precise = torch.float32 if inputs.device.type == "mps" else torch.float64
        count, exact = inside.sum(dim=2), torch.where(inside, values, 0).to(precise)
        total = exact.sum(dim=2)
        zeros = count - exact.count_nonzero(dim=2)
        sums = [count, total, exact.square().sum(dim=2), zeros]
        self._sums = _plus(self._sums, torch.stack([each.sum(dim=0).to(precise) for each in sums]))
        if exact.shape[1] <= _MOST_CHANNELS:
            self._cross = _plus(self._cross, (exact @ exact.transpose(1, 2)).sum(dim=0))
        lowest = torch.where(inside, values, torch.inf).amin(dim=2).to(precise)
        highest = torch.where(inside, values, -torch.inf).amax(dim=2).to(precise)
        spans = torch.stack([lowest.amin(dim=0), -highest.amax(dim=0)])
        self._range = spans if self._range is None else torch.minimum(self._range, spans)
        if keep:
            end = exact.shape[2] - 1 - inside.flip(2).int().argmax(dim=2, keepdim=True)
            ends = [exact[..., 0], exact.gather(2, end)[..., 0]]
            kept = [total / count.clamp(min=1), lowest, highest, *ends]
            self._kept["summaries"].append(torch.stack(kept, dim=2))
        if self.sketch and sum(map(len, self._kept["sketches"])) < _MOST_SKETCHES:
            self._kept["sketches"].append(_sketch(exact, inside))

    def read(self) -> Numbers | None:
        """Return the sums; None if no inputs came. This waits for the device."""
        if self._sums is None or self._range is None or self.bad is None:
            return None
        count, total, squares, zeros = self._sums.double().cpu().numpy()
        many = np.maximum(count, 1)
        mean = total / many
        correlation = np.zeros((0, 0))
        std = np.sqrt(np.maximum(squares / many - mean**2, 0))
        spread = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1), std, np.nan)
        if self._cross is not None:
            covariance = self._cross.double().cpu().numpy() / many.max() - np.outer(mean, mean)
            correlation = covariance / np.outer(spread, spread)
        lowest, highest = self._range.double().cpu().numpy() * [[1], [-1]]
        labels = np.zeros((3, 0), np.int64) if self._labels is None else self._labels.cpu().numpy()
        targets = self._stacked("targets")
        return Numbers(
            weeks=self.weeks,
            bad=self.bad.cpu().numpy(),
            count=count.astype(np.int64),
            zeros=zeros.astype(np.int64),
            mean=np.where(count > 0, mean, np.nan),
            std=np.where(count > 0, std, np.nan),
            lowest=lowest,
            highest=highest,
            correlation=correlation,
            summaries=self._stacked("summaries"),
            targets=targets if len(targets) else None,
            metadata=self._stacked("metadata") if self._kept["metadata"] else None,
            index=self._stacked("index").astype(np.int64) if self._kept["index"] else None,
            known=labels[0],
            positive=labels[1],
            other=labels[2],
            bad_metadata=0 if self._bad_metadata is None else int(self._bad_metadata),
            sketches=self._stacked("sketches") if self._kept["sketches"] else np.zeros((0, len(mean), QUANTILES)),
        )

    def _stacked(self, name: str) -> Any:
        kept = self._kept[name]
        return torch.cat(kept).double().cpu().numpy() if kept else np.zeros((0,))


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _sketch(
    values: Float[Tensor, "week channel time"], inside: Bool[Tensor, "week channel time"]
) -> Float[Tensor, "week channel quantile"]:
    """Return values at even steps through the sorted valid ones; NaN for a channel without any."""
    ordered = torch.where(inside, values, torch.inf).sort(dim=2).values
    count = inside.sum(dim=2)[..., None]
    share = (torch.arange(QUANTILES, device=values.device) + 0.5) / QUANTILES
    found = ordered.gather(2, (share * count).long().clamp(max=values.shape[2] - 1))
    return torch.where(count > 0, found, torch.nan)


class LabelTally:
    """Compares the targets of batches with the data's own columns, by `index`; never waits for the device.

    Args:
        columns: `[week, column]`, what the data holds; NaN is missing.
        split_of: `[week]`, the number of the split that each week belongs to; −1 for none.
        split: the number of the split that the batches are of.
    """

    def __init__(
        self, columns: Float[np.ndarray, "week column"], split_of: Int64[np.ndarray, " week"], split: int
    ) -> None:
        self.columns, self.split_of = torch.from_numpy(columns).float(), torch.from_numpy(split_of)
        self.split = split
        self.weeks = 0
        self._same: Tensor | None = None
        self._opposite: Tensor | None = None
        self._strangers: Tensor | None = None

    def add(self, parts: Parts) -> None:
        """Add a batch that has targets and an index."""
        if parts.targets is None or parts.index is None:
            return
        targets, index = parts.targets, parts.index.to(parts.targets.device).long()
        self.columns = self.columns.to(targets.device)
        self.split_of = self.split_of.to(targets.device)
        known_place = (index >= 0) & (index < len(self.columns))
        index = index.clamp(0, len(self.columns) - 1)
        held, came = self.columns[index][:, None, :], targets[:, :, None]
        same = ((came - held).abs() <= 1e-3 * (1 + held.abs())) | (came.isnan() & held.isnan())
        opposite = (came + held == 1) | (came.isnan() & held.isnan())
        self.weeks += parts.weeks
        self._same = _plus(self._same, (same & known_place[:, None, None]).sum(0))
        self._opposite = _plus(self._opposite, (opposite & known_place[:, None, None]).sum(0))
        self._strangers = _plus(self._strangers, ((self.split_of[index] != self.split) | ~known_place).sum())

    def read(self) -> tuple[Int64[np.ndarray, "target column"], Int64[np.ndarray, "target column"], int] | None:
        """Return in how many weeks each target was the same as each column, its opposite, and how many weeks were of
        another split; None if nothing came. This waits for the device."""
        if self._same is None or self._opposite is None or self._strangers is None:
            return None
        return self._same.cpu().numpy(), self._opposite.cpu().numpy(), int(self._strangers)


def channel_names(known: Sequence[str], count: int) -> tuple[str, ...]:
    """Return names of `count` channels: the known ones, then `channel_3` and so on."""
    return (*known[:count], *(f"channel_{i}" for i in range(len(known), count)))
