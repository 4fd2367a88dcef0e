"""Parallel coordinates for three or more settings: an axis per setting, a line per group."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .letters import MUTED, text, wrap
from .scales import STACKED, TICK_SIZE, Scale, build_scale, tick
from .scores import Scores
from .style import SHADES, VAL, Floats, in_points, shade


def draw_parallel(axes: Axes, settings: dict[str, list[Any]], scores: Scores) -> None:
    """Draw each group as a line from its settings to its accuracy in %, the best one thick and in front.

    The line of a group without a finished job ends before the accuracy.
    """
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(0, len(settings)), ylim=(0, 1), xticks=[], yticks=[], xlabel="")
    for index, (key, values) in enumerate(settings.items()):
        _draw_axis(axes, index, key, build_scale(values))
    reached = np.unique(scores.means[np.isfinite(scores.means)]).tolist()
    accuracies = Scale("linear", reached or [0.0, 100.0])
    _draw_axis(axes, len(settings), "accuracy (%)", accuracies)
    heights = [build_scale(values).share(values) for values in settings.values()]
    _draw_groups(axes, np.array([*heights, accuracies.share(scores.means.tolist())]), scores)


def _draw_groups(axes: Axes, heights: Floats, scores: Scores) -> None:
    """Draw heights (axes, groups), better groups in front."""
    norm, ranks = shade(scores.means), np.argsort(np.argsort(np.nan_to_num(scores.means, nan=-1)))
    for group, (mean, rank) in enumerate(zip(scores.means, ranks, strict=True)):
        known = np.isfinite(mean)
        color, width, alpha = (SHADES(norm(mean)) if known else MUTED), 1.2, 0.8
        if group == scores.best:
            color, width, alpha, rank = VAL, 3, 1, len(ranks)
        axes.plot(
            heights[:, group], color=color, lw=width, alpha=alpha, ls="-" if known else ":",
            zorder=2 + rank / len(ranks), solid_joinstyle="round", clip_on=False, label=f"group {group}",
        )  # fmt: skip


def _draw_axis(axes: Axes, index: int, key: str, scale: Scale) -> None:
    """Draw one vertical axis with its name below it and its tick labels to the right, in front of the lines."""
    width, height = in_points(axes)
    across = width / axes.get_xlim()[1]
    axes.plot([index, index], [0, 1], color=MUTED, lw=1, zorder=1.5, clip_on=False)
    name = wrap(key, (across - 8) / TICK_SIZE)
    axes.annotate(name, (index, 0), (0, -12), textcoords="offset points", **text(TICK_SIZE, ha="center", va="top"))
    values = scale.ticks(height, STACKED)
    for value, share in zip(values, scale.share(values), strict=True):
        axes.plot([index], [share], "_", color=MUTED, ms=5, mew=1, zorder=1.5, clip_on=False)
        axes.annotate(
            tick(value, (across - 16) / TICK_SIZE), (index, share), (5, 0), textcoords="offset points", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
            **text(TICK_SIZE, ha="left", va="center"),
        )  # fmt: skip
