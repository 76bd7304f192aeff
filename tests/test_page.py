"""The page of a store: its pictures and counts against plain loops, and nothing in it that runs or loads."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.page import DRAWN, MARK, MOST_DRAWN, choose, page, write_page
from heartnet.page import histograms as drawing
from heartnet.page.histograms import HEIGHT, distributions, sampled_weeks
from heartnet.page.histograms import WIDTH as HISTOGRAM_WIDTH
from heartnet.page.weeks import RATE_HEIGHT, STEPS_HEIGHT, WIDTH, common_scale, week_picture
from heartnet.simulate import simulate
from heartnet.weeks import UNKNOWN, WEAR_GAP_SECONDS, Weeks

MakeWeeks = Callable[..., Weeks]
VILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}‮"
VOID = {"meta", "rect", "path", "br", "link", "img", "input"}


class Reader(HTMLParser):
    """Collects what a browser would make of a page: elements, attributes, text, and whether all is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def cohort() -> Weeks:
    return simulate(12, 2, 3)


def numbers(path: str) -> list[list[float]]:
    """Return the numbers of each piece of a path that begins with M."""
    return [[float(n) for n in re.findall(r"-?[\d.]+", piece)] for piece in path.split("M")[1:]]


def check_safe(text: str) -> Reader:
    """Assert that a page is whole, and that nothing in it runs or comes from elsewhere."""
    reader = Reader(text)
    assert reader.open == []
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "use"}
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action")
            if name == "href":
                assert value is not None
                assert value.startswith("#")
                assert value[1:] in ids
            if name in ("aria-labelledby", "aria-describedby"):
                assert set(str(value).split()) <= set(ids)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attributes in reader.elements:
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan\w*", "", text.lower())
    return reader


def test_a_simulated_store(cohort: Weeks) -> None:
    text = page(cohort, Account(), "cohort")
    reader = check_safe(text)
    assert "Simulated." in reader.text
    assert "nobody lived them" in reader.text
    assert "There is none: these weeks were not prepared from files." in reader.text
    assert len(text) < 500_000
    pictures = [attributes for tag, attributes in reader.elements if attributes.get("class") == "picture"]
    assert len(pictures) == DRAWN
    for condition in cohort.conditions:
        assert condition.replace("_", " ") in reader.text


def test_nothing_that_a_file_says_is_run(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=1, weeks_each=1)
    table = weeks.table.with_columns(pl.lit(VILE).alias("user_id"), pl.lit(VILE).alias("device"))
    account = Account()
    account.add(VILE, "in", 3)
    account.add(VILE, f"dropped: {VILE}", 2, [VILE, VILE])
    weeks = replace(
        weeks,
        table=table.rename({"diabetes": VILE}),
        conditions=("sleep_apnea", VILE),
        annotations={VILE: np.ones(len(weeks.readings), np.uint8)},
        provenance={"kind": VILE, "files": [{"name": VILE, "bytes": 3, "sha256": VILE}, VILE], VILE: {VILE: [VILE]}},
    )
    text = page(weeks, account, VILE)
    reader = check_safe(text)
    assert "<script" not in text
    assert "49" not in reader.text.replace("{{ 7*7 }}", "")
    assert reader.text.count("<script>alert(1)</script>") >= 10


def test_the_account_is_there_in_full(make_weeks: MakeWeeks) -> None:
    account = Account()
    account.add("rows", "in", 1_234_567)
    account.bad("rows", "dropped: not a number", 17, ["hr.csv row 4: 'x'", "hr.csv row 9: 'y'", "hr.csv row 10: 'z'"])
    account.add("rows", "left", 1_234_550)
    text = page(make_weeks(), account, "weeks")
    reader = check_safe(text)
    for expected in ("1,234,567", "dropped: not a number", "hr.csv row 4: 'x'", "hr.csv row 10: 'z'", "1,234,550"):
        assert expected in reader.text
    assert "Simulated" not in reader.text


