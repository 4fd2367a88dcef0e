"""Data sets from torchvision, whose classes download them and read their labels; no image is opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config.dataset import DatasetConfig
from .downloads import obtain
from .folders import Source, class_folders, read_folders

Items = Sequence[Path] | np.ndarray
Part = tuple[Items, list[int], list[str]]  # items, labels, classes


@dataclass(frozen=True)
class Layout:
    """A class of `torchvision.datasets`, its keyword arguments for each of our splits, and how to read it.

    `counts` are the official numbers of images, by split. `local` says which files to put where if it has no download.
    """

    kind: str
    splits: dict[str, dict[str, Any]]
    read: Callable[[Any], Part]
    counts: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    local: str = ""


def load_torchvision(config: DatasetConfig) -> Source:
    """Return the official splits, downloading them to `dataset.root` if they are not there.

    Raises OSError, with what to do, if the download fails.
    """
    layout, root = LAYOUTS[config.name], Path(str(config.root))
    notes: list[str] = []
    if layout.local and not is_there(config):
        raise FileNotFoundError(f"{config.name} is not in dataset.root={root} and has no download: {layout.local}")
    parts = obtain(config.name, root, lambda folder, download: _open(layout, config, folder, download), notes)
    source = Source(parts[next(iter(parts))][2], {}, notes)
    for (split, (items, labels, classes)), count in zip(parts.items(), layout.counts, strict=True):
        if classes != source.classes:
            raise ValueError(f"{config.name} in dataset.root={root}: train and {split} have different classes")
        source.splits[split] = (items, labels)
        if len(items) < count:
            source.notes.append(
                f"{config.name}: {len(items):,} images for {split}, not the official {count:,}; if that is not "
                f"intended, delete its folder in dataset.root={root} to download it again"
            )
    return source


def is_there(config: DatasetConfig) -> bool:
    """Return whether the files of a data set are in its folder; nothing is downloaded."""
    try:
        return bool(_open(LAYOUTS[config.name], config, Path(str(config.root)), download=False))
    except (OSError, RuntimeError):
        return False


def _open(layout: Layout, config: DatasetConfig, root: Path, download: bool) -> dict[str, Part]:
    from torchvision import datasets

    kind = _labeled_stl10() if layout.kind == "STL10" else getattr(datasets, layout.kind)
    options = layout.options | ({"split": config.variant} if config.variant else {})
    return {
        split: layout.read(kind(root, download=download, **options, **arguments))
        for split, arguments in layout.splits.items()
    }


def _labeled_stl10() -> Any:
    """Return STL10 without the checksum of its 2.6 GB of unlabeled images."""
    from torchvision.datasets import STL10

    return type("STL10", (STL10,), {"train_list": STL10.train_list[:2]})


def read_arrays(part: Any) -> Part:
    return np.asarray(part.data), [int(label) for label in part.targets], list(part.classes)


def read_emnist(part: Any) -> Part:
    """Transpose the pixels, which the files store transposed, and count letters from 0, not 1."""
    pixels, labels, classes = read_arrays(part)
    first = 1 if classes[0] == "N/A" else 0
    assert isinstance(pixels, np.ndarray)
    return np.ascontiguousarray(pixels.transpose(0, 2, 1)), [label - first for label in labels], classes[first:]


def read_channels_first(part: Any) -> Part:
    classes = list(getattr(part, "classes", DIGITS))
    return np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)), [int(label) for label in part.labels], classes


def read_files(part: Any) -> Part:
    """Read paths and labels by indexing: these classes get `Path` as the image loader."""
    pairs = [part[i] for i in range(len(part))]
    return [path for path, _ in pairs], [int(label) for _, label in pairs], first_names(part.classes)


def read_gtsrb(part: Any) -> Part:
    samples = part._samples  # the class takes no loader and has no public list of paths
    return [Path(path) for path, _ in samples], [label for _, label in samples], GTSRB_SIGNS


def read_pets(part: Any) -> Part:
    return list(part._images), list(part._labels), list(part.classes)  # this class takes no loader either


def read_caltech(part: Any) -> Part:
    folders = [Path(part.root, "101_ObjectCategories", category) for category in part.categories]
    paths = [folders[label] / f"image_{number:04d}.jpg" for number, label in zip(part.index, part.y, strict=True)]
    return paths, list(part.y), list(part.categories)


def first_names(classes: Sequence[str | tuple[str, ...]]) -> list[str]:
    """Return the first name of each class, or all its names if another class has the same first name."""
    names = [(name,) if isinstance(name, str) else name for name in classes]
    first = [synonyms[0] for synonyms in names]
    whole = [name[0] if first.count(name[0]) == 1 else ", ".join(name) for name in names]
    # ImageNet has two classes with the single name 'crane', a bird and a machine.
    return [name if whole.count(name) == 1 else f"{name} {whole[:i].count(name) + 1}" for i, name in enumerate(whole)]


def load_tiny_imagenet(config: DatasetConfig) -> Source:
    """Return the official train split, and the official val split as test."""
    root = Path(str(config.root))
    notes: list[str] = []
    source = obtain("tiny_imagenet", root, _open_tiny_imagenet, notes)
    source.notes += notes
    return source


def _open_tiny_imagenet(root: Path, download: bool) -> Source:
    from torchvision.datasets.utils import download_and_extract_archive

    folder = root / "tiny-imagenet-200"
    if download:
        url = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
        download_and_extract_archive(url, str(root), md5="90528d7ca1a48142e341f4ef8d21d0de")
    wordnet_ids = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text(encoding="utf-8").splitlines())
    source = Source(first_names([tuple(words[wordnet_id].split(", ")) for wordnet_id in wordnet_ids]), {})
    train = [(path, label) for label, name in enumerate(wordnet_ids) for path in _images(folder / "train" / name)]
    rows = [
        line.split("\t") for line in (folder / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
    ]
    test = [(folder / "val" / "images" / row[0], wordnet_ids.index(row[1])) for row in rows]
    for split, pairs in (("train", train), ("test", test)):
        source.splits[split] = ([path for path, _ in pairs], [label for _, label in pairs])
    return source


def _images(folder: Path) -> list[Path]:
    return sorted((folder / "images").glob("*.JPEG"))


def load_imagenet(config: DatasetConfig) -> Source:
    """Return the official train split, and the official val split as test, of a local copy.

    The copy is what torchvision expects (the archives, or its files from unpacking them), or class folders in train/
    and val/.
    """
    root = Path(str(config.root))
    named = any((root / name).exists() for name in ("meta.bin", DEVKIT))
    folders = all((root / name).is_dir() and class_folders(root / name) for name in ("train", "val"))
    if all((root / name).exists() for name in ARCHIVES) or (named and folders):
        return _load_named_imagenet(root)
    if not folders:
        raise ValueError(
            f"dataset.root={root} contains neither train/ and val/ with a folder per class nor the archives "
            f"{', '.join(ARCHIVES)}, which image-net.org provides after registration"
        )
    source = read_folders(root)
    source.splits = {"train": source.splits["train"], "test": source.splits["val"]}
    return source


def _load_named_imagenet(root: Path) -> Source:
    """Return the splits with English class names, unpacking the archives if needed."""
    notes: list[str] = []
    try:
        parts = obtain("imagenet", root, _open_imagenet, notes)
    except OSError as error:
        reason = error.__cause__ or error
        raise OSError(f"dataset.root={root}: the ImageNet archives could not be unpacked: {reason}") from error
    splits = {split: (items, labels) for split, (items, labels, _) in parts.items()}
    return Source(parts["train"][2], splits, notes)


def _open_imagenet(root: Path, unpack: bool) -> dict[str, Part]:
    from torchvision.datasets import ImageNet

    if unpack:
        for name in ARCHIVES:
            (root / name).symlink_to(root.parent / name)
    elif not all((root / name).is_dir() for name in ("train", "val")):
        raise FileNotFoundError(root)  # otherwise torchvision would unpack into root itself
    parts = {"train": ImageNet(root, "train", loader=Path), "test": ImageNet(root, "val", loader=Path)}
    return {split: read_files(part) for split, part in parts.items()}


DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", DEVKIT)
DIGITS = [str(digit) for digit in range(10)]
FLAGS: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
TWO: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: dict[str, dict[str, Any]] = {name: {"split": name} for name in ("train", "val", "test")}
LISTED = {"loader": Path}
CARS = "put devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat into stanford_cars/ in that folder"
LAYOUTS = {
    "mnist": Layout("MNIST", FLAGS, read_arrays, (60_000, 10_000)),
    "fashion_mnist": Layout("FashionMNIST", FLAGS, read_arrays, (60_000, 10_000)),
    "emnist": Layout("EMNIST", FLAGS, read_emnist, (0, 0)),
    "cifar10": Layout("CIFAR10", FLAGS, read_arrays, (50_000, 10_000)),
    "cifar100": Layout("CIFAR100", FLAGS, read_arrays, (50_000, 10_000)),
    "svhn": Layout("SVHN", TWO, read_channels_first, (73_257, 26_032)),
    "stl10": Layout("STL10", TWO, read_channels_first, (5_000, 8_000)),
    "gtsrb": Layout("GTSRB", TWO, read_gtsrb, (26_640, 12_630)),
    "caltech101": Layout("Caltech101", {"all": {}}, read_caltech, (8_677,)),
    "oxford_pets": Layout(
        "OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}, read_pets, (3_680, 3_669)
    ),
    "flowers102": Layout("Flowers102", THREE, read_files, (1_020, 1_020, 6_149), LISTED),
    "food101": Layout("Food101", TWO, read_files, (75_750, 25_250), LISTED),
    "dtd": Layout("DTD", THREE, read_files, (1_880, 1_880, 1_880), LISTED | {"partition": 1}),
    "eurosat": Layout("EuroSAT", {"all": {}}, read_files, (27_000,), LISTED),
    "fgvc_aircraft": Layout("FGVCAircraft", THREE, read_files, (3_334, 3_333, 3_333), LISTED),
    "stanford_cars": Layout("StanfordCars", TWO, read_files, (8_144, 8_041), LISTED, CARS),
    "imagenette": Layout(
        "Imagenette",
        {"train": {"split": "train"}, "test": {"split": "val"}},
        read_files,
        (9_469, 3_925),
        LISTED | {"size": "320px"},
    ),
}
# In the order of the numbered folders; the files contain no names.
GTSRB_SIGNS = [
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing over 3.5 tons",
    "right of way at the next intersection",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no vehicles over 3.5 tons",
    "no entry",
    "general caution",
    "dangerous curve to the left",
    "dangerous curve to the right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road work",
    "traffic signals",
    "pedestrians",
    "children crossing",
    "bicycles crossing",
    "beware of ice or snow",
    "wild animals crossing",
    "end of all speed and passing limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout mandatory",
    "end of no passing",
    "end of no passing over 3.5 tons",
]
