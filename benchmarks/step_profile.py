"""Where the time of a training step goes, and what each lever on it gains: two tables, measured in the same run.

    python benchmarks/step_profile.py [--device cpu] [--threads 1] [--size 32px|tiny|small] [--batch 16] [--rounds 7]
                                      [--steps 2] [--levers all|none|bf16,…] [--no-profile]

The base is a step of the engine on made images: float32, torch's own kernels, one micro-batch, mean pooling (64 tokens
at 32 px), fused AdamW, foreach EMA and clipping, light augmentation where the images are, label smoothing, nothing
read back, freed memory kept. Each lever changes one thing. Base and lever take turns; the ratio, of images per second,
is the median of the paired ones: above 1 a change gains, below 1 it loses, and what the base has is worth having.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
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
from torch.profiler import ProfilerActivity, profile, record_function

from src.augment import Augmentation
from src.config import complete, compose_config
from src.engine import Trainer, autocast, choose_kernels, choose_precision, count_gflops, keep_freed_memory
from src.engine import trainer as trainer_module
from src.model import VisionTransformer
from src.optim import ExponentialMovingAverage, LearningRate, build_optimizer, parameter_groups

SIZES = {
    "32px": ["model=vit_tiny", "model.num_layers=9"],  # patch 4, D 192, 3 heads
    "tiny": ["model=vit_tiny", "model.image_size=[224,224]"],
    "small": ["model=vit_small", "model.image_size=[224,224]"],
}
NUM_CLASSES, WARMUP, PROFILED, PEAK_SIDE = 10, 3, 3, 1024
# Groups of what is in no phase, by part of a name of the operator or of those that called it.
KINDS = {
    "attention": ("scaleddotproduct", "scaled_dot_product", "flash_attention", "efficient_attention", "aten::bmm",
                  "bmmbackward", "aten::softmax", "aten::_softmax", "safe_softmax", "softmaxbackward"),
    "GELU": ("gelu",),
    "LayerNorm": ("layernorm", "layer_norm"),
    "loss": ("logsoftmax", "nllloss", "crossentropy"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear", "convolution"),
}  # fmt: skip


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
    half_the_tokens: bool = False
    looped: str = ""  # what goes parameter by parameter: "EMA" or "clip"
    read_loss: bool = False
    flush: bool = False
    host_images: bool = False
    graph: str = ""  # "tensor": the learning rate in one; "captured": that, and the step in a CUDA graph


class DroppedTransformer(VisionTransformer):
    """Trains on a random half of the patches of each image: patch dropout, Liu et al. (arXiv 2208.07220)."""

    def embed(self, images: Tensor) -> Tensor:
        x = super().embed(images)  # (B, N, D), no prefix: mean pooling
        kept = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, : x.shape[1] // 2]
        return x.gather(1, kept.unsqueeze(2).expand(-1, -1, x.shape[2]))


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
    kind = DroppedTransformer if setting.half_the_tokens else VisionTransformer
    model = kind(**asdict(config.model)).to(setting.device).train()
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
        ema=ExponentialMovingAverage(model, 0.999),
    )


def record(runner: Runner) -> tuple[dict[str, float], float]:
    """Return the milliseconds of each group in a profiled step, and its operators without those that others call."""
    trainer, device = runner.trainer, runner.setting.device
    methods = [(trainer.augmentation, name, "augmentation") for name in ("draw", "move_and_color", "finish", "targets")]
    functions = [("grad_norm", "clip"), ("clip_gradients", "clip"), ("weighted_cross_entropy", "loss")]
    places = [*methods, *((trainer_module, name, phase) for name, phase in functions),
              (trainer.optimizer, "step", "optimizer"), (trainer.ema, "update", "EMA")]  # fmt: skip
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with runner.state(), contextlib.ExitStack() as stack:
        for owner, name, phase in places:
            stack.enter_context(mock.patch.object(owner, name, named(getattr(owner, name), phase)))
        with profile(activities=activities) as recorded, record_function("steps"):
            runner.take(PROFILED)
    events = [event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CPU]
    whole = next(event for event in events if event.name == "steps")
    times: Counter[str] = Counter()
    for event in events:
        if device.type == "cuda":
            times[group_of(event)] += event.self_device_time_total
        elif event.thread == whole.thread:  # the others' time is in what waits for them
            times[group_of(event)] += event.self_cpu_time_total
    if device.type == "cuda":  # kernels run while Python goes on: the rest is when none does
        times["Python, idle"] = whole.cpu_time_total - sum(times.values())
    callers = [event.cpu_parent and event.cpu_parent.name for event in events if event.name.startswith("aten::")]
    outermost = sum(not (caller or "").startswith("aten::") for caller in callers)
    return {name: us / 1000 / PROFILED for name, us in times.items()}, outermost / PROFILED


def named(function: Callable, phase: str) -> Callable:
    def call(*arguments: Any, **options: Any) -> Any:
        with record_function(f"phase: {phase}"):
            return function(*arguments, **options)

    return call


def group_of(event: Any) -> str:
    """Return the phase that an operator belongs to, or what kind it is, of those it was called by if not by itself."""
    names, parent = [], event
    while parent is not None:
        names.append(parent.name)
        parent = parent.cpu_parent
    if phases := [name.removeprefix("phase: ") for name in names if name.startswith("phase: ")]:
        return phases[0]
    for kind, parts in KINDS.items():
        if any(part in name.lower() for name in names for part in parts):
            return kind
    return "copies, elementwise" if event.name.startswith("aten::") else "Python, idle"


def peak_gflops(setting: Setting, runner: Runner) -> float:
    """Return 10^9 operations per second of a large matrix product, the best of ten, in the setting's precision."""
    side = PEAK_SIDE * (8 if setting.device.type == "cuda" else 1)
    left, right = torch.randn(2, side, side, device=setting.device).to(setting.precision)
    seconds = []
    with runner.state():
        for _ in range(10):
            synchronize(setting.device)
            started = time.perf_counter()
            left @ right
            synchronize(setting.device)
            seconds.append(time.perf_counter() - started)
    return 2e-9 * side**3 / min(seconds)


