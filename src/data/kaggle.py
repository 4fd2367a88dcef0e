"""Data sets from kaggle.com: read from kagglehub's cache, into which they are downloaded once."""

import tarfile
import zipfile
from pathlib import Path

from filelock import FileLock

from ..config.dataset import DatasetConfig
from .folders import Source, class_folders, read_folders

TOKEN = (
    "create a token at kaggle.com/settings -> API and save it as ~/.kaggle/kaggle.json, "
    "or set KAGGLE_USERNAME and KAGGLE_KEY, or KAGGLE_API_TOKEN, in the environment"
)


def load_kaggle(config: DatasetConfig) -> Source:
    """Return the splits or classes in the data set's folders, as for an image folder.

    Raises ValueError and OSError that name the handle and say what to do.
    """
    folder, note = _fetch(str(config.handle))
    if config.subfolder is not None:
        if not (folder / config.subfolder).is_dir():
            there = ", ".join(class_folders(folder)) or "no folders"
            raise ValueError(f"dataset.subfolder={config.subfolder} is not in {config.handle}, which contains: {there}")
        folder = folder / config.subfolder
    else:
        while len(inside := class_folders(folder)) == 1:
            folder = folder / inside[0]
    source = read_folders(folder)
    source.root = folder
    source.notes.insert(0, note)
    return source


def _fetch(handle: str) -> tuple[Path, str]:
    """Return the data set's folder in kagglehub's cache, and a note about its version."""
    import kagglehub
    from kagglehub.config import get_cache_folder

    owner, name, *version = handle.split("/")
    cached = Path(get_cache_folder(), "datasets", owner, name)
    known = int(version[1]) if version else _newest_version(cached)
    if known is not None and _is_complete(cached, known):
        folder = kagglehub.dataset_download(f"{owner}/{name}/versions/{known}")  # complete, so it makes no request
    else:
        folder = _download(handle, cached)
    found = Path(folder).name
    hint = "" if version else f"; dataset.handle={owner}/{name}/versions/{found} pins it"
    return Path(folder), f"{owner}/{name} from kaggle.com, version {found}{hint}"


def _newest_version(cached: Path) -> int | None:
    """Return the newest complete version; for a handle without a version, the client would ask the server."""
    versions = [int(path.stem) for path in cached.glob("*.complete") if path.stem.isdecimal()]
    return max((version for version in versions if _is_complete(cached, version)), default=None)


def _is_complete(cached: Path, version: int) -> bool:
    return (cached / f"{version}.complete").exists() and (cached / "versions" / str(version)).is_dir()


def _download(handle: str, cached: Path) -> str:
    import kagglehub
    import requests
    from kagglehub.exceptions import DataCorruptionError

    key = f"dataset.handle={handle}"
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.parent / f".{cached.name}.lock"):  # a second process waits, then finds it in the cache
            return kagglehub.dataset_download(handle)
    except requests.HTTPError as error:
        raise OSError(f"{key}: {_explain_status(error.response)}") from error
    except requests.RequestException as error:
        raise OSError(
            f"{key} is not in kagglehub's cache ({cached}) and kaggle.com cannot be reached: {type(error).__name__}\n"
            "check the connection, or copy that folder from a machine that has it"
        ) from error
    except (DataCorruptionError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise OSError(f"{key}: {_remove_archives(cached)}") from error
    except ValueError as error:
        if "archive" in str(error):
            raise OSError(f"{key}: {_remove_archives(cached)}") from error
        raise ValueError(f"{key}: {error}\n{TOKEN}") from error  # the client's error about its credentials file


def _remove_archives(cached: Path) -> str:
    """Remove damaged archives, which the client would take for complete at the next attempt."""
    for path in cached.glob("*.archive"):
        path.unlink()
    return "the download was corrupted and has been deleted; start again"


def _explain_status(response: object) -> str:
    status = getattr(response, "status_code", None)
    if status == 404:
        return "kaggle.com has no such data set or version (404); compare it with kaggle.com/datasets/OWNER/NAME"
    if status == 401:
        return f"kaggle.com rejected the token (401)\n{TOKEN}"
    if status == 403:
        return f"kaggle.com denied access (403): it does not exist, is private, or its page asks for consent\n{TOKEN}"
    return f"kaggle.com returned an error ({status}); try again later"
