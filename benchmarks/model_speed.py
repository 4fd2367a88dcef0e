"""Images per second in training and inference: this ViT against others with the same dimensions, in one process.

    python benchmarks/model_speed.py [--device cuda] [--sizes 32px tiny] [--batch 16] [--rounds 7] [--compile]

A step is forward, backward and AdamW, without data loading, clipping or averaged weights. In each round, all models are
measured in turn, in reverse order every other round; the tables have medians, and ratios are medians of the ratios in
each round (minimum to maximum). The peers are in `requirements-bench.txt`, including timm, and run with their defaults:
AdamW(parameters) and torch's default kernels. timm also has rows with the fused AdamW and with the kernels that
train.py chooses, and our model has one with torch's kernels.

"share" is the fraction of the throughput of the fastest large matrix product in the same precision. FLOPs are counted
for our model (a step costs three forward passes) and used for all, with or without a class token. All run with
train.py's allocator setting (`keep_freed_memory`).
"""

import argparse
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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.engine.evaluation import count_gflops
from src.machine.devices import autocast, choose_kernels
from src.machine.memory import keep_freed_memory
from src.model import VisionTransformer
from src.optim import parameter_groups

REQUIREMENTS = "requirements-bench.txt"
LEARNING_RATE = 1e-5  # small, so that weights stay realistic although the images are always the same
WEIGHT_DECAY = 0.05
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """The dimensions of all models in a table; batches: the defaults for the CPU and for CUDA."""

    title: str
    image_size: int
    patch_size: int
    dim: int
    depth: int
    heads: int
    num_classes: int
    batches: dict[str, tuple[int, ...]]


SIZES = {
    "32px": Size("32 px, patch 4, dim 192, depth 9, heads 3", 32, 4, 192, 9, 3, 10, {"cpu": (16,), "cuda": (64, 512)}),
    "tiny": Size("ViT-Ti/16, 224 px", 224, 16, 192, 12, 3, 1000, {"cpu": (8,), "cuda": (256,)}),
    "small": Size("ViT-S/16, 224 px", 224, 16, 384, 12, 6, 1000, {"cpu": (4,), "cuda": (256,)}),
    "base": Size("ViT-B/16, 224 px", 224, 16, 768, 12, 12, 1000, {"cpu": (2,), "cuda": (128,)}),
}


@dataclass(eq=False)
class Contestant:
    """A row. It may share `model` and `optimizer` with other rows; `network` is the model, or its compiled version.

    own_kernels: those that train.py chooses, instead of torch's default; plain: without a class token.
    """

    name: str
    model: nn.Module
    network: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    precision: torch.dtype
    own_kernels: bool = False
    plain: bool = False
    calls: dict[bool, int] = field(default_factory=dict)  # training or not -> calls per measurement


@dataclass(frozen=True)
class Work:
    """The input of a contestant, and its cost: GFLOPs of the forward pass of an image, by `plain`."""

    images: Tensor  # (B,3,H,W)
    labels: Tensor  # (B,)
    gflops: dict[bool, float]
    num_tokens: int

    @property
    def device(self) -> torch.device:
        return self.images.device


def build_ours(size: Size, pooling: str) -> VisionTransformer:
    return VisionTransformer(
        image_size=size.image_size, patch_size=size.patch_size, num_classes=size.num_classes, embedding_dim=size.dim,
        num_layers=size.depth, num_heads=size.heads, pooling=pooling,
    )  # fmt: skip


def build_timm(size: Size) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer as Timm

    return Timm(
        img_size=size.image_size, patch_size=size.patch_size, num_classes=size.num_classes, embed_dim=size.dim,
        depth=size.depth, num_heads=size.heads,
    )  # fmt: skip


def build_lucidrains(size: Size, name: str) -> nn.Module:
    import vit_pytorch

    return getattr(vit_pytorch, name)(
        image_size=size.image_size, patch_size=size.patch_size, num_classes=size.num_classes, dim=size.dim,
        depth=size.depth, heads=size.heads, mlp_dim=4 * size.dim, dim_head=size.dim // size.heads,
    )  # fmt: skip


def build_torchvision(size: Size) -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer as Torchvision

    return Torchvision(
        size.image_size, size.patch_size, size.depth, size.heads, size.dim, 4 * size.dim, num_classes=size.num_classes
    )


