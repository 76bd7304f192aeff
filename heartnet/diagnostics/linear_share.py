"""Is a network no more than a linear model? The share of its logits that is linear in the means of its inputs."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

PARTS = 5
"""Of the weeks: each is predicted from a regression on the other four."""

_WEEKS_A_FEATURE = 4


def linear_share(logit: Float[np.ndarray, " week"], means: Float[np.ndarray, "week feature"]) -> float:
    """Return the share of variance of a network's logits that a linear function of its weeks' mean inputs predicts.

    Without an activation function, a network whose steps are averaged is such a function, but for the edges of its
    convolutions: the share is 1. It is predicted for weeks that the regression has not seen; a share below 0 is 0. NaN
    with fewer weeks than four a feature, or logits that do not differ.

    Args:
        logit: of each week.
        means: over the steps of each week, of each channel as the network sees it, and what else it sees.
    """
    centred = means - means.mean(axis=0)
    spread = centred.std(axis=0)
    useful = centred[:, spread > 1e-9] / spread[spread > 1e-9]
    count, size = useful.shape
    total = ((logit - logit.mean()) ** 2).sum()
    if count < max(_WEEKS_A_FEATURE * (size + 1), 2 * PARTS) or not np.isfinite(logit).all() or total < 1e-18 * count:
        return math.nan
    design = np.concatenate([np.ones((count, 1)), useful], axis=1)
    part = np.random.default_rng(0).permutation(count) % PARTS
    error = 0.0
    for k in range(PARTS):
        weights = np.linalg.lstsq(design[part != k], logit[part != k], rcond=None)[0]
        error += float(((logit[part == k] - design[part == k] @ weights) ** 2).sum())
    return max(1 - error / float(total), 0.0)
