"""From files to pixels, once, with all cores; and what was learned about the images on the way: their index.

Letters: N images, H W pixels, C channels.
"""

import contextlib
import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..augment.chunks import count_cores
from .images import FORMATS, ORIENTATION, SIDEWAYS, Preprocessing, Track

TOGETHER = 16  # images that a thread decodes before it hands them over: handing over costs as much as a small image
Items = Sequence[Path] | np.ndarray


@dataclass
class Index:
    """What decoding told about a list of images; the rows are those that could be read.

    kept: (N,) their positions in the list; width, height: (N,) of the file's picture, upright; mode: (N,) text;
    digest: uint8 (N,16) hash of the content; shape: (H,W,C) of a stored image; histogram: int64 (C,256) of all stored
    pixels; grey: whether all images are; errors: a line for each file that could not be read.
    """

    kept: np.ndarray
    width: np.ndarray
    height: np.ndarray
    mode: np.ndarray
    digest: np.ndarray
    shape: np.ndarray
    histogram: np.ndarray
    grey: np.ndarray
    errors: np.ndarray

    def save(self, path: Path) -> None:
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Index":
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{field.name: saved[field.name] for field in fields(cls)})

    @property
    def num_bytes(self) -> int:
        return len(self.kept) * int(np.prod(self.shape))


@dataclass
class Decoded:
    """One image, decoded: its pixels (H,W,C), their counts (C,256), what its file says."""

    pixels: np.ndarray
    counts: np.ndarray
    width: int
    height: int
    mode: str
    digest: bytes


def fit_to_pictures(size: tuple[int, int], items: Items) -> tuple[int, int]:
    """Return `size` (height, width), or less where no picture has as much: enlarging costs space, gains no detail.

    Read off the headers of up to 64 pictures, evenly spread.
    """
    heights, widths = [], []
    for position in np.linspace(0, len(items) - 1, min(64, len(items))).astype(int):
        item = items[position]
        with contextlib.suppress(Exception):  # what is broken is found, and named, when it is decoded
            sides = item.shape[:2] if isinstance(item, np.ndarray) else _upright_size(item)
            heights.append(sides[0])
            widths.append(sides[1])
    return min([size[0], max(heights, default=size[0])]), min([size[1], max(widths, default=size[1])])


def _upright_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a file's picture without decoding it."""
    if path.suffix.lower() == ".npy":
        height, width = np.load(path, mmap_mode="r", allow_pickle=False).shape[:2]
        return height, width
    with Image.open(path, formats=FORMATS) as image:
        return image.size if image.getexif().get(ORIENTATION) in SIDEWAYS else image.size[::-1]


def index_arrays(images: np.ndarray, items: np.ndarray | None = None) -> Index:
    """Return the index of images (N,H,W,C) that need no decoding, because they came as an array of the right size.

    items: that array, where its channels were repeated.
    """
    count, height, width, channels = images.shape
    sources = images if items is None else items
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in sources]
    histogram = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(channels)])
    grey = channels == 1 or bool(channels == 3 and all(_is_grey(image) for image in images))
    return Index(
        kept=np.arange(count),
        width=np.full(count, width),
        height=np.full(count, height),
        mode=np.full(count, _array_mode(sources[0])) if count else np.array([], dtype=str),
        digest=np.frombuffer(b"".join(digests), np.uint8).reshape(count, 16),
        shape=np.array([height, width, channels]),
        histogram=histogram,
        grey=np.array(grey),
        errors=np.array([], dtype=str),
    )


def decode(items: Items, preprocessing: Preprocessing, file: BinaryIO | None, track: Track, description: str) -> Index:
    """Decode all items with all cores, write the readable ones to `file` in their order, return the index."""
    histogram = np.zeros((preprocessing.channels, 256), np.int64)
    rows: list[tuple[int, int, int, str, bytes]] = []
    errors: list[str] = []
    grey = True
    for position, image in enumerate(track(_decode_in_order(items, preprocessing), len(items), description)):
        if isinstance(image, OSError):
            errors.append(str(image))
            continue
        if file is not None:
            file.write(image.pixels.data)
        histogram += image.counts
        grey = grey and _is_grey(image.pixels)  # stops looking at the first colour image
        rows.append((position, image.width, image.height, image.mode, image.digest))
    kept, widths, heights, modes, digests = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Index(
        kept=np.array(kept, np.int64),
        width=np.array(widths, np.int32),
        height=np.array(heights, np.int32),
        mode=np.array(modes, dtype=str),
        digest=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
        shape=np.array([*preprocessing.size, preprocessing.channels]),
        histogram=histogram,
        grey=np.array(grey),
        errors=np.array(errors, dtype=str),
    )


def _decode_in_order(items: Items, preprocessing: Preprocessing) -> Iterator[Decoded | OSError]:
    """Yield every item decoded, or why it could not be, in order; per core 64 are decoded ahead at most."""

    def decode_some(first: int) -> list[Decoded | OSError]:
        return [decode_one(items[i], preprocessing) for i in range(first, min(first + TOGETHER, len(items)))]

    # Pillow decodes and resamples outside the interpreter lock, so threads share the work without copies.
    workers = count_cores()
    starts = iter(range(0, len(items), TOGETHER))
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.submit(decode_some, first) for first in itertools.islice(starts, 4 * workers))
        try:
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(pool.submit(decode_some, first) for first in itertools.islice(starts, 1))
        finally:  # after Ctrl-C or a full disk nothing that still waits is begun
            pool.shutdown(cancel_futures=True)


def decode_one(item: Path | np.ndarray, preprocessing: Preprocessing) -> Decoded | OSError:
    if isinstance(item, np.ndarray):
        pixels, content = preprocessing.pixels(item), item.tobytes()
        (height, width), mode = item.shape[:2], _array_mode(item)
    else:
        try:
            content = item.read_bytes()
            pixels, picture = preprocessing.parse(content, item)
        except OSError as error:
            return error
        width, height, mode = picture.width, picture.height, picture.mode
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Decoded(pixels, _count_values(pixels), width, height, mode, digest)


def _array_mode(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return {1: "L", 3: "RGB"}.get(channels, f"uint8x{channels}")


def _count_values(pixels: np.ndarray) -> np.ndarray:
    """Return how often each value 0 … 255 occurs in each channel of pixels (H,W,C): (C,256)."""
    if pixels.shape[2] == 3:  # Pillow counts in C, four times as fast
        return np.array(Image.fromarray(pixels).histogram()).reshape(3, 256)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(pixels, 2, 0)])


def _is_grey(pixels: np.ndarray) -> bool:
    if pixels.shape[2] != 3:
        return pixels.shape[2] == 1
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
