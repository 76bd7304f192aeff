"""User-weeks as batches of tensors: split by person, scaled, batched by length."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import polars
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from heartnet.account import Account
from heartnet.errors import HeartnetError, did_you_mean
from heartnet.hourly import HOURS
from heartnet.network_inputs import VIEWS, View, padded, seen_of
from heartnet.scaling import METADATA, Scaling, fit_scaling
from heartnet.simulate import simulate
from heartnet.simulate.planted import check_planted
from heartnet.splits import labelled_weeks, split_weeks
from heartnet.store import open_store, read_manifest
from heartnet.tasks import Task
from heartnet.weeks import Weeks

SplitBy = Literal["user", "week"]

BATCH_SIZE = 8
"""Weeks a batch unless something else is asked for: on a CPU larger batches are no faster."""


class WeeksDataModule(pl.LightningDataModule):
    """Serves weeks to a network.

    A batch is a dict: `inputs` float32 `[batch, time, channel]`, scaled, 0 where missing or padded; `lengths` int64
    `[batch]`; `metadata` float32 `[batch, 2 × field]`; `targets` float32 `[batch, target]`, NaN where missing; `index`
    int64 `[batch]`, the row in `weeks`.

    Args:
        weeks: the data.
        task: what is predicted. Weeks without any known target are left out and counted in `without_target`.
        batch_size: weeks a batch. With `auto` it is `BATCH_SIZE`, until somebody who knows network and device sets the
            attribute: `train.py` does, to what `heartnet.batch_size` finds.
        val_share: share of people for validation.
        test_share: share of people for the test.
        split_by: `user` keeps all weeks of a person in one split; `week` does not, for data of one or two people.
        folds: cross-validation in this many folds by person; None for a single split.
        fold: the fold that is the test.
        view: `readings`, or `hourly`, which sees each week as its 168 hours (`heartnet.hourly`); all else stays.
        mask_channel: add a channel that is 1 where heart rate is missing; the hourly view always has it.
        labelled_share: share of the people to train on whose labels are used (`heartnet.splits.labelled_weeks`). The
            others' weeks become unlabelled ones, counted in `without_labels`; validation and test stay. The scaling's
            constants are those of all weeks that could have been trained on, so that they do not move with the share.
        labelled_seed: decides whose labels are used.
        split_seed: decides who is in which split.
        seed: decides the order of the training batches, together with the epoch.
        unlabelled: more weeks, of which no label is looked at, for `synthetic_pretraining`. They do not move the
            scaling's constants.
    """

    def __init__(
        self,
        weeks: Weeks,
        task: Task,
        *,
        batch_size: int | Literal["auto"] = BATCH_SIZE,
        val_share: float = 0.15,
        test_share: float = 0.15,
        split_by: SplitBy = "user",
        folds: int | None = None,
        fold: int = 0,
        view: View = "readings",
        mask_channel: bool = False,
        labelled_share: float = 1.0,
        labelled_seed: int = 0,
        split_seed: int = 0,
        seed: int = 0,
        unlabelled: Weeks | None = None,
    ) -> None:
        super().__init__()
        if view not in VIEWS:
            raise HeartnetError(f"data.view={view}: must be readings or hourly.{did_you_mean(view, VIEWS)}")
        if batch_size == "auto":
            batch_size = BATCH_SIZE
        if isinstance(batch_size, str) or batch_size < 1:
            raise HeartnetError(f"data.batch_size={batch_size}: must be at least 1, or auto")
        if split_by not in ("user", "week"):
            raise HeartnetError(f"data.split_by={split_by}: must be user or week")
        if len(weeks) == 0:
            raise HeartnetError("the data holds no weeks; `heartnet describe` shows what was dropped, and why")
        self.weeks, self.task, self.unlabelled = weeks, task, unlabelled
        self.batch_size: int = batch_size
        self.seed = seed
        self.view, self.mask_channel = view, mask_channel or view == "hourly"
        self.split_by, self.folds = split_by, folds
        self.targets = task.names(weeks)
        self.values = task.values(weeks)
        known = np.flatnonzero(~np.isnan(self.values).all(axis=1))
        self.without_target = len(weeks) - len(known)
        if len(known) == 0:
            raise HeartnetError(f"none of the {len(weeks)} weeks has a known target among {', '.join(self.targets)}")
        people = weeks.table["user_id"].to_numpy().astype(str)[known]
        units = people if split_by == "user" else np.arange(len(known)).astype(str)
        self._known = known
        self._split = partial(
            split_weeks,
            units,
            self.values[known],
            val_share=val_share,
            test_share=test_share,
            folds=folds,
            seed=split_seed,
            unit=split_by,
        )
        rows = self._split(fold=fold)
        self.rows = self.rows_of_fold(fold)
        train = self.rows["train"]
        if len(train) == 0:
            raise HeartnetError("no week is left to train on; lower data.val_share or data.test_share, or add data")
        self.scaling: Scaling = fit_scaling(map(self.seen, train), weeks.table[train], VIEWS[view])
        self.metadata = self.scaling.apply_metadata(weeks.table)
        kept = labelled_weeks(units[rows["train"]], self.values[train], labelled_share, labelled_seed)
        self.without_labels = train[~kept]
        if len(self.without_labels):
            self.values = self.values.copy()
            self.values[self.without_labels] = np.nan
            self.rows = {**self.rows, "train": train[kept]}

    def rows_of_fold(self, fold: int) -> Mapping[str, npt.NDArray[np.int64]]:
        """Return the rows of each split in a fold of a cross-validation, with those whose labels are not used."""
        return {split: self._known[chosen] for split, chosen in self._split(fold=fold).items()}

    @property
    def channels(self) -> int:
        return len(VIEWS[self.view]) + self.mask_channel

    @property
    def metadata_size(self) -> int:
        return 2 * len(METADATA)

    def target_statistics(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return mean and spread of each target over the training split (for conditions the mean is the base rate).

        Raises:
            HeartnetError: a target of which the training split knows nothing.
        """
        values = self.values[self.rows["train"]].astype(np.float64)
        for name, column in zip(self.targets, values.T, strict=True):
            if np.isnan(column).all():
                raise HeartnetError(f"no week of the training split has a known {name}; leave it out, or add labels")
        std = np.nanstd(values, axis=0)
        return np.nanmean(values, axis=0), np.where(std > 1e-6, std, 1.0)

    def held_out(self, table: polars.DataFrame) -> npt.NDArray[np.bool_]:
        """Mark the rows of a table of weeks that belong to who is in the validation or test split, by user id.

        With `split_by="week"`, which puts people into several splits, the very weeks of those splits, by their start.
        """
        keys = ["user_id"] if self.split_by == "user" else ["user_id", "start"]
        others = self.weeks.table[np.concatenate([self.rows["val"], self.rows["test"]])].select(keys).unique()
        marked = table.select(keys).join(others.with_columns(held=True), on=keys, how="left", maintain_order="left")
        return marked["held"].is_not_null().to_numpy()

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader(BatchesByLength(self.rows["train"], self.lengths(), self.batch_size, self.seed))

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.loader(self.rows["val"])

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.loader(self.rows["test"])

    def loader(self, rows: npt.NDArray[np.int64]) -> DataLoader[dict[str, Tensor]]:
        """Return batches of the given weeks, longest first, always in the same order."""
        order = rows[np.argsort(-self.lengths()[rows], kind="stable")]
        return self._loader([order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)])

    def _loader(
        self, batches: Sampler[npt.NDArray[np.int64]] | Sequence[npt.NDArray[np.int64]]
    ) -> DataLoader[dict[str, Tensor]]:
        # A batch is cut and scaled in one go by the data set, so there is nothing to collate, nor for workers to do.
        return DataLoader(_Batches(self), batch_size=None, sampler=batches, pin_memory=torch.cuda.is_available())

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return how many steps the network sees of each week."""
        return np.full(len(self.weeks), HOURS) if self.view == "hourly" else np.diff(self.weeks.offsets)

    def seen(self, row: int, weeks: Weeks | None = None) -> npt.NDArray[np.float32]:
        """Return what the network is to see of a week, `[time, channel]`, in natural units, NaN where missing."""
        weeks = self.weeks if weeks is None else weeks
        return seen_of(weeks, row, self.view)

    def batch(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """Return one batch of the given weeks, padded to the longest of them."""
        return {
            **self.inputs([self.seen(row) for row in rows]),
            "metadata": torch.from_numpy(self.metadata[rows]),
            "targets": torch.from_numpy(self.values[rows]),
            "index": torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        }

    def inputs(self, seen: Sequence[npt.NDArray[np.float32]]) -> dict[str, Tensor]:
        """Return `inputs` and `lengths` of what `seen` returned of some weeks, padded to the longest of them."""
        return padded(seen, self.scaling, self.view, mask_channel=self.mask_channel)


class BatchOptions(TypedDict, total=False):
    """Arguments of `WeeksDataModule` that every kind of data shares."""

    batch_size: int | Literal["auto"]
    val_share: float
    test_share: float
    split_by: SplitBy
    folds: int | None
    fold: int
    view: View
    mask_channel: bool
    labelled_share: float
    labelled_seed: int
    split_seed: int
    seed: int


class SimulatedData(WeeksDataModule):
    """The simulated cohort, drawn anew in each run; first the arguments of `heartnet.simulate.simulate`.

    Args:
        unlabelled_users: people simulated besides, without labels, for `synthetic_pretraining`.
    """

    def __init__(
        self,
        task: Task,
        *,
        users: int,
        weeks_per_user: int,
        cohort_seed: int = 0,
        effect_scale: float = 1.0,
        missing_labels: float = 0.1,
        base_rates: Mapping[str, float] | None = None,
        planted: Sequence[str] = (),
        unlabelled_users: int = 0,
        **options: Unpack[BatchOptions],
    ) -> None:
        if unlabelled_users < 0:
            raise HeartnetError(f"data.unlabelled_users={unlabelled_users}: must be 0 or more")
        rates = None if base_rates is None else json.dumps(dict(base_rates))
        people, wanted = users + unlabelled_users, check_planted(planted)
        weeks = _drawn(people, weeks_per_user, cohort_seed, effect_scale, missing_labels, rates, wanted)
        count = users * weeks_per_user
        others = _between(weeks, count, len(weeks)) if unlabelled_users else None
        super().__init__(_between(weeks, 0, count), task, unlabelled=others, **options)


@lru_cache(maxsize=1)
def _drawn(
    users: int,
    weeks_per_user: int,
    seed: int,
    effect_scale: float,
    missing_labels: float,
    base_rates: str | None,
    planted: tuple[str, ...],
) -> Weeks:
    """Draw a cohort, for a sweep over other things only once."""
    rates = None if base_rates is None else json.loads(base_rates)
    return simulate(users, weeks_per_user, seed, effect_scale, missing_labels, rates, planted)


def _between(weeks: Weeks, first: int, end: int) -> Weeks:
    """Return some weeks that follow one another; all of them as they are."""
    if (first, end) == (0, len(weeks)):
        return weeks
    span = slice(int(weeks.offsets[first]), int(weeks.offsets[end]))
    return replace(
        weeks,
        readings=weeks.readings[span],
        local_time=weeks.local_time[span],
        offsets=weeks.offsets[first : end + 1] - weeks.offsets[first],
        table=weeks.table[first:end],
        annotations={name: values[span] for name, values in weeks.annotations.items()},
    )


class StoredData(WeeksDataModule):
    """Weeks that `heartnet prepare` wrote to `path`; every file is checked against its checksum first.

    Args:
        unlabelled_path: a second store, of which no label is looked at, for `synthetic_pretraining`.
    """

    def __init__(
        self,
        task: Task,
        *,
        path: str | Path,
        unlabelled_path: str | Path | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        more = None if unlabelled_path is None else open_store(Path(unlabelled_path), verify=True)
        super().__init__(open_store(Path(path), verify=True), task, unlabelled=more, **options)
        self.account = Account.from_json(read_manifest(path)["account"])


class BatchesByLength(Sampler[npt.NDArray[np.int64]]):
    """Random batches of weeks of similar length; the order is a function of `seed` and the epoch alone.

    Weeks are shuffled, sorted by length within groups of `group` batches, cut into batches, and the batches shuffled:
    random enough to train on, with little padding.
    """

    def __init__(
        self, rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], batch_size: int, seed: int, group: int = 16
    ) -> None:
        self.rows, self.lengths, self.batch_size, self.seed, self.group = rows, lengths, batch_size, seed, group
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        # A generator, which looks at the epoch at its first step: Lightning asks a resumed run for the iterator before
        # it says which epoch it is.
        rng = np.random.default_rng((self.seed, self.epoch))
        shuffled = rng.permutation(self.rows)
        span = self.batch_size * self.group
        groups = [shuffled[i : i + span] for i in range(0, len(shuffled), span)]
        in_order = np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in groups])
        batches = [in_order[i : i + self.batch_size] for i in range(0, len(in_order), self.batch_size)]
        yield from (batches[i] for i in rng.permutation(len(batches)))


class _Batches(Dataset[dict[str, Tensor]]):
    def __init__(self, data: WeeksDataModule) -> None:
        self.data = data

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        return self.data.batch(rows)

    def __len__(self) -> int:
        return len(self.data.weeks)
