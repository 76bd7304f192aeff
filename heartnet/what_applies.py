"""What applies to a run: whether a check does, which options made its network, how more people come into a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytorch_lightning as lightning

from heartnet.datamodule import WeeksDataModule
from heartnet.findings import Finding


def only_conditions(check: str, split: str, why: str, step: int) -> Finding:
    """Return the finding of a check that has nothing to say of synthetic targets; `why` ends the sentence."""
    return Finding(check, "unknown", split, None, None, "", f"only for conditions: {why}.", (), step)


def more_people(split: str, by: Literal["user", "week"], data: WeeksDataModule | None) -> str:
    """Return the sentence on what brings more people, or weeks where these were split, into a split.

    Args:
        split: `val` or `test`.
        by: what was split.
        data: None if not from heartnet's data module, of which the options are not known.
    """
    people = "people" if by == "user" else "weeks"
    ways = []
    if data is not None and not (split == "test" and data.folds):  # each fold has its share of all
        ways.append(f"raise data.{split}_share")
    if data is not None and not data.folds and by == "user":
        ways.append("cross-validate by person")
    ways.append(f"add {people}")
    words = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])}{',' if len(ways) > 2 else ''} or {ways[-1]}"
    return f"{words[0].upper()}{words[1:]}."


def settings_of(module: lightning.LightningModule, trainer: lightning.Trainer) -> dict[str, object]:
    """Return how a network of ours was made and trained, by Hydra override; nothing of another one."""
    arguments = getattr(getattr(module, "network", None), "arguments", None)
    if not isinstance(arguments, Mapping):
        return {}
    settings: dict[str, object] = {f"model.{name}": value for name, value in arguments.items()}
    settings |= {f"module.{name}": getattr(module, name, None) for name in ("learning_rate", "weight_decay")}
    return settings | {"trainer.max_epochs": trainer.max_epochs}
