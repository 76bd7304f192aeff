"""Does a score tell less of the label inside a pattern than elsewhere? As one number, with what each person adds to it.

The question is put to the label given the score. In log odds, let the label depend on the score by any smooth curve,
and on the pattern by a constant, which takes up that more of these people, or fewer, have it than the scores say. What
is left to ask is whether the curve is flatter inside. So neither a higher base rate, nor metadata that tell rightly,
nor scores of a narrow range make a pattern, whereas scores that mean less than elsewhere do: their losses are not
matched by as many wins. One can also ask whether it is flatter by more than some share.

There is one exception. A network that recognises a bad watch says next to nothing of those who wear it, and of a narrow
range that is rightly so. But with what a week was recorded is no reason for people's risks to lie closer together than
those of others; so there one can ask for ranks, whether the AUROC is lower.

The first number is a score test: nothing is fitted with the interaction in it. The second is a difference of AUROCs, of
which each person has a share, the influence function. A person's contributions, of all weeks and conditions, go
together, and flipping the signs of people's contributions gives the distribution where nothing is to be found; this
holds with any dependence between the weeks of a person and does not need the variance to be right (J. Hemerik,
J. Goeman and L. Finos, "Robust testing in generalized linear models by sign flipping score contributions", Journal of
the Royal Statistical Society B 82, 2020).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int64

from heartnet.diagnostics.comparison import FEWEST

Floats = npt.NDArray[np.float64]

FEWEST_OF_EACH = 3
"""People with and without a condition inside, below which the condition says nothing of a pattern."""

_STEPS = 4  # of Newton's method, from the fit without the pattern
_STILL = 1e-4  # of log odds
_RIDGE = 1e-3  # of a week's weight: keeps a fit finite where the classes do not overlap
_KNOTS = (1 / 3, 2 / 3)
_MOST_EXTREME = 15.0  # logits beyond are certain
_FLIPS_AT_ONCE = 4_000_000


class Telling:
    """Labels and scores of the weeks of one condition, ready to be asked about patterns.

    Args:
        score: probabilities.
        value: 1 or 0.
        users: whose week each is, from 0.
        people: how many users there are in all, over all conditions.
    """

    def __init__(
        self,
        score: Float[np.ndarray, " week"],
        value: Float[np.ndarray, " week"],
        users: Int64[np.ndarray, " week"],
        people: int,
    ) -> None:
        self.score, self.value, self.users, self.people = score, value, users, people
        self._curve = _curve(score)
        self._start = _fit(self._curve, value, np.zeros(self._curve.shape[1]), 25)

    def contributions(self, inside: Bool[np.ndarray, " week"], less: float = 0.0) -> Floats | None:
        """Return what each person adds, `[people]`; a sum below 0 says that scores tell less inside.

        None if too few inside have it or have it not.

        Args:
            inside: where the pattern holds.
            less: share by which the curve is taken to be flatter inside; a sum below 0 says that it is flatter yet.
        """
        if min(self._people(inside & (self.value == each)) for each in (0, 1)) < FEWEST_OF_EACH:
            return None
        nuisance = np.column_stack([self._curve * (1 - less * inside)[:, None], inside])
        fitted = _fit(nuisance, self.value, np.append(self._start, 0.0), _STEPS)
        tells = self._curve @ fitted[:-1]
        expected = _logistic(nuisance @ fitted)
        weight = expected * (1 - expected)
        asked = np.where(inside, tells - tells[inside].mean(), 0.0)
        known = nuisance.T @ (nuisance * weight[:, None]) + _ridge(len(weight), nuisance.shape[1])
        asked -= nuisance @ np.linalg.solve(known, nuisance.T @ (weight * asked))
        return np.bincount(self.users, (self.value - expected) * asked, self.people).astype(np.float64)

    def ranks(self, inside: Bool[np.ndarray, " week"], less: float = 0.0) -> Floats | None:
        """Return what each person adds, `[people]`; a sum below 0 says that the AUROC is nearer to 1/2 inside.

        None if too few inside or outside have it or have it not. The sum is the difference over how uncertain the
        numbers of weeks make it, so that of several conditions what is known best counts most. The difference is shared
        out mostly among the weeks of which there are fewest: three people who happen to rank alike are no certainty.

        Args:
            inside: where the pattern holds.
            less: share by which the AUROC is taken to be nearer to 1/2 inside; below 0 says that it is nearer yet.
        """
        found, level, rare = np.zeros(self.people), 0.0, np.zeros(self.people)
        for part, share in ((inside, 1.0), (~inside, less - 1)):
            each = [part & (self.value == label) for label in (0, 1)]
            if min(map(self._people, each)) < FEWEST:
                return None
            auroc, of_weeks = _ranking(self.score[part], self.value[part])
            found += share * np.bincount(self.users[part], of_weeks, self.people)
            level += share * (auroc - 0.5)
            for weeks in each:
                rare += np.bincount(self.users[weeks], minlength=self.people) / weeks.sum() ** 2
        uncertain = float(rare.sum())
        return found / uncertain + rare * (level / uncertain**2)

    def _people(self, chosen: Bool[np.ndarray, " week"]) -> int:
        return how_many(self.users[chosen], self.people)


def deviation(contributions: Float[np.ndarray, " people"]) -> float:
    """Return by how many standard deviations scores tell less inside; below 0 they tell more; 0 if nothing is known."""
    spread = float(np.sqrt((contributions**2).sum()))
    return -float(contributions.sum()) / spread if spread > 0 else 0.0


def chance_of(contributions: Float[np.ndarray, " people"], flips: int = 10_000, seed: int = 0) -> float:
    """Return the probability of telling as much less by chance: one-sided, from flipping the signs of people."""
    own = contributions[contributions != 0]
    rng = np.random.default_rng(seed)
    step = max(_FLIPS_AT_ONCE // max(len(own), 1), 1)
    found, as_low = -float(own.sum()), 0
    for first in range(0, flips, step):
        signs = rng.integers(0, 2, (min(step, flips - first), len(own)), dtype=np.int8)
        as_low += int(((2.0 * signs - 1.0) @ own >= found - 1e-12 * np.abs(own).sum()).sum())
    return (1 + as_low) / (1 + flips)


def how_many(users: Int64[np.ndarray, " week"], people: int) -> int:
    """Return how many different users there are, of `people` from 0."""
    return int((np.bincount(users, minlength=people) > 0).sum())


def holm(chances: list[float]) -> list[float]:
    """Return the probabilities corrected for how many there are (S. Holm, Scand J Statist 6, 1979)."""
    order = np.argsort(chances, kind="stable")
    corrected, highest = [1.0] * len(chances), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, chances[i] * (len(chances) - place)))
        corrected[int(i)] = highest
    return corrected


def _ranking(score: Floats, value: Floats) -> tuple[float, Floats]:
    """Return the AUROC, and by how much each week moves it: its influence function, of mean 0."""
    positive = value == 1
    ahead, behind = _share_below(score[positive], score[~positive]), _share_below(-score[~positive], -score[positive])
    auroc = float(ahead.mean())
    found = np.empty(len(score))
    found[positive] = (ahead - auroc) / len(ahead)
    found[~positive] = (behind - auroc) / len(behind)
    return auroc, found


def _share_below(each: Floats, others: Floats) -> Floats:
    """Return the share of the others that lie below each; ties count half."""
    ordered = np.sort(others)
    found: Floats = (np.searchsorted(ordered, each, "left") + np.searchsorted(ordered, each, "right")) / (
        2 * len(ordered)
    )
    return found


def _curve(score: Floats) -> Floats:
    """Return `[week, 2 + knot]`: a constant, and the logit in pieces that are straight between its terciles."""
    inside = np.clip(score, 1e-300, 1 - 1e-16)
    logit = np.clip(np.log(inside) - np.log1p(-inside), -_MOST_EXTREME, _MOST_EXTREME)
    spread = float(logit.std())
    z = (logit - logit.mean()) / spread if spread > 0 else np.zeros_like(logit)
    pieces = [np.maximum(z - knot, 0.0) for knot in np.unique(np.quantile(z, _KNOTS)) if z.min() < knot < z.max()]
    return np.column_stack([np.ones_like(z), z, *pieces])


def _fit(design: Floats, value: Floats, start: Floats, steps: int) -> Floats:
    """Return the coefficients of a logistic regression."""
    at: Floats = start
    ridge = _ridge(len(value), design.shape[1])
    for _ in range(steps):
        expected = _logistic(design @ at)
        curvature = design.T @ (design * (expected * (1 - expected))[:, None]) + ridge
        step = np.linalg.solve(curvature, design.T @ (value - expected) - ridge @ at)
        at = at + np.clip(step, -2, 2)
        if np.abs(step).max() < _STILL:
            break
    return at


def _logistic(x: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
    return found


def _ridge(weeks: int, columns: int) -> Floats:
    found: Floats = _RIDGE * np.sqrt(weeks) * np.eye(columns)
    return found
