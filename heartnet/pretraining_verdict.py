"""What a pretraining came to: did it learn what it was given, so that handing its weights over means something?"""

from __future__ import annotations

from heartnet.findings import Finding
from heartnet.pretraining import Outcome
from heartnet.pretraining_weeks import Used

CHECK = "synthetic_pretraining"

LEAST, NOTHING = 0.5, 0.02
"""Mean share of the targets' variance that passes; and the share up to which no more than the mean was learned."""

LEARNED = 0.1
"""Share of its variance from which on a target is worth keeping, where others are not learned."""


def account(used: Used, *, pretrains: bool) -> Finding:
    """Return how many people's labels training uses, and what there is besides."""
    message = f"{'pretrains' if pretrains else 'could pretrain'} on {used}"
    return Finding(CHECK, "pass", "weeks", used.labelled_people, None, "people", message)


def verdict(outcome: Outcome, objective: str, max_epochs: int, *, own: bool, means: float = 0.0) -> Finding:
    """Return whether the objective was learned, by the share of variance explained on people kept apart.

    Args:
        outcome: of the pretraining.
        objective: `heuristic` or `autoencoder`.
        max_epochs: that it could take.
        own: whether Hydra overrides can be named.
        means: share that each week's own means explain: an autoencoder that does no better knows no sequence.
    """
    if outcome.best is None or not outcome.best.explained:
        message = "the pretraining diverged: no epoch had a finite loss, so no weights were handed over"
        return Finding(CHECK, "fail", objective, None, None, "", message, _try(own, "learning_rate=5e-4"))
    limit = LEAST if objective == "heuristic" else round(means, 4)
    explained = dict(sorted(outcome.best.explained.items(), key=lambda item: -item[1]))
    mean = sum(explained.values()) / len(explained)
    each = ", ".join(f"{name} {share:.2f}" for name, share in explained.items())
    what = "the targets" if objective == "heuristic" else "the readings"
    message = (
        f"on people kept apart, {mean:.0%} of the variance of {what} is explained. Of each: {each}; "
        f"kept is epoch {outcome.best.epoch + 1} of {outcome.epochs}"
    )
    if objective == "autoencoder":
        message += f"; each week's own means would explain {means:.0%}"
    if mean >= limit and mean > NOTHING:
        return Finding(CHECK, "pass", objective, mean, limit, "share explained", message)
    nothing = max(explained.values()) <= NOTHING
    if nothing:
        message += "; that is no more than the mean, so the weights that were handed over mean nothing"
    cures = [f"max_epochs={2 * max_epochs}"] if outcome.best.epoch + 1 == max_epochs else []
    learned = [name for name, share in explained.items() if share >= LEARNED]
    if objective == "heuristic" and 0 < len(learned) < len(explained):
        cures.append(f"targets=[{','.join(learned)}]")
    return Finding(
        CHECK, "fail" if nothing else "warn", objective, mean, limit, "share explained", message, _try(own, *cures)
    )


def _try(own: bool, *options: str) -> tuple[str, ...]:
    return tuple(f"callbacks.synthetic_pretraining.{option}" for option in options) if own else ()
