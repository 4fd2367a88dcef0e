"""Images per second in training and inference: this ViT against others with the same dimensions, in one process.

    python benchmarks/model_speed.py [--device cuda] [--sizes 32px tiny] [--batch 16] [--rounds 7] [--compile]

A step is forward, backward and AdamW, without data loading, clipping or averaged weights. In each round, all models are
measured in turn, in reverse order every other round; the tables have medians, and ratios are medians of the ratios in
each round (minimum to maximum). The peers are in `requirements-bench.txt`, including timm, and run with their defaults:
AdamW(parameters) and torch's default kernels, in float32 unless the row says bf16. timm also has rows with the fused
AdamW and in bf16; ours has rows in float32 and, where the processor has it, in bf16, with
the kernels of the trial that train.py and inference.py make, for training and inference each on its own.

"share" is the fraction of the throughput of the fastest large matrix product in the same precision. FLOPs are counted
for our model (a step costs three forward passes) and used for all, with or without a class token. All run with
train.py's allocator setting (`keep_freed_memory`).
"""

import argparse
import copy
import datetime
import importlib.metadata
import importlib.util
import itertools
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import PEERS, PLAIN, SIZES, Size, build_ours

from src.engine.evaluation import count_gflops
from src.engine.trial import Work, choose_kernels, compile_blocks, use_kernels
from src.machine.devices import autocast
from src.machine.kernels import Kernels, Wanted, default_kernels, has_bf16
from src.machine.memory import keep_freed_memory
from src.machine.processor import describe_processor
from src.model import VisionTransformer
from src.optim import parameter_groups

REQUIREMENTS = "requirements-bench.txt"
LEARNING_RATE = 1e-5  # small, so that weights stay realistic although the images are always the same
WEIGHT_DECAY = 0.05


@dataclass(eq=False)
class Contestant:
    """A row. It may share `model` and `optimizer` with other rows; `network` is the model, or its compiled version.

    kernels: for training (True) and inference (False); plain: without a class token.
    """

    name: str
    model: nn.Module
    network: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    kernels: dict[bool, Kernels]
    plain: bool = False
    calls: dict[bool, int] = field(default_factory=dict)  # training or not -> calls per measurement


@dataclass(frozen=True)
class Batch:
    """The input of a contestant, and its cost: GFLOPs of the forward pass of an image, by `plain`."""

    images: Tensor  # (B,3,H,W)
    labels: Tensor  # (B,)
    gflops: dict[bool, float]

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def batch(self) -> int:
        return len(self.images)


# Pairs (ours, theirs) that are compared below each table, if both are in it.
PAIRS = (
    ("ours, torch's kernels", "timm, fused AdamW"),
    ("ours", "timm"),
    ("ours, compiled", "timm, compiled"),
    ("ours, bf16", "timm, bf16"),
    ("ours, bf16, compiled", "timm, bf16, compiled"),
    ("ours, bf16", "timm"),
    ("ours, bf16, compiled", "timm"),
)


@dataclass
class Lineup:
    """The rows of a table. Rows that differ only in settings share a model, to save memory."""

    size: Size
    device: torch.device
    precisions: list[str]
    compiled: bool
    threads: int
    batch_size: int
    contestants: list[Contestant] = field(default_factory=list)

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def enter(
        self,
        name: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: str,
        chosen: dict[bool, Kernels] | None = None,
        plain: bool = False,
        compiled: bool = False,
    ) -> None:
        """Add a row, and one with the compiled model; chosen: other kernels than torch's default."""
        name += "" if precision == self.precisions[0] else f", {precision}"
        default = default_kernels(Wanted(precision, threads=self.threads), self.device)
        kernels = chosen or dict.fromkeys((True, False), default)
        self.contestants.append(Contestant(name, model, model, optimizer, kernels, plain))
        if not (compiled and self.compiled):
            return
        name += ", compiled"
        if isinstance(model, VisionTransformer):  # compiled like train.py, block by block, which would change both rows
            model = copy.deepcopy(model)
            compile_blocks(model)
            self.contestants.append(Contestant(name, model, model, build_own_optimizer(model), kernels, plain))
        else:
            self.contestants.append(Contestant(name, model, torch.compile(model), optimizer, kernels, plain))

    def enter_peer(self, name: str, model: nn.Module) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
        timm, plain = name == "timm", name in PLAIN
        for precision in self.precisions if timm else self.precisions[:1]:
            self.enter(name, model, optimizer, precision, plain=plain, compiled=timm or not self.on_cpu)
        if timm:
            fused = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
            self.enter("timm, fused AdamW", model, fused, self.precisions[0])

    def enter_ours(self) -> None:
        model = build_ours(self.size, "cls").to(self.device)
        timm = next(contestant for contestant in self.contestants if contestant.name == "timm")
        assert count_parameters(model) == count_parameters(timm.model)
        optimizer = build_own_optimizer(model)
        if self.on_cpu:
            self.enter("ours, torch's kernels", model, optimizer, self.precisions[0])
        for precision in self.precisions:
            chosen = self.choose(model, precision)
            self.enter("ours", model, optimizer, precision, chosen, compiled=True)
        model = build_ours(self.size, "mean").to(self.device)
        chosen, optimizer = self.choose(model, self.precisions[0]), build_own_optimizer(model)
        self.enter("ours, mean pooling", model, optimizer, self.precisions[0], chosen, plain=True)

    def choose(self, model: VisionTransformer, precision: str) -> dict[bool, Kernels]:
        """Return what a trial finds to be fastest for training (True) and for inference (False)."""
        wanted, endless = Wanted(precision, threads=self.threads, compile=False), 10**9
        return {
            training: choose_kernels(model, Work(self.batch_size, endless, training), wanted).chosen
            for training in (True, False)
        }


