"""Levels of pixels: 8 bits from more, the range that these are made from, mean and standard deviation.

Letters: H W pixels, C channels.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

FEW = 16  # levels, below which a set of images is probably not what it should be


def to_bytes(array: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Return pixels as uint8; without a range, 16-bit pixels keep their upper 8 bits, float pixels are from 0 to 1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array * np.uint8(255)
    if array.dtype.kind != "f" and array.dtype not in (np.uint16, np.int16, np.int32):
        raise ValueError(f"pixels of type {array.dtype}; supported: uint8, uint16, int16, int32, and floats")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("float pixels that are not finite")
    if value_range is not None:
        return _scale_table(value_range)[array] if array.dtype == np.uint16 else _scale(array, value_range)
    if array.dtype.kind == "f":
        return (array.clip(0, 1) * 255).round().astype(np.uint8)
    return (array.clip(0, 0xFFFF).astype(np.uint16) >> 8).astype(np.uint8)


def _scale(array: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    low, high = value_range
    return ((array.astype(np.float64) - low) * (255 / (high - low))).round().clip(0, 255).astype(np.uint8)


@functools.lru_cache(4)
def _scale_table(value_range: tuple[float, float]) -> np.ndarray:
    """Return what each of 16 bits' levels becomes: looking them up is ten times as fast."""
    return _scale(np.arange(0x10000), value_range)


def find_levels(image: Image.Image) -> tuple[float, float] | None:
    """Return the least and the greatest level of an image of more than 8 bits."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return None
    levels = np.asarray(image)
    finite = levels[np.isfinite(levels)] if image.mode == "F" else levels
    return (float(finite.min()), float(finite.max())) if finite.size else None


def to_eight_bit(image: Image.Image, value_range: tuple[float, float] | None = None) -> Image.Image:
    """Return the image in mode L or RGB."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        levels = np.asarray(image)
        return Image.fromarray(to_bytes(levels if mode in ("I", "F") else levels.astype(np.uint16), value_range))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    return image.convert("RGB")


def find_value_range(levels: Sequence[float], floats: bool = False) -> tuple[float, float] | None:
    """Return the range that becomes 0 to 255 for images of these least and greatest levels; None for the whole type.

    Cameras and scanners of 10, 12 or 14 bits use a small part of 16. levels: NaN if no image has more than 8 bits.
    """
    low, high = levels
    unit = low >= 0 and high <= 1
    uses_all_bits = not floats and low >= 0 and 0x7FFF < high <= 0xFFFF
    return (low, high) if low < high and not unit and not uses_all_bits else None


def count_levels(histogram: np.ndarray) -> int:
    """Return how many levels all but a thousandth of the pixels have, such as dead ones, from counts (C,256)."""
    counted = np.sort(histogram.sum(0))[::-1].cumsum()
    return int((counted < 0.999 * counted[-1]).sum()) + 1


def pixel_statistics(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation per channel, pixels in [0,1], from counts (C,256) of the 256 values.

    A constant channel gets std 1/255, which is safe to divide by.
    """
    values = np.arange(256) / 255
    shares = histogram / histogram.sum(axis=1, keepdims=True).clip(1)
    means = shares @ values
    stds = np.sqrt((shares * (values - means[:, None]) ** 2).sum(1)).clip(1 / 255)
    return means.round(6).tolist(), stds.round(6).tolist()
