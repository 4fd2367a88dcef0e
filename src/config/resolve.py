"""Fill in nulls: `resolve` those that follow from other keys, `complete` those that follow from the data.

Both return a new configuration. `resolve` also checks what only a new command has to meet: files that must exist,
and typed keys that would have no effect.
"""

import math
import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from .augmentation import AugmentationConfig
from .checks import check, check_choice, common_divisors, format_size
from .dataset import DatasetConfig, check_channels
from .initial import HUB, WEIGHT_SUFFIXES
from .options import GROUPS, list_options
from .schema import TrainConfig


def resolve(config: TrainConfig, typed: Collection[str]) -> TrainConfig:
    """Return `config` with every null filled in that follows from other keys.

    `typed` holds the keys given on the command line: the learning rate that was typed wins over the other spelling of
    it, and a typed warm-up must be shorter than the run, while one from a file is replaced.
    """
    for group in GROUPS:
        names = [option for option in list_options(group) if option != "auto"]
        check_choice(f"{group}.name", getattr(config, group).name, names)
    _check_root(config.dataset)
    if isinstance(config.check, str):
        _check_report(Path(config.check), config.dataset)
    _check_split(config.dataset, typed)
    config = _resolve_augmentation(_resolve_sizes(_resolve_training(config), typed))
    _check_augmentation(config.augmentation, typed)
    check(
        "training.patch_dropout_off_share" not in typed or bool(config.training.patch_dropout),
        "training.patch_dropout_off_share means nothing without training.patch_dropout",
    )
    return _resolve_schedule(_resolve_lr(config, typed), typed)


def _check_root(dataset: DatasetConfig) -> None:
    """Refuse a missing folder or table; the schema does not, because saved runs outlive their data."""
    if dataset.name in ("image_folder", "imagenet"):
        check(
            dataset.root is not None,
            "dataset.root is not set; write dataset.root=FOLDER with a folder per class",
        )
    if dataset.name in ("image_folder", "imagenet", "csv") and dataset.root is not None:
        check(Path(dataset.root).is_dir(), f"dataset.root={dataset.root} is not a folder")
    if dataset.table is not None:
        check(Path(dataset.table).is_file(), f"dataset.table={dataset.table} is not a file")


def _check_report(folder: Path, dataset: DatasetConfig) -> None:
    """Refuse a folder that cannot be made, or in which the pictures of the report would become images of a class."""
    check(folder.is_dir() or not os.path.lexists(folder), f"check={folder} is a file; type true or a folder")
    check(folder.parent.is_dir(), f"check={folder}: the folder {folder.parent} does not exist")
    place = folder if folder.is_dir() else folder.parent
    check(os.access(place, os.W_OK | os.X_OK), f"check={folder}: the folder {place} cannot be written to")
    if dataset.name in ("image_folder", "imagenet") and dataset.root is not None:
        check(
            not folder.resolve().is_relative_to(Path(dataset.root).resolve()),
            f"check={folder} is in dataset.root={dataset.root}, where its pictures would be taken for images to train "
            "on; choose another folder",
        )


def check_weights(config: TrainConfig) -> None:
    """Refuse what cannot be initial weights; the schema does not, because runs outlive them."""
    wanted = config.init.weights
    if config.resume is not None or wanted is None:
        return
    allowed = f"write a folder, a file ({', '.join(WEIGHT_SUFFIXES)}), timm:MODEL or hf-hub:OWNER/NAME"
    if hub := HUB.fullmatch(wanted):
        form = re.fullmatch(r"[\w.-]+" if hub[1] == "timm" else r"[\w.-]+/[\w.-]+", hub[2])
        check(form is not None, f"init.weights={wanted} is not of the form timm:MODEL or hf-hub:OWNER/NAME")
        return
    path = Path(wanted)
    check(path != Path(), f"init.weights= has no value; {allowed}, or leave it out")
    typed = path.name if path.parent == Path.cwd() else path  # such as `latest`, which only resume= knows
    check(path.exists(), f"init.weights={typed} does not exist; {allowed}")
    is_weights = path.is_dir() or path.name.lower().endswith(WEIGHT_SUFFIXES)
    check(is_weights, f"init.weights={path} is not a weights file; {allowed}")


