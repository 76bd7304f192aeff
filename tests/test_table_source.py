"""Tables in every shape are read into the same readings, and what is wrong with one is said in place."""

import csv
import gzip
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heartnet.sources.files
from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.intake import RAW_SCHEMA, Intake
from heartnet.sources.files import TableFile
from heartnet.sources.table import TableOptions, read_table
from heartnet.sources.times import parse_times

GOOD = "time,hr,steps\n2026-01-05 00:00:00,60,1\n2026-01-05 00:00:05,61,\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(*paths: Path, account: Account | None = None, **options: Any) -> list[tuple[object, ...]]:
    account = Account() if account is None else account
    frame = read(*paths, account=account, **options)
    assert frame.schema == RAW_SCHEMA
    seconds = (pl.col("time") - datetime(2026, 1, 5)).dt.total_milliseconds() / 1000
    return frame.select("user_id", seconds, "heart_rate", "steps").rows()


def read(*paths: Path, account: Account | None = None, **options: Any) -> pl.DataFrame:
    of_people = {name: options.pop(name) for name in ("user", "user_from_filename", "zone") if name in options}
    intake = Intake(account or Account(), **of_people)
    read_table(paths, TableOptions(**options), intake)
    return intake.all_readings()


EXPECTED = [("person-1", 0.0, 60.0, 1.0), ("person-1", 5.0, 61.0, None)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", GOOD.encode()),
        ("a.csv.gz", gzip.compress(GOOD.encode(), mtime=0)),
        ("misnamed.csv", gzip.compress(GOOD.encode(), mtime=0)),
        ("bom.csv", b"\xef\xbb\xbf" + GOOD.encode()),
        ("windows.csv", GOOD.replace("\n", "\r\n").encode()),
        ("a.tsv", GOOD.replace(",", "\t").encode()),
        ("semicolon.csv", GOOD.replace(",", ";").encode()),
        ("no_last_line_end.csv", GOOD.rstrip("\n").encode()),
        ("blank_lines.csv", GOOD.replace("\n", "\n\n").encode()),
        ("quoted.csv", re.sub(r"[^,\n]+", r'"\g<0>"', GOOD).encode()),
        ("padded.csv", GOOD.replace(",", " , ").encode()),
        ("iso_t.csv", GOOD.replace(" 00:", "T00:").encode()),
        ("NA.csv", GOOD.replace(",\n", ",NaN\n").encode()),
    ],
)
def test_the_same_table_in_other_clothes(tmp_path: Path, name: str, data: bytes) -> None:
    assert rows(write(tmp_path / name, data)) == EXPECTED


@pytest.mark.parametrize("dtype", [pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "UTC"), pl.String])
def test_parquet(tmp_path: Path, dtype: pl.DataType) -> None:
    time = pl.Series([datetime(2026, 1, 5), datetime(2026, 1, 5, 0, 0, 5)])
    text = time.dt.to_string("%Y-%m-%d %H:%M:%S")
    column = text if dtype == pl.String else time.dt.replace_time_zone(getattr(dtype, "time_zone", None)).cast(dtype)
    pl.DataFrame({"time": column, "hr": [60, 61], "steps": [1.0, None]}).write_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == EXPECTED


def test_parquet_keeps_its_time_zone_as_offset(tmp_path: Path) -> None:
    time = pl.Series([datetime(2026, 1, 5), datetime(2026, 7, 5)]).dt.replace_time_zone("Europe/Berlin")
    pl.DataFrame({"time": time, "hr": [60, 61]}).write_parquet(tmp_path / "a.parquet")
    frame = read(tmp_path / "a.parquet")
    assert frame["utc_offset"].to_list() == [3600, 7200]
    assert frame["time"].to_list() == [datetime(2026, 1, 4, 23), datetime(2026, 7, 4, 22)]


