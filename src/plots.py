"""Draw the pictures of a run: numpy arrays in, one PNG out, nothing kept between calls.

Letters: n pictures, H W their pixels, C channels, K classes, L layers, P patch size.

Nothing here touches pyplot or rcParams, which all jobs of a sweep and all threads share.
"""

import math
import os
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Counts = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

INK, MUTED, GRID = "#24292f", "#6e7781", "#e3e6ea"
TRAIN, VAL, EMA, RIGHT, WRONG = "#2f6db3", "#e07b39", "#8250a8", "#2a8c4a", "#c8332b"
# matplotlib brings the first; the others, where the machine has one, draw the scripts it lacks.
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"]
FONTS += [
    "Microsoft YaHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "IPAexGothic",
]
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DOTTED_EPOCHS = 12  # up to here every epoch is a dot: one point alone draws no line
COUNTED_CLASSES = 20  # up to here each cell of a confusion matrix holds its count
NAMED_CLASSES = 150  # beyond, the picture stops growing and names only every second, third … class
MAPS_PER_SIDE = 8
TINY = np.finfo(float).tiny
GAP = 5  # between the tiles of a mosaic, where a tile has about 50


def plot_curves(metrics: dict[str, list[float]], path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs; averaged weights, "ema", have curves of their own.

    Columns as in metrics.csv; accuracies are fractions. Other columns are ignored, missing ones left out.
    """
    _save(_draw_curves(metrics), path)


def plot_confusion_matrix(confusion: Counts, classes: list[str], path: Path) -> None:
    """Draw counts (K, K), rows true and columns predicted, colored by their share of the row."""
    _save(_draw_confusion_matrix(confusion, classes), path, crop=True)


def plot_predictions(
    images: Bytes, true: list[str], predicted: list[str], confidences: list[float], path: Path
) -> None:
    """Draw images (n, H, W, C), each with its predicted class, that one's confidence, its true class."""
    _save(_draw_predictions(images, true, predicted, confidences), path, crop=True)


def plot_augmentations(images: Bytes, targets: list[list[tuple[str, float]]], path: Path) -> None:
    """Draw images (n, H, W, C), each with its classes and, where labels are mixed, their shares."""
    _save(_draw_augmentations(images, targets), path, crop=True)


def plot_attention(images: Bytes, maps: Floats, layer_names: list[str], path: Path) -> None:
    """Draw images (n, H, W, C), and beside each its attention to the patches, maps (n, L, rows, columns).

    Colors run from each map's own least to its own greatest attention.
    """
    _save(_draw_attention(images, maps, layer_names), path, crop=True)


def plot_position_embeddings(similarity: Floats, norms: Floats, path: Path) -> None:
    """Draw how alike the position embeddings are (arXiv 2010.11929, Fig. 7 center), and their norms.

    similarity: (rows * columns, rows, columns), the cosine of each patch's embedding with all others; norms:
    (rows, columns). Of a large grid an evenly spaced part is shown.
    """
    _save(_draw_position_embeddings(similarity, norms), path, crop=True)


def plot_patch_filters(filters: Floats, path: Path) -> None:
    """Draw filters (n, P, P, C), each scaled by its own greatest weight; zero is mid-grey."""
    _save(_draw_patch_filters(filters), path, crop=True)


def _draw_curves(metrics: dict[str, list[float]]) -> Figure:
    averaged = "ema_val_acc" in metrics
    names = {"train": "train", "val": "val", **({"ema": "ema_val"} if averaged else {})}
    columns = {name: _finite(metrics.get(name, [])) for name in ("epoch", "lr")}
    columns |= {f"{split}_loss": _finite(metrics.get(f"{name}_loss", [])) for split, name in names.items()}
    columns |= {f"{split}_acc": 100 * _finite(metrics.get(f"{name}_acc", [])) for split, name in names.items()}
    exponent = _exponent(columns["lr"])
    columns["lr"] = columns["lr"] / 10.0**exponent
    unit = f" (×10{str(exponent).translate(SUPERSCRIPTS)})" if exponent else ""
    figure = Figure((12, 3.3), dpi=100, facecolor="white")
    panels = [_add_panel(figure, left) for left in (0.04, 0.375, 0.71)]
    for axes, title in zip(panels, ("Loss", "Accuracy (%)", "Learning rate" + unit), strict=True):
        axes.text(0, 1.05, title, transform=axes.transAxes, **_text(11, weight="bold"))
    for axes, metric in zip(panels, ("loss", "acc"), strict=False):
        for split, color, x in zip(names, (TRAIN, VAL, EMA), (0.68, 0.84, 1) if averaged else (0.84, 1), strict=False):
            _draw_line(axes, columns, f"{split}_{metric}", color)
            axes.text(x, 1.05, f"━ {split}", transform=axes.transAxes, **_text(9, color, ha="right"))
    panels[1].set_ylim(top=min(panels[1].get_ylim()[1], 101))
    kept = max(
        ("val", "ema") if averaged else ("val",), key=lambda split: np.nanmax(columns[f"{split}_acc"], initial=0)
    )
    color = EMA if kept == "ema" else VAL
    _mark_best(panels[1], columns["epoch"], columns[f"{kept}_acc"], columns[f"{kept}_loss"], color)
    _draw_line(panels[2], columns, "lr", INK)
    panels[2].set_ylim(bottom=0)
    return figure


def _add_panel(figure: Figure, left: float) -> Axes:
    axes = figure.add_axes((left, 0.14, 0.275, 0.72))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("epoch", labelpad=2, **_text(9, MUTED))
    return axes


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
        **_text(9, color, ha="right" if late else "left"),
    )  # fmt: skip


