"""Where each pixel comes from: crop, flip and affine maps of an image as one matrix, applied in one resampling.

Positions are (x, y) with pixel centers at whole numbers. A result's pixel p comes from q = affine⁻¹(p) in the cropped
frame; outside the frame it gets the fill color, inside it is read at crop(flip(q)), reflected at the image's edge.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Moves:
    """boxes (B,4) int64: the crop (top, left, height, width) in stored pixels, may stick out of the image;
    flips (B,) bool: mirror the crop; inverses (B,3,3) float64: affine⁻¹ from the frame's center, in pixels."""

    boxes: Tensor
    flips: Tensor
    inverses: Tensor


def inverse_affine(
    angle: Tensor, shear_x: Tensor, shear_y: Tensor, shift_x: Tensor, shift_y: Tensor, *, pivot: tuple[float, float]
) -> Tensor:
    """Return the matrices (B,3,3) that undo: shear, then rotate about the center, then shift. All arguments (B,).

    angle: degrees, counter-clockwise; shears: tangents, at most one of the two not 0; shifts: pixels.
    pivot: (x, y) from the center to the upper left corner of the pixel grid if shears hold it still, or (0, 0).
    """
    radians = angle.double().deg2rad()
    zero, one = torch.zeros_like(radians), torch.ones_like(radians)
    cos, sin = radians.cos(), radians.sin()
    last = (zero, zero, one)
    shear = _stack((one, shear_x, -shear_x * pivot[1]), (shear_y, one, -shear_y * pivot[0]), last)
    rotation = _stack((cos, -sin, zero), (sin, cos, zero), last)
    shift = _stack((one, zero, -shift_x), (zero, one, -shift_y), last)
    return shear @ rotation @ shift


def _stack(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack([value.double() for value in row], 1) for row in rows], 1)


def compose(moves: Moves, size: tuple[int, int]) -> Tensor:
    """Return the matrices (B,2,3) float64 from a result's pixel (x, y, 1) to its place in the stored image."""
    height, width = size
    top, left, box_height, box_width = moves.boxes.double().unbind(1)
    mirror = 1 - 2 * moves.flips.double()
    scale_x, scale_y = box_width / width, box_height / height
    zero, one = torch.zeros_like(top), torch.ones_like(top)
    # From the frame's center to the stored image.
    crop = _stack(
        (mirror * scale_x, zero, left + (box_width - 1) / 2),
        (zero, scale_y, top + (box_height - 1) / 2),
        (zero, zero, one),
    )
    center = torch.eye(3, dtype=torch.float64)
    center[0, 2], center[1, 2] = -(width - 1) / 2, -(height - 1) / 2
    return (crop @ moves.inverses @ center)[:, :2]


def move_pixels(images: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor, one_by_one: bool) -> Tensor:
    """Return uint8 images (n,C,H,W), contiguous, with the `moves` of each of the images (n,C,h,w) uint8 applied.

    fill: (C,) levels. Whole-pixel moves copy pixels, the others interpolate. With `one_by_one` (the fast way on a
    CPU) crops that are only scaled go through an antialiased resize each, else all are sampled at once.
    """
    shifts = moves.inverses[:, :2, 2]
    unturned = (moves.inverses[:, :2, :2] == torch.eye(2)).all((1, 2))
    unscaled = (moves.boxes[:, 2:] == torch.tensor(size)).all(1)
    whole = unturned & unscaled & (shifts == shifts.round()).all(1)
    scaled = unturned & ~unscaled & (shifts == 0).all(1) & torch.tensor(one_by_one)
    order, pieces = [], []
    for chosen, function in ((whole, _copy_pixels), (scaled, _crop_and_resize), (~whole & ~scaled, _sample_pixels)):
        group = chosen.nonzero().flatten()
        if len(group):
            part = Moves(moves.boxes[group], moves.flips[group], moves.inverses[group])
            order.append(group)
            pieces.append(function(images, group, part, size, fill))
    if len(pieces) == 1:
        return pieces[0]
    back = torch.cat(order).argsort().to(images.device, non_blocking=True)
    return torch.cat(pieces).index_select(0, back)