def test_date_and_clock_in_two_columns_and_one_channel_a_file(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr.csv", "Day,Clock,Value\n2026-01-05,00:00:07,70\n")
    steps = write(tmp_path / "steps.csv", "Day,Clock,Steps\n2026-01-05,00:00:09,4\n")
    found = rows(hr, steps, time=["Day+Clock"], heart_rate=["Value"], steps=["Steps"])
    assert found == [("person-1", 7.0, 70.0, None), ("person-1", 9.0, None, 4.0)]


def test_a_column_of_one_file(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr.csv", "time,Value\n2026-01-05,70\n")
    steps = write(tmp_path / "steps.csv", "time,Value\n2026-01-05,4\n")
    found = rows(hr, steps, heart_rate=["hr.csv:Value"], steps=[f"{steps}:Value"])
    assert found == [("person-1", 0.0, 70.0, None), ("person-1", 0.0, None, 4.0)]


def test_long_table(tmp_path: Path) -> None:
    text = "id,time,type,v\na,2026-01-05,HR,70\na,2026-01-05,Steps,4\nb,2026-01-05,Sleep,x\n"
    account = Account()
    path = write(tmp_path / "long.csv", text)
    options: dict[str, Any] = {"kind": ["type"], "value": ["v"], "kind_heart_rate": "HR", "kind_steps": "Steps"}
    found = rows(path, account=account, **options)
    assert found == [("a", 0.0, 70.0, None), ("a", 0.0, None, 4.0), ("b", 0.0, None, None)]
    assert account.count("values", "noted: rows of another kind") == 1
    assert account.count("values", "dropped: not a number") == 0
    with pytest.raises(HeartnetError, match="a long table needs --kind COL, --value COL"):
        rows(path, kind=["type"])


def test_people_by_column_file_name_and_option(tmp_path: Path) -> None:
    with_id = write(tmp_path / "x.csv", "time,hr,Subject\n2026-01-05,60,7\n2026-01-05,61,\n")
    account = Account()
    assert rows(with_id, account=account) == [("7", 0.0, 60.0, None)]
    assert account.examples["rows", "dropped: no person"] == ["x.csv row 3: Subject None"]
    assert [row[0] for row in rows(with_id, user="me")] == ["me", "me"]
    plain = write(tmp_path / "study-012.csv", "time,hr\n2026-01-05,60\n")
    assert rows(plain, user_from_filename=r"study-(\d+)")[0][0] == "012"
    with pytest.raises(HeartnetError, match=r"study-012\.csv has no column that says who it is of.*--user-id"):
        rows(with_id, plain)
    assert [row[0] for row in rows(with_id, plain, user_id=["Subject"], user="you")] == ["7", "you"]
    for pattern in ("no", "(", "study", "(s)(t)"):
        with pytest.raises(HeartnetError, match="--user-from-filename"):
            rows(plain, user_from_filename=pattern)


@pytest.mark.parametrize(
    ("text", "options", "time", "offset"),
    [
        ("2026-01-05T10:00:00Z", {}, "2026-01-05 10:00:00", 0),
        ("2026-01-05 10:00:00+02:00", {}, "2026-01-05 08:00:00", 7200),
        ("2026-01-05T10:00:00.250-0730", {}, "2026-01-05 17:30:00.250", -27000),
        ("2026-01-05 10:00:00 -0030", {}, "2026-01-05 10:30:00", -1800),
        ("2026-01-05 10:00:00 +05", {}, "2026-01-05 05:00:00", 18000),
        ("2026-01-05 10:00", {}, "2026-01-05 10:00:00", None),
        ("2026-01-05 10:00:00,5", {}, "2026-01-05 10:00:00.5", None),
        ("2026-01-05", {}, "2026-01-05 00:00:00", None),
        ("4/12/2016 11:21:00 PM", {"time_format": "%m/%d/%Y %I:%M:%S %p"}, "2016-04-12 23:21:00", None),
        ("05.01.2026 10:00 +0100", {"time_format": "%d.%m.%Y %H:%M %z"}, "2026-01-05 09:00:00", 3600),
        ("0.448", {"unit": "s"}, "1970-01-01 00:00:00.448", None),
        ("1767607200", {"unit": "s"}, "2026-01-05 10:00:00", None),
        ("1767607200123", {"unit": "ms"}, "2026-01-05 10:00:00.123", None),
        ("1767607200123456789", {"unit": "ns"}, "2026-01-05 10:00:00.123456", None),
        ("2026-13-05 10:00:00", {}, None, None),
        ("2026-02-30", {}, None, None),
        ("yesterday", {}, None, None),
        ("1e300", {"unit": "s"}, None, None),
        ("99999999999999999", {"unit": "s"}, None, None),
        ("-99999999999999999999", {"unit": "ms"}, None, None),
        ("x", {"unit": "s"}, None, None),
        ("9999-12-31 23:59:59", {}, None, None),
        ("0001-01-01T00:00:00Z", {}, None, None),
        ("31.12.2300", {"time_format": "%d.%m.%Y"}, None, None),
        ("2211-06-01 00:00:00", {}, "2211-06-01 00:00:00", None),
    ],
)
def test_times(text: str, options: dict[str, Any], time: str | None, offset: int | None) -> None:
    found, offsets = parse_times([pl.Series([text])], **options)
    assert found.to_list() == [None if time is None else datetime.fromisoformat(time)]
    assert time is None or offsets.to_list() == [offset]


def test_mixed_layouts_of_time_in_one_column() -> None:
    texts = ["2026-01-05 10:00:00", "x", None, "2026-01-05T10:00:00Z", "2026-01-05", "2026-01-05 10:00:00.5+01:00"]
    found, offsets = parse_times([pl.Series(texts)])
    assert [t and t.isoformat() for t in found] == [
        "2026-01-05T10:00:00", None, None, "2026-01-05T10:00:00", "2026-01-05T00:00:00", "2026-01-05T09:00:00.500000",
    ]  # fmt: skip
    assert offsets.to_list() == [None, None, None, 0, None, 3600]


def test_bad_rows_are_counted_with_their_places(tmp_path: Path) -> None:
    text = (
        "time,hr,note\n"
        "2026-01-05 00:00:00,60,\n"
        "soon,60,\n"
        ",60,\n"
        "2026-01-05 00:00:05,sixty,\n"
        "2026-01-05 00:00:06,61\n"
        "2026-01-05 00:00:07,61,a,b\n"
        '2026-01-05 00:00:08,61,"a, b"\n'
        '2026-01-05 00:00:09,61,"a\n'
        "2026-01-05 00:00:10,62,\n"
    )
    account = Account()
    path = write(tmp_path / "bad.csv", text)
    found = rows(path, account=account)
    assert [row[1:3] for row in found] == [(0.0, 60.0), (5.0, None), (8.0, 61.0), (10.0, 62.0)]
    ragged = "dropped: not the 3 fields of the header"
    assert {(what, count) for _, what, count in account} == {
        ("in", 9), (ragged, 3), ("dropped: time not readable", 1), ("dropped: no time", 1),
        ("dropped: not a number", 1),
    }  # fmt: skip
    assert account.examples["rows", ragged][0] == "bad.csv row 6: '2026-01-05 00:00:06,61'"
    assert account.examples["rows", "dropped: time not readable"] == ["bad.csv row 3: time 'soon'"]
    assert account.examples["values", "dropped: not a number"] == ["bad.csv row 5: hr 'sixty'"]
    with pytest.raises(HeartnetError, match=r"bad\.csv row 6: .*--strict"):
        rows(path, account=Account(strict=True))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.csv", b"", r"empty\.csv is empty"),
        ("blank.csv", b"\n\n", r"blank\.csv is empty"),
        ("header.csv", b"time,hr\n", r"header\.csv has column names and no rows"),
        ("ragged.csv", b"time,hr\n1,2,3\n", r"no rows that fit them"),
        ("image.csv", b"\x89PNG\r\n\x1a\n\0\0", r"image\.csv holds binary data"),
        ("random.csv.gz", bytes(range(128, 256)), r"random\.csv\.gz row 1 is not UTF-8"),
        ("cut.csv.gz", gzip.compress(GOOD.encode() * 999, mtime=0)[:-30], r"cut\.csv\.gz is a damaged gzip file"),
        ("broken.csv.gz", b"\x1f\x8b" + b"junk" * 9, r"broken\.csv\.gz is a damaged gzip"),
        ("latin.csv", "time,hr\n2026-01-05,60\nMärz,60\n".encode("latin-1"), r"latin\.csv row 3 is not UTF-8.*iconv"),
        ("utf16.csv", GOOD.encode("utf-16"), r"utf16\.csv"),
        ("broken.parquet", b"PAR1" + b"x" * 50 + b"PAR1", r"broken\.parquet cannot be read as Parquet"),
        ("cut.parquet", b"PAR1", r"cut\.parquet cannot be read as Parquet"),
        ("soon.csv", b"time,hr\nsoon,60\n", r"soon\.csv row 2: no time of column 'time'.*'soon'.*--time-format"),
        ("numbers.csv", b"time,hr\n17,60\n", r"numbers\.csv row 2: .*'17', a number: .*--time-unit"),
        ("untimed.csv", b"time,hr\n,60\n", r"untimed\.csv: column 'time' is blank in every row"),
        ("no_time.csv", b"when,hr\n2026-01-05,60\n", r"no_time\.csv has no column of times.*'when', 'hr'"),
        ("no_value.csv", b"time,puls\n2026-01-05,60\n", r"no_value\.csv has neither heart rate nor steps.*'puls'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(HeartnetError, match=message):
        rows(write(tmp_path / name, data))


def test_missing_paths_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "heart.csv", GOOD)
    with pytest.raises(HeartnetError, match=r"haert\.csv does not exist. Did you mean 'heart\.csv'\?"):
        rows(tmp_path / "haert.csv")
    with pytest.raises(HeartnetError, match=r"is a folder; name the files in it"):
        rows(tmp_path)
    with pytest.raises(HeartnetError, match=r"does not exist"):
        rows(tmp_path / "no" / "where.csv")


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", GOOD)
    with pytest.raises(
        HeartnetError, match=r"one\.csv has no column 'hrt' \(--heart-rate\).*'time', 'hr', 'steps'\. Did"
    ):
        rows(one, heart_rate=["hrt"])
    two = write(tmp_path / "two.csv", GOOD)
    with pytest.raises(HeartnetError, match=r"no file has a column 'hrt' \(--heart-rate\)\. Did you mean 'hr'\?"):
        rows(one, two, heart_rate=["hrt"])
    with pytest.raises(HeartnetError, match=r"no column 'clock' \(--time\)"):
        rows(one, time=["time+clock"])
    with pytest.raises(HeartnetError, match=r"--time-format '%d/%m/%Y' was given; it fits no row"):
        rows(one, time_format="%d/%m/%Y")
    twice = write(tmp_path / "twice.csv", "time,hr,x,x\n2026-01-05,60,1,2\n")
    assert len(rows(twice)) == 1
    with pytest.raises(HeartnetError, match=r"twice\.csv has 2 columns 'x'"):
        rows(twice, heart_rate=["x"])


def test_a_parquet_column_that_is_not_numbers(tmp_path: Path) -> None:
    pl.DataFrame({"time": [datetime(2026, 1, 5)], "hr": [True]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(HeartnetError, match=r"a\.parquet: column 'hr' holds Boolean, expected numbers"):
        rows(tmp_path / "a.parquet")


cells = st.text(st.sampled_from('ab1,;" é\t'), max_size=5) | st.sampled_from(["1", "x y", 'say "hi"', "a,b"])


@settings(deadline=None, max_examples=60)
@given(table=st.lists(st.tuples(cells, cells, st.integers(0, 99)), min_size=1, max_size=25), chunk=st.integers(3, 200))
def test_against_the_csv_module_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, int]], chunk: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("first", "second", "third"), *table])
    missing = heartnet.sources.files.MISSING
    expected = [tuple(None if (v := str(c).strip(" \t")) in missing else v for c in row) for row in table]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartnet.sources.files, "CHUNK_BYTES", chunk)
        opened = TableFile(path)
        chunks = list(opened.chunks(opened.columns, Account()))
    found = [row for part in chunks for row in part.frame.rows()]
    assert found == expected
    assert np.concatenate([part.rows for part in chunks]).tolist() == list(range(2, len(table) + 2))


