"""The verdict on the first value that is not finite: what, where, in which samples, what was before it, what to try."""

from __future__ import annotations

from collections.abc import Sequence

from heartnet.diagnostics.health import Health
from heartnet.diagnostics.health_causes import OF_THE_BATCH
from heartnet.diagnostics.health_finding import finding
from heartnet.diagnostics.nonfinite import Place
from heartnet.findings import Finding


def not_finite(place: Place | None, health: Health, *, step: int, why: str, rows: Sequence[int]) -> Finding:
    """Return the verdict on the first value that is not finite.

    Args:
        place: where it is; None if that could not be found out.
        health: what was seen of the training before.
        step: optimiser steps before it.
        why: why its place is not known.
        rows: of the batch's samples in the data, where they are known.
    """
    if place is None:
        broken = health.weights.not_finite()
        seen = f"the gradient of {_and(broken)}" if broken else "the loss"
        message = f"{seen} is not finite in step {step}: where it began is not known, because {why}"
        return finding("fail", f"{broken[0] if broken else 'loss'}/finite", f"{message}. {_before(health)}")
    what, why, cure = _words(place)
    samples = "" if place.samples is None else f", in {_samples(place.samples, rows)}"
    message = (
        f"{place.kinds} in {what}, in step {step}: {place.count:,} of {place.size:,} values{samples}. {why}. "
        f"{_before(health)}. {cure}"
    )
    unit = OF_THE_BATCH if place.source else "values"
    return finding("fail", f"{place.module or place.what}/finite", message, place.count, 0, unit)


def _words(place: Place) -> tuple[str, str, str]:
    """Return the tensor, how it came to that, and what to try."""
    after = f"after {place.after}, whose output is finite" if place.after else "before the first module"
    if place.what == "input" and place.source:
        return (
            f"the input of {place.module}", f"They come with the batch ({place.source}), nothing made them here",
            "Fill gaps where the data are read and tell the network that they are gaps, or leave these samples out",
        )  # fmt: skip
    if place.what == "input":
        return (
            f"the input of {place.module}", f"An operation that is no module made them, {after}",
            "Look there for a division by 0, a logarithm or a root of 0, and for sums over padding",
        )  # fmt: skip
    if place.what in ("parameter", "buffer"):
        return (
            f"the {place.tensor} of {place.module}", "The step before made them, or they were loaded so",
            "Lower the learning rate, clip gradients, or look at what was loaded",
        )  # fmt: skip
    if place.what == "output":
        return (
            f"the output of {place.module}", "Its input and its weights are finite: they arise in this module",
            "Look in it for a division by 0, a logarithm or a root of 0; if values grew, lower the learning rate",
        )  # fmt: skip
    if place.what == "loss" and place.source:
        return (
            "the loss", f"All modules put out finite values, and {place.source} is not finite: unless the step leaves "
            "that out, it is why",
            "Fill gaps where the data are read, leave these samples out, or take them out of the loss with a mask",
        )  # fmt: skip
    if place.what == "loss":
        return (
            "the loss", f"All modules put out finite values: the loss itself made them, {after}",
            "Look in it for a logarithm of 0, a mean over no label at all, and targets that are NaN",
        )  # fmt: skip
    if place.tensor == "output":
        return (
            f"the gradient that comes back to {place.module}",
            "The loss is finite: they arise on the way back from it to what this module puts out",
            "Look between the two for a root or a norm at 0, a logarithm, or a division that is masked only afterwards "
            "(its gradient is not): mask what goes in, or add a small number",
        )  # fmt: skip
    return (
        f"the gradient of {'the input of ' + place.module if place.tensor.startswith('arg') else _of(place)}",
        "The loss, and the gradient that comes back to this module, are finite: they arise on the way back through it",
        "Look in it for a root or a norm at 0, a logarithm, or values so large that their product is infinite",
    )


def _of(place: Place) -> str:
    return f"the {place.tensor.removeprefix('parameter ')} of {place.module or 'the module'}"


def _samples(samples: Sequence[int], rows: Sequence[int]) -> str:
    shown = ", ".join(str(each) for each in samples[:8]) + (" …" if len(samples) > 8 else "")
    known = [str(rows[each]) for each in samples[:8] if each < len(rows)]
    weeks = f" (row{'s' if len(known) > 1 else ''} {', '.join(known)} of the data)" if known else ""
    return f"sample{'s' if len(samples) > 1 else ''} {shown} of the batch{weeks}"


def _before(health: Health) -> str:
    """Return the last healthy statistics, in words."""
    if not health.healthy:
        return "It is the first step"
    last, look = health.healthy[-1], health.looks[-1] if health.looks else None
    words = f"The last healthy step was {last.step}: loss {last.loss:.3g}, gradient norm {last.gradient:.3g}"
    if look is not None and look.activations:
        largest = max(look.activations, key=lambda layer: look.activations[layer])
        words += f", outputs of {look.activations[largest]:.2g} (root mean square) at most, in {largest}"
    return words


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
