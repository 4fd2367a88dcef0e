"""Images listed in a table (.csv, .tsv, .txt): a path and a label for each, optionally a split and a group."""

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config.dataset import DELIMITERS, DatasetConfig
from ..machine.regular import open_regular
from .folders import Source, match_split
from .names import FileFinder, describe_alike, normalize, number_classes

LARGEST = 2**30  # bytes of a table, unpacked


@dataclass
class Table:
    """The values of each named column, stripped; lines: the line of the file in which each row begins."""

    path: Path
    names: list[str]
    columns: dict[str, list[str]]
    lines: list[int]


def load_table(config: DatasetConfig) -> Source:
    """Read the table that `dataset.table` names; no image is opened.

    Raises ValueError and FileNotFoundError that name the key, the column, the line or the files.
    """
    path = Path(str(config.table))
    table = _read_table(path, config)
    root = Path(config.root) if config.root else path.parent
    names = _column(table, config, "label_column")
    files = _find_files(root, _column(table, config, "path_column"), table)
    _check_repeated(files, names, table)
    classes, labels = number_classes(names)
    if len(classes) < 2:
        raise ValueError(f"dataset.label_column={config.label_column}: only one class ('{classes[0]}') in {path}")
    source = Source(classes, {}, notes=describe_alike(classes), root=root)
    groups = _column(table, config, "group_column") if config.group_column else None
    for split, rows in _split_rows(table, config).items():
        source.splits[split] = ([files[row] for row in rows], [labels[row] for row in rows])
        if groups is not None:
            source.groups[split] = [normalize(groups[row]) for row in rows]
    return source


def _read_table(path: Path, config: DatasetConfig) -> Table:
    """Read every value as text: a class may be called 007 or NA."""
    text = _read_text(path)
    header, delimiter = _find_header(text, config)
    for key in ("path_column", "label_column"):
        _check_name(header, config, key)
    records = _read_records(text, delimiter, path)
    next(records, None)
    rows, lines = [], []
    for line, cells in records:
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise ValueError(
                f"dataset.table={path}: line {line} has {len(cells)} fields, but there are {len(header)} columns "
                f"({', '.join(header)}); put a value that contains a {_spell(delimiter)} in double quotes"
            )
        rows.append(cells)
        lines.append(line)
    if not rows:
        raise ValueError(f"dataset.table={path} has no rows")
    columns = {name: [cells[place] for cells in rows] for place, name in enumerate(header) if name}
    return Table(path, header, columns, lines)


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as packed, gzip.open(packed) if path.suffix.lower() == ".gz" else packed as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"dataset.table={path} does not exist") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"dataset.table={path} cannot be read: {error}") from error
    if len(content) > LARGEST:
        raise ValueError(f"dataset.table={path} cannot be read: it has more than {LARGEST:,} bytes")
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Excel saves "Unicode text"
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"dataset.table={path} cannot be read: line {line} is not UTF-8; save the table as UTF-8, for example with "
            f"iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def _find_header(text: str, config: DatasetConfig) -> tuple[list[str], str]:
    """Return the names of the columns and the delimiter: the one that is set, or the one that gives the columns."""
    delimiters = DELIMITERS.values() if config.delimiter is None else [DELIMITERS[config.delimiter]]
    headers = {delimiter: _read_header(text, delimiter) for delimiter in delimiters}
    fitting = [key for key, names in headers.items() if {config.path_column, config.label_column} <= {*names}]
    best = fitting[0] if fitting else max(headers, key=lambda delimiter: len(headers[delimiter]))
    return headers[best], best


def _read_header(text: str, delimiter: str) -> list[str]:
    """Return the names in the first line, without empty ones at its end; [] if it does not fit the delimiter."""
    try:
        _, names = next(_read_records(text, delimiter, Path()))
    except (StopIteration, ValueError):
        return []
    while not names[-1]:
        names.pop()
    return names


def _read_records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the stripped cells of each row, without blank lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1  # a quoted value may contain line breaks
    except csv.Error as error:
        raise ValueError(f"dataset.table={path} cannot be read: line {line}: {error}") from error


def _spell(delimiter: str) -> str:
    return next(name for name, value in DELIMITERS.items() if value == delimiter)


def _check_name(header: list[str], config: DatasetConfig, key: str) -> None:
    """Raise ValueError unless exactly one column has the name that `dataset.<key>` says."""
    name = getattr(config, key)
    if name not in header:
        others = f"; if its delimiter is another: dataset.delimiter={'|'.join(DELIMITERS)}" if len(header) < 2 else ""
        raise ValueError(
            f"dataset.{key}={name} is not a column of {config.table}; it has: {', '.join(filter(None, header))}{others}"
        )
    if header.count(name) > 1:
        raise ValueError(f"dataset.{key}={name}: {config.table} has {header.count(name)} columns of that name")


def _column(table: Table, config: DatasetConfig, key: str) -> list[str]:
    """Return the column that `dataset.<key>` names; an empty value is an error that names its line."""
    _check_name(table.names, config, key)
    name = getattr(config, key)
    values = table.columns[name]
    if empty := [line for line, value in zip(table.lines, values, strict=True) if not value]:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"dataset.{key}={name}: no value in line {empty[0]}{more} of {table.path}")
    return values


def _find_files(root: Path, names: list[str], table: Table) -> list[Path]:
    """Return the files that the names stand for."""
    finder = FileFinder(root)
    files = [finder.find(name) for name in names]
    if missing := [root / name for name, file in zip(names, files, strict=True) if file is None]:
        shown = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} images in dataset.table={table.path} do not exist: {shown}\n"
            "paths are relative to dataset.root, by default the table's own folder"
        )
    return [file for file in files if file is not None]


def _check_repeated(files: list[Path], names: list[str], table: Table) -> None:
    """Raise ValueError for a file that has several rows, by whatever path."""
    rows: dict[str, int] = {}
    for row, file in enumerate(map(os.path.realpath, files)):
        first = rows.setdefault(file, row)
        if first == row:
            continue
        lines = f"lines {table.lines[first]} and {table.lines[row]}"
        if normalize(names[first]) != normalize(names[row]):
            raise ValueError(
                f"dataset.table={table.path}: {file} has two labels, '{names[first]}' and '{names[row]}' ({lines}); "
                "an image has one class here, so keep one of the rows"
            )
        raise ValueError(f"dataset.table={table.path} lists {file} more than once ({lines}); keep one of the rows")


def _split_rows(table: Table, config: DatasetConfig) -> dict[str, list[int]]:
    """Return the rows of each split, train first; only `all` without dataset.split_column."""
    if config.split_column is None:
        return {"all": list(range(len(table.lines)))}
    rows: dict[str, list[int]] = {"train": []}
    for row, value in enumerate(_column(table, config, "split_column")):
        split = match_split(value)
        if split is None:
            raise ValueError(
                f"dataset.split_column={config.split_column}: '{value}' in line {table.lines[row]} of {table.path}; "
                "allowed: train, val, test (training, valid, validation, testing)"
            )
        rows.setdefault(split, []).append(row)
    if not rows["train"]:
        raise ValueError(f"dataset.split_column={config.split_column}: no line of {table.path} says train")
    return rows
