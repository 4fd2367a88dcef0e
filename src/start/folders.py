"""The folders of a command: that of a new run or sweep, which no other process can get, and those in TMPDIR."""

import glob
import itertools
import os
import re
import shutil
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ..machine.processes import is_alive, start_time
from ..run.claim import hold_folder, is_held, is_unused, remove_unused

MOST_TRIES = 1000  # to make a folder


def claim_folder(wanted: Path, key: str, overrides: list[str], cleanup: ExitStack) -> tuple[Path, bool]:
    """Make the folder, hold it until the clean-up, which removes it if nothing came of it, and return it.

    Returns also whether it was made; if it exists, one with a number added is, so runs started in the same second get
    different folders. An empty folder that the user typed is used as it is. Raises ValueError if the typed folder is in
    use, or if nothing can be written there.
    """
    typed = any(override.startswith(f"{key}=") for override in overrides)
    folder, made = wanted, True
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if typed and folder.is_dir() and is_unused(folder) and not is_held(folder):
                made = False
                break
            if typed:
                raise ValueError(f"{key}={wanted} exists; nothing is overwritten, choose another folder") from None
            folder = Path(f"{wanted}-{number}")
        except FileNotFoundError:  # another process has just removed a parent that was empty
            if number > MOST_TRIES:
                raise
        except OSError as error:
            raise ValueError(_explain(folder, key, error.strerror or str(error))) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(_explain(folder, key, "Permission denied"))
    absolute = folder.absolute()
    try:
        cleanup.enter_context(hold_folder(absolute, f"{key}={wanted} is in use by another process; choose another"))
    except OSError as error:
        if made:
            remove_unused(absolute, made)
        raise ValueError(_explain(folder, key, error.strerror or str(error))) from error
    cleanup.callback(remove_unused, absolute, made)
    return folder, made


def make_rank_folder(rank: int) -> "tempfile.TemporaryDirectory[str]":
    """Make the temporary folder of a process that writes nothing; first remove those of processes that were killed."""
    ours = f"vit-rank-{re.sub('[^a-zA-Z0-9.]', '.', socket.gethostname())}-"  # others may use the same folder
    for path in Path(tempfile.gettempdir()).glob(f"{glob.escape(ours)}*"):
        found = re.match(r"(\d+)-(\d+)-", path.name.removeprefix(ours))
        if found and not path.is_symlink() and not is_alive(int(found[1]), int(found[2])):
            shutil.rmtree(path, ignore_errors=True)  # of another user, it stays
    process = f"{os.getpid()}-{start_time(os.getpid()) or 0}"
    return tempfile.TemporaryDirectory(prefix=f"{ours}{process}-{rank}-", ignore_cleanup_errors=True)


def _explain(folder: Path, key: str, reason: str) -> str:
    return f"the folder {folder} cannot be written ({reason}); choose another: {key}=FOLDER"
