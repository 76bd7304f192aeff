"""PhysioNet records: beats and rhythms as written come back, and broken files cost one record and are counted."""

import argparse
import csv
import gzip
import random
import socket
import zipfile
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.cli import main
from heartnet.errors import HeartnetError
from heartnet.intake import Intake
from heartnet.sources import wfdb as source
from heartnet.store import open_store

wfdb = pytest.importorskip("wfdb")
pytestmark = pytest.mark.filterwarnings(
    "ignore:The inplace keyword"
)  # wrann, which only the tests call, under pandas 3

AFDB = Path(__file__).parents[1] / ".." / "shared" / "data" / "afdb"
START = datetime(1970, 1, 1)
BEATS = ["N", "V", "A", "Q", "/"]
OTHERS = ["+", "~", "|", '"', "x"]


def read(*words: str | Path, intake: Intake | None = None, **options: object) -> Intake:
    """Read as the command line would; options as in `arguments`."""
    parser = argparse.ArgumentParser()
    source.add_arguments(parser)
    arguments = parser.parse_args([str(word) for word in words])
    vars(arguments).update({"condition": [], "labels": None, "label_intervals": None, **options})
    intake = intake or Intake(Account())
    source.read(arguments, intake)
    return intake


def write(
    folder: Path,
    name: str,
    beats: list[int],
    rhythms: list[tuple[int, str]] | None = None,
    header: str = "0 250 9205760",
    symbols: list[str] | None = None,
) -> None:
    """Write a record of header, beats (`.qrs`) and rhythms (`.atr`), at samples, through the package."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.hea").write_text(f"# made for a test\n{name} {header}\n")
    wfdb.wrann(name, "qrs", np.array(beats), symbols or ["N"] * len(beats), fs=250, write_dir=str(folder))
    if rhythms is not None:
        at, notes = zip(*rhythms, strict=True)
        wfdb.wrann(name, "atr", np.array(at), ["+"] * len(at), aux_note=[f"({n}" for n in notes], write_dir=str(folder))


def word(code: int, value: int) -> bytes:
    """Return one word of an annotation file, as annot(5) has it: six bits of code, ten of value."""
    return (code << 10 | value & 0x3FF).to_bytes(2, "little")


def counted(intake: Intake) -> int:
    """Return how many rows should be left, by the account."""
    account = intake.account
    dropped = sum(n for stage, what, n in account if stage == "rows" and what.startswith(("dropped", "merged")))
    return account.count("rows", "in") - dropped


def test_the_records_of_afdb_come_back_beat_by_beat(tmp_path: Path) -> None:
    if not AFDB.is_dir():
        pytest.skip(f"the recordings of afdb are not at {AFDB}")
    beats: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with gzip.open(AFDB / "heart_rate.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            beats[row["user_id"]].append((row["seconds"], row["heart_rate"]))
    rhythms: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    with (AFDB / "rhythms.csv").open() as file:
        for row in csv.DictReader(file):
            rhythms[row["user_id"]].append((float(row["start_seconds"]), float(row["end_seconds"]), row["rhythm"]))
    for user, rows in beats.items():
        # the table's first heart rate is measured from sample 0, as if a beat were there
        samples = [0, *(round(float(seconds) * 250) for seconds, _ in rows)]
        write(tmp_path, user[3:], samples, [(round(start * 250), name) for start, _, name in rhythms[user]])
    intake = read(tmp_path)
    readings = intake.all_readings().with_columns(pl.col("time").dt.timestamp("us"))
    (labels,) = intake.all_labels()
    assert set(readings["user_id"]) == set(beats)
    for user, rows in beats.items():
        own = readings.filter(pl.col("user_id") == user)
        assert [f"{time / 1e6:.3f}" for time in own["time"]] == [f"{float(seconds):.3f}" for seconds, _ in rows]
        expected = np.array([float(rate) for _, rate in rows])
        np.testing.assert_allclose(own["heart_rate"].to_numpy(), expected, atol=0.0051)
        spans = labels.filter(pl.col("user_id") == user)
        found = spans.select(pl.col("start", "end").dt.timestamp("ms"), "atrial_fibrillation").rows()
        expected_spans = [
            (round(1e3 * start), round(1e3 * end), int(name == "AFIB")) for start, end, name in rhythms[user]
        ]
        assert found == expected_spans
    assert intake.account.count("records", "left") == 17
    assert counted(intake) == readings.height == sum(map(len, beats.values()))
    store = str(tmp_path / "weeks")
    assert main(["prepare", "wfdb", *map(str, tmp_path.glob("*.hea")), "--by", "512", "--out", store]) == 0
    label = open_store(store).table["atrial_fibrillation"]
    assert (len(label), label.sum(), label.null_count()) == (1600, 750, 0)  # as the README has it of the table


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.sampled_from(BEATS + OTHERS)), min_size=2, max_size=60),
    st.sampled_from([100.0, 128.0, 250.0, 360.5]),
)
def test_beats_against_a_plain_loop(annotations: list[tuple[int, str]], rate: float) -> None:
    samples = list(np.cumsum([step for step, _ in annotations]))
    symbols = [symbol for _, symbol in annotations]
    if not any(symbol in BEATS for symbol in symbols):
        symbols[0] = "N"
    expected = []
    before = None
    for number, (sample, symbol) in enumerate(zip(samples, symbols, strict=True), 1):
        if symbol in BEATS:
            if before is not None:
                expected.append((float(sample) / rate, 60 * rate / float(sample - before), number))
            before = sample
    with TemporaryDirectory() as folder:
        (Path(folder) / "s1.hea").write_text(f"s1 0 {rate}\n")
        wfdb.wrann("s1", "qrs", np.array(samples), symbols, write_dir=folder)
        intake = read(folder)
    frame = intake.all_readings()
    assert frame["row"].to_list() == [row for _, _, row in expected]
    np.testing.assert_allclose(frame["heart_rate"].to_numpy(), [bpm for _, bpm, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(frame["time"].dt.timestamp("us"), [1e6 * s for s, _, _ in expected], atol=0.6)
    assert intake.account.count("rows", "in") == sum(symbol in BEATS for symbol in symbols)
    assert counted(intake) == frame.height
    assert set(frame["user_id"]) <= {"s1"}


def test_annotations_written_by_hand(tmp_path: Path) -> None:
    skip = word(59, 0) + (1).to_bytes(2, "little") + (4464).to_bytes(2, "little")  # 65,536 + 4,464 = 70,000 samples
    note = word(28, 5) + word(63, 5) + b"(AFIB\0"
    beats = word(1, 100) + word(5, 250) + word(14, 10) + skip + word(1, 500) + word(0, 0)
    (tmp_path / "a.qrs").write_bytes(beats)
    (tmp_path / "a.atr").write_bytes(note + word(0, 0))
    (tmp_path / "a.hea").write_text("a 2 250 100000 11:30:00.5 24/12/2019\na.dat 212 200 12 0 0 0 0 ECG1\n")
    intake = read(tmp_path)
    start = datetime(2019, 12, 24, 11, 30, 0, 500_000)
    at = [start + timedelta(seconds=seconds) for seconds in (350 / 250, 70_860 / 250)]
    assert intake.all_readings().select("time", "row", "instant").rows() == [(at[0], 2, False), (at[1], 4, False)]
    np.testing.assert_allclose(intake.all_readings()["heart_rate"], [60.0, 60 * 250 / 70_510], rtol=1e-6)
    (labels,) = intake.all_labels()
    expected = [("a", start + timedelta(seconds=0.02), at[1], False, 1)]
    assert labels.select("user_id", "start", "end", "instant", "atrial_fibrillation").rows() == expected
    assert intake.account.count("rows", "noted: annotations that are not beats") == 1
    zoned = read(tmp_path, intake=Intake(Account(), zone="Europe/Berlin")).all_readings()
    assert zoned.select("time", "utc_offset", "instant").row(0) == (at[0] - timedelta(hours=1), 3600, True)


@pytest.mark.parametrize(
    ("header", "start"),
    [
        ("0 250", START),
        ("2 250 9205760 8:05:30", START + timedelta(hours=8, minutes=5, seconds=30)),
        ("0 250 0 10:00:00 1/2/2101", datetime(2101, 2, 1, 10)),
        ("0 250 9205760 99:00:00", START),
        ("0 250 9205760 10:00:00 31/02/2001", START),
    ],
)
def test_the_start_of_a_record(tmp_path: Path, header: str, start: datetime) -> None:
    write(tmp_path, "r", [250, 500], header=header)
    intake = read(tmp_path)
    assert intake.all_readings()["time"].to_list() == [start + timedelta(seconds=2)]
    unreadable = intake.account.count("records", "noted: start that cannot be read, taken as 1970-01-01")
    assert unreadable == ("99" in header or "31/02" in header)


def test_annotations_may_have_a_clock_of_their_own(tmp_path: Path) -> None:
    note = b"## time resolution: 500\0"
    text = word(22, 0) + word(63, len(note)) + note
    (tmp_path / "a.qrs").write_bytes(text + word(1, 500) + word(1, 500) + word(0, 0))
    (tmp_path / "a.hea").write_text("a 0 250 1000\n")
    assert read(tmp_path).all_readings()["heart_rate"].to_list() == [60]


def test_conditions_choose_rhythms(tmp_path: Path) -> None:
    write(tmp_path, "1", [0, 2500], [(0, "N"), (250, "AFIB"), (500, "AFL"), (750, "J")])

    def labels(*conditions: str) -> dict[str, list[int]]:
        (frame,) = read(tmp_path, condition=list(conditions)).all_labels()
        assert frame.width == 4 + max(len(conditions), 1)
        return {name: frame[name].to_list() for name in frame.columns[4:]}

    assert labels() == {"atrial_fibrillation": [0, 1, 0, 0]}
    assert labels("atrial_fibrillation=AFIB|AFL") == {"atrial_fibrillation": [0, 1, 1, 0]}
    assert labels("atrial_flutter=AFL", "junctional=(J") == {"atrial_flutter": [0, 0, 1, 0], "junctional": [0, 0, 0, 1]}
    with pytest.raises(HeartnetError, match=r"no rhythm is called 'AFIBB'; there are AFIB, AFL, J, N. Did you mean"):
        labels("atrial_fibrillation=AFIBB")
    with pytest.raises(HeartnetError, match="expected NAME=COL"):
        labels("AFIB")
    write(tmp_path / "none", "1", [0, 2500])
    with pytest.raises(HeartnetError, match="no record has rhythms of annotator atr"):
        read(tmp_path / "none", condition=["atrial_fibrillation=AFIB"])
    without = read(tmp_path / "none")
    assert without.all_labels() == []
    assert without.account.count("records", "noted: no rhythms, so no labels") == 1
    table = read(tmp_path / "1.hea", labels=Path("people.csv"), condition=["diabetes=a1c"])
    assert table.all_labels() == []
    assert table.account.count("rhythms", "noted: no labels, as a table gives them") == 4


def test_a_record_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "afdb"
    write(folder, "04015", [0, 250, 500], [(0, "N")])
    write(folder, "04043", [0, 250, 500], [(0, "AFIB")])
    (folder / "04015.dat").write_bytes(b"\xff" * 1000)
    archive = tmp_path / "afdb.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"files/{path.name}")
    told: list[str] = []
    watched = Intake(Account(), progress=lambda what, _: told.append(what))
    both = read(folder, intake=watched).all_readings().drop("file")
    assert both["user_id"].unique(maintain_order=True).to_list() == ["rec04015", "rec04043"]
    assert read(archive).all_readings().drop("file").equals(both)
    assert len(told) == 6
    assert not any("dat" in name for name in told)
    for one in (folder / "04015.hea", folder / "04015.qrs", folder / "04015"):
        assert read(one).all_readings()["user_id"].unique().to_list() == ["rec04015"]
    assert read(*folder.iterdir(), folder).all_readings().height == both.height
    named = read(folder, intake=Intake(Account(), user_from_filename=r"(\d+)$")).all_readings()
    assert named["user_id"].unique(maintain_order=True).to_list() == ["04015", "04043"]


def test_a_folder_without_records_is_named_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "wfdb", ".", "--out", "w"]) == 2
    assert "heartnet: .: no record there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_beats_of_the_annotator_that_is_wanted(tmp_path: Path) -> None:
    write(tmp_path, "1", [0, 250, 500])
    wfdb.wrann("1", "qrsc", np.array([0, 250, 500, 750]), ["N"] * 4, write_dir=str(tmp_path))
    write(tmp_path, "2", [0, 250])
    assert read(tmp_path).all_readings().height == 3
    assert read(tmp_path, "--beats", "qrsc,qrs").all_readings().height == 4
    only = read(tmp_path, "--beats", "qrsc")
    assert only.all_readings().height == 3
    assert only.account.count("records", "dropped: no beats of annotator qrsc") == 1
    assert only.account.examples["records", "dropped: no beats of annotator qrsc"] == [
        f"{tmp_path.name}/2: annotators qrs"
    ]
    with pytest.raises(HeartnetError, match=r"--beats qrx: no record has .* there are qrs, qrsc. Did you mean 'qrs'"):
        read(tmp_path, "--beats", "qrx")
    with pytest.raises(HeartnetError, match="expected names of annotators"):
        read(tmp_path, "--beats", "../qrs")


def test_records_of_one_person_need_dates(tmp_path: Path) -> None:
    write(tmp_path, "1", [0, 250])
    write(tmp_path, "2", [0, 250])
    with pytest.raises(HeartnetError, match=r"/1 and .*/2 are both of 'Ann' and neither header has a date"):
        read(tmp_path, intake=Intake(Account(), user="Ann"))
    write(tmp_path, "1", [0, 250], header="0 250 0 10:00:00 1/2/2001")
    write(tmp_path, "2", [0, 250], header="0 250 0 10:00:00 2/2/2001")
    assert read(tmp_path, intake=Intake(Account(), user="Ann")).all_readings().height == 2


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        ({"hea": None}, "no header"),
        ({"hea": b""}, "header that cannot be read"),
        ({"hea": b"1" * 100_000}, "header that cannot be read"),
        ({"hea": b"r 0 0.001\n"}, "sampling frequency that cannot be"),
        ({"hea": b"r 0 " + b"9" * 400 + b"\n"}, "sampling frequency that cannot be"),
        ({"qrs": b""}, "annotation file broken or cut off"),
        ({"qrs": word(1, 10) * 20}, "annotation file broken or cut off"),
        ({"qrs": word(1, 10) * 20 + b"\0"}, "annotation file broken or cut off"),
        ({"qrs": word(1, 10) + word(63, 200) + word(0, 0)}, "annotation file broken or cut off"),
        ({"qrs": word(14, 10) * 20 + word(0, 0)}, "no beat in the annotations"),
        ({"qrs": word(1, 10) * (1 << 21) + word(0, 0)}, "file of more than 4 MiB"),
        ({"atr": b"odd"}, "annotation file broken or cut off"),
    ],
)
def test_a_broken_record_costs_one_record(tmp_path: Path, spoil: dict[str, bytes | None], what: str) -> None:
    write(tmp_path, "good", [0, 250, 500], [(0, "AFIB")])
    for ending, data in {"hea": b"r 0 250\n", "qrs": word(1, 10) * 20 + word(0, 0), **spoil}.items():
        if data is not None:
            (tmp_path / f"bad.{ending}").write_bytes(data)
    intake = read(tmp_path)
    assert intake.all_readings()["user_id"].unique().to_list() == ["good"]
    assert intake.account.count("records", f"dropped: {what}") == 1
    assert "bad" in intake.account.examples["records", f"dropped: {what}"][0]
    assert (intake.account.count("records", "in"), intake.account.count("records", "left")) == (2, 1)
    with pytest.raises(HeartnetError, match=what):
        read(tmp_path / "bad.qrs")
    with pytest.raises(HeartnetError, match=what):
        read(tmp_path, intake=Intake(Account(strict=True)))


def test_beats_that_cannot_be_are_counted(tmp_path: Path) -> None:
    back = word(59, 0) + (0xFFFF).to_bytes(2, "little") + (0xFF00).to_bytes(2, "little")  # 256 samples back
    beats = word(1, 250) + word(1, 250) + word(1, 0) + back + word(1, 0) + word(1, 150) + word(1, 356) + word(1, 1000)
    (tmp_path / "a.hea").write_text("a 0 250 1000\n")
    (tmp_path / "a.qrs").write_bytes(beats + word(0, 0))  # at 250, 500, 500, 244, 394, 750, 1750
    intake = read(tmp_path)
    assert intake.all_readings()["heart_rate"].to_list() == [60, 60]
    assert intake.account.count("rows", "in") == 7
    assert intake.account.count("rows", "dropped: beat not after the beat before it") == 3
    assert intake.account.count("rows", "dropped: beat outside the record") == 1
    places = intake.account.examples["rows", "dropped: beat outside the record"]
    assert places == [f"{tmp_path.name}/a.qrs row 7: beat at 7 s"]
    assert counted(intake) == 2


def test_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, "04015", [0, 250])
    with pytest.raises(
        HeartnetError, match=r"0415.hea: no such file, and no file of a record of that name. Did you mean '04015"
    ):
        read(tmp_path / "0415.hea")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeartnetError, match="empty: no record there; expected files such as"):
        read(tmp_path / "empty")


def test_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write(tmp_path, "04015", [0, 250, 500])
    (tmp_path / "04016.qrs").write_bytes(word(1, 10) * 3 + word(0, 0))
    assert read(tmp_path).all_readings().height == 2
    with pytest.raises(HeartnetError, match="no such file"):
        read("https://physionet.org/files/afdb/04015")


def test_bytes_at_random_give_a_message_or_a_count(tmp_path: Path) -> None:
    chance = random.Random(3)
    steps = [chance.randint(50, 400) for _ in range(100)]
    write(tmp_path, "r", list(np.cumsum(steps)), [(30, "N"), (5000, "AFIB")], header="2 250 9205760 8:05:30 1/2/2001")
    files = {ending: (tmp_path / f"r.{ending}").read_bytes() for ending in ("hea", "qrs", "atr")}
    messages = 0
    for _ in range(400):
        for ending, data in files.items():
            bytes_ = bytearray(data)
            for _ in range(chance.choice([0, 1, 1, 5, 40])):
                bytes_[chance.randrange(len(bytes_))] = chance.randrange(256)
            if chance.random() < 0.1:
                del bytes_[chance.randrange(len(bytes_)) :]
            (tmp_path / f"r.{ending}").write_bytes(bytes_)
        try:
            intake = read(tmp_path)
        except HeartnetError:
            messages += 1
        else:
            frame = intake.all_readings()
            assert counted(intake) == frame.height
            assert frame["heart_rate"].is_finite().all()
            assert (frame["heart_rate"] > 0).all()
            for labels in intake.all_labels():
                assert (labels["start"] < labels["end"]).all()
    assert 20 < messages < 380
