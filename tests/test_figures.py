"""The amnesia figure: what is drawn, on which scales, with which labels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from heartnet.diagnostics.amnesia import AmnesiaProfile, AnchorProfile
from heartnet.figures import MOST_PANELS, SCREEN_BINS, amnesia_figure, screen_bins


def profile_of(
    decay: float, *, outputs: int = 2, channels: int = 3, anchor: str = "midpoint", hours: bool = True
) -> AmnesiaProfile:
    lag = np.arange(-2048, 2048) if anchor == "midpoint" else np.arange(-4095, 1)
    magnitude = np.tile(1e-3 * np.exp(-decay * abs(lag)), (outputs, channels, 1))
    parts = np.array([each.mean(axis=-1) for each in np.array_split(magnitude, 64, axis=-1)]).transpose(1, 2, 0)
    wear = lag * 0.04 if hours else np.full(len(lag), np.nan)
    at = AnchorProfile(
        anchor, lag, np.full(len(lag), 4), wear, magnitude, magnitude, magnitude, magnitude, parts, np.ones(64)
    )
    names = tuple(f"condition {i}" for i in range(outputs)), tuple(f"channel {i}" for i in range(channels))
    return AmnesiaProfile(*names, np.full(4, 4096), np.finfo(np.float64).tiny, (at,))


def written(figure: Figure) -> str:
    texts = [each.get_text() for each in figure.texts] + [figure.get_suptitle()]
    return " | ".join(texts)


def render(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_initial_curve_lies_behind_the_present_on_a_log_axis() -> None:
    figure = amnesia_figure(profile_of(0.003), profile_of(0.1), step=1200, initial_step=5)
    assert written(figure).endswith("Amnesia: what a reading does to the output at the middle of the week   "
                                    "(step 1,200; dashed: step 5)")  # fmt: skip
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title("left") for ax in panels] == ["condition 0", "condition 1"]
    for ax in panels:
        assert ax.get_yscale() == "log"
        curves = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
        assert len(curves) == 6
        now = [line for line in curves if line.get_linestyle() == "-"]
        before = [line for line in curves if line.get_linestyle() == "--"]
        assert len(now) == len(before) == 3
        assert max(line.get_zorder() for line in before) < min(line.get_zorder() for line in now)
        assert all(len(line.get_xdata()) <= SCREEN_BINS for line in curves)
        np.testing.assert_allclose(now[0].get_ydata(), 1e-3 * np.exp(-0.003 * abs(now[0].get_xdata())), rtol=0.05)
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        assert [text.split(":")[0] for text in legend] == ["channel 0", "channel 1", "channel 2"]
        assert legend[0] == "channel 0: 2.0 (66.1)"
    assert render(figure).startswith(b"\x89PNG")


def test_hours_of_wear_stand_above_the_readings() -> None:
    ax = amnesia_figure(profile_of(0.003)).axes[0]
    (upper,) = ax.child_axes
    ticks = {text.get_text(): place for place, text in zip(upper.get_xticks(), upper.get_xticklabels(), strict=True)}
    assert ticks["50"] == pytest.approx(1250)
    assert ticks["−50"] == pytest.approx(-1250)
    assert ax.get_title("right") == "hours of wear"
    assert amnesia_figure(profile_of(0.003, hours=False)).axes[0].child_axes == []


def test_an_even_profile_looks_even() -> None:
    ax = amnesia_figure(profile_of(0.0)).axes[0]
    low, high = np.log10(ax.get_ylim())
    assert high - low >= 3
    assert low < -3 < high


def test_underflow_and_zeros_are_drawn_at_the_bottom_and_said() -> None:
    for decay in (2.0, np.inf):
        with np.errstate(invalid="ignore"):
            profile = profile_of(decay)
        at = replace(profile.anchors[0], magnitude=np.nan_to_num(profile.anchors[0].magnitude))
        figure = amnesia_figure(replace(profile, anchors=(at,)))
        ax = figure.axes[0]
        curve = next(line for line in ax.get_lines() if len(line.get_xdata()) > 2)
        assert curve.get_ydata().min() == ax.get_ylim()[0] > 0
        assert "less than the floating-point type holds" in written(figure)
        render(figure)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_can_still_be_drawn(value: float) -> None:
    profile = profile_of(0.01)
    at = replace(profile.anchors[0], magnitude=np.full_like(profile.anchors[0].magnitude, value))
    figure = amnesia_figure(replace(profile, anchors=(at,)), profile)
    assert all(0 < limit < np.inf for ax in figure.axes if ax.get_yscale() == "log" for limit in ax.get_ylim())
    render(figure)


@pytest.mark.parametrize(("outputs", "channels", "anchor"), [(1, 1, "score"), (5, 2, "last"), (14, 9, "midpoint")])
def test_few_and_many(outputs: int, channels: int, anchor: str) -> None:
    figure = amnesia_figure(profile_of(0.01, outputs=outputs, channels=channels, anchor=anchor))
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == min(outputs, MOST_PANELS)
    if outputs > MOST_PANELS:
        assert "5 more outputs are not drawn" in written(figure)
    if channels > 5:
        assert [text.get_text().split(":")[0] for text in panels[0].get_legend().get_texts()] == ["all channels"]
    assert "mean of 4 weeks" in written(figure)
    render(figure)


def test_simulated_weeks_are_called_simulated() -> None:
    assert "mean of 4 simulated weeks" in written(amnesia_figure(profile_of(0.01), simulated=True))


def test_bins_are_medians_of_logarithms_without_scattered_zeros() -> None:
    x, y = screen_bins(np.arange(8), np.array([1.0, 100.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0]), most=2)
    assert x.tolist() == [1.5, 5.5]
    np.testing.assert_allclose(y, [10.0, 0.0])
    x, y = screen_bins(np.arange(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(y, [1.0, 2.0, 3.0])
