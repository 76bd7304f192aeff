"""The command: what it writes and prints, and how it ends when something is wrong."""

import errno
import json
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import heartnet.readings
from heartnet.cli import main
from heartnet.errors import HeartnetError
from heartnet.store import check_target, open_store, read_manifest

HOURS = 30


GOOD = "time,hr\n2026-01-05 00:00:00,60\n2026-01-05 00:00:05,61\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two people, 30 hours each with a heart rate a minute, from Monday 2026-01-05 00:00."""
    start = datetime(2026, 1, 5)
    lines = [
        f"{start + timedelta(minutes=minute)},{person},{60 + minute % 9},{minute % 4}"
        for person in ("ann", "bob")
        for minute in range(HOURS * 60)
    ]
    path = tmp_path / "table.csv"
    path.write_text("time,user,hr,steps\n" + "\n".join(lines) + "\n")
    return path


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_prepare_and_describe(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = table.with_name("labels.csv")
    labels.write_text("hypertension,user,diabetes,Age,Gender\n1,ann,0,40,F\n,zoe,1,50,M\n")
    with table.open("a") as file:
        file.write("2026-01-06 07:00:00,ann,900,\n2026-01-06 07:01:00,bob,x,\n")
    out = table.with_name("weeks")
    assert run("prepare", "table", table, "--labels", labels, "--people", labels, "--out", out) == 0
    printed = capsys.readouterr().out
    for text in ("heart rate outside 20–250 bpm", "table.csv row 3602", "not a number", "'zoe'", "hypertension"):
        assert text in printed
    weeks = open_store(out)
    assert weeks.conditions == ("diabetes", "hypertension")
    assert weeks.table.select("user_id", "readings", "wear_hours", "sex", "age", *weeks.conditions).rows() == [
        ("ann", HOURS * 60, HOURS - 1 / 60, "female", 40.0, 0, 1),
        ("bob", HOURS * 60, HOURS - 1 / 60, None, None, None, None),
    ]
    assert np.nansum(weeks.readings[:, 1]) == 2 * HOURS * 60 * 1.5
    assert weeks.provenance["kind"] == "prepared"
    provenance = json.dumps(weeks.provenance)
    assert str(table.parent) not in provenance
    assert '"table.csv"' in provenance
    assert run("describe", out) == 0
    assert capsys.readouterr().out == printed


def test_runs_and_filters(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.with_name("weeks")
    assert run("prepare", "table", table, "--by", 500, "--heart-rate-range", "61,250", "--out", out) == 0
    assert open_store(out).table["readings"].to_list() == [500] * 6
    assert run("prepare", "table", table, "--min-wear-hours", 31, "--out", table.with_name("none")) == 2
    assert "no week is left of 2: 2 dropped: worn less than 31 h" in capsys.readouterr().err


def test_all_names_of_the_bad_row_when_strict(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with table.open("a") as file:
        file.write("2026-01-06 07:00:00,ann,0,\n")
    assert run("prepare", "table", table, "--strict", "--out", table.with_name("weeks")) == 2
    assert capsys.readouterr().err.startswith("heartnet: table.csv row 3602: heart_rate 0: dropped: heart rate outside")
    assert not table.with_name("weeks").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "table", "absent.csv", "--out", "w"], "absent.csv does not exist"),
        (["prepare", "table", "table.csv", "--heart-rate", "hart", "--out", "w"], "no column 'hart' (--heart-rate)"),
        (["prepare", "table", "table.csv", "--out", "no/parent/w"], "does not exist; create it"),
        (["prepare", "table", "table.csv", "--out", "table.csv"], "exists and is not a folder"),
        (["prepare", "table", "table.csv", "--labels", "absent.csv", "--out", "w"], "absent.csv does not exist"),
        (["prepare", "table", "table.csv", "--labels", "table.csv", "--out", "w"], "no column is named as a condition"),
        (
            [
                "prepare",
                "table",
                "table.csv",
                "--labels",
                "table.csv",
                "--condition",
                "diabetes=A1c>=6.5",
                "--out",
                "w",
            ],
            "no such column",
        ),
        (["prepare", "table", "table.csv", "--condition", "diabetes=hr", "--out", "w"], "--condition needs a table"),
        (["prepare", "table", "table.csv", "--by", "1", "--out", "w"], "from 2 to 4,096"),
        (["prepare", "table", "table.csv"], "--out FOLDER is missing"),
        (["prepare", "table", "table.csv", "--user", "hr", "--out", "w"], "name it by --user-id hr"),
        (["describe", "absent"], "absent does not exist"),
        (["describe", "."], "is not a folder of prepared weeks"),
    ],
)
def test_bad_input_is_a_message_and_status_2(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(table.parent)
    before = sorted(os.listdir())
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("heartnet: ")
    assert message in error
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "table", "t", "--out", "w", "--heart-rat", "x"], "--heart-rat. Did you mean '--heart-rate'?"),
        (["prepare", "tabel", "t", "--out", "w"], "Did you mean 'table'?"),
        (["predict", "run", "weeks", "--outt", "x.csv"], "no such option: --outt. Did you mean '--out'?"),
        (["predict", "run", "--overwrite"], "the following arguments are required: STORE, --out"),
        (["descibe", "w"], "Did you mean 'describe'?"),
        (["prepare", "table", "t", "--out", "w", "--by", "month"], "expected week, or a number"),
        (["prepare", "table", "t", "--out", "w", "--heart-rate-range", "250,20"], "expected LOW,HIGH"),
        ([], "COMMAND"),
    ],
)  # fmt: skip
def test_mistyped_words(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_half_way(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert run("prepare", "table", table, "--out", table.with_name("weeks")) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Nothing was left behind" in error
    assert os.listdir(table.parent) == ["table.csv"]


def test_an_interrupt_is_status_130(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(heartnet.readings, "_sorted", interrupted)
    assert run("prepare", "table", table, "--out", table.with_name("weeks")) == 130
    assert "interrupted" in capsys.readouterr().err
    assert os.listdir(table.parent) == ["table.csv"]


def test_existing_weeks_need_overwrite(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.with_name("weeks")
    assert run("prepare", "table", table, "--out", out) == 0
    assert run("prepare", "table", table, "--by", 100, "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert len(open_store(out)) == 2
    assert run("prepare", "table", table, "--by", 100, "--out", out, "--overwrite") == 0
    assert len(open_store(out)) == 36


def test_help_needs_nothing_heavy() -> None:
    code = "import sys; from heartnet.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert "describe" in printed
    assert not {"polars", "numpy", "torch", "rich"} & set(printed.split())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("time,hr\r2026-01-05 00:00:00,60\r", [], "ends its lines as old Macs did"),
        ('time,hr\n2026-01-05 00:00:00,"60\n', [], "row 2: '2026-01-05 00:00:00,\"60' (expected 2 fields)"),
        ("time,hr,hr\n2026-01-05 00:00:00,60,61\n", [], "has 2 columns 'hr'"),
        (GOOD, ["--time-format", "%Y-%m-%d %H"], "--time-format '%Y-%m-%d %H' cannot be used"),
        (GOOD, ["--age", "age"], "--age says something about --people, which is not given"),
        (GOOD, ["--interval-end", "to"], "--interval-end says something about --label-intervals"),
        (GOOD, ["--kind-steps", "to"], "--kind-steps says something about --kind"),
        (GOOD, ["--by", "3"], "cut shorter pieces (--by 256)"),
    ],
)
def test_what_was_meant_is_asked_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, options: list[str], message: str
) -> None:
    file = tmp_path / "odd.csv"
    file.write_bytes(text.encode())
    assert run("prepare", "table", file, "--out", tmp_path / "weeks", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "weeks").exists()


@pytest.mark.parametrize(
    "option", [["--min-wear-hours", "nan"], ["--min-wear-hours", "-1"], ["--heart-rate-range", "20,inf"]]
)
def test_numbers_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("prepare", "table", tmp_path / "any.csv", "--out", tmp_path / "weeks", *option)
    assert stop.value.code == 2
    assert f"{option[0]}: '{option[1]}': expected" in capsys.readouterr().err


def test_brackets_in_the_data_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a[b].csv"
    file.write_text(GOOD + "x[/y],60\n")
    assert run("prepare", "table", file, "--out", tmp_path / "w[red]", "--min-wear-hours", 0) == 0
    out = capsys.readouterr().out
    assert "a[b].csv row 4: time 'x[/y]'" in out
    assert "w[red]" in out


@pytest.mark.parametrize("broken", ["no store", "damaged"])
def test_overwrite_says_what_it_does_not_replace(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    out = tmp_path / "other"
    out.mkdir()
    (out / ("note.txt" if broken == "no store" else "manifest.json")).write_text("{")
    assert run("prepare", "table", table, "--out", out, "--overwrite") == 2
    assert "choose another name for the weeks, or remove the folder yourself" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 1


def test_a_file_of_labels_and_metadata_is_counted_once_for_each(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "bio.csv"
    both.write_text("user_id,age,diabetes\nann,50,1\nnobody,60,0\n")
    words = ["--people", both, "--labels", both, "--min-wear-hours", 0]
    assert run("prepare", "table", table, "--out", tmp_path / "both", *words) == 0
    entries = read_manifest(tmp_path / "both")["account"]
    unknown = {each["what"]: each["count"] for each in entries if "not in the readings" in each["what"]}
    assert unknown == {
        "noted: in --people bio.csv and not in the readings": 1,
        "noted: in --labels bio.csv and not in the readings": 1,
    }
    capsys.readouterr()


def test_two_sources_of_one_person_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A watch in local time with an offset, and a phone's steps in a wall clock of a stated time zone."""
    start = datetime(2026, 1, 5)
    watch, phone = tmp_path / "watch.csv", tmp_path / "phone.csv"
    rates = [f"{(start + timedelta(minutes=i)).isoformat()}+01:00,{60 + i % 9}" for i in range(1800)]
    watch.write_text("time,hr\n" + "\n".join(rates) + "\n")
    phone.write_text("time,steps\n2026-01-05 10:00:30,17\n")
    words = ["prepare", "table", watch, "+", "table", phone, "--time-zone", "Europe/Berlin"]
    assert run(*words, "--out", tmp_path / "weeks") == 0
    weeks = open_store(tmp_path / "weeks")
    assert len(weeks) == 1
    assert len(weeks.readings) == 1801
    row = int(np.flatnonzero(weeks.readings[:, 1] == 17)[0])
    assert weeks.readings[row, 2] == 30
    assert weeks.local_time[row] == (datetime(2026, 1, 5, 10, 0, 30) - datetime(1970, 1, 1)) // timedelta(
        microseconds=1
    )
    told = json.loads(json.dumps(weeks.provenance["sources"]))
    assert [(each["source"], each["files"][0]["name"], each["options"]["time_zone"]) for each in told] == [
        ("table", "watch.csv", None),
        ("table", "phone.csv", "Europe/Berlin"),
    ]
    capsys.readouterr()
    assert run("prepare", "table", watch, "--by", "7", "+", "table", phone, "--by", "9", "--out", "w") == 2
    assert "--by is given twice: 7 and 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "people"),
    [
        ([], ["--user", "ann"], ["ann"]),
        (["--user", "ann"], [], ["ann"]),
        (["--user", "a"], ["--user", "b"], ["a", "b"]),
    ],
)
def test_a_person_named_once_is_that_of_all_sources(
    tmp_path: Path, first: list[str], second: list[str], people: list[str]
) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    for path, day in ((one, 5), (two, 7)):
        start = datetime(2026, 1, day)
        path.write_text("time,hr\n" + "".join(f"{start + timedelta(minutes=i)},60\n" for i in range(1600)))
    words = ["prepare", "table", one, *first, "+", "table", two, *second, "--out", tmp_path / "weeks"]
    assert run(*words) == 0
    assert sorted(open_store(tmp_path / "weeks").table["user_id"].unique()) == people


def test_steps_and_rates_of_the_source_named_first_are_believed(tmp_path: Path) -> None:
    start = datetime(2026, 1, 5)
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    for path, rate, steps, count in ((first, 60, 5, 1500), (second, 90, 50, 1600)):
        lines = [f"{start + timedelta(minutes=i)},{rate},{steps}" for i in range(count)]
        path.write_text("time,hr,steps\n" + "\n".join(lines) + "\n")
    assert run("prepare", "table", first, "+", "table", second, "--out", tmp_path / "weeks") == 0
    readings = open_store(tmp_path / "weeks").readings
    assert readings[:, 0].tolist() == [60] * 1500 + [90] * 100
    assert readings[:, 1].tolist() == [5] * 1500 + [50] * 100


def test_a_request_to_end_leaves_nothing(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = "".join(f"2026-01-05 00:00:{i % 60:02d},60\n" for i in range(2_000_000))
    table.write_text("time,hr\n" + lines)
    command = [sys.executable, "-m", "heartnet.cli", "prepare", "table", str(table), "--out", str(tmp_path / "weeks")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".weeks.partial-*")):
        time.sleep(0.01)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "heartnet: interrupted; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("words", [["+", "table", "a.csv"], ["table", "a.csv", "+"], ["table", "a.csv", "+", "--out"]])
def test_a_plus_without_a_source_beside_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", *words) == 2
    assert "a + stands between sources" in capsys.readouterr().err


def test_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"heartnet {version('heartnet')}"


def test_a_link_is_no_place_for_a_store_and_it_is_said_why(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(HeartnetError, match=r"link is a link to .*real.*would replace the link"):
        check_target(tmp_path / "link", overwrite=True)
