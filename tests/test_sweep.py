"""A sweep as a user types it: each job runs once, whatever ends it, and is ranked; the training is simulated."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from filelock import FileLock

from src import terminal
from src.config.compose import CONFIGS, compose_config, dump_config
from src.config.schema import TrainConfig
from src.distributed.torchrun import Place
from src.machine.disk import read_object, write_json, write_text
from src.run.claim import hold_folder
from src.run.files import CONFIG, LOG, STATUS
from src.run.job import Job
from src.signals import Interrupted
from src.start import append
from src.start.command import claim, parse_command
from src.start.launch import launch
from src.start.messages import LAUNCHERS
from src.sweep import queue
from src.sweep.plan import Sweep, lock_plan, read_plan

Main = Callable[[TrainConfig, Job], Any]
QUICK = "training.epochs=4"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; pictures are empty files."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("src.plots.sweeps.plot_sweep", lambda *arguments: arguments[-1].touch())
    monkeypatch.setattr(queue, "POLL", 0.01)
    return tmp_path


class Trainer:
    """A main function that writes what a run writes; `ends` says how the job of a seed ends, `early` before its run."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, bool]] = []  # (seed, whether it was continued)
        self.jobs: list[Job] = []
        self.ends: dict[int, BaseException] = {}
        self.early: set[int] = set()

    def __call__(self, config: TrainConfig, job: Job) -> None:
        self.runs.append((config.seed, config.resume is not None))
        self.jobs.append(job)
        end = self.ends.get(config.seed)
        if config.seed in self.early and end is not None:
            raise end
        if not config.resume:
            write_text(job.folder / CONFIG, dump_config(config))
        facts: dict[str, Any] = {"epoch": 4, "epochs": 4, "seconds": 90.0, "best_epoch": 3, "pid": os.getpid()}
        facts |= {"best_val_acc": 0.9 + config.seed / 100, "test_acc": 0.8 + config.seed / 100, "peak_memory": 2**30}
        status = "finished" if end is None else "stopped" if isinstance(end, KeyboardInterrupt) else "failed"
        error = f"{type(end).__name__}: {end}" if status == "failed" else None
        write_json(job.folder / STATUS, {**facts, "status": status, "error": error})
        if end is not None:
            raise end


