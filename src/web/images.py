"""Pictures of test images, addressed by run and place in the split, never by path; decoded as training decodes them."""

import os
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..config.schema import TrainConfig
from ..data.images import Preprocessing
from ..data.read import Reading, parse_image, read_content
from ..data.sources import load_source
from ..data.splits import carve_splits
from ..data.torchvision_sets import LAYOUTS, is_there
from ..run.saved import SavedRun
from .errors import PageError
from .pictures import encode, to_picture
from .results import Tested

HELD = 2  # data sets in memory whose images come in one file
LARGEST = 1024  # pixels of a side


class TestImages:
    """The test images of runs. roots: the folders below which files may be shown."""

    def __init__(self, roots: list[Path], max_pixels: int) -> None:
        self._roots, self._max_pixels = roots, max_pixels
        self._arrays: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, run: SavedRun, tested: Tested, size: int) -> bytes:
        """Return a PNG of an image, its longer side of about so many pixels. Raises PageError if it cannot be shown."""
        picture = self.open(run, tested, min(size, LARGEST))
        if max(picture.size) < size:  # single pixels stay visible
            factor = max(1, min(size, 256) // max(picture.size))
            picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        picture.thumbnail((size, size))
        return encode(picture)

    def open(self, run: SavedRun, tested: Tested, min_side: int) -> Image.Image:
        """Return the picture of an image, as it is before preprocessing."""
        config, _, look = self._load(run)
        if not tested.file:
            return to_picture(self._take(run, config, tested.index))
        path = self._allow(Path(tested.file))
        reading = self.limit(look.reading)
        try:
            return to_picture(parse_image(read_content(path, reading), path, reading, min_side).pixels)
        except (OSError, ValueError, MemoryError) as error:
            raise PageError(str(error) or "the picture does not fit into memory", 404) from error

    def pixels(self, run: SavedRun, tested: Tested) -> np.ndarray:
        """Return the pixels (H,W,C) that the model gets of an image."""
        config, _, look = self._load(run)
        look = replace(look, max_pixels=min(look.max_pixels, self._max_pixels))
        try:
            if not tested.file:
                return look.pixels(self._take(run, config, tested.index))
            path = self._allow(Path(tested.file))
            return look.parse(read_content(path, look.reading), path)[0]
        except (OSError, ValueError) as error:
            raise PageError(str(error), 404) from error

    def limit(self, reading: Reading) -> Reading:
        """Return how files are read, with our limit of pixels: that of a run may be a stranger's."""
        return replace(reading, max_pixels=min(reading.max_pixels, self._max_pixels))

    def _load(self, run: SavedRun) -> tuple[TrainConfig, list[str], Preprocessing]:
        try:
            return run.load()
        except ValueError as error:
            raise PageError(str(error), 409) from error

    def _allow(self, path: Path) -> Path:
        """Return the path of an image. Raises PageError for one outside the folders that may be shown."""
        try:
            resolved = path.expanduser().absolute().resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise PageError(f"{path} is not a path", 404) from error
        if not any(resolved.is_relative_to(root) for root in self._roots):
            raise PageError(
                f"{path} is not below serve.roots, so it is not shown; start the page with serve.roots=[FOLDER,…]",
                403,
                "serve.roots",
            )
        if not resolved.is_file():
            raise PageError(f"the image {path} is gone: it was moved or deleted after the test", 404)
        return resolved

    def _take(self, run: SavedRun, config: TrainConfig, index: int) -> np.ndarray:
        """Return an image of a data set whose images come in one file."""
        with self._lock:
            if run.folder not in self._arrays:
                self._arrays[run.folder] = self._load_array(config)
            self._arrays.move_to_end(run.folder)
            while len(self._arrays) > HELD:
                self._arrays.popitem(last=False)
            images = self._arrays[run.folder]
        if index >= len(images):
            raise PageError("the data set has changed since the test: it has no such image", 404)
        return images[index]

    def _load_array(self, config: TrainConfig) -> np.ndarray:
        name, root = config.dataset.name, config.dataset.root
        if name not in ("digits", *LAYOUTS) or (name in LAYOUTS and root is None):
            raise PageError("the test results do not name their files; an older version wrote them", 404)
        if root is not None:
            resolved = Path(os.path.expanduser(root)).absolute().resolve()
            if not any(resolved.is_relative_to(allowed) for allowed in self._roots):
                raise PageError(f"dataset.root={root} is not below serve.roots, so it is not shown", 403, "serve.roots")
            if not is_there(config.dataset):  # opening it would download it
                raise PageError(f"the images are gone: {name} is not in dataset.root={root}", 404)
        try:
            source = load_source(config.dataset)
            carve_splits(source, config.dataset)
        except (OSError, ValueError, RuntimeError) as error:
            raise PageError(f"the images cannot be read: {error}", 404) from error
        items = source.splits["test"][0]
        if not isinstance(items, np.ndarray):
            raise PageError("the test results do not name their files; they were written by an older version", 404)
        return items
