"""The fastest way to compute on this processor, found by trying: vendor names and flags do not tell it.

Only CPUs have a choice to try. The trial has all tokens and images of a step, but only two of the model's blocks, which
are all alike; so it takes less than two seconds.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..machine.devices import autocast
from ..machine.kernels import Kernels, Wanted, default_kernels, fewer_threads, list_kernels
from ..model import VisionTransformer
from .evaluation import count_gflops

SMALL_STEP = 1.0  # GFLOPs of a step below which no trial is worth it
LARGE_STEP = 20.0  # GFLOPs of a step that all threads are worth; a trial on a busy machine would suggest fewer
SHORT_RUN = 1000.0  # GFLOPs of a run that takes some ten seconds
TRIAL_STEP = 6.0  # GFLOPs of a step of the trial, about a tenth of a second on two cores
TRIAL_SECONDS = 1.5  # after which no further round begins
MARGIN = 1.05  # how many times as fast as torch's default another way must be, so that noise does not choose it
COMPILE_FROM = 30 * 60.0  # seconds of a run that pay for compiling, which takes about one minute


@dataclass
class Work:
    """What is computed.

    num_images: in each forward pass; total: images in all of them; training: with a backward pass, which costs two
    forward passes; patch_dropout: fraction of its patches that each image loses; limit: seconds after which it ends.
    """

    num_images: int
    total: int
    training: bool
    patch_dropout: float = 0.0
    limit: float = math.inf


@dataclass
class Trial:
    """What was chosen, and why.

    rates: images per second of each way, with two blocks; empty if nothing was tried. seconds: of all work, roughly.
    """

    chosen: Kernels
    why: str
    rates: dict[Kernels, float] = field(default_factory=dict)
    seconds: float = 0.0

    def describe(self) -> str:
        return f"{self.chosen.describe()}: {self.why}"


def choose_kernels(model: VisionTransformer, work: Work, wanted: Wanted, allowed: bool = True) -> Trial:
    """Find the fastest way to compute `work`, and use it from now on in this process; allowed: whether to try any.

    Neither weights nor random numbers change. Raises ValueError for wanted kernels that compute something else.
    """
    trial = _choose(model, work, wanted, allowed)
    use_kernels(model, trial.chosen)
    if wanted.compile == "auto" and min(trial.seconds, work.limit) >= COMPILE_FROM:
        _choose_compile(model, work, trial)
    return trial


def use_kernels(model: VisionTransformer, kernels: Kernels) -> None:
    """Compute like this from now on, but for the precision, which `autocast` has, and `compile_blocks`."""
    kernels.use()
    model.fuse_attention(kernels.attention == "fused")


def _choose(model: VisionTransformer, work: Work, wanted: Wanted, allowed: bool) -> Trial:
    device = model.head.weight.device
    candidates = list_kernels(wanted, device, model.num_tokens)
    if device.type != "cpu":
        return Trial(candidates[0], "nothing to try on this device")
    gflops = count_gflops(model) * (3 if work.training else 1) * (1 - work.patch_dropout)
    small, large = gflops * work.num_images < SMALL_STEP, gflops * work.num_images >= LARGE_STEP
    if small or not allowed or gflops * work.total < SHORT_RUN:
        what = "small steps" if small else "a short run" if allowed else "deterministic runs"
        return Trial(default_kernels(wanted, device, small), f"torch's defaults for {what}")
    others = [] if large else fewer_threads(wanted, candidates[0])
    if len(candidates) == 1 and not others and wanted.compile != "auto":
        return Trial(candidates[0], "as configured")
    with _shortened(model), torch.random.fork_rng(devices=[]), _mode(model, work):
        shallow = count_gflops(model) * (3 if work.training else 1) * (1 - work.patch_dropout)
        count = max(1, min(work.num_images, int(TRIAL_STEP / shallow)))
        step = _make_step(model, count, work.training)
        started = time.perf_counter()
        rates = _race(model, candidates, step, count, started + TRIAL_SECONDS)
        chosen = _fastest(rates)
        if others := [] if large else fewer_threads(wanted, chosen):
            rates |= _race(model, [chosen, *others], step, count, started + 1.3 * TRIAL_SECONDS)
            chosen = _fastest({kernels: rates[kernels] for kernels in (chosen, *others)})
        seconds = time.perf_counter() - started
    return Trial(chosen, _explain(chosen, rates, seconds), rates, work.total / rates[chosen] * gflops / shallow)


def compile_blocks(model: VisionTransformer) -> None:
    """Compile the model's blocks at their first use: as they are all alike, one is compiled, and all run its code."""
    for block in model.blocks:
        block.compile()