def sweep(monkeypatch: pytest.MonkeyPatch, main: Main, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", *words])
    return launch(main, "config", TrainConfig)


def read_ledger() -> dict[int, dict[str, str]]:
    (table,) = Path("multirun").rglob("sweep.csv")
    with table.open() as file:
        return {int(row["job"]): row for row in csv.DictReader(file)}


def statuses() -> list[str]:
    return [row["status"] for _, row in sorted(read_ledger().items())]


def the_sweep() -> Path:
    (plan,) = Path("multirun").rglob("sweep.json")
    return plan.parent


def test_a_sweep_leaves_a_row_per_job_with_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    main.ends[1] = ValueError("broken\nin two lines")
    assert sweep(monkeypatch, main, "model.num_layers=2,3", "seed=0,1", QUICK) == 1
    rows = read_ledger()
    assert [rows[n]["model.num_layers"] + rows[n]["seed"] for n in range(4)] == ["20", "21", "30", "31"]
    assert rows[2] | {"rank": ""} == {
        **{"rank": "", "job": "2", "model.num_layers": "3", "seed": "0", "training.epochs": "4", "status": "finished"},
        **{"val_acc": "0.9", "best_epoch": "3", "test_acc": "0.8", "epochs": "4", "minutes": "1.5"},
        **{"images_per_second": "", "peak_memory_mb": "1024", "error": "", "folder": "2"},
    }
    assert (rows[1]["status"], rows[1]["error"]) == ("failed", "ValueError: broken")
    assert {path.name for path in the_sweep().iterdir() if path.name[0] != "."} == {
        *("0", "1", "2", "3", "sweep.csv", "sweep.md", "sweep.png", "sweep.json")
    }


def test_the_table_is_ranked_by_validation_accuracy_and_seeds_are_averaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    sweep(monkeypatch, Trainer(), "model.num_layers=2,3", "seed=0,1,2", QUICK)
    with (the_sweep() / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["2", "2", "1", "1", "0", "0"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    page = (the_sweep() / "sweep.md").read_text()
    shown = capsys.readouterr().out
    for text in (page, shown):
        assert text.count("91.00 ± 1.00 % (3)") == 3 and text.count("81.00 ± 1.00 % (3)") == 2
    best = the_sweep() / "2"
    why = "it is the best of those whose settings have the best mean over seeds, 91.00 ± 1.00 % (3)"
    assert f"\nbest      {best}\nbecause   {why}\npredict   python inference.py run={best} input=IMAGE\n" in shown
    assert "6 jobs: 6 finished" in shown and "continue" not in shown


def test_seeds_are_grouped_by_value_whatever_was_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folder / "jobs.txt").write_text("seed=0 training.lr=0.001\nseed=1 training.lr=1e-3\n")
    assert sweep(monkeypatch, Trainer(), "sweep.file=jobs.txt", QUICK) == 0
    shown = capsys.readouterr().out
    for text in ((the_sweep() / "sweep.md").read_text(), shown):
        assert text.count("90.50 ± 0.71 % (2)") == 2 and text.count("80.50 ± 0.71 % (2)") == 1, (
            "one of them is the best"
        )
    header = next(line for line in shown.splitlines() if line.startswith("rank")).split()
    assert header[:4] == ["rank", "job", "seed", "val"], "only the seed was swept"


def test_the_same_command_runs_what_is_left_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    main, words = Trainer(), ("seed=0,1,2,3", QUICK)
    main.ends = {1: FloatingPointError("NaN loss"), 2: Interrupted(signal.SIGTERM)}
    assert sweep(monkeypatch, main, *words) == 143
    assert main.runs == [(0, False), (1, False), (2, False)]
    assert statuses() == ["finished", "failed", "stopped", "pending"]
    before = (the_sweep() / "0" / STATUS).stat().st_mtime_ns
    main.runs.clear()
    del main.ends[2]
    assert sweep(monkeypatch, main, *words) == 1
    assert main.runs == [(1, True), (2, True), (3, False)]  # the failed one is tried again, the stopped one continues
    assert statuses() == ["finished", "failed", "finished", "finished"]
    main.runs.clear()
    main.ends.clear()
    assert sweep(monkeypatch, main, *words) == 0 and main.runs == [(1, True)]
    assert sweep(monkeypatch, main, *words) == 0 and main.runs == [(1, True)]
    assert (the_sweep() / "0" / STATUS).stat().st_mtime_ns == before
    assert statuses() == ["finished"] * 4


def test_resume_continues_a_sweep_by_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    main.ends[1] = Interrupted(signal.SIGINT)
    assert sweep(monkeypatch, main, "seed=0,1,2", QUICK, "sweep.zip=true") == 130
    main.ends.clear()
    main.runs.clear()
    assert sweep(monkeypatch, main, f"resume={the_sweep()}", "sweep.on_error=stop") == 0
    assert main.runs == [(1, True), (2, False)] and main.jobs[-1].overrides == ["seed=2", QUICK]
    assert sweep(monkeypatch, main, "resume=latest") == 0 and len(main.runs) == 2


def test_what_would_change_the_jobs_is_refused_when_a_sweep_is_continued(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    for word, message in (
        ("training.lr=1", "--multirun resume=… continues the jobs of that sweep; leave training.lr=1 out"),
        ("sweep.zip=true", "leave sweep.zip=true out"),
        ("hydra.sweep.dir=x", "leave hydra.sweep.dir=x out"),
        ("sweep.new=true", "leave sweep.new=true out"),
        ("sweep.only=7", "sweep.only=7: the sweep has the jobs 0 to 1"),
    ):
        assert sweep(monkeypatch, main, "resume=latest", word) == 1 and len(main.runs) == 2
        assert message in capsys.readouterr().err


def test_a_sweep_is_not_continued_with_changed_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    recipe = folder / "mine" / "experiment" / "quick.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\ntraining:\n  epochs: 4\n")
    main, words = Trainer(), ("experiment=quick", "seed=0,1", "--config-dir", "mine")
    main.ends[0] = Interrupted(signal.SIGINT)
    assert sweep(monkeypatch, main, *words) == 130
    recipe.write_text("# @package _global_\ntraining:\n  epochs: 5\n")
    assert sweep(monkeypatch, main, "resume=latest") == 1
    assert (
        "mine, which could run code and is not taken from a file; if that is yours, type it again"
        in capsys.readouterr().err
    )
    assert sweep(monkeypatch, main, "resume=latest", "--config-dir", "mine") == 1
    error = capsys.readouterr().err
    assert (
        "job 0 of the sweep has changed (" in error
        and "training.epochs was 4, is 5" in error
        and "Traceback" not in error
    )
    recipe.write_text("# @package _global_\ntraining:\n  epochs: 4\n")
    main.ends.clear()
    again = sweep(monkeypatch, main, "resume=latest", "--config-dir", "mine")
    assert again == 0 and main.runs[1:] == [(0, True), (1, False)]
    recipe.write_text("# @package _global_\ntraining:\n  epochs: 5\n")
    assert sweep(monkeypatch, main, *words) == 0
    assert len(list(Path("multirun").rglob("sweep.json"))) == 2  # the same command, but another experiment


def test_a_new_sweep_starts_when_asked_for_or_when_the_command_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    for number, words in enumerate((["seed=0,1"], ["seed=0,1", "sweep.new=true"], ["seed=0,1,2"]), start=1):
        assert sweep(monkeypatch, main, *words, QUICK) == 0
        assert len(list(Path("multirun").rglob("sweep.json"))) == number
    assert len(main.runs) == 7


def test_settings_of_how_jobs_are_run_do_not_start_a_new_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    assert sweep(monkeypatch, main, "seed=0,1", QUICK, "sweep.on_error=stop") == 0 and len(main.runs) == 2


def test_a_job_gets_the_overrides_that_would_train_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=1,2", QUICK, "sweep.on_error=stop", "hydra.job.name=x")
    assert [job.overrides for job in main.jobs] == [["seed=1", QUICK], ["seed=2", QUICK]]
    alone = Trainer()
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1", QUICK, "hydra.run.dir=alone"])
    assert launch(alone, "config", TrainConfig) == 0
    assert (the_sweep() / "0" / CONFIG).read_text() == (Path("alone") / CONFIG).read_text()


def test_on_error_stop_leaves_the_other_jobs_pending_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    main.ends[1] = RuntimeError("defect")
    assert sweep(monkeypatch, main, "seed=0,1,2", QUICK, "sweep.on_error=stop") == 1
    assert statuses() == ["finished", "failed", "pending"]
    main.ends.clear()
    assert sweep(monkeypatch, main, "resume=latest") == 0 and statuses() == ["finished"] * 3


def test_errors_before_a_run_starts_are_in_its_log_and_status_and_the_other_jobs_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = Trainer()
    errors = [ValueError("no images"), RuntimeError("defect"), SystemExit(3), MemoryError()]
    main.ends, main.early = dict(enumerate(errors)), {0, 1, 2, 3}
    assert sweep(monkeypatch, main, "seed=0,1,2,3,4", QUICK) == 1
    assert statuses() == ["failed"] * 4 + ["finished"]
    for number, error in enumerate(errors):
        job = the_sweep() / str(number)
        assert read_object(job / STATUS)["error"] == f"{type(error).__name__}: {error}"
        log = (job / LOG).read_text()
        assert log.startswith("Traceback") and type(error).__name__ in log.splitlines()[-1]
        assert read_ledger()[number]["error"].startswith(type(error).__name__)
    main.ends.clear()
    assert sweep(monkeypatch, main, "seed=0,1,2,3,4", QUICK) == 0
    assert main.runs[-4:] == [(seed, False) for seed in range(4)]  # there was nothing to continue from
    assert statuses() == ["finished"] * 5


def test_an_error_before_a_job_is_continued_is_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    main.ends[0] = Interrupted(signal.SIGINT)
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    main.ends[0], main.early = ValueError("the images have changed"), {0}
    assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 1
    status = read_object(the_sweep() / "0" / STATUS)
    assert (status["status"], status["error"]) == ("failed", "ValueError: the images have changed")
    assert status["best_val_acc"] == 0.9  # what the run had recorded is not lost


def test_bad_jobs_are_named_and_counted_before_the_first_one_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, "model.num_heads=4,5,7", "seed=0,1") == 1
    assert capsys.readouterr().err == (
        "error: model.embedding_dim=64 is not divisible by model.num_heads=5; heads that fit: 1, 2, 4, 8, 16, 32\n"
        "  in the job model.num_heads=5 seed=0\n  and 3 more of the 6 jobs cannot be run\n"
    )
    assert not main.runs and not list(folder.iterdir())


def test_a_signal_ends_the_sweep_and_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()

    def stop(config: TrainConfig, job: Job) -> None:
        main(config, job)
        os.kill(os.getpid(), signal.SIGTERM)  # outside of a training, which handles signals itself

    assert sweep(monkeypatch, stop, "seed=0,1,2", QUICK) == 143
    assert statuses() == ["finished", "pending", "pending"]
    assert f"continue  python train.py --multirun resume={the_sweep()}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_job_that_another_process_runs_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    main = Trainer()
    main.ends[0] = Interrupted(signal.SIGINT)
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    main.ends.clear()
    main.runs.clear()
    other = subprocess.Popen(["sleep", "600"])
    status = the_sweep() / "0" / STATUS
    write_json(status, {**read_object(status), "status": "running", "pid": other.pid, "host": socket.gethostname()})

    def end_other(config: TrainConfig, job: Job) -> None:
        main(config, job)
        if config.seed == 1:  # the other process dies while this one is busy
            assert read_ledger()[0]["status"] == "running"
            other.kill()
            other.wait()

    assert sweep(monkeypatch, end_other, "seed=0,1", QUICK) == 0
    assert main.runs == [(1, False), (0, True)]


def test_a_sweep_is_run_by_one_process_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    with FileLock(the_sweep() / ".lock"):
        assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 1
    assert "another process is running the sweep multirun/" in capsys.readouterr().err


def test_a_job_that_another_process_has_claimed_is_waited_for_and_not_run_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    status = the_sweep() / "0" / STATUS
    content = status.read_text()
    status.unlink()
    lock = FileLock(the_sweep() / "0" / ".lock")
    lock.acquire()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "waiting for another process" in text:
            status.write_text(content)
            lock.release()

    monkeypatch.setattr(terminal, "say", say)
    assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 0 and len(main.runs) == 2
    assert "job 0     waiting for another process that is running it" in said


def test_a_part_of_a_sweep_can_be_run_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, "seed=0,1,2,3", QUICK, "sweep.only=[1,3]") == 0
    assert [seed for seed, _ in main.runs] == [1, 3] and statuses() == ["pending", "finished", "pending", "finished"]
    assert sweep(monkeypatch, main, "resume=latest", "sweep.only=2") == 0
    assert [seed for seed, _ in main.runs] == [1, 3, 2]


