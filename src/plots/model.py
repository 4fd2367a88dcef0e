"""What a model learned before the first block: position embeddings and patch filters."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .letters import MUTED, text
from .style import TINY, Floats, add_bar, known, new_canvas, save, write_caption

MAPS_PER_SIDE = 8
GAP = 5  # pixels between the tiles of a mosaic; a tile has about 50


def plot_position_embeddings(similarity: Floats, norms: Floats, path: Path) -> None:
    """Draw the similarity of position embeddings (arXiv 2010.11929, Fig. 7 center) and their norms.

    similarity: (rows * columns, rows, columns), the cosine of each patch's embedding with all others; norms:
    (rows, columns). For a large grid, an evenly spaced subset is shown.
    """
    save(_draw_position_embeddings(similarity, norms), path, crop=True)


def plot_patch_filters(filters: Floats, path: Path) -> None:
    """Draw filters (n, P, P, C), each scaled by its largest absolute weight; zero is medium gray."""
    save(_draw_patch_filters(filters), path, crop=True)


def _draw_position_embeddings(similarity: Floats, norms: Floats) -> Figure:
    rows, columns = norms.shape
    kept = [_spread(size) for size in norms.shape]
    mosaic, centers = _tile(similarity.reshape(rows, columns, rows, columns)[np.ix_(*kept)], gap=np.nan)
    ratio = float(np.clip(columns / rows, 0.4, 2.5))
    width, height = 4.2 * math.sqrt(ratio), 4.2 / math.sqrt(ratio)
    figure, left = new_canvas(width, height)
    right = left.inset_axes((1 + 1.45 / width, 0, 1, 1))
    cosine = left.imshow(mosaic, cmap="viridis", vmin=-1, vmax=1, aspect="auto")
    norms = known(norms)
    # Equal norms (sin-cos tables) should look equal in spite of rounding errors.
    least = min(norms.min(), 0.99 * norms.max())
    norm = right.imshow(norms, cmap="viridis", vmin=least, aspect="auto", interpolation="nearest")
    add_bar(left, cosine, width, "cosine", 10).set_ticks([-1, -0.5, 0, 0.5, 1])
    add_bar(right, norm, width, "", 10)
    for axes, (row_ticks, column_ticks), title in ((left, centers, "Similarity"), (right, kept, "Norm")):
        axes.set_title(f"{title} of position embeddings", loc="left", pad=8, **text(11, weight="bold"))
        axes.set_xticks(column_ticks, labels=kept[1] + 1, **text(9, MUTED))
        axes.set_yticks(row_ticks, labels=kept[0] + 1, **text(9, MUTED))
        axes.set_xlabel("patch column", **text(9, MUTED))
        axes.set_ylabel("patch row", **text(9, MUTED))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    write_caption(
        left,
        "Left: a small map for each patch, of how alike its embedding is to those of all patches. Good: the brightest "
        "spot is the patch itself, and its row and column are brighter than the rest: the model has learned where "
        "patches are. Right: norms that are almost equal are usual.",
    )
    return figure


def _draw_patch_filters(filters: Floats) -> Figure:
    num, height, width, channels = filters.shape
    weights = known(filters)
    weights = weights if channels == 3 else weights.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    greatest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True, initial=TINY)
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    tiles = np.ones((rows * columns, height, width, 3))
    tiles[:num] = 0.5 + 0.5 * weights / greatest
    mosaic, (tops, lefts) = _tile(tiles.reshape(rows, columns, height, width, 3), gap=1.0)
    side = max(1.5, 0.75 * columns)
    figure, axes = new_canvas(side, side * mosaic.shape[0] / mosaic.shape[1])
    axes.imshow(mosaic)
    axes.axis("off")
    size = tops[0] * 2 + 1, lefts[0] * 2 + 1
    for index in range(num):  # frames, because white weights would merge with the page
        corner = lefts[index % columns] - size[1] / 2, tops[index // columns] - size[0] / 2
        axes.add_patch(Rectangle(corner, size[1], size[0], fill=False, ec=MUTED, lw=0.6, clip_on=False))
    axes.set_title("Patch filters", loc="left", pad=8, **text(11, weight="bold"))
    write_caption(
        axes,
        "What the first layer looks for in a patch, the most used patterns first. Good: smooth edges, spots, colors; "
        "noise means too few images or epochs.",
    )
    return figure


def _spread(size: int) -> NDArray[Any]:
    """Return at most MAPS_PER_SIDE indices below `size`, evenly spaced and centered."""
    step = math.ceil(size / MAPS_PER_SIDE)
    return np.arange((size - 1) % step // 2, size, step)


def _tile(tiles: NDArray[Any], gap: float) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Arrange tiles (rows, columns, h, w, …) in one image with gaps of value `gap`; return the tile centers too."""
    scale = math.ceil(48 / max(tiles.shape[2:4]))
    tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    rows, columns, height, width, *channels = tiles.shape
    margins = [(0, 0), (0, 0), (0, GAP), (0, GAP), *[(0, 0) for _ in channels]]
    mosaic = np.pad(tiles, margins, constant_values=gap).swapaxes(1, 2)
    mosaic = mosaic.reshape(rows * (height + GAP), columns * (width + GAP), *channels)[:-GAP, :-GAP]
    centers = [np.arange(n) * (s + GAP) + (s - 1) / 2 for n, s in ((rows, height), (columns, width))]
    return mosaic, centers
