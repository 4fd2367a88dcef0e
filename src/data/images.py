"""How a picture becomes the model's input, in training and in inference: picture -> uint8 tensor (C,H,W)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .levels import to_eight_bit
from .read import CLIPPED, NO_ROOM, Picture, Pixels, Reading, parse_image, read_content

Track = Callable[[Iterable[Any], int, str], Iterator[Any]]  # (items, total, description) -> items


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input; saved with a run, so that inference does the same.

    size: (height, width); channels: 1 grayscale, 3 color, or the number in the data; mean, std: per channel, for
    pixels in [0,1]; axes, pages, value_range, max_pixels: how files are read, see `Reading`.
    """

    size: tuple[int, int]
    resize: str
    interpolation: str
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    axes: str | None = None
    pages: str = Reading.pages
    value_range: tuple[float, float] | None = None
    max_pixels: int = Reading.max_pixels

    @property
    def reading(self) -> Reading:
        """How the files are read."""
        channels = None if self.channels in (1, 3) else self.channels
        return Reading(channels, self.axes, self.pages, self.value_range, self.max_pixels)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Preprocessing":
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return cls(**values)

    def __call__(self, image: Pixels) -> Tensor:
        """Return the uint8 tensor (C,H,W) of an image, cropped and resized in one resampling."""
        return torch.from_numpy(self.pixels(image).transpose(2, 0, 1).copy())

    def read(self, path: Path, notes: Counter[str] | None = None) -> Tensor:
        """Return the uint8 tensor (C,H,W) of a file, and count its notes. Raises OSError, naming the file."""
        pixels, picture = self.parse(read_content(path, self.reading), path)
        if notes is not None:
            notes.update(picture.notes)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def parse(self, content: bytes, path: Path) -> tuple[np.ndarray, Picture]:
        """Return the pixels (H,W,C) of a file's content and the picture that they come from."""
        # Twice the final size, as in Pillow's thumbnails, so that the resampling still has pixels to average.
        picture = parse_image(content, path, self.reading, 2 * max(self.size))
        levels, allowed = picture.levels, self.value_range
        if levels and allowed and (levels[0] < allowed[0] or levels[1] > allowed[1]):
            picture.notes.append(CLIPPED)
        try:
            return self.pixels(picture.pixels), picture
        except MemoryError as error:
            raise OSError(f"{path}: {NO_ROOM}") from error
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
        whole = (0, 0, layer.width, layer.height)
        box = _center_box(layer.size, (width, height)) if self.resize == "crop" else whole
        if self.interpolation == "nearest":
            return layer.resize((width, height), Image.Resampling.NEAREST, box=box)
        # torch has Pillow's antialiased filters, and takes half of the time.
        left, top, right, bottom = box
        pixels = np.array(layer).reshape(layer.height, layer.width, -1)[top:bottom, left:right]
        # In this order, the strides are those of channels last: torch keeps them, in a quarter of the time.
        planes = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)  # (1,C,H,W)
        resized = F.interpolate(planes, (height, width), mode=self.interpolation, antialias=True)
        return resized[0].permute(1, 2, 0).contiguous().numpy()

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
        image, mode = to_eight_bit(image, self.value_range), "L" if self.channels == 1 else "RGB"
        return [image if image.mode == mode else image.convert(mode)]


def _center_box(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest centered box (left, top, right, bottom) of an image with the aspect ratio of `wanted`."""
    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    width, height = (max(1, min(side, round(scale * other))) for side, other in zip(size, wanted, strict=True))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height
