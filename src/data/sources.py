"""The registry of data sets: name -> items (files or arrays), labels and classes, by split.

To add one, write a function config -> Source, a line in DATASETS and a file in configs/dataset/. For a data set that
torchvision provides, that file and a line in LAYOUTS of `torchvision_sets.py` are enough.
"""

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..config.dataset import DatasetConfig
from .folders import Source, load_image_folder
from .kaggle import load_kaggle
from .tables import load_table
from .torchvision_sets import LAYOUTS, load_imagenet, load_tiny_imagenet, load_torchvision


def load_source(config: DatasetConfig) -> Source:
    """Find the data set's items and labels, downloading it if needed; no image file is opened.

    Raises ValueError and OSError that name the key and say what to do.
    """
    return DATASETS[config.name](config)


def load_digits(config: DatasetConfig) -> Source:
    """Read the table inside scikit-learn, without the second that importing it takes: 64 pixels and a label per row."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("dataset=digits is part of scikit-learn: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if path.is_file():
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",")
        scans, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
    else:  # this release stores it elsewhere
        from sklearn import datasets

        scans, labels = datasets.load_digits(return_X_y=True)
        scans = scans.reshape(-1, 8, 8)
    images = (scans * (255 / 16)).round().astype(np.uint8)  # the scans count ink from 0 to 16
    return Source([str(digit) for digit in range(10)], {"all": (images, labels.tolist())})


DATASETS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digits": load_digits,
    "image_folder": load_image_folder,
    "csv": load_table,
    "kaggle": load_kaggle,
    "tom_and_jerry": load_kaggle,
    "tiny_imagenet": load_tiny_imagenet,
    "imagenet": load_imagenet,
    **dict.fromkeys(LAYOUTS, load_torchvision),
}
