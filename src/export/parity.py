"""How nearly a written file agrees with the run. Letters: n images, K classes, C channels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 16  # images at once
TIE = 1e-5  # classes whose probabilities differ by less are equally good as the first one


@dataclass(frozen=True)
class Agreement:
    """difference: the largest one of a probability; same: the share of images with the same first class."""

    difference: float
    same: float

    def describe(self) -> dict[str, float]:
        return {"max_probability_difference": self.difference, "same_class": self.same}


def measure(ours: Tensor, theirs: Tensor) -> Agreement:
    """Compare probabilities (n,K) with the run's. Raises ValueError for another shape."""
    if ours.shape != theirs.shape:
        raise ValueError(f"it predicts an array of {tuple(theirs.shape)}, not {tuple(ours.shape)}")
    chosen = ours.gather(1, theirs.argmax(1, keepdim=True))[:, 0]
    same = ours.max(1).values - chosen <= TIE
    return Agreement((ours - theirs).abs().max().item(), same.double().mean().item())


@torch.no_grad()
def predict_parts(predict: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return what `predict` returns for images (n,C,h,w): of the first one alone, and of the others a few at once."""
    parts = [inputs[:1], *inputs[1:].split(PART)] if len(inputs) > 1 else [inputs]
    return torch.cat([predict(part) for part in parts]).float()
