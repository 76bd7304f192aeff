"""Labels by person and by interval, and metadata, reach the right weeks under the right names."""

from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.attach import account_for_labels, attach_facts, attach_intervals, attach_labels, attach_people
from heartnet.errors import HeartnetError
from heartnet.intake import Person
from heartnet.labels import parse_conditions, read_intervals, read_labels, read_people, rules_for
from heartnet.readings import SCHEMA
from heartnet.sources.files import TableFile
from heartnet.weeks import Weeks, cut_weeks

EPOCH = datetime(1970, 1, 1)


def make_weeks(people: dict[str, list[int]], by: int = 2) -> Weeks:
    """Runs of `by` readings at the given seconds."""
    rows = [(p, EPOCH + timedelta(seconds=s), 0, 60.0, None, 0) for p, at in sorted(people.items()) for s in at]
    return cut_weeks(pl.DataFrame(rows, schema=SCHEMA, orient="row"), by=by)


def table(tmp_path: Path, text: str, name: str = "labels.csv") -> TableFile:
    (tmp_path / name).write_text(text)
    return TableFile(tmp_path / name)


def labels(file: TableFile, *conditions: str, account: Account | None = None) -> dict[str, dict[str, int | None]]:
    frame = read_labels(file, rules_for(file, parse_conditions(conditions)), account or Account())
    return {row.pop("user_id"): row for row in frame.iter_rows(named=True)}


def test_conditions_are_matched_by_name_in_whatever_order(tmp_path: Path) -> None:
    file = table(tmp_path, "Hypertension,id,Sleep Apnea,diabetes\n1,a,no,\n0,b,YES,true\n")
    weeks = make_weeks({"a": [0, 1], "b": [0, 1]})
    frame = read_labels(file, rules_for(file, {}), Account())
    weeks = attach_labels(weeks, frame, Account(), ["a", "b"], "labels.csv")
    assert weeks.conditions == ("sleep_apnea", "diabetes", "hypertension")
    assert weeks.table.select("user_id", *weeks.conditions).rows() == [("a", 0, None, 1), ("b", 1, 1, 0)]
    assert weeks.table.columns[-3:] == list(weeks.conditions)


def test_rules(tmp_path: Path) -> None:
    file = table(tmp_path, "id,A1c (Lab),kind\na,6.5,T2\nb,6.4,T1\nc,,none\nd,7,healthy\n")
    assert labels(file, "diabetes=A1c (Lab)>=6.5") == {
        "a": {"diabetes": 1}, "b": {"diabetes": 0}, "c": {"diabetes": None}, "d": {"diabetes": 1},
    }  # fmt: skip
    assert [row["diabetes"] for row in labels(file, "diabetes=A1c (Lab) < 6.5").values()] == [0, 1, None, 0]
    assert [row["diabetes"] for row in labels(file, "diabetes=kind:T1|T2").values()] == [1, 1, None, 0]
    assert list(labels(file, "prediabetes=A1c (Lab)>=5.7", "low_mood=kind:T1")["a"].values()) == [1, 0]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("diabetis=kind:T1", r"unknown condition 'diabetis'\. Did you mean 'diabetes'\?"),
        ("diabetes", "expected NAME=COL"),
        ("Diabetes=kind:T1", "in lower case"),
        ("diabetes=kind:T3", r"labels\.csv: no row has 'T3' in column 'kind'.*there are 'T1', 'T2'"),
        ("diabetes=kind", r"no value of column 'kind' can be read as diabetes, for example 'T2'.*diabetes=kind:VALUE"),
        ("diabetes=kind>=2", r"no value of column 'kind' can be read"),
    ],
)
def test_conditions_that_cannot_be(tmp_path: Path, condition: str, message: str) -> None:
    file = table(tmp_path, "id,kind\na,T2\nb,T1\n")
    with pytest.raises(HeartnetError, match=message):
        labels(file, condition)
    with pytest.raises(HeartnetError, match="given twice"):
        parse_conditions(["diabetes=a", "diabetes=b"])


