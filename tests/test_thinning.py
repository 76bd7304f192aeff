"""Thinning keeps the span, sparse stretches and every step, and at most the limit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heartnet.thinning import fold_steps, thin

SECOND = 1_000_000


def naive_fold(steps: list[float], kept: list[int]) -> list[float]:
    folded, carried, known = [], 0.0, False
    for index, count in enumerate(steps):
        if not np.isnan(count):
            carried, known = carried + count, True
        if index in set(kept):
            folded.append(carried if known else float("nan"))
            carried, known = 0.0, False
    return folded


@given(
    pauses=st.lists(st.integers(1, 10_000) | st.integers(1, 20), min_size=0, max_size=300),
    limit=st.integers(3, 60),
    seed=st.integers(0, 1000),
)
def test_at_most_the_limit_both_ends_and_all_steps(pauses: list[int], limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.concatenate([[0], np.cumsum(pauses)]).astype(np.int64) * SECOND
    heart_rate = np.where(rng.random(len(time)) < 0.7, 60, np.nan).astype(np.float32)
    steps = np.where(rng.random(len(time)) < 0.5, rng.integers(0, 50, len(time)), np.nan).astype(np.float32)
    kept = thin(time, heart_rate, limit)
    assert len(kept) <= max(limit, 1)
    assert len(kept) == len(time) or len(time) > limit
    assert kept[0] == 0
    assert kept[-1] == len(time) - 1
    assert (np.diff(kept) > 0).all()
    folded = fold_steps(steps, kept)
    assert np.nansum(folded) == np.nansum(steps)
    np.testing.assert_array_equal(folded, np.float32(naive_fold(steps.tolist(), kept.tolist())))


def test_a_short_week_is_left_alone() -> None:
    time = np.arange(100, dtype=np.int64) * SECOND
    np.testing.assert_array_equal(thin(time, np.full(100, 60, np.float32), 100), np.arange(100))


def test_sparse_readings_stay_and_a_workout_is_thinned_evenly() -> None:
    """Background every 300 s with one workout of 3,000 s at 5 s: all of the background stays."""
    background = np.arange(0, 2000) * 300
    workout = 300_000 + np.arange(5, 3000, 5)
    seconds = np.unique(np.concatenate([background, workout]))
    kept = seconds[thin(seconds.astype(np.int64) * SECOND, np.full(len(seconds), 90, np.float32), 2200)]
    quiet = seconds[(seconds <= 300_000) | (seconds > 303_000 + 300)]
    assert set(quiet) <= set(kept)
    during = kept[(kept >= 300_000) & (kept <= 303_000)]
    assert 150 < len(during) <= 220
    assert set(np.diff(during)) <= {10, 15, 20}
    assert len(kept) >= 2190


def test_a_reading_with_a_heart_rate_is_kept_before_one_without() -> None:
    time = np.arange(1000, dtype=np.int64) * SECOND
    heart_rate = np.where(np.arange(1000) % 3 == 1, 70, np.nan).astype(np.float32)
    kept = thin(time, heart_rate, 100)
    assert not np.isnan(heart_rate[kept[1:-1]]).any()
