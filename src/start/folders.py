"""The folder of a new run or sweep, claimed so that no other process can get it."""

import itertools
from pathlib import Path


def claim_folder(wanted: Path, key: str, overrides: list[str]) -> Path:
    """Make the folder and return it; where it is taken, another one beside it, unless the user named it.

    Two runs started in the same second get two folders. Raises ValueError for a folder that was typed and is in use.
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
    return folder
