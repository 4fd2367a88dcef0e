"""The images on which written files are checked: test images of the run, or made ones if these are not at hand.

Letters: H W pixels, C channels, n images.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..augment.normalize import normalize
from ..config.paths import anchor
from ..config.schema import TrainConfig
from ..data.images import Preprocessing
from ..data.read import Pixels, parse_image, read_content
from ..data.sources import load_source
from ..data.splits import carve_splits
from ..data.torchvision_sets import LAYOUTS, is_there
from ..machine.disk import read_csv
from ..model import VisionTransformer
from ..run.files import TEST_PREDICTIONS
from ..run.saved import SavedRun
from .bundle import Samples
from .parity import predict_parts

NUM_SAMPLES = 64
LARGEST = 2**22  # bytes of a picture; larger ones are halved, so that 64 of them fit into 256 MiB
SHAPES = (1, 1), (2, 3), (3, 2), (1.1, 1), (0.7, 0.9), (4, 1.5), (1, 5), (7, 7)  # height, width in those of the model
WAVES = 5  # colors along each side of a made picture


def collect_samples(run: SavedRun, config: TrainConfig, look: Preprocessing, model: VisionTransformer) -> Samples:
    """Return 64 images evenly from the test split, all if there are fewer, with what the model predicts for them.

    Nothing is downloaded. Raises ValueError if the model predicts NaN.
    """
    pictures, source = read_tested(run, config, look)
    if not pictures:
        pictures, source = make_pictures(look), f"{NUM_SAMPLES} synthetic images ({source})"
    inputs = torch.stack([look(picture) for picture in pictures])
    logits = predict_parts(lambda part: model(normalize(part, look.mean, look.std)), inputs)
    probabilities = logits.softmax(1)
    if not probabilities.isfinite().all():
        raise ValueError(f"the weights of {run.folder} predict NaN; they cannot be exported")
    return Samples(pictures, inputs, probabilities, source, logits)


def read_tested(run: SavedRun, config: TrainConfig, look: Preprocessing) -> tuple[list[np.ndarray], str]:
    """Return test images, and in words which; [] and why there are none."""
    try:
        rows = read_csv(run.folder / TEST_PREDICTIONS)
    except (OSError, ValueError):
        rows = []
    if not rows:
        return [], "the run has no test results"
    count = min(NUM_SAMPLES, len(rows))
    chosen = sorted({round(place) for place in np.linspace(0, len(rows) - 1, count).tolist()})
    if rows[0].get("file"):
        started_in = run.environment().get("cwd") or ""
        pictures = list(_open_files([str(rows[place].get("file")) for place in chosen], started_in, look))
    else:
        images = load_array(run, config)
        fits = images is not None and len(images) == len(rows)
        pictures = [_as_array(images[place], look) for place in chosen] if images is not None and fits else []
    if not pictures:
        return [], "the test images are gone"
    lost = f"; {count - len(pictures)} more are gone" if len(pictures) < count else ""
    return pictures, f"{len(pictures)} of {len(rows):,} test images{lost}"


def _open_files(files: list[str], started_in: str, look: Preprocessing) -> Iterator[np.ndarray]:
    """Yield the pictures (H,W,C) of the files that can be read.

    started_in: where the run was started, to which the paths are relative.
    """
    for file in files:
        places = [Path(os.path.expanduser(file)), Path(started_in, file)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            continue
        try:
            # As in inference, a large JPEG may be decoded at a fraction of its size.
            picture = parse_image(read_content(path, look.reading), path, look.reading, 2 * max(512, *look.size))
            yield _as_array(picture.pixels, look)
        except (OSError, ValueError, MemoryError):
            continue


def _as_array(pixels: Pixels, look: Preprocessing) -> np.ndarray:
    """Return the pixels (H,W,C) of a picture, with the channels of the model. Raises ValueError for other channels."""
    if isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] == look.channels:
        while pixels.size > LARGEST:
            pixels = pixels[::2, ::2]
        return np.ascontiguousarray(pixels)  # no view that keeps the whole in memory
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    if look.channels not in (1, 3):
        raise ValueError(f"it does not have {look.channels} channels")
    picture = pixels.convert("L" if look.channels == 1 else "RGB")
    while picture.width * picture.height * look.channels > LARGEST:
        picture = picture.reduce(2)
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


def load_array(run: SavedRun, config: TrainConfig) -> np.ndarray | None:
    """Return the test images of a data set whose images come in one file, None if it is not at hand."""
    name, root = config.dataset.name, config.dataset.root
    if name not in ("digits", *LAYOUTS) or (name in LAYOUTS and root is None):
        return None
    started_in = run.environment().get("cwd") or ""
    try:
        if root is not None and not os.path.exists(os.path.expanduser(root)) and os.path.isdir(started_in):
            config = anchor(config, started_in)
        if name in LAYOUTS and not is_there(config.dataset):  # opening it would download it
            return None
        source = load_source(config.dataset)
        carve_splits(source, config.dataset)
    except (OSError, ValueError, RuntimeError):
        return None
    items = source.splits["test"][0]
    return items if isinstance(items, np.ndarray) else None


def make_pictures(look: Preprocessing) -> list[np.ndarray]:
    """Return 64 smooth pictures (H,W,C) of random colors, in eight shapes; always the same ones."""
    random, (height, width) = np.random.default_rng(0), look.size
    pictures = []
    for number in range(NUM_SAMPLES):
        rows, columns = SHAPES[number % len(SHAPES)]
        side = max(1, round(height * rows)), max(1, round(width * columns))
        grids = random.integers(0, 256, (look.channels, WAVES, WAVES), dtype=np.uint8)
        layers = [Image.fromarray(grid).resize(side[::-1], Image.Resampling.BICUBIC) for grid in grids]
        pictures.append(np.stack([np.asarray(layer) for layer in layers], axis=2))
    return pictures