def _draw_confusion_matrix(confusion: Counts, classes: list[str]) -> Figure:
    num = len(classes)
    cell = float(np.interp(num, [2, 10, 20, 40, 100], [0.9, 0.55, 0.42, 0.25, 0.165]))  # inches
    side = cell * min(num, NAMED_CLASSES)
    figure, axes = _new_canvas(side, side)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root shows the few per cent that a class loses to another, which a linear scale leaves white.
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
    axes.set_title(f"{accuracy:.2f} % of {confusion.sum():,} right", loc="left", pad=size, **_text(size, weight="bold"))
    axes.set_xlabel("predicted", labelpad=size / 2, **_text(size, MUTED))
    axes.set_ylabel("true", labelpad=size / 2, **_text(size, MUTED))
    bar = _add_bar(axes, image, side, "share of the true class", size)
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_ticklabels(["0 %", "1 %", "5 %", "10 %", "25 %", "50 %", "100 %"])
    return figure


def _name_classes(axes: Axes, classes: list[str], points: float) -> None:
    """Put the class names along both axes, which are `points` long, as many as fit without touching."""
    num = len(classes)
    step = math.ceil(num / NAMED_CLASSES)
    size = min(10.0, 0.66 * points * step / num)
    names = [_label(name, 13) for name in classes]
    if len(set(names)) < num:  # cut or undrawable names that look alike: the index tells them apart
        names = [f"{index} {_label(name, 11)}" for index, name in enumerate(classes)]
    level = max(map(_measure, names)) * size < 0.9 * points * step / num
    axes.set_xticks(range(0, num, step), labels=names[::step], rotation=0 if level else 90, **_text(size))
    axes.set_yticks(range(0, num, step), labels=names[::step], **_text(size))
    axes.tick_params(length=2, color=MUTED)


def _write_counts(axes: Axes, confusion: Counts, shares: Floats, points: float) -> None:
    """Write every count but the zeros off the diagonal, among which the errors would be lost."""
    digits = len(str(int(confusion.max(initial=0))))
    size = min(11.0, 0.4 * points, 0.85 * points / (0.64 * digits))
    for row, column in np.argwhere((confusion > 0) | np.eye(len(confusion), dtype=bool)):
        color = "white" if shares[row, column] > 0.3 else INK
        axes.text(column, row, str(confusion[row, column]), **_text(size, color, ha="center", va="center"))


def _draw_predictions(images: Bytes, true: list[str], predicted: list[str], confidences: list[float]) -> Figure:
    rows = math.ceil(len(images) / 8)
    figure, grid = _new_grid(rows, math.ceil(len(images) / rows), images.shape[1:3], gap=0.42)
    for index, (label, guess, confidence) in enumerate(zip(true, predicted, confidences, strict=True)):
        axes, (color, sign) = grid.flat[index], (RIGHT, "✓") if label == guess else (WRONG, "✗")
        _show_image(axes, images[index])
        axes.spines[:].set(visible=True, color=color, linewidth=2)
        outcome = f"{sign} {_label(guess, 9.3)} ({100 * confidence:.0f} %)"
        for drop, line, tint in ((4, outcome, color), (16, f"true: {_label(label, 12)}", MUTED)):
            text = _text(8.5, tint, ha="center", va="top")
            axes.annotate(line, (0.5, 0), (0, -drop), "axes fraction", "offset points", **text)
    return figure


