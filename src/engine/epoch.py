"""An epoch: its batches, the sums over them, and what is looked at and decided between two steps.

Nothing waits for the device in between: losses and gradient norms stay there until someone looks.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..data import Split, iterate_batches
from ..signals import Interrupted, Interrupts
from .trainer import Progress, Trainer

LOOK_SECONDS = 0.5
SMALLEST_SCALE = 2.0**-14  # of the loss in half precision: below, gradients are not too large but broken


@dataclass
class Epoch:
    """Results of a training epoch: means over samples as seen (augmented), lr of the last step."""

    loss: float
    accuracy: float
    lr: float
    images_per_second: float


@dataclass
class StepWatch:
    """The losses and gradient norms of the steps since the last look. `loss` and `norm` are what was seen last."""

    trainer: Trainer
    split: Split
    loss: float = math.nan
    norm: float = math.nan
    _pending: list[tuple[int, float, Tensor, Tensor, Tensor]] = field(default_factory=list)
    _looked: float = field(default_factory=time.monotonic)
    _began: tuple[float, int] = (0.0, 0)

    def begin(self, progress: Progress) -> None:
        """Begin an epoch, or go on with it."""
        self._began = time.monotonic(), progress.seen

    def rate(self, progress: Progress) -> float:
        """Return images per second since the epoch began, or went on."""
        started, seen = self._began
        return (progress.seen - seen) / max(1e-9, time.monotonic() - started)

    def add(self, step: int, batch: Tensor, loss: Tensor, norm: Tensor) -> None:
        """Take what a step gave: its number in the whole run, the positions (B,) of its images."""
        self._pending.append((step, self.trainer.rate, batch, loss, norm))

    def due(self) -> bool:
        return time.monotonic() - self._looked >= LOOK_SECONDS

    def look(self) -> None:
        """Read what is pending from the device, at once. Raises FloatingPointError for the first step gone wrong."""
        if self._pending:
            values = torch.stack([torch.stack((loss, norm)).float() for *_, loss, norm in self._pending]).tolist()
            pending, self._pending = self._pending, []
            for (step, rate, batch, *_), (loss, norm) in zip(pending, values, strict=True):
                self._check(step, rate, batch, loss * self.trainer.world.size, norm)
            self.loss, self.norm = values[-1][0] * self.trainer.world.size, values[-1][1]
        self._looked = time.monotonic()

    def _check(self, step: int, rate: float, batch: Tensor, loss: float, norm: float) -> None:
        scale = self.trainer.loss_scale()
        if math.isfinite(loss) and (math.isfinite(norm) if scale is None else scale > SMALLEST_SCALE):
            return
        what = f"gradient norm became {norm}" if math.isfinite(loss) else f"training loss became {loss}"
        steps = self.trainer.steps_per_epoch(self.split)
        raise FloatingPointError(
            f"the {what} in epoch {step // steps + 1}, step {step % steps + 1} of {steps} (loss {loss:.4g}, gradient "
            f"norm {norm:.4g}, learning rate {rate:.3g}); a smaller training.lr, a longer scheduler.warmup_epochs, "
            f"training.clip_norm or training.precision=float32 may help\nits batch: {_name_images(self.split, batch)}"
        )


def _name_images(split: Split, batch: Tensor) -> str:
    positions = batch.tolist()
    names = [str(split.files[position]) if split.files else f"number {position}" for position in positions]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def train_steps(trainer: Trainer, split: Split, progress: Progress, watch: StepWatch) -> Iterator[None]:
    """Train what is left of an epoch; after each step, at each yield, `progress` is what continuing there needs.

    Whether loss and gradients are finite is seen when someone looks at `watch`, `summarize` at the latest.
    """
    trainer.network.train()
    watch.begin(progress)
    batches = trainer.order(split, progress.epoch).split(trainer.batch_size)
    first = (progress.epoch - 1) * len(batches)
    rest = list(enumerate(batches, start=first))[progress.step :]
    needed = (_needed_images(trainer, split, batch, step) for step, batch in rest)
    for (step, batch), (images, _) in zip(rest, iterate_batches(split, needed, trainer.device), strict=True):
        labels = split.labels[batch].to(trainer.device, non_blocking=True)
        ratios = None if split.ratios is None else split.ratios[batch]
        loss, right, norm = trainer.step(images, labels, ratios, step)
        progress.loss_sum += loss * len(batch)
        progress.num_right += right
        progress.step, progress.seen, progress.lr = step - first + 1, progress.seen + len(batch), trainer.rate
        watch.add(step, batch, loss, norm)
        yield


def _needed_images(trainer: Trainer, split: Split, batch: Tensor, step: int) -> Tensor:
    """Return the positions (n,) of the images that this process needs to make its share of a batch (B,)."""
    if trainer.world.size == 1:
        return batch
    ratios = None if split.ratios is None else split.ratios[batch]
    height, width = split.images.shape[2:]
    plan = trainer.draw(len(batch), (height, width), ratios, step)
    return batch[plan.rows(trainer.share(len(batch)))]


def summarize(trainer: Trainer, progress: Progress, watch: StepWatch) -> Epoch:
    """Return the means of what was trained of an epoch, over all processes, after a last look."""
    watch.look()
    sums = torch.stack((progress.loss_sum.double(), progress.num_right.double()))
    trainer.world.sum(sums)
    loss, right = (sums / progress.seen).tolist()
    return Epoch(loss, right, progress.lr, watch.rate(progress))


class TimeLimit:
    """What part of `training.max_minutes` is over, when `reserved` seconds are left for validation, test, figures."""

    def __init__(self, minutes: float | None, seconds: Callable[[], float], reserved: float) -> None:
        """seconds: tells how long the run has taken by now."""
        self._minutes, self._seconds, self._reserved = minutes, seconds, reserved

    def share(self) -> float:
        """Return 1 or more when it is time to end, 0 without a limit."""
        if self._minutes is None:
            return 0.0
        return self._seconds() / max(1e-9, 60 * self._minutes - self._reserved)


class Pulse:
    """What is decided between two steps, by all processes alike: to look, to save, to stop, to end in time.

    The trainer's schedule follows the time that is over.
    """

    def __init__(
        self,
        watch: StepWatch,
        interrupts: Interrupts,
        limit: TimeLimit,
        save_due: Callable[[], bool],
        save: Callable[[], None],
    ) -> None:
        """save_due: whether it is time to save again; save: does it."""
        self._watch, self._trainer = watch, watch.trainer
        self._interrupts, self._limit = interrupts, limit
        self._save_due, self._save = save_due, save
        self._agreement = self._trainer.world.agreement(4)
        self._trainer.time_share = self._trainer.world.max(limit.share())
        self._agreement([0.0, 0.0, 0.0, self._trainer.time_share])  # what several processes hear at the first beat

    @property
    def time_is_up(self) -> bool:
        return self._trainer.time_share >= 1

    def beat(self) -> None:
        """Look and save where it is time. Raises Interrupted, after saving, where a process was told to end."""
        wanted = self._interrupts.received or 0, self._watch.due(), self._save_due(), self._limit.share()
        number, look, save, self._trainer.time_share = self._agreement([float(value) for value in wanted])
        if look or save or number:
            self._watch.look()  # so that weights that are no numbers any more never replace good ones
        if save or number:
            self._save()
        if number:
            raise Interrupted(int(number))

    def stop(self) -> None:
        """Let signals end the run at once from here on; raises Interrupted for one that came after the last beat."""
        number = self._trainer.world.max(int(self._interrupts.received or 0))
        self._interrupts.defer = False
        if number:
            raise Interrupted(number)
