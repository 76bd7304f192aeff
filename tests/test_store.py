"""The store gives back the weeks, appears whole or not at all, and tells when it is damaged or foreign."""

import errno
import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import heartnet.store
from heartnet.account import Account
from heartnet.errors import HeartnetError
from heartnet.store import open_store, read_manifest, verify_store, write_store
from heartnet.weeks import Weeks


def make_weeks(lengths: list[int], seed: int = 0) -> Weeks:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    readings = rng.normal(60, 9, (total, 3)).astype(np.float32)
    readings[rng.random((total, 3)) < 0.2] = np.nan
    count = len(lengths)
    table = pl.DataFrame(
        {
            "user_id": [f"p{i // 2}" for i in range(count)],
            "start": [datetime(2026, 1, 5) + timedelta(weeks=i) for i in range(count)],
            "readings": pl.Series(lengths, dtype=pl.Int64),
            "wear_hours": [100.0] * count,
            "device": pl.Series([None] * count, dtype=pl.String),
            "age": [40.5] * count,
            "sex": ["female"] * count,
            "bmi": [22.0] * count,
            "diabetes": pl.Series([i % 2 for i in range(count)], dtype=pl.Int8),
            "other": pl.Series([None] * count, dtype=pl.Int8),
        }
    )
    return Weeks(
        readings=readings,
        local_time=np.arange(total, dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        table=table,
        conditions=("diabetes", "other"),
        annotations={"asleep": rng.integers(0, 2, total).astype(np.uint8)},
        provenance={"kind": "prepared", "options": {"by": "week"}},
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    account = Account()
    account.add("weeks", "in", 3, ["here"])
    write_store(make_weeks([5, 3, 8]), tmp_path / "weeks", account=account)
    return tmp_path / "weeks"


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int) -> None:
    weeks = make_weeks(lengths, seed)
    path = tmp_path_factory.mktemp("store") / "weeks"
    write_store(weeks, path)
    found = open_store(path)
    np.testing.assert_array_equal(found.readings, weeks.readings)
    np.testing.assert_array_equal(found.local_time, weeks.local_time)
    np.testing.assert_array_equal(found.offsets, weeks.offsets)
    np.testing.assert_array_equal(found.annotations["asleep"], weeks.annotations["asleep"])
    assert found.table.equals(weeks.table)
    assert found.table.schema == weeks.table.schema
    assert (found.conditions, found.provenance) == (weeks.conditions, weeks.provenance)


def test_arrays_are_memory_mapped_and_read_only(store: Path) -> None:
    weeks = open_store(store)
    assert isinstance(weeks.readings, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        weeks.readings[0, 0] = 1


def test_the_manifest_keeps_account_and_counts(store: Path) -> None:
    manifest = read_manifest(store)
    assert manifest["counts"] == {"people": 2, "weeks": 3, "readings": 16}
    assert Account.from_json(manifest["account"]).examples["weeks", "in"] == ["here"]
    assert manifest["channels"] == ["heart_rate", "steps", "dt"]


def test_nothing_is_pickled(store: Path) -> None:
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in store.glob("*.npy")}
    assert {"readings", "local_time", "offsets"} <= set(arrays)
    assert not any(array.dtype.hasobject for array in arrays.values())


def edit_manifest(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the manifest and its checksum, as another program would write it."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("checksum")
    change(manifest)
    manifest["checksum"] = heartnet.store._sum_of(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def flip(path: Path, at: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("truncated", lambda p: os.truncate(p / "readings.npy", 200), r"readings\.npy has 200 bytes and should have 320"),
    ("gone", lambda p: (p / "offsets.npy").unlink(), r"offsets\.npy is not there"),
    ("bit in readings", lambda p: flip(p / "readings.npy"), r"readings\.npy does not match its checksum"),
    ("bit in table", lambda p: flip(p / "table.parquet", 40), r"table\.parquet does not match"),
    ("manifest cut", lambda p: os.truncate(p / "manifest.json", 99), r"not readable as JSON"),
    ("manifest binary", lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe\x00"), r"not readable as JSON"),
    ("manifest a list", lambda p: (p / "manifest.json").write_text("[]"), r"not written by heartnet"),
    ("foreign", lambda p: (p / "manifest.json").write_text('{"format": "x"}'), r"not written by heartnet"),
    ("manifest gone", lambda p: (p / "manifest.json").unlink(), r"not a folder of prepared weeks"),
    ("newer", lambda p: edit_manifest(p, lambda m: m.update(version=3)), r"has version 3 .* reads version 2"),
    (
        "edited",
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace("diabetes", "asthma")),
        r"manifest\.json was changed",
    ),
    (
        "channel order",
        lambda p: edit_manifest(p, lambda m: m.update(channels=["steps", "heart_rate", "dt"])),
        r"has the channels \['steps', 'heart_rate', 'dt'\]",
    ),
    (
        "condition order",
        lambda p: edit_manifest(p, lambda m: m.update(conditions=["other", "diabetes"])),
        r"conditions are not in canonical order",
    ),
    (
        "condition absent",
        lambda p: edit_manifest(p, lambda m: m.update(conditions=["sleep_apnea"])),
        r"no column 'sleep_apnea'",
    ),
    (
        "outside the folder",
        lambda p: edit_manifest(p, lambda m: m["files"].update({"../x.npy": {}})),  # type: ignore[attr-defined]
        r"not a file name",
    ),
    (
        "a file not listed",
        lambda p: edit_manifest(p, lambda m: m["files"].pop("local_time.npy")),  # type: ignore[attr-defined]
        r"local_time\.npy is not listed",
    ),
]


@pytest.mark.parametrize(("damage", "message"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_a_damaged_store_says_so(store: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(store)
    with pytest.raises(HeartnetError, match=message) as raised:
        open_store(store)
    assert str(store) in str(raised.value)


def test_a_missing_store(tmp_path: Path) -> None:
    with pytest.raises(HeartnetError, match=r"nowhere does not exist.*heartnet prepare"):
        open_store(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(HeartnetError, match="not a folder of prepared weeks"):
        open_store(tmp_path / "file")


def test_large_arrays_are_verified_on_demand(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartnet.store, "ALWAYS_VERIFIED_BYTES", 0)
    flip(store / "readings.npy")
    open_store(store)
    with pytest.raises(HeartnetError, match=r"readings\.npy does not match"):
        verify_store(store)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("calls", range(7))
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, calls: int, failure: BaseException
) -> None:
    real, left = os.fsync, iter(range(calls))

    def fsync(descriptor: int) -> None:
        if next(left, None) is None:
            raise failure
        real(descriptor)

    before = listing(store.parent)
    monkeypatch.setattr(os, "fsync", fsync)
    expected = HeartnetError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if isinstance(failure, OSError) else None):
        write_store(make_weeks([4]), store.parent / "new")
    with pytest.raises(expected):
        write_store(make_weeks([4]), store, overwrite=True)
    assert listing(store.parent) == before
    assert len(open_store(store)) == 3


@pytest.mark.usefixtures("interrupted_at_mkdir")
def test_an_interrupt_as_its_folder_appears_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_store(make_weeks([4]), tmp_path / "new")
    assert listing(tmp_path) == []


def test_a_full_device_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/full` takes the place of the readings: writing to it fails as on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda p, *a, **k: real(Path("/dev/full") if p.name == "readings.npy" else p, *a, **k)
    )
    with pytest.raises(HeartnetError, match=r"cannot write .*new: No space left on device\. Nothing was left behind"):
        write_store(make_weeks([9000] * 3), tmp_path / "new")
    assert listing(tmp_path) == []


def test_an_existing_folder_is_not_touched(store: Path) -> None:
    with pytest.raises(HeartnetError, match=r"exists already.*--overwrite"):
        write_store(make_weeks([4]), store)
    assert len(open_store(store)) == 3


def test_overwrite_replaces_a_store(store: Path) -> None:
    write_store(make_weeks([4]), store, overwrite=True)
    assert len(open_store(store)) == 1
    assert [path.name for path in store.parent.iterdir()] == ["weeks"]


def test_overwrite_refuses_what_is_no_store(tmp_path: Path, store: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    with pytest.raises(HeartnetError, match="not a folder of prepared weeks"):
        write_store(make_weeks([4]), thesis, overwrite=True)
    (store / "notes.txt").write_text("mine")
    with pytest.raises(HeartnetError, match=r"holds 'notes\.txt', which is no part of a store"):
        write_store(make_weeks([4]), store, overwrite=True)
    (tmp_path / "plain").write_text("x")
    with pytest.raises(HeartnetError, match="is not a folder"):
        write_store(make_weeks([4]), tmp_path / "plain", overwrite=True)


def test_an_empty_folder_is_filled_and_a_missing_parent_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_store(make_weeks([4]), tmp_path / "empty")
    assert len(open_store(tmp_path / "empty")) == 1
    with pytest.raises(HeartnetError, match=r"the folder .*absent, in which .* does not exist; create it"):
        write_store(make_weeks([4]), tmp_path / "absent" / "weeks")


def test_no_weeks_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(HeartnetError, match="no weeks to write"):
        write_store(make_weeks([]), tmp_path / "weeks")


def test_weeks_that_do_not_fit_together_are_not_written(tmp_path: Path) -> None:
    good = make_weeks([4, 5])
    bad = Weeks(good.readings, good.local_time[:-1], good.offsets, good.table, good.conditions)
    with pytest.raises(HeartnetError, match="readings and local_time differ in length"):
        write_store(bad, tmp_path / "weeks")
    wrong = good.table.with_columns(diabetes=pl.lit(2, pl.Int8))
    bad = Weeks(good.readings, good.local_time, good.offsets, wrong, good.conditions)
    with pytest.raises(HeartnetError, match="labels of 'diabetes' are not 1, 0 or missing"):
        write_store(bad, tmp_path / "weeks")
    assert listing(tmp_path) == []