def _check_split(dataset: DatasetConfig, typed: Collection[str]) -> None:
    """Refuse a typed key that the chosen split would ignore."""
    for key, kinds in (
        ("group_pattern", ("grouped", "blocks")),
        ("group_column", ("grouped",)),
        ("block_size", ("blocks",)),
    ):
        unused = f"dataset.{key}" in typed and dataset.split not in kinds and getattr(dataset, key) is not None
        needed = " or ".join(f"dataset.split={kind}" for kind in kinds)
        check(not unused, f"dataset.{key} means nothing for dataset.split={dataset.split}; it needs {needed}")


def _resolve_training(config: TrainConfig) -> TrainConfig:
    """Fill in what is left to the images, where `photos.py` has not chosen by them."""
    epochs, patch_dropout = config.training.epochs or 40, config.training.patch_dropout or 0.0
    return replace(config, training=replace(config.training, epochs=epochs, patch_dropout=patch_dropout))


def _resolve_sizes(config: TrainConfig, typed: Collection[str]) -> TrainConfig:
    """Choose the image size, of the two keys the one that was typed, and the patches that fit."""
    of_dataset = "dataset.image_size" in typed and "model.image_size" not in typed
    sizes = config.model.image_size, config.dataset.image_size
    size = next(filter(None, reversed(sizes) if of_dataset else sizes), (128, 128))
    patch = config.model.patch_size or default_patch_size(size, config.model.stem)
    return replace(config, model=replace(config.model, image_size=size, patch_size=patch))


def _resolve_augmentation(config: TrainConfig) -> TrainConfig:
    augmentation, smallest_side = config.augmentation, min(config.model.image_size)
    flip, pad, crop = augmentation.horizontal_flip, augmentation.pad_crop, augmentation.random_resized_crop
    if flip is None:
        flip = 0.5 if config.dataset.flips else 0.0
    if crop is None:
        # Random scales suit photos, where objects have any size; small images are usually cropped to the object.
        mixed = augmentation.mixup > 0 or augmentation.cutmix > 0
        crop = (0.2 if mixed else 0.35) if smallest_side >= 64 and not pad else 0.0
    if pad is None:
        # Below 16 px a stroke is one pixel wide: on the digits (8 px), shifts lower the accuracy.
        pad = 0.125 if smallest_side >= 16 and not crop else 0.0
    augmentation = replace(augmentation, horizontal_flip=flip, pad_crop=pad, random_resized_crop=crop)
    return replace(config, augmentation=augmentation)


def _check_augmentation(augmentation: AugmentationConfig, typed: Collection[str]) -> None:
    """Refuse a typed key of an operation that is off."""
    mixed = augmentation.mixup > 0 or augmentation.cutmix > 0
    random = augmentation.policy == "randaugment"
    for keys, used, needed in (
        (("num_ops", "magnitude"), random, "policy=randaugment"),
        (("crop_ratio",), augmentation.random_resized_crop, "random_resized_crop"),
        (("posterize_bits",), augmentation.posterize, "posterize"),
        (("solarize_threshold",), augmentation.solarize, "solarize"),
        (("sharpness_factor",), augmentation.sharpness, "sharpness"),
        (("erasing_area",), augmentation.erasing, "erasing"),
        (("mix_prob", "mix_off_share"), mixed, "mixup or augmentation.cutmix"),
        (("mix_switch",), augmentation.mixup > 0 and augmentation.cutmix > 0, "mixup and augmentation.cutmix"),
    ):
        for key in (f"augmentation.{name}" for name in keys):
            check(key not in typed or bool(used), f"{key} means nothing without augmentation.{needed}")


