"""Test accuracy from scratch within a time limit: this repository against a plain loop with the same model (rival.py).

    python benchmarks/time_to_accuracy.py --data FOLDER                          (train/<class>/…, test/<class>/…)
    python benchmarks/time_to_accuracy.py --data FOLDER --minutes 0.5 1 2 4 8 --seeds 0 1 2 --compile --out FILE.json
    python benchmarks/time_to_accuracy.py --data FOLDER --minutes 0.5 --dim 64 --depth 2 --heads 2 --per-class-train 50

Data: both train on all of train/. train.py gets the test images as its validation split, so that each row of
metrics.csv has the test accuracy of that epoch's weights. Only the last row counts, not the best one, and there is no
test-time augmentation; with training.ema in --ours, it is the accuracy of the averaged weights, and the table says so.
train.py's own test, of its best epoch, is not used and gets one image per class. On a CPU, the default is 100 test
images per class, the first by name, because 10,000 images would take much of the time.

Time: seconds from the start of the process until its last row is written, with imports, decoding of all images, and
compilation; without --warm, each process starts with empty caches of images and kernels. The end is the modification
time of the file; times of earlier rows are from its `seconds` column. Everything after the last row, such as figures
and the test of another epoch's weights, does not count; "process s" includes it.

Budget: training.max_minutes starts when the images are decoded, and reserves time for the end of the run. So both
contestants first run once as a probe (--probe-minutes), and their limits are then corrected by the seconds that the
probe was off. The remaining error is visible in the column "wall s". The number of epochs is set out of reach; both
loops scale their schedules to the time, of which --warmup-share is the warm-up, also with a recipe. The last epoch may
be incomplete; for the rival, the table counts it as a whole one. OMP_NUM_THREADS sets the threads of both.

Runs alternate: for each seed and budget, one contestant after the other.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RIVAL = Path(__file__).with_name("rival.py")
EPOCHS = 10_000  # out of reach, so that the schedules follow the time limit
LONGEST_PROBE = 8.0  # minutes


@dataclass
class Result:
    """A finished run. curve: seconds since the start of the process and test accuracy, after each epoch.

    epochs: trained, the last one perhaps in part; weights: those of the accuracy, "plain" or "averaged"; wall: seconds
    until the last row; process: seconds until the process ended.
    """

    contestant: str
    minutes: float
    limit: float
    seed: int
    accuracy: float
    weights: str
    epochs: float
    images_per_second: float
    wall: float
    process: float
    curve: list[tuple[float, float]]

    def crossing(self, target: float) -> float | None:
        """Return the seconds after which the accuracy first was at least `target`."""
        return next((seconds for seconds, accuracy in self.curve if accuracy >= target), None)


@dataclass
class Benchmark:
    """What all runs share; folder: contains links to the images, and a folder per run."""

    options: argparse.Namespace
    folder: Path
    num_train: int

    def run(self, contestant: str, minutes: float, shift: float, seed: int, name: str) -> Result:
        """Train once, with a limit `shift` seconds shorter than the budget."""
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True)
        limit = max(0.02, minutes - shift / 60)
        command = COMMANDS[contestant](self.options, limit, seed)
        started, seconds = self._run_command(command, folder, timeout=300 * minutes + 1800)
        path = folder / ("run/metrics.csv" if contestant == "ours" else "log.jsonl")
        rows, weights, epochs = READERS[contestant](path, self.num_train)
        begun = path.stat().st_mtime - started - rows[-1][0]  # seconds before the clock of the rows started
        rates = [rate for _, _, rate in rows]
        return Result(
            contestant=contestant,
            minutes=minutes,
            limit=limit,
            seed=seed,
            accuracy=rows[-1][1],
            weights=weights,
            epochs=epochs,
            # Without the first epoch, a warm-up, if there are others.
            images_per_second=statistics.median(rates[1:] or rates),
            wall=begun + rows[-1][0],
            process=seconds,
            curve=[(begun + row[0], row[1]) for row in rows],
        )

    def _run_command(self, command: list[str], folder: Path, timeout: float) -> tuple[float, float]:
        """Run a command in a folder, with the shared caches if --warm, else with empty ones.

        Returns when it was started, in seconds since 1970, and how many seconds it took.
        """
        caches = self.folder / "caches" if self.options.warm else folder / "caches"
        (folder / "cache").symlink_to(caches)
        caches.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }
        log = folder / "output.txt"
        with log.open("wb") as file:
            started = time.time()
            process = subprocess.run(
                command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=timeout
            )
            seconds = time.time() - started
        if process.returncode:
            end = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"exit code {process.returncode} of {shlex.join(command)}:\n{end}")
        if not self.options.warm:
            shutil.rmtree(caches)
        return started, seconds

    def run_all(self, shifts: dict[str, float]) -> Iterator[Result]:
        """Yield a result for each seed, budget and contestant, the contestants in turn."""
        options = self.options
        for seed, minutes, name in itertools.product(options.seeds, options.minutes, options.contestants):
            result = self.run(name, minutes, shifts[name], seed, f"{name}-{minutes:g}-{seed}")
            line = f"{name}, {60 * minutes:g} s, seed {seed}: {result.accuracy:.2%} after {result.wall:.1f} s"
            print(line, file=sys.stderr, flush=True)
            yield result

    def find_shift(self, contestant: str) -> float:
        """Return by how many seconds a run is late (early if negative) if its limit is its budget."""
        minutes = self.options.probe_minutes
        while minutes:
            probe = self.run(contestant, minutes, 0.0, 0, f"probe-{contestant}-{minutes:g}")
            late = probe.wall - 60 * minutes
            # A run of a single step only measures the start, not the end.
            trained = probe.epochs * self.num_train > self.options.batch_size
            print(f"{contestant}, probe of {minutes:g} minutes: {late:+.1f} s", file=sys.stderr, flush=True)
            if trained and late < 15 * minutes:
                return late
            if minutes >= LONGEST_PROBE:
                raise RuntimeError(f"{contestant} does not keep to {minutes:g} minutes: {probe.wall:.0f} s")
            minutes = min(2 * minutes, LONGEST_PROBE)
        return 0.0


def build_our_command(options: argparse.Namespace, minutes: float, seed: int) -> list[str]:
    extra = split_words(options.ours)
    words = {
        "model.patch_size": options.patch_size,
        "model.embedding_dim": options.dim,
        "model.num_layers": options.depth,
        "model.num_heads": options.heads,
        "model.pooling": {"token": "cls", "avg": "mean"}[options.pool],
        "model.dropout": 0.0,
        "model.drop_path": options.drop_path,
        "augmentation": options.augment,
        "optimizer.lr": options.lr,
        "training.batch_size": options.batch_size,
        "training.precision": options.precision,
        "training.compile": str(options.compile).lower(),
    }
    if "experiment" in extra:  # the recipe sets these
        words = {}
    words |= {
        "scheduler.warmup_epochs": options.warmup_share * EPOCHS,
        "dataset": "image_folder",
        "dataset.root": "../../ours",
        "dataset.cache_dir": "cache/images",
        "dataset.image_size": options.image_size,
        "training.epochs": EPOCHS,
        "training.max_minutes": f"{minutes:.5f}",
        "seed": seed,
        "device": options.device,
        "hydra.run.dir": "run",
    }
    return [sys.executable, str(ROOT / "train.py"), *(f"{key}={value}" for key, value in {**words, **extra}.items())]


def split_words(text: str) -> dict[str, str]:
    """Return key -> value of overrides: Hydra accepts a group only once, so keys must be unique."""
    pairs = (word.partition("=") for word in shlex.split(text))
    return {key: value for key, _, value in pairs}


def build_rival_command(options: argparse.Namespace, minutes: float, seed: int) -> list[str]:
    words = {
        "data": "../../rival",
        "image-size": options.image_size,
        "patch-size": options.patch_size,
        "dim": options.dim,
        "depth": options.depth,
        "heads": options.heads,
        "pool": options.pool,
        "drop-path": options.drop_path,
        "augment": options.augment,
        "lr": options.lr,
        "batch-size": options.batch_size,
        "precision": options.precision,
        "warmup-epochs": options.warmup_share * EPOCHS,
        "epochs": EPOCHS,
        "minutes": f"{minutes:.5f}",
        "workers": options.workers,
        "seed": seed,
        "device": options.device,
        "log": "log.jsonl",
    }
    listed = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    return [sys.executable, str(RIVAL), *listed, *["--compile"] * options.compile, *shlex.split(options.rival)]


Row = tuple[float, float, float]  # seconds on the run's clock, test accuracy, images per second


def read_ours(path: Path, num_train: int) -> tuple[list[Row], str, float]:
    """Return the rows of metrics.csv, the weights that they are of, and the number of epochs trained."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    averaged = "ema_val_acc" in lines[-1]
    column = "ema_val_acc" if averaged else "val_acc"
    rows = [(float(line["seconds"]), float(line[column]), float(line["images_per_second"])) for line in lines]
    state = torch.load(path.parent / "checkpoints" / "last.pt", weights_only=True, map_location="cpu")["trainer"]
    return rows, "averaged" if averaged else "plain", state["epoch"] - 1 + state["seen"] / num_train


