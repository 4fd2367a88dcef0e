"""The folder of a new run or sweep, made so that no other process can get the same one."""

import itertools
import os
from pathlib import Path

from ..machine.disk import remove_folder
from ..run.files import SWEEP_LOCK


def claim_folder(wanted: Path, key: str, overrides: list[str]) -> Path:
    """Make the folder and return it; if it exists, make one with a number added.

    So runs started in the same second get different folders. Raises ValueError if the user typed a folder in use, or
    if nothing can be written there.
    """
    typed = any(override.startswith(f"{key}=") for override in overrides)
    folder = wanted
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if typed and folder.is_dir() and not any(folder.iterdir()):
                break
            if typed:
                raise ValueError(f"{key}={wanted} exists; nothing is overwritten, choose another folder") from None
            folder = Path(f"{wanted}-{number}")
        except OSError as error:
            raise ValueError(_explain(folder, key, error.strerror or str(error))) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(_explain(folder, key, "Permission denied"))
    return folder


def _explain(folder: Path, key: str, reason: str) -> str:
    return f"the folder {folder} cannot be written ({reason}); choose another: {key}=FOLDER"


def remove_unused(folder: Path) -> None:
    """Remove a folder in which Hydra may have written what it composed, but no job anything."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra", SWEEP_LOCK}:
        remove_folder(folder)
