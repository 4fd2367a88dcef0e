"""Where the decoded images are stored during training: on the device, in memory, on disk, or not at all (streamed).

Letters: N images, B batch, C channels, H W pixels.
"""

import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..augment.chunks import count_cores
from ..machine.memory import available_memory, format_bytes
from .images import Preprocessing
from .read import read_content

# Fractions of the free memory that images may take; the rest is for the model, its activations and other programs.
DEVICE_SHARE, MEMORY_SHARE = 0.3, 0.5
PREFETCH = 3  # batches prepared ahead

Item = TypeVar("Item")
Batch = tuple[Tensor, Tensor]  # images (B,C,H,W) and their positions (B,), which stay on the CPU


class Images:
    """uint8 images (N,C,H,W) in one tensor: on the device, in memory, or mapped from a file.

    Of a frozen backbone, what is stored are the features of images instead, float32 (N,D,1,1): `engine/features.py`.

    Channels-first storage is fastest for flips and shifts, which move whole rows of a channel; channels-last,
    (N,H,W,C), for resampling, which reads all channels of a pixel.
    """

    def __init__(self, pixels: Tensor, channels_last: bool = False, mapped: bool = False) -> None:
        """pixels: uint8, (N,H,W,C) if `channels_last`, else (N,C,H,W); `mapped` if it is a memory-mapped file."""
        self.pixels, self.channels_last, self.mapped = pixels, channels_last, mapped

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def holds_features(self) -> bool:
        return self.pixels.is_floating_point()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._view(self.pixels).shape)

    def _view(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2) if self.channels_last else pixels

    def take(self, positions: Tensor) -> Tensor:
        """Return the images (B,C,H,W) at positions (B,), a tensor on the CPU, on the device that stores them."""
        # Twenty times as fast as pixels[positions], which does not copy images as whole blocks.
        return self._view(self.pixels.index_select(0, positions.to(self.pixels.device, non_blocking=True)))

    def batches(self, positions: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Yield the images (B,C,H,W) of each tensor of positions on the device, and the positions (B,)."""
        if self.pixels.device.type == device.type and not self.mapped:
            yield from ((self.take(batch), batch) for batch in positions)
        else:
            for images, batch in prefetch(self._gather(positions, device)):
                yield images.to(device, non_blocking=True), batch

    def _gather(self, positions: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Yield batches in memory, for a CUDA device in pinned memory, so that copies overlap with computation."""
        for batch in positions:
            images = torch.empty(
                len(batch), *self.pixels.shape[1:], dtype=self.pixels.dtype, pin_memory=device.type == "cuda"
            )
            yield self._view(torch.index_select(self.pixels, 0, batch, out=images)), batch


class Stream:
    """uint8 images (N,C,H,W) that worker processes decode again from their files each epoch."""

    def __init__(self, items: Sequence[Path] | np.ndarray, preprocessing: Preprocessing) -> None:
        self._files = _Files(items, preprocessing)
        self._order = _Order()
        self._loader: DataLoader[Tensor] | None = None

    def __len__(self) -> int:
        return len(self._files)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), self._files.preprocessing.channels, *self._files.preprocessing.size

    def take(self, positions: Tensor) -> Tensor:
        """Return the images (B,C,H,W) at positions (B,)."""
        with ThreadPoolExecutor(count_cores()) as pool:
            return torch.stack(list(pool.map(self._files.__getitem__, positions.tolist()))).permute(0, 3, 1, 2)

    def batches(self, positions: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Yield the images (B,C,H,W) of each tensor of positions on the device, and the positions (B,)."""
        if self._loader is None:
            self._loader = DataLoader(
                self._files,
                batch_sampler=self._order,
                num_workers=count_cores(),
                pin_memory=device.type == "cuda",
                prefetch_factor=PREFETCH,
                persistent_workers=True,
                worker_init_fn=outlive_signals,
                collate_fn=self._files.collate,
            )
        self._order.positions = positions
        for images in self._loader:
            yield images.to(device, non_blocking=True).permute(0, 3, 1, 2), self._order.requested.popleft()


class _Files(Dataset[Tensor]):
    """What a worker process needs; not the Stream itself, whose reference cycle with the loader would keep it alive."""

    def __init__(self, items: Sequence[Path] | np.ndarray, preprocessing: Preprocessing) -> None:
        self.items, self.preprocessing = items, preprocessing

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Tensor:
        """Return the image (H,W,C)."""
        item = self.items[position]
        if isinstance(item, np.ndarray):
            pixels = self.preprocessing.pixels(item)
        else:
            pixels, _ = self.preprocessing.parse(read_content(item, self.preprocessing.reading), item)
        return torch.from_numpy(pixels.copy())  # Pillow's own memory is read-only

    def collate(self, images: list[Tensor]) -> Tensor:
        """Return the images as (B,H,W,C); B is 0 if a batch is split over more processes than it has images."""
        shape = (0, *self.preprocessing.size, self.preprocessing.channels)
        return default_collate(images) if images else torch.empty(shape, dtype=torch.uint8)


class _Order(Sampler[list[int]]):
    """The batches of an epoch, replaced before each one: a DataLoader with persistent workers has no other way.

    requested: the positions of the batches requested from the workers, in the order in which they arrive.
    """

    def __init__(self) -> None:
        self.positions: Iterable[Tensor] = ()
        self.requested: deque[Tensor] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        self.requested.clear()
        for batch in self.positions:
            self.requested.append(batch)
            yield batch.tolist()


def outlive_signals(worker: int) -> None:
    """Make a worker process ignore the signals that ask a run to stop, which reach all processes of a job.

    The main process still needs batches then, to finish its step. It ends its workers itself, by a message or, if they
    do not read it, by SIGTERM, so a SIGTERM counts only if the parent sent it.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on other systems any SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_parents_signal, daemon=True).start()


