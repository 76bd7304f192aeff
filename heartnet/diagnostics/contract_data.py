"""What a data set holds, and whether it can be trained on: weeks a split, people, labels, units, duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int64

from heartnet.account import Account
from heartnet.findings import Finding, Status
from heartnet.hourly import HOURLY_UNITS, hourly_features
from heartnet.scaling import Scaling
from heartnet.synthetic import synthetic_targets
from heartnet.weeks import CHANNELS, Weeks

CHECK = "input_contract"

UNITS: dict[str, str] = {**HOURLY_UNITS, "heart_rate": "bpm", "steps": "count", "dt": "s"}

WARN_DROPPED, FAIL_DROPPED = 0.5, 0.9
"""Share of weeks that is lost on the way. Real exports lose their first and last weeks, and those hardly worn."""

_WIDTH = 16  # readings by which two weeks are first compared


@dataclass(frozen=True)
class Held:
    """What the data holds and how it was divided; the rest of the contract is held against it.

    Attributes:
        weeks: the data.
        rows: rows of `weeks` by split.
        targets: names of what is predicted.
        kind: `"conditions"` or `"synthetic"`.
        values: `[week, target]`, as the data module hands them out, NaN where missing.
        scaling: how the network sees the readings.
        hourly: a step of the inputs is an hour (`heartnet.hourly`), not a reading.
        mask_channel: after the channels of `scaling`, one that is 1 where heart rate is missing.
        split_by: `"user"`, or `"week"` if people may be in several splits.
        account: of the preparation, if it is known.
    """

    weeks: Weeks
    rows: Mapping[str, Int64[np.ndarray, " _"]]
    targets: tuple[str, ...]
    kind: str
    values: Float32[np.ndarray, "week target"]
    scaling: Scaling
    hourly: bool = False
    mask_channel: bool = False
    split_by: str = "user"
    account: Account | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, without a mask channel."""
        return self.scaling.channels

    def readings(self, row: int) -> Float32[np.ndarray, "time channel"]:
        """Return what the inputs of a week are made of, in natural units, NaN where missing."""
        return hourly_features(self.weeks, np.array([row]))[0] if self.hourly else self.weeks.week(row)

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Columns that a target can be compared with: all conditions of the data, or the synthetic targets."""
        return self.weeks.conditions if self.kind == "conditions" else self.targets

    @cached_property
    def label_columns(self) -> Float32[np.ndarray, "week column"]:
        """`[week, column]`: conditions as the data's table has them; synthetic targets as the data module has them."""
        if self.kind != "conditions":
            return self.values
        return np.asarray(self.weeks.table.select(self.label_names).to_numpy(), dtype=np.float32)

    @cached_property
    def people(self) -> Int64[np.ndarray, " week"]:
        """A number for each week's person."""
        return self.weeks.table["user_id"].rank("dense").cast(pl.Int64).to_numpy()

    @cached_property
    def split_of(self) -> Int64[np.ndarray, " week"]:
        """The number of each week's split, in the order of `rows`; −1 for none."""
        found = np.full(len(self.weeks), -1, dtype=np.int64)
        for number, rows in enumerate(self.rows.values()):
            found[rows] = number
        return found


def check_data(held: Held) -> list[Finding]:
    """Return what is wrong with the data before any batch of it is made; nothing if all is well."""
    return [
        *_check_account(held),
        *_check_rows(held),
        *_check_people(held),
        *_check_readings(held),
        *_check_duplicates(held),
        *_check_synthetic(held),
    ]


def data_passes(held: Held) -> list[Finding]:
    """Return how many weeks and people there are, for the data in which nothing is wrong."""
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in held.rows.items())
    without = len(held.weeks) - sum(map(len, held.rows.values()))
    dropped = "" if held.account is None else f"; {held.account.count('weeks', 'in'):,} before the preparation"
    rows = f"{len(held.weeks):,} in the data{dropped}; {sizes}; without a known target {without:,}"
    people = {split: len(set(held.people[rows])) for split, rows in held.rows.items()}
    counts = ", ".join(f"{split} {count:,}" for split, count in people.items())
    who = f"Nobody is in two splits. People: {counts}."
    if held.split_by == "week":
        both = sum(people.values()) - len(set(held.people[np.concatenate(list(held.rows.values()))]))
        scores = ", so scores say nothing about new people" if both else ""
        who = f"Split by week, as asked for{scores}. People: {counts}."
    used = sum(map(len, held.rows.values()))
    return [
        Finding(CHECK, "pass", "rows", used, None, "weeks", f"No week is lost or doubled. {rows}."),
        Finding(CHECK, "pass", "people", len(set(held.people)), None, "people", who),
    ]


def problem(
    where: str, value: float | None, limit: float | None, unit: str, message: str, status: Status = "fail"
) -> Finding:
    """Return a finding of this check; a value that is no number, which JSON cannot hold, becomes None."""
    value = float(value) if value is not None and np.isfinite(value) else None
    return Finding(CHECK, status, where, value, limit, unit, message)