def test_fields_that_break_their_line_are_counted_not_lost(tmp_path: Path) -> None:
    text = 'time,hr,note\n2026-01-05,60,"two\nlines"\n2026-01-05 00:00:05,61,\n'
    account = Account()
    assert [row[1:3] for row in rows(write(tmp_path / "a.csv", text), account=account)] == [(5.0, 61.0)]
    assert account.count("rows", "dropped: not the 3 fields of the header") == 2


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartnet.sources.files, "CHUNK_BYTES", 100)
    monkeypatch.setattr(heartnet.sources.files, "LONGEST_LINE", 1000)
    path = write(tmp_path / "long.csv", GOOD + "x" * 3000)
    with pytest.raises(HeartnetError, match=r"long\.csv row 4 is longer than 1,000 bytes"):
        rows(path)


def test_a_kind_that_no_row_is_of(tmp_path: Path) -> None:
    file = write(tmp_path / "long.csv", "time,type,value\n2026-01-05 00:00:00,HR,60\n2026-01-05 00:00:01,steps,2\n")
    with pytest.raises(HeartnetError, match=r"kind 'stps' \(--kind-steps\).* 'steps'\. Did you mean 'steps'"):
        read(file, kind=["type"], value=["value"], kind_heart_rate="HR", kind_steps="stps")


