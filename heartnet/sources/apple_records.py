"""Finds the records of heart rates and steps in the text of an Apple Health export, and what device each is from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from heartnet.sources.apple_xml import attributes, unescape

Record = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""Kind (`HeartRate`, `StepCount`, or empty if the record is damaged), `sourceName` and `device` with references as
written, `unit`, `startDate`, `endDate`, `value`, and the motion context, empty if there is none."""

_MOTION = rb"""(?:\s*+<MetadataEntry\s+key=["']HKMetadataKeyHeartRateMotionContext["']\s+value=["']([012])["'])?+"""
_USUAL = re.compile(
    rb'<Record\s+type="HKQuantityTypeIdentifier(HeartRate|StepCount)"\s+sourceName="([^"<]*+)"'
    rb'(?:\s+sourceVersion="[^"<]*+")?+(?:\s+device="(?:&lt;&lt;HKDevice: 0x\w++&gt;)?+([^"<]*+)")?+'
    rb'\s+unit="([^"<&]*+)"(?:\s+creationDate="[^"<]*+")?+\s+startDate="([^"<&]*+)"\s+endDate="([^"<&]*+)"'
    rb'\s+value="([^"<&]*+)"\s*+(?:/>|>' + _MOTION + rb")"
)
"""A record as genuine exports write it. The address of a device says nothing, and would make each one new."""

_WANTED = re.compile(rb"""HKQuantityTypeIdentifier(?:HeartRate|StepCount)["']""")
_RECORD = re.compile(rb"<Record(?=\s)")
_MOTION_CONTEXT = re.compile(_MOTION)
_ADDRESS = re.compile(rb"^&lt;&lt;HKDevice: 0x\w++&gt;")


def find_records(text: bytes, name: str) -> list[Record]:
    """Return the records of heart rates and steps in a piece of a document; `name` is the file's.

    Raises:
        HeartnetError: for a reference to an unknown entity.
    """
    found = _USUAL.findall(text)
    return found if len(found) == count_records(text) else list(_unusual(text, name))


def count_records(text: bytes) -> int:
    """Return how many records of heart rates and steps a text seems to hold."""
    return len(_WANTED.findall(text))


def _unusual(text: bytes, name: str) -> Iterator[Record]:
    """Yield the records of a piece in which some are not written as usual, or are damaged."""
    for found in _RECORD.finditer(text):
        after = text.find(b"<", found.end())
        after = after if after >= 0 else len(text)
        if not _WANTED.search(text, found.end(), after):
            continue
        tag = attributes(text, found.start())
        if tag is None:
            yield (b"", b"", b"", b"", b"", b"", b"", b"")
            continue
        kind = unescape(tag.get("type", b""), name).removeprefix(b"HKQuantityTypeIdentifier")
        if kind not in (b"HeartRate", b"StepCount"):
            continue
        unit, start, end, value = (
            unescape(tag.get(key, b""), name) for key in ("unit", "startDate", "endDate", "value")
        )
        motion = _MOTION_CONTEXT.match(text, after)
        context = (motion and motion[1]) or b""
        yield (
            kind,
            tag.get("sourceName", b""),
            _ADDRESS.sub(b"", tag.get("device", b"")),
            unit,
            start,
            end,
            value,
            context,
        )


def device_of(text: str) -> tuple[str, int]:
    """Return a device's name and rank (0 on the wrist, 1 a phone, 2 others) by its model, never by its owner's name.

    Args:
        text: the attribute `device`: `<<HKDevice: 0x28…>, name:Apple Watch, manufacturer:Apple, model:Watch,
            hardware:Watch2,4, software:4.3.1>`; or `sourceName` where there is none: `Simon’s Apple Watch`.
    """
    known = dict(re.findall(r"(?:^|, |>)(\w+):(.*?)(?=, \w+:|>?$)", text))
    hardware = re.fullmatch(r"(Watch|iPhone|iPad|iPod)(\d{1,3},\d{1,3})", known.get("hardware", ""))
    model = hardware[1] if hardware else known.get("model") or known.get("name") or text
    full = f" ({hardware[0]})" if hardware else ""
    if "watch" in model.lower():
        return ("Apple Watch" if model == "Watch" or "apple" in model.lower() else "watch") + full, 0
    phone = re.search("iPhone|iPod|iPad", model)
    if phone:
        return phone[0] + full, 1
    return "other app or device", 2
