"""The folder of an export: what an earlier one has left there, and the files that come in when all are checked."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..machine.disk import read_json, write_json
from ..machine.processes import is_alive
from ..run.claim import hold_folder, refuse_linked_path
from ..run.files import LOCK, PARITY

BUSY = "is being written by another export; wait for it"


class Destination:
    """The folder `output`, and the record that its exports keep in it.

    formats: what is known of each format that is there; incomplete: of those with files that are gone, or not as they
    were written; card: the files that belong to all of them.
    """

    def __init__(self, folder: Path, weights: str) -> None:
        """weights: the SHA-256 of the run's. Raises ValueError for a record that no export has written."""
        self.folder = folder
        self._known = _read_record(folder)
        known = _as_objects(self._known.get("incomplete")) | _as_objects(self._known.get("formats"))
        self.formats = {name: facts for name, facts in known.items() if self._is_there(facts)}
        self.incomplete = {name: facts for name, facts in known.items() if name not in self.formats}
        self.card = _as_objects(self._known.get("card"))
        self.weights = weights

    def _is_there(self, facts: Mapping[str, Any]) -> bool:
        return all(self._is_same(name, file) for name, file in _as_objects(facts.get("files")).items())

    def _is_same(self, name: str, facts: Mapping[str, Any]) -> bool:
        """Return whether a file is as the record says."""
        path = self.folder / name
        if not path.is_file() or path.stat().st_size != facts.get("bytes", path.stat().st_size):
            return False
        return "sha256" not in facts or hash_file(path) == facts["sha256"]

    def refuse_other_weights(self, names: Sequence[str]) -> None:
        """Raise ValueError if formats of other weights would stay beside those that are written now."""
        remains = [
            name
            for name, facts in self.incomplete.items()
            if any(os.path.lexists(self.folder / file) for file in _as_objects(facts.get("files")))
        ]
        left = [name for name in (*self.formats, *remains) if name not in names]
        if left and self._known.get("weights") != self.weights:
            raise ValueError(
                f"output={self.folder} has {', '.join(left)} of other weights (another run's, or an earlier epoch's); "
                f"name another folder, or write them again: formats=[{','.join(dict.fromkeys((*names, *left)))}]"
            )

    @contextlib.contextmanager
    def open_workspace(self) -> Iterator[Path]:
        """Hold the folder and yield one in it to write into; that goes when the block ends, and the folder if empty.

        Raises OSError if nothing can be written there, ValueError if another export holds it.
        """
        made = [folder for folder in (self.folder, *self.folder.absolute().parents) if not folder.exists()]
        with contextlib.ExitStack() as stack:
            for folder in reversed(made):  # callbacks run backwards: from the innermost one
                stack.callback(_remove_empty, folder)
            with self.explained():
                if self.folder.exists() and not self.folder.is_dir():
                    raise NotADirectoryError(0, "it is a file, not a folder")
                self.folder.mkdir(parents=True, exist_ok=True)
                workspace = Path(tempfile.mkdtemp(".tmp", f".export-{os.getpid()}-", self.folder))
                stack.callback(shutil.rmtree, workspace, ignore_errors=True)
                stack.enter_context(hold_folder(self.folder, f"output={self.folder} {BUSY}"))
                stack.callback(_remove_lock, self.folder / LOCK)
            self._refuse_changed()
            self._remove_stale()
            yield workspace

    def _remove_stale(self) -> None:
        """Remove the folders of exports that were killed."""
        for path in self.folder.glob(".export-*-*.tmp"):
            number = path.name.split("-")[1]
            if number.isdecimal() and not is_alive(int(number)):
                shutil.rmtree(path, ignore_errors=True)

    def _refuse_changed(self) -> None:
        """Raise ValueError if another export has written since the record was read."""
        if _read_record(self.folder) != self._known:
            raise ValueError(f"output={self.folder} was written by another export meanwhile; start this one again")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Let an OSError name the key."""
        try:
            yield
        except OSError as error:
            raise OSError(f"output={self.folder} cannot be written: {error.strerror or error}") from error

    def refuse_foreign(self, names: Sequence[str]) -> None:
        """Raise ValueError for files of these names that no export has written, OSError for what is in their way."""
        facts = (*self.formats.values(), *self.incomplete.values())
        ours = {name for known in facts for name in _as_objects(known.get("files"))}
        self._refuse_obstacles(names)
        foreign = [name for name in names if os.path.lexists(self.folder / name) and name not in ours]
        if foreign:
            raise ValueError(
                f"output={self.folder} has {', '.join(foreign)} already, which no export wrote; name another folder"
            )

    def _refuse_obstacles(self, names: Sequence[str]) -> None:
        """Raise ValueError for links on the way to files, OSError for folders in their place, or files on the way."""
        for name in names:
            refuse_linked_path(self.folder, name)
            with self.explained():
                if (self.folder / name).is_dir():
                    raise IsADirectoryError(0, f"{name} is a folder, and would be a file")
                for parent in Path(name).parents:
                    if (self.folder / parent).exists() and not (self.folder / parent).is_dir():
                        raise NotADirectoryError(0, f"{parent} is a file, and would be a folder")

    def find_edited(self, names: Sequence[str]) -> list[str]:
        """Return those of the card's files that are there and are not as an export wrote them."""
        return [
            name
            for name in names
            if os.path.lexists(self.folder / name)
            and (name not in self.card or hash_file(self.folder / name) != self.card[name].get("sha256"))
        ]

    def take(self, workspace: Path, names: Sequence[str], written: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Move files into the folder, each at once, and write the record; written: the formats that they belong to.

        Until all are there, the record has these formats as incomplete: after a kill, the next export knows the files.
        Raises OSError that tells which files have arrived.
        """
        self._refuse_changed()
        self._refuse_obstacles([PARITY, *names])
        others = {name: facts for name, facts in self.formats.items() if name not in written}
        incomplete = {name: facts for name, facts in self.incomplete.items() if name not in written}
        arrived = list[str]()
        with self.explained():
            for name in names:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / PARITY, {**record, "formats": others, "incomplete": {**incomplete, **written}})
            try:
                for name in names:
                    os.replace(workspace / name, self.folder / name)
                    arrived.append(name)
                write_json(self.folder / PARITY, {**record, "formats": {**others, **written}, "incomplete": incomplete})
            except OSError as error:
                there = f"{', '.join(arrived) or 'none'} of {len(names)} files arrived; export again"
                raise OSError(error.errno, f"{error.strerror or error}; {there}") from error


def _read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a folder, {} if there is none. Raises ValueError for what no export has written."""
    if not os.path.lexists(folder / PARITY):
        return {}
    with contextlib.suppress(OSError, ValueError):
        record = read_json(folder / PARITY)
        if isinstance(record, dict) and isinstance(record.get("weights"), str) and "formats" in record:
            return record
    raise ValueError(
        f"output={folder} has a {PARITY} that no export wrote, or that is damaged; name another folder, or remove it"
    )


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_lock(path: Path) -> None:
    """Remove a lock that is held, and that is no file of the user's, which has content."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


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