def build_own_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW as train.py builds it, except for the learning rate."""
    return torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), LEARNING_RATE, fused=True)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_step(contestant: Contestant, work: Batch) -> None:
    contestant.optimizer.zero_grad(set_to_none=True)
    with autocast(work.device, contestant.kernels[True].dtype):
        logits = contestant.network(work.images)
    F.cross_entropy(logits.float(), work.labels).backward()
    contestant.optimizer.step()


@torch.inference_mode()
def infer(contestant: Contestant, work: Batch) -> None:
    with autocast(work.device, contestant.kernels[False].dtype):
        contestant.network(work.images)


def time_calls(contestant: Contestant, work: Batch, training: bool, calls: int) -> float:
    """Return the seconds of `calls` steps or inferences, after a warm-up call."""
    kernels = contestant.kernels[training]
    kernels.use()
    if isinstance(contestant.model, VisionTransformer):
        use_kernels(contestant.model, kernels)
    contestant.model.train(training)
    call = train_step if training else infer
    call(contestant, work)
    synchronize(work.device)
    started = time.perf_counter()
    for _ in range(calls):
        call(contestant, work)
    synchronize(work.device)
    seconds = time.perf_counter() - started
    contestant.optimizer.zero_grad(set_to_none=True)
    return seconds


def measure(
    contestants: list[Contestant], work: Batch, rounds: int, seconds: float
) -> dict[bool, dict[str, list[float]]]:
    """Return, for training (True) and inference (False), the images/s of each contestant in each round."""
    for contestant, training in itertools.product(contestants, (True, False)):
        contestant.calls[training] = max(1, math.ceil(seconds / time_calls(contestant, work, training, 1)))
    rates: dict[bool, dict[str, list[float]]] = {
        training: {contestant.name: [] for contestant in contestants} for training in (True, False)
    }
    for number in range(rounds):
        for training in (True, False):
            for contestant in contestants[:: -1 if number % 2 else 1]:
                calls = contestant.calls[training]
                taken = time_calls(contestant, work, training, calls)
                rates[training][contestant.name].append(calls * len(work.images) / taken)
    return rates


def measure_peak(device: torch.device, ways: list[Kernels], repeats: int) -> float:
    """Return the GFLOP/s of the fastest of several large matrix products, in the best of these ways."""
    best = 0.0
    for width in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        left, right = torch.randn(2, width, width, device=device).to(ways[0].dtype)
        for kernels in ways:
            kernels.use()
            left @ right
            for _ in range(repeats):
                synchronize(device)
                started = time.perf_counter()
                left @ right
                synchronize(device)
                best = max(best, 2 * width**3 / 1e9 / (time.perf_counter() - started))
    return best


def describe_ratio(own: list[float], other: list[float]) -> str:
    """Return the median of the ratios in each round, with minimum and maximum."""
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    return f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})"


def print_table(
    contestants: list[Contestant],
    rates: dict[bool, dict[str, list[float]]],
    work: Batch,
    peaks: dict[str, float],
) -> None:
    print("| | parameters | train images/s | to timm | share | inference images/s | to timm | share |")
    print("|---|---|---|---|---|---|---|---|")
    for contestant in contestants:
        cells = [contestant.name, f"{count_parameters(contestant.model):,}"]
        for training in (True, False):
            own = rates[training][contestant.name]
            rate = statistics.median(own)
            gflops = (3 if training else 1) * work.gflops[contestant.plain]
            cells += [f"{rate:.3g}" if rate < 100 else f"{rate:,.0f}", describe_ratio(own, rates[training]["timm"])]
            cells += [f"{rate * gflops / peaks[contestant.kernels[training].precision]:.0%}"]
        print(f"| {' | '.join(cells)} |")
    print("\n| paired | train | inference |\n|---|---|---|")
    for own_name, other in PAIRS:
        if own_name in rates[True] and other in rates[True]:
            cells = [describe_ratio(rates[training][own_name], rates[training][other]) for training in (True, False)]
            print(f"| {own_name} / {other} | {' | '.join(cells)} |", flush=True)


def compare(size: Size, batch: int, peers: list[str], arguments: argparse.Namespace) -> None:
    """Print the tables of one size and batch."""
    device, precisions = torch.device(arguments.device), arguments.precision
    torch.manual_seed(0)
    counted = {pooling == "mean": build_ours(size, pooling) for pooling in ("cls", "mean")}
    work = Batch(
        torch.randn(batch, 3, size.image_size, size.image_size, device=device),
        torch.randint(size.num_classes, (batch,), device=device),
        {plain: count_gflops(model) for plain, model in counted.items()},
    )
    lineup = Lineup(size, device, precisions, arguments.compile, arguments.threads, batch)
    for peer in peers:
        for name, build in PEERS[peer].builders.items():
            lineup.enter_peer(name, build(size).to(device))
    lineup.enter_ours()
    contestants = lineup.contestants
    # Measured before and after, because another program may slow down one of the two.
    used = dict.fromkeys(row.kernels[True] for row in contestants)
    ways = {precision: [kernels for kernels in used if kernels.precision == precision] for precision in precisions}
    before = [measure_peak(device, way, arguments.repeats) for way in ways.values()]
    rates = measure(contestants, work, arguments.rounds, arguments.seconds)
    after = [measure_peak(device, way, arguments.repeats) for way in ways.values()]
    peaks = dict(zip(ways, map(max, before, after), strict=True))
    shown = ", ".join(f"{precision} {peak:,.0f}" for precision, peak in peaks.items())
    print(f"\n**{size.title}**, batch {batch}; peak GFLOP/s: {shown}\n")
    for row in contestants:
        if row.name in ("ours", "ours, bf16"):
            print(f"- {row.name}: {row.kernels[True].describe()} to train, {row.kernels[False].describe()} to predict")
    print()
    print_table(contestants, rates, work, peaks)


def find_peers(wanted: list[str]) -> list[str]:
    """Return the wanted peers that are installed, in the order of the rows; print those that are not."""
    found = []
    for name, peer in PEERS.items():
        if name not in wanted and name != "timm":
            continue
        if importlib.util.find_spec(peer.module):
            found.append(name)
        elif name == "timm":
            raise SystemExit(f"timm, the reference, is not installed: pip install -r {REQUIREMENTS}")
        else:
            print(f"{name} is left out, because {peer.package} is not installed: pip install -r {REQUIREMENTS}")
    return found


def name_device(device: torch.device, threads: int) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{describe_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, help="images per batch; by default that of the size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement, which has at least one step")
    parser.add_argument("--repeats", type=int, default=10, help="matrix products; the fastest is the peak")
    parser.add_argument("--compile", action="store_true", help="add compiled models, on CUDA of all peers")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"in addition to timm: {','.join(PEERS)}")
    help_text = "the first one is that of rows that name none; by default float32 and, where it is native, bf16"
    parser.add_argument("--precision", choices=("float32", "bf16"), nargs="+", help=help_text)
    arguments = parser.parse_args()
    wanted = [name for name in arguments.peers.split(",") if name]
    if unknown := set(wanted) - set(PEERS):
        parser.error(f"--peers={','.join(sorted(unknown))} is unknown; allowed: {', '.join(PEERS)}")
    device = torch.device(arguments.device)
    if arguments.precision is None:
        arguments.precision = ["float32", "bf16"][: 1 + has_bf16(device)]
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    if arguments.compile:
        import torch._dynamo.config as dynamo

        # Several rows of a class are compiled, for training and inference; none may fall back to eager unnoticed.
        dynamo.recompile_limit = 64
        dynamo.fail_on_recompile_limit_hit = True

    print(f"python benchmarks/model_speed.py {' '.join(sys.argv[1:])}".rstrip())
    peers = find_peers(wanted)
    packages = dict.fromkeys(["torch", *(PEERS[name].package for name in peers)])
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    print(f"{', '.join(versions)}, Python {platform.python_version()}")
    print(f"{name_device(device, arguments.threads)}, {datetime.date.today()}, medians of {arguments.rounds} rounds")
    for name in arguments.sizes:
        size = SIZES[name]
        batches = (arguments.batch,) if arguments.batch else size.batches["cuda" if device.type == "cuda" else "cpu"]
        for batch in batches:
            compare(size, batch, peers, arguments)


if __name__ == "__main__":
    main()
