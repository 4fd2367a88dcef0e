"""What was read from files, until one of them changes: the page asks for the same things every few seconds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class FileCache(Generic[Value]):
    """Reads something from a folder, and again only if one of the files `names` in it has changed."""

    def __init__(self, read: Callable[[Path], Value], names: Sequence[str], most: int = 5000) -> None:
        self._read, self._names, self._most = read, names, most
        self._held: dict[Path, tuple[Any, Value]] = {}

    def __call__(self, folder: Path) -> Value:
        stamp = [_stamp(folder / name) for name in self._names]
        held = self._held.get(folder)
        if held is not None and held[0] == stamp:
            return held[1]
        value = self._read(folder)
        while len(self._held) >= self._most:
            self._held.pop(next(iter(self._held)), None)
        self._held[folder] = stamp, value
        return value


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