def _exit_on_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def prefetch(batches: Iterator[Item]) -> Generator[Item]:
    """Yield the iterator's items, which a thread prepares while the caller works."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(PREFETCH)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # raised again where the batch is asked for
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def choose_place(wanted: str, num_bytes: int, device: torch.device) -> tuple[str, str]:
    """Return device, memory or disk for `dataset.cache=auto|device|memory|disk`, and the reason in words."""
    size = format_bytes(num_bytes)
    if wanted == "disk":
        return "disk", f"{size} read from disk as needed (dataset.cache=disk)"
    if device.type == "cuda" and wanted in ("auto", "device"):
        free = torch.cuda.mem_get_info(device)[0]
        if num_bytes <= DEVICE_SHARE * free or wanted == "device":
            _check_room("device", num_bytes, free)
            return "device", f"{size} on the device ({format_bytes(free)} free)"
    elif device.type != "cpu" and wanted == "device":
        return "device", f"{size} on the device (dataset.cache=device)"
    free = available_memory()
    if wanted in ("device", "memory") or num_bytes <= MEMORY_SHARE * free:
        _check_room(wanted, num_bytes, free)
        return "memory", f"{size} in memory ({format_bytes(free)} free)"
    return "disk", f"{size} read from disk as needed: more than {MEMORY_SHARE:.0%} of the free memory"


def _check_room(wanted: str, num_bytes: int, free: int) -> None:
    if num_bytes > free:
        raise ValueError(
            f"dataset.cache={wanted}: the images need {format_bytes(num_bytes)}, but only {format_bytes(free)} is "
            "free; use dataset.cache=disk"
        )


def store_images(pixels: np.ndarray, place: str, device: torch.device, channels: int, channels_last: bool) -> Images:
    """Store images (N,H,W,C) at the place chosen; with channels=1, only the first channel of grayscale pictures."""
    tensor = torch.from_numpy(pixels)[..., :channels]
    if place == "disk":
        return Images(tensor, channels_last=True, mapped=True)
    if not channels_last:
        tensor = tensor.permute(0, 3, 1, 2)
    # In chunks, so that reading the file alternates with copying and no second full copy is made.
    stored = torch.empty(tensor.shape, dtype=torch.uint8, device=device if place == "device" else "cpu")
    for first in range(0, len(tensor), 1024):
        stored[first : first + 1024] = tensor[first : first + 1024]
    return Images(stored, channels_last)
