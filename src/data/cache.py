"""The decoded cache: each file is decoded once, into a folder that later runs memory-map.

    <cache_dir>/<name>/pixels.u8     uint8 (N,H,W,C), the readable images, in order
                       index.npz     metadata of each image: size, mode, content hash, …

The folder's name contains a hash of the files (names, sizes, modification times) and of the decoding settings. The
folder is built under another name and then renamed, under a lock: a killed build is never mistaken for a cache.
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
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import PIL.features
import torch
from filelock import FileLock, Timeout

from ..distributed.torchrun import read_place
from ..machine.disk import free_space
from ..machine.memory import format_bytes
from .decode import Decoded, Index, Items, decode, decode_one, fit_to_pictures
from .images import Preprocessing, Track

PIXELS, INDEX, BUILDING = "pixels.u8", "index.npz", ".building"
VERSION = 5  # of the decoder: increase it when a change in `images.py` changes pixels, so that old caches are ignored

# Seconds that the other processes on a machine give the first one, which shows its progress, to start building.
# After that, the lock decides who builds.
HEAD_START = 10.0
PART = 2**24  # bytes of the pixels that have a checksum of their own
CHECKED = 16  # parts that are compared with their checksums at each start: all of a small cache, others in turn

log = logging.getLogger("vit")


class Cache:
    """The cache of one list of images at one size; `open` builds it if it is missing."""

    def __init__(
        self,
        items: Items,
        preprocessing: Preprocessing,
        folder: Path,
        name: str,
        store: bool = True,
        shrink: bool = False,
    ) -> None:
        """`store=False` keeps only the index, for images that are decoded every time they are needed.

        `shrink` allows a smaller size than requested if all pictures are smaller.
        """
        self.items, self.preprocessing, self.store, self.shrink = items, preprocessing, True, shrink
        self.folder = folder / f"{name}-{_fingerprint(items, preprocessing, shrink)}"
        if not store:
            self.keep_index_only()

    def keep_index_only(self) -> None:
        self.store = False
        if self._read_index() is None:  # the index of a full cache works as well
            self.folder = self.folder.with_name(f"{self.folder.name}-index")

    def missing_bytes(self) -> int:
        """Return the bytes on disk that building the cache will take; 0 if it exists."""
        if not self.store or self._read_index() is not None:
            return 0
        return len(self.items) * int(np.prod((*self._final_preprocessing().size, self.preprocessing.channels)))

    def open(self, track: Track, description: str) -> Index:
        """Return the index, decoding the images first unless an earlier run has."""
        index = self._read_index()
        if index is not None and not self._is_intact(index):
            log.warning("the cache %s has changed on disk; its images are decoded again", self.folder)
            (self.folder / INDEX).unlink(missing_ok=True)
            index = None
        if index is not None and not self._can_read_more(index):
            return index
        if read_place().local_rank != 0:
            self._wait_for_first_process()
        with _lock(self.folder):
            index = self._read_index()
            if index is None or self._can_read_more(index):
                self._build(track, description)
                index = self._read_index()
        assert index is not None
        return index

    def _wait_for_first_process(self) -> None:
        until = time.monotonic() + HEAD_START
        while self._read_index() is None and time.monotonic() < until:
            time.sleep(0.1)

    def _read_index(self) -> Index | None:
        """Return the index of a complete cache, or None if the cache is missing or incomplete."""
        try:
            index = Index.load(self.folder / INDEX)
            size = (self.folder / PIXELS).stat().st_size
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            return None
        return index if size in (index.num_bytes, 0 if not self.store else index.num_bytes) else None

    def _is_intact(self, index: Index) -> bool:
        """Return whether some of the pixels, other ones at each start, are those that were stored."""
        count = len(index.checksums) if self.store else 0
        first = int.from_bytes(os.urandom(4), "big") % max(1, count)
        chosen = {(first + number) % count for number in range(min(CHECKED, count))}
        return all(
            digest == index.checksums[number].tobytes()
            for number, digest in _digest_parts(self.folder / PIXELS, sorted(chosen))
        )

    def _can_read_more(self, index: Index) -> bool:
        """Return whether a file that failed to decode can be read now; the disk or a permission may have failed."""
        failed = set(range(len(self.items))) - set(index.kept.tolist())
        return any(isinstance(decode_one(self.items[i], self.preprocessing), Decoded) for i in failed)

    def _final_preprocessing(self) -> Preprocessing:
        if not self.shrink:
            return self.preprocessing
        return replace(
            self.preprocessing, size=fit_to_pictures(self.preprocessing.size, self.items, self.preprocessing.reading)
        )

    def pixels(self, index: Index) -> np.ndarray:
        """Return the stored images as a memory map (N,H,W,C); writing to it does not change the file."""
        shape = (len(index.kept), *index.shape.tolist())
        if not len(index.kept):  # an empty file cannot be mapped
            return np.empty(shape, np.uint8)
        return np.memmap(self.folder / PIXELS, np.uint8, "c", shape=shape)

    def _build(self, track: Track, description: str) -> None:
        building = Path(f"{self.folder}{BUILDING}")
        shutil.rmtree(building, ignore_errors=True)
        _remove_leftovers(self.folder.parent)
        building.mkdir()
        preprocessing = self._final_preprocessing()
        needed = len(self.items) * int(np.prod((*preprocessing.size, preprocessing.channels))) if self.store else 0
        try:
            with (building / PIXELS).open("wb") as file:
                _reserve(file, needed)
                index = decode(self.items, preprocessing, file if self.store else None, track, description)
                file.truncate(index.num_bytes if self.store else 0)
                os.fsync(file.fileno())
            if self.store:
                parts = range(-(-index.num_bytes // PART))
                digests = b"".join(digest for _, digest in _digest_parts(building / PIXELS, parts))
                index.checksums = np.frombuffer(digests, np.uint8).reshape(-1, 16)
            index.save(building / INDEX)
            for path in (building / INDEX, building):  # contents and names reach the disk before the new name does
                _flush(path)
            shutil.rmtree(self.folder, ignore_errors=True)  # an existing cache is damaged
            os.replace(building, self.folder)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = f"the decoded images of {self.folder.name} need {format_bytes(needed)}"
                if not self.store:
                    what = f"the metadata of the images of {self.folder.name} needs a few MB"
                hint = ", or dataset.cache=off" if self.store else ""
                raise OSError(
                    f"{what}, but dataset.cache_dir={self.folder.parent} has "
                    f"{format_bytes(free_space(self.folder.parent))} free; choose another folder{hint}"
                ) from error
            raise


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; log it if another process has the lock and is building the same cache."""
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting   for another process to decode the same images into %s", folder)
        lock.acquire()
    except OSError as error:
        raise OSError(f"cannot write to dataset.cache_dir={folder.parent}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _digest_parts(path: Path, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers, and the hash of the part of the file that each counts."""
    with path.open("rb") as file:
        for number in numbers:
            file.seek(number * PART)
            yield number, hashlib.blake2b(file.read(PART), digest_size=16).digest()


def _flush(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows cannot open folders
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _fingerprint(items: Items, preprocessing: Preprocessing, shrink: bool) -> str:
    decoding = (
        VERSION,
        (PIL.__version__, PIL.features.version("jpg"), torch.__version__),  # they can change pixels
        shrink,
        preprocessing.size,
        preprocessing.resize,
        preprocessing.interpolation,
        preprocessing.reading,
        preprocessing.channels,
    )
    digest = hashlib.blake2b(repr(decoding).encode(), digest_size=8)
    if isinstance(items, np.ndarray):
        digest.update(repr(items.shape).encode() + items.tobytes())
    else:
        for path in items:
            facts: tuple[int, ...] = ()
            with contextlib.suppress(OSError):  # a dangling link is reported when it is decoded
                status = os.stat(path)
                # ctime too, which programs cannot set: swapped or unpacked files may keep their mtime.
                facts = status.st_size, status.st_mtime_ns, status.st_ctime_ns
            digest.update(f"{os.fspath(path)}\0{facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _reserve(file: BinaryIO, num_bytes: int) -> None:
    """Allocate the disk space now, so that a full disk is an error before the decoding and not after it."""
    if num_bytes > free_space(Path(file.name)):
        raise OSError(errno.ENOSPC, "no space left")
    if num_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)


def _remove_leftovers(folder: Path) -> None:
    """Delete the unfinished folders of killed builds: those whose lock is free."""
    for building in folder.glob(f"*{BUILDING}"):
        lock = FileLock(str(building).removesuffix(BUILDING) + ".lock")
        with contextlib.suppress(Timeout), lock.acquire(blocking=False):
            shutil.rmtree(building, ignore_errors=True)