def _check_account(held: Held) -> list[Finding]:
    """Compare the weeks with the account of their preparation."""
    if held.account is None:
        return []
    found = []
    for stage in ("weeks", "people"):
        before, left = held.account.count(stage, "in"), held.account.count(stage, "left")
        share = 1 - left / before if before else 0.0
        if share > WARN_DROPPED:
            reasons = [(n, what) for s, what, n in held.account if s == stage and what.startswith("dropped: ")]
            why = "; ".join(f"{n:,} {what.removeprefix('dropped: ')}" for n, what in sorted(reasons, reverse=True)[:3])
            found.append(
                problem(
                    f"rows/prepared {stage}", share, WARN_DROPPED, "share dropped",
                    f"the preparation dropped {before - left:,} of {before:,} {stage} ({why}); "
                    "`heartnet describe` shows the whole account",
                    "fail" if share >= FAIL_DROPPED else "warn",
                )
            )  # fmt: skip
    left = held.account.count("weeks", "left")
    if left and left != len(held.weeks):
        found.append(
            problem(
                "rows/store", len(held.weeks), left, "weeks",
                f"the data has {len(held.weeks):,} weeks, and its preparation left {left:,}",
                "fail" if len(held.weeks) < (1 - WARN_DROPPED) * left else "warn",
            )
        )  # fmt: skip
    return found


def _check_rows(held: Held) -> list[Finding]:
    """See that every week that has a known target is in exactly one split."""
    labelled = ~np.isnan(held.values).all(axis=1)
    uses = np.bincount(np.concatenate(list(held.rows.values())), minlength=len(held.weeks))
    found = []
    unlabelled = 1 - labelled.mean()
    if unlabelled > WARN_DROPPED:
        found.append(
            problem(
                "rows/without target", unlabelled, WARN_DROPPED, "share of weeks",
                f"{(~labelled).sum():,} of {len(labelled):,} weeks have no known {' or '.join(held.targets)}, and are "
                "not used",
                "fail" if unlabelled >= FAIL_DROPPED else "warn",
            )
        )  # fmt: skip
    lost = int((labelled & (uses == 0)).sum())
    if lost:
        share = lost / labelled.sum()
        sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in held.rows.items())
        found.append(
            problem(
                "rows/filtered", share, 0.0, "share of weeks",
                f"{lost:,} of {labelled.sum():,} weeks with a known target are in no split ({sizes})",
                "fail" if share > WARN_DROPPED else "warn",
            )
        )  # fmt: skip
    for split, rows in held.rows.items():
        twice = len(rows) - len(np.unique(rows))
        if twice:
            message = f"{twice:,} of {len(rows):,} rows of {split} are there more than once"
            status: Status = "warn" if split == "train" else "fail"
            found.append(problem(f"{split}/rows", twice, 0, "weeks", message, status))
    return found


def _check_people(held: Held) -> list[Finding]:
    """See that no person, and no week, is in two splits; people may be if the split is by week."""
    found = []
    for one, other in combinations(held.rows, 2):
        weeks = len(np.intersect1d(held.rows[one], held.rows[other]))
        people = np.intersect1d(held.people[held.rows[one]], held.people[held.rows[other]])
        if weeks or (len(people) and held.split_by != "week"):
            who = held.weeks.table["user_id"].to_numpy()[np.isin(held.people, people)][0]
            of = len(set(held.people[held.rows[other]]))
            also = f", {weeks:,} of them with the very same weeks" if weeks else ""
            message = f"{len(people):,} of the {of:,} people in {other} are in {one} too{also}, such as {who}"
            finding = problem(f"people/{one}+{other}", len(people), 0, "people", message)
            found.append(replace(finding, try_=("data.split_by=user",)) if held.split_by == "week" else finding)
    return found


def _check_readings(held: Held) -> list[Finding]:
    """See that the data's own channels can be what they are called; on readings spread over all weeks."""
    weeks, found = held.weeks, []
    at = np.unique(np.linspace(0, len(weeks.readings) - 1, min(len(weeks.readings), 65_536)).astype(np.int64))
    sample = np.asarray(weeks.readings[at], dtype=np.float64)
    for channel, name in enumerate(CHANNELS):
        values = sample[:, channel]
        values = values[~np.isnan(values)]
        if not len(values):
            if name != "steps":  # many devices and recordings have none
                found.append(problem(f"data/{name}", 0, None, "readings", f"the data holds no {name} at all"))
        elif name != "dt" and len(values) >= _WIDTH and values.min() == values.max():
            message = f"{name} is {values[0]:g} at every reading of the data"
            found.append(problem(f"data/{name}", values[0], None, UNITS[name], message, "warn"))
    rate = sample[:, 0][~np.isnan(sample[:, 0])]
    if len(rate) and not 25 <= (middle := float(np.median(rate))) <= 220:
        guess = " (beats a second?)" if middle < 5 else " (milliseconds between beats?)" if middle > 250 else ""
        message = f"the data's median heart rate is {middle:.4g}, which cannot be bpm{guess}"
        found.append(problem("data/heart_rate", middle, 220, "bpm", message))
    return found + _check_dt(weeks, at)