@pytest.mark.parametrize("column", ["time", "user_id", "hr"])
def test_lists_in_a_column_are_an_error(tmp_path: Path, column: str) -> None:
    frame = pl.DataFrame({"time": ["2026-01-05 00:00:00"], "user_id": ["a"], "hr": [60]})
    frame.with_columns(pl.lit([1, 2]).alias(column)).write_parquet(tmp_path / "lists.parquet")
    with pytest.raises(HeartnetError, match=f"{column}.*List"):
        read(tmp_path / "lists.parquet")


def test_steps_of_an_interval_stand_at_its_end(tmp_path: Path) -> None:
    text = (
        "date,start,until,stop,steps\n"
        "2026-01-05,10:00:00,2026-01-05,10:00:30,12\n"
        "2026-01-05,23:59:50,2026-01-05,00:00:10,9\n"  # over midnight, with the day before's date
        "2026-01-06,10:00:00,2026-01-06,06:00:00,7\n"
        "2026-01-06,11:00:00,,,5\n"
    )
    account = Account()
    path = write(tmp_path / "steps.csv", text)
    frame = read(path, account=account, time=["date+start"], steps_end=["until+stop"])
    day = datetime(2026, 1, 5)
    assert frame.select((pl.col("time") - day).dt.total_seconds(), "duration", "steps").rows() == [
        (36_030, 30.0, 12.0), (86_410, 20.0, 9.0), (122_400, 0.0, 7.0), (126_000, 0.0, 5.0),
    ]  # fmt: skip
    assert account.count("rows", "noted: steps that end a day early by their date (a day was added)") == 1
    assert account.count("rows", "noted: steps without an end, or that end before they start (at start)") == 2