def test_folders_may_be_named_after_settings_but_two_jobs_may_not_share_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, "seed=0,1", QUICK, "hydra.sweep.subdir='${hydra.job.override_dirname}'") == 0
    assert {job.folder.name for job in main.jobs} == {f"seed=0,{QUICK}", f"seed=1,{QUICK}"}
    assert sweep(monkeypatch, main, "seed=0,1", QUICK, "hydra.sweep.subdir=x") == 1
    assert "hydra.sweep.subdir gives jobs 0 and 1 the same folder, x" in capsys.readouterr().err and len(main.runs) == 2


def test_a_folder_typed_by_the_user_continues_its_own_sweep_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    words = ("hydra.sweep.dir=multirun/mine", QUICK)
    assert sweep(monkeypatch, main, "seed=0,1", *words) == 0
    assert sweep(monkeypatch, main, "seed=0,1", *words) == 0 and len(main.runs) == 2
    assert sweep(monkeypatch, main, "seed=0,1,2", *words) == 1 and len(main.runs) == 2
    assert "hydra.sweep.dir=multirun/mine exists; nothing is overwritten" in capsys.readouterr().err


def test_a_sweep_continues_after_a_kill_at_any_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may leave nothing, an empty folder, a configuration, a dead process's status, or an incomplete one."""
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1,2,3,4", QUICK)
    root = the_sweep()
    shutil.rmtree(root / "0")
    for path in (root / "1").iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    (root / "2" / STATUS).unlink()
    write_json(root / "3" / STATUS, {"status": "running", "pid": 2**22, "host": os.uname().nodename})
    (root / "4" / STATUS).write_text('{"status": "runn')
    for name in ("sweep.csv", "sweep.md", "sweep.png"):
        (root / name).unlink()
    main.runs.clear()
    assert sweep(monkeypatch, main, "seed=0,1,2,3,4", QUICK) == 0
    assert main.runs == [(0, False), (1, False), (2, True), (3, True), (4, True)]
    assert statuses() == ["finished"] * 5 and (root / "sweep.png").is_file()


