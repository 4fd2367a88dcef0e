"""Geometric transforms: crop, flip and affine map of an image as one matrix, applied in one resampling.

Positions are (x, y) with pixel centers at integers. An output pixel p comes from q = affine⁻¹(p) in the cropped
frame; outside the frame it gets the fill color, inside it is read at crop(flip(q)), reflected at the image's edge.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Moves:
    """boxes (B,4) int64: the crop (top, left, height, width) in stored pixels, may exceed the image;
    flips (B,) bool: mirror the crop; inverses (B,3,3) float64: affine⁻¹ around the frame's center, in pixels."""

    boxes: Tensor
    flips: Tensor
    inverses: Tensor


def inverse_affine(
    angle: Tensor, shear_x: Tensor, shear_y: Tensor, shift_x: Tensor, shift_y: Tensor, *, pivot: tuple[float, float]
) -> Tensor:
    """Return the matrices (B,3,3) that undo: shear, then rotate about the center, then shift. All arguments (B,).

    angle: degrees, counterclockwise; shears: tangents, at most one of them nonzero; shifts: pixels.
    pivot: (x, y) from the center to the fixed point of shears: (0, 0), or the upper left corner of the pixel grid.
    """
    radians = angle.double().deg2rad()
    cos, sin = radians.cos(), radians.sin()
    shear_x, shear_y, shift_x, shift_y = (values.double() for values in (shear_x, shear_y, shift_x, shift_y))
    # The product of the three matrices, written out, which takes a third of the time for a batch of a hundred.
    xx, xy, yx, yy = cos + shear_x * sin, shear_x * cos - sin, sin + shear_y * cos, cos - shear_y * sin
    x = -shear_x * pivot[1] - xx * shift_x - xy * shift_y
    y = -shear_y * pivot[0] - yx * shift_x - yy * shift_y
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack((xx, xy, x, yx, yy, y, zero, zero, one), 1).view(-1, 3, 3)


def compose(moves: Moves, size: tuple[int, int]) -> Tensor:
    """Return the matrices (B,2,3) float64 from an output pixel (x, y, 1) to its position in the stored image."""
    height, width = size
    top, left, box_height, box_width = moves.boxes.double().unbind(1)
    mirror = 1 - 2 * moves.flips.double()
    scale_x, scale_y = box_width / width, box_height / height
    zero, one = torch.zeros_like(top), torch.ones_like(top)
    # From the frame's center to the stored image.
    x, y = left + (box_width - 1) / 2, top + (box_height - 1) / 2
    crop = torch.stack((mirror * scale_x, zero, x, zero, scale_y, y, zero, zero, one), 1).view(-1, 3, 3)
    center = torch.eye(3, dtype=torch.float64)
    center[0, 2], center[1, 2] = -(width - 1) / 2, -(height - 1) / 2
    return (crop @ moves.inverses @ center)[:, :2]


def move_pixels(images: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor, one_by_one: bool) -> Tensor:
    """Apply the `moves` to images (n,C,h,w) uint8; return contiguous uint8 images (n,C,H,W).

    fill: (C,) pixel values. Moves by whole pixels copy pixels, the others interpolate. With `one_by_one` (faster on a
    CPU), crops that are only scaled are resized one at a time, antialiased; otherwise all are sampled at once.
    """
    shifts = moves.inverses[:, :2, 2]
    unturned = (moves.inverses[:, :2, :2] == torch.eye(2)).all((1, 2))
    unscaled = (moves.boxes[:, 2:] == torch.tensor(size)).all(1)
    still = unturned & (shifts == 0).all(1)
    straight = unturned & (shifts == shifts.round()).all(1)
    whole = straight & unscaled
    scaled = straight & ~unscaled & torch.tensor(one_by_one)
    # Shifted images need filling, so they are separate from the others, which are most.
    ways = ((whole & still, _copy_rows), (whole & ~still, _copy_rows), (scaled, _crop_and_resize))
    order, pieces = [], []
    for chosen, function in (*ways, (~whole & ~scaled, _sample_pixels)):
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
    """Crop the `group` of images and resize them one by one, antialiased as in Pillow.

    Flips, and shifts by output pixels, are applied while copying into the result.
    """
    result = torch.empty((len(group), images.shape[1], *size), dtype=torch.uint8)
    plans = zip(
        group.tolist(), moves.boxes.tolist(), moves.flips.tolist(), moves.inverses[:, :2, 2].tolist(), strict=True
    )
    for (i, (top, left, height, width), flip, shift), out in zip(plans, result, strict=True):
        crop = images[i : i + 1, :, top : top + height, left : left + width]
        frame = F.interpolate(crop, size=size, mode="bilinear", antialias=True)[0]
        frame = frame.flip(2) if flip else frame
        if any(shift):
            out.copy_(fill.view(-1, 1, 1).expand_as(out))
            right, down = (max(-side, min(int(by), side)) for by, side in zip(shift, (size[1], size[0]), strict=True))
            frame = frame[:, max(down, 0) : size[0] + min(down, 0), max(right, 0) : size[1] + min(right, 0)]
            out = out[:, max(-down, 0) : size[0] - max(down, 0), max(-right, 0) : size[1] - max(right, 0)]
        out.copy_(frame)
    return result


