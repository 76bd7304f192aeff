"""Pictures: arrays in, matplotlib figure out; nothing here touches matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from heartnet.diagnostics.amnesia import AmnesiaProfile, AnchorProfile
from heartnet.diagnostics.memory import Memory, memories

SCREEN_BINS = 256
"""Points that a curve is reduced to before it is drawn: two pixels each on the screen, and matplotlib is slow."""

MOST_PANELS = 9
_MOST_CHANNELS = 5
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#555555")  # Okabe & Ito: safe for colour blindness
_AXES = {
    "midpoint": "readings from the middle of the week",
    "last": "readings from the end of the week",
    "score": "readings from the end of the week",
}
_TITLES = {
    "midpoint": "Amnesia: what a reading does to the output at the middle of the week",
    "last": "Amnesia: what a reading does to the output at the end of the week",
    "score": "Amnesia: what a reading does to the score",
}

_Curve = tuple[Float64[np.ndarray, " bin"], Float64[np.ndarray, " bin"]]


def amnesia_figure(
    now: AmnesiaProfile,
    initial: AmnesiaProfile | None = None,
    *,
    anchor: str | None = None,
    step: int = 0,
    initial_step: int = 0,
    simulated: bool = False,
) -> Figure:
    """Draw |d output / d input| by distance, a panel for each output and a colour for each channel, on a log axis.

    The present profile is drawn over the initial one (pale, dashed). Below is the distance in readings, above in hours
    of wear. Shaded is what counts as far. The legends give `decades`, of `heartnet.diagnostics.memory`, and in brackets
    what they were. What is below the type's floor is drawn as a line at the bottom and said.

    Args:
        now: the present profile.
        initial: an earlier one, with the same outputs and channels.
        anchor: one of the profile's anchors; None for the one that shows amnesia best.
        step: optimiser steps taken by now; stands in the picture, because TensorBoard keeps pictures at random.
        initial_step: optimiser steps taken when `initial` was measured.
        simulated: whether the weeks are; then the picture says so.
    """
    anchor = anchor or now.main
    outputs = now.outputs[:MOST_PANELS]
    figure, panels = _panels(len(outputs))
    profiles = [(now, step)] if initial is None else [(initial, initial_step), (now, step)]
    curves = [_curves(profile, anchor) for profile, _ in profiles]
    bottom, top, sunk = _limits(curves, max(profile.floor for profile, _ in profiles))
    found = _by_curve(now), [] if initial is None else _by_curve(initial)
    for panel, ax in enumerate(panels):
        _draw_panel(ax, now.at(anchor), [each[panel] for each in curves], bottom)
        ax.set_title(outputs[panel], fontsize=10, fontweight="bold", loc="left", y=1.0, pad=17)
        _label_curves(ax, *(_of(each, anchor, outputs[panel]) for each in found), sunk=sunk)
        _hours_axis(ax, now.at(anchor))
    # The axes are shared, so what is set on one holds for all.
    lag = now.at(anchor).lag
    panels[0].set_xlim(lag[0], max(lag[-1], lag[0] + 1))
    panels[0].xaxis.set_major_locator(MaxNLocator(7, integer=True, prune="both"))
    panels[0].set_yscale("log")
    panels[0].set_ylim(bottom, top)
    panels[0].yaxis.set_major_locator(FixedLocator(_powers_of_ten(bottom, top)))
    panels[0].yaxis.set_minor_locator(NullLocator())
    _write_around(figure, now, anchor, sunk, simulated)
    when = f"step {step:,}" + ("" if initial is None else f"; dashed: step {initial_step:,}")
    figure.suptitle(f"{_TITLES[anchor]}   ({when})", fontsize=11)
    return figure


def screen_bins(
    places: Int64[np.ndarray, " place"], magnitude: Float64[np.ndarray, " place"], most: int = SCREEN_BINS
) -> tuple[Float64[np.ndarray, " bin"], Float64[np.ndarray, " bin"]]:
    """Reduce a curve to at most `most` points: the middle of each bin, and the median there, taken of the logarithms.

    Zeros are left out where at least a quarter of the bin is not zero (a network may look at every second reading
    only); otherwise the bin is 0.
    """
    count = min(most, len(places))
    edges = np.arange(count + 1) * len(places) // count
    size = np.diff(edges)
    x = np.add.reduceat(places.astype(np.float64), edges[:-1]) / size
    # A row for each bin, as long as the longest, what is left out last.
    at = edges[:-1, None] + np.arange(size.max())
    values = magnitude[np.minimum(at, len(places) - 1)]
    inside = (at < edges[1:, None]) & (values > 0)
    found = np.sort(np.where(inside, values, np.inf), axis=1)
    there = inside.sum(axis=1)
    row, enough = np.arange(count), (there > 0) & (4 * there >= size)
    y, row = np.zeros(count), row[enough]
    low, high = (found[row, middle[enough]] for middle in ((there - 1) // 2, there // 2))
    y[enough] = np.exp((np.log(low) + np.log(high)) / 2)
    return x, y


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of that many panels on shared axes, laid out by hand: matplotlib's own layout draws twice."""
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = -(-count // columns)
    width, height = (8.0, 4.2) if count == 1 else (5.2 * columns, 1.2 + 2.8 * rows)
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.85 / width,
        right=1 - 0.2 / width,
        bottom=0.6 / height,
        top=1 - 0.95 / height,
        hspace=0.28,
        wspace=0.06,
    )
    panels: list[Axes] = list(grid.flat)
    for unused in panels[count:]:
        unused.set_visible(False)
    for above in panels[max(count - columns, 0) : count]:
        above.tick_params(labelbottom=True)
    return figure, panels[:count]


