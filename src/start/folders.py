"""The folder of a new run or sweep, made so that no other process can get the same one."""

import itertools
from pathlib import Path


def claim_folder(wanted: Path, key: str, overrides: list[str]) -> Path:
    """Make the folder and return it; if it exists, make one with a number added.

    So runs started in the same second get different folders. Raises ValueError if the user typed a folder in use.
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