def _draw_augmentations(images: Bytes, targets: list[list[tuple[str, float]]]) -> Figure:
    rows = math.ceil(len(images) / 8)
    lines = max(len(target) for target in targets)
    figure, grid = _new_grid(rows, math.ceil(len(images) / rows), images.shape[1:3], gap=0.1 + 0.16 * lines)
    for axes, image, target in zip(grid.flat, images, targets, strict=False):
        _show_image(axes, image)
        for line, (name, share) in enumerate(target):
            caption = _label(name, 12) if len(target) == 1 else f"{_label(name, 9.3)} ({100 * share:.0f} %)"
            text = _text(8.5, MUTED if line else INK, ha="center", va="top")
            axes.annotate(caption, (0.5, 0), (0, -4 - 12 * line), "axes fraction", "offset points", **text)
    return figure


def _draw_attention(images: Bytes, maps: Floats, layer_names: list[str]) -> Figure:
    height, width = images.shape[1:3]
    figure, grid = _new_grid(len(images), 1 + len(layer_names), (height, width), gap=0.06)
    for row, image, layers in zip(grid, images, maps, strict=True):
        _show_image(row[0], image)
        grey = 60 + 0.75 * _as_picture(image).mean(axis=-1, keepdims=True)
        for axes, attention in zip(row[1:], layers, strict=True):
            heat = _known(attention) - _known(attention).min()
            heat /= max(heat.max(), TINY)
            _show_image(axes, grey)
            # Clear where there is no attention, so that the image stays visible under its map.
            axes.imshow(
                heat, cmap="inferno", vmin=0, vmax=1, alpha=0.8 * heat**0.7, interpolation="bilinear",
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )  # fmt: skip
    for axes, name in zip(grid[0], ["image", *layer_names], strict=True):
        axes.set_title(_label(name, 12), pad=5, **_text(10))
    return figure


