"""The contract between data and network: what reaches the network is what the data holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from heartnet.diagnostics.contract_batches import LabelTally, Numbers, Parts, Tally, channel_names, parts_of
from heartnet.diagnostics.contract_checks import (
    check_base_rates,
    check_between,
    check_constant,
    check_labels,
    check_leak,
    check_scale,
    check_targets,
    check_values,
)
from heartnet.diagnostics.contract_data import CHECK, UNITS, Held, check_data, data_passes, problem
from heartnet.diagnostics.round_trip import TOLERANCE, RoundTrip
from heartnet.findings import Finding, Status
from heartnet.scaling import METADATA

_RANK: dict[Status, int] = {"fail": 0, "warn": 1, "pass": 2}
_MOST_SCALARS = 16
_MOST_NAMES = 256  # channels that are looked at for a leaked label
_FEW = 32  # weeks of a split by which to tell whether the data's own channel is constant
_ENOUGH_VALUES = 16


@dataclass
class _Split:
    """What is known of one split: of the batches looked at ahead, and of those of this epoch."""

    ahead: Tally
    epoch: Tally
    labels: LabelTally | None
    seen: int = 0  # batches in all
    weeks: int = 0
    before: Numbers | None = None  # of the batches looked at ahead; of the last epoch if there were none
    whole: Numbers | None = None  # of the last epoch


class Contract:
    """Takes batches of each split, and says what is wrong with them, once for each place.

    With `held`, the batches are compared with the data itself, exactly: labels and splits of every batch by name and
    `index`, readings of some (`RoundTrip`). Without it, or where batches have no index, only with each other, by
    statistical tests.

    Args:
        held: what the data holds; None if nobody knows.
        read_every: batches after which running sums are read, which waits for an accelerator; on a CPU always.
    """

    def __init__(self, held: Held | None = None, *, read_every: int = 50) -> None:
        self.held = held
        self.read_every = read_every
        self.round_trip = None if held is None else RoundTrip(held)
        self._splits: dict[str, _Split] = {}
        self._told: dict[str, int] = {}
        self._at_network: dict[str, Tensor] = {}

    def begin(self) -> list[Finding]:
        """Return what is wrong with the data and its splits, before any batch."""
        return [] if self.held is None else self._new(check_data(self.held))

    def ahead(self, split: str, batches: Sequence[tuple[Any, Any]]) -> list[Finding]:
        """Look at batches, each with its indices in the data set, that the network has not got yet."""
        state = self._split(split)
        parts = [parts_of(batch) for _, batch in batches]
        for each in parts:
            state.ahead.add(each)
            if state.labels is not None:
                state.labels.add(each)
        found = [] if self.round_trip is None else self._new(self.round_trip.compare(split, parts))
        numbers = state.ahead.read()
        if numbers is None:
            return found
        state.before = numbers
        found += self._new(self._verdicts(split, numbers, whole=False))
        if self.held is None:
            found += self._new(self._duplicates(split, numbers, [index for index, _ in batches]))
        return found

    def see(self, split: str, batch: Any, *, first: bool) -> list[Finding]:
        """Take a batch on its way to the network; the first of an epoch is looked at closely."""
        state = self._split(split)
        parts = parts_of(batch)
        if first:
            state.epoch = self._tally()
        state.seen += 1
        state.weeks += parts.weeks
        state.epoch.add(parts)
        if state.labels is not None:
            state.labels.add(parts)
        found: list[Finding] = []
        # The first of each epoch, and the 1st, 2nd, 4th, 8th …: what goes wrong later is found, at little cost.
        if self.round_trip is not None and (first or state.seen & (state.seen - 1) == 0):
            found += self.round_trip.compare(split, [parts])
        on_cpu = parts.inputs is None or parts.inputs.device.type == "cpu"
        if state.epoch.bad is not None and (on_cpu or state.seen % self.read_every == 0) and state.epoch.bad.any():
            numbers = state.epoch.read()
            found += [] if numbers is None else check_values(split, self._names(numbers), numbers)
        return self._new(found)

    def see_at_network(self, split: str, parts: Parts, *, read: bool) -> list[Finding]:
        """Take what the network itself is called with, after any augmentation; only NaN and infinity count."""
        if parts.inputs is None:
            return []
        bad = (~parts.inputs.isfinite()).sum(dim=(0, 1))
        before = self._at_network.get(split)
        self._at_network[split] = bad = bad if before is None or before.shape != bad.shape else before + bad
        if not (read or bad.device.type == "cpu") or not bad.any():
            return []
        found = []
        for name, count in zip(self._channels(len(bad)), bad.cpu().tolist(), strict=True):
            if count and (where := f"{split}/{name}/nan") not in self._told:
                message = f"in {split}, {name} is NaN or infinite at {count:,} values that reach the network"
                found.append(problem(where, count, 0, "values", f"{message}, and was not in the batch"))
        return self._new(found)

    def end(self, split: str, batches: int | None = None) -> tuple[list[Finding], dict[str, float]]:
        """Return what a whole epoch of a split shows, and its numbers by name, such as `train/mean/dt`.

        Args:
            batches: how many the loader has, if that is known.
        """
        state = self._split(split)
        numbers = state.epoch.read()
        if numbers is None:
            return [], {}
        whole = batches is not None and state.epoch.batches >= batches
        if whole:
            state.whole = numbers
        if state.before is None or (whole and split == "train"):
            state.before = numbers
        found = self._verdicts(split, numbers, whole=True)
        if state.epoch.odd and self.held is not None:
            message = f"{state.epoch.odd:,} batches of {split} have another number of channels than the first"
            found.append(problem(f"{split}/channels", state.epoch.odd, 0, "batches", message))
        if self.held is not None and whole and numbers.index is not None:
            found += self._arrivals(split, numbers.index, -(-numbers.weeks // max(state.epoch.batches, 1)))
        return self._new(found), self._scalars(split, numbers)

    def passes(self) -> list[Finding]:
        """Return what held so far: rows, people, labels, channels, round trip; only those in which nothing is wrong."""
        found = []
        told = [where for where, rank in self._told.items() if rank < _RANK["pass"]]
        groups = {where.split("/")[0] for where in told}
        seen = self._splits
        counts = ", ".join(f"{split} {s.weeks:,} weeks in {s.seen:,} batches" for split, s in seen.items() if s.seen)
        if self.held is not None:
            found += [each for each in data_passes(self.held) if each.where not in groups]
            rates = {split: s.labels for split, s in seen.items() if s.labels is not None and s.labels.weeks}
            targets = set(self.held.targets)
            if rates and not any(targets & set(where.split("/")) for where in told):
                weeks = sum(each.weeks for each in rates.values())
                names = ", ".join(self.held.targets)
                text = f"The labels are those of the data. Compared by name in {weeks:,} weeks of batches: {names}."
                found.append(Finding(CHECK, "pass", "labels", weeks, None, "weeks, each time it came", text))
        if self.round_trip is not None and self.round_trip.ok and self.round_trip.weeks:
            trip = self.round_trip
            units = {name: UNITS.get(name, "") for name in trip.worst}
            worst = ", ".join(f"{name} {value:.2g} {units[name]}" for name, value in trip.worst.items())
            text = (
                "Tensors give back the readings in natural units. "
                f"Largest error in {trip.weeks:,} weeks, {trip.readings:,} readings: {worst}."
            )
            bpm = max((trip.worst[name] for name, unit in units.items() if unit == "bpm"), default=0.0)
            found.append(Finding(CHECK, "pass", "round trip", bpm, TOLERANCE, "bpm", text))
        if not groups - {"rows", "people", "duplicates"}:
            weeks = sum(each.weeks for each in seen.values())
            text = f"The channels arrive in their order and scale. No fault in {counts}."
            found.append(Finding(CHECK, "pass", "channels", weeks, None, "weeks, each time it came", text))
        return found

    def _split(self, split: str) -> _Split:
        if split not in self._splits:
            labels = None
            if self.held is not None and split in self.held.rows:
                number = list(self.held.rows).index(split)
                labels = LabelTally(self.held.label_columns, self.held.split_of, number)
            self._splits[split] = _Split(self._tally(), self._tally(), labels)
        return self._splits[split]

    def _tally(self) -> Tally:
        return Tally(sketch=self.held is None)

    def _new(self, findings: Sequence[Finding]) -> list[Finding]:
        """Return findings about places of which nothing as bad was said."""
        found = []
        for each in findings:
            rank = _RANK[each.status]
            if rank < self._told.get(each.where, len(_RANK)):
                self._told[each.where] = rank
                found.append(each)
        return found

    def _channels(self, count: int) -> tuple[str, ...]:
        known = self.held.channels if self.held is not None else ()
        return channel_names((*known, "missing") if self.held is not None and self.held.mask_channel else known, count)

    def _names(self, numbers: Numbers) -> tuple[str, ...]:
        return self._channels(len(numbers.mean))

    def _targets(self, numbers: Numbers) -> tuple[str, ...]:
        known = self.held.targets if self.held is not None else ()
        count = 0 if numbers.targets is None else numbers.targets.shape[1]
        return (*known[:count], *(f"label_{i}" for i in range(len(known), count)))

    def _verdicts(self, split: str, numbers: Numbers, *, whole: bool) -> list[Finding]:
        names = self._names(numbers)
        found = check_values(split, names, numbers)
        places = [where.split("/")[1] for where in self._told if where.startswith(f"{split}/")]
        wrong = {name for place in places for name in place.split("+")}
        if self.held is None:
            found += self._among_splits(split, names, numbers, whole=whole)
        else:
            allowed = {*wrong, *self._constant(split), "missing"}
            known = set(self.held.channels)
            found += check_constant(split, names, numbers, allowed | (set(names) - known), "fail")
            found += check_constant(split, names, numbers, allowed | known, "warn")
            found += check_scale(split, names, numbers, allowed | (set(names) - known), "fail")
            found += check_scale(split, names, numbers, allowed | known, "warn")
        state = self._split(split)
        read = None if state.labels is None else state.labels.read()
        if self.held is not None and state.labels is not None and read is not None:
            found += check_labels(split, self.held.targets, self.held.label_names, read, state.labels.weeks)
        return found + self._leaks(names)

    def _among_splits(self, split: str, names: Sequence[str], numbers: Numbers, *, whole: bool) -> list[Finding]:
        """Compare the batches of a loader from elsewhere with those of training, and with what is usual."""
        found = check_targets(split, self._targets(numbers), numbers)
        train = self._training() if split != "train" else None
        if train is not None and train.mean.shape == numbers.mean.shape:
            found += check_between(split, names, train, numbers)
            found += check_base_rates(split, self._targets(numbers), train, numbers)
        wrong = {name for each in found for name in each.where.split("/")[1].split("+")}
        if whole:
            found += check_constant(split, names, numbers, wrong, "warn")
        return found + (check_scale(split, names, numbers, wrong, "warn") if split == "train" else [])

    def _training(self) -> Numbers | None:
        """Return the most that is known of the training split: its batches looked at ahead, or of an epoch."""
        state = self._splits.get("train")
        read = [] if state is None else [state.epoch.read(), state.whole, state.before]
        return max((each for each in read if each is not None), key=lambda each: each.weeks, default=None)

    def _constant(self, split: str) -> set[str]:
        """Return the channels that are constant, or not there, in the data itself; by some weeks of a split."""
        assert self.held is not None
        rows = self.held.rows.get(split, np.zeros(0, np.int64))
        some = rows[:: max(len(rows) // _FEW, 1)][:_FEW]
        if not len(some):
            return set(self.held.channels)
        values = np.concatenate([self.held.readings(int(row)) for row in some])
        return {
            name
            for name, column in zip(self.held.channels, values.T, strict=True)
            if len(np.unique(column[~np.isnan(column)])) < 2 or (~np.isnan(column)).sum() < _ENOUGH_VALUES
        }

    def _leaks(self, names: tuple[str, ...]) -> list[Finding]:
        """Look for a label in the inputs and in the metadata of the newest batches of all splits together."""
        read = [state.whole or state.before for state in self._splits.values()]
        parts = [each for each in read if each is not None and each.targets is not None]
        known = [each.targets for each in parts if each.targets is not None]
        alike = len({(*each.summaries.shape[1:], one.shape[1]) for each, one in zip(parts, known, strict=True)}) == 1
        if (
            len(names) > _MOST_NAMES
            or not alike
            or any(len(each.summaries) != len(one) for each, one in zip(parts, known, strict=True))
        ):
            return []
        summaries, labels = np.concatenate([each.summaries for each in parts]), np.concatenate(known)
        fields = [each.metadata for each in parts if each.metadata is not None]
        if sum(map(len, fields)) == len(labels) and len({each.shape[1] for each in fields}) == 1:
            metadata = np.concatenate(fields)
            names = (*names, *(f"metadata_{i}" for i in range(metadata.shape[1])))
            summaries = np.concatenate([summaries, metadata[..., None].repeat(summaries.shape[2], axis=2)], axis=1)
        people: Int64[np.ndarray, " week"] = np.arange(len(labels))
        rows = [each.index[: len(each.summaries)] for each in parts if each.index is not None]
        suspects: set[str] = set()
        if self.held is not None:
            known_fields = {f"metadata_{i}" for i in range(2 * len(METADATA))}
            suspects = set(names) - {*self.held.channels, "missing"} - known_fields
            if len(rows) == len(parts) and np.isin(np.concatenate(rows), np.arange(len(self.held.weeks))).all():
                people = self.held.people[np.concatenate(rows)]
        status: Status = "warn" if self.held is None else "fail"
        return check_leak(names, self._targets(parts[0]), summaries, labels, people, suspects, status)

    def _duplicates(self, split: str, numbers: Numbers, indices: Sequence[Any]) -> list[Finding]:
        """Find inputs that come twice, under different indices of the data set or in different splits."""
        places = [each for index in indices for each in (index if isinstance(index, list | tuple) else [index])]
        keys = _keys(numbers)
        found = []
        if len(places) == len(keys):
            first: dict[bytes, Any] = {}
            twice = [
                key for key, place in zip(keys, places, strict=True) if key and first.setdefault(key, place) != place
            ]
            if twice:
                message = f"in {split}, {len(twice):,} of {len(keys):,} inputs are the same as one at another index"
                found.append(problem(f"duplicates/{split}", len(twice), 0, "inputs", message, "warn"))
        for other, state in self._splits.items():
            if other != split and state.before is not None:
                both = ({*keys} & {*_keys(state.before)}) - {b""}
                if both:
                    message = f"{len(both):,} of {len(keys):,} inputs of {split} that were looked at are in {other} too"
                    found.append(problem(f"duplicates/{other}+{split}", len(both), 0, "inputs", message))
        return found

    def _arrivals(self, split: str, index: Int64[np.ndarray, " week"], size: int) -> list[Finding]:
        """Compare which weeks came in a whole epoch with those of the split."""
        assert self.held is not None
        rows = self.held.rows.get(split, np.zeros(0, np.int64))
        lost = len(np.setdiff1d(rows, index))
        found = []
        if lost >= size:  # a last batch that is not full may be left out
            message = f"{lost:,} of {len(rows):,} weeks of {split} came in no batch of an epoch"
            status: Status = "fail" if lost > 0.5 * len(rows) else "warn"
            found.append(problem(f"rows/{split}", lost, 0, "weeks", message, status))
        twice = len(index) - len(np.unique(index))
        if twice and split != "train":
            message = f"{twice:,} weeks of {split} came more than once in an epoch, so they count more in its scores"
            found.append(problem(f"{split}/twice", twice, 0, "weeks", message, "warn"))
        return found

    def _scalars(self, split: str, numbers: Numbers) -> dict[str, float]:
        named = {"mean": numbers.mean, "spread": numbers.std, "lowest": numbers.lowest, "highest": numbers.highest}
        found = {f"{split}/weeks": float(numbers.weeks)}
        for what, values in named.items():
            for name, value in list(zip(self._names(numbers), values, strict=True))[:_MOST_SCALARS]:
                if np.isfinite(value):
                    found[f"{split}/{what}/{name}"] = float(value)
        for i, target in enumerate(self._targets(numbers)[:_MOST_SCALARS]):
            if numbers.known[i] and not numbers.other[i]:
                found[f"{split}/base_rate/{target}"] = float(numbers.positive[i] / numbers.known[i])
        return found


def _keys(numbers: Numbers) -> list[bytes]:
    """Return a key for each of the first inputs by which to recognise it; empty for one that says too little."""
    count = min(len(numbers.sketches), len(numbers.summaries))
    rounded = np.concatenate([numbers.sketches[:count], numbers.summaries[:count]], axis=2).reshape(count, -1)
    rounded = rounded.astype(np.float32)
    return [row.tobytes() if len(np.unique(row)) >= _ENOUGH_VALUES else b"" for row in rounded]
