"""From a data set's configuration to decoded splits, and from a split to batches."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import DatasetConfig
from ..seeding import generator_for
from .datasets import DATASETS, Source
from .images import Preprocessing, Track, decode
from .splits import stratified_split


@dataclass
class Split:
    """images: uint8 (N,C,H,W), labels: int64 (N,), files: N paths, or none where the images come in one file."""

    images: Tensor
    labels: Tensor
    files: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Data:
    """Decoded splits with what they have in common. `notes` are sentences for the log."""

    train: Split
    val: Split
    test: Split
    classes: list[str]
    preprocessing: Preprocessing
    notes: list[str]

    def fingerprint(self) -> str:
        """Return a hash over every pixel and label: equal data, equal splits, equal fingerprint."""
        digest = hashlib.blake2b(repr(self.classes).encode(), digest_size=16)
        for split in (self.train, self.val, self.test):
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()


def load_data(config: DatasetConfig, size: tuple[int, int], track: Track) -> Data:
    """Find, split and decode a data set at `size` (height, width).

    Raises ValueError and OSError, naming folder and key, where the data cannot be used as it is.
    """
    source = DATASETS[config.name](config)
    _carve_splits(source, config)
    # Without a word in the config, colour is looked for in the decoded images themselves.
    preprocessing = Preprocessing(size, config.resize, config.interpolation, config.channels or 3)
    splits, unreadable = {}, []
    for name in ("train", "val", "test"):
        items, labels = source.splits[name]
        images, kept, errors = decode(items, preprocessing, track, f"decoding {name} images")
        files = [items[i] for i in kept] if not isinstance(items, np.ndarray) else []
        splits[name] = Split(images, torch.tensor([labels[i] for i in kept], dtype=torch.long), files)
        unreadable += errors
    _report_unreadable(unreadable, source, config)
    if config.channels is None and all(_is_grey(split.images) for split in splits.values()):
        preprocessing = replace(preprocessing, channels=1)
        for split in splits.values():
            split.images = split.images[:, :1].contiguous()
    _check_splits(splits, source, config)
    mean, std = (config.mean, config.std) if config.mean and config.std else pixel_statistics(splits["train"].images)
    preprocessing = replace(preprocessing, mean=tuple(mean), std=tuple(std))
    return Data(splits["train"], splits["val"], splits["test"], source.classes, preprocessing, source.notes)


def _carve_splits(source: Source, config: DatasetConfig) -> None:
    """Give the source the splits it lacks, in place: out of its training images, stratified, seeded."""
    base = "all" if "all" in source.splits else "train"
    items, labels = source.splits.pop(base)
    shares = {"val": config.val_share, "test": config.test_share}
    missing = {name: share for name, share in shares.items() if name not in source.splits and share is not None}
    parts = stratified_split(labels, list(missing.values()), config.split_seed)
    for name, part in zip(["train", *missing], parts, strict=True):
        chosen = items[part] if isinstance(items, np.ndarray) else [items[i] for i in part]
        source.splits[name] = (chosen, [labels[i] for i in part])
    if base == "train" and "test" in missing:
        source.notes.append("there is no test/ folder: test images were taken out of train/")


def _report_unreadable(unreadable: list[str], source: Source, config: DatasetConfig) -> None:
    if not unreadable:
        return
    if config.on_error == "skip":
        source.notes += [f"unreadable, left out: {line}" for line in unreadable]
        return
    shown = unreadable[:10] + ([f"… and {len(unreadable) - 10} more"] if len(unreadable) > 10 else [])
    message = f"{len(unreadable)} unreadable image(s); mend or remove them, or leave them out by dataset.on_error=skip:"
    raise OSError("\n  ".join([message, *shown]))


def _is_grey(images: Tensor) -> bool:
    return bool((images[:, 0] == images[:, 1]).all() and (images[:, 0] == images[:, 2]).all())


def _check_splits(splits: dict[str, Split], source: Source, config: DatasetConfig) -> None:
    where = f" in dataset.root={config.root}" if config.root else ""
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(f"the {name} split is empty: too few images{where}; each class should have 3 or more")
    counts = torch.bincount(splits["train"].labels, minlength=len(source.classes))
    if empty := [source.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]:
        raise ValueError(f"no training image of class {', '.join(empty)}{where}")
    for name in ("val", "test"):
        counts = torch.bincount(splits[name].labels, minlength=len(source.classes))
        if absent := [source.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]:
            source.notes.append(f"no {name} image of class {', '.join(absent)}: too few images to split")


def pixel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 images (N,C,H,W), pixels in [0,1].

    Exact, from counts of the 256 values. A constant channel gets std 1/255, so that dividing by it is safe.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (shares * values).sum()
        means.append(round(mean.item(), 6))
        stds.append(round(max((shares * (values - mean) ** 2).sum().sqrt().item(), 1 / 255), 6))
    return means, stds


def shuffled_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the epoch's order of samples (N,), a function of (seed, epoch) alone."""
    return torch.randperm(num_samples, generator=generator_for("order", seed, epoch))


def iterate_batches(
    split: Split, batch_size: int, device: torch.device, order: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield uint8 images (B,C,H,W) and labels (B,) on the device, each sample once; the last batch may be smaller."""
    for first in range(0, len(split), batch_size):
        chosen = slice(first, first + batch_size) if order is None else order[first : first + batch_size]
        images, labels = split.images[chosen], split.labels[chosen]
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
