"""Decode files to pixels, once, on all cores, and build an index of the images' metadata on the way.

Letters: N images, H W pixels, C channels.
"""

import contextlib
import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from ..augment.chunks import count_cores
from .images import Preprocessing, Track
from .read import PLAIN, Reading, read_content, upright_size

CHUNK_SIZE = 16  # images per task of a thread: passing a result between threads costs as much as a small image
Items = Sequence[Path] | np.ndarray
T = TypeVar("T")


@dataclass
class Index:
    """Metadata of a list of images, with a row for each image that could be read.

    kept: (N,) positions in the list; width, height: (N,) of the picture in the file, upright; mode: (N,) str;
    digest: uint8 (N,16) content hash; shape: (H,W,C) of a stored image; histogram: int64 (C,256) of all stored
    pixels; grey: whether all images are grayscale; errors: one line for each file that could not be read; levels: the
    least and the greatest one of files of more than 8 bits, NaN if there are none; notes: (n,2) str, what ambiguous
    files were taken for, and how many; checksums: uint8 (m,16) of the parts of the stored pixels, see `cache`.
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
    levels: np.ndarray
    notes: np.ndarray
    checksums: np.ndarray = field(default_factory=lambda: np.empty((0, 16), np.uint8))

    def save(self, path: Path) -> None:
        np.savez(path, **{part.name: getattr(self, part.name) for part in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Index":
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{part.name: saved[part.name] for part in fields(cls)})

    @property
    def num_bytes(self) -> int:
        return len(self.kept) * int(np.prod(self.shape))


@dataclass
class Decoded:
    """A decoded image: pixels (H,W,C), counts of their values (C,256), and metadata of its file."""

    pixels: np.ndarray
    counts: np.ndarray
    width: int
    height: int
    mode: str
    digest: bytes
    levels: tuple[float, float] | None = None
    notes: Sequence[str] = ()


def fit_to_pictures(size: tuple[int, int], items: Items, reading: Reading = PLAIN) -> tuple[int, int]:
    """Return `size` (height, width), reduced if no picture is that large: enlarging takes space and adds no detail.

    Reads the headers of up to 64 evenly spaced pictures.
    """
    heights, widths = [], []
    for position in np.linspace(0, len(items) - 1, min(64, len(items))).astype(int):
        item = items[position]
        with contextlib.suppress(Exception):  # a broken file is reported when it is decoded
            sides = item.shape[:2] if isinstance(item, np.ndarray) else upright_size(item, reading)
            heights.append(sides[0])
            widths.append(sides[1])
    return min([size[0], max(heights, default=size[0])]), min([size[1], max(widths, default=size[1])])


def index_arrays(images: np.ndarray, items: np.ndarray | None = None) -> Index:
    """Return the index of images (N,H,W,C) that need no decoding, because they come in an array of the right size.

    items: the original array, if its channels were repeated.
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
        levels=np.full(2, np.nan),
        notes=np.empty((0, 2), dtype=str),
    )


def decode(items: Items, preprocessing: Preprocessing, file: BinaryIO | None, track: Track, description: str) -> Index:
    """Decode all items on all cores, write the readable ones to `file` in order, and return the index."""
    histogram = np.zeros((preprocessing.channels, 256), np.int64)
    rows: list[tuple[int, int, int, str, bytes]] = []
    errors: list[str] = []
    grey = True
    notes = Counter[str]()
    levels: list[float] = []
    decoded = map_in_order(partial(decode_one, preprocessing=preprocessing), items)
    for position, image in enumerate(track(decoded, len(items), description)):
        if isinstance(image, OSError):
            errors.append(str(image))
            continue
        if file is not None:
            file.write(image.pixels.data)
        histogram += image.counts
        levels += image.levels or ()
        notes.update(image.notes)
        grey = grey and _is_grey(image.pixels)  # compares no pixels after the first color image
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
        levels=np.array([min(levels), max(levels)]) if levels else np.full(2, np.nan),
        notes=np.array([(note, str(count)) for note, count in notes.items()], dtype=str).reshape(-1, 2),
    )


def map_in_order(function: Callable[[Any], T], items: Sequence[Any] | np.ndarray) -> Generator[T, None, None]:
    """Yield what the function returns for each item, in order, from threads; at most 64 items per core are ahead.

    Pillow releases the GIL while it decodes and resamples, so threads share the work without copies.
    """

    def do_chunk(first: int) -> list[T]:
        return [function(items[i]) for i in range(first, min(first + CHUNK_SIZE, len(items)))]

    workers = count_cores()
    starts = iter(range(0, len(items), CHUNK_SIZE))
    with ThreadPoolExecutor(workers) as pool:
        pending = deque(pool.submit(do_chunk, first) for first in itertools.islice(starts, 4 * workers))
        try:
            while pending:
                yield from pending.popleft().result()
                pending.extend(pool.submit(do_chunk, first) for first in itertools.islice(starts, 1))
        finally:  # after Ctrl-C or on a full disk, no pending task is started
            pool.shutdown(cancel_futures=True)


def decode_one(item: Path | np.ndarray, preprocessing: Preprocessing) -> Decoded | OSError:
    if isinstance(item, np.ndarray):
        pixels, (height, width) = preprocessing.pixels(item), item.shape[:2]
        digest = hashlib.blake2b(item.tobytes(), digest_size=16).digest()
        return Decoded(pixels, _count_values(pixels), width, height, _array_mode(item), digest)
    try:
        content = read_content(item, preprocessing.reading)
        pixels, picture = preprocessing.parse(content, item)
    except OSError as error:
        return error
    digest = hashlib.blake2b(content, digest_size=16).digest()
    counts = _count_values(pixels)
    return Decoded(pixels, counts, picture.width, picture.height, picture.mode, digest, picture.levels, picture.notes)


def _array_mode(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return {1: "L", 3: "RGB"}.get(channels, f"uint8x{channels}")


def _count_values(pixels: np.ndarray) -> np.ndarray:
    """Return how often each value from 0 to 255 occurs in each channel of pixels (H,W,C), as (C,256)."""
    if pixels.shape[2] == 3:  # Pillow counts in C, four times as fast
        return np.array(Image.fromarray(pixels).histogram()).reshape(3, 256)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(pixels, 2, 0)])


def _is_grey(pixels: np.ndarray) -> bool:
    if pixels.shape[2] != 3:
        return pixels.shape[2] == 1
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
