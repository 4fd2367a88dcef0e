"""Training and evaluation: one step, one epoch, one pass over a split. No files, no plots, no configuration layout.

Letters: B batch, K classes. Sums stay on the device and are read once per epoch, or when someone looks.
"""

import contextlib
import copy
import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import metrics
from .augment import Augmentation, normalize
from .data import Preprocessing, Split, balanced_order, iterate_batches, shuffled_order
from .model import VisionTransformer
from .seeding import generator_for, seed_for

_NUM_THREADS = torch.get_num_threads()  # as the machine or OMP_NUM_THREADS has it


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Return the device for `device=auto|cpu|cuda|cuda:N|mps` and, in words, why it is that one."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if cuda else "mps" if mps else "cpu"
        looked = "a CUDA device was found" if cuda else "no CUDA device, but MPS was found"
        if wanted == "cpu":
            why = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
            looked = f"looked for CUDA ({why}) and MPS (not available)"
    else:
        looked = f"device={wanted}"
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count() if cuda else 0
        index = int(wanted.partition(":")[2] or 0)
        if index >= count:
            raise ValueError(f"device={wanted}, but torch sees {count} CUDA device(s); use device=auto or device=cpu")
        looked += f": {torch.cuda.get_device_name(index)}"
    if wanted == "mps" and not mps:
        raise ValueError("device=mps, but MPS is not available here; use device=auto or device=cpu")
    return torch.device(wanted), looked


def limit_threads(device: torch.device, gflops: float) -> None:
    """Use one CPU thread for steps of little work, `gflops` each, where a second one is not worth waiting for.

    Measured on two cores with GNU OpenMP: below 1 GFLOP per step no gain from the second, and three times slower
    steps with it as soon as another program is running.
    """
    if device.type == "cpu":
        torch.set_num_threads(1 if gflops < 1 else _NUM_THREADS)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it would give it back to the system.

    Every batch of 224 px images would else be made of pages that the system clears one by one: measured with glibc,
    that is a third of the time of augmenting it. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped, and unmapped, on its own
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the largest number that mallopt takes


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products for `training.precision=auto|bf16|float32`; weights stay float32."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and device.type == "cuda" and not native:
        raise ValueError("training.precision=bf16 is not supported by this CUDA device; use float32 or auto")
    return torch.bfloat16 if wanted == "bf16" or (wanted == "auto" and native) else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


