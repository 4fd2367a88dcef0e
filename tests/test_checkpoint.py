"""A run that is cut off anywhere: what is on the disk then, how it tells, and how it goes on."""

import csv
import errno
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import compose, hold_images
from safetensors.torch import load_file, save_file

from src.config.compose import load_config
from src.data.decode import index_arrays
from src.data.images import Preprocessing
from src.data.load import Data, Split
from src.distributed.world import World
from src.machine.disk import write_csv, write_json, write_text
from src.machine.processes import start_time
from src.optim import LearningRate
from src.run import files
from src.run import record as record_module
from src.run.checkpoint import take_snapshot
from src.run.job import Job
from src.run.record import Run
from src.run.resume import describe_changes, explain_finished, open_resumable
from src.run.saved import find_runs, read_run
from src.run.weights import read_best, write_best
from src.signals import Interrupted

STATE = {"epoch": 1, "step": 7, "model": {"w": torch.arange(6.0)}, "optimizer": {"state": {0: {"step": 3}}}}
WEIGHTS = {"w": torch.arange(4.0)}
OTHER = World(1, 1, 1)  # holds the same as the process that writes, and writes nothing


def make_data(num_images: int = 1) -> Data:
    split = Split(
        hold_images(torch.zeros(num_images, 1, 8, 8, dtype=torch.uint8)), torch.zeros(num_images, dtype=torch.long)
    )
    indexes = dict.fromkeys(("train", "val", "test"), index_arrays(np.zeros((num_images, 8, 8, 1), np.uint8)))
    look = Preprocessing((8, 8), "crop", "bicubic", 1, (0.5,), (0.5,))
    return Data(split, split, split, ["a"], look, [], indexes=indexes)


def make_run(folder: Path, *overrides: str, resume: bool = False, **options: Any) -> Run:
    config = compose("training.tensorboard=false", *overrides)
    config = replace(config, resume=str(folder) if resume else None)
    open_run = Run.resume if resume else Run.begin
    return open_run(folder, config, Job(folder, list(overrides), {}, ["train.py"]), make_data(), 5, **options)


def make_row(epoch: int, **more: float) -> dict[str, float]:
    accuracy = 0.5 + epoch / 100
    return {"epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch, "val_loss": 0.5, "val_acc": accuracy, **more}


def write_epochs(run: Run, epochs: int) -> None:
    for epoch in range(1, epochs + 1):
        run.record(make_row(epoch))
        run.save_last({**STATE, "epoch": epoch})
    run.wait()


def leave_as_killed(folder: Path, **facts: Any) -> None:
    """Leave what a kill leaves: a status that still says running, of a process that is gone."""
    status = json.loads((folder / files.STATUS).read_text())
    write_json(folder / files.STATUS, {**status, "status": "running", "pid": 2**22 + 1, **facts})


def kill(run: Run) -> None:
    """End a run without a word, within this process."""
    run._close()
    leave_as_killed(run.folder)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / files.METRICS).read_text().splitlines()))


def read_status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / files.STATUS).read_text())