def _resolve_lr(config: TrainConfig, typed: Collection[str]) -> TrainConfig:
    by_training, by_optimizer = config.training.lr, config.optimizer.lr
    if {"training.lr", "optimizer.lr"} <= set(typed) and by_training not in (None, by_optimizer):
        raise ValueError(
            f"training.lr={by_training} and optimizer.lr={by_optimizer} are one learning rate; type only one"
        )
    lr = by_optimizer if by_training is None or "optimizer.lr" in typed else by_training
    return replace(config, training=replace(config.training, lr=lr), optimizer=replace(config.optimizer, lr=lr))


def _resolve_schedule(config: TrainConfig, typed: Collection[str]) -> TrainConfig:
    epochs, lr, scheduler = config.training.epochs, config.optimizer.lr, config.scheduler
    assert epochs is not None  # filled in before
    if scheduler.min_lr is not None and scheduler.min_lr > lr:
        check("scheduler.min_lr" not in typed, f"scheduler.min_lr={scheduler.min_lr} is above training.lr={lr}")
        scheduler = replace(scheduler, min_lr=lr)
    warmup = scheduler.warmup_epochs
    if warmup is not None and warmup >= epochs:
        check(
            "scheduler.warmup_epochs" not in typed,
            f"scheduler.warmup_epochs={warmup:g} must be shorter than training.epochs={epochs}",
        )
        warmup = None
    scheduler = replace(scheduler, warmup_epochs=0.1 * epochs if warmup is None else warmup)
    return replace(config, scheduler=scheduler)


def default_batch_size(num_train: int) -> int:
    """Return the power of two from 16 to 128 that gives about 64 steps per epoch, which small data sets need."""
    return 2 ** min(7, max(4, round(math.log2(max(1, num_train) / 64))))


def complete(
    config: TrainConfig,
    num_train: int,
    num_classes: int,
    in_channels: int,
    mean: list[float],
    std: list[float],
    value_range: list[float] | None = None,
) -> TrainConfig:
    """Return `config` with what follows from the data. Raises ValueError for a typed or saved value that disagrees."""
    model, training, dataset = config.model, config.training, config.dataset
    for key, kind, value, found in (
        ("num_classes", "classes", model.num_classes, num_classes),
        ("in_channels", "channels", model.in_channels, in_channels),
    ):
        message = f"model.{key}={value}, but the data has {found}; leave model.{key} out, it follows the data"
        if config.resume is not None:
            source = f"dataset.root={dataset.root}" if dataset.root else f"dataset={dataset.name}"
            message = (
                f"the images are not those that the run was started with ({value} {kind} there, {found} here; "
                f"{source}); bring those back, or start a new run without resume"
            )
        check(value in (None, found), message)
    if config.dataset.mean:
        check_channels(config.dataset, in_channels)
    return replace(
        config,
        model=replace(model, num_classes=num_classes, in_channels=in_channels),
        dataset=replace(config.dataset, channels=in_channels, mean=mean, std=std, value_range=value_range),
        training=replace(training, batch_size=training.batch_size or default_batch_size(num_train)),
    )


def default_patch_size(size: tuple[int, int], stem: str = "patch") -> int:
    """Return the largest patch up to 16 px that gives at least 49 tokens, or else the smallest from 2 px.

    ViT-B/32 at 224 px, the coarsest grid of arXiv 2010.11929, has 49 tokens. A convolutional stem, which halves the
    image in each step, needs a power of two. 32 px gives 4, 224 px gives 16.
    """
    height, width = size
    fitting = [patch for patch in common_divisors(size) if 2 <= patch <= 16]
    if stem == "conv":
        fitting = [patch for patch in fitting if patch & (patch - 1) == 0]
    fine = [patch for patch in fitting if (height // patch) * (width // patch) >= 49]
    if fitting:
        return max(fine) if fine else min(fitting)
    near = [max(8, round(side / 8) * 8) for side in size]
    message = f"model.image_size={format_size(size)} fits no patch size from 2 to 16; try {near}"
    check(height * width <= 32 * 32, message)
    return 1
