"""What the networks of a cross-validation lose without an input: each asked about its own test, judged together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytorch_lightning as lightning

from heartnet.ablation_weeks import batches_of, check_same, metadata_place, probe_of, some_weeks
from heartnet.diagnostics.ablation import Ablation, How, Scores, ablated_scores, losses
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError
from heartnet.on_predictions import PredictedSplit
from heartnet.predictions import NETWORK
from heartnet.scaling import METADATA

Floats = npt.NDArray[np.float64]
After = dict[tuple[str, How], Floats]


def pooled_ablations(
    module: lightning.LightningModule,
    predicted: PredictedSplit,
    *,
    probe: Callable[[lightning.LightningModule, Any], Probe] | None = None,
    weeks: int = 256,
    permutations: int = 3,
    draws: int = 1000,
) -> dict[str, Ablation]:
    """Return by target what is lost with each input, over the tests of all folds; as `heartnet.ablation_weeks`.

    Inputs are permuted between the weeks of a fold, and the network of the fold is asked. The scores of all folds are
    then judged as one: a loss has one paired interval over people, and is no mean of the folds' losses. Networks need
    not score on one level, so the logits of each are moved by their mean with all inputs.

    Args:
        module: not asked, for each fold has its own.
        predicted: of all folds, on heartnet's data.
        probe: `probe(module, batch)`, for a module that cannot be guessed.
        weeks: of all folds, as many of each person as can be.
        permutations: how often each input is permuted.
        draws: resamples.

    Raises:
        HeartnetError: a network now says something else of its weeks, or no fold's weeks can be read again.
    """
    columns = pl.scan_parquet(predicted.file, glob=False).filter(pl.col("model") == NETWORK)
    frame = columns.select("week", "user_id", "target", "value", "score").collect()
    chosen = some_weeks(frame, weeks)
    parts = []
    for network, part, _ in predicted.networks(module):
        if part.data is None:
            raise HeartnetError("the weeks cannot be read again: they are not of heartnet's data module")
        rows, batches = batches_of(network, part.data, chosen[np.isin(chosen, part.data.rows["test"])])
        if len(rows):
            probes = [(probe or probe_of)(network, batch) for batch in batches]
            said = pl.DataFrame({"week": rows}).join(frame, on="week", how="left", maintain_order="left")
            place = metadata_place(probes[0], batches[0])
            users = said.unique("week", maintain_order=True)["user_id"].to_numpy().astype(str)
            before, after = ablated_scores(
                probes, users, metadata=place, fields=() if place is None else METADATA, permutations=permutations
            )
            parts.append((said, users, before, after))
    found = {}
    for i, target in enumerate(predicted.targets):
        asked = [_of_target(said, target, i, before, after, predicted.kind) for said, _, before, after in parts]
        lost = losses(
            target,
            np.concatenate([before for before, _, _ in asked]),
            _together(asked),
            np.concatenate([value for _, _, value in asked]),
            np.concatenate([users for _, users, _, _ in parts]),
            kind=predicted.kind, by=predicted.by, draws=draws,
        )  # fmt: skip
        if lost is not None:
            found[target] = lost
    return found


def _of_target(
    said: pl.DataFrame, target: str, place: int, before: Floats, after: Scores, kind: str
) -> tuple[Floats, After, Floats]:
    """Return scores before and after, and the labels, of one target and fold.

    Synthetic ones are in the target's unit; logits are less their mean before, so that folds can be compared.
    """
    part = said.select(pl.col("week").unique(maintain_order=True)).join(
        said.filter(pl.col("target") == target), on="week", how="left", maintain_order="left"
    )
    value, score = (part[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("value", "score"))
    own = before[:, place]
    check_same(own, score)
    slope, start = 1.0, -own.mean()
    if kind == "synthetic" and np.isfinite(own).all():
        slope, start = (0.0, score.mean()) if np.ptp(own) == 0 else np.polyfit(own, score, 1)
    return slope * own + start, {key: slope * each[:, :, place] + start for key, each in after.items()}, value


def _together(asked: Sequence[tuple[Floats, Mapping[tuple[str, How], Floats], Floats]]) -> After:
    """Return the scores of all folds after each change.

    A network that does not look at the metadata was not asked about each field: there it would say what it said before.
    """
    keys = max((list(after) for _, after, _ in asked), key=len)
    found = {}
    for key in keys:
        often = max(len(after[key]) for _, after, _ in asked if key in after)
        found[key] = np.concatenate(
            [after[key] if key in after else np.tile(before, (often, 1)) for before, after, _ in asked], axis=1
        )
    return found
