"""A full epoch as the user runs it, with data, augmentation, step, metrics and logging: train.py against rival.py.

    python benchmarks/epoch_speed.py [--device cuda] [--sizes 32 224] [--augment light medium] [--rounds 5]

Both run as commands, one after the other in each round, with the same images, batch, augmentation, precision and model
size. The images are crops of scikit-learn's two sample photographs: PNG files at 32 px; JPEG files of 500x375 px for
sizes above 64 px. Rates are those that the programs report, without the first epoch. The table has

- training: images/s while training;
- whole epochs: seconds with evaluation (by train.py on val/, by the rival on test/, equally large) and everything that
  is written: metrics, checkpoints, curves, TensorBoard;
- command: seconds from start to end, with imports and decoding, and for train.py with test and figures;
- no step: the fraction of training time in which no step is computed, estimated from outside: 1 - rate / rate of bare
  steps on a batch in memory, which are timed in a separate process in each round. It is everything that is not the
  step, and negative if the bare steps happened to be slower;
- wait: the fraction of time in which the rival waits for its DataLoader. For train.py, loading is part of "no step".

Ratios are computed in each round; the table has their median, with minimum and maximum in brackets.

On a CPU, the rival's number of threads matters: where other programs run too, two threads that wait by spinning made it
ten times slower than one. Measure on an idle machine, with --threads 0 and 1, and use the smaller ratio.
"""

import argparse
import csv
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
import torchvision
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rival

USERS_SPINCOUNT = os.environ.get("GOMP_SPINCOUNT")

from data_speed import cut_photographs  # noqa: E402

from src import build  # noqa: E402
from src.config.compose import compose_config  # noqa: E402
from src.config.resolve import complete  # noqa: E402
from src.data.images import Preprocessing  # noqa: E402

# src/__init__.py has set it. The rival must run without it, unless the user has set it.
if USERS_SPINCOUNT is None:
    del os.environ["GOMP_SPINCOUNT"]

ROOT = Path(__file__).resolve().parents[1]
NUM_CLASSES = 4
EVALUATED_SHARE = 0.2  # images in val/ and in test/, relative to the number of training images
STEP_SECONDS = 3.0  # duration of a measurement of bare steps
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}  # of train.py, set by src/__init__.py before torch is imported


@dataclass(frozen=True)
class Setting:
    """The setting of a row of the table."""

    image_size: int
    augment: str
    num_images: int
    device: str  # cpu or cuda
    precision: str  # float32 or bf16
    dim: int
    depth: int
    heads: int
    batch_size: int
    epochs: int
    workers: int
    threads: int
    compile: bool

    @property
    def patch_size(self) -> int:
        return 4 if self.image_size <= 64 else 16


@dataclass
class Result:
    """The results of one command; rates and waits are medians over its epochs after the first."""

    images_per_second: float
    epoch_seconds: float
    command_seconds: float
    wait_share: float | None = None


@dataclass
class Round:
    own: Result
    usual: Result
    own_bare: float  # images/s of bare steps
    usual_bare: float


def make_images(folder: Path, size: int, count: int) -> None:
    """Write train/, val/ and test/, with a folder per class."""
    evaluated = max(NUM_CLASSES, round(EVALUATED_SHARE * count))
    splits = ["train"] * count + ["val"] * evaluated + ["test"] * evaluated
    small = size <= 64
    width, height = (size, size) if small else (500, 375)
    for number, (split, pixels) in enumerate(zip(splits, cut_photographs(len(splits), width, height), strict=True)):
        path = folder / split / f"class {number % NUM_CLASSES}" / f"{number:06d}{'.png' if small else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        if small:
            image.save(path)
        else:
            image.save(path, quality=90)


def list_overrides(setting: Setting) -> list[str]:
    return [
        *("model=vit_tiny", "model.dropout=0", "model.attention_dropout=0", "model.drop_path=0", "model.pooling=cls"),
        f"model.embedding_dim={setting.dim}",
        f"model.num_layers={setting.depth}",
        f"model.num_heads={setting.heads}",
        f"model.patch_size={setting.patch_size}",
        f"model.image_size={setting.image_size}",
        f"augmentation={setting.augment}",
        f"training.batch_size={setting.batch_size}",
        f"training.precision={setting.precision}",
        f"training.epochs={setting.epochs}",
        f"training.compile={str(setting.compile).lower()}",
        f"device={setting.device}",
    ]


