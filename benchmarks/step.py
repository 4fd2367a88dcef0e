"""A training step on random images, as train.py builds it, in the settings that the benchmarks of a step compare.

The default setting is their baseline: float32, torch's default kernels, one micro-batch, mean pooling (64 tokens at
32 px), fused AdamW, EMA and clipping with foreach, light augmentation on the device of the images, label smoothing, and
no result read from the device.
"""

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported, as in src/__init__.py
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from src import build
from src.config.compose import compose_config
from src.config.resolve import complete
from src.data.images import Preprocessing
from src.engine import trainer as trainer_module
from src.engine.evaluation import count_gflops
from src.engine.trainer import Trainer
from src.engine.trial import Work, choose_kernels, compile_blocks, use_kernels
from src.machine.devices import autocast
from src.machine.kernels import Kernels, Wanted
from src.machine.processor import describe_processor
from src.model import VisionTransformer
from src.optim import parameter_groups

SIZES = {
    "32px": ["model=vit_tiny", "model.num_layers=9"],  # patch 4, D 192, 3 heads
    "tiny": ["model=vit_tiny", "model.image_size=[224,224]"],
    "small": ["model=vit_small", "model.image_size=[224,224]"],
}
NUM_CLASSES, WARMUP, STEPS_PER_EPOCH = 10, 3, 64


@dataclass(frozen=True)
class Setting:
    """How a step is computed. The defaults are the baseline; the others are set on the command line."""

    size: str
    batch: int
    threads: int
    device: torch.device
    precision: str = "float32"  # or "bf16"; with kernels="ours" also "auto"
    kernels: str = "torch"  # or "ours"; or "attention": torch's, but attention not fused
    optimizer: str = "fused"
    pooling: str = "mean"
    micro_batches: int = 1
    compiled: bool = False
    patch_dropout: float = 0.0
    looped: str = ""  # what loops over parameters instead of using foreach: "EMA" or "clip"
    read_loss: bool = False
    flush: bool = False
    host_images: bool = False
    graph: str = ""  # "tensor": the learning rate in a tensor; "captured": also the step in a CUDA graph


def lerp_in_loop(averages: list[Tensor], parameters: list[Tensor], share: float) -> None:
    for average, parameter in zip(averages, parameters, strict=True):
        average.lerp_(parameter, share)


# What to replace, and by what, to avoid foreach.
LOOPS: dict[str, list[tuple[Any, str, Callable]]] = {
    "": [],
    "EMA": [(torch, "_foreach_lerp_", lerp_in_loop)],
    "clip": [
        (nn.utils, name, partial(getattr(nn.utils, name), foreach=False))
        for name in ("get_total_norm", "clip_grads_with_norm_")
    ],
}


class TensorStep:
    """A step with the learning rate in a tensor; if captured, all of it after the augmentation is a CUDA graph.

    The EMA has its final decay, because numbers are constants in a captured graph.
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
            with torch.cuda.stream(stream):  # whatever is allocated lazily must be outside of the capture
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
        self.optimizer.zero_grad(set_to_none=True)  # so that the captured backward pass writes instead of adding
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
        self.kernels = choose_ways(setting, self.trainer.model)
        self.trainer.precision = self.kernels.dtype
        self.gflops = 3 * count_gflops(self.trainer.model) * setting.batch  # the backward pass costs two forward passes
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
            if setting.compiled:
                compile_blocks(self.trainer.model)
            if setting.graph:
                captured = setting.graph == "captured"
                self.special = TensorStep(self.trainer, self.images[0], self.labels[0], captured)
            self.take(WARMUP)

    @contextlib.contextmanager
    def state(self) -> Iterator[None]:
        """Set threads, kernels and the like for this setting, and reset them afterwards."""
        setting = self.setting
        reset_kernels(setting)
        torch.set_flush_denormal(setting.flush)
        try:
            use_kernels(self.trainer.model, self.kernels)
            with contextlib.ExitStack() as stack:
                for owner, name, looped in LOOPS[setting.looped]:
                    stack.enter_context(mock.patch.object(owner, name, looped))
                yield
        finally:
            torch.set_flush_denormal(False)
            reset_kernels(setting)

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


def reset_kernels(setting: Setting) -> None:
    """Set the setting's threads and torch's default kernels."""
    Kernels("float32", "torch", "fused", setting.threads).use()


def choose_ways(setting: Setting, model: VisionTransformer) -> Kernels:
    """Return the setting's kernels: torch's default, or those that train.py finds by trial."""
    if setting.kernels != "ours":
        attention = "whole" if setting.kernels == "attention" else "fused"
        return Kernels(setting.precision, "torch", attention, setting.threads)
    work = Work(setting.batch, 10**9, training=True, patch_dropout=setting.patch_dropout)
    return choose_kernels(model, work, Wanted(setting.precision, threads=setting.threads, compile=False)).chosen


def build_trainer(setting: Setting) -> Trainer:
    """Build the trainer as train.py does, then replace the optimizer if the setting has another one."""
    config = compose_config(
        "dataset=cifar10",
        *SIZES[setting.size],
        f"model.pooling={setting.pooling}",
        f"optimizer={'muon' if setting.optimizer == 'muon' else 'adamw'}",
        "augmentation=light",
        "training.ema=0.999",
        f"training.batch_size={setting.batch}",
        f"training.accumulate={setting.micro_batches}",
        "training.precision=float32",
        "training.compile=false",
        f"training.patch_dropout={setting.patch_dropout}",
    )
    mean, std, num_images = [0.5] * 3, [0.25] * 3, STEPS_PER_EPOCH * setting.batch
    config = complete(config, num_images, num_classes=NUM_CLASSES, in_channels=3, mean=mean, std=std)
    look = Preprocessing(config.model.image_size, "crop", "bicubic", 3, tuple(mean), tuple(std))
    model = build.build_model(config, setting.device)
    labels = torch.zeros(num_images, dtype=torch.long)
    trainer = build.build_trainer(config, model, look, labels)
    if setting.optimizer in ("default", "foreach"):
        groups = parameter_groups(model, config.optimizer.weight_decay)
        foreach = True if setting.optimizer == "foreach" else None
        trainer.optimizer = torch.optim.AdamW(groups, config.optimizer.lr, foreach=foreach)
    return trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="32px")
    parser.add_argument("--batch", type=int, default=16)


def read_base(given: argparse.Namespace) -> Setting:
    torch.set_num_threads(given.threads)
    return Setting(given.size, given.batch, given.threads, torch.device(given.device))


def print_header(base: Setting) -> None:
    """Print the command, the versions, the machine, and what train.py would choose on it."""
    place = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else describe_processor()
    print(f"python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {base.device} ({place}), {date.today()}")
    model = build_trainer(base).model
    gflops = 3 * count_gflops(model) * base.batch
    threads = f"{base.threads} thread{'s' * (base.threads > 1)}"
    print(f"{base.size}: {model.num_tokens} tokens, {gflops:.1f} GFLOP per step of {base.batch} images, {threads}")
    chosen = choose_ways(replace(base, precision="auto", kernels="ours"), model)
    reset_kernels(base)
    print(f"train.py computes it in {chosen.describe()}\n", flush=True)
