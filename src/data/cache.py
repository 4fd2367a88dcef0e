"""The decoded cache: each file is decoded once, into a folder that later starts map into memory.

    <cache_dir>/<name>/pixels.u8     uint8 (N,H,W,C), the images that could be read, in order
                       index.npz     what is known of each image: size, mode, content hash, …

The folder's name holds a hash over the files (names, sizes, times of change) and over how they were decoded. It is
built under another name and renamed, under a lock: a killed build is never mistaken for a cache.
Letters: N images, H W pixels, C channels.
"""

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import shutil
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import PIL.features
import torch
from filelock import FileLock, Timeout
from PIL import Image

from ..augment.chunks import count_cores
from .images import FORMATS, ORIENTATION, SIDEWAYS, Preprocessing, Track

PIXELS, INDEX, BUILDING = "pixels.u8", "index.npz", ".building"
VERSION = 1  # of the decoder: a change in `images.py` that changes pixels raises it, and old caches are left aside
TOGETHER = 16  # images that a thread decodes before it hands them over: handing over costs as much as a small image
Items = Sequence[Path] | np.ndarray

log = logging.getLogger("vit")


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
class _Decoded:
    """One image, decoded: its pixels (H,W,C), their counts (C,256), what its file says."""

    pixels: np.ndarray
    counts: np.ndarray
    width: int
    height: int
    mode: str
    digest: bytes


class Cache:
    """The cache of one list of images at one size; `open` builds it where it is missing."""

    def __init__(
        self,
        items: Items,
        preprocessing: Preprocessing,
        folder: Path,
        name: str,
        store: bool = True,
        shrink: bool = False,
    ) -> None:
        """`store=False` keeps the index alone, for images that are decoded whenever they are needed.

        `shrink` lets the size be smaller than asked for, where all pictures are.
        """
        self.items, self.preprocessing, self.store, self.shrink = items, preprocessing, True, shrink
        self.folder = folder / f"{name}-{_fingerprint(items, preprocessing, shrink)}"
        if not store:
            self.keep_index_only()

    def keep_index_only(self) -> None:
        self.store = False
        if self._read() is None:  # that of a whole cache is as good
            self.folder = self.folder.with_name(f"{self.folder.name}-index")

    def missing_bytes(self) -> int:
        """Return what building the cache will take on the disk; nothing where it is there."""
        if not self.store or self._read() is not None:
            return 0
        return len(self.items) * int(np.prod((*self._final().size, self.preprocessing.channels)))

    def open(self, track: Track, description: str) -> Index:
        """Return the index, after decoding what no earlier start has decoded."""
        index = self._read()
        if index is not None and not self._is_mended(index):
            return index
        with _wait_for(self.folder):
            index = self._read()
            if index is None or self._is_mended(index):
                self._build(track, description)
                index = self._read()
        assert index is not None
        return index

    def _read(self) -> Index | None:
        """Return the index of a whole cache, or None where there is none, or something is missing in it."""
        try:
            index = Index.load(self.folder / INDEX)
            size = (self.folder / PIXELS).stat().st_size
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            return None
        return index if size in (index.num_bytes, 0 if not self.store else index.num_bytes) else None

    def _is_mended(self, index: Index) -> bool:
        """Tell whether a file that could not be read can be now: it may have been the disk, or a permission."""
        failed = set(range(len(self.items))) - set(index.kept.tolist())
        return any(isinstance(_decode_one(self.items[i], self.preprocessing), _Decoded) for i in failed)

    def _final(self) -> Preprocessing:
        if not self.shrink:
            return self.preprocessing
        return replace(self.preprocessing, size=fit_to_pictures(self.preprocessing.size, self.items))

    def pixels(self, index: Index) -> np.ndarray:
        """Return the stored images as a memory map (N,H,W,C); writing to it changes no file."""
        shape = (len(index.kept), *index.shape.tolist())
        if not len(index.kept):  # an empty file cannot be mapped
            return np.empty(shape, np.uint8)
        return np.memmap(self.folder / PIXELS, np.uint8, "c", shape=shape)

    def _build(self, track: Track, description: str) -> None:
        building = Path(f"{self.folder}{BUILDING}")
        shutil.rmtree(building, ignore_errors=True)
        _remove_leftovers(self.folder.parent)
        building.mkdir()
        preprocessing = self._final()
        needed = len(self.items) * int(np.prod((*preprocessing.size, preprocessing.channels))) if self.store else 0
        try:
            with (building / PIXELS).open("wb") as file:
                _reserve(file, needed)
                index = _decode(self.items, preprocessing, file if self.store else None, track, description)
                file.truncate(index.num_bytes if self.store else 0)
                os.fsync(file.fileno())
            index.save(building / INDEX)
            for path in (building / INDEX, building):  # names and contents are on the disk before the new name is
                _flush(path)
            shutil.rmtree(self.folder, ignore_errors=True)  # what is there is damaged
            os.replace(building, self.folder)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = free_space(self.folder.parent)
                raise OSError(
                    f"the decoded images of {self.folder.name} need {format_bytes(needed)}, but dataset.cache_dir="
                    f"{self.folder.parent} has {format_bytes(free)} free; choose another one, or dataset.cache=off"
                ) from error
            raise


