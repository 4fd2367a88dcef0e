"""One way to read an image, for training and inference alike: file -> PIL -> uint8 tensor (C,H,W)."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
Track = Callable[[Iterable[Any], int, str], Iterator[Any]]  # (items, how many, description) -> items


def find_images(folder: Path) -> list[Path]:
    """Return all image files below `folder`, sorted; hidden files and folders and other file types are left out."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(parent, name) for name in files if not is_hidden(name) and is_image(name)]
    return sorted(found)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def read_image(path: Path) -> Image.Image:
    """Read a file (its first frame) upright, as 8-bit grey (mode L) or colour (mode RGB).

    Transparency is laid on white; 16-bit grey keeps its upper 8 bits; float pixels count from 0 to 1.
    Raises OSError, naming the file, where it is truncated or no image that Pillow reads.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_eight_bit(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on broken files
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise OSError(f"{path}: {reason}") from error


def to_eight_bit(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB."""
    mode = image.mode
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode == "I" or mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if mode == "F":
        pixels = np.asarray(image)
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("float pixels outside 0 to 1")
        return Image.fromarray((pixels * 255).round().astype(np.uint8))
    return image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """What turns a picture into the model's input; saved with a run, and all that inference needs to know.

    size: (height, width); channels 1 or 3; mean, std: per channel, of pixels in [0,1].
    """

    size: tuple[int, int]
    resize: str
    interpolation: str
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Preprocessing":
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return cls(**values)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the uint8 tensor (C,H,W) of a PIL image: one resampling, crop included."""
        image = to_eight_bit(image).convert("L" if self.channels == 1 else "RGB")
        height, width = self.size
        box = _center_box(image.size, (width, height)) if self.resize == "crop" else None
        if image.size != (width, height):
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation], box=box)
        pixels = np.asarray(image).reshape(height, width, self.channels)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _center_box(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest centred box (left, top, right, bottom) of an image with the wanted aspect ratio."""
    width, height = size
    scale = min(width / wanted[0], height / wanted[1])
    # Rounding may give -1e-15, which Pillow refuses.
    left, top = max(0.0, (width - scale * wanted[0]) / 2), max(0.0, (height - scale * wanted[1]) / 2)
    return (left, top, width - left, height - top)


def decode(
    items: Sequence[Path] | np.ndarray, preprocessing: Preprocessing, track: Track, description: str
) -> tuple[Tensor, list[int], list[str]]:
    """Decode files, or arrays (N,H,W) and (N,H,W,3), once, with all cores.

    Returns the uint8 images (n,C,H,W), the positions in `items` they come from (all but the unreadable ones)
    and one line for each unreadable file.
    """
    height, width = preprocessing.size
    images = torch.empty(len(items), preprocessing.channels, height, width, dtype=torch.uint8)
    errors: dict[int, str] = {}

    def decode_one(position: int) -> None:
        try:
            item = items[position]
            image = Image.fromarray(item) if isinstance(item, np.ndarray) else read_image(item)
            images[position] = preprocessing(image)
        except OSError as error:
            errors[position] = str(error)

    # Pillow decodes and resizes outside the interpreter lock, so threads share the work without copies.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in track(pool.map(decode_one, range(len(items))), len(items), description):
            pass
    if not errors:
        return images, list(range(len(items))), []
    kept = [position for position in range(len(items)) if position not in errors]
    return images[kept], kept, [errors[position] for position in sorted(errors)]
