"""Whether the process of a run is still alive. The process id alone is not enough, because systems reuse ids."""

import contextlib
import ctypes
import os
import signal
import subprocess
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


def runs_program(pid: int, name: str) -> bool:
    """Return whether a process on this machine was started with a file of this name among its arguments."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # no such process, or a system without /proc
        listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
        words = listed.stdout.split()
    return any(os.path.basename(word) == name.encode() for word in words)


def find_holder(path: Path) -> int | None:
    """Return the process that has locked a file, 0 if none has; None if the system does not tell: only Linux does."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
        wanted = str(path.stat().st_ino)
    except FileNotFoundError:
        return 0 if os.path.exists("/proc/locks") else None
    except OSError:
        return None
    locks = [line.split() for line in lines if "->" not in line]  # of a process that waits
    holders = [int(lock[4]) for lock in locks if len(lock) > 5 and lock[5].rpartition(":")[2] == wanted]
    return next((pid for pid in holders if pid > 0), 0)
