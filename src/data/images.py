"""The one way to read an image, in training and inference: file -> pixels -> uint8 tensor (C,H,W).

A file is read completely or not at all: a truncated one is an error, never padded with gray.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

# Only these (MPO comes with JPEG), whatever the file extension: for some formats Pillow would run other programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
Pixels = Image.Image | np.ndarray  # a picture in mode L or RGB, or a uint8 array (H,W,C) with any other C
Track = Callable[[Iterable[Any], int, str], Iterator[Any]]  # (items, total, description) -> items


@dataclass
class Picture:
    """An image's pixels and metadata of its file: width and height, upright, and Pillow's mode."""

    pixels: Pixels
    width: int
    height: int
    mode: str


def read_image(path: Path) -> Pixels:
    """Read a file (its first frame) upright, as 8-bit grayscale (mode L) or color (RGB), or as (H,W,C) from .npy.

    Transparent images are composited onto white; 16-bit grayscale keeps its upper 8 bits; float pixels range from 0
    to 1. Raises OSError, naming the file, if it is truncated or not an image that Pillow reads.
    """
    return parse_image(path.read_bytes(), path).pixels


def parse_image(content: bytes, path: Path, min_side: int = 0) -> Picture:
    """Return the picture in a file's content; see `read_image`.

    With `min_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, by its DCT, as long as both sides keep that
    many pixels: a large photo takes a fraction of the time.
    """
    try:
        if path.suffix.lower() == ".npy":
            return _parse_array(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            (width, height), mode = image.size, image.mode
            _check_end(content, str(image.format))
            if min_side and isinstance(image, JpegImageFile):
                image.draft(None, (min_side, min_side))
            image.load()
            orientation = image.getexif().get(ORIENTATION, 1)
            if orientation in SIDEWAYS:
                width, height = height, width
            # With nothing to do, exif_transpose returns a copy, which costs as much as a small resize.
            upright = image if orientation == 1 else ImageOps.exif_transpose(image)
            return Picture(to_eight_bit(upright), width, height, mode)
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types for broken files
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise OSError(f"{path}: {reason}") from error


def _check_end(content: bytes, kind: str) -> None:
    """Reject files that a broken download padded with zeros: they decode without an error, half of the image gray."""
    if kind in ("JPEG", "MPO") and content.find(b"\xff\xd9", _find_scan(content)) < 0:
        raise OSError("image file is truncated: the end of the JPEG is missing")
    if kind == "WEBP" and not any(content[-64:]):
        raise OSError("image file is truncated: it ends in zeros")


def _find_scan(content: bytes) -> int:
    """Return where the pixels of a JPEG begin, skipping earlier segments, embedded thumbnails included, by length."""
    position = 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:
            position += 1
        elif marker == 0xDA:
            return position
        elif marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content)


def _parse_array(content: bytes) -> Picture:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays; an image must be a single array")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"an image must have shape (H,W) or (H,W,C), but this array has {array.shape}")
    if array.shape[0] <= 4 < array.shape[2]:
        raise ValueError(f"an image must have shape (H,W,C), but this array looks like (C,H,W): {array.shape}")
    height, width, channels = array.shape
    mode = f"{array.dtype}x{channels}"
    if channels == 1:
        return Picture(Image.fromarray(_bytes(array[..., 0])), width, height, mode)
    pixels = _bytes(array)
    return Picture(Image.fromarray(pixels) if channels == 3 else pixels, width, height, mode)


def _bytes(array: np.ndarray) -> np.ndarray:
    """Return pixels as uint8: 16-bit pixels keep their upper 8 bits, float pixels range from 0 to 1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype != bool and array.dtype.kind != "f":
        raise ValueError(f"pixels of type {array.dtype}; supported: uint8, uint16, and floats from 0 to 1")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError("float pixels outside 0 to 1")
    return (array * 255).round().astype(np.uint8)


def to_eight_bit(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB."""
    mode = image.mode
    if mode == "I":  # 16-bit files, and 32-bit files with 16-bit values
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError("32-bit pixels outside the 16-bit range")
        return Image.fromarray(_bytes(levels.astype(np.uint16)))
    if mode == "F" or mode.startswith("I;16"):
        return Image.fromarray(_bytes(np.asarray(image).astype(np.float64 if mode == "F" else np.uint16)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    return image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input; saved with a run, so that inference does the same.

    size: (height, width); channels: 1 grayscale, 3 color, or the number in the data; mean, std: per channel, for
    pixels in [0,1].
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

    def __call__(self, image: Pixels) -> Tensor:
        """Return the uint8 tensor (C,H,W) of an image, cropped and resized in one resampling."""
        return torch.from_numpy(self.pixels(image).transpose(2, 0, 1).copy())

    def read(self, path: Path) -> Tensor:
        """Return the uint8 tensor (C,H,W) of a file. Raises OSError, naming the file, if it cannot be used."""
        return torch.from_numpy(self.parse(path.read_bytes(), path)[0].transpose(2, 0, 1).copy())

    def parse(self, content: bytes, path: Path) -> tuple[np.ndarray, Picture]:
        """Return the pixels (H,W,C) of a file's content and the picture that they come from."""
        # Twice the final size, as in Pillow's thumbnails, so that the resampling still has pixels to average.
        picture = parse_image(content, path, 2 * max(self.size))
        try:
            return self.pixels(picture.pixels), picture
        except ValueError as error:
            raise OSError(f"{path}: {error}") from error

    def pixels(self, image: Pixels) -> np.ndarray:
        """Return the uint8 pixels (H,W,C) of an image."""
        height, width = self.size
        layers = [layer if layer.size == (width, height) else self._resample(layer) for layer in self._layers(image)]
        planes = [np.asarray(layer).reshape(height, width, -1) for layer in layers]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)

    def _resample(self, layer: Image.Image) -> Image.Image | np.ndarray:
        height, width = self.size
        if self.resize == "squash" and self.interpolation == "bilinear":
            # Pillow's filter, three times as fast; it has no subpixel boxes, which crops need.
            pixels = torch.from_numpy(np.array(layer).reshape(layer.height, layer.width, -1)).permute(2, 0, 1)
            resized = F.interpolate(pixels.unsqueeze(0), (height, width), mode="bilinear", antialias=True)
            return resized[0].permute(1, 2, 0).contiguous().numpy()
        box = _center_box(layer.size, (width, height)) if self.resize == "crop" else None
        return layer.resize((width, height), INTERPOLATIONS[self.interpolation], box=box)

    def _layers(self, image: Pixels) -> list[Image.Image]:
        """Return one picture in mode L or RGB, or, for any other number of channels, a grayscale one per channel."""
        if isinstance(image, np.ndarray):
            if image.ndim == 3 and image.shape[2] == self.channels and self.channels not in (1, 3):
                return [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(self.channels)]
            if image.ndim == 3 and image.shape[2] not in (1, 3):
                raise ValueError(f"{image.shape[2]} channels, but dataset.channels is {self.channels}")
            image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
        if self.channels not in (1, 3):
            raise ValueError(f"{len(image.getbands())} channel(s), but dataset.channels is {self.channels}")
        image, mode = to_eight_bit(image), "L" if self.channels == 1 else "RGB"
        return [image if image.mode == mode else image.convert(mode)]


def _center_box(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest centered box (left, top, right, bottom) of an image with the aspect ratio of `wanted`."""
    width, height = size
    scale = min(width / wanted[0], height / wanted[1])
    # Rounding may give -1e-15, which Pillow rejects.
    left, top = max(0.0, (width - scale * wanted[0]) / 2), max(0.0, (height - scale * wanted[1]) / 2)
    return (left, top, width - left, height - top)
