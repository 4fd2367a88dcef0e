"""A run over its epochs: loss, accuracy, learning rate."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .letters import INK, text
from .style import EMA, TRAIN, VAL, Floats, add_panel, finite, save

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DOTTED_EPOCHS = 12  # up to here every epoch is a dot: one point alone draws no line


def plot_curves(metrics: dict[str, list[float]], path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs; averaged weights, "ema", have curves of their own.

    Columns as in metrics.csv; accuracies are fractions. Other columns are ignored, missing ones left out.
    """
    save(_draw_curves(metrics), path)


def _draw_curves(metrics: dict[str, list[float]]) -> Figure:
    averaged = "ema_val_acc" in metrics
    names = {"train": "train", "val": "val", **({"ema": "ema_val"} if averaged else {})}
    columns = {name: finite(metrics.get(name, [])) for name in ("epoch", "lr")}
    columns |= {f"{split}_loss": finite(metrics.get(f"{name}_loss", [])) for split, name in names.items()}
    columns |= {f"{split}_acc": 100 * finite(metrics.get(f"{name}_acc", [])) for split, name in names.items()}
    exponent = _exponent(columns["lr"])
    columns["lr"] = columns["lr"] / 10.0**exponent
    unit = f" (×10{str(exponent).translate(SUPERSCRIPTS)})" if exponent else ""
    figure = Figure((12, 3.3), dpi=100, facecolor="white")
    panels = [add_panel(figure, left) for left in (0.04, 0.375, 0.71)]
    for axes, title in zip(panels, ("Loss", "Accuracy (%)", "Learning rate" + unit), strict=True):
        axes.text(0, 1.05, title, transform=axes.transAxes, **text(11, weight="bold"))
    for axes, metric in zip(panels, ("loss", "acc"), strict=False):
        for split, color, x in zip(names, (TRAIN, VAL, EMA), (0.68, 0.84, 1) if averaged else (0.84, 1), strict=False):
            _draw_line(axes, columns, f"{split}_{metric}", color)
            axes.text(x, 1.05, f"━ {split}", transform=axes.transAxes, **text(9, color, ha="right"))
    panels[1].set_ylim(top=min(panels[1].get_ylim()[1], 101))
    kept = max(
        ("val", "ema") if averaged else ("val",), key=lambda split: np.nanmax(columns[f"{split}_acc"], initial=0)
    )
    color = EMA if kept == "ema" else VAL
    _mark_best(panels[1], columns["epoch"], columns[f"{kept}_acc"], columns[f"{kept}_loss"], color)
    _draw_line(panels[2], columns, "lr", INK)
    panels[2].set_ylim(bottom=0)
    return figure


def _draw_line(axes: Axes, columns: dict[str, Floats], name: str, color: str) -> None:
    shared = min(len(columns["epoch"]), len(columns[name]))
    epochs, marker = columns["epoch"][:shared], "o" if shared <= DOTTED_EPOCHS else ""
    axes.plot(epochs, columns[name][:shared], color=color, lw=1.6, marker=marker, ms=4, label=name, clip_on=False)
    if shared == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
        axes.margins(y=0.3)


def _mark_best(axes: Axes, epochs: Floats, accuracies: Floats, losses: Floats, color: str) -> None:
    """Ring the epoch of the highest validation accuracy, of equal ones that of the lowest loss, and name it."""
    accuracies = accuracies[: len(epochs)]
    losses = losses[: len(epochs)] if len(losses) >= len(accuracies) else np.zeros(len(accuracies))
    if np.isnan(accuracies).all():
        return
    best = int(np.lexsort((losses, -accuracies))[0])  # NaN comes last
    late = bool(epochs[best] > np.mean(axes.get_xlim()))
    axes.axvline(epochs[best], color=color, lw=0.9, ls=":", zorder=1)
    axes.plot(epochs[best], accuracies[best], "o", color=color, ms=8, mfc="white", mew=1.8, label="best")
    axes.annotate(
        f"best {accuracies[best]:.2f} %, epoch {epochs[best]:g}",
        (epochs[best], 0.05), xycoords=("data", "axes fraction"),
        xytext=(-6 if late else 6, 0), textcoords="offset points",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        **text(9, color, ha="right" if late else "left"),
    )  # fmt: skip


def _exponent(values: Floats) -> int:
    """Return the power of ten to take out of the tick labels; 0 where they read well as they are."""
    greatest = float(np.nan_to_num(np.abs(values)).max(initial=0))
    exponent = math.floor(math.log10(greatest)) if greatest > 0 else 0
    return exponent if exponent < -1 or exponent > 2 else 0
