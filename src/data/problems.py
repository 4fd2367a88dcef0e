"""What is wrong with the images of a data set, and what they were taken for: errors, and sentences for the log."""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config.dataset import DatasetConfig
from ..machine.streams import printable_cell
from .decode import Index
from .folders import Source
from .levels import FEW, count_levels
from .read import count_notes

Indexes = Mapping[str, Index]  # by split


def describe_files(indexes: Indexes) -> list[str]:
    """Return what ambiguous files were taken for, how many there are, and whether the pixels hold anything."""
    counts = Counter[str]()
    for index in indexes.values():
        counts.update({note: int(count) for note, count in index.notes.tolist()})
    train = indexes["train"]
    used = count_levels(train.histogram)
    if len(train.kept) and used < FEW and set(train.mode.tolist()) != {"1"}:
        levels = "a single level" if used == 1 else f"{used} of 256 levels"
        counts[f"the training images have only {levels}; is dataset.value_range right?"] = len(train.kept)
    return count_notes(counts)


def find_unreadable(indexes: Indexes, config: DatasetConfig, notes: list[str]) -> list[Exception]:
    """Return the error that lists the unreadable images; with `dataset.on_error=skip`, they become notes."""
    unreadable = _list_unreadable(indexes)
    if config.on_error == "skip":
        notes += [f"unreadable, skipped: {line}" for line in unreadable]
        return []
    shown = [printable_cell(line) for line in unreadable[:10]] + (
        [f"… and {len(unreadable) - 10} more"] if len(unreadable) > 10 else []
    )
    message = f"{len(unreadable)} unreadable image(s); fix or remove them, or skip them with dataset.on_error=skip:"
    return [OSError("\n  ".join([message, *shown]))] if unreadable else []


def find_empty(
    labels: Mapping[str, Tensor], indexes: Indexes, source: Source, config: DatasetConfig
) -> list[Exception]:
    """Return the errors that prevent training; add a note for each class that only validation or test lacks.

    labels: (N,) of the readable images, by split.
    """
    unreadable = _list_unreadable(indexes)
    where = f" in dataset.root={config.root}" if config.root else ""
    few = "too few images" + (f" ({len(unreadable)} are unreadable, such as {unreadable[0]})" if unreadable else "")
    problems: list[Exception] = []
    for name, of_split in labels.items():
        counts = torch.bincount(of_split, minlength=len(source.classes))
        absent = ", ".join(source.classes[i] for i in (counts == 0).nonzero().flatten().tolist())
        if len(of_split) == 0:
            problems.append(ValueError(f"the {name} split is empty: {few}{where}; each class should have 3 or more"))
        elif absent and name == "train":
            problems.append(ValueError(f"no training image of class {absent}: {few}{where}"))
        elif absent:
            source.notes.append(f"no {name} image of class {absent}: {few} to split")
    return problems


def _list_unreadable(indexes: Indexes) -> list[str]:
    return [line for index in indexes.values() for line in index.errors.tolist()]
