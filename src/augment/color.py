"""Color operations on pixel values: uint8 (n,C,H,W) in and out, so that they chain as in torchvision.

Each takes the images and a strength per image, (n,1,1,1) float32. Operations on color (saturation, hue, grey) do
nothing unless there are three channels. Values are truncated as in torchvision, against which they are tested.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NONE = -1  # no operation


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    return _to_levels(images * factors)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Move the pixels away from the mean gray of their image (factor above 1) or toward it."""
    grey = _grey(images) if images.shape[1] == 3 else images
    # An integer sum is exact in any order, so the chunks and the device do not change a bit.
    mean = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64).float() / grey[0].numel()
    return _blend(images, mean, factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    return _blend(images, _grey(images), factors) if images.shape[1] == 3 else images


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue by a fraction of the color circle (-0.5 to 0.5), as in HSV."""
    if images.shape[1] != 3:
        return images
    red, green, blue = (images.float() / 255).split(1, dim=1)
    value, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    divisor = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue) + 6 * turns
    # HSV to RGB: value - chroma · max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6 and n = 5, 3, 1.
    distance = (hue + torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1).to(images.device, non_blocking=True)) % 6
    result = value - chroma * torch.minimum(distance, 4 - distance).clamp_(0, 1)
    return result.mul_(255).round_().to(torch.uint8)


def to_grey(images: Tensor, _: Tensor) -> Tensor:
    return _grey(images).to(torch.uint8).expand_as(images) if images.shape[1] == 3 else images


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper 0 to 8 bits of each pixel value."""
    return images & (256 - 2 ** (8 - bits)).to(torch.uint8)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert the values at or above the threshold (0 to 255)."""
    # Integer arithmetic is ten times as fast as torch.where: -1 is the byte 0xFF.
    inverted = images >= thresholds.ceil().to(torch.uint8)
    return images ^ inverted.to(torch.uint8).neg_()


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalize the histogram of each channel, as in Pillow."""
    flat = images.flatten(2).long()  # (n,C,HW)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, flat, torch.ones((), dtype=torch.int32, device=images.device).expand_as(flat))
    below = counts.cumsum(2, dtype=torch.int32)
    highest = counts.gather(2, images.flatten(2).amax(2, keepdim=True).long())
    step = (flat.shape[2] - highest) // 255
    lower = torch.cat((torch.zeros_like(step), below[:, :, :-1]), 2)
    table = ((lower + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256, dtype=torch.int32, device=images.device), table)
    return table.to(torch.uint8).gather(2, flat).view_as(images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel so that its darkest and brightest values become 0 and 255."""
    flat = images.flatten(2)
    low, high = (level.float()[:, :, None, None] for level in torch.aminmax(flat, dim=2))
    scale = torch.where(high == low, 1, (high - low) * (1 / 255))
    return _to_levels((images - torch.where(high == low, 0, low)) / scale)


def adjust_sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Move the pixels away from the smoothed image (factor above 1) or toward it; the border is unchanged."""
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.to(torch.int16)
    # The 3x3 kernel of ones with 5 in the center, which sums to 13, as sums over rows and columns.
    sums = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:]
    inner = images[:, :, 1:-1, 1:-1]
    smooth = (sums + 4 * pixels[:, :, 1:-1, 1:-1]).float().div_(13).round_()
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _blend(inner, smooth, factors)
    return result


def _to_levels(levels: Tensor) -> Tensor:
    return levels.clamp_(0, 255).to(torch.uint8)


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    return _to_levels(images * factors + others * (1 - factors))


def _grey(images: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601) of color images, rounded down, (n,1,H,W) float32."""
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


COLOR_OPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
    "grey": to_grey,
    "posterize": posterize,
    "solarize": solarize,
    "equalize": equalize,
    "autocontrast": autocontrast,
    "sharpness": adjust_sharpness,
}
_FUNCTIONS = list(COLOR_OPS.values())
COLOR_INDEX = {name: index for index, name in enumerate(COLOR_OPS)}


def draw_colors(
    batch: int, jitter: dict[str, float], chances: dict[str, tuple[float, float]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return operations (B,S) as indices into `COLOR_OPS` or NONE, and their strengths (B,S), in the order given.

    jitter: operation → half the range of its strength around 1 (hue: around 0), drawn for every image;
    chances: operation → (probability, strength). An operation with 0 takes no step, but still draws its numbers.
    """
    draws = iter(torch.rand(len(jitter) + len(chances), batch, generator=generator))
    ops, strengths = [], []
    for name, half in jitter.items():
        uniform = next(draws)
        if half > 0:
            ops.append(torch.full((batch,), COLOR_INDEX[name]))
            strengths.append((name != "hue") + half * (2 * uniform - 1))
    for name, (probability, strength) in chances.items():
        uniform = next(draws)
        if probability > 0:
            ops.append(torch.where(uniform < probability, COLOR_INDEX[name], NONE))
            strengths.append(torch.full((batch,), float(strength)))
    if not ops:
        return torch.empty(batch, 0, dtype=torch.int64), torch.empty(batch, 0)
    return torch.stack(ops, 1), torch.stack(strengths, 1)


def apply_colors(images: Tensor, ops: Tensor, strengths: Tensor) -> Tensor:
    """Return uint8 images (n,C,H,W) after the steps of `draw_colors` (n,S), applied in order."""
    for step, strength in zip(ops.unbind(1), strengths.unbind(1), strict=True):
        # Images are grouped by operation on the CPU; asking the device would wait for it.
        kinds, counts = step.unique(return_counts=True)
        order = step.argsort()
        back = order.argsort().to(images.device, non_blocking=True)
        amounts = strength[order].view(-1, 1, 1, 1).to(images.device, non_blocking=True)
        images = images.index_select(0, order.to(images.device, non_blocking=True))
        groups = zip(kinds.tolist(), images.split(counts.tolist()), amounts.split(counts.tolist()), strict=True)
        images = torch.cat([group if op == NONE else _FUNCTIONS[op](group, amount) for op, group, amount in groups])
        images = images.index_select(0, back)
    return images
