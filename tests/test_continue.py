"""Whole runs that are stopped, fail or run out of memory, and go on as if nothing had been."""

import contextlib
import csv
import itertools
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, compose, make_folder, photo_overrides
from safetensors.torch import load_file
from test_engine import equal, refuse_batches_above

from src import evaluate
from src.config.compose import load_config
from src.config.schema import TrainConfig
from src.engine import evaluation
from src.engine.epoch import TimeLimit
from src.engine.trainer import Trainer
from src.model import EncoderBlock, VisionTransformer
from src.run.job import Job
from src.run.saved import SavedRun, read_run
from src.signals import Interrupted
from train import train

pytestmark = pytest.mark.usefixtures("quick_pictures")

# With all that has a state or draws: averaged weights, dropout, mixing; four steps of a batch in an epoch.
SETTINGS = (
    "training.epochs=3",
    "training.ema=0.9",
    "model.dropout=0.1",
    "augmentation.mixup=0.2",
    "training.batch_size=6",
)
TIMES = {"seconds", "images_per_second"}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = make_folder(tmp_path_factory.mktemp("data") / "photos")
    return [*photo_overrides(root), *SETTINGS, "training.tensorboard=false"]


@pytest.fixture(scope="module")
def whole(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    begin(folder, overrides)
    return folder


def begin(folder: Path, overrides: list[str], *more: str) -> SavedRun:
    folder.mkdir(parents=True)
    train(compose(*overrides, *more), Job(folder, [], {"model": "vit_nano"}))
    return read_run(folder)


def resume(folder: Path, **training: Any) -> SavedRun:
    train(saved_config(folder, **training), Job(folder, [], {}))
    return read_run(folder)


def saved_config(folder: Path, **training: Any) -> TrainConfig:
    saved = load_config(folder / "config.yaml")
    return replace(saved, resume=str(folder), training=replace(saved.training, **training))


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: text for key, text in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def assert_equal_runs(a: Path, b: Path) -> None:
    """Assert the same weights, averages, optimizer state, rows and test results, bit for bit."""
    states = [torch.load(run / "checkpoints" / "last.pt", weights_only=True)["trainer"] for run in (a, b)]
    assert equal(*states)
    assert equal(*(load_file(run / "checkpoints" / "best.safetensors") for run in (a, b)))
    assert read_rows(a) == read_rows(b)
    for name in ("metrics.json", "predictions.csv"):
        assert (a / "test" / name).read_text() == (b / "test" / name).read_text()


@contextlib.contextmanager
def at_call(owner: Any, name: str, number: int, action: Callable[[], Any]) -> Iterator[None]:
    """Have something done before the n-th call of a function."""
    original, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            action()
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield


# The first step only tries the memory. Of the 7 evaluations, 6 are those of two kinds of weights in three epochs.
MOMENTS = {
    "the first step": (Trainer, "step", 2, signal.SIGTERM),
    "within an epoch": (Trainer, "step", 8, signal.SIGINT),
    "the last step": (Trainer, "step", 13, signal.SIGUSR1),
    "a validation": (evaluation, "iterate_batches", 4, signal.SIGTERM),
    "the test": (evaluation, "evaluate", 7, signal.SIGINT),
    "the figures": (evaluate, "write_figures", 1, signal.SIGTERM),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_continues_to_the_bits_of_one_left_alone(
    moment: str, overrides: list[str], whole: Path, tmp_path: Path
) -> None:
    owner, name, call, number = MOMENTS[moment]
    folder = tmp_path / "run"
    with (
        at_call(owner, name, call, lambda: os.kill(os.getpid(), number)),
        pytest.raises(Interrupted) as caught,
    ):
        begin(folder, overrides)
    assert caught.value.signal == number
    facts = read_run(folder).facts
    assert (facts["status"], facts["error"], facts["test_acc"] is None) == ("stopped", None, moment != "the figures")
    log = (folder / "train.log").read_text()
    heard = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"stopped by {heard} after epoch {facts['epoch']}" in log
    assert f"continue  python train.py resume={folder}" in log
    assert (folder / "curves.png").exists() == (facts["epoch"] > 0)
    assert resume(folder).status == "finished"
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("call", [6, 10], ids=["with a part of the patches", "with all patches"])
def test_a_run_with_patch_dropout_continues_to_the_same_bits(call: int, overrides: list[str], tmp_path: Path) -> None:
    given = "training.patch_dropout=0.5", "training.patch_dropout_off_share=0.5"  # all patches from step 7 of 12 on
    begin(tmp_path / "whole", overrides, *given)
    with (
        at_call(Trainer, "step", call, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(Interrupted),
    ):
        begin(tmp_path / "run", overrides, *given)
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def test_a_second_ctrl_c_leaves_within_the_step_and_the_run_continues(
    overrides: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def press_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one raises")

    with at_call(Trainer, "step", 8, press_twice), pytest.raises(Interrupted):
        begin(folder, overrides)
    assert read_run(folder).status == "stopped"
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["trainer"]
    assert (state["epoch"], state["step"]) == (2, 0), "the step that was left is not in the checkpoint"
    resume(folder)
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("call", [2, 7, 15], ids=["at the first step", "in an epoch", "after the last"])
def test_a_run_without_memory_goes_on_in_smaller_pieces_from_its_last_checkpoint(
    call: int, overrides: list[str], tmp_path: Path
) -> None:
    """With the losses of the whole batch, as nothing is drawn per piece here."""
    folders, rows = [tmp_path / "enough", tmp_path / "scarce"], []

    def run_out() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    owner, name = (evaluation, "iterate_batches") if call == 15 else (Trainer, "step")
    for folder, number in zip(folders, (10**6, 4 if call == 15 else call), strict=True):
        with at_call(owner, name, number, run_out):
            begin(folder, overrides, "model.dropout=0", "training.epochs=2")
        rows.append([[float(text) for text in row.values()] for row in read_rows(folder)])
    assert np.allclose(rows[0], rows[1], rtol=1e-4, atol=1e-6)
    facts = read_run(folders[1]).facts
    assert (facts["status"], facts["micro_batch_size"]) == ("finished", 3)
    assert (
        "6 images at once do not fit; using micro-batches of 3, with the same result"
        in (folders[1] / "train.log").read_text()
    )
    assert read_run(folders[0]).facts["micro_batch_size"] is None
    assert load_config(folders[1] / "config.yaml").training.batch_size == 6


def test_memory_is_tried_before_the_first_epoch(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, sizes = VisionTransformer.__init__, []

    def build_hungry(self: VisionTransformer, **options: Any) -> None:
        build(self, **options)
        sizes.append(refuse_batches_above(self, 2))

    monkeypatch.setattr(VisionTransformer, "__init__", build_hungry)
    facts = begin(tmp_path / "run", overrides, "training.epochs=1").facts
    assert (facts["status"], facts["micro_batch_size"]) == ("finished", 2)
    assert sizes[0][:5] == [1, 1, 6, 3, 2] and max(sizes[0][5:]) == 2, "one counts the FLOPs, for the log and the trial"


def test_a_loss_that_is_no_number_fails_the_run_and_leaves_the_last_good_checkpoint(
    overrides: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    models: list[VisionTransformer] = []
    build = VisionTransformer.__init__

    def poison() -> None:
        torch.nn.init.constant_(models[0].head.weight, math.nan)

    def build_known(self: VisionTransformer, **options: Any) -> None:
        build(self, **options)
        models.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisionTransformer, "__init__", build_known)
        with (
            at_call(Trainer, "step", 8, poison),
            pytest.raises(
                FloatingPointError, match=r"loss became nan in epoch 2, step 3 of 4 .*\nimages of this batch: .*photos"
            ),
        ):
            begin(folder, overrides)
    facts = read_run(folder).facts
    assert facts["status"] == "failed" and facts["error"].startswith("FloatingPointError: the training loss became nan")
    log = (folder / "train.log").read_text()
    assert "Traceback" in log and f"continue  python train.py resume={folder}" in log
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["trainer"]
    assert (state["epoch"], state["step"]) == (2, 0)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    finished = resume(folder, lr=1e-4)
    assert (
        finished.status == "finished" and "changed   training.lr: 0.005 → 0.0001" in (folder / "train.log").read_text()
    )


def test_a_finished_run_says_so_and_more_epochs_continue_it(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    begin(folder, overrides, "training.epochs=1")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    resume(folder)
    assert "the run is finished after 1 epoch: " in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    facts = resume(folder, epochs=2).facts
    assert (facts["status"], facts["epoch"], facts["epochs"]) == ("finished", 2, 2)
    log = (folder / "train.log").read_text()
    assert "changed   training.epochs: 1 → 2" in log and "followed cosine over 2 epochs from the start" in log
    assert [row["epoch"] for row in read_rows(folder)] == ["1", "2"]
    with pytest.raises(ValueError, match="training.epochs=1, but the run has already trained 2"):
        resume(folder, epochs=1)


def test_early_stopping_ends_a_run_that_gets_no_better_and_resuming_respects_it(
    overrides: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.run.record.Run.is_best", lambda self, acc, loss: not self.best)
        facts = begin(folder, overrides, "training.epochs=9", "training.early_stopping=2").facts
    assert (facts["status"], facts["epoch"], facts["best_epoch"]) == ("finished", 3, 1)
    assert facts["ended"] == "training.early_stopping=2"
    for harmless in ({}, {"epochs": 20}, {"tensorboard": True}):
        assert resume(folder, **harmless).facts["epoch"] == 3
    facts = resume(folder, epochs=4, early_stopping=None).facts
    assert (facts["epoch"], facts["ended"]) == (4, None)


def test_what_ended_a_run_still_does_after_a_kill_in_its_test(overrides: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def fail() -> None:
        raise OSError("killed")

    # Before it are two epochs, with two evaluations each.
    with pytest.MonkeyPatch.context() as patch, at_call(evaluation, "evaluate", 5, fail), pytest.raises(OSError):
        patch.setattr("src.run.record.Run.is_best", lambda self, acc, loss: not self.best)
        begin(folder, overrides, "training.epochs=9", "training.early_stopping=1")
    assert not (folder / "test").exists()
    facts = resume(folder, tensorboard=True).facts
    assert (facts["status"], facts["epoch"]) == ("finished", 2) and (folder / "test" / "metrics.json").exists()
    assert "resumed   in the test" in (folder / "train.log").read_text()


def test_test_results_and_figures_go_when_their_weights_do(overrides: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(folder, overrides, "training.epochs=1")
    assert (folder / "test" / "metrics.json").exists() and (folder / "figures" / "attention.png").exists()
    stop = at_call(Trainer, "step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with stop, pytest.raises(Interrupted):
        resume(folder, epochs=2)
    assert not (folder / "test").exists()
    assert [path.name for path in (folder / "figures").iterdir()] == ["augmentations.png"]


def test_options_of_the_optimizer_that_are_typed_anew_are_used(overrides: list[str], tmp_path: Path) -> None:
    folder, used = tmp_path / "run", []
    begin(folder, overrides, "training.epochs=1")
    saved = saved_config(folder, epochs=2)
    changed = replace(saved, optimizer=replace(saved.optimizer, weight_decay=0.5, betas=[0.8, 0.9]))
    take_step = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        used.append([(group["weight_decay"], tuple(group["betas"])) for group in self.param_groups])
        return take_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(changed, Job(folder, [], {}))
    assert used[-1] == [(0.5, (0.8, 0.9)), (0.0, (0.8, 0.9))]


def test_memory_is_tried_with_images_of_the_models_size_where_larger_ones_are_stored(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos")
    words = ["dataset=image_folder", f"dataset.root='{root}'", *TINY, "training.epochs=1", "training.tensorboard=false"]
    assert begin(tmp_path / "run", words, "model.patch_size=32").status == "finished"


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at it
def test_a_compiled_model_trains_as_the_plain_one_and_is_saved_under_its_names(
    overrides: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a compiler that changes nothing: what is recorded, not what is made of it, in seconds."""
    compile_model, compiled = torch.nn.Module.compile, []

    def compile_to_the_same(self: torch.nn.Module) -> None:
        compiled.append(type(self))
        compile_model(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_to_the_same)
    folder = tmp_path / "run"
    begin(folder, overrides, "training.compile=true")
    assert set(compiled) == {EncoderBlock} and "compiled  in " in (folder / "train.log").read_text()
    assert_equal_runs(whole, folder)


def test_a_smaller_micro_batch_that_memory_forced_is_kept_by_resuming(overrides: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def run_out() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stop = at_call(Trainer, "step", 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with stop, at_call(Trainer, "step", 3, run_out), pytest.raises(Interrupted):
        begin(folder, overrides)
    sizes, split = [], Trainer._split

    def count(self: Trainer, batch: int) -> Any:
        sizes.append(self.micro_batch_size)
        return split(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_split", count)
        assert resume(folder).facts["micro_batch_size"] == 3
    assert set(sizes[1:]) == {3}, "after the first step, which tries the memory"


def test_a_run_with_a_time_limit_ends_in_it_with_its_schedule_at_the_end(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a step takes a second of: of 400 steps 19 fit into half a minute with 10 kept for the end."""
    clock = itertools.count(1)
    step = Trainer.step
    taken: list[float] = [0.0]

    def take(self: Trainer, *arguments: Any, **options: Any) -> Any:
        taken[0] = next(clock)
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", take)
    monkeypatch.setattr("src.run.record.Run.seconds", lambda self: taken[0])
    limit = TimeLimit
    monkeypatch.setattr("src.engine.epoch.TimeLimit", lambda minutes, seconds, reserved: limit(minutes, seconds, 10.0))
    folder = tmp_path / "run"
    facts = begin(folder, overrides, "training.epochs=100", "training.max_minutes=0.5").facts
    rows = read_rows(folder)
    assert (facts["status"], facts["ended"]) == ("finished", "training.max_minutes=0.5")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"], "19 steps of 4 in an epoch, the last one cut"
    rates = [float(row["lr"]) for row in rows]
    assert max(rates) > 0.004 and 0 <= rates[-1] < 0.0001
    assert resume(folder).facts["epoch"] == 5
    taken[0] = 21.0  # where the clock was, with half of 40 seconds to come
    facts = resume(folder, max_minutes=50 / 60).facts
    rows = read_rows(folder)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, facts["epoch"] + 1)] and len(rows) == 10
    assert float(rows[4]["lr"]) > 0.001, "the epoch that was cut short has gone on"
