"""The pictures of a run as its page holds them: the newest of each first, in few colours, within a number of bytes."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from heartnet.report.events import Logged, Picture

_ONE = 4_000_000  # bytes of a picture
_PIXELS = 20_000_000  # of a picture that is encoded again
_COLOURS = 256
_MANY = 30_000  # colours of a picture that is no figure; to choose 256 of more would take seconds


@dataclass(frozen=True)
class ShownPicture:
    """A picture on the page: its step, its data as a URI (empty if it is left out), and its bytes as it was logged."""

    step: int
    data: str
    bytes: int


@dataclass(frozen=True)
class Gallery:
    """The pictures of a run: by part (a fold; `""` is the run itself) and tag, the newest first; and those left out."""

    parts: Mapping[str, Mapping[str, list[ShownPicture]]]
    left_out: int


def gallery(parts: Mapping[str, Logged], budget: int) -> Gallery:
    """Return the pictures to show.

    The newest of each tag comes first, then the one before, until `budget` bytes are used.

    Args:
        parts: what was logged, by part.
        budget: bytes of all pictures, as they are encoded here.
    """
    found: dict[str, dict[str, list[ShownPicture]]] = {part: {} for part, each in parts.items() if each.pictures}
    left_out = sum(older for each in parts.values() for older in each.older.values())
    tags = [(part, tag, each[::-1]) for part, logged in parts.items() for tag, each in logged.pictures.items()]
    for age in range(max((len(pictures) for _, _, pictures in tags), default=0)):
        for part, tag, pictures in tags:
            if age < len(pictures):
                shown = shown_picture(pictures[age], budget)
                budget -= len(shown.data) * 3 // 4
                left_out += not shown.data
                found[part].setdefault(tag, []).append(shown)
    return Gallery(found, left_out)


def shown_picture(picture: Picture, budget: int) -> ShownPicture:
    """Return a picture as the page holds it; without its data if it is over the budget of bytes."""
    data = ""
    if budget > 0 and len(picture.data) <= _ONE:
        kind, encoded = _encoded(picture)
        if len(encoded) <= budget:
            data = f"data:image/{kind};base64,{b64encode(encoded).decode()}"
    return ShownPicture(picture.step, data, len(picture.data))


def _encoded(picture: Picture) -> tuple[str, bytes]:
    """Return a picture as WebP of 256 colours, of figures a quarter of the size, or as it was if that is smaller.

    WebP loses nothing here, and takes 30 % less than PNG of the same colours.
    """
    if picture.kind != "png":
        return picture.kind, picture.data
    try:
        with Image.open(io.BytesIO(picture.data), formats=["PNG"]) as image:
            if image.width * image.height > _PIXELS or image.mode != "RGB" or image.getcolors(_MANY) is None:
                return picture.kind, picture.data
            few = _in_few_colours(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return picture.kind, picture.data  # damaged: a browser may make more of it
    stream = io.BytesIO()
    few.convert("RGB").save(stream, "WEBP", lossless=True, quality=50, method=2)  # of the effort; more gains nothing
    return min((picture.kind, picture.data), ("webp", stream.getvalue()), key=lambda each: len(each[1]))


def _in_few_colours(image: Image.Image) -> Image.Image:
    """Return a picture in colours that cover all of its own, each the mean of those that it stands for.

    On the figures of the callbacks, the mean difference is below 1 of 255, the largest 21; white stays white. Pillow's
    other ways take rare colours, such as the pale ones of a heatmap, for white.
    """
    few = image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    number, pixels = np.asarray(few).ravel(), np.asarray(image).reshape(-1, 3)
    count = np.maximum(np.bincount(number, minlength=_COLOURS), 1)
    means = [np.bincount(number, pixels[:, channel], _COLOURS) / count for channel in range(3)]
    few.putpalette(np.rint(np.stack(means, axis=1)).astype(np.uint8).tobytes())
    return few
