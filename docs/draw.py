"""Make the drawings of docs/: `python docs/draw.py RUN_FOLDER`, with the folder of a finished run.

vit.png, floors.png and positions.png are drawn here, the last one from the run's weights; the run's own pictures are
copied as run_*.png. Those there now are of `python train.py dataset.image_size=32`, whose 8 x 8 patches show more than
the 4 x 4 of the default run. Not made here: sweep.png, of a sweep.
The photo is china.jpg of scikit-learn, by danielbuechele, CC BY 2.0.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from src.model import VisionTransformer, sincos_position_embedding  # noqa: E402

INK, MUTED, LINE = "#24292f", "#57606a", "#8c959f"
BLUE, ORANGE, PURPLE, GREEN, TEAL = "#2f6db3", "#d3691f", "#8250a8", "#2a8c4a", "#12808c"
PALE_BLUE, PALE_ORANGE, PALE_PURPLE, PALE_GREEN, PALE_TEAL = "#e3edf8", "#fbe9dd", "#efe6f6", "#e0f2e5", "#dcf1f3"
PALE = "#f6f8fa"
MONO = "DejaVu Sans Mono"
DPI = 100  # pages are laid out in pixels, y from the top
CROP = (6, 20, 400)  # left, top and side, in pixels, of the square that is cut out of the photo
IMAGE_SIZE, PATCH_SIZE, SHOWN_DIMS = 224, 16, 8  # the drawing's model is ViT-S/16; of a token 8 of 384 numbers show
PATCHES = (2, 6), (6, 4), (11, 9)  # row and column of those that are drawn large
EXAMPLES = {"temple": 116, "castle": 24, "harbor": 12, "garden": 7}  # classes made up for the last step, px of a bar
COPIES = {
    "run_curves.png": "curves.png",
    "run_predictions.png": "figures/predictions.png",
    "run_attention.png": "figures/attention.png",
    "run_position_embeddings.png": "figures/position_embeddings.png",
    "run_patch_filters.png": "figures/patch_filters.png",
    "run_augmentations.png": "figures/augmentations.png",
    "run_confusion_matrix.png": "test/confusion_matrix.png",
}
LARGEST_COPY = 150_000  # bytes
MARGIN = 16  # pixels below what is cut

# The floors from the top: what they have in common, colors, and rows of rooms with what each is for.
FLOORS: list[tuple[str, str, tuple[str, str], list[list[tuple[str, str]]]]] = [
    (
        "L5",
        "the programs",
        (PALE_ORANGE, ORANGE),
        [[("train.py", "the story of one run"), ("inference.py", "a table of tasks")]],
    ),
    (
        "L4",
        "from people\nto jobs",
        (PALE_PURPLE, PURPLE),
        [[("start/", "command lines, errors, resuming, planning a sweep"), ("web/", "the page and its API")]],
    ),
    (
        "L3",
        "start from runs,\nor build one",
        (PALE_GREEN, GREEN),
        [
            [
                ("sweep/", "runs, ranked"),
                ("predict/", "files → classes"),
                ("compare/", "what differs"),
                ("export/", "other formats"),
                ("evaluate", "test, figures"),
                ("build", "config → parts"),
                ("initialize", "first weights"),
            ]
        ],
    ),
    (
        "L2",
        "training, and\nwhat it stores",
        (PALE_BLUE, BLUE),
        [[("engine/", "a step, an epoch"), ("run/", "the run directory"), ("pretrained/", "weights to start from")]],
    ),
    (
        "L1",
        "need a library\nof the field",
        (PALE_TEAL, TEAL),
        [
            [("data/", "files → batches"), ("optim", "steps, rates, EMA"), ("plots/", "every picture")],
            [("terminal", "bars, log lines"), ("tables", "rows, mean ± sd"), ("trackers", "TensorBoard")],
        ],
    ),
    (
        "L0",
        "import nothing\nof ours",
        (PALE, LINE),
        [
            [("config/", "names, types"), ("model", "the ViT"), ("augment/", "whole batches"), ("metrics", "counts")],
            [
                ("distributed/", "several processes"),
                ("machine/", "devices, memory"),
                ("seeding", "every draw"),
                ("signals", "Ctrl-C, SIGTERM"),
            ],
        ],
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run, e.g. of python train.py")
    run = parser.parse_args().run
    draw_vit(DOCS / "vit.png")
    draw_floors(DOCS / "floors.png")
    draw_positions(run, DOCS / "positions.png")
    for name, source in COPIES.items():
        copy_picture(run / source, DOCS / name)


def draw_vit(path: Path) -> None:
    """Draw a Vision Transformer in eight steps, around a photo, its patches and the tokens of an untrained ViT-S/16."""
    figure, axes = new_page(1400, 890)
    image = load_photo()
    torch.manual_seed(0)
    model = VisionTransformer(embedding_dim=384, num_layers=1, num_heads=6)
    with torch.no_grad():
        pixels = torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1
        tokens = model.patch_embed(pixels)[0, :, :SHOWN_DIMS].numpy()
        positions = model.pos_embed[0, :, :SHOWN_DIMS].numpy()
        class_token = model.cls_token[0, 0, :SHOWN_DIMS].numpy() if model.cls_token is not None else positions[0]
    _draw_image_and_patches(axes, image)
    _draw_projection(axes, image, tokens)
    _draw_sequence(axes, tokens, class_token, positions)
    _draw_block(axes)
    _draw_head(axes)
    save(figure, path)


def _draw_image_and_patches(axes: Axes, image: NDArray[np.uint8]) -> None:
    _write_step(axes, 1, 30, 36, "Image", "3 × 224 × 224 numbers")
    _show(axes, image, 30, 128, 230)
    _draw_arrow(axes, (268, 243), (302, 243))
    _write_step(axes, 2, 310, 36, "Patches", "14 × 14, each of 16 × 16 px")
    side, step = 15, 17.5
    for row, column in np.ndindex(14, 14):
        _show(axes, _cut(image, row, column), 310 + column * step, 122 + row * step, side)


def _draw_projection(axes: Axes, image: NDArray[np.uint8], tokens: NDArray[np.float32]) -> None:
    _write_step(axes, 3, 608, 36, "Linear projection", "768 numbers of a patch → D", "patch_embed")
    _draw_arrow(axes, (562, 243), (600, 243))
    for index, (row, column) in enumerate(PATCHES):
        top = 130 + index * 78
        middle = top + 28
        _show(axes, _cut(image, row, column), 612, top, 56, frame=True)
        _draw_arrow(axes, (674, middle), (704, middle))
        _draw_arrow(axes, (804, middle), (832, middle))
        _draw_cells(axes, tokens[14 * row + column], 838, middle - 10, (15, 20), "RdBu_r", 0.7, upright=False)
    axes.add_patch(Polygon([(708, 124), (800, 148), (800, 324), (708, 348)], fc=PALE_BLUE, ec=BLUE, lw=1.6))
    _write(axes, 754, 232, "Linear", 13, weight="bold", ha="center")
    _write(axes, 754, 256, "768 → D", 11, MUTED, ha="center")
    _write(axes, 612, 378, "… and so on: 196 patches, 196 tokens", 11, MUTED)


def _draw_sequence(
    axes: Axes, tokens: NDArray[np.float32], class_token: NDArray[np.float32], positions: NDArray[np.float32]
) -> None:
    _write_step(axes, 4, 1010, 36, "Class token, positions", "learned vectors", "cls_token, pos_embed")
    _draw_arrow(axes, (964, 182), (1000, 182))
    _write(axes, 1020, 182, "tokens", 11, BLUE, weight="bold", ha="center", rotation=90)
    _write(axes, 1020, 316, "positions", 11, PURPLE, weight="bold", ha="center", rotation=90)
    for index, place in enumerate((0, 1, 2, 3, 4, None, 195, 196)):
        left = 1042 + index * 42
        if place is None:
            for y in (182, 316):
                _write(axes, left + 12, y, "…", 15, MUTED, ha="center")
            continue
        values, scale = (class_token, 0.05) if place == 0 else (tokens[place - 1], 0.7)
        _draw_cells(axes, values, left, 130, (24, 13), "RdBu_r", scale, edge=ORANGE if place == 0 else BLUE)
        _write(axes, left + 12, 249, "+", 14, ha="center")
        _draw_cells(axes, positions[place], left, 264, (24, 13), "PuOr", 0.05, edge=PURPLE)
        _write(axes, left + 12, 382, str(place), 10.5, MUTED, ha="center")
    _write(axes, 1054, 403, "class", 11, ORANGE, weight="bold", ha="center")
    _write(axes, 1222, 403, "patches, row by row", 11, BLUE, weight="bold", ha="center")


def _draw_block(axes: Axes) -> None:
    middle = 716
    _write_step(axes, 5, 40, 478, "L encoder blocks", "each takes 197 tokens and returns 197 tokens", "blocks")
    for shift in (16, 8, 0):
        _draw_box(axes, 40 + shift, 572 - shift, 712, 292, "white", LINE, radius=12)
    _draw_arrow(axes, (1222, 420), (1222, 438), (16, 438), (16, middle), (104, middle))
    for left, name in ((108, "norm1"), (426, "norm2")):
        _draw_box(axes, left, middle - 56, 40, 112, PALE, LINE)
        _write(axes, left + 20, middle, name, 11.5, ha="center", rotation=90)
    ys = [middle - 42 + 24 * index for index in range(5)]
    for left, color, pale, title, note in (
        (176, BLUE, PALE_BLUE, "Attention", "each token gathers\nfrom all tokens"),
        (494, GREEN, PALE_GREEN, "MLP", "each token on its\nown: D → 4 D → D"),
    ):
        _draw_box(axes, left, middle - 97, 178, 222, pale, color)
        _write(axes, left + 89, middle - 72, title, 13, weight="bold", ha="center")
        _write(axes, left + 89, middle + 94, note, 10.5, MUTED, ha="center")
        ends = left + 30, left + 148
        for start, end in np.ndindex(5, 5):
            own = start == end
            if own or title == "Attention":
                style: dict[str, Any] = {"lw": 1.6} if own else {"lw": 0.8, "alpha": 0.55}
                axes.plot(ends, (ys[start], ys[end]), color=color, **style)
        for x in ends:
            axes.scatter([x] * 5, ys, s=52, color=[ORANGE, *[color] * 4], zorder=3)
        if title == "MLP":
            axes.scatter([left + 89] * 5, ys, s=110, marker="s", color="white", edgecolors=color, zorder=3)
    for start, norm, plus in ((74, 108, 386), (404, 426, 704)):
        axes.plot((start, start, plus, plus), (middle, 588, 588, middle - 13), color=INK, lw=1.6)
        _write(axes, (start + plus) / 2, 602, "residual: x + …", 10.5, MUTED, ha="center")
        axes.scatter([plus], [middle], s=340, color="white", edgecolors=INK, linewidths=1.6, zorder=3)
        _write(axes, plus, middle, "+", 15, ha="center", zorder=4)
        _draw_arrow(axes, (norm + 40, middle), (norm + 66, middle))
        _draw_arrow(axes, (norm + 246, middle), (plus - 13, middle))
    _draw_arrow(axes, (400, middle), (424, middle))


def _draw_head(axes: Axes) -> None:
    middle = 716
    _draw_arrow(axes, (718, middle), (806, middle))
    _write_step(axes, 6, 806, 478, "Norm, pooling", "keep the class token", "norm")
    _draw_box(axes, 810, middle - 56, 40, 112, PALE, LINE)
    _write(axes, 830, middle, "norm", 11.5, ha="center", rotation=90)
    _draw_arrow(axes, (852, middle), (880, middle))
    for index in range(5):
        face, edge = (PALE_ORANGE, ORANGE) if index == 0 else ("white", "#d0d7de")
        axes.add_patch(Rectangle((886, middle - 68 + 28 * index), 66, 23, fc=face, ec=edge, lw=1.6))
    _write(axes, 919, middle - 56.5, "class", 11, ORANGE, weight="bold", ha="center")
    _draw_arrow(axes, (954, middle - 56), (984, middle - 56), (984, middle), (1026, middle))
    _write_step(axes, 7, 1026, 478, "Head", "D → K classes", "head")
    axes.add_patch(Polygon([(1030, 646), (1118, 670), (1118, 762), (1030, 786)], fc=PALE_BLUE, ec=BLUE, lw=1.6))
    _write(axes, 1074, middle - 10, "Linear", 13, weight="bold", ha="center")
    _write(axes, 1074, middle + 13, "D → K", 11, MUTED, ha="center")
    _draw_arrow(axes, (1122, middle), (1158, middle))
    _write_step(axes, 8, 1180, 478, "Probabilities", "softmax of the K logits")
    for index, (name, length) in enumerate(EXAMPLES.items()):
        top = middle - 72 + 38 * index
        axes.add_patch(Rectangle((1256, top), length, 24, fc=ORANGE if index == 0 else "#b8cce4"))
        _write(axes, 1246, top + 12, name, 12, weight="bold" if index == 0 else "normal", ha="right")


def draw_floors(path: Path) -> None:
    """Draw the floors of src/ as boxes; a room imports only from floors below its own."""
    row_height, gap, padding, left, width = 72, 34, 12, 240, 1200
    heights = [len(rows) * (row_height + padding) + padding for *_, rows in FLOORS]
    figure, axes = new_page(width, sum(heights) + gap * (len(FLOORS) - 1) + 40)
    top = 20
    for (level, shared, (pale, strong), rows), height in zip(FLOORS, heights, strict=True):
        if level != FLOORS[0][0]:
            _draw_arrow(axes, (left + 464, top - gap + 3), (left + 464, top - 3))
            _write(axes, left + 478, top - gap / 2, "imports", 11.5, MUTED)
        _draw_box(axes, 20, top, width - 40, height, pale, strong, radius=10)
        _write(axes, 40, top + height / 2, level, 20, MUTED if strong == LINE else strong, weight="bold")
        _write(axes, 94, top + height / 2, shared, 12, MUTED)
        for index, rooms in enumerate(rows):
            step = (width - 20 - left) / len(rooms)
            for number, (name, purpose) in enumerate(rooms):
                x, y = left + number * step, top + padding + index * (row_height + padding)
                _draw_box(axes, x, y, step - padding, row_height, "white", "#d0d7de")
                center = x + (step - padding) / 2
                _write(axes, center, y + 25, name, 14, weight="bold", ha="center", family=MONO)
                _write(axes, center, y + 51, purpose, 11.5, MUTED, ha="center")
        top += height + gap
    save(figure, path)


def draw_positions(run: Path, path: Path) -> None:
    """Draw how alike position embeddings are before and after a run's training, and those that are fixed."""
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    torch.manual_seed(settings["seed"])
    model = VisionTransformer(**settings["model"])  # as it was before its first step
    prefix, grid = model.num_prefix_tokens, model.grid_size
    trained = load_file(run / "checkpoints" / "best.safetensors")["pos_embed"]
    fixed = sincos_position_embedding(grid, model.embedding_dim, prefix)
    panels = {
        "learned, before training": model.pos_embed.detach(),
        "learned, after training": trained,
        "fixed: sincos2d": fixed,
    }
    figure, axes = new_page(1200, 500)
    side, cell = 330, 330 / grid[1]
    for number, (title, table) in enumerate(panels.items()):
        unit = torch.nn.functional.normalize(table[0, prefix:].float(), dim=1)
        similarity = (unit @ unit.T).unflatten(1, grid).numpy()
        left, top = 58 + number * 362, 82
        _write(axes, left, 38, title, 14, weight="bold")
        for index, picture in enumerate(similarity):
            row, column = divmod(index, grid[1])
            shade = matplotlib.colormaps["viridis"]((picture + 1) / 2)[..., :3]
            _show(axes, (shade * 255).astype(np.uint8), left + column * cell, top + row * cell, cell - 8)
        for index in range(grid[1]):
            _write(axes, left + (index + 0.5) * cell - 4, top - 14, str(index + 1), 11, MUTED, ha="center")
            if number == 0:
                _write(axes, left - 14, top + (index + 0.5) * cell - 4, str(index + 1), 11, MUTED, ha="center")
    _write(
        axes, 58, top + side + 24, "A tile for each patch, at its row and column: the cosine of its position", 12, MUTED
    )
    _write(axes, 58, top + side + 48, "embedding with that of every patch.", 12, MUTED)
    bar = np.linspace(-1, 1, 201)[None].repeat(16, axis=0)
    axes.imshow(bar, cmap="viridis", extent=(820, 1136, top + side + 30, top + side + 14), aspect="auto", zorder=2)
    for value in (-1, 0, 1):
        _write(axes, 978 + 158 * value, top + side + 48, str(value).replace("-", "−"), 11, MUTED, ha="center")
    figure.savefig(path)