@dataclass
class Trainer:
    """All that a training step needs. `learning_rate` maps a step, counted over the whole run, to its rate."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    augmentation: Augmentation
    device: torch.device
    precision: torch.dtype
    seed: int
    label_smoothing: float
    clip_norm: float | None
    class_weights: Tensor | None = None  # (K,), see `balanced_weights`
    mix_until: float = math.inf  # step from which images are no longer mixed
    balanced_sampling: bool = False
    repeats: int = 1

    def step(self, images: Tensor, labels: Tensor, ratios: Tensor | None, step: int) -> tuple[Tensor, Tensor]:
        """Take optimizer step number `step` on a uint8 batch (B,C,H,W); return mean loss and number right, 0-d.

        Of mixed labels the one with the larger share counts as right.
        """
        torch.manual_seed(seed_for("dropout", self.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        generator = generator_for("augment", self.seed, step)
        images, targets = self.augmentation(images, labels, generator, ratios, mix=step < self.mix_until)
        with autocast(self.device, self.precision):
            logits = self.model(images).float()
            loss = weighted_cross_entropy(logits, targets, self.class_weights, self.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        wanted = targets if targets.ndim == 1 else targets.argmax(1)
        return loss.detach(), (logits.argmax(1) == wanted).sum()

    def order(self, split: Split, epoch: int) -> Tensor:
        """Return the positions (N,) of an epoch's samples, a function of (seed, epoch) alone."""
        if self.balanced_sampling:
            return balanced_order(split.labels, self.seed, epoch, self.repeats)
        return shuffled_order(len(split), self.seed, epoch, self.repeats)

    def state_dict(self, epoch: int) -> dict[str, Any]:
        """Return what continuing after `epoch` needs: randomness and learning rate follow from the step."""
        return {"epoch": epoch, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of logits (B,K) with labels (B,) or shares (B,K), over the weight of the batch.

    weights: (K,) or None for all equal. The mean is over the weights that the samples carry, as in torch for labels,
    where for shares torch would divide by B.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    carried = weights[targets] if targets.ndim == 1 else targets @ weights
    return F.cross_entropy(logits, targets, weights, reduction="sum", label_smoothing=smoothing) / carried.sum()


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return weights (K,) inverse to how often a class is among labels (N,); their mean over the samples is 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (counts.clamp(min=1) * (counts > 0).sum())


@dataclass
class Epoch:
    """Results of a training epoch: means over samples as seen (augmented), lr of the last step."""

    loss: float
    accuracy: float
    lr: float
    images_per_second: float


def train_epoch(
    trainer: Trainer, split: Split, batch_size: int, epoch: int, on_step: Callable[[int, Tensor, int], None]
) -> Epoch:
    """Train one epoch (counted from 1). `on_step` gets steps done, loss (0-d) and images seen.

    Raises FloatingPointError where the loss is no longer finite.
    """
    trainer.model.train()
    started = time.perf_counter()
    steps = -(-len(split) // batch_size)
    loss_sum = torch.zeros((), device=trainer.device)
    num_right = torch.zeros((), device=trainer.device, dtype=torch.long)
    step, seen = (epoch - 1) * steps, 0
    for images, labels, ratios in iterate_batches(split, batch_size, trainer.device, trainer.order(split, epoch)):
        loss, right = trainer.step(images, labels, ratios, step)
        loss_sum += loss * len(labels)
        num_right += right
        step, seen = step + 1, seen + len(labels)
        on_step(step - (epoch - 1) * steps, loss, seen)
    mean_loss = loss_sum.item() / len(split)
    if not mean_loss < float("inf"):
        raise FloatingPointError(
            f"the training loss became {mean_loss} in epoch {epoch}; a smaller training.lr, a longer "
            "scheduler.warmup_epochs or training.precision=float32 may help"
        )
    seconds = time.perf_counter() - started
    rate = trainer.learning_rate(step - 1)
    return Epoch(mean_loss, num_right.item() / len(split), rate, len(split) / seconds)


@dataclass
class Evaluation:
    """Exact results over a split: mean cross-entropy, shares right, and the (K,K) confusion counts on the CPU."""

    loss: float
    accuracy: float
    top5_accuracy: float | None  # None for five classes or fewer
    confusion: Tensor


@torch.no_grad()
def evaluate(
    model: VisionTransformer,
    split: Split,
    preprocessing: Preprocessing,
    batch_size: int,
    precision: torch.dtype,
) -> Evaluation:
    """Evaluate a model on every sample of a split once, a smaller last batch included."""
    model.eval()
    device, num_classes = model.head.weight.device, model.num_classes
    loss_sum = torch.zeros((), device=device)
    in_top5 = torch.zeros((), device=device, dtype=torch.long)
    confusion = torch.zeros(num_classes, num_classes, device=device, dtype=torch.long)
    for images, labels, _ in iterate_batches(split, batch_size, device):
        with autocast(device, precision):
            logits = model(normalize(images, preprocessing.mean, preprocessing.std)).float()
        loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        confusion += metrics.count_confusion(labels, logits.argmax(1), num_classes)
        if num_classes > 5:
            in_top5 += metrics.count_top_k(logits, labels, 5)
    confusion = confusion.cpu()
    top5 = in_top5.item() / len(split) if num_classes > 5 else None
    return Evaluation(loss_sum.item() / len(split), metrics.accuracy(confusion), top5, confusion)


def count_gflops(model: VisionTransformer) -> float:
    """Return the floating-point operations of one image's forward pass in 10^9, a multiply-add counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    # On the meta device nothing is computed, and attention, which the counter misses on the CPU, is counted.
    shadow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, model.in_channels, *model.image_size, device="meta"))
    return counter.get_total_flops() / 1e9