def test_a_label_that_is_not_understood_is_counted(tmp_path: Path) -> None:
    account = Account()
    file = table(tmp_path, "id,diabetes\na,1\nb,maybe\n")
    assert labels(file, account=account)["b"] == {"diabetes": None}
    key = ("--labels labels.csv", "noted: label not understood")
    assert account.examples[key] == ["labels.csv row 3: diabetes 'maybe'"]


def test_a_contradiction_is_an_error_and_a_repetition_is_not(tmp_path: Path) -> None:
    assert labels(table(tmp_path, "id,diabetes\na,1\na,\na,1\n")) == {"a": {"diabetes": 1}}
    with pytest.raises(HeartnetError, match=r"contradicts itself about 'a': diabetes is 0 and 1 in rows 2, 3"):
        labels(table(tmp_path, "id,diabetes\na,1\na,0\n"))


def test_unknown_people_are_counted_and_named(tmp_path: Path) -> None:
    weeks = make_weeks({"a": [0, 1], "b": [0, 1], "c": [5, 6]})
    file = table(tmp_path, "id,diabetes\na,1\nzoe,0\nfiltered,0\n")
    frame = read_labels(file, rules_for(file, {}), Account())
    account = Account()
    found = attach_labels(weeks, frame, account, ["a", "b", "c", "filtered"], "labels.csv")
    assert found.table["diabetes"].to_list() == [1, None, None]
    assert account.examples["people", "noted: in labels.csv and not in the readings"] == ["'zoe'"]
    assert account.count("people", "noted: with weeks and not in labels.csv") == 2
    with pytest.raises(HeartnetError, match=r"'zoe': .*--strict"):
        attach_labels(weeks, frame, Account(strict=True), ["a", "filtered"], "labels.csv")
    with pytest.raises(HeartnetError, match=r"none of its 3 people is in the readings. It names 'a'.*of 'x'"):
        attach_labels(weeks, frame, Account(), ["x"], "labels.csv")
    account_for_labels(found, account)
    assert [(what, n) for stage, what, n in account if stage == "diabetes"] == [
        ("positive weeks", 1), ("negative weeks", 0), ("weeks without a label", 2),
        ("people with a positive week", 1), ("people with a negative week", 0),
    ]  # fmt: skip


def test_numbers_match_by_value_only_where_that_is_unambiguous(tmp_path: Path) -> None:
    everyone = ["001", "02", "2", "3", "03"]
    weeks = make_weeks({person: [0, 1] for person in everyone})
    file = table(tmp_path, "id,diabetes\n1,1\n2,1\n003,1\n")
    found = attach_labels(weeks, read_labels(file, rules_for(file, {}), Account()), Account(), everyone, "labels.csv")
    by_person = dict(found.table.select("user_id", "diabetes").rows())
    assert by_person == {"001": 1, "02": None, "2": 1, "3": None, "03": None}


def test_people(tmp_path: Path) -> None:
    text = "subject,Age,Gender,BMI,Watch\n1,27,M,22.3,v1\n2,abc,f,900,\n3,,x,,v2\n"
    account = Account()
    frame = read_people(table(tmp_path, text), account, {"device": ["Watch"]})
    weeks = attach_people(make_weeks({"001": [0, 1], "2": [0, 1]}), frame, account, ["001", "2"], "people.csv")
    assert weeks.table.select("user_id", "device", "age", "sex", "bmi").rows() == [
        ("001", "v1", 27.0, "male", 22.3), ("2", None, None, "female", None),
    ]  # fmt: skip
    assert weeks.table.schema["age"] == pl.Float64
    noted = {what for stage, what, _ in account if stage == "--people labels.csv"}
    assert noted == {"in", "noted: age not understood", "noted: sex not understood", "noted: bmi not understood"}
    with pytest.raises(HeartnetError, match=r"no column 'Agee' \(--age\).*Did you mean 'Age'"):
        read_people(table(tmp_path, text), account, {"age": ["Agee"]})
    with pytest.raises(HeartnetError, match="no column of age, sex, BMI or device"):
        read_people(table(tmp_path, "id,x\n1,2\n"), account)