def print_profile(base: Setting, steps: int) -> None:
    """Print the groups of the base's step and of the step that train.py takes."""
    columns, facts = {}, []
    chosen = replace(base, precision=choose_precision("auto", base.device), kernels="ours")
    for name, setting in (("base", base), ("as train.py", chosen)):
        runner = Runner(setting)
        milliseconds = 1000 * setting.batch / statistics.median(runner.rate(steps) for _ in range(3))
        times, operators = record(runner)
        peak, rate = peak_gflops(setting, runner), 1000 * runner.gflops / milliseconds
        columns[name] = times
        facts.append(
            f"- {name}: {milliseconds:.1f} ms a step, {sum(times.values()):.1f} ms under the profiler; {operators:.0f} "
            f"operators; {runner.gflops:.1f} GFLOP, {rate:.0f} GFLOP/s, {rate / peak:.0%} of the {peak:.0f} that a "
            f"large product of {str(setting.precision).removeprefix('torch.')} matrices reaches"
        )
    print("\n| part of a step | base, ms | % | as train.py, ms | % |\n|---|---|---|---|---|")
    first, second = columns.values()
    for group in sorted(first | second, key=lambda group: -first.get(group, 0)):
        cells = [f"{t.get(group, 0):.2f} | {t.get(group, 0) / sum(t.values()):.1%}" for t in (first, second)]
        print(f"| {group} | {' | '.join(cells)} |")
    print("\n" + "\n".join(facts), flush=True)


