"""A look at the data before training: counts, sizes, broken and ignored files, duplicates across splits."""

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from .load import Data


@dataclass
class Report:
    """What is worth knowing of a data set; every list names files, or positions where a set comes in one file.

    counts: class -> images in train, val, test. duplicates: groups of images of equal content that lie in more than
    one split, each image as "split: file (class)"; repeated: images equal to another of the same split.
    """

    counts: dict[str, tuple[int, int, int]]
    sizes: list[tuple[str, int]]
    modes: list[tuple[str, int]]
    unreadable: list[str]
    ignored: list[tuple[str, str]]
    duplicates: list[list[str]]
    repeated: int

    def warnings(self) -> list[str]:
        """Return a line for each finding that a run should not begin without knowing."""
        lines = []
        if self.duplicates:
            count = sum(len(group) for group in self.duplicates)
            lines.append(
                f"{count} images have an exact copy in another split, which flatters validation or test; "
                "check=true lists them"
            )
        reasons = Counter(reason for _, reason in self.ignored if reason != "hidden").most_common(3)
        if reasons:
            listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
            lines.append(f"files ignored: {listed}; check=true lists them")
        return lines

    def sections(self) -> list[tuple[str, list[str]]]:
        """Return headings with the lines below them, for reading."""
        return [
            ("sizes (width x height)", [f"{count:>8,}  {size}" for size, count in self.sizes]),
            ("modes", [f"{count:>8,}  {mode}" for mode, count in self.modes]),
            (f"unreadable files: {len(self.unreadable)}", self.unreadable),
            (f"ignored files: {len(self.ignored)}", [f"{path}: {reason}" for path, reason in self.ignored]),
            (
                f"exact copies in more than one split: {len(self.duplicates)} groups",
                [" = ".join(group) for group in self.duplicates],
            ),
            (f"exact copies within a split: {self.repeated} images", []),
        ]


def inspect_data(data: Data) -> Report:
    """Look through what decoding has told about a data set; reads no image."""
    splits, indexes = data.splits(), data.indexes
    counted = [torch.bincount(split.labels, minlength=len(data.classes)).tolist() for split in splits.values()]
    sizes = Counter[str]()
    modes = Counter[str]()
    for index in indexes.values():
        sizes.update(f"{width} x {height}" for width, height in zip(index.width, index.height, strict=True))
        modes.update(index.mode.tolist())
    common, rest = sizes.most_common(8), len(sizes) - 8
    if rest > 0:
        common.append((f"{rest} other sizes, {_range(data)}", sum(sizes.values()) - sum(count for _, count in common)))
    duplicates, repeated = _find_copies(data)
    return Report(
        counts=dict(zip(data.classes, zip(*counted, strict=True), strict=True)),
        sizes=common,
        modes=modes.most_common(),
        unreadable=[line for index in indexes.values() for line in index.errors.tolist()],
        ignored=[(os.fspath(path), reason) for path, reason in data.ignored],
        duplicates=duplicates,
        repeated=repeated,
    )


def _range(data: Data) -> str:
    widths, heights = (
        np.concatenate([getattr(index, side) for index in data.indexes.values()]) for side in ("width", "height")
    )
    return f"from {widths.min()} to {widths.max()} wide, {heights.min()} to {heights.max()} high"


def _find_copies(data: Data) -> tuple[list[list[str]], int]:
    """Return groups of equal images that lie in several splits, and the number of copies inside splits."""
    digests = np.concatenate([index.digest for index in data.indexes.values()])
    keys = np.ascontiguousarray(digests).view("V16").ravel()
    split_of = np.repeat(np.arange(3), [len(split) for split in data.splits().values()])
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    across = [group for group in groups if len(set(split_of[group])) > 1]
    within = sum(len(group) - len(set(split_of[group])) for group in groups)
    return [[_name(data, position) for position in group.tolist()] for group in across], within


def _name(data: Data, position: int) -> str:
    """Return "split: file (class)" for a position in the three splits laid end to end."""
    for name, split in data.splits().items():
        if position < len(split):
            file = split.files[position] if split.files else f"image {position}"
            return f"{name}: {file} ({data.classes[int(split.labels[position])]})"
        position -= len(split)
    raise AssertionError("a position beyond the data")
