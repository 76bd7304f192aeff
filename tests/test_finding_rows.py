"""Rows of findings: what says the same stands in one, the worst first, and what passes is said in words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from heartnet import terminal
from heartnet.finding_rows import (
    distance,
    findings_markdown,
    findings_table,
    passed,
    rows,
    unknown_words,
    where_text,
    why_none,
    worst_first,
)
from heartnet.findings import Finding, append_jsonl, in_part

CONDITIONS = ("atrial_fibrillation", "sleep_apnea", "diabetes", "hypertension")


def finding(status: Any = "fail", where: str = "diabetes/midpoint", **changes: Any) -> Finding:
    values: dict[str, Any] = {"value": 9.25, "limit": 1.0, "unit": "decades", "message": "It forgets."}
    return Finding(changes.pop("check", "amnesia"), status, where, **{**values, **changes})


def of_a_run() -> list[Finding]:
    """Twelve findings of amnesia, as a run with four conditions has them."""
    found = []
    for i, name in enumerate(CONDITIONS):
        far = f"A reading {2000 + i} from the end moves this {(1.5, '10^9')[i % 2]} million times less."
        found += [
            finding("fail", f"{name}/last", value=7.0 + i, message=far, try_=("model.forget_bias=chrono",)),
            finding("warn", f"{name}/midpoint", value=3.0, message=f"In the middle, {name} forgets 1,000 times."),
            finding("pass", f"{name}/score", value=0.2, message="the score hears it all: 0.2 decades."),
        ]
    return found


def printed(findings: list[Finding], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(findings_table(findings))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_what_says_the_same_of_several_conditions_is_one_row() -> None:
    fail, warn, fine = rows(of_a_run())
    assert [len(each.findings) for each in (fail, warn, fine)] == [4, 4, 4]
    assert fail.where == "last (hypertension, diabetes, sleep_apnea, atrial_fibrillation)", "where it is worst is first"
    assert fail.value == "worst 10 decades (limit 1)"
    assert fail.message.startswith("Worst, hypertension/last: A reading 2003")


def test_a_cross_validation_has_no_more_rows_than_a_run() -> None:
    folds = [each for fold in range(3) for each in in_part(of_a_run(), f"fold-{fold}")]
    found = rows(folds)
    assert [len(each.findings) for each in found] == [12, 12, 12]
    assert found[0].where == (
        "last (fold-0, fold-1, fold-2 × hypertension, diabetes, sleep_apnea, atrial_fibrillation)"
    )


@pytest.mark.parametrize(
    "other",
    [{"check": "wiring"}, {"status": "warn"}, {"try_": ("a=1",)}, {"unit": "bpm"}, {"message": "It has forgotten."}],
)
def test_what_says_something_else_is_another_row(other: dict[str, Any]) -> None:
    assert len(rows([finding(), finding(where="b/midpoint", value=3.0)])) == 1
    assert len(rows([finding(), finding(where="b/midpoint", **other)])) == 2


def test_findings_without_words_are_folded_over_folds_only() -> None:
    silent = [finding("pass", where, message="", unit="", value=None) for where in ("finite", "update")]
    folds = [each for fold in range(2) for each in in_part(silent, f"fold-{fold}")]
    assert [each.where for each in rows(folds)] == ["finite (fold-0, fold-1)", "update (fold-0, fold-1)"]


@given(
    st.lists(
        st.builds(
            finding,
            st.sampled_from(["pass", "unknown", "warn", "fail"]),
            st.text("ab/: ", max_size=6),
            value=st.none() | st.floats(allow_nan=True),
            limit=st.none() | st.floats(),
            message=st.text("ab/1.(|", max_size=9),
            step=st.integers(0, 5),
        )
    )
)
def test_no_finding_is_lost_and_the_worst_stands_for_its_row(findings: list[Finding]) -> None:
    found = rows(findings)
    assert sorted(map(id, findings)) == sorted(id(each) for row in found for each in row.findings)
    order = [worst_first(each) for row in found for each in row.findings[:1]]
    assert order == sorted(order)
    assert all(min(row.findings, key=worst_first) == row.worst or row.worst.value != row.worst.value for row in found)
    printed(findings, 40)
    assert len(findings_markdown(findings).splitlines()) >= 2


def test_how_far_a_value_is_from_its_limit() -> None:
    assert distance(finding(value=1.0, limit=1.0)) == 0
    assert distance(finding(value=3.0, limit=1.0)) == 0.5
    assert distance(finding(value=0.25, limit=0.75)) == 0.5, "below its limit"
    assert distance(finding(value=7.0, limit=0.0)) == distance(finding(value=7.0, limit=None)) == 1
    assert distance(finding(value=-1.0, limit=1.0)) == 1
    assert distance(finding(value=0.0, limit=0.0)) == 0
    assert distance(finding(value=float("inf"))) == 1
    assert 0.99 < distance(finding(value=1e308, limit=1.0)) <= 1
    assert distance(finding(value=1.7e308, limit=1.7e308)) == 0


def test_what_is_farthest_from_its_limit_comes_first_whatever_its_name() -> None:
    found = [
        finding("warn", "c", value=None, message="not measured"),
        finding("warn", "a", value=1.1, check="aaa"),
        finding("warn", "b", value=50.0, check="zzz"),
        finding("fail", "d", value=6.0),
        finding("fail", "e", value=None, check="training_health", message="The loss is NaN."),
        finding("pass", "f", value=0.9),
    ]
    assert [each.worst.where for each in rows(found)] == ["e", "d", "b", "a", "c", "f"]


@pytest.mark.parametrize(
    ("wheres", "text"),
    [
        (["a/last"], "a/last"),
        (["a/last", "b/last"], "last (a, b)"),
        (["convolutions.0", "lstm.1"], "convolutions.0, lstm.1"),
        (["a/last", "b/midpoint"], "a/last, b/midpoint"),
        (["a/last", "network"], "a/last, network"),
        (["val: a, wear", "test: a, wear", "val: b, wear", "test: b, wear"], "wear (val, test × a, b)"),
        (["fold-1: a/x", "fold-0: a/x", "fold-1: b/x", "fold-0: b/x"], "x (fold-1, fold-0 × a, b)"),
        (list("abcdefghijk"), "a, b, c, d, e, f, g, h and 3 more"),
    ],
)  # fmt: skip
def test_where_names_what_is_shared_once(wheres: list[str], text: str) -> None:
    assert where_text(wheres) == text


def test_when_tells_checks_before_training_from_those_at_the_end() -> None:
    (before,), (after,) = rows([finding(step=0)]), rows([finding(step=1200)])
    (both,) = rows([finding(step=0), finding(where="b/midpoint", step=30)])
    assert (before.when, after.when, both.when) == ("before the first step", "step 1,200", "steps 0 to 30")


def test_terminal_table_says_what_to_try_and_takes_brackets_as_they_are() -> None:
    text = printed(
        [
            finding(message="It forgets [bold]", try_=("model.readout=last", "model.forget_bias=chrono"), step=7),
            finding("warn", where="layer[0]", message="", value=12345.6, limit=None),
            finding("fail", where="network", value=None, message="NaN"),
        ]
    )
    for expected in (
        "It forgets [bold]", "9.25 decades (limit 1), step 7", "layer[0]", "12,346 decades", "model.readout=last",
        "no value",
    ):  # fmt: skip
        assert expected in text


def test_what_passes_is_one_row_a_check_in_words() -> None:
    wheres = ("rows", "people", "round trip")
    whole = "No fault in {}. 60 weeks: all fine"
    fine = [finding("pass", where, check="input_contract", message=whole.format(where)) for where in wheres]
    fine += [finding("pass", "network", check="dead_units", message="No layer of 8 has dead units. 0 of 100: no.")]
    fine += [finding("pass", "an_other", check="other", message="a sentence that goes on and on " * 3)]
    assert passed(rows(fine)) == {
        "dead_units": ["no layer of 8 has dead units"],
        "input_contract": ["no fault in people"],
        "other": ["an other"],
    }  # fmt: skip
    fine.append(finding("pass", "labels", check="input_contract", message="AUROC (0.5) stays as written; all of it"))
    lines = [line for line in printed([finding(), *fine]).splitlines() if "pass" in line]
    words = "2 checks passed: AUROC (0.5) stays as written; all of it; no fault in people"
    assert [words in line for line in lines[-3:]] == [False, True, False]


def test_what_is_unknown_is_neither_a_pass_nor_a_fault_and_says_why() -> None:
    why = "Too few people (9) to tell: 10 are needed. Add people."
    found = [
        finding("unknown", f"val: {name}", value=None, limit=None, unit="", message=f"{why} {'Long. ' * i}")
        for i, name in ((0, "a"), (90, "b"))
    ]
    order = [each.worst.status for each in rows([finding("pass"), *found, finding("warn")])]
    assert order == ["warn", "unknown", "pass"]
    (row,) = rows(found)
    assert row.where == "val (a, b)", "they differ in what follows the first sentence alone"
    assert passed([row]) == {}
    text = " ".join(printed(found).replace("│", " ").split())
    assert f"unknown amnesia, val (a, b): Worst, val, a: {why} " in text
    assert "no value" not in text
    assert findings_markdown(found[:1]).splitlines()[-1] == (
        f"| **unknown** | amnesia | val: a |  | {why}  |  | before the first step |"
    )
    long = finding("unknown", message="One. " + "Another sentence that is not short at all. " * 9)
    assert 0 < unknown_words(rows([long])[0]).count("Another") < 9


def test_markdown_table_keeps_its_columns() -> None:
    lines = findings_markdown([finding(message="a | b\nc", try_=("x=1", "y=2")), finding("pass")]).splitlines()
    assert lines[2] == (
        r"| **fail** | amnesia | diabetes/midpoint | 9.25 decades (limit 1) | a \| b c | `x=1`<br>`y=2` | "
        "before the first step |"
    )
    assert lines[3] == "| **pass** | amnesia |  |  | it forgets |  |  |"
    assert len(lines) == 4


def test_a_run_prints_its_folds_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in range(2):
        append_jsonl([finding("warn", value=5.0 + fold)], tmp_path / f"fold-{fold}" / "findings.jsonl")
    append_jsonl([finding("pass", "network", check="dead_units")], tmp_path / "findings.jsonl")
    with (tmp_path / "findings.jsonl").open("a") as file:
        file.write('{"status": "hint"}\n')
    assert terminal.print_findings(tmp_path) == "warn"
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "diabetes/midpoint (fold-1, fold-0): worst 6 decades (limit 1)" in text
    assert "Left out: findings.jsonl, line 2: not a finding (status 'hint' is none of pass, unknown, warn, fail" in text


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ("", "no technique was switched on; +callbacks=amnesia"),
        ("callbacks: {amnesia: {}}\ntrainer: {fast_dev_run: true}", "trainer.fast_dev_run=true keeps nothing"),
        ("callbacks: {amnesia: {}}\ntrainer: {max_epochs: 0}", "trainer.max_epochs=0 trains nothing"),
        ("callbacks: {baseline: {}}\ntrainer: {max_epochs: 3}", "(baseline) ends in none"),
    ],
)
def test_no_findings_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], configuration: str, words: str
) -> None:
    (tmp_path / "config.yaml").write_text(configuration)
    assert terminal.print_findings(tmp_path) is None
    assert words in " ".join(capsys.readouterr().out.split())
    assert why_none({"trainer": None}).startswith("no technique")
