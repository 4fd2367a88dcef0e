"""A training step of the engine on made images, in any of the settings that the benchmarks of a step compare.

The default setting is their base: float32, torch's own kernels, one micro-batch, mean pooling (64 tokens at 32 px),
fused AdamW, foreach EMA and clipping, light augmentation where the images are, label smoothing, nothing read back.
"""

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as train.py does, before torch is there
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from src.augment.pipeline import Augmentation
from src.config.compose import compose_config
from src.config.resolve import complete
from src.engine import trainer as trainer_module
from src.engine.evaluation import count_gflops
from src.engine.trainer import Trainer
from src.machine.devices import autocast, choose_kernels
from src.model import VisionTransformer
from src.optim import ExponentialMovingAverage, LearningRate, build_optimizer, parameter_groups

SIZES = {
    "32px": ["model=vit_tiny", "model.num_layers=9"],  # patch 4, D 192, 3 heads
    "tiny": ["model=vit_tiny", "model.image_size=[224,224]"],
    "small": ["model=vit_small", "model.image_size=[224,224]"],
}
NUM_CLASSES, WARMUP = 10, 3


@dataclass(frozen=True)
class Setting:
    """One way to take a step; the defaults are the base, but for what the command line says."""

    size: str
    batch: int
    threads: int
    device: torch.device
    precision: torch.dtype = torch.float32
    kernels: str = "torch"  # or "ours", or "attention": in whole products, everything else torch's
    optimizer: str = "fused"
    pooling: str = "mean"
    pieces: int = 1  # micro-batches
    compiled: bool = False
    patch_dropout: float = 0.0
    looped: str = ""  # what goes parameter by parameter: "EMA" or "clip"
    read_loss: bool = False
    flush: bool = False
    host_images: bool = False
    graph: str = ""  # "tensor": the learning rate in one; "captured": that, and the step in a CUDA graph


def lerp_in_loop(averages: list[Tensor], parameters: list[Tensor], share: float) -> None:
    for average, parameter in zip(averages, parameters, strict=True):
        average.lerp_(parameter, share)


# What takes the place of what, to do without foreach.
LOOPS: dict[str, list[tuple[Any, str, Callable]]] = {
    "": [],
    "EMA": [(torch, "_foreach_lerp_", lerp_in_loop)],
    "clip": [
        (nn.utils, name, partial(getattr(nn.utils, name), foreach=False))
        for name in ("get_total_norm", "clip_grads_with_norm_")
    ],
}


