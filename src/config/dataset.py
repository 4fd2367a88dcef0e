"""The keys of `dataset=`, and what they may be; `options.py` tells which of them a data set has."""

import re
from dataclasses import dataclass, field
from typing import Any

from .checks import above, as_size, at_least, between, check, each, one_of, text
from .options import check_option

HANDLE = text(
    example="OWNER/NAME",
    pattern=r"[\w-]+/[\w.-]+(/versions/[1-9]\d*)?",
    form="OWNER/NAME or OWNER/NAME/versions/3, as in the address kaggle.com/datasets/OWNER/NAME",
)

# Names of what separates the columns of a table, in the order of preference.
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}


@dataclass
class DatasetConfig:
    name: str
    root: str | None
    image_size: Any
    channels: int | None = field(metadata=at_least(1, most=4096, null="follows the images"))
    resize: str = field(metadata=one_of("crop", "squash"))
    interpolation: str = field(metadata=one_of("bicubic", "bilinear", "nearest"))
    mean: list[float] | None = field(metadata=each(between(-1000, 1000), null="computed from the training images"))
    std: list[float] | None = field(metadata=each(at_least(1e-6, most=1000), null="computed from the training images"))
    axes: str | None = field(metadata=one_of("hwc", "chw", null="the smallest axis holds the channels"))
    pages: str | None = field(metadata=one_of("first", "bands"))
    value_range: list[float] | None
    max_pixels: int | None = field(metadata=at_least(1, most=10**12))
    flips: bool
    val_share: float | None = field(metadata=above(0, below=1))
    test_share: float | None = field(metadata=above(0, below=1))
    split: str | None = field(metadata=one_of("stratified", "grouped", "blocks"))
    group_pattern: str | None
    block_size: int | None = field(metadata=at_least(1, most=10**9))
    split_seed: int | None = field(metadata=at_least(0, below=2**63))
    on_error: str | None = field(metadata=one_of("refuse", "skip"))
    cache: str = field(metadata=one_of("auto", "device", "memory", "disk", "off"))
    cache_dir: str = field(metadata=text(example="FOLDER", pattern=".+", form="a folder"))
    variant: str | None = field(metadata=one_of("balanced", "byclass", "bymerge", "letters", "digits", "mnist"))
    table: str | None = field(metadata=text(example="FILE.csv"))
    delimiter: str | None = field(metadata=one_of(*DELIMITERS, null="detected"))
    path_column: str | None = field(metadata=text(example="COLUMN"))
    label_column: str | None = field(metadata=text(example="COLUMN"))
    split_column: str | None
    group_column: str | None
    handle: str | None = field(metadata=HANDLE)
    subfolder: str | None

    def __post_init__(self) -> None:
        check_option("dataset", self)
        self.image_size = as_size("dataset.image_size", self.image_size)
        check((self.mean is None) == (self.std is None), "dataset.mean and dataset.std go together")
        if self.mean is not None:
            check_channels(self, self.channels or len(self.mean))
        levels = self.value_range
        fits = levels is None or (len(levels) == 2 and -1e30 < levels[0] < levels[1] < 1e30)
        check(fits, f"dataset.value_range={levels} must be two numbers, the smaller first; null: found in the images")
        total = (self.val_share or 0) + (self.test_share or 0)
        check(total < 1, f"dataset.val_share + dataset.test_share = {total:g} leaves nothing to train on")
        self._check_groups()

    def _check_groups(self) -> None:
        if self.group_pattern is not None:
            try:
                num_groups = re.compile(self.group_pattern).groups
            except re.error as error:
                message = f"dataset.group_pattern={self.group_pattern} is not a regular expression: {error}"
                raise ValueError(message) from error
            check(num_groups >= 1, f"dataset.group_pattern={self.group_pattern} has no group in parentheses")
        if self.split == "grouped":
            column = " or dataset.group_column" if self.name == "csv" else ""
            sources = (self.group_pattern is not None) + (self.group_column is not None)
            check(sources > 0, f"dataset.split=grouped needs dataset.group_pattern{column}")
            check(sources < 2, "dataset.group_pattern and dataset.group_column both define groups; type only one")


def check_channels(dataset: DatasetConfig, channels: int) -> None:
    """Refuse statistics for another number of channels than the images have."""
    mean, std = dataset.mean or [], dataset.std or []
    fits = len(mean) == len(std) == channels
    check(fits, f"dataset.mean={mean} and dataset.std={std} must have one number for each of {channels} channel(s)")
