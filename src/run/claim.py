"""The folder of a run or sweep belongs to one process, from before its first file until the process ends.

A folder may be a stranger's: what is written into it must stay in it, so it may contain no links.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..machine.disk import remove_folder
from .files import LOCK, PLAN_LOCK

HYDRA = ".hydra"  # where Hydra writes what it composed
GLANCE = 0.2  # seconds in which a process that only looks whether a folder is held has let it go again
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # of some network storage


@contextlib.contextmanager
def hold_folder(folder: Path, refusal: str, deep: bool = False) -> Iterator[None]:
    """Hold the folder inside the block. Raises ValueError, with `refusal`, if another process has it, and for links."""
    refuse_links(folder, deep)
    lock = _build_lock(folder / LOCK)
    try:
        lock.acquire(timeout=GLANCE)
    except Timeout:
        raise ValueError(refusal) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        yield
        return
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Return whether a process holds the folder. Raises OSError if its lock cannot be opened, ValueError for links."""
    if not (folder / LOCK).is_file():
        return False
    refuse_links(folder, deep=False)
    try:
        with _build_lock(folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        return False


def _build_lock(path: Path) -> FileLock:
    try:
        return FileLock(path, fallback_to_soft=False)  # a marker instead of a lock would outlive a killed process
    except TypeError:  # versions that have no such fallback
        return FileLock(path)


def refuse_linked_path(root: Path, inside: str) -> None:
    """Raise ValueError if one of the folders that lead from `root` to the path inside it is a link."""
    path = root
    for part in Path(inside).parts:
        path /= part
        if path.is_symlink():
            raise ValueError(_explain_link(path))


def refuse_links(folder: Path, deep: bool = True) -> None:
    """Raise ValueError for a link in the folder, or below it if deep: a program that follows it would write elsewhere.

    Files of runs are never links; a copied run may have some.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                raise ValueError(_explain_link(path))
        if not deep:
            break


def _explain_link(path: Path) -> str:
    return (
        f"{path} is a link, to {os.readlink(path)}; nothing is written into a folder with links: replace it by what it "
        "leads to, or remove it"
    )


def is_unused(folder: Path) -> bool:
    """Return whether a folder is empty but for what a process leaves that was killed before its run or sweep began."""
    return {path.name for path in folder.iterdir()} <= {HYDRA, LOCK, PLAN_LOCK}


def remove_unused(folder: Path, made: bool) -> None:
    """Remove a folder that this process holds, and in which there is nothing of a run or sweep.

    made: whether this process made it; one that was there, empty, is emptied.
    """
    if not folder.is_dir() or not is_unused(folder):
        return
    if made:
        remove_folder(folder)
        return
    shutil.rmtree(folder / HYDRA, ignore_errors=True)
    for name in (LOCK, PLAN_LOCK):
        (folder / name).unlink(missing_ok=True)
