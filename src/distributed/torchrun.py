"""What torchrun tells a process, and is told by it; its environment is read here and nowhere else. Needs no torch."""

import contextlib
import json
import os
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A process's place: number `rank` of `size` in all, number `local_rank` of `local_size` on its machine."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0


def read_place() -> Place:
    """Return this process's place; the only one where torchrun has not started it.

    Raises ValueError where WORLD_SIZE is set without what torchrun sets beside it.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return Place()
    for name in ("RANK", "LOCAL_RANK"):
        if name not in os.environ:
            raise ValueError(f"WORLD_SIZE={size} is in the environment, but no {name}; start with torchrun")
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return Place(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), size, local_size)


def report_error(text: str, place: Place) -> None:
    """Print what ends a job; torchrun, given it too, repeats the words of the process that failed first."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        facts = {"py_callstack": text.strip(), "timestamp": str(int(time.time()))}  # the first is what it shows
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": text.strip(), "extraInfo": facts}}))
    if not place.main:
        text = textwrap.indent(text, f"[rank {place.rank}] ", lambda line: True)
    print(text, end="", file=sys.stderr, flush=True)


def name_launcher(place: Place) -> str:
    """Return how a process at this place was started: by python, or by torchrun with so many others."""
    return "python" if place.local_size == 1 else f"torchrun --nproc-per-node={place.local_size}"
