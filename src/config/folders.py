"""The folder of a run or a sweep: claimed so that no other can get it, and removed again where nothing came of it."""

import itertools
import shutil
from pathlib import Path


def claim_folder(path: str, key: str, overrides: list[str]) -> str:
    """Make the run's (or sweep's) folder, so that no other run can get it, and return it.

    Two runs started in the same second get two folders. Raises ValueError where the user named one in use.
    """
    typed = any(override.startswith(f"{key}=") for override in overrides)
    folder = Path(path)
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if typed and folder.is_dir() and not any(folder.iterdir()):
                break
            if typed:
                raise ValueError(f"{key}={path} exists; nothing is overwritten, choose another folder") from None
            folder = Path(f"{path}-{number}")
    return str(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder, and those above it that are then empty, up to the one where the user stands."""
    shutil.rmtree(folder)
    for parent in folder.parents:
        if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()) or any(parent.iterdir()):
            break
        parent.rmdir()