def test_sources_and_options(make_weeks: MakeWeeks) -> None:
    file = {"name": "hr.csv", "bytes": 12_345, "sha256": "c8cb1a6c"}
    other = {"name": "export.zip", "bytes": 7, "sha256": None}
    sources = [
        {"source": "table", "options": {"time": "When", "kind": [], "user": None}, "files": [file]},
        {"source": "apple-health", "options": {"user": "ann"}, "files": [other], "columns": [{"file": "a", "b": "c"}]},
    ]
    told = {"kind": "prepared", "heartnet": "0.1.0", "options": {"by": "week", "strict": False}, "sources": sources}
    text = page(replace(make_weeks(), provenance=told), Account(), "weeks")
    check_safe(text)
    last = text[text.index('id="sources"') :]
    rows = [re.sub(r"<[^>]+>", "|", row) for row in last.split("<tr>")[1:]]
    found = [[cell.strip() for cell in row.split("|") if cell.strip()] for row in rows]
    assert found == [
        ["file", "bytes", "SHA-256"], ["hr.csv", "12,345", "c8cb1a6c"], ["export.zip", "7"], ["kind", "prepared"],
        ["heartnet", "0.1.0"], ["by", "week"], ["source", "table"], ["table · time", "When"],
        ["source", "apple-health"], ["apple-health · user", "ann"],
        ["apple-health · columns", "file a, b c", *found[-1][2:]],
    ]  # fmt: skip


def test_labels_by_week_and_by_person(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=9, weeks_each=3, missing=0.4, seed=5)
    text = page(weeks, Account(), "weeks")
    for condition in weeks.conditions:
        by_person: dict[str, set[int | None]] = defaultdict(set)
        for user, value in weeks.table.select("user_id", condition).rows():
            by_person[user].add(value)
        each = Counter(weeks.table[condition].to_list())
        people = Counter(1 if 1 in found else 0 if 0 in found else None for found in by_person.values())
        row = text[text.index(f'<tr><th scope="row">{condition.replace("_", " ")}') :].partition("</tr>")[0]
        cells = [int(n) for n in re.findall(r'<td class="number">(\d+)', row)]
        assert cells == [each[1], each[0], each[None], people[1], people[0], people[None]]