def fill_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def log_lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect what a run logs; the logger is put back as it was."""
    logger = logging.getLogger("vit")
    before = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.propagate, logger.level = before


# The checkpoint itself


def test_equal_weights_give_equal_bytes_and_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    weights = {f"blocks.{i}.weight": torch.full((i + 1,), float(i)) for i in range(4)}
    facts = {"epoch": 3, "val_acc": 0.5, "val_loss": 1.25, "kind": "ema"}
    for number in range(8):
        ordered = dict(reversed(weights.items())) if number % 2 else weights
        write_best(tmp_path / f"{number}.safetensors", ordered, facts, compose())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_best(tmp_path / "0.safetensors") == facts
    save_file(weights, tmp_path / "old.safetensors", {key: str(value) for key, value in facts.items()})
    assert read_best(tmp_path / "old.safetensors") == facts


def test_a_checkpoint_comes_back_as_it_was_with_the_runs_own_numbers(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        run.record(make_row(1))
        run.save_best(WEIGHTS, 1, 0.51, 0.5, "ema")
        run.save_last({**STATE, "rng": (1, None, True), "share": np.float64(0.5), "count": np.int64(3)})
    again = make_run(tmp_path, resume=True)
    state = again.load_last()
    assert state is not None and torch.equal(state["model"]["w"], torch.arange(6.0))
    assert state["optimizer"] == STATE["optimizer"] and state["rng"] == (1, None, True)
    assert (state["share"], type(state["share"])) == (0.5, float) and (state["count"], type(state["count"])) == (3, int)
    assert again.rows == run.rows and again.best == {"epoch": 1, "val_acc": 0.51, "val_loss": 0.5, "kind": "ema"}
    kill(again)


def test_a_state_that_could_not_be_loaded_again_is_refused_when_it_is_saved() -> None:
    with pytest.raises(TypeError, match="a checkpoint cannot hold Path|a checkpoint cannot hold PosixPath"):
        take_snapshot({"a": [Path("x")]})


def test_what_training_changes_after_save_last_is_not_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, history = torch.zeros(3), [1]
    go_on, save = threading.Event(), torch.save

    def save_late(*arguments: Any) -> None:
        assert go_on.wait(20)
        save(*arguments)

    monkeypatch.setattr(torch, "save", save_late)
    with make_run(tmp_path) as run:
        run.save_last({"epoch": 1, "step": 1, "w": weights, "history": history})
        weights += 1
        history.append(2)
        run.record(make_row(1))
        assert not (tmp_path / files.LAST).exists()
        go_on.set()
    saved = torch.load(tmp_path / files.LAST, weights_only=True)
    assert saved["trainer"]["w"].tolist() == [0, 0, 0] and saved["trainer"]["history"] == [1]
    assert saved["run"]["rows"] == []


def test_a_part_of_a_large_tensor_is_stored_without_the_rest(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        run.save_last({"epoch": 1, "step": 1, "w": torch.zeros(1_000_000)[:3]})
    assert (tmp_path / files.LAST).stat().st_size < 10_000


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (torch, "save")])
def test_a_full_disk_leaves_the_previous_checkpoint_and_says_how_to_go_on(
    owner: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my run"
    run = make_run(folder)
    run.save_last({**STATE, "epoch": 3, "step": 12})
    run.wait()
    before = (folder / files.LAST).read_bytes()
    with monkeypatch.context() as full:
        full.setattr(owner, name, fill_disk)
        run.save_last({**STATE, "epoch": 4, "step": 0})
        run._last._thread.join()  # type: ignore[union-attr]
    with pytest.raises(OSError) as error:
        run.save_last({**STATE, "epoch": 5, "step": 0})
    assert str(error.value) == (
        f"cannot write {folder / files.LAST}: No space left on device; the last good checkpoint is from epoch 3, "
        f"step 12; free some space and continue with: python train.py resume='{folder}'"
    )
    assert (folder / files.LAST).read_bytes() == before and not list(folder.rglob(".*"))
    run.wait()  # it is told once
    kill(run)


def test_a_disk_that_fills_up_within_torchs_writer_is_still_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch itself would say it: unexpected pos 64 vs 0."""
    from src.run import checkpoint

    class Full(checkpoint._Sink):
        def write(self, data: bytes) -> int:
            self._file = type("Disk", (), {"write": fill_disk})()
            return super().write(data)

    monkeypatch.setattr(checkpoint, "_Sink", Full)
    with pytest.raises(OSError, match="No space left on device; there is no checkpoint yet"), make_run(tmp_path) as run:
        run.save_last({**STATE, "large": torch.zeros(100_000)})
    assert read_run(tmp_path).status == "failed" and not list((tmp_path / "checkpoints").iterdir())


def test_a_disk_that_fills_up_while_a_picture_is_drawn_is_explained_as_well(tmp_path: Path) -> None:
    """Whoever draws knows nothing of runs, and raises the bare error: [Errno 28] No space left on device."""
    picture = tmp_path / "figures" / "predictions.png"
    words = f"cannot write {picture}: No space left on device; the last .* is from epoch 1, step 7; free .*resume="
    with pytest.raises(OSError, match=words) as caught, make_run(tmp_path) as run:
        run.save_last(STATE)
        run.wait()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(picture))
    assert isinstance(caught.value.__cause__, OSError)
    assert read_run(tmp_path).status == "failed" and "predictions.png: No space" in read_status(tmp_path)["error"]