def _copy_rows(images: Tensor, group: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Crop, flip and shift the `group` (n,) of images by whole pixels; group and moves are on the CPU.

    Each output row is one slice of a longer row: the image's row between two mirrored copies, so that a flipped row is
    a slice too. On a CPU this is an order of magnitude faster than moving pixels one by one.
    """
    channels, height, width = images.shape[1:]
    top, left = moves.boxes[:, :2].int().view(-1, 2, 1).unbind(1)
    right_shift, down_shift = moves.inverses[:, :2, 2].int().view(-1, 2, 1).unbind(1)
    chosen = images.index_select(0, group.to(images.device, non_blocking=True)).contiguous()
    mirrored = chosen.flip(3)
    # Slices of shifted rows may run over both ends; those pixels are filled later.
    buffer = images.new_zeros(chosen.numel() * 3 + 2 * size[1])
    long = buffer[size[1] : -size[1]].view(-1, channels, height, 3 * width)
    # The mirrored copies share their edge pixels with the image: reflection does not repeat them.
    for first, part in ((1, mirrored), (width, chosen), (2 * width - 1, mirrored)):
        long[..., first : first + width] = part
    right = width - size[1] - left  # start of the slice in the left mirrored copy; if negative, in the right one
    column = torch.where(moves.flips.view(-1, 1), right + torch.where(right < 0, 2 * width - 1, 1), width + left)
    frame_rows = torch.arange(size[0], dtype=torch.int32) + down_shift
    rows = _reflect(frame_rows.clamp(0, size[0] - 1) + top, height)
    planes = torch.arange(len(group) * channels).view(-1, channels, 1) * height
    column = column + size[1] + right_shift.clamp(-size[1], size[1])
    starts = (planes + rows.unsqueeze(1)) * (3 * width) + column.unsqueeze(1)
    pieces = buffer.as_strided((len(buffer) - size[1] + 1, size[1]), (1, 1))
    moved = pieces.index_select(0, starts.flatten().to(images.device, non_blocking=True)).view(-1, channels, *size)
    if not (right_shift.any() or down_shift.any()):
        return moved
    frame_columns = torch.arange(size[1], dtype=torch.int32) + right_shift
    inside_rows, inside_columns = (
        (place >= 0) & (place < side) for place, side in zip((frame_rows, frame_columns), size, strict=True)
    )
    inside = (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1).to(torch.uint8)
    return _fill(moved, inside.to(images.device, non_blocking=True), fill.to(torch.uint8))


def _sample_pixels(images: Tensor, group: Tensor, moves: Moves, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Interpolate the `group` (n,) of images bilinearly; group and moves are on the CPU."""
    device = images.device
    matrices = compose(moves, size).float().to(device, non_blocking=True)
    top, left, height, width = moves.boxes.float().to(device, non_blocking=True).view(-1, 4, 1, 1).unbind(1)
    x, y = _locate(matrices, size)
    inside = (x >= left - 0.5) & (x <= left + width - 0.5) & (y >= top - 0.5) & (y <= top + height - 0.5)
    # align_corners: -1 and 1 are the centers of the edge pixels, at which the padding reflects.
    last_row, last_column = (max(side - 1, 1) for side in images.shape[2:])
    # The same as torch.stack((x, y), 3), in a third of the time.
    grid = torch.view_as_real(torch.complex(x * (2 / last_column) - 1, y * (2 / last_row) - 1))
    chosen = images.index_select(0, group.to(device, non_blocking=True)).float()
    sampled = F.grid_sample(chosen, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return _fill(sampled, inside.unsqueeze(1).float(), fill).round_().to(torch.uint8)


def _fill(images: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """Set the pixels outside of `inside` (n,1,H,W) to the color (C,), in place; exact for uint8 too, which wraps."""
    color = fill.view(-1, 1, 1)
    # Three passes, but on a CPU several times as fast as torch.where with broadcasting.
    return images.sub_(color).mul_(inside).add_(color)


def _locate(matrices: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where each output pixel comes from: x and y (n,H,W) in the stored image."""
    columns = torch.arange(size[1], device=matrices.device)
    rows = torch.arange(size[0], device=matrices.device).unsqueeze(1)
    by_column, by_row, offset = matrices.view(-1, 2, 1, 1, 3).unbind(4)
    x, y = ((by_column * columns + offset) + by_row * rows).unbind(1)
    return x, y


def _reflect(index: Tensor, size: int) -> Tensor:
    """Reflect indices from -(size-1) to 2(size-1) into 0 … size-1 without repeating the edge."""
    last = size - 1
    return last - (last - index.abs()).abs()
