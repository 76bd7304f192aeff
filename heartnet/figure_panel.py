"""Axes of a picture in pixels: matplotlib's own take ten times as long as what is drawn in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

Places = Sequence[float] | np.ndarray

_TICK = 3  # pixels
_PIXELS = IdentityTransform()


def pixel_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many pixels, on white."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def put(figure: Figure, picture: UInt8[np.ndarray, "height width 4"], left: int, bottom: int) -> None:
    """Put a picture on a figure as it is, its first row on top, below all lines and words."""
    figure.add_artist(_Pixels(picture, left, bottom))


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a place in pixels; what looks like a formula is written as it is."""
    figure.text(x, y, text, transform=_PIXELS, **{"parse_math": False, **style})


def line(figure: Figure, x: Any, y: Any, **style: Any) -> None:
    """Draw a line between places in pixels, broken where one is NaN."""
    figure.add_artist(Line2D(x, y, transform=_PIXELS, **{"color": "#444444", **style}))


@dataclass
class Panel:
    """A rectangle of a figure, in pixels from its lower left corner, with scales of its own.

    Nothing is cut off at its edges: what lies outside the scales has to be left out.

    Attributes:
        x, y: what its edges stand for.
        log: the vertical scale is logarithmic.
    """

    figure: Figure
    left: float
    bottom: float
    width: float
    height: float
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    log: bool = False

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def top(self) -> float:
        return self.bottom + self.height

    def across(self, x: Any) -> Any:
        """Return where values of x lie, in pixels of the figure."""
        low, high = self.x
        return self.left + (np.asarray(x, dtype=np.float64) - low) * (self.width / (high - low))

    def up(self, y: Any) -> Any:
        """Return where values of y lie, in pixels of the figure."""
        low, high = np.log10(self.y) if self.log else self.y
        values = np.asarray(y, dtype=np.float64)
        return self.bottom + ((np.log10(values) if self.log else values) - low) * (self.height / (high - low))

    def line(self, x: Any, y: Any, **style: Any) -> None:
        line(self.figure, self.across(x), self.up(y), **style)

    def spans(self, x: Any, low: Any, high: Any, **style: Any) -> None:
        """Draw a vertical line from `low` to `high` at each x."""
        places, gap = self.across(x), np.full(len(x), np.nan)
        ends = np.stack([self.up(low), self.up(high), gap], axis=1)
        line(self.figure, np.repeat(places, 3), ends.ravel(), solid_capstyle="butt", **style)

    def boxes(self, boxes: Float[np.ndarray, "box 4"], colour: Any, **style: Any) -> None:
        """Fill rectangles: left, right, bottom and top of each, in values of x and y."""
        if not len(boxes):
            return
        x, y = self.across(boxes[:, :2]).T, self.up(boxes[:, 2:]).T
        around = [x[0], y[0], x[1], y[0], x[1], y[1], x[0], y[1], x[0], y[0]]
        corners = np.stack(around, axis=1).reshape(-1, 2)
        codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(boxes))
        patch = PathPatch(Path(corners, codes), facecolor=colour, linewidth=0, **style)
        patch.set_transform(_PIXELS)
        self.figure.add_artist(patch)

    def fill(self, x: Any, low: Any, high: Any, colour: Any, **style: Any) -> None:
        """Fill between two curves, broken where one of them is NaN."""
        x, low, high = np.broadcast_arrays(np.asarray(x, dtype=np.float64), low, high)
        known = np.flatnonzero(~np.isnan(low + high))
        corners: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            if len(run) < 2:
                continue
            at = np.concatenate([run, run[::-1], run[:1]])
            heights = np.concatenate([high[run], low[run[::-1]], high[run[:1]]])
            corners.append(np.stack([self.across(x[at]), self.up(heights)], axis=1))
            codes.append(np.array([Path.MOVETO, *[Path.LINETO] * (len(at) - 2), Path.CLOSEPOLY], dtype=np.uint8))
        if corners:
            path = Path(np.concatenate(corners), np.concatenate(codes))
            patch = PathPatch(path, facecolor=colour, linewidth=0, **style)
            patch.set_transform(_PIXELS)
            self.figure.add_artist(patch)

    def frame(self, colour: str = "#bbbbbb", sides: str = "lbrt", **style: Any) -> None:
        """Draw the edges: left, bottom, right and top."""
        left, right, bottom, top = self.left, self.right, self.bottom, self.top
        ends = {"l": (left, left, bottom, top), "r": (right, right, bottom, top)}
        ends |= {"b": (left, right, bottom, bottom), "t": (left, right, top, top)}
        x, y = (np.concatenate([[*ends[side][i : i + 2], np.nan] for side in sides]) for i in (0, 2))
        line(self.figure, x, y, **{"color": colour, "linewidth": 0.8, **style})

    def beside(self, places: Places, words: Sequence[str], *, ticks: bool = True, **style: Any) -> None:
        """Write on the left at heights, with a tick each."""
        heights = self.up(places)
        for height, word in zip(heights, words, strict=True):
            write(self.figure, self.left - _TICK - 3, height, word, ha="right", va="center_baseline", **_small(style))
        if ticks and len(heights):
            x = np.tile([self.left - _TICK, self.left, np.nan], len(heights))
            line(self.figure, x, np.repeat(heights, 3), linewidth=0.7)

    def below(self, places: Places, words: Sequence[str], *, ticks: bool = True, **style: Any) -> None:
        """Write under it, with a tick each."""
        self._along(self.bottom, -1, places, words, ticks, style)

    def above(self, places: Places, words: Sequence[str], *, ticks: bool = True, **style: Any) -> None:
        """Write over it, with a tick each."""
        self._along(self.top, 1, places, words, ticks, style)

    def _along(
        self, edge: float, way: int, places: Places, words: Sequence[str], ticks: bool, style: dict[str, Any]
    ) -> None:
        across = self.across(places)
        for place, word in zip(across, words, strict=True):
            va = "top" if way < 0 else "bottom"
            write(self.figure, place, edge + way * (_TICK + 3), word, ha="center", va=va, **_small(style))
        if ticks and len(across):
            y = np.tile([edge, edge + way * _TICK, np.nan], len(across))
            line(self.figure, np.repeat(across, 3), y, linewidth=0.7)


class _Pixels(Artist):
    """A picture that goes to the canvas as it is; matplotlib's own images are resampled, at ten times the cost."""

    def __init__(self, picture: UInt8[np.ndarray, "height width 4"], left: int, bottom: int) -> None:
        super().__init__()
        self.picture, self.left, self.bottom = np.ascontiguousarray(picture[::-1]), left, bottom
        self.set_zorder(-1)

    def draw(self, renderer: Any) -> None:
        gc = renderer.new_gc()
        renderer.draw_image(gc, self.left, self.bottom, self.picture)
        gc.restore()


def _small(style: dict[str, Any]) -> dict[str, Any]:
    return {"fontsize": 8, "color": "#444444", **style}