def test_a_damaged_plan_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    root = the_sweep()
    for content in ("{", "{}", '{"jobs": 3}', ""):
        (root / "sweep.json").write_text(content)
        assert sweep(monkeypatch, main, f"resume={root}") == 1
        error = capsys.readouterr().err
        assert f"{root}/sweep.json is damaged" in error and "Traceback" not in error, content
    assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 0 and len(main.runs) == 4  # it starts over


def test_a_picture_that_cannot_be_drawn_does_not_end_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("src.plots.sweeps.plot_sweep", fail)
    main = Trainer()
    assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 0 and len(main.runs) == 2
    assert "warning   sweep.png could not be drawn: KeyError: 'a defect'" in capsys.readouterr().out


def test_of_several_processes_the_main_one_decides_which_jobs_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others run all jobs in order, in temporary folders; jobs that are done are run again."""
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    for rank in (0, 1):
        main.runs.clear()
        for key, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(key, str(value))
        assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 0
        assert main.runs == [(0, rank == 0), (1, rank == 0)]
    assert len(list(Path("multirun").rglob(CONFIG))) == 2 + 2  # and Hydra's own


def test_several_processes_and_processes_per_job_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for key, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    assert sweep(monkeypatch, Trainer(), "seed=0,1", "sweep.isolate=true") == 1
    assert "sweep.isolate=true starts its jobs itself" in capsys.readouterr().err


def test_a_single_run_refuses_sweep_settings_and_a_sweeps_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    for words, message in (
        (["sweep.zip=true"], "sweep.zip=true has no effect without --multirun"),
        ([f"resume={the_sweep()}"], f"is a sweep; continue it with: python train.py --multirun resume={the_sweep()}"),
    ):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        assert launch(main, "config", TrainConfig) == 1 and len(main.runs) == 2
        assert message in capsys.readouterr().err


def test_a_launcher_that_is_not_installed_is_reported_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A plugin that does not exist, chosen by its own name and by a file that builds on it."""
    monkeypatch.setitem(LAUNCHERS, "nowhere", "-r requirements-nowhere.txt")
    file = folder / "mine" / "hydra" / "launcher" / "far.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults: [nowhere]\n")
    for name in ("nowhere", "far"):
        assert sweep(monkeypatch, Trainer(), "seed=0,1", f"hydra/launcher={name}", "--config-dir", "mine") == 1
        error = "error: hydra/launcher=nowhere is not installed: pip install -r requirements-nowhere.txt\n"
        assert capsys.readouterr().err == error and not Path("multirun").exists()


def test_a_launcher_that_cannot_start_is_reported_once_and_fails_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")  # no srun, as on a machine without SLURM
    assert sweep(monkeypatch, Trainer(), "seed=0,1", QUICK, "hydra/launcher=slurm") == 1
    assert capsys.readouterr().out.count('Could not detect "srun"') == 1 and statuses() == ["pending"] * 2


def test_the_launchers_in_configs_use_plugins_that_the_requirements_install() -> None:
    for path in (CONFIGS / "hydra" / "launcher").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["defaults"][0] in LAUNCHERS
        command = re.search(r"python train\.py --multirun hydra/launcher=(\w+)", path.read_text())
        assert command and command[1] == path.stem


def test_the_plan_has_the_overrides_and_the_configuration_of_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(monkeypatch, Trainer(), "seed=0,1", QUICK, "hydra.job.name=x")
    plan = json.loads((the_sweep() / "sweep.json").read_text())
    assert plan["overrides"] == ["seed=0,1", QUICK] and plan["hydra"] == ["hydra.job.name=x"]
    assert [job["overrides"] for job in plan["jobs"]] == [["seed=0", QUICK], ["seed=1", QUICK]]
    assert [job["config"]["seed"] for job in plan["jobs"]] == [0, 1]


