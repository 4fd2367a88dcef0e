"""Kill a training with SIGKILL at random moments, resume it each time, and compare what it ends with, bit for bit.

`python benchmarks/kill_test.py 200` prints how many kills came when, and whether every run that was killed ended with
the weights, averaged weights, optimizer state, metrics and test results of the one that was left alone. Every start is
a process of its own, started as a user would: `python train.py …`, then `python train.py resume=<folder>`.
"""

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 8
# The run is small, with all that has a state or draws: averaged weights, dropout, mixing; checkpoints 0.1 s apart.
SETTINGS = (
    *("model.embedding_dim=32", "model.num_layers=2", "model.num_heads=2", "model.dropout=0.1", "model.drop_path=0.1"),
    *(f"training.epochs={EPOCHS}", "training.ema=0.99", "training.checkpoint_minutes=0.002", "training.accumulate=2"),
    *("augmentation.mixup=0.2", "augmentation.erasing=0.2"),
)
TIMES = {"seconds", "images_per_second"}
START_SHARE = 0.15  # of the kills, which may come before the training goes on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the runs are made and kept; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        failures = test(folder, arguments.kills, random.Random(arguments.seed))
    raise SystemExit(1 if failures else 0)


def test(folder: Path, num_kills: int, draw: random.Random) -> int:
    """Deliver the kills to as many runs as they need; return how many of these ended differently."""
    started = time.monotonic()
    alone = folder / "alone"
    seconds = start(alone).wait_until_it_ends()
    print(f"left alone: {seconds:.1f} s from start to end", flush=True)
    moments: Counter[str] = Counter()
    runs, failures, done = 0, 0, 0
    while done < num_kills:
        runs += 1
        killed = folder / f"killed-{runs}"
        kills = kill_until_it_ends(killed, seconds, num_kills - done, moments, draw)
        done += kills
        differences = compare(alone, killed)
        failures += bool(differences)
        print(f"run {runs}: {kills} kills, {'; '.join(differences) or 'equal'}", flush=True)
    print(f"\n{done} kills in {runs} runs, {time.monotonic() - started:.0f} s; torch {torch.__version__}")
    for moment, count in sorted(moments.items()):
        print(f"  {count:4} {moment}")
    print(f"runs that ended differently from the one left alone: {failures}")
    return failures


class Sitting:
    """A process that works on a run."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._started, self._began = time.monotonic(), time.time_ns()
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def wait_for(self, file: Path) -> None:
        """Wait until the file is written anew, or the process has ended."""
        while self._process.poll() is None and not (file.exists() and file.stat().st_mtime_ns > self._began):
            time.sleep(0.01)

    def wait_until_it_ends(self) -> float:
        if code := self._process.wait():
            raise RuntimeError(f"exit code {code}:\n{self._log.read_text()[-2000:]}")
        return time.monotonic() - self._started

    def kill_after(self, seconds: float) -> bool:
        """Kill it; return False where it had ended by itself."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            return True
        self.wait_until_it_ends()
        return False


def start(run: Path) -> Sitting:
    """Begin a run, or go on with it where there is something to go on with."""
    if (run / "config.yaml").exists():
        words = [f"resume={run}"]
    else:
        # A kill before the configuration was written leaves a folder with nothing in it but Hydra's.
        for file in sorted(run.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        words = [f"hydra.run.dir={run}", *SETTINGS]
    return Sitting([sys.executable, "train.py", *words], run.with_suffix(".txt"))


def kill_until_it_ends(run: Path, seconds: float, limit: int, moments: Counter[str], draw: random.Random) -> int:
    """Kill a run up to `limit` times and let it end; return the number of kills.

    Most of them come at random after the first checkpoint of a sitting, the others at random after its start.
    """
    kills = 0
    while True:
        sitting = start(run)
        if kills == limit:
            sitting.wait_until_it_ends()
            return kills
        if draw.random() > START_SHARE:
            sitting.wait_for(run / "checkpoints" / "last.pt")
        if not sitting.kill_after(draw.uniform(0, seconds / 2)):
            return kills
        kills += 1
        moments[describe_moment(run)] += 1


def describe_moment(run: Path) -> str:
    """Return in words how far a run is that was just killed."""
    checkpoint = run / "checkpoints" / "last.pt"
    if not (run / "config.yaml").exists():
        return "before there was a run"
    if not checkpoint.exists():
        return "before the first checkpoint"
    state = torch.load(checkpoint, weights_only=True)["trainer"]
    if state["epoch"] > EPOCHS:
        return "after the last epoch: test, figures"
    return "last checkpoint within an epoch" if state["step"] else "last checkpoint between two epochs"


def compare(alone: Path, killed: Path) -> list[str]:
    """Return in what two finished runs differ, apart from times."""
    differences = []
    states = [torch.load(run / "checkpoints" / "last.pt", weights_only=True) for run in (alone, killed)]
    for key in states[0]["trainer"]:
        if not equal(*(state["trainer"][key] for state in states)):
            differences.append(f"{key} in last.pt")
    if not equal(*(load_file(run / "checkpoints" / "best.safetensors") for run in (alone, killed))):
        differences.append("best.safetensors")
    if read_metrics(alone) != read_metrics(killed):
        differences.append("metrics.csv")
    if not equal(*(json.loads((run / "test" / "metrics.json").read_text()) for run in (alone, killed))):
        differences.append("test/metrics.json")
    facts = [json.loads((run / "status.json").read_text()) for run in (alone, killed)]
    for key in ("status", "epoch", "best_epoch", "best_val_acc", "best_val_loss", "test_acc"):
        if facts[0][key] != facts[1][key]:
            differences.append(f"{key} in status.json")
    return differences


def read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: text for key, text in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def equal(a: Any, b: Any) -> bool:
    """Tell whether two nested states are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


if __name__ == "__main__":
    main()