def test_a_row_with_a_rate_and_steps_of_an_interval_becomes_two(tmp_path: Path) -> None:
    account = Account()
    path = write(tmp_path / "a.csv", "time,end,hr,steps\n2026-01-05 00:00:00,2026-01-05 00:01:00,60,5\n")
    found = read(path, account=account, steps_end=["end"]).select("heart_rate", "steps", "duration").rows()
    assert found == [(60.0, None, None), (None, 5.0, 60.0)]
    assert account.count("rows", "in") == 2


def test_numbers_are_instants_and_text_without_an_offset_is_a_wall_clock(tmp_path: Path) -> None:
    numbers = write(tmp_path / "numbers.csv", "time,hr\n1767571200,60\n")  # 2026-01-05T00:00:00Z
    text = write(tmp_path / "text.csv", "time,hr\n2026-01-05 00:00:00,60\n")
    for path, options, utc in ((numbers, {"time_unit": "s"}, 0), (text, {}, -3600)):
        frame = read(path, zone="Europe/Berlin", **options)
        assert frame["utc_offset"].to_list() == [3600]
        assert (frame["time"][0] - datetime(2026, 1, 5)).total_seconds() == utc
        assert read(path, **options)["utc_offset"].to_list() == [None]


def test_dates_without_a_clock_are_asked_about(tmp_path: Path) -> None:
    path = write(
        tmp_path / "dates.csv", "date,clock,hr\n" + "".join(f"2026-01-05,10:00:{i},60\n" for i in range(10, 50))
    )
    with pytest.raises(HeartnetError, match=r"column 'date' has dates without a clock time.*--time date\+CLOCK"):
        rows(path, time=["date"])
    assert len(rows(path, time=["date+clock"])) == 40


def test_people_without_steps_are_counted_if_others_have_them(tmp_path: Path) -> None:
    what = "noted: no steps in these tables, though others have them"
    paths = [write(tmp_path / f"person-{name}.csv", GOOD.replace("steps", "x")) for name in "abc"]
    account = Account()
    rows(*paths, account=account, user_from_filename="person-(.)")
    assert account.count("people", what) == 0
    write(paths[1], GOOD)
    rows(*paths, account=account, user_from_filename="person-(.)")
    assert account.count("people", what) == 2
    assert account.examples["people", what] == ["a", "c"]


def test_files_that_name_no_person_are_noted(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"person-{name}.csv", GOOD) for name in "ab"]
    account = Account()
    assert {row[0] for row in rows(*paths, account=account)} == {"person-1"}
    what = "noted: files of heart rates that name no person, taken as one's (see --user-from-filename)"
    assert account.count("people", what) == 2
    account = Account()
    rows(*paths, account=account, user_from_filename="person-(.)")
    assert account.count("people", what) == 0