def test_single_jobs_can_be_run_after_a_failure_stopped_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    main.ends[0] = RuntimeError("defect")
    assert sweep(monkeypatch, main, "seed=0,1,2", QUICK, "sweep.on_error=stop") == 1
    assert sweep(monkeypatch, main, "resume=latest", "sweep.only=2") == 0
    assert statuses() == ["failed", "pending", "finished"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1", "sweep.only=9"], "sweep.only=9: the sweep has the jobs 0 to 1"),
        (["seed=0,1", "sweep.only=[]"], "sweep.only=[] must be numbers of jobs"),
        (
            ["seed=0,1", "sweep.only=0,1"],
            "sweep.only=0,1: settings of a sweep take one value; write a list",
        ),
        (["seed=0,1", "sweep.gpus=[7]"], "sweep.gpus=[7], but torch sees"),
        (["seed=0,1", "sweep.file="], "sweep.file= has no value"),
        (
            ["sweep.search=random", "sweep.only=0", "model.dropout=interval(0,0.1)"],
            "sweep.only=0: the sweep has no jobs",
        ),
        (["seed=0,1", "check=true"], "check=true checks a data set and does not train; leave --multirun out"),
        (["seed=0,1", "check=no,/tmp"], "check=/tmp checks a data set and does not train; leave --multirun out"),
        (["experiment=digits,search_digits"], "sweep.params is set in a file that only some jobs use"),
        (["seed=0,0"], "jobs 0 and 1 are identical (seed=0; seed=0); vary seed to repeat a job"),
        (["training.lr=0.1,1e-1"], "jobs 0 and 1 are identical"),
        (["seed=0,1", "--cfg", "job"], "--cfg shows the configuration of one run; leave --multirun out"),
    ],
)
def test_an_invalid_sweep_is_refused_and_leaves_nothing(
    words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    assert sweep(monkeypatch, main, *words) == 1 and not main.runs
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and "Traceback" not in error
    assert not list(folder.iterdir())


def test_a_data_set_that_is_not_there_is_found_before_the_first_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folder / "photos" / "cat").mkdir(parents=True)
    (folder / "empty").mkdir()
    main = Trainer()
    assert sweep(monkeypatch, main, "dataset=image_folder", "dataset.root=photos,empty") == 1 and not main.runs
    error = capsys.readouterr().err
    assert "empty contains no folders; each class needs its own" in error and "in the job dataset=image_folder" in error
    assert not Path("multirun").exists()


