"""From a split to batches on the device: the order of an epoch is a function of (seed, epoch), not of history."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..seeding import generator_for
from .load import Split


def shuffled_order(num_samples: int, seed: int, epoch: int, repeats: int = 1) -> Tensor:
    """Return the epoch's order of samples (N,).

    With repeated augmentation (arXiv 1901.09335) N/repeats samples are drawn, each following itself `repeats` times.
    """
    order = torch.randperm(num_samples, generator=generator_for("order", seed, epoch))
    return order.repeat_interleave(repeats)[:num_samples] if repeats > 1 else order


def balanced_order(labels: Tensor, seed: int, epoch: int, repeats: int = 1) -> Tensor:
    """Return an order (N,) in which each class of labels (N,) is as frequent as any other, drawn with replacement."""
    share = 1.0 / torch.bincount(labels).clamp(min=1)[labels].double()
    generator = generator_for("order", seed, epoch)
    # By inverse transform: torch.multinomial takes no more than 2^24 samples.
    uniform = torch.rand(len(labels), dtype=torch.float64, generator=generator)
    edges = share.cumsum(0)
    order = torch.searchsorted(edges, uniform * edges[-1], right=True).clamp(max=len(labels) - 1)
    return order.repeat_interleave(repeats)[: len(labels)] if repeats > 1 else order


def iterate_batches(split: Split, positions: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each tensor of positions (B,) uint8 images (B,C,H,W) on the device, and the positions, on the CPU.

    What the positions are is asked for some batches ahead, and in another thread where images are made ready by one.
    """
    return split.images.batches(positions, device)
