"""Image grids: predictions, augmentations, attention, neighbors."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from .letters import INK, MUTED, label, shorten, text
from .style import RIGHT, WRONG, Bytes, Floats, add_bar, known, save, write_caption


@dataclass(frozen=True)
class Shown:
    """A picture (h, w, C) of any size, the name of its file, and its class, which is only predicted unless `certain`.

    similarity: to the query, None for the query itself.
    """

    image: Bytes
    file: str
    name: str
    certain: bool
    similarity: float | None = None


def plot_predictions(
    images: Bytes, true: list[str], predicted: list[str], confidences: list[float], path: Path
) -> None:
    """Draw images (n, H, W, C), each with its predicted class, the confidence and its true class."""
    save(_draw_predictions(images, true, predicted, confidences), path, crop=True)


def plot_augmentations(images: Bytes, targets: list[list[tuple[str, float]]], path: Path) -> None:
    """Draw images (n, H, W, C), each with its class or, if labels are mixed, its classes and their shares."""
    save(_draw_augmentations(images, targets), path, crop=True)


def plot_samples(images: list[Bytes], names: list[str], path: Path) -> None:
    """Draw images of any size, (h, w, C) each, with their classes."""
    save(_draw_samples(images, names), path, crop=True)


def plot_attention(
    images: Bytes, maps: Floats, layer_names: list[str], outcomes: list[tuple[str, str]], path: Path
) -> None:
    """Draw images (n, H, W, C), each next to its attention to the patches, maps (n, L, rows, columns).

    Maps are in multiples of uniform attention and have one color scale, so that they can be compared. What gets less
    than uniform attention stays uncolored. The least and the greatest value are written below each map. outcomes: the
    true and the predicted class of each image, written below it.
    """
    save(_draw_attention(images, maps, layer_names, outcomes), path, crop=True)


def plot_neighbors(rows: list[tuple[Shown, list[Shown]]], path: Path) -> None:
    """Draw queries, each with its neighbors to the right, the most similar first."""
    save(_draw_neighbors(rows), path, crop=True)


def _draw_predictions(images: Bytes, true: list[str], predicted: list[str], confidences: list[float]) -> Figure:
    rows = math.ceil(len(images) / 8)
    figure, grid = _new_grid(rows, math.ceil(len(images) / rows), images.shape[1:3], gap=0.42)
    for index, (name, guess, confidence) in enumerate(zip(true, predicted, confidences, strict=True)):
        axes = grid.flat[index]
        _show_image(axes, images[index])
        axes.spines[:].set(visible=True, color=RIGHT if name == guess else WRONG, linewidth=2)
        _write_outcome(axes, name, f"{label(guess, 9.3)} ({100 * confidence:.0f} %)", name == guess)
    write_caption(
        grid[-1, 0],
        "Test images from all classes, with the predicted class, its probability, and the true class. Good: the wrong "
        "ones are hard for people, too, and have low probabilities.",
    )
    return figure


def _draw_augmentations(images: Bytes, targets: list[list[tuple[str, float]]]) -> Figure:
    rows = math.ceil(len(images) / 8)
    lines = max(len(target) for target in targets)
    figure, grid = _new_grid(rows, math.ceil(len(images) / rows), images.shape[1:3], gap=0.1 + 0.16 * lines)
    for axes, image, target in zip(grid.flat, images, targets, strict=False):
        _show_image(axes, image)
        for line, (name, share) in enumerate(target):
            caption = label(name, 12) if len(target) == 1 else f"{label(name, 9.3)} ({100 * share:.0f} %)"
            style = text(8.5, MUTED if line else INK, ha="center", va="top")
            axes.annotate(caption, (0.5, 0), (0, -4 - 12 * line), "axes fraction", "offset points", **style)
    write_caption(
        grid[-1, 0],
        "Training images as the model sees them, with their labels. Good: you still recognize every class; if not, "
        "choose a weaker augmentation.",
    )
    return figure


def _draw_samples(images: list[Bytes], names: list[str]) -> Figure:
    rows = math.ceil(len(images) / 8)
    shape = tuple(np.median([image.shape[:2] for image in images], axis=0))
    figure, grid = _new_grid(rows, math.ceil(len(images) / rows), shape, gap=0.26)
    for axes, image, name in zip(grid.flat, images, names, strict=False):
        _show_image(axes, image)
        axes.set_anchor("S")  # images of other shapes stand on their captions
        axes.annotate(
            label(name, 12), (0.5, 0), (0, -4), "axes fraction", "offset points", **text(8.5, ha="center", va="top")
        )
    write_caption(
        grid[-1, 0],
        "Training images before augmentation, from all classes or as many as fit, with their labels. Good: each shows "
        "what its label says; if not, correct the labels before you train.",
    )
    return figure


def _draw_attention(images: Bytes, maps: Floats, layer_names: list[str], outcomes: list[tuple[str, str]]) -> Figure:
    height, width = images.shape[1:3]
    figure, grid = _new_grid(len(images), 1 + len(layer_names), (height, width), gap=0.4)
    maps = known(maps)
    scale = LogNorm(1, max(2.0, maps.max()))  # logarithmic, because a few patches may get a hundred times the others
    for row, image, layers, (true, guess) in zip(grid, images, maps, outcomes, strict=True):
        _show_image(row[0], image)
        _write_outcome(row[0], true, label(guess, 12), true == guess)
        grey = 60 + 0.75 * _as_picture(image).mean(axis=-1, keepdims=True)
        for axes, attention in zip(row[1:], layers, strict=True):
            heat = np.asarray(scale(attention.clip(1)))  # 0 to 1
            _show_image(axes, grey)
            # Transparent where there is no more than uniform attention, so that the image stays visible under its map.
            axes.imshow(
                heat, cmap="inferno", vmin=0, vmax=1, alpha=0.8 * heat**0.7, interpolation="bilinear",
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )  # fmt: skip
            span = f"{attention.min():.2f} to {attention.max():.2f}"
            style = text(8.5, MUTED, ha="center", va="top")
            axes.annotate(span, (0.5, 0), (0, -4), "axes fraction", "offset points", **style)
    for axes, name in zip(grid[0], ["image", *layer_names], strict=True):
        axes.set_title(label(name, 12), pad=5, **text(10))
    bar = add_bar(grid[0, -1], ScalarMappable(scale, "inferno"), 1.75, "× uniform", 10)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    write_caption(
        grid[-1, 0],
        "How much the model takes from each patch, layer by layer; below each map the least and the greatest multiple "
        "of an equal share. Good: late layers look at the object. One bright patch in the background, the same in all "
        "images, is a place where the model keeps notes, not what it looks at.",
    )
    return figure


def _draw_neighbors(rows: list[tuple[Shown, list[Shown]]]) -> Figure:
    shape = tuple(np.median([shown.image.shape[:2] for query, near in rows for shown in (query, *near)], axis=0))
    columns = 1 + max(len(near) for _, near in rows)
    figure, grid = _new_grid(len(rows), columns, shape, gap=0.52)
    for line, (query, near) in zip(grid, rows, strict=True):
        for axes, shown in zip(line, (query, *near), strict=False):
            _show_image(axes, shown.image)
            axes.set_anchor("S")  # images of other shapes stand on their captions
            _write_neighbor(axes, shown)
            if shown.similarity is None:
                axes.spines[:].set(visible=True, color=INK, linewidth=2)
            elif shown.certain and query.certain:
                axes.spines[:].set(visible=True, color=RIGHT if shown.name == query.name else WRONG, linewidth=2)
    write_caption(
        grid[-1, 0],
        "Left, in black, the image that was asked for; to its right the images whose features are the most similar, "
        "with the cosine of the angle between them, 1 for equal ones. The class is that of the folder, or, with a "
        "question mark, the predicted one; frames are green where both folders name the same class, red where not.",
    )
    return figure


def _write_neighbor(axes: Axes, shown: Shown) -> None:
    """Write below an image how similar it is, its class and, in a second line, its file."""
    similarity = "query" if shown.similarity is None else f"{shown.similarity:.3f}"
    name = label(shown.name, 9.3) + ("" if shown.certain else "?")
    for drop, line, tint in ((4, f"{similarity}  {name}", INK), (16, shorten(shown.file, 13.5), MUTED)):
        style = text(8.5, tint, ha="center", va="top")
        axes.annotate(line, (0.5, 0), (0, -drop), "axes fraction", "offset points", **style)


def _write_outcome(axes: Axes, true: str, guess: str, right: bool) -> None:
    """Write below an image what was predicted and, in a second line, what is true."""
    outcome = f"{'✓' if right else '✗'} {guess}"
    for drop, line, tint in ((4, outcome, RIGHT if right else WRONG), (16, f"true: {label(true, 12)}", MUTED)):
        style = text(8.5, tint, ha="center", va="top")
        axes.annotate(line, (0.5, 0), (0, -drop), "axes fraction", "offset points", **style)


def _new_grid(rows: int, columns: int, shape: tuple[int, ...], gap: float) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes (rows, columns) with an image's aspect ratio, `gap` inches apart vertically."""
    width, height = 1.75, 1.75 * float(np.clip(shape[0] / shape[1], 0.4, 2.5))
    step = width + 0.06, height + gap
    page = columns * step[0], rows * step[1]
    figure = Figure(page, dpi=150, facecolor="white")
    grid = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        corner = column * step[0] / page[0], ((rows - 1 - row) * step[1] + gap) / page[1]
        axes = figure.add_axes((*corner, width / page[0], height / page[1]))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        grid[row, column] = axes
    return figure, grid


def _show_image(axes: Axes, image: NDArray[Any]) -> None:
    # Small images keep their pixels; large ones are averaged down, not subsampled.
    axes.imshow(_as_picture(image), interpolation="nearest" if max(image.shape[:2]) < 128 else "antialiased")


def _as_picture(image: NDArray[Any]) -> Bytes:
    """Return (H, W, 3) from any number of channels: the first three, or the mean if there are fewer."""
    if image.shape[-1] < 3:
        image = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return image[..., :3].astype(np.uint8)