def test_a_sweep_can_be_continued_from_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That changes the folder of the cache, but no result."""
    main = Trainer()
    main.ends[0] = Interrupted(signal.SIGINT)
    sweep(monkeypatch, main, "seed=0,1", QUICK)
    main.ends.clear()
    (folder / "elsewhere").mkdir()
    sweep_folder = the_sweep().absolute()
    monkeypatch.chdir(folder / "elsewhere")
    assert sweep(monkeypatch, main, f"resume={sweep_folder}") == 0 and main.runs[1:] == [(0, True), (1, False)]


def test_a_table_that_cannot_be_written_does_not_end_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()

    def block(config: TrainConfig, job: Job) -> None:
        main(config, job)
        if (the_sweep() / "sweep.csv").is_file():
            (the_sweep() / "sweep.csv").unlink()
            (the_sweep() / "sweep.csv" / "in the way").mkdir(parents=True)

    assert sweep(monkeypatch, block, "seed=0,1", QUICK) == 0 and len(main.runs) == 2
    shown = capsys.readouterr().out
    assert "warning   the table of the sweep cannot be written: " in shown and "2 jobs: 2 finished" in shown


def test_a_sweep_with_a_stopped_job_does_not_exit_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: TrainConfig, job: Job) -> None:
        write_json(job.folder / STATUS, {"status": "stopped"})

    assert sweep(monkeypatch, stop, "seed=0,1", QUICK) == 1


def test_with_several_processes_failed_jobs_are_tried_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    main = Trainer()
    main.ends[1] = RuntimeError("defect")
    assert sweep(monkeypatch, main, "seed=0,1,2", QUICK) == 1 and main.runs == [(0, False), (1, False)]
    main.runs.clear()
    assert sweep(monkeypatch, main, "seed=0,1,2", QUICK) == 1
    assert main.runs == [(0, True), (2, False), (1, True)]
    main.runs.clear()
    assert sweep(monkeypatch, main, "resume=latest", "sweep.only=2") == 0 and main.runs == [(2, True)]


# a queue: jobs that are added later, perhaps while another process runs the sweep

QUEUE = ("sweep.append=true", "hydra.sweep.dir=multirun/queue")


def test_a_queue_starts_in_a_folder_in_which_one_was_killed_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()
    for name in (".lock", ".plan.lock"):
        write_text(Path("multirun/queue") / name, "")
    assert sweep(monkeypatch, main, "seed=0", QUICK, *QUEUE) == 0 and len(main.runs) == 1


def test_jobs_that_are_added_while_a_sweep_runs_are_run_by_its_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main, other = Trainer(), Trainer()

    def add(config: TrainConfig, job: Job) -> None:
        main(config, job)
        if config.seed < 2:
            words = ("seed=2,3", "sweep.after=multirun/queue/0") if config.seed else ("seed=1",)
            assert sweep(monkeypatch, other, *words, QUICK, *QUEUE) == 0
            assert statuses()[config.seed + 1 :] == ["pending"] * (config.seed + 1)

    assert sweep(monkeypatch, add, "seed=0", QUICK, *QUEUE) == 0
    assert main.runs == [(seed, False) for seed in range(4)] and not other.runs
    assert [job.folder.name for job in main.jobs] == ["0", "1", "2", "3"] and statuses() == ["finished"] * 4
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("added"))
    assert first == "added     1 job, number 1, to multirun/queue, which another process is running"
    assert second == (
        "added     2 jobs, numbers 2 to 3, to multirun/queue, which another process is running; sweep.after has no "
        "effect on a sweep that is running"
    )


def test_a_sweep_that_was_not_started_as_a_queue_takes_more_jobs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Trainer()

    def add(config: TrainConfig, job: Job) -> None:
        main(config, job)
        if config.seed == 1:
            assert sweep(monkeypatch, main, "seed=2", QUICK, "sweep.append=true", f"hydra.sweep.dir={the_sweep()}") == 0

    assert sweep(monkeypatch, add, "seed=0,1", QUICK) == 0 and [seed for seed, _ in main.runs] == [0, 1, 2]


def test_jobs_that_are_added_after_the_end_are_run_by_the_process_that_adds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = Trainer()
    main.ends[1] = RuntimeError("defect")
    assert sweep(monkeypatch, main, "seed=0,1", QUICK, *QUEUE, "sweep.on_error=stop") == 1
    (the_sweep() / "2").mkdir()  # of something else
    assert sweep(monkeypatch, main, "seed=2,3", "training.epochs=5", *QUEUE, "sweep.on_error=continue") == 1
    assert main.runs == [(0, False), (1, False), (1, True), (2, False), (3, False)]
    assert [job.folder.name for job in main.jobs[3:]] == ["3", "4"] and not list((the_sweep() / "2").iterdir())
    assert read_ledger()[2]["training.epochs"] == "5" and statuses() == ["finished", "failed", "finished", "finished"]


@pytest.mark.parametrize("name", [".open", ".stop"])
def test_jobs_that_are_added_to_a_killed_sweep_are_run_with_those_that_are_left(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = Trainer()
    main.ends[1] = Interrupted(signal.SIGTERM)
    assert sweep(monkeypatch, main, "seed=0,1,2", QUICK, *QUEUE) == 143
    assert not (the_sweep() / ".open").exists(), "it says that it takes no more"
    (the_sweep() / name).touch()  # what a killed one leaves
    main.ends.clear()
    main.runs.clear()
    assert sweep(monkeypatch, main, "seed=3", QUICK, *QUEUE) == 0
    assert main.runs == [(1, True), (2, False), (3, False)] and statuses() == ["finished"] * 4


def add_job(folder: Path, seed: int, word: str = QUICK) -> None:
    plan = json.loads((folder / "sweep.json").read_text())
    config = {**plan["jobs"][0]["config"], "seed": seed}
    plan["jobs"].append({"overrides": [f"seed={seed}", word], "folder": str(len(plan["jobs"])), "config": config})
    write_json(folder / "sweep.json", plan)


def test_a_job_that_is_added_just_before_the_end_is_still_taken_and_none_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sweep(monkeypatch, Trainer(), "seed=0", QUICK, *QUEUE) == 0
    folder = the_sweep()
    running = Sweep(read_plan(folder), compose_config().sweep, folder, is_new=False)
    running.open()
    jobs = queue.Queue(running, None)
    assert jobs.take(1) == [] and not jobs.has_more() and (folder / ".open").exists()
    with ThreadPoolExecutor(1) as pool:
        with lock_plan(folder):  # by a process that adds a job
            closed = pool.submit(jobs.close)
            add_job(folder, 1)
            assert (folder / ".open").exists() and not closed.done()
        assert closed.result() is False, "the last look finds it"
    assert jobs.take(1) == [1] and jobs.close() and not (folder / ".open").exists()
    running.store()
    assert len(read_plan(folder).jobs) == 2


def test_a_sweep_goes_on_with_a_job_that_is_added_after_it_has_looked_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = Trainer()

    def find_nothing(jobs: queue.Queue) -> bool:
        if len(main.runs) == 1:
            add_job(the_sweep(), 1)
        return False

    monkeypatch.setattr(queue.Queue, "wait", find_nothing)
    assert sweep(monkeypatch, main, "seed=0", QUICK) == 0 and main.runs == [(0, False), (1, False)]


def test_a_sweep_that_is_ending_is_waited_for_by_the_process_that_adds_jobs_and_then_runs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0", QUICK, *QUEUE)
    lock = FileLock(the_sweep() / ".lock")
    lock.acquire()
    waited: list[float] = []

    def end(seconds: float) -> None:
        waited.append(seconds)
        assert len(read_plan(the_sweep()).jobs) == 1, "nothing is added that nobody runs"
        lock.release()

    monkeypatch.setattr(append, "time", SimpleNamespace(sleep=end, monotonic=time.monotonic))
    monkeypatch.setattr(append, "SILENCE", -1.0)
    assert sweep(monkeypatch, main, "seed=1", QUICK, *QUEUE) == 0 and len(waited) == 1
    shown = capsys.readouterr().out
    assert main.runs == [(0, False), (1, False)] and "added" not in shown
    assert shown.count("waiting   for the process that is running multirun/queue\n") == 1
    monkeypatch.setattr(append, "PATIENCE", -1.0)
    with lock:  # of a process that has a list of jobs to work off
        assert sweep(monkeypatch, main, "seed=2", QUICK, *QUEUE) == 1 and len(read_plan(the_sweep()).jobs) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: another process is running the sweep multirun/queue, and takes no more jobs")


def test_what_others_add_between_the_check_and_the_claim_is_not_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that adds jobs, and by one that continues the sweep."""
    sweep(monkeypatch, Trainer(), "seed=0", QUICK, *QUEUE)
    typed = (["seed=1,3", QUICK, *QUEUE], ["resume=latest"], ["seed=4,2", QUICK, *QUEUE])
    adding, continuing, repeating = (
        parse_command(["train.py", "--multirun", *words], "config", TrainConfig, Place()) for words in typed
    )
    add_job(the_sweep(), 2)
    (the_sweep() / ".open").touch()  # of a process that was killed
    for command in (adding, continuing):
        with ExitStack() as cleanup:
            claimed = claim(command, cleanup).sweep
            assert claimed is not None and not (the_sweep() / ".open").exists(), "nobody adds jobs before it looks"
            claimed.open()
        jobs = read_plan(the_sweep()).jobs
        assert [(job.overrides[0], job.folder) for job in jobs] == [
            (f"seed={n}", str(i)) for i, n in enumerate([0, 2, 1, 3])
        ]
    with pytest.raises(ValueError, match="jobs 1 and 5 are identical"), ExitStack() as cleanup:
        claim(repeating, cleanup)
    plan = json.loads((the_sweep() / "sweep.json").read_text())
    write_json(the_sweep() / "sweep.json", {**plan, "jobs": plan["jobs"][::-1]})
    with pytest.raises(append.SweepBusyError), ExitStack() as cleanup:
        claim(repeating, cleanup)  # it is another sweep by now, and is read again
    words = ["train.py", "--multirun", "seed=1", QUEUE[0], "hydra.sweep.dir=new"]
    first = parse_command(words, "config", TrainConfig, Place())
    (folder / "new").mkdir()
    with hold_folder(folder / "new", ""), pytest.raises(append.SweepBusyError), ExitStack() as cleanup:
        claim(first, cleanup)  # another one was a moment earlier, and has written no plan yet


