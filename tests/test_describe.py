"""`heartnet describe`: tables on the terminal, and a page beside the store or where it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from heartnet.account import Account
from heartnet.cli import main
from heartnet.page import MARK
from heartnet.store import write_store
from heartnet.weeks import Weeks

MakeWeeks = Callable[..., Weeks]


@pytest.fixture
def store(make_weeks: MakeWeeks, tmp_path: Path) -> Path:
    account = Account()
    account.add("rows", "in", 500)
    account.bad("rows", "dropped: not a number", 3, ["a.csv row 7: 'x'"])
    write_store(make_weeks(users=4), tmp_path / "weeks", account=account)
    return tmp_path / "weeks"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main(["describe", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_page_beside_the_store(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = run(capsys, store)
    assert status == 0
    assert "a.csv row 7: 'x'" in out
    assert "12 of 4 people" in out
    place = store.with_name("weeks.html")
    assert err == f"The page, to open in a browser: {place}\n"
    text = place.read_text(encoding="utf-8")
    assert MARK in text
    assert "a.csv row 7: &#39;x&#39;" in text
    assert names(store.parent) == ["weeks", "weeks.html"]
    monkeypatch.chdir(store)
    assert run(capsys, ".")[::2] == (0, f"The page, to open in a browser: {place}\n")
    monkeypatch.chdir(store.parent)
    assert run(capsys, "weeks/")[::2] == (0, "The page, to open in a browser: weeks.html\n")
    assert place.read_text(encoding="utf-8") == text


def test_no_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, store, "--no-page")
    assert (status, err) == (0, "")
    assert "12 of 4 people" in out
    assert names(store.parent) == ["weeks"]


def test_a_page_elsewhere_with_weeks_asked_for(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = store.parent / "mine.html"
    status, _, _ = run(capsys, store, "--page", place, "--week", 5, "--week", 2, "--user", "user-00")
    assert status == 0
    text = place.read_text(encoding="utf-8")
    assert [row for row in range(12) if f'aria-label="week {row}"' in text] == [0, 1, 2, 5]
    assert text.index('aria-label="week 5"') < text.index('aria-label="week 2"') < text.index('aria-label="week 0"')
    assert names(store.parent) == ["mine.html", "weeks"]


def test_a_page_that_cannot_be_written_beside_the_store_is_only_said(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = store.with_name("weeks.html")
    theirs.write_text("something of mine")
    status, out, err = run(capsys, store)
    assert status == 0
    assert "12 of 4 people" in out
    assert err.startswith(f"heartnet: no page was written: {theirs} exists and is no page of heartnet")
    assert theirs.read_text() == "something of mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--page", "{}/absent/a.html"], "the folder {}/absent does not exist; create it"),
        (["--page", "{}"], "the page {} is a folder"),
        (["--page", "{}/weeks/manifest.json"], "manifest.json exists and is no page of heartnet"),
        (["--week", "12"], "--week 12: the store has weeks 0 to 11"),
        (["--user", "user-04"], "--user user-04: not in the store. Did you mean 'user-0"),
    ],
)
def test_what_was_asked_for_and_cannot_be(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    status, out, err = run(capsys, store, *(word.format(store.parent) for word in words))
    assert status == 2
    assert ("12 of 4 people" in out) == (words[0] == "--page"), "what is not there is said before anything is printed"
    assert err.startswith("heartnet: ")
    assert message.format(store.parent) in err
    assert len(err.splitlines()) == 1
    assert names(store.parent) == ["weeks"]
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_words_that_do_not_fit(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--page", "a", "--no-page"], ["--week", "x"], ["--wek", "1"]):
        with pytest.raises(SystemExit) as exit_:
            main(["describe", str(store), *words])
        assert exit_.value.code == 2
    assert "Did you mean '--week'?" in capsys.readouterr().err


def test_a_damaged_store_leaves_no_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(store)
    store.mkdir()
    status, out, _ = run(capsys, store)
    assert (status, out) == (2, "")
    assert names(store.parent) == ["weeks"]
