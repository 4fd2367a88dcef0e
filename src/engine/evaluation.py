"""Evaluation: each sample of a split once, exact for a smaller last batch and any number of processes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    """Exact results over a split: mean cross-entropy, accuracies as fractions, the (K,K) confusion matrix on the CPU.

    If requested, also the predicted class of each image and its probability, (N,), in the order of the split.
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
    after_batch: Callable[[], None] = lambda: None,
    each_image: bool = False,
) -> Evaluation:
    """Evaluate a model on a split, `batch_size` images at once in each process.

    each_image: also return the prediction for each image, in every process; they stay on the device until the end.
    A process that has no images left in the last round evaluates one that is not counted, because a sharded model needs
    all processes in each forward pass.
    """
    model.eval()
    device, num_classes = model.head.weight.device, model.num_classes
    loss_sum = torch.zeros((), device=device)
    in_top5 = torch.zeros((), device=device, dtype=torch.long)
    confusion = torch.zeros(num_classes, num_classes, device=device, dtype=torch.long)
    predictions: list[tuple[Tensor, Tensor]] = []
    batches = split_batches(len(split), batch_size, world)
    loaded = (batch if len(batch) else torch.zeros(1, dtype=torch.long) for batch in batches)
    for batch, (images, _) in zip(batches, iterate_batches(split, loaded, device), strict=True):
        with autocast(device, precision):
            logits = _compute_logits(model, images, preprocessing).float()[: len(batch)]
        labels = split.labels[batch].to(device, non_blocking=True)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        predicted = logits.argmax(1)
        confusion += metrics.count_confusion(labels, predicted, num_classes)
        if num_classes > 5:
            in_top5 += metrics.count_top_k(logits, labels, 5)
        if each_image:
            predictions.append((predicted, logits.softmax(1).gather(1, predicted[:, None])[:, 0]))
        after_batch()
    world.sum(loss_sum, in_top5, confusion)
    confusion = confusion.cpu()
    top5 = in_top5.item() / len(split) if num_classes > 5 else None
    result = Evaluation(loss_sum.item() / len(split), metrics.accuracy(confusion), top5, confusion)
    if each_image:
        predicted, confidence = (torch.cat(column) for column in zip(*predictions, strict=True))
        result.predictions = _gather(predicted, len(split), world)
        result.confidences = _gather(confidence, len(split), world)
    return result


def classify_features(head: nn.Linear, features: Tensor) -> Tensor:
    """Return the logits (n,K) of features (n,D,1,1) of a backbone."""
    return head(features.flatten(1))


def _compute_logits(model: VisionTransformer, images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the logits (n,K) of uint8 images (n,C,H,W), or of features (n,D,1,1) in their place."""
    if images.is_floating_point():
        return classify_features(model.head, images)
    return model(normalize(images, preprocessing.mean, preprocessing.std))


def split_batches(count: int, batch_size: int, world: World) -> list[Tensor]:
    """Return the positions of this process's images, batch by batch; the last ones may be empty."""
    positions = torch.arange(count)[world.rank :: world.size]
    rounds = -(-count // (batch_size * world.size))
    return [positions[batch_size * i : batch_size * (i + 1)] for i in range(rounds)]


def _gather(own: Tensor, count: int, world: World) -> Tensor:
    """Return the values (N,) for all images from those of each process, which has every `world.size`-th image."""
    all_values = torch.zeros(count, dtype=own.dtype, device=own.device)
    all_values[world.rank :: world.size] = own
    world.sum(all_values)  # each element is set by one process and zero in the others
    return all_values.cpu()


def validate(
    trainer: Trainer, split: Split, preprocessing: Preprocessing, after_batch: Callable[[], None]
) -> dict[str, Evaluation]:
    """Evaluate the "raw" weights and, if there is one, their moving average, "ema"."""
    size, precision, world = trainer.micro_batch_size, trainer.precision, trainer.world
    return {
        kind: evaluate(model, split, preprocessing, size, precision, world, after_batch)
        for kind, model in trainer.models().items()
    }


def choose_best(results: dict[str, Evaluation], wanted: str) -> str:
    """Return which weights to keep for `training.best=better|ema`: better has the higher accuracy, then lower loss."""
    if wanted == "ema":
        return "ema"
    return max(results, key=lambda kind: (results[kind].accuracy, -results[kind].loss))


def count_gflops(model: VisionTransformer) -> float:
    """Return the GFLOPs of the forward pass of one image, a multiply-add counted as two operations."""
    from torch.utils.flop_counter import FlopCounterMode

    # On the meta device nothing is computed, and the counter includes attention, which it misses on the CPU.
    weights = {id(weight): nn.Parameter(weight.detach().to("meta")) for weight in model.parameters()}
    shadow = copy.deepcopy(model, weights).to("meta").eval()  # the weights themselves are not copied
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, model.in_channels, *model.image_size, device="meta"))
    return counter.get_total_flops() / 1e9