def test_only_words_that_set_our_keys_are_taken_from_a_running_sweeps_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()

    def edit(config: TrainConfig, job: Job) -> None:
        main(config, job)
        if config.seed == 0:
            add_job(the_sweep(), 7, "hydra.job.chdir=true")

    assert sweep(monkeypatch, edit, "seed=0,1", QUICK) == 0 and main.runs == [(0, False), (1, False)]
    shown = capsys.readouterr().out
    assert (
        shown.count("warning   no jobs are taken from sweep.json: sweep.json has hydra.job.chdir=true, which is") == 1
    )
    words = ("seed=2", QUICK, "sweep.append=true", f"hydra.sweep.dir={the_sweep()}")
    lock = FileLock(the_sweep() / ".lock")
    (the_sweep() / ".open").touch()
    for running in (True, False):
        with lock if running else nullcontext():
            assert sweep(monkeypatch, main, *words) == 1 and len(main.runs) == 2
        assert "sweep.json has hydra.job.chdir=true, which is not taken from a file" in capsys.readouterr().err
        assert len(read_plan(the_sweep()).jobs) == 3


def test_identical_jobs_are_added_only_if_the_earlier_one_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    main.ends[1] = RuntimeError("defect")
    assert sweep(monkeypatch, main, "seed=0,1", QUICK, *QUEUE) == 1
    assert sweep(monkeypatch, main, "seed=3,0", QUICK, *QUEUE) == 1 and len(main.runs) == 2
    assert "jobs 0 and 3 are identical (seed=0 training.epochs=4; seed=0 training.epochs=4)" in capsys.readouterr().err
    main.ends.clear()
    assert sweep(monkeypatch, main, "seed=1", QUICK, *QUEUE) == 0 and main.runs[2:] == [(1, True), (1, False)]


def test_a_queue_is_continued_by_its_folder_and_not_by_a_command_with_the_same_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = Trainer()
    Path("run").mkdir()
    (Path("run") / CONFIG).touch()
    main.ends[1] = Interrupted(signal.SIGTERM)
    assert sweep(monkeypatch, main, "seed=0,1", QUICK, *QUEUE, "sweep.after=run") == 143
    shutil.rmtree("run")
    main.ends.clear()
    assert sweep(monkeypatch, main, f"resume={the_sweep()}") == 0 and main.runs[2:] == [(1, True)]
    assert sweep(monkeypatch, main, "seed=0,1", QUICK) == 0
    assert len(list(Path("multirun").rglob("sweep.json"))) == 2 and len(main.runs) == 5


