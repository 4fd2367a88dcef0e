"""Memory of the machine and its devices: available memory, peak use, and what the C library does with freed memory."""

import contextlib
import ctypes
from pathlib import Path

import torch


def available_memory() -> int:
    """Return the bytes of memory available to new allocations, within the container's limit if there is one."""
    free = 2**33  # a guess if the system does not report it: 8 GiB
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, int(limit) - int(used)) if limit != "max" else free
    except (OSError, KeyError, ValueError):
        return free


def total_memory(device: torch.device) -> int:
    """Return the bytes of memory that the device has in all; of a CPU those of the machine, or of the container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = 2**63  # where the system does not report it, nothing is known to be too much
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total = int(lines["MemTotal"].split()[0]) * 1024
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container: both versions of cgroups
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            total = min(total, int(Path("/sys/fs/cgroup", name).read_text()))
    return total


def format_bytes(num_bytes: float) -> str:
    """Return a readable size: 512 B, 3.4 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    raise AssertionError


def keep_freed_memory() -> None:
    """Make the C library reuse freed memory for the next step instead of returning it to the system.

    Otherwise, every batch of 224 px images is allocated in new pages, which the system clears one by one: a third of
    the time of augmenting it, measured with glibc. Other C libraries are not changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-4, 0)  # M_MMAP_MAX: allocate no block with its own mmap, which freeing it would unmap
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the largest value that mallopt takes


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory, because the jobs of a sweep may share a process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if device.type == "cpu":
        with contextlib.suppress(OSError):  # not on Linux
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes since `reset_peak_memory`: of the CUDA device, or on a CPU of the whole process.

    None if the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "cpu":
        with contextlib.suppress(OSError, IndexError):
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0) or None
    return None
