"""Sweeps that really train: a job gives what it gives alone, in one process or many, by any launcher, killed or not."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import make_folder, photo_overrides, train_run
from safetensors.torch import load_file

from src.config.schema import TrainConfig
from src.machine.disk import read_object, write_json
from src.run.files import BEST, METRICS, STATUS, STDERR
from src.start.launch import launch
from src.sweep.processes import build_environment, check_gpus
from train import train

ROOT = Path(__file__).resolve().parents[1]
TIMES = {"seconds", "images_per_second"}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of a quick training; the working directory is an empty folder."""
    make_folder(tmp_path / "photos")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    cache = f"dataset.cache_dir={tmp_path}/cache"
    return [*photo_overrides(tmp_path / "photos"), cache, "training.tensorboard=false", "device=cpu"]


def start(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    return launch(train, "config", TrainConfig)


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *words]


def read_ledger() -> dict[int, dict[str, str]]:
    (table,) = Path("multirun").rglob("sweep.csv")
    with table.open() as file:
        return {int(row["job"]): row for row in csv.DictReader(file)}


def results(folder: Path) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """Return the bytes of the weights and the rows of metrics.csv without times."""
    with (folder / METRICS).open() as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / BEST).items()}, rows


def the_sweep() -> Path:
    (plan,) = Path("multirun").rglob("sweep.json")
    return plan.parent


