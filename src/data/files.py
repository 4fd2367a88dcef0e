"""Which files below a folder are images, and which files and folders are left out, and why."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..machine.regular import open_regular

EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".npy"),
}
# Files beside images of which there are often many: they are not opened to see what they are.
OTHER_EXTENSIONS = {
    *(
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".md",
        ".html",
        ".ini",
        ".log",
        ".db",
        ".mat",
    ),
    *(".py", ".sh", ".zip", ".gz", ".tar", ".pdf", ".mp4", ".mov", ".avi", ".npz", ".pt", ".pth", ".safetensors"),
}
# Made by operating systems and network storage, compared in lower case.
SYSTEM_FOLDERS = {
    *("__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin"),
    *("recycler", "system volume information", "lost+found"),
}


def find_images(folder: Path) -> list[Path]:
    """Return all image files below `folder`, sorted; see `walk` for what is left out."""
    return sorted(path for path, reason in walk(folder) if not reason)


def walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file below `folder` with the reason to ignore it, "" for images, and each ignored folder.

    Links to folders are followed, but no folder is visited twice, and none that contains `folder`. Raises OSError,
    naming the folder, if one cannot be opened.
    """
    seen = {_identity(above) for above in folder.absolute().parents}
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        seen.add(_identity(Path(parent)))
        for name in sorted(folders):
            identity = _identity(Path(parent, name))
            reason = explain_ignored(name) or ("a link to a folder that is searched anyway" if identity in seen else "")
            if reason:
                folders.remove(name)
                yield Path(parent, name), reason
            seen.add(identity)
        for name in files:
            path = Path(parent, name)
            yield path, explain_ignored(name) or explain_no_image(path, name)


def refuse_closed(folder: Path) -> None:
    """Raise OSError, naming it, for a folder below this one that cannot be opened; `glob` leaves such ones out."""
    for _ in os.walk(folder, onerror=_refuse):
        pass


def list_folder(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted. Raises OSError, naming the folder, if it cannot be opened."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _explain(error) from error


def _refuse(error: OSError) -> None:
    raise _explain(error) from error


def _explain(error: OSError) -> OSError:
    return OSError(
        f"the folder {error.filename} cannot be opened: {error.strerror}; make it readable, or move it out of the data"
    )


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _explain(error) from error
    return status.st_dev, status.st_ino


def explain_ignored(name: str) -> str:
    """Return why a file or folder of this name is never data, "" if it may be."""
    if name.startswith("."):
        return "hidden"
    return "made by the system" if name.lower() in SYSTEM_FOLDERS else ""


def explain_no_image(path: Path, name: str) -> str:
    """Return why a file is no image, "" if it is one: by its extension or, if that says nothing, by its first bytes.

    name: the last part of the path.
    """
    kind = os.path.splitext(name)[1].lower()  # Path.suffix takes three times as long
    if kind in EXTENSIONS or (kind not in OTHER_EXTENSIONS and _begins_as_image(path)):
        return ""
    return f"not an image ({kind or 'no extension'})"


def _begins_as_image(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            start = file.read(16) or b""  # nothing yet, in a file that the system makes as it is read
    except OSError:
        return False
    known = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\x93NUMPY")
    if start.startswith(known):
        return True
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[:2] == b"BM":
        return start[6:10] == bytes(4)  # reserved
    return start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