def test_a_folder_that_is_gone_is_told_and_not_made_again(tmp_path: Path) -> None:
    import shutil

    with pytest.raises(OSError, match="the folder of the run, .*, is gone: it was moved or deleted"):  # noqa: SIM117
        with make_run(tmp_path / "run") as run:
            shutil.rmtree(tmp_path / "run")
            run.save_last(STATE)
            run.wait()
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        run.save_last(STATE)
    content = (tmp_path / files.LAST).read_bytes()
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "large.pt")
    cut_off = (tmp_path / "large.pt").read_bytes()[:5000]  # here torch fails in a system call
    for damage in (content[: len(content) // 2], b"", b"PK" + content[2:200], cut_off):
        (tmp_path / files.LAST).write_bytes(damage)
        with pytest.raises(ValueError, match=r"last.pt is damaged: [^.]*; delete it, and resume=… starts the run over"):
            make_run(tmp_path, resume=True)
    torch.save({"epoch": 1}, tmp_path / files.LAST)
    with pytest.raises(ValueError, match="is damaged: it is not a checkpoint of a run"):
        make_run(tmp_path, resume=True)


def test_a_damaged_checkpoint_leaves_the_run_as_it_was(tmp_path: Path, log_lines: list[str]) -> None:
    with make_run(tmp_path) as run:
        run.save_last(STATE)
    (tmp_path / files.LAST).write_bytes(b"PK")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="starts the run over in that folder"):
        make_run(tmp_path, "training.epochs=50", resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before and log_lines == []


def test_checkpoints_are_due_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(record_module.time, "monotonic", lambda: clock[0])
    run = make_run(tmp_path, "training.checkpoint_minutes=2", world=OTHER)
    due = []
    for seconds in (119, 1, 0, 119, 1):
        clock[0] += seconds
        due.append(run.checkpoint_due())
        if len(due) == 3:
            run.save_last(STATE)
    assert due == [False, True, True, False, True] and run.seconds() == 240


# What continues


def test_metrics_with_torn_and_repeated_lines_are_right_after_loading(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_epochs(run, 2)
    rows = list(run.rows)
    run.record(make_row(3))
    kill(run)
    with (tmp_path / files.METRICS).open("a") as file:
        file.write("3,0.1,0.3,0.5,0.53,9\n4,0.1,0.2")
    again = make_run(tmp_path, resume=True)
    assert again.load_last() is not None and again.rows == rows
    assert [row["epoch"] for row in read_metrics(tmp_path)] == ["1", "2"] and read_status(tmp_path)["epoch"] == 2
    again.record(make_row(3))
    assert [row["epoch"] for row in read_metrics(tmp_path)] == ["1", "2", "3"]
    assert (tmp_path / files.METRICS).read_bytes().endswith(b"\n")
    kill(again)


def test_without_a_checkpoint_a_run_begins_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.record(make_row(1))
    kill(run)
    again = make_run(tmp_path, resume=True)
    assert again.load_last() is None and again.rows == [] and again.best == {} and again.seconds() < 60
    assert not (tmp_path / files.METRICS).exists() and not (tmp_path / files.CURVES).exists()
    kill(again)


def test_columns_that_come_later_get_their_place(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        run.record(make_row(1))
        run.record(make_row(2, ema_val_loss=0.25))
    rows = read_metrics(tmp_path)
    assert [row["ema_val_loss"] for row in rows] == ["", "0.25"] and [row["epoch"] for row in rows] == ["1", "2"]


def read_raw_steps(folder: Path) -> list[int]:
    """Return the steps of all val_acc events in all files, in the files' order, whatever a purge hides."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    paths = sorted((folder / "tensorboard").glob("events*"))
    events = [event for path in paths for event in EventFileLoader(str(path)).Load()]
    return [event.step for event in events for value in event.summary.value if value.tag == "val_acc"]


def test_tensorboard_shows_each_epoch_once_after_an_interruption(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path, "training.tensorboard=true")
    write_epochs(run, 2)
    run.record(make_row(3))
    assert read_raw_steps(tmp_path) == [1, 2, 3]
    kill(run)
    with make_run(tmp_path, "training.tensorboard=true", resume=True) as again:
        for _ in range(2):  # the second time as after an error in the middle of the run
            again.load_last()
            assert read_raw_steps(tmp_path) == [1, 2]
            again.record(make_row(3))
        again.record(make_row(4))
    assert read_raw_steps(tmp_path) == [1, 2, 3, 4]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"lr", "train_loss", "val_loss", "val_acc", "seconds"}
    for tag in events.Tags()["scalars"]:
        assert [event.step for event in events.Scalars(tag)] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("val_acc")] == pytest.approx([0.51, 0.52, 0.53, 0.54])


def test_time_adds_up_over_all_sessions_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(record_module.time, "monotonic", lambda: clock[0])
    run = make_run(tmp_path)
    clock[0] += 100
    run.save_last(STATE)
    run.wait()
    clock[0] += 50  # lost by the kill
    kill(run)
    again = make_run(tmp_path, resume=True)
    clock[0] += 10
    again.load_last()
    assert again.seconds() == 110
    again.save_last(STATE)
    clock[0] += 5
    again.load_last()  # an error in the middle of the run: that time was spent
    assert again.seconds() == 115
    kill(again)


def test_a_continued_run_keeps_its_beginning_and_tells_of_each_session(tmp_path: Path) -> None:
    run = make_run(tmp_path, "seed=3")
    run.update_status(micro_batch_size=8, started="2026-01-01T00:00:00+00:00")
    write_epochs(run, 1)
    kill(run)
    with make_run(tmp_path, "seed=3", "training.epochs=50", resume=True) as again:
        again.load_last()
        status = read_status(tmp_path)
        assert status["status"] == "running" and status["pid"] == os.getpid() and status["epoch"] == 1
        assert status["started"] == "2026-01-01T00:00:00+00:00" and status["epochs"] == 50
        assert status["micro_batch_size"] is None and status["process_started"] == start_time(os.getpid())
    environment = json.loads((tmp_path / files.ENVIRONMENT).read_text())
    assert environment["overrides"] == ["seed=3"] and len(environment["resumed"]) == 1
    session = environment["resumed"][0]
    assert session["overrides"] == ["seed=3", "training.epochs=50"] and session["host"] == socket.gethostname()
    assert {"time", "command", "git", "torch", "python", "gpu", "cpu_threads"} <= session.keys()
    config = load_config(tmp_path / files.CONFIG)
    assert config.resume is None and config.training.epochs == 50
    make_run(tmp_path, resume=True)._close()
    assert len(json.loads((tmp_path / files.ENVIRONMENT).read_text())["resumed"]) == 2


def test_the_log_is_continued(tmp_path: Path) -> None:
    for resume in (False, True):
        with make_run(tmp_path, resume=resume):
            logging.getLogger("vit").info("session %s", resume)
    assert [line.split(" ", 3)[-1] for line in (tmp_path / files.LOG).read_text().splitlines()] == [
        "session False",
        "session True",
    ]


def test_other_images_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    folder, photos = tmp_path / "run", tmp_path / "my {photos}"
    photos.mkdir()
    with make_run(folder):
        pass
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    config = replace(compose("dataset=image_folder", f"dataset.root='{photos}'"), resume=str(folder))
    with pytest.raises(ValueError) as error:
        Run.resume(folder, config, Job(folder, [], {}), make_data(2), 5)
    assert str(error.value).startswith(
        "the images are not those that the run was started with (some were added, removed or changed): dataset.root="
        f"{photos} has 2 train, 2 val, 2 test; it had 1 train, 1 val, 1 test;"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_configuration_alone_is_enough_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill anywhere among the first writes leaves config.yaml or nothing, and all but the status come before it."""
    names: list[str] = []
    replace_path = os.replace

    def note(source: Any, target: Any) -> None:
        names.append(Path(target).name)
        replace_path(source, target)

    monkeypatch.setattr(os, "replace", note)
    kill(make_run(tmp_path))
    assert names[0] == files.CONFIG and names[-2] == files.STATUS  # after which `kill` writes it once more
    for name in names[1:]:
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / ".status.json.tmp").write_text("{")
    assert open_resumable(str(tmp_path), []).facts == {}
    with make_run(tmp_path, resume=True) as again:
        assert again.load_last() is None
    assert {path.name for path in tmp_path.iterdir()} == {*names, "checkpoints", "train.log"}
    (tmp_path / files.STATUS).write_text("{damaged")
    (tmp_path / files.ENVIRONMENT).write_text("{damaged")
    with make_run(tmp_path, resume=True):
        pass
    assert read_run(tmp_path).status == "finished"


def test_a_new_run_is_never_made_over_another(tmp_path: Path) -> None:
    kill(make_run(tmp_path))
    for left in (files.STATUS, files.CONFIG):
        with pytest.raises(FileExistsError, match="already contains a run; choose another hydra.run.dir"):
            make_run(tmp_path)
        (tmp_path / left).unlink()
    kill(make_run(tmp_path))


def test_other_processes_hold_the_same_and_write_nothing(tmp_path: Path, log_lines: list[str]) -> None:
    def train(run: Run) -> tuple[Any, ...]:
        with run:
            first = run.is_best(0.6, 0.5)
            run.save_best(WEIGHTS, 1, 0.6, 0.5, "raw")
            run.record(make_row(1))
            run.update_status(micro_batch_size=8)
            run.save_last(STATE)
            run.wait()
        names = ("status", "epoch", "best_epoch", "best_weights", "micro_batch_size")
        return first, run.is_best(0.6, 0.4), run.is_best(0.6, 0.5), run.best, [run.status[name] for name in names]

    (tmp_path / "other").mkdir()
    other = make_run(tmp_path / "other", "training.tensorboard=true", world=OTHER)
    assert train(other) == train(make_run(tmp_path / "owner"))
    assert other.status["best_weights"] == "raw" and list((tmp_path / "other").iterdir()) == []
    with pytest.raises(KeyboardInterrupt), make_run(tmp_path / "other", world=OTHER):
        raise KeyboardInterrupt
    assert list((tmp_path / "other").iterdir()) == [] and log_lines == []

    kill(make_run(tmp_path / "killed"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "owner").rglob("*")}
    resumed = make_run(tmp_path / "owner", world=OTHER, resume=True)
    state = resumed.load_last()
    assert state is not None and state["step"] == 7 and [row["epoch"] for row in resumed.rows] == [1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "owner").rglob("*")} == before


# The best weights


def test_the_best_weights_say_what_they_are(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        run.save_best(WEIGHTS, 3, 0.75, 0.5, "ema")
        status = read_status(tmp_path)
    assert [status[key] for key in ("best_epoch", "best_val_acc", "best_val_loss", "best_weights")] == [
        3,
        0.75,
        0.5,
        "ema",
    ]
    assert torch.equal(load_file(tmp_path / files.BEST)["w"], WEIGHTS["w"])


def test_a_full_disk_keeps_the_best_weights_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    run.save_best(WEIGHTS, 1, 0.5, 0.5, "raw")
    before = (tmp_path / files.BEST).read_bytes()
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fill_disk)
        with pytest.raises(OSError, match="cannot write .*best.safetensors: No space left on device; there is no"):
            run.save_best({"w": torch.ones(4)}, 2, 0.6, 0.5, "raw")
    assert (tmp_path / files.BEST).read_bytes() == before and run.best["epoch"] == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best.safetensors"]
    kill(run)


def test_a_kill_between_the_weights_and_the_status_loses_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.save_best(WEIGHTS, 1, 0.5, 0.5, "raw")
    before = read_status(tmp_path)
    run.save_best(WEIGHTS, 2, 0.625, 0.25, "ema")
    run._close()
    write_json(tmp_path / files.STATUS, before)
    assert read_run(tmp_path).facts["best_epoch"] == 1  # it is running; its status will come
    leave_as_killed(tmp_path)
    facts = read_run(tmp_path).facts
    assert [facts[key] for key in ("best_epoch", "best_val_acc", "best_val_loss", "best_weights")] == [
        2,
        0.625,
        0.25,
        "ema",
    ]
    (tmp_path / files.BEST).write_bytes(b"\xff" * 20)
    assert read_run(tmp_path).facts["best_epoch"] == 1


def test_an_epoch_that_is_repeated_is_the_best_again(tmp_path: Path) -> None:
    """Its weights were kept, then came a kill before the checkpoint: the older best ones are overwritten."""
    run = make_run(tmp_path)
    run.save_best(WEIGHTS, 1, 0.5, 0.5, "raw")
    write_epochs(run, 1)
    run.save_best({"w": torch.ones(4)}, 2, 0.625, 0.3, "raw")
    kill(run)
    with make_run(tmp_path, resume=True) as again:
        again.load_last()
        assert again.best == {"epoch": 2, "val_acc": 0.625, "val_loss": 0.3, "kind": "raw"}
        assert read_status(tmp_path)["best_val_acc"] == 0.625 and again.status["epoch"] == 1
        assert not again.is_best(0.625, 0.4) and again.is_best(0.625, 0.3)
        again.record(make_row(2))
        assert not again.is_best(0.625, 0.3)


# How a run ends


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyboardInterrupt(), "Ctrl-C"),
        (Interrupted(signal.SIGINT), "Ctrl-C"),
        (Interrupted(signal.SIGTERM), "SIGTERM"),
        (Interrupted(signal.SIGUSR1), "SIGUSR1"),
    ],
)
def test_a_stopped_run_says_by_what_and_how_to_continue(
    error: BaseException, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "it's mine"
    with pytest.raises(type(error)), make_run(folder) as run:
        write_epochs(run, 2)
        raise error
    command = f"python train.py resume={shlex.quote(str(Path('outputs') / folder.name))}"
    assert log_lines == [f"stopped by {name} after epoch 2", f"continue  {command}"]
    assert read_run(folder).status == "stopped" and read_status(folder)["error"] is None
    assert [line.split(" ", 2)[2] for line in (folder / files.LOG).read_text().splitlines()] == [
        f"WARNING stopped by {name} after epoch 2",
        f"INFO continue  {command}",
    ]
    assert open_resumable(shlex.split(command)[-1].removeprefix("resume="), []).folder.samefile(folder)


@pytest.mark.parametrize("saved", [True, False])
def test_a_failed_run_says_why_and_how_to_continue_where_it_can(
    saved: bool, tmp_path: Path, log_lines: list[str]
) -> None:
    with pytest.raises(RuntimeError, match="broken"), make_run(tmp_path) as run:
        if saved:
            run.save_last(STATE)
        raise RuntimeError("broken")
    run_on_disk = read_run(tmp_path)
    assert run_on_disk.status == "failed" and run_on_disk.facts["error"] == "RuntimeError: broken"
    text = (tmp_path / files.LOG).read_text()
    assert "Traceback" in text and 'raise RuntimeError("broken")' in text
    continued = [f"continue  python train.py resume={tmp_path}"] if saved else []
    assert log_lines == continued and ("continue  " in text) == saved


def test_a_finished_run_says_so_and_lets_go_of_its_log(tmp_path: Path) -> None:
    before = list(logging.getLogger("vit").handlers)
    with make_run(tmp_path) as run:
        assert read_run(tmp_path).status == "running"
        run.update_status(ended="early stopping")
    status = read_status(tmp_path)
    assert status["status"] == "finished" and status["ended"] == "early stopping" and status["error"] is None
    assert logging.getLogger("vit").handlers == before


def test_figures_are_closed_however_a_run_ends(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with pytest.raises(RuntimeError), make_run(tmp_path):
        pyplot.figure()
        raise RuntimeError
    assert pyplot.get_fignums() == []


def test_a_full_disk_at_the_end_does_not_hide_what_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, log_lines: list[str]
) -> None:
    with pytest.raises(ZeroDivisionError), make_run(tmp_path) as run:
        write_epochs(run, 1)
        monkeypatch.setattr(os, "fsync", fill_disk)
        assert run._log_file is not None
        monkeypatch.setattr(run._log_file, "format", fill_disk)
        run.save_last({**STATE, "epoch": 2})
        raise ZeroDivisionError
    assert log_lines[0].startswith(f"cannot write {tmp_path / files.LAST}: No space left on device; the last good")
    assert log_lines[1:] == [f"continue  python train.py resume={tmp_path}"]
    assert capsys.readouterr().err == ""
    assert torch.load(tmp_path / files.LAST, weights_only=True)["trainer"]["epoch"] == 1


def test_a_checkpoint_that_fails_after_the_last_step_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="cannot write .*last.pt"), make_run(tmp_path) as run, monkeypatch.context() as m:
        m.setattr(torch, "save", fill_disk)
        run.save_last(STATE)
        run._last._thread.join()  # type: ignore[union-attr]
    assert read_run(tmp_path).status == "failed" and "last.pt: No space" in read_status(tmp_path)["error"]


