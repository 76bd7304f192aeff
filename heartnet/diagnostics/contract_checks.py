"""Verdicts on what arrived in batches: values, scale, labels, a leaked label, and one split against another."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float64, Int64

from heartnet.diagnostics.contract_batches import SUMMARIES, Numbers
from heartnet.diagnostics.contract_data import problem
from heartnet.findings import Finding, Status

LEAK = 0.98
"""AUROC from which one number a week tells a label too well to be true."""

MARKER = 0.95
"""AUROC that the best of true markers may have: a leak is three standard errors above it."""

CERTAIN, SUSPECT = 1e-6, 1e-2
"""Chance of as good a separation by luck: over all channels, their summaries and labels together; and over channels of
which the data knows nothing, and labels."""

FAR = 10.0
"""Mean or spread (and one over the spread, times ten) of a channel that is far from 0 and 1."""

_ENOUGH = 16  # weeks, or readings, below which nothing is called constant or identical
_MANY = 4  # channels of which each gets a finding of its own
_FEWEST_WEEKS = 4  # of which a split is compared with another
_DRAWS = 20
_MANY_PEOPLE = 200
_WIDE = 0.2  # of the range between those with a label and those without: a marker separates few by luck, narrowly
_ERRORS = 5  # standard errors between two base rates; weeks of one person are not independent


def check_values(split: str, names: Sequence[str], numbers: Numbers) -> list[Finding]:
    """Find NaN and infinite values in inputs and metadata."""
    found = []
    for name, bad, count in zip(names, numbers.bad, numbers.count, strict=True):
        if bad:
            message = f"in {split}, {name} is NaN or infinite at {bad:,} of {bad + count:,} values"
            found.append(problem(f"{split}/{name}/nan", bad, 0, "values", message))
    if numbers.bad_metadata:
        message = f"in {split}, {numbers.bad_metadata:,} values of the metadata are NaN or infinite"
        found.append(problem(f"{split}/metadata/nan", numbers.bad_metadata, 0, "values", message))
    return found


def check_constant(
    split: str, names: Sequence[str], numbers: Numbers, allowed: Collection[str], status: Status
) -> list[Finding]:
    """Find channels that say nothing, and channels that say the same; `allowed` may be constant."""
    if numbers.weeks < 2 or numbers.count.max(initial=0) < _ENOUGH:
        return []
    constant = (numbers.lowest == numbers.highest) & (numbers.count >= _ENOUGH)
    which = [i for i in np.flatnonzero(constant).tolist() if names[i] not in allowed]
    texts = [f"is {numbers.lowest[i]:.4g} at all {numbers.count[i]:,} values" for i in which]
    found = _by_channel(split, names, which, texts, "is constant", numbers.lowest, status)
    if not len(numbers.correlation):
        return found
    equal = np.isclose(numbers.mean[:, None], numbers.mean, rtol=1e-9) & np.isclose(
        numbers.std[:, None], numbers.std, rtol=1e-6
    )
    twins = np.argwhere(np.triu(equal & (numbers.correlation > 1 - 1e-9), 1))
    for one, other in twins[:_MANY]:
        message = f"in {split}, the channels {names[one]} and {names[other]} are the same"
        found.append(problem(f"{split}/{names[one]}={names[other]}", 1.0, None, "correlation", message, "warn"))
    return found


def check_scale(
    split: str, names: Sequence[str], numbers: Numbers, allowed: Collection[str], status: Status
) -> list[Finding]:
    """Find channels whose mean or spread is far from 0 and 1."""
    if numbers.weeks < 2:
        return []
    varies = (numbers.lowest < numbers.highest) & (numbers.count >= _ENOUGH)
    far = varies & ((np.abs(numbers.mean) > FAR) | (numbers.std > FAR) | (numbers.std < 0.1 / FAR))
    which = [i for i in np.flatnonzero(far).tolist() if names[i] not in allowed]
    texts = [
        f"has mean {numbers.mean[i]:.4g} and spread {numbers.std[i]:.4g} (from {numbers.lowest[i]:.4g} to "
        f"{numbers.highest[i]:.4g}): networks learn best near 0 and 1, so scale it"
        for i in which
    ]
    return _by_channel(split, names, which, texts, "is far from mean 0 and spread 1", numbers.mean, status)


def _by_channel(
    split: str,
    names: Sequence[str],
    which: Sequence[int],
    texts: Sequence[str],
    together: str,
    values: Float64[np.ndarray, " channel"],
    status: Status,
) -> list[Finding]:
    """Return a finding for each channel, or one for many."""
    if len(which) > _MANY:
        some = ", ".join(names[i] for i in which[:_MANY])
        message = f"in {split}, each of {len(which):,} of {len(names):,} channels {together}, such as {some}"
        return [problem(f"{split}/channels", len(which), 0, "channels", message, status)]
    return [
        problem(f"{split}/{names[i]}", values[i], None, "", f"in {split}, {names[i]} {text}", status)
        for i, text in zip(which, texts, strict=True)
    ]


def check_labels(
    split: str,
    targets: Sequence[str],
    columns: Sequence[str],
    read: tuple[Int64[np.ndarray, "target column"], Int64[np.ndarray, "target column"], int],
    weeks: int,
) -> list[Finding]:
    """Compare the targets of a split's batches with the data's columns, by name; see `LabelTally.read`."""
    same, opposite, strangers = read
    found = []
    if strangers:
        message = f"{strangers:,} of {weeks:,} weeks in batches of {split} do not belong to that split"
        found.append(problem(f"{split}/index", strangers, 0, "weeks", message))
    own = [list(columns).index(name) for name in targets[: same.shape[0]]]
    wrong = [i for i, column in enumerate(own) if same[i, column] < weeks]
    if same.shape[0] != len(targets):
        message = f"batches of {split} have {same.shape[0]} targets; there are {', '.join(targets)}"
        return [*found, problem(f"{split}/targets", same.shape[0], len(targets), "targets", message)]
    for i in wrong:
        count = weeks - same[i, own[i]]
        holders = [columns[j] for j in range(len(columns)) if same[i, j] == weeks]
        if holders:
            other = " or ".join(holders)
            hint = f": the column holds {other}"
            back = [targets[k] for k in wrong if targets[k] in holders and same[k, own[i]] == weeks]
            hint += f", and that of {back[0]} holds {targets[i]}" if len(back) == 1 else ""
        else:
            hint = ": 0 and 1 are exchanged" if opposite[i, own[i]] == weeks else ""
        message = f"in {split}, {targets[i]} differs from the data in {count:,} of {weeks:,} weeks{hint}"
        found.append(problem(f"{split}/{targets[i]}", count, 0, "weeks", message))
    return found


def check_targets(split: str, names: Sequence[str], numbers: Numbers) -> list[Finding]:
    """Find missing labels among those of a loader of which nothing else is known."""
    if numbers.targets is None:
        return []
    missing = np.isnan(numbers.targets).sum(axis=0)
    return [
        problem(f"{split}/{name}", count, 0, "labels", f"in {split}, {name} is NaN in {count:,} weeks", "warn")
        for name, count in zip(names, missing[: len(names)], strict=True)
        if count
    ]


def check_base_rates(split: str, names: Sequence[str], train: Numbers, numbers: Numbers) -> list[Finding]:
    """Find labels whose share of positives in a split cannot be that of training; only labels of 0 and 1."""
    if train.known.shape != numbers.known.shape:
        return []
    found = []
    rates = [np.where(n.known > 0, n.positive / np.maximum(n.known, 1), np.nan) for n in (train, numbers)]
    binary = (train.other == 0) & (numbers.other == 0) & (train.known >= _ENOUGH) & (numbers.known >= _ENOUGH)
    for i in np.flatnonzero(binary).tolist():
        pooled = (train.positive[i] + numbers.positive[i]) / (train.known[i] + numbers.known[i])
        error = math.sqrt(max(pooled * (1 - pooled) * (1 / train.known[i] + 1 / numbers.known[i]), 1e-12))
        if abs(rates[1][i] - rates[0][i]) <= max(_ERRORS * error, 0.1):
            continue
        likes = [j for j in np.flatnonzero(binary).tolist() if j != i and abs(rates[1][i] - rates[0][j]) < 2 * error]
        hint = f"; that of {names[likes[0]]} in training is like it: are columns permuted?" if likes else ""
        message = f"in {split}, {rates[1][i]:.1%} have {names[i]}, and {rates[0][i]:.1%} in training{hint}"
        found.append(problem(f"{split}/{names[i]}", rates[1][i], rates[0][i], "share", message, "warn"))
    return found


def check_leak(
    channels: Sequence[str],
    targets: Sequence[str],
    summaries: Float64[np.ndarray, "week channel summary"],
    labels: Float64[np.ndarray, "week target"],
    people: Int64[np.ndarray, " week"],
    suspects: Collection[str],
    status: Status,
) -> list[Finding]:
    """Find channels of which one number a week (`SUMMARIES`) tells who has a label nearly without error.

    Weeks of one person with the same label count once, by their mean. A separation must be beyond luck: one of perfect
    ranking has a chance of 1 / C(n, positives), others that of a normal rank sum, times channels, summaries and labels.
    And it must be beyond what the best of true markers could show (`MARKER`).

    Args:
        channels: names.
        targets: names; those that are other than 0, 1 and NaN (missing) are passed over.
        summaries: of each week.
        labels: of the same weeks.
        people: whose week each is; another number for each week if nobody knows.
        suspects: channels of which the data knows nothing.
        status: of the findings.
    """
    tests = len(channels) * len(SUMMARIES) * len(targets)
    found = []
    for t, target in enumerate(targets):
        known = ~np.isnan(labels[:, t])
        if not np.isin(labels[known, t], (0, 1)).all():
            continue
        flat, positive = _by_person(summaries[known], labels[known, t], people[known])
        have, lack = int(positive.sum()), int((~positive).sum())
        for c, channel in enumerate(channels) if min(have, lack) >= 2 else ():
            areas = np.array([_auroc(flat[:, c, s], positive) for s in range(len(SUMMARIES))])
            best = int(np.argmax(np.abs(areas - 0.5)))
            area = float(max(areas[best], 1 - areas[best]))
            doubtful = channel in suspects
            luck = _luck(area, have, lack) * (len(suspects) * len(targets) if doubtful else tests)
            sure = area - 3 * _standard_error(area, have, lack) >= MARKER
            if area == 1 and have + lack < _MANY_PEOPLE:  # where the standard error is 0 by its formula
                sure = _gap(flat[:, c, best], positive) >= _WIDE
            if area >= LEAK and sure and luck < (SUSPECT if doubtful else CERTAIN):
                message = (
                    f"the {SUMMARIES[best]} value of {channel} in each week tells who has {target}: AUROC {area:.3f} "
                    f"over {have:,} with it and {lack:,} without. The label has leaked into the inputs"
                )
                found.append(problem(f"{target}/{channel}", area, LEAK, "AUROC", message, status))
    return found


def _by_person(
    values: Float64[np.ndarray, "week channel summary"],
    labels: Float64[np.ndarray, " week"],
    people: Int64[np.ndarray, " week"],
) -> tuple[Float64[np.ndarray, "person channel summary"], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    _, which, count = np.unique(np.stack([people, labels], axis=1), axis=0, return_inverse=True, return_counts=True)
    mean = np.zeros((len(count), *values.shape[1:]))
    np.add.at(mean, which, np.nan_to_num(values, posinf=0, neginf=0))
    positive = np.zeros(len(count), dtype=bool)
    positive[which] = labels == 1
    return mean / count[:, None, None], positive


def _auroc(values: Float64[np.ndarray, " n"], positive: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return the chance that a positive lies above a negative, ties counting half."""
    ordered = np.sort(values[~positive])
    above = np.searchsorted(ordered, values[positive], "left") + np.searchsorted(ordered, values[positive], "right")
    return float(above.mean() / (2 * len(ordered)))


