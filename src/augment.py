"""Augmentation of whole batches on the device, each image with its own draw.

Letters: B batch, C channels, H W pixels. Images come as uint8 (B,C,H,W) and leave as float32, normalised.
Draws are made on the CPU from a generator of the caller, so they do not depend on the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (pixel/255 - mean) / std per channel, float32, for uint8 images (B,C,H,W)."""
    shape = (1, -1, 1, 1)
    offset = torch.tensor(mean, device=images.device).view(shape) * 255
    scale = torch.tensor(std, device=images.device).view(shape) * 255
    return (images.float() - offset) / scale


def flip_horizontally(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the images (B,C,H,W) that `chosen` (B,) bool names."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def pad_and_crop(images: Tensor, rows: Tensor, columns: Tensor, padding: tuple[int, int]) -> Tensor:
    """Reflect-pad images (B,C,H,W) by `padding` (height, width) pixels and cut (H,W) out again.

    rows, columns: (B,) position of the cut in the padded image; equal to the padding, the image is unchanged.
    """
    batch, channels, height, width = images.shape
    pad_rows, pad_columns = padding
    # Reflection on uint8 is not implemented on every device; indices are, and move the same pixels.
    row_index = _reflect(torch.arange(height, device=images.device) + (rows - pad_rows).view(-1, 1), height)
    column_index = _reflect(torch.arange(width, device=images.device) + (columns - pad_columns).view(-1, 1), width)
    images = images.gather(2, row_index.view(batch, 1, height, 1).expand(-1, channels, -1, width))
    return images.gather(3, column_index.view(batch, 1, 1, width).expand(-1, channels, height, -1))


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices from -(size-1) to 2(size-1) back into 0 … size-1 without repeating the edge."""
    last = size - 1
    return last - (last - index.abs()).abs()


class Augmentation:
    """Draw and apply the augmentations of `configs/augmentation/`, then normalise.

    pad_crop: padding on each side as a share of that side; horizontal_flip: probability.
    """

    def __init__(self, pad_crop: float, horizontal_flip: float, mean: Sequence[float], std: Sequence[float]) -> None:
        self.pad_crop = pad_crop
        self.horizontal_flip = horizontal_flip
        self.mean, self.std = mean, std

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        # Every draw is always made, so that switching one part off leaves the others' draws as they were.
        shift_rows, shift_columns, flips = torch.rand(3, batch, generator=generator)
        # Reflection has no more than the image less its edge to show.
        padding = min(round(self.pad_crop * height), height - 1), min(round(self.pad_crop * width), width - 1)
        if any(padding):
            rows = (shift_rows * (2 * padding[0] + 1)).long().to(images.device)
            columns = (shift_columns * (2 * padding[1] + 1)).long().to(images.device)
            images = pad_and_crop(images, rows, columns, padding)
        if self.horizontal_flip > 0:
            images = flip_horizontally(images, (flips < self.horizontal_flip).to(images.device))
        return normalize(images, self.mean, self.std)
