"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): mix two images, and their labels in the same proportion."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .boxes import draw_cuts, mask_boxes


@dataclass
class Mixing:
    """partners (B,) int64: the other image; weights (B,) float32: of the own image outside the box;
    boxes (B,4) int64: what the partner replaces; shares (B,) float32: of the own label in the target."""

    partners: Tensor
    weights: Tensor
    boxes: Tensor
    shares: Tensor


def draw_mixing(
    batch: int,
    size: tuple[int, int],
    mixup: float,
    cutmix: float,
    probability: float,
    switch: float,
    generator: torch.Generator,
) -> Mixing:
    """Draw for each image whether, how and with which image of the batch it is mixed.

    mixup, cutmix: alpha of Beta(alpha, alpha), 0 is off; switch: probability of cutmix if both are on.
    """
    mixed, cut = torch.rand(2, batch, generator=generator)
    partners = torch.randperm(batch, generator=generator)
    chosen = mixed < probability
    cuts = chosen & (cut < switch if mixup and cutmix else torch.tensor(cutmix > 0))
    kept_by_mixup = _draw_beta(mixup, batch, generator)
    kept_by_cutmix = _draw_beta(cutmix, batch, generator)
    weights = torch.where(chosen & ~cuts, kept_by_mixup, 1)
    boxes = draw_cuts(1 - kept_by_cutmix, size, generator) * cuts.unsqueeze(1)
    replaced = boxes[:, 2] * boxes[:, 3] / (size[0] * size[1])
    return Mixing(partners, weights, boxes, weights * (1 - replaced))


def _draw_beta(alpha: float, batch: int, generator: torch.Generator) -> Tensor:
    """Draw (B,) from Beta(alpha, alpha); ones for alpha 0, which mixes nothing."""
    seed = int(torch.randint(2**62, (), generator=generator))
    if alpha == 0:
        return torch.ones(batch)
    # torch.distributions takes no generator, and seeding the global one would reseed every device.
    draw = random.Random(seed)
    return torch.tensor([draw.betavariate(alpha, alpha) for _ in range(batch)])


def seen_partners(mixing: Mixing, part: slice) -> Tensor:
    """Return the partner (n,) of each image of the part, or its own index if no partner is visible in it."""
    seen = (mixing.weights[part] < 1) | mixing.boxes[part].any(1)
    return torch.where(seen, mixing.partners[part], torch.arange(len(mixing.partners))[part])


def take_mixing(mixing: Mixing, part: slice, rows: Tensor) -> Mixing:
    """Return the mixing of a part of the batch, with partners as indices into `rows` (n,), which include them all."""
    places = torch.empty(int(rows.max()) + 1 if len(rows) else 0, dtype=torch.int64)
    places[rows] = torch.arange(len(rows))
    partners = places[seen_partners(mixing, part)]
    return Mixing(partners, mixing.weights[part], mixing.boxes[part], mixing.shares[part])


def mix_images(images: Tensor, partners: Tensor, mixing: Mixing, part: slice) -> None:
    """Mix the images (n,C,H,W), which are the `part` of the batch, with their partners (n,C,H,W), in place."""
    weights, boxes = (value[part].to(images.device, non_blocking=True) for value in (mixing.weights, mixing.boxes))
    replaced = mask_boxes(boxes, (images.shape[2], images.shape[3]))
    # lerp is exact at both ends: a weight of 0 or 1 copies.
    torch.lerp(partners, images, weights.view(-1, 1, 1, 1) * ~replaced, out=images)


def mix_targets(labels: Tensor, mixing: Mixing, num_classes: int) -> Tensor:
    """Return targets (B,K) float32 with the share of each label; each row sums to 1."""
    partners, shares = (value.to(labels.device, non_blocking=True) for value in (mixing.partners, mixing.shares))
    targets = torch.zeros(len(labels), num_classes, device=labels.device)
    targets.scatter_add_(1, labels.unsqueeze(1), shares.unsqueeze(1))
    return targets.scatter_add_(1, labels[partners].unsqueeze(1), (1 - shares).unsqueeze(1))
