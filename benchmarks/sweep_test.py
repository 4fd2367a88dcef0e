"""Kill jobs of a sweep, and the sweep itself, and compare its results with those of the same runs alone.

    python benchmarks/sweep_test.py [--in-process]

Twelve jobs on the digits, from a file of experiments. With an invalid value in one of them, no job starts. With that
fixed, one job raises an error (its learning rate is 1e20), one is killed with SIGKILL, and the whole sweep is killed
twice, the second time without its jobs. Then the same command continues to the end. Takes about ten minutes; the exit
code is 1 if anything differs.
"""

import argparse
import contextlib
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.machine.disk import read_object  # noqa: E402
from src.run.files import BEST, METRICS, STATUS  # noqa: E402

SETTINGS = ["training.epochs=6", "model.dropout=0.1", "training.ema=0.99", "training.tensorboard=false", "device=cpu"]
EXPERIMENTS = [f"model.num_layers={layers} seed={seed}" for layers in (1, 2, 3) for seed in (0, 1, 2, 3)]
RAISES, KILLED, BAD = 5, 3, 7
TIMES = {"seconds", "images_per_second"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in-process", action="store_true", help="run all jobs in the sweep's own process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        raise SystemExit(0 if run(arguments.in_process) else 1)


def run(in_process: bool) -> bool:
    lines = [*EXPERIMENTS]
    lines[RAISES] += " training.lr=1e20"
    words = ["--multirun", "sweep.file=experiments.txt", *SETTINGS]
    words += [] if in_process else ["sweep.isolate=true", "sweep.parallel=2"]

    Path("experiments.txt").write_text("\n".join([*lines[:BAD], f"{lines[BAD]} model.num_heads=7", *lines[BAD + 1 :]]))
    ended = subprocess.run(command(*words), capture_output=True, text=True)
    print(f"invalid value: exit code {ended.returncode}, folders made: {len(list(Path().glob('multirun*')))}")
    print(*(f"  {line}" for line in ended.stderr.splitlines()), sep="\n")
    early = ended.returncode == 1 and not Path("multirun").exists()

    Path("experiments.txt").write_text("\n".join(lines))
    start_and_kill(words, 5, whole=True, job=KILLED)
    start_and_kill(words, 8, whole=False)
    ended = subprocess.run(command(*words), capture_output=True, text=True)
    table = ended.stdout[ended.stdout.index("rank  job") :]
    print(f"third session: exit code {ended.returncode}, table:\n{table}")
    again = subprocess.run(command(*words, "sweep.only=[0,1,2]"), capture_output=True, text=True)
    done_once = again.returncode == 0 and "epoch 1/" not in again.stdout
    return all([early, done_once, ended.returncode == 1, compare(lines)])


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *words]


def sweep_folder() -> Path:
    return next(Path("multirun").rglob("sweep.json")).parent


def status(number: int) -> dict:
    return read_object(sweep_folder() / str(number) / STATUS) if list(Path("multirun").rglob("sweep.json")) else {}


def count(wanted: str) -> int:
    return sum(status(number).get("status") == wanted for number in range(len(EXPERIMENTS)))


def start_and_kill(words: list[str], finished: int, whole: bool, job: int | None = None) -> None:
    """Start the sweep, kill a job in its second epoch, and the sweep (whole: with its jobs) after `finished` jobs."""
    process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if job is not None:
        wait_until(lambda: status(job).get("epoch", 0) >= 2)
        kill(f"job {job}", [status(job)["pid"]])
    wait_until(lambda: process.poll() is not None or count("finished") >= finished)
    running = [status(n)["pid"] for n in range(len(EXPERIMENTS)) if status(n).get("status") == "running"]
    kill(f"the sweep{' and its jobs' if whole else ''}", {process.pid, *(running if whole else [])})
    process.wait()


def wait_until(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.05)


def kill(what: str, pids: Collection[int]) -> None:
    print(f"killed: {what}, with {count('finished')} jobs finished")
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # with --in-process, the job is the sweep
            os.kill(pid, signal.SIGKILL)


def compare(lines: list[str]) -> bool:
    with (sweep_folder() / "sweep.csv").open() as file:
        rows = {int(row["job"]): row for row in csv.DictReader(file)}
    right = True
    print("job  status    epochs  equal to a single run")
    for number, line in enumerate(lines):
        row, epochs = rows[number], read_rows(sweep_folder() / str(number))
        equal = "-"
        if number == RAISES:
            right &= row["status"] == "failed" and row["error"].startswith("FloatingPointError")
        else:
            alone = Path("alone", str(number))
            subprocess.run(command(*line.split(), *SETTINGS, f"hydra.run.dir={alone}"), capture_output=True, check=True)
            same = epochs == read_rows(alone) and bits(sweep_folder() / str(number)) == bits(alone)
            same &= row["test_acc"] == str(read_object(alone / STATUS)["test_acc"])
            right &= same and row["status"] == "finished"
            equal = "yes" if same else "NO"
        print(f"{number:>3}  {row['status']:<8}  {len(epochs):>6}  {equal}")
    return right


def read_rows(folder: Path) -> list[dict[str, str]]:
    if not (folder / METRICS).is_file():
        return []
    with (folder / METRICS).open() as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def bits(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / BEST).items()}


if __name__ == "__main__":
    main()
