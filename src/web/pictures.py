"""Pixels to pictures that a browser shows."""

import io

import numpy as np
from PIL import Image


def to_picture(pixels: Image.Image | np.ndarray) -> Image.Image:
    """Return a picture in mode L or RGB: of other numbers of channels the first three, or the first one."""
    if isinstance(pixels, np.ndarray):
        array = pixels if pixels.ndim == 2 else pixels[..., : 3 if pixels.shape[2] >= 3 else 1].squeeze()
        pixels = Image.fromarray(np.ascontiguousarray(array))
    return pixels if pixels.mode in ("L", "RGB") else pixels.convert("RGB")


def encode(picture: Image.Image) -> bytes:
    """Return a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