def list_levers(base: Setting) -> dict[str, tuple[str, Setting | None]]:
    """Return the levers: name -> what is tried, the changed setting; None where the device has no such thing."""
    cuda, bf16 = base.device.type == "cuda", torch.bfloat16
    on_cpu: Callable[[Setting], Setting | None] = lambda setting: None if cuda else setting  # noqa: E731
    on_cuda: Callable[[Setting], Setting | None] = lambda setting: setting if cuda else None  # noqa: E731
    threads = 2 if base.threads == 1 else 1
    return {
        "bf16": ("bf16 autocast", replace(base, precision=bf16)),
        "bf16-attention": ("bf16, whole attention", on_cpu(replace(base, precision=bf16, kernels="attention"))),
        "kernels": ("choose_kernels: oneDNN, attention in whole products", on_cpu(replace(base, kernels="ours"))),
        "host-augmentation": ("augmentation on the host, float images moved", on_cuda(replace(base, host_images=True))),
        "compile": ("compiled model", replace(base, compiled=True)),
        "lr-tensor": ("learning rate in a tensor, capturable AdamW", on_cuda(replace(base, graph="tensor"))),
        "cuda-graph": ("lr in a tensor, step in a CUDA graph", on_cuda(replace(base, graph="captured"))),
        "micro-batches": ("two micro-batches", replace(base, pieces=2)),
        **{f"batch-{n}": (f"batch {n}", replace(base, batch=n)) for n in (8, 16, 32, 64, 128) if n != base.batch},
        "adamw-default": ("AdamW, no option given", replace(base, optimizer="default")),
        "adamw-foreach": ("AdamW, foreach", replace(base, optimizer="foreach")),
        "ema-loop": ("EMA, a loop over parameters", replace(base, looped="EMA")),
        "clip-loop": ("clipping, a loop over parameters", replace(base, looped="clip")),
        "read-loss": ("loss read after each step", replace(base, read_loss=True)),
        "cls": ("a class token", replace(base, pooling="cls")),
        "patch-dropout": ("half of the tokens dropped", replace(base, half_the_tokens=True)),
        "muon": ("Muon in place of AdamW", replace(base, optimizer="muon")),
        "threads": (f"{threads} thread{'s' * (threads > 1)}", on_cpu(replace(base, threads=threads))),
        "denormals": ("denormals flushed", on_cpu(replace(base, flush=True))),
    }  # fmt: skip


def compare(first: Callable[[], float], second: Callable[[], float], rounds: int) -> str:
    """Return a row's numbers; both are called once a round, each one first in half of the rounds."""
    rates: tuple[list[float], list[float]] = [], []
    for number in range(rounds):
        for position in (0, 1) if number % 2 == 0 else (1, 0):
            rates[position].append((first, second)[position]())
    ratios = [changed / base for base, changed in zip(*rates, strict=True)]
    medians = [f"{statistics.median(values):,.1f}" for values in rates]
    return f"{' | '.join(medians)} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def try_lever(text: str, setting: Setting, base: Runner, rounds: int, steps: int) -> None:
    """Print a lever's row, or why there is none: a compiler may be missing, memory too small."""
    try:
        if setting.compiled:
            text += f" ({count_breaks(setting)} graph breaks)"
        runner = Runner(setting)
        numbers = compare(lambda: base.rate(steps), lambda: runner.rate(steps), rounds)
        print(f"| {text} | {numbers} |", flush=True)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        print(f"| {text} | | | failed: {type(error).__name__}: {lines[0][:100] if lines else ''} |", flush=True)


def count_breaks(setting: Setting) -> int:
    model = build_trainer(setting).model
    images = torch.zeros(2, 3, *model.image_size, device=setting.device)
    count = torch._dynamo.explain(model)(images).graph_break_count
    torch._dynamo.reset()
    return int(count)


