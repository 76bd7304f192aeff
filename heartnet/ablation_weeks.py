"""Which weeks of a split a network is asked about once more, with one input after the other permuted or removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytorch_lightning as lightning
from scipy.stats import rankdata

from heartnet.datamodule import WeeksDataModule
from heartnet.diagnostics.ablation import Ablation, ablated_scores, losses
from heartnet.diagnostics.adapt import guess_probe, own_probe
from heartnet.diagnostics.fixed import first_loader
from heartnet.diagnostics.isolate import rng_untouched
from heartnet.diagnostics.look_ahead import look_ahead
from heartnet.diagnostics.probe import Probe
from heartnet.errors import HeartnetError
from heartnet.on_predictions import PredictedSplit
from heartnet.predictions import NETWORK
from heartnet.scaling import METADATA

ProbeOf = Callable[[lightning.LightningModule, Any], Probe]

_SAME = 0.99
"""Rank correlation with the scores in the file; a network of 16 bits says of a week nearly the same in 32."""


def ablations(
    module: lightning.LightningModule,
    predicted: PredictedSplit,
    loaders: Any,
    *,
    probe: ProbeOf | None = None,
    weeks: int = 256,
    permutations: int = 3,
    draws: int = 1000,
) -> dict[str, Ablation]:
    """Return by target what the network's score loses with each input; targets with one class only are left out.

    Args:
        module: whose network is asked.
        predicted: what it said before, of whom.
        loaders: of these weeks, read where they are not of heartnet's data module.
        probe: `probe(module, batch)`, for a module that cannot be guessed.
        weeks: at most so many, as many of each person as can be, chosen at random, always the same.
        permutations: how often each input is permuted.
        draws: resamples.

    Raises:
        HeartnetError: the weeks cannot be read again, or the network now says something else of them.
    """
    columns = pl.scan_parquet(predicted.file, glob=False).filter(pl.col("model") == NETWORK)
    frame = columns.select("week", "user_id", "target", "value", "score").collect()
    probe = probe or probe_of
    if predicted.data is not None:
        rows, batches = batches_of(module, predicted.data, some_weeks(frame, weeks))
    else:
        rows, batches = _of_loader(module, first_loader(loaders), weeks)
    probes = [probe(module, batch) for batch in batches]
    if len(probes[0].outputs) != len(predicted.targets):
        raise HeartnetError(
            f"the network has {len(probes[0].outputs)} outputs for {len(predicted.targets)} targets; say how to call "
            "it: MetadataReliance(probe=lambda module, batch: adapt(module.net, batch['x']))"
        )
    asked = pl.DataFrame({"week": rows})
    users = asked.join(frame.unique("week"), on="week", how="left", maintain_order="left")["user_id"]
    if users.null_count():
        raise HeartnetError("the loader gives other weeks than those that were predicted")
    place = metadata_place(probes[0], batches[0])
    fields = METADATA if predicted.data is not None and place is not None else ()
    before, after = ablated_scores(
        probes, users.to_numpy().astype(str), metadata=place, fields=fields, permutations=permutations
    )
    found = {}
    for i, target in enumerate(predicted.targets):
        part = frame.filter(pl.col("target") == target)
        said = asked.join(part, on="week", how="left", maintain_order="left")
        value, score = (said[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("value", "score"))
        check_same(before[:, i], score)
        slope, start = 1.0, 0.0
        if predicted.kind == "synthetic" and np.isfinite(before[:, i]).all():  # from scores to the target's unit
            alike = np.ptp(before[:, i]) == 0
            slope, start = (0.0, score.mean()) if alike else np.polyfit(before[:, i], score, 1)
        lost = losses(
            target, slope * before[:, i] + start,
            {key: slope * each[:, :, i] + start for key, each in after.items()},
            value, users.to_numpy().astype(str), kind=predicted.kind, by=predicted.by, draws=draws,
        )  # fmt: skip
        if lost is not None:
            found[target] = lost
    return found


def some_weeks(frame: pl.DataFrame, weeks: int) -> npt.NDArray[np.int64]:
    """Return at most `weeks` of the column `week`: one of each person, a second of each, and so on until it is full.

    So nobody is left out where people are few and have many weeks. People and their weeks are in random order.
    """
    each = frame.unique("week", maintain_order=True).sort("week")
    people, user = np.unique(each["user_id"].to_numpy().astype(str), return_inverse=True)
    rng = np.random.default_rng(0)
    by_person = np.lexsort((rng.random(len(user)), user))
    counts = np.bincount(user)
    turn = np.empty(len(user), dtype=np.int64)  # 0 is a person's first week to be taken
    turn[by_person] = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.lexsort((rng.permutation(len(people))[user], turn))[:weeks]
    found: npt.NDArray[np.int64] = each["week"].to_numpy()[np.sort(kept)]
    return found


def batches_of(
    module: lightning.LightningModule, data: WeeksDataModule, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Return weeks in the order in which they are asked about, and their batches, where the network is."""
    rows = rows[np.argsort(-np.diff(data.weeks.offsets)[rows], kind="stable")]  # little padding
    parts = [rows[first : first + data.batch_size] for first in range(0, len(rows), data.batch_size)]
    return rows, [_moved(module, data.batch(part)) for part in parts]


def _of_loader(module: lightning.LightningModule, loader: Any, weeks: int) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Return batches of a loader, and which weeks of the split they hold if it serves them in order."""
    size = getattr(loader, "batch_size", None) or 1
    read = look_ahead(loader, -(-weeks // size))
    if not read:
        raise HeartnetError("the weeks cannot be read again: a loader of a map-style data set could be")
    rows = np.concatenate([np.atleast_1d(np.asarray(index, dtype=np.int64)) for index, _ in read])
    return rows, [_moved(module, batch) for _, batch in read]


def probe_of(module: lightning.LightningModule, batch: Any) -> Probe:
    """Return a module's own probe of a batch, or one that is guessed."""
    own = own_probe(module)
    with rng_untouched():
        return guess_probe(module, batch) if own is None else own(batch)


def _moved(module: lightning.LightningModule, batch: Any) -> Any:
    return module.transfer_batch_to_device(batch, module.device, 0)


def metadata_place(probe: Probe, batch: Any) -> int | None:
    """Return which of `Probe.rest` holds the metadata; None if none does."""
    metadata = batch.get("metadata") if isinstance(batch, Mapping) else None
    return next((place for place, each in enumerate(probe.rest) if each is metadata), None)


def check_same(before: npt.NDArray[np.float64], score: npt.NDArray[np.float64]) -> None:
    """Refuse weeks of which the network now says something else, because they are others or it is another."""
    if not (np.isfinite(before).all() and np.isfinite(score).all()) or min(np.ptp(before), np.ptp(score)) < 1e-4:
        return
    same = np.corrcoef(rankdata(before), rankdata(score))[0, 1]
    if not same > _SAME:
        raise HeartnetError(
            f"asked once more, the network says something else of the weeks than was predicted (rank correlation "
            f"{same:.2f}): does the loader shuffle, or is the score another function of the batch? Give it a `probe`"
        )
