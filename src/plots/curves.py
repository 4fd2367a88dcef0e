"""Training curves: loss, accuracy and learning rate of one run; loss and accuracy of several."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .letters import INK, MUTED, text
from .style import (
    EMA,
    PALETTE,
    TRAIN,
    VAL,
    Floats,
    add_legend,
    add_panel,
    finite,
    new_page,
    save,
    write_instead,
    write_title,
)

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DOTTED_EPOCHS = 12  # up to this many, each epoch gets a marker: a line through one point is invisible
CAPTION = (
    "Good: both losses fall. A validation loss that rises while the training loss falls is overfitting: more "
    "augmentation or fewer epochs. Training images are augmented, so that they may look harder."
)
WIDTH, HEIGHT = 5.4, 3.2  # of a panel in a comparison, in inches


def plot_curves(metrics: dict[str, list[float]], path: Path) -> None:
    """Draw loss, accuracy and learning rate by epoch; averaged weights, "ema", get their own curves.

    Columns as in metrics.csv; accuracies are fractions. Other columns are ignored, missing ones are not drawn.
    """
    save(_draw_curves(metrics), path)


def plot_comparison(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw loss and accuracy of several runs by epoch, in a color for each, with their best epochs circled.

    Columns of each run as in metrics.csv; any may be missing. The validation curve is that of the averaged weights if
    they did better, because the run kept those.
    """
    save(_draw_comparison(curves), path, crop=True)


def _draw_curves(metrics: dict[str, list[float]]) -> Figure:
    averaged = "ema_val_acc" in metrics
    names = {"train": "train", "val": "val", **({"ema": "ema_val"} if averaged else {})}
    columns = {name: finite(metrics.get(name, [])) for name in ("epoch", "lr")}
    columns |= {f"{split}_loss": finite(metrics.get(f"{name}_loss", [])) for split, name in names.items()}
    columns |= {f"{split}_acc": 100 * finite(metrics.get(f"{name}_acc", [])) for split, name in names.items()}
    exponent = _exponent(columns["lr"])
    columns["lr"] = columns["lr"] / 10.0**exponent
    unit = f" (×10{str(exponent).translate(SUPERSCRIPTS)})" if exponent else ""
    figure = Figure((12, 3.5), dpi=100, facecolor="white")
    panels = [add_panel(figure, (left, 0.19, 0.275, 0.68)) for left in (0.04, 0.375, 0.71)]
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
    figure.text(0.04, 0.01, CAPTION, **text(8.5, MUTED, va="bottom"))
    return figure


def _draw_line(axes: Axes, columns: dict[str, Floats], name: str, color: str) -> None:
    shared = min(len(columns["epoch"]), len(columns[name]))
    epochs, marker = columns["epoch"][:shared], "o" if shared <= DOTTED_EPOCHS else ""
    axes.plot(epochs, columns[name][:shared], color=color, lw=1.6, marker=marker, ms=4, label=name, clip_on=False)
    if shared == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
        axes.margins(y=0.3)


def _mark_best(axes: Axes, epochs: Floats, accuracies: Floats, losses: Floats, color: str) -> None:
    """Circle the best epoch and label it."""
    best = _best_epoch(accuracies[: len(epochs)], losses)
    if best is None:
        return
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


def _best_epoch(accuracies: Floats, losses: Floats) -> int | None:
    """Return the index of the highest validation accuracy, with the lowest loss among equals."""
    losses = losses[: len(accuracies)] if len(losses) >= len(accuracies) else np.zeros(len(accuracies))
    if np.isnan(accuracies).all():
        return None
    return int(np.lexsort((losses, -accuracies))[0])  # NaN comes last


def _exponent(values: Floats) -> int:
    """Return the power of ten to factor out of the tick labels; 0 if they are readable without it."""
    greatest = float(np.nan_to_num(np.abs(values)).max(initial=0))
    exponent = math.floor(math.log10(greatest)) if greatest > 0 else 0
    return exponent if exponent < -1 or exponent > 2 else 0


def _draw_comparison(curves: dict[str, dict[str, list[float]]]) -> Figure:
    figure, boxes = new_page((0, 0, WIDTH, HEIGHT), (WIDTH + 0.6, 0, WIDTH, HEIGHT))
    panels = [add_panel(figure, box) for box in boxes]
    write_title(panels[0], "Loss", "━ validation   ┈ training   ○ best epoch")
    write_title(panels[1], "Accuracy (%)")
    names, lines = [], []
    for index, (name, metrics) in enumerate(curves.items()):
        color = PALETTE[index % len(PALETTE)]
        best = _draw_run(panels, {key: finite(values) for key, values in metrics.items()}, color)
        names.append(f"{name} — {best}" if best else name)
        lines.append(Line2D([], [], color=color, lw=2))
    for axes in panels:
        if not np.isfinite(np.concatenate([np.empty(0), *(line.get_ydata() for line in axes.lines)])).any():
            write_instead(axes, "no numbers yet")
    panels[1].set_ylim(top=min(panels[1].get_ylim()[1], 101))
    if curves:
        add_legend(panels[0], lines, names, 72 * (2 * WIDTH + 0.6))
    return figure


def _draw_run(panels: list[Axes], columns: dict[str, Floats], color: str) -> str:
    """Draw one run's curves in both panels, circle its best epoch, and return its accuracy there as text."""
    accuracies = {split: columns.get(f"{split}_acc", np.empty(0)) for split in ("val", "ema_val")}
    kept = max(accuracies, key=lambda split: np.nanmax(accuracies[split], initial=0))
    losses = columns.get(f"{kept}_loss", np.empty(0))
    best = _best_epoch(accuracies[kept], losses) if len(accuracies[kept]) else _best_epoch(-losses, losses)
    epochs = columns.get("epoch", np.empty(0))
    for axes, metric, unit in zip(panels, ("loss", "acc"), (1, 100), strict=True):
        for split, width, dashes in (("train", 1.1, ":"), (kept, 1.6, "-")):
            values = unit * columns.get(f"{split}_{metric}", np.empty(0))[: len(epochs)]
            dot = "o" if np.isfinite(values).sum() == 1 else ""
            axes.plot(epochs[: len(values)], values, color=color, lw=width, ls=dashes, marker=dot, ms=4, label=split)
            if split == kept and best is not None and best < len(values):
                axes.plot(
                    epochs[best], values[best], "o", color=color, ms=8, mfc="white", mew=1.8, zorder=3, label="best"
                )
    return "" if best is None or not len(accuracies[kept]) else f"{100 * accuracies[kept][best]:.2f} %"
