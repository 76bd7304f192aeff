"""Archives, folders and files of exports: what is listed, what is refused, and that bad bytes give a clear message."""

import csv
import io
import os
import random
import struct
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartnet.errors import HeartnetError
from heartnet.sources import archives
from heartnet.sources.archives import Member, members


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def contents(found: list[Member]) -> dict[str, bytes]:
    return {member.name: member.open().read() for member in found}


FILES = {"a/export.xml": b"<x/>" * 5000, "a/b/é.json": b"[]", "c.csv": b"time,bpm\n1,2\n"}


def test_a_zip_a_folder_and_a_file_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "export.zip", FILES)
    folder = tmp_path / "folder"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    assert contents(list(members(archive))) == FILES
    assert contents(list(members(folder))) == FILES
    assert contents(list(members(folder / "c.csv"))) == {"c.csv": FILES["c.csv"]}
    assert [member.name for member in members(archive, lambda name: name.endswith(".csv"))] == ["c.csv"]
    assert [member.name for member in members(folder / "c.csv", lambda name: name.endswith(".xml"))] == []
    assert [member.full_name for member in members(folder)] == [
        "folder/c.csv",
        "folder/a/export.xml",
        "folder/a/b/é.json",
    ]
    assert [member.full_name for member in members(folder / "c.csv")] == ["c.csv"]
    monkeypatch.chdir(folder)
    assert next(members(Path("."))).full_name == "folder/c.csv"
    xml = next(members(archive, lambda name: name.endswith("xml")))
    assert (xml.full_name, xml.length) == ("export.zip/a/export.xml", 20_000)
    assert xml.size < 200


def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "export.zip", FILES).rename(tmp_path / "export.bin")
    assert contents(list(members(archive))) == FILES


def test_streams_serve_text_readers_and_pieces(tmp_path: Path) -> None:
    member = next(members(make_zip(tmp_path / "t.zip", {"t.csv": b"a,b\r\n1,2\r\n3,4\r\n"})))
    with member.open() as stream:
        assert list(csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""))) == [["a", "b"], ["1", "2"], ["3", "4"]]
    with member.open() as stream:
        assert [stream.read(4), stream.read1(1), stream.readline(), stream.read()] == [
            b"a,b\r",
            b"\n",
            b"1,2\r\n",
            b"3,4\r\n",
        ]


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(HeartnetError, match=r"nothing\.zip cannot be read: No such file"):
        members(tmp_path / "nothing.zip")
    (tmp_path / "empty.zip").touch()
    with pytest.raises(HeartnetError, match=r"empty\.zip is empty"):
        members(tmp_path / "empty.zip")
    (tmp_path / "page.zip").write_bytes(b"<html>")
    with pytest.raises(HeartnetError, match=r"page\.zip is not a zip archive \(it begins with b'<htm'\)"):
        members(tmp_path / "page.zip")
    assert list(members(make_zip(tmp_path / "none.zip", {}))) == []


def test_a_truncated_zip_gets_a_clear_message(tmp_path: Path) -> None:
    data = make_zip(tmp_path / "whole.zip", FILES).read_bytes()
    for length in (4, 100, len(data) - 30, len(data) - 1):
        (tmp_path / "cut.zip").write_bytes(data[:length])
        with pytest.raises(HeartnetError, match=r"cut\.zip is broken or cut off.*copy or download it again"):
            list(members(tmp_path / "cut.zip"))


@pytest.mark.parametrize("name", ["../../evil.xml", "/etc/evil.xml", "C:/evil.xml", "..\\evil.xml", "a/../../evil.xml"])
def test_a_name_that_climbs_out_is_refused_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "export.zip", {name: b"evil", "fine.xml": b"fine"})
    evil, fine = members(archive)
    with pytest.raises(HeartnetError, match="climbs out of the archive"):
        evil.open()
    assert fine.open().read() == b"fine"


def test_a_file_without_a_name_is_refused(tmp_path: Path) -> None:
    data = make_zip(tmp_path / "e.zip", {"a": b"x", "b": b"y"}, zipfile.ZIP_STORED).read_bytes()
    (tmp_path / "e.zip").write_bytes(data.replace(b"a", b"\0"))  # zipfile ends a name there
    nameless, other = members(tmp_path / "e.zip")
    with pytest.raises(HeartnetError, match=r"e\.zip/ holds a file without a name"):
        nameless.open()
    assert other.open().read() == b"y"


def test_control_characters_stay_out_of_messages(tmp_path: Path) -> None:
    assert [member.name for member in members(make_zip(tmp_path / "e.zip", {"\x1b[2Jx\n.xml": b""}))] == ["�[2Jx�.xml"]


def test_links_are_not_followed_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_bytes(b"secret")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "real.json").write_bytes(b"real")
    (folder / "inside.json").symlink_to("real.json")
    (folder / "out.json").symlink_to("../secret.json")
    (folder / "dangling.json").symlink_to("nowhere.json")
    (folder / "loop").symlink_to(".")
    (folder / "sub" / "up").symlink_to(tmp_path)
    found = {member.name: member for member in members(folder)}
    assert sorted(found) == ["dangling.json", "inside.json", "out.json", "real.json"]
    assert found["inside.json"].open().read() == b"real"
    with pytest.raises(HeartnetError, match=r"folder/out\.json is a link to a file outside the folder"):
        found["out.json"].open()
    with pytest.raises(HeartnetError, match=r"folder/dangling\.json cannot be read: No such file"):
        found["dangling.json"].open()


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(HeartnetError, match=r"pipe\.json is not a file but a pipe"):
        next(members(tmp_path)).open()
    with pytest.raises(HeartnetError, match="neither a file nor a folder"):
        members(tmp_path / "pipe.json")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("export.xml")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(HeartnetError, match="is a link"):
        next(members(tmp_path / "e.zip")).open()


