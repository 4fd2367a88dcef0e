"""When memory is too small: the same batch in smaller pieces, so that the experiment stays the same. And its peak."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..data.images import Preprocessing
from ..data.load import Split
from ..data.storage import Images
from .evaluation import evaluate
from .trainer import Trainer

# What MPS and the CPU say; a CUDA device has its own exception.
_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(message in text for message in _MESSAGES)
    )


def halve_micro_batch(trainer: Trainer) -> None:
    """Let the device take half as many images at once. Raises ValueError where that is less than one."""
    if trainer.micro_batch_size == 1:
        raise ValueError(
            "out of memory with a single image at once; a smaller model=, dataset.image_size or larger model.patch_size"
            ", training.gradient_checkpointing=true, or several devices with training.strategy=fsdp may help"
        )
    trainer.micro_batch_size = -(-trainer.micro_batch_size // 2)
    trainer.memory_is_short = True
    trainer.reset_scaler()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()


class OutOfMemory:
    """End the `with` block quietly where memory is too small, with a micro-batch half as large from then on.

    In a run of several processes it raises, with the key that helps, as the others would wait for this one for ever.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.too_small = False

    def __enter__(self) -> "OutOfMemory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.too_small = error is not None and is_out_of_memory(error)
        if self.too_small:
            halve_micro_batch(self._trainer)
        if self.too_small and self._trainer.world.size > 1:
            raise ValueError(
                f"out of memory in process {self._trainer.world.rank} of several; resume the run with "
                f"training.micro_batch_size={self._trainer.micro_batch_size}, which changes nothing else"
            ) from error
        return self.too_small


@dataclass
class Fit:
    """Seconds of the first training steps and evaluations, in which a model is compiled; of an image when it is."""

    first_seconds: float
    evaluation_seconds: float


def fit_memory(trainer: Trainer, split: Split, preprocessing: Preprocessing, num_evaluated: int = 0) -> Fit:
    """Find the micro-batch that fits: take whole training and evaluation steps, undo them, halve if need be.

    num_evaluated: for a compiled model the images of a validation, whose last batch, as that of training, is smaller
    and compiled on its own. To be called before anything is trained or loaded.
    """
    before = [local(parameter).to("cpu", copy=True) for parameter in trainer.model.parameters()]
    state, scaler = trainer.optimizer.state_dict(), trainer.scaler.state_dict()
    # All try again where one could not.
    while trainer.world.max(int((fit := _attempt(trainer, split, preprocessing, num_evaluated)) is None)):
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
    """Return the part of a parameter that lies on this device: all of it, but for sharded ones."""
    detached = tensor.detach()
    return detached.to_local() if hasattr(detached, "to_local") else detached


def _attempt(trainer: Trainer, split: Split, preprocessing: Preprocessing, num_evaluated: int) -> Fit | None:
    """Return what these steps took, None where memory was too small for them."""
    size = trainer.micro_batch_size
    trained = [trainer.batch_size, len(split) % trainer.batch_size if num_evaluated else 0]
    # Where the first step sees a part of the patches, the last one needs more memory.
    steps = (0, trainer.total_steps - 1) if trainer.patch_dropout else (0,)
    evaluated = [size, num_evaluated % size]
    try:
        first = sum(
            _time(trainer, partial(_train, trainer, split, count, step)) for count in trained if count for step in steps
        )
        first += sum(_time(trainer, partial(_evaluate, trainer, preprocessing, count)) for count in evaluated if count)
        again = _time(trainer, partial(_evaluate, trainer, preprocessing, size))
        return Fit(first, again / size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _train(trainer: Trainer, split: Split, count: int, step: int) -> None:
    batch = trainer.order(split, epoch=1)[:count]
    share = batch[trainer.share(len(batch))]
    # Twice the share is what mixing needs at most.
    images = split.images.take(batch[: 2 * len(share)] if trainer.world.size > 1 else batch).to(trainer.device)
    ratios = None if split.ratios is None else split.ratios[batch]
    trainer.network.train()
    # Replicas try on their own, as one that fails leaves the others waiting. Sharded models have no such way: their
    # gradients would stay where nothing clears them.
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