def list_options(setting: Setting) -> list[str]:
    """Return the same setting as options of the rival."""
    values = {
        "image-size": setting.image_size,
        "patch-size": setting.patch_size,
        "dim": setting.dim,
        "depth": setting.depth,
        "heads": setting.heads,
        "pool": "token",
        "augment": setting.augment,
        "batch-size": setting.batch_size,
        "precision": setting.precision,
        "epochs": setting.epochs,
        "workers": setting.workers,
        "threads": setting.threads,
        "device": setting.device,
    }
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return words + ["--compile"] * setting.compile


def run_own(setting: Setting, images: Path, scratch: Path) -> Result:
    """Run train.py in a new folder, so that it has to decode all images."""
    folder = scratch / "run"
    paths = [f"dataset.root={images}", f"dataset.cache_dir={scratch / 'cache'}", f"hydra.run.dir={folder}"]
    words = [str(ROOT / "train.py"), "dataset=image_folder", *paths, *list_overrides(setting)]
    command_seconds = run_command(words, scratch)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates, ends = ([float(row[key]) for row in rows] for key in ("images_per_second", "seconds"))
    return Result(statistics.median(rates[1:]), average_epoch(ends), command_seconds)


def run_usual(setting: Setting, images: Path, scratch: Path) -> Result:
    log = scratch / "rival.jsonl"
    words = [str(ROOT / "benchmarks" / "rival.py"), "--data", str(images), "--log", str(log), *list_options(setting)]
    command_seconds = run_command(words, scratch)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rates, ends, waits = ([row[key] for row in rows] for key in ("images_per_second", "seconds", "wait_share"))
    return Result(statistics.median(rates[1:]), average_epoch(ends), command_seconds, statistics.median(waits[1:]))


