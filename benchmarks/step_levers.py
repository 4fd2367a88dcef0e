"""What each change to a training step gains: one change at a time, measured in turns with the baseline.

    python benchmarks/step_levers.py [--device cpu] [--threads 1] [--size 32px|tiny|small] [--batch 16] [--rounds 7]
                                     [--steps 2] [--levers all|bf16,…]

The baseline is the step of `step.py`, with `keep_freed_memory` as in train.py. Ratios are of images per second, the
median over rounds: above 1 the change is faster, below 1 slower, so that what the baseline does instead pays off.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from step import Runner, Setting, add_arguments, build_trainer, print_header, read_base, synchronize
from torch import Tensor

from src.machine.memory import keep_freed_memory


def list_levers(base: Setting) -> dict[str, tuple[str, Setting | None]]:
    """Return the changes by name: a description and the changed setting, None if the device does not support it."""
    cuda, bf16 = base.device.type == "cuda", "bf16"
    on_cpu: Callable[[Setting], Setting | None] = lambda setting: None if cuda else setting  # noqa: E731
    on_cuda: Callable[[Setting], Setting | None] = lambda setting: setting if cuda else None  # noqa: E731
    threads = 2 if base.threads == 1 else 1
    return {
        "bf16": ("bf16 autocast", replace(base, precision=bf16)),
        "bf16-attention": ("bf16, attention not fused", on_cpu(replace(base, precision=bf16, kernels="attention"))),
        "kernels": ("the kernels that train.py chooses for float32", on_cpu(replace(base, kernels="ours"))),
        "host-augmentation": ("augmentation on the CPU, float images copied", on_cuda(replace(base, host_images=True))),
        "compile": ("compiled model", replace(base, compiled=True)),
        "lr-tensor": ("learning rate in a tensor, capturable AdamW", on_cuda(replace(base, graph="tensor"))),
        "cuda-graph": ("learning rate in a tensor, step in a CUDA graph", on_cuda(replace(base, graph="captured"))),
        "micro-batches": ("two micro-batches", replace(base, micro_batches=2)),
        **{f"batch-{n}": (f"batch {n}", replace(base, batch=n)) for n in (8, 16, 32, 64, 128) if n != base.batch},
        "adamw-default": ("AdamW with default options", replace(base, optimizer="default")),
        "adamw-foreach": ("AdamW, foreach", replace(base, optimizer="foreach")),
        "ema-loop": ("EMA in a loop over parameters", replace(base, looped="EMA")),
        "clip-loop": ("clipping in a loop over parameters", replace(base, looped="clip")),
        "read-loss": ("loss read after each step", replace(base, read_loss=True)),
        "cls": ("a class token", replace(base, pooling="cls")),
        "patch-dropout": ("patch dropout 0.5", replace(base, patch_dropout=0.5)),
        "muon": ("Muon instead of AdamW", replace(base, optimizer="muon")),
        "threads": (f"{threads} thread{'s' * (threads > 1)}", on_cpu(replace(base, threads=threads))),
        "denormals": ("denormals flushed", on_cpu(replace(base, flush=True))),
    }  # fmt: skip


def compare(first: Callable[[], float], second: Callable[[], float], rounds: int) -> str:
    """Return the numbers of a row. Both functions are called once per round, in alternating order."""
    rates: tuple[list[float], list[float]] = [], []
    for number in range(rounds):
        for position in (0, 1) if number % 2 == 0 else (1, 0):
            rates[position].append((first, second)[position]())
    ratios = [changed / base for base, changed in zip(*rates, strict=True)]
    medians = [f"{statistics.median(values):,.1f}" for values in rates]
    return f"{' | '.join(medians)} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def try_lever(text: str, setting: Setting, base: Runner, rounds: int, steps: int) -> None:
    """Print the row of a change, or why it failed: a missing compiler, out of memory."""
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
    """Print the row without `keep_freed_memory`; in two processes, because it cannot be undone."""
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
        print(f"| freed memory returned to the system | {numbers} |", flush=True)
    finally:
        for worker in workers:
            worker.communicate()


def serve(base: Setting, steps: int) -> None:
    """Answer each line on stdin with images per second."""
    runner = Runner(base)
    for _ in sys.stdin:
        print(runner.rate(steps), flush=True)


@torch.no_grad()
def orthogonalize(stacked: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the result of torch.optim.Muon's five Newton–Schulz steps for a batch of matrices (n,a,b)."""
    tall = stacked.shape[1] > stacked.shape[2]
    x = (stacked.mT if tall else stacked).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        update = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, update, x, beta=3.4445)
    return x.mT if tall else x


def batch_muon(groups: list[list[Tensor]], momenta: list[Tensor], dtype: torch.dtype) -> None:
    """Take a step of Muon on groups of matrices with the same shape; momenta: (n,a,b) for each group."""
    with torch.no_grad():
        for parameters, momentum in zip(groups, momenta, strict=True):
            gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
            momentum.lerp_(gradients, 0.05)
            updates = orthogonalize(gradients.lerp(momentum, 0.95), dtype).to(gradients.dtype)
            torch._foreach_mul_(parameters, 1 - 1e-9 * 0.05)
            torch._foreach_add_(parameters, updates.unbind(), alpha=-1e-9)


def try_muon(base: Setting, rounds: int) -> None:
    """Print what batching matrices of the same shape gains for Muon's step alone, in optimizer steps per second."""
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
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="per measurement")
    parser.add_argument("--levers", default="all", help="all, or names separated by commas; an unknown name lists them")
    parser.add_argument("--serve", choices=("keep", "give"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    base = read_base(given)
    if given.serve != "give":
        keep_freed_memory()
    if given.serve:
        serve(base, given.steps)
        return
    levers = list_levers(base)
    names = [*levers, "memory", "muon-batched"]
    wanted = names if given.levers == "all" else given.levers.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"--levers: unknown: {', '.join(sorted(unknown))}; allowed: all, {', '.join(names)}")

    cuda = base.device.type == "cuda"
    print_header(base)
    runner = Runner(base)
    print("| change | images/s, baseline | changed | median ratio (min–max) |\n|---|---|---|---|")
    for name in wanted:
        if name == "memory" and cuda:
            print("| freed memory returned to the system | | | needs a CPU: not measured |")
        elif name == "memory":
            try_memory(base, given.rounds, given.steps)
        elif name == "muon-batched":
            try_muon(base, given.rounds)
        elif (setting := levers[name][1]) is None:
            print(f"| {levers[name][0]} | | | needs a {'CPU' if cuda else 'GPU'}: not measured |")
        else:
            try_lever(levers[name][0], setting, runner, given.rounds, given.steps)


if __name__ == "__main__":
    main()
