"""Draws numbers over steps as a small SVG: lines with axes, what is not finite, and the last value of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heartnet.report.events import Series

WIDTH, HEIGHT = 300.0, 130.0
"""Size of the area within the axes."""

COLOURS = 8
"""Colours of lines; further lines are dashed."""

MOST_POINTS = 300
"""Points of a line; a longer series is drawn as the mean of as many stretches, within a band of their extremes."""

_LOG_FROM = 2.5  # decades of positive values from which their logarithm is drawn
_DOTTED = 20  # points of a line that are marked, each

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One series of a chart.

    Attributes:
        label: what it is, beside the others.
        tag: its full name.
        colour: which of the colours.
        dashed: whether it is a further line of that colour.
        path: the line.
        band: lowest and highest of each stretch, as an area; empty where each point is drawn.
        dot: points to mark: all of a short line, and those without a neighbour.
        lost: where values are NaN or infinite, as a path of ticks at the upper edge.
        last: the last value, in words.
        remark: how many values are not finite, and since when.
    """

    label: str
    tag: str
    colour: int
    dashed: bool
    path: str
    band: str
    dot: tuple[tuple[float, float], ...]
    lost: str
    last: str
    remark: str


@dataclass(frozen=True)
class Chart:
    """Lines over steps, and their axes: places and labels of ticks; `log` where the logarithm is drawn."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    log: bool
    reference: tuple[float, str] | None


def chart(
    title: str, series: Mapping[str, Series], unit: str = "", reference: tuple[float, str] | None = None
) -> Chart:
    """Return series as one chart.

    Args:
        title: what is drawn.
        series: by tag; none of them empty.
        unit: of the values.
        reference: a value that is marked where it lies within the axes, and its name.
    """
    finite = np.concatenate([_drawn(each.values[np.isfinite(each.values)]) for each in series.values()])
    steps = np.concatenate([each.steps for each in series.values()])
    first, last = int(steps.min()), int(steps.max())
    log = len(finite) > 0 and finite.min() > 0 and bool(np.log10(finite.max()) - np.log10(finite.min()) > _LOG_FROM)
    low, high = _limits(finite, log)
    span = max(last - first, 1)

    def across(values: npt.NDArray[np.int64] | Floats) -> Floats:
        return np.asarray((values - first) / span * WIDTH if last > first else np.full(len(values), WIDTH / 2))

    def up(values: Floats) -> Floats:
        scaled = np.log10(values) if log else values
        return np.asarray(HEIGHT * (1 - (scaled - low) / (high - low)))

    labels = short_labels(list(series))
    lines = []
    for number, (tag, each) in enumerate(series.items()):
        x, good = across(each.steps), np.isfinite(each.values)
        y = np.full(len(x), np.nan)
        y[good] = up(_drawn(each.values[good]))
        path, band, dot = _line(x, y)
        lost = "".join(f"M{place:.1f} 0v6" for place in dict.fromkeys(np.round(x[~good], 0).tolist()))
        remark = "" if good.all() else f"{(~good).sum():,} not finite, the first at step {each.steps[~good][0]:,}"
        colour, further = number % COLOURS, number >= COLOURS
        lines.append(Line(labels[tag], tag, colour, further, path, band, dot, lost, short(each.values[-1]), remark))
    place = float(up(np.array([reference[0]]))[0]) if reference else -1.0
    return Chart(
        title=title,
        unit=unit,
        lines=tuple(lines),
        across=tuple((float(across(np.array([step]))[0]), short(step)) for step in _steps(first, last)),
        up=tuple((HEIGHT * (1 - (at - low) / (high - low)), label) for at, label in _ticks(low, high, log)),
        log=log,
        reference=(place, reference[1]) if reference and 0 <= place <= HEIGHT else None,
    )


def short_labels(tags: Sequence[str]) -> dict[str, str]:
    """Return for each tag what tells it from the others: its parts without those that all have."""
    parts = [tag.split("/") for tag in tags]
    if len(tags) == 1:
        return {tags[0]: parts[0][-1]}
    if len({len(part) for part in parts}) == 1:
        differ = [i for i, each in enumerate(zip(*parts, strict=True)) if len(set(each)) > 1]
        return {tag: "/".join(part[i] for i in differ) for tag, part in zip(tags, parts, strict=True)}
    shortest = min(map(len, parts))
    shared = next((i for i in range(shortest - 1) if len({part[i] for part in parts}) > 1), shortest - 1)
    return {tag: "/".join(part[shared:]) for tag, part in zip(tags, parts, strict=True)}


def short(value: float) -> str:
    """Return a number with three digits or so, as a person would write it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "−∞" if value < 0 else "∞"
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-3:
        mantissa, _, power = f"{value:.2e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    elif size >= 1e5:
        text = f"{value / 1e6:.3g} M" if size >= 1e6 else f"{value / 1e3:.0f} k"
    elif value == int(value):
        text = f"{int(value):,}"
    else:
        text = f"{value:.3g}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", "−")


