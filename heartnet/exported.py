"""A trained network as other programs see it: natural units in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heartnet.chosen_checkpoint import Chosen
from heartnet.hourly import HOURLY_UNITS
from heartnet.scaling import LOGARITHMIC, METADATA
from heartnet.synthetic import TARGETS

UNITS = {"heart_rate": "bpm", "steps": "count since the reading before", "dt": "seconds since the reading before"}
"""Of the channels of readings."""

METADATA_UNITS = {"age": "years", "sex": "0 female, 1 male", "bmi": "kg/m²"}


class Exported(nn.Module):
    """Scales, masks, calls the network, and makes scores of what it says, as `heartnet predict` does.

    NaN is missing. What lies beyond a week's length is never looked at, and may be anything.

    Args:
        chosen: a checkpoint; its module is used as it is.
    """

    def __init__(self, chosen: Chosen) -> None:
        super().__init__()
        scaling = chosen.module.scaling
        self.network = chosen.module.network
        self.conditions = chosen.module.kind == "conditions"
        self.mask_channel = chosen.mask_channel
        self.takes_metadata = getattr(self.network, "arguments", {}).get("metadata", "none") != "none"
        self.heart_rate = scaling.channels.index("heart_rate" if chosen.view == "readings" else "mean")
        logarithmic = [name in LOGARITHMIC for name in scaling.channels]
        constants = {
            "logarithmic": torch.tensor(logarithmic),
            "mean": torch.tensor(scaling.mean),
            "std": torch.tensor(scaling.std),
            "metadata_mean": torch.tensor(scaling.metadata_mean),
            "metadata_std": torch.tensor(scaling.metadata_std),
            "target_mean": chosen.module.target_mean.clone(),
            "target_std": chosen.module.target_std.clone(),
        }
        for name, each in constants.items():
            self.register_buffer(name, each)

    def forward(
        self,
        readings: Float[Tensor, "batch time channel"],
        lengths: Int[Tensor, " batch"],
        metadata: Float[Tensor, "batch field"] | None = None,
    ) -> tuple[Float[Tensor, "batch target"], Float[Tensor, "batch target"]]:
        """Return scores (probabilities, or targets in their unit), and what the network said of which they are made."""
        valid = (torch.arange(readings.shape[1], device=readings.device) < lengths[:, None])[:, :, None]
        missing = torch.isnan(readings) | ~valid
        values = torch.where(missing, torch.zeros_like(readings), readings)
        values = torch.where(self.get_buffer("logarithmic"), torch.log1p(values.clamp(min=0)), values)
        scaled = (values - self.get_buffer("mean")) / self.get_buffer("std")
        inputs = torch.where(missing, torch.zeros_like(scaled), scaled)
        if self.mask_channel:
            unmeasured = torch.isnan(readings[:, :, self.heart_rate :][:, :, :1]) & valid
            inputs = torch.cat([inputs, unmeasured.to(inputs.dtype)], dim=2)
        about = None
        if metadata is not None:
            unknown = torch.isnan(metadata)
            people = (metadata - self.get_buffer("metadata_mean")) / self.get_buffer("metadata_std")
            about = torch.cat([torch.where(unknown, torch.zeros_like(people), people), (~unknown).to(people.dtype)], 1)
        said = self.network(inputs, lengths, about).score
        if self.conditions:
            return torch.sigmoid(said), said
        return said * self.get_buffer("target_std") + self.get_buffer("target_mean"), said

    def examples(self, seen: Sequence[np.ndarray], metadata: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what `forward` takes of some weeks, padded by NaN to the longest of them.

        Args:
            seen: of `heartnet.network_inputs.seen_of`, `[time, channel]`.
            metadata: of `heartnet.scaling.metadata_values`, `[week, field]`.
        """
        lengths = np.array([len(week) for week in seen], dtype=np.int64)
        readings = np.full((len(seen), int(lengths.max()), seen[0].shape[1]), np.nan, np.float32)
        for i, week in enumerate(seen):
            readings[i, : len(week)] = week
        return (readings, lengths, *([metadata.astype(np.float32)] if self.takes_metadata else []))


def described(chosen: Chosen, inputs: Sequence[str]) -> dict[str, Any]:
    """Return what stands in an exported file beside the network: its inputs and outputs by name, with their units."""
    module = chosen.module
    hourly = chosen.view == "hourly"
    units = HOURLY_UNITS if hourly else UNITS
    channels = [{"name": name, "unit": units[name]} for name in module.scaling.channels]
    step = (
        "one of the 168 hours of a week, from Monday 00:00 local time"
        if hourly
        else (
            "one reading, in time order, of a week as `heartnet prepare` cuts and thins it; dt of the first is missing"
        )
    )
    fields = [{"name": name, "unit": METADATA_UNITS[name]} for name in METADATA]
    known: dict[str, Any] = {
        "readings": {"type": "float32 [batch, time, channel]", "time": step, "channel": channels, "missing": "NaN"},
        "lengths": {
            "type": "int64 [batch]",
            "what": "steps of each week, at least 1; what lies beyond is not looked at",
        },
        "metadata": {"type": "float32 [batch, field]", "field": fields, "missing": "NaN"},
    }
    if module.kind == "conditions":
        scores: dict[str, Any] = {
            "type": "float32 [batch, target]",
            "what": "probability",
            "target": list(module.targets),
        }
        said = {"type": "float32 [batch, target]", "what": "logit of the score", "target": list(module.targets)}
    else:
        units_of = [{"name": name, "unit": TARGETS[name].unit} for name in module.targets]
        scores = {"type": "float32 [batch, target]", "what": "the target in its unit", "target": units_of}
        said = {"type": "float32 [batch, target]", "what": "the target, scaled", "target": list(module.targets)}
    return {"inputs": {name: known[name] for name in inputs}, "outputs": {"scores": scores, "logits": said}}
