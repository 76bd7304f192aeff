"""The verdict on the first value that is not finite: where it is, where it comes from, and what was before it."""

from __future__ import annotations

from collections.abc import Sequence

from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_finding import finding
from heartnet.diagnostics.nonfinite import Place
from heartnet.findings import Finding


def not_finite(place: Place | None, health: Health, *, why: str, rows: Sequence[int]) -> Finding:
    """The verdict on the first value that is not finite."""
    last = health.healthy[-1] if health.healthy else None
    history = (
        f" Last healthy: step {last.step}, loss {last.loss:.3g}, gradient norm {last.gradient:.3g}{_size(health)}."
        if last is not None
        else " There was no healthy batch before."
    )
    if place is None:
        broken = health.weights.not_finite()
        seen = f"gradients of {', '.join(broken[:3])}" if broken else "the loss"
        where = broken[0] if broken else "loss"
        return finding(
            "fail", f"{where}/finite", f"{seen} are not finite; where it began is not known: {why}.{history}"
        )
    samples = "" if place.samples is None else f" in {_samples(place.samples, rows)}"
    subject = f"{place.tensor} of {place.module}" if place.module else f"the {place.what}"
    message = f"{subject} is the first that is not finite: {place.count:,} of {place.size:,} values{samples}"
    message += _explained(place) + "." + history
    return finding("fail", f"{place.module or place.what}/finite", message, place.count, 0, "values")


def _explained(place: Place) -> str:
    after = f" after {place.after}" if place.after else ""
    if place.what == "input" and place.source:
        return f"; they come with the batch ({place.source})"
    if place.what == "input":
        return f"; no layer before it made them{after}: an operation in between did"
    if place.what == "parameter":
        return "; its last update, or what was loaded, made them"
    if place.what == "output":
        return "; its arguments and weights are finite"
    if place.what == "loss":
        return f"; all modules put out finite values{after}: the loss itself made them"
    if place.what == "gradient" and place.tensor == "output":
        return " of the gradient; it arises between there and the loss, which is finite"
    return " of the gradient; that of its output and the loss are finite" if place.what == "gradient" else ""


def _samples(samples: Sequence[int], rows: Sequence[int]) -> str:
    shown = ", ".join(str(each) for each in samples[:8]) + (" …" if len(samples) > 8 else "")
    known = [str(rows[each]) for each in samples[:8] if each < len(rows)]
    weeks = f" (rows {', '.join(known)} of the data)" if known else ""
    return f"sample{'s' if len(samples) > 1 else ''} {shown} of the batch{weeks}"


def _size(health: Health) -> str:
    look = health.looks[-1] if health.looks else None
    if look is None or not look.activations:
        return ""
    largest = max(look.activations, key=lambda layer: look.activations[layer])
    return f", outputs at most {look.activations[largest]:.2g} on average, in {largest} at step {look.step}"