def _choose_compile(model: VisionTransformer, work: Work, trial: Trial) -> None:
    """Compile a block and time steps with it, which takes about half a minute; what was compiled is kept for the run.

    Adds to the trial whether that pays, and why.
    """
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        trial.why += "; not compiled, because there is no C++ compiler"
        return
    with _shortened(model), torch.random.fork_rng(devices=[]), _mode(model, work):
        try:
            gain = _time_compiled(model, work, trial.chosen)
        except RuntimeError as error:  # torch's compilers raise many kinds of it
            trial.why += f"; not compiled, which failed: {str(error).strip().splitlines()[0][:100]}"
            return
    trial.chosen = replace(trial.chosen, compile=gain > MARGIN)
    trial.why += f"; a compiled step is {gain:.2f} times as fast"


def _time_compiled(model: VisionTransformer, work: Work, kernels: Kernels) -> float:
    """Return how many times as fast a step is if the blocks are compiled."""
    plain = model.blocks
    compiled = nn.Sequential(*(torch.compile(block) for block in plain))  # type: ignore[call-overload]
    step = _make_step(model, work.num_images, work.training)

    def time_with(blocks: nn.Sequential) -> float:
        model.blocks = blocks
        return _time(step, kernels)

    time_with(compiled)
    seconds = [(time_with(plain), time_with(compiled)) for _ in range(5)]
    return min(before for before, _ in seconds) / min(after for _, after in seconds)


def _time(step: Callable[[Kernels], None], kernels: Kernels) -> float:
    started = time.perf_counter()
    step(kernels)
    return time.perf_counter() - started


def _fastest(rates: dict[Kernels, float]) -> Kernels:
    """Return the fastest way, or the first one if the fastest is not clearly faster."""
    first, best = next(iter(rates)), max(rates, key=rates.__getitem__)
    return best if rates[best] > MARGIN * rates[first] else first


def _explain(chosen: Kernels, rates: dict[Kernels, float], seconds: float) -> str:
    first = next(iter(rates))
    if len(rates) == 1:
        return "as configured"
    if chosen == first:
        return f"torch's default; none of {len(rates)} ways tried in {seconds:.1f} s was faster"
    return (
        f"{rates[chosen] / rates[first]:.2f} times as fast as torch's default, {first.describe()}; "
        f"{len(rates)} ways tried in {seconds:.1f} s"
    )


@contextlib.contextmanager
def _shortened(model: VisionTransformer) -> Iterator[None]:
    blocks, model.blocks = model.blocks, model.blocks[:2]
    try:
        yield
    finally:
        model.blocks = blocks


@contextlib.contextmanager
def _mode(model: VisionTransformer, work: Work) -> Iterator[None]:
    """Train or evaluate as in `work`; afterwards there are no gradients."""
    training, patch_dropout = model.training, model.patch_dropout
    model.train(work.training)
    model.patch_dropout = work.patch_dropout
    try:
        yield
    finally:
        model.train(training)
        model.patch_dropout = patch_dropout
        model.zero_grad(set_to_none=True)


def _make_step(model: VisionTransformer, count: int, training: bool) -> Callable[[Kernels], None]:
    """Return a function that takes a step with random images, but for the optimizer, which always computes alike."""
    images = torch.rand(count, model.in_channels, *model.image_size)
    labels = torch.randint(model.num_classes, (count,))

    def step(kernels: Kernels) -> None:
        with torch.set_grad_enabled(training):
            with autocast(images.device, kernels.dtype):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
        if training:
            loss.backward()
            model.zero_grad(set_to_none=True)

    return step


def _race(
    model: VisionTransformer, candidates: list[Kernels], step: Callable[[Kernels], None], count: int, deadline: float
) -> dict[Kernels, float]:
    """Return the images per second of each candidate, in its fastest of several rounds in turn.

    The first round, a warm-up, counts only for those that get no other before the deadline.
    """
    seconds: dict[Kernels, list[float]] = {kernels: [] for kernels in candidates}
    for number in range(6):
        for kernels in candidates:
            if number and time.perf_counter() > deadline:
                break
            use_kernels(model, kernels)
            seconds[kernels].append(_time(step, kernels))
    return {kernels: count / min(taken) for kernels, taken in seconds.items()}
