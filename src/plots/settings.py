"""Accuracies by swept setting: a line for one setting, a heat map or scatter plot for two, a row of dots for none."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .letters import INK, MUTED, text
from .scales import LISTED_VALUES, Scale, build_scale, scale_axis, spell
from .scores import Scores
from .style import GRID, SHADES, TRAIN, VAL, Floats, add_bar, in_points, shade

EMPTY = "#f1f3f6"  # a cell without a finished job

Settings = dict[str, list[Any]]


def draw_repeats(axes: Axes, scores: Scores) -> None:
    """Draw all jobs in a row, their mean and one standard deviation around it, if only the seed differs."""
    percents = np.concatenate([np.empty(0), *scores.percents])
    axes.plot(np.arange(1, len(percents) + 1), percents, "o", color=TRAIN, ms=5, label="job")
    if len(percents) > 1:
        axes.axhline(percents.mean(), color=MUTED, lw=1.2, ls="--", zorder=1, label="mean")
        low, high = percents.mean() + np.array([-1, 1]) * percents.std(ddof=1)
        axes.axhspan(low, high, color=TRAIN, alpha=0.1, lw=0, zorder=0)
    _ring(axes, 1 + int(np.argmax(percents)), percents.max())
    axes.set_xlim(0.5, len(percents) + 0.5)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    axes.set_xlabel("repeat", **text(9, MUTED))


def draw_line(axes: Axes, key: str, values: list[Any], scores: Scores) -> None:
    """Draw means, standard deviations and jobs over the values of one setting."""
    scale = build_scale(values)
    places = scale.place(values)
    order = np.argsort(places, kind="stable")
    for place, percents in zip(places, scores.percents, strict=True):
        if len(percents) > 1:
            axes.plot(np.full(len(percents), place), percents, "o", color=TRAIN, ms=4.5, alpha=0.4, mew=0, label="job")
    # A line between names has no meaning, and between many random numbers it shows only noise.
    dashes = ":" if scale.kind == "category" else "-"
    width, alpha = (1.6, 1.0) if len(values) <= LISTED_VALUES else (0.7, 0.4)
    axes.plot(places[order], scores.means[order], color=TRAIN, lw=width, ls=dashes, alpha=alpha, label="mean")
    axes.errorbar(places, scores.means, scores.deviations, color=TRAIN, fmt="o", ms=5, elinewidth=1.1, capsize=3)
    if scores.best is not None:
        _ring(axes, places[scores.best], scores.means[scores.best])
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    scale_axis(axes, "x", scale, key)


def is_grid(settings: Settings) -> bool:
    """Return whether two settings were combined value by value, not drawn at random."""
    columns, rows = (len({spell(value) for value in values}) for values in settings.values())
    groups = len(next(iter(settings.values())))
    return max(columns, rows) <= LISTED_VALUES and 3 * groups > columns * rows


def draw_grid(axes: Axes, settings: Settings, scores: Scores) -> None:
    """Draw a cell for each combination of two settings, the one with more values horizontally."""
    across, down = sorted(settings, key=lambda key: -len(set(map(spell, settings[key]))))
    # All cells have the same size, so for numbers too only the order counts.
    scales = {key: Scale("category", build_scale(settings[key]).values) for key in (across, down)}
    columns, rows = (scales[key].place(settings[key]).astype(int) for key in (across, down))
    cells = np.full((rows.max() + 1, columns.max() + 1), np.nan)
    for row, column in set(zip(rows, columns, strict=True)):
        group = np.concatenate([scores.percents[i] for i in np.flatnonzero((rows == row) & (columns == column))])
        cells[row, column] = group.mean() if len(group) else np.nan
    axes.imshow(cells, cmap=SHADES, norm=shade(cells), aspect="auto", origin="lower")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_facecolor(EMPTY)
    scale_axis(axes, "x", scales[across], across)
    scale_axis(axes, "y", scales[down], down)
    _write_cells(axes, cells)


def _write_cells(axes: Axes, cells: Floats) -> None:
    size, norm = min(11, in_points(axes)[0] / cells.shape[1] / 3.6), shade(cells)
    for row, column in np.ndindex(*cells.shape):
        corner = column - 0.5, row - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="white", lw=1.5))
        if np.isfinite(cells[row, column]):
            color = "white" if norm(cells[row, column]) > 0.45 else INK
            axes.text(column, row, f"{cells[row, column]:.1f}", **text(size, color, ha="center", va="center"))
    if np.isfinite(cells).any():
        row, column = np.argwhere(cells == np.nanmax(cells))[0]
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=VAL, lw=2.5, label="best", zorder=3))


def draw_scatter(axes: Axes, settings: Settings, scores: Scores) -> None:
    """Draw a dot for each combination of two settings, hollow if it has no finished job."""
    across, up = settings
    scales = {key: build_scale(settings[key]) for key in settings}
    x, y = (scales[key].place(settings[key]) for key in settings)
    order = np.argsort(scores.means)  # better ones in front; NaN last
    missing = np.isnan(scores.means)
    axes.plot(x[missing], y[missing], "o", mfc="none", mec=MUTED, ms=6, mew=0.8)
    dots = axes.scatter(x[order], y[order], c=scores.means[order], s=46, cmap=SHADES, norm=shade(scores.means), lw=0)
    if scores.best is not None:
        _ring(axes, x[scores.best], y[scores.best])
        add_bar(axes, dots, in_points(axes)[0] / 72, "", 10)
    axes.grid(axis="both", color=GRID, lw=0.8)
    scale_axis(axes, "x", scales[across], across)
    scale_axis(axes, "y", scales[up], up)


def _ring(axes: Axes, x: float, y: float) -> None:
    axes.plot(x, y, "o", ms=11, mfc="none", mec=VAL, mew=2, zorder=5, label="best")
