"""What all figures share: colors, panels, values that an axis can show, saving."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from .letters import INK, MUTED, measure, shorten, tell_apart, text

Bytes = NDArray[np.uint8]
Counts = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]  # left, bottom, width, height

GRID = "#e3e6ea"
TRAIN, VAL, EMA, RIGHT, WRONG = "#2f6db3", "#e07b39", "#8250a8", "#2a8c4a", "#c8332b"
# For comparing runs; in a sweep, VAL is reserved for the best job.
PALETTE = [TRAIN, VAL, RIGHT, EMA, WRONG, "#1797a6", "#946b2d", "#d0589c", "#9aa3ad", INK]
SHADES = LinearSegmentedColormap.from_list("shades", ["#c9d7e8", "#86abd6", TRAIN, "#0f3460"])
TINY = np.finfo(float).tiny


def add_panel(figure: Figure, box: Box, xlabel: str = "epoch") -> Axes:
    """Return axes at a box in fractions of the figure, with integer ticks on the x-axis."""
    axes = figure.add_axes(box)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(xlabel, labelpad=2, **text(9, MUTED))
    return axes


def new_page(*boxes: Box) -> tuple[Figure, list[Box]]:
    """Return a figure for these boxes, in inches, and the boxes in fractions of it; `save(crop=True)` adds margins."""
    width, height = (max(box[i] + box[i + 2] for box in boxes) for i in (0, 1))
    figure = Figure((width, height), dpi=150, facecolor="white")
    return figure, [(box[0] / width, box[1] / height, box[2] / width, box[3] / height) for box in boxes]


def in_points(axes: Axes) -> tuple[float, float]:
    """Return the width and height of axes in points, the unit of font sizes."""
    box, dpi = axes.get_window_extent(), axes.figure.dpi
    return 72 * box.width / dpi, 72 * box.height / dpi


def write_title(axes: Axes, title: str, note: str = "", color: str = MUTED) -> None:
    """Write a title above the left end of a panel and a note above its right end."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(title, (0, 1), (0, 10), **place, **text(11, weight="bold"))
    if note:
        axes.annotate(note, (1, 1), (0, 10), **place, **text(9, color, ha="right"))


def write_caption(axes: Axes, caption: str, points: float = 8.0) -> None:
    """Write below a figure, at its left end, what is seen and what would be good; `save(crop=True)` makes room."""
    figure: Any = axes.figure
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # both in inches
    lines = _wrap(caption, max(72 * (box.x1 - box.x0), 180) / 8.5)
    corner = box.x0 / width, box.y0 / height
    below = figure.transFigure + ScaledTranslation(0, -points / 72, figure.dpi_scale_trans)
    figure.text(*corner, "\n".join(lines), transform=below, linespacing=1.35, **text(8.5, MUTED, va="top"))


def _wrap(caption: str, width: float) -> list[str]:
    """Return the text in lines of at most that width, in ems."""
    lines = [""]
    for word in caption.split():
        if lines[-1] and measure(f"{lines[-1]} {word}") > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def write_instead(axes: Axes, message: str) -> None:
    """Write why a panel is empty, on top of whatever is drawn there."""
    axes.set(xticks=[], yticks=[])
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 4}
    axes.text(
        0.5, 0.5, message, transform=axes.transAxes, zorder=6, bbox=behind, **text(10, MUTED, ha="center", va="center")
    )


def add_legend(axes: Axes, lines: Sequence[Artist], names: list[str], points: float) -> None:
    """Draw a legend below a panel, `points` wide, in as many columns as fit; long names are cut."""
    size, handle, gap = 8.5, 23.0, 12.0
    longest = max(measure(name) for name in names) * size + handle
    most = len(names) if len(names) <= 4 else math.ceil(len(names) / 2)
    columns = int(np.clip((points + gap) // (longest + gap), 1, most))
    below = 34 / in_points(axes)[1]  # below the tick labels and the axis label
    legend = axes.legend(
        lines, ["."] * len(names), loc="upper left", bbox_to_anchor=(0, -below), ncols=columns, frameon=False,
        borderpad=0, borderaxespad=0, handlelength=1.8, columnspacing=1.4, labelspacing=0.4, fontsize=size,
    )  # fmt: skip
    # Set the names afterward, because matplotlib skips labels that start with an underscore.
    for entry, name in zip(legend.get_texts(), tell_apart(names, (points - handle) / size, shorten), strict=True):
        entry.set(text=name, **text(size))


def shade(values: Floats) -> Normalize:
    """Return the range of SHADES over the finite values; values far below the others do not stretch it."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Normalize(0, 1)
    quarter, three_quarters = np.quantile(values, [0.25, 0.75])
    fence = quarter - 1.5 * (three_quarters - quarter)  # Tukey's
    low, high = max(fence, values.min()), values.max()
    return Normalize(low, high) if high > low else Normalize(low - 1, high)


def new_canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure filled by one axes, in inches; `save(crop=True)` makes room for its labels."""
    figure = Figure((width, height), dpi=150, facecolor="white")
    return figure, figure.add_axes((0, 0, 1, 1))


def add_bar(axes: Axes, image: ScalarMappable, width: float, title: str, size: float) -> Colorbar:
    """Draw a color bar next to axes that are `width` inches wide."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1 + 0.15 / width, 0, 0.14 / width, 1)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=0.8 * size, length=2)
    bar.set_label(title, **text(0.9 * size, MUTED))
    return bar


def finite(values: list[float]) -> Floats:
    """Return floats, with NaN in place of values that an axis cannot show."""
    array = np.array(values, dtype=float)
    array[~(np.abs(array) < 1e30)] = np.nan
    return array


def known(values: Floats) -> Floats:
    """Return floats, with zero in place of NaN and infinity: a diverged run gets its figures too."""
    return np.where(np.isfinite(values), values, 0.0).astype(np.float64)


def save(figure: Figure, path: Path, crop: bool = False) -> None:
    """Write a PNG atomically; `crop` fits the page to its content."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        figure.savefig(partial, facecolor="white", bbox_inches="tight" if crop else None, pad_inches=0.12)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