@contextlib.contextmanager
def _wait_for(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; say so where another process has it, which is then building what is needed here."""
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting    for another process that decodes the same images into %s", folder)
        lock.acquire()
    except OSError as error:
        raise OSError(f"dataset.cache_dir={folder.parent} cannot be written to: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _flush(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows does not open folders
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


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


def _decode(items: Items, preprocessing: Preprocessing, file: BinaryIO | None, track: Track, description: str) -> Index:
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


def _decode_in_order(items: Items, preprocessing: Preprocessing) -> Iterator[_Decoded | OSError]:
    """Yield every item decoded, or why it could not be, in order; per core 64 are decoded ahead at most."""

    def decode_some(first: int) -> list[_Decoded | OSError]:
        return [_decode_one(items[i], preprocessing) for i in range(first, min(first + TOGETHER, len(items)))]

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


def _decode_one(item: Path | np.ndarray, preprocessing: Preprocessing) -> _Decoded | OSError:
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
    return _Decoded(pixels, _count_values(pixels), width, height, mode, digest)


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


def _fingerprint(items: Items, preprocessing: Preprocessing, shrink: bool) -> str:
    decoding = (
        VERSION,
        (PIL.__version__, PIL.features.version("jpg"), torch.__version__),  # they make the pixels
        shrink,
        preprocessing.size,
        preprocessing.resize,
        preprocessing.interpolation,
        preprocessing.channels,
    )
    digest = hashlib.blake2b(repr(decoding).encode(), digest_size=8)
    if isinstance(items, np.ndarray):
        digest.update(repr(items.shape).encode() + items.tobytes())
    else:
        for path in items:
            facts: tuple[int, ...] = ()
            with contextlib.suppress(OSError):  # a dangling link is found, and named, when it is to be read
                status = os.stat(path)
                # The second time is the system's own: files that were swapped or unpacked anew keep the first.
                facts = status.st_size, status.st_mtime_ns, status.st_ctime_ns
            digest.update(f"{os.fspath(path)}\0{facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _reserve(file: BinaryIO, num_bytes: int) -> None:
    """Take the space on the disk now, so that a disk too small is known before the work and not after it."""
    if num_bytes > free_space(Path(file.name)):
        raise OSError(errno.ENOSPC, "no space left")
    if num_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)


def free_space(folder: Path) -> int:
    """Return the free bytes of the disk that holds, or will hold, the folder."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed builds left behind: unfinished folders whose lock nobody holds."""
    for building in folder.glob(f"*{BUILDING}"):
        lock = FileLock(str(building).removesuffix(BUILDING) + ".lock")
        with contextlib.suppress(Timeout), lock.acquire(blocking=False):
            shutil.rmtree(building, ignore_errors=True)


def format_bytes(num_bytes: float) -> str:
    """Return a size for people: 512 B, 3.4 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    raise AssertionError
