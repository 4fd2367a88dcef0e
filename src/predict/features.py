"""The file of features: rows are written as they come, and it replaces an older one at the end, or not at all.

Letters: n images, D features.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..machine.disk import format_csv, replace_file
from ..signals import Interrupts
from .output import name_in_errors

Row = Mapping[str, Any]
AddFeatures = Callable[[Sequence[Row], np.ndarray], None]  # rows of COLUMNS, and features float32 (n,D)

COLUMNS = ("file", "class", "predicted", "confidence")
ROW_GROUP = 4096  # rows of a .parquet file that are compressed together
INSTALL = "a .parquet file needs pyarrow: pip install -r requirements-export.txt; .npy and .csv need nothing more"


def list_beside(path: Path) -> Path:
    """Return the table of files that lies beside an .npy file: features.files.csv beside features.npy."""
    return path.with_name(f"{path.stem}.files.csv")


@contextlib.contextmanager
def open_features(path: Path) -> Iterator[AddFeatures]:
    """Yield a function that adds rows to a .npy, .parquet or .csv file.

    After an error, the file is as it was. Raises OSError, naming the file, if it cannot be written, and ValueError if
    pyarrow is missing.
    """
    openers = {".npy": _open_npy, ".parquet": _open_parquet, ".csv": _open_csv}
    with name_in_errors(path, openers[path.suffix.lower()](path), "features.npy") as add:
        yield add


@contextlib.contextmanager
def _open_npy(path: Path) -> Iterator[AddFeatures]:
    """Yield a function that adds to an array (n,D), and to a table of its files in the same order."""
    shape = [0, 0]
    with contextlib.ExitStack() as stack:
        table, file = (stack.enter_context(replace_file(place)) for place in (list_beside(path), path))

        def add(rows: Sequence[Row], features: np.ndarray) -> None:
            if not shape[1]:
                shape[1] = features.shape[1]
                file.write(_npy_header(*shape))
                table.write(_to_csv([dict(zip(COLUMNS, COLUMNS, strict=True))], COLUMNS))
            table.write(_to_csv(rows, COLUMNS))
            file.write(features.astype("<f4").tobytes())
            shape[0] += len(rows)

        yield add
        file.seek(0)
        file.write(_npy_header(*shape))
        for part in (table, file):  # a full disk shows before the first of them replaces another file
            part.flush()
            os.fsync(part.fileno())
        with Interrupts(defer=True) as interrupts:  # so that both are of the same images
            stack.close()
            interrupts.release()


def _npy_header(rows: int, columns: int) -> bytes:
    """Return the head of an .npy file, which numpy makes equally long for any number of rows."""
    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


@contextlib.contextmanager
def _open_csv(path: Path) -> Iterator[AddFeatures]:
    """Yield a function that adds to a table with a column for each feature."""
    columns: list[str] = []
    with replace_file(path) as file:

        def add(rows: Sequence[Row], features: np.ndarray) -> None:
            names = [f"feature_{i}" for i in range(features.shape[1])]
            if not columns:
                columns.extend([*COLUMNS, *names])
                file.write(_to_csv([dict(zip(columns, columns, strict=True))], columns))
            # Nine digits are enough to read the same float32 back.
            texts = [dict(zip(names, (f"{x:.9g}" for x in values), strict=True)) for values in features.tolist()]
            file.write(_to_csv([{**row, **text} for row, text in zip(rows, texts, strict=True)], columns))

        yield add


def _to_csv(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    return format_csv(rows, columns).encode("utf-8", "surrogateescape")  # file names need not be UTF-8


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[AddFeatures]:
    """Yield a function that adds to a table whose column `embedding` has a list of D numbers in each row."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"output={path}: {INSTALL}") from error

    text, number = pyarrow.string(), pyarrow.float32()
    kinds = (text, text, text, number, pyarrow.list_(number))
    schema = pyarrow.schema(list(zip((*COLUMNS, "embedding"), kinds, strict=True)))
    waiting: list[Row] = []

    with replace_file(path) as file, parquet.ParquetWriter(file, schema) as writer:

        def write_waiting() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def add(rows: Sequence[Row], features: np.ndarray) -> None:
            for row, values in zip(rows, features, strict=True):
                name = row["file"].encode("utf-8", "backslashreplace").decode()
                waiting.append({**row, "file": name, "class": row["class"] or None, "embedding": values})
            if len(waiting) >= ROW_GROUP:
                write_waiting()

        yield add
        if waiting:
            write_waiting()
