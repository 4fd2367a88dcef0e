"""Read an image file: content -> picture, upright, in 8 bits.

A file is read completely or not at all: a truncated one is an error, never padded with gray. Pixels decide; metadata
that cannot be read is noted. Letters: H W pixels, C channels.
"""

import functools
import io
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..machine.regular import SMALL, open_regular, read_regular
from . import tiff
from .ends import check_end
from .levels import find_levels, to_bytes, to_eight_bit

# Only these (MPO comes with JPEG), whatever the file extension: for some formats Pillow would run other programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", *(["AVIF"] if features.check("avif") else []))
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
TURNS = {  # what makes a picture of each orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Pixels = Image.Image | np.ndarray  # a picture in mode L or RGB, or a uint8 array (H,W,C) with any other C

# What was understood of a file although it could mean something else, with the key that says otherwise.
CHANNELS_FIRST = ".npy files are read as (channels, height, width); dataset.axes=hwc reads (height, width, channels)"
NO_ROOM = "the picture does not fit into memory"
NO_METADATA = "metadata cannot be read, such as the orientation"
DEEP_COLOR = "color images of 16 bits keep the upper 8; if they use fewer, save them as .npy for dataset.value_range"
CLIPPED = "levels outside dataset.value_range are clipped to it"

# Pillow refuses large images and long texts before it is known whether they do harm; `dataset.max_pixels` decides.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**28
# An error is raised where pixels are lost; the rest would only interrupt the progress bar.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Reading:
    """How files are understood: the keys of `dataset` of the same names.

    channels: how many are wanted, None if 1 or 3; value_range: the levels that become 0 and 255, None: all 16 bits, and
    0 to 1 for float pixels.
    """

    channels: int | None = None
    axes: str | None = None
    pages: str = "first"
    value_range: tuple[float, float] | None = None
    max_pixels: int = 180_000_000

    @property
    def max_bytes(self) -> int:
        """Bytes that no file of so many pixels has: 16 for each, as many as two numbers, or four channels of floats."""
        return 16 * self.max_pixels + SMALL


PLAIN = Reading()


@dataclass
class Picture:
    """An image's pixels and metadata of its file: width and height, upright, and Pillow's mode.

    levels: the least and the greatest one, if the file has more than 8 bits.
    """

    pixels: Pixels
    width: int
    height: int
    mode: str
    levels: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def read_image(path: Path, reading: Reading = PLAIN) -> Pixels:
    """Read a file (its first frame) upright, as 8-bit grayscale (mode L) or color (RGB), or as (H,W,C) for other C.

    Transparent images are composited onto white. Raises OSError, naming the file, if it is truncated or not an image
    that Pillow reads.
    """
    return parse_image(read_content(path, reading), path, reading).pixels


def read_content(path: Path, reading: Reading = PLAIN) -> bytes:
    """Return the content of a regular file. Raises OSError, naming the file, if it is none, or too large."""
    try:
        return read_regular(path, reading.max_bytes)
    except MemoryError as error:
        raise OSError(f"{path}: {NO_ROOM}") from error


def parse_image(content: bytes, path: Path, reading: Reading = PLAIN, min_side: int = 0) -> Picture:
    """Return the picture in a file's content; see `read_image`.

    With `min_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, by its DCT, as long as both sides keep that
    many pixels: a large photo takes a fraction of the time.
    """
    try:
        if content.startswith(b"\x93NUMPY") or path.suffix.lower() == ".npy":
            return _parse_array(content, reading)
        with _open(io.BytesIO(content)) as image:
            return _parse_picture(image, content, reading, min_side)
    except MemoryError as error:
        raise OSError(f"{path}: {NO_ROOM}") from error
    except Exception as error:  # Pillow's decoders raise a dozen types for broken files
        reason = _explain_unknown(content) if isinstance(error, Image.UnidentifiedImageError) else error
        raise OSError(f"{path}: {reason}") from error


def count_notes(notes: Mapping[str, int]) -> list[str]:
    """Return a line for each note, with the number of images that it is about."""
    return [f"{note} ({count:,} image{'s' * (count > 1)})" for note, count in notes.items()]


def upright_size(path: Path, reading: Reading = PLAIN) -> tuple[int, int]:
    """Return the (height, width) of a file's picture without decoding it."""
    if path.suffix.lower() == ".npy":
        with open_regular(path) as file:
            shape, _ = _read_header(file)
        height, width = shape[1:] if len(shape) == 3 and _has_channels_first(shape, reading) else shape[:2]
        return height, width
    with open_regular(path, reading.max_bytes) as file, _open(file) as image:
        return image.size if _find_orientation(image, []) in SIDEWAYS else image.size[::-1]


def make_upright(image: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF data says, as the pictures of files are."""
    return _turn(image, _find_orientation(image, []))


def _open(file: Any) -> Image.Image:
    start = file.read(16)
    file.seek(0)
    if start[4:12] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1") and _can_read_heif():
        return Image.open(file, formats=(*FORMATS, "HEIF"))
    return Image.open(file, formats=FORMATS)


@functools.cache
def _can_read_heif() -> bool:
    """Add HEIC, the format of iPhones, to Pillow's if its plugin is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _explain_unknown(content: bytes) -> str:
    if content[4:8] == b"ftyp":
        if content[8:12] in (b"avif", b"avis"):
            return "an AVIF image, which Pillow 11.3 and newer read: pip install -U pillow"
        if content[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
            return "a HEIC image; to read it: pip install pillow-heif"
    if content[:4] in (b"II*\0", b"MM\0*"):
        return (
            "a TIFF that is damaged, or of a kind that Pillow does not read, such as one of more than four bands; save "
            "it as .npy (H,W,C)"
        )
    return "not an image"


def _parse_picture(image: Image.Image, content: bytes, reading: Reading, min_side: int) -> Picture:
    (width, height), mode = image.size, image.mode
    notes = check_end(content, str(image.format))
    if min_side and isinstance(image, JpegImageFile):
        image.draft(None, (min_side, min_side))
    _check_size(image.width * image.height, reading)
    if isinstance(image, TiffImageFile):
        tiff.silence_libtiff()
        tiff.refuse_deep_planes(image)
        notes += tiff.note_bands(image, reading.channels, reading.pages)
        if reading.pages == "bands" and image.n_frames > 1:
            _check_size(image.width * image.height * image.n_frames, reading)
            return _make_picture(tiff.stack_pages(image), f"{image.n_frames} pages", reading, notes)
    tiles = getattr(image, "tile", [])
    if tiles and ";16" in str(tiles[0].args) and image.mode in ("RGB", "RGBA", "RGBX", "LA"):
        notes.append(DEEP_COLOR)
    if isinstance(image, PngImageFile):
        _halve_transparency(image)
    image.load()
    orientation = _find_orientation(image, notes)
    if orientation in SIDEWAYS:
        width, height = height, width
    upright = _turn(image, orientation)
    levels = find_levels(upright)
    if reading.channels == len(upright.getbands()) and upright.mode not in ("L", "RGB", "P"):
        return Picture(np.asarray(upright), width, height, mode, notes=notes)
    return Picture(to_eight_bit(upright, reading.value_range), width, height, mode, levels, notes)


def _check_size(num_pixels: int, reading: Reading) -> None:
    if num_pixels > reading.max_pixels:
        raise ValueError(f"{num_pixels:,} pixels are more than dataset.max_pixels={reading.max_pixels}")


def _find_orientation(image: Image.Image, notes: list[str]) -> int:
    """Return the orientation in the EXIF data, 1 (upright) if it cannot be read. Pillow itself turns TIFFs."""
    if isinstance(image, TiffImageFile):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the parsers raise a dozen types for broken data
        notes.append(NO_METADATA)
        return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    # Not ImageOps.exif_transpose, which also writes the metadata anew, and fails where they are broken.
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _halve_transparency(image: PngImageFile) -> None:
    """Give a transparent color of 16 bits the 8 bits that Pillow gives the pixels."""
    color = image.info.get("transparency")
    if isinstance(color, tuple) and image.tile and image.tile[0].args == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in color)


def _parse_array(content: bytes, reading: Reading) -> Picture:
    if content.startswith(b"\x93NUMPY"):
        _check_array(content, reading)
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays; an image must be a single array")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"an image must have shape (H,W) or (H,W,C), but this array has {array.shape}")
    notes: list[str] = []
    if _has_channels_first(array.shape, reading):
        notes = [] if reading.axes else [CHANNELS_FIRST]
        array = np.ascontiguousarray(array.transpose(1, 2, 0))
    height, width, channels = array.shape
    _check_size(height * width, reading)
    return _make_picture(array, f"{array.dtype}x{channels}", reading, notes)


def _check_array(content: bytes, reading: Reading) -> None:
    """Raise ValueError for an array that is larger than its file, or than any image, before memory is taken for it."""
    file = io.BytesIO(content)
    shape, itemsize = _read_header(file)
    wanted, there = math.prod(shape) * itemsize, len(content) - file.tell()
    if wanted > there:
        raise ValueError(f"array file is truncated: {there:,} of {wanted:,} bytes")
    if len(shape) >= 2:
        _check_size(math.prod(sorted(shape)[-2:]), reading)


def _read_header(file: Any) -> tuple[tuple[int, ...], int]:
    """Return the shape of the array in an .npy file, and the bytes of an element."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if any(side < 0 for side in shape):
        raise ValueError(f"an array cannot have the shape {shape}")
    return tuple(shape), dtype.itemsize


def _make_picture(array: np.ndarray, mode: str, reading: Reading, notes: list[str]) -> Picture:
    """Return the picture of pixels (H,W,C) of any type."""
    pixels = _as_picture(to_bytes(array, reading.value_range))
    levels = None if array.dtype in (np.uint8, bool) else (float(array.min()), float(array.max()))
    return Picture(pixels, array.shape[1], array.shape[0], mode, levels, notes)


def _has_channels_first(shape: tuple[int, ...], reading: Reading) -> bool:
    """Return whether an array is (C,H,W): as `dataset.axes` says, or if only its first side is that of the channels."""
    if reading.axes:
        return reading.axes == "chw"
    first, last = (side == reading.channels for side in (shape[0], shape[2]))
    return first > last or (first == last and shape[0] < min(shape[1:]))


def _as_picture(pixels: np.ndarray) -> Pixels:
    """Return pixels (H,W,C) as a picture if they have one channel or three."""
    if pixels.shape[2] == 1:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels) if pixels.shape[2] == 3 else pixels