def test_wear_steps_and_rates_of_a_picture(cohort: Weeks) -> None:
    scale = common_scale(cohort, range(len(cohort)))
    for row in range(len(cohort)):
        picture = week_picture(cohort, row, scale)
        assert picture.calendar
        assert picture.outside == 0
        lanes = {lane.name: lane for lane in picture.lanes}
        hours = sum(piece[2] for piece in numbers(lanes["worn"].path)) * 168 / WIDTH
        assert hours == pytest.approx(cohort.table["wear_hours"][row], abs=0.2 + 0.1 * len(numbers(lanes["worn"].path)))
        readings = cohort.week(row).astype(np.float64)
        local = cohort.local_time[cohort.offsets[row] : cohort.offsets[row + 1]]
        since = local - np.datetime64(cohort.table["start"][row], "us").astype(np.int64)
        columns: dict[int, list[float]] = defaultdict(list)
        bars: dict[int, float] = defaultdict(float)
        for time, (rate, steps, _) in zip(since.tolist(), readings.tolist(), strict=True):
            if not np.isnan(rate):
                columns[min(time * WIDTH // (7 * 86_400_000_000), WIDTH - 1)].append(rate)
            if not np.isnan(steps):
                bars[max(time - 1, 0) // 1_800_000_000] += steps
        points = [pair for piece in re.findall(r"[ML](\d+) (-?\d+)", picture.line) for pair in [tuple(map(int, piece))]]
        assert [x for x, _ in points] == sorted(columns)
        for x, y in points:
            ordered = sorted(columns[x])
            middle = min(max(ordered[len(ordered) // 2], scale.low), scale.high)
            assert y == pytest.approx(RATE_HEIGHT * (scale.high - middle) / (scale.high - scale.low), abs=0.51)
        drawn = {round(piece[0] / (WIDTH / 336)): -piece[2] for piece in numbers(picture.steps)}
        for stretch, steps in bars.items():
            expected = STEPS_HEIGHT * min(steps / scale.steps, 1)
            assert drawn.get(stretch, 0) == pytest.approx(expected, abs=0.06)
        assert median(readings[~np.isnan(readings[:, 0]), 0]) > scale.low


def test_bands_of_sleep(cohort: Weeks) -> None:
    scale = common_scale(cohort, [0])
    asleep = np.zeros(len(cohort.readings), np.uint8)
    asleep[100:400] = 1
    known = replace(cohort, annotations={"asleep": asleep, "in_workout": np.full_like(asleep, UNKNOWN)})
    worn, sleep, workout = week_picture(known, 0, scale).lanes
    assert (worn.note, sleep.note, workout.note) == ("", "", "not recorded")
    assert workout.path == ""
    dt = cohort.week(0)[101:400, 2].astype(np.float64)
    hours = dt[dt <= WEAR_GAP_SECONDS].sum() / 3600
    pieces = numbers(sleep.path)
    assert sum(piece[2] for piece in pieces) * 168 / WIDTH == pytest.approx(hours, abs=0.1 + 0.1 * len(pieces))
    assert [lane.name for lane in week_picture(replace(cohort, annotations={}), 0, scale).lanes] == ["worn"]


def test_histograms_against_loops(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=20, missing=0.2)
    gaps, rates, readings, wear = distributions(weeks)
    dt = [float(x) for x in weeks.readings[:, 2] if not np.isnan(x)]
    longer = [x for x in dt if x > 1800]
    assert f"{len(longer) / len(dt):.2%} of the gaps are longer than 30 minutes" in gaps.note
    assert f"they hold {sum(longer) / sum(dt):.0%} of the time" in gaps.note
    assert gaps.mark is not None
    assert gaps.mark[1] == "30 min"
    assert gaps.ticks[[label for _, label in gaps.ticks].index("10 min")][0] < gaps.mark[0]
    heights = np.array([-piece[2] for piece in numbers(gaps.bars)])
    counts = Counter(np.floor(np.log10(np.array(dt)) * 8).astype(int).tolist())
    shares = np.array([count / len(dt) for _, count in sorted(counts.items())])
    np.testing.assert_allclose(heights, np.maximum(shares / gaps.most * HEIGHT, 0.8), atol=0.06)
    known = weeks.readings[~np.isnan(weeks.readings[:, 0]), 0]
    assert f"Median {np.median(known):.0f} bpm" in rates.note
    lengths = weeks.table["readings"]
    assert f"Median {lengths.median():,.0f}, from {lengths.min():,} to {lengths.max():,}." in readings.note
    assert readings.mark is None
    assert wear.title == "Worn, hours a week"
    for each in (gaps, rates, readings, wear):
        assert all(-1 <= x <= HISTOGRAM_WIDTH + 1 for x, _ in each.ticks)
        assert len(each.ticks) >= 3


def test_large_stores_are_sampled(make_weeks: MakeWeeks, monkeypatch: pytest.MonkeyPatch) -> None:
    weeks = make_weeks(users=50, weeks_each=4)
    assert sampled_weeks(weeks).tolist() == list(range(200))
    monkeypatch.setattr(drawing, "MOST_READINGS", len(weeks.readings) // 10)
    rows = sampled_weeks(weeks)
    assert 19 <= len(rows) <= 21
    assert (rows[0], rows[-1]) == (0, 199)
    assert np.ptp(np.diff(rows)) <= 1
    assert f"(of {len(rows)} evenly spaced weeks)" in page(weeks, Account(), "weeks")


def test_which_weeks_are_drawn(make_weeks: MakeWeeks) -> None:
    many = make_weeks(users=30, weeks_each=2)
    rows, how = choose(many, [], [])
    assert len(set(rows)) == DRAWN
    assert all(row % 2 == 0 for row in rows)
    wear = many.table["wear_hours"].gather(rows).to_list()
    firsts = many.table["wear_hours"].gather(range(0, 60, 2))
    assert wear == sorted(wear)
    assert (wear[0], wear[-1]) == (firsts.min(), firsts.max())
    assert how == "The first week of 8 of 30 people: evenly spaced from least to most worn."
    one = make_weeks(users=1, weeks_each=20)
    assert choose(one, [], [])[0] == [0, 3, 5, 8, 11, 14, 16, 19]
    assert choose(make_weeks(users=3, weeks_each=2), [], [])[0] == list(range(6))
    assert choose(make_weeks(users=3, weeks_each=9), [], [])[0] == [0, 8, 9, 17, 18, 26]
    assert choose(many, [7, 3, 7], ["user-01"])[0] == [7, 3, 2]
    rows, how = choose(make_weeks(users=2, weeks_each=70), [], ["user-00"])
    assert rows == list(range(MOST_DRAWN))
    assert how == "The first 52 of the 70 weeks asked for."
    for words, message in (
        (([60], []), r"--week 60: the store has weeks 0 to 59"),
        (([-1], []), r"--week -1"),
        (([], ["user-0"]), r"--user user-0: not in the store. Did you mean 'user-"),
    ):
        with pytest.raises(HeartnetError, match=message):
            choose(many, *words)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
    seconds=st.sampled_from([1e-6, 1.0, 3600.0, 1e5, 1e8]),
    year=st.sampled_from([1, 1969, 2024, 9990]),
    calendar=st.booleans(),
)
def test_any_weeks_can_be_drawn(
    seed: int, sizes: list[int], missing: float, seconds: float, year: int, calendar: bool
) -> None:
    """One reading, no heart rates, no steps, clocks that jump, runs of a second or of years, early and late dates."""
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    readings = np.abs(rng.normal(0, 300, (total, 3))).astype(np.float32)
    readings[rng.random((total, 3)) < missing] = np.nan
    start = datetime(year, 5, 1)
    start -= timedelta(days=start.weekday() if calendar else 0.3)
    first = int((start - datetime(1970, 1, 1)) / timedelta(microseconds=1))
    # Times within the years that there are.
    jumps = rng.uniform(-0.05, 1, total) * min(seconds, 3e7 if year in (1, 9990) else 1e9) * 1e6
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    count = len(sizes)
    table = pl.DataFrame(
        {
            "user_id": [f"u{i}" for i in range(count)],
            "start": pl.Series([start] * count, dtype=pl.Datetime("us")),
            "readings": sizes,
            "wear_hours": rng.uniform(0, 200, count) * rng.integers(0, 2, count),
            "device": pl.Series([None] * count, dtype=pl.String),
            "age": pl.Series([None] * count, dtype=pl.Float64),
            "sex": pl.Series([None] * count, dtype=pl.String),
            "bmi": pl.Series([None] * count, dtype=pl.Float64),
        }
    )
    annotations = {"asleep": rng.choice(np.array([0, 1, UNKNOWN], np.uint8), total)}
    weeks = Weeks(readings, first + jumps.astype(np.int64), offsets, table, (), annotations)
    reader = check_safe(page(weeks, Account(), "any"))
    assert "These weeks have no labels." in reader.text
    assert "Nothing is known of where these weeks come from." in reader.text


def test_runs_have_an_axis_of_their_own(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=3, weeks_each=1)
    table = weeks.table.with_columns(pl.col("start") + timedelta(hours=5))
    local = weeks.local_time + 5 * 3_600_000_000
    picture = week_picture(replace(weeks, table=table, local_time=local), 1, common_scale(weeks, [1]))
    assert not picture.calendar
    assert 2 <= len(picture.ticks) <= 10
    assert all(re.fullmatch(r"\d\d:\d\d", label) for _, _, label in picture.ticks)
    labels = [datetime.strptime(label, "%H:%M") for _, _, label in picture.ticks]
    places = [at for at, _, _ in picture.ticks]
    step = labels[1] - labels[0]
    first, last = (datetime(1970, 1, 1) + timedelta(microseconds=int(t)) for t in local[weeks.offsets[[1, 2]] - [0, 1]])
    assert places[1] - places[0] == pytest.approx(step / (last - first) * WIDTH)


def test_a_run_with_a_clock_that_was_reset(make_weeks: MakeWeeks) -> None:
    weeks = make_weeks(users=1, weeks_each=1)
    for day in (datetime(1900, 1, 1), datetime(1970, 1, 1), datetime(2299, 12, 1)):
        local = weeks.local_time.copy()
        local[0] = (day - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        table = weeks.table.with_columns(start=pl.lit(day + timedelta(hours=1)))
        odd = replace(weeks, local_time=local, table=table)
        assert len(week_picture(odd, 0, common_scale(odd, [0])).ticks) >= 1


def test_pages_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "weeks.html"
    text = f"<!doctype html>\n{MARK}\n\ud800 done"
    write_page(place, text)
    assert place.read_text(encoding="utf-8").endswith("? done")
    write_page(place, text + " again")
    assert place.read_text(encoding="utf-8").endswith("again")
    theirs = tmp_path / "theirs.html"
    theirs.write_text("<!doctype html><p>mine")
    with pytest.raises(HeartnetError, match="exists and is no page of heartnet"):
        write_page(theirs, text)
    assert theirs.read_text() == "<!doctype html><p>mine"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HeartnetError, match="No space left on device; --page FILE puts it elsewhere"):
        write_page(place, text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.html", "weeks.html"]
