"""A hyperparameter search: its trials in order, and the importance of each setting."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .letters import MUTED, shorten, tell_apart, text
from .style import (
    TRAIN,
    VAL,
    Floats,
    add_legend,
    add_panel,
    finite,
    known,
    new_page,
    save,
    write_caption,
    write_instead,
    write_title,
)

WIDTH, HEIGHT = 6.4, 3.2  # inches
BAR = 0.3  # inches from one bar to the next
KEY_WIDTH = 26.0  # ems
RELIABLE = 30  # finished trials, from which on an estimate of importances says more than noise


def plot_search_history(values: list[float | None], pruned: list[bool], path: Path) -> None:
    """Draw the accuracies (fractions) of all trials in order, and the best so far among those not pruned.

    A trial without a value, None, is a cross at the bottom.
    """
    save(_draw_search_history(values, pruned), path, crop=True)


def plot_importances(importances: dict[str, float], num_trials: int, path: Path) -> None:
    """Draw the share of each setting in the differences between trials, from 0 to 1, largest on top.

    num_trials: from which it was estimated; few are said to be few.
    """
    save(_draw_importances(importances, num_trials), path, crop=True)


def _draw_search_history(values: list[float | None], pruned: list[bool]) -> Figure:
    figure, (box,) = new_page((0, 0, WIDTH, HEIGHT))
    axes = add_panel(figure, box, "trial")
    percents = 100 * finite([np.nan if value is None else value for value in values])
    stopped, missing = np.array(pruned, dtype=bool), np.isnan(percents)
    note = _draw_best_so_far(axes, np.where(stopped, np.nan, percents))
    write_title(axes, "Validation accuracy (%)", note, VAL)
    if missing.all():
        write_instead(axes, "no trial has a value yet")
    _draw_trials(axes, percents, stopped)
    axes.set_xlim(-0.5 - 0.02 * len(values), max(len(values), 1) - 0.5 + 0.02 * len(values))
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    lines = [line for line in axes.lines if np.size(line.get_xdata()) and line.get_label() != "best"]
    if lines:
        add_legend(axes, lines, [str(line.get_label()) for line in lines], 72 * WIDTH)
    return figure


def _draw_trials(axes: Axes, percents: Floats, stopped: NDArray[np.bool_]) -> None:
    missing = np.isnan(percents)
    for kind, which, fill, edge in (("finished", ~stopped, TRAIN, TRAIN), ("pruned", stopped, "white", MUTED)):
        trials = np.flatnonzero(which & ~missing)
        axes.plot(trials, percents[trials], "o", ms=4.5, mfc=fill, mec=edge, mew=0.9, label=kind)
    nothing = np.flatnonzero(missing)
    below = axes.get_xaxis_transform()
    axes.plot(nothing, np.full(len(nothing), 0.03), "x", color=MUTED, ms=5, transform=below, label="no value")


def _draw_best_so_far(axes: Axes, percents: Floats) -> str:
    """Draw the best value up to each trial, circle the best trial, and return a label for it."""
    if np.isnan(percents).all():
        return ""
    best = int(np.nanargmax(percents))
    heights = np.fmax.accumulate(percents)
    axes.plot(np.arange(len(percents)), heights, color=VAL, lw=1.6, drawstyle="steps-post", label="best so far")
    axes.plot(best, percents[best], "o", ms=10, mfc="none", mec=VAL, mew=1.8, label="best")
    return f"best {percents[best]:.2f} %, trial {best}"


def _draw_importances(importances: dict[str, float], num_trials: int) -> Figure:
    keys = sorted(importances, key=lambda key: -known(np.array(importances[key])))
    shares = known(np.array([importances[key] for key in keys]))
    figure, (box,) = new_page((0, 0, WIDTH, BAR * max(len(keys), 2)))
    axes = add_panel(figure, box, "")
    doubt = f": too few to rely on, {RELIABLE} tell more" if num_trials < RELIABLE else ""
    write_title(
        axes, "Importance of each setting", f"from {num_trials} finished trials{doubt}", VAL if doubt else MUTED
    )
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    if not keys:
        write_instead(axes, "nothing to compare yet")
        return figure
    rows = np.arange(len(keys))
    axes.barh(rows, shares, height=0.62, color=TRAIN)
    for row, share in zip(rows, shares, strict=True):
        axes.annotate(f"{share:.2f}", (share, row), (5, 0), textcoords="offset points", **text(9, va="center"))
    axes.set(xlim=(0, 1), ylim=(len(keys) - 0.5, -0.5))
    axes.set_yticks(rows, labels=tell_apart(keys, KEY_WIDTH, shorten), **text(9))
    axes.tick_params(length=0)
    write_caption(
        axes,
        "The share of each setting in the differences in accuracy between the trials, estimated by fANOVA (Hutter et "
        "al., ICML 2014). It holds for the values that were searched, and says nothing about which of them is best.",
    )
    return figure
