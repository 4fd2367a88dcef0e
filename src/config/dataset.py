"""The keys of `dataset=`: which of them mean something for each data set, and what they may be."""

import os
import re
from dataclasses import dataclass
from typing import Any

from .checks import as_size, check, check_choice, check_option

# Keys beside `name` that mean something to each data set; any other key of the group is an error for it.
_IMAGE_KEYS = {"image_size", "channels", "resize", "interpolation", "mean", "std", "flips", "cache", "cache_dir"}
_ARRAY_KEYS = _IMAGE_KEYS | {"root", "val_share", "split_seed"}  # images in one file, an official test split
_SPLIT_KEYS = {"val_share", "split_seed", "split", "group_pattern", "block_size"}
_FILE_KEYS = _IMAGE_KEYS | {"root", "on_error"}  # an image a file, all splits official
_FOLDER_KEYS = _FILE_KEYS | _SPLIT_KEYS | {"test_share"}  # an image a file, perhaps no split at all
_TABLE_KEYS = {"table", "path_column", "label_column", "split_column", "group_column"}
_KAGGLE_KEYS = _FOLDER_KEYS - {"root"} | {"handle", "subfolder"}
DATASET_KEYS = {
    "digits": _ARRAY_KEYS - {"root"} | {"test_share"},
    "emnist": _ARRAY_KEYS | {"variant"},
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10"), _ARRAY_KEYS),
    **dict.fromkeys(("gtsrb", "oxford_pets", "food101", "stanford_cars"), _FILE_KEYS | _SPLIT_KEYS),
    **dict.fromkeys(("imagenette", "tiny_imagenet", "imagenet"), _FILE_KEYS | _SPLIT_KEYS),
    **dict.fromkeys(("dtd", "flowers102", "fgvc_aircraft"), _FILE_KEYS),
    **dict.fromkeys(("caltech101", "eurosat", "image_folder"), _FOLDER_KEYS),
    "csv": _FOLDER_KEYS | _TABLE_KEYS,
    **dict.fromkeys(("kaggle", "tom_and_jerry"), _KAGGLE_KEYS),
}
EMNIST_VARIANTS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")


@dataclass
class DatasetConfig:
    name: str
    root: str | None
    image_size: Any
    channels: int | None
    resize: str
    interpolation: str
    mean: list[float] | None
    std: list[float] | None
    flips: bool
    val_share: float | None
    test_share: float | None
    split: str | None
    group_pattern: str | None
    block_size: int | None
    split_seed: int | None
    on_error: str | None
    cache: str
    cache_dir: str
    variant: str | None
    table: str | None
    path_column: str | None
    label_column: str | None
    split_column: str | None
    group_column: str | None
    handle: str | None
    subfolder: str | None

    def __post_init__(self) -> None:
        check_option("dataset", self, DATASET_KEYS)
        self._check_images()
        self._check_shares()
        self._check_grouping()
        self._check_source()
        for key in ("root", "cache_dir", "table"):
            if getattr(self, key) is not None:
                setattr(self, key, os.path.abspath(os.path.expanduser(getattr(self, key))))

    def _check_images(self) -> None:
        self.image_size = as_size("dataset.image_size", self.image_size)
        check(self.image_size is not None, "dataset.image_size must not be null; write a number of pixels")
        check(self.channels is None or self.channels >= 1, f"dataset.channels={self.channels} must be at least 1")
        check_choice("dataset.resize", self.resize, ("crop", "squash"))
        check_choice("dataset.interpolation", self.interpolation, ("bicubic", "bilinear", "nearest"))
        check((self.mean is None) == (self.std is None), "dataset.mean and dataset.std go together")
        if self.mean is not None and self.std is not None:
            check(all(std > 0 for std in self.std), f"dataset.std={self.std}: each must be above 0")
            check_channels(self, self.channels or len(self.mean))
        check_choice("dataset.cache", self.cache, ("auto", "device", "memory", "disk", "off"))
        if self.on_error is not None:
            check_choice("dataset.on_error", self.on_error, ("refuse", "skip"))

    def _check_shares(self) -> None:
        for key in ("val_share", "test_share", "split_seed", "block_size"):
            needed = key in DATASET_KEYS[self.name] and getattr(self, key) is None
            check(not needed, f"dataset.{key} must not be null")
        if self.split_seed is not None:
            check(self.split_seed >= 0, f"dataset.split_seed={self.split_seed} must not be negative")
        for key in ("val_share", "test_share"):
            value = getattr(self, key)
            check(value is None or 0 < value < 1, f"dataset.{key}={value} must lie between 0 and 1")
        total = (self.val_share or 0) + (self.test_share or 0)
        check(total < 1, f"dataset.val_share + dataset.test_share = {total:g} leaves nothing to train on")

    def _check_grouping(self) -> None:
        if "split" in DATASET_KEYS[self.name]:
            check_choice("dataset.split", str(self.split), ("stratified", "grouped", "blocks"))
        if self.block_size is not None:
            check(self.block_size >= 1, f"dataset.block_size={self.block_size} must be at least 1 (frames)")
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
            check(sources < 2, "dataset.group_pattern and dataset.group_column both name groups; give only one")

    def _check_source(self) -> None:
        if self.name == "emnist":
            check_choice("dataset.variant", str(self.variant), EMNIST_VARIANTS)
        if self.name == "csv":
            check(self.table is not None, "dataset.table is not set; write dataset.table=FILE.csv")
            for key in ("path_column", "label_column"):
                check(getattr(self, key) is not None, f"dataset.{key} is not set; write the name of a column")
        if self.name in ("kaggle", "tom_and_jerry"):
            check(self.handle is not None, "dataset.handle is not set; write dataset.handle=OWNER/NAME")
            valid = re.fullmatch(r"[\w-]+/[\w.-]+(/versions/[1-9]\d*)?", str(self.handle))
            check(
                valid is not None,
                f"dataset.handle={self.handle} is not of the form OWNER/NAME or OWNER/NAME/versions/3, "
                "as in the address kaggle.com/datasets/OWNER/NAME",
            )


def check_channels(dataset: DatasetConfig, channels: int) -> None:
    """Refuse statistics for another number of channels than the images have."""
    mean, std = dataset.mean or [], dataset.std or []
    fits = len(mean) == len(std) == channels
    check(fits, f"dataset.mean={mean} and dataset.std={std} must have one number for each of {channels} channel(s)")
