"""What is chosen for your own images where nothing is typed: by how many there are, and how large they are.

`model=auto`, `optimizer=auto`, `augmentation=auto` and the nulls of `dataset.image_size`, `training.epochs` and
`training.patch_dropout` leave these to the images. How well that does: docs/results.md.
"""

import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .overrides import name_key, show_value

TINY = 16  # pixels below which one pixel is a stroke
LARGE = 112  # pixels from which on images are taken at 128
SEEN = 600_000  # images that a run sees without a time limit: about an hour on two CPU cores
SEEN_LIMITED = 3_000_000  # with one: more than fits, as the schedule shrinks to the time


@dataclass(frozen=True)
class Pictures:
    """count: of the training images; height, width: their medians, in pixels."""

    count: int
    height: int
    width: int


LEFT = ("dataset.image_size", "model", "optimizer", "augmentation", "training.epochs", "training.patch_dropout")
ALONG = {"model": ("model.pooling", "model.stem", "model.drop_path"), "optimizer": ("optimizer.lr",)}  # with `auto`
CHOSEN = (*LEFT, *itertools.chain(*ALONG.values()))
Survey = Callable[[str], Pictures | None]  # dataset.root -> what it holds, None if that cannot be said


def choose_for_pictures(cfg: DictConfig, typed: set[str], survey: Survey) -> list[str]:
    """Return overrides for what a composed configuration leaves to the images; typed: keys that stay as they are."""
    dataset, choices = cfg.get("dataset"), cfg.hydra.runtime.choices
    if dataset is None or dataset.get("name") != "image_folder" or not dataset.get("root"):
        return []
    if not _is_null(cfg, "init.weights"):
        return []  # what is trained further comes with its own model and size, and wants smaller steps
    left = {key for key in LEFT if key not in typed and (choices.get(key) == "auto" or _is_null(cfg, key))}
    if not _is_null(cfg, "model.image_size"):
        left -= {"dataset.image_size"}
    left |= {key for group, keys in ALONG.items() if group in left for key in keys if key not in typed}
    if "training.lr" in typed or not _is_null(cfg, "training.lr"):
        left -= {"optimizer.lr"}
    pictures = survey(str(dataset.root)) if left else None
    if pictures is None:
        return []
    chosen = choose(pictures, limited=not _is_null(cfg, "training.max_minutes"))
    return [f"{key}={show_value(value)}" for key, value in chosen.items() if key in left]


def list_chosen(words: Iterable[str], typed: Collection[str]) -> list[str]:
    """Return what was chosen by the images, among the words for Hydra."""
    return [word for word in words if word not in typed and name_key(word) in CHOSEN]


def describe_chosen(chosen: list[str]) -> list[str]:
    """Return lines for the log: what follows from the size of the images, and what from their number."""
    by_number = [word for word in chosen if name_key(word) == "training.epochs"]
    by_size = [word for word in chosen if word not in by_number]
    lines = [f"chosen    {' '.join(by_size)}: by the size of the images"] if by_size else []
    return [*lines, f"chosen    {' '.join(by_number)}: by their number"] if by_number else lines


def choose(pictures: Pictures, limited: bool) -> dict[str, Any]:
    """Return the value of each key for these pictures; limited: whether a time limit ends the run."""
    size = choose_size(min(pictures.height, pictures.width))
    epochs = min(300, max(10, round((SEEN_LIMITED if limited else SEEN) / pictures.count)))
    if size < TINY:
        return {"dataset.image_size": size, "model": "vit_nano", "augmentation": "light", "training.epochs": epochs}
    return {
        "dataset.image_size": size,
        "model": "vit_micro",
        "model.pooling": "mean",
        "model.stem": "overlap",
        "model.drop_path": 0.05,
        "optimizer": "muon",
        "optimizer.lr": 2e-3,
        "augmentation": "medium",
        "training.patch_dropout": 0.25,
        "training.epochs": epochs,
    }


def choose_size(side: int) -> int:
    """Return the image size for pictures with this shorter side: one that patches divide, and never enlarged."""
    if side >= LARGE:
        return 128
    step = 8 if side >= 64 else 4
    return max(8, side // step * step)


def _is_null(cfg: DictConfig, key: str) -> bool:
    return OmegaConf.select(cfg, key) is None
