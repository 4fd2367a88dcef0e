"""Normalization of pixels for the model: zero mean and unit standard deviation per channel."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float], out: Tensor | None = None) -> Tensor:
    """Return (pixel/255 - mean) / std per channel, float32, for uint8 images (B,C,H,W); written to `out` if given."""
    # A blocking copy would wait for all of the device's pending work.
    offset, scale = (
        (torch.tensor(values) * 255).view(1, -1, 1, 1).to(images.device, non_blocking=True) for values in (mean, std)
    )
    result = images.float() if out is None else out.copy_(images)
    return result.sub_(offset).div_(scale)
