"""How closely a written file agrees with the run. Letters: n images, K classes, C channels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 16  # images at once
LEAST = 1e-6  # a probability whose logarithm counts
FLOOR = 1e-12  # so that the logarithm of 0 is a number
LOG_TOLERANCE = 1e-3  # of logarithms: of sums of float32 in another order, with room
LOGIT_TOLERANCE = 1e-4  # of logits, as a part of the largest
TIE = 1e-5  # classes whose probabilities differ by less are equally good as the first one


@dataclass(frozen=True)
class Agreement:
    """How closely two sets of predictions agree.

    difference: the largest one of a probability; same: the share of images with the same first class; log_difference:
    the largest one of the logarithm of a probability, which also counts where all are small, or one is nearly 1;
    logit_difference: of a logit, None for files that give none. Logits are all that tells of a single class.
    """

    difference: float
    same: float
    log_difference: float = 0.0
    logit_difference: float | None = None

    def describe(self) -> dict[str, float]:
        logits = {} if self.logit_difference is None else {"max_logit_difference": self.logit_difference}
        return {
            "max_probability_difference": self.difference,
            "max_log_probability_difference": self.log_difference,
            **logits,
            "same_class": self.same,
        }

    def describe_logits(self) -> str:
        return "" if self.logit_difference is None else f", logits by {self.logit_difference:.2g}"


def measure(ours: Tensor, theirs: Tensor) -> Agreement:
    """Compare probabilities (n,K) with the run's. Raises ValueError for another shape."""
    if ours.shape != theirs.shape:
        raise ValueError(f"it predicts an array of {tuple(theirs.shape)}, not {tuple(ours.shape)}")
    chosen = ours.gather(1, theirs.argmax(1, keepdim=True))[:, 0]
    same = ours.max(1).values - chosen <= TIE
    logarithms = (ours.clamp(FLOOR).log() - theirs.clamp(FLOOR).log()).abs()
    counted = logarithms.where(torch.maximum(ours, theirs) >= LEAST, torch.zeros(()))
    return Agreement((ours - theirs).abs().max().item(), same.double().mean().item(), counted.max().item())


@torch.no_grad()
def predict_parts(predict: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return what `predict` returns for images (n,C,h,w): of the first one alone, and of the others a few at once."""
    parts = [inputs[:1], *inputs[1:].split(PART)] if len(inputs) > 1 else [inputs]
    return torch.cat([predict(part) for part in parts]).float()