@pytest.mark.parametrize("first", [Interrupted(signal.SIGTERM), None])
def test_a_second_ctrl_c_does_not_wait_for_the_checkpoint(
    first: BaseException | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    write_epochs(run, 1)
    before = (tmp_path / files.LAST).read_bytes()
    go_on = threading.Event()

    def save_never(*_: Any) -> None:
        assert go_on.wait(20)
        fill_disk()

    monkeypatch.setattr(torch, "save", save_never)
    interrupted = pytest.raises(Interrupted if first else KeyboardInterrupt)
    with interrupted as end, run:
        run.save_last({**STATE, "epoch": 2})
        assert run._last._thread is not None
        thread = run._last._thread
        monkeypatch.setattr(thread, "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        if first:
            raise first
    assert first in (None, end.value)
    assert read_run(tmp_path).status == "stopped" and (tmp_path / files.LAST).read_bytes() == before
    monkeypatch.undo()
    go_on.set()
    thread.join()


# Who is alive


def make_status(folder: Path, **facts: Any) -> Path:
    kill(make_run(folder, "training.checkpoint_minutes=4"))
    leave_as_killed(folder, host=socket.gethostname(), pid=os.getpid(), process_started=start_time(os.getpid()))
    leave_as_killed(folder, **facts)
    return folder


def age(folder: Path, seconds: float) -> None:
    for name in (files.STATUS, files.LAST):
        if (folder / name).exists():
            modified = (folder / files.CONFIG).stat().st_mtime - seconds
            os.utime(folder / name, (modified, modified))


def test_a_dead_process_and_one_that_got_its_number_are_told_from_a_living_one(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    mine = os.getpid(), start_time(os.getpid())
    for (pid, started), status in (
        (mine, "running"),
        ((mine[0], None), "running"),
        ((mine[0], 1), "killed"),
        ((int(child.stdout), None), "killed"),
        ((None, None), "killed"),
        (("x", None), "killed"),
    ):
        folder = make_status(tmp_path / f"{pid}-{started}", pid=pid, process_started=started)
        assert read_run(folder).status == status, (pid, started)


def test_a_process_that_has_ended_unnoticed_by_its_parent_is_dead(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_run(make_status(tmp_path, pid=child.pid, process_started=None)).status == "killed"
    child.communicate()


def test_a_run_on_another_host_lives_as_long_as_it_writes(tmp_path: Path) -> None:
    folder = make_status(tmp_path, host="elsewhere")
    age(folder, 3 * 4 * 60 - 100)
    assert read_run(folder).status == "running"
    age(folder, 3 * 4 * 60 + 1)
    assert read_run(folder).status == "killed"
    (folder / files.LAST).touch()
    assert read_run(folder).status == "running"
    (folder / files.CONFIG).write_text("{")
    age(folder, 3 * 5 * 60 - 100)
    assert read_run(folder).status == "running"
    age(folder, 3 * 5 * 60 + 1)
    assert read_run(folder).status == "killed"


def test_a_running_run_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_status(tmp_path / "here", pid=os.getppid(), process_started=None)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for resume in (lambda: open_resumable(str(folder), []), lambda: make_run(folder, resume=True)):
        with pytest.raises(ValueError) as error:
            resume()
        running = f"resume={folder} is still running (process {os.getppid()} on host {socket.gethostname()})"
        assert str(error.value) == f"{running}; stop it first"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_on_another_host_is_continued_when_it_is_silent_or_its_job_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_status(tmp_path, host="elsewhere", pid=123, slurm_job="77")
    age(folder, 5 * 60)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError) as error:
        open_resumable(str(folder), [])
    running = f"resume={folder} is still running (process 123 on host elsewhere)"
    assert str(error.value).startswith(f"{running}: its last sign of life was 5 minutes ago; stop it first, or")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(ValueError, match="still running"):
        open_resumable(str(folder), [])
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert open_resumable(str(folder), []).folder == folder
    monkeypatch.delenv("SLURM_JOB_ID")
    age(folder, 3 * 4 * 60 + 1)
    assert open_resumable(str(folder), []).status == "killed"


def test_the_latest_run_is_continued_whether_it_has_weights_or_not(tmp_path: Path) -> None:
    roots = [str(tmp_path / "outputs"), str(tmp_path / "multirun")]
    for name, started in (("outputs/a", "2026-01-02T10:00:00+00:00"), ("multirun/x/0", "2026-01-02T11:30:00+02:00")):
        make_status(tmp_path / name, pid=None, started=started)
    (tmp_path / "outputs" / "b" / ".hydra").mkdir(parents=True)
    (tmp_path / "outputs" / "b" / ".hydra" / files.CONFIG).touch()
    assert open_resumable("latest", roots).folder == tmp_path / "outputs/a" and find_runs(roots) == []
    bare = tmp_path / "outputs" / "bare"
    bare.mkdir()
    (bare / files.CONFIG).touch()
    assert open_resumable("latest", roots).folder == bare
    assert open_resumable("Latest", roots).folder == bare
    with pytest.raises(FileNotFoundError, match=re.escape(f"resume=latest: no runs in nothing below {Path.cwd()}; ")):
        open_resumable("latest", ["nothing"])
    with pytest.raises(FileNotFoundError, match=f"resume={tmp_path} is not a run: it has no config.yaml"):
        open_resumable(str(tmp_path), roots)


def test_the_newest_run_is_named_where_it_is_still_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_status(tmp_path / "outputs" / "a", pid=os.getppid(), process_started=None)
    with pytest.raises(ValueError, match=r"^resume=latest is outputs/a, which is still running \(process \d+ on host "):
        open_resumable("latest", ["outputs"])


def test_a_path_near_a_run_is_answered_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for hour, name in enumerate(("outputs/a", "outputs/day/time", "multirun/day/time/0", "outputs/c d")):
        make_status(tmp_path / name, pid=None, started=f"2026-01-02T1{hour}:00:00+00:00")
    for wanted, answer in {
        "outputs/a/checkpoints/last.pt": "did you mean resume=outputs/a?",
        "outputs/c d/config.yaml/": "did you mean resume='outputs/c d'?",
        "outputs/a/checkpoints": "did you mean resume=outputs/a?",
        "outputs": "the newest below it: resume='outputs/c d', resume=outputs/day/time, resume=outputs/a",
        "multirun": "the newest below it: resume=multirun/day/time/0",
        ".": "the newest below it: resume='outputs/c d', resume=outputs/day/time, resume=outputs/a",
        "nothing": "type the folder of a run, or resume=latest for the newest",
    }.items():
        with pytest.raises(FileNotFoundError) as error:
            open_resumable(wanted, [])
        assert str(error.value) == f"resume={wanted} is not a run: it has no config.yaml; {answer}"


def test_a_finished_run_says_which_keys_have_no_effect(tmp_path: Path) -> None:
    with make_run(tmp_path, "training.epochs=2") as run:
        write_epochs(run, 2)
    saved = load_config(tmp_path / files.CONFIG)
    finished = f"the run is finished after 2 epochs: {tmp_path}; a larger training.epochs continues it"
    assert explain_finished(tmp_path, replace(saved, resume=str(tmp_path))) == finished
    faster = compose("training.tensorboard=false", "training.epochs=2", "training.lr=0.01")
    assert explain_finished(tmp_path, faster) == f"{finished}; training.lr was not used"
    two = replace(faster, dataset=replace(faster.dataset, cache="off"))
    assert explain_finished(tmp_path, two) == f"{finished}; dataset.cache, training.lr were not used"


def test_changes_are_told_in_numbers_for_people() -> None:
    old, new = compose("training.epochs=3"), compose("training.epochs=3", "scheduler.warmup_epochs=0.25")
    assert old.scheduler.warmup_epochs == 0.1 * 3 != 0.3
    rate = LearningRate(new.scheduler, new.optimizer.lr, 10, 3)
    assert describe_changes(old, new, rate, 29)[0] == "scheduler.warmup_epochs: 0.3 → 0.25"
    close = replace(old, scheduler=replace(old.scheduler, warmup_epochs=0.3))
    assert describe_changes(old, close, rate, 29)[0] == "scheduler.warmup_epochs: 0.30000000000000004 → 0.3"
    other = replace(old, training=replace(old.training, ema=None, epochs=4))
    lines = describe_changes(old, other, rate, 29)
    assert lines[0] == "training.epochs: 3 → 4"


def test_runs_are_found_without_the_heavy_libraries(tmp_path: Path) -> None:
    kill(make_run(tmp_path))
    code = (
        "import sys\nfrom src.run.resume import open_resumable\n"
        f"assert open_resumable({str(tmp_path)!r}, []).status == 'killed'\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'rich', 'matplotlib'})"
    )
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


# The writing of files


@pytest.mark.parametrize("write", [write_text, write_json, write_csv])
def test_a_file_is_replaced_whole_on_the_disk_or_not_at_all(
    write: Callable[[Path, Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: tuple[Any, Any] = ("old", "new") if write is not write_csv else ([{"a": 1}], [{"a": 2}])
    flushed, path, fsync = [], tmp_path / "table", os.fsync

    def note(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write(path, values[0])
    assert flushed == [path.stat().st_ino, tmp_path.stat().st_ino]
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        write(path, values[1])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
