"""The weeks that pretraining sees: labelled and unlabelled, and never of who is in the validation or test split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from heartnet.datamodule import BatchesByLength, WeeksDataModule
from heartnet.errors import HeartnetError
from heartnet.hourly import HOURS
from heartnet.synthetic import synthetic_targets
from heartnet.weeks import Weeks

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Used:
    """What pretraining sees, counted.

    Attributes:
        weeks, people: that it sees.
        labelled_weeks, labelled_people: of them, those whose labels training uses.
        left_out_weeks, left_out_people: unlabelled weeks that are not used, because who they are of is in the
            validation or test split.
    """

    weeks: int
    people: int
    labelled_weeks: int
    labelled_people: int
    left_out_weeks: int
    left_out_people: int

    def __str__(self) -> str:
        said = (
            f"{self.weeks:,} weeks of {self.people:,} people; training uses the labels of "
            f"{self.labelled_weeks:,} weeks of {self.labelled_people:,} of them"
        )
        if self.left_out_weeks:
            said += (
                f"; {self.left_out_weeks:,} unlabelled weeks, of {self.left_out_people:,} people, belong to the "
                "validation or test split and are left out"
            )
        return said


class PretrainingWeeks:
    """Weeks of a data module for pretraining, a part of them, by person, kept apart to stop early on.

    These are the weeks that are trained on, those whose labels `data.labelled_share` sets aside, those without any
    known target, and the second store's; all but those of who is in the validation or test split.

    A batch is a dict: `inputs`, `lengths` and `metadata` as the data module makes them; `known` bool `[batch, time,
    channel]`, False where missing or padded.

    Args:
        data: the data module.
        val_share: share of the people (of the weeks, if there is only one person) to stop early on; at least one.
        batch_size: weeks a batch.
        seed: of that choice, and of the order of the batches.

    Raises:
        HeartnetError: there are fewer than two weeks.
    """

    def __init__(self, data: WeeksDataModule, *, val_share: float, batch_size: int, seed: int) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        sources, self.used = _sources(data)
        self.sources = [weeks for weeks, _ in sources]
        self.source = np.concatenate([np.full(len(rows), i) for i, (_, rows) in enumerate(sources)])
        self.row = np.concatenate([rows for _, rows in sources])
        if len(self.row) < 2:
            raise HeartnetError("synthetic_pretraining needs two weeks or more that are in no validation or test split")
        lengths = [np.diff(weeks.offsets)[rows] for weeks, rows in sources]
        self.lengths = np.concatenate(lengths) if data.view == "readings" else np.full(len(self.row), HOURS)
        self.metadata = [data.scaling.apply_metadata(weeks.table) for weeks in self.sources]
        people = np.concatenate([weeks.table["user_id"].to_numpy().astype(str)[rows] for weeks, rows in sources])
        units = people if self.used.people > 1 else np.arange(len(people)).astype(str)
        ids = np.unique(units)
        held = np.random.default_rng((seed, 1)).permutation(ids)[: max(1, round(val_share * len(ids)))]
        self.is_val = np.isin(units, held)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def train(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch, in an order of its own."""
        order = BatchesByLength(np.flatnonzero(~self.is_val), self.lengths, self.batch_size, self.seed)
        order.set_epoch(epoch)
        return (self.batch(places) for places in order)

    def val(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches that are kept apart, longest weeks first."""
        places = np.flatnonzero(self.is_val)
        order = places[np.argsort(-self.lengths[places], kind="stable")]
        return (self.batch(order[i : i + self.batch_size]) for i in range(0, len(order), self.batch_size))

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-int((~self.is_val).sum()) // self.batch_size)

    def batch(self, places: Rows) -> dict[str, Tensor]:
        where = [(int(self.source[place]), int(self.row[place])) for place in places]
        seen = [self.data.seen(row, self.sources[source]) for source, row in where]
        made = self.data.inputs(seen)
        known = torch.zeros(made["inputs"].shape, dtype=torch.bool)
        for i, week in enumerate(seen):
            known[i, : len(week), week.shape[1] :] = True  # a mask channel
            known[i, : len(week), : week.shape[1]] = torch.from_numpy(~np.isnan(week))
        metadata = torch.from_numpy(np.stack([self.metadata[source][row] for source, row in where]))
        return {**made, "known": known, "metadata": metadata, "place": torch.from_numpy(np.asarray(places))}

    def targets(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the synthetic targets of all weeks, `[place, target]`, natural units, NaN where missing."""
        parts = [
            synthetic_targets(weeks, tuple(names))[self.row[self.source == i]] for i, weeks in enumerate(self.sources)
        ]
        return np.concatenate(parts)

    def fingerprint(self) -> str:
        """Return what tells these weeks, as the network sees them and in this division, from others."""
        found = hashlib.blake2b(repr((self.data.scaling, self.data.view, self.data.mask_channel)).encode())
        for source, row in zip(self.source, self.row, strict=True):
            weeks = self.sources[source]
            span = slice(int(weeks.offsets[row]), int(weeks.offsets[row + 1]))
            found.update(np.ascontiguousarray(weeks.readings[span]).data)
            found.update(np.ascontiguousarray(weeks.local_time[span]).data)
            for name in sorted(weeks.annotations):
                found.update(np.ascontiguousarray(weeks.annotations[name][span]).data)
        found.update(self.is_val.tobytes())
        return found.hexdigest()


class PretrainingRows:
    """Rows of anybody's data set for pretraining; those to stop early on are chosen by row, as people are unknown.

    The loader itself is left alone: its sampler is not asked, and rows are read in this process.

    Raises:
        HeartnetError: a data set without a length or without rows, or a loader that does not make the batches.
    """

    def __init__(self, loader: Any, *, val_share: float, batch_size: int | None, seed: int) -> None:
        dataset = getattr(loader, "dataset", None)
        if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset) or loader.batch_sampler is None:
            raise HeartnetError("synthetic_pretraining needs a DataLoader that makes batches of a data set with rows")
        count = len(loader.dataset)  # type: ignore[arg-type]
        if count < 2:
            raise HeartnetError(f"synthetic_pretraining needs two rows or more; the training data has {count}")
        self.loader, self.seed = loader, seed
        self.batch_size = batch_size or loader.batch_size or 8
        order = np.random.default_rng((seed, 1)).permutation(count)
        kept = max(1, round(val_share * count))
        self.val_rows, self.train_rows = np.sort(order[:kept]), np.sort(order[kept:])

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.train_rows) // self.batch_size)

    def train(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch, in an order of its own."""
        return self._batches(np.random.default_rng((self.seed, 2, epoch)).permutation(self.train_rows))

    def val(self) -> Iterator[Any]:
        """Yield the batches that are kept apart."""
        return self._batches(self.val_rows)

    def _batches(self, rows: Rows) -> Iterator[Any]:
        for i in range(0, len(rows), self.batch_size):
            yield self.loader.collate_fn([self.loader.dataset[int(row)] for row in rows[i : i + self.batch_size]])


def _sources(data: WeeksDataModule) -> tuple[list[tuple[Weeks, Rows]], Used]:
    """Return the weeks and their rows, the labelled store's first, in its order, and the account."""
    in_a_split = np.concatenate([data.rows[split] for split in ("train", "val", "test")])
    trained_on = np.concatenate([data.rows["train"], data.without_labels])
    rest = np.setdiff1d(np.arange(len(data.weeks)), np.concatenate([in_a_split, data.without_labels]))
    candidates = [(data.weeks, rest)]
    if data.unlabelled is not None:
        candidates.append((data.unlabelled, np.arange(len(data.unlabelled))))
    sources, left_out_weeks, left_out_people = [], 0, set[str]()
    for weeks, rows in candidates:
        held = data.held_out(weeks.table[rows])
        left_out_weeks += int(held.sum())
        left_out_people |= set(weeks.table["user_id"][rows[held]])
        sources.append((weeks, rows[~held]))
    # In the order of the store, so that it does not depend on whose labels are used.
    sources[0] = (data.weeks, np.sort(np.concatenate([trained_on, sources[0][1]])))
    labelled = data.rows["train"]
    return sources, Used(
        weeks=sum(len(rows) for _, rows in sources),
        people=len(set[str]().union(*(weeks.table["user_id"][rows] for weeks, rows in sources))),
        labelled_weeks=len(labelled),
        labelled_people=data.weeks.table["user_id"][labelled].n_unique(),
        left_out_weeks=left_out_weeks,
        left_out_people=len(left_out_people),
    )
