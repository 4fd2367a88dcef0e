"""Random rectangles: what a crop keeps, what erasing blanks, what cutmix replaces.

A box is (top, left, height, width) in pixels; boxes of a batch are (B,4) int64. A box of height 0 is empty.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TRIES = 10  # as in torchvision: boxes proposed per image, of which the first that fits is used
ERASING_RATIO = (0.3, 3.3)  # height/width, arXiv 1708.04896 with torchvision's upper end


def draw_shifts(shifts: Tensor, share: float, size: tuple[int, int]) -> Tensor:
    """Return the crops of padded images: boxes of `size` that exceed the image by up to `share` of each side.

    shifts: (2,B) uniform draws for rows and columns.
    """
    corners = []
    for side, shift in zip(size, shifts, strict=True):
        # Reflection padding is limited to the image without its edge.
        padding = min(round(share * side), side - 1)
        corners.append((shift * (2 * padding + 1)).long() - padding)
    sides = torch.tensor(size).expand(len(corners[0]), 2)
    return torch.cat((torch.stack(corners, 1), sides), 1)


def draw_resized_crops(
    stored: tuple[int, int],
    size: tuple[int, int],
    ratios: Tensor,
    smallest: float,
    crop_ratio: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Return crop boxes in stored pixels (h,w), drawn with the aspect ratios of the original pictures.

    ratios: (B,) width/height of the originals. The area is uniform in [smallest, 1] of the picture, the width/height
    of the crop log-uniform in `crop_ratio` (arXiv 1409.4842, section 6; torchvision's RandomResizedCrop), times that of
    the result's `size` (H,W): the content is never stretched by more than crop_ratio, whatever that shape.
    """
    area, log_ratio, down, right = torch.rand(4, TRIES, len(ratios), generator=generator)
    area = smallest + (1 - smallest) * area
    low, high = math.log(crop_ratio[0]), math.log(crop_ratio[1])
    ratios = ratios * size[0] / size[1]
    relative = (low + (high - low) * log_ratio).exp() / ratios
    heights, widths = (area / relative).sqrt(), (area * relative).sqrt()
    found, height, width, down, right = _take_first((heights <= 1) & (widths <= 1), heights, widths, down, right)
    # If none fits: the largest center crop with an allowed ratio.
    height = torch.where(found, height, (ratios / crop_ratio[0]).clamp(max=1))
    width = torch.where(found, width, (crop_ratio[1] / ratios).clamp(max=1))
    rows = (height * stored[0]).round().clamp(min=1)
    columns = (width * stored[1]).round().clamp(min=1)
    top = torch.where(found, down * (stored[0] - rows + 1), (stored[0] - rows) / 2)
    left = torch.where(found, right * (stored[1] - columns + 1), (stored[1] - columns) / 2)
    return torch.stack((top, left, rows, columns), 1).long()


def draw_erased(
    batch: int, size: tuple[int, int], probability: float, areas: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Return the boxes to erase, empty for images left intact (arXiv 1708.04896; torchvision's RandomErasing).

    areas: smallest and largest share of the image.
    """
    if probability == 0:
        return torch.zeros(batch, 4, dtype=torch.int64)
    chosen = torch.rand(batch, generator=generator) < probability
    area, log_ratio, down, right = torch.rand(4, TRIES, batch, generator=generator)
    area = (areas[0] + (areas[1] - areas[0]) * area) * size[0] * size[1]
    low, high = (math.log(ratio) for ratio in ERASING_RATIO)
    ratio = (low + (high - low) * log_ratio).exp()
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < size[0]) & (widths < size[1])
    found, height, width, down, right = _take_first(fits, heights, widths, down, right)
    top, left = down * (size[0] - height + 1), right * (size[1] - width + 1)
    return torch.stack((top, left, height, width), 1).long() * (chosen & found).unsqueeze(1)


def draw_cuts(shares: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return boxes that cover `shares` (B,) of the image, around uniform centers: arXiv 1905.04899, equation 2.

    They are clipped at the border, so a box may be smaller than its share.
    """
    edges = []
    for side, center in zip(size, torch.rand(2, len(shares), generator=generator), strict=True):
        center, half = (center * side).floor(), (side * shares.sqrt()).floor() / 2
        first, last = (center - half).floor().clamp(0, side), (center + half).floor().clamp(0, side)
        edges.append((first, last - first))
    (top, height), (left, width) = edges
    return torch.stack((top, left, height, width), 1).long()


def mask_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (n,1,H,W) bool, true inside each box (n,4)."""
    top, left, height, width = boxes.view(-1, 4, 1).unbind(1)
    rows, columns = (torch.arange(side, device=boxes.device) for side in size)
    inside_rows = (rows >= top) & (rows < top + height)
    inside_columns = (columns >= left) & (columns < left + width)
    return (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1)


def _take_first(valid: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return whether any try in `valid` (tries,B) is true, and each of `values` (tries,B) at the first that is."""
    first = valid.int().argmax(0, keepdim=True)
    return valid.any(0), *(value.gather(0, first).squeeze(0) for value in values)
