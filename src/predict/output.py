"""The table of predictions: rows are written as they come, and an interrupted one holds those that are done."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec

from ..machine.disk import format_csv, replace_file

Row = Mapping[str, str | float]
P = ParamSpec("P")
Add = Callable[[Sequence[Row]], None]  # adds rows to the table


@contextlib.contextmanager
def open_output(path: Path) -> Iterator[Add]:
    """Yield a function that adds rows to a .csv file (with a header; at once) or a .json file (at the end).

    A file that exists keeps its content until there is a first row (CSV), or until the end (JSON); after an error, a
    JSON file is as it was. Raises OSError, naming the file, if it cannot be written.
    """
    opened = _open_json(path) if path.suffix.lower() == ".json" else _open_csv(path)
    with name_in_errors(path, opened, "predictions.csv") as add:
        yield add


@contextlib.contextmanager
def name_in_errors(
    path: Path, opened: AbstractContextManager[Callable[P, None]], example: str
) -> Iterator[Callable[P, None]]:
    """Yield the function that `opened` yields; OSErrors of both name the file.

    Raises IsADirectoryError for a folder, with an example of a file in it.
    """
    with _explained(path):
        is_folder = path.is_dir()
    if is_folder:
        raise IsADirectoryError(f"output={path} is a folder; name a file, such as {path / example}")
    with contextlib.ExitStack() as stack:
        with _explained(path):
            add = stack.enter_context(opened)

        def add_explained(*arguments: P.args, **options: P.kwargs) -> None:
            with _explained(path):
                add(*arguments, **options)

        yield add_explained
        with _explained(path):
            stack.pop_all().close()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"output={path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _open_csv(path: Path) -> Iterator[Add]:
    existed, columns = path.exists(), list[str]()
    file = path.open("r+b" if existed else "wb", buffering=0)  # not emptied yet
    try:
        with file:

            def add(rows: Sequence[Row]) -> None:
                if not rows:
                    return
                lines = list(rows)
                if not columns:
                    columns.extend(rows[0])
                    lines.insert(0, dict(zip(columns, columns, strict=True)))
                    file.truncate()
                left = memoryview(format_csv(lines, columns).encode("utf-8", "surrogateescape"))
                while left:
                    left = left[file.write(left) :]

            yield add
    finally:
        if not columns and not existed:
            path.resolve().unlink(missing_ok=True)


@contextlib.contextmanager
def _open_json(path: Path) -> Iterator[Add]:
    with replace_file(path) as file:
        count = 0

        def add(rows: Sequence[Row]) -> None:
            nonlocal count
            for row in rows:
                item = json.dumps([row], indent=2, ensure_ascii=False)[2:-2]  # indented as in a list
                file.write((",\n" if count else "[\n").encode() + item.encode("utf-8", "surrogateescape"))
                count += 1

        yield add
        file.write(b"\n]\n" if count else b"[]\n")