def copy_picture(source: Path, path: Path) -> None:
    """Copy a picture; of a large one take the upper half, down to a white line, in 256 colors."""
    if source.stat().st_size <= LARGEST_COPY:
        shutil.copyfile(source, path)
        return
    with Image.open(source) as image:
        pixels = np.asarray(image.convert("RGB"))
    white = np.flatnonzero((pixels == 255).all((1, 2)))
    bottom = white[np.abs(white - len(pixels) / 2).argmin()]
    margin = np.full_like(pixels[:MARGIN], 255)
    write_few_colors(Image.fromarray(np.concatenate([pixels[:bottom], margin])), path)


def save(figure: Figure, path: Path) -> None:
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        write_few_colors(Image.open(file), path)


def write_few_colors(image: Image.Image, path: Path) -> None:
    """Write a PNG of 256 colors, which takes a third of the bytes."""
    image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=2).save(path, optimize=True)


def load_photo() -> NDArray[np.uint8]:
    """Return the photo of the drawing, (224, 224, 3)."""
    left, top, side = CROP
    photo = Image.fromarray(load_sample_image("china.jpg")[top : top + side, left : left + side])
    return np.asarray(photo.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def new_page(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this many pixels and axes that count them from the top left."""
    figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.axis("off")
    return figure, axes


def _cut(image: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    top, left = row * PATCH_SIZE, column * PATCH_SIZE
    return image[top : top + PATCH_SIZE, left : left + PATCH_SIZE]


def _show(axes: Axes, image: NDArray[np.uint8], left: float, top: float, side: float, frame: bool = False) -> None:
    smoothing = "nearest" if len(image) < 100 else "antialiased"
    axes.imshow(image, extent=(left, left + side, top + side, top), interpolation=smoothing, aspect="auto", zorder=2)
    if frame:
        axes.add_patch(Rectangle((left, top), side, side, fill=False, ec=INK, lw=1.2, zorder=3))


def _draw_cells(
    axes: Axes,
    values: NDArray[np.float32],
    left: float,
    top: float,
    cell: tuple[float, float],
    colors: str,
    scale: float,
    edge: str = BLUE,
    upright: bool = True,
) -> None:
    """Draw a vector as cells of (width, height), white at 0 and darkest from `scale` on."""
    width, height = cell
    shades = matplotlib.colormaps[colors](0.5 + 0.4 * np.clip(values / scale, -1, 1))
    for index, shade in enumerate(shades):
        x, y = (left, top + index * height) if upright else (left + index * width, top)
        axes.add_patch(Rectangle((x, y), width, height, fc=shade, ec="white", lw=0.8))
    size = (width, height * len(values)) if upright else (width * len(values), height)
    axes.add_patch(Rectangle((left, top), *size, fill=False, ec=edge, lw=1.6))


def _draw_box(
    axes: Axes, left: float, top: float, width: float, height: float, face: str, edge: str, radius: float = 6
) -> None:
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((left, top), width, height, boxstyle=style, fc=face, ec=edge, lw=1.4))


def _draw_arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """Draw a line through the points, with a head at the last one."""
    xs, ys = zip(*points[:-1], strict=True)
    axes.plot(xs, ys, color=INK, lw=1.6, solid_joinstyle="round")
    arrow: dict[str, Any] = {
        "arrowstyle": "-|>,head_length=5,head_width=3",
        "mutation_scale": 1.4,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.add_patch(FancyArrowPatch(points[-2], points[-1], color=INK, lw=1.6, **arrow))


def _write_step(axes: Axes, number: int, left: float, top: float, title: str, note: str, code: str = "") -> None:
    """Write the number and name of a step, what it does, and the attribute of the model that does it."""
    axes.scatter([left + 16], [top], s=560, color=INK, zorder=3)
    _write(axes, left + 16, top, str(number), 13, "white", weight="bold", ha="center", zorder=4)
    _write(axes, left + 42, top, title, 14, weight="bold")
    _write(axes, left, top + 34, note, 11, MUTED)
    _write(axes, left, top + 58, code, 11, BLUE, family=MONO)


def _write(axes: Axes, x: float, y: float, words: str, size: float, color: str = INK, **more: Any) -> None:
    place = "center"
    if "\n" not in words and "rotation" not in more:  # words with and without descenders are to stand on one line
        place, y = "baseline", y + 0.36 * size * DPI / 72
    axes.text(x, y, words, fontsize=size, color=color, va=place, linespacing=1.35, **more)


if __name__ == "__main__":
    main()
