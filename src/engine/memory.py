"""Out of memory: the same batch in smaller micro-batches, and models that cannot fit.

The gradients stay those of the whole batch, except for the masks of dropout, drop path and patch dropout, which are
drawn for each micro-batch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config.size import estimate_parameters
from ..data.images import Preprocessing
from ..data.load import Split
from ..data.storage import Images
from .evaluation import evaluate
from .trainer import Trainer

# Of MPS and the CPU; a CUDA device raises its own exception. The last two are oneDNN's and the C++ library's.
_MESSAGES = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    *("could not create a primitive", "bad_alloc"),
)


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(message in text for message in _MESSAGES)
    )


def halve_micro_batch(trainer: Trainer) -> None:
    """Halve the micro-batch. Raises ValueError if it is a single image already."""
    if trainer.micro_batch_size == 1:
        raise ValueError(
            "out of memory with a single image at once; a smaller model=, dataset.image_size or larger model.patch_size"
            ", training.gradient_checkpointing=true, or several devices with training.strategy=fsdp may help"
        )
    trainer.micro_batch_size = -(-trainer.micro_batch_size // 2)
    trainer.micro_batch_reduced = True
    trainer.reset_scaler()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()


class OutOfMemory:
    """A `with` block that ends early when memory runs out; `ran_out` is then set, and the micro-batch halved.

    With several processes it raises ValueError instead, because the others would wait for this one forever.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.ran_out = False

    def __enter__(self) -> "OutOfMemory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.ran_out = error is not None and is_out_of_memory(error)
        if self.ran_out:
            halve_micro_batch(self._trainer)
        if self.ran_out and self._trainer.world.size > 1:
            raise ValueError(
                f"out of memory in process {self._trainer.world.rank}; resume the run with "
                f"training.micro_batch_size={self._trainer.micro_batch_size}, which does not change the results"
            ) from error
        return self.ran_out


# Copies of the weights that each optimizer keeps, such as the two moments of Adam; the others keep one.
MOMENTS = {"adamw": 2, "adam": 2}


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights that are saved, in which adapters are merged."""
    return sum(weight.numel() for weight in model.state_dict().values())


def estimate_memory(config: Any, shards: int) -> int:
    """Return a lower bound of the bytes that training a configured model on one image takes, before it is built.

    shards: the number of devices that share weights, gradients and moments.
    """
    model, training = config.model, config.training
    height, width = model.image_size
    tokens = (height // model.patch_size) * (width // model.patch_size) * (1 - (training.patch_dropout or 0.0))
    hidden = int(model.embedding_dim * model.mlp_ratio)
    # Of each block and token, in half precision: what its products and norms were computed from.
    kept = 0 if training.gradient_checkpointing else 2 * (6 * model.embedding_dim + hidden)
    reached = config.init.freeze is None  # gradients pass through all blocks, also if only adapters are trained
    trained = reached and config.init.lora_rank is None
    copies = 1 + trained * (1 + MOMENTS.get(config.optimizer.name, 1)) + (training.ema is not None)
    activations = reached * model.num_layers * tokens * kept
    return round(4 * copies * estimate_parameters(model) / shards + activations)


@dataclass
class Fit:
    """How long steps take when they fit into memory."""

    first_seconds: float  # the first training and evaluation steps, compiling included
    evaluation_seconds: float  # per image, once compiled


def fit_memory(trainer: Trainer, split: Split, preprocessing: Preprocessing, num_evaluated: int = 0) -> Fit:
    """Find the micro-batch that fits: try whole training and evaluation steps, halve it until they do, undo the steps.

    num_evaluated: for a compiled model, the number of validation images: smaller last batches, in validation and
    training, are compiled separately. Call this before anything is trained, or loaded from a checkpoint.
    """
    before = [local(parameter).to("cpu", copy=True) for parameter in trainer.model.parameters()]
    state, scaler = trainer.optimizer.state_dict(), trainer.scaler.state_dict()
    # If one process runs out of memory, all of them try again.
    while trainer.world.max(int((fit := _try_steps(trainer, split, preprocessing, num_evaluated)) is None)):
        halve_micro_batch(trainer)
    assert fit is not None
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.optimizer.load_state_dict(state)
    if scaler:
        trainer.scaler.load_state_dict(scaler)
    with torch.no_grad():
        for parameter, value in zip(trainer.model.parameters(), before, strict=True):
            local(parameter).copy_(value)
        if trainer.ema is not None:
            for parameter, value in zip(trainer.ema.model.parameters(), before, strict=True):
                local(parameter).copy_(value)
    return fit


def local(tensor: Tensor) -> Tensor:
    """Return the part of a parameter that is on this device: all of it, unless it is sharded."""
    detached = tensor.detach()
    return detached.to_local() if hasattr(detached, "to_local") else detached


def _try_steps(trainer: Trainer, split: Split, preprocessing: Preprocessing, num_evaluated: int) -> Fit | None:
    """Return how long the steps took, None if they ran out of memory."""
    size = trainer.micro_batch_size
    trained = [trainer.batch_size, len(split) % trainer.batch_size if num_evaluated else 0]
    # With patch dropout, the last step may see more patches than the first, and then needs more memory.
    steps = (0, trainer.total_steps - 1) if trainer.patch_dropout else (0,)
    evaluated = [size, num_evaluated % size]
    try:
        first = sum(
            _time(trainer, partial(_train, trainer, split, count, step)) for count in trained if count for step in steps
        )
        first += sum(_time(trainer, partial(_evaluate, trainer, preprocessing, count)) for count in evaluated if count)
        again = _time(trainer, partial(_evaluate, trainer, preprocessing, size))
        return Fit(first, again / size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _train(trainer: Trainer, split: Split, count: int, step: int) -> None:
    batch = trainer.order(split, epoch=1)[:count]
    share = batch[trainer.share(len(batch))]
    # With mixing, a process needs at most twice as many images as its share.
    images = split.images.take(batch[: 2 * len(share)] if trainer.world.size > 1 else batch).to(trainer.device)
    ratios = None if split.ratios is None else split.ratios[batch]
    trainer.network.train()
    # Replicas do not synchronize here, because they would wait for one that runs out of memory. Sharded models have to:
    # unsynchronized gradients would stay in places that nothing clears.
    sync = trainer.network is trainer.model
    trainer.step(images, split.labels[batch].to(trainer.device), ratios, step, sync=sync)


def _evaluate(trainer: Trainer, preprocessing: Preprocessing, count: int) -> None:
    height, width = preprocessing.size
    black = Images(torch.zeros(count, preprocessing.channels, height, width, dtype=torch.uint8))
    made = Split(black, torch.zeros(count, dtype=torch.long))
    evaluate(trainer.model, made, preprocessing, count, trainer.precision)


def _time(trainer: Trainer, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - started
