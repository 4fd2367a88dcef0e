"""A report on the data before training: counts, sizes, unreadable and ignored files, duplicates across splits."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .decode import map_in_order
from .load import SPLITS, Data
from .read import read_content


@dataclass
class Report:
    """Facts about a data set; the lists name files, or positions in a split for a data set in a single file.

    counts: class -> images in train, val, test. copies: groups of identical images in more than one split, each image
    as "split: file (class)"; conflicts: groups of identical images in more than one class; repeated: number of images
    identical to another in the same split. summary: for the log of every run; warnings: to read before training.
    """

    counts: dict[str, tuple[int, int, int]]
    sizes: list[tuple[str, int]]
    modes: list[tuple[str, int]]
    unreadable: list[str]
    ignored: list[tuple[str, str]]
    copies: list[list[str]]
    conflicts: list[list[str]]
    repeated: int
    summary: str
    warnings: list[str]

    def lines(self) -> list[str]:
        """Return the lines about the images in a run's log."""
        return [f"images    {self.summary}"]

    def to_json(self) -> dict[str, Any]:
        """Return what `check=true` prints, as values of JSON."""
        return {
            "summary": self.summary,
            "counts": [{"class": name, **dict(zip(SPLITS, row, strict=True))} for name, row in self.counts.items()],
            "sections": [{"heading": heading, "lines": lines} for heading, lines in self.sections()],
            "warnings": self.warnings,
        }

    def sections(self) -> list[tuple[str, list[str]]]:
        """Return the headings of the full report with the lines below them."""
        copies, conflicts = ([" = ".join(group) for group in groups] for groups in (self.copies, self.conflicts))
        return [
            ("sizes (width x height)", [f"{count:>8,}  {size}" for size, count in self.sizes]),
            ("modes", [f"{count:>8,}  {mode}" for mode, count in self.modes]),
            (f"unreadable files: {len(self.unreadable)}", self.unreadable),
            (f"ignored files: {len(self.ignored)}", [f"{path}: {reason}" for path, reason in self.ignored]),
            (f"exact copies in more than one split: {len(copies)} groups", copies),
            (f"exact copies in more than one class: {len(conflicts)} groups", conflicts),
            (f"exact copies within a split: {self.repeated} images", []),
            (f"warnings: {len(self.warnings)}", self.warnings),
        ]


def inspect_data(data: Data, batch_size: int) -> Report:
    """Report on a data set from the indexes that decoding left; reads no image."""
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
    copies, conflicts, repeated = _find_copies(data)
    report = Report(
        counts=dict(zip(data.classes, zip(*counted, strict=True), strict=True)),
        sizes=common,
        modes=modes.most_common(),
        unreadable=[line for index in indexes.values() for line in index.errors.tolist()],
        ignored=[(os.fspath(path), reason) for path, reason in data.ignored],
        copies=copies,
        conflicts=conflicts,
        repeated=repeated,
        summary=f"{_describe(counted[0])} training images per class; {_range(data)} px; {', '.join(sorted(modes))}",
        warnings=list(data.notes),
    )
    report.warnings += _find_warnings(report, len(data.train), batch_size)
    return report


def read_originals(data: Data, positions: Tensor, side: int) -> list[np.ndarray]:
    """Return training images (h,w,C) uint8 as their files have them: whole, and scaled down to at most `side` px.

    Images without files are those that are stored. Raises OSError, naming a file that cannot be read.
    """
    if not data.train.files:
        return list(data.train.images.take(positions).permute(0, 2, 3, 1).cpu().numpy())
    return list(map_in_order(partial(_read_original, data, side), positions.tolist()))


def _read_original(data: Data, side: int, position: int) -> np.ndarray:
    index, path = data.indexes["train"], data.train.files[position]
    height, width = int(index.height[position]), int(index.width[position])
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    look = replace(data.preprocessing, size=size, resize="squash")
    return look.parse(read_content(path, look.reading), path)[0]


def _find_warnings(report: Report, num_train: int, batch_size: int) -> list[str]:
    lines = []
    if report.copies:
        count = sum(len(group) for group in report.copies)
        lines.append(
            f"{count} images have an exact copy in another split, which inflates validation or test accuracy; "
            "check=true lists them"
        )
    if report.conflicts:
        lines.append(f"{len(report.conflicts)} images occur in more than one class; check=true lists them")
    reasons = Counter(reason for _, reason in report.ignored if reason != "hidden").most_common(3)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
        lines.append(f"files ignored: {listed}; check=true lists them")
    if num_train < batch_size:
        lines.append(f"fewer training images than training.batch_size={batch_size}: one batch per epoch")
    return lines


def _describe(numbers: Sequence[int]) -> str:
    smallest, largest = min(numbers, default=0), max(numbers, default=0)
    return f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"


def _range(data: Data) -> str:
    sides = [np.concatenate([getattr(index, side) for index in data.indexes.values()]) for side in ("width", "height")]
    return " x ".join(_describe(side.tolist()) for side in sides)


def _find_copies(data: Data) -> tuple[list[list[str]], list[list[str]], int]:
    """Return the groups of identical images across splits, those across classes, and the number within splits."""
    digests = np.concatenate([index.digest for index in data.indexes.values()])
    keys = np.ascontiguousarray(digests).view("V16").ravel()
    split_of = np.repeat(np.arange(3), [len(split) for split in data.splits().values()])
    labels = torch.cat([split.labels for split in data.splits().values()]).numpy()
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    across, conflicts = (
        [[_name(data, position) for position in group.tolist()] for group in groups if len(set(of[group])) > 1]
        for of in (split_of, labels)
    )
    return across, conflicts, sum(len(group) - len(set(split_of[group])) for group in groups)


def _name(data: Data, position: int) -> str:
    """Return "split: file (class)" for a position in the three splits, concatenated."""
    for name, split in data.splits().items():
        if position < len(split):
            file = split.files[position] if split.files else f"image {position}"
            return f"{name}: {file} ({data.classes[int(split.labels[position])]})"
        position -= len(split)
    raise AssertionError("position out of range")
