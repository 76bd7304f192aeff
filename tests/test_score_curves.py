"""ROC, precision over recall, average precision and histograms: against scikit-learn, and naive loops over draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from heartnet.diagnostics import score_curves
from heartnet.diagnostics.score_curves import average_precision, histogram, precision_recall_curve

GRID = np.linspace(0, 1, 21)


def drawn(seed: int, weeks: int, ties: int, draws: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores with ties, labels of both classes, and how often each week is drawn; the first draw is all."""
    rng = np.random.default_rng(seed)
    score = rng.integers(0, ties, weeks) / ties
    value = rng.integers(0, 2, weeks).astype(float)
    value[:2] = 0, 1
    weights = rng.integers(0, 4, (weeks, draws)).astype(float)
    weights[:, 0] = 1
    weights[:2] = np.maximum(weights[:2], 1)
    return score, value, weights


def repeated(score: np.ndarray, value: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    often = weight.astype(int)
    return np.repeat(score, often), np.repeat(value, often)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 30))
def test_roc_is_that_of_scikit_learn_for_each_draw(seed: int, weeks: int, ties: int) -> None:
    score, value, weights = drawn(seed, weeks, ties)
    found = score_curves.roc_curve(score, value, GRID)(weights)
    for draw in range(weights.shape[1]):
        s, v = repeated(score, value, weights[:, draw])
        alarms, hits, _ = metrics.roc_curve(v, s, drop_intermediate=False)
        for i, at in enumerate(GRID):
            on = np.isclose(alarms, at)
            expected = hits[on].max() if on.any() else np.interp(at, alarms, hits)
            assert found[i, draw] == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 30))
def test_precision_is_that_of_the_highest_threshold_with_the_recall(seed: int, weeks: int, ties: int) -> None:
    score, value, weights = drawn(seed, weeks, ties)
    at = GRID[1:]
    found = precision_recall_curve(score, value, at)(weights)
    areas = average_precision(score, value)(weights)
    for draw in range(weights.shape[1]):
        s, v = repeated(score, value, weights[:, draw])
        precision, recall, _ = metrics.precision_recall_curve(v, s)
        for i, wanted in enumerate(at):
            reached = np.flatnonzero(recall >= wanted - 1e-9)  # recall falls: the last is the highest threshold
            assert found[i, draw] == pytest.approx(precision[reached[-1]])
        assert areas[draw] == pytest.approx(metrics.average_precision_score(v, s))


def test_the_area_under_the_steps_is_the_average_precision() -> None:
    score, value, weights = drawn(3, 40, 1000)
    at = np.linspace(0, 1, 40_001)[1:]
    area = precision_recall_curve(score, value, at)(weights).mean(axis=0)
    np.testing.assert_allclose(area, average_precision(score, value)(weights), atol=1e-3)


def test_a_draw_of_one_class_has_no_curve() -> None:
    score, value = np.array([0.1, 0.4, 0.6]), np.array([0.0, 0.0, 1.0])
    one_class = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert np.isnan(score_curves.roc_curve(score, value, GRID)(one_class)).all()
    assert np.isnan(precision_recall_curve(score, value, GRID[1:])(one_class)[:, 0]).all()
    assert np.isnan(average_precision(score, value)(one_class)[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 50), st.integers(1, 12))
def test_histograms_are_those_of_numpy(seed: int, weeks: int, ties: int) -> None:
    score, value, weights = drawn(seed, weeks, ties)
    edges = np.linspace(0, 1, 9)
    found = histogram(score, value, edges)(weights)
    for draw in range(weights.shape[1]):
        s, v = repeated(score, value, weights[:, draw])
        expected = np.histogram(s[v == 1], edges)[0] / (v == 1).sum()
        np.testing.assert_allclose(found[:, draw], expected)
