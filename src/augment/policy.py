"""RandAugment (arXiv 1909.13719) and TrivialAugment Wide (arXiv 2103.10158), with torchvision's tables.

RandAugment applies `num_ops` operations of one strength to each image, TrivialAugment one of random strength. Geometric
operations become part of the single resampling of an image, so they come before color operations.
"""

from functools import cache

import torch
from torch import Tensor

from .color import COLOR_INDEX, NONE
from .geometry import inverse_affine

BINS = 31
# "shear_x" to "sharpness" take a random sign.
OPS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
SIGNED = torch.tensor([0 < index <= OPS.index("sharpness") for index in range(len(OPS))])
POLICIES = ("randaugment", "trivialaugment")


@cache
def magnitude_table(policy: str, size: tuple[int, int]) -> Tensor:
    """Return the magnitudes (operation, bin) of a policy for images of `size` (H, W).

    Units: tangents for shears, pixels for translations, degrees for rotations, distance from 1 for color factors, bits
    kept for posterize, pixel values for solarize.
    """
    wide = policy == "trivialaugment"
    strongest = {"rotate": 135.0 if wide else 30.0}
    strongest |= dict.fromkeys(("shear_x", "shear_y"), 0.99 if wide else 0.3)
    strongest |= {f"translate_{axis}": 32.0 if wide else 150 / 331 * size[axis == "x"] for axis in "xy"}
    strongest |= dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), 0.99 if wide else 0.9)
    table = torch.stack([torch.linspace(0, strongest.get(name, 0.0), BINS) for name in OPS])
    table[OPS.index("translate_x") : OPS.index("rotate")].trunc_()
    lost_bits = torch.arange(BINS) / ((BINS - 1) / (6 if wide else 4))
    table[OPS.index("posterize")] = (8 - lost_bits).round()
    table[OPS.index("solarize")] = 255 * torch.linspace(1, 0, BINS)
    return table


def draw_policy(
    policy: str, batch: int, num_ops: int, magnitude: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return operations (B,S) as indices into `OPS` and their signed magnitudes (B,S).

    num_ops, magnitude: RandAugment's n and m; TrivialAugment has neither.
    """
    assert policy in POLICIES, policy
    steps = num_ops if policy == "randaugment" else 1
    ops = torch.randint(len(OPS), (batch, steps), generator=generator)
    bins = torch.randint(BINS, (batch, steps), generator=generator)
    negative = torch.rand(batch, steps, generator=generator) <= 0.5
    if policy == "randaugment":
        bins.fill_(magnitude)
    magnitudes = magnitude_table(policy, size)[ops, bins]
    return ops, torch.where(negative & SIGNED[ops], -magnitudes, magnitudes)


def policy_inverses(ops: Tensor, magnitudes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the matrices (B,3,3) that undo the geometric operations among the steps (B,S)."""
    total = torch.eye(3, dtype=torch.float64).expand(len(ops), 3, 3)
    for op, magnitude in zip(ops.unbind(1), magnitudes.unbind(1), strict=True):
        amount = [
            torch.where(op == OPS.index(name), magnitude, 0)
            for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
        ]
        # The last step is undone first; shears keep the upper left corner fixed.
        total = total @ inverse_affine(*amount, pivot=(-size[1] / 2, -size[0] / 2))
    return total


def policy_colors(ops: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the steps (B,S) as `apply_colors` takes them; geometric ones become NONE."""
    indices = torch.tensor([COLOR_INDEX.get(name, NONE) for name in OPS])
    factors = SIGNED & (indices != NONE)
    return indices[ops], torch.where(factors[ops], 1 + magnitudes, magnitudes)
