"""The preprocessing of `data/images.py` as tensor operations, for files that take a picture as it is.

Of basic operations only, so that every exporter knows them, and with the same pixels. Letters: H W pixels of the
picture, h w of the model's input, C channels, n pixels of a side before and m after resampling.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.images import Preprocessing

GRAY = (19595.0, 38470.0, 7471.0)  # of 65536: what Pillow weighs red, green and blue with
# torch's weights for uint8 are integers below LIMIT: real ones times the largest power of two that allows it.
LIMIT, MOST_BITS = 2**15, 22
SPLIT = 128.0  # what divides them into an upper and a lower part


class PicturePreprocessing(nn.Module):
    """Turn a picture, uint8 (H,W,C) of any size, into the model's input, float32 (1,C,h,w).

    Models of gray images take three channels as well, which is what decoders of images give.
    """

    mean: Tensor  # of the levels 0 to 255, as all that follows
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.size, self.channels = preprocessing.size, preprocessing.channels
        self.crops, self.interpolation = preprocessing.resize == "crop", preprocessing.interpolation
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, (torch.tensor(values) * 255).view(1, -1, 1, 1), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:  # (H, W, 3), or (H, W, C) for C > 3 or C = 2
        return (self.pixels(picture) - self.mean) / self.std

    def pixels(self, picture: Tensor) -> Tensor:
        """Return the levels, float32 (1,C,h,w), that `Preprocessing` makes of the picture."""
        sides = [torch.scalar_tensor(side, dtype=torch.float64) for side in picture.shape[:2]]
        boxes = center_box(sides, self.size) if self.crops else [(torch.zeros_like(side), side) for side in sides]
        if self.interpolation == "nearest":
            for axis in (0, 1):
                picture = picture.index_select(axis, nearest(*boxes[axis], self.size[axis]))
            return self._planes(picture).unsqueeze(0)
        x = self._planes(picture)  # (C, H, W)
        # First the columns, then the rows, each rounded: the order of torch and of Pillow.
        for axis in (1, 0):
            x = self._resample(x, *boxes[axis], self.size[axis]).transpose(1, 2)
        return x.unsqueeze(0)

    def _planes(self, picture: Tensor) -> Tensor:
        """Return float32 (C,H,W)."""
        if self.channels != 1:
            return picture.permute(2, 0, 1).float()
        red, green, blue = (plane.float() * weight for plane, weight in zip(picture.unbind(2), GRAY, strict=True))
        return ((red + green + blue + 2.0**15) / 2.0**16).floor().unsqueeze(0)  # whole numbers below 2^24: exact

    def _resample(self, x: Tensor, start: Tensor, length: Tensor, m: int) -> Tensor:
        """Resample the last side of (C, ·, n), from `start` on, to m pixels."""
        weights, divisor = integer_weights(x.shape[2], start, length, m, self.interpolation)  # (m, n)
        # The integer weights in two parts, of which every sum is below 2^24: float32 holds it exactly.
        upper = (weights / SPLIT).round()
        parts = torch.cat([upper, weights - upper * SPLIT]).float()  # (2m, n)
        sums = (x @ parts.T).double()  # (C, ·, 2m)
        total = sums[..., :m] * SPLIT + sums[..., m:]
        return (total / divisor + 0.5).floor().clamp(0, 255).float()


def center_box(sides: Sequence[Tensor], size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Return start and length, by side, of the largest centered box with the aspect ratio of `size`."""
    scale = torch.minimum(sides[0] / size[0], sides[1] / size[1])
    boxes = []
    for side, wanted in zip(sides, size, strict=True):
        length = torch.minimum((scale * wanted).round(), side).clamp(min=1)
        boxes.append((((side - length) / 2).floor(), length))
    return boxes


def nearest(start: Tensor, length: Tensor, m: int) -> Tensor:
    """Return the indices (m,) that Pillow takes: the centers are summed up as there, for the same rounding."""
    step = length / m
    steps = torch.cat([(start + step / 2).view(1), step.expand(m - 1)])
    return steps.cumsum(0).floor().long()


def integer_weights(n: int, start: Tensor, length: Tensor, m: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """Return float64 weights (m,n), whole numbers, and what they have to be divided by: those of torch for uint8.

    Row k holds Pillow's triangle or cubic around the center of pixel k, wider by the scale if that is above 1, which is
    what keeps thin lines from being skipped; only pixels from `start` to `start + length` have a weight.
    """
    scale = length / m
    stretch = scale.clamp(min=1)
    reach = stretch * (1 if interpolation == "bilinear" else 2)
    center = ((torch.arange(m, dtype=torch.float64) + 0.5) * scale).unsqueeze(1)  # (m, 1)
    j = torch.arange(n, dtype=torch.float64).unsqueeze(0) - start  # (1, n)
    first = (center - reach + 0.5).clamp(min=0).floor()
    last = torch.minimum((center + reach + 0.5).floor(), length)
    distance = ((j - center + 0.5) / stretch).abs()
    weights = triangle(distance) if interpolation == "bilinear" else cubic(distance)
    weights = torch.where((j >= first) & (j < last), weights, torch.zeros_like(weights))
    weights = weights / weights.sum(1, keepdim=True)
    powers = 2.0 ** torch.arange(1, MOST_BITS + 1, dtype=torch.float64)
    fits = (weights.max() * powers + 0.5).floor() < LIMIT
    bits = torch.where(fits, powers, torch.ones_like(powers)).max()
    return (weights.abs() * bits + 0.5).floor() * weights.sign(), bits


def triangle(x: Tensor) -> Tensor:
    """Return the bilinear filter at distances x >= 0."""
    return (1 - x).clamp(min=0)


def cubic(x: Tensor) -> Tensor:
    """Return the bicubic filter at distances x >= 0: Keys (1981), equation 4 with a = -0.5, as in Pillow."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
