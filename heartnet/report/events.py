"""Reads what a run logged (numbers, pictures, texts, the layout of its charts) from its TensorBoard event files."""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout as LayoutMessage
from tensorboard.util.tensor_util import make_ndarray

PATTERN = "events.out.tfevents.*"

KEPT_PICTURES = 4
"""Pictures of a tag that are kept, the newest; the page can show no more than a few."""

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
_SMALL = 4096  # bytes of a record whose check sum is cheap

Layout = tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]
"""Categories of charts, each a title and its charts; a chart is a title and the patterns of its tags."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture: the step at which it was logged, its format, and its bytes."""

    step: int
    kind: str
    data: bytes


@dataclass
class Series:
    """One number over steps; both `[point]`, ascending by step, the newest value of each step."""

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


@dataclass
class Logged:
    """What the event files of one folder hold.

    Attributes:
        scalars: by tag.
        pictures: by tag the newest, oldest first; at most `KEPT_PICTURES`.
        older: by tag, how many pictures are older than those.
        texts: by tag, the newest with its step.
        others: tags of other kinds (histograms, audio, …) with the name of the kind.
        layout: of the custom scalars, empty if there is none.
        first: when the first entry was made, in seconds since 1970; None if there is none.
        last: when the last entry was made.
        noted: what could not be read, in words.
    """

    scalars: dict[str, Series] = field(default_factory=dict)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    older: dict[str, int] = field(default_factory=dict)
    texts: dict[str, tuple[int, str]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    layout: Layout = ()
    first: float | None = None
    last: float | None = None
    noted: list[str] = field(default_factory=list)


def event_files(folder: Path) -> list[Path]:
    """Return the event files that lie in a folder itself, oldest first."""

    def age(path: Path) -> tuple[int, str]:
        stamp = re.search(r"tfevents\.(\d+)", path.name)
        return (int(stamp[1]) if stamp else 0, path.name)

    return sorted((path for path in folder.glob(PATTERN) if path.is_file()), key=age)


def read_events(files: Iterable[Path]) -> Logged:
    """Return what event files hold, the oldest file first.

    A run that was resumed has several. Where a later file goes on with a tag at an earlier step, what the files before
    say from that step on is replaced, and that is noted. Of a file that ends within a record (its writer was killed, or
    still writes) all whole records count. Nothing is unpickled.
    """
    reader = _Reader()
    for file in files:
        reader.read(file)
    return reader.result()


def steps_a_second(folder: Path, tag: str) -> float | None:
    """Return how fast a number was logged: the median, between points that follow one another, of steps over seconds.

    None if there are no two points, or a file is damaged. What happens now and then between two points, a validation or
    a picture, hardly moves the median.
    """
    points: list[tuple[int, float]] = []
    try:
        for file in event_files(folder):
            for record in _records(file):
                event = Event.FromString(record)
                points += [(event.step, event.wall_time) for value in event.summary.value if value.tag == tag]
    except (DecodeError, ValueError, IndexError, OSError):
        return None
    steps, seconds = np.diff(np.array(points or [(0, 0.0)]), axis=0).T
    later = (steps > 0) & (seconds > 0)
    return float(np.median(steps[later] / seconds[later])) if later.any() else None


class _Reader:
    def __init__(self) -> None:
        self.logged = Logged()
        self.points: dict[str, tuple[array[int], array[float]]] = {}
        self.pictures: dict[str, deque[Picture]] = {}
        self.older: dict[str, list[int]] = {}  # steps of pictures that are not kept
        self.kinds: dict[str, str] = {}  # a tag's plug-in stands in its first entry only
        self.seen: set[str] = set()  # tags of the current file
        self.replaced = 0

    def read(self, file: Path) -> None:
        self.seen = set()
        try:
            for record in _records(file):
                self.take(Event.FromString(record))
        except (DecodeError, ValueError, IndexError, OSError) as error:
            self.logged.noted.append(f"{file.name}: {error or 'damaged'}; the rest of the file is left out")

    def take(self, event: Any) -> None:
        for value in event.summary.value:
            self.logged.first = min(event.wall_time, self.logged.first or event.wall_time)
            self.logged.last = max(event.wall_time, self.logged.last or 0.0)
            kind = self.kinds.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
            what = value.WhichOneof("value")
            if what == "simple_value":
                self.number(value.tag, event.step, value.simple_value)
            elif what == "image":
                self.picture(value.tag, event.step, value.image.encoded_image_string)
            elif what == "tensor" and kind == "scalars":
                self.number(value.tag, event.step, float(make_ndarray(value.tensor).reshape(-1)[0]))
            elif what == "tensor" and kind == "images":
                for data in value.tensor.string_val[2:]:  # after width and height
                    self.picture(value.tag, event.step, data)
            elif what == "tensor" and kind == "text":
                text = b"\n\n".join(value.tensor.string_val).decode("utf-8", errors="replace")
                self.logged.texts[value.tag.removesuffix("/text_summary")] = (event.step, text)
            elif what == "tensor" and kind == "custom_scalars":
                self.logged.layout = _layout(value.tensor.string_val[0])
            elif kind != "hparams":
                self.logged.others[value.tag] = {"histo": "histogram"}.get(what or "", kind or what or "empty")

    def number(self, tag: str, step: int, value: float) -> None:
        steps, values = self.points.setdefault(tag, (array("q"), array("d")))
        if tag not in self.seen:
            self.seen.add(tag)
            while steps and steps[-1] >= step:
                steps.pop(), values.pop()
                self.replaced += 1
        steps.append(step)
        values.append(value)

    def picture(self, tag: str, step: int, data: bytes) -> None:
        kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
        if kind is None:
            self.logged.noted.append(
                f"a picture of {tag} at step {step:,} is neither PNG nor JPEG nor GIF, and left out"
            )
            return
        kept = self.pictures.setdefault(tag, deque(maxlen=KEPT_PICTURES))
        if tag not in self.seen:
            self.seen.add(tag)
            while kept and kept[-1].step >= step:
                kept.pop()
            self.older[tag] = [each for each in self.older.get(tag, []) if each < step]
        if len(kept) == KEPT_PICTURES:
            self.older[tag].append(kept[0].step)
        kept.append(Picture(step, kind, data))

    def result(self) -> Logged:
        self.logged.scalars = {tag: _series(*points) for tag, points in self.points.items()}
        self.logged.pictures = {tag: list(kept) for tag, kept in self.pictures.items()}
        self.logged.older = {tag: len(steps) for tag, steps in self.older.items()}
        if self.replaced:
            self.logged.noted.append(
                f"{self.replaced:,} logged numbers are left out: a later event file begins again before their step"
            )
        return self.logged


def _records(file: Path) -> Iterator[bytes]:
    """Yield the records of a file (TFRecord framing).

    TensorBoard's own reader checks the sum of each picture in a Python loop, which takes minutes for large runs; here
    that is left out for large records. A length that is wrong would be a wrong place to go on at, so it is checked.

    Raises:
        ValueError: the file is damaged, or ends within a record.
    """
    with file.open("rb") as stream:
        place = 0
        while header := stream.read(12):
            if len(header) == 12 and masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
                raise ValueError(f"damaged at byte {place:,}")
            size = int.from_bytes(header[:8], "little")
            left = file.stat().st_size - place - 16
            if len(header) < 12 or size > left:
                raise ValueError(f"ends within an entry, at byte {place:,}")
            data, checked = stream.read(size), stream.read(4)
            if size <= _SMALL and masked_crc32c(data) != int.from_bytes(checked, "little"):
                raise ValueError(f"damaged at byte {place:,}")
            place += size + 16
            yield data


def _series(steps: array[int], values: array[float]) -> Series:
    """Return the points in order of their steps; of several at a step the newest."""
    all_steps, all_values = np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64)
    order = np.argsort(all_steps, kind="stable")
    all_steps, all_values = all_steps[order], all_values[order]
    newest = np.append(all_steps[1:] != all_steps[:-1], True)
    return Series(all_steps[newest], all_values[newest])


def _layout(data: bytes) -> Layout:
    return tuple((category.title, tuple(_charts(category))) for category in LayoutMessage.FromString(data).category)


def _charts(category: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for chart in category.chart:
        if chart.WhichOneof("content") == "multiline":
            yield chart.title, tuple(chart.multiline.tag)
        else:  # a line within a margin
            yield (
                chart.title,
                tuple(tag for one in chart.margin.series for tag in (one.value, one.lower, one.upper)),
            )
