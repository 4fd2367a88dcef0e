"""Which folders the page may use, and the completion of their paths. Names only; nothing is read from their files."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

from ..data.files import EXTENSIONS, explain_ignored
from .errors import PageError

MOST = 500  # folders in one answer
COUNTED = 1000  # images of a folder


def open_roots(roots: list[str]) -> list[Path]:
    """Return the folders below which images may be used, as absolute paths."""
    return [Path(os.path.expanduser(root)).absolute().resolve() for root in roots]


def allow(path: str, roots: list[Path], key: str) -> Path:
    """Return a path as an absolute one. Raises PageError if it is not below a root."""
    try:
        resolved = Path(os.path.expanduser(path)).absolute().resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise PageError(f"{key}={path} is not a path", 400, key) from error
    if not any(resolved.is_relative_to(root) for root in roots):
        listed = " or ".join(map(str, roots))
        more = ",".join(map(str, [*roots, resolved]))
        raise PageError(
            f"{key}={path} is not below {listed}, and the page uses only these folders; to add it, start the page with "
            f"serve.roots=[{more}]",
            403,
            key,
        )
    return resolved


def list_folders(typed: str, roots: list[Path]) -> dict[str, Any]:
    """Return the folders in what was typed or, if that is no folder, those whose names begin with its last part."""
    if not typed.strip():
        names = [{"name": str(root), "path": str(root)} for root in roots if root.is_dir()]
        return {
            "path": "",
            "parent": None,
            "roots": list(map(str, roots)),
            "folders": names,
            "images": 0,
            "error": None,
        }
    wanted = Path(os.path.abspath(os.path.expanduser(typed)))
    # A path that is not complete yet is allowed if what it is in is.
    whole = any(wanted.resolve().is_relative_to(root) for root in roots) and os.path.isdir(wanted)
    folder, start = (wanted, "") if whole else (wanted.parent, wanted.name)
    allow(str(folder), roots, "dataset.root")
    found, images, error = list[dict[str, str]](), 0, None
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, 200_000):
                if explain_ignored(entry.name):
                    continue
                if entry.is_dir():
                    if entry.name.lower().startswith(start.lower()):
                        found.append({"name": entry.name, "path": os.path.join(folder, entry.name)})
                elif whole and images < COUNTED:
                    images += os.path.splitext(entry.name)[1].lower() in EXTENSIONS
    except OSError as problem:
        error = f"{folder} cannot be opened: {problem.strerror}"
    found.sort(key=lambda item: item["name"].lower())
    inside = any(folder.resolve() != root and folder.resolve().is_relative_to(root) for root in roots)
    return {
        "path": str(wanted),
        "parent": str(folder.parent) if inside else None,
        "roots": list(map(str, roots)),
        "folders": found[:MOST],
        "images": images,
        "error": error,
    }
