"""Where the images of each data set are: name -> items (files or arrays), labels and classes, by split.

A new data set is a function config -> Source, a line in DATASETS and a file in configs/dataset/; one that torchvision
knows is a line in LAYOUTS of `torchvision_sets.py`.
"""

from collections.abc import Callable

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
    from sklearn import datasets

    digits = datasets.load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)  # the scans count ink from 0 to 16
    return Source([str(digit) for digit in range(10)], {"all": (images, digits.target.tolist())})


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
