"""Features of a frozen backbone, computed once for the whole run: what is left to train is a linear layer.

They take the place of the images: a feature vector is an image of one pixel with D channels. What trains on images
(order, sampling, loss, averages, checkpoints) trains on them as it is.

Letters: N images, n in a batch, D embedding dimension, K classes.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..augment.geometry import Moves
from ..augment.normalize import normalize
from ..augment.pipeline import Augmentation, Plan
from ..data.batches import iterate_batches
from ..data.images import Preprocessing, Track
from ..data.load import Data, Split
from ..data.storage import Images, choose_place
from ..distributed.states import is_sharded
from ..machine.devices import autocast
from ..machine.memory import format_bytes
from ..model import VisionTransformer
from .evaluation import classify_features, split_batches
from .trainer import Trainer


class Head(nn.Module):
    """Map features (n,D,1,1) to logits (n,K) with the model's own head, so that training it trains the model."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.head = model.head

    def forward(self, features: Tensor) -> Tensor:
        return classify_features(self.head, features)


class Unchanged(Augmentation):
    """An augmentation for features, which pass as they are; at strength 0, the usual one rounds them to levels."""

    def draw(self, batch: int, *_: Any, **__: Any) -> Plan:
        nothing = torch.empty(batch, 0)
        return Plan(Moves(nothing, nothing, nothing), nothing, nothing, nothing, mixing=None)

    def move_and_color(self, images: Tensor, plan: Plan) -> Tensor:
        return images

    def finish(self, levels: Tensor, plan: Plan, part: slice = slice(None)) -> Tensor:
        return levels[part]


def replace_images(
    trainer: Trainer, data: Data, changing: str, seconds_per_image: float, seconds_left: float, track: Track
) -> tuple[Data, list[str]]:
    """Return the data with features in place of images, on which the trainer then trains, and lines for the log.

    Those of validation images never change; changing: what changes those of training images, "" for nothing. Images
    stay where there is no room in memory for features, or no time: seconds_per_image of an evaluation. Collective.
    """
    world = trainer.world
    again = changing or ("there are several processes" if world.size > 1 else "")
    splits = {name: split for name, split in data.splits().items() if name == "val" or (name == "train" and not again)}
    count = sum(map(len, splits.values()))
    place, num_bytes = _find_place(trainer, count)
    seconds = count * seconds_per_image / world.size
    refusals = [
        ("training.strategy=fsdp spreads the backbone over the devices", is_sharded(trainer.model.head.weight)),
        (f"{format_bytes(num_bytes)} do not fit into memory", not place),
        (
            f"all at once they take {seconds / 60:.1f} min, more than training.max_minutes leaves",
            seconds > seconds_left,
        ),
    ]
    for why, holds in refusals:
        if world.max(int(holds)):
            return data, [f"computed anew in each epoch, as {why}"]
    started, device = time.perf_counter(), trainer.device if place == "device" else torch.device("cpu")
    stored = {
        name: replace(split, images=_compute(trainer, split, data.preprocessing, device, track), ratios=None)
        for name, split in splits.items()
    }
    data = replace(data, train=stored.get("train", data.train), val=stored["val"])
    seconds = time.perf_counter() - started
    counts = " + ".join(f"{len(split):,}" for split in splits.values())
    size = f"{format_bytes(num_bytes)} {'on the device' if place == 'device' else 'in memory'}"
    line = f"{counts} images × {trainer.model.embedding_dim} numbers ({size}), computed once in {seconds:.1f} s"
    if again:
        return data, [f"of validation: {line}", f"of training: computed anew in each epoch, as {again}"]
    _train_on_features(trainer)
    return data, [f"{line}: nothing random stands before the head"]


def _find_place(trainer: Trainer, count: int) -> tuple[str, int]:
    """Return where the features of so many images fit, device | memory | "" for nowhere, and their bytes."""
    num_bytes = 4 * count * trainer.model.embedding_dim
    place, _ = choose_place("auto", num_bytes, trainer.device)
    return "" if place == "disk" else place, num_bytes


@torch.no_grad()
def _compute(trainer: Trainer, split: Split, look: Preprocessing, device: torch.device, track: Track) -> Images:
    """Return the features (N,D,1,1) of a split, on the device given; each process computes its share of them."""
    model, world = trainer.model.eval(), trainer.world
    features = torch.zeros(len(split), model.embedding_dim, 1, 1, device=trainer.device if world.size > 1 else device)
    batches = [batch for batch in split_batches(len(split), trainer.micro_batch_size, world) if len(batch)]
    loaded = iterate_batches(split, batches, trainer.device)
    for images, batch in track(loaded, len(batches), "computing features"):
        with autocast(trainer.device, trainer.precision):
            x = model.pool(model.forward_features(normalize(images, look.mean, look.std)))  # (n, D)
        features[batch.to(features.device)] = x.float()[:, :, None, None].to(features.device)
    world.sum(features)  # each row is set by one process and zero in the others
    return Images(features.to(device))


def _train_on_features(trainer: Trainer) -> None:
    """Let the trainer train the head on features in place of the whole model on images."""
    trainer.network = Head(trainer.model)
    trainer.augmentation = Unchanged(size=(1, 1), mean=(), std=(), num_classes=trainer.augmentation.num_classes)


def count_evaluated(trainer: Trainer, data: Data) -> int:
    """Return how many images the evaluations of the last epoch and of the test pass through the whole model."""
    stored = isinstance(data.val.images, Images) and data.val.images.holds_features
    return len(data.test) + (0 if stored else len(data.val) * len(trainer.models()))
