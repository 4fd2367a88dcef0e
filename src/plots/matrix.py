"""The confusion matrix."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .letters import INK, MUTED, label, measure, tell_apart, text
from .style import GRID, Counts, Floats, add_bar, new_canvas, save, write_caption

COUNTED_CLASSES = 20  # up to this many classes, cells show their counts
NAMED_PAIRS = 5  # of confused classes, in the caption
NAMED_CLASSES = 150  # beyond this, the figure stops growing and labels only every second, third … class


def plot_confusion_matrix(confusion: Counts, classes: list[str], path: Path) -> None:
    """Draw counts (K, K), true rows and predicted columns, colored by their share of the row."""
    save(_draw_confusion_matrix(confusion, classes), path, crop=True)


def _draw_confusion_matrix(confusion: Counts, classes: list[str]) -> Figure:
    num = len(classes)
    cell = float(np.interp(num, [2, 10, 20, 40, 100], [0.9, 0.55, 0.42, 0.25, 0.165]))  # inches
    side = cell * min(num, NAMED_CLASSES)
    figure, axes = new_canvas(side, side)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root shows confusions of a few percent, which are white on a linear scale.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.spines[:].set_color(MUTED)
    _name_classes(axes, classes, side * 72)
    if num <= COUNTED_CLASSES:
        _write_counts(axes, confusion, shares, cell * 72)
    if num <= NAMED_CLASSES:
        axes.set_xticks(np.arange(num - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(num - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=GRID, lw=min(0.8, 2 * cell))
        axes.tick_params(which="minor", length=0)
    size = float(np.clip(1.6 * side, 10, 18))
    accuracy = 100 * np.trace(confusion) / max(confusion.sum(), 1)
    title = f"{accuracy:.2f} % of {confusion.sum():,} correct"
    axes.set_title(title, loc="left", pad=size, **text(size, weight="bold"))
    axes.set_xlabel("predicted", labelpad=size / 2, **text(size, MUTED))
    axes.set_ylabel("true", labelpad=size / 2, **text(size, MUTED))
    bar = add_bar(axes, image, side, "share of the true class", size)
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_ticklabels(["0 %", "1 %", "5 %", "10 %", "25 %", "50 %", "100 %"])
    write_caption(axes, f"Good: color on the diagonal only. {_list_confusions(confusion, classes)}")
    return figure


def _list_confusions(confusion: Counts, classes: list[str]) -> str:
    """Return a sentence with the pairs of classes that are confused most, which a large matrix hides."""
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NAMED_PAIRS]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in order]
    named = [
        f"{label(classes[true], 12)} taken for {label(classes[guess], 12)} ({wrong[true, guess]})"
        for true, guess in pairs
        if wrong[true, guess]
    ]
    return f"Most often: {', '.join(named)}." if named else "No image was confused."


def _name_classes(axes: Axes, classes: list[str], points: float) -> None:
    """Label both axes, which are `points` long, with as many class names as fit without overlap."""
    num = len(classes)
    step = math.ceil(num / NAMED_CLASSES)
    size = min(10.0, 0.66 * points * step / num)
    names = tell_apart(classes, 13)
    level = max(map(measure, names)) * size < 0.9 * points * step / num
    axes.set_xticks(range(0, num, step), labels=names[::step], rotation=0 if level else 90, **text(size))
    axes.set_yticks(range(0, num, step), labels=names[::step], **text(size))
    axes.tick_params(length=2, color=MUTED)


def _write_counts(axes: Axes, confusion: Counts, shares: Floats, points: float) -> None:
    """Write all counts except off-diagonal zeros, which would hide the errors."""
    digits = len(str(int(confusion.max(initial=0))))
    size = min(11.0, 0.4 * points, 0.85 * points / (0.64 * digits))
    for row, column in np.argwhere((confusion > 0) | np.eye(len(confusion), dtype=bool)):
        color = "white" if shares[row, column] > 0.3 else INK
        axes.text(column, row, str(confusion[row, column]), **text(size, color, ha="center", va="center"))
