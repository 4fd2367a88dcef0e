"""A trained model in three lines, for scripts and notebooks of your own: docs/use-elsewhere.md."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from ..augment.normalize import normalize
from ..data.images import Preprocessing
from ..data.levels import to_bytes
from ..data.read import make_upright
from ..model import VisionTransformer
from ..run.best import load_best
from ..run.saved import choose_run

Picture = str | os.PathLike[str] | Image.Image | np.ndarray  # an array is (H,W) or (H,W,C)


@dataclass(frozen=True)
class Transform:
    """Turn pictures into the model's input, as `python inference.py` does."""

    preprocessing: Preprocessing

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Tensor:
        """Return normalized pixels (n,C,H,W), float32, of one picture (n is 1) or of a list.

        An array has values from 0 to 255 (uint8), or from 0 to 1 (floats). A PIL image that was decoded or changed is
        taken as it is, turned upright. Raises OSError for files that are no images, ValueError for arrays that do not
        fit.
        """
        several: list[Any] = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
        if not several:
            raise ValueError("the list of pictures is empty")
        pixels = torch.stack([self._read(picture) for picture in several])
        return normalize(pixels, self.preprocessing.mean, self.preprocessing.std)

    def _read(self, picture: Picture) -> Tensor:
        """Return the uint8 pixels (C,H,W) of one picture."""
        if isinstance(picture, str | os.PathLike):
            return self.preprocessing.read(Path(os.path.expanduser(picture)))
        if isinstance(picture, JpegImageFile) and picture.tile and picture.fp is not None:
            return self._read_again(picture, picture.fp)
        if isinstance(picture, Image.Image):
            return self.preprocessing(make_upright(picture))
        if isinstance(picture, np.ndarray):
            return self.preprocessing(self._to_bytes(picture))
        kind = type(picture).__name__
        raise TypeError(f"a picture is a path, a PIL image or an array (height, width, channels), not {kind}")

    def _read_again(self, picture: JpegImageFile, file: IO[bytes]) -> Tensor:
        """Return the pixels of a JPEG that is not decoded yet, as from its file: large ones are decoded in part."""
        place = file.tell()
        file.seek(0)
        pixels, _ = self.preprocessing.parse(file.read(), Path(str(picture.filename)))
        file.seek(place)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def _to_bytes(self, array: np.ndarray) -> np.ndarray:
        allowed = self.preprocessing.value_range
        if array.ndim not in (2, 3):
            raise ValueError(f"an image has the shape (height, width) or (height, width, channels), not {array.shape}")
        if array.dtype.kind == "f" and allowed is None and array.size and array.max() > 1:
            raise ValueError(f"float pixels are from 0 to 1, but these reach {array.max():g}; astype('uint8')?")
        return to_bytes(array, allowed)


def load_model(
    run: str | os.PathLike[str], roots: Sequence[str] = ("outputs", "multirun")
) -> tuple[VisionTransformer, Transform, list[str]]:
    """Return the model of a run in evaluation mode, on the CPU, with its best weights; its transform; and its classes.

    run: its folder, or what `inference.py run=` takes: best, latest, or a number of the table of runs below `roots`.
    Raises FileNotFoundError or ValueError if there is no such run, or if it is damaged.
    """
    saved = choose_run(os.fspath(run), list(roots))
    config, classes, preprocessing = saved.load()
    return load_best(saved.folder, config.model), Transform(preprocessing), classes