def test_encrypted_and_exotic_members_are_refused(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "e.zip", {"x.xml": b"x"}, zipfile.ZIP_STORED).read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[6] |= 1
    data[at + 8] |= 1
    (tmp_path / "e.zip").write_bytes(data)
    with pytest.raises(HeartnetError, match=r"e\.zip/x\.xml is encrypted"):
        next(members(tmp_path / "e.zip")).open()
    with pytest.raises(HeartnetError, match=r"method 12 \(bzip2\)"):
        next(members(make_zip(tmp_path / "b.zip", {"x.xml": b"x"}, zipfile.ZIP_BZIP2))).open()
    with pytest.raises(HeartnetError, match=r"method 14 \(LZMA\)"):
        next(members(make_zip(tmp_path / "l.zip", {"x.xml": b"x"}, zipfile.ZIP_LZMA))).open()


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    zeros = bytes(600_000)
    path = make_zip(
        tmp_path / "bomb.zip", {"small": zeros, "other": os.urandom(2 << 20), "large": zeros, "more": zeros}
    )
    found = {member.name: member for member in members(path)}
    assert len(found["small"].open().read()) == 600_000  # the first megabyte is free
    assert len(found["other"].open().read()) == 2 << 20
    for name in ("large", "more"):
        with pytest.raises(HeartnetError, match=rf"bomb\.zip/{name} would inflate from \d+ to 600,000 bytes"):
            found[name].open()


def test_a_member_gives_no_more_than_its_contents_say(tmp_path: Path) -> None:
    """The bound on a bomb rests on the sizes in the table of contents; one that lies ends early, with an error."""
    data = bytearray(make_zip(tmp_path / "lie.zip", {"zeros": bytes(50 << 20)}).read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    (tmp_path / "lie.zip").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(HeartnetError, match=r"lie\.zip/zeros is broken or cannot be read: Bad CRC-32"):
        next(members(tmp_path / "lie.zip")).open().read()
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """As in D. Fifield, A better zip bomb (2019): many names for the same compressed bytes."""
    path = make_zip(tmp_path / "one.zip", {"a": os.urandom(1000), "b": b"fine"})
    with zipfile.ZipFile(path, "a") as archive:
        twin = zipfile.ZipInfo("twin")
        original = archive.infolist()[0]
        for field in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
            setattr(twin, field, getattr(original, field))
        archive.filelist.append(twin)
        archive.NameToInfo["twin"] = twin
        archive.writestr("c", b"fine too")
    found = {member.name: member for member in members(path)}
    for name in ("a", "twin"):
        with pytest.raises(HeartnetError, match=f"{name} shares its bytes"):
            found[name].open()
    assert [found[name].open().read() for name in "bc"] == [b"fine", b"fine too"]


def test_a_huge_table_of_contents_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "many.zip", {f"{i}": b"" for i in range(200)})
    monkeypatch.setattr(archives, "_CONTENTS_BYTES", 5000)
    with pytest.raises(HeartnetError, match=r"many\.zip has a table of contents of [\d,]+ bytes"):
        list(members(path))


def test_a_broken_member_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "e.zip", {"bad": b"bad" * 9, "ok": b"ok"}, zipfile.ZIP_STORED).read_bytes())
    data[data.find(b"badbadbad") + 5] ^= 1
    (tmp_path / "e.zip").write_bytes(data)
    bad, ok = members(tmp_path / "e.zip")
    with pytest.raises(HeartnetError, match=r"e\.zip/bad is broken or cannot be read: Bad CRC-32"):
        bad.open().read()
    assert ok.open().read() == b"ok"


def test_zip64_works(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a.xml", "w", force_zip64=True) as file:
            file.write(b"text" * 100)
        for i in range(70_000):  # more than a plain zip counts
            archive.writestr(f"{i}.gpx", b"")
    found = list(members(tmp_path / "e.zip"))
    assert len(found) == 70_001
    assert found[0].open().read() == b"text" * 100


def test_what_is_read_whole_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "WHOLE_BYTES", 1000)
    member = next(members(make_zip(tmp_path / "e.zip", {"long.json": b"a" * 1001})))
    with pytest.raises(HeartnetError, match=r"long\.json holds 1,001 bytes; expected at most 1,000"):
        member.open().read()
    assert len(member.open().read(5000)) == 1001


def test_a_real_export_is_far_from_the_ratio_of_a_bomb(tmp_path: Path) -> None:
    """Records that differ in their minutes alone are the most repetitive an export can be."""
    line = (
        ' <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Watch" unit="count/min" '
        'creationDate="2025-01-01 {0}" startDate="2025-01-01 {0}" endDate="2025-01-01 {0}" value="60"/>\n'
    )
    clock = [f"{i // 60 % 24:02}:{i % 60:02}:00 +0000" for i in range(20_000)]
    path = make_zip(tmp_path / "e.zip", {"export.xml": "".join(line.format(c) for c in clock).encode()})
    member = next(members(path))
    assert member.length / member.size < archives.RATIO / 2


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_mutated_archives_give_files_or_a_clear_message(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int
) -> None:
    chance = random.Random(seed)
    folder = tmp_path_factory.mktemp("fuzz")
    data = bytearray(make_zip(folder / "e.zip", FILES).read_bytes())
    for _ in range(n):
        place = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randrange(20)]
            case 2:
                data[place:place] = chance.randbytes(chance.randrange(8))
            case _:
                data[place : place + 4] = b"\xff\xff\xff\xff"
    (folder / "e.zip").write_bytes(data)
    try:
        found = list(members(folder / "e.zip"))
    except HeartnetError:
        return
    for member in found:
        with suppress(HeartnetError):
            member.open().read()
