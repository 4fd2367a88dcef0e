"""Evaluation: every sample of a split once, exact for a smaller last batch and for any number of processes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import metrics
from ..augment.normalize import normalize
from ..data.batches import iterate_batches
from ..data.images import Preprocessing
from ..data.load import Split
from ..distributed.world import World
from ..machine.devices import autocast
from ..model import VisionTransformer
from .trainer import Trainer


@dataclass
class Evaluation:
    """Exact results over a split: mean cross-entropy, shares right, and the (K,K) confusion counts on the CPU.

    Where they were asked for, also the class predicted of each image and its probability, (N,), in the split's order.
    """

    loss: float
    accuracy: float
    top5_accuracy: float | None  # None for five classes or fewer
    confusion: Tensor
    predictions: Tensor | None = None
    confidences: Tensor | None = None


@torch.no_grad()
def evaluate(
    model: VisionTransformer,
    split: Split,
    preprocessing: Preprocessing,
    batch_size: int,
    precision: torch.dtype,
    world: World = World(0, 0, 1),  # noqa: B008, a frozen value
    between: Callable[[], None] = lambda: None,
    each_image: bool = False,
) -> Evaluation:
    """Evaluate a model on a split, `batch_size` images at once in each process; `between` is called after each batch.

    each_image: return the prediction for each image too, in every process; they stay on the device until the end.
    A process without an image of its own in the last round takes one along that does not count, as a sharded model
    needs all processes in each.
    """
    model.eval()
    device, num_classes = model.head.weight.device, model.num_classes
    loss_sum = torch.zeros((), device=device)
    in_top5 = torch.zeros((), device=device, dtype=torch.long)
    confusion = torch.zeros(num_classes, num_classes, device=device, dtype=torch.long)
    answers: list[tuple[Tensor, Tensor]] = []
    positions = torch.arange(len(split))[world.rank :: world.size]
    rounds = -(-len(split) // (batch_size * world.size))
    parts = [positions[batch_size * i : batch_size * (i + 1)] for i in range(rounds)]
    loaded = (part if len(part) else torch.zeros(1, dtype=torch.long) for part in parts)
    for part, (images, batch) in zip(parts, iterate_batches(split, loaded, device), strict=True):
        with autocast(device, precision):
            logits = model(normalize(images, preprocessing.mean, preprocessing.std)).float()[: len(part)]
        labels = split.labels[batch][: len(part)].to(device, non_blocking=True)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        predicted = logits.argmax(1)
        confusion += metrics.count_confusion(labels, predicted, num_classes)
        if num_classes > 5:
            in_top5 += metrics.count_top_k(logits, labels, 5)
        if each_image:
            answers.append((predicted, logits.softmax(1).gather(1, predicted[:, None])[:, 0]))
        between()
    world.sum(loss_sum, in_top5, confusion)
    confusion = confusion.cpu()
    top5 = in_top5.item() / len(split) if num_classes > 5 else None
    result = Evaluation(loss_sum.item() / len(split), metrics.accuracy(confusion), top5, confusion)
    if each_image:
        predicted, confidence = (torch.cat(column) for column in zip(*answers, strict=True))
        result.predictions = _gather(predicted, len(split), world)
        result.confidences = _gather(confidence, len(split), world)
    return result


def _gather(own: Tensor, count: int, world: World) -> Tensor:
    """Return the numbers (N,) of all images from those of each process, whose images are every `world.size`-th."""
    everyone = torch.zeros(count, dtype=own.dtype, device=own.device)
    everyone[world.rank :: world.size] = own
    world.sum(everyone)  # each place is filled by one process and zero in the others
    return everyone.cpu()


def validate(
    trainer: Trainer, split: Split, preprocessing: Preprocessing, between: Callable[[], None]
) -> dict[str, Evaluation]:
    """Evaluate the "raw" weights and, where they are averaged, the "ema" of them."""
    size, precision, world = trainer.micro_batch_size, trainer.precision, trainer.world
    return {
        kind: evaluate(model, split, preprocessing, size, precision, world, between)
        for kind, model in trainer.models().items()
    }


def choose_best(results: dict[str, Evaluation], wanted: str) -> str:
    """Return which weights to keep for `training.best=better|ema`: by accuracy, then loss, where both may be."""
    if wanted == "ema":
        return "ema"
    return max(results, key=lambda kind: (results[kind].accuracy, -results[kind].loss))


def count_gflops(model: VisionTransformer) -> float:
    """Return the floating-point operations of one image's forward pass in 10^9, a multiply-add counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    # On the meta device nothing is computed, and attention, which the counter misses on the CPU, is counted.
    shadow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, model.in_channels, *model.image_size, device="meta"))
    return counter.get_total_flops() / 1e9
