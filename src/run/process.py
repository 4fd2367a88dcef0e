"""Whether the process of a run still lives; a number alone does not tell, as systems give it out again."""

import os
from pathlib import Path
from typing import Any


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None where the system does not tell."""
    facts = _read_stat(pid)
    return int(facts[19]) if facts else None


def _read_stat(pid: int) -> list[str]:
    """Return /proc/<pid>/stat from its third field (the state) on, empty where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if ")" not in text:  # gone while it was read
        return []
    return text[text.rindex(")") + 2 :].split()  # the second field, the program's name, may hold anything


def is_alive(pid: Any, started: Any = None) -> bool:
    """Tell whether a process of this machine lives, and, where both are known, is the one that started then."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    facts = _read_stat(pid)
    if facts:
        return facts[0] not in "ZX" and started in (None, int(facts[19]))  # ended, though nobody has asked how
    try:
        os.kill(pid, 0)
    except PermissionError:  # somebody else's, but there
        return True
    except (OSError, OverflowError):
        return False
    return True