def try_memory(base: Setting, rounds: int, steps: int) -> None:
    """Print the row of freed memory given back to the system; as that cannot be undone, in two processes."""
    command = [sys.executable, __file__, "--device", str(base.device), "--size", base.size, "--steps", str(steps)]
    command += ["--threads", str(base.threads), "--batch", str(base.batch), "--serve"]
    workers = [subprocess.Popen([*command, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for kind in ("keep", "give")]  # fmt: skip

    def ask(worker: subprocess.Popen) -> float:
        assert worker.stdin is not None and worker.stdout is not None
        print(file=worker.stdin, flush=True)
        return float(worker.stdout.readline())

    try:
        numbers = compare(lambda: ask(workers[0]), lambda: ask(workers[1]), rounds)
        print(f"| freed memory given back to the system | {numbers} |", flush=True)
    finally:
        for worker in workers:
            worker.communicate()


def serve(base: Setting, steps: int) -> None:
    """Answer each line with images per second."""
    runner = Runner(base)
    for _ in sys.stdin:
        print(runner.rate(steps), flush=True)


@torch.no_grad()
def orthogonalize(stacked: Tensor, dtype: torch.dtype) -> Tensor:
    """Do torch.optim.Muon's five Newton–Schulz steps on matrices (n,a,b) at once."""
    tall = stacked.shape[1] > stacked.shape[2]
    x = (stacked.mT if tall else stacked).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        update = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, update, x, beta=3.4445)
    return x.mT if tall else x


def batch_muon(groups: list[list[Tensor]], momenta: list[Tensor], dtype: torch.dtype) -> None:
    """Take a step of Muon on groups of matrices of one shape; momenta (n,a,b), one for each group."""
    with torch.no_grad():
        for parameters, momentum in zip(groups, momenta, strict=True):
            gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
            momentum.lerp_(gradients, 0.05)
            updates = orthogonalize(gradients.lerp(momentum, 0.95), dtype).to(gradients.dtype)
            torch._foreach_mul_(parameters, 1 - 1e-9 * 0.05)
            torch._foreach_add_(parameters, updates.unbind(), alpha=-1e-9)


def try_muon(base: Setting, rounds: int) -> None:
    """Print what batching equal matrices makes of Muon's step alone: steps per second, without the model's."""
    runner = Runner(replace(base, optimizer="muon"))
    muon = next(part for part in runner.trainer.optimizer.parts if isinstance(part, torch.optim.Muon))  # type: ignore[attr-defined]
    for group in muon.param_groups:
        group["lr"] = 1e-9
    shapes: dict[torch.Size, list[Tensor]] = {}
    for parameter in (parameter for group in muon.param_groups for parameter in group["params"]):
        shapes.setdefault(parameter.shape, []).append(parameter)
    groups = list(shapes.values())
    momenta = [torch.zeros_like(torch.stack(parameters)) for parameters in groups]

    def rate(step: Callable[[], object]) -> float:
        with runner.state():
            synchronize(base.device)
            started = time.perf_counter()
            step()
            synchronize(base.device)
            return 1 / (time.perf_counter() - started)

    for dtype in (torch.bfloat16, torch.float32):
        batched = lambda dtype=dtype: batch_muon(groups, momenta, dtype)  # noqa: E731
        batched()
        numbers = compare(lambda: rate(muon.step), lambda: rate(batched), rounds)  # noqa: B023
        what = f"{sum(map(len, groups))} matrices in {len(groups)} batches, {str(dtype).removeprefix('torch.')}"
        print(f"| Muon's step alone (steps/s): {what} | {numbers} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="32px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of base and lever in each round")
    parser.add_argument("--levers", default="all", help="all, none or names; a wrong one lists them")
    parser.add_argument("--no-profile", action="store_true")
    parser.add_argument("--serve", choices=("keep", "give"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    base = Setting(given.size, given.batch, given.threads, torch.device(given.device))
    torch.set_num_threads(given.threads)
    if given.serve != "give":
        keep_freed_memory()
    if given.serve:
        serve(base, given.steps)
        return
    levers = list_levers(base)
    names = [*levers, "memory", "muon-batched"]
    wanted = {"all": names, "none": []}.get(given.levers, given.levers.split(","))
    if unknown := set(wanted) - set(names):
        parser.error(f"--levers: {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    cpu, cuda = torch.backends.cpu.get_cpu_capability(), base.device.type == "cuda"
    place = torch.cuda.get_device_name(base.device) if cuda else cpu
    print(f"python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {base.device} ({place}), {date.today()}")
    runner = Runner(base)
    tokens, threads = runner.trainer.model.num_tokens, f"{base.threads} thread{'s' * (base.threads > 1)}"
    print(f"{base.size}: {tokens} tokens, {runner.gflops:.1f} GFLOP a step of {base.batch} images, {threads}")
    changed = choose_kernels(base.device, runner.gflops, tokens)
    choose_kernels(base.device, 0, 1)
    print(f"choose_kernels {'changes' if changed else 'keeps'} the kernels for it")
    if not given.no_profile:
        print_profile(base, given.steps)
    if wanted:
        print("\n| lever | images/s, base | tried | median ratio (min–max) |\n|---|---|---|---|")
    for name in wanted:
        if name == "memory" and cuda:
            print("| freed memory given back to the system | | | needs a CPU: not tried |")
        elif name == "memory":
            try_memory(base, given.rounds, given.steps)
        elif name == "muon-batched":
            try_muon(base, given.rounds)
        elif (setting := levers[name][1]) is None:
            print(f"| {levers[name][0]} | | | needs a {'CPU' if cuda else 'GPU'}: not tried |")
        else:
            try_lever(levers[name][0], setting, runner, given.rounds, given.steps)


if __name__ == "__main__":
    main()
