"""TIFFs, whose pages and bands may mean anything. Letters: H W pixels, C channels."""

import contextlib
import ctypes
import functools
from pathlib import Path

import numpy as np
import PIL
from PIL.TiffImagePlugin import TiffImageFile

from .levels import to_eight_bit

BITS, SAMPLES, PLANES = 258, 277, 284  # TIFF tags: bits per sample, number of bands, how these are arranged
FIRST_PAGE = "TIFFs have several pages, of which the first is used; dataset.pages=bands makes them channels"
FOURTH_BAND = "TIFFs have a fourth band, taken for transparency; dataset.channels=4 makes it a channel"
EXTRA_BAND = "TIFFs have a fourth band, which is left out; dataset.channels=4 makes it a channel"


@functools.cache
def silence_libtiff() -> None:
    """Keep libtiff from writing to the terminal; Pillow raises an error too."""
    folder = Path(PIL.__path__[0])
    for library in (*folder.parent.glob("[Pp]illow.libs/libtiff*"), *folder.glob(".dylibs/libtiff*")):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
            ctypes.CDLL(str(library)).TIFFSetWarningHandler(None)


def refuse_deep_planes(image: TiffImageFile) -> None:
    """Raise ValueError for uncompressed bands of 16 bits, one after another, whose bytes Pillow takes for pixels."""
    tags = image.tag_v2
    planes = tags.get(PLANES) == 2 and tags.get(SAMPLES, 1) > 1
    if planes and max(tags.get(BITS, (8,))) > 8 and image.tile and image.tile[0].codec_name == "raw":
        raise ValueError("a TIFF of 16 bits with its bands one after another; save it as .npy (H,W,C)")


def note_bands(image: TiffImageFile, channels: int | None, pages: str) -> list[str]:
    """Return notes on bands and pages; let Pillow load a fourth band that it would leave out, if it is wanted.

    channels, pages: the keys of `dataset`.
    """
    notes = [FIRST_PAGE] if pages == "first" and getattr(image, "n_frames", 1) > 1 else []
    if image.tag_v2.get(SAMPLES) != 4 or image.mode not in ("RGB", "RGBA"):
        return notes
    if channels == 4:
        image._mode = "RGBX" if image.mode == "RGB" else image.mode
        # Pillow would divide the others by a band that is said to be premultiplied.
        for place, tile in enumerate(image.tile):
            if isinstance(tile.args, tuple):
                image.tile[place] = tile._replace(args=(tile.args[0].replace("RGBa", "RGBA"), *tile.args[1:]))
        return notes
    return [*notes, FOURTH_BAND if image.mode == "RGBA" else EXTRA_BAND]


def stack_pages(image: TiffImageFile) -> np.ndarray:
    """Return the pages as channels, (H,W,C)."""
    bands: list[np.ndarray] = []
    for page in range(image.n_frames):
        image.seek(page)
        pixels = np.asarray(to_eight_bit(image) if image.mode in ("1", "P") else image)
        bands += [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, 2, 0))
    if len({(band.shape, band.dtype) for band in bands}) > 1:
        raise ValueError(
            "pages of several sizes or depths, which dataset.pages=bands cannot make channels of one image"
        )
    return np.stack(bands, axis=2)
