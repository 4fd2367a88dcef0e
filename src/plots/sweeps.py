"""A sweep: accuracies by setting, and the validation curves of all jobs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .curves import DOTTED_EPOCHS
from .letters import MUTED
from .parallel import draw_parallel
from .scores import Scores, describe, summarize
from .settings import draw_grid, draw_line, draw_repeats, draw_scatter, is_grid
from .style import (
    PALETTE,
    SHADES,
    VAL,
    Floats,
    add_legend,
    add_panel,
    finite,
    new_page,
    save,
    shade,
    write_instead,
    write_title,
)

NAMED_CURVES = 8  # up to this many, each curve has its own color and legend entry
WIDTH, HEIGHT, GAP = 5.2, 3.2, 0.85  # inches
AXIS_WIDTH = 1.45  # inches per parallel axis: enough for a key on two lines, or a value's name

Curves = dict[str, tuple[list[float], list[float]]]
Best = tuple[str, float]


def plot_sweep(
    settings: dict[str, list[Any]], scores: list[list[float]], curves: Curves, best: Best | None, path: Path
) -> None:
    """Draw accuracies (fractions) by the swept settings, next to the validation curves of all jobs.

    settings: for each swept key, its value in each of n groups; scores: for each group, the accuracies of its finished
    jobs (other seeds); curves: for each job, its epochs and accuracies; best: the job to highlight and its best epoch,
    for which another metric may have decided among equal accuracies.
    """
    save(_draw_sweep(settings, scores, curves, best), path, crop=True)


def _draw_sweep(settings: dict[str, list[Any]], scores: list[list[float]], curves: Curves, best: Best | None) -> Figure:
    settings = {key: values for key, values in settings.items() if values}
    width = max(WIDTH, AXIS_WIDTH * len(settings)) if len(settings) > 2 else WIDTH
    gap = GAP + (0.35 if len(settings) > 1 else 0)  # the color bar, the ticks of the last parallel axis
    figure, boxes = new_page((0, 0, width, HEIGHT), (width + gap, 0, WIDTH, HEIGHT))
    _draw_scores(add_panel(figure, boxes[0], ""), settings, summarize(scores))
    _draw_jobs(add_panel(figure, boxes[1]), curves, best)
    return figure


def _draw_scores(axes: Axes, settings: dict[str, list[Any]], scores: Scores) -> None:
    write_title(axes, "Best validation accuracy (%)", *_name_best(settings, scores))
    if scores.best is None:
        write_instead(axes, "no job has finished yet")
    if len(settings) > 2:
        draw_parallel(axes, settings, scores)
    elif len(settings) == 2:
        (draw_grid if is_grid(settings) else draw_scatter)(axes, settings, scores)
    elif settings:
        draw_line(axes, *next(iter(settings.items())), scores)
    elif scores.best is not None:
        draw_repeats(axes, scores)


def _name_best(settings: dict[str, list[Any]], scores: Scores) -> tuple[str, str]:
    """Return a note on the best group, or without settings on all jobs, and its color."""
    if scores.best is None:
        return "", VAL
    if not settings:
        return describe(np.concatenate(scores.percents)), MUTED
    return f"best {describe(scores.percents[scores.best])}", VAL


def _draw_jobs(axes: Axes, curves: Curves, chosen: Best | None) -> None:
    best, epoch = chosen or (None, math.nan)
    lines = {name: _pair(*curve) for name, curve in curves.items()}
    lines = {name: line for name, line in lines.items() if np.isfinite(line[1]).any()}
    ranked = sorted(lines, key=lambda name: -np.nanmax(lines[name][1]))
    note = "" if best is None or best not in lines else _ring_best(axes, *lines[best], epoch)
    write_title(axes, "Validation accuracy (%)", note, VAL)
    if not lines:
        write_instead(axes, "no epoch has finished yet")
        return
    colors = _color_jobs({name: percents for name, (_, percents) in lines.items()}, best)
    drawn = {name: _draw_job(axes, *lines[name], colors[name], name == best, len(lines)) for name in reversed(ranked)}
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    named = [name for name in ranked if len(ranked) <= NAMED_CURVES or name == best]
    if named:
        entries = [f"{name} — {np.nanmax(lines[name][1]):.2f} %" for name in named]
        add_legend(axes, [drawn[name] for name in named], entries, 72 * WIDTH)


def _pair(epochs: list[float], accuracies: list[float]) -> tuple[Floats, Floats]:
    """Return epochs and accuracies in %, cut to the same length."""
    shared = min(len(epochs), len(accuracies))
    return finite(epochs[:shared]), 100 * finite(accuracies[:shared])


def _draw_job(axes: Axes, epochs: Floats, percents: Floats, color: Any, best: bool, among: int) -> Line2D:
    few = among <= NAMED_CURVES and len(epochs) <= DOTTED_EPOCHS
    marker = "o" if few or np.isfinite(percents).sum() == 1 else ""
    width, size, front = (2.8, 5, 4) if best else (1.2, 4, 2)
    return axes.plot(epochs, percents, color=color, lw=width, marker=marker, ms=size, zorder=front, clip_on=False)[0]


def _ring_best(axes: Axes, epochs: Floats, percents: Floats, epoch: float) -> str:
    """Circle the best epoch of the best job, and return a note on it."""
    index = int(np.argmax(epochs == epoch)) if epoch in epochs else int(np.nanargmax(percents))
    axes.plot(epochs[index], percents[index], "o", ms=9, mfc="white", mec=VAL, mew=2, zorder=5, clip_on=False)
    return f"━ best {percents[index]:.2f} %, epoch {epochs[index]:g}"


def _color_jobs(percents: dict[str, Floats], best: str | None) -> dict[str, Any]:
    """Return a color for each job: distinct colors for few jobs, shades by the last accuracy for many."""
    if len(percents) <= NAMED_CURVES:
        others = [color for color in PALETTE if color != VAL]
        colors: dict[str, Any] = dict(zip((name for name in percents if name != best), others, strict=False))
    else:
        last = {name: values[np.isfinite(values)][-1] for name, values in percents.items()}
        norm = shade(np.array(list(last.values())))
        colors = {name: SHADES(norm(value)) for name, value in last.items()}
    return colors | {name: VAL for name in percents if name == best}