def _drawn(values: Floats) -> Floats:
    """Return values without those whose differences no float can hold."""
    return np.clip(values, -1e300, 1e300)


def _limits(finite: Floats, log: bool) -> tuple[float, float]:
    if len(finite) == 0:
        return 0.0, 1.0
    values = np.log10(finite) if log else finite
    low, high = float(values.min()), float(values.max())
    if low == high == 0:
        return -0.06, 1.0
    alike = high - low <= 1e-9 * max(abs(low), abs(high), 1e-200)
    margin = (abs(high) * 0.1 if abs(high) > 1e-200 else 1.0) if alike else (high - low) * 0.06
    return low - margin, high + margin


def _line(x: Floats, y: Floats) -> tuple[str, str, tuple[tuple[float, float], ...]]:
    """Return line, band and single points; NaN in `y` is a gap."""
    band = ""
    if len(x) > MOST_POINTS:
        stretch = np.minimum((x - x[0]) / max(float(x[-1] - x[0]), 1e-9) * MOST_POINTS, MOST_POINTS - 1).astype(int)
        starts = np.flatnonzero(np.append(True, stretch[1:] != stretch[:-1]))
        known = ~np.isnan(y)
        count = np.add.reduceat(known.astype(float), starts)
        some = count > 0
        total = np.add.reduceat(np.where(known, y, 0.0), starts)
        top = np.minimum.reduceat(np.where(known, y, np.inf), starts)[some]
        bottom = np.maximum.reduceat(np.where(known, y, -np.inf), starts)[some]
        middle = np.add.reduceat(x, starts) / np.diff(np.append(starts, len(x)))
        edge = [f"{a:.1f} {b:.1f}" for a, b in zip(middle[some], top, strict=True)]
        edge += [f"{a:.1f} {b:.1f}" for a, b in zip(middle[some][::-1], bottom[::-1], strict=True)]
        band = f"M{'L'.join(edge)}z" if len(edge) > 2 else ""
        x, y = middle, np.where(some, total / np.maximum(count, 1), np.nan)
    pieces, dots = [], []
    for piece in np.split(np.arange(len(x)), np.flatnonzero(np.isnan(y))):
        points = [(float(x[i]), float(y[i])) for i in piece if not np.isnan(y[i])]
        if len(points) == 1 or len(x) <= _DOTTED:
            dots += points
        if len(points) > 1:
            pieces.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points))
    return "".join(pieces), band, tuple(dots)


def _steps(first: int, last: int) -> Iterable[int]:
    """Return round steps within the axis."""
    if first == last:
        return [first]
    size = math.ceil(_round_size((last - first) / 4))
    return range(-(-first // size) * size, last + 1, size)


def _ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    """Return round values within the axis, and their labels; of logarithms, powers of ten."""
    if log:
        apart = max(math.ceil((high - low) / 4), 1)
        return [(float(n), f"1e{n}".replace("-", "−")) for n in range(math.ceil(low), math.floor(high) + 1, apart)]
    size = _round_size((high - low) / 5)
    places = [n * size for n in range(math.ceil(low / size), math.floor(high / size) + 1)]
    if 1e-4 < size < 1e4:
        digits = next(n for n in range(8) if n == 7 or abs(size * 10**n - round(size * 10**n)) < 1e-6)
        return [(place, f"{place:,.{digits}f}".replace("-", "−")) for place in places]
    return [(place, short(place)) for place in places]


def _round_size(size: float) -> float:
    power = 10.0 ** math.floor(math.log10(size))
    return next((each for each in (1, 2, 2.5, 5) if each * power >= size * 0.999), 10) * power
