"""Weeks in which one input comes from another week, or is missing, as a network then sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from heartnet.diagnostics.probe import Probe

Rows = npt.NDArray[np.int64]
Change = Callable[[Probe, Rows], Probe]
"""Takes a batch and the numbers of its weeks among all that are looked at, returns the batch changed."""

MASK = "missing"
"""The channel that is 1 where heart rate is missing."""

_MASKED = ("heart_rate", "mean")  # the channels that the mask speaks of: of readings, and of hours
_BLOCK = 16


def unchanged(probe: Probe, rows: Rows) -> Probe:
    del rows
    return probe


def other_weeks(weeks: Sequence[Float[Tensor, "_ channel"]], donors: Rows) -> Change:
    """Give each week all readings of another one, as many as that has; what is known of the person stays."""

    def change(probe: Probe, rows: Rows) -> Probe:
        given = [weeks[donor] for donor in donors[rows]]
        lengths = torch.tensor([len(each) for each in given], device=probe.lengths.device, dtype=probe.lengths.dtype)
        rest = tuple(lengths.to(each) if _is(each, probe.lengths) else each for each in probe.rest)
        return replace(probe, inputs=pad_sequence(given, batch_first=True), rest=rest, lengths=lengths, dt=None)

    return change


def other_channels(weeks: Sequence[Float[Tensor, "_ channel"]], donors: Rows, places: Sequence[int]) -> Change:
    """Give each week some channels of another one: reading `i` of `n` what stands at `i * m // n` of its `m`."""

    def change(probe: Probe, rows: Rows) -> Probe:
        inputs = probe.inputs.clone()
        for row, length in enumerate(probe.lengths.tolist()):
            given = weeks[donors[rows[row]]]
            at = torch.arange(length, device=given.device) * len(given) // length
            for place in places:
                inputs[row, :length, place] = given[at, place]
        return replace(probe, inputs=inputs)

    return change


def without_channels(places: Sequence[int], *, mask: int | None = None) -> Change:
    """Show some channels as missing: 0, and the mask 1."""

    def change(probe: Probe, rows: Rows) -> Probe:
        del rows
        inputs = probe.inputs.clone()
        inputs[:, :, list(places)] = 0
        if mask is not None:
            valid = torch.arange(inputs.shape[1], device=inputs.device) < probe.lengths.to(inputs.device)[:, None]
            inputs[:, :, mask] = valid.to(inputs.dtype)
        return replace(probe, inputs=inputs)

    return change


def other_people(place: int, known: Float[Tensor, "week field"], columns: Sequence[int]) -> Change:
    """Put `known` of each week into some columns of `Probe.rest[place]`."""

    def change(probe: Probe, rows: Rows) -> Probe:
        metadata = probe.rest[place].clone()
        metadata[:, list(columns)] = known[torch.from_numpy(rows)][:, list(columns)].to(metadata)
        return replace(probe, rest=(*probe.rest[:place], metadata, *probe.rest[place + 1 :]))

    return change


def places_of(name: str, channels: Sequence[str]) -> tuple[list[int], int | None]:
    """Return which channels go with one, itself and a mask that speaks of it, and where that mask is."""
    mask = channels.index(MASK) if MASK in channels and name in _MASKED else None
    return [channels.index(name)] + ([] if mask is None else [mask]), mask


def donors_of(users: Shaped[np.ndarray, " week"], rng: np.random.Generator) -> Int64[np.ndarray, " week"]:
    """Return for each week the one it gets from: a permutation, between people if no one has half of all weeks.

    People are put in random order, each with all weeks, and all moved on by a random number of weeks, at least as many
    as any of them has.
    """
    _, user, sizes = np.unique(users, return_inverse=True, return_counts=True)
    count, most = len(user), int(sizes.max())
    if count < 2:
        return np.arange(count)
    order = np.lexsort([rng.random(count), rng.permutation(len(sizes))[user]])
    shift = rng.integers(most, count - most + 1) if 2 * most <= count else rng.integers(1, count)
    donors = np.empty(count, dtype=np.int64)
    donors[order] = np.roll(order, shift)
    return donors


def near_donors_of(
    lengths: Int64[np.ndarray, " week"], users: Shaped[np.ndarray, " week"], rng: np.random.Generator
) -> Int64[np.ndarray, " week"]:
    """Return the same, between weeks of similar length: within blocks of sixteen, by length."""
    order = np.lexsort([rng.random(len(lengths)), lengths])
    donors = np.empty(len(lengths), dtype=np.int64)
    for block in np.array_split(order, max(len(order) // _BLOCK, 1)):
        donors[block] = block[donors_of(users[block], rng)]
    return donors


def _is(tensor: Tensor, lengths: Tensor) -> bool:
    return tensor.shape == lengths.shape and bool((tensor.to(lengths.device) == lengths).all())
