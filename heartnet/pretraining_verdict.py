"""What a pretraining came to: did it learn what it was given, so that handing its weights over means something?"""

from __future__ import annotations

from heartnet.findings import Finding
from heartnet.pretraining import Outcome
from heartnet.pretraining_weeks import Used

CHECK = "synthetic_pretraining"

LEAST = {"heuristic": 0.5, "autoencoder": 0.1}
"""Mean share of variance explained that passes. One vector for 4,096 readings cannot hold their noise."""

NOTHING = 0.02
"""At or below this share, what was learned is the mean."""


def account(used: Used, *, pretrains: bool) -> Finding:
    """Return how many people's labels training uses, and what there is besides."""
    message = f"{'pretrains' if pretrains else 'could pretrain'} on {used}"
    return Finding(CHECK, "pass", "weeks", used.labelled_people, None, "people", message)


def verdict(outcome: Outcome, objective: str, max_epochs: int, *, own: bool) -> Finding:
    """Return whether the objective was learned, by the share of variance explained on people kept apart."""
    limit = LEAST[objective]
    if outcome.best is None or not outcome.best.explained:
        message = "the pretraining diverged: no epoch had a finite loss, so no weights were handed over"
        return Finding(CHECK, "fail", objective, None, limit, "", message, _try(own, "learning_rate=5e-4"))
    explained = outcome.best.explained
    mean = sum(explained.values()) / len(explained)
    each = ", ".join(f"{name} {share:.2f}" for name, share in sorted(explained.items(), key=lambda item: -item[1]))
    what = "what it predicts" if objective == "heuristic" else "the readings that it rebuilds"
    message = (
        f"on people kept apart, {mean:.0%} of the variance of {what} is explained ({each}); "
        f"kept is epoch {outcome.best.epoch + 1} of {outcome.epochs}"
    )
    if mean >= limit:
        return Finding(CHECK, "pass", objective, mean, limit, "share explained", message)
    if mean <= NOTHING:
        message += "; that is no more than the mean, so the weights that were handed over mean nothing"
    more = outcome.best.epoch + 1 == max_epochs
    cure = _try(own, f"max_epochs={2 * max_epochs}") if more else ()
    return Finding(
        CHECK, "fail" if mean <= NOTHING else "warn", objective, mean, limit, "share explained", message, cure
    )


def _try(own: bool, option: str) -> tuple[str, ...]:
    return (f"callbacks.synthetic_pretraining.{option}",) if own else ()
