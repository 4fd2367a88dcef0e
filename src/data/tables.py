"""Images listed in a table (.csv, .tsv): a path and a label for each, optionally a split and a group."""

import os
from pathlib import Path

from ..config.dataset import DatasetConfig
from .folders import SPLIT_NAMES, Source

Table = dict[str, list[str]]  # column -> one value per line


def load_table(config: DatasetConfig) -> Source:
    """Read the table that `dataset.table` names; no image is opened.

    Raises ValueError and FileNotFoundError that name the key, the column, the line or the files.
    """
    path = Path(str(config.table))
    table = _read_table(path)
    root = Path(config.root) if config.root else path.parent
    files = [root / name for name in _column(table, config, "path_column")]
    names = _column(table, config, "label_column")
    _check_files(files, path)
    classes = sorted(set(names))
    if len(classes) < 2:
        raise ValueError(f"dataset.label_column={config.label_column}: only one class ('{classes[0]}') in {path}")
    source = Source(classes, {}, root=root)
    positions = {name: label for label, name in enumerate(classes)}
    groups = _column(table, config, "group_column") if config.group_column else None
    for split, rows in _split_rows(table, config, path).items():
        source.splits[split] = ([files[row] for row in rows], [positions[names[row]] for row in rows])
        if groups is not None:
            source.groups[split] = [groups[row] for row in rows]
    return source


def _read_table(path: Path) -> Table:
    """Read every value as text: a class may be called 007 or NA."""
    import pandas as pd

    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        frame = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"dataset.table={path} does not exist") from None
    except ValueError as error:  # the base class of pandas' own errors and of decoding errors
        raise ValueError(f"dataset.table={path} cannot be read: {str(error).splitlines()[0]}") from error
    if frame.empty:
        raise ValueError(f"dataset.table={path} has no rows")
    return {str(name): column.fillna("").str.strip().tolist() for name, column in frame.items()}


def _column(table: Table, config: DatasetConfig, key: str) -> list[str]:
    """Return the column that `dataset.<key>` names; an empty value is an error that names its line."""
    name = getattr(config, key)
    if name not in table:
        raise ValueError(f"dataset.{key}={name} is not a column of {config.table}; it has: {', '.join(table)}")
    if empty := [line for line, value in enumerate(table[name], start=2) if not value]:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"dataset.{key}={name}: no value in line {empty[0]}{more} of {config.table}")
    return table[name]


def _check_files(files: list[Path], table: Path) -> None:
    if missing := [file for file in files if not file.is_file()]:
        shown = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} images in dataset.table={table} do not exist: {shown}\n"
            "paths are relative to dataset.root, by default the table's own folder"
        )
    seen: set[str] = set()
    names = [os.path.realpath(file) for file in files]
    if twice := [name for name in names if name in seen or seen.add(name)]:  # type: ignore[func-returns-value]
        raise ValueError(f"dataset.table={table} lists {len(twice)} image(s) more than once, such as {twice[0]}")


def _split_rows(table: Table, config: DatasetConfig, path: Path) -> dict[str, list[int]]:
    """Return the rows of each split, train first; only `all` without dataset.split_column."""
    if config.split_column is None:
        return {"all": list(range(len(table[str(config.label_column)])))}
    rows: dict[str, list[int]] = {"train": []}
    for row, value in enumerate(_column(table, config, "split_column")):
        if value.lower() not in SPLIT_NAMES:
            raise ValueError(
                f"dataset.split_column={config.split_column}: '{value}' in line {row + 2} of {path}; "
                f"allowed: {', '.join(SPLIT_NAMES)}"
            )
        rows.setdefault(SPLIT_NAMES[value.lower()], []).append(row)
    if not rows["train"]:
        raise ValueError(f"dataset.split_column={config.split_column}: no line of {path} says train")
    return rows
