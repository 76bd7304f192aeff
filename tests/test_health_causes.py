"""One cause, one finding: what follows is told with its cause, whichever was found first, and nothing is told twice."""

from __future__ import annotations

import json

import pytest

from heartnet.diagnostics.health_causes import NO_GRAPH, OF_THE_BATCH, Told, symptom
from heartnet.diagnostics.health_finding import finding
from heartnet.findings import Finding

OUTPUTS = ("apnea", "diabetes")


def found(where: str, status: str = "fail", unit: str = "") -> Finding:
    return finding(status, where, f"what is seen at {where}: why", 1.0, 0.0, unit)  # type: ignore[arg-type]


def tell(told: Told, *findings: Finding, step: int = 0) -> list[tuple[str, str]]:
    return [(each.where, each.status) for each in told.news(findings, OUTPUTS, "head", step)]


@pytest.mark.parametrize(
    ("cause", "follows"),
    [
        ("logits/ReLU", ["apnea/range", "diabetes/gradient", "head/gradient", "loss/trend", "apnea/auroc"]),
        ("apnea/range", ["apnea/gradient"]),
        ("conv/start", ["conv/gradient", "loss/start", "gradient/clipped", "conv/explosion", "lstm/finite"]),
        ("conv/units", ["head/start", "loss/start"]),
        ("conv/update", ["lstm/activation", "gradient/clipped", "conv/gradient", "loss/finite"]),
        ("gradient/clipped", ["optimiser/update", "loss/trend"]),
        ("loss/sign", ["loss/trend", "conv/update"]),
    ],
)
def test_what_follows_is_told_with_its_cause(cause: str, follows: list[str]) -> None:
    for order in ([cause, *follows], [*follows, cause], [*reversed(follows), cause]):
        told, newest = Told(), dict[str, str]()
        for step, where in enumerate(order):
            newest |= dict(tell(told, found(where), step=step))
            assert tell(told, found(where), step=step) == []  # it is not told twice
        assert [where for where, status in newest.items() if status == "fail"] == [cause]
        message = told.told(cause).message
        assert all(message.count(f"what is seen at {where}") == 1 for where in follows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (found("apnea/range"), found("diabetes/gradient")),  # another output's
        (found("conv/start"), found("lstm/gradient")),  # another layer's
        (found("logits/ReLU"), found("conv/gradient")),  # a layer that is not the last
        (found("conv/update"), found("network/finite", unit=OF_THE_BATCH)),
        (found("conv/update"), found("conv/gradient", unit=NO_GRAPH)),
        (found("conv/update", "warn"), found("lstm/activation")),  # weights that stay where they are
        (found("conv/mixing"), found("conv/optimiser")),
        (found("loss/start", "pass"), found("conv/units")),
    ],
)
def test_what_does_not_follow_stands_beside(one: Finding, other: Finding) -> None:
    for pair in ((one, other), (other, one)):
        assert sorted(where for where, _ in tell(Told(), *pair)) == sorted(each.where for each in pair)


def test_a_chain_is_told_by_its_first_link() -> None:
    told = Told()
    tell(told, found("optimiser/update"), found("gradient/clipped"))
    assert set(told.causes) == {"optimiser/update"}
    news = tell(told, found("conv/update"), step=7)
    assert news == [("conv/update", "fail"), ("gradient/clipped", "unknown")]
    assert set(told.causes.values()) == {"conv/update"}
    message = told.told("conv/update").message
    assert message.count("what is seen at") == 3
    assert told.told("conv/update").step == 7


def test_a_warning_that_explains_a_failure_is_one() -> None:
    told = Told()
    assert tell(told, found("conv/start", "warn")) == [("conv/start", "warn")]
    assert tell(told, found("conv/gradient", "fail"), step=10) == [("conv/start", "fail")]
    assert told.told("conv/start").step == 0  # when it was seen


def test_a_state_goes_through_plain_values() -> None:
    told, again = Told(), Told()
    tell(told, found("conv/update"), found("loss/trend"), found("conv/optimiser"))
    again.load(json.loads(json.dumps(told.state())))
    assert again == told
    assert tell(again, found("loss/trend"), found("conv/optimiser")) == []


def test_a_symptom_is_what_is_seen() -> None:
    assert symptom("the loss rises, 1 at first: too large steps") == "the loss rises, 1 at first"
    assert symptom("no colon") == "no colon"