def intervals(
    tmp_path: Path, rows: list[tuple[str, float, float, str]], account: Account | None = None
) -> pl.DataFrame:
    text = "id,start,end,rhythm\n" + "".join(f"{p},{a},{b},{r}\n" for p, a, b, r in rows)
    file = table(tmp_path, text, "rhythms.csv")
    rules = rules_for(file, parse_conditions(["atrial_fibrillation=rhythm:AFIB"]))
    return read_intervals(file, rules, account or Account(), time_unit="s")


def test_more_than_half_is_positive_and_less_than_half_known_is_missing(tmp_path: Path) -> None:
    weeks = make_weeks({"a": [0, 10, 100, 110, 200, 210, 300, 310, 400, 410], "b": [0, 10]})
    frame = intervals(
        tmp_path,
        [
            *[("a", 0, 5, "AFIB"), ("a", 5, 10, "N")],  # exactly half: negative
            *[("a", 100, 103, "AFIB"), ("a", 102, 105.1, "AFIB")],  # overlapping, 5.1 of 10: positive
            ("a", 195, 204.9, "AFIB"),  # 4.9 of 10 known: missing
            ("a", 300, 305, "N"),  # exactly half known: negative
            ("a", 350, 500, "AFIB"),
        ],
    )
    found = attach_intervals(weeks, frame, Account(), ["a", "b"], "rhythms.csv")
    assert found.table["atrial_fibrillation"].to_list() == [0, 1, None, 0, 1, None]
    assert found.table.schema["atrial_fibrillation"] == pl.Int8


def test_bad_intervals(tmp_path: Path) -> None:
    account = Account()
    frame = intervals(tmp_path, [("a", 5, 1, "AFIB"), ("a", 0, 9, "AFIB")], account)
    assert frame.height == 1
    stage = "--label-intervals rhythms.csv"
    what = "dropped: interval without times, or that ends before it starts"
    assert account.examples[stage, what] == ["rhythms.csv row 2: start '5'"]
    file = table(tmp_path, "id,onset,offset,rhythm\na,1,2,AFIB\n", "r.csv")
    rules = rules_for(file, {"atrial_fibrillation": "rhythm:AFIB"})
    with pytest.raises(HeartnetError, match=r"r\.csv has no column for the interval end; name it with --interval-end"):
        read_intervals(file, rules, account)
    file = table(tmp_path, "id,start,end,rhythm\na,one,two,AFIB\n", "r.csv")
    with pytest.raises(HeartnetError, match=r"no time of column 'start' can be read, for example 'one'"):
        read_intervals(file, rules, account)


stretch = st.tuples(st.integers(0, 60), st.integers(0, 30), st.sampled_from(["AFIB", "N", ""]))


@settings(deadline=None, max_examples=60)
@given(
    stretches=st.lists(stretch, min_size=1, max_size=8),
    times=st.lists(st.integers(0, 90), min_size=2, max_size=12, unique=True),
)
def test_intervals_against_counting_seconds(
    tmp_path_factory: pytest.TempPathFactory, stretches: list[tuple[int, int, str]], times: list[int]
) -> None:
    if not any(rhythm == "AFIB" for _, _, rhythm in stretches):
        return
    weeks = make_weeks({"a": sorted(times)})
    frame = intervals(tmp_path_factory.mktemp("i"), [("a", s, s + n, r) for s, n, r in stretches])
    found = attach_intervals(weeks, frame, Account(), ["a"], "rhythms.csv").table["atrial_fibrillation"].to_list()
    known = {t for s, n, r in stretches if r for t in range(s, s + n)}
    positive = {t for s, n, r in stretches if r == "AFIB" for t in range(s, s + n)}
    for index, label in enumerate(found):
        first, last = weeks.local_time[weeks.offsets[index] : weeks.offsets[index + 1]] // 1_000_000
        seconds = set(range(first, last))
        if len(seconds & known) * 2 < len(seconds):
            assert label is None
        else:
            assert label == (len(seconds & positive) * 2 > len(seconds))


