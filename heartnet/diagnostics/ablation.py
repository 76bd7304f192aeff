"""What scores lose when a channel, or what is known of the person, comes from another week or is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Shaped

from heartnet.diagnostics.ablation_changes import (
    MASK,
    Change,
    donors_of,
    near_donors_of,
    other_channels,
    other_people,
    other_weeks,
    places_of,
    unchanged,
    without_channels,
)
from heartnet.diagnostics.comparison import Unit
from heartnet.diagnostics.isolate import device_of, isolated
from heartnet.diagnostics.probe import Probe
from heartnet.resampling import Interval, auroc, by_label, explained, intervals
from heartnet.tasks import Kind

Floats = npt.NDArray[np.float64]
How = Literal["permuted", "removed"]
Scores = Mapping[tuple[str, How], Float[np.ndarray, "permutation week output"]]

SENSORS, METADATA = "sensors", "metadata"
"""The names of all channels together, and of all metadata together."""

LITTLE = 0.25
"""A network whose sensors bring less than this share of what the metadata bring leans on the metadata."""

_SAME = 1e-4  # of the span of scores


@dataclass(frozen=True)
class Ablated:
    """What is lost with one input; intervals are from resampling people, of losses paired ones.

    Attributes:
        what: the channel or field; `SENSORS` or `METADATA` are all of them together.
        how: `permuted` between weeks, or `removed`.
        left: the score that is left: AUROC, or for synthetic targets the share of variance explained.
        loss: how much less that is than with all inputs.
    """

    what: str
    how: How
    left: Interval
    loss: Interval


@dataclass(frozen=True)
class Ablation:
    """What is lost, of one target; where weeks were split and not people, intervals are from resampling weeks.

    Attributes:
        target: its name.
        kind: of the task.
        weeks: that were looked at and whose target is known.
        users: how many people they are of.
        by: what was split, and is resampled.
        having, without: of a condition, how many of them have it in some week, and have it not in some week; by week,
            how many weeks.
        whole: the score with all inputs.
        parts: what is lost with each.
        lean: `LITTLE` times the loss of the metadata, less that of the sensors, both permuted; above 0 the network
            leans on the metadata. None if it does not look at them.
        blind: whether scores stay the same with all sensors of another week.
    """

    target: str
    kind: Kind
    weeks: int
    users: int
    by: Unit
    having: int
    without: int
    whole: Interval
    parts: tuple[Ablated, ...]
    lean: Interval | None
    blind: bool = False

    def loss(self, what: str, how: How = "permuted") -> Interval | None:
        """Return what is lost with an input; None if it was not ablated."""
        return next((each.loss for each in self.parts if (each.what, each.how) == (what, how)), None)

    def numbers(self) -> dict[str, float]:
        """Return the losses as `{how}/{what}`, their limits as `{how}_low/{what}`; NaN where there is none."""
        found: dict[str, float] = {}
        for each in self.parts:
            limits = {"": each.loss.value, "_low": each.loss.low, "_high": each.loss.high}
            found |= {f"{each.how}{end}/{each.what}": value for end, value in limits.items()}
        return found


def ablated_scores(
    probes: Sequence[Probe],
    users: Shaped[np.ndarray, " week"],
    *,
    metadata: int | None = None,
    fields: Sequence[str] = (),
    permutations: int = 3,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "week output"], Scores]:
    """Return a network's scores of some weeks, and those with one input after the other permuted and removed.

    Nothing is trained. The network is a copy (`heartnet.diagnostics.isolate.isolated`), weeks go through it batch by
    batch, and random streams stay as they are.

    *Permuted*, what a week has comes from another week, of another person if possible, and each week gives once:

    - All sensors together (`SENSORS`): the whole other week, as long as that is, so that nothing is inconsistent.
    - One channel: weeks differ in length, and a reading has no partner in another week. The donor is one of the weeks
      nearest in length, and reading `i` of `n` takes what stands at the same share of the donor's `m` readings,
      `i * m // n`: real values in their order, from the week's beginning to its end, all of them if both are equally
      long. How many readings a week has stays. The moments of steps, workouts and gaps no longer agree between
      channels, as they do in real weeks, which may cost something too: a channel's loss can exceed what it alone
      tells. A mask goes with the heart rate that it speaks of.
    - Metadata: each field by itself, with whether it is known, or all together, as of another person.

    *Removed*, it is what the network sees of a missing value: 0, the mask 1, and for metadata 0 and not known.

    Args:
        probes: a batch of weeks each; the network of the first is asked.
        users: whose week each is, in their order.
        metadata: which of `Probe.rest` holds the metadata, if any: each of `fields`, and then whether each is known.
        fields: names; empty if the metadata are arranged in another way: then they are only permuted together.
        permutations: how often.
        seed: of the permutations.
    """
    with isolated(probes[0].network, torch.float32) as network, torch.no_grad():
        place = device_of(network)

        def scores(change: Change) -> Floats:
            found, first = [], 0
            for probe in probes:
                rows = np.arange(first, first + len(probe.inputs))
                first += len(rows)
                now = change(probe, rows)
                rest = [each.to(place) for each in now.rest]
                found.append(network(now.inputs.to(place), *rest).score.double().cpu().numpy())
            stacked: Floats = np.concatenate(found)
            return stacked

        before, found = scores(unchanged), {}
        rng = np.random.default_rng(seed)
        for what, how, changes in _changes(probes, users, metadata, tuple(fields), permutations, rng):
            found[what, how] = np.stack([scores(change) for change in changes])
            if (what, how) == (METADATA, "permuted") and (found[what, how] == before).all():
                break  # it does not look at them; they come last
    return before, found


def losses(
    target: str,
    before: Float[np.ndarray, " week"],
    after: Mapping[tuple[str, How], Float[np.ndarray, "_ week"]],
    value: Float[np.ndarray, " week"],
    users: Shaped[np.ndarray, " week"],
    *,
    kind: Kind = "conditions",
    by: Unit = "user",
    draws: int = 1000,
    seed: int = 0,
) -> Ablation | None:
    """Return what is lost of one target's score with each input, the mean over permutations.

    Args:
        target: its name.
        before: the network's scores with all inputs.
        after: without one of them, each `[permutation, week]`; all sensors permuted are among them.
        value: 1 or 0, or the synthetic target; NaN is unknown.
        users: whose week each is.
        kind: of the task.
        by: what was split, and is resampled.
        draws: resamples.
        seed: of the draws.

    Returns:
        None where no score is defined: one class only, one value only, or scores that are not finite.
    """
    known = ~np.isnan(value)
    value, users = value[known], users[known]
    all_finite = np.isfinite(before).all() and all(np.isfinite(each).all() for each in after.values())
    if not all_finite or len(np.unique(value)) < 2:
        return None
    conditions = kind == "conditions"
    make = auroc if conditions else explained
    whole = make(before[known], value)
    without = [[make(each, value) for each in scores[:, known]] for scores in after.values()]
    names = list(after)
    both = [names.index((name, "permuted")) for name in (SENSORS, METADATA) if (name, "permuted") in names]

    def statistic(weights: Floats) -> Floats:
        first = whole(weights)
        lost = np.stack([np.mean([first - each(weights) for each in some], axis=0) for some in without])
        lean = lost[both]
        contrast = LITTLE * lean[1] - lean[0] if len(both) == 2 else np.full_like(first, np.nan)
        return np.concatenate([first[None], first - lost, lost, contrast[None]])

    drawn = users if by == "user" else np.arange(len(users))
    strata = by_label(drawn, value) if conditions else None
    found = intervals(statistic, drawn, strata, draws=draws, seed=seed)
    count = len(names)
    parts = zip(names, found[1 : 1 + count], found[1 + count : 1 + 2 * count], strict=True)
    looks = (METADATA, "permuted") in after and bool((after[METADATA, "permuted"] != before).any())
    return Ablation(
        target=target,
        kind=kind,
        weeks=len(value),
        users=len(np.unique(users)),
        by=by,
        having=len(np.unique(drawn[value == 1])) if conditions else 0,
        without=len(np.unique(drawn[value == 0])) if conditions else 0,
        whole=found[0],
        parts=tuple(Ablated(what, how, left, loss) for (what, how), left, loss in parts),
        lean=found[-1] if looks else None,
        blind=bool((abs(after[SENSORS, "permuted"] - before) <= _SAME * np.ptp(before)).all()),
    )


def _changes(
    probes: Sequence[Probe],
    users: Shaped[np.ndarray, " week"],
    metadata: int | None,
    fields: tuple[str, ...],
    permutations: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, How, list[Change]]]:
    """Yield what is ablated, how, and the changes that do it."""
    weeks = [week[: int(n)] for probe in probes for week, n in zip(probe.inputs, probe.lengths, strict=True)]
    channels = probes[0].channels
    lengths = np.array([len(week) for week in weeks], dtype=np.int64)
    far = [donors_of(users, rng) for _ in range(permutations)]
    near = [near_donors_of(lengths, users, rng) for _ in range(permutations)]
    mask = channels.index(MASK) if MASK in channels else None
    yield SENSORS, "permuted", [other_weeks(weeks, donors) for donors in far]
    yield SENSORS, "removed", [without_channels(range(len(channels)), mask=mask)]
    for name in channels if len(channels) > 1 else ():
        places, mask = places_of(name, channels)
        yield name, "permuted", [other_channels(weeks, donors, places) for donors in near]
        yield name, "removed", [without_channels(places, mask=mask)]
    if metadata is None:
        return
    known = torch.cat([probe.rest[metadata] for probe in probes])
    groups = {METADATA: list(range(known.shape[1]))}
    groups |= {name: [i, len(fields) + i] for i, name in enumerate(fields)}
    for name, columns in groups.items():
        yield name, "permuted", [other_people(metadata, known[torch.from_numpy(donors)], columns) for donors in far]
        if fields:
            yield name, "removed", [other_people(metadata, torch.zeros_like(known), columns)]
