"""Images in class folders: which files are images, their labels, and which files are ignored."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config.dataset import DatasetConfig
from .files import explain_ignored, list_folder, walk
from .names import describe_alike, normalize

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_NAMES |= {"test": "test", "testing": "test"}
# What else the names of folders say: train_images, Test Set.
OTHER_WORDS = re.compile(r"[\s_.-]*\b(images?|imgs?|pictures?|photos?|set|data|dataset|folder)$")


@dataclass
class Source:
    """Items and labels (indices into `classes`) of the splits that a data set comes with: all, train, val or test.

    Items are file paths, or a uint8 array (N,H,W) or (N,H,W,C). `notes` are sentences for the log, `ignored` the
    files and folders that were ignored, with reasons. `groups` names each item's group, by split, if the data set
    defines groups. `root` is the folder of the items if it is not dataset.root.
    """

    classes: list[str]
    splits: dict[str, tuple[Sequence[Path] | np.ndarray, list[int]]]
    notes: list[str] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)
    root: Path | None = None


def load_image_folder(config: DatasetConfig) -> Source:
    return read_folders(Path(str(config.root)))


def match_split(name: str) -> str | None:
    """Return the split that a name means, None if it means none."""
    words = name.strip().lower().replace("_", " ")
    return SPLIT_NAMES.get(OTHER_WORDS.sub("", words)) or SPLIT_NAMES.get(words.removesuffix("set"))


def read_folders(root: Path) -> Source:
    """Read `root/train|val|test/<class>/…` or `root/<class>/…`; images may be nested deeper in a class folder.

    Folders of a split whose names are the same text in other forms of Unicode are one class.
    """
    source = Source([], {})
    folders = _split_folders(root, source)
    first = next(iter(folders))
    spelled: dict[str, str] = {}  # the name of each class as in the first split, by its normalized form
    found: dict[str, dict[str, list[Path]]] = {split: {} for split in folders}
    for split, folder in folders.items():
        names = class_folders(folder)
        _ignore_others(folder, names, "outside the class folders", source)
        for name in names:
            key = normalize(name)
            if split == first:
                spelled.setdefault(key, name)
            elif key not in spelled:
                raise ValueError(f"{folder / name}: the class '{name}' does not occur in {folders[first]}")
            found[split].setdefault(key, []).extend(_list_images(folder / name, source))
    keys = [key for key in sorted(spelled) if found[first][key]]
    source.classes = [spelled[key] for key in keys]
    _note_empty(folders, found, spelled, source)
    _check_classes(source.classes, folders[first])
    source.notes += describe_alike(source.classes)
    for split, by_class in found.items():
        items = [path for key in keys for path in by_class.get(key, [])]
        labels = [label for label, key in enumerate(keys) for _ in by_class.get(key, [])]
        source.splits[split] = (items, labels)
    return source


def class_folders(folder: Path) -> list[str]:
    return [path.name for path in list_folder(folder) if path.is_dir() and not explain_ignored(path.name)]


def find_training_folder(root: Path) -> Path:
    """Return the folder of the class folders to train on: that of the training split, or `root` if there is none."""
    named = [name for name in class_folders(root) if match_split(name) == "train" and class_folders(root / name)]
    return root / named[0] if len(named) == 1 else root


def _split_folders(root: Path, source: Source) -> dict[str, Path]:
    """Return split -> folder, train first; only `all` if no folder is named after a split."""
    # A split contains class folders; a folder `train` with images in it is a class, of pictures of trains.
    named = {name: split for name in class_folders(root) if (split := match_split(name)) and class_folders(root / name)}
    folders = {split: root / name for name, split in named.items()}
    if not folders:
        return {"all": root}
    if "train" not in folders:
        raise ValueError(f"dataset.root={root} contains {next(iter(named))}/ with class folders, but no train/")
    if len(folders) < len(named):
        raise ValueError(f"dataset.root={root} contains {', '.join(named)}: two names for the same split")
    _ignore_others(root, named, "outside the split folders", source)
    return dict(sorted(folders.items(), key=lambda item: item[0] != "train"))


def _ignore_others(folder: Path, used: Collection[str], reason: str, source: Source) -> None:
    """Record the entries of `folder` that are not used."""
    for path in list_folder(folder):
        if path.name not in used:
            source.ignored.append((path, explain_ignored(path.name) or reason))


def _list_images(folder: Path, source: Source) -> list[Path]:
    """Return the images below a class folder, sorted as by `find_images`; record all other files."""
    found = []
    for path, reason in walk(folder):
        if reason:
            source.ignored.append((path, reason))
        else:
            found.append(path)
    return sorted(found)


def _note_empty(
    folders: dict[str, Path], found: dict[str, dict[str, list[Path]]], spelled: dict[str, str], source: Source
) -> None:
    first = next(iter(folders))
    for split, by_class in found.items():
        for key, images in by_class.items():
            name = spelled[key]
            if not images:
                source.ignored.append((folders[split] / name, "class folder without images"))
            if split == first and not images:
                source.notes.append(f"{folders[first] / name} contains no images: the class is skipped")
            if split != first and images and name not in source.classes:
                raise ValueError(f"{folders[split] / name}: there is no image of class '{name}' in {folders[first]}")


def _check_classes(classes: list[str], folder: Path) -> None:
    if not classes:
        raise ValueError(
            f"dataset.root: no class folders with images in {folder}; put each class into its own folder, "
            f"{folder.name}/cat/1.jpg, {folder.name}/dog/1.jpg, …"
        )
    if len(classes) > 1 and all(map(match_split, classes)):
        raise ValueError(
            f"dataset.root: {', '.join(classes)} in {folder} are splits, not classes, and contain no class folders; if "
            "a table has the labels, use dataset=csv dataset.table=FILE.csv; else put each class into its own folder, "
            f"{folder.name}/{classes[0]}/cat/1.jpg"
        )
    subfolders = [class_folders(folder / name) for name in classes]
    if len(classes) > 1 and len(subfolders[0]) > 1 and all(names == subfolders[0] for names in subfolders):
        raise ValueError(
            f"dataset.root: {', '.join(classes[:3])} in {folder} contain the same folders: "
            f"{', '.join(subfolders[0][:3])}; if these are splits, name them train, val and test"
        )
    if len(classes) == 1:
        inside = class_folders(folder / classes[0])
        hint = f", or did you mean dataset.root={folder / classes[0]}?" if len(inside) > 1 else ""
        raise ValueError(
            f"dataset.root: only one class ('{classes[0]}') in {folder}; a classifier needs two or more folders{hint}"
        )