@pytest.mark.parametrize(
    ("start", "end"), [("2026-01-05 10:00", "2026-01-05 11:00"), ("2026-01-05T03:00-05:00", "2026-01-05T09:00Z")]
)
def test_intervals_meet_readings_in_local_time_or_utc(tmp_path: Path, start: str, end: str) -> None:
    time = [datetime(2026, 1, 5, 8), datetime(2026, 1, 5, 9)]
    readings = pl.DataFrame([("a", t, 7200, 60.0, None, 0) for t in time], schema=SCHEMA, orient="row")
    weeks = cut_weeks(readings, by=2)
    file = table(tmp_path, f"id,start,end,af\na,{start},{end},1\na,2020-01-01,2020-01-02,0\n", "i.csv")
    frame = read_intervals(file, rules_for(file, {"atrial_fibrillation": "af"}), Account())
    assert attach_intervals(weeks, frame, Account(), ["a"], "i.csv").table["atrial_fibrillation"].to_list() == [1]


def test_what_is_no_finite_number_meets_no_limit(tmp_path: Path) -> None:
    account = Account()
    file = table(tmp_path, "user_id,a1c\n1,Nan\n2,INF\n3,6.6\n4,5\n")
    found = labels(file, "diabetes=a1c>=6.5", account=account)
    assert {person: row["diabetes"] for person, row in found.items()} == {"1": None, "2": None, "3": 1, "4": 0}
    assert account.count("--labels labels.csv", "noted: label not understood") == 2


def test_rows_of_nobody_are_counted(tmp_path: Path) -> None:
    account = Account()
    labels(table(tmp_path, "user_id,diabetes\n1,1\n,0\n"), account=account)
    assert account.count("--labels labels.csv", "dropped: no person") == 1
    assert account.examples["--labels labels.csv", "dropped: no person"] == ["labels.csv row 3"]


def test_intervals_that_all_end_before_they_start(tmp_path: Path) -> None:
    file = table(tmp_path, "user_id,start,end,diabetes\n1,2026-01-02 00:00:00,2026-01-01 00:00:00,1\n")
    with pytest.raises(HeartnetError, match=r"no interval is left: .* were the two columns swapped"):
        read_intervals(file, rules_for(file, {}), Account())


def test_a_column_that_is_almost_a_condition_is_not_dropped(tmp_path: Path) -> None:
    file = table(tmp_path, "user_id,diabtes,hypertension\n1,1,0\n")
    with pytest.raises(HeartnetError, match=r"'diabtes' is almost the name of a condition\. Did you mean 'diabetes'"):
        labels(file)


def test_what_exports_say_of_people_and_a_table_of_people_goes_first() -> None:
    weeks = make_weeks({"ann": [0, 1], "bob": [0, 1], "zoe": [0, 1]})
    people = {"ann": Person(born=date(1930, 1, 1), sex="female", bmi=22.5), "bob": Person(age=50.0)}
    found = attach_facts(weeks, people)
    assert found.table.select("age", "sex", "bmi").rows() == [(40.0, "female", 22.5), (50.0, None, None), (None,) * 3]
    table = pl.DataFrame({"user_id": ["ann", "bob"], "age": [41.0, None], "sex": [None, "male"]})
    account = Account()
    found = attach_people(found, table, account, ["ann", "bob", "zoe"], "--people p.csv")
    assert found.table.select("age", "sex", "bmi").rows() == [(41.0, "female", 22.5), (50.0, "male", None), (None,) * 3]
