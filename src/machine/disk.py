"""Files and folders: durable replacement of files, CSV and JSON, free space."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .regular import SMALL, open_regular, read_regular

TABLE = 2**28  # bytes that no table of a run has


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that atomically replaces `path` when the block ends, flushed to disk; after an error it does not."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        with open(temporary, "xb", opener=_open_own) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk where the system supports it; without, the rename is still atomic."""
    with contextlib.suppress(PermissionError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems
                raise
        finally:
            os.close(descriptor)


def _open_own(name: str, flags: int) -> int:
    """Open a file for writing, but not what a link in its place leads to."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def append_text(path: Path, text: str) -> None:
    """Add text to a file, as it is: not through a link, and without the durability of `write_text`."""
    with open_to_append(path) as file:
        file.write(text)


def open_to_append(path: Path) -> TextIO:
    return open(path, "a", newline="", encoding="utf-8", errors="backslashreplace", opener=_open_own)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, into an existing folder."""
    with replace_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically; make its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # file names need not be UTF-8


def write_json(path: Path, value: Any) -> None:
    write_text(path, format_json(value))


def format_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def format_portable_json(value: Any) -> str:
    """Return JSON for any program: names that are not UTF-8, as those of files may be, are escaped."""
    text = format_json(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=2) + "\n"
    return text


def read_json(path: Path, limit: float = SMALL) -> Any:
    """Return what a JSON file holds. Raises OSError, or ValueError if it is damaged or nested too deeply."""
    text = read_regular(path, limit).decode("utf-8", "surrogateescape")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with the columns of all rows; cells that a row does not have are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_text(path, format_csv([dict(zip(columns, columns, strict=True)), *rows], columns))


def format_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return the rows as lines of CSV, without a header."""
    table = io.StringIO()
    csv.DictWriter(table, columns, lineterminator="\n").writerows(rows)
    return table.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table with a header. Raises OSError, or ValueError if it is not a table."""
    with io.TextIOWrapper(open_regular(path, TABLE), "utf-8", "surrogateescape", newline="") as file:
        try:
            return list(csv.DictReader(file))
        except csv.Error as error:
            raise ValueError(str(error)) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the file is missing or damaged, as after a kill."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def short_path(path: Path) -> str:
    """Return a path below the working directory relative to it, another one, such as that folder, as it is."""
    with contextlib.suppress(OSError, ValueError):  # on another drive, or the working directory was deleted
        relative = os.path.relpath(path)
        return str(path) if relative == os.curdir or Path(relative).parts[:1] == (os.pardir,) else relative
    return str(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder, and the parents that are then empty, up to the working directory; others may do so, too."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty, or gone already
        for parent in folder.parents:
            if parent == Path.cwd() or not parent.is_relative_to(Path.cwd()):
                break
            parent.rmdir()


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