@pytest.mark.usefixtures("empty_pictures")
def test_a_job_in_a_shared_process_equals_the_same_run_alone_bit_for_bit(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even after jobs with another model, other kernels and averaged weights, and one that fails in its first step."""
    swept = ["model.num_layers=3,1", "training.ema=0.9", "training.lr=1e20,0.005", "model.dropout=0.1"]
    assert start(monkeypatch, "--multirun", *words, *swept) == 1
    assert [row["status"] for _, row in sorted(read_ledger().items())] == ["failed", "finished"] * 2
    alone = ["model.num_layers=1", "training.ema=0.9", "training.lr=0.005", "model.dropout=0.1"]
    train_run(Path("alone"), *words, *alone)
    assert results(the_sweep() / "3") == results(Path("alone"))


def wait_for(folder: Path, **facts: Any) -> dict[str, Any]:
    """Wait until the numbers in a run's status are at least these."""
    for _ in range(1200):
        status = read_object(folder / STATUS)
        if all((status.get(key) or 0) >= value for key, value in facts.items()):
            return status
        time.sleep(0.05)
    raise AssertionError(f"{folder} never got to {facts}: {status}")


@pytest.mark.usefixtures("empty_pictures")  # of the run alone
def test_jobs_in_separate_processes_survive_each_other_and_the_sweep(words: list[str]) -> None:
    """One raises, one is killed, then the sweep itself; continued, the job gives what the same run alone gives."""
    swept = ["training.lr=0.005,1e20,0.004", "training.epochs=8", "sweep.isolate=true", "sweep.parallel=2"]
    sweep = ["--multirun", *words, *swept]
    with subprocess.Popen(command(*sweep), stdout=subprocess.DEVNULL) as first:
        while not list(Path("multirun").rglob("sweep.json")):
            time.sleep(0.05)
        folder = the_sweep()
        os.kill(wait_for(folder / "0", epoch=2)["pid"], signal.SIGKILL)
        wait_for(folder / "2", epoch=1)
        rows = read_ledger()
        assert (rows[0]["status"], rows[1]["status"]) == ("killed", "failed")
        assert rows[0]["error"].startswith("its process was killed by SIGKILL")
        assert rows[1]["error"].startswith("FloatingPointError: ")
        assert "FloatingPointError" in (folder / "1" / "train.log").read_text()
        first.send_signal(signal.SIGTERM)
    assert first.returncode == 143 and read_object(folder / "2" / STATUS)["status"] == "stopped"

    again = command("--multirun", "resume=latest", "sweep.only=[0]")
    with subprocess.Popen(again, stdout=subprocess.DEVNULL) as second:
        orphan = wait_for(folder / "0", epoch=read_object(folder / "0" / STATUS)["epoch"] + 1)["pid"]
        second.kill()
    os.kill(orphan, 0)  # it is still running, and the next start waits for it
    ended = subprocess.run(command(*sweep), capture_output=True, text=True)
    assert ended.returncode == 1 and "job 1     failed: FloatingPointError" in ended.stdout
    assert [row["status"] for _, row in sorted(read_ledger().items())] == ["finished", "failed", "finished"]
    assert not list(folder.glob(f"*/{STDERR}")) or (folder / "1" / STDERR).read_text().startswith("error: ")
    train_run(Path("alone"), *words, "training.lr=0.005", "training.epochs=8")
    assert results(folder / "0") == results(Path("alone"))


@pytest.mark.parametrize("launcher", ["slurm_local", "ray_cluster"])
def test_a_sweep_through_a_launcher_is_ranked_and_continued(launcher: str, words: list[str]) -> None:
    if launcher == "ray_cluster" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -r requirements-ray.txt")
    sweep = ["--multirun", *words, "training.lr=0.005,1e20", f"hydra/launcher={launcher}"]
    ended = subprocess.run(command(*sweep), capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    rows = read_ledger()
    assert (rows[0]["status"], rows[1]["status"]) == ("finished", "failed")
    assert rows[1]["error"].startswith("FloatingPointError: ")
    assert f"best      {the_sweep()}/0" in ended.stdout and "Traceback" not in ended.stdout
    before = (the_sweep() / "0" / STATUS).stat().st_mtime_ns
    assert subprocess.run(command(*sweep, "sweep.only=[0]"), capture_output=True).returncode == 0
    assert (the_sweep() / "0" / STATUS).stat().st_mtime_ns == before, "what has finished is not run again"


def test_a_job_sees_only_its_own_gpu() -> None:
    assert build_environment({}, 2)["CUDA_VISIBLE_DEVICES"] == "2"
    assert build_environment({"CUDA_VISIBLE_DEVICES": "4,6,7"}, 1)["CUDA_VISIBLE_DEVICES"] == "6"
    assert "CUDA_VISIBLE_DEVICES" not in build_environment({}, None)


def test_jobs_at_once_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.augment.chunks.count_cores", lambda: 8)
    assert "OMP_NUM_THREADS" not in build_environment({}, None) | build_environment({}, 0, jobs=2)
    assert build_environment({}, None, jobs=3)["OMP_NUM_THREADS"] == "2"
    assert build_environment({"OMP_NUM_THREADS": "5"}, None, jobs=16)["OMP_NUM_THREADS"] == "5"


def test_gpus_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_gpus([0, 1, 1])
    with pytest.raises(ValueError, match=r"sweep.gpus=\[0, 2\], but torch sees 2 CUDA device"):
        check_gpus([0, 2])


def test_each_gpu_runs_one_job_at_a_time_until_none_is_left(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With simulated processes that exit after they were polled a number of times that depends on their job."""
    busy: set[str] = set()
    order: list[tuple[int, str]] = []
    most = 0

    class Process:
        returncode: int | None = None

        def __init__(self, command: list[str], env: dict[str, str], **options: Any) -> None:
            nonlocal most
            (self.number,) = (int(word.split("=")[1]) for word in command if word.startswith("sweep.only="))
            self.device, self.polls = env["CUDA_VISIBLE_DEVICES"], self.number % 3 + 1
            assert self.device not in busy
            busy.add(self.device)
            order.append((self.number, self.device))
            most = max(most, len(busy))

        def poll(self) -> int | None:
            self.polls -= 1
            if self.polls == 0:
                busy.remove(self.device)
                self.returncode = 0
                write_json(the_sweep() / str(self.number) / STATUS, {"status": "finished", "best_val_acc": 0.5})
            return self.returncode

    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("src.sweep.processes.subprocess.Popen", Process)
    monkeypatch.setattr("src.sweep.processes.POLL", 0.001)
    assert start(monkeypatch, "--multirun", *words, "seed=0,1,2,3,4,5,6", "sweep.gpus=[0,2,3]") == 0
    assert [number for number, _ in order] == list(range(7)) and most == 3
    assert {device for _, device in order} == {"0", "2", "3"}
    assert [row["status"] for row in read_ledger().values()] == ["finished"] * 7


def test_jobs_that_a_signal_ends_before_they_train_stay_to_be_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With a simulated process that exits as one does whose imports are interrupted."""

    class Process:
        returncode: int | None = None

        def __init__(self, command: list[str], **options: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        def poll(self) -> int | None:
            return self.returncode

        def send_signal(self, number: int) -> None:
            self.returncode = 128 + number

    with monkeypatch.context() as patch:
        patch.setattr("src.sweep.processes.subprocess.Popen", Process)
        patch.setattr("src.sweep.processes.POLL", 0.001)
        assert start(patch, "--multirun", *words, "seed=0,1", "sweep.isolate=true") == 130
    assert [row["status"] for row in read_ledger().values()] == ["pending"] * 2
    assert not list(the_sweep().glob(f"*/{STATUS}"))
    assert capsys.readouterr().out.splitlines()[-1] == f"continue  python train.py --multirun resume={the_sweep()}"


def test_a_job_that_a_signal_stops_is_left_alone_and_those_after_it_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With simulated processes: one was stopped before it trained, one while Python started, one during training."""
    started: list[int] = []

    class Process:
        def __init__(self, command: list[str], **options: Any) -> None:
            (number,) = (int(word.split("=")[1]) for word in command if word.startswith("sweep.only="))
            started.append(number)
            self.returncode = (143, -signal.SIGTERM, 143, 0)[number]
            if number > 1:
                status = "stopped" if self.returncode else "finished"
                write_json(the_sweep() / str(number) / STATUS, {"status": status, "epoch": 3, "best_val_acc": 0.5})

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr("src.sweep.processes.subprocess.Popen", Process)
    monkeypatch.setattr("src.sweep.processes.POLL", 0.001)
    isolated = ["sweep.isolate=true", "sweep.on_error=stop"]
    assert start(monkeypatch, "--multirun", *words, "seed=0,1,2,3", *isolated) == 1 and started == [0, 1, 2, 3]
    rows = [row for _, row in sorted(read_ledger().items())]
    assert [row["status"] for row in rows] == ["stopped"] * 3 + ["finished"] and not any(row["error"] for row in rows)
    log = (the_sweep() / "0" / "train.log").read_text()
    assert log == "stopped by a signal before training began\n"


def test_jobs_are_added_to_a_queue_that_another_process_runs_and_to_one_that_was_killed(words: list[str]) -> None:
    add = ["--multirun", *words, "sweep.append=true", "hydra.sweep.dir=multirun/queue"]
    folder = Path("multirun/queue")
    with subprocess.Popen(command(*add, "seed=0", "training.epochs=8"), stdout=subprocess.DEVNULL) as first:
        wait_for(folder / "0", epoch=1)
        first.send_signal(signal.SIGSTOP)  # so that it does not end too soon
        added = subprocess.run(command(*add, "seed=1"), capture_output=True, text=True)
        where = "to multirun/queue, which another process is running"
        assert (added.returncode, added.stdout) == (0, f"added     1 job, number 1, {where}\n"), added.stderr
        first.send_signal(signal.SIGCONT)
        wait_for(folder / "1", epoch=1)
        first.kill()
    ended = subprocess.run(command(*add, "seed=2", "sweep.after=multirun/queue/1"), capture_output=True, text=True)
    assert ended.returncode == 0 and "queue: 3 jobs: 1 finished, 1 killed, 1 pending" in ended.stdout, ended
    assert [row["status"] for _, row in sorted(read_ledger().items())] == ["finished"] * 3
    assert [len(results(folder / name)[1]) for name in "012"] == [8, 2, 2], "none is run twice"
