"""One cause, one finding: what follows from something that was found is told with it, not beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from heartnet.findings import BAD, Finding

NO_GRAPH = "gradients"
"""Unit of a finding on weights that no gradient reaches; where gradients are there, and zero, it is another."""
OF_THE_BATCH = "values of the batch"
"""Unit of a finding on values that came with a batch, which nothing in the network causes."""

_STALLED = ("loss/trend", "auroc", "reward")
_FOLLOWS: Mapping[str, Collection[str]] = {
    "loss/sign": ("rate", "activation", "explosion", "clipped", "finite", "range", *_STALLED),
    "logits": ("range", "output", "last", *_STALLED),
    "range": ("output here", "last", *_STALLED),
    "units": ("start", "loss/start", "dead", "last", "explosion", "clipped", *_STALLED),
    "start": ("loss/start", "dead here", "rate", "activation", "explosion", "clipped", "finite", *_STALLED),
    "rate": ("dead", "last", "activation", "explosion", "clipped", "finite", *_STALLED),
    "clipped": ("frozen", "still", *_STALLED),
    "frozen": _STALLED,
    "dead": _STALLED,
    "last": _STALLED,
    "activation": ("explosion", "clipped", "finite", *_STALLED),
    "explosion": ("clipped", "finite", *_STALLED),
}
"""By kind of cause (see `_kind`), the kinds of what may follow from it, anywhere or here alone; without a circle."""


@dataclass
class Told:
    """What has been told of a run, and what of it follows from what.

    Attributes:
        findings: as they were first told, by place.
        causes: by place of what follows, the place of its cause.
        symptoms: by place of a cause, what follows from it, in words.
    """

    findings: dict[str, Finding] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    symptoms: dict[str, list[str]] = field(default_factory=dict)

    def news(self, found: Iterable[Finding], outputs: Collection[str], last: str, step: int) -> list[Finding]:
        """Return what to publish: causes that are new, and those of which more is known now.

        A cause that turns up after what follows from it takes it over, and what was told of that is taken back.

        Args:
            found: verdicts, among them some that were told before.
            outputs: names of the network's outputs.
            last: name of the last layer.
            step: optimiser steps so far.
        """
        fresh: dict[str, Finding] = {}
        for each in found:
            if each.where not in self.findings:
                fresh.setdefault(each.where, replace(each, step=step))
        self.findings |= fresh
        changed = dict.fromkeys(fresh)
        back: list[Finding] = []
        for where, finding in self.findings.items():
            if finding.status not in BAD or where in self.causes:
                continue
            cause = self._cause(finding, outputs, last)
            if cause is None:
                continue
            if where not in fresh:
                back.append(replace(finding, status="unknown", message=f"follows from {cause}, see there", try_=()))
            self._fold(where, cause)
            changed |= {cause: None}
        return [self.told(where) for where in changed if where not in self.causes] + back

    def wrong(self) -> list[str]:
        """Return the places of findings that are no passes."""
        return [where for where, each in self.findings.items() if each.status in BAD]

    def told(self, where: str) -> Finding:
        """Return a finding, with what follows from it."""
        finding, symptoms = self.findings[where], self.symptoms.get(where, [])
        if not symptoms:
            return finding
        shown = "; ".join(symptoms[:5]) + (f"; and {len(symptoms) - 5} more" if len(symptoms) > 5 else "")
        failed = any(self.findings[each].status == "fail" for each, cause in self.causes.items() if cause == where)
        message = f"{finding.message.rstrip('.')}. Most likely it also explains: {shown}"
        return replace(finding, status="fail" if failed else finding.status, message=message)

    def state(self) -> dict[str, Any]:
        return {
            "findings": [each.as_json() for each in self.findings.values()],
            "causes": dict(self.causes),
            "symptoms": {where: list(each) for where, each in self.symptoms.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.findings = {each["where"]: Finding.from_json(each) for each in state["findings"]}
        self.causes = dict(state["causes"])
        self.symptoms = {where: list(each) for where, each in state["symptoms"].items()}

    def _cause(self, finding: Finding, outputs: Collection[str], last: str) -> str | None:
        """Return the place of the finding that explains another, itself explained by none; None if there is none."""
        kind, place = _kind(finding, outputs, last), finding.where.rpartition("/")[0]
        for where, each in self.findings.items():
            if where == finding.where or each.status not in BAD:
                continue
            theirs, there = _kind(each, outputs, last), where.rpartition("/")[0]
            kinds: Sequence[str] = (kind, f"{kind} here") if there == place else (kind,)
            if any(each in _FOLLOWS.get(theirs, ()) for each in kinds):
                return self.causes.get(where, where)
        return None

    def _fold(self, where: str, cause: str) -> None:
        inherited = self.symptoms.pop(where, [])
        self.symptoms.setdefault(cause, []).extend([symptom(self.findings[where].message), *inherited])
        self.causes |= {each: cause for each, theirs in self.causes.items() if theirs == where} | {where: cause}


def symptom(message: str) -> str:
    """Return what is seen, without why: a verdict's message up to its first colon."""
    return message.partition(": ")[0]


def _kind(finding: Finding, outputs: Collection[str], last: str) -> str:
    """Return what kind of thing was found, in a word."""
    place, _, aspect = finding.where.rpartition("/")
    if place == "logits" or (place == "loss" and aspect != "finite"):
        return finding.where if place == "loss" else "logits"
    if aspect == "update":
        return "frozen" if place == "optimiser" else "rate" if finding.status == "fail" else "still"
    if aspect == "finite" and finding.unit == OF_THE_BATCH:
        return "batch"
    if aspect == "gradient":
        if place in outputs:
            return "output"
        return "cut" if finding.unit == NO_GRAPH else "last" if place == last else "dead"
    return aspect
