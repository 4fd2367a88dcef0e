"""Kill a training run with SIGKILL at random moments, resume it each time, and compare the results bit for bit.

`python benchmarks/kill_test.py 200` prints when the kills came, and whether every killed run ended with the weights,
averaged weights, optimizer state, metrics and test results of an uninterrupted one. Each session is a new process,
started as a user would: `python train.py …`, then `python train.py resume=<folder>`.
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
# A small run with everything that has state or randomness: averaged weights, dropout, mixing; a checkpoint every 0.1 s.
SETTINGS = (
    *("model.embedding_dim=32", "model.num_layers=2", "model.num_heads=2", "model.dropout=0.1", "model.drop_path=0.1"),
    *(f"training.epochs={EPOCHS}", "training.ema=0.99", "training.checkpoint_minutes=0.002", "training.accumulate=2"),
    *("augmentation.mixup=0.2", "augmentation.erasing=0.2"),
)
TIMES = {"seconds", "images_per_second"}
EARLY_SHARE = 0.15  # of the kills, which may come before training continues


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--folder", type=Path, help="keep the runs in this folder; by default they are removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        failures = test(folder, arguments.kills, random.Random(arguments.seed))
    raise SystemExit(1 if failures else 0)


def test(folder: Path, num_kills: int, draw: random.Random) -> int:
    """Kill runs until there were so many kills; return how many runs ended differently."""
    started = time.monotonic()
    alone = folder / "alone"
    seconds = start(alone).wait()
    print(f"uninterrupted: {seconds:.1f} s from start to end", flush=True)
    moments: Counter[str] = Counter()
    runs, failures, done = 0, 0, 0
    while done < num_kills:
        runs += 1
        killed = folder / f"killed-{runs}"
        kills = kill_repeatedly(killed, seconds, num_kills - done, moments, draw)
        done += kills
        differences = compare(alone, killed)
        failures += bool(differences)
        print(f"run {runs}: {kills} kills, {'; '.join(differences) or 'equal'}", flush=True)
    print(f"\n{done} kills in {runs} runs, {time.monotonic() - started:.0f} s; torch {torch.__version__}")
    for moment, count in sorted(moments.items()):
        print(f"  {count:4} {moment}")
    print(f"runs that ended differently from the uninterrupted one: {failures}")
    return failures


class Session:
    """A process that starts or continues a run."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._started, self._start_time = time.monotonic(), time.time_ns()
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def wait_for(self, file: Path) -> None:
        """Wait until this process has written the file, or has ended."""
        while self._process.poll() is None and not (file.exists() and file.stat().st_mtime_ns > self._start_time):
            time.sleep(0.01)

    def wait(self) -> float:
        """Wait until the process ends; return its seconds. Raises RuntimeError if it fails."""
        if code := self._process.wait():
            raise RuntimeError(f"exit code {code}:\n{self._log.read_text()[-2000:]}")
        return time.monotonic() - self._started

    def kill_after(self, seconds: float) -> bool:
        """Kill the process after some seconds; return False if it has ended before."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            return True
        self.wait()
        return False


def start(run: Path) -> Session:
    """Start a run, or continue it if it exists."""
    if (run / "config.yaml").exists():
        words = [f"resume={run}"]
    else:
        # After a kill before the configuration was written, the folder has only files of Hydra.
        for file in sorted(run.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        words = [f"hydra.run.dir={run}", *SETTINGS]
    return Session([sys.executable, "train.py", *words], run.with_suffix(".txt"))


def kill_repeatedly(run: Path, seconds: float, limit: int, moments: Counter[str], draw: random.Random) -> int:
    """Kill a run up to `limit` times, until it ends; return the number of kills.

    Most come at a random time after the first checkpoint of a session, the others after its start.
    """
    kills = 0
    while True:
        session = start(run)
        if kills == limit:
            session.wait()
            return kills
        if draw.random() > EARLY_SHARE:
            session.wait_for(run / "checkpoints" / "last.pt")
        if not session.kill_after(draw.uniform(0, seconds / 2)):
            return kills
        kills += 1
        moments[describe_moment(run)] += 1


def describe_moment(run: Path) -> str:
    """Return how far a run was when it was killed."""
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
    """Return the differences between two finished runs, except times."""
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
    """Return whether two nested states are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


if __name__ == "__main__":
    main()