def _curves(profile: AmnesiaProfile, anchor: str) -> list[list[_Curve]]:
    """Return for each output and each drawn channel its reduced curve."""
    at = profile.at(anchor)
    return [[screen_bins(at.lag, curve) for curve in _drawn(output)] for output in at.magnitude]


def _drawn(magnitude: Float64[np.ndarray, "channel lag"]) -> Sequence[Float64[np.ndarray, " lag"]]:
    return list(magnitude) if len(magnitude) <= _MOST_CHANNELS else [magnitude.sum(axis=0)]


def _limits(curves: list[list[list[_Curve]]], floor: float) -> tuple[float, float, bool]:
    """Return the ends of the axis and whether something is below the floor.

    At least three decades, so that an even profile looks even, with room below for the legend.
    """
    values = np.concatenate([y for profile in curves for output in profile for _, y in output])
    seen = values[np.isfinite(values) & (values >= floor)]
    sunk = bool((values < floor).any())
    low, high = (np.log10(seen.min()), np.log10(seen.max())) if len(seen) else (-2.0, 0.0)
    room = max((high - low) * 0.06, 0.2)
    low = np.log10(floor) if sunk and len(seen) else min(low - 3 * room, high - 3.0)
    return float(10 ** max(low - room, -307.6)), float(10 ** min(high + room, 307.0)), sunk


def _powers_of_ten(bottom: float, top: float) -> list[float]:
    """Return about six round powers of ten, as round in their exponents."""
    low, high = np.log10(bottom), np.log10(top)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if (high - low) / step <= 7)
    return [10.0**power for power in range(int(np.ceil(low / every)) * every, int(high) + 1, every) if power <= high]