def test_what_cannot_be_added_or_waited_for_is_refused_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0", QUICK, *QUEUE)
    plan = json.loads((the_sweep() / "sweep.json").read_text())
    search = {"jobs": [], "base": plan["jobs"][0]}
    for name, change in (("search", search), ("far", {"cwd": "/"}), ("slurm", {"hydra": ["hydra/launcher=slurm"]})):
        write_json(folder / name / "sweep.json", {**plan, **change})
    (folder / "mine" / "notes").mkdir(parents=True)
    running = "error: sweep.append=true adds jobs to a sweep that may be running; leave"
    for words, message in (
        ([QUEUE[0]], "error: sweep.append=true needs the folder of the sweep to add to, e.g. hydra.sweep.dir="),
        ([*QUEUE, "sweep.search=random", "model.dropout=0,0.1"], f"{running} sweep.search=random out"),
        ([*QUEUE, "sweep.only=1"], f"{running} sweep.only=[1] out"),
        ([*QUEUE, "sweep.new=true"], f"{running} sweep.new=true out"),
        ([*QUEUE, "hydra/launcher=slurm_local"], f"{running} hydra/launcher out"),
        ([*QUEUE, "hydra.job.name=x"], "hydra.sweep.dir=multirun/queue has none, not hydra.job.name=x; type the same"),
        ([QUEUE[0], "hydra.sweep.dir=search"], "search is a search (sweep.search), which chooses its jobs"),
        ([QUEUE[0], "hydra.sweep.dir=far"], "hydra.sweep.dir=far was started in /, which its relative paths refer to"),
        ([QUEUE[0], "hydra.sweep.dir=slurm"], "hydra.sweep.dir=slurm gives all its jobs to hydra/launcher=slurm at"),
        ([QUEUE[0], "hydra.sweep.dir=mine"], "hydra.sweep.dir=mine exists; nothing is overwritten"),
        (["sweep.after=nowhere"], f"sweep.after={folder}/nowhere is not a folder; type that of a run"),
        (["sweep.after=mine"], f"sweep.after={folder}/mine is not a run: it has no config.yaml"),
        (["sweep.after="], "sweep.after= has no value; write a run's folder, or leave it out"),
        ([*QUEUE, "sweep.after=multirun/queue"], "multirun/queue is the folder of the sweep itself"),
    ):
        assert sweep(monkeypatch, main, "seed=5", QUICK, *words) == 1 and len(main.runs) == 1
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and error.count("\n") == 1, words
    assert sweep(monkeypatch, main, "resume=multirun/queue", QUEUE[0]) == 1
    assert "leave sweep.append=true out" in capsys.readouterr().err and len(read_plan(the_sweep()).jobs) == 1


def test_a_queue_needs_a_single_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    main = Trainer()
    sweep(monkeypatch, main, "seed=0", QUICK, *QUEUE)
    for key, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    after = "sweep.after=multirun/queue/0"
    for words in (
        ["seed=1", *QUEUE],
        ["seed=1", QUEUE[0], "hydra.sweep.dir=x"],
        ["seed=1", after],
        ["resume=latest", after],
    ):
        assert sweep(monkeypatch, main, *words) == 1 and len(main.runs) == 1
        assert "is for a sweep in one process: python train.py --multirun …, without" in capsys.readouterr().err
    assert len(read_plan(the_sweep()).jobs) == 1 and not Path("x").exists()


def test_a_sweep_waits_until_no_process_has_the_folder_of_another_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.sweep.carry_out.POLL", 0.01)
    main, said = Trainer(), []
    lock = FileLock(folder / "a run, [1]" / ".lock")  # which has written nothing yet
    (folder / "a run, [1]").mkdir()
    lock.acquire()

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("waiting"):
            assert not main.runs and statuses() == ["pending"]
            assert sweep(monkeypatch, main, "seed=1", QUICK, *QUEUE) == 0, "meanwhile, jobs can be added"
            lock.release()

    monkeypatch.setattr(terminal, "say", say)
    assert sweep(monkeypatch, main, "seed=0", QUICK, *QUEUE, "sweep.after=a run, [1]") == 0
    assert said.count("waiting   until a run, [1] has ended") == 1 and [seed for seed, _ in main.runs] == [0, 1]
    assert sweep(monkeypatch, main, "seed=2", QUICK, *QUEUE, "sweep.after=a run, [1]") == 0
    assert len([text for text in said if text.startswith("waiting")]) == 1


def test_a_signal_ends_a_sweep_that_waits_at_once_and_its_jobs_stay_pending(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folder / "run").mkdir()
    say, main = terminal.say, Trainer()

    def stop(text: str) -> None:
        say(text)
        if text.startswith("waiting"):
            os.kill(os.getpid(), signal.SIGTERM)

    with FileLock(folder / "run" / ".lock"), monkeypatch.context() as patch:
        patch.setattr(terminal, "say", stop)
        assert sweep(patch, main, "seed=0,1", QUICK, "sweep.after=run") == 143
    assert statuses() == ["pending"] * 2 and not main.runs and not (the_sweep() / ".open").exists()
    assert f"continue  python train.py --multirun resume={the_sweep()}" in capsys.readouterr().out
    assert sweep(monkeypatch, main, "resume=latest") == 0 and len(main.runs) == 2
