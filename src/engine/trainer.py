"""One training step: a batch split over processes and micro-batches, its loss, the gradients, the update.

Letters: B images in the batch of all processes, n in a part of it, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augment.pipeline import Augmentation, Plan
from ..data.batches import epoch_order
from ..data.load import Split
from ..distributed.models import clip_gradients, grad_norm, no_sync
from ..distributed.states import gather_state, shard_model_state, shard_optimizer_state
from ..distributed.world import World
from ..machine.devices import autocast
from ..model import VisionTransformer
from ..optim import ExponentialMovingAverage, set_learning_rate
from ..seeding import generator_for, seed_for


@dataclass
class Progress:
    """How far a run is: `step` steps of `epoch` (counted from 1) are done. Sums over them stay on the device.

    lr: of the last step. The sums are over the images of this process, `seen` counts those of all processes.
    """

    loss_sum: Tensor  # float32, 0-d
    num_correct: Tensor  # int64, 0-d
    epoch: int = 1
    step: int = 0
    seen: int = 0
    lr: float = 0.0

    @classmethod
    def of_epoch(cls, epoch: int, device: torch.device) -> "Progress":
        return cls(torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.long), epoch)


@dataclass
class Trainer:
    """All that a training step needs. `model` is the raw module, `network` the one to call, which may be distributed.

    batch_size: images per step, over all processes; micro_batch_size: images in one forward pass of a device;
    learning_rate: step, counted over the whole run -> rate; total_steps: the length of the schedule.
    """

    model: VisionTransformer
    network: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    augmentation: Augmentation
    device: torch.device
    precision: torch.dtype
    seed: int
    batch_size: int
    micro_batch_size: int
    total_steps: int
    label_smoothing: float
    clip_norm: float | None
    class_weights: Tensor | None = None  # (K,), see `balanced_weights`
    mix_until: float = math.inf  # step of the schedule from which on images are not mixed
    patch_dropout: float = 0.0  # fraction of its patches that each image loses
    drop_patches_until: float = math.inf  # step of the schedule from which on images keep all patches
    balanced_sampling: bool = False
    repeats: int = 1
    ema: ExponentialMovingAverage | None = None
    world: World = World(0, 0, 1)
    time_used: float = 0.0  # fraction of training.max_minutes
    micro_batch_reduced: bool = False  # whether micro_batch_size is smaller than configured, for lack of memory

    def __post_init__(self) -> None:
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.rate = 0.0  # learning rate of the last step
        self.reset_scaler()

    def reset_scaler(self) -> None:
        """Replace the fp16 gradient scaler, which is unusable after an interrupted step."""
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def steps_per_epoch(self, split: Split) -> int:
        return -(-len(split) // self.batch_size)

    def images_per_device(self, split: Split) -> int:
        """Return the number of images per step and device, over all micro-batches."""
        return -(-min(self.batch_size, len(split)) // self.world.size)

    def loss_scale(self) -> float | None:
        """Return the factor of the loss in fp16, read from the device; None in other precisions."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else None

    def scheduled_step(self, step: int) -> int:
        """Return the step of the schedule: `step`, or a later one if time will run out before the last step."""
        return min(max(step, int(self.time_used * self.total_steps)), self.total_steps - 1)

    def order(self, split: Split, epoch: int) -> Tensor:
        """Return the positions (N,) of an epoch's samples, a function of (seed, epoch) alone."""
        return epoch_order(split.labels, self.seed, epoch, self.balanced_sampling, self.repeats)

    def draw(self, batch: int, stored: tuple[int, int], ratios: Tensor | None, step: int, mix: bool = True) -> Plan:
        """Draw the augmentation of a whole batch, a function of (seed, step). stored: (height, width) of its images."""
        return self.augmentation.draw(batch, stored, generator_for("augment", self.seed, step), ratios, mix)

    def share(self, batch: int) -> slice:
        """Return this process's part of a batch; if that is empty, the first image, which is not counted."""
        own = self.world.share(batch)
        return own if own.start < own.stop else slice(0, 1)

    def step(
        self, images: Tensor, labels: Tensor, ratios: Tensor | None, step: int, sync: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take optimizer step number `step`; return loss, number correct, and gradient norm before clipping, 0-d each.

        images: uint8 (n,C,h,w), those that this process's share needs, in the order of `Plan.rows`; labels (B,) and
        ratios (B,) of the whole batch. Loss and number correct add up to the batch's over the processes. For mixed
        labels, the one with the larger weight is the correct one. sync=False: without the other processes.
        """
        torch.manual_seed(seed_for("dropout", self.seed, step, *(() if self.world.main else (self.world.rank,))))
        scheduled = self.scheduled_step(step)
        self.rate = self.learning_rate(scheduled)
        set_learning_rate(self.optimizer, self.rate)
        stored = (images.shape[2], images.shape[3])
        plan = self.draw(len(labels), stored, ratios, step, mix=scheduled < self.mix_until)
        self.model.patch_dropout = self.patch_dropout if scheduled < self.drop_patches_until else 0.0
        self.optimizer.zero_grad(set_to_none=True)
        loss, correct = self._accumulate(images, labels, plan, sync)
        self.scaler.unscale_(self.optimizer)
        norm = grad_norm(self._parameters)
        if self.clip_norm is not None:
            clip_gradients(self._parameters, norm, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model, step)
        return loss, correct, norm

    def _accumulate(self, images: Tensor, labels: Tensor, plan: Plan, sync: bool) -> tuple[Tensor, Tensor]:
        """Accumulate the gradients of the mean loss over the whole batch, one micro-batch at a time."""
        share, targets = self.share(len(labels)), self.augmentation.targets(labels, plan)
        micro_batches = self._split(len(labels))
        whole = len(micro_batches) == 1 and self.world.size == 1
        total = None if whole else batch_weight(targets, self.class_weights)
        own, targets = plan.take(share), targets[share]
        levels = self.augmentation.move_and_color(images[: len(plan.rows(share))], own)
        loss_sum = torch.zeros((), device=self.device)
        num_correct = torch.zeros((), device=self.device, dtype=torch.long)
        for number, (part, counts) in enumerate(micro_batches, start=1):
            with no_sync(self.network, last=sync and number == len(micro_batches)):
                loss, correct = self._forward(self.augmentation.finish(levels, own, part), targets[part], total)
                # Gradients are averaged over the processes, but the sum is needed.
                factor = self.world.size * counts
                self.scaler.scale(loss if factor == 1 else loss * factor).backward()
            if counts:
                loss_sum += loss.detach()
                num_correct += correct
        return loss_sum, num_correct

    def _split(self, batch: int) -> list[tuple[slice, bool]]:
        """Return the micro-batches of this process's share of a batch, and whether each counts.

        All processes have the same number, because a sharded model needs all of them in each pass; a process with a
        smaller share adds single images that do not count.
        """
        own, size = self.world.share(batch), self.micro_batch_size
        count = own.stop - own.start
        micro_batches = [(slice(first, min(first + size, count)), True) for first in range(0, count, size)]
        largest = -(-batch // self.world.size)
        return micro_batches + [(slice(0, 1), False)] * (-(-largest // size) - len(micro_batches))

    def _forward(self, images: Tensor, targets: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.precision):
            logits = self.network(images)
        logits = logits.float()
        loss = weighted_cross_entropy(logits, targets, self.class_weights, self.label_smoothing, total)
        wanted = targets if targets.ndim == 1 else targets.argmax(1)
        return loss, (logits.argmax(1) == wanted).sum()

    def models(self) -> dict[str, VisionTransformer]:
        """Return the "raw" model and, if there is one, its moving average, "ema"."""
        return {"raw": self.model} | ({} if self.ema is None else {"ema": self.ema.model})

    def state_dict(self, progress: Progress) -> dict[str, Any]:
        """Return all that continuing needs, with sharded tensors gathered on rank 0; collective.

        Randomness and learning rate are functions of the step.
        """
        # The key num_right is that of checkpoints of earlier versions.
        sums = {"loss_sum": progress.loss_sum.clone(), "num_right": progress.num_correct.clone()}
        self.world.sum(*sums.values())
        return {
            "epoch": progress.epoch,
            "step": progress.step,
            "seen": progress.seen,
            "lr": progress.lr,
            **sums,
            "model": gather_state(separate_state(self.model)),
            "optimizer": gather_state(self.optimizer.state_dict()),
            "ema": None if self.ema is None else gather_state(separate_state(self.ema.model)),
            "scaler": self.scaler.state_dict(),
            "micro_batch_size": self.micro_batch_size if self.micro_batch_reduced else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> Progress:
        """Load a saved state, the same in all processes, and return its progress.

        Weight decay, betas and the like stay as in this trainer. A micro-batch reduced for lack of memory stays so.
        """
        self.load_weights(state["model"])
        options = [
            {key: value for key, value in group.items() if key not in ("params", "lr")} for group in self._groups()
        ]
        self.optimizer.load_state_dict(shard_optimizer_state(self.optimizer, state["optimizer"]))
        for group, own in zip(self._groups(), options, strict=True):
            group.update(own)
        if self.ema is not None:
            averaged = state["ema"] or state["model"]
            self.ema.load_state_dict(shard_model_state(self.ema.model, averaged))
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if state["micro_batch_size"] is not None and state["micro_batch_size"] < self.micro_batch_size:
            self.micro_batch_size, self.micro_batch_reduced = state["micro_batch_size"], True
        progress = Progress.of_epoch(state["epoch"], self.device)
        progress.step, progress.seen, progress.lr = state["step"], state["seen"], state["lr"]
        if self.world.main:
            progress.loss_sum += state["loss_sum"].to(self.device)
            progress.num_correct += state["num_right"].to(self.device)
        return progress

    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load unsharded weights, the same in all processes, into the raw model."""
        self.model.load_state_dict(shard_model_state(self.model, weights))


def separate_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state with its parameters as they are trained: adapters, which its state dict merges, apart."""
    return {**model.state_dict(), **{name: parameter.detach() for name, parameter in model.named_parameters()}}


def weighted_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float, total: Tensor | None = None
) -> Tensor:
    """Return the weighted mean cross-entropy of logits (n,K) with labels (n,) or class probabilities (n,K).

    weights: (K,), None for equal weights; total: the weight of the whole batch (0-d) if this is a part of it. The sum
    is divided by the total weight of the samples.

    A sample is weighted as a whole, by the weight of its class. torch would weight each class's share of a target by
    that class's weight: smoothed, a common image would then be mostly one of the rare classes.
    """
    if weights is None and total is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    total = batch_weight(targets, weights) if total is None else total
    if weights is None:
        return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing) / total
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)  # (n,)
    return (losses * _sample_weights(targets, weights)).sum() / total


def batch_weight(targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return the total weight (0-d) of labels (B,) or class probabilities (B,K): B without class weights (K,)."""
    return torch.tensor(float(len(targets))) if weights is None else _sample_weights(targets, weights).sum()


def _sample_weights(targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weight of each label, or the mean weight of each mixture of classes: (B,)."""
    return weights[targets] if targets.ndim == 1 else targets @ weights


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return weights (K,) inverse to the frequency of each class among labels (N,), with mean 1 over the samples."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