def average_epoch(ends: list[float]) -> float:
    """Return the mean seconds from the end of an epoch to the end of the next."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def run_command(words: list[str], folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def time_in_process(function: Callable[[Setting], float], setting: Setting, environment: dict[str, str]) -> float:
    """Call the function in a separate process, so that threads, kernels and device memory here do not change."""
    added = {key: value for key, value in environment.items() if key not in os.environ}
    os.environ.update(added)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, (setting,))
    finally:
        for key in added:
            del os.environ[key]


def time_own_steps(setting: Setting) -> float:
    """Return the images/s of bare steps with the model, optimizer, threads and kernels of train.py."""
    config = compose_config("dataset=digits", *list_overrides(setting))
    device, world = build.open_device(config)
    mean, std = [0.5] * 3, [0.25] * 3
    config = complete(config, setting.num_images, num_classes=NUM_CLASSES, in_channels=3, mean=mean, std=std)
    look = Preprocessing(config.model.image_size, "crop", "bicubic", 3, tuple(mean), tuple(std))
    model = build.build_model(config, device)
    labels = torch.zeros(setting.num_images, dtype=torch.long)
    config = build.choose_computing(config, model, setting.num_images, world)
    trainer = build.build_trainer(config, model, look, labels, world)
    return time_steps(trainer.network, trainer.optimizer, setting)


def time_usual_steps(setting: Setting) -> float:
    """Return the images/s of bare steps of the rival."""
    options = SimpleNamespace(**vars(setting), model="vit", patch_size=setting.patch_size, pool="token", drop_path=0.0)
    options.seed = 0
    options.device = torch.device(setting.device)
    rival.prepare(options)  # type: ignore[arg-type]
    model = rival.build_model(options, NUM_CLASSES).to(options.device)  # type: ignore[arg-type]
    if setting.compile:
        model.compile()
    return time_steps(model, rival.build_optimizer(model, 1e-3), setting)


def time_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, setting: Setting) -> float:
    """Return the images/s of steps on a batch in memory: forward, loss, backward, clipping, update."""
    device, size = torch.device(setting.device), setting.image_size
    images = torch.randn(setting.batch_size, 3, size, size, device=device)
    labels = torch.arange(setting.batch_size, device=device) % NUM_CLASSES
    model.train()

    def run(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            rival.take_step(model, optimizer, images, labels, setting.precision == "bf16")
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    run(2)
    count = max(2, round(STEP_SECONDS / (run(2) / 2)))
    return count * setting.batch_size / run(count)


def compare(setting: Setting, images: Path, folder: Path, number: int) -> Round:
    """Run everything once; the order of the two commands alternates."""
    scratch = folder / f"{setting.image_size} {setting.augment} {number}"
    scratch.mkdir()
    if number % 2:
        usual, own = run_usual(setting, images, scratch), run_own(setting, images, scratch)
    else:
        own, usual = run_own(setting, images, scratch), run_usual(setting, images, scratch)
    own_bare = time_in_process(time_own_steps, setting, ENVIRONMENT)
    return Round(own, usual, own_bare, time_in_process(time_usual_steps, setting, {}))


def format_row(setting: Setting, rounds: list[Round]) -> str:
    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(map(value, rounds))

    def ratio(value: Callable[[Round], float]) -> str:
        values = [value(one) for one in rounds]
        return f"{statistics.median(values):.2f}× [{min(values):.2f}, {max(values):.2f}]"

    cells = [
        f"{setting.image_size} px",
        setting.augment,
        f"{median(lambda one: one.usual.images_per_second):,.0f}",
        f"{median(lambda one: one.own.images_per_second):,.0f}",
        ratio(lambda one: one.own.images_per_second / one.usual.images_per_second),
        f"{median(lambda one: one.usual.epoch_seconds):.2f}",
        f"{median(lambda one: one.own.epoch_seconds):.2f}",
        ratio(lambda one: one.usual.epoch_seconds / one.own.epoch_seconds),
        f"{median(lambda one: one.usual.command_seconds):.1f}",
        f"{median(lambda one: one.own.command_seconds):.1f}",
        f"{median(lambda one: 1 - one.usual.images_per_second / one.usual_bare):.1%}",
        f"{median(lambda one: 1 - one.own.images_per_second / one.own_bare):.1%}",
        f"{median(lambda one: one.usual.wait_share or 0.0):.1%}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| images | augmentation | training images/s: rival | ours | ratio | whole epoch s: rival | ours | ratio "
    "| command s: rival | ours | no step: rival | ours | wait: rival |\n" + "|---" * 13 + "|"
)


def list_settings(arguments: argparse.Namespace) -> list[Setting]:
    device = arguments.device
    counts = arguments.images or [choose_count(size, device) for size in arguments.sizes]
    if len(counts) != len(arguments.sizes):
        raise SystemExit("--images needs as many numbers as --sizes")
    return [
        Setting(
            image_size=size,
            augment=augment,
            num_images=count,
            device=device,
            precision=arguments.precision or ("bf16" if device == "cuda" else "float32"),
            dim=arguments.dim,
            depth=arguments.depth,
            heads=arguments.heads,
            batch_size=arguments.batch,
            epochs=arguments.epochs,
            workers=arguments.workers,
            threads=arguments.threads,
            compile=arguments.compile,
        )
        for size, count in zip(arguments.sizes, counts, strict=True)
        for augment in arguments.augment
    ]


def choose_count(size: int, device: str) -> int:
    """Return a number of images for epochs of a few seconds."""
    if device == "cuda":
        return 50_000 if size <= 64 else 5_000
    return 1024 if size <= 64 else 256


def describe_machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    return f"{versions}, Python {platform.python_version()}; {name}; {date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224], help="pixels")
    parser.add_argument("--images", type=int, nargs="+", help="training images, a number for each size")
    parser.add_argument("--augment", nargs="+", choices=("light", "medium"), default=["light"])
    parser.add_argument("--epochs", type=int, default=3, help="the first one is not measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), help="default: bf16 on cuda, else float32")
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--depth", type=int, default=9)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2, help="of the rival's DataLoader")
    parser.add_argument("--threads", type=int, default=0, help="of torch in the rival; 0: its own default")
    parser.add_argument("--compile", action="store_true", help="compile both models")
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error("--epochs must be at least 2, because the first one is not measured")
    settings = list_settings(arguments)
    print(f"python {' '.join(sys.argv)}\n{describe_machine(arguments.device)}")
    for setting in settings:
        print(setting)  # its values by name
    print(f"\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for setting in settings:
            images = folder / f"images {setting.image_size}"
            if not images.exists():
                make_images(images, setting.image_size, setting.num_images)
            rounds = [compare(setting, images, folder, number) for number in range(arguments.rounds)]
            print(format_row(setting, rounds), flush=True)


if __name__ == "__main__":
    main()
