"""How well scores of several networks rank weeks, where only weeks that one network scored are compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Shaped

from heartnet.resampling import Statistic, auroc

Floats = npt.NDArray[np.float64]


def auroc_within(
    score: Float[np.ndarray, " week"], value: Float[np.ndarray, " week"], fold: Shaped[np.ndarray, " week"]
) -> Statistic:
    """Return the statistic "share of pairs, one week with it and one without, of one fold, that are ranked rightly".

    The mean of the folds' AUROCs, each weighted by its pairs; ties count half. NaN for a draw in which no fold has both
    classes. Networks of different folds need not score on one scale, and this does not ask it of them; the AUROC of all
    weeks does.

    Source: G. Forman and M. Scholz, "Apples-to-apples in cross-validation studies", ACM SIGKDD Explorations 12, 2010.

    Args:
        score: any monotone score of each network.
        value: 1 or 0.
        fold: which network scored the week.
    """
    places = [np.flatnonzero(fold == each) for each in np.unique(fold)]
    parts = [(auroc(score[place], value[place]), place, value[place] == 1) for place in places]

    def statistic(weights: Floats) -> Floats:
        right, pairs = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for own, place, positive in parts:
            drawn = weights[place]
            count = drawn[positive].sum(axis=0) * drawn[~positive].sum(axis=0)
            right += np.where(count > 0, np.nan_to_num(own(drawn)) * count, 0.0)
            pairs += count
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = right / np.where(pairs > 0, pairs, np.nan)
        return found

    return statistic
