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
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import PIL.features
import torch
from filelock import FileLock, Timeout

from .decode import Decoded, Index, Items, decode, decode_one, fit_to_pictures
from .images import Preprocessing, Track

PIXELS, INDEX, BUILDING = "pixels.u8", "index.npz", ".building"
VERSION = 1  # of the decoder: a change in `images.py` that changes pixels raises it, and old caches are left aside

# Seconds that the other processes of a machine leave to the first one, which shows how far it is, to begin with the
# building; the one that is later then waits for it at the lock.
HEAD_START = 10.0

log = logging.getLogger("vit")


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
        if os.environ.get("LOCAL_RANK", "0") != "0":
            self._leave_to_first()
        with _wait_for(self.folder):
            index = self._read()
            if index is None or self._is_mended(index):
                self._build(track, description)
                index = self._read()
        assert index is not None
        return index

    def _leave_to_first(self) -> None:
        until = time.monotonic() + HEAD_START
        while self._read() is None and time.monotonic() < until:
            time.sleep(0.1)

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
        return any(isinstance(decode_one(self.items[i], self.preprocessing), Decoded) for i in failed)

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
                index = decode(self.items, preprocessing, file if self.store else None, track, description)
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
