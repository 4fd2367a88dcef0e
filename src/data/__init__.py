"""The data path: files -> splits -> uint8 images, decoded once -> batches on the device."""

from .batches import balanced_order, iterate_batches, shuffled_order
from .images import Preprocessing, find_images, is_image, read_image
from .load import Data, Split, load_data
from .report import Report, inspect_data
from .storage import Images, Stream

__all__ = [
    "Data",
    "Images",
    "Preprocessing",
    "Report",
    "Split",
    "Stream",
    "balanced_order",
    "find_images",
    "inspect_data",
    "is_image",
    "iterate_batches",
    "load_data",
    "read_image",
    "shuffled_order",
]