def read_rival(path: Path, num_train: int) -> tuple[list[Row], str, float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [(line["seconds"], line["test_acc"], line["images_per_second"]) for line in lines]
    return rows, "plain", lines[-1]["epoch"]


COMMANDS: dict[str, Callable[[argparse.Namespace, float, int], list[str]]] = {
    "ours": build_our_command,
    "rival": build_rival_command,
}
READERS: dict[str, Callable[[Path, int], tuple[list[Row], str, float]]] = {"ours": read_ours, "rival": read_rival}


def link_images(data: Path, folder: Path, per_class_train: int | None, per_class_test: int | None) -> tuple[int, int]:
    """Make a folder of links for each contestant; return the numbers of training and test images.

    For train.py, the test images are in val/, and test/ has one image per class.
    """
    train = list_images(data / "train", per_class_train)
    test = list_images(data / "test", per_class_test)
    if set(train) != set(test) or len(train) < 2:
        raise ValueError(f"--data {data}: train/ and test/ must hold the same two or more class folders")
    one_each = {name: files[:1] for name, files in test.items()}
    link(train, folder / "ours" / "train")
    link(test, folder / "ours" / "val")
    link(one_each, folder / "ours" / "test")
    link(train, folder / "rival" / "train")
    link(test, folder / "rival" / "test")
    return count(train.values()), count(test.values())


def list_images(folder: Path, most: int | None) -> dict[str, list[Path]]:
    """Return class -> files, only the first `most` of each by name."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name: sorted(file for file in path.iterdir() if file.is_file())[:most] for path in classes}


def link(images: dict[str, list[Path]], folder: Path) -> None:
    for name, files in images.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            (folder / name / file.name).symlink_to(file.resolve())


def count(lists: Iterable[list[Path]]) -> int:
    return sum(map(len, lists))


def print_accuracies(results: list[Result]) -> None:
    print("\n| | budget s | seeds | last test accuracy | weights | epochs | images/s | wall s | process s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for contestant, minutes in order(results):
        runs = select(results, contestant, minutes)
        accuracies = [100 * run.accuracy for run in runs]
        deviation = f" ± {statistics.stdev(accuracies):.2f}" if len(runs) > 1 else ""
        walls, processes = [run.wall for run in runs], [run.process for run in runs]
        print(
            f"| {contestant} | {60 * minutes:g} | {len(runs)} | {statistics.mean(accuracies):.2f}{deviation} % "
            f"| {runs[0].weights} | {statistics.mean(run.epochs for run in runs):.1f} "
            f"| {statistics.mean(run.images_per_second for run in runs):,.0f} "
            f"| {describe_range(walls)} | {describe_range(processes)} |"
        )


def print_targets(results: list[Result], targets: list[float]) -> None:
    """Print, for each target accuracy, the smallest sufficient budget and when it was first crossed."""
    print("\n| | target | smallest budget that ends at or above it, s | seeds that do | first crossed after, s |")
    print("|---|---|---|---|---|")
    for contestant in dict.fromkeys(run.contestant for run in results):
        budgets = [minutes for name, minutes in order(results) if name == contestant]
        for target in targets:
            reached = [
                minutes
                for minutes in budgets
                if statistics.mean(run.accuracy for run in select(results, contestant, minutes)) >= target
            ]
            runs = select(results, contestant, reached[0] if reached else budgets[-1])
            crossings = [seconds for run in runs if (seconds := run.crossing(target)) is not None]
            crossed = f"{statistics.mean(crossings):.1f} ({len(crossings)} of {len(runs)})" if crossings else "never"
            print(
                f"| {contestant} | {100 * target:g} % | {f'{60 * reached[0]:g}' if reached else 'none'} "
                f"| {sum(run.accuracy >= target for run in runs)} of {len(runs)} | {crossed} |"
            )
    print(
        "\nA budget is sufficient if the mean over seeds reaches the target. Seeds and crossings are of its runs, or "
        "those of the longest budget if none is sufficient; with a longer schedule, a run crosses later than it could."
    )


def order(results: list[Result]) -> list[tuple[str, float]]:
    """Return each contestant with each of its budgets, the shortest first."""
    first_seen = list(dict.fromkeys(run.contestant for run in results))
    pairs = {(run.contestant, run.minutes) for run in results}
    return sorted(pairs, key=lambda pair: (first_seen.index(pair[0]), pair[1]))


def select(results: list[Result], contestant: str, minutes: float) -> list[Result]:
    return [run for run in results if (run.contestant, run.minutes) == (contestant, minutes)]


def describe_range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    options = parse_options()
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{platform.machine()} CPU"
    print(f"{shlex.join(['python', *sys.argv])}\n{date.today()}, torch {torch.__version__}, Python ", end="")
    print(f"{platform.python_version()}, {device}, {options.cores} cores, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        sizes = link_images(options.data, folder, options.per_class_train, options.per_class_test)
        images = f"{sizes[0]:,} training and {sizes[1]:,} test images of {options.image_size} px"
        caches = "caches kept between runs" if options.warm else "caches empty at each start"
        print(f"{images}; {options.precision}, compile {'on' if options.compile else 'off'}; {caches}", flush=True)
        benchmark = Benchmark(options, folder, sizes[0])
        shifts = {name: benchmark.find_shift(name) for name in options.contestants}
        facts = {"command": sys.argv, "torch": torch.__version__, "device": device, "images": sizes, "shifts": shifts}
        results: list[Result] = []
        for result in benchmark.run_all(shifts):
            results.append(result)
            if options.out:  # after each run, because hours could be lost
                runs = {"date": str(date.today()), "runs": [asdict(run) for run in results]}
                options.out.write_text(json.dumps(facts | runs, indent=1) + "\n")
    print_accuracies(results)
    print_targets(results, options.targets)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
    add("--minutes", type=float, nargs="+", help="budgets; default: 10 on a CPU, else 0.5 1 2 4 8")
    add("--targets", type=float, nargs="+", default=[0.8547, 0.90])
    add("--seeds", type=int, nargs="+", help="default: 0 on a CPU, else 0 1 2")
    add("--device", default="auto")
    add("--contestants", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    add("--ours", default="", metavar="WORDS", help="overrides for train.py; experiment=NAME replaces options below")
    add("--rival", default="", metavar="WORDS", help="options for rival.py; type --rival=--option")
    add("--per-class-train", type=int, help="training images per class; default: all")
    add("--per-class-test", type=int, help="test images per class; default: 100 on a CPU, else all")
    add("--image-size", type=int, default=32)
    add("--patch-size", type=int, default=4)
    add("--dim", type=int, default=192)
    add("--depth", type=int, default=9)
    add("--heads", type=int, default=3)
    add("--pool", choices=["token", "avg"], default="token")
    add("--drop-path", type=float, default=0.0)
    add("--augment", choices=["light", "medium"], default="light")
    add("--batch-size", type=int, default=128)
    add("--lr", type=float, default=1e-3)
    add("--warmup-share", type=float, default=0.1, help="fraction of the time")
    add("--precision", choices=["float32", "bf16"], help="default: float32 on a CPU, else bf16")
    add("--compile", action="store_true")
    add("--workers", type=int, help="of the rival's DataLoader; default: 2 on a CPU, else one per core")
    add("--warm", action="store_true", help="keep the caches of images and compiled kernels between runs")
    add("--probe-minutes", type=float, help="budget of the probe; 0: no probe; default: 1, or the smallest budget")
    add("--folder", type=Path, help="keep the runs in this new folder; by default they are removed")
    add("--out", type=Path, help="JSON file for all results")
    options = parser.parse_args()
    fill_defaults(options)
    if "rival" in options.contestants and not RIVAL.is_file():
        parser.error(f"{RIVAL} is missing; --contestants ours does not need it")
    if missing := [part for part in ("train", "test") if not (options.data / part).is_dir()]:
        parser.error(f"--data {options.data} has no folder {missing[0]}; it needs train/<class>/ and test/<class>/")
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder {options.folder} is not empty")
    return options


def fill_defaults(options: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the machine."""
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = options.device == "cpu"
    options.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for key, cpu, other in (
        ("minutes", [10.0], [0.5, 1.0, 2.0, 4.0, 8.0]),
        ("seeds", [0], [0, 1, 2]),
        ("per_class_test", 100, None),
        ("precision", "float32", "bf16"),
        ("workers", 2, options.cores),
    ):
        if getattr(options, key) is None:
            setattr(options, key, cpu if on_cpu else other)
    if options.probe_minutes is None:
        options.probe_minutes = min(1.0, *options.minutes)


if __name__ == "__main__":
    main()
