"""Read files that others may have made: only regular ones, and none that is larger than expected.

A pipe would block, a device has no end, and a sparse file of some gigabytes takes no space on a disk.
"""

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
SMALL = 2**24  # bytes that no description of a run has


def open_regular(path: Path, limit: float = float("inf")) -> BinaryIO:
    """Open a regular file of at most `limit` bytes to read it. Raises OSError, naming it, for anything else."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS if test(status.st_mode)), "a device")
        problem = f"it is {kind}, not a file"
    elif status.st_size > limit:
        problem = f"it has {status.st_size:,} bytes, more than the {limit:,.0f} that are read"
    if problem:
        os.close(descriptor)
        raise OSError(f"{path}: {problem}")
    return io.BufferedReader(io.FileIO(descriptor, "r"))


def read_regular(path: Path, limit: float = float("inf")) -> bytes:
    """Return the content of such a file; of one that the system makes as it is read, such as /proc/kmsg, nothing."""
    with open_regular(path, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)
