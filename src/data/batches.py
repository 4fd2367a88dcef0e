"""Batches of a split on the device. The order of an epoch is a function of (seed, epoch) alone."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..seeding import generator_for
from .load import Split


def epoch_order(labels: Tensor, seed: int, epoch: int, balanced: bool, repeats: int) -> Tensor:
    """Return the positions (N,) of an epoch's samples, for labels (N,): a function of (seed, epoch) alone."""
    if balanced:
        return balanced_order(labels, seed, epoch, repeats)
    return shuffled_order(len(labels), seed, epoch, repeats)


def shuffled_order(num_samples: int, seed: int, epoch: int, repeats: int = 1) -> Tensor:
    """Return the order of samples (N,) in an epoch.

    With repeated augmentation (arXiv 1901.09335), N/repeats samples are drawn, each `repeats` times in a row.
    """
    order = torch.randperm(num_samples, generator=generator_for("order", seed, epoch))
    return order.repeat_interleave(repeats)[:num_samples] if repeats > 1 else order


def balanced_order(labels: Tensor, seed: int, epoch: int, repeats: int = 1) -> Tensor:
    """Return an order (N,) that draws every class of labels (N,) equally often, with replacement."""
    weights = 1.0 / torch.bincount(labels).clamp(min=1)[labels].double()
    generator = generator_for("order", seed, epoch)
    # Inverse transform sampling, because torch.multinomial takes at most 2^24 samples.
    uniform = torch.rand(len(labels), dtype=torch.float64, generator=generator)
    edges = weights.cumsum(0)
    order = torch.searchsorted(edges, uniform * edges[-1], right=True).clamp(max=len(labels) - 1)
    return order.repeat_interleave(repeats)[: len(labels)] if repeats > 1 else order


def iterate_batches(split: Split, positions: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each tensor of positions (B,), uint8 images (B,C,H,W) on the device and the positions on the CPU.

    `positions` is consumed a few batches ahead, in another thread if one prefetches the images.
    """
    return split.images.batches(positions, device)
