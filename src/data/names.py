"""Names of classes and files, compared as people read them.

The same letter may be stored in two forms: macOS writes é as e and an accent (NFD), most others as one (NFC).
"""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def normalize(name: str) -> str:
    """Return the form in which equal names are equal texts (NFC)."""
    return unicodedata.normalize("NFC", name)


def number_classes(names: Iterable[str]) -> tuple[list[str], list[int]]:
    """Return the classes, sorted, each spelled as where it first occurs, and the position of each name among them."""
    spelled: dict[str, str] = {}
    keys = [normalize(name) for name in names]
    for key, name in zip(keys, names, strict=True):
        spelled.setdefault(key, name)
    positions = {key: position for position, key in enumerate(sorted(spelled))}
    return [spelled[key] for key in positions], [positions[key] for key in keys]


def describe_alike(classes: list[str]) -> list[str]:
    """Return a sentence for the log for each group of classes that differ only in case or spaces."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(normalize(name).casefold().split()), []).append(f"'{name}'")
    return [
        f"the classes {' and '.join(names)} differ only in case or spaces; if they are one class, give it one name"
        for names in alike.values()
        if len(names) > 1
    ]


class FileFinder:
    """Find files by relative paths whose letters may be stored in another form, or separated by backslashes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path | None:
        """Return the file, None if there is none; an absolute path is taken as it is."""
        path = self._root / name
        if os.path.isfile(path):  # Path.is_file raises for names that are too long
            return path
        for parts in (Path(name).parts, Path(name.replace("\\", "/")).parts):
            found: Path | None = self._root
            for part in parts:
                if found is not None:
                    found = found / part if part == ".." else self._list(found).get(normalize(part))
            if found is not None and os.path.isfile(found):
                return found
        return None

    def _list(self, folder: Path) -> dict[str, Path]:
        if folder not in self._entries:
            entries = folder.iterdir() if folder.is_dir() else []
            self._entries[folder] = {normalize(entry.name): entry for entry in entries}
        return self._entries[folder]
