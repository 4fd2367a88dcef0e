"""An epoch: its batches, the sums over them, and what is checked between two steps.

Steps do not wait for the device: losses and gradient norms stay there until `StepWatch.read`.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import metrics
from ..data.batches import iterate_batches
from ..data.load import Split
from ..signals import Interrupted, Interrupts
from .evaluation import Evaluation
from .trainer import Progress, Trainer

READ_SECONDS = 0.5
SMALLEST_SCALE = 2.0**-14  # of the fp16 loss; if it gets smaller, gradients are not too large but NaN


@dataclass
class Epoch:
    """Results of a training epoch: means over the augmented samples, lr of the last step."""

    loss: float
    accuracy: float
    lr: float
    images_per_second: float


@dataclass
class StepWatch:
    """The losses and gradient norms of the steps. They stay on the device until `read` sets `loss` and `norm`."""

    trainer: Trainer
    split: Split
    loss: float = math.nan
    norm: float = math.nan
    _pending: list[tuple[int, float, Tensor, Tensor, Tensor]] = field(default_factory=list)
    _last_read: float = field(default_factory=time.monotonic)
    _start: tuple[float, int] = (0.0, 0)  # time and number of images

    def start_epoch(self, progress: Progress) -> None:
        """Start measuring the speed, at the start of an epoch or at the step where it continues."""
        self._start = time.monotonic(), progress.seen

    def rate(self, progress: Progress) -> float:
        """Return images per second since `start_epoch`."""
        started, seen = self._start
        return (progress.seen - seen) / max(1e-9, time.monotonic() - started)

    def add(self, step: int, batch: Tensor, loss: Tensor, norm: Tensor) -> None:
        """Add a step: its number in the whole run, the positions (B,) of its images, and its results."""
        self._pending.append((step, self.trainer.rate, batch, loss, norm))

    def due(self) -> bool:
        return time.monotonic() - self._last_read >= READ_SECONDS

    def read(self) -> None:
        """Read the pending results from the device, all at once.

        Raises FloatingPointError for the first step whose loss or gradient is not finite.
        """
        if self._pending:
            values = torch.stack([torch.stack((loss, norm)).float() for *_, loss, norm in self._pending]).tolist()
            pending, self._pending = self._pending, []
            for (step, rate, batch, *_), (loss, norm) in zip(pending, values, strict=True):
                self._check(step, rate, batch, loss * self.trainer.world.size, norm)
            self.loss, self.norm = values[-1][0] * self.trainer.world.size, values[-1][1]
        self._last_read = time.monotonic()

    def _check(self, step: int, rate: float, batch: Tensor, loss: float, norm: float) -> None:
        scale = self.trainer.loss_scale()
        if math.isfinite(loss) and (math.isfinite(norm) if scale is None else scale > SMALLEST_SCALE):
            return
        problem = f"gradient norm became {norm}" if math.isfinite(loss) else f"training loss became {loss}"
        steps = self.trainer.steps_per_epoch(self.split)
        raise FloatingPointError(
            f"the {problem} in epoch {step // steps + 1}, step {step % steps + 1} of {steps} (loss {loss:.4g}, "
            f"gradient norm {norm:.4g}, learning rate {rate:.3g}); a smaller training.lr, a longer "
            "scheduler.warmup_epochs, training.clip_norm or training.precision=float32 may help\n"
            f"images of this batch: {_name_images(self.split, batch)}"
        )


def _name_images(split: Split, batch: Tensor) -> str:
    positions = batch.tolist()
    names = [str(split.files[position]) if split.files else f"number {position}" for position in positions]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def train_steps(trainer: Trainer, split: Split, progress: Progress, watch: StepWatch) -> Iterator[None]:
    """Train the remaining steps of an epoch; yield after each, when `progress` is up to date for a checkpoint.

    A loss or gradient that is not finite is noticed at the next `watch.read`, in `summarize` at the latest.
    """
    trainer.network.train()
    watch.start_epoch(progress)
    batches = trainer.order(split, progress.epoch).split(trainer.batch_size)
    first = (progress.epoch - 1) * len(batches)
    rest = list(enumerate(batches, start=first))[progress.step :]
    needed = (_needed_images(trainer, split, batch, step) for step, batch in rest)
    for (step, batch), (images, _) in zip(rest, iterate_batches(split, needed, trainer.device), strict=True):
        labels = split.labels[batch].to(trainer.device, non_blocking=True)
        ratios = None if split.ratios is None else split.ratios[batch]
        loss, correct, norm = trainer.step(images, labels, ratios, step)
        progress.loss_sum += loss * len(batch)
        progress.num_correct += correct
        progress.step, progress.seen, progress.lr = step - first + 1, progress.seen + len(batch), trainer.rate
        watch.add(step, batch, loss, norm)
        yield


def _needed_images(trainer: Trainer, split: Split, batch: Tensor, step: int) -> Tensor:
    """Return the positions (n,) of the images that this process needs for its share of a batch (B,)."""
    if trainer.world.size == 1:
        return batch
    ratios = None if split.ratios is None else split.ratios[batch]
    height, width = split.images.shape[2:]
    plan = trainer.draw(len(batch), (height, width), ratios, step)
    return batch[plan.rows(trainer.share(len(batch)))]


def summarize(trainer: Trainer, progress: Progress, watch: StepWatch) -> Epoch:
    """Return the means over the steps of an epoch so far, of all processes."""
    watch.read()
    sums = torch.stack((progress.loss_sum.double(), progress.num_correct.double()))
    trainer.world.sum(sums)
    loss, accuracy = (sums / progress.seen).tolist()
    return Epoch(loss, accuracy, progress.lr, watch.rate(progress))


def make_row(progress: Progress, trained: Epoch, validated: dict[str, Evaluation]) -> dict[str, float]:
    """Return an epoch's row of metrics.csv; for averaged weights it has only loss and accuracy."""
    raw = validated["raw"]
    precision, recall, f1 = metrics.macro(raw.confusion)
    row = {
        "epoch": progress.epoch,
        "lr": trained.lr,
        "train_loss": trained.loss,
        "train_acc": trained.accuracy,
        "val_loss": raw.loss,
        "val_acc": raw.accuracy,
        "val_precision": precision,
        "val_recall": recall,
        "val_f1": f1,
        "images_per_second": round(trained.images_per_second, 1),
    }
    if "ema" in validated:
        row |= {"ema_val_loss": validated["ema"].loss, "ema_val_acc": validated["ema"].accuracy}
    return row


