"""Where the images of each data set are: name -> items (files or arrays), labels and classes, by split.

A new data set is one function here, one line in DATASETS and one file in configs/dataset/.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DatasetConfig
from .images import find_images, is_hidden

SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_FOLDERS |= {"test": "test", "testing": "test"}


@dataclass
class Source:
    """Items and labels (positions in `classes`) of the splits a data set comes with: any of all, train, val, test.

    Items are file paths, or a uint8 array (N,H,W) or (N,H,W,3). `notes` are sentences for the log.
    """

    classes: list[str]
    splits: dict[str, tuple[Sequence[Path] | np.ndarray, list[int]]]
    notes: list[str] = field(default_factory=list)


def load_digits(config: DatasetConfig) -> Source:
    from sklearn import datasets

    digits = datasets.load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)  # the scans count ink from 0 to 16
    return Source([str(digit) for digit in range(10)], {"all": (images, digits.target.tolist())})


def load_image_folder(config: DatasetConfig) -> Source:
    """Read `root/train|val|test/<class>/…` or `root/<class>/…`; images may lie deeper in a class folder."""
    root = Path(str(config.root))
    # A split holds class folders; a folder `train` with images in it is a class, of pictures of trains.
    named = [name for name in _class_folders(root) if name.lower() in SPLIT_FOLDERS and _class_folders(root / name)]
    folders = {SPLIT_FOLDERS[name.lower()]: root / name for name in named}
    if folders and "train" not in folders:
        raise ValueError(f"dataset.root={root} holds {named[0]}/ with class folders, but no train/ beside it")
    folders = dict(sorted(folders.items(), key=lambda item: item[0] != "train")) or {"all": root}
    first = next(iter(folders))
    classes = _class_folders(folders[first])
    source = Source([], {})
    found = {split: {} for split in folders}  # type: dict[str, dict[str, list[Path]]]
    for split, folder in folders.items():
        for name in _class_folders(folder):
            if name not in classes:
                raise ValueError(f"{folder / name}: the class '{name}' does not occur in {folders[first]}")
            found[split][name] = find_images(folder / name)
    source.classes = [name for name in classes if found[first][name]]
    source.notes += [f"{folders[first] / name} holds no images: left out" for name in classes if not found[first][name]]
    _check_classes(source.classes, folders[first])
    for split, by_class in found.items():
        items = [path for name in source.classes for path in by_class.get(name, [])]
        labels = [label for label, name in enumerate(source.classes) for _ in by_class.get(name, [])]
        source.splits[split] = (items, labels)
    return source


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def _check_classes(classes: list[str], folder: Path) -> None:
    if not classes:
        raise ValueError(
            f"dataset.root: no class folders with images in {folder}; put each class into a folder of its own, "
            f"{folder.name}/cat/1.jpg, {folder.name}/dog/1.jpg, …"
        )
    subfolders = [_class_folders(folder / name) for name in classes]
    if len(classes) > 1 and len(subfolders[0]) > 1 and all(names == subfolders[0] for names in subfolders):
        raise ValueError(
            f"dataset.root: {', '.join(classes[:3])} in {folder} hold the same folders: {', '.join(subfolders[0][:3])}"
            "; if these are splits, name them train, val and test"
        )
    if len(classes) == 1:
        inside = _class_folders(folder / classes[0])
        hint = f", or did you mean dataset.root={folder / classes[0]}?" if len(inside) > 1 else ""
        raise ValueError(
            f"dataset.root: only one class ('{classes[0]}') in {folder}; a classifier needs two or more folders{hint}"
        )


def load_torchvision(config: DatasetConfig) -> Source:
    from torchvision import datasets

    kinds: dict[str, Callable[..., Any]] = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
    }
    splits: dict[str, tuple[Sequence[Path] | np.ndarray, list[int]]] = {}
    for split in ("train", "test"):
        try:
            part = kinds[config.name](config.root, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{config.name} could not be downloaded to dataset.root={config.root}: {str(error).splitlines()[0]}\n"
                "check the connection, or copy the files there from a machine that has them"
            ) from error
        splits[split] = (np.asarray(part.data), [int(label) for label in part.targets])
    return Source(list(part.classes), splits)


DATASETS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digits": load_digits,
    "image_folder": load_image_folder,
    "cifar10": load_torchvision,
    "cifar100": load_torchvision,
    "mnist": load_torchvision,
    "fashion_mnist": load_torchvision,
}
