"""The data path: files -> splits -> uint8 images, decoded once -> batches on the device."""

from .images import Preprocessing, find_images, is_image, read_image
from .load import Data, Split, iterate_batches, load_data, shuffled_order

__all__ = [
    "Data",
    "Preprocessing",
    "Split",
    "find_images",
    "is_image",
    "iterate_batches",
    "load_data",
    "read_image",
    "shuffled_order",
]