def _draw_panel(ax: Axes, at: AnchorProfile, curves: list[list[_Curve]], bottom: float) -> None:
    if at.anchor != "score":
        for end in (at.lag[0], at.lag[-1]):
            if end:
                ax.axvspan(end / 2, end, color="#000000", alpha=0.045, linewidth=0)
        ax.axvline(0, color="#999999", linewidth=0.7)
    for age, profile in enumerate(reversed(curves)):
        for i, (x, y) in enumerate(profile):
            style: dict[str, Any] = (
                {"linestyle": "--", "alpha": 0.55, "zorder": 2} if age else {"linestyle": "-", "zorder": 3}
            )
            # Channels often lie on one another: the later ones are thinner, so that all can be seen. What has sunk
            # below the floor lies on the bottom of the panel instead of vanishing.
            width = (0.8 if age else 1.0) + 0.6 * (len(profile) - 1 - i)
            ax.plot(x, np.maximum(y, bottom), color=_COLOURS[i], linewidth=width, **style)
    ax.grid(True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _by_curve(profile: AmnesiaProfile) -> list[Memory]:
    return memories(profile, by_channel=len(profile.channels) <= _MOST_CHANNELS)


def _of(found: list[Memory], anchor: str, output: str) -> list[Memory]:
    return [each for each in found if each.anchor == anchor and each.output == output]


def _label_curves(ax: Axes, now: list[Memory], initial: list[Memory], *, sunk: bool) -> None:
    before = [f" ({_short(each)})" for each in initial] or [""] * len(now)
    labels = [f"{each.channel or 'all channels'}: {_short(each)}{was}" for each, was in zip(now, before, strict=True)]
    lines = ax.get_lines()[-len(labels) * (2 if initial else 1) :][: len(labels)]
    title = "decades" + (" (before)" if initial else "")
    # Where no curve runs: under a wide hill, beside one so narrow that it reaches the floor.
    if sunk:
        legend = ax.legend(lines, labels, title=title, fontsize=7.5, loc="center left")
    elif now[0].anchor == "midpoint":
        legend = ax.legend(lines, labels, title=title, fontsize=7.5, loc="lower center")
    else:
        legend = ax.legend(lines, labels, title=title, fontsize=7.5, loc="lower right")
    legend.get_title().set_fontsize(7.5)
    legend.set_zorder(4)


def _short(memory: Memory) -> str:
    if memory.decades is None:
        return "no gradient" if memory.gradient == "zero" else "–"
    return f"{'> ' if memory.at_least else ''}{memory.decades:.1f}"


def _hours_axis(ax: Axes, at: AnchorProfile) -> None:
    """Put hours of wear above: round hours, at the readings where they are reached."""
    if not np.isfinite(at.hours).all() or np.ptp(at.hours) <= 0:
        return
    ticks = MaxNLocator(7).tick_values(at.hours[0], at.hours[-1])
    ticks = ticks[(ticks >= at.hours[0]) & (ticks <= at.hours[-1])]
    upper = ax.secondary_xaxis("top")
    upper.set_xticks(np.interp(ticks, at.hours, at.lag), [f"{tick:g}".replace("-", "−") for tick in ticks])
    upper.tick_params(labelsize=7.5, colors="#666666", length=2)
    upper.spines["top"].set_color("#bbbbbb")
    ax.set_title("hours of wear", fontsize=8, color="#666666", loc="right", y=1.0, pad=19)


def _write_around(figure: Figure, now: AmnesiaProfile, anchor: str, sunk: bool, simulated: bool) -> None:
    count, left_out = len(now.lengths), len(now.outputs) - MOST_PANELS
    kind = "simulated " if simulated else ""
    notes = [f"1 {kind}week" if count == 1 else f"mean of {count} {kind}weeks"]
    if sunk:
        notes.append("on the bottom line: less than the floating-point type holds")
    if left_out > 0:
        notes.append(f"{left_out} more outputs are not drawn")
    height = figure.get_figheight()
    figure.text(0.5, 0.12 / height, f"{_AXES[anchor]}   ({'; '.join(notes)})", ha="center", fontsize=9)
    figure.text(0.12 / figure.get_figwidth(), 0.5, "|∂ output / ∂ input|", va="center", rotation=90, fontsize=9)
