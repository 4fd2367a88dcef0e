"""How other programs feed a model: they open every picture in color, so a grayscale model gets three channels.

Letters: H W pixels, C channels, n images.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.images import Preprocessing

# Red, green and blue in a gray level, as Pillow converts a picture.
LUMA = torch.tensor([19595, 38470, 7471], dtype=torch.float64) / 65536


def count_channels(preprocessing: Preprocessing) -> int:
    """Return the channels that other programs feed."""
    return 3 if preprocessing.channels == 1 else preprocessing.channels


def list_statistics(preprocessing: Preprocessing) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each of these channels, for pixels in [0,1]."""
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    return (mean * 3, std * 3) if preprocessing.channels == 1 else (mean, std)


def feed(inputs: Tensor) -> Tensor:
    """Return preprocessed images (n,C,H,W) with these channels: those of gray in color are equal."""
    return inputs.expand(-1, 3, -1, -1) if inputs.shape[1] == 1 else inputs


def open_in_color(picture: np.ndarray) -> Image.Image:
    """Return a picture (H,W,C) of one channel or three as other programs open its file."""
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
