"""What all pictures share: colors, panels, numbers that an axis can hold, the file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .letters import MUTED, text

Bytes = NDArray[np.uint8]
Counts = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

GRID = "#e3e6ea"
TRAIN, VAL, EMA, RIGHT, WRONG = "#2f6db3", "#e07b39", "#8250a8", "#2a8c4a", "#c8332b"
TINY = np.finfo(float).tiny


def add_panel(figure: Figure, left: float) -> Axes:
    axes = figure.add_axes((left, 0.14, 0.275, 0.72))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("epoch", labelpad=2, **text(9, MUTED))
    return axes


def new_canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure filled by one axes, in inches; the crop of `save` makes room for its labels."""
    figure = Figure((width, height), dpi=150, facecolor="white")
    return figure, figure.add_axes((0, 0, 1, 1))


def add_bar(axes: Axes, image: AxesImage, width: float, title: str, size: float) -> Colorbar:
    """Stand a color bar beside axes that are `width` inches wide."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1 + 0.15 / width, 0, 0.14 / width, 1)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=0.8 * size, length=2)
    bar.set_label(title, **text(0.9 * size, MUTED))
    return bar


def finite(values: list[float]) -> Floats:
    """Return floats, NaN in the place of all that no axis can hold."""
    array = np.array(values, dtype=float)
    array[~(np.abs(array) < 1e30)] = np.nan
    return array


def known(values: Floats) -> Floats:
    """Return floats, zero in the place of NaN and infinity: a diverged run gets its pictures too."""
    return np.where(np.isfinite(values), values, 0.0).astype(np.float64)


def save(figure: Figure, path: Path, crop: bool = False) -> None:
    """Write a PNG that is either whole or not there; `crop` fits the page to what is drawn."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        figure.savefig(partial, facecolor="white", bbox_inches="tight" if crop else None, pad_inches=0.12)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
