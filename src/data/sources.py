"""Where the images of each data set are: name -> items (files or arrays), labels and classes, by split.

A new data set is a function config -> Source, a line in DATASETS and a file in configs/dataset/; one that torchvision
knows is a line in LAYOUTS of `torchvision_sets.py`.
"""

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..config import DatasetConfig
from .folders import Source, load_image_folder
from .kaggle import load_kaggle
from .tables import load_table
from .torchvision_sets import LAYOUTS, load_imagenet, load_tiny_imagenet, load_torchvision

__all__ = ["DATASETS", "Source", "load_source"]


def load_source(config: DatasetConfig) -> Source:
    """Find the data set's items and labels, downloading it where it is not there; no image file is opened.

    Raises ValueError and OSError that name the key and say what to do.
    """
    return DATASETS[config.name](config)


def load_digits(config: DatasetConfig) -> Source:
    """Read the table that scikit-learn brings: 64 pixels and a label a row. Importing scikit-learn takes a second."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("dataset=digits comes with scikit-learn: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if path.is_file():
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",")
        scans, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
    else:  # a release that keeps it elsewhere
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
