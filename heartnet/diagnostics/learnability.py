"""The gate: can this architecture learn a known function of the week, or is it broken?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heartnet.diagnostics.baseline_verdicts import CHECK, About, remedies
from heartnet.diagnostics.comparison import FEWEST, LINEAR, Comparison
from heartnet.findings import Finding, Status
from heartnet.predictions import NETWORK


def target_findings(
    comparisons: Sequence[Comparison],
    about: About,
    *,
    units: Mapping[str, str],
    guesses: Mapping[str, tuple[float, float]],
    limit: float = 0.8,
) -> list[Finding]:
    """Return for each synthetic target whether the architecture can learn it: the share of variance it explains.

    A synthetic target is known without error, so what is not explained is the fault of the network: its design, its
    training, or the number of weeks. Below a linear regression on hourly features it cannot express, or did not learn,
    what a few averages give. A share whose interval lies below `limit` fails; one whose interval holds it warns. Of
    fewer than ten people it is unknown.

    Source: M. Matelis and A. Singh, "Debuggable Deep Learning", 2019: predicting synthetic outputs.

    Args:
        comparisons: of `heartnet.diagnostics.comparison.compare`.
        about: the network.
        units: of each target.
        guesses: by target, mean absolute and root mean square error of predicting the training split's mean.
        limit: share of variance to explain.
    """
    return [_verdict(it, about, units.get(it.target, ""), guesses.get(it.target), limit) for it in comparisons]


def _verdict(it: Comparison, about: About, unit: str, guess: tuple[float, float] | None, limit: float) -> Finding:
    if it.diverged:
        message = f"The prediction is NaN or infinite for {it.diverged} of {it.weeks} test weeks: it has diverged."
        return Finding(CHECK, "fail", it.target, None, limit, "of variance", message, (), about.step)
    share = it.network
    if it.users < FEWEST or math.isnan(share.value):
        message = (
            f"{it.users} {it.people} with this target are in the test: fewer than {FEWEST} are too few to tell whether "
            f"it is learned{'' if math.isnan(share.value) else f' (here {share.value:.0%} of variance are explained)'}."
        )
        return Finding(CHECK, "unknown", it.target, None, limit, "of variance", message, (), about.step)
    below = [name for name, each in it.differences.items() if each.high < 0 and name in LINEAR and name != "metadata"]
    status: Status = "pass" if share.value >= limit else "fail" if share.high < limit else "warn"
    message = (
        f"{share.value:.0%} of the variance between weeks is explained (95 %: {share.low:.0%} to {share.high:.0%}; to "
        f"reach: {limit:.0%}). {_errors(it, unit, guess)}"
    )
    if below:
        status = "fail" if share.value < limit else "warn"
        message += (
            f" Worse than the linear regression on {below[0]} features (95 %: {it.differences[below[0]].low:+.0%} to "
            f"{it.differences[below[0]].high:+.0%} of variance): the design cannot express it, or has not learned it."
        )
    if status == "fail" and share.low <= 0 and not below and all(each.value <= 0 for each in it.baselines.values()):
        message += " No baseline tells it either: do the targets belong to these weeks?"
    elif status != "pass":
        message += (
            " If train/loss (1 is predicting the mean) is as high, it cannot be expressed or needs longer training; if "
            "it is near 0, there are too few weeks."
        )
    try_ = remedies(about.settings) if status != "pass" else ()
    if status == "pass":  # of what passes, the first sentence is shown
        message = f"{it.target} {share.value:.0%} of variance explained. {message}"
    return Finding(CHECK, status, it.target, round(share.value, 4), limit, "of variance", message, try_, about.step)


def _errors(it: Comparison, unit: str, guess: tuple[float, float] | None) -> str:
    """Return a sentence on the errors, in the target's unit."""
    rows = {"the network": it.errors[NETWORK]} | ({"the training mean": guess} if guess else {})
    rows |= {name: each for name, each in it.errors.items() if name != NETWORK}
    parts = [f"{mean:.3g} and {square:.3g} ({name})" for name, (mean, square) in rows.items()]
    return f"Mean absolute and root mean square error, {unit or 'in its unit'}: {', '.join(parts)}."
