"""What a folder of images holds, roughly and at once: how many there are, and how large they usually are."""

import contextlib
import functools
import itertools
import os
import statistics
from pathlib import Path

from ..config.photos import Pictures
from .files import walk

ENOUGH = 200_000  # images; more make no difference to what is chosen


def survey(root: str, folder: str) -> Pictures | None:
    """Return the number and the usual size of the training images below `root`; None if there are none to be read.

    folder: the one that a relative path refers to.
    """
    return _survey(Path(folder, os.path.expanduser(root)))


@functools.cache  # for all jobs of a sweep
def _survey(root: Path) -> Pictures | None:
    from .folders import find_training_folder  # numpy and Pillow are needed for your own images alone
    from .read import upright_size

    with contextlib.suppress(OSError):  # reported when the images are loaded
        images = (path for path, reason in walk(find_training_folder(root)) if not reason)
        files = list(itertools.islice(images, ENOUGH))
        sizes = []
        for path in sorted(files)[:: max(1, len(files) // 64)]:
            with contextlib.suppress(Exception):  # a broken file is reported when it is decoded
                sizes.append(upright_size(path))
        if sizes:
            height, width = (round(statistics.median(side)) for side in zip(*sizes, strict=True))
            return Pictures(len(files), height, width)
    return None