def _crop_and_resize(images: Tensor, group: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Cut the boxes out of the `group` of images and resize them one by one, antialiased as in Pillow."""
    result = torch.empty((len(group), images.shape[1], *size), dtype=torch.uint8)
    for i, box, flip, out in zip(group.tolist(), moves.boxes.tolist(), moves.flips.tolist(), result, strict=True):
        top, left, height, width = box
        crop = images[i : i + 1, :, top : top + height, left : left + width]
        resized = F.interpolate(crop, size=size, mode="bilinear", antialias=True)
        out.copy_(resized[0].flip(2) if flip else resized[0])
    return result


def _copy_pixels(images: Tensor, group: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Move the `group` (n,) of images by whole pixels; group and moves lie on the CPU."""
    channels, height, width = images.shape[1:]
    matrices = compose(moves, size)
    top, left, box_height, box_width = moves.boxes.view(-1, 4, 1).unbind(1)
    columns = (matrices[:, 0, :1] * torch.arange(size[1]) + matrices[:, 0, 2:]).long()
    rows = (torch.arange(size[0]) + matrices[:, 1, 2:]).long()
    inside_columns = (columns >= left) & (columns < left + box_width)
    inside_rows = (rows >= top) & (rows < top + box_height)
    # What lies outside is filled below; until then any pixel will do.
    columns = _reflect(columns.clamp(left, left + box_width - 1), width)
    rows = _reflect(rows.clamp(top, top + box_height - 1), height)
    starts = (group.view(-1, 1) * height + rows) * width
    starts, columns = (index.to(images.device, non_blocking=True) for index in (starts, columns))
    index = (starts.unsqueeze(2) + columns.unsqueeze(1)).flatten()
    # All channels of a pixel at once: free if the storage is channels-last.
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    moved = pixels.index_select(0, index).view(-1, *size, channels).permute(0, 3, 1, 2).contiguous()
    if inside_rows.all() and inside_columns.all():
        return moved
    inside = (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1).to(torch.uint8)
    return _fill(moved, inside.to(images.device, non_blocking=True), fill.to(torch.uint8))


def _sample_pixels(images: Tensor, group: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Interpolate the `group` (n,) of images bilinearly; group and moves lie on the CPU."""
    device = images.device
    matrices = compose(moves, size).float().to(device, non_blocking=True)
    top, left, height, width = moves.boxes.float().to(device, non_blocking=True).view(-1, 4, 1, 1).unbind(1)
    x, y = _locate(matrices, size)
    inside = (x >= left - 0.5) & (x <= left + width - 0.5) & (y >= top - 0.5) & (y <= top + height - 0.5)
    # align_corners: -1 and 1 are the centers of the outer pixels, about which the padding reflects.
    last_row, last_column = (max(side - 1, 1) for side in images.shape[2:])
    grid = torch.stack((x * (2 / last_column) - 1, y * (2 / last_row) - 1), 3)
    chosen = images.index_select(0, group.to(device, non_blocking=True)).float()
    sampled = F.grid_sample(chosen, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return _fill(sampled, inside.unsqueeze(1).float(), fill).round_().to(torch.uint8)


def _fill(images: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """Set what lies not inside (n,1,H,W) to the color (C,), in place; uint8 wraps around, so that it is exact too."""
    color = fill.view(-1, 1, 1)
    # Three passes, but several times faster on a CPU than torch.where with arguments to broadcast.
    return images.sub_(color).mul_(inside).add_(color)


def _locate(matrices: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where each pixel of the result comes from, x and y (n,H,W) in the stored image."""
    columns = torch.arange(size[1], device=matrices.device)
    rows = torch.arange(size[0], device=matrices.device).unsqueeze(1)
    by_column, by_row, offset = matrices.view(-1, 2, 1, 1, 3).unbind(4)
    x, y = ((by_column * columns + offset) + by_row * rows).unbind(1)
    return x, y


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices from -(size-1) to 2(size-1) back into 0 … size-1 without repeating the edge."""
    last = size - 1
    return last - (last - index.abs()).abs()