class Transformers(nn.Module):
    """Hugging Face's ViT, reduced to its logits."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        options: dict[str, Any] = {
            "hidden_size": size.dim,
            "num_hidden_layers": size.depth,
            "num_attention_heads": size.heads,
            "intermediate_size": 4 * size.dim,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "num_labels": size.num_classes,
        }
        self.vit = ViTForImageClassification(ViTConfig(**options))

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(pixel_values=images).logits


class TorchEncoder(nn.Module):
    """A ViT around torch's nn.TransformerEncoder."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        dim, num_patches = size.dim, (size.image_size // size.patch_size) ** 2
        self.patches = nn.Conv2d(3, dim, size.patch_size, size.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, num_patches + 1, dim))
        layer = nn.TransformerEncoderLayer(
            dim, size.heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, size.depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.head = nn.Linear(dim, size.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.encoder(x)[:, 0])


@dataclass(frozen=True)
class Peer:
    """A package, its module, and its models by the name of their row."""

    package: str
    module: str
    builders: dict[str, Callable[[Size], nn.Module]]


PEERS = {
    "timm": Peer("timm", "timm", {"timm": build_timm}),
    "lucidrains": Peer(
        "vit-pytorch",
        "vit_pytorch",
        {
            "lucidrains ViT": lambda size: build_lucidrains(size, "ViT"),
            "lucidrains SimpleViT": lambda size: build_lucidrains(size, "SimpleViT"),
        },
    ),
    "torchvision": Peer("torchvision", "torchvision", {"torchvision": build_torchvision}),
    "transformers": Peer("transformers", "transformers", {"Hugging Face": Transformers}),
    "torch": Peer("torch", "torch", {"nn.TransformerEncoder": TorchEncoder}),
}
PLAIN = {"lucidrains SimpleViT"}
# Pairs (ours, theirs) that are compared below each table, if both are in it.
PAIRS = (
    ("ours, torch's kernels", "timm, fused AdamW"),
    ("ours", "timm"),
    ("ours", "timm, fused AdamW"),
    ("ours", "timm, our settings"),
    ("ours, compiled", "timm, compiled"),
    ("ours, compiled", "timm, our settings, compiled"),
)


@dataclass
class Lineup:
    """The rows of a table. Rows that differ only in settings share a model, to save memory."""

    device: torch.device
    precision: torch.dtype
    compiled: bool
    contestants: list[Contestant] = field(default_factory=list)

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def enter(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        options = {"precision": self.precision} | options
        self.contestants.append(Contestant(name, model, model, optimizer, **options))

    def enter_compiled(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        if self.compiled:
            self.enter(f"{name}, compiled", model, optimizer, **options)
            self.contestants[-1].network = torch.compile(model, backend=own_backend())

    def enter_peer(self, name: str, model: nn.Module) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
        self.enter(name, model, optimizer, plain=name in PLAIN)
        if name == "timm" or not self.on_cpu:
            self.enter_compiled(name, model, optimizer, plain=name in PLAIN)
        if name == "timm":
            fused = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
            self.enter("timm, fused AdamW", model, fused)
            if self.on_cpu:
                self.enter("timm, our settings", model, fused, own_kernels=True)
            self.enter_compiled("timm, our settings", model, fused, own_kernels=True)

    def enter_ours(self, size: Size) -> None:
        model = build_ours(size, "cls").to(self.device)
        timm = next(contestant.model for contestant in self.contestants if contestant.name == "timm")
        assert count_parameters(model) == count_parameters(timm)
        optimizer = build_own_optimizer(model)
        if self.on_cpu:
            self.enter("ours, torch's kernels", model, optimizer)
        self.enter("ours", model, optimizer, own_kernels=True)
        if self.on_cpu and self.precision == torch.float32:
            self.enter("ours, bf16", model, optimizer, own_kernels=True, precision=torch.bfloat16)
        self.enter_compiled("ours", model, optimizer, own_kernels=True)
        model = build_ours(size, "mean").to(self.device)
        self.enter("ours, mean pooling", model, build_own_optimizer(model), own_kernels=True, plain=True)


def build_contestants(
    size: Size, peers: list[str], device: torch.device, precision: torch.dtype, compiled: bool
) -> list[Contestant]:
    lineup = Lineup(device, precision, compiled)
    for peer in peers:
        for name, build in PEERS[peer].builders.items():
            lineup.enter_peer(name, build(size).to(device))
    lineup.enter_ours(size)
    return lineup.contestants


def build_own_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW as train.py builds it, except for the learning rate."""
    return torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), LEARNING_RATE, fused=True)


def own_backend() -> Callable[..., Any]:
    """Return inductor as a new object.

    Compiled graphs are cached by code and backend, not by the kernels: rows would get the graphs of other rows.
    """
    from torch._inductor.compile_fx import compile_fx

    return lambda graph, inputs: compile_fx(graph, inputs)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def set_kernels(contestant: Contestant, work: Work) -> bool:
    """Set the kernels of the process for a contestant; return whether they differ from torch's default."""
    gflops = 3 * work.gflops[contestant.plain] * len(work.images) if contestant.own_kernels else 0.0
    return choose_kernels(work.device, gflops, work.num_tokens)


def train_step(contestant: Contestant, work: Work) -> None:
    contestant.optimizer.zero_grad(set_to_none=True)
    with autocast(work.device, contestant.precision):
        logits = contestant.network(work.images)
    F.cross_entropy(logits.float(), work.labels).backward()
    contestant.optimizer.step()


@torch.inference_mode()
def infer(contestant: Contestant, work: Work) -> None:
    with autocast(work.device, contestant.precision):
        contestant.network(work.images)


def time_calls(contestant: Contestant, work: Work, training: bool, calls: int) -> float:
    """Return the seconds of `calls` steps or inferences, after a warm-up call."""
    set_kernels(contestant, work)
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
    contestants: list[Contestant], work: Work, rounds: int, seconds: float
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


def measure_peak(device: torch.device, precision: torch.dtype, repeats: int) -> float:
    """Return the GFLOP/s of the fastest of several large matrix products, on the CPU with torch's kernels and ours."""
    best = 0.0
    for width in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        left, right = torch.randn(2, width, width, device=device).to(precision)
        for gflops in (0.0, math.inf):
            choose_kernels(device, gflops, 1)
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
    work: Work,
    peaks: dict[torch.dtype, float],
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
            cells += [f"{rate * gflops / peaks[contestant.precision]:.0%}"]
        print(f"| {' | '.join(cells)} |")
    print("\n| paired | train | inference |\n|---|---|---|")
    for own_name, other in PAIRS:
        if own_name in rates[True] and other in rates[True]:
            cells = [describe_ratio(rates[training][own_name], rates[training][other]) for training in (True, False)]
            print(f"| {own_name} / {other} | {' | '.join(cells)} |", flush=True)


def compare(size: Size, batch: int, peers: list[str], arguments: argparse.Namespace) -> None:
    """Print the tables of one size and batch."""
    device, precision = torch.device(arguments.device), PRECISIONS[arguments.precision]
    torch.manual_seed(0)
    contestants = build_contestants(size, peers, device, precision, arguments.compile)
    counted = {pooling == "mean": build_ours(size, pooling) for pooling in ("cls", "mean")}
    work = Work(
        torch.randn(batch, 3, size.image_size, size.image_size, device=device),
        torch.randint(size.num_classes, (batch,), device=device),
        {plain: count_gflops(model) for plain, model in counted.items()},
        counted[False].num_tokens,
    )
    # Measured before and after, because another program may slow down one of the two.
    dtypes = sorted({row.precision for row in contestants}, key=str)
    before = [measure_peak(device, dtype, arguments.repeats) for dtype in dtypes]
    rates = measure(contestants, work, arguments.rounds, arguments.seconds)
    after = [measure_peak(device, dtype, arguments.repeats) for dtype in dtypes]
    peaks = dict(zip(dtypes, map(max, before, after), strict=True))
    shown = ", ".join(f"{str(dtype).removeprefix('torch.')} {peak:,.0f}" for dtype, peak in peaks.items())
    print(f"\n**{size.title}**, batch {batch}, {arguments.precision}; peak GFLOP/s: {shown}", end="")
    if device.type == "cpu":
        differ = any(set_kernels(row, work) for row in contestants if row.own_kernels)
        print(f"; train.py's kernels {'differ from' if differ else 'are'} torch's", end="")
    print("\n")
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
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # not on Linux
        pass
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {threads} thread{'s' if threads > 1 else ''}"


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
    parser.add_argument("--precision", choices=PRECISIONS, help="by default float32 on the CPU, bf16 on CUDA")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.peers.split(",") if name]
    if unknown := set(wanted) - set(PEERS):
        parser.error(f"--peers={','.join(sorted(unknown))} is unknown; allowed: {', '.join(PEERS)}")
    device = torch.device(arguments.device)
    arguments.precision = arguments.precision or ("bf16" if device.type == "cuda" else "float32")
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    if arguments.compile:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        # Several rows of a class are compiled, for training and inference; none may fall back to eager unnoticed.
        dynamo.recompile_limit = 64
        dynamo.fail_on_recompile_limit_hit = True
        # The cache on disk does not distinguish kernels either: it returned another row's attention.
        inductor.force_disable_caches = True

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
