"""Whether the process of a run is still alive. The process id alone is not enough, because systems reuse ids."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import Any


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if the system does not report it."""
    facts = _read_stat(pid)
    return int(facts[19]) if facts else None


def _read_stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third one (the state) on; [] if there is no such file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if ")" not in text:  # the process ended while the file was read
        return []
    return text[text.rindex(")") + 2 :].split()  # the second field, the program's name, may contain anything


def end_with_parent() -> None:
    """Let the system end this process, as by SIGTERM, when the one that started it is gone, however it ended. Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def is_alive(pid: Any, started: Any = None) -> bool:
    """Return whether a process on this machine is alive and, if both start times are known, is the one started then."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    facts = _read_stat(pid)
    if facts:
        return facts[0] not in "ZX" and started in (None, int(facts[19]))  # Z, X: ended, but not yet waited for
    try:
        os.kill(pid, 0)
    except PermissionError:  # it exists, but belongs to another user
        return True
    except (OSError, OverflowError):
        return False
    return True
