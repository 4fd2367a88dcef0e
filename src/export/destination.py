"""The folder of an export: what an earlier one has left there, and the files that come in when all are checked."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..machine.disk import read_object
from ..run.files import PARITY


class Destination:
    """The folder `output`, and the record that its exports keep in it.

    formats: what is known of each format that is there; card: the files that belong to all of them.
    """

    def __init__(self, folder: Path, weights: str) -> None:
        """weights: the SHA-256 of the run's."""
        self.folder = folder
        self._known = read_object(folder / PARITY)
        known = _as_objects(self._known.get("formats"))
        self.formats = {name: facts for name, facts in known.items() if self._is_there(facts)}
        self.card = _as_objects(self._known.get("card"))
        self.weights = weights

    def _is_there(self, facts: Mapping[str, Any]) -> bool:
        return all((self.folder / name).is_file() for name in _as_objects(facts.get("files")))

    def refuse_other_weights(self, names: Sequence[str]) -> None:
        """Raise ValueError if formats of other weights would stay beside those that are written now."""
        left = [name for name in self.formats if name not in names]
        if left and self._known.get("weights") != self.weights:
            raise ValueError(
                f"output={self.folder} has {', '.join(left)} of other weights (another run's, or an earlier epoch's); "
                f"name another folder, or write them again: formats=[{','.join(dict.fromkeys((*names, *left)))}]"
            )

    @contextlib.contextmanager
    def open_workspace(self) -> Iterator[Path]:
        """Yield a folder to write into, on the same disk; it goes when the block ends.

        Raises OSError if nothing can be written there.
        """
        with self.explained():
            if self.folder.exists() and not self.folder.is_dir():
                raise NotADirectoryError(0, "it is a file, not a folder")
            existing = next(parent for parent in (self.folder, *self.folder.absolute().parents) if parent.is_dir())
            workspace = existing / f".export-{os.getpid()}.tmp"
            shutil.rmtree(workspace, ignore_errors=True)  # of a process that was killed, and had the same number
            workspace.mkdir()
        try:
            yield workspace
        finally:
            shutil.rmtree(workspace, ignore_errors=True)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Let an OSError name the key."""
        try:
            yield
        except OSError as error:
            raise OSError(f"output={self.folder} cannot be written: {error.strerror or error}") from error

    def refuse_foreign(self, names: Sequence[str]) -> None:
        """Raise ValueError for files of these names that no export has written."""
        known = _as_objects(self._known.get("formats"))
        ours = {name for facts in known.values() for name in _as_objects(facts.get("files"))}
        foreign = [name for name in names if os.path.lexists(self.folder / name) and name not in ours]
        if foreign:
            raise ValueError(
                f"output={self.folder} has {', '.join(foreign)} already, which no export wrote; name another folder"
            )

    def find_edited(self, names: Sequence[str]) -> list[str]:
        """Return those of the card's files that are there and are not as an export wrote them."""
        return [
            name
            for name in names
            if os.path.lexists(self.folder / name)
            and (name not in self.card or hash_file(self.folder / name) != self.card[name].get("sha256"))
        ]

    def take(self, workspace: Path, names: Sequence[str]) -> None:
        """Move files into the folder, each at once."""
        with self.explained():
            for name in names:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(workspace / name, target)


def _as_objects(value: Any) -> dict[str, dict[str, Any]]:
    """Return the objects in an object of a file that anyone may have edited."""
    entries = value.items() if isinstance(value, Mapping) else ()
    return {key: dict(entry) for key, entry in entries if isinstance(entry, Mapping)}


def describe_files(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files, by name."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)} for name in sorted(names)
    }


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, "" of what cannot be read as one."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