def _gap(values: Float64[np.ndarray, " n"], positive: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return how far apart two groups lie that do not overlap, as a share of the whole range."""
    one, other = values[positive], values[~positive]
    return float(max(one.min() - other.max(), other.min() - one.max()) / np.ptp(values))


def _standard_error(area: float, positive: int, negative: int) -> float:
    """Return that of an AUROC: J. A. Hanley and B. J. McNeil, Radiology 143, 1982."""
    one, two = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    square = area * (1 - area) + (positive - 1) * one + (negative - 1) * two
    return math.sqrt(max(square, 0.0) / (positive * negative))


def _luck(area: float, positive: int, negative: int) -> float:
    """Return the chance of such a ranking of labels that have nothing to do with the values, both directions."""
    if area >= 1:
        n = positive + negative
        return 2 * math.exp(math.lgamma(positive + 1) + math.lgamma(negative + 1) - math.lgamma(n + 1))
    error = math.sqrt((positive + negative + 1) / (12 * positive * negative))
    return math.erfc((area - 0.5) / error / math.sqrt(2))


def check_between(split: str, names: Sequence[str], train: Numbers, numbers: Numbers) -> list[Finding]:
    """Find channels of a split that are distributed as no part of the training data is; and channels swapped there.

    The distance is that of Kolmogorov and Smirnov between quantiles of weeks. Its limit is half as much again as the
    largest of twenty random parts of the training weeks, as many as the split has, against the other training weeks.
    """
    seen, came = train.sketches, numbers.sketches
    if len(seen) < 2 * _FEWEST_WEEKS or not len(came) or seen.shape[1] != came.shape[1] or seen.shape[1] > 32:
        return []
    rng = np.random.default_rng(0)
    size = min(len(came), len(seen) // 2)
    limit = np.zeros(len(names))
    for _ in range(_DRAWS):
        order = rng.permutation(len(seen))
        parts = seen[order[:size]], seen[order[size:]]
        limit = np.maximum(limit, [_distance(parts[0][:, c], parts[1][:, c]) for c in range(len(names))])
    limit = np.maximum(1.5 * limit, 0.3)
    distance = np.array([[_distance(came[:, c], seen[:, d]) for d in range(len(names))] for c in range(len(names))])
    off = [c for c in range(len(names)) if distance[c, c] > limit[c]]
    found: list[Finding] = []
    told: set[int] = set()
    for one, other in combinations(range(len(names)), 2):
        crossed, own = distance[one, other] + distance[other, one], distance[one, one] + distance[other, other]
        if {one, other} & set(off) and not {one, other} & told and crossed < 0.5 * own:
            told |= {one, other}
            where = f"{split}/{names[one]}+{names[other]}"
            message = f"the channels {names[one]} and {names[other]} look swapped in {split}"
            found.append(problem(where, max(distance[one, one], distance[other, other]), limit[one], "KS", message))
    for c in off:
        if c not in told:
            message = (
                f"in {split}, {names[c]} is distributed unlike in training: mean {numbers.mean[c]:.4g}, spread "
                f"{numbers.std[c]:.4g}, from {numbers.lowest[c]:.4g} to {numbers.highest[c]:.4g}; in training mean "
                f"{train.mean[c]:.4g}, spread {train.std[c]:.4g}"
            )
            found.append(problem(f"{split}/{names[c]}", distance[c, c], limit[c], "KS", message, "warn"))
    return found


def _distance(one: Float64[np.ndarray, "_ quantile"], other: Float64[np.ndarray, "_ quantile"]) -> float:
    a, b = (np.sort(each[np.isfinite(each)]) for each in (one, other))
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())