def _draw_position_embeddings(similarity: Floats, norms: Floats) -> Figure:
    rows, columns = norms.shape
    kept = [_spread(size) for size in norms.shape]
    mosaic, centers = _tile(similarity.reshape(rows, columns, rows, columns)[np.ix_(*kept)], gap=np.nan)
    ratio = float(np.clip(columns / rows, 0.4, 2.5))
    width, height = 4.2 * math.sqrt(ratio), 4.2 / math.sqrt(ratio)
    figure, left = _new_canvas(width, height)
    right = left.inset_axes((1 + 1.45 / width, 0, 1, 1))
    cosine = left.imshow(mosaic, cmap="viridis", vmin=-1, vmax=1, aspect="auto")
    norms = _known(norms)
    # Equal norms (sin-cos tables) are to look equal, rounding errors and all.
    least = min(norms.min(), 0.99 * norms.max())
    norm = right.imshow(norms, cmap="viridis", vmin=least, aspect="auto", interpolation="nearest")
    _add_bar(left, cosine, width, "cosine", 10).set_ticks([-1, -0.5, 0, 0.5, 1])
    _add_bar(right, norm, width, "", 10)
    for axes, (row_ticks, column_ticks), title in ((left, centers, "Similarity"), (right, kept, "Norm")):
        axes.set_title(f"{title} of position embeddings", loc="left", pad=8, **_text(11, weight="bold"))
        axes.set_xticks(column_ticks, labels=kept[1] + 1, **_text(9, MUTED))
        axes.set_yticks(row_ticks, labels=kept[0] + 1, **_text(9, MUTED))
        axes.set_xlabel("patch column", **_text(9, MUTED))
        axes.set_ylabel("patch row", **_text(9, MUTED))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def _draw_patch_filters(filters: Floats) -> Figure:
    num, height, width, channels = filters.shape
    weights = _known(filters)
    weights = weights if channels == 3 else weights.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    greatest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True, initial=TINY)
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    tiles = np.ones((rows * columns, height, width, 3))
    tiles[:num] = 0.5 + 0.5 * weights / greatest
    mosaic, (tops, lefts) = _tile(tiles.reshape(rows, columns, height, width, 3), gap=1.0)
    side = max(1.5, 0.75 * columns)
    figure, axes = _new_canvas(side, side * mosaic.shape[0] / mosaic.shape[1])
    axes.imshow(mosaic)
    axes.axis("off")
    size = tops[0] * 2 + 1, lefts[0] * 2 + 1
    for index in range(num):  # a frame each, as white weights would run into the page
        corner = lefts[index % columns] - size[1] / 2, tops[index // columns] - size[0] / 2
        axes.add_patch(Rectangle(corner, size[1], size[0], fill=False, ec=MUTED, lw=0.6, clip_on=False))
    return figure


def _new_canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure filled by one axes, in inches; the crop of `_save` makes room for its labels."""
    figure = Figure((width, height), dpi=150, facecolor="white")
    return figure, figure.add_axes((0, 0, 1, 1))


def _new_grid(rows: int, columns: int, shape: tuple[int, ...], gap: float) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes (rows, columns), of an image's shape and `gap` inches apart vertically."""
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
    # Small images keep their pixels; large ones are averaged down, not thinned out.
    axes.imshow(_as_picture(image), interpolation="nearest" if max(image.shape[:2]) < 128 else "antialiased")


def _as_picture(image: NDArray[Any]) -> Bytes:
    """Return (H, W, 3) of any number of channels: the first three, or the mean of fewer."""
    if image.shape[-1] < 3:
        image = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return image[..., :3].astype(np.uint8)


def _spread(size: int) -> NDArray[Any]:
    """Return at most MAPS_PER_SIDE indices below `size`, all equally far apart and centered."""
    step = math.ceil(size / MAPS_PER_SIDE)
    return np.arange((size - 1) % step // 2, size, step)


def _tile(tiles: NDArray[Any], gap: float) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Lay (rows, columns, h, w, …) out as one image, gaps of that value between; return the centers too."""
    scale = math.ceil(48 / max(tiles.shape[2:4]))
    tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    rows, columns, height, width, *channels = tiles.shape
    margins = [(0, 0), (0, 0), (0, GAP), (0, GAP), *[(0, 0) for _ in channels]]
    mosaic = np.pad(tiles, margins, constant_values=gap).swapaxes(1, 2)
    mosaic = mosaic.reshape(rows * (height + GAP), columns * (width + GAP), *channels)[:-GAP, :-GAP]
    centers = [np.arange(n) * (s + GAP) + (s - 1) / 2 for n, s in ((rows, height), (columns, width))]
    return mosaic, centers


def _add_bar(axes: Axes, image: AxesImage, width: float, title: str, size: float) -> Colorbar:
    """Stand a color bar beside axes that are `width` inches wide."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1 + 0.15 / width, 0, 0.14 / width, 1)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=0.8 * size, length=2)
    bar.set_label(title, **_text(0.9 * size, MUTED))
    return bar


def _finite(values: list[float]) -> Floats:
    """Return floats, NaN in the place of all that no axis can hold."""
    array = np.array(values, dtype=float)
    array[~(np.abs(array) < 1e30)] = np.nan
    return array


def _known(values: Floats) -> Floats:
    """Return floats, zero in the place of NaN and infinity: a diverged run gets its pictures too."""
    return np.where(np.isfinite(values), values, 0.0).astype(np.float64)


def _exponent(values: Floats) -> int:
    """Return the power of ten to take out of the tick labels; 0 where they read well as they are."""
    greatest = float(np.nan_to_num(np.abs(values)).max(initial=0))
    exponent = math.floor(math.log10(greatest)) if greatest > 0 else 0
    return exponent if exponent < -1 or exponent > 2 else 0


def _text(size: float, color: str = INK, **more: Any) -> dict[str, Any]:
    """Return the properties of a text, in which a `$` is a dollar sign."""
    families = FONTS[:1] if "weight" in more else _fonts()[0]  # the bold ones are titles of ours, in Latin letters
    return {"fontsize": size, "color": color, "fontfamily": families, "parse_math": False, **more}


def _label(name: str, width: float) -> str:
    """Return what fits of the name, in ems (ten letters take about six); □ for letters that no font has."""
    letters = unicodedata.normalize("NFC", " ".join(name.split()))
    letters = "".join(letter if ord(letter) in _fonts()[1] else "□" for letter in letters)
    if _measure(letters) <= width:
        return letters
    ends = np.cumsum([_advance(letter) for letter in letters])
    return letters[: int(np.searchsorted(ends, width - _advance("…"), side="right"))].rstrip() + "…"


def _measure(letters: str) -> float:
    return sum(map(_advance, letters))


@lru_cache(maxsize=4096)
def _advance(letter: str) -> float:
    """Return the width of a letter in ems; one for those that another font has to draw."""
    font = get_font(findfont(FONTS[0]))
    font.set_size(100, 72)
    return font.load_char(ord(letter)).linearHoriAdvance / 65536 / 100 if font.get_char_index(ord(letter)) else 1.0


@lru_cache(maxsize=1)
def _fonts() -> tuple[list[str], frozenset[int]]:
    """Return the families of FONTS on this machine and all code points they can draw."""
    installed = set(fontManager.get_font_names())
    families = [name for name in FONTS if name in installed]
    maps = [get_font(findfont(FontProperties(family=[name]))).get_charmap() for name in families]
    return families, frozenset().union(*maps)


def _save(figure: Figure, path: Path, crop: bool = False) -> None:
    """Write a PNG that is either whole or not there; `crop` fits the page to what is drawn."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        figure.savefig(partial, facecolor="white", bbox_inches="tight" if crop else None, pad_inches=0.12)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
