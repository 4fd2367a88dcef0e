"""Where the decoded images are while training: on the device, in memory, on disk, or decoded again each time.

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
from .cache import format_bytes
from .images import Preprocessing

# Shares of what is free that the images may take; the rest is for the model, its activations, other programs.
DEVICE_SHARE, MEMORY_SHARE = 0.3, 0.5
PREFETCH = 3  # batches made ready ahead

Item = TypeVar("Item")
Batch = tuple[Tensor, Tensor]  # images (B,C,H,W) and their positions (B,), which stay on the CPU


class Images:
    """uint8 images (N,C,H,W) in one tensor: on the device, in memory, or mapped from a file.

    They lie there channel after channel, or channels-last, (N,H,W,C): flips and shifts move whole rows of a channel,
    resampling reads all channels of a pixel.
    """

    def __init__(self, pixels: Tensor, channels_last: bool = False, mapped: bool = False) -> None:
        """pixels: uint8, (N,H,W,C) if `channels_last`, else (N,C,H,W); `mapped` where reading it reads a file."""
        self.pixels, self.channels_last, self.mapped = pixels, channels_last, mapped

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._view(self.pixels).shape)

    def _view(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2) if self.channels_last else pixels

    def take(self, positions: Tensor) -> Tensor:
        """Return the images (B,C,H,W) at positions (B,), a tensor on the CPU; they stay on the device they lie on."""
        # Twenty times as fast as pixels[positions], which does not see that whole images are copied.
        return self._view(self.pixels.index_select(0, positions.to(self.pixels.device, non_blocking=True)))

    def batches(self, positions: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Yield the images (B,C,H,W) of each tensor of positions on the device, and the positions (B,)."""
        if self.pixels.device.type == device.type and not self.mapped:
            yield from ((self.take(batch), batch) for batch in positions)
        else:
            for images, batch in prefetch(self._gather(positions, device)):
                yield images.to(device, non_blocking=True), batch

    def _gather(self, positions: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
        """Yield batches in memory; for a CUDA device in pinned memory, from which copying overlaps with computing."""
        for batch in positions:
            images = torch.empty(
                len(batch), *self.pixels.shape[1:], dtype=torch.uint8, pin_memory=device.type == "cuda"
            )
            yield self._view(torch.index_select(self.pixels, 0, batch, out=images)), batch


class Stream:
    """uint8 images (N,C,H,W) that are decoded from their files each time, by worker processes for whole epochs."""

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
            yield images.to(device, non_blocking=True).permute(0, 3, 1, 2), self._order.begun.popleft()


class _Files(Dataset[Tensor]):
    """What a worker process needs. Apart from the stream: in a circle with its loader the workers outlive their end."""

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
            pixels, _ = self.preprocessing.parse(item.read_bytes(), item)
        return torch.from_numpy(pixels.copy())  # Pillow's own bytes are read-only

    def collate(self, images: list[Tensor]) -> Tensor:
        """Return the images as (B,H,W,C); a batch of several processes may leave none for one of them."""
        shape = (0, *self.preprocessing.size, self.preprocessing.channels)
        return default_collate(images) if images else torch.empty(shape, dtype=torch.uint8)


class _Order(Sampler[list[int]]):
    """The batches of an epoch; set anew for each, which a DataLoader with lasting workers has no other way to do.

    begun: the positions of the batches that the workers have been asked for, in the order in which they come.
    """

    def __init__(self) -> None:
        self.positions: Iterable[Tensor] = ()
        self.begun: deque[Tensor] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        self.begun.clear()
        for batch in self.positions:
            self.begun.append(batch)
            yield batch.tolist()


def outlive_signals(worker: int) -> None:
    """Let a worker process ignore the signals that ask a run to stop, which reach all processes of a job.

    The main process still needs batches then, for the step it is in. It ends its workers itself: by a message, and
    those that do not read it by a SIGTERM of its own, so of those it is the sender that counts.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere workers end with any SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parents_signal, daemon=True).start()


def _await_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def prefetch(batches: Iterator[Item]) -> Generator[Item]:
    """Yield what the iterator yields, made ready by a thread while the caller works on what it has."""
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
    """Return device, memory or disk for `dataset.cache=auto|device|memory|disk`, and in words why."""
    size = format_bytes(num_bytes)
    if wanted == "disk":
        return "disk", f"{size} read from disk as needed (dataset.cache=disk)"
    if device.type == "cuda" and wanted in ("auto", "device"):
        free = torch.cuda.mem_get_info(device)[0]
        if num_bytes <= DEVICE_SHARE * free or wanted == "device":
            _check_room("device", num_bytes, free)
            return "device", f"{size} on the device, which has {format_bytes(free)} free"
    elif device.type != "cpu" and wanted == "device":
        return "device", f"{size} on the device (dataset.cache=device)"
    free = available_memory()
    if wanted in ("device", "memory") or num_bytes <= MEMORY_SHARE * free:
        _check_room(wanted, num_bytes, free)
        return "memory", f"{size} in memory, which has {format_bytes(free)} free"
    return "disk", f"{size} read from disk as needed: more than {MEMORY_SHARE:.0%} of the free memory"


def _check_room(wanted: str, num_bytes: int, free: int) -> None:
    if num_bytes > free:
        raise ValueError(
            f"dataset.cache={wanted}: the images need {format_bytes(num_bytes)}, {format_bytes(free)} are free; use "
            "dataset.cache=disk"
        )


def available_memory() -> int:
    """Return the bytes of memory that programs can still take, within a container's limit too."""
    free = 2**33  # where nothing tells, 8 GiB
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, int(limit) - int(used)) if limit != "max" else free
    except (OSError, KeyError, ValueError):
        return free


def hold(pixels: np.ndarray, place: str, device: torch.device, channels: int, channels_last: bool) -> Images:
    """Put images (N,H,W,C) into their place; with channels=1 only the first channel of grey pictures is kept."""
    tensor = torch.from_numpy(pixels)[..., :channels]
    if place == "disk":
        return Images(tensor, channels_last=True, mapped=True)
    if not channels_last:
        tensor = tensor.permute(0, 3, 1, 2)
    # In pieces: reading a file and copying it to a device take turns, and no second copy is made.
    held = torch.empty(tensor.shape, dtype=torch.uint8, device=device if place == "device" else "cpu")
    for first in range(0, len(tensor), 1024):
        held[first : first + 1024] = tensor[first : first + 1024]
    return Images(held, channels_last)