class TimeLimit:
    """The limit `training.max_minutes`, with `reserved` seconds kept for validation, test, and figures."""

    def __init__(self, minutes: float | None, seconds: Callable[[], float], reserved: float) -> None:
        """seconds: returns how long the run has taken so far."""
        self._minutes, self._seconds, self._reserved = minutes, seconds, reserved

    def time_used(self) -> float:
        """Return the fraction of the time for training that has passed: 1 or more ends it, 0 without a limit."""
        if self._minutes is None:
            return 0.0
        return self._seconds() / max(1e-9, 60 * self._minutes - self._reserved)


class StepControl:
    """Checks between two steps, with the same outcome in all processes: read losses, save, stop, end at the time limit.

    Also sets `Trainer.time_used`, which its schedule follows.
    """

    def __init__(
        self,
        watch: StepWatch,
        interrupts: Interrupts,
        limit: TimeLimit,
        save_due: Callable[[], bool],
        save: Callable[[], None],
    ) -> None:
        """save_due: returns whether to save a checkpoint now; save: saves it."""
        self._watch, self._trainer = watch, watch.trainer
        self._interrupts, self._limit = interrupts, limit
        self._save_due, self._save = save_due, save
        self._agreement = self._trainer.world.agreement(4)
        self._trainer.time_used = self._trainer.world.max(limit.time_used())
        self._agreement([0.0, 0.0, 0.0, self._trainer.time_used])  # several processes get this in the first check

    @property
    def time_is_up(self) -> bool:
        return self._trainer.time_used >= 1

    def check(self) -> None:
        """Read losses and save a checkpoint if due. Raises Interrupted, after saving, if any process got a signal."""
        wanted = self._interrupts.received or 0, self._watch.due(), self._save_due(), self._limit.time_used()
        number, read, save, self._trainer.time_used = self._agreement([float(value) for value in wanted])
        if read or save or number:
            self._watch.read()  # before saving, so that NaN weights never replace good ones
        if save or number:
            self._save()
        if number:
            raise Interrupted(int(number))

    def finish(self) -> None:
        """Let signals end the run immediately from now on. Raises Interrupted if one came after the last check."""
        number = self._trainer.world.max(int(self._interrupts.received or 0))
        self._interrupts.defer = False
        if number:
            raise Interrupted(number)
