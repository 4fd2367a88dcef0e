"""Where the time of a training step goes: milliseconds of its parts, with torch's defaults and as in train.py.

    python benchmarks/step_profile.py [--device cpu] [--threads 1] [--size 32px|tiny|small] [--batch 16]

The baseline is the step of `step.py`; "as train.py" has the precision and kernels that train.py chooses on this
machine. `step_levers.py` measures what each choice gains.
"""

import argparse
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from step import Runner, Setting, add_arguments, print_header, read_base, synchronize
from torch.profiler import ProfilerActivity, profile, record_function

from src.engine import trainer as trainer_module
from src.machine.memory import keep_freed_memory

PROFILED, PEAK_SIDE = 3, 1024
# Groups of operators outside the phases, by a part of their name or of the names of their callers.
KINDS = {
    "attention": ("scaleddotproduct", "scaled_dot_product", "flash_attention", "efficient_attention", "aten::bmm",
                  "bmmbackward", "aten::softmax", "aten::_softmax", "safe_softmax", "softmaxbackward"),
    "GELU": ("gelu",),
    "LayerNorm": ("layernorm", "layer_norm"),
    "loss": ("logsoftmax", "nllloss", "crossentropy"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear", "convolution"),
}  # fmt: skip


def record(runner: Runner) -> tuple[dict[str, float], float]:
    """Return the milliseconds of each group in a profiled step, and its number of outermost operators."""
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
        elif event.thread == whole.thread:  # the time of other threads is part of what waits for them
            times[group_of(event)] += event.self_cpu_time_total
    if device.type == "cuda":  # kernels run asynchronously; the rest is time without any kernel
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
    """Return the phase of an operator, or else its kind, by its own name or those of its callers."""
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
    """Return the GFLOP/s of a large matrix product in the runner's precision, the best of ten."""
    side = PEAK_SIDE * (8 if setting.device.type == "cuda" else 1)
    left, right = torch.randn(2, side, side, device=setting.device).to(runner.kernels.dtype)
    seconds = []
    with runner.state():
        for _ in range(10):
            synchronize(setting.device)
            started = time.perf_counter()
            left @ right
            synchronize(setting.device)
            seconds.append(time.perf_counter() - started)
    return 2e-9 * side**3 / min(seconds)


def print_profile(base: Setting) -> None:
    """Print the groups of the baseline's step and of train.py's step."""
    columns, facts = {}, []
    chosen = replace(base, precision="auto", kernels="ours")
    for name, setting in (("baseline", base), ("as train.py", chosen)):
        runner = Runner(setting)
        milliseconds = 1000 * setting.batch / statistics.median(runner.rate(2) for _ in range(5))
        times, operators = record(runner)
        peak, rate = peak_gflops(setting, runner), 1000 * runner.gflops / milliseconds
        columns[name] = times
        facts.append(
            f"- {name}: {milliseconds:.1f} ms per step, {sum(times.values()):.1f} ms in the profiler; {operators:.0f} "
            f"operators; {runner.gflops:.1f} GFLOP, {rate:.0f} GFLOP/s, {rate / peak:.0%} of the {peak:.0f} of a "
            f"large matrix product in {runner.kernels.precision}"
        )
    print("| part of a step | baseline, ms | % | as train.py, ms | % |\n|---|---|---|---|---|")
    first, second = columns.values()
    for group in sorted(first | second, key=lambda group: -first.get(group, 0)):
        cells = [f"{t.get(group, 0):.2f} | {t.get(group, 0) / sum(t.values()):.1%}" for t in (first, second)]
        print(f"| {group} | {' | '.join(cells)} |")
    print("\n" + "\n".join(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    base = read_base(parser.parse_args())
    keep_freed_memory()
    print_header(base)
    print_profile(base)


if __name__ == "__main__":
    main()
