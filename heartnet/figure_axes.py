"""How the axes of all curves and scatters look."""

from __future__ import annotations

from matplotlib.axes import Axes


def name_axes(ax: Axes, title: str, x: str, y: str, *, title_size: int = 10) -> None:
    """Name the axes, with a pale grid behind and no frame above and to the right."""
    ax.set_title(title, fontsize=title_size, loc="left")
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