def _check_dt(weeks: Weeks, at: Int64[np.ndarray, " reading"]) -> list[Finding]:
    """Compare dt with the clock; a clock that is set forward or back spoils single readings only."""
    at = np.setdiff1d(at[at > 0], weeks.offsets)
    dt = np.asarray(weeks.readings[at, 2], dtype=np.float64)
    clock = (weeks.local_time[at] - weeks.local_time[at - 1]) / 1e6
    usable = (clock > 0) & (dt > 0)
    if not usable.any():
        return []
    ratio = float(np.median(dt[usable] / clock[usable]))
    if abs(ratio - 1) <= 0.1:
        return []
    return [
        problem(
            "data/dt", ratio, 1, "times the clock",
            f"the data's dt is {ratio:,.4g} times the seconds between readings{unit_of('dt', ratio)}",
        )
    ]  # fmt: skip


def unit_of(channel: str, factor: float) -> str:
    """Return in which unit a channel seems to be that is so many times what it should be: `", so it is in …"`."""
    units = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9, "minutes": 1 / 60, "hours": 1 / 3600}
    known = {"dt": units, "heart_rate": {"beats a second": 1 / 60}}.get(channel, {})
    return next((f": {name}" for name, size in known.items() if abs(factor / size - 1) < 0.02), "")


def _check_duplicates(held: Held) -> list[Finding]:
    """Find weeks that hold the same readings under different rows."""
    pairs = duplicates(held.weeks, np.sort(np.unique(np.concatenate(list(held.rows.values())))))
    names, found = list(held.rows), []
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for one, other in pairs:
        first, second = sorted((held.split_of[one], held.split_of[other]))
        groups.setdefault((names[first], names[second]), []).append((one, other))
    for (first_split, second_split), same in groups.items():
        users = held.weeks.table["user_id"]
        one, other = same[0]
        across = first_split != second_split
        found.append(
            problem(
                f"duplicates/{first_split}+{second_split}" if across else f"duplicates/{first_split}",
                len(same), 0, "weeks",
                f"{len(same):,} weeks have the same readings as another one, such as row {one} of {users[one]} "
                f"({first_split}) and row {other} of {users[other]}" + (f" ({second_split})" if across else ""),
                "fail" if across else "warn",
            )
        )  # fmt: skip
    return found


def duplicates(weeks: Weeks, rows: Int64[np.ndarray, " row"]) -> list[tuple[int, int]]:
    """Return pairs of rows whose weeks hold the same readings, each later row with the first it is like.

    Weeks of fewer than 16 readings, or without a change of heart rate in the 16 in their middle, are alike by chance.
    """
    lengths = np.diff(weeks.offsets)[rows]
    rows, lengths = rows[lengths >= _WIDTH], lengths[lengths >= _WIDTH]
    if not len(rows):
        return []
    middle = (weeks.offsets[rows] + (lengths - _WIDTH) // 2)[:, None] + np.arange(_WIDTH)
    rates = np.nan_to_num(np.asarray(weeks.readings[middle, 0]))
    telling = (rates != rates[:, :1]).sum(axis=1) >= 4
    keys: dict[bytes, list[int]] = {}
    pairs = []
    for row, length, rate in zip(rows[telling].tolist(), lengths[telling], rates[telling], strict=True):
        alike = keys.setdefault(length.tobytes() + rate.tobytes(), [])
        first = next((other for other in alike if _same(weeks, row, other)), None)
        if first is None:
            alike.append(row)
        else:
            pairs.append((first, row))
    return pairs


def _same(weeks: Weeks, one: int, other: int) -> bool:
    return np.array_equal(weeks.week(one)[:, :2], weeks.week(other)[:, :2], equal_nan=True)


def _check_synthetic(held: Held, count: int = 32) -> list[Finding]:
    """Compute synthetic targets of some weeks of each split again."""
    found = []
    for split, rows in held.rows.items() if held.kind == "synthetic" else ():
        some = rows[:: max(len(rows) // count, 1)][:count]
        again = [_targets_of(held.weeks, int(row), held.targets) for row in some]
        for i, name in enumerate(held.targets):
            wrong = [k for k, row in enumerate(some) if not _close(again[k][i], float(held.values[row, i]))]
            if wrong:
                message = f"{name} of {len(wrong):,} of {len(some):,} weeks in {split} is not that of their readings"
                found.append(problem(f"{split}/{name}", len(wrong), 0, "weeks", message))
    return found


def _close(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True))


def _targets_of(weeks: Weeks, row: int, names: Sequence[str]) -> list[float]:
    span = slice(weeks.offsets[row], weeks.offsets[row + 1])
    one = replace(
        weeks,
        readings=weeks.readings[span],
        local_time=weeks.local_time[span],
        offsets=np.array([0, span.stop - span.start]),
        table=weeks.table[row : row + 1],
        annotations={name: values[span] for name, values in weeks.annotations.items()},
    )
    targets: Float64[np.ndarray, "1 target"] = synthetic_targets(one, tuple(names)).astype(np.float64)
    return [float(value) for value in targets[0]]