class TensorStep:
    """A step with the learning rate in a tensor; all of it behind the augmentation in a CUDA graph if captured.

    The EMA's decay is that of the end, as a number is part of a captured graph.
    """

    def __init__(self, trainer: Trainer, images: Tensor, labels: Tensor, captured: bool) -> None:
        self.trainer, self.labels = trainer, labels.clone()
        self.rate = torch.zeros((), device=trainer.device)
        groups = parameter_groups(trainer.model, trainer.optimizer.param_groups[0]["weight_decay"])
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, fused=True, capturable=True)
        self.images = self._augment(images, labels, 0).clone()
        self.graph = None
        if captured:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what is made lazily is made outside of the capture
                for _ in range(3):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> None:
        self.rate.fill_(self.trainer.learning_rate(step))
        self.images.copy_(self._augment(images, labels, step))
        self.labels.copy_(labels)
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def _augment(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        plan = self.trainer.draw(len(labels), (images.shape[2], images.shape[3]), None, step)
        return self.trainer.augmentation.apply(images, plan)

    def _step(self) -> None:
        trainer = self.trainer
        parameters = list(trainer.model.parameters())
        self.optimizer.zero_grad(set_to_none=True)  # so that the captured backward pass writes, and does not add
        with autocast(trainer.device, trainer.precision):
            logits = trainer.network(self.images)
        nn.functional.cross_entropy(logits.float(), self.labels, label_smoothing=trainer.label_smoothing).backward()
        norm = trainer_module.grad_norm(parameters)
        assert trainer.clip_norm is not None and trainer.ema is not None  # as `build_trainer` has it
        trainer_module.clip_gradients(parameters, norm, trainer.clip_norm)
        self.optimizer.step()
        trainer.ema.update(trainer.model, 10**9)


class Runner:
    """Takes steps in one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.count = setting, 0
        self.trainer = build_trainer(setting)
        self.gflops = 3 * count_gflops(self.trainer.model) * setting.batch  # the backward pass costs two forward ones
        if setting.compiled:
            self.trainer.model.compile()
        if setting.host_images:
            self.trainer.model.register_forward_pre_hook(lambda _, given: (given[0].to(setting.device),))
        generator = torch.Generator().manual_seed(0)
        stored = self.trainer.augmentation.stored_size
        place = torch.device("cpu") if setting.host_images else setting.device
        images = torch.randint(256, (4, setting.batch, 3, *stored), generator=generator, dtype=torch.uint8)
        labels = torch.randint(NUM_CLASSES, (4, setting.batch), generator=generator)
        self.images, self.labels = images.to(place), labels.to(setting.device)
        self.special: TensorStep | None = None
        with self.state():
            if setting.graph:
                captured = setting.graph == "captured"
                self.special = TensorStep(self.trainer, self.images[0], self.labels[0], captured)
            self.take(WARMUP)

    @contextlib.contextmanager
    def state(self) -> Iterator[None]:
        """Set what holds for the process, and put it back."""
        setting, trainer = self.setting, self.trainer
        torch.set_num_threads(setting.threads)
        torch.set_flush_denormal(setting.flush)
        try:
            if setting.kernels == "ours":
                choose_kernels(setting.device, self.gflops, trainer.model.num_tokens)
            if setting.kernels == "attention":
                torch.backends.cuda.enable_flash_sdp(False)
            with contextlib.ExitStack() as stack:
                for owner, name, looped in LOOPS[setting.looped]:
                    stack.enter_context(mock.patch.object(owner, name, looped))
                yield
        finally:
            torch.set_flush_denormal(False)
            choose_kernels(setting.device, 0, 1)  # torch's own
            torch.backends.cuda.enable_flash_sdp(True)

    def take(self, steps: int) -> None:
        for _ in range(steps):
            images, labels = self.images[self.count % 4], self.labels[self.count % 4]
            if self.special is not None:
                self.special(images, labels, self.count)
            else:
                loss, _, _ = self.trainer.step(images, labels, None, self.count)
                if self.setting.read_loss:
                    loss.item()
            self.count += 1
        synchronize(self.setting.device)

    def rate(self, steps: int) -> float:
        """Return images per second."""
        with self.state():
            synchronize(self.setting.device)
            started = time.perf_counter()
            self.take(steps)
            return steps * self.setting.batch / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def build_trainer(setting: Setting) -> Trainer:
    """Build a trainer as train.py does."""
    optimizer = "muon" if setting.optimizer == "muon" else "adamw"
    overrides = ["dataset=cifar10", *SIZES[setting.size], f"model.pooling={setting.pooling}", f"optimizer={optimizer}"]
    config = compose_config(*overrides, "training.ema=0.999", "augmentation=light")
    config = complete(
        config, 64 * setting.batch, num_classes=NUM_CLASSES, in_channels=3, mean=[0.5] * 3, std=[0.25] * 3
    )
    parts = asdict(config.augmentation)
    del parts["mix_off_share"], parts["repeats"]
    shape, mean, std = config.model.image_size, (0.5,) * 3, (0.25,) * 3
    augmentation = Augmentation(size=shape, mean=mean, std=std, num_classes=NUM_CLASSES, **parts)
    torch.manual_seed(0)
    model = VisionTransformer(**asdict(config.model)).to(setting.device).train()
    made = build_optimizer(model, config.optimizer)
    if setting.optimizer in ("default", "foreach"):
        groups = parameter_groups(model, config.optimizer.weight_decay)
        made = torch.optim.AdamW(groups, config.optimizer.lr, foreach=True if setting.optimizer == "foreach" else None)
    return Trainer(
        model=model,
        network=model,
        optimizer=made,
        learning_rate=LearningRate(config.scheduler, config.optimizer.lr, 64, config.training.epochs),
        augmentation=augmentation,
        device=setting.device,
        precision=setting.precision,
        seed=0,
        batch_size=setting.batch,
        micro_batch_size=-(-setting.batch // setting.pieces),
        total_steps=64 * config.training.epochs,
        label_smoothing=config.training.label_smoothing,
        clip_norm=config.training.clip_norm,
        patch_dropout=setting.patch_dropout,
        ema=ExponentialMovingAverage(model, 0.999),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="32px")
    parser.add_argument("--batch", type=int, default=16)


def read_base(given: argparse.Namespace) -> Setting:
    torch.set_num_threads(given.threads)
    return Setting(given.size, given.batch, given.threads, torch.device(given.device))


def print_header(base: Setting) -> None:
    """Print the command, the versions and the machine, and what `choose_kernels` does there."""
    cpu, cuda = torch.backends.cpu.get_cpu_capability(), base.device.type == "cuda"
    place = torch.cuda.get_device_name(base.device) if cuda else cpu
    print(f"python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {base.device} ({place}), {date.today()}")
    model = build_trainer(base).model
    gflops = 3 * count_gflops(model) * base.batch
    threads = f"{base.threads} thread{'s' * (base.threads > 1)}"
    print(f"{base.size}: {model.num_tokens} tokens, {gflops:.1f} GFLOP a step of {base.batch} images, {threads}")
    changed = choose_kernels(base.device, gflops, model.num_tokens)
    choose_kernels(base.device, 0, 1)
    print(f"choose_kernels {'changes' if changed else 'keeps'} the kernels for it\n", flush=True)
