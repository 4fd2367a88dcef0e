"""Atomic downloads: a data set is complete or absent, however and whenever the program was stopped."""

import http.client
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

# Raised by a broken connection, a damaged archive, a full disk or a wrong checksum.
DOWNLOAD_ERRORS = (
    *(OSError, RuntimeError, EOFError, http.client.HTTPException),
    *(zlib.error, zipfile.BadZipFile, tarfile.TarError),
)
ARCHIVES = (".zip", ".gz", ".tgz", ".tar")
Parts = TypeVar("Parts")


def obtain(name: str, root: Path, read: Callable[[Path, bool], Parts], notes: list[str]) -> Parts:
    """Return `read(root, False)`; if it finds no complete data set, let `read(folder, True)` download one first.

    The download goes to a hidden folder in `root` and is moved into place by renames, under a lock: a second process
    waits and then uses the same files. Raises OSError that says what to do.
    """
    try:
        return read(root, False)
    except (OSError, RuntimeError):
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            try:
                return read(root, False)
            except (OSError, RuntimeError):
                _download(name, root, read, notes)
            return read(root, False)
    except DOWNLOAD_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise OSError(
            f"{name} could not be downloaded to dataset.root={root}: {reason}\n"
            "check the connection, or copy the files there from a machine that has them"
        ) from error


def _download(name: str, root: Path, read: Callable[[Path, bool], Parts], notes: list[str]) -> None:
    folder = root / f".{name}.download"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt that was killed
    folder.mkdir()
    # Without links out of the folder, devices and the like in archives: the default from Python 3.14 on.
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        read(folder, True)
        _drop_archives(folder)
        for path in sorted(folder.iterdir()):
            _move(path, root / path.name, notes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drop_archives(folder: Path) -> None:
    """Delete the archives after unpacking; the images need the space."""
    for parent, _, files in os.walk(folder):
        for name in files:
            if name.endswith(ARCHIVES):
                os.remove(os.path.join(parent, name))


def _move(path: Path, target: Path, notes: list[str]) -> None:
    """Move by one rename. An existing incomplete folder is set aside, not deleted: it may be the user's."""
    if target.is_dir() and any(target.iterdir()):
        aside = next(name for i in range(1, 1000) if not (name := Path(f"{target}.incomplete{i}")).exists())
        target.rename(aside)
        notes.append(f"{target} was incomplete; it was renamed to {aside} and downloaded again")
    elif target.is_dir():
        target.rmdir()
    os.replace(path, target)
